//! The text of `/docs`: the reference of the API, made from `openapi.json` and the table of problems, once at start.
//!
//! The frame, with the lines that set up a shell, is `docs.html`.
//! Source: OpenAPI 3.1.

use std::fmt::Write;

use serde_json::Value;

use crate::error::Problem;

const FRAME: &str = include_str!("../web/docs.html");
/// Headers of every answer, which the frame explains once.
const GENERAL_HEADERS: &[&str] = &["X-Request-Id", "Cache-Control", "X-Content-Type-Options"];
/// The shapes that answers and bodies are made of: name in `openapi.json`, heading.
const SHAPES: &[(&str, &str)] = &[("User", "User"), ("Tokens", "Tokens"), ("Task", "Task"), ("Problem", "Problem")];

/// One operation of the description.
struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    parameters: Vec<&'a Value>,
    value: &'a Value,
}

/// The whole page as HTML.
pub fn reference(openapi: &str) -> String {
    let document: Value = serde_json::from_str(openapi).unwrap_or_default();
    let mut operations = operations(&document);
    // The parser sorts by name; the description has the order in which one needs the operations.
    operations.sort_by_key(|operation| {
        let method = ["get", "post", "put", "patch", "delete"].iter().position(|method| *method == operation.method);
        (openapi.find(&format!("\"{}\": {{", operation.path)), method)
    });
    let (mut navigation, mut groups) = (String::new(), String::new());
    for tag in list(&document, "tags") {
        let (name, about) = (text(tag, "name"), marked_up(text(tag, "description")));
        let of_tag = || operations.iter().filter(|operation| operation.value.pointer("/tags/0") == tag.get("name"));
        let links: String = of_tag().map(link_in_navigation).collect();
        let sections: String = of_tag().map(|operation| section(&document, operation, &operations)).collect();
        let _ = write!(navigation, "<li><a href=\"#{name}\">{name}</a>\n<ul>\n{links}</ul></li>\n");
        let _ = write!(
            groups,
            "<section id=\"{name}\" aria-labelledby=\"{name}-title\">\n\
             <h2 id=\"{name}-title\">{name}</h2>\n<p class=\"lead\">{about}</p>\n{sections}</section>\n"
        );
    }
    let paragraphs = document.pointer("/info/description").and_then(Value::as_str).unwrap_or_default().split("\n\n");
    let about: String = paragraphs.map(|paragraph| format!("<p>{}</p>\n", marked_up(paragraph))).collect();
    let problems: String =
        Problem::ALL.iter().map(|problem| problem_section(*problem, &operations, &document)).collect();
    FRAME
        .replace("<!-- about -->\n", &about)
        .replace("<!-- navigation -->\n", &navigation)
        .replace("<!-- operations -->\n", &groups)
        .replace("<!-- shapes -->\n", &SHAPES.iter().map(|shape| shape_section(&document, shape)).collect::<String>())
        .replace("<!-- problems -->\n", &problems)
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document.get("paths").and_then(Value::as_object).into_iter().flatten();
    paths
        .flat_map(|(path, item)| {
            let methods = item.as_object().into_iter().flatten().filter(|(name, _)| *name != "parameters");
            methods.map(move |(method, value)| {
                let parameters = list(item, "parameters").chain(list(value, "parameters"));
                let parameters = parameters.map(|parameter| resolved(document, parameter)).collect();
                Operation { method, path, parameters, value }
            })
        })
        .collect()
}

fn link_in_navigation(operation: &Operation<'_>) -> String {
    let (id, summary) = (text(operation.value, "operationId"), marked_up(text(operation.value, "summary")));
    format!("<li><a href=\"#{id}\">{summary}{}</a></li>\n", method(operation))
}

fn method(operation: &Operation<'_>) -> String {
    format!("<span class=\"method {}\">{}</span>", operation.method, operation.method.to_uppercase())
}

/// An operation: what it does, who may call it, parameters, body, a line to copy, answers.
fn section(document: &Value, operation: &Operation<'_>, all: &[Operation<'_>]) -> String {
    let value = operation.value;
    let id = text(value, "operationId");
    let line = value.pointer("/x-codeSamples/0/source").and_then(Value::as_str).unwrap_or_default();
    let status = responses(value).map(|(status, _)| status.as_str()).next().unwrap_or_default();
    format!(
        "<section class=\"operation\" id=\"{id}\">\n\
         <h3><a href=\"#{id}\">{summary}</a></h3>\n\
         <p class=\"route\">{method} <code>{path}</code> <span class=\"access\">{access}</span></p>\n\
         <p>{description}</p>\n{parameters}{body}\
         <pre class=\"line\" data-status=\"{status}\" tabindex=\"0\" aria-label=\"curl: {summary}\"><code>{line}</code></pre>\n\
         <h4>Answers</h4>\n<dl class=\"answers\">\n{answers}</dl>\n</section>\n",
        summary = marked_up(text(value, "summary")),
        method = method(operation),
        path = operation.path,
        access = access(text(value, "x-access")),
        description = marked_up(text(value, "description")),
        parameters = parameters(document, operation),
        body = body(document, value),
        line = escaped(line),
        answers = answers(document, operation, all),
    )
}

