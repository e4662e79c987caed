//! What an operator relies on: probes, migrations, the log, and that neither a database that is away nor a killed server
//! costs more than it must.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{PASSWORD, Server, User, at_once, await_that, environment, protected, run};

// ------------------------------------------------------------------------------------------------------ probes

#[test]
fn with_its_database_the_server_is_healthy_and_ready() {
    let server = Server::start();
    server.request("GET", "/healthz").send().must(200);
    server.request("GET", "/readyz").send().must(200);
}

#[test]
fn without_its_database_the_server_is_healthy_but_not_ready() {
    let (server, gate) = Server::behind_gate(&[]);
    server.request("GET", "/readyz").send().must(200);
    gate.refuse();
    server.request("GET", "/healthz").send().must(200);
    await_that("/readyz is 503", || server.request("GET", "/readyz").send().status == 503);
    server.request("GET", "/healthz").send().must(200);
    gate.open();
    await_that("/readyz is 200", || server.request("GET", "/readyz").send().status == 200);
}

#[test]
fn a_database_that_does_not_answer_makes_readyz_503_in_time() {
    for connected_before in [false, true] {
        let (server, gate) = Server::behind_gate(&[]);
        if connected_before {
            server.user("ada");
        }
        gate.silence();
        let start = Instant::now();
        server.request("GET", "/readyz").send().must(503);
        assert!(start.elapsed() < Duration::from_secs(4), "took {:?}, {connected_before}", start.elapsed());
        server.request("GET", "/healthz").send().must(200);
    }
}

#[test]
fn healthz_asks_the_database_nothing() {
    let server = Server::start();
    let commits = || -> i64 {
        let mut sql = server.sql();
        let statement = "select count(*) from pg_stat_activity where datname = current_database() \
                         and pid <> pg_backend_pid()";
        sql.query_one(statement, &[]).unwrap().get(0)
    };
    let end = "select pg_terminate_backend(pid) from pg_stat_activity \
               where datname = current_database() and pid <> pg_backend_pid()";
    await_that("no connection is left", || {
        server.sql().batch_execute(end).unwrap();
        commits() == 0
    });
    for _ in 0..20 {
        server.request("GET", "/healthz").send().must(200);
    }
    assert_eq!(commits(), 0, "/healthz opened a connection");
}

// -------------------------------------------------------------------------------------------- database outages

#[test]
fn without_the_database_every_endpoint_that_needs_it_is_503_in_time_and_recovers() {
    let (server, gate) = Server::behind_gate(&[]);
    let user = server.user("ada");
    let task = server.task(&user, "kept");
    let id = task["id"].as_str().unwrap();
    gate.refuse();
    let credentials = json!({"email": "eve@example.org", "password": PASSWORD});
    let mut requests = vec![
        ("register", server.request("POST", "/auth/register").json(&credentials)),
        ("login", server.request("POST", "/auth/login").json(&credentials)),
    ];
    requests.extend(
        protected().iter().map(|endpoint| (endpoint.name, endpoint.request(&server, "me", id).bearer(&user.token))),
    );
    at_once(requests.len() + 1, |n| {
        let Some((name, request)) = requests.get(n) else {
            server.request("GET", "/healthz").send().must(200);
            return;
        };
        let start = Instant::now();
        let answer = request.send();
        assert_eq!(answer.status, 503, "{name}: {answer}");
        assert!(start.elapsed() < Duration::from_secs(6), "{name} took {:?}", start.elapsed());
    });
    gate.open();
    let read = server.request("GET", &format!("/api/me/tasks/{id}")).bearer(&user.token);
    await_that("the server recovers", || read.send().status == 200);
    assert_eq!(read.send().must(200).json(), task, "an answer of 503 had an effect");
    server.request("POST", "/auth/register").json(&credentials).send().must(201);
}

#[test]
fn connections_that_the_database_ended_cost_no_500_and_the_server_recovers() {
    let server = Server::start();
    let user = server.user("ada");
    let list = server.request("GET", "/api/me/tasks").bearer(&user.token);
    at_once(8, |_| list.send().must(200));
    let end = "select pg_terminate_backend(pid) from pg_stat_activity \
               where datname = current_database() and pid <> pg_backend_pid()";
    server.sql().batch_execute(end).unwrap();
    await_that("the server recovers", || {
        let answer = list.send();
        assert!([200, 503].contains(&answer.status), "{answer}");
        answer.status == 200
    });
}

// -------------------------------------------------------------------------------------------- stop and be killed

#[test]
fn a_signal_to_stop_ends_the_server_with_0_in_time() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start();
        server.user("ada");
        let start = Instant::now();
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal:?}: {}", server.log());
        assert!(start.elapsed() < Duration::from_secs(10), "{signal:?} took {:?}", start.elapsed());
    }
}

#[test]
fn a_killed_server_loses_no_task_that_was_answered_201() {
    let mut server = Server::start();
    let user = server.user("ada");
    let created = Mutex::new(BTreeSet::new());
    let create = server.request("POST", "/api/me/tasks").bearer(&user.token);
    let create = create.json(&json!({"title": "one"}));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Ok(answer) = create.try_send() {
                    let id = answer.must(201).json()["id"].as_str().unwrap().to_owned();
                    created.lock().unwrap().insert(id);
                }
            });
        }
        await_that("there are 300 tasks", || created.lock().unwrap().len() >= 300);
        server.kill();
    });
    assert_eq!(server.wait().code(), None, "killed");
    let second = Server::beside(&server, &[]);
    let mut missing = created.into_inner().unwrap();
    for id in all_task_ids(&second, &user) {
        missing.remove(&id);
    }
    assert!(missing.is_empty(), "lost {missing:?}");
}

fn all_task_ids(server: &Server, user: &User) -> Vec<String> {
    let (mut ids, mut path) = (Vec::new(), "/api/me/tasks?limit=100".to_owned());
    loop {
        let answer = server.request("GET", &path).bearer(&user.token).send().must(200);
        let page = answer.json();
        ids.extend(page.as_array().unwrap().iter().map(|task| task["id"].as_str().unwrap().to_owned()));
        let Some(link) = answer.header("Link") else { return ids };
        path = link.trim_start_matches('<').split('>').next().unwrap().to_owned();
    }
}

#[test]
fn a_restart_ends_no_session() {
    let mut server = Server::start();
    let user = server.user("ada");
    assert_eq!(server.stop().code(), Some(0));
    let second = Server::beside(&server, &[]);
    second.request("GET", "/auth/me").bearer(&user.token).send().must(200);
}

#[test]
fn an_address_in_use_is_a_failed_start() {
    let server = Server::start();
    let mut environment = environment(&server.database_url());
    environment.insert("LISTEN".to_owned(), server.address.to_string());
    let finished = run(&["serve"], &environment);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stdout.is_empty() && !finished.stderr.is_empty(), "{finished:?}");
}
