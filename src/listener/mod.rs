//! A blocking HTTP/1.1 server: one thread for each open connection, up to a cap.
//!
//! It reads requests (`head`, `body`), hands them to a function, writes what that returns (`connection`), and stops
//! when told to. It knows nothing of what the requests are for; what it refuses it lets a second function word.
//! Nothing that a client does, or that the operating system denies, ends it. No TLS, no HTTP/2, no bodies that
//! are streamed, no connection handed on.
//!
//! Source: RFC 9110 (semantics), RFC 9112 (HTTP/1.1).

mod body;
mod connection;
mod head;

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rouille::{Request, Response};
use rustix::event::{PollFd, PollFlags, poll};

use connection::Link;
pub use connection::Peer;

/// How many connections the operating system may have made that are not accepted yet. With 128, which is what `std`
/// asks for, a burst of connections overflows it, and the clients try again after a second.
const BACKLOG: u16 = 1024;
/// A connection's thread: little, since there are many. A handler has all of it but some 8 KiB.
const STACK_BYTES: usize = 256 * 1024;
/// How long a thread without a connection waits for one. Clients that reconnect for each request cost half as much
/// this way.
const THREAD_IDLE_TIME: Duration = Duration::from_secs(5);
/// How long a new connection may wait for one that is evicted to leave.
const ROOM_TIME: Duration = Duration::from_millis(100);
/// How long accepting rests when the operating system has no descriptors or memory left.
const SHORTAGE_TIME: Duration = Duration::from_millis(20);
/// How many connections that were turned away stay open, so that their clients can read why.
const TURNED_AWAY: usize = 64;

/// From the stop on: how long idle connections stay open, since a request may be on its way; when what still runs is
/// answered by the listener; and when it gives up.
const STOP_IDLE_TIME: Duration = Duration::from_secs(1);
const STOP_ANSWER_TIME: Duration = Duration::from_secs(9);
const STOP_TIME: Duration = Duration::from_millis(9_500);

/// Names and values of a request's fields, in order.
type Headers = Vec<(String, String)>;

type Handle = dyn Fn(&Request, &Peer) -> Response + Send + Sync;
type Refuse = dyn Fn(Refusal, SocketAddr, &[(String, String)]) -> Response + Send + Sync;

/// What a `Listener` is told about its surroundings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The most connections that are open at once. Never more than half of the process's descriptors are used.
    pub max_connections: usize,
    /// Whether an address that holds more than a quarter of the cap is the first to lose connections when room is
    /// needed. `false` behind a proxy, where all connections come from one address.
    pub evict_by_address: bool,
}

/// Why a request gets an answer that no handler gave. The application chooses the words; the statuses below are those
/// that RFC 9110 and RFC 6585 name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
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
    /// 503: as many connections as there may be, and none of them waits for its client.
    TooManyConnections,
    /// 503: the server stops, and the request was not done in time.
    Stopping,
    /// 505: a version of HTTP other than 1.0 and 1.1.
    VersionNotSupported,
}

/// Stops a `Listener`, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    waker: Arc<PipeWriter>,
}

impl Stopper {
    /// Begins the stop and returns at once. A second call changes nothing.
    pub fn stop(&self) {
        // Fails only where the listener is gone, or has been woken so often that the pipe is full.
        let _ = (&*self.waker).write(b"!");
    }
}

/// A bound socket, ready to serve.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    woken: PipeReader,
    stopper: Stopper,
}

impl Listener {
    /// A listener on `address`, where port 0 means any that is free. Clients can connect from now on; they are
    /// answered once it runs.
    ///
    /// # Errors
    /// What the operating system has against the address.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        let socket = TcpListener::bind(address)?;
        socket2::SockRef::from(&socket).listen(BACKLOG.into())?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let (woken, waker) = io::pipe()?;
        let stopper = Stopper { waker: Arc::new(waker) };
        Ok(Listener { socket, address, woken, stopper })
    }

    /// The address that clients can connect to, with the port that was chosen.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// What ends `run`.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Serves until it is stopped. Requests go to `handle`, many at once, each on its connection's thread; what is
    /// not answered by it is worded by `refuse`, which gets the request's fields as far as they were understood.
    ///
    /// From the stop on no connection is accepted, what was accepted is answered, and what takes longer than 9 s is
    /// refused. Returns within 10 s of the stop, even if a handler does not return.
    pub fn run<H, R>(self, settings: Settings, handle: H, refuse: R)
    where
        H: Fn(&Request, &Peer) -> Response + Send + Sync + 'static,
        R: Fn(Refusal, SocketAddr, &[(String, String)]) -> Response + Send + Sync + 'static,
    {
        let server = Arc::new(Server {
            cap: connection_cap(settings.max_connections),
            evict_by_address: settings.evict_by_address,
            handle: Box::new(handle),
            refuse: Box::new(refuse),
            stopping: AtomicBool::new(false),
            state: Mutex::default(),
            room: Condvar::new(),
            work: Condvar::new(),
        });
        self.accept(&server);
        // Closed before any client is told to close: one that comes again at once is to be refused by the operating
        // system, rather than accepted by a socket that nobody asks any more.
        drop(self.socket);
        server.drain();
    }

    /// Accepts connections until the stop. No error ends it.
    fn accept(&self, server: &Arc<Server>) {
        let mut is_stopped = false;
        while !is_stopped {
            let mut sources = [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&self.woken, PollFlags::IN)];
            let _ = poll(&mut sources, None);
            is_stopped = sources.last().is_some_and(|woken| !woken.revents().is_empty());
            // Bounded, so that a stop is seen however fast clients come.
            for _ in 0..BACKLOG {
                match self.socket.accept() {
                    Ok((stream, address)) => server.admit(stream, address),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => server.bear(&error),
                }
            }
        }
    }
}

