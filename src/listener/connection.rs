//! One connection: its requests are read, handed over and answered, one after the other, until it closes.
//!
//! Two threads may want a connection: its own, and the listener's, which closes it to make room, or answers in its
//! place when the server stops. What is being done stands under a lock (`Phase`), and who changes it first has the
//! connection; so it is closed only while it waits for its client, and no request is answered twice.

use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rouille::{Request, Response};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::head::{self, Connection, Head};
use super::{Headers, Refusal, Server};

/// How long a connection may be open without a byte of a request.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// How long a request may take, from its first byte to the last of its body.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long the client may take to accept a response.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// How long a connection that closes is read on.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// How much room is made for what comes next; an idle connection keeps no more.
const READ_BYTES: usize = 4 * 1024;

/// A connection, as far as a handler may know it.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    address: SocketAddr,
    /// Nothing once the listener has taken the connection; its thread is to leave then.
    phase: Mutex<Option<Phase>>,
}

/// What is being done with a connection.
#[derive(Debug)]
pub(super) enum Phase {
    /// Its thread works, and does not wait.
    Busy,
    /// Since then it waits for the first byte of a request, or for the client to close.
    Idle(Instant),
    /// Since then a request is being read.
    Reading(Instant),
    /// A handler has this request.
    Handling(Arc<Request>),
    /// Since then a response waits for the client to read.
    Writing(Instant),
}

/// Why an exchange ends early: with a refusal, or with nothing, since the connection is closed or taken.
type Stop = Option<Refusal>;

/// Serves a connection until it is to be closed.
pub(super) fn serve(server: &Server, peer: &Peer) {
    let mut inbox = Inbox { peer, bytes: Vec::new(), since: None };
    loop {
        match exchange(server, peer, &mut inbox) {
            Ok(Connection::KeepAlive) => {}
            Ok(Connection::Close) => return inbox.linger(),
            Err(_) => return,
        }
    }
}

/// One request and its response.
fn exchange(server: &Server, peer: &Peer, inbox: &mut Inbox) -> Result<Connection, Stop> {
    let mut head = Head::default();
    if let Err(stop) = inbox.request(&mut head) {
        // After what is malformed nobody knows where the next request begins: it is the last (RFC 9112 §6.3).
        let response = server.refuse(stop.ok_or(None)?, peer.address, &head.headers);
        peer.send(&head::response(response, &head.method, Connection::Close))?;
        return Ok(Connection::Close);
    }
    let content = head.body.into_content();
    let request = Request::fake_http_from(peer.address, &head.method, head.target, head.headers, content);
    let response = answer(server, peer, request)?;
    // RFC 9112 §9.6: a server that stops says so; but what it has received it answers.
    let stops = server.is_stopping.load(Ordering::Acquire) && inbox.bytes.is_empty();
    let connection = if stops { Connection::Close } else { head.connection };
    peer.send(&head::response(response, &head.method, connection))?;
    Ok(connection)
}

/// What the handler answers. While it works, nobody takes the connection but a server that has stopped.
fn answer(server: &Server, peer: &Peer, request: Request) -> Result<Response, Stop> {
    let request = Arc::new(request);
    peer.enter(Phase::Handling(Arc::clone(&request)))?;
    let response = catch_unwind(AssertUnwindSafe(|| (server.handle)(&request, peer)));
    peer.enter(Phase::Busy)?;
    let refuse = |_| server.refuse(Refusal::HandlerPanicked, peer.address, &headers_of(&request));
    Ok(response.unwrap_or_else(refuse))
}

fn headers_of(request: &Request) -> Headers {
    request.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What has been received and not been used.
struct Inbox<'a> {
    peer: &'a Peer,
    bytes: Vec<u8>,
    /// When the request that is being read began to come.
    since: Option<Instant>,
}

