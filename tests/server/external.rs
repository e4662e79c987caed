//! Tokens of a Better Auth at the shipped binary: the user that the first task makes, what the operator can do, and a
//! key set that counts its fetches, goes away, rotates, redirects, floods, drips and hangs.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::issuer::{Behaviour, Issuer, SigningKey, hs256, now, random, signed};
use crate::support::{
    Answer, Environment, Request, Server, at_once, await_that, environment, is_time, protected, run, strong_secret,
};

/// A Better Auth with one key, and a server that takes its tokens.
struct Pair {
    issuer: Issuer,
    key: SigningKey,
    server: Server,
}

impl Pair {
    fn start() -> Self {
        let key = SigningKey::new("EdDSA", "first");
        let issuer = Issuer::start(std::slice::from_ref(&key));
        let server = Server::start_with(&[("BETTER_AUTH_URL", &issuer.origin())]);
        Self { issuer, key, server }
    }

    fn token(&self, subject: &str) -> String {
        self.key.token(&self.issuer.claims(subject))
    }

    fn request(&self, subject: &str, method: &str, path: &str) -> Request {
        self.server.request(method, path).bearer(&self.token(subject))
    }

    #[track_caller]
    fn task(&self, subject: &str, title: &str) -> Value {
        self.request(subject, "POST", "/api/me/tasks").json(&json!({"title": title})).send().must(201).json()
    }

    fn operator(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let finished = run(&[&["user"], arguments].concat(), &environment(&self.server.database_url()));
        (finished.code, finished.stdout, finished.stderr)
    }

    fn rows(&self, subject: &str) -> i64 {
        self.server.sql().query_one("select count(*) from users where id = $1", &[&subject]).unwrap().get(0)
    }
}

fn subject() -> String {
    random(24)
}

fn list(server: &Server, token: &str) -> Answer {
    server.request("GET", "/api/me/tasks").bearer(token).send()
}

#[track_caller]
fn assert_no_keys(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer}");
    assert_eq!(answer.json()["type"], "/docs#issuer-unavailable", "{answer}");
    let seconds: u64 = answer.header("Retry-After").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds), "{answer}");
}

// ------------------------------------------------------------------------------------------------------- users

#[test]
fn an_external_user_exists_with_the_first_task_and_not_before() {
    let pair = Pair::start();
    let id = subject();
    let me = || pair.request(&id, "GET", "/auth/me").send().must(200).json();
    assert_eq!(me(), json!({"id": id, "email": null, "is_active": true, "created_at": null}));
    assert_eq!(pair.request(&id, "GET", "/api/me/tasks").send().must(200).json(), json!([]));
    let nothing = format!("/api/{id}/tasks/{}", Uuid::nil());
    for method in ["GET", "DELETE"] {
        pair.request(&id, method, &nothing).send().must(404);
    }
    assert_eq!(pair.rows(&id), 0);
    let task = pair.task(&id, "first");
    assert_eq!(task["user_id"], id);
    assert_eq!(pair.rows(&id), 1);
    let known = me();
    assert!(known["email"].is_null() && is_time(&known["created_at"]), "{known}");
    assert_eq!(pair.request(&id, "GET", &format!("/api/{id}/tasks")).send().must(200).json(), json!([task]));
}

#[test]
fn every_task_endpoint_works_for_an_external_user() {
    let pair = Pair::start();
    let id = subject();
    for endpoint in protected() {
        let task = pair.task(&id, "one");
        let request = endpoint.request(&pair.server, &id, task["id"].as_str().unwrap()).bearer(&pair.token(&id));
        assert!((200..300).contains(&request.send().status), "{}", endpoint.name);
    }
}

