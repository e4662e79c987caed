//! What holds for every endpoint. What holds for every single answer is checked by
//! `support` on each one that any test receives.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Answer, PASSWORD, Request, Server, User, decode, protected};

/// Every path in scope with all its methods, as `Allow` must list them. `{user}` and `{task}` may be anything.
const ROUTES: &[(&str, &[&str])] = &[
    ("/auth/register", &["OPTIONS", "POST"]),
    ("/auth/login", &["OPTIONS", "POST"]),
    ("/auth/me", &["GET", "HEAD", "OPTIONS"]),
    ("/api/someone/tasks", &["GET", "HEAD", "OPTIONS", "POST"]),
    ("/api/someone/tasks/something", &["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "PUT"]),
    ("/api/someone/tasks/something/complete", &["OPTIONS", "PATCH"]),
    ("/healthz", &["GET", "HEAD", "OPTIONS"]),
    ("/readyz", &["GET", "HEAD", "OPTIONS"]),
    ("/docs", &["GET", "HEAD", "OPTIONS"]),
];

fn allowed(answer: &Answer) -> BTreeSet<&str> {
    let allow = answer.header("Allow").unwrap_or_default();
    allow.split(',').map(str::trim).collect()
}

/// An e-mail that no other call gives.
fn fresh_email() -> String {
    format!("{}@example.org", uuid::Uuid::now_v7().simple())
}

fn credentials() -> Value {
    json!({"email": fresh_email(), "password": PASSWORD})
}

fn create(server: &Server, user: &User) -> Request {
    server.request("POST", "/api/me/tasks").bearer(&user.token)
}

// ------------------------------------------------------------------------------------------------ request ids

#[test]
fn every_request_gets_an_id_of_its_own_and_never_the_clients() {
    let server = Server::start();
    let theirs = uuid::Uuid::now_v7().to_string();
    let ask = || server.request("GET", "/healthz").header("X-Request-Id", &theirs).send().must(200);
    let (first, second) = (ask(), ask());
    assert_ne!(first.request_id(), theirs);
    assert_ne!(second.request_id(), theirs);
    assert_ne!(first.request_id(), second.request_id());
}

// ------------------------------------------------------------------------------------------------ every answer

#[test]
fn s43_every_json_answer_is_no_store_and_nosniff() {
    let server = Server::start();
    let user = server.user("ada");
    for (method, path) in [
        ("GET", "/healthz"),
        ("GET", "/openapi.json"),
        ("GET", "/auth/me"),
        ("GET", "/api/me/tasks"),
        ("GET", "/nowhere"),
        ("PUT", "/auth/me"),
        ("POST", "/auth/login"),
    ] {
        let answer = server.request(method, path).bearer(&user.token).send();
        assert!(answer.header("Content-Type").is_some_and(|kind| kind.contains("json")), "{answer}");
        assert_eq!(answer.all("Cache-Control"), ["no-store"], "{answer}");
        assert_eq!(answer.all("X-Content-Type-Options"), ["nosniff"], "{answer}");
    }
}

// --------------------------------------------------------------------------------------------- bodies: 415 413

#[test]
fn json_with_or_without_a_charset_is_accepted() {
    let server = Server::start();
    for kind in [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        "application/json; charset=\"utf-8\"",
        "Application/JSON",
    ] {
        let request = server.request("POST", "/auth/register").header("Content-Type", kind);
        let answer = request.body(credentials().to_string()).send();
        assert_eq!(answer.status, 201, "{kind}: {answer}");
    }
}

#[test]
fn any_other_content_type_is_415() {
    let server = Server::start();
    let register = server.request("POST", "/auth/register").body(credentials().to_string());
    register.send().must(415);
    for kind in [
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/problem+json",
        "application/json-patch+json",
        "application/jsonx",
        "application/jso",
        "text/plain, application/json",
        "charset=utf-8; application/json",
    ] {
        let answer = register.clone().header("Content-Type", kind).send();
        assert_eq!(answer.status, 415, "{kind}: {answer}");
    }
}

#[test]
fn a_second_content_type_or_coding_is_judged_too() {
    let server = Server::start();
    let register = server.request("POST", "/auth/register").json(&credentials());
    register.clone().header("Content-Type", "text/plain").send().must(415);
    register.clone().header("Content-Encoding", "gzip").send().must(415);
    register.clone().header("Content-Encoding", "identity").header("Content-Encoding", "gzip").send().must(415);
    register.send().must(201);
}

#[test]
fn nothing_where_a_body_is_needed_is_400() {
    let server = Server::start();
    server.request("POST", "/auth/refresh").send().must(400);
    server.request("POST", "/auth/refresh").header("Content-Type", "application/json").send().must(400);
}

#[test]
fn a_body_of_64_kib_is_accepted() {
    let server = Server::start();
    let mut body = credentials().to_string().into_bytes();
    body.resize(64 * 1024, b' ');
    server.request("POST", "/auth/register").json_bytes(body).send().must(201);
}

#[test]
fn s38_a_body_of_one_byte_over_64_kib_is_413() {
    let server = Server::start();
    let mut body = credentials().to_string().into_bytes();
    body.resize(64 * 1024 + 1, b' ');
    server.request("POST", "/auth/register").json_bytes(body).send().must(413);
}

#[test]
fn a_body_that_says_it_is_too_large_is_413_before_it_is_sent() {
    let server = Server::start();
    let head = "POST /auth/register HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                Content-Length: 65537\r\n\r\n";
    let answers = server.raw(head.as_bytes());
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [413]);
}

#[test]
fn a_body_where_none_is_needed_is_ignored() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one");
    let path = format!("/api/me/tasks/{}", task["id"].as_str().unwrap());
    for (method, path, status) in [
        ("GET", "/healthz", 200),
        ("GET", "/auth/me", 200),
        ("GET", "/api/me/tasks", 200),
        ("GET", path.as_str(), 200),
        ("DELETE", path.as_str(), 204),
    ] {
        let request = server.request(method, path).bearer(&user.token);
        let answer = request.header("Content-Type", "text/plain").body("{not json").send();
        assert_eq!(answer.status, status, "{method} {path}: {answer}");
    }
}

