//! What an operator relies on: probes, migrations, the log, and that neither a database that is away nor a killed server
//! costs more than it must.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    Database, Finished, PASSWORD, Role, Server, User, at_once, await_that, environment, protected, run,
};

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

// -------------------------------------------------------------------------------------------------- migrations

fn migrate(database: &Database) -> Finished {
    run(&["migrate"], &environment(&database.url()))
}

/// The table that records migrations: its name and its column of checksums.
fn ledger(database: &Database) -> (String, String) {
    let statement = "select table_name::text, column_name::text from information_schema.columns \
                     where column_name like '%checksum%' and table_schema = 'public'";
    let row = database.sql().query_one(statement, &[]).expect("one table with checksums");
    (row.get(0), row.get(1))
}

/// Tables with their columns, and the record of migrations with its rows' versions.
fn schema(database: &Database) -> Vec<String> {
    let columns = "select table_name || '.' || column_name || ' ' || data_type \
                   from information_schema.columns where table_schema = 'public' order by 1";
    let ledger = format!("select xmin || ' ' || l::text from {} l order by 1", ledger(database).0);
    let mut sql = database.sql();
    let rows = [columns, &ledger].map(|statement| sql.query(statement, &[]).unwrap());
    rows.iter().flatten().map(|row| row.get(0)).collect()
}

#[test]
fn migrate_a_second_time_changes_nothing() {
    let database = Database::create();
    let first = migrate(&database);
    assert_eq!(first.code, Some(0), "{first:?}");
    let before = schema(&database);
    let second = migrate(&database);
    assert_eq!(second.code, Some(0), "{second:?}");
    assert_eq!(schema(&database), before);
    let server = Server::on(&database, &database.url(), &[]);
    server.user("ada");
    assert_eq!(schema(&database), before, "serve changed what was migrated");
}

#[test]
fn migrate_eight_times_at_once_works_each_time() {
    let database = Database::create();
    for finished in at_once(8, |_| migrate(&database)) {
        assert_eq!(finished.code, Some(0), "{finished:?}");
    }
    let (table, _) = ledger(&database);
    let statement = format!("select count(*) from {table}");
    let recorded: i64 = database.sql().query_one(&statement, &[]).unwrap().get(0);
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql")).unwrap().count();
    assert_eq!(usize::try_from(recorded), Ok(files));
}

#[test]
fn servers_that_start_at_once_on_an_empty_database_all_serve() {
    let database = Database::create();
    for server in at_once(4, |_| Server::on(&database, &database.url(), &[])) {
        server.request("GET", "/readyz").send().must(200);
    }
}

#[test]
fn an_edited_migration_stops_migrate_and_serve() {
    let database = Database::create();
    assert_eq!(migrate(&database).code, Some(0));
    let (table, column) = ledger(&database);
    let edit = format!("update {table} set {column} = substr({column}, 2) || substr({column}, 1, 1)");
    database.sql().batch_execute(&edit).unwrap();
    for command in ["migrate", "serve"] {
        let finished = run(&[command], &environment(&database.url()));
        assert_eq!(finished.code, Some(1), "{command}: {finished:?}");
        assert!(finished.stdout.is_empty() && finished.stderr.contains("001_"), "{command}: {finished:?}");
    }
}

#[test]
fn serve_says_run_migrate_where_its_role_may_not() {
    let database = Database::create();
    let role = Role::create(&database);
    let finished = run(&["serve"], &environment(&database.url_as(&role.name)));
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("run latchkey migrate"), "{finished:?}");
}

#[test]
fn serve_needs_no_right_to_create_where_nothing_is_pending() {
    let database = Database::create();
    let role = Role::create(&database);
    assert_eq!(migrate(&database).code, Some(0));
    let grant = "grant select, insert, update, delete on all tables in schema public to";
    database.sql().batch_execute(&format!("{grant} {}", role.name)).unwrap();
    let server = Server::on(&database, &database.url_as(&role.name), &[]);
    let user = server.user("ada");
    server.task(&user, "one");
}

