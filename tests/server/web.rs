//! What browsers get: the page and its parts, what each problem's `type` leads to, and CORS.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Answer, Server, environment, run};

const ORIGIN: &str = "http://localhost:3000";
const OTHER: &str = "https://app.example.com";
/// Every part of the program that a browser fetches, and its media type.
const EMBEDDED: &[(&str, &str)] = &[
    ("/", "text/html; charset=utf-8"),
    ("/docs", "text/html; charset=utf-8"),
    ("/page.css", "text/css; charset=utf-8"),
    ("/docs.css", "text/css; charset=utf-8"),
    ("/docs.js", "text/javascript; charset=utf-8"),
    ("/page.js", "text/javascript; charset=utf-8"),
    ("/flow.js", "text/javascript; charset=utf-8"),
    ("/theme.js", "text/javascript; charset=utf-8"),
    ("/tasks.js", "text/javascript; charset=utf-8"),
    ("/token.js", "text/javascript; charset=utf-8"),
    ("/shell.js", "text/javascript; charset=utf-8"),
    ("/experiments.js", "text/javascript; charset=utf-8"),
    ("/api.js", "text/javascript; charset=utf-8"),
    ("/api.d.ts", "text/plain; charset=utf-8"),
];

fn cross_origin() -> Server {
    Server::start_with(&[("CORS_ORIGINS", &format!("{ORIGIN},{OTHER}"))])
}

/// The names of all CORS headers of the answer.
fn cors_headers(answer: &Answer) -> Vec<String> {
    let names = answer.headers.iter().map(|(name, _)| name.to_lowercase());
    names.filter(|name| name.starts_with("access-control-") || name == "vary").collect()
}

// -------------------------------------------------------------------------------------------------------- pages

#[test]
fn every_file_has_its_media_type_and_is_revalidated() {
    let server = Server::start();
    for (path, media_type) in EMBEDDED {
        let answer = server.request("GET", path).send().must(200);
        assert_eq!(answer.header("Content-Type"), Some(*media_type), "{path}");
        assert_eq!(answer.all("Cache-Control"), ["no-cache"], "{path}");
        assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("Referrer-Policy"), Some("no-referrer"), "{path}");
    }
}

#[test]
fn if_none_match_with_the_etag_is_304_anything_else_is_200() {
    let server = Server::start();
    for (path, _) in EMBEDDED {
        let etag = server.request("GET", path).send().must(200).header("ETag").expect("an ETag").to_owned();
        let ask = |known: &str| server.request("GET", path).header("If-None-Match", known).send();
        for known in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
            let answer = ask(&known).must(304);
            assert_eq!((answer.header("ETag"), answer.body.len()), (Some(etag.as_str()), 0), "{path}");
        }
        for known in ["\"other\"", etag.trim_matches('"'), ""] {
            ask(known).must(200);
        }
    }
}

#[test]
fn s47_csp_allows_only_own_scripts_and_styles_and_no_frame() {
    let server = Server::start();
    for path in ["/", "/docs"] {
        let answer = server.request("GET", path).send().must(200);
        let policy = answer.header("Content-Security-Policy").expect("a policy");
        let directives: BTreeSet<&str> = policy.split(';').map(str::trim).collect();
        for directive in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"] {
            assert!(directives.contains(directive), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"), "{policy}");
        let page = answer.text();
        for inline in
            ["<script>", "<style", " style=", " onclick=", " onload=", "javascript:", "href=\"http", "src=\"http"]
        {
            assert!(!page.contains(inline), "{path} holds {inline}");
        }
    }
}

/// Each member of an object as a line of JSON.
fn lines_of(object: &Value) -> Vec<String> {
    object.as_object().unwrap().iter().map(|(name, value)| format!("\n  \"{name}\": {value}")).collect()
}

#[test]
fn the_reference_shows_every_operation_with_its_body_and_answers() {
    let server = Server::start();
    let docs = server.request("GET", "/docs").send().must(200).text();
    let described = server.request("GET", "/openapi.json").send().must(200).json();
    let paths = described["paths"].as_object().expect("paths");
    let mut count = 0;
    for (path, item) in paths {
        for (method, operation) in
            item.as_object().expect("operations").iter().filter(|(name, _)| *name != "parameters")
        {
            let id = operation["operationId"].as_str().expect("an id");
            let section = docs.split(&format!("<section class=\"operation\" id=\"{id}\"")).nth(1).expect(id);
            let section = section.split("</section>").next().unwrap();
            assert!(docs.contains(&format!("<li><a href=\"#{id}\">")), "{id} is not among the contents");
            let mut parts = vec![method.to_uppercase(), format!("<code>{path}</code>")];
            parts.extend(["summary", "description"].map(|member| operation[member].as_str().unwrap().to_owned()));
            let body = &operation["requestBody"]["content"]["application/json"]["examples"];
            for (_, example) in body.as_object().into_iter().flatten() {
                parts.extend(lines_of(&example["value"]));
            }
            let answers = operation["responses"].as_object().unwrap().iter();
            for (status, answer) in answers.filter(|(status, _)| status.as_str() < "400") {
                parts.push(format!(">{status}</span>"));
                if let Some(example) = answer["content"]["application/json"].get("example") {
                    parts.extend(lines_of(example.get(0).unwrap_or(example)));
                }
                let headers = answer["headers"].as_object().unwrap().keys();
                parts.extend(headers.filter(|name| ["Location", "Link", "ETag"].contains(&name.as_str())).cloned());
            }
            for part in parts {
                let part = part.replace('"', "&quot;");
                assert!(section.contains(&part), "{id} lacks {part}:\n{section}");
            }
            count += 1;
        }
    }
    assert!(count > 20, "{count} operations");
}

#[test]
fn every_link_of_the_reference_leads_to_one_anchor() {
    let server = Server::start();
    let docs = server.request("GET", "/docs").send().must(200).text();
    let ids: Vec<&str> = docs.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "an anchor stands twice: {ids:?}");
    for link in docs.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        match link.strip_prefix('#') {
            Some(anchor) => assert!(ids.contains(&anchor), "no anchor {anchor}"),
            None if link.starts_with("data:") => {}
            None => drop(server.request("GET", &format!("/{}", link.trim_start_matches("./"))).send().must(200)),
        }
    }
}

