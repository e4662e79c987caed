//! Statements: their cost on a large table, what a failing one logs, what is repeated, and who may use the pool.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Database, Request, Role, Server, User, at_once, await_that, decode, environment, run};

const TASKS: i64 = 300_000;
const USERS: i64 = 10;

/// A task's id in the order of its number.
fn id(number: i64) -> String {
    format!("01900000-0000-7000-8000-{number:012x}")
}

/// Gives the user tasks with these numbers, all of them open.
fn fill(server: &Server, user: &str, numbers: std::ops::Range<i64>) {
    let insert = format!(
        "set statement_timeout = 0; set session_replication_role = replica;
         insert into tasks (id, user_id, title)
         select ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '{user}', 'task'
         from generate_series({}, {}) as n",
        numbers.start,
        numbers.end - 1
    );
    server.sql().batch_execute(&insert).unwrap();
}

/// Each operation on the page that begins with this number.
fn operations(server: &Server, user: &User, first: i64) -> Vec<(&'static str, Request)> {
    let me = |method: &str, path: &str| server.request(method, path).bearer(&user.token);
    let (page, item) =
        (format!("/api/me/tasks?limit=20&after={}", id(first - 1)), format!("/api/me/tasks/{}", id(first)));
    vec![
        ("first page", me("GET", "/api/me/tasks?limit=20")),
        ("this page", me("GET", &page)),
        ("no match", me("GET", "/api/me/tasks?completed=true")),
        ("get", me("GET", &item)),
        ("create", me("POST", "/api/me/tasks").json(&json!({"title": "one"}))),
        ("update", me("PUT", &item).json(&json!({"title": "two"}))),
    ]
}

/// The shortest of several, after one that prepares: what the machine does beside it does not count.
fn shortest(request: &Request) -> Duration {
    request.send();
    let once = |_| {
        let start = Instant::now();
        assert!(request.send().status < 300);
        start.elapsed()
    };
    (0..41).map(once).min().unwrap()
}

#[test]
fn no_operation_slows_down_with_the_number_of_tasks() {
    let (small, large) = (Server::start_with(&[("POOL_SIZE", "1")]), Server::start_with(&[("POOL_SIZE", "1")]));
    let few = small.user("few");
    fill(&small, &few.id, 1..21);
    let heavy = large.user("heavy");
    let others: Vec<User> = (1..USERS).map(|number| large.user(&format!("user{number}"))).collect();
    fill(&large, &heavy.id, 0..TASKS);
    for (number, other) in others.iter().enumerate() {
        let start = TASKS + 20 * i64::try_from(number).unwrap();
        fill(&large, &other.id, start..start + 20);
    }
    large.sql().batch_execute("analyze").unwrap();
    let light = others.last().unwrap();
    let of_few = operations(&small, &few, 1);
    for (user, first) in [(&heavy, TASKS - 20), (light, TASKS + 20 * (USERS - 2))] {
        for ((name, here), (_, there)) in operations(&large, user, first).iter().zip(&of_few) {
            let (slow, fast) = (shortest(here), shortest(there));
            println!("{name}: {slow:?} against {fast:?}");
            assert!(slow < 2 * fast + Duration::from_micros(300), "{name}: {slow:?} against {fast:?}");
        }
    }
}

#[test]
fn s34_a_prepared_statement_that_is_not_the_one_that_was_meant_is_refused() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one");
    let id = task["id"].as_str().unwrap();
    let session = decode(&user.token).1["sid"].as_str().unwrap().to_owned();
    let mut sql = server.sql();
    // What another process prepared under the name that this one binds to, with the same parameters.
    let other = "with c as (select id from caller($1, $2, $3)) \
                 delete from tasks using c where tasks.user_id = c.id and tasks.id = $4";
    let other_process = sql.prepare(other).unwrap();
    let mut run = |meant: Option<&str>| {
        let (session, id): (uuid::Uuid, uuid::Uuid) = (session.parse().unwrap(), id.parse().unwrap());
        sql.execute(&other_process, &[&meant, &user.id, &session, &id])
    };
    let refused = run(Some("select t.* from caller($1, $2, $3) as c left join tasks as t on true"));
    assert_eq!(refused.unwrap_err().code().unwrap().code(), "26000");
    server.request("GET", &format!("/api/me/tasks/{id}")).bearer(&user.token).send().must(200);
    assert_eq!(run(Some(other)).unwrap(), 1, "the one that was meant runs");
}