/// Who may call, in the words of the route table.
fn access(kind: &str) -> &'static str {
    match kind {
        "Public" => "Anybody",
        "Caller" => "Bearer token",
        "LocalUser" => "Bearer token of this server",
        "Owner" => "Bearer token of <code>{user_id}</code>",
        _ => "",
    }
}

fn parameters(document: &Value, operation: &Operation<'_>) -> String {
    let row = |parameter: &&Value| {
        let schema = parameter.get("schema").unwrap_or(&Value::Null);
        let note = format!("{}, {}", text(parameter, "in"), kind(document, schema));
        row(text(parameter, "name"), &note, &[text(parameter, "description"), &limits(schema)])
    };
    table("Parameters", &operation.parameters.iter().map(row).collect::<String>())
}

fn body(document: &Value, operation: &Value) -> String {
    let Some(content) = operation.pointer("/requestBody/content/application~1json") else { return String::new() };
    let schema = resolved(document, content.get("schema").unwrap_or(&Value::Null));
    let is_required = operation.pointer("/requestBody/required") == Some(&Value::Bool(true));
    let title = if is_required { "Body" } else { "Body, may be left out" };
    let examples = content.get("examples").and_then(Value::as_object).into_iter().flatten();
    let examples: String =
        examples.filter_map(|(_, example)| Some(json_block(document, example.get("value")?, schema))).collect();
    table(title, &members(document, schema)) + &examples
}

/// The answers of this operation, those that every operation gives left to the section on problems.
fn answers(document: &Value, operation: &Operation<'_>, all: &[Operation<'_>]) -> String {
    let mut entries = String::new();
    for (status, response) in responses(operation.value) {
        let response = resolved(document, response);
        let problems = problems_of(response);
        let own: Vec<&str> = problems.into_iter().filter(|slug| !is_general(slug, all, document)).collect();
        if own.is_empty() && status.as_str() >= "400" {
            continue;
        }
        let links: String = own.iter().map(|slug| format!(" <a href=\"#{slug}\">{slug}</a>")).collect();
        let kind = if status.as_str() < "400" {
            "fine"
        } else if status.as_str() < "500" {
            "refused"
        } else {
            "failed"
        };
        let about = if own.is_empty() { marked_up(text(response, "description")) + &shape_of(response) } else { links };
        let content = response.pointer("/content/application~1json");
        let example =
            content.and_then(|content| Some(json_block(document, content.get("example")?, content.get("schema")?)));
        let example = example.unwrap_or_default();
        let _ = write!(
            entries,
            "<dt><span class=\"status {kind}\">{status}</span></dt>\n<dd>{about}{}{example}</dd>\n",
            headers(document, response)
        );
    }
    entries + "<dt>other</dt>\n<dd><a href=\"#problems\">What any request can be answered</a></dd>\n"
}

/// A link to the shape that the answer is, or a list of.
fn shape_of(response: &Value) -> String {
    let schema = response.pointer("/content/application~1json/schema").unwrap_or(&Value::Null);
    let name = text(schema.get("items").unwrap_or(schema), "$ref").rsplit('/').next().unwrap_or_default();
    let shape = SHAPES.iter().find(|(known, _)| *known == name);
    shape.map(|(_, title)| format!(" <a href=\"#{name}\">{title}</a>")).unwrap_or_default()
}

/// The headers that this answer has besides the general ones: what each means, or for a problem its name alone.
fn headers(document: &Value, response: &Value) -> String {
    let own = response.get("headers").and_then(Value::as_object).into_iter().flatten();
    let own = own.filter(|(name, _)| !GENERAL_HEADERS.contains(&name.as_str()));
    let is_problem = !problems_of(response).is_empty();
    own.map(|(name, header)| match is_problem {
        true => format!(" <code>{name}</code>"),
        false => {
            let about = marked_up(text(resolved(document, header), "description"));
            format!("<p class=\"hint\"><code>{name}</code> {about}</p>\n")
        }
    })
    .collect()
}

/// A problem: what the server says, what to do, and where it comes from.
fn problem_section(problem: Problem, all: &[Operation<'_>], document: &Value) -> String {
    let spec = problem.spec();
    let gives = |operation: &&Operation<'_>| {
        responses(operation.value).any(|(_, answer)| problems_of(resolved(document, answer)).contains(&spec.slug))
    };
    let from: String = match is_general(spec.slug, all, document) {
        true => " any request".to_owned(),
        false => all.iter().filter(gives).map(link_back).collect(),
    };
    format!(
        "<section class=\"problem\" id=\"{slug}\">\n\
         <h3><a href=\"#{slug}\"><code>{status}</code> {title}</a></h3>\n\
         <p class=\"says\">{detail}</p>\n<p>{advice}</p>\n\
         <p class=\"hint\"><code>/docs#{slug}</code> can answer{from}</p>\n</section>\n",
        slug = spec.slug,
        status = spec.status,
        title = escaped(spec.title),
        detail = escaped(spec.detail),
        advice = escaped(spec.advice),
    )
}

