//! A database that is far away: TLS, round trips, sleep and silence.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::peers::{self, ADA_PASSWORD_ESCAPED, BlackHole, Postgres, Proxy, Target, connections_to};
use crate::support::{
    Database, Environment, Finished, PASSWORD, Server, User, at_once, await_that, environment, protected, run,
};

// --------------------------------------------------------------------------------------------------------- TLS

fn ada(server: &Postgres, host: &str, parameters: &str) -> String {
    format!("postgres://ada:{ADA_PASSWORD_ESCAPED}@{host}:{}/ada?{parameters}", server.port)
}

/// The environment of a command on this database, whatever machine it is on.
fn far(url: &str) -> Environment {
    let mut environment = environment(url);
    environment.remove("LATCHKEY_ENV");
    environment.remove("BCRYPT_COST");
    environment
}

fn check(url: &str) -> Finished {
    run(&["check"], &far(url))
}

#[test]
fn tls_with_the_right_name_and_authority_binds_the_channel_and_serves() {
    let server = Postgres::shared();
    let authority = server.authority("ca.pem");
    // `hostaddr` says where the name leads, which makes it another machine as far as the program knows.
    let url = ada(server, "db.latchkey.test", &format!("hostaddr=127.0.0.1&sslrootcert={authority}"));
    assert_eq!(run(&["migrate"], &far(&url)).code, Some(0));
    let checked = check(&url);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let line = "ok    TLS: name and certificate of the server verified, with channel binding";
    assert!(checked.stdout.contains(line), "{}", checked.stdout);
    let local =
        ada(server, "localhost", &format!("sslmode=verify-full&channel_binding=require&sslrootcert={authority}"));
    let instance = Server::on(&Database::create(), &local, &[]);
    let user = instance.user("tls");
    instance.task(&user, "one");
    let encrypted = "select bool_and(s.ssl) from pg_stat_ssl as s join pg_stat_activity as a using (pid) \
                     where a.application_name = 'latchkey' and a.datname = 'ada'";
    assert_eq!(server.sql("ada").query_one(encrypted, &[]).unwrap().get::<_, Option<bool>>(0), Some(true));
}

#[test]
fn direct_negotiation_begins_with_tls_and_names_the_protocol() {
    let (postgres, database) = (Postgres::shared(), Database::create());
    let (address, authority) = (peers::direct_tls(postgres), postgres.authority("ca.pem"));
    let url = |negotiation: &str| {
        format!(
            "postgres://postgres@localhost:{}/{}?sslmode=verify-full&sslrootcert={authority}&{negotiation}",
            address.port(),
            database.name
        )
    };
    let migrated = run(&["migrate"], &far(&url("sslnegotiation=direct")));
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let checked = check(&url("sslnegotiation=direct"));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert_eq!(check(&url("sslnegotiation=postgres")).code, Some(1));
}

#[test]
fn s37_a_wrong_name_authority_or_plain_text_is_refused() {
    let server = Postgres::shared();
    let [right, other] = ["ca.pem", "other.pem"].map(|name| format!("sslrootcert={}", server.authority(name)));
    let plain = peers::answers_with(b'N');
    for (url, reason) in [
        (ada(server, "127.0.0.1", &format!("sslmode=require&{right}")), "not valid for name"),
        (ada(server, "wrong.latchkey.test", &format!("hostaddr=127.0.0.1&{right}")), "not valid for name"),
        (ada(server, "localhost", &format!("sslmode=verify-ca&{other}")), "invalid peer certificate"),
        (
            ada(server, "localhost", "sslmode=require"),
            "UnknownIssuer: name the PEM file of its authority by sslrootcert",
        ),
        (
            ada(server, "db.latchkey.test", "hostaddr=127.0.0.1&sslrootcert=system"),
            "UnknownIssuer: name the PEM file of its authority by sslrootcert",
        ),
        (
            format!("postgres://ada:quokka@localhost:{}/ada?sslmode=require", plain.port()),
            "server does not support TLS",
        ),
    ] {
        let checked = check(&url);
        assert_eq!(checked.code, Some(1), "{url}: {checked:?}");
        let line = checked.stdout.lines().find(|line| line.starts_with("FAIL  TLS: ")).unwrap_or_default();
        assert!(line.contains(reason), "{url}: {checked:?}");
        let migrated = run(&["migrate"], &far(&url));
        assert_eq!(migrated.code, Some(1), "{url}: {migrated:?}");
        assert!(migrated.stderr.to_lowercase().contains("tls"), "{url}: {migrated:?}");
    }
}

