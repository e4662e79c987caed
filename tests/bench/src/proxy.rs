//! A socket in front of PostgreSQL that reads its protocol: counts round trips, keeps the last statement with its values,
//! and the notices that come back.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::setup::Setup;

pub struct Proxy {
    directory: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// `ReadyForQuery` messages.
    trips: AtomicUsize,
    bound: Mutex<Option<Bound>>,
    notices: Mutex<Vec<String>>,
}

/// A statement as the server sent it, with the values of its last use.
#[derive(Clone)]
pub struct Bound {
    pub statement: Statement,
    pub values: Vec<Option<Vec<u8>>>,
}

#[derive(Clone)]
pub struct Statement {
    pub sql: String,
    /// Object ids in `pg_type`.
    pub types: Vec<u32>,
}

impl Proxy {
    /// For one program.
    pub fn open(setup: &Setup, program: &str) -> Proxy {
        let directory = setup.work.join(program.replace([' ', ',', '+'], ""));
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
                thread::spawn(move || forward(halves.1, halves.0, true, |kind, body| shared.see(kind, body)));
            }
        });
        Proxy { directory, shared }
    }

    /// Of the bench's database, through here.
    pub fn url(&self, setup: &Setup) -> String {
        let directory = setup.socket.parent().expect("a directory").display().to_string();
        setup.database_url.replace(&directory, &self.directory.display().to_string())
    }

    /// Round trips so far.
    pub fn trips(&self) -> usize {
        self.shared.trips.load(Ordering::SeqCst)
    }

    /// The last statement that was bound.
    pub fn last(&self) -> Bound {
        self.shared.bound.lock().expect("the lock").clone().expect("a statement was seen")
    }

    /// The texts of the notices since the last call.
    pub fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.notices.lock().expect("the lock"))
    }
}

impl Shared {
    /// Messages of the backend: ReadyForQuery and NoticeResponse.
    fn see(&self, kind: u8, body: &[u8]) {
        if kind == b'Z' {
            self.trips.fetch_add(1, Ordering::SeqCst);
        } else if kind == b'N' {
            let fields = body.split(|byte| *byte == 0);
            let message = fields.filter(|field| field.first() == Some(&b'M')).map(|field| &field[1..]);
            let texts = message.map(|text| String::from_utf8_lossy(text).into_owned());
            self.notices.lock().expect("the lock").extend(texts);
        }
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