fn link_back(operation: &Operation<'_>) -> String {
    format!(
        " <a href=\"#{}\">{}</a>",
        text(operation.value, "operationId"),
        marked_up(text(operation.value, "summary"))
    )
}

fn shape_section(document: &Value, (name, title): &(&str, &str)) -> String {
    let schema = document.pointer(&format!("/components/schemas/{name}")).unwrap_or(&Value::Null);
    format!("<section id=\"{name}\">\n{}</section>\n", table(title, &members(document, schema)))
}

/// Whether every operation can give this problem.
fn is_general(slug: &str, all: &[Operation<'_>], document: &Value) -> bool {
    all.iter().all(|operation| {
        responses(operation.value).any(|(_, answer)| problems_of(resolved(document, answer)).contains(&slug))
    })
}

fn problems_of(response: &Value) -> Vec<&str> {
    let examples = response.pointer("/content/application~1problem+json/examples").and_then(Value::as_object);
    examples.into_iter().flatten().map(|(slug, _)| slug.as_str()).collect()
}

fn responses(operation: &Value) -> impl Iterator<Item = (&String, &Value)> {
    operation.get("responses").and_then(Value::as_object).into_iter().flatten()
}

/// A row for each member of an object.
fn members(document: &Value, schema: &Value) -> String {
    let row_of = |name: &str| {
        let presence = if list(schema, "required").any(|other| other == name) { "" } else { ", optional" };
        let member = schema.get("properties").and_then(|properties| properties.get(name)).unwrap_or(&Value::Null);
        let member = resolved(document, member);
        row(name, &(kind(document, member) + presence), &[text(member, "description"), &limits(member)])
    };
    names(schema).map(row_of).collect()
}

/// The members of an object: the required ones in the order of the schema, then the others.
fn names(schema: &Value) -> impl Iterator<Item = &str> {
    let required = || list(schema, "required").filter_map(Value::as_str);
    let all = schema.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name.as_str());
    required().chain(all.filter(move |name| !required().any(|other| other == *name)))
}

/// The type of a value in words.
fn kind(document: &Value, schema: &Value) -> String {
    let schema = resolved(document, schema);
    let types: Vec<String> = match schema.get("type") {
        Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(_) => vec![text(schema, "type").to_owned()],
        None => list(schema, "anyOf").map(|schema| kind(document, schema)).collect(),
    };
    types.join(" or ")
}

/// The least and greatest number, or the one value.
fn limits(schema: &Value) -> String {
    match (schema.get("minimum"), schema.get("maximum"), schema.get("const")) {
        (Some(minimum), Some(maximum), _) => format!("{minimum} to {maximum}"),
        (.., Some(Value::String(only))) => format!("`{only}`"),
        _ => String::new(),
    }
}

fn row(name: &str, note: &str, about: &[&str]) -> String {
    let about: Vec<String> = about.iter().filter(|text| !text.is_empty()).map(|text| marked_up(text)).collect();
    format!("<tr><th scope=\"row\"><code>{name}</code></th><td>{note}</td><td>{}</td></tr>\n", about.join(" · "))
}

fn table(title: &str, rows: &str) -> String {
    match rows {
        "" => String::new(),
        rows => format!("<table class=\"members\">\n<caption>{title}</caption>\n<tbody>\n{rows}</tbody>\n</table>\n"),
    }
}

/// An example, a flat object or a list of such, with its members in the order of the schema.
fn json_block(document: &Value, example: &Value, schema: &Value) -> String {
    let schema = resolved(document, schema);
    let object = |example: &Value, schema: &Value| {
        let member = |name| Some(format!("  \"{name}\": {}", example.get(name)?));
        format!("{{\n{}\n}}", names(schema).filter_map(member).collect::<Vec<_>>().join(",\n"))
    };
    let text = match example.as_array() {
        Some(items) => {
            let schema = resolved(document, schema.get("items").unwrap_or(&Value::Null));
            format!("[{}]", items.iter().map(|item| object(item, schema)).collect::<Vec<_>>().join(", "))
        }
        None => object(example, schema),
    };
    format!("<pre class=\"json\" tabindex=\"0\" aria-label=\"JSON\"><code>{}</code></pre>\n", escaped(&text))
}

/// The target of a `$ref`, or the value itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let target =
        value.get("$ref").and_then(Value::as_str).and_then(|target| document.pointer(target.trim_start_matches('#')));
    target.unwrap_or(value)
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value.get(member).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, member: &str) -> impl Iterator<Item = &'a Value> {
    value.get(member).and_then(Value::as_array).into_iter().flatten()
}

/// HTML of a text in which backquotes mark code.
fn marked_up(text: &str) -> String {
    let pieces = text.split('`').enumerate();
    pieces
        .map(|(n, piece)| if n % 2 == 1 { format!("<code>{}</code>", escaped(piece)) } else { escaped(piece) })
        .collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