#[test]
fn a_wrong_password_is_a_line_and_is_not_shown() {
    let server = Postgres::shared();
    let url = format!("postgres://ada:quokka@localhost:{}/ada", server.port);
    let checked = check(&url);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    assert!(checked.stdout.contains("FAIL  authentication: ") && checked.stdout.contains("password"), "{checked:?}");
    assert!(!format!("{checked:?}").contains("quokka"), "{checked:?}");
}

#[test]
fn a_statement_that_runs_into_the_limit_is_503() {
    let server = Server::start();
    let user = server.user("ada");
    let mut sql = server.sql();
    let mut lock = sql.transaction().unwrap();
    lock.batch_execute("lock table tasks").unwrap();
    let start = Instant::now();
    server.request("GET", "/api/me/tasks").bearer(&user.token).send().must(503);
    let waited = start.elapsed();
    assert!((4..8).contains(&waited.as_secs()), "{waited:?}");
    server.wait_for_log(&["event=failure", "statement timeout"]);
}

// -------------------------------------------------------------------------------------------------- round trips

/// A server whose database is reached through a proxy.
fn behind_proxy(variables: &[(&str, &str)]) -> (Server, Proxy) {
    let (database, proxy) = (Database::create(), Proxy::start());
    let server = Server::on(&database, &proxy.url(&database.name, "postgres"), variables);
    (server, proxy)
}

#[test]
fn s35_a_protected_request_takes_one_round_trip_login_two_password_and_delete_three() {
    let (server, proxy) = behind_proxy(&[("POOL_SIZE", "1")]);
    let user = server.user("ada");
    let task = server.task(&user, "one")["id"].as_str().unwrap().to_owned();
    let credentials = json!({"email": user.email, "password": PASSWORD});
    let tokens = server.request("POST", "/auth/login").json(&credentials).send().must(200).json();
    let me = |method: &str, path: &str| server.request(method, path).bearer(&user.token);
    let change = json!({"current_password": PASSWORD, "new_password": format!("{PASSWORD} and more")});
    let other = json!({"email": "eve@example.org", "password": PASSWORD});
    let refresh = json!({"refresh_token": tokens["refresh_token"]});
    let mut operations = vec![
        ("register", 2, server.request("POST", "/auth/register").json(&other)),
        ("login", 2, server.request("POST", "/auth/login").json(&credentials)),
        ("refresh", 1, server.request("POST", "/auth/refresh").json(&refresh)),
        ("healthz", 0, server.request("GET", "/healthz")),
        ("mismatch", 0, me("GET", "/api/someone-else/tasks")),
        ("password", 3, me("PUT", "/auth/password").json(&change)),
        ("logout", 1, server.request("POST", "/auth/logout").bearer(tokens["access_token"].as_str().unwrap())),
    ];
    let tail = [("logout-all", 1, me("POST", "/auth/logout-all")), ("me without a session", 1, me("GET", "/auth/me"))];
    let each = protected().into_iter().map(|e| (e.name, 1, e.request(&server, "me", &task).bearer(&user.token)));
    operations.splice(5..5, each.collect::<Vec<_>>());
    // The first use of a statement on a connection prepares it: one more.
    for endpoint in protected() {
        endpoint.request(&server, "me", &uuid::Uuid::nil().to_string()).bearer(&user.token).send();
    }
    for (name, expected, request) in operations.into_iter().chain(tail) {
        // A connection that was idle for a second costs one more: this one is warm.
        server.request("GET", "/auth/me").bearer(&user.token).send();
        let before = proxy.round_trips();
        request.send();
        assert_eq!(proxy.round_trips() - before, expected, "{name}");
    }
    let last = server.login("eve@example.org", PASSWORD);
    let before = proxy.round_trips();
    server.request("POST", "/auth/delete").bearer(&last).json(&json!({"password": PASSWORD})).send().must(204);
    assert_eq!(proxy.round_trips() - before, 3, "delete");
}

