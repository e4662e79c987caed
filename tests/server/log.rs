//! The log: what a line holds, what none ever holds, and that nobody waits for whoever reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{PASSWORD, Server, environment};

/// The `key=value` pairs of a line, in order. Values hold no space unless they are JSON strings.
fn pairs(line: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=').unwrap_or_else(|| panic!("no value in {rest:?} of {line:?}"));
        let mut quotes = 0;
        let end = value.char_indices().find(|(at, c)| {
            quotes += usize::from(*c == '"' && !value[..*at].ends_with('\\'));
            *c == ' ' && quotes != 1
        });
        let (value, after) = end.map_or((value, ""), |(at, _)| (&value[..at], &value[at + 1..]));
        assert!(key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{key:?} in {line:?}");
        assert!(value.len() <= 500, "{key} has {} bytes in {line:?}", value.len());
        let is_quoted = value.starts_with('"');
        let text = if is_quoted { serde_json::from_str(value).expect("a JSON string") } else { value.to_owned() };
        assert!(is_quoted || !text.contains(['"', '=', '\\']), "{key} is not quoted in {line:?}");
        pairs.push((key.to_owned(), text));
        rest = after;
    }
    pairs
}

/// The fields of a line, by name.
pub fn fields(line: &str) -> BTreeMap<String, String> {
    pairs(line).into_iter().collect()
}

// ------------------------------------------------------------------------------------------------ what it holds

#[test]
fn s50_a_request_line_has_the_route_never_path_or_query() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one");
    let id = task["id"].as_str().unwrap();
    let item = "/api/{user_id}/tasks/{id}";
    let needs_a_token = |route: &str| route == "/auth/me" || route.starts_with("/api/");
    for (method, path, route) in [
        ("GET", "/healthz".to_owned(), "/healthz"),
        ("GET", "/readyz".to_owned(), "/readyz"),
        ("GET", "/docs".to_owned(), "/docs"),
        ("POST", "/auth/register".to_owned(), "/auth/register"),
        ("POST", "/auth/login".to_owned(), "/auth/login"),
        ("GET", "/auth/me?secret=quokka".to_owned(), "/auth/me"),
        ("HEAD", "/auth/me".to_owned(), "/auth/me"),
        ("GET", "/api/me/tasks?limit=1&secret=quokka".to_owned(), "/api/{user_id}/tasks"),
        ("GET", "/api/quokka/tasks".to_owned(), "/api/{user_id}/tasks"),
        ("POST", "/api/me/tasks".to_owned(), "/api/{user_id}/tasks"),
        ("GET", format!("/api/{}/tasks/{id}", user.id), item),
        ("GET", "/api/me/tasks/quokka".to_owned(), item),
        ("PUT", format!("/api/me/tasks/{id}"), item),
        ("PATCH", format!("/api/me/tasks/{id}/complete"), "/api/{user_id}/tasks/{id}/complete"),
        ("DELETE", format!("/api/me/tasks/{id}"), item),
        ("GET", "/quokka".to_owned(), "-"),
        ("GET", "/quokka%0d%0alevel=info%20method=GET".to_owned(), "-"),
        ("GET", "/auth/quokka?x=\"%22".to_owned(), "-"),
    ] {
        let answer = server.request(method, &path).bearer(&user.token).send();
        let line = server.wait_for_log(&["method=", answer.request_id()]);
        let pairs = pairs(&line);
        let keys: Vec<_> = pairs.iter().map(|(key, _)| key.as_str()).collect();
        let mut expected = vec!["time", "level", "method", "route", "status", "ms", "db_ms", "request_id", "address"];
        if needs_a_token(route) {
            expected.push("user");
        }
        assert_eq!(keys, expected, "{line}");
        let fields: BTreeMap<_, _> = pairs.into_iter().collect();
        let shape: String = fields["time"].chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!((shape.as_str(), fields["level"].as_str()), ("0000-00-00T00:00:00.000Z", "info"), "{line}");
        assert_eq!(fields.get("user"), needs_a_token(route).then_some(&user.id), "{line}");
        assert_eq!((fields["method"].as_str(), fields["route"].as_str()), (method, route), "{line}");
        assert_eq!(fields["status"], answer.status.to_string(), "{line}");
        assert_eq!(fields["request_id"], answer.request_id(), "{line}");
        assert_eq!(fields["address"], "127.0.0.1", "{line}");
        assert!(fields["ms"].parse::<f64>().is_ok_and(|ms| ms >= 0.0), "{line}");
    }
    let log = server.log();
    assert!(!log.contains("quokka"), "{log}");
    let ids = log.lines().filter(|line| line.contains(" method=")).map(|line| fields(line)["request_id"].clone());
    let ids: Vec<_> = ids.collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "a request has two lines:\n{log}");
    assert_eq!(ids.len(), 18 + 3, "{log}");
}

