//! Users of Better Auth at the shipped binary: created with their first task, separated from all other users, and managed
//! by the operator.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::issuer::{Issuer, SigningKey, random};
use crate::support::{Answer, Request, Server, at_once, environment, is_time, protected, run};

/// A Better Auth with one key, and a server that accepts its tokens.
pub struct Pair {
    pub issuer: Issuer,
    pub key: SigningKey,
    pub server: Server,
}

impl Pair {
    pub fn start() -> Self {
        let key = SigningKey::new("EdDSA", "first");
        let issuer = Issuer::start(std::slice::from_ref(&key));
        let server = Server::start_with(&[("BETTER_AUTH_URL", &issuer.origin())]);
        Self { issuer, key, server }
    }

    pub fn token(&self, subject: &str) -> String {
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
        let mut environment = environment(&self.server.database_url());
        environment.insert("BETTER_AUTH_URL".into(), "https://auth.example.org".into());
        let finished = run(&[&["user"], arguments].concat(), &environment);
        (finished.code, finished.stdout, finished.stderr)
    }

    fn rows(&self, subject: &str) -> i64 {
        self.server.sql().query_one("select count(*) from users where id = $1", &[&subject]).unwrap().get(0)
    }
}

pub fn subject() -> String {
    // As Better Auth makes them: no word that a command takes for an option.
    random(24).replace(['-', '_'], "x")
}

pub fn list(server: &Server, token: &str) -> Answer {
    server.request("GET", "/api/me/tasks").bearer(token).send()
}

// ------------------------------------------------------------------------------------------------------------- users

#[test]
fn an_external_user_row_is_created_with_the_first_task() {
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
fn owner_check_external_users_see_only_their_own_tasks() {
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
fn race_of_first_tasks_creates_all_of_them_and_one_user() {
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
fn s59_impersonation_by_a_local_or_external_id_is_refused() {
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
fn a_user_row_is_local_or_external_and_never_half() {
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

// ---------------------------------------------------------------------------------------------------------- operator

#[test]
fn deactivation_revokes_an_external_user_at_once() {
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
fn only_an_explicit_id_creates_a_user_for_the_operator() {
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
fn the_operator_lists_and_deletes_external_users() {
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