#[test]
fn without_requests_nothing_is_sent_and_healthz_opens_no_connection() {
    let (server, proxy) = behind_proxy(&[]);
    let before = proxy.round_trips();
    server.request("GET", "/healthz").send().must(200);
    assert_eq!((proxy.round_trips(), connections_to(proxy.address)), (before, 0), "the start or /healthz connected");
    let user = server.user("ada");
    server.task(&user, "one");
    let before = proxy.round_trips();
    thread::sleep(Duration::from_secs(3));
    server.request("GET", "/healthz").send().must(200);
    assert_eq!(proxy.round_trips(), before, "the database cannot sleep");
}

// ------------------------------------------------------------------------------------------- sleep, ends, silence

/// Repeatable statements and the others, each expected to succeed.
fn all_kinds(server: &Server, user: &User) {
    let me = |method: &str, path: &str| server.request(method, path).bearer(&user.token);
    let id = server.task(user, "one")["id"].as_str().unwrap().to_owned();
    me("GET", "/api/me/tasks").send().must(200);
    me("PATCH", &format!("/api/me/tasks/{id}/complete")).send().must(200);
    me("DELETE", &format!("/api/me/tasks/{id}")).send().must(204);
}

#[test]
fn the_first_request_after_a_cold_start_of_3_seconds_waits_and_succeeds() {
    let (server, proxy) = behind_proxy(&[]);
    let user = server.user("ada");
    proxy.silence();
    proxy.cut();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_secs(3));
            proxy.forward();
        });
        let start = Instant::now();
        server.request("GET", "/api/me/tasks").bearer(&user.token).send().must(200);
        assert!(start.elapsed() >= Duration::from_millis(2900), "{:?}", start.elapsed());
    });
}

#[test]
fn a_connection_that_ended_while_idle_costs_no_request_of_any_kind() {
    let server = Server::start();
    let user = server.user("ada");
    let list = server.request("GET", "/api/me/tasks").bearer(&user.token);
    for kind in 0..3 {
        at_once(8, |_| list.send().must(200));
        thread::sleep(Duration::from_millis(1100));
        let end = "select pg_terminate_backend(pid) from pg_stat_activity \
                   where datname = current_database() and pid <> pg_backend_pid()";
        server.sql().batch_execute(end).unwrap();
        let id = || server.task(&user, "one")["id"].as_str().unwrap().to_owned();
        match kind {
            0 => drop(list.send().must(200)),
            1 => drop(
                server.request("POST", "/auth/logout").bearer(&server.login(&user.email, PASSWORD)).send().must(204),
            ),
            _ => {
                let path = format!("/api/me/tasks/{}/complete", id());
                thread::sleep(Duration::from_millis(1100));
                server.sql().batch_execute(end).unwrap();
                let toggled = server.request("PATCH", &path).bearer(&user.token).send().must(200);
                assert_eq!(toggled.json()["completed"], true);
            }
        }
    }
}

/// Ends the connection on which a statement waits for a lock on tasks, then lets go of the lock.
fn status_if_the_connection_dies_in_the_middle(method: &str, path: &str, body: Option<serde_json::Value>) -> u16 {
    let server = Server::start();
    let user = server.user("ada");
    let id = server.task(&user, "one")["id"].as_str().unwrap().to_owned();
    let mut request = server.request(method, &path.replace("{id}", &id)).bearer(&user.token);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let (mut holder, mut sql) = (server.sql(), server.sql());
    let mut lock = holder.transaction().unwrap();
    lock.batch_execute("lock table tasks").unwrap();
    thread::scope(|scope| {
        let asking = scope.spawn(|| request.send().status);
        let end = "select pg_terminate_backend(pid) from pg_stat_activity \
                   where datname = current_database() and wait_event_type = 'Lock'";
        await_that("the statement waits", || sql.execute(end, &[]).unwrap() > 0);
        lock.commit().unwrap();
        asking.join().unwrap()
    })
}

