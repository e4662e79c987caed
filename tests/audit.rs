//! What a reader is promised about the code itself: the README says what is there, rooms use only what lies below them,
//! every statement on tasks asks who calls. Reads files only; needs no database.

#![allow(clippy::panic, clippy::expect_used, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "audit/claims.rs"]
mod claims;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use latchkey::error::Problem;
use serde_json::{Value, json};

/// The rooms from the lowest to the highest; rooms on one line never use each other, but for those of the first.
const LAYERS: &[&[&str]] = &[
    &["error", "json", "logging", "server", "manual"],
    &["config"],
    &["better_auth", "credentials"],
    &["token", "database"],
    &["store"],
    &["http"],
    &["api"],
    &["app"],
    &["cli"],
    &["main", "lib"],
];
const FILE_MAX_LINES: usize = 400;
const FUNCTION_MAX_LINES: usize = 40;
/// Lines of code that each room may have.
const CEILINGS: &[(&str, usize)] = &[
    ("cli", 900),
    ("app", 215),
    ("api", 830),
    ("http", 350),
    ("store", 705),
    ("token", 240),
    ("database", 995),
    ("better_auth", 450),
    ("credentials", 325),
    ("config", 780),
    ("error", 250),
    ("json", 60),
    ("logging", 165),
    ("server", 900),
];
const MINIMAL_PATH_MAX_LINES: usize = 2140;
const ALL_MAX_LINES: usize = 7135;
const MINIMAL_PATH: &[&str] = &[
    "error.rs",
    "http/",
    "token/",
    "credentials/",
    "store/users.rs",
    "store/sessions.rs",
    "store/attempts.rs",
    "api/auth.rs",
    "app.rs",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files under a directory with this extension, as paths from the root, sorted.
fn files(directory: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("a directory of the repository") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path.strip_prefix(root()).expect("under the root").display().to_string());
            }
        }
    }
    found.sort();
    found
}

/// The source without its unit tests, comments and blank lines.
fn code(path: &str) -> Vec<String> {
    let text = read(path);
    let code = text.split("\n#[cfg(test)]\n").next().unwrap_or_default();
    let is_code = |l: &&str| !l.trim().is_empty() && !["//", "--"].iter().any(|mark| l.trim().starts_with(mark));
    code.lines().filter(is_code).map(str::to_owned).collect()
}

/// The room of a source file: its directory or its name.
fn room(path: &str) -> &str {
    path.trim_start_matches("src/").trim_end_matches(".rs").split('/').next().unwrap_or_default()
}

/// What stands between backquotes in the first column of this page's table under this heading.
fn first_column(page: &str, heading: &str) -> BTreeSet<String> {
    let text = read(page);
    let section = text.split(&format!("\n## {heading}\n")).nth(1).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

#[test]
fn the_flow_in_the_readme_is_what_make_smoke_runs() {
    let smoke = read("tests/smoke.sh");
    let flow = smoke.split("# README: begin\n").nth(1).and_then(|rest| rest.split("# README: end").next());
    let flow: String = flow.expect("the markers in smoke.sh").lines().map(|line| format!("    {line}\n")).collect();
    assert!(read("README.md").contains(&flow), "the README must show these lines:\n{flow}");
}

#[test]
fn the_file_map_names_every_file_once() {
    let named = first_column("src/manual/how_it_works.md", "The files, in reading order");
    let mut there: BTreeSet<String> = files("src", "rs").into_iter().chain(files("sql", "sql")).collect();
    there.extend(["html", "css", "js", "ts", "json"].iter().flat_map(|extension| files("src", extension)));
    assert_eq!(named, &there - &BTreeSet::from(["src/lib.rs".to_owned()]));
}

#[test]
fn the_configuration_table_names_every_variable() {
    let is_variable =
        |text: &str| text.len() > 5 && text != "UNICODE" && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let read_here: BTreeSet<String> = files("src/config", "rs")
        .iter()
        .flat_map(|path| code(path))
        .flat_map(|line| line.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .filter(|text| is_variable(text))
        .collect();
    assert_eq!(first_column("README.md", "Configuration"), read_here);
}

#[test]
fn the_api_table_names_every_route() {
    assert_eq!(first_column("README.md", "API"), routes());
}

/// Method and path of each line of the route table, but for the parts of the page, which nobody else asks for.
fn routes() -> BTreeSet<String> {
    let source = code("src/app.rs");
    let lines = source.iter().filter(|line| line.trim_start().starts_with("(\"") && !line.contains("pages::part"));
    let routes: BTreeSet<String> = lines
        .filter_map(|line| {
            let mut quoted = line.split('"').skip(1).step_by(2);
            Some(format!("{} {}", quoted.next()?, quoted.next()?))
        })
        .collect();
    assert!(routes.len() > 10, "the route table was not found");
    routes
}

// ------------------------------------------------------------------------------------------------- openapi.json

fn description() -> Value {
    serde_json::from_str(&read("src/web/openapi.json")).expect("JSON")
}

/// What a `$ref` stands for.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(target) => document.pointer(target.trim_start_matches('#')).unwrap_or_else(|| panic!("no {target}")),
        None => value,
    }
}