#[test]
fn an_early_refusal_has_its_line_too() {
    let server = Server::start();
    for bytes in [&b"nonsense\r\n\r\n"[..], b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n"] {
        let answer = &server.raw(bytes)[0];
        let line = server.wait_for_log(&["method=", answer.request_id()]);
        assert_eq!(fields(&line)["status"], answer.status.to_string(), "{line}");
        assert_eq!(fields(&line)["address"], "127.0.0.1", "{line}");
    }
}

#[test]
fn s49_the_address_is_what_the_trusted_proxies_say() {
    let first = Server::start();
    for (proxies, lines, expected) in [
        ("0", &["1.1.1.1"][..], "127.0.0.1"),
        ("1", &["1.1.1.1, 2.2.2.2"], "2.2.2.2"),
        ("2", &["1.1.1.1, 2.2.2.2"], "1.1.1.1"),
        ("2", &["1.1.1.1,2.2.2.2", "3.3.3.3"], "2.2.2.2"),
        ("1", &["1.1.1.1", "2001:db8::7"], "2001:db8::7"),
        ("1", &["::ffff:1.2.3.4"], "1.2.3.4"),
        ("3", &["1.1.1.1, 2.2.2.2"], "127.0.0.1"),
        ("1", &["1.1.1.1, unknown"], "127.0.0.1"),
        ("1", &["1.1.1.1, 203.0.113.7:51234"], "203.0.113.7"),
        ("1", &["[2001:db8::7]:443"], "2001:db8::7"),
        ("1", &["1.1.1.1, "], "127.0.0.1"),
        ("1", &[], "127.0.0.1"),
    ] {
        let server = Server::beside(&first, &[("TRUSTED_PROXIES", proxies)]);
        let request = server.request("GET", "/healthz");
        let answer = lines.iter().fold(request, |request, line| request.header("X-Forwarded-For", line)).send();
        let line = server.wait_for_log(&["method=", answer.request_id()]);
        assert_eq!(fields(&line)["address"], expected, "{proxies} proxies, {lines:?}");
    }
}

#[test]
fn a_forwarded_address_from_this_machine_that_nobody_trusts_is_warned_of_once() {
    let server = Server::start();
    let request = server.request("GET", "/healthz").header("X-Forwarded-For", "1.1.1.1");
    request.send().must(200);
    let last = request.send().must(200);
    server.wait_for_log(&["method=", last.request_id()]);
    let log = server.log();
    let warnings = log.lines().filter(|line| line.contains(" level=warn ") && line.contains("TRUSTED_PROXIES"));
    assert_eq!(warnings.count(), 1, "{log}");
}

#[test]
fn a_forwarded_address_that_does_not_fit_the_proxies_is_warned_of_once() {
    for (proxies, line) in [("2", Some("1.1.1.1")), ("1", Some("unknown")), ("1", None)] {
        let server = Server::start_with(&[("TRUSTED_PROXIES", proxies)]);
        let request = server.request("GET", "/healthz");
        let request = line.iter().fold(request, |request, line| request.header("X-Forwarded-For", line));
        request.send().must(200);
        let last = request.send().must(200);
        server.wait_for_log(&["method=", last.request_id()]);
        let log = server.log();
        let warnings = log.lines().filter(|line| line.contains(" level=warn event=proxy "));
        assert_eq!(warnings.count(), 1, "{proxies} {line:?}: {log}");
    }
}

