//! A database, a role and accounts of the bench's own, the programs, and what is asked of them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use postgres::{Client, NoTls};
use serde_json::json;
use uuid::Uuid;

use crate::client::{self, request};
use crate::fill::HEAVY;
use crate::process::Server;

/// Passes latchkey's password rule.
pub const PASSWORD: &str = "correct horse battery staple 7";
/// One for each client of the flood: the limit of failures per account counts those in flight.
pub const FLOODERS: usize = 16;
/// The users on whose behalf wrk sends, in turn: one user alone would meet latchkey's limit of half the pool for each.
pub const READERS: usize = 8;
const TASKS: usize = 20;

/// One request that is repeated.
pub struct Workload {
    pub name: &'static str,
    pub method: &'static str,
    /// For each reader.
    pub paths: Vec<String>,
    pub body: String,
    /// Keep-alive connections.
    pub connections: usize,
    pub seconds: u64,
    pub is_login: bool,
    /// Whether it asks the database.
    pub is_stored: bool,
}

/// A server to be measured.
pub struct Program {
    pub name: &'static str,
    pub path: PathBuf,
    pub variables: Vec<(&'static str, String)>,
    /// Serves accounts and tasks, not only `/healthz`.
    pub has_accounts: bool,
    pub logs_requests: bool,
}

pub struct Setup {
    pub workloads: Vec<Workload>,
    /// As the server's own role.
    pub database_url: String,
    pub socket: PathBuf,
    pub postmaster: u32,
    pub work: PathBuf,
    pub programs: Vec<Program>,
    admin_url: String,
    name: String,
}

impl Setup {
    /// Makes database, role, schema and accounts; `latchkey migrate` and `latchkey serve` do what they do anywhere.
    pub fn prepare() -> Setup {
        let admin_url = std::env::var("LATCHKEY_TEST_DATABASE_URL").expect("call `make bench`");
        let config: postgres::Config = admin_url.parse().expect("LATCHKEY_TEST_DATABASE_URL");
        let [postgres::config::Host::Unix(directory)] = config.get_hosts() else { panic!("one socket directory") };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let name = format!("bench_{}", Uuid::now_v7().simple());
        let url = |role: &str| format!("postgres:///{name}?host={}&port={port}&user={role}", directory.display());

        let mut admin = Client::connect(&admin_url, NoTls).expect("the cluster");
        admin.batch_execute(&format!("create database {name}")).expect("a database");
        admin.batch_execute(&format!("create role {name} login")).expect("a role");
        let line =
            admin.query_one("select split_part(pg_read_file('postmaster.pid'), e'\\n', 1)", &[]).expect("its pid");
        let postmaster = line.get::<_, String>(0).trim().parse().expect("a pid");
        let database_url = url(&name);
        let work = std::env::temp_dir().join(&name);
        std::fs::create_dir(&work).expect("a directory");
        let mut setup = Setup {
            workloads: Vec::new(),
            programs: programs(&database_url),
            socket: directory.join(format!(".s.PGSQL.{port}")),
            database_url,
            postmaster,
            work,
            admin_url: url(config.get_user().unwrap_or("postgres")),
            name,
        };
        setup.migrate();
        let server = Server::start(&setup, &setup.programs[0], &setup.database_url);
        let tasks = accounts(server.address);
        setup.workloads = workloads(tasks);
        setup
    }