#[test]
fn external_users_see_neither_each_other_nor_local_ones() {
    let pair = Pair::start();
    let (ada, bob, local) = (subject(), subject(), pair.server.user("carl"));
    let task = pair.task(&ada, "mine");
    let id = task["id"].as_str().unwrap();
    pair.task(&bob, "his");
    for endpoint in protected().iter().filter(|endpoint| endpoint.names_a_task()) {
        endpoint.request(&pair.server, "me", id).bearer(&pair.token(&bob)).send().must(404);
        endpoint.request(&pair.server, "me", id).bearer(&local.token).send().must(404);
        endpoint.request(&pair.server, &ada, id).bearer(&pair.token(&bob)).send().must(403);
        endpoint.request(&pair.server, &ada, id).bearer(&local.token).send().must(403);
    }
    assert_eq!(pair.request(&ada, "GET", "/api/me/tasks").send().must(200).json(), json!([task]));
}

#[test]
fn the_account_endpoints_say_who_manages_the_account() {
    let pair = Pair::start();
    let id = subject();
    for round in 0..2 {
        for (method, path) in [
            ("POST", "/auth/logout"),
            ("POST", "/auth/logout-all"),
            ("PUT", "/auth/password"),
            ("POST", "/auth/delete"),
        ] {
            let answer = pair.request(&id, method, path).send().must(403);
            assert_eq!(answer.json()["type"], "/docs#account-managed-elsewhere", "{path}: {answer}");
            assert!(answer.json()["detail"].as_str().unwrap().contains("Better Auth"), "{answer}");
        }
        assert_eq!(pair.rows(&id), round);
        pair.task(&id, "one");
    }
}

#[test]
fn of_first_tasks_at_once_all_are_made_and_one_user() {
    let pair = Pair::start();
    let second = Server::beside(&pair.server, &[("BETTER_AUTH_URL", &pair.issuer.origin())]);
    for _ in 0..15 {
        let id = subject();
        let token = pair.token(&id);
        let statuses = at_once(12, |n| {
            let server = if n % 2 == 0 { &pair.server } else { &second };
            let body = json!({"title": "one"});
            server.request("POST", "/api/me/tasks").bearer(&token).json(&body).send().status
        });
        assert_eq!(statuses, vec![201; 12]);
        assert_eq!(list(&pair.server, &token).must(200).json().as_array().unwrap().len(), 12);
        assert_eq!(pair.rows(&id), 1);
    }
}

#[test]
fn an_external_subject_with_the_id_of_a_local_user_is_refused_and_the_reverse() {
    let pair = Pair::start();
    let local = pair.server.user("ada");
    let task = pair.server.task(&local, "mine");
    for endpoint in protected() {
        let request = endpoint.request(&pair.server, "me", task["id"].as_str().unwrap());
        request.bearer(&pair.token(&local.id)).send().must(401);
    }
    assert_eq!(list(&pair.server, &local.token).must(200).json(), json!([task]));
    let statement = "update users set kind = 'better_auth', email = null, password_hash = null where id = $1";
    pair.server.sql().execute(statement, &[&local.id]).unwrap();
    for endpoint in protected() {
        let request = endpoint.request(&pair.server, "me", task["id"].as_str().unwrap());
        request.bearer(&local.token).send().must(401);
    }
    assert_eq!(list(&pair.server, &pair.token(&local.id)).must(200).json(), json!([task]));
}

#[test]
fn no_row_is_half_local() {
    let pair = Pair::start();
    let mut sql = pair.server.sql();
    for statement in [
        "insert into users (id, kind) values ('a', 'local')",
        "insert into users (id, kind, email) values ('a', 'better_auth', 'a@b')",
        "insert into users (id, kind, password_hash) values ('a', 'better_auth', 'x')",
        "insert into users (id, kind) values ('a', 'github')",
    ] {
        let error = sql.execute(statement, &[]).unwrap_err();
        let constraint = error.as_db_error().and_then(|error| error.constraint()).unwrap_or_default();
        assert!(["users_credentials_check", "users_kind_check"].contains(&constraint), "{statement}: {constraint}");
    }
}

// ---------------------------------------------------------------------------------------------------- operator

