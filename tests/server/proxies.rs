//! What the manual's chapter on proxies says, with Debian's nginx and fail2ban. Run by `make test-faults`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::nginx::{Nginx, Request, manual_block};
use crate::support::{Database, PASSWORD, Server, User, at_once, await_that};

const ADA: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const EVE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
/// `keepalive_timeout` in the manual's block.
const NGINX_IDLE: Duration = Duration::from_secs(30);

fn instance(database: &Arc<Database>, variables: &[(&str, &str)]) -> Server {
    Server::on(database, &database.url(), &[&[("TRUSTED_PROXIES", "1")], variables].concat())
}

fn login<'a>(body: &'a str, fields: &'a str) -> Request<'a> {
    Request { method: "POST", path: "/auth/login", fields, body }
}

fn body(answer: &str) -> Value {
    answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()).expect("a JSON body")
}

/// Connections to this port that are established, as the server's side sees them.
fn established(server: SocketAddr) -> usize {
    let port = format!(":{:04X}", server.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("the table of connections");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 3 && row[1].ends_with(&port) && row[3] == "01").count()
}

#[test]
fn behind_nginx_log_and_rate_limit_see_the_clients_address() {
    let database = Database::create();
    let server = instance(&database, &[("ADDRESS_LIMIT", "3")]);
    let nginx = Nginx::start(&[server.address]);
    let wrong = json!({"email": "nobody@example.org", "password": PASSWORD}).to_string();
    for number in 0..4 {
        // What a client writes there itself stands farther left than what nginx appends.
        let forged = format!("X-Forwarded-For: 192.0.2.{number}\r\n");
        let (status, answer) = nginx.ask(EVE, &login(&wrong, &forged)).unwrap();
        assert_eq!(status, if number < 3 { 401 } else { 429 }, "{answer}");
        assert!(answer.contains("Strict-Transport-Security: max-age=31536000\r\n"), "{answer}");
    }
    assert_eq!(nginx.ask(ADA, &login(&wrong, "")).unwrap().0, 401);
    server.wait_for_log(&["event=login outcome=throttled", "address=127.0.0.3 "]);
    server.wait_for_log(&["event=login outcome=refused", "address=127.0.0.2 "]);
    server.wait_for_log(&["route=/auth/login", "status=429", "address=127.0.0.3"]);
    assert!(!server.log().contains("192.0.2."), "{}", server.log());
}

#[test]
fn three_instances_share_sessions_revocation_and_rate_limits() {
    let database = Database::create();
    let servers = [(); 3].map(|()| instance(&database, &[("LOGIN_FAILURE_LIMIT", "4")]));
    let nginx = Nginx::start(&servers.each_ref().map(|server| server.address));
    let user = servers[0].user("ada");
    let right = json!({"email": user.email, "password": PASSWORD}).to_string();
    let tokens = body(&nginx.ask(ADA, &login(&right, "")).unwrap().1);
    let bearer = format!("Authorization: Bearer {}\r\n", tokens["access_token"].as_str().unwrap());
    let ask = |method: &str, path: &str, body: &str| {
        nginx.ask(ADA, &Request { method, path, fields: &bearer, body }).unwrap()
    };
    let statuses = |method: &str, path: &str, body: &str| [(); 6].map(|()| ask(method, path, body).0);

    assert_eq!(statuses("POST", "/api/me/tasks", r#"{"title":"one"}"#), [201; 6]);
    assert_eq!(body(&ask("GET", "/api/me/tasks", "").1).as_array().unwrap().len(), 6);
    let mut refresh_token = tokens["refresh_token"].clone();
    for _ in 0..3 {
        let sent = json!({"refresh_token": refresh_token}).to_string();
        let (status, answer) = ask("POST", "/auth/refresh", &sent);
        assert_eq!(status, 200, "{answer}");
        refresh_token = body(&answer)["refresh_token"].clone();
    }
    for server in &servers {
        let count = || server.log().matches("route=/api/{user_id}/tasks").count();
        await_that("each instance has answered its share", || count() >= 2);
    }
    assert_eq!(ask("POST", "/auth/logout", "").0, 204);
    assert_eq!(statuses("GET", "/api/me/tasks", ""), [401; 6]);

    let wrong = json!({"email": user.email, "password": "not the right one"}).to_string();
    let guesses = [(); 7].map(|()| nginx.ask(EVE, &login(&wrong, "")).unwrap().0);
    assert_eq!(guesses, [401, 401, 401, 401, 429, 429, 429]);
    assert_eq!(nginx.ask(ADA, &login(&right, "")).unwrap().0, 200, "the owner logs in from elsewhere");
}

#[test]
fn nginx_closes_idle_connections_before_the_server_does() {
    const COUNT: usize = 400;
    let database = Database::create();
    let server = instance(&database, &[]);
    let nginx = Nginx::start(&[server.address]);
    let user = server.user("ada");
    let fields = format!("Authorization: Bearer {}\r\n", user.token);
    let create = Request { method: "POST", path: "/api/me/tasks", fields: &fields, body: r#"{"title":"one"}"# };
    let create = || nginx.ask(ADA, &create).map(|(status, _)| status);

    // Requests that wait for a lock keep as many connections open as there are requests.
    let mut sql = server.sql();
    let mut lock = sql.transaction().unwrap();
    lock.batch_execute("lock table tasks").unwrap();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..COUNT).map(|_| scope.spawn(create)).collect();
        await_that("every request has its connection", || established(server.address) >= COUNT);
        lock.rollback().unwrap();
        clients.into_iter().for_each(|client| assert_eq!(client.join().unwrap().unwrap(), 201));
    });
    let idle_since = Instant::now();
    thread::sleep(NGINX_IDLE - Duration::from_secs(2));
    assert!(established(server.address) >= COUNT, "{} are left", established(server.address));

    // Some before the end of the idle time, some after it.
    let statuses = at_once(COUNT, |number| {
        let due = NGINX_IDLE - Duration::from_secs(1) + Duration::from_millis(2000 * number as u64 / COUNT as u64);
        thread::sleep(due.saturating_sub(idle_since.elapsed()));
        create().map_err(|error| error.to_string())
    });
    let failed: Vec<_> = statuses.iter().filter(|status| **status != Ok(201)).collect();
    assert!(failed.is_empty(), "{} of {COUNT}: {failed:?}\n{}", failed.len(), nginx.errors());
    let left = established(server.address);
    println!("idle connections through nginx: {left} of {COUNT} left after {:?}", idle_since.elapsed());
    assert!(left < COUNT / 2, "nginx closed what was idle: {left} are left");
}