/// Half of the process's descriptors at most: handlers need some too.
fn connection_cap(max_connections: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let descriptors = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    max_connections.min(descriptors / 2).max(1)
}

/// What the listener's thread and those of the connections share.
struct Server {
    cap: usize,
    evict_by_address: bool,
    handle: Box<Handle>,
    refuse: Box<Refuse>,
    stopping: AtomicBool,
    state: Mutex<State>,
    /// A connection has left.
    room: Condvar,
    /// A connection is in the queue.
    work: Condvar,
}

#[derive(Default)]
struct State {
    open: Vec<Arc<Link>>,
    /// Open connections for which a waiting thread has been woken.
    queue: VecDeque<Arc<Link>>,
    idle_threads: usize,
    turned_away: VecDeque<Arc<Link>>,
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The application's wording of a refusal; a bare 500, should that panic.
    fn refuse(&self, refusal: Refusal, address: SocketAddr, headers: &Headers) -> Response {
        catch_unwind(AssertUnwindSafe(|| (self.refuse)(refusal, address, headers)))
            .unwrap_or_else(|_| Response::text("").with_status_code(500))
    }

    /// Gives a new connection a thread: one that waits, or another.
    fn admit(self: &Arc<Server>, stream: TcpStream, address: SocketAddr) {
        let link = Arc::new(Link::new(stream, address));
        let mut state = self.wait_for_room();
        if state.open.len() >= self.cap {
            drop(state);
            return self.turn_away(link);
        }
        state.open.push(Arc::clone(&link));
        if state.idle_threads > state.queue.len() {
            state.queue.push_back(link);
            self.work.notify_one();
            return;
        }
        drop(state);
        let (server, served) = (Arc::clone(self), Arc::clone(&link));
        let thread = thread::Builder::new().name("connection".to_owned()).stack_size(STACK_BYTES);
        if thread.spawn(move || server.work(served)).is_err() {
            self.state().remove(&link);
            self.turn_away(link);
        }
    }

    /// The state, with room for one more connection where that could be had by evicting others.
    fn wait_for_room(&self) -> MutexGuard<'_, State> {
        let deadline = Instant::now() + ROOM_TIME;
        let mut state = self.state();
        while state.open.len() >= self.cap && Instant::now() < deadline && self.evict(&state) {
            let woken = self.room.wait_timeout(state, ROOM_TIME);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    /// Sees to it that some connections leave, if any of them can: those that have waited longest for their clients.
    /// Some at a time: one at a time, a crowd that comes at once would wait for a thread to leave at each of them.
    fn evict(&self, state: &State) -> bool {
        if state.open.iter().any(|link| link.is_taken()) {
            return true;
        }
        let mut held = HashMap::new();
        for link in state.open.iter().filter(|_| self.evict_by_address) {
            *held.entry(holder(link.address())).or_insert(0) += 1;
        }
        let holds_much = |link: &Link| held.get(&holder(link.address())).is_some_and(|&n| n > self.cap / 4);
        let mut waiting: Vec<_> =
            state.open.iter().filter_map(|link| Some((!holds_much(link), link.waits_since()?, link))).collect();
        waiting.sort_by_key(|&(is_fair, since, _)| (is_fair, since));
        let batch = (self.cap / 32).max(1);
        waiting.iter().take(batch).filter(|(.., link)| link.evict()).count() > 0
    }

    /// Answers a connection for which there is no room or no thread.
    fn turn_away(&self, link: Arc<Link>) {
        link.dismiss(self, Refusal::TooManyConnections);
        let mut state = self.state();
        state.turned_away.push_back(link);
        if state.turned_away.len() > TURNED_AWAY {
            state.turned_away.pop_front();
        }
    }

    /// Lives with an error of accept: that of one connection is nothing; a shortage is relieved and waited out.
    fn bear(&self, error: &io::Error) {
        if !matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) {
            self.evict(&self.state());
            thread::sleep(SHORTAGE_TIME);
        }
    }

    /// The life of a connection's thread.
    fn work(&self, first: Arc<Link>) {
        let mut next = Some(first);
        while let Some(link) = next {
            connection::serve(self, &link);
            next = self.next(link);
        }
    }

    /// Closes a connection and waits for another.
    fn next(&self, done: Arc<Link>) -> Option<Arc<Link>> {
        let mut state = self.state();
        state.remove(&done);
        drop(done);
        self.room.notify_all();
        state.idle_threads += 1;
        let mut state = self
            .work
            .wait_timeout_while(state, THREAD_IDLE_TIME, |state| state.queue.is_empty())
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        state.idle_threads -= 1;
        state.queue.pop_front()
    }

    /// Lets the connections end.
    fn drain(&self) {
        let stopped = Instant::now();
        self.stopping.store(true, Ordering::Release);
        let mut state = self.state();
        while !state.open.is_empty() && stopped.elapsed() < STOP_TIME {
            for link in &state.open {
                if stopped.elapsed() >= STOP_ANSWER_TIME {
                    link.dismiss(self, Refusal::Stopping);
                } else if stopped.elapsed() >= STOP_IDLE_TIME {
                    link.evict_if_idle();
                }
            }
            let woken = self.room.wait_timeout(state, ROOM_TIME);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn remove(&mut self, link: &Arc<Link>) {
        self.open.retain(|other| !Arc::ptr_eq(other, link));
    }
}

/// Who holds a connection: an IPv4 address, or the /64 of an IPv6 address, which is one customer's.
fn holder(address: SocketAddr) -> IpAddr {
    match address.ip().to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}
