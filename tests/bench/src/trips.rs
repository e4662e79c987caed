//! Round trips to the database per request, counted by a proxy that reads PostgreSQL's protocol; and the very statements
//! that latchkey sends, as scripts for pgbench: nothing is copied, so nothing can differ.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::client::{connect, exchange, request};
use crate::process::Server;
use crate::setup::{Program, Setup};

/// By server and workload.
#[derive(Default)]
pub struct Trips {
    pub counts: HashMap<(&'static str, &'static str), f64>,
    /// By workload.
    pub statements: HashMap<&'static str, Script>,
}

/// Asks each server one request after the other through a proxy.
pub fn measure(setup: &Setup) -> Trips {
    let mut trips = Trips::default();
    for program in setup.programs().filter(|program| program.has_accounts) {
        let proxy = Proxy::open(setup, program);
        let directory = setup.socket.parent().expect("a directory").display().to_string();
        let url = setup.database_url.replace(&directory, &proxy.directory.display().to_string());
        let server = Server::start(setup, program, &url);
        for workload in setup.workloads.iter().filter(|workload| workload.is_stored) {
            let token = if workload.is_login { "" } else { &server.token };
            let bytes = request(workload.method, &workload.path, token, &workload.body);
            let mut stream = connect(server.address);
            let mut ask = || {
                let (status, answer) = exchange(&mut stream, &bytes);
                assert!(status < 300, "{}: {answer}", program.name);
                answer
            };
            // Until every connection that is used has its prepared statements.
            let (warm_up, count) = if workload.is_login { (2, 4) } else { (40, 20) };
            (0..warm_up).for_each(|_| drop(ask()));
            let before = proxy.shared.trips.load(Ordering::SeqCst);
            let answers: Vec<String> = (0..count).map(|_| ask()).collect();
            let after = proxy.shared.trips.load(Ordering::SeqCst);
            trips.counts.insert((program.name, workload.name), (after - before) as f64 / f64::from(count));
            if program.name == "latchkey" && !workload.is_login {
                let last: serde_json::Value = serde_json::from_str(&answers[answers.len() - 1]).expect("JSON");
                let made = if workload.method == "POST" { last["id"].as_str() } else { None };
                trips.statements.insert(workload.name, proxy.shared.last().script(made));
            }
        }
    }
    trips
}

// ---------------------------------------------------------------------------------------------------- the proxy

struct Proxy {
    directory: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// `ReadyForQuery` messages.
    trips: AtomicUsize,
    bound: Mutex<Option<Bound>>,
}

/// A statement as the server sent it, with the values of its last use.
#[derive(Clone)]
struct Bound {
    statement: Statement,
    values: Vec<Option<Vec<u8>>>,
}

#[derive(Clone)]
struct Statement {
    sql: String,
    types: Vec<u32>,
}

impl Proxy {
    fn open(setup: &Setup, program: &Program) -> Proxy {
        let directory = setup.work.join(program.name.replace([' ', ',', '+'], ""));
        fs::create_dir(&directory).expect("a directory");
        let listener = UnixListener::bind(directory.join(setup.socket.file_name().expect("a name"))).expect("a socket");
        let shared = Arc::new(Shared::default());
        let (socket, accepting) = (setup.socket.clone(), Arc::clone(&shared));
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = UnixStream::connect(&socket).expect("PostgreSQL");
                let halves = (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
                let mut watch = Frontend { shared: Arc::clone(&accepting), statements: HashMap::new() };
                // The first message has no type.
                thread::spawn(move || forward(near, far, false, |kind, body| watch.see(kind, body)));
                let shared = Arc::clone(&accepting);
                let count = move |kind, _: &[u8]| {
                    if kind == b'Z' {
                        shared.trips.fetch_add(1, Ordering::SeqCst);
                    }
                };
                thread::spawn(move || forward(halves.1, halves.0, true, count));
            }
        });
        Proxy { directory, shared }
    }
}