#[test]
fn a_migration_that_changes_a_table_meanwhile_fails_no_request() {
    let server = Server::start_with(&[("POOL_SIZE", "1")]);
    let user = server.user("ada");
    let me = |method: &str, path: &str| server.request(method, path).bearer(&user.token);
    let all = || {
        let item = format!("/api/me/tasks/{}", server.task(&user, "one")["id"].as_str().unwrap());
        me("GET", "/api/me/tasks").send().must(200);
        me("GET", &item).send().must(200);
        me("PUT", &item).json(&json!({"title": "two"})).send().must(200);
        let toggled = me("PATCH", &format!("{item}/complete")).send().must(200).json();
        assert_eq!(toggled["completed"], true, "toggled once");
        me("DELETE", &item).send().must(204);
    };
    all();
    for change in ["add column note text", "alter column title type varchar(255)", "drop column note"] {
        server.sql().batch_execute(&format!("alter table tasks {change}")).unwrap();
        all();
    }
    assert!(!server.log().contains("event=database"), "{}", server.log());
}

#[test]
fn a_database_error_is_logged_by_sqlstate_and_names_and_never_by_a_value() {
    for (encoding, change, title, expected) in [
        (
            "UTF8",
            "add constraint mine check (title <> 'quokka')",
            "quokka",
            "SQLSTATE 23514, constraint mine, table tasks",
        ),
        ("UTF8", "add column mine text not null", "quokka", "SQLSTATE 23502, table tasks, column mine"),
        ("LATIN1", "owner to postgres", "quokka \u{20ac}", "SQLSTATE 22P05"),
    ] {
        let database = Database::encoded(encoding);
        let server = Server::on(&database, &database.url(), &[]);
        let user = server.user("ada");
        server.sql().batch_execute(&format!("alter table tasks {change}")).unwrap();
        let create = server.request("POST", "/api/me/tasks").bearer(&user.token);
        let answer = create.json(&json!({"title": title, "description": "secret\u{e9}"})).send().must(500);
        let line = server.wait_for_log(&["event=failure", answer.request_id()]);
        assert!(line.contains(expected), "{line}");
        let log = server.log();
        assert!(!log.contains("quokka") && !log.contains("secret") && !log.contains('\u{20ac}'), "{log}");
    }
}

#[test]
fn a_command_shows_a_database_error_without_a_value() {
    let database = Database::create();
    let environment = environment(&database.url());
    assert_eq!(run(&["migrate"], &environment).code, Some(0));
    let server = Server::on(&database, &database.url(), &[]);
    let user = server.user("quokka");
    server.sql().batch_execute("alter table users add constraint mine check (is_active)").unwrap();
    let finished = run(&["user", "deactivate", &format!("id:{}", user.id)], &environment);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("SQLSTATE 23514, constraint mine"), "{finished:?}");
    assert!(!finished.stderr.contains("quokka") && !finished.stderr.contains("$2"), "{finished:?}");
}

#[test]
fn a_serialization_failure_is_repeated_where_the_second_run_gives_the_same_answer() {
    let database = Database::create();
    assert_eq!(run(&["migrate"], &environment(&database.url())).code, Some(0));
    let set = "alter role postgres in database {} set default_transaction_isolation = 'repeatable read'";
    let server = Server::on(&database, &database.url(), &[("POOL_SIZE", "1")]);
    let user = server.user("ada");
    database.sql().batch_execute(&set.replace("{}", &database.name)).unwrap();
    // New connections alone have the setting.
    let end = "select pg_terminate_backend(pid) from pg_stat_activity \
               where datname = current_database() and pid <> pg_backend_pid()";
    database.sql().batch_execute(end).unwrap();
    let id = server.task(&user, "one")["id"].as_str().unwrap().to_owned();
    let item = format!("/api/me/tasks/{id}");
    let put = server.request("PUT", &item).bearer(&user.token).json(&json!({"title": "two"}));
    let toggle = server.request("PATCH", &format!("{item}/complete")).bearer(&user.token);
    for (request, status) in [(&put, 200), (&toggle, 503)] {
        let mut sql = server.sql();
        let mut other = sql.transaction().unwrap();
        other.execute("update tasks set description = 'x' where id::text = $1", &[&id]).unwrap();
        thread::scope(|scope| {
            let sent = scope.spawn(|| request.send());
            await_that("the request waits for the row", || waiting(&server) == 1);
            other.commit().unwrap();
            sent.join().unwrap().must(status);
        });
    }
}

