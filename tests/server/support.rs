//! What every test stands on: the shipped binary with its own environment and its own database, a small HTTP/1.1 client
//! that checks on every answer what holds for all answers, and a gate in front of the database.
//! The cluster's superuser URL stands in `LATCHKEY_TEST_DATABASE_URL` (a Unix socket; `make test` brings it).

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use postgres::config::Host;
use postgres::{Client, NoTls};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use uuid::Uuid;

/// No wait of a test is longer.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Passes the password rule: zxcvbn score 4.
pub const PASSWORD: &str = "correct horse battery staple 7";

// ---------------------------------------------------------------------------------------------------- database

struct Cluster {
    directory: PathBuf,
    port: u16,
    user: String,
    admin: String,
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let admin = std::env::var("LATCHKEY_TEST_DATABASE_URL")
            .unwrap_or_else(|_| panic!("LATCHKEY_TEST_DATABASE_URL is not set: run make test"));
        let config: postgres::Config = admin.parse().expect("LATCHKEY_TEST_DATABASE_URL");
        let [Host::Unix(directory)] = config.get_hosts() else {
            panic!("LATCHKEY_TEST_DATABASE_URL must name one Unix socket directory");
        };
        Cluster {
            directory: directory.clone(),
            port: config.get_ports().first().copied().unwrap_or(5432),
            user: config.get_user().unwrap_or("postgres").to_owned(),
            admin,
        }
    })
}

/// One statement, or several, as superuser in the cluster's own database.
pub fn administer(statement: &str) {
    let mut client = Client::connect(&cluster().admin, NoTls).expect("the test cluster");
    client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
}

/// An empty database of its own, dropped at the end.
pub struct Database {
    pub name: String,
}

impl Database {
    pub fn create() -> Arc<Self> {
        Self::encoded("UTF8")
    }

    /// In this encoding of PostgreSQL's.
    pub fn encoded(encoding: &str) -> Arc<Self> {
        let name = format!("latchkey_test_{}", Uuid::now_v7().simple());
        administer(&format!("create database {name} template template0 encoding '{encoding}' locale 'C'"));
        Arc::new(Self { name })
    }

    pub fn url(&self) -> String {
        self.url_as(&cluster().user)
    }

    pub fn url_as(&self, role: &str) -> String {
        self.url_through(&cluster().directory, role)
    }

    fn url_through(&self, directory: &Path, role: &str) -> String {
        let (directory, port) = (directory.display(), cluster().port);
        format!("postgres:///{}?host={directory}&port={port}&user={role}", self.name)
    }

    pub fn sql(&self) -> Client {
        Client::connect(&self.url(), NoTls).expect("the test database")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        administer(&format!("drop database if exists {} with (force)", self.name));
    }
}

/// A role that may log in and nothing else, dropped at the end.
pub struct Role {
    pub name: String,
    database: Arc<Database>,
}

impl Role {
    pub fn create(database: &Arc<Database>) -> Self {
        let name = format!("latchkey_role_{}", Uuid::now_v7().simple());
        administer(&format!("create role {name} login"));
        Self { name, database: Arc::clone(database) }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let name = &self.name;
        let _ = self.database.sql().batch_execute(&format!("drop owned by {name} cascade"));
        administer(&format!("drop role {name}"));
    }
}

/// A socket in front of the database that can refuse connections or fall silent.
pub struct Gate {
    directory: PathBuf,
    state: Arc<GateState>,
}

/// Where a connection ends that carries a certain statement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// The database never hears of it.
    BeforeTheDatabase,
    /// The database has done it, the server never hears.
    BeforeTheAnswer,
    /// The database has done it, and nothing passes the gate from then on.
    SilentBeforeTheAnswer,
}