/// Copies until one side closes, and shows every whole message: its type and what follows its length.
fn forward(mut from: UnixStream, mut to: UnixStream, mut is_started: bool, mut see: impl FnMut(u8, &[u8])) {
    let (mut chunk, mut buffer) = ([0; 16 * 1024], Vec::new());
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        // Seen before it is passed on: the answer to a request cannot overtake what is counted for it.
        buffer.extend_from_slice(&chunk[..count]);
        loop {
            let head = usize::from(is_started);
            let Some(length) = buffer.get(head..head + 4) else { break };
            let end = head + u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
            if buffer.len() < end {
                break;
            }
            if is_started {
                see(buffer[0], &buffer[5..end]);
            }
            is_started = true;
            buffer.drain(..end);
        }
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

struct Frontend {
    shared: Arc<Shared>,
    statements: HashMap<String, Statement>,
}

impl Frontend {
    /// Source: PostgreSQL's manual, "Message Formats": Parse and Bind.
    fn see(&mut self, kind: u8, body: &[u8]) {
        let mut body = Reader(body);
        if kind == b'P' {
            let (name, sql) = (body.text(), body.text());
            let types = (0..body.number16()).map(|_| body.number32()).collect();
            self.statements.insert(name, Statement { sql, types });
        } else if kind == b'B' {
            let (_, name) = (body.text(), body.text());
            for _ in 0..body.number16() {
                body.number16();
            }
            let value = |body: &mut Reader<'_>| match body.number32() {
                u32::MAX => None,
                length => Some(body.take(length as usize).to_vec()),
            };
            let values = (0..body.number16()).map(|_| value(&mut body)).collect();
            let statement = self.statements.get(&name).expect("a parsed statement").clone();
            *self.shared.bound.lock().expect("the lock") = Some(Bound { statement, values });
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn text(&mut self) -> String {
        let length = self.0.iter().position(|byte| *byte == 0).expect("a terminator");
        let text = String::from_utf8_lossy(self.take(length)).into_owned();
        self.take(1);
        text
    }

    fn number16(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().expect("two bytes"))
    }

    fn number32(&mut self) -> u32 {
        u32::from_be_bytes(self.take(4).try_into().expect("four bytes"))
    }
}

impl Shared {
    fn last(&self) -> Bound {
        self.bound.lock().expect("the lock").clone().expect("a statement was seen")
    }
}

// ------------------------------------------------------------------------------------------------- as a script

/// A statement for `pgbench -M prepared`, and the values of its variables.
pub struct Script {
    pub text: String,
    /// `name=value`, for `pgbench -D`.
    pub variables: Vec<String>,
}

impl Bound {
    /// Each parameter becomes a variable. An id that the request made is made anew each time, and the statement's own
    /// text, where it is bound, becomes the text that pgbench sends.
    fn script(&self, made: Option<&str>) -> Script {
        let literals: Vec<Literal> = self.values.iter().zip(&self.statement.types).map(Literal::of).collect();
        let one_line = self.statement.sql.split_whitespace().collect::<Vec<_>>().join(" ");
        // pgbench sends `$1`, `$2` … for its variables, a new number for each use.
        let (mut text, mut sent, mut uses) = (String::new(), String::new(), 0);
        for (index, piece) in one_line.split('$').enumerate() {
            if index == 0 {
                (text, sent) = (piece.to_owned(), piece.to_owned());
                continue;
            }
            let (number, rest) = piece.split_at(piece.find(|c: char| !c.is_ascii_digit()).unwrap_or(piece.len()));
            let literal = &literals[number.parse::<usize>().expect("the number of a parameter") - 1];
            let of = literal.of;
            let (write, send) = match &literal.text {
                None => (format!("null::{of}"), format!("null::{of}")),
                Some(text) if Some(&**text) == made => ("gen_random_uuid()".into(), "gen_random_uuid()".into()),
                Some(_) => {
                    uses += 1;
                    (format!(":p{number}::{of}"), format!("${uses}::{of}"))
                }
            };
            text.push_str(&(write + rest));
            sent.push_str(&(send + rest));
        }
        let variable = |(index, literal): (usize, &Literal)| {
            let text = literal.text.as_ref()?;
            let value = if *text == self.statement.sql { &sent } else { text };
            Some(format!("p{}={value}", index + 1))
        };
        let variables = literals.iter().enumerate().filter_map(variable).collect();
        Script { text: text + ";\n", variables }
    }
}

/// A value as PostgreSQL reads it, and its type.
struct Literal {
    text: Option<String>,
    of: &'static str,
}

impl Literal {
    /// From the binary form. Source: `pg_type.dat`.
    fn of((value, oid): (&Option<Vec<u8>>, &u32)) -> Literal {
        let bytes = value.as_deref();
        let number =
            |bytes: &[u8]| bytes.iter().skip(1).fold(bytes[0] as i8 as i64, |n, byte| n << 8 | i64::from(*byte));
        let (of, text) = match oid {
            16 => ("boolean", bytes.map(|bytes| (bytes != [0]).to_string())),
            17 => ("bytea", bytes.map(hex)),
            20 => ("bigint", bytes.map(|bytes| number(bytes).to_string())),
            23 => ("integer", bytes.map(|bytes| number(bytes).to_string())),
            25 => ("text", bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())),
            2950 => ("uuid", bytes.map(|bytes| uuid::Uuid::from_slice(bytes).expect("16 bytes").to_string())),
            oid => panic!("a parameter of type {oid}, which the bench does not know"),
        };
        Literal { text, of }
    }
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    let digits: String = bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\\x{digits}")
}