#[test]
fn forwarded_addresses_that_fit_the_proxies_are_not_warned_of() {
    for (proxies, forwarded) in [("0", None), ("1", Some("1.1.1.1:80")), ("2", Some("1.1.1.1, 2.2.2.2"))] {
        let server = Server::start_with(&[("TRUSTED_PROXIES", proxies)]);
        let request = server.request("GET", "/healthz");
        let last = forwarded.iter().fold(request, |request, line| request.header("X-Forwarded-For", line)).send();
        server.wait_for_log(&["method=", last.request_id()]);
        assert!(!server.log().contains("event=proxy"), "{proxies}: {}", server.log());
    }
}

#[test]
fn each_registration_and_login_is_an_event() {
    let server = Server::start();
    let post = |path: &str, email: &str, password: &str| {
        let credentials = json!({"email": email, "password": password});
        server.request("POST", path).json(&credentials).send()
    };
    let registered = post("/auth/register", "ada@example.org", PASSWORD).must(201);
    let id = registered.json()["id"].as_str().unwrap().to_owned();
    let taken = post("/auth/register", "ada@example.org", PASSWORD).must(409);
    let login = post("/auth/login", "ada@example.org", PASSWORD).must(200);
    let wrong = post("/auth/login", "ada@example.org", "wrong").must(401);
    let unknown = post("/auth/login", "eve@example.org", "wrong").must(401);
    server.sql().batch_execute("update users set is_active = false").unwrap();
    let inactive = post("/auth/login", "ada@example.org", PASSWORD).must(401);
    for (answer, event, outcome, reason, user) in [
        (&registered, "register", "ok", None, Some(&id)),
        (&taken, "register", "refused", Some("taken"), None),
        (&login, "login", "ok", None, Some(&id)),
        (&wrong, "login", "refused", Some("wrong_password"), Some(&id)),
        (&unknown, "login", "refused", Some("unknown_email"), None),
        (&inactive, "login", "refused", Some("inactive"), Some(&id)),
    ] {
        let line = server.wait_for_log(&["event=", answer.request_id()]);
        let fields = fields(&line);
        assert_eq!((fields["event"].as_str(), fields["outcome"].as_str()), (event, outcome), "{line}");
        if outcome == "refused" && event == "login" {
            assert_eq!(fields.get("reason").map(String::as_str), reason, "{line}");
        }
        if user.is_some() {
            assert_eq!(fields.get("user"), user, "{line}");
        }
        assert_eq!(fields["address"], "127.0.0.1", "{line}");
    }
}

#[test]
fn s50_no_level_of_the_log_holds_a_secret_or_a_typed_email() {
    let server = Server::start_with(&[("RUST_LOG", "trace")]);
    let user = server.user("quorvex.blintz");
    let post =
        |path: &str, body: serde_json::Value| server.request("POST", path).bearer(&user.token).json(&body).send();
    let tokens = post("/auth/login", json!({"email": user.email, "password": user.password})).must(200).json();
    let wrong = "plinth-gargle-9";
    post("/auth/login", json!({"email": user.email, "password": wrong})).must(401);
    post("/auth/login", json!({"email": "zanzibar@example.org", "password": wrong})).must(401);
    post("/auth/login", json!({"email": "zanzibar\nlevel=info x", "password": wrong})).must(401);
    post("/auth/login", json!({"email": "zanzibar@example.org", "password": "x".repeat(73)})).must(422);
    post("/auth/register", json!({"email": user.email, "password": PASSWORD})).must(409);
    post("/auth/register", json!({"email": "zanzibar", "password": wrong})).must(422);
    post("/api/me/tasks", json!({"title": "marzipan", "description": "marzipan"})).must(201);
    post("/api/me/tasks", json!({"title": "marzipan", "marzipan": 1})).must(422);
    let last = server.request("GET", "/auth/me").bearer("zanzibar.plinth-gargle-9.x").send().must(401);
    server.wait_for_log(&["method=", last.request_id()]);
    let log = server.log();
    let hash: String = server.sql().query_one("select password_hash from users", &[]).unwrap().get(0);
    let secret = environment("")["JWT_SECRET"].clone();
    let mut hidden = vec![PASSWORD, wrong, "quorvex", "zanzibar", "marzipan", &hash[7..], &secret, "lkr_"];
    hidden.push(tokens["refresh_token"].as_str().unwrap());
    for token in [&user.token, tokens["access_token"].as_str().unwrap()] {
        hidden.extend(token.split('.').skip(1));
    }
    for text in hidden {
        assert!(!log.contains(text), "the log holds {text}:\n{log}");
    }
    // What the driver works on holds the parameters of statements.
    let is_below_a_warning =
        |line: &&str| [" level=info ", " level=debug ", " level=trace "].iter().any(|l| line.contains(l));
    assert_eq!(log.lines().filter(is_below_a_warning).find(|line| line.contains(" event=library ")), None);
}