#[derive(Default)]
struct GateState {
    silent: Mutex<bool>,
    cut: Mutex<Option<(&'static str, Cut)>>,
    changed: Condvar,
    streams: Mutex<Vec<UnixStream>>,
}

impl Gate {
    fn open_new() -> Self {
        let directory = std::env::temp_dir().join(format!("lk{}", Uuid::now_v7().simple()));
        fs::create_dir(&directory).expect("a directory for the gate");
        let gate = Self { directory, state: Arc::default() };
        let listener = UnixListener::bind(gate.socket()).expect("the gate's socket");
        let state = Arc::clone(&gate.state);
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let socket = cluster().directory.join(format!(".s.PGSQL.{}", cluster().port));
                let far = UnixStream::connect(socket).expect("the test cluster");
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let state = Arc::clone(&state);
                    thread::spawn(move || state.forward(from, to));
                }
                state.streams.lock().unwrap().extend([near, far]);
            }
        });
        gate
    }

    fn socket(&self) -> PathBuf {
        self.directory.join(format!(".s.PGSQL.{}", cluster().port))
    }

    /// Connections end, new ones are refused.
    pub fn refuse(&self) {
        fs::rename(self.socket(), self.directory.join("away")).expect("the gate was open");
        for stream in self.state.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The next statement that holds this text ends its connection, or silences the gate.
    pub fn cut(&self, statement: &'static str, when: Cut) {
        *self.state.cut.lock().unwrap() = Some((statement, when));
    }

    /// Connections stay and new ones are accepted, but nothing passes.
    pub fn silence(&self) {
        *self.state.silent.lock().unwrap() = true;
    }

    pub fn open(&self) {
        let _ = fs::rename(self.directory.join("away"), self.socket());
        *self.state.silent.lock().unwrap() = false;
        self.state.changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl GateState {
    fn cuts(&self, bytes: &[u8]) -> Option<Cut> {
        let mut cut = self.cut.lock().unwrap();
        let (statement, _) = (*cut)?;
        let holds = bytes.windows(statement.len()).any(|window| window == statement.as_bytes());
        if holds { cut.take().map(|(_, when)| when) } else { None }
    }

    fn forward(&self, mut from: UnixStream, mut to: UnixStream) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            let silent = self.silent.lock().unwrap();
            drop(self.changed.wait_while(silent, |silent| *silent).unwrap());
            let when = self.cuts(&buffer[..length]);
            match when {
                Some(Cut::SilentBeforeTheAnswer) => *self.silent.lock().unwrap() = true,
                Some(_) => drop(from.shutdown(Shutdown::Both)),
                None => {}
            }
            if when == Some(Cut::BeforeTheDatabase) {
                break;
            }
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// How many connections of a server there are to this database.
pub fn server_connections(sql: &mut Client) -> i64 {
    let count = "select count(*) from pg_stat_activity \
                 where application_name = 'latchkey' and datname = current_database()";
    sql.query_one(count, &[]).expect("pg_stat_activity").get(0)
}

// ----------------------------------------------------------------------------------------------------- program

/// The program's whole environment, by variable.
pub type Environment = BTreeMap<String, String>;

/// What every test's server starts with. One secret per run, so that servers on one database understand each other.
pub fn environment(database_url: &str) -> Environment {
    static SECRET: OnceLock<String> = OnceLock::new();
    let secret = SECRET.get_or_init(strong_secret);
    [
        ("DATABASE_URL", database_url),
        ("JWT_SECRET", secret),
        ("LISTEN", "127.0.0.1:0"),
        ("LATCHKEY_ENV", "test"),
        ("BCRYPT_COST", "4"),
        ("ADDRESS_LIMIT", "0"),
        ("LOGIN_FAILURE_LIMIT", "0"),
        ("RUST_LOG", "info"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

pub fn strong_secret() -> String {
    let mut bytes = [0; 48];
    aws_lc_rs::rand::fill(&mut bytes).expect("random bytes");
    STANDARD.encode(bytes)
}

/// How a command ended.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program to its end; one that does not end is killed and has no code.
pub fn run(arguments: &[&str], environment: &Environment) -> Finished {
    let mut child = spawn(arguments, environment);
    let collect = |mut pipe: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut text = Vec::new();
            let _ = pipe.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = collect(Box::new(child.stdout.take().unwrap()));
    let stderr = collect(Box::new(child.stderr.take().unwrap()));
    let code = wait_for_exit(&mut child).and_then(|status| status.code());
    let _ = child.kill();
    Finished { code, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn spawn(arguments: &[&str], environment: &Environment) -> Child {
    spawn_command(&mut program(arguments, environment))
}

fn program(arguments: &[&str], environment: &Environment) -> Command {
    const PROGRAM: &str = env!("CARGO_BIN_EXE_latchkey");
    // `ULIMIT` is no variable of the program's, but limits under which a shell starts it. Limits of threads count those
    // of the whole user, and not for root: so it gets a user of its own.
    let mut command = Command::new(if environment.contains_key("ULIMIT") { "bash" } else { PROGRAM });
    if let Some(limits) = environment.get("ULIMIT") {
        command.args(["-c", &format!("ulimit {limits} && exec \"$0\" \"$@\""), PROGRAM]);
        if geteuid().is_root() {
            static USERS: AtomicU32 = AtomicU32::new(0);
            command.uid(61_000 + USERS.fetch_add(1, Ordering::Relaxed));
        }
    }
    command.args(arguments).env_clear().envs(environment);
    command
}

fn spawn_command(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

fn wait_for_exit(child: &mut Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("a child to wait for") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Waits until the condition holds; `what` says in the panic what never came.
#[track_caller]
pub fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A running `latchkey serve`; ends, with its database, when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub database: Arc<Database>,
    child: Child,
    /// Whoever holds the lock keeps the log from being read.
    pub log: Arc<(Mutex<String>, Condvar)>,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these variables set, over those that all tests share.
    pub fn start_with(variables: &[(&str, &str)]) -> Self {
        let database = Database::create();
        Self::on(&database, &database.url(), variables)
    }

    /// A second instance on the other's database.
    pub fn beside(other: &Self, variables: &[(&str, &str)]) -> Self {
        Self::on(&other.database, &other.database_url(), variables)
    }

    /// On a new database that is reached through a gate.
    pub fn behind_gate(variables: &[(&str, &str)]) -> (Self, Gate) {
        let (database, gate) = (Database::create(), Gate::open_new());
        let url = database.url_through(&gate.directory, &cluster().user);
        (Self::on(&database, &url, variables), gate)
    }

    pub fn on(database: &Arc<Database>, url: &str, variables: &[(&str, &str)]) -> Self {
        let mut environment = environment(url);
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        environment.extend(variables);
        Self::with(database, &["serve"], &environment)
    }

    /// With these arguments, this whole environment and nothing else.
    pub fn with(database: &Arc<Database>, arguments: &[&str], environment: &Environment) -> Self {
        Self::by(&mut program(arguments, environment), database)
    }

    /// By a command that becomes the server.
    pub fn by(command: &mut Command, database: &Arc<Database>) -> Self {
        let mut child = spawn_command(command);
        let log = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let (stderr, writer) = (child.stderr.take().unwrap(), Arc::clone(&log));
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let mut text = writer.0.lock().unwrap();
                text.push_str(&String::from_utf8_lossy(&line));
                text.push('\n');
                writer.1.notify_all();
            }
        });
        let (stdout, (sender, lines)) = (child.stdout.take().unwrap(), mpsc::channel());
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let line = lines.recv_timeout(PATIENCE).unwrap_or_default();
        let address = line.strip_prefix("listening on http://").and_then(|text| text.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            panic!("the server did not start; it said {line:?}\n{}", log.0.lock().unwrap());
        };
        Self { address, database: Arc::clone(database), child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn database_url(&self) -> String {
        self.database.url()
    }

    /// A client of the server's database.
    pub fn sql(&self) -> Client {
        self.database.sql()
    }

    /// How many connections the server has to its database.
    pub fn database_connections(&self) -> i64 {
        server_connections(&mut self.sql())
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.0.lock().unwrap().clone()
    }

    /// The first line of the log that holds all of these, as soon as there is one.
    #[track_caller]
    pub fn wait_for_log(&self, needles: &[&str]) -> String {
        let (log, changed) = &*self.log;
        let find = |text: &str| {
            let mut lines = text.lines();
            lines.find(|line| needles.iter().all(|needle| line.contains(needle))).map(str::to_owned)
        };
        let text = log.lock().unwrap();
        let (text, _) = changed.wait_timeout_while(text, PATIENCE, |text| find(text).is_none()).unwrap();
        find(&text).unwrap_or_else(|| panic!("no line with {needles:?} in the log:\n{text}"))
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("the server runs");
    }

    /// SIGTERM, and how the program ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        wait_for_exit(&mut self.child).expect("the server ends in time")
    }

    /// SIGKILL, at once.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    pub fn request(&self, method: &str, path: &str) -> Request {
        Request {
            address: self.address,
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Sends these bytes as they are and reads answers until the server closes.
    pub fn raw(&self, bytes: &[u8]) -> Vec<Answer> {
        let stream = connect(self.address).expect("the server accepts");
        let _ = (&stream).write_all(bytes);
        let mut reader = BufReader::new(&stream);
        let mut answers = Vec::new();
        while let Some(answer) = read_answer(&mut reader, "raw").expect("a whole answer") {
            answers.push(answer);
        }
        answers
    }

    /// Registers `name`@example.org and logs in.
    #[track_caller]
    pub fn user(&self, name: &str) -> User {
        let email = format!("{name}@example.org");
        let credentials = serde_json::json!({"email": email, "password": PASSWORD});
        let user = self.request("POST", "/auth/register").json(&credentials).send().must(201);
        let id = user.json()["id"].as_str().expect("an id").to_owned();
        User { id, token: self.login(&email, PASSWORD), email, password: PASSWORD.to_owned() }
    }

    /// A new access token.
    #[track_caller]
    pub fn login(&self, email: &str, password: &str) -> String {
        let credentials = serde_json::json!({"email": email, "password": password});
        let tokens = self.request("POST", "/auth/login").json(&credentials).send().must(200);
        tokens.json()["access_token"].as_str().expect("an access token").to_owned()
    }

    /// Creates a task under the user's own path.
    #[track_caller]
    pub fn task(&self, user: &User, title: &str) -> Value {
        let path = format!("/api/{}/tasks", user.id);
        let request = self.request("POST", &path).bearer(&user.token);
        request.json(&serde_json::json!({"title": title})).send().must(201).json()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An account and one of its access tokens.
pub struct User {
    pub id: String,
    pub email: String,
    pub password: String,
    pub token: String,
}

// -------------------------------------------------------------------------------------------------------- HTTP

/// A request to be sent on a connection of its own.
#[derive(Clone)]
pub struct Request {
    address: SocketAddr,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// The body alone; the type is the caller's to say.
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = bytes.into();
        self
    }

    /// A body that claims to be JSON.
    pub fn json_bytes(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.header("Content-Type", "application/json").body(bytes)
    }

    pub fn json(self, value: &Value) -> Self {
        self.json_bytes(value.to_string())
    }

    #[track_caller]
    pub fn send(&self) -> Answer {
        let (method, path) = (&self.method, &self.path);
        self.try_send().unwrap_or_else(|error| panic!("{method} {path}: no answer: {error}"))
    }

    /// For servers that may be gone.
    pub fn try_send(&self) -> io::Result<Answer> {
        let Self { address, method, path, .. } = self;
        let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n").into_bytes();
        for (name, value) in &self.headers {
            bytes.extend(format!("{name}: {value}\r\n").into_bytes());
        }
        if !self.body.is_empty() || ["POST", "PUT", "PATCH"].contains(&method.as_str()) {
            bytes.extend(format!("Content-Length: {}\r\n", self.body.len()).into_bytes());
        }
        bytes.extend(b"Connection: close\r\n\r\n");
        bytes.extend(&self.body);
        let stream = connect(*address)?;
        let written = (&stream).write_all(&bytes);
        match read_answer(&mut BufReader::new(&stream), method)? {
            Some(answer) => Ok(answer),
            None => Err(written.err().unwrap_or(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// A connection on which no read or write lasts for ever.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One answer, already checked for what holds for all; `None` where the server closed before it began.
///
/// # Panics
/// Where the answer lacks what every answer has.
pub fn read_answer(reader: &mut impl BufRead, method: &str) -> io::Result<Option<Answer>> {
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).map(|_| line)
    };
    let first = line()?;
    if first.is_empty() {
        return Ok(None);
    }
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status line: {first:?}"));
    let mut headers = Vec::new();
    loop {
        let line = line()?;
        match line.trim_end_matches("\r\n") {
            "" if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            "" => break,
            line => {
                let (name, value) = line.split_once(':').expect("a header has a colon");
                headers.push((name.to_owned(), value.trim().to_owned()));
            }
        }
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    if method != "HEAD" && ![204, 304].contains(&status) && status >= 200 {
        let length = answer.header("Content-Length").expect("an answer states its length");
        answer.body = vec![0; length.parse().expect("a length")];
        reader.read_exact(&mut answer.body)?;
    }
    if status >= 200 {
        answer.check_conventions(method);
    }
    Ok(Some(answer))
}

/// An answer as it came.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}", self.status)?;
        self.headers.iter().try_for_each(|(name, value)| writeln!(f, "{name}: {value}"))?;
        write!(f, "\n{}", String::from_utf8_lossy(&self.body))
    }
}

impl Answer {
    /// The header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    #[track_caller]
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("a body in UTF-8")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// The answer itself, where it has this status.
    #[track_caller]
    pub fn must(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    pub fn request_id(&self) -> &str {
        self.header("X-Request-Id").expect("an X-Request-Id")
    }

    /// `errors[].field` of a 422.
    pub fn fields(&self) -> Vec<String> {
        let json = self.json();
        let errors = json["errors"].as_array().into_iter().flatten();
        errors.map(|error| error["field"].as_str().expect("a field").to_owned()).collect()
    }

    /// What a client can tell answers apart by: everything but the request's id and the date.
    pub fn without_request_id(&self) -> (u16, Vec<(String, String)>, String) {
        let mut headers = self.headers.clone();
        headers.retain(|(name, _)| !["x-request-id", "date"].contains(&&*name.to_lowercase()));
        (self.status, headers, self.text().replace(self.request_id(), "-"))
    }

    #[track_caller]
    fn check_conventions(&self, method: &str) {
        let id = Uuid::parse_str(self.request_id());
        let version = id.map(|id| id.get_version_num());
        assert_eq!(version, Ok(7), "X-Request-Id is not one UUIDv7: {self}");
        assert_eq!(self.all("X-Request-Id").len(), 1, "{self}");
        for name in ["Server", "Set-Cookie"] {
            assert_eq!(self.header(name), None, "{self}");
        }
        let content_type = self.header("Content-Type").unwrap_or_default();
        if content_type.contains("json") {
            assert_eq!(self.header("Cache-Control"), Some("no-store"), "{self}");
            assert_eq!(self.header("X-Content-Type-Options"), Some("nosniff"), "{self}");
        }
        if self.status == 204 {
            assert_eq!(self.header("Content-Length"), None, "a 204 has no length: {self}");
        }
        if self.status < 400 {
            return;
        }
        let challenge = self.header("WWW-Authenticate").unwrap_or_default();
        let realm = challenge.starts_with(r#"Bearer realm="latchkey""#);
        assert_eq!(self.status == 401, realm, "WWW-Authenticate: {self}");
        assert_eq!(self.status == 405, self.header("Allow").is_some(), "Allow: {self}");
        if [429, 503].contains(&self.status) {
            let seconds = self.header("Retry-After").and_then(|text| text.parse::<u32>().ok());
            assert!(seconds >= Some(1), "Retry-After: {self}");
        }
        assert_eq!(content_type, "application/problem+json", "{self}");
        if method != "HEAD" {
            self.check_problem();
        }
    }

    /// RFC 9457 with our members and no others.
    #[track_caller]
    fn check_problem(&self) {
        let problem = self.json();
        let mut expected = vec!["detail", "request_id", "status", "title", "type"];
        if self.status == 422 {
            expected.insert(1, "errors");
            let errors = problem["errors"].as_array().expect("a list of errors");
            assert!(!errors.is_empty(), "{self}");
            for error in errors {
                assert_eq!(members(error), ["detail", "field"], "{self}");
                assert!(error["detail"].is_string() && error["field"].is_string(), "{self}");
            }
        }
        assert_eq!(members(&problem), expected, "{self}");
        assert_eq!(problem["status"], self.status, "{self}");
        assert_eq!(problem["request_id"], self.request_id(), "{self}");
        for text in ["title", "detail"] {
            assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{self}");
        }
        let kind = problem["type"].as_str().and_then(|kind| kind.strip_prefix("/docs#"));
        assert!(kind.is_some_and(|slug| !slug.is_empty()), "type: {self}");
    }
}

/// An object's members, sorted; nothing for anything else.
pub fn members(value: &Value) -> Vec<&str> {
    let mut names: Vec<_> = value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names
}

/// A JWT's header and claims, unverified.
pub fn decode(token: &str) -> (Value, Value) {
    let part = |part: Option<&str>| {
        let bytes = URL_SAFE_NO_PAD.decode(part.expect("three parts")).expect("base64url");
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let mut parts = token.split('.');
    (part(parts.next()), part(parts.next()))
}

/// A time in UTC with `Z` and microseconds.
pub fn is_time(value: &Value) -> bool {
    let Some(text) = value.as_str() else { return false };
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00.000000Z"
}

// --------------------------------------------------------------------------------------------------- endpoints

/// A way to act that needs a bearer token. `{user}` and `{task}` in the path are filled in by `request`.
pub struct Endpoint {
    pub name: &'static str,
    pub method: &'static str,
    pub path: &'static str,
    pub body: Option<Value>,
}

impl Endpoint {
    pub fn request(&self, server: &Server, user: &str, task: &str) -> Request {
        let path = self.path.replace("{user}", user).replace("{task}", task);
        let request = server.request(self.method, &path);
        match &self.body {
            Some(body) => request.json(body),
            None => request,
        }
    }

    /// Whether the path names one task.
    pub fn names_a_task(&self) -> bool {
        self.path.contains("{task}")
    }
}

/// Every protected endpoint, with a body that it accepts.
pub fn protected() -> Vec<Endpoint> {
    let change = || Some(serde_json::json!({"title": "changed", "completed": true}));
    let task = "/api/{user}/tasks/{task}";
    let complete = "/api/{user}/tasks/{task}/complete";
    let endpoint = |name, method, path, body| Endpoint { name, method, path, body };
    vec![
        endpoint("me", "GET", "/auth/me", None),
        endpoint("list", "GET", "/api/{user}/tasks", None),
        endpoint("create", "POST", "/api/{user}/tasks", Some(serde_json::json!({"title": "created"}))),
        endpoint("get", "GET", task, None),
        endpoint("put", "PUT", task, change()),
        endpoint("patch", "PATCH", task, change()),
        endpoint("set", "PATCH", complete, Some(serde_json::json!({"completed": true}))),
        endpoint("toggle", "PATCH", complete, None),
        endpoint("delete", "DELETE", task, None),
    ]
}

/// Runs the work once for each number, all at the same moment.
pub fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = std::sync::Barrier::new(count);
    thread::scope(|scope| {
        let start = |number| {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(number)
            })
        };
        let threads: Vec<_> = (0..count).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}
