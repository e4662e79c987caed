//! Restarts under load, PgBouncer, idle connections: long, and with Debian's package pgbouncer. Run by
//! `make test-faults`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::peers::{PgBouncer, Postgres};
use crate::support::{Database, PASSWORD, Server, User, at_once, environment, run, server_connections};

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
    assert!(server_connections(&mut postgres.sql("ada")) <= 10);
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
    assert!(failed.is_empty(), "{} of {sent}: {}\n{}", failed.len(), failed[0], server.log());
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
    let noticed = server.log().matches("mixes up prepared statements").count();
    assert_eq!(noticed, 1, "{}", server.log());
}

/// A database that is migrated without the pooler, so that its settings hold for every connection of the pooler.
fn migrated() -> std::sync::Arc<Database> {
    let database = Database::create();
    assert_eq!(run(&["migrate"], &environment(&database.url())).code, Some(0));
    database
}

/// What is prepared on the one connection that the pooler has to this database: text, generic and custom plans.
fn prepared(bouncer: &PgBouncer, database: &Database) -> Vec<(String, i64, i64)> {
    let mut sql = postgres::Client::connect(&bouncer.url(&database.name), postgres::NoTls).unwrap();
    let query = "select replace(statement, chr(10), ' '), generic_plans, custom_plans from pg_prepared_statements";
    let rows = sql.simple_query(query).unwrap();
    let rows = rows.iter().filter_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let number = |row: &postgres::SimpleQueryRow, n| row.get(n).unwrap().parse().unwrap();
    rows.map(|row| (row.get(0).unwrap().to_owned(), number(row, 1), number(row, 2))).collect()
}

#[test]
fn each_statement_of_a_protected_request_is_prepared_and_planned_once() {
    let (database, bouncer) = (migrated(), PgBouncer::start_with(1));
    // One connection behind the pooler: the names are reliable, and this test sees what is prepared.
    let server = Server::on(&database, &bouncer.url(&database.name), &[]);
    let user = server.user("ada");
    let me = |method: &str, path: &str| server.request(method, path).bearer(&user.token);
    for _ in 0..12 {
        let item = format!("/api/me/tasks/{}", server.task(&user, "one")["id"].as_str().unwrap());
        me("GET", "/api/me/tasks").send().must(200);
        me("GET", "/api/me/tasks?completed=true").send().must(200);
        me("GET", &item).send().must(200);
        me("PUT", &item).json(&json!({"title": "two"})).send().must(200);
        me("PATCH", &format!("{item}/complete")).send().must(200);
        me("DELETE", &item).send().must(204);
        me("GET", "/auth/me").send().must(200);
    }
    let prepared = prepared(&bouncer, &database);
    let plans: i64 = prepared.iter().map(|(_, generic, _)| generic).sum();
    assert!(prepared.len() >= 8 && plans == 8 * 12, "{prepared:#?}");
    assert!(
        prepared.iter().all(|(sql, _, custom)| *custom == 0 && sql.contains("caller($1, $2, $3)")),
        "{prepared:#?}"
    );
}

