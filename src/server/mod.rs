//! A blocking HTTP/1.1 server: open connections up to a cap (`admission`), and a thread for each request (`workers`).
//!
//! It reads requests (`head`, `body`, `chunk`), hands them to a function, writes what that returns (`connection`,
//! `response`), and stops when it is told to. It knows nothing of what the requests are for: a second function words the
//! answers that no handler gives. Nothing that a client does, or that the operating system denies, ends it.
//! It has no TLS, no HTTP/2, no streamed bodies and no upgrades.
//!
//! Source: RFC 9110 (semantics), RFC 9112 (HTTP/1.1).

mod admission;
mod body;
mod chunk;
mod connection;
mod head;
mod response;
mod workers;

use std::io::{self, ErrorKind, PipeReader, PipeWriter, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rouille::{Request, Response};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use admission::Server;
pub use connection::{Connection, network};

/// How many connections may wait to be accepted. With 128, which `std` asks for, a burst of clients overflows it, and
/// they try again after a second.
const BACKLOG: u16 = 1024;
/// Descriptors for all but the clients: the database, the log, libraries.
const SPARE_DESCRIPTORS: usize = 128;
/// Threads without which the server is of no use: some for clients, for hashes and for signals.
const SPARE_THREADS: usize = 16;
/// How long accepting waits where descriptors or memory are short; at most twice as long for connections that are to
/// make room.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a handler may take. Then the request is answered in its place, and the connection closes.
pub const HANDLER_TIME: Duration = Duration::from_secs(9);
/// How often handlers are looked at, and whether the server is to stop, however fast clients come.
const TICK: Duration = Duration::from_millis(500);

/// A head's fields, name and value, in order.
type Headers = Vec<(String, String)>;
/// Answers a request, on the thread that serves its connection.
pub type Handle = Box<dyn Fn(&Request, &Connection) -> Response + Send + Sync>;
/// Words the answer to what no handler answers.
pub type Reject = Box<dyn Fn(&RejectedRequest<'_>) -> Response + Send + Sync>;

/// What a `Listener` is told about its surroundings.
pub struct Settings {
    /// The most connections that are open at once.
    pub max_connections: usize,
    /// Whether an address that holds more than a quarter of the cap is the first to lose connections when room is
    /// needed. `false` behind a proxy, where all connections come from one address.
    pub evict_by_address: bool,
}

/// Why a request gets an answer that no handler gave. The application chooses the words; the statuses below are those
/// that RFC 9110 and RFC 6585 name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// 400: malformed, or open to more than one reading. The text says in what, for the log.
    BadRequest(&'static str),
    /// 408: not complete 10 s after its first byte.
    RequestTimeout,
    /// 413: the body has more than 64 KiB.
    BodyTooLarge,
    /// 414: the target has more than 4 KiB.
    TargetTooLong,
    /// 417: an expectation other than `100-continue`.
    ExpectationFailed,
    /// 431: the head has more than 8 KiB or 64 fields.
    HeadTooLarge,
    /// 500: the handler panicked.
    HandlerPanicked,
    /// 501: a transfer coding other than `chunked`.
    NotImplemented,
    /// 503: the handler took over 9 s.
    HandlerTimeout,
    /// 503: as many connections as there may be, and none of them waits for its client.
    TooManyConnections,
    /// 503: the server stops, and the request was not done in time.
    Stopping,
    /// 505: a version of HTTP other than 1.0 and 1.1.
    VersionNotSupported,
}

/// A request, or what came in place of one, that gets no answer by a handler.
pub struct RejectedRequest<'a> {
    /// Why.
    pub error: HttpError,
    /// The address and port at the other end of the socket.
    pub address: SocketAddr,
    /// The method; empty where none was understood.
    pub method: &'a str,
    /// The target; empty where none was understood.
    pub target: &'a str,
    /// The fields, as far as they were understood: name in lower case, and value.
    pub headers: &'a [(String, String)],
    /// When its handler got it, or else when its first byte came; `None` where none came.
    pub began: Option<Instant>,
    /// What its handler has left by [`Connection::leave_note`], in order; empty where there was no handler.
    pub notes: &'a [String],
}

/// Makes sure that the process may open as many files as so many connections take, also those whose request was answered
/// in its handler's place: raises the soft limit where that is needed. Starts `threads` and some more, and ends them, so
/// that a shortage is met here.
///
/// # Errors
/// What is too few, with its limit.
pub fn reserve(max_connections: usize, threads: usize) -> Result<(), String> {
    let files = max_connections.saturating_add(max_connections / 2 + SPARE_DESCRIPTORS) as u64;
    let limit = getrlimit(Resource::Nofile);
    let is_enough = limit.current.is_none_or(|current| current >= files);
    if !is_enough && setrlimit(Resource::Nofile, Rlimit { current: Some(files), ..limit }).is_err() {
        let limit = limit.maximum.unwrap_or_default();
        return Err(format!(
            "MAX_CONNECTIONS: {max_connections} need {files} open files; the limit is {limit} (ulimit -Hn)"
        ));
    }
    let start = |_| thread::Builder::new().spawn(thread::park);
    let started: io::Result<Vec<_>> = (0..threads + SPARE_THREADS).map(start).collect();
    let started = started.map_err(|error| format!("too few threads (ulimit -u, TasksMax): {error}"))?;
    started.iter().for_each(|thread| thread.thread().unpark());
    Ok(())
}

/// Stops a `Listener`, from any thread.
#[derive(Clone)]
pub struct Stopper(Arc<PipeWriter>);

impl Stopper {
    /// Begins the stop and returns at once. A second call changes nothing.
    pub fn stop(&self) {
        // Fails where the listener is gone.
        let _ = (&*self.0).write(b"!");
    }
}

/// A bound socket, ready to serve.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    stop: PipeReader,
    stopper: Stopper,
}