#[test]
fn a_repeatable_statement_is_repeated_where_its_connection_dies_and_no_other_is() {
    let item = "/api/me/tasks/{id}";
    for (method, path, body, status) in [
        ("GET", "/api/me/tasks", None, 200),
        ("GET", item, None, 200),
        ("POST", "/api/me/tasks", Some(json!({"title": "two"})), 201),
        ("PUT", item, Some(json!({"title": "two"})), 200),
        ("PATCH", "/api/me/tasks/{id}/complete", Some(json!({"completed": true})), 200),
        ("PATCH", "/api/me/tasks/{id}/complete", None, 503),
        ("DELETE", item, None, 503),
    ] {
        let seen = status_if_the_connection_dies_in_the_middle(method, path, body.clone());
        assert_eq!(seen, status, "{method} {path} {body:?}");
    }
}

#[test]
fn a_database_that_falls_silent_is_503_in_time_and_leaves_no_thread_behind() {
    let (server, proxy) = behind_proxy(&[("POOL_SIZE", "3")]);
    let user = server.user("ada");
    let list = server.request("GET", "/api/me/tasks").bearer(&user.token);
    at_once(3, |_| list.send().must(200));
    proxy.silence();
    at_once(16, |_| {
        let start = Instant::now();
        list.send().must(503);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    });
    // As a proxy that comes back: what was silent ends, new connections work.
    proxy.cut();
    proxy.forward();
    let back = Instant::now();
    await_that("the service is back", || list.send().status == 200);
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    await_that("what was left behind is closed", || connections_to(proxy.address) <= 3);
    all_kinds(&server, &user);
}

#[test]
fn beyond_twice_the_pool_of_silent_connections_503_comes_at_once() {
    let (server, proxy) = behind_proxy(&[("POOL_SIZE", "1")]);
    let user = server.user("ada");
    let list = server.request("GET", "/api/me/tasks").bearer(&user.token);
    // A server that lets everybody in, and then says nothing.
    proxy.cut();
    proxy.silence_after(1);
    let begin = Instant::now();
    let mut took = Duration::MAX;
    while took > Duration::from_secs(1) {
        assert!(begin.elapsed() < Duration::from_secs(40), "each request still waits");
        let start = Instant::now();
        list.send().must(503);
        took = start.elapsed();
    }
    assert!(connections_to(proxy.address) <= 2, "{}", connections_to(proxy.address));
    server.request("GET", "/healthz").send().must(200);
    proxy.forward();
    await_that("the service is back", || list.send().status == 200);
    await_that("what was left behind is closed", || connections_to(proxy.address) == 1);
}

#[test]
fn a_server_silent_at_any_step_of_connecting_is_503_in_time() {
    let postgres = Postgres::shared();
    let authority = postgres.authority("ca.pem");
    assert_eq!(run(&["migrate"], &environment(&postgres.socket_url("ada", "ada"))).code, Some(0));
    // Of the client's pieces pass: none, the request for TLS, the first of TLS, the rest of it, the start-up, the password.
    at_once(6, |pieces| {
        let proxy = Proxy::to(Target::Tcp(SocketAddr::from(([127, 0, 0, 1], postgres.port))));
        let url = format!(
            "postgres://ada:{ADA_PASSWORD_ESCAPED}@localhost:{}/ada?sslmode=verify-full&sslrootcert={authority}",
            proxy.address.port()
        );
        let server = Server::with(&Database::create(), &["serve", "--no-migrate"], &environment(&url));
        proxy.silence_after(pieces);
        let start = Instant::now();
        server.request("GET", "/readyz").send().must(503);
        assert!(start.elapsed() < Duration::from_secs(4), "{pieces}: {:?}", start.elapsed());
        let start = Instant::now();
        let login = server.request("POST", "/auth/login").json(&json!({"email": "a@b.c", "password": PASSWORD}));
        login.send().must(503);
        assert!(start.elapsed() < Duration::from_secs(10), "{pieces}: {:?}", start.elapsed());
        let start = Instant::now();
        assert_eq!(run(&["migrate"], &environment(&url)).code, Some(1));
        assert!(start.elapsed() < Duration::from_secs(10), "{pieces}: {:?}", start.elapsed());
    });
}