#[test]
fn serve_migrates_an_empty_database_unless_it_is_told_not_to() {
    for (arguments, expected) in
        [(&["serve"][..], true), (&["serve", "--no-migrate"], false), (&["--no-migrate"], false)]
    {
        let database = Database::create();
        let server = Server::with(&database, arguments, &environment(&database.url()));
        server.request("GET", "/healthz").send().must(200);
        assert_eq!(database.sql().query("select from users", &[]).is_ok(), expected, "{arguments:?}");
    }
}

// --------------------------------------------------------------------------------------------------------- log

/// A log line's time, level and `key=value` pairs; values hold no space unless they are quoted.
fn parse(line: &str) -> (String, String, Vec<(String, String)>) {
    let mut words = line.splitn(3, ' ').map(str::to_owned);
    let (time, level) = (words.next().unwrap(), words.next().unwrap());
    let (mut pairs, mut quoted) = (vec![String::new()], false);
    for c in words.next().unwrap_or_default().chars() {
        quoted ^= c == '"';
        match (c, pairs.last_mut()) {
            (' ', _) if !quoted => pairs.push(String::new()),
            (_, Some(pair)) => pair.push(c),
            (_, None) => {}
        }
    }
    let split = |pair: &String| {
        let (key, value) = pair.split_once('=').unwrap_or_else(|| panic!("{pair:?} in {line:?}"));
        (key.to_owned(), value.to_owned())
    };
    (time, level, pairs.iter().map(split).collect())
}

fn fields(line: &str) -> BTreeMap<String, String> {
    parse(line).2.into_iter().collect()
}

#[test]
fn each_request_is_one_line_with_its_template_and_never_its_path_or_query() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one");
    let id = task["id"].as_str().unwrap();
    let item = "/api/{user_id}/tasks/{id}";
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
        ("GET", "/quokka%0d%0aINFO%20method=GET".to_owned(), "-"),
        ("GET", "/auth/quokka?x=\"%22".to_owned(), "-"),
    ] {
        let answer = server.request(method, &path).bearer(&user.token).send();
        let line = server.wait_for_log(&["method=", answer.request_id()]);
        let (time, level, pairs) = parse(&line);
        let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!((shape.as_str(), level.as_str()), ("0000-00-00T00:00:00.000Z", "INFO"), "{line}");
        let keys: Vec<_> = pairs.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["method", "route", "status", "ms", "db_ms", "request_id", "address"], "{line}");
        let fields = fields(&line);
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
fn what_the_listener_refuses_has_its_line_too() {
    let server = Server::start();
    for bytes in [&b"nonsense\r\n\r\n"[..], b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n"] {
        let answer = &server.raw(bytes)[0];
        let line = server.wait_for_log(&["method=", answer.request_id()]);
        assert_eq!(fields(&line)["status"], answer.status.to_string(), "{line}");
        assert_eq!(fields(&line)["address"], "127.0.0.1", "{line}");
    }
}

#[test]
fn the_address_is_what_the_trusted_proxies_say_and_nobody_else() {
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
    let warnings = log.lines().filter(|line| line.contains(" WARN ") && line.contains("TRUSTED_PROXIES"));
    assert_eq!(warnings.count(), 1, "{log}");
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
fn no_level_of_the_log_holds_a_secret_or_a_typed_email() {
    let server = Server::start_with(&[("RUST_LOG", "trace")]);
    let user = server.user("quorvex.blintz");
    let post =
        |path: &str, body: serde_json::Value| server.request("POST", path).bearer(&user.token).json(&body).send();
    let tokens = post("/auth/login", json!({"email": user.email, "password": user.password})).must(200).json();
    let wrong = "plinth-gargle-9";
    post("/auth/login", json!({"email": user.email, "password": wrong})).must(401);
    post("/auth/login", json!({"email": "zanzibar@example.org", "password": wrong})).must(401);
    post("/auth/login", json!({"email": "zanzibar\n INFO x", "password": wrong})).must(401);
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
}