// ------------------------------------------------------------------------------------------- bodies: 400 and 422

#[test]
fn json_may_have_white_space_around_it_and_escapes_in_it() {
    let server = Server::start();
    let user = server.user("ada");
    let body = " \r\n\t{ \"titl\\u0065\" : \"\\ud83d\\ude80 \\\"\\u00e9\\\"\" }\n ";
    let task = create(&server, &user).json_bytes(body).send().must(201).json();
    assert_eq!(task["title"], "🚀 \"é\"");
}

#[test]
fn malformed_json_is_400() {
    let server = Server::start();
    let user = server.user("ada");
    let twice_far_in =
        [b"{\"title\":\"a\",\"x\":", &*b"[".repeat(1000), b"{\"y\":1,\"y\":2}", &*b"]".repeat(1000), b"}"].concat();
    let deep_and_cut_off = [b"{\"title\":", &*b"[".repeat(60_000)].concat();
    let cases: &[(&str, &[u8])] = &[
        ("nothing", b""),
        ("white space", b"  \n"),
        ("a word", b"title"),
        ("cut off", br#"{"title":"a""#),
        ("trailing comma", br#"{"title":"a",}"#),
        ("trailing text", br#"{"title":"a"} x"#),
        ("a second object", br#"{"title":"a"}{"title":"b"}"#),
        ("single quotes", b"{'title':'a'}"),
        ("a comment", b"{\"title\":\"a\"/**/}"),
        ("a bare line feed in a text", b"{\"title\":\"a\nb\"}"),
        ("not a number", br#"{"title":NaN}"#),
        ("a number with a leading zero", br#"{"title":01}"#),
        ("a form", b"title=a"),
        ("latin-1", b"{\"title\":\"caf\xe9\"}"),
        ("an overlong sequence", b"{\"title\":\"\xc0\xaf\"}"),
        ("a surrogate in utf-8", b"{\"title\":\"\xed\xa0\x80\"}"),
        ("not utf-8 in an unknown member", b"{\"title\":\"a\",\"x\":\"\xff\"}"),
        ("not utf-8 in a member's name", b"{\"title\":\"a\",\"\xff\":1}"),
        ("utf-16", b"{\0\"\0t\0\"\0:\x001\0}\0"),
        ("a member twice", br#"{"title":"a","title":"b"}"#),
        ("a member twice with one value", br#"{"title":"a","title":"a"}"#),
        ("a member twice, once escaped", br#"{"title":"a","\u0074itle":"b"}"#),
        ("an unknown member twice", br#"{"title":"a","x":1,"x":2}"#),
        ("a member twice further in", br#"{"title":"a","x":{"y":1,"y":2}}"#),
        ("a member twice 1,000 levels further in", &twice_far_in),
        ("a lone surrogate", br#"{"title":"\ud800"}"#),
        ("a lone surrogate in an unknown member", br#"{"title":"a","x":["\udc00"]}"#),
        ("a byte order mark", b"\xef\xbb\xbf{\"title\":\"a\"}"),
        ("deep, then cut off", &deep_and_cut_off),
        ("a member twice in a list", br#"{"title":"a","x":[{"y":1,"y":2}]}"#),
        ("a wrong type, then cut off", br#"{"title":1,"description":"#),
        ("an unknown member, then cut off", br#"{"x":1,"title":"a""#),
    ];
    for (name, body) in cases {
        let answer = create(&server, &user).json_bytes(*body).send();
        assert_eq!(answer.status, 400, "{name}: {answer}");
    }
    let mut sql = server.sql();
    let tasks: i64 = sql.query_one("select count(*) from tasks", &[]).unwrap().get(0);
    assert_eq!(tasks, 0, "a refused body made a task");
}

#[test]
fn valid_json_however_deep_or_large_is_422_and_its_members_are_named() {
    let server = Server::start();
    let user = server.user("ada");
    let many_members: String = (0..5_000).map(|n| format!("\"m{n}\":1,")).collect();
    let lists = |depth: usize| format!("{{\"title\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{{\"title\":{}0{}}}", "{\"\":".repeat(depth), "}".repeat(depth));
    for (name, body, field) in [
        ("127 lists", lists(127), "title"),
        ("128 lists", lists(128), "title"),
        ("30,000 lists", lists(30_000), "title"),
        ("10,000 objects", objects(10_000), "title"),
        ("no object, but deep", "[".repeat(30_000) + &"]".repeat(30_000), ""),
        ("no object, but large", "-1e999".to_owned(), ""),
        ("a number out of range", r#"{"title":1e999}"#.to_owned(), "title"),
        ("one that is not known", r#"{"title":"a","x":[-1e999]}"#.to_owned(), "x"),
        ("one where null may be", r#"{"title":"a","description":1e999}"#.to_owned(), "description"),
        ("a long number", format!("{{\"title\":{}}}", "9".repeat(60_000)), "title"),
        ("many members", format!("{{{many_members}\"title\":1}}"), "title"),
        ("a long name", format!("{{\"title\":1,\"{}\":1}}", "n".repeat(60_000)), "title"),
        ("a name with odd characters", r#"{"title":1,"\u0000\r\n\u2028\"":1}"#.to_owned(), "title"),
    ] {
        let answer = create(&server, &user).json_bytes(body).send();
        assert_eq!(answer.status, 422, "{name}: {answer}");
        assert_eq!(answer.fields().first().map(String::as_str), Some(field), "{name}: {answer}");
    }
}

#[test]
fn s31_mass_assignment_unknown_members_are_422_and_named() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one")["id"].as_str().unwrap().to_owned();
    let item = format!("/api/me/tasks/{task}");
    let complete = format!("{item}/complete");
    for (method, path, mut body, member) in [
        ("POST", "/auth/register", credentials(), "is_active"),
        ("POST", "/auth/login", credentials(), "remember"),
        ("POST", "/auth/register", credentials(), "Email"),
        ("POST", "/api/me/tasks", json!({"title": "a"}), "completed"),
        ("POST", "/api/me/tasks", json!({"title": "a"}), "user_id"),
        ("POST", "/api/me/tasks", json!({"title": "a"}), "id"),
        ("PUT", &item, json!({"title": "a"}), "user_id"),
        ("PATCH", &item, json!({"title": "a"}), "created_at"),
        ("PATCH", &complete, json!({"completed": true}), "title"),
    ] {
        body[member] = json!("x");
        let answer = server.request(method, path).bearer(&user.token).json(&body).send();
        assert_eq!(answer.status, 422, "{method} {path} with {member}: {answer}");
        assert_eq!(answer.fields(), [member], "{method} {path}: {answer}");
    }
}

#[test]
fn a_missing_member_or_one_of_a_wrong_type_is_422_and_named() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one")["id"].as_str().unwrap().to_owned();
    let item = format!("/api/me/tasks/{task}");
    let complete = format!("{item}/complete");
    let register = "/auth/register";
    for (method, path, body, field) in [
        ("POST", register, json!({"password": PASSWORD}), "email"),
        ("POST", register, json!({"email": fresh_email()}), "password"),
        ("POST", register, json!({"email": 1, "password": PASSWORD}), "email"),
        ("POST", register, json!({"email": null, "password": PASSWORD}), "email"),
        ("POST", register, json!({"email": ["a@b"], "password": PASSWORD}), "email"),
        ("POST", register, json!({"email": fresh_email(), "password": 12_345_678}), "password"),
        ("POST", register, json!({"email": fresh_email(), "password": null}), "password"),
        ("POST", "/auth/login", json!({"password": PASSWORD}), "email"),
        ("POST", "/auth/login", json!({"email": user.email}), "password"),
        ("POST", "/auth/login", json!({"email": user.email, "password": true}), "password"),
        ("POST", "/auth/login", json!({"email": {}, "password": PASSWORD}), "email"),
        ("POST", "/api/me/tasks", json!({}), "title"),
        ("POST", "/api/me/tasks", json!({"description": "a"}), "title"),
        ("POST", "/api/me/tasks", json!({"title": null}), "title"),
        ("POST", "/api/me/tasks", json!({"title": 1}), "title"),
        ("POST", "/api/me/tasks", json!({"title": ["a"]}), "title"),
        ("POST", "/api/me/tasks", json!({"title": "a", "description": 1}), "description"),
        ("POST", "/api/me/tasks", json!({"title": "a", "description": false}), "description"),
        ("PUT", &item, json!({"title": null}), "title"),
        ("PATCH", &item, json!({"title": 1}), "title"),
        ("PATCH", &item, json!({"description": []}), "description"),
        ("PUT", &item, json!({"completed": null}), "completed"),
        ("PATCH", &item, json!({"completed": 1}), "completed"),
        ("PATCH", &item, json!({"completed": "true"}), "completed"),
        ("PATCH", &complete, json!({"completed": null}), "completed"),
        ("PATCH", &complete, json!({"completed": 0}), "completed"),
        ("PATCH", &complete, json!({}), "completed"),
    ] {
        let answer = server.request(method, path).bearer(&user.token).json(&body).send();
        assert_eq!(answer.status, 422, "{method} {path} {body}: {answer}");
        assert_eq!(answer.fields(), [field], "{method} {path} {body}: {answer}");
    }
    let kept = server.request("GET", &item).bearer(&user.token).send().must(200).json();
    assert_eq!((&kept["title"], &kept["completed"]), (&json!("one"), &json!(false)));
}

#[test]
fn a_body_that_is_json_but_no_object_is_422() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one")["id"].as_str().unwrap().to_owned();
    for (method, path) in [
        ("POST", "/auth/register".to_owned()),
        ("POST", "/auth/login".to_owned()),
        ("POST", "/api/me/tasks".to_owned()),
        ("PUT", format!("/api/me/tasks/{task}")),
        ("PATCH", format!("/api/me/tasks/{task}")),
        ("PATCH", format!("/api/me/tasks/{task}/complete")),
    ] {
        for body in ["null", "[]", "[\"a@b.c\",\"x\"]", "\"title\"", "1", "true"] {
            let request = server.request(method, &path).bearer(&user.token);
            let answer = request.json_bytes(body).send();
            assert_eq!(answer.status, 422, "{method} {path} {body}: {answer}");
        }
    }
}

#[test]
fn a_text_member_with_nul_is_422_and_named() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one")["id"].as_str().unwrap().to_owned();
    let item = format!("/api/me/tasks/{task}");
    for (method, path, body, field) in [
        ("POST", "/auth/register", json!({"email": "a\0@b.c", "password": PASSWORD}), "email"),
        ("POST", "/auth/register", json!({"email": fresh_email(), "password": "correct horse\0 7"}), "password"),
        ("POST", "/auth/login", json!({"email": user.email, "password": "correct horse\0 7"}), "password"),
        ("POST", "/api/me/tasks", json!({"title": "a\0"}), "title"),
        ("POST", "/api/me/tasks", json!({"title": "a", "description": "\0"}), "description"),
        ("PUT", &item, json!({"title": "\0a"}), "title"),
        ("PATCH", &item, json!({"description": "a\0b"}), "description"),
    ] {
        let answer = server.request(method, path).bearer(&user.token).json(&body).send();
        assert_eq!(answer.status, 422, "{method} {path} {body}: {answer}");
        assert_eq!(answer.fields(), [field], "{method} {path} {body}: {answer}");
    }
}

#[test]
fn every_broken_rule_of_a_body_is_named() {
    let server = Server::start();
    let body = json!({"email": "no e-mail", "password": "short"});
    let answer = server.request("POST", "/auth/register").json(&body).send().must(422);
    let fields: BTreeSet<_> = answer.fields().into_iter().collect();
    assert_eq!(fields, ["email", "password"].map(str::to_owned).into(), "{answer}");
}

// ------------------------------------------------------------------------------------------- paths and methods

#[test]
fn validation_names_at_most_20_errors_and_cuts_long_names() {
    let server = Server::start();
    let user = server.user("ada");
    let refused = |body: String| create(&server, &user).json_bytes(body).send().must(422);
    let members: String = (0..4000).map(|n| format!(",\"member{n}\":1")).collect();
    let answer = refused(format!("{{\"title\":1{members}}}"));
    assert_eq!(answer.fields().len(), 20, "{answer}");
    assert!(answer.fields().contains(&"title".to_owned()), "what is known comes first: {answer}");
    let long = "é\n".repeat(10_000);
    let answer = refused(format!("{{\"title\":\"a\",{}:1}}", json!(long)));
    assert_eq!(answer.fields(), [format!("{}…", "é\n".repeat(50))], "{answer}");
    let names: String = (0..15).map(|n| format!(",\"{n}{}\":1", "\\u0001".repeat(600))).collect();
    let answer = refused(format!("{{\"title\":\"a\"{names}}}"));
    assert!(answer.body.len() < 16 * 1024, "{}", answer.body.len());
}

#[test]
fn a_path_is_split_as_sent_and_each_segment_decoded_once() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one")["id"].as_str().unwrap().to_owned();
    let (first, rest) = (user.id.as_bytes()[0], &user.id[1..]);
    for (path, status) in [
        ("/auth/me?", 200),
        ("/auth/me?x=/y?", 200),
        ("/auth/%6d%65", 200),
        ("/%61uth/me", 200),
        (&format!("/api/%{first:02x}{rest}/tasks"), 200),
        (&format!("/api/%{first:02X}{rest}/tasks"), 200),
        ("/api/%6De/tasks", 200),
        ("/auth/%256d%2565", 404),
        ("/auth%2Fme", 404),
        ("/auth%2fme", 404),
        ("/auth/me/", 404),
        ("/auth//me", 404),
        ("//auth/me", 404),
        ("/./auth/me", 404),
        ("/auth/../auth/me", 404),
        ("/auth/me%00", 404),
        ("/auth/me%20", 404),
        ("/auth/me+", 404),
        ("/AUTH/me", 404),
        ("/auth/%ff", 404),
        ("/%c3%28/me", 404),
        ("/api/%ff/tasks", 404),
        ("/api/me/tasks/%ff", 404),
        ("/api/me/tasks/%c0%af", 404),
        ("/api/me%2Ftasks", 404),
        (&format!("/api/me/tasks%2F{task}"), 404),
        (&format!("/api/me/tasks/{task}%2Fcomplete"), 404),
        (&format!("/api/me/tasks/x%2F..%2F{task}"), 404),
        (&format!("/api/me/tasks/../tasks/{task}"), 404),
        (&format!("/api/%25{first:02x}{rest}/tasks"), 403),
        (&format!("/api/x%2F{}/tasks", user.id), 403),
        (&format!("/api/{}%2F/tasks", user.id), 403),
        ("/api/%00/tasks", 403),
        ("/api/%E2%82%AC/tasks", 403),
        ("/api/%2E%2E/tasks", 403),
        ("/api/../tasks", 403),
        ("/api/me%20/tasks", 403),
        ("/api/me+/tasks", 403),
        ("/api/ME/tasks", 403),
        (&format!("/api/{}/tasks", user.id.to_uppercase()), 403),
    ] {
        let answer = server.request("GET", path).bearer(&user.token).send();
        assert_eq!(answer.status, status, "{path}: {answer}");
    }
}

#[test]
fn a_badly_encoded_path_is_never_a_500() {
    let server = Server::start();
    let user = server.user("ada");
    for path in ["/%", "/%4", "/%zz", "/auth/me%", "/api/me/tasks/%", "/api/%x/tasks", "/%00", "/%0d%0a"] {
        let answer = server.request("GET", path).bearer(&user.token).send();
        assert!((400..=404).contains(&answer.status), "{path}: {answer}");
    }
}

#[test]
fn an_unknown_path_is_404_whatever_the_method() {
    let server = Server::start();
    for path in ["/nowhere", "/auth", "/auth/me/x", "/api", "/api/me", "/api/me/task", "/api/me/tasks/x/complete/y"] {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let answer = server.request(method, path).send();
            assert_eq!(answer.status, 404, "{method} {path}: {answer}");
        }
    }
}

#[test]
fn another_method_on_a_known_path_is_405_with_what_is_allowed() {
    let server = Server::start();
    for (path, methods) in ROUTES {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "get"] {
            if !methods.contains(&method) {
                let answer = server.request(method, path).send();
                assert_eq!(answer.status, 405, "{method} {path}: {answer}");
                assert_eq!(allowed(&answer), BTreeSet::from_iter(methods.iter().copied()), "{method} {path}");
            }
        }
    }
}

#[test]
fn options_says_without_a_token_what_is_allowed() {
    let server = Server::start();
    for (path, methods) in ROUTES {
        let answer = server.request("OPTIONS", path).send();
        assert_eq!(answer.status, 204, "{path}: {answer}");
        assert_eq!(allowed(&answer), BTreeSet::from_iter(methods.iter().copied()), "{path}");
    }
}

#[test]
fn head_answers_what_get_answers_without_the_body() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one")["id"].as_str().unwrap().to_owned();
    server.task(&user, "two");
    for (path, status) in [
        ("/healthz".to_owned(), 200),
        ("/readyz".to_owned(), 200),
        ("/docs".to_owned(), 200),
        ("/auth/me".to_owned(), 200),
        ("/api/me/tasks?limit=1".to_owned(), 200),
        (format!("/api/me/tasks/{task}"), 200),
        ("/api/me/tasks/none".to_owned(), 404),
        ("/api/other/tasks".to_owned(), 403),
        ("/nowhere".to_owned(), 404),
    ] {
        let ask = |method| server.request(method, &path).bearer(&user.token).send();
        let (get, head) = (ask("GET"), ask("HEAD"));
        assert_eq!((get.status, head.status), (status, status), "{path}");
        for name in ["Content-Type", "Content-Length", "Cache-Control", "Link"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
    }
}

#[test]
fn nothing_follows_the_head_of_an_answer_to_head() {
    let server = Server::start();
    let request =
        b"HEAD /docs HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let stream = crate::support::connect(server.address).unwrap();
    std::io::Write::write_all(&mut &stream, request).unwrap();
    let mut reader = std::io::BufReader::new(&stream);
    let mut next = |method| crate::support::read_answer(&mut reader, method).unwrap().map(|answer| answer.status);
    assert_eq!([next("HEAD"), next("GET"), next("GET")], [Some(200), Some(200), None]);
}

#[test]
fn head_without_a_token_is_401() {
    let server = Server::start();
    server.request("HEAD", "/auth/me").send().must(401);
    server.request("HEAD", "/api/me/tasks").send().must(401);
}

#[test]
fn an_unknown_query_parameter_is_ignored() {
    let server = Server::start();
    let user = server.user("ada");
    for path in ["/auth/me?limit=x", "/api/me/tasks?x=%ff&%ff=1&Limit=0&=&&offset=-1&x"] {
        server.request("GET", path).bearer(&user.token).send().must(200);
    }
}

// --------------------------------------------------------------------------------------------- order of refusal

#[test]
fn refusals_come_in_one_order() {
    let server = Server::start();
    let user = server.user("ada");
    let other = server.user("eve");
    server.sql().batch_execute(&format!("delete from sessions where user_id = '{}'", other.id)).unwrap();
    let (me, dead) = (Some(&user.token), Some(&other.token));
    let bad = "not.a.token".to_owned();
    let json = "application/json";
    let large = "x".repeat(65_537);
    let theirs = format!("/api/{}/tasks", other.id);
    let none = format!("/api/me/tasks/{}", uuid::Uuid::now_v7());
    for (name, method, path, token, kind, body, status) in [
        ("413 before 404", "POST", "/nowhere", None, json, large.as_str(), 413),
        ("413 before 405", "POST", "/auth/me", None, json, large.as_str(), 413),
        ("413 before 401", "POST", "/api/me/tasks", None, json, large.as_str(), 413),
        ("413 before 403", "POST", theirs.as_str(), me, json, large.as_str(), 413),
        ("413 before 415", "POST", "/auth/register", None, "text/plain", large.as_str(), 413),
        ("404 before 401", "GET", "/api/me/nowhere", None, json, "", 404),
        ("405 before 401", "DELETE", "/api/me/tasks", None, json, "", 405),
        ("405 before 415", "PUT", "/auth/register", None, "text/plain", "x", 405),
        ("401 before 403, no token", "GET", &theirs, None, json, "", 401),
        ("401 before 403, bad token", "GET", &theirs, Some(&bad), json, "", 401),
        ("401 before 415", "POST", "/api/me/tasks", Some(&bad), "text/plain", "x", 401),
        ("401 before 400", "POST", "/api/me/tasks", Some(&bad), json, "{", 401),
        ("401 before 422", "POST", "/api/me/tasks", None, json, "{}", 401),
        ("401 before 404 of a task", "GET", &none, None, json, "", 401),
        ("403 before 415", "POST", &theirs, me, "text/plain", "x", 403),
        ("403 before 400", "POST", &theirs, me, json, "{", 403),
        ("403 before 422", "POST", &theirs, me, json, "{}", 403),
        ("403 before 422 of the query", "GET", &format!("{theirs}?limit=0"), me, json, "", 403),
        ("403 before 404 of a task", "GET", &format!("{theirs}/none"), me, json, "", 403),
        ("403 before 401 by the database", "GET", &format!("/api/{}/tasks", user.id), dead, json, "", 403),
        ("415 before 400", "POST", "/auth/register", None, "text/plain", "{", 415),
        ("415 before 422", "POST", "/api/me/tasks", me, "text/plain", "{}", 415),
        ("415 before 404 of a task", "PATCH", &none, me, "text/plain", "{}", 415),
        ("415 before 401 by the database", "POST", "/api/me/tasks", dead, "text/plain", "{}", 415),
        ("400 before 422", "POST", "/api/me/tasks", me, json, r#"{"title":1} x"#, 400),
        ("400 before 404 of a task", "PATCH", &none, me, json, "{", 400),
        ("400 before 401 by the database", "POST", "/api/me/tasks", dead, json, "{", 400),
        ("422 before 404 of a task", "PATCH", &none, me, json, "{}", 422),
        ("422 before 404 of a malformed id", "PUT", "/api/me/tasks/x", me, json, "{}", 422),
        ("422 before 401 by the database", "POST", "/api/me/tasks", dead, json, "{}", 422),
        ("422 of the query before 401 by the database", "GET", "/api/me/tasks?limit=0", dead, json, "", 422),
        ("401 by the database before 404 of a task", "GET", &none, dead, json, "", 401),
        ("401 by the database before 404 of a malformed id", "GET", "/api/me/tasks/x", dead, json, "", 401),
        (
            "422 before 409",
            "POST",
            "/auth/register",
            None,
            json,
            &json!({"email": user.email, "password": "short"}).to_string(),
            422,
        ),
    ] {
        let request = server.request(method, path).header("Content-Type", kind).body(body);
        let answer = match token {
            Some(token) => request.bearer(token),
            None => request,
        }
        .send();
        assert_eq!(answer.status, status, "{name}: {answer}");
    }
}

// ---------------------------------------------------------------------------------------------- bearer and 401

#[test]
fn s27_every_protected_route_is_401_without_a_token() {
    let server = Server::start();
    for endpoint in protected() {
        endpoint.request(&server, "me", "x").send().must(401);
    }
    for (method, path) in
        [("POST", "/auth/logout"), ("POST", "/auth/logout-all"), ("PUT", "/auth/password"), ("POST", "/auth/delete")]
    {
        server.request(method, path).send().must(401);
    }
}

#[test]
fn the_bearer_scheme_is_accepted_in_any_case() {
    let server = Server::start();
    let user = server.user("ada");
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        let request = server.request("GET", "/auth/me");
        let answer = request.header("Authorization", &format!("{scheme} {}", user.token)).send();
        assert_eq!(answer.status, 200, "{scheme}: {answer}");
    }
}

#[test]
fn s44_without_a_bearer_token_the_challenge_is_the_realm() {
    let server = Server::start();
    let user = server.user("ada");
    let token = user.token.as_str();
    for (name, header, value) in [
        ("nothing", "X-Nothing", String::new()),
        ("another scheme", "Authorization", "Basic YWRhOnB3".to_owned()),
        ("no scheme", "Authorization", token.to_owned()),
        ("a cookie", "Cookie", format!("access_token={token}; Authorization=Bearer {token}")),
        ("another header", "X-Authorization", format!("Bearer {token}")),
        ("a proxy's header", "Proxy-Authorization", format!("Bearer {token}")),
    ] {
        for endpoint in protected() {
            let answer = endpoint.request(&server, "me", "x").header(header, &value).send();
            assert_eq!(answer.status, 401, "{name}, {}: {answer}", endpoint.name);
            let challenge = answer.header("WWW-Authenticate");
            assert_eq!(challenge, Some("Bearer realm=\"latchkey\""), "{name}, {}", endpoint.name);
        }
    }
    server.request("GET", &format!("/auth/me?access_token={token}&token={token}")).send().must(401);
}

#[test]
fn s44_the_challenge_for_an_invalid_token_says_invalid_token() {
    let server = Server::start();
    let user = server.user("ada");
    let elsewhere = Server::start_with(&[("JWT_SECRET", &crate::support::strong_secret())]);
    let parts: Vec<_> = user.token.split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("a JWT has three parts") };
    let sign = |header: &Value, claims: &str, key: &[u8]| {
        let signed = format!("{}.{claims}", base64url(header.to_string().as_bytes()));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
        let mac = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", base64url(mac.as_ref()))
    };
    let honest = decode(&user.token).0;
    let secret = crate::support::environment("")["JWT_SECRET"].clone();
    let none = base64url(json!({"alg": "none", "typ": "at+jwt"}).to_string().as_bytes());
    let altered = base64url(br#"{"sub":"x"}"#);
    for (name, token) in [
        ("not a token", "x".to_owned()),
        ("only dots", "..".to_owned()),
        ("two parts", format!("{header}.{claims}")),
        ("no signature", format!("{header}.{claims}.")),
        ("four parts", format!("{}.{header}", user.token)),
        ("another's claims", format!("{header}.{altered}.{signature}")),
        ("a signature cut short", user.token[..user.token.len() - 4].to_owned()),
        ("a signature of another", format!("{header}.{claims}.{}", base64url(&[7; 32]))),
        ("alg none", format!("{none}.{claims}.")),
        ("alg none, signed", format!("{none}.{claims}.{signature}")),
        ("signed with the secret itself", sign(&honest, claims, secret.as_bytes())),
        ("signed with nothing", sign(&honest, claims, b"")),
        ("padded", format!("{}=", user.token)),
        ("of another secret", elsewhere.user("ada").token),
        ("two tokens", format!("{} {}", user.token, user.token)),
        ("with a comma", format!("{}, Bearer {}", user.token, user.token)),
        ("very long", "a".repeat(7_000)),
    ] {
        for path in ["/auth/me", "/api/me/tasks"] {
            let answer = server.request("GET", path).bearer(&token).send();
            assert_eq!(answer.status, 401, "{name}, {path}: {answer}");
            let challenge = answer.header("WWW-Authenticate").unwrap();
            assert!(challenge.contains(r#"error="invalid_token""#), "{name}, {path}: {answer}");
        }
    }
}

#[test]
fn two_authorization_headers_are_401() {
    let server = Server::start();
    let user = server.user("ada");
    let request = server.request("GET", "/auth/me").bearer(&user.token);
    request.clone().send().must(200);
    request.clone().bearer(&user.token).send().must(401);
    request.header("Authorization", "Basic YWRhOnB3").send().must(401);
}

fn base64url(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

// -------------------------------------------------------------------------------------------------- problems

#[test]
fn every_problem_is_explained_where_its_type_points() {
    let (server, gate) = Server::behind_gate(&[("REGISTRATION", "closed")]);
    let open = Server::on(&server.database, &server.database_url(), &[]);
    let user = open.user("ada");
    let ask =
        |method: &str, path: &str, body: &Value| server.request(method, path).bearer(&user.token).json(body).send();
    let nobody = json!({"email": "nobody@example.org", "password": PASSWORD});
    let taken = json!({"email": user.email, "password": PASSWORD});
    let mut problems = vec![
        server.request("POST", "/auth/login").json_bytes("{").send().must(400),
        server.request("GET", "/auth/me").send().must(401),
        server.request("GET", "/auth/me").bearer("x").send().must(401),
        ask("POST", "/auth/login", &nobody).must(401),
        ask("GET", "/api/other/tasks", &json!({})).must(403),
        ask("POST", "/auth/register", &nobody).must(403),
        ask("GET", "/nowhere", &json!({})).must(404),
        ask("GET", "/api/me/tasks/none", &json!({})).must(404),
        ask("PUT", "/auth/me", &json!({})).must(405),
        open.request("POST", "/auth/register").json(&taken).send().must(409),
        server.request("POST", "/auth/login").json_bytes(vec![b' '; 65_537]).send().must(413),
        server.request("POST", "/auth/login").body("x").send().must(415),
        ask("POST", "/api/me/tasks", &json!({})).must(422),
    ];
    problems.extend(server.raw(b"nonsense\r\n\r\n"));
    gate.refuse();
    problems.push(ask("GET", "/api/me/tasks", &json!({})).must(503));
    let docs = server.request("GET", "/docs").send().must(200);
    assert!(docs.header("Content-Type").is_some_and(|kind| kind.starts_with("text/html")), "{docs}");
    let docs = docs.text();
    for problem in problems {
        let json = problem.json();
        let slug = json["type"].as_str().unwrap().trim_start_matches("/docs#");
        assert!(docs.contains(&format!("id=\"{slug}\"")), "/docs does not explain {slug}");
    }
}

#[test]
fn s45_no_cause_reaches_the_client_when_the_database_fails() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one")["id"].as_str().unwrap().to_owned();
    server.sql().batch_execute("alter table tasks rename column description to blurb").unwrap();
    for endpoint in protected().iter().filter(|endpoint| !["me", "delete"].contains(&endpoint.name)) {
        let answer = endpoint.request(&server, "me", &task).bearer(&user.token).send();
        assert!(answer.status >= 500, "{}: {answer}", endpoint.name);
        let text = answer.text();
        for word in ["description", "blurb", "column", "42703", "select", ".rs", "db error"] {
            assert!(!text.contains(word), "{} shows {word:?}: {answer}", endpoint.name);
        }
    }
}