#[test]
fn deactivation_stops_an_external_user_with_the_next_request_also_before_the_first_task() {
    let pair = Pair::start();
    for has_row in [true, false] {
        let id = subject();
        if has_row {
            pair.task(&id, "one");
        }
        let named = format!("id:{id}");
        assert_eq!(list(&pair.server, &pair.token(&id)).status, 200);
        assert_eq!(pair.operator(&["deactivate", &named]).0, Some(0));
        for endpoint in protected() {
            let request = endpoint.request(&pair.server, "me", &Uuid::nil().to_string());
            request.bearer(&pair.token(&id)).send().must(401);
        }
        assert!(pair.operator(&["show", &named]).1.contains("\t-\tinactive\t"));
        assert_eq!(pair.operator(&["activate", &named]).0, Some(0));
        assert_eq!(pair.request(&id, "GET", "/auth/me").send().must(200).json()["is_active"], true);
        assert_eq!(
            list(&pair.server, &pair.token(&id)).must(200).json().as_array().unwrap().len(),
            usize::from(has_row)
        );
    }
}

#[test]
fn only_a_named_id_makes_a_user_for_the_operator() {
    let pair = Pair::start();
    let id = subject();
    for argument in [id.clone(), format!("email:{id}"), "id:".to_owned(), format!("id:{}", "a".repeat(256))] {
        for command in ["deactivate", "activate", "logout", "show", "set-password"] {
            assert_eq!(pair.operator(&[command, &argument]).0, Some(1), "{command} {argument}");
        }
    }
    assert_eq!(pair.operator(&["logout", &format!("id:{id}")]).0, Some(1));
    let users: i64 = pair.server.sql().query_one("select count(*) from users", &[]).unwrap().get(0);
    assert_eq!(users, 0);
}

#[test]
fn the_operator_lists_and_deletes_external_users_and_is_told_what_does_not_work() {
    let pair = Pair::start();
    let (id, local) = (subject(), pair.server.user("ada"));
    pair.task(&id, "one");
    let (code, listed, _) = pair.operator(&["list"]);
    assert_eq!(code, Some(0));
    assert!(listed.lines().any(|line| line.starts_with(&format!("{id}\t-\tactive\t")) && line.ends_with("\t1 tasks")));
    assert!(listed.contains(&local.email));
    for command in ["set-password", "logout"] {
        let (code, _, said) = pair.operator(&[command, &id]);
        assert!(code == Some(1) && said.contains("Better Auth") && said.contains("deactivate"), "{command}: {said}");
    }
    assert_eq!(list(&pair.server, &pair.token(&id)).status, 200);
    assert_eq!(pair.operator(&["delete", &id, "--yes"]).0, Some(0));
    assert_eq!(pair.rows(&id), 0);
    assert_eq!(list(&pair.server, &pair.token(&id)).must(200).json(), json!([]), "a token makes the user anew");
}

// ----------------------------------------------------------------------------------------------------- key set

#[test]
fn the_key_set_is_fetched_at_the_first_need_and_once() {
    let pair = Pair::start();
    let local = pair.server.user("ada");
    list(&pair.server, &local.token).must(200);
    list(&pair.server, "rubbish").must(401);
    assert_eq!(pair.issuer.fetches(), 0);
    let token = pair.token(&subject());
    assert_eq!(at_once(30, |_| list(&pair.server, &token).status), vec![200; 30]);
    assert_eq!(pair.issuer.fetches(), 1);
    pair.server.wait_for_log(&["event=jwks", "outcome=ok", "keys=1"]);
}

#[test]
fn a_storm_of_unknown_keys_causes_one_fetch() {
    let pair = Pair::start();
    let claims = pair.issuer.claims(&subject());
    let mut statuses = at_once(40, |n| {
        let stranger = SigningKey::new("EdDSA", &format!("key-{n}"));
        let token = stranger.token(&claims);
        (0..25).map(|_| list(&pair.server, &token).status).collect::<Vec<_>>()
    });
    assert!(statuses.drain(..).flatten().all(|status| status == 401));
    assert_eq!(pair.issuer.fetches(), 1);
}