impl Listener {
    /// A listener on `address`, where port 0 means any that is free. Clients can connect from now on, and are answered
    /// as soon as it runs.
    ///
    /// # Errors
    /// What the operating system has against the address.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let options = socket2::SockRef::from(&socket);
        options.listen(BACKLOG.into())?;
        // Every connection that it accepts has these from its beginning.
        options.set_tcp_nodelay(true)?;
        options.set_send_buffer_size(connection::SEND_BYTES)?;
        let (stop, stopper) = io::pipe()?;
        Ok(Listener { address: socket.local_addr()?, socket, stop, stopper: Stopper(Arc::new(stopper)) })
    }

    /// The address that clients can connect to, with the port that was chosen.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// What makes `run` return.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Serves until it is stopped. `handle` gets the requests, many at once, each on a thread. `reject` words the answer
    /// to what gets none by `handle`: also to a request that `handle` has had for over 9 s.
    ///
    /// After the stop no connection is accepted; requests that were are answered, or rejected where that takes over
    /// 9 s. Returns within 10 s of the stop, even where a handler does not. The other threads end soon after.
    ///
    /// # Errors
    /// What the operating system has against the first thread.
    pub fn run(self, settings: Settings, handle: Handle, reject: Reject) -> io::Result<()> {
        let server = Arc::new(Server::new(settings, handle, reject)?);
        let managed = Arc::clone(&server);
        thread::Builder::new().spawn(move || managed.manage())?;
        self.accept(&server);
        // Before any client is told to close: who then connects again is refused, and not accepted by nobody.
        drop(self.socket);
        server.drain();
        Ok(())
    }

    /// Accepts connections until the stop. No error ends it.
    fn accept(&self, server: &Arc<Server>) {
        let mut looked_at = Instant::now();
        let mut sources = [PollFd::new(&self.stop, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
        while sources.first().is_some_and(|stop| stop.revents().is_empty()) {
            // Without end where no handler can be overdue: an idle server sleeps.
            let is_empty = server.state().open.is_empty();
            let _ = poll(&mut sources, Timespec::try_from(TICK).ok().filter(|_| !is_empty).as_ref());
            if looked_at.elapsed() >= TICK {
                server.end_overdue();
                looked_at = Instant::now();
            }
            while looked_at.elapsed() < TICK {
                match self.socket.accept() {
                    Ok((stream, address)) => server.admit(Connection::new(stream, address)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // A shortage, mostly of descriptors. (Linux tells nothing here of clients that have gone already.)
                    Err(_) => {
                        server.evict(&server.state(), None);
                        thread::sleep(PAUSE);
                        break;
                    }
                }
            }
        }
    }
}

/// The mutex's value, also where a thread panicked that had it: no one of these is ever left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on must fail at once")]
mod tests {
    use std::mem::take;

    use super::HttpError;
    use super::body::tests::Random;
    use super::head::Head;

    /// What is made of all that a client sends.
    #[derive(Debug, Default)]
    struct Understood {
        requests: Vec<Head>,
        is_refused: bool,
        rest: Vec<u8>,
    }

    fn understand<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Understood {
        let (mut understood, mut head, mut has_head) = (Understood::default(), Head::default(), false);
        for piece in pieces {
            understood.rest.extend_from_slice(piece);
            while !understood.is_refused {
                match read(&mut head, &mut has_head, &mut understood.rest) {
                    Ok(true) => understood.requests.push(take(&mut head)),
                    Ok(false) => break,
                    Err(_) => understood.is_refused = true,
                }
            }
        }
        understood
    }

    fn read(head: &mut Head, has_head: &mut bool, input: &mut Vec<u8>) -> Result<bool, HttpError> {
        if !*has_head {
            let before = input.clone();
            *has_head = head.read(input)?;
            if *has_head {
                check(head, &before[..before.len() - input.len()]);
            }
        }
        let is_complete = *has_head && head.body.read(input)?;
        *has_head &= !is_complete;
        Ok(is_complete)
    }

    /// What must hold of each head that is accepted, seen from the bytes that it took.
    fn check(head: &Head, bytes: &[u8]) {
        let text = std::str::from_utf8(bytes).unwrap().trim_start_matches("\r\n");
        assert!(bytes.len() <= 8192 && text.find("\r\n\r\n") == Some(text.len() - 4), "{text:?}");
        assert!(!text.replace("\r\n", "").contains(|c: char| c.is_ascii_control() && c != '\t'), "{text:?}");
        let lines: Vec<_> = text.trim_end().split("\r\n").collect();
        let values = |name: &str| -> Vec<_> {
            let fields = lines[1..].iter().map(|line| line.split_once(':').unwrap());
            fields.filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
        };
        let is_old = lines[0].ends_with(" HTTP/1.0");
        assert!(values("host").len() == 1 || values("host").is_empty() && is_old, "{text:?}");
        let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
        assert!(lengths.iter().all(|length| *length == lengths[0] && length.parse::<u16>().is_ok()), "{text:?}");
        assert!(codings.is_empty() || lengths.is_empty() && !is_old && codings.len() == 1, "{text:?}");
        assert!(codings.iter().all(|coding| coding.eq_ignore_ascii_case("chunked")), "{text:?}");
        assert_eq!(head.headers.len(), lines.len() - 1, "{text:?}");
        assert!(head.target.starts_with('/') || head.target == "*" && head.method == "OPTIONS", "{text:?}");
        assert!(head.target.bytes().all(|b| b.is_ascii_graphic() && b != b'#'), "{text:?}");
    }

    const SAMPLES: [&[u8]; 6] = [
        b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /d HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PUT /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\nA: b\r\n\r\nGET /f HTTP/1.0\r\n\r\n",
        b"\r\nOPTIONS * HTTP/1.1\r\nhost: b\r\nExpect: 100-continue\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx",
        b"GET http://a/b?c HTTP/1.1\r\nHost: d\r\nConnection: keep-alive\r\nX: \xc3\xa9\r\nY:\r\n\r\n",
        b"POST /g HTTP/1.0\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc\r\nGET /h HTTP/1.1\r\nHost: a\r\n\r\n",
    ];

    #[rustfmt::skip]
    const PIECES: [&[u8]; 18] = [
        b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"0", b"1", b"\xff", b"HTTP/1.1", b"\r\n\r\n", b"0\r\n\r\n",
        b"\r\nContent-Length: 5", b"\r\nTransfer-Encoding: chunked", b"\r\nHost: a", b"\r\n x",
    ];

    #[test]
    fn a_hundred_thousand_mutated_requests_are_the_same_wherever_they_are_cut() {
        let mut random = Random(0x1A7C_4E11);
        let (mut accepted, mut refused) = (0, 0);
        for _ in 0..100_000 {
            let input = random.mutated(&SAMPLES, &PIECES);
            let text = input.escape_ascii();
            let whole = understand([&*input]);
            let (before, behind) = input.split_at(random.below(input.len() + 1));
            for cut in [understand([before, behind]), understand(input.chunks(1 + random.below(5)))] {
                assert_eq!(format!("{:?}", cut.requests), format!("{:?}", whole.requests), "{text}");
                assert_eq!(cut.is_refused, whole.is_refused, "{text}");
            }
            if !whole.is_refused {
                let taken = understand([&input[..input.len() - whole.rest.len()]]);
                assert_eq!(format!("{:?}", taken.requests), format!("{:?}", whole.requests), "{text}");
                assert!(taken.rest.is_empty() && !taken.is_refused, "{text}");
            }
            accepted += whole.requests.len();
            refused += usize::from(whole.is_refused);
        }
        assert!(accepted > 50_000 && refused > 20_000, "{accepted} accepted, {refused} refused: mutate otherwise");
    }
}
