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
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rouille::{Request, Response};
use rustix::event::{PollFd, PollFlags, poll};

pub use connection::Peer;
use connection::Phase;

/// How many connections may wait to be accepted. With 128, which `std` asks for, a burst of clients overflows it, and
/// they try again after a second.
const BACKLOG: u16 = 1024;
/// What a thread has, and so a handler but for a few KiB: little, since there are many.
const STACK_BYTES: usize = 256 * 1024;
/// How long a thread without a connection waits for one: threads that are used again halve the cost of a connection.
const THREAD_IDLE_TIME: Duration = Duration::from_secs(5);
/// How long a new connection may wait for those that are evicted for it to leave.
const ROOM_TIME: Duration = Duration::from_millis(100);
/// How long accepting rests where descriptors or memory are short.
const SHORTAGE_TIME: Duration = Duration::from_millis(20);
/// How many connections that were turned away are kept, so that their clients can read why.
const KEPT_AWAY: usize = 64;
/// From the stop on: when idle connections are closed, on which a request may be coming still; when what is left is
/// refused; when the listener leaves.
const STOP_IDLE_TIME: Duration = Duration::from_secs(1);
const STOP_REFUSE_TIME: Duration = Duration::from_secs(9);
const STOP_LEAVE_TIME: Duration = Duration::from_millis(9_500);

/// A head's fields, name and value, in order.
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
pub struct Stopper(Arc<PipeWriter>);

impl Stopper {
    /// Begins the stop and returns at once. A second call changes nothing.
    pub fn stop(&self) {
        // Fails where the listener is gone.
        let _ = (&*self.0).write(b"!");
    }
}