#[test]
fn keys_hold_while_the_issuer_is_away_and_new_ones_are_found_after_the_cool_down() {
    let pair = Pair::start();
    let id = subject();
    list(&pair.server, &pair.token(&id)).must(200);
    let since = Instant::now();
    pair.issuer.set(Behaviour::Status(500));
    list(&pair.server, &pair.token(&id)).must(200);
    let next = SigningKey::new("PS256", "second");
    let token = next.token(&pair.issuer.claims(&id));
    pair.issuer.publish(&[next]);
    // Longer than any other wait: the cool-down is 30 s by the clock of the program.
    while list(&pair.server, &token).status != 200 {
        assert!(since.elapsed() < Duration::from_secs(60), "waited in vain for the new key");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(since.elapsed() >= Duration::from_secs(29), "{:?}", since.elapsed());
    assert_eq!(pair.issuer.fetches(), 2);
    list(&pair.server, &pair.token(&id)).must(401);
}

#[test]
fn without_a_key_set_a_published_token_is_503_and_a_local_one_works() {
    let key = SigningKey::new("ES256", "k");
    let elsewhere = Issuer::start(std::slice::from_ref(&key));
    let claims = |issuer: &Issuer| issuer.claims(&subject());
    for behaviour in [
        Behaviour::Status(500),
        Behaviour::Status(404),
        Behaviour::Status(206),
        Behaviour::Redirect(format!("{}/api/auth/jwks", elsewhere.origin())),
        Behaviour::Flood,
        Behaviour::Publish("not JSON".into()),
    ] {
        let issuer = Issuer::doing(behaviour);
        let server = Server::start_with(&[("BETTER_AUTH_URL", &issuer.origin())]);
        let token = key.token(&claims(&issuer));
        for _ in 0..3 {
            assert_no_keys(&list(&server, &token));
        }
        assert_eq!(issuer.fetches(), 1);
        assert!(issuer.sent_bytes() < 8 * 1024 * 1024, "it was read on: {} bytes", issuer.sent_bytes());
        let local = server.user("ada");
        list(&server, &local.token).must(200);
        server.wait_for_log(&["event=jwks", "outcome=failed"]);
    }
    assert_eq!(elsewhere.fetches(), 0, "a redirect was followed");
}

#[test]
fn an_issuer_that_refuses_connections_is_503() {
    let key = SigningKey::new("EdDSA", "k");
    // Bound and dropped: nobody listens there now.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let origin = format!("http://{address}");
    let server = Server::start_with(&[("BETTER_AUTH_URL", &origin)]);
    let claims = json!({"sub": "a", "exp": now() + 60, "iss": origin, "aud": origin});
    assert_no_keys(&list(&server, &key.token(&claims)));
}

#[test]
fn a_silent_issuer_holds_a_request_for_five_seconds_at_most_and_few_of_them() {
    let key = SigningKey::new("EdDSA", "k");
    for behaviour in [Behaviour::Hang, Behaviour::Drip] {
        let issuer = Issuer::doing(behaviour);
        let server = Server::start_with(&[("BETTER_AUTH_URL", &issuer.origin())]);
        let token = key.token(&issuer.claims(&subject()));
        let local = server.user("ada");
        let times = at_once(120, |_| {
            let started = Instant::now();
            assert_no_keys(&list(&server, &token));
            started.elapsed()
        });
        let slow = times.iter().filter(|time| **time > Duration::from_secs(3)).count();
        assert!((1..=65).contains(&slow), "{slow} requests waited");
        assert!(times.iter().all(|time| *time < Duration::from_secs(8)), "{times:?}");
        list(&server, &local.token).must(200);
        assert_eq!(issuer.fetches(), 1);
    }
}

// ----------------------------------------------------------------------------------------------- shared secret

#[test]
fn a_token_of_the_shared_secret_makes_a_task() {
    let secret = strong_secret();
    let server = Server::start_with(&[("BETTER_AUTH_SECRET", &secret)]);
    let token = |claims: &Value| signed(r#"{"alg":"HS256"}"#, &claims.to_string(), hs256(secret.as_bytes()));
    let id = subject();
    let good = token(&json!({"sub": id, "exp": now() + 60}));
    let task = server.request("POST", "/api/me/tasks").bearer(&good).json(&json!({"title": "one"})).send().must(201);
    assert_eq!(task.json()["user_id"], id);
    for claims in [json!({"userId": id, "exp": now() + 60}), json!({"sub": id}), json!({"sub": id, "exp": now() - 60})]
    {
        list(&server, &token(&claims)).must(401);
    }
    assert!(!server.log().contains(&good) && !server.log().contains(&secret));
}

#[test]
fn without_configuration_no_token_of_better_auth_is_taken() {
    let key = SigningKey::new("EdDSA", "k");
    let issuer = Issuer::start(std::slice::from_ref(&key));
    let server = Server::start();
    list(&server, &key.token(&issuer.claims(&subject()))).must(401);
    assert_eq!(issuer.fetches(), 0);
}

// ----------------------------------------------------------------------------------------------- configuration

fn with(variables: &[(&str, &str)]) -> Environment {
    let mut environment = environment("postgres:///none?host=/nonexistent&user=nobody");
    environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    environment
}

#[test]
fn a_setting_that_cannot_be_meant_stops_serve_and_is_not_shown() {
    let secret = strong_secret();
    let (url, jwks) = ("BETTER_AUTH_URL", "BETTER_AUTH_JWKS_URL");
    for (variable, settings) in [
        (url, &[(url, "http://wombat.example")][..]),
        (url, &[(url, "https://wombat.example/app")]),
        (url, &[(url, "https://quokka:wombat@app.example")]),
        (url, &[(url, "wombat.example")]),
        (url, &[(url, "")]),
        (jwks, &[(url, "https://app.example"), (jwks, "http://wombat.example/jwks")]),
        (jwks, &[(url, "https://app.example"), (jwks, "")]),
        ("BETTER_AUTH_ISSUER", &[(jwks, "https://wombat.example/jwks")]),
        ("BETTER_AUTH_AUDIENCE", &[(jwks, "https://wombat.example/jwks"), ("BETTER_AUTH_ISSUER", "wombat")]),
        ("BETTER_AUTH_ISSUER", &[("BETTER_AUTH_ISSUER", "wombat")]),
        ("BETTER_AUTH_AUDIENCE", &[("BETTER_AUTH_AUDIENCE", "wombat")]),
        ("BETTER_AUTH_AUDIENCE", &[(url, "https://app.example"), ("BETTER_AUTH_AUDIENCE", "")]),
        ("BETTER_AUTH_SECRET", &[("BETTER_AUTH_SECRET", "wombat")]),
        ("BETTER_AUTH_SECRET", &[("BETTER_AUTH_SECRET", "better-auth-secret-12345678901234567890")]),
        ("BETTER_AUTH_SECRET", &[("BETTER_AUTH_SECRET", &secret), ("JWT_SECRET", &secret)]),
        ("BETTER_AUTH_SECRET", &[("BETTER_AUTH_SECRET", &secret), ("JWT_SECRET_PREVIOUS", &secret)]),
    ] {
        let finished = run(&["serve"], &with(settings));
        assert_eq!(finished.code, Some(2), "{settings:?}: {}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{settings:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(variable), "{settings:?}: {}", finished.stderr);
        assert!(!finished.stderr.contains("wombat") && !finished.stderr.contains(&secret), "{}", finished.stderr);
    }
}

#[test]
fn issuer_audience_and_address_of_the_keys_may_differ_from_the_origin() {
    let key = SigningKey::new("EdDSA", "k");
    let issuer = Issuer::start(std::slice::from_ref(&key));
    let jwks_url = format!("{}/keys?of=me", issuer.origin());
    let server = Server::start_with(&[
        ("BETTER_AUTH_URL", "https://app.example"),
        ("BETTER_AUTH_JWKS_URL", &jwks_url),
        ("BETTER_AUTH_ISSUER", "https://auth.example"),
        ("BETTER_AUTH_AUDIENCE", "tasks"),
    ]);
    let claims = |iss: &str, aud: &str| json!({"sub": "a", "exp": now() + 60, "iss": iss, "aud": aud});
    list(&server, &key.token(&claims("https://auth.example", "tasks"))).must(200);
    list(&server, &key.token(&claims("https://app.example", "https://app.example"))).must(401);
    list(&server, &key.token(&claims("tasks", "https://auth.example"))).must(401);
    await_that("the refusal is logged", || server.log().contains("wrong_issuer_or_audience"));
}