/// Statements that wait for a lock.
fn waiting(server: &Server) -> i64 {
    let count = "select count(*) from pg_stat_activity \
                 where datname = current_database() and application_name = 'latchkey' and wait_event_type = 'Lock'";
    server.sql().query_one(count, &[]).unwrap().get(0)
}

#[test]
fn whichever_threads_serve_the_requests_they_share_the_connections_that_are_there() {
    let server = Server::start();
    let user = server.user("ada");
    let list = server.request("GET", "/api/me/tasks").bearer(&user.token);
    let two_at_once = || drop(at_once(2, |_| list.send().must(200)));
    let mut sql = server.sql();
    let mut lock = sql.transaction().unwrap();
    lock.batch_execute("lock table tasks").unwrap();
    thread::scope(|scope| {
        scope.spawn(two_at_once);
        await_that("both have a connection", || waiting(&server) == 2);
        lock.commit().unwrap();
    });
    let connections = server.database_connections();
    (0..50).for_each(|_| two_at_once());
    assert_eq!(server.database_connections(), connections);
}

#[test]
fn fewer_connections_than_the_pool_may_have_serve_everybody() {
    let database = Database::create();
    let role = Role::create(&database);
    let mut environment = environment(&database.url_as(&role.name));
    environment.insert("MIGRATE_DATABASE_URL".into(), database.url());
    assert_eq!(run(&["migrate"], &environment).code, Some(0));
    database.sql().batch_execute(&format!("alter role {} connection limit 2", role.name)).unwrap();
    environment.remove("MIGRATE_DATABASE_URL");
    let server = Server::with(&database, &["serve"], &environment);
    let users = ["ada", "bob", "eve", "joe"].map(|name| server.user(name));
    let end = Instant::now() + Duration::from_secs(7);
    at_once(12, |number| {
        let list = server.request("GET", "/api/me/tasks").bearer(&users[number % users.len()].token);
        while Instant::now() < end {
            let sent = Instant::now();
            list.send().must(200);
            assert!(sent.elapsed() < Duration::from_secs(2), "{:?}", sent.elapsed());
        }
    });
}

#[test]
fn one_user_holds_at_most_half_of_the_connections() {
    let server = Server::start_with(&[("POOL_SIZE", "5")]);
    let (greedy, other) = (server.user("greedy"), server.user("other"));
    let id = server.task(&greedy, "one")["id"].as_str().unwrap().to_owned();
    let put =
        server.request("PUT", &format!("/api/me/tasks/{id}")).bearer(&greedy.token).json(&json!({"title": "two"}));
    let mut sql = server.sql();
    let mut lock = sql.transaction().unwrap();
    lock.execute("select from tasks where id::text = $1 for update", &[&id]).unwrap();
    thread::scope(|scope| {
        let crowd: Vec<_> = (0..12).map(|_| scope.spawn(|| put.send())).collect();
        await_that("the greedy user's requests wait", || waiting(&server) == 3);
        for _ in 0..20 {
            let start = Instant::now();
            server.request("GET", "/api/me/tasks").bearer(&other.token).send().must(200);
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        }
        assert_eq!(waiting(&server), 3, "half of five, rounded up");
        lock.commit().unwrap();
        crowd.into_iter().for_each(|request| drop(request.join().unwrap().must(200)));
    });
}

#[test]
fn no_request_waits_for_a_connection_for_over_5_s() {
    let server = Server::start_with(&[("POOL_SIZE", "1")]);
    let user = server.user("ada");
    let mut sql = server.sql();
    let mut lock = sql.transaction().unwrap();
    lock.batch_execute("lock table tasks").unwrap();
    let list = server.request("GET", "/api/me/tasks").bearer(&user.token);
    let took = at_once(3, |_| {
        let start = Instant::now();
        list.send().must(503);
        start.elapsed()
    });
    // One runs into `statement_timeout`. Of those that wait for the connection one may get it in the last moment.
    let in_time = took.iter().filter(|took| (4..7).contains(&took.as_secs())).count();
    assert!(in_time >= 2 && took.iter().all(|took| took.as_secs() < 10), "{took:?}");
    lock.commit().unwrap();
    list.send().must(200);
}