/// A bound socket, ready to serve.
#[derive(Debug)]
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
        socket2::SockRef::from(&socket).listen(BACKLOG.into())?;
        socket.set_nonblocking(true)?;
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

    /// Serves until it is stopped. `handle` gets the requests, many at once, each on its connection's thread. What has
    /// no answer by it is worded by `refuse`, which gets the request's fields as far as they were understood.
    ///
    /// After the stop no connection is accepted; requests that were are answered, or refused where that takes over
    /// 9 s. Returns within 10 s of the stop, even where a handler does not.
    pub fn run<H, R>(self, settings: Settings, handle: H, refuse: R)
    where
        H: Fn(&Request, &Peer) -> Response + Send + Sync + 'static,
        R: Fn(Refusal, SocketAddr, &[(String, String)]) -> Response + Send + Sync + 'static,
    {
        let server = Arc::new(Server {
            settings,
            handle: Box::new(handle),
            refuse: Box::new(refuse),
            is_stopping: AtomicBool::default(),
            state: Mutex::default(),
            room: Condvar::default(),
            work: Condvar::default(),
        });
        self.accept(&server);
        // Before any client is told to close: who then connects again is refused, and not accepted by nobody.
        drop(self.socket);
        server.drain();
    }

    /// Accepts connections until the stop. No error ends it.
    fn accept(&self, server: &Arc<Server>) {
        let mut sources = [PollFd::new(&self.stop, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
        let mut is_stopped = false;
        while !is_stopped {
            let _ = poll(&mut sources, None);
            is_stopped = sources.first().is_some_and(|stop| !stop.revents().is_empty());
            // So many at most, so that a stop is seen however fast clients come.
            for _ in 0..BACKLOG {
                match self.socket.accept() {
                    Ok((stream, address)) => server.admit(Peer::new(stream, address)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // A client that has gone already.
                    Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                    Err(_) => {
                        server.evict(&server.state());
                        thread::sleep(SHORTAGE_TIME);
                    }
                }
            }
        }
    }
}

/// What the listener's thread and those of the connections share.
struct Server {
    settings: Settings,
    handle: Box<Handle>,
    refuse: Box<Refuse>,
    is_stopping: AtomicBool,
    state: Mutex<State>,
    /// Told when a connection has left.
    room: Condvar,
    /// Told when a connection is in the queue.
    work: Condvar,
}

#[derive(Default)]
struct State {
    open: Vec<Arc<Peer>>,
    /// Open connections that have no thread yet.
    queue: VecDeque<Arc<Peer>>,
    idle_threads: usize,
    turned_away: VecDeque<Arc<Peer>>,
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The application's words for a refusal; none, should it panic.
    fn refuse(&self, refusal: Refusal, address: SocketAddr, headers: &Headers) -> Response {
        catch_unwind(AssertUnwindSafe(|| (self.refuse)(refusal, address, headers)))
            .unwrap_or_else(|_| Response::text("").with_status_code(500))
    }

    /// Gives a new connection a thread, or refuses it where there is no room or no thread.
    fn admit(self: &Arc<Server>, peer: Arc<Peer>) {
        let cap = self.settings.max_connections;
        let mut state = self.state();
        if state.open.len() >= cap {
            let enough = state.open.len() - self.evict(&state);
            let is_full = |state: &mut State| state.open.len() > enough;
            state = self.room.wait_timeout_while(state, ROOM_TIME, is_full).unwrap_or_else(PoisonError::into_inner).0;
        }
        let server = Arc::clone(self);
        let spawn = || thread::Builder::new().stack_size(STACK_BYTES).spawn(move || server.work()).is_ok();
        if state.open.len() < cap && (state.idle_threads > state.queue.len() || spawn()) {
            state.open.push(Arc::clone(&peer));
            state.queue.push_back(peer);
            return self.work.notify_one();
        }
        state.turned_away.truncate(KEPT_AWAY - 1);
        state.turned_away.push_front(Arc::clone(&peer));
        drop(state);
        peer.dismiss(self, Refusal::TooManyConnections);
    }

    /// Closes those connections that have waited longest for their clients, and gives how many. Several, since one at
    /// a time would let a crowd of new ones wait for a thread to leave at each of them.
    fn evict(&self, state: &State) -> usize {
        let Settings { max_connections: cap, evict_by_address } = self.settings;
        let mut held = HashMap::<IpAddr, usize>::new();
        state.open.iter().for_each(|peer| *held.entry(peer.holder()).or_default() += 1);
        let is_fair = |peer: &Peer| !evict_by_address || held.get(&peer.holder()) <= Some(&(cap / 4));
        let mut waiting: Vec<_> = state.open.iter().filter_map(|peer| Some((peer.waits_since()?, peer))).collect();
        waiting.sort_by_key(|(since, peer)| (is_fair(peer), *since));
        let batch = waiting.iter().take((cap / 32).max(1));
        batch.filter(|(_, peer)| peer.evict(|phase| !matches!(phase, Phase::Busy | Phase::Handling(_)))).count()
    }

    /// Serves connections from the queue, until for a while there is none: the life of a thread.
    fn work(&self) {
        let mut state = self.state();
        loop {
            state.idle_threads += 1;
            let waited = self.work.wait_timeout_while(state, THREAD_IDLE_TIME, |state| state.queue.is_empty());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.idle_threads -= 1;
            let Some(peer) = state.queue.pop_front() else { return };
            drop(state);
            connection::serve(self, &peer);
            state = self.state();
            state.open.retain(|other| !Arc::ptr_eq(other, &peer));
            self.room.notify_all();
        }
    }

    /// Lets the connections end.
    fn drain(&self) {
        let stopped = Instant::now();
        self.is_stopping.store(true, Ordering::Release);
        let mut state = self.state();
        while !state.open.is_empty() && stopped.elapsed() < STOP_LEAVE_TIME {
            for peer in &state.open {
                if stopped.elapsed() >= STOP_REFUSE_TIME {
                    peer.dismiss(self, Refusal::Stopping);
                } else if stopped.elapsed() >= STOP_IDLE_TIME {
                    peer.evict(|phase| matches!(phase, Phase::Idle(_)));
                }
            }
            state = self.room.wait_timeout(state, ROOM_TIME).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