#[test]
fn s65_a_silent_database_is_503_within_10_s_and_its_successor_is_used_at_once() {
    let (server, proxy) = behind_proxy(&[("POOL_SIZE", "2")]);
    let user = server.user("ada");
    let list = server.request("GET", "/api/me/tasks").bearer(&user.token);
    at_once(2, |_| list.send().must(200));
    proxy.silence();
    at_once(4, |number| {
        let start = Instant::now();
        match number {
            0 => server.request("GET", "/healthz").send().must(200),
            _ => list.send().must(503),
        };
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    });
    proxy.replace();
    let back = Instant::now();
    await_that("the service is back", || list.send().status == 200);
    assert!(back.elapsed() < Duration::from_secs(8), "{:?}", back.elapsed());
    at_once(2, |_| list.send().must(200));
}

#[test]
fn a_host_that_is_replaced_is_survived_with_the_old_connections_silent_for_ever() {
    let (server, proxy) = behind_proxy(&[("POOL_SIZE", "2")]);
    let user = server.user("ada");
    let list = server.request("GET", "/api/me/tasks").bearer(&user.token);
    at_once(2, |_| list.send().must(200));
    proxy.silence();
    // Longer than it takes to fill every place: also those that connect meanwhile are silent for ever.
    let begin = Instant::now();
    at_once(4, |_| {
        while begin.elapsed() < Duration::from_secs(25) {
            let start = Instant::now();
            list.send().must(503);
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        }
    });
    assert!(connections_to(proxy.address) <= 4, "{}", connections_to(proxy.address));
    proxy.replace();
    let back = Instant::now();
    await_that("the service is back", || list.send().status == 200);
    assert!(back.elapsed() < Duration::from_secs(8), "{:?}", back.elapsed());
    at_once(4, |_| list.send().must(200));
    all_kinds(&server, &user);
}