    fn migrate(&self) {
        let mut command = Command::new(&self.programs[0].path);
        command.arg("migrate").env_clear().env("DATABASE_URL", &self.database_url);
        let output = command.env("MIGRATE_DATABASE_URL", &self.admin_url).output().expect("latchkey starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A client of the bench's database, as superuser.
    pub fn admin(&self) -> Client {
        Client::connect(&self.admin_url, NoTls).expect("the database")
    }

    /// Of the database and of the servers' role.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.programs.iter().filter(|program| !program.logs_requests)
    }

    /// Has PostgreSQL do now what the last measurement has left to do: statistics, and pages to be written.
    pub fn settle(&self) {
        let mut admin = self.admin();
        for work in ["vacuum analyze", "checkpoint"] {
            admin.batch_execute(work).expect("the work");
        }
        // For the processes that do it.
        std::thread::sleep(Duration::from_millis(500));
    }

    /// All at once, so that they can be measured in turn.
    pub fn start_servers(&self) -> Vec<Server> {
        // PostgreSQL looks after a table that grows whenever it sees fit, and whoever is measured then would pay for it.
        self.admin().batch_execute("alter table tasks set (autovacuum_enabled = off)").expect("the table");
        self.settle();
        self.programs.iter().map(|program| Server::start(self, program, &self.database_url)).collect()
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.work);
        let name = &self.name;
        let admin_url = std::env::var("LATCHKEY_TEST_DATABASE_URL").unwrap_or_default();
        if let Ok(mut admin) = Client::connect(&admin_url, NoTls) {
            let _ = admin.batch_execute(&format!("drop database {name} with (force)"));
            let _ = admin.batch_execute(&format!("drop role {name}"));
        }
    }
}

fn programs(database_url: &str) -> Vec<Program> {
    let bench = std::env::current_exe().expect("this program's path");
    let bench = bench.parent().expect("its directory");
    let latchkey = PathBuf::from(std::env::var_os("LATCHKEY").expect("call `make bench`"));
    let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let settings = |log: &str| {
        [("DATABASE_URL", database_url), ("JWT_SECRET", &secret), ("LISTEN", "127.0.0.1:0"), ("RUST_LOG", log)]
            .map(|(name, value)| (name, value.to_owned()))
            .to_vec()
    };
    let program = |name, path, log| Program {
        name,
        path,
        variables: settings(log),
        has_accounts: name != "rouille",
        logs_requests: log == "info",
    };
    vec![
        program("latchkey", latchkey.clone(), "warn"),
        program("axum + sqlx", bench.join("axum"), "warn"),
        program("axum tuned", bench.join("axum_tuned"), "warn"),
        program("latchkey, request log", latchkey, "info"),
        program("rouille", bench.join("rouille"), "warn"),
    ]
}

/// Registers everybody who is measured; for each reader the path of one of his 20 tasks.
fn accounts(address: SocketAddr) -> Vec<String> {
    let flooders = (0..FLOODERS).map(|number| format!("flooder{number}"));
    let readers: Vec<String> = (0..READERS).map(reader).collect();
    for name in flooders.chain(readers.iter().cloned()).chain([HEAVY.to_owned()]) {
        client::json(address, &request("POST", "/auth/register", "", &credentials(&name)), 201);
    }
    let path = |name: &String| {
        let token = login(address, name);
        let task = |number| {
            let task =
                json!({"title": format!("task {number}"), "description": "bread, butter and two litres of milk"});
            client::json(address, &request("POST", "/api/me/tasks", &token, &task.to_string()), 201)
        };
        let tasks: Vec<_> = (0..TASKS).map(task).collect();
        format!("/api/me/tasks/{}", tasks[0]["id"].as_str().expect("an id"))
    };
    readers.iter().map(path).collect()
}

pub fn reader(number: usize) -> String {
    format!("reader{number}")
}

pub fn credentials(name: &str) -> String {
    json!({"email": format!("{name}@example.com"), "password": PASSWORD}).to_string()
}

/// An access token of that server.
pub fn login(address: SocketAddr, name: &str) -> String {
    let answer = client::json(address, &request("POST", "/auth/login", "", &credentials(name)), 200);
    answer["access_token"].as_str().expect("a token").to_owned()
}

fn workloads(tasks: Vec<String>) -> Vec<Workload> {
    let get = |name, paths: Vec<String>| Workload {
        name,
        method: "GET",
        paths,
        body: String::new(),
        connections: 64,
        seconds: 3,
        is_login: false,
        is_stored: true,
    };
    let everybody = |path: &str| vec![path.to_owned(); READERS];
    let title = json!({"title": "Buy milk", "description": "two litres"}).to_string();
    vec![
        Workload { seconds: 1, is_stored: false, ..get("healthz", everybody("/healthz")) },
        get("get", tasks),
        get("list of 20", everybody("/api/me/tasks")),
        Workload { method: "POST", body: title, ..get("create", everybody("/api/me/tasks")) },
        // Few connections: latchkey refuses what would wait for seconds, which is no work done.
        Workload {
            method: "POST",
            body: credentials("flooder0"),
            connections: 4,
            seconds: 3,
            is_login: true,
            ..get("login", everybody("/auth/login"))
        },
    ]
}

/// One request of 70 bytes that names a length which nobody has; the answer's first line, and whether the server lives.
pub fn hostile_request(setup: &Setup) -> Vec<(&'static str, String, bool)> {
    let programs = setup.programs().filter(|program| ["latchkey", "rouille"].contains(&program.name));
    let send = |program: &Program| {
        let mut server = Server::start(setup, program, &setup.database_url);
        let mut stream = TcpStream::connect(server.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 70368744177664\r\n\r\n").expect("to send");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        drop(stream);
        std::thread::sleep(Duration::from_secs(1));
        (program.name, answer.lines().next().unwrap_or("nothing").to_owned(), server.is_running())
    };
    programs.map(send).collect()
}
