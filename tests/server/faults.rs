//! Restarts under load, PgBouncer, connections that rest: long, and with Debian's package pgbouncer. Run by
//! `make test-faults`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::peers::{PgBouncer, Postgres, database_threads};
use crate::support::{Database, PASSWORD, Server, User, at_once, environment, run};

/// Runs repeatable requests of all kinds from eight clients while `disturb` runs; how many, and which failed.
fn failures_under_load(server: &Server, user: &User, disturb: impl FnOnce()) -> (usize, Vec<String>) {
    let id = server.task(user, "one")["id"].as_str().unwrap().to_owned();
    let item = format!("/api/me/tasks/{id}");
    let me = |method: &str, path: &str| server.request(method, path).bearer(&user.token);
    let requests = [
        me("GET", "/api/me/tasks?limit=1"),
        me("GET", &item),
        me("POST", "/api/me/tasks").json(&json!({"title": "two"})),
        me("PUT", &item).json(&json!({"title": "three"})),
        me("PATCH", &format!("{item}/complete")).json(&json!({"completed": true})),
        me("GET", "/auth/me"),
    ];
    let (is_over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failed = thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    while !is_over.load(Ordering::Relaxed) {
                        let number = sent.fetch_add(1, Ordering::Relaxed);
                        match requests[number % requests.len()].try_send() {
                            Ok(answer) if answer.status < 300 => {}
                            Ok(answer) => failed.push(answer.to_string()),
                            Err(error) => failed.push(error.to_string()),
                        }
                    }
                    failed
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(500));
        disturb();
        thread::sleep(Duration::from_millis(1500));
        is_over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    (sent.into_inner(), failed)
}

#[test]
fn restarts_of_postgresql_under_load_cost_no_repeatable_request() {
    let postgres = Postgres::start();
    let server = Server::on(&Database::create(), &postgres.socket_url("ada", "ada"), &[]);
    let user = server.user("ada");
    let quick = |signal| postgres.restart(signal);
    let slow = |signal| {
        postgres.stop(signal);
        thread::sleep(Duration::from_secs(2));
        postgres.begin();
    };
    for (name, disturb) in [
        ("fast", Box::new(|| quick(Signal::INT)) as Box<dyn FnOnce()>),
        ("immediate", Box::new(|| quick(Signal::QUIT))),
        ("fast, two seconds away", Box::new(|| slow(Signal::INT))),
        ("immediate, two seconds away", Box::new(|| slow(Signal::QUIT))),
    ] {
        let (sent, failed) = failures_under_load(&server, &user, disturb);
        println!("restart {name}: {} of {sent} requests failed", failed.len());
        assert!(failed.is_empty() && sent > 100, "{name}: {} of {sent}: {}", failed.len(), failed[0]);
    }
    assert!(database_threads(server.pid()) <= 10);
}

#[test]
fn backends_that_are_terminated_all_the_time_cost_no_repeatable_request() {
    let server = Server::start();
    let user = server.user("ada");
    let (sent, failed) = failures_under_load(&server, &user, || {
        let mut sql = server.sql();
        for _ in 0..20 {
            let end = "select pg_terminate_backend(pid) from pg_stat_activity \
                       where datname = current_database() and pid <> pg_backend_pid()";
            sql.batch_execute(end).unwrap();
            thread::sleep(Duration::from_millis(150));
        }
    });
    println!("terminated backends: {} of {sent} requests failed", failed.len());
    assert!(failed.is_empty(), "{} of {sent}: {}", failed.len(), failed[0]);
}

#[test]
fn everything_works_through_pgbouncer_in_transaction_mode() {
    let (database, bouncer) = (Database::create(), PgBouncer::start());
    let url = bouncer.url(&database.name);
    let migrated = run(&["migrate"], &environment(&url));
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let server = Server::on(&database, &url, &[]);
    let user = server.user("ada");
    at_once(16, |number| {
        let me = |method: &str, path: &str| server.request(method, path).bearer(&user.token);
        for _ in 0..20 {
            let id = server.task(&user, &format!("task {number}"))["id"].as_str().unwrap().to_owned();
            let item = format!("/api/me/tasks/{id}");
            me("GET", &item).send().must(200);
            me("PUT", &item).json(&json!({"description": "x"})).send().must(200);
            me("PATCH", &format!("{item}/complete")).send().must(200);
            me("GET", "/api/me/tasks").send().must(200);
            me("DELETE", &item).send().must(204);
        }
    });
    let tokens = server.request("POST", "/auth/login").json(&json!({"email": user.email, "password": PASSWORD}));
    let tokens = tokens.send().must(200).json();
    let refresh = json!({"refresh_token": tokens["refresh_token"]});
    server.request("POST", "/auth/refresh").json(&refresh).send().must(200);
    let change = json!({"current_password": PASSWORD, "new_password": format!("{PASSWORD} and more")});
    server.request("PUT", "/auth/password").bearer(&user.token).json(&change).send().must(204);
    server.request("POST", "/auth/logout-all").bearer(&user.token).send().must(204);
    assert!(!server.log().contains("prepared statement"), "{}", server.log());
}

#[test]
fn eight_instances_that_start_at_once_on_an_empty_database_all_serve() {
    let bouncer = PgBouncer::start();
    for through_pooler in [false, true] {
        let database = Database::create();
        let url = if through_pooler { bouncer.url(&database.name) } else { database.url() };
        let servers = at_once(8, |_| Server::on(&database, &url, &[]));
        let user = servers[0].user("ada");
        for server in &servers {
            server.task(&user, "one");
        }
    }
}

#[test]
fn connections_that_rest_are_closed_after_two_minutes() {
    let server = Server::start();
    let user = server.user("ada");
    let list = server.request("GET", "/api/me/tasks").bearer(&user.token);
    at_once(6, |_| list.send().must(200));
    assert!(database_threads(server.pid()) > 0);
    let start = Instant::now();
    while database_threads(server.pid()) > 0 {
        assert!(start.elapsed() < Duration::from_secs(130), "{} remain", database_threads(server.pid()));
        thread::sleep(Duration::from_secs(1));
    }
    assert!(start.elapsed() > Duration::from_secs(50), "{:?}", start.elapsed());
}