#[test]
fn every_curl_line_of_the_reference_gives_the_status_that_it_promises() {
    let server = Server::start();
    let docs = server.request("GET", "/docs").send().must(200).text();
    let code = |rest: &str| {
        let code = rest.split("<code>").nth(1).and_then(|rest| rest.split("</code>").next()).expect("code");
        code.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    };
    let setup = code(docs.split("id=\"setup\"").nth(1).expect("the lines that set up a shell"));
    let setup = setup.replace("http://127.0.0.1:8080", &format!("http://{}", server.address));
    let lines: Vec<(&str, String)> = docs
        .split("<pre class=\"line\" data-status=\"")
        .skip(1)
        .map(|rest| (rest.split('"').next().unwrap(), code(rest)))
        .collect();
    assert_eq!(lines.len(), docs.matches("<section class=\"operation\"").count());
    for (status, line) in lines {
        let script = format!("set -eu\n{{\n{setup}\n}} >/dev/null\n{line} -o /dev/null -w '%{{http_code}}'");
        let output = std::process::Command::new("bash").args(["-c", &script]).output().expect("bash");
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!((said.as_ref(), errors.as_ref()), (status, ""), "{line}");
    }
}

#[test]
fn openapi_json_is_openapi_3_1_and_no_store() {
    let server = Server::start();
    let answer = server.request("GET", "/openapi.json").send().must(200);
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    assert_eq!(answer.json()["openapi"], Value::from("3.1.0"));
}

// --------------------------------------------------------------------------------------------------------- CORS

#[test]
fn without_cors_origins_no_answer_has_cors_headers() {
    let server = Server::start();
    let preflight = server.request("OPTIONS", "/auth/me").header("Access-Control-Request-Method", "GET");
    let refused = server.request("GET", "/auth/me").header("Expect", "dinner");
    for request in [server.request("GET", "/healthz"), server.request("GET", "/auth/me"), preflight, refused] {
        let answer = request.header("Origin", ORIGIN).send();
        assert_eq!(cors_headers(&answer), Vec::<String>::new(), "{answer}");
    }
}

#[test]
fn a_listed_origin_may_read_every_answer_early_refusals_too() {
    let server = cross_origin();
    let long = format!("/{}", "x".repeat(5000));
    for (request, status) in [
        (server.request("GET", "/healthz"), 200),
        (server.request("GET", "/nowhere"), 404),
        (server.request("PUT", "/healthz"), 405),
        (server.request("GET", "/auth/me"), 401),
        (server.request("GET", "/page.css"), 200),
        (server.request("GET", "/auth/me").header("Expect", "dinner"), 417),
        (server.request("GET", &long), 414),
    ] {
        for origin in [ORIGIN, OTHER] {
            let answer = request.clone().header("Origin", origin).send().must(status);
            assert_eq!(answer.all("Access-Control-Allow-Origin"), [origin], "{answer}");
            assert_eq!(answer.all("Vary"), ["Origin"], "{answer}");
            let exposed = answer.header("Access-Control-Expose-Headers");
            assert_eq!(exposed, Some("Link, Location, Retry-After, WWW-Authenticate, X-Request-Id"), "{answer}");
            assert_eq!(answer.header("Access-Control-Allow-Credentials"), None, "{answer}");
        }
    }
}

