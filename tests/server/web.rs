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
    ("/page.js", "text/javascript; charset=utf-8"),
    ("/flow.js", "text/javascript; charset=utf-8"),
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
fn every_part_of_the_page_comes_with_its_media_type_and_is_not_used_without_asking() {
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
fn what_the_client_holds_already_is_304_and_anything_else_is_sent() {
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
fn the_page_may_run_only_what_the_server_sends_and_stand_in_no_frame() {
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

#[test]
fn the_docs_name_every_operation_with_what_it_does() {
    let server = Server::start();
    let docs = server.request("GET", "/docs").send().must(200).text();
    let described = server.request("GET", "/openapi.json").send().must(200).json();
    let paths = described["paths"].as_object().expect("paths");
    for (path, item) in paths {
        for (method, operation) in
            item.as_object().expect("operations").iter().filter(|(name, _)| *name != "parameters")
        {
            let summary = operation["summary"].as_str().expect("a summary");
            let row = format!(
                "<tr><td><code>{}</code></td><td><code>{path}</code></td><td>{summary}</td></tr>",
                method.to_uppercase()
            );
            assert!(docs.contains(&row), "{row}");
        }
    }
}

#[test]
fn the_description_is_openapi_3_1_and_never_kept() {
    let server = Server::start();
    let answer = server.request("GET", "/openapi.json").send().must(200);
    assert_eq!(answer.header("Content-Type"), Some("application/json"));
    assert_eq!(answer.json()["openapi"], Value::from("3.1.0"));
}

// --------------------------------------------------------------------------------------------------------- CORS

#[test]
fn without_configuration_no_answer_says_anything_of_other_origins() {
    let server = Server::start();
    let preflight = server.request("OPTIONS", "/auth/me").header("Access-Control-Request-Method", "GET");
    let refused = server.request("GET", "/auth/me").header("Expect", "dinner");
    for request in [server.request("GET", "/healthz"), server.request("GET", "/auth/me"), preflight, refused] {
        let answer = request.header("Origin", ORIGIN).send();
        assert_eq!(cors_headers(&answer), Vec::<String>::new(), "{answer}");
    }
}

#[test]
fn a_listed_origin_may_read_every_answer_refusals_of_the_listener_included() {
    let server = cross_origin();
    let long = format!("/{}", "x".repeat(5000));
    for (request, status) in [
        (server.request("GET", "/healthz"), 200),
        (server.request("GET", "/nowhere"), 404),
        (server.request("PUT", "/healthz"), 405),
        (server.request("GET", "/auth/me"), 401),
        (server.request("GET", "/page.css"), 200),
        (server.request("GET", "/auth/me").header("Expect", "dinner"), 417),
        (server.request("GET", "/auth/me").header("X", &"x".repeat(9000)), 431),
        (server.request("GET", &long), 414),
    ] {
        for origin in [ORIGIN, OTHER] {
            let answer = request.clone().header("Origin", origin).send();
            // Where the head cannot be read to its end the origin may be unknown.
            if status == 431 || status == 414 {
                assert_eq!(answer.all("Vary"), ["Origin"], "{answer}");
                continue;
            }
            let answer = answer.must(status);
            assert_eq!(answer.all("Access-Control-Allow-Origin"), [origin], "{answer}");
            assert_eq!(answer.all("Vary"), ["Origin"], "{answer}");
            let exposed = answer.header("Access-Control-Expose-Headers");
            assert_eq!(exposed, Some("Link, Location, Retry-After, WWW-Authenticate, X-Request-Id"), "{answer}");
            assert_eq!(answer.header("Access-Control-Allow-Credentials"), None, "{answer}");
        }
    }
}

#[test]
fn an_origin_that_is_not_listed_exactly_may_read_nothing() {
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
fn an_options_request_that_is_no_preflight_is_answered_as_without_cors() {
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
