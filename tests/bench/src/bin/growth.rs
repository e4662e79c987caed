//! `make bench-growth`: what each statement costs on a large database beside a small one, and what everything takes:
//! disk, memory, logins. PostgreSQL explains the very statements that the server sends, as it runs them (`auto_explain`).
//!
//! Settings as for `make bench`.

use std::net::TcpStream;
use std::time::Duration;

use bench::client::{connect, exchange, request};
use bench::plan::{Explained, explained};
use bench::process::{Server, at_rest, private_memory};
use bench::proxy::Proxy;
use bench::setup::{PASSWORD, Setup, credentials, login};
use bench::table::median;
use bench::{fill, flood};
use serde_json::{Value, json};

/// How often each request is repeated; the median counts.
const TIMES: usize = 15;
/// Where a password is hashed.
const SLOW_TIMES: usize = 5;

fn main() {
    let (small, large) = (Setup::prepare(), Setup::prepare());
    fill::fill(&mut large.admin());
    let heavy = fill::HEAVY;
    let columns = [costs(&small, "reader0"), costs(&large, "reader0"), costs(&large, heavy)];
    println!(
        "| statement | small: ms | buffers | large: ms | buffers | large, user with 100,000 tasks: ms | buffers |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for (number, (name, _)) in columns[0].iter().enumerate() {
        let cells = columns.iter().map(|column| column[number].1.to_string());
        println!("| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    println!("\n| what | it takes |\n|---|--:|");
    for (name, bytes) in fill::sizes(&mut large.admin()) {
        println!("| one row of {name} on disk, indexes included | {bytes:.0} bytes |");
    }
    println!("| deleting the user with 100,000 tasks, in one statement | {:.0} ms |", deletion(&large, heavy));
    explain_no_more(&large);
    processes(&large);
}

/// The cost of every statement of every request of this user, by name.
fn costs(setup: &Setup, user: &str) -> Vec<(String, Explained)> {
    let proxy = Proxy::open(setup, &format!("growth-{user}"));
    explain(setup);
    let server = Server::start(setup, &setup.programs[0], &proxy.url(setup));
    let mut caller = Caller::new(setup, &server, user, &proxy);
    let mut costs = caller.tasks();
    costs.extend(caller.accounts(user));
    costs
}

/// Every statement of the server's role is explained to the one who sent it.
const EXPLAIN: [(&str, &str); 6] = [
    ("session_preload_libraries", "auto_explain"),
    ("auto_explain.log_min_duration", "0"),
    ("auto_explain.log_analyze", "on"),
    ("auto_explain.log_buffers", "on"),
    ("auto_explain.log_format", "json"),
    ("auto_explain.log_level", "notice"),
];

fn explain(setup: &Setup) {
    set(setup, |setting, value| format!("set {setting} = '{value}'"));
}

fn explain_no_more(setup: &Setup) {
    set(setup, |setting, _| format!("reset {setting}"));
}

fn set(setup: &Setup, action: impl Fn(&str, &str) -> String) {
    let (mut admin, name) = (setup.admin(), setup.name());
    for (setting, value) in EXPLAIN {
        let alter = format!("alter role {name} in database {name} {}", action(setting, value));
        admin.batch_execute(&alter).expect("a setting");
    }
}

struct Caller<'a> {
    stream: TcpStream,
    token: String,
    proxy: &'a Proxy,
    /// The id of a task with ten behind it.
    near_the_end: String,
}

impl<'a> Caller<'a> {
    fn new(setup: &Setup, server: &Server, user: &str, proxy: &'a Proxy) -> Caller<'a> {
        let token = login(server.address, user);
        let find = "select tasks.id::text from tasks join users on users.id = tasks.user_id
                    where users.email = $1 || '@example.com' order by tasks.id desc offset 10 limit 1";
        let row = setup.admin().query_one(find, &[&user]).expect("a task");
        Caller { stream: connect(server.address), token, proxy, near_the_end: row.get(0) }
    }

    fn send(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = exchange(&mut self.stream, &request(method, path, &self.token, &body));
        assert!(status < 300, "{method} {path}: {status} {answer}");
        if answer.is_empty() { Value::Null } else { serde_json::from_str(&answer).expect("JSON") }
    }

    /// The statements of a request that is repeated; `prepare` gives method, path and body, and may send requests itself.
    fn measure(
        &mut self,
        name: &str,
        times: usize,
        mut prepare: impl FnMut(&mut Self) -> (&'static str, String, Value),
    ) -> Vec<(String, Explained)> {
        let mut runs: Vec<Vec<Explained>> = Vec::new();
        for _ in 0..times {
            let (method, path, body) = prepare(self);
            self.proxy.take_notices();
            self.send(method, &path, &body);
            runs.push(self.proxy.take_notices().iter().filter_map(|notice| explained(notice)).collect());
        }
        let count = runs[0].len();
        assert!(count > 0 && runs.iter().all(|run| run.len() == count), "{name}: statements differ from run to run");
        let middle = |index: usize| Explained {
            ms: median(runs.iter().map(|run| run[index].ms).collect()),
            buffers: runs[runs.len() - 1][index].buffers,
        };
        let title =
            |index| if count == 1 { name.to_owned() } else { format!("{name}, statement {} of {count}", index + 1) };
        (0..count).map(|index| (title(index), middle(index))).collect()
    }

    fn tasks(&mut self) -> Vec<(String, Explained)> {
        let tasks = "/api/me/tasks";
        let first = self.send("GET", "/api/me/tasks?limit=100", &Value::Null);
        let first = first.as_array().expect("tasks");
        let one = format!("{tasks}/{}", text(&first[first.len() / 2], "id"));
        let deep = format!("{tasks}?limit=20&after={}", self.near_the_end);
        let create = |caller: &mut Self| text(&caller.send("POST", tasks, &json!({"title": "Buy milk"})), "id");
        let title = json!({"title": "Buy tea"});
        let get = |path: &str| {
            let path = path.to_owned();
            move |_: &mut Self| ("GET", path.clone(), Value::Null)
        };
        [
            self.measure("get", TIMES, get(&one)),
            self.measure("list, first page of 20", TIMES, get("/api/me/tasks?limit=20")),
            self.measure("list, page near the end", TIMES, get(&deep)),
            self.measure("list, `completed=true` without a match", TIMES, get("/api/me/tasks?limit=20&completed=true")),
            self.measure("create", TIMES, |_| ("POST", tasks.to_owned(), json!({"title": "Buy milk"}))),
            self.measure("update", TIMES, |_| ("PUT", one.clone(), title.clone())),
            // Twice, so that the task stays open.
            self.measure("toggle", 2 * TIMES, |_| ("PATCH", format!("{one}/complete"), Value::Null)),
            self.measure("delete", TIMES, |caller| ("DELETE", format!("{tasks}/{}", create(caller)), Value::Null)),
        ]
        .concat()
    }

    fn accounts(&mut self, user: &str) -> Vec<(String, Explained)> {
        let mut number = 0;
        let mut register = |_: &mut Self| {
            number += 1;
            let account = json!({"email": format!("{user}-new{number}@example.com"), "password": PASSWORD});
            ("POST", "/auth/register".to_owned(), account)
        };
        let account: Value = serde_json::from_str(&credentials(user)).expect("JSON");
        let tokens = |caller: &mut Self| caller.send("POST", "/auth/login", &account);
        let log_in = |_: &mut Self| ("POST", "/auth/login".to_owned(), account.clone());
        [
            self.measure("register", SLOW_TIMES, &mut register),
            self.measure("login", SLOW_TIMES, log_in),
            self.measure("refresh", SLOW_TIMES, |caller| {
                let sent = json!({"refresh_token": text(&tokens(caller), "refresh_token")});
                ("POST", "/auth/refresh".to_owned(), sent)
            }),
            self.measure("password change", SLOW_TIMES, |_| {
                let passwords = json!({"current_password": PASSWORD, "new_password": PASSWORD});
                ("PUT", "/auth/password".to_owned(), passwords)
            }),
            self.measure("me", TIMES, |_| ("GET", "/auth/me".to_owned(), Value::Null)),
            self.measure("logout", SLOW_TIMES, |caller| {
                caller.token = text(&tokens(caller), "access_token");
                ("POST", "/auth/logout".to_owned(), Value::Null)
            }),
            self.measure("logout everywhere", SLOW_TIMES, |caller| {
                caller.token = text(&tokens(caller), "access_token");
                ("POST", "/auth/logout-all".to_owned(), Value::Null)
            }),
        ]
        .concat()
    }
}

/// Logins, and what connections take.
fn processes(setup: &Setup) {
    let server = Server::start(setup, &setup.programs[0], &setup.database_url);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let logins = flood::logins(&server, 2 * cores, Duration::from_secs(5)).per_second / cores as f64;
    println!("| logins per second and core | {logins:.1} |");
    println!("| memory of PostgreSQL for one pooled connection | {:.1} MiB |", private_memory(setup) / 1024.0);
    drop(server);
    let rest = at_rest(setup, &setup.programs[0]);
    let each = (rest.connected_mib - rest.idle_mib) * 1024.0 / 512.0;
    println!("| memory of latchkey at rest | {:.1} MiB |", rest.idle_mib);
    println!("| memory of latchkey for one client connection | {each:.0} KiB |");
}

/// Milliseconds of the statement that deletes this user, with all tasks and sessions.
fn deletion(setup: &Setup, user: &str) -> f64 {
    let proxy = Proxy::open(setup, "growth-deletion");
    let server = Server::start(setup, &setup.programs[0], &proxy.url(setup));
    let mut caller = Caller::new(setup, &server, user, &proxy);
    let statements =
        caller.measure("delete", 1, |_| ("POST", "/auth/delete".to_owned(), json!({"password": PASSWORD})));
    statements[statements.len() - 1].1.ms
}

fn text(value: &Value, member: &str) -> String {
    value[member].as_str().unwrap_or_else(|| panic!("{member} in {value}")).to_owned()
}