impl Inbox<'_> {
    /// Reads the next request, with its body, into `head`.
    fn request(&mut self, head: &mut Head) -> Result<(), Stop> {
        self.since = (!self.bytes.is_empty()).then(Instant::now);
        self.bytes.shrink_to(READ_BYTES);
        // Parsed from its start whenever more has come: a head is too small for that to be worth an attack.
        let length = loop {
            match head.parse(&self.bytes)? {
                Some(length) => break length,
                None => self.receive()?,
            }
        };
        self.bytes.drain(..length);
        // RFC 9110 §10.1.1: not where the body comes already. One that is too large was refused instead.
        if head.expects_continue && !head.body.is_complete() && self.bytes.is_empty() {
            self.peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        loop {
            let used = head.body.read(&self.bytes)?;
            self.bytes.drain(..used);
            if head.body.is_complete() {
                return Ok(());
            }
            self.receive()?;
        }
    }

    /// Waits for more bytes, at least one.
    fn receive(&mut self) -> Result<(), Stop> {
        self.peer.enter(self.since.map_or_else(|| Phase::Idle(Instant::now()), Phase::Reading))?;
        // A request's first bytes are mostly all of it. They take one system call; their time was set once and for all.
        let is_late = self.since.is_some_and(|since| !self.peer.is_ready(PollFlags::IN, since + REQUEST_TIME));
        let count = if is_late { Ok(0) } else { self.read() };
        self.peer.enter(Phase::Busy)?;
        match (count, self.since.replace(self.since.unwrap_or_else(Instant::now))) {
            (Ok(1..), _) => Ok(()),
            (Ok(0), Some(_)) if is_late => Err(Some(Refusal::RequestTimeout)),
            // RFC 9112 §8: what is incomplete is not to be acted on.
            (Ok(0), Some(_)) => Err(Some(Refusal::BadRequest("the request is incomplete"))),
            _ => Err(None),
        }
    }

    fn read(&mut self) -> Result<usize, Errno> {
        if self.bytes.len() == self.bytes.capacity() {
            self.bytes.reserve(READ_BYTES);
        }
        let stream = &self.peer.stream;
        retry_on_intr(|| recv(stream, spare_capacity(&mut self.bytes), RecvFlags::empty()).map(|(_, count)| count))
    }

    /// Ends the connection. Closed with bytes unread, a socket is reset, and a reset takes the response from a client
    /// that has not read it yet: so they are read for a while (RFC 9112 §9.6).
    fn linger(&mut self) {
        let since = Instant::now();
        let _ = self.peer.stream.shutdown(Shutdown::Write);
        let is_ours = self.peer.enter(Phase::Idle(since)).is_ok();
        while is_ours && self.peer.is_ready(PollFlags::IN, since + LINGER_TIME) {
            self.bytes.clear();
            if !matches!(self.read(), Ok(1..)) {
                return;
            }
        }
    }
}

impl Peer {
    /// The address and port at the other end of the socket: the last proxy's, where there is one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the client has closed or reset the connection, so that an answer would reach nobody. One system call,
    /// which never waits. A client that closes only its sending side, as few do, looks the same.
    pub fn is_gone(&self) -> bool {
        self.is_ready(PollFlags::RDHUP, Instant::now())
    }

    /// A connection that has just been accepted.
    pub(super) fn new(stream: TcpStream, address: SocketAddr) -> Arc<Peer> {
        // Where they fail the connection is slower, or idle for longer; the cap holds all the same.
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(IDLE_TIME));
        Arc::new(Peer { stream, address, phase: Mutex::new(Some(Phase::Idle(Instant::now()))) })
    }

    /// Who holds the connection: an IPv4 address, or the /64 of an IPv6 one, which is a single customer's.
    pub(super) fn holder(&self) -> IpAddr {
        match self.address.ip().to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
            v4 => v4,
        }
    }

    fn phase(&self) -> MutexGuard<'_, Option<Phase>> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the connection's own thread does from now on, unless the connection was taken from it.
    fn enter(&self, next: Phase) -> Result<(), Stop> {
        self.phase().as_mut().map(|phase| *phase = next).ok_or(None)
    }

    /// Since when the connection has waited for its client, if it does.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        match *self.phase() {
            Some(Phase::Idle(since) | Phase::Reading(since) | Phase::Writing(since)) => Some(since),
            _ => None,
        }
    }

    /// Closes the connection, if `may` says so of what is being done, and wakes its thread to find it closed.
    pub(super) fn evict(&self, may: impl FnOnce(&Phase) -> bool) -> bool {
        let taken = self.phase().take_if(|phase| may(phase));
        taken.map(|_| self.stream.shutdown(Shutdown::Both)).is_some()
    }

    /// Refuses the request in place of the connection's thread, without waiting. Does nothing where a response is on
    /// its way already.
    pub(super) fn dismiss(&self, server: &Server, refusal: Refusal) {
        let (method, headers) = match self.phase().take_if(|phase| !matches!(phase, Phase::Busy | Phase::Writing(_))) {
            None => return,
            Some(Phase::Handling(request)) => (request.method().to_owned(), headers_of(&request)),
            Some(_) => (String::new(), Headers::new()),
        };
        let response = server.refuse(refusal, self.address, &headers);
        let _ = self.send_now(&head::response(response, &method, Connection::Close));
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Sends all of `bytes`, mostly at once.
    fn send(&self, bytes: &[u8]) -> Result<(), Stop> {
        let mut rest = self.send_now(bytes)?;
        if rest.is_empty() {
            return Ok(());
        }
        // Not by a blocking write: one whose time is over tells of the part that is written, and the next begins anew.
        let since = Instant::now();
        self.enter(Phase::Writing(since))?;
        while !rest.is_empty() && self.is_ready(PollFlags::OUT, since + WRITE_TIME) {
            rest = self.send_now(rest)?;
        }
        self.enter(Phase::Busy)?;
        if rest.is_empty() { Ok(()) } else { Err(None) }
    }

    /// Sends what there is room for, and gives the rest.
    fn send_now<'b>(&self, bytes: &'b [u8]) -> Result<&'b [u8], Stop> {
        match send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => Ok(bytes.get(count..).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(bytes),
            Err(_) => Err(None),
        }
    }

    /// Waits until `deadline` for what `flags` say, or for the connection's end.
    fn is_ready(&self, flags: PollFlags, deadline: Instant) -> bool {
        let poll_once = || {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
            poll(&mut [PollFd::new(&self.stream, flags)], left.as_ref())
        };
        retry_on_intr(poll_once).is_ok_and(|ready| ready > 0)
    }
}