#[test]
fn a_listed_origin_may_read_what_refuses_a_head_that_goes_wrong_behind_it() {
    let server = cross_origin();
    let large = format!("X: {}", "x".repeat(9000));
    let many = "X: y\r\n".repeat(64);
    for (line, field, status) in [
        ("GET / HTTP/1.1", "Broken field", 400),
        ("GET / HTTP/1.1", "X: a\nY: b", 400),
        ("GET / HTTP/1.1", "X: \0", 400),
        ("GET / HTTP/1.1", "Host: y", 400),
        ("GET / HTTP/1.1", &large, 431),
        ("GET / HTTP/1.1", &many, 431),
        ("GET / HTTP/1.2", "X: y", 505),
    ] {
        let answers = server.raw(format!("{line}\r\nHost: x\r\nOrigin: {ORIGIN}\r\n{field}\r\n\r\n").as_bytes());
        let answer = answers[0].clone().must(status);
        assert_eq!(answer.all("Access-Control-Allow-Origin"), [ORIGIN], "{field}: {answer}");
    }
    // Whose the request is cannot be known where the fault comes first.
    let answers = server.raw(format!("GET / HTTP/1.1\r\nHost: x\r\n{large}\r\nOrigin: {ORIGIN}\r\n\r\n").as_bytes());
    assert_eq!(cors_headers(&answers[0].clone().must(431)), ["vary"]);
}

#[test]
fn s48_cors_an_origin_not_listed_exactly_reads_nothing() {
    let server = cross_origin();
    for origin in [
        "http://localhost:3001",
        "http://localhost",
        "https://localhost:3000",
        "http://localhost:3000.evil.example",
        "https://evil.example/http://localhost:3000",
        "HTTP://LOCALHOST:3000",
        "http://localhost:3000, https://app.example.com",
        "null",
        "*",
    ] {
        for method in ["GET", "OPTIONS"] {
            let request = server.request(method, "/healthz").header("Access-Control-Request-Method", "GET");
            let answer = request.header("Origin", origin).send();
            assert_eq!(cors_headers(&answer), ["vary"], "{origin}: {answer}");
        }
    }
    let answer = server.request("GET", "/healthz").send().must(200);
    assert_eq!(cors_headers(&answer), ["vary"], "without an origin: {answer}");
}

#[test]
fn a_preflight_from_a_listed_origin_is_204_on_every_path() {
    let server = cross_origin();
    for path in ["/auth/login", "/auth/me", "/api/me/tasks/x/complete", "/nowhere"] {
        let request = server.request("OPTIONS", path).header("Origin", ORIGIN);
        let request = request.header("Access-Control-Request-Method", "PATCH");
        let answer = request.header("Access-Control-Request-Headers", "authorization,content-type").send().must(204);
        assert_eq!(answer.all("Access-Control-Allow-Origin"), [ORIGIN], "{path}");
        assert_eq!(answer.header("Access-Control-Allow-Headers"), Some("authorization, content-type"), "{path}");
        assert!(answer.header("Access-Control-Max-Age").is_some(), "{path}");
        let methods = answer.header("Access-Control-Allow-Methods").expect("methods");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            assert!(methods.split(", ").any(|allowed| allowed == method), "{path}: {methods}");
        }
    }
}

#[test]
fn options_without_the_preflight_header_is_no_preflight() {
    let server = cross_origin();
    let options = |path| server.request("OPTIONS", path).header("Origin", ORIGIN).send();
    let answer = options("/auth/me").must(204);
    assert_eq!(answer.header("Allow"), Some("GET, HEAD, OPTIONS"));
    assert_eq!(answer.header("Access-Control-Allow-Methods"), None);
    options("/nowhere").must(404);
}

#[test]
fn an_origin_that_no_browser_sends_stops_the_start() {
    let mut environment = environment("postgres:///nowhere?host=/nowhere");
    for value in ["*", "null", "https://app.example.com/", "app.example.com", "https://*.example.com", ""] {
        environment.insert("CORS_ORIGINS".to_owned(), value.to_owned());
        let finished = run(&["serve"], &environment);
        assert_eq!(finished.code, Some(2), "{value}: {finished:?}");
        let message = finished.stderr.lines().last().unwrap_or_default();
        assert!(message.contains("CORS_ORIGINS"), "{value}: {message}");
    }
}