#[test]
fn a_server_that_falls_silent_while_an_idle_connection_is_validated_is_503_in_time() {
    let (mut server, proxy) = behind_proxy(&[("POOL_SIZE", "2")]);
    let user = server.user("ada");
    let list = server.request("GET", "/api/me/tasks").bearer(&user.token);
    at_once(2, |_| list.send().must(200));
    // Idle connections are validated after a second.
    thread::sleep(Duration::from_millis(1100));
    proxy.silence();
    at_once(4, |_| {
        let start = Instant::now();
        list.send().must(503);
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    });
    let start = Instant::now();
    server.request("GET", "/healthz").send().must(200);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(server.stop().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn a_stopped_database_that_acknowledges_and_never_answers_is_503_in_time() {
    let postgres = Postgres::start();
    let server = Server::on(&Database::create(), &postgres.socket_url("ada", "ada"), &[("POOL_SIZE", "2")]);
    let user = server.user("ada");
    let list = server.request("GET", "/api/me/tasks").bearer(&user.token);
    at_once(2, |_| list.send().must(200));
    postgres.freeze();
    at_once(4, |_| {
        let start = Instant::now();
        list.send().must(503);
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    });
    postgres.thaw();
    await_that("the service is back", || list.send().status == 200);
    all_kinds(&server, &user);
}

#[test]
fn a_command_on_a_database_that_falls_silent_ends_with_1() {
    let (database, proxy) = (Database::create(), Proxy::start());
    assert_eq!(run(&["migrate"], &environment(&database.url())).code, Some(0));
    // The start-up passes, the first statement does not.
    proxy.silence_after(1);
    let start = Instant::now();
    let listed = run(&["user", "list"], &environment(&proxy.url(&database.name, "postgres")));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!((listed.code, listed.stderr.contains("silent for 9 s")), (Some(1), true), "{listed:?}");
}

#[test]
fn a_login_that_was_answered_503_in_its_place_opens_no_session_later() {
    let (server, proxy) = behind_proxy(&[]);
    let user = server.user("ada");
    let sessions = || server.sql().query_one("select count(*) from sessions", &[]).unwrap().get::<_, i64>(0);
    let before = sessions();
    proxy.silence();
    let login = server.request("POST", "/auth/login").json(&json!({"email": user.email, "password": PASSWORD}));
    login.send().must(503);
    proxy.forward();
    let attempts = "select count(*) from attempts where kind = 'login'";
    await_that("the attempt is counted", || server.sql().query_one(attempts, &[]).unwrap().get::<_, i64>(0) == 1);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(sessions(), before);
}

#[test]
fn readyz_is_503_where_a_migration_is_missing_and_says_why_in_the_log() {
    let server = Server::start();
    server.request("GET", "/readyz").send().must(200);
    server.sql().batch_execute("insert into migrations (name, checksum) values ('999_newer', 'x')").unwrap();
    server.sql().batch_execute("update migrations set name = '998_gone' where name = '002_tasks'").unwrap();
    await_that("the probe is done again", || server.request("GET", "/readyz").send().status == 503);
    server.wait_for_log(&["event=readiness", "lacks a migration"]);
    server.sql().batch_execute("update migrations set name = '002_tasks' where name = '998_gone'").unwrap();
    await_that("a newer schema is no failure", || server.request("GET", "/readyz").send().status == 200);
}

#[test]
fn peers_that_never_answer_are_503_in_time() {
    let hole = BlackHole::open();
    let silent = Proxy::to(Target::Tcp(hole.address));
    let peers = [("silent", silent.address), ("black hole", hole.address), ("nonsense", peers::answers_with(b'?'))];
    at_once(peers.len(), |number| {
        let (what, address) = peers[number];
        let database = Database::create();
        let url = format!("postgres://postgres@{address}/{}", database.name);
        let server = Server::with(&database, &["serve", "--no-migrate"], &environment(&url));
        let start = Instant::now();
        let login = server.request("POST", "/auth/login").json(&json!({"email": "a@b.c", "password": PASSWORD}));
        login.send().must(503);
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: {:?}", start.elapsed());
        let start = Instant::now();
        server.request("GET", "/readyz").send().must(503);
        assert!(start.elapsed() < Duration::from_secs(4), "{what}: {:?}", start.elapsed());
        let start = Instant::now();
        assert_eq!(run(&["migrate"], &environment(&url)).code, Some(1), "{what}");
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: {:?}", start.elapsed());
    });
}

#[test]
fn a_connect_failure_is_logged_once_with_its_causes_and_without_the_password() {
    let database = Database::create();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("postgres://ada:quokka@{free}/x");
    let server = Server::with(&database, &["serve", "--no-migrate"], &environment(&url));
    let login = server.request("POST", "/auth/login").json(&json!({"email": "a@b.c", "password": PASSWORD}));
    at_once(4, |_| login.send().must(503));
    server.wait_for_log(&["event=database outcome=failed", "error connecting to server", "refused"]);
    let log = server.log();
    assert_eq!(log.matches("event=database").count(), 1, "{log}");
    assert!(!log.contains("quokka"), "{log}");
}

#[test]
fn a_database_that_is_away_is_left_alone_while_no_request_waits() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://ada@{}/x", listener.local_addr().unwrap());
    let attempts = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    thread::spawn(move || {
        for _ in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let server = Server::with(&Database::create(), &["serve", "--no-migrate"], &environment(&url));
    let login = server.request("POST", "/auth/login").json(&json!({"email": "a@b.c", "password": PASSWORD}));
    login.send().must(503);
    let tried = attempts.load(Ordering::SeqCst);
    thread::sleep(Duration::from_secs(4));
    assert!(tried > 1, "{tried}");
    assert_eq!(attempts.load(Ordering::SeqCst), tried);
}