#[test]
fn s51_every_line_is_logfmt_and_no_value_is_over_500_bytes() {
    let server = Server::start_with(&[("RUST_LOG", "trace")]);
    let user = server.user("ada");
    server.task(&user, "one");
    let long = "M".repeat(5000);
    let answer = server.request(&long, "/auth/me").send().must(405);
    let line = server.wait_for_log(&["method=", answer.request_id()]);
    assert!(line.contains("method=\"MMMM") && line.len() < 800, "{line}");
    server.request("GET", &format!("/{}", "x".repeat(4000))).send().must(404);
    server.request("GET", "/auth/me").bearer(&long).send().must(401);
    server.raw(b"GET / HTTP/1.1\r\nHost: x\r\nBroken header\r\n\r\n");
    server.sql().batch_execute("alter table tasks rename to away").unwrap();
    let last = server.request("GET", "/api/me/tasks").bearer(&user.token).send().must(500);
    server.wait_for_log(&["method=", last.request_id()]);
    for line in server.log().lines() {
        let pairs = pairs(line);
        assert_eq!((pairs[0].0.as_str(), pairs[1].0.as_str()), ("time", "level"), "{line}");
    }
}

#[test]
fn the_start_is_one_line_with_version_and_settings_but_no_secret() {
    let server = Server::start_with(&[("MAX_CONNECTIONS", "77"), ("POOL_SIZE", "3")]);
    let line = server.wait_for_log(&["event=start", "version="]);
    let fields = fields(&line);
    assert_eq!(fields["version"], env!("CARGO_PKG_VERSION"), "{line}");
    assert_eq!((fields["max_connections"].as_str(), fields["pool_size"].as_str()), ("77", "3"), "{line}");
    assert_eq!(fields["address"], server.address.to_string(), "{line}");
    assert!(!line.contains("postgres") && !line.contains(&environment("")["JWT_SECRET"]), "{line}");
}

// ----------------------------------------------------------------------------------------------- nobody waits for it

/// As many requests as fill the pipe and the queue, each with a long line.
fn flood(server: &Server) {
    let request = format!("{} / HTTP/1.1\r\nHost: x\r\n\r\n", "M".repeat(1000));
    let mut bytes = request.repeat(2000);
    bytes.push_str("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(server.raw(bytes.as_bytes()).len(), 2001);
}

#[test]
fn s53_an_unread_log_delays_no_request_and_drops_are_counted() {
    let server = Server::start();
    let user = server.user("ada");
    let log = Arc::clone(&server.log);
    let unread = log.0.lock().unwrap();
    flood(&server);
    let credentials = json!({"email": user.email, "password": user.password});
    let login = server.request("POST", "/auth/login").json(&credentials).send().must(200);
    drop(unread);
    let line = server.wait_for_log(&["event=log", "dropped="]);
    assert!(fields(&line)["dropped"].parse::<u32>().unwrap() > 100, "{line}");
    // Events have room of their own.
    server.wait_for_log(&["event=login outcome=ok", login.request_id()]);
    let last = server.request("GET", "/healthz").send().must(200);
    server.wait_for_log(&["method=GET", last.request_id()]);
}

#[test]
fn s53_an_unread_log_does_not_delay_the_stop() {
    let mut server = Server::start();
    let log = Arc::clone(&server.log);
    let unread = log.0.lock().unwrap();
    flood(&server);
    let started = Instant::now();
    assert_eq!(server.stop().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(3), "the stop took {:?}", started.elapsed());
    drop(unread);
}

#[test]
fn the_stop_writes_all_that_was_logged() {
    let mut server = Server::start();
    flood(&server);
    let last = server.request("GET", "/healthz").send().must(200);
    assert_eq!(server.stop().code(), Some(0));
    server.wait_for_log(&["method=GET", last.request_id()]);
    server.wait_for_log(&["event=stop outcome=ok"]);
}