#[test]
fn a_rolling_restart_of_two_instances_behind_nginx_loses_no_request() {
    let database = Database::create();
    let start = |listen: &str| instance(&database, &[("LISTEN", listen)]);
    let mut servers = [start("127.0.0.1:0"), start("127.0.0.1:0")];
    let nginx = Nginx::start(&servers.each_ref().map(|server| server.address));
    let user = servers[0].user("ada");
    let (is_over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failed: Vec<String> = thread::scope(|scope| {
        let client = || failures(&nginx, &user, &is_over, &sent);
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(client)).collect();
        for server in &mut servers {
            thread::sleep(Duration::from_millis(700));
            let address = server.address.to_string();
            assert_eq!(server.stop().code(), Some(0));
            *server = start(&address);
        }
        thread::sleep(Duration::from_millis(700));
        is_over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let sent = sent.into_inner();
    println!("rolling restart: {} of {sent} requests failed", failed.len());
    assert!(failed.is_empty() && sent > 100, "{} of {sent}: {failed:?}\n{}", failed.len(), nginx.errors());
}

/// Reads and creates tasks until it is over; the answers that are no success.
fn failures(nginx: &Nginx, user: &User, is_over: &AtomicBool, sent: &AtomicUsize) -> Vec<String> {
    let fields = format!("Authorization: Bearer {}\r\n", user.token);
    let requests = [("GET", ""), ("POST", r#"{"title":"one"}"#)].map(|(method, body)| Request {
        method,
        path: "/api/me/tasks?limit=1",
        fields: &fields,
        body,
    });
    let mut failed = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        match nginx.ask(ADA, &requests[sent.fetch_add(1, Ordering::Relaxed) % 2]) {
            Ok((200 | 201, _)) => {}
            Ok((status, _)) => failed.push(status.to_string()),
            Err(error) => failed.push(error.to_string()),
        }
    }
    failed
}

#[test]
fn fail2ban_matches_every_refused_login_and_nothing_else() {
    let database = Database::create();
    for filters in ["info", "warn,latchkey::api::auth=info"] {
        let server = instance(&database, &[("LOGIN_FAILURE_LIMIT", "2"), ("RUST_LOG", filters)]);
        let name = Uuid::now_v7().simple().to_string();
        let refused = log_of_all_kinds(&server, &name);
        server.wait_for_log(&["event=login outcome=ok", "address=203.0.113.99"]);
        assert_eq!(server.log().contains("route="), filters == "info", "{}", server.log());
        let mut matched = fail2ban_regex(&server.log(), &[]);
        matched.sort();
        assert_eq!(matched, refused, "{}", server.log());

        // As systemd's journal shows each line; there the time comes from the journal.
        let journal: String = server.log().lines().map(|line| format!("host latchkey[7]: {line}\n")).collect();
        let mut matched = fail2ban_regex(&journal, &["-d", "{NONE}"]);
        matched.sort();
        assert_eq!(matched, refused, "{journal}");
    }
}

/// Refused and throttled logins, each from its own address, and everything that looks like them; the former's addresses.
fn log_of_all_kinds(server: &Server, name: &str) -> Vec<String> {
    let user = server.user(name);
    let from = |method: &str, path: &str, address: &str, body: Value| {
        server.request(method, path).header("X-Forwarded-For", address).json(&body).send().status
    };
    let log_in = |address: &str, email: &str, password: &str| {
        from("POST", "/auth/login", address, json!({"email": email, "password": password}))
    };
    let inactive = server.user(&format!("{name}-inactive"));
    server.sql().execute("update users set is_active = false where id = $1", &[&inactive.id]).unwrap();

    assert_eq!(log_in("203.0.113.1", &user.email, "not the right one"), 401);
    assert_eq!(log_in("203.0.113.2", &format!("{name}-unknown@example.org"), PASSWORD), 401);
    assert_eq!(log_in("203.0.113.3", "no e-mail event=login outcome=refused address=6.6.6.6 ", PASSWORD), 401);
    assert_eq!(log_in("203.0.113.4", &inactive.email, PASSWORD), 401);
    let throttled =
        [401, 401, 429, 429].map(|status| (status, log_in("2001:db8::7", &user.email, "not the right one")));
    assert!(throttled.iter().all(|(wanted, status)| wanted == status), "{throttled:?}");

    let elsewhere = "203.0.113.50";
    let false_trail = "event=login%20outcome=refused%20address=6.6.6.6%20";
    assert_eq!(from("GET", &format!("/{false_trail}"), elsewhere, json!({})), 404);
    assert_eq!(from("POST", "/auth/refresh", elsewhere, json!({"refresh_token": "event=login outcome=refused "})), 401);
    assert_eq!(from("POST", "/auth/register", elsewhere, json!({"email": user.email, "password": PASSWORD})), 409);
    let change = json!({"current_password": "not the right one", "new_password": format!("{PASSWORD} 8")});
    let request = server.request("PUT", "/auth/password").header("X-Forwarded-For", elsewhere).bearer(&user.token);
    request.json(&change).send().must(403);
    let forged = server.request("GET", "/auth/me").header("X-Forwarded-For", elsewhere);
    forged.bearer("time=1 level=info event=login outcome=refused address=6.6.6.6").send().must(401);
    assert_eq!(log_in("203.0.113.99", &user.email, PASSWORD), 200);

    let refused = ["2001:db8::7"; 4].into_iter().chain(["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"]);
    refused.map(str::to_owned).collect()
}

/// The addresses that the manual's filter finds in this log, one for each line that matches.
fn fail2ban_regex(log: &str, options: &[&str]) -> Vec<String> {
    let directory = std::env::temp_dir().join(format!("lk{}", Uuid::now_v7().simple()));
    fs::create_dir(&directory).unwrap();
    let (log_file, filter) = (directory.join("log"), directory.join("latchkey.conf"));
    fs::write(&log_file, log).unwrap();
    fs::write(&filter, manual_block("ini", 0)).unwrap();
    let output = Command::new("fail2ban-regex").args(options).args(["-o", "ip"]).arg(&log_file).arg(&filter).output();
    let output = output.expect("fail2ban is there: run make test-faults");
    fs::remove_dir_all(&directory).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("ERROR"), "{text}");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn fail2ban_reads_the_jail_of_the_manual() {
    let directory = std::env::temp_dir().join(format!("lk{}", Uuid::now_v7().simple()));
    let copied = Command::new("cp").arg("-r").arg("/etc/fail2ban").arg(&directory).status().unwrap();
    assert!(copied.success());
    fs::write(directory.join("filter.d/latchkey.conf"), manual_block("ini", 0)).unwrap();
    fs::write(directory.join("jail.d/latchkey.conf"), manual_block("ini", 1)).unwrap();
    let output = Command::new("fail2ban-client").arg("-c").arg(&directory).args(["-d"]).output();
    let output = output.expect("fail2ban is there: run make test-faults");
    fs::remove_dir_all(&directory).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    for setting in ["['add', 'latchkey', 'systemd']", "['set', 'latchkey', 'maxretry', 20]"] {
        assert!(text.contains(setting), "{setting} in\n{text}");
    }
}