/// Each operation with its method and path.
fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let operations = paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().expect("a path").iter().filter(|(name, _)| *name != "parameters");
        methods.map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation))
    });
    operations.collect()
}

#[test]
fn the_description_has_exactly_the_routes() {
    let document = description();
    let described: BTreeSet<String> = operations(&document).into_iter().map(|(name, _)| name).collect();
    assert_eq!(described, routes());
}

#[test]
fn the_description_tells_every_problem_in_the_words_of_the_server() {
    let document = description();
    let examples = document["components"]["examples"].as_object().expect("examples");
    let types: Vec<String> = Problem::ALL.iter().map(|problem| format!("/docs#{}", problem.spec().slug)).collect();
    assert_eq!(document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"], json!(types));
    assert_eq!(examples.len(), Problem::ALL.len());
    for problem in Problem::ALL {
        let (spec, example) = (problem.spec(), &examples[problem.spec().slug]);
        assert_eq!(example["summary"], spec.advice, "{}", spec.slug);
        for (member, value) in [
            ("type", json!(format!("/docs#{}", spec.slug))),
            ("title", json!(spec.title)),
            ("status", json!(spec.status)),
            ("detail", json!(spec.detail)),
        ] {
            assert_eq!(example["value"][member], value, "{}", spec.slug);
        }
    }
}

#[test]
fn every_problem_is_described_under_its_own_status_with_the_fields_that_go_with_it() {
    let document = description();
    let mut seen = BTreeSet::new();
    for (name, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().expect("responses") {
            let response = resolved(&document, response);
            let headers = response["headers"].as_object().unwrap_or_else(|| panic!("{name} {status}"));
            let expected = match status.as_str() {
                "401" => Some("WWW-Authenticate"),
                "405" => Some("Allow"),
                "429" | "503" => Some("Retry-After"),
                _ => None,
            };
            for header in ["X-Request-Id", "Cache-Control", "X-Content-Type-Options"].into_iter().chain(expected) {
                assert!(headers.contains_key(header), "{name} {status} has no {header}");
            }
            let examples = &response["content"]["application/problem+json"]["examples"];
            assert_eq!(status.as_str() >= "400", examples.is_object(), "{name} {status}");
            for (slug, example) in examples.as_object().into_iter().flatten() {
                assert_eq!(resolved(&document, example)["value"]["status"].to_string(), *status, "{name}: {slug}");
                seen.insert(slug.clone());
            }
        }
    }
    let all: BTreeSet<String> = Problem::ALL.iter().map(|problem| problem.spec().slug.to_owned()).collect();
    assert_eq!(seen, all);
}

#[test]
fn every_operation_is_described_with_all_that_can_happen_to_it() {
    let document = description();
    for (name, operation) in operations(&document) {
        let mut expected = vec!["400", "405", "408", "413", "414", "417", "431", "500", "501", "503", "505"];
        let is_protected = operation["security"].as_array().is_some_and(|schemes| !schemes.is_empty());
        assert_eq!(operation["x-access"], access(&name), "{name}");
        assert_eq!(is_protected, access(&name) != "Public", "{name}");
        if is_protected {
            expected.push("401");
        }
        if name.contains("{user_id}") {
            expected.extend(["403", "404"]);
        }
        if operation["requestBody"].is_object() {
            expected.extend(["415", "422"]);
            let content = &operation["requestBody"]["content"]["application/json"];
            assert!(content["examples"].is_object(), "{name} has no example of its body");
        }
        for status in expected {
            assert!(operation["responses"][status].is_object(), "{name} does not tell {status}");
        }
        assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{name}");
    }
}

/// Who may call the route, as the route table says.
fn access(route: &str) -> String {
    let (method, path) = route.split_once(' ').expect("a method and a path");
    let source = code("src/app.rs");
    let of_route = |line: &&String| line.contains(&format!("\"{method}\"")) && line.contains(&format!("\"{path}\""));
    let line = source.iter().find(of_route).unwrap_or_else(|| panic!("{route} is no route"));
    let kind = line.rsplit(", ").next().and_then(|handler| handler.split('(').next());
    kind.expect("a handler").trim().to_owned()
}

#[test]
fn the_crates_are_all_accounted_for() {
    let manifest = read("Cargo.toml");
    let dependencies = manifest.split("[dependencies]\n").nth(1).and_then(|rest| rest.split("\n[").next());
    let decisions = read("src/manual/decisions.md");
    let crates = decisions.split("\n## The crates\n").nth(1).expect("the section on crates");
    for line in dependencies.expect("dependencies").lines().filter(|line| line.contains('=')) {
        let name = line.split([' ', '=']).next().unwrap_or_default();
        assert!(crates.contains(name), "{name} has no line in the manual");
    }
}

#[test]
fn no_file_uses_a_room_above_or_beside_its_own() {
    let layer = |room: &str| LAYERS.iter().position(|rooms| rooms.contains(&room));
    for path in files("src", "rs") {
        let own = room(&path);
        let own_layer = layer(own).unwrap_or_else(|| panic!("{path} is in no layer"));
        for line in code(&path) {
            for used in line.split("crate::").skip(1) {
                let used = used.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
                if used == own {
                    continue;
                }
                let used_layer = layer(used).unwrap_or_else(|| panic!("{path} uses {used}, which is in no layer"));
                assert!(used_layer < own_layer, "{path} uses {used}, which does not lie below it");
            }
        }
    }
}

#[test]
fn s29_every_statement_on_tasks_starts_from_the_caller_rule_and_is_bound_to_the_owner() {
    let source = code("src/store/tasks.rs").join("\n");
    let statements: Vec<&str> = source
        .split("self.")
        .filter(|call| call.starts_with("repeatable") || call.starts_with("once"))
        .filter_map(|call| call.split('"').nth(1))
        .collect();
    assert_eq!(statements.len(), 8, "list (2), create (2), read, update, toggle, delete");
    for sql in statements {
        assert!(sql.contains(" caller($1, $2, $3)"), "who calls?\n{sql}");
        let is_bound = ["user_id = c.id", "user_id = $2", "select $4, c.id, $5, $6 from c"];
        assert!(is_bound.iter().any(|rule| sql.contains(rule)), "whose tasks?\n{sql}");
    }
}

#[test]
fn s33_sql_stands_only_in_the_store_and_is_never_put_together() {
    for path in files("src", "rs") {
        let text = code(&path).join("\n");
        if !path.starts_with("src/store/") && !path.starts_with("src/database/") {
            assert!(!text.contains("query_typed") && !text.contains("execute_typed"), "{path} holds SQL");
        }
        let composes = ["query_typed(&format!", "execute_typed(&format!", "prepare("];
        let is_put_together = composes.iter().any(|call| text.contains(call));
        assert!(!is_put_together, "{path}");
        assert!(!path.starts_with("src/store/") || !text.contains("format!"), "{path}");
    }
}

#[test]
fn s32_no_handler_is_given_the_statements_of_the_operator() {
    for path in files("src", "rs") {
        let may_name_it = ["src/store/", "src/cli/"].iter().any(|room| path.starts_with(room));
        assert!(may_name_it || !code(&path).join("\n").contains("OperatorStore"), "{path} names OperatorStore");
    }
}

#[test]
fn s66_no_statement_of_a_request_sets_anything_on_its_connection() {
    let database = ["pool", "connection", "queue"].map(|name| format!("src/database/{name}.rs"));
    for path in files("src/store", "rs").into_iter().chain(database) {
        let text = code(&path).join("\n");
        for setting in ["batch_execute", "simple_query", "\"set ", "set_config", "transaction("] {
            assert!(!text.contains(setting), "{path} uses {setting}");
        }
    }
}

#[test]
fn rouilles_own_server_is_never_used() {
    for path in files("src", "rs") {
        let text = code(&path).join("\n");
        for forbidden in ["rouille::Server", "start_server", "tiny_http", "json_input", "rouille::*"] {
            assert!(!text.contains(forbidden), "{path} uses {forbidden}");
        }
        let imports = text.split("use rouille::").skip(1).filter_map(|rest| rest.split(';').next());
        for import in imports {
            assert!(!import.contains("Server"), "{path} imports rouille's server");
        }
    }
}

#[test]
fn files_and_functions_stay_short() {
    let mut over = Vec::new();
    for path in files("src", "rs") {
        if read(&path).lines().count() > FILE_MAX_LINES {
            over.push(format!("{path} has over {FILE_MAX_LINES} lines"));
        }
        for (name, length) in functions(&code(&path)) {
            // The table of words is long, not deep.
            if length > FUNCTION_MAX_LINES && name != "spec" {
                over.push(format!("{path}: {name} has {length} lines"));
            }
        }
    }
    assert!(over.is_empty(), "{over:#?}");
}

/// Each room, the minimal path with its SQL, and all rooms together: lines of code and the ceiling.
fn sizes() -> Vec<(&'static str, usize, usize)> {
    let lines = |path: &String| code(path).len();
    let all: Vec<String> = files("src", "rs");
    let of = |rooms: &[&str]| -> usize {
        let is_in = |path: &&String| rooms.iter().any(|room| path["src/".len()..].starts_with(room));
        all.iter().filter(is_in).map(lines).sum()
    };
    let mut sizes: Vec<_> = CEILINGS.iter().map(|(room, ceiling)| (*room, of(&[room]), *ceiling)).collect();
    let minimal = of(MINIMAL_PATH) + files("sql", "sql").iter().map(lines).sum::<usize>();
    sizes.push(("the minimal path", minimal, MINIMAL_PATH_MAX_LINES));
    sizes.push(("all of src", all.iter().map(lines).sum(), ALL_MAX_LINES));
    sizes
}

#[test]
fn every_room_stays_under_its_ceiling() {
    let over: Vec<_> = sizes().into_iter().filter(|(_, lines, ceiling)| lines > ceiling).collect();
    assert!(over.is_empty(), "{over:#?}");
    let named: BTreeSet<&str> = CEILINGS.iter().map(|(room, _)| *room).collect();
    let rooms: BTreeSet<&str> = LAYERS.iter().flat_map(|rooms| rooms.iter().copied()).collect();
    assert_eq!(named, &rooms - &BTreeSet::from(["main", "lib", "manual"]));
}

/// What `make audit` prints.
#[test]
fn the_report() {
    println!("room             lines   ceiling   (code without comments, blank lines and unit tests)");
    for (room, lines, ceiling) in sizes() {
        println!("{room:<16} {lines:>5}   {ceiling:>7}");
    }
    let claims = claims::claims();
    let tests: usize = claims.iter().map(|claim| claim.tests.len()).sum();
    println!(
        "\nclaims         {} with {tests} tests and {} mutants (make mutants)",
        claims.len(),
        claims::mutants().len()
    );
}

/// Name and length of each function: from its `fn` to the line that closes it at the same indentation.
fn functions(lines: &[String]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indentation = line.len() - line.trim_start().len();
        let Some(rest) = line.trim_start().split("fn ").nth(1).filter(|_| is_function(line)) else { continue };
        let name = rest.split(['(', '<']).next().unwrap_or_default().to_owned();
        let closing = format!("{}}}", " ".repeat(indentation));
        let length = lines[start..].iter().position(|l| *l == closing).map_or(1, |end| end + 1);
        found.push((name, length));
    }
    found
}

fn is_function(line: &str) -> bool {
    let line = line.trim_start();
    ["fn ", "pub fn ", "pub(super) fn ", "pub(crate) fn ", "const fn ", "pub const fn "]
        .iter()
        .any(|s| line.starts_with(s))
}