#[test]
fn nothing_is_set_on_a_connection_of_the_pooler() {
    let (database, bouncer) = (migrated(), PgBouncer::start_with(1));
    let server = Server::on(&database, &bouncer.url(&database.name), &[]);
    let user = server.user("ada");
    server.task(&user, "one");
    server.request("GET", "/readyz").send().must(200);
    let mut sql = postgres::Client::connect(&bouncer.url(&database.name), postgres::NoTls).unwrap();
    // PgBouncer itself sets what a client names at its start.
    let set = "select name from pg_settings where source = 'session' \
               and name not in ('client_encoding', 'application_name', 'DateStyle', 'TimeZone', 'standard_conforming_strings')";
    let rows = sql.simple_query(set).unwrap();
    let names: Vec<_> = rows
        .iter()
        .filter_map(|message| match message {
            postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    assert_eq!(names, [""; 0]);
}

#[test]
fn with_pgbouncer_true_nothing_is_prepared() {
    let (database, bouncer) = (migrated(), PgBouncer::start_with(1));
    let server = Server::on(&database, &format!("{}&pgbouncer=true", bouncer.url(&database.name)), &[]);
    let user = server.user("ada");
    server.task(&user, "one");
    server.request("GET", "/api/me/tasks").bearer(&user.token).send().must(200);
    assert_eq!(prepared(&bouncer, &database), []);
    assert!(!server.log().contains("mixes up"), "{}", server.log());
}

#[test]
fn a_server_connection_that_is_reset_fails_no_request() {
    let (database, bouncer) = (migrated(), PgBouncer::start_with(1));
    let server = Server::on(&database, &bouncer.url(&database.name), &[]);
    let user = server.user("ada");
    let id = server.task(&user, "one")["id"].as_str().unwrap().to_owned();
    let me = |method: &str, path: &str| server.request(method, path).bearer(&user.token);
    me("DELETE", &format!("/api/me/tasks/{id}")).send().must(204);
    let mut other = postgres::Client::connect(&bouncer.url(&database.name), postgres::NoTls).unwrap();
    other.batch_execute("discard all").unwrap();
    me("DELETE", &format!("/api/me/tasks/{id}")).send().must(404);
    me("GET", "/api/me/tasks").send().must(200);
    server.wait_for_log(&["mixes up prepared statements"]);
    assert_eq!(server.log().matches("mixes up prepared statements").count(), 1, "{}", server.log());
}

#[test]
fn two_processes_whose_names_a_pooler_mixes_up_run_no_statement_of_each_other() {
    let (database, bouncer) = (migrated(), PgBouncer::start_with(3));
    let url = bouncer.url(&database.name);
    for _ in 0..8 {
        let servers = [(); 2].map(|()| Server::on(&database, &url, &[("POOL_SIZE", "6")]));
        let user = servers[0].user(&format!("ada{}", uuid::Uuid::now_v7().simple()));
        let ids: Vec<String> =
            (0..60).map(|_| servers[0].task(&user, "one")["id"].as_str().unwrap().to_owned()).collect();
        // The first process begins with reads, the second one with writes; each deletes its own third only.
        at_once(12, |number| {
            let server = &servers[number % 2];
            let me = |method: &str, path: &str| server.request(method, path).bearer(&user.token);
            for turn in 0..25 {
                let kept = format!("/api/me/tasks/{}", ids[(number + turn) % 40]);
                let own = format!("/api/me/tasks/{}", ids[40 + number]);
                if number % 2 == 0 {
                    let task = me("GET", &kept).send().must(200).json();
                    assert_eq!((task["title"].as_str(), &task["completed"]), (Some("one"), &json!(false)));
                    me("GET", "/auth/me").send().must(200);
                    me("GET", "/api/me/tasks?completed=true").send().must(200);
                } else {
                    me("DELETE", &own).send().must(if turn == 0 { 204 } else { 404 });
                    me("PATCH", &format!("{own}/complete")).send().must(404);
                    me("GET", &kept).send().must(200);
                }
            }
        });
        let list = servers[0].request("GET", "/api/me/tasks?limit=100").bearer(&user.token).send().must(200).json();
        let left: Vec<&str> = list.as_array().unwrap().iter().map(|task| task["id"].as_str().unwrap()).collect();
        let deleted = |n: &usize| *n >= 40 && n % 2 == 1 && *n < 52;
        let expected: Vec<&String> = (0..60).filter(|n| !deleted(n)).map(|n| &ids[n]).collect();
        assert_eq!(left, expected);
        assert!(list.as_array().unwrap().iter().all(|task| task["completed"] == json!(false)));
        for server in &servers {
            server.wait_for_log(&["mixes up prepared statements"]);
            assert_eq!(server.log().matches("mixes up prepared statements").count(), 1, "{}", server.log());
        }
    }
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
fn idle_connections_are_closed_after_two_minutes() {
    let server = Server::start();
    let user = server.user("ada");
    let list = server.request("GET", "/api/me/tasks").bearer(&user.token);
    at_once(6, |_| list.send().must(200));
    assert!(server.database_connections() > 0);
    let start = Instant::now();
    while server.database_connections() > 0 {
        assert!(start.elapsed() < Duration::from_secs(130), "{} remain", server.database_connections());
        thread::sleep(Duration::from_secs(1));
    }
    assert!(start.elapsed() > Duration::from_secs(50), "{:?}", start.elapsed());
}
