//! One connection: requests are read, handed over and answered, one after the other, until it closes.
//!
//! Two threads may want a connection: its own, and the listener's, which evicts it when room is needed or answers in
//! its place when the server stops. What it is doing (`Phase`) stands under a lock, and whoever changes it first wins:
//! a connection is evicted only while it waits for its client, never while a request is being worked on.

use std::io::Read;
use std::mem;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rouille::{Request, Response};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::body::Body;
use super::head::{self, Connection, Head, Rejected, Search};
use super::{Headers, Refusal, Server};

/// How long a connection may be open without a byte of a request.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// How long a request may take from its first byte to its last.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// How long a response may take.
const WRITE_TIME: Duration = Duration::from_secs(10);
/// How long, and for how many bytes, a closing connection is read on, see `Inbox::linger`.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 * 1024 * 1024;
/// How much room is made for a read.
const READ_BYTES: usize = 4 * 1024;

/// What a handler may know of the connection that its request came by.
#[derive(Debug)]
pub struct Peer {
    link: Arc<Link>,
}

impl Peer {
    /// The client's address and port, as the socket has it: the last proxy's, where there is one.
    pub fn address(&self) -> SocketAddr {
        self.link.address
    }

    /// Whether the client has closed or reset the connection, so that an answer would reach nobody. One system call,
    /// which never waits. A client that has only closed its sending side looks the same.
    pub fn is_gone(&self) -> bool {
        self.link.is_ready(PollFlags::RDHUP, Instant::now())
    }
}

/// A socket and what is being done with it.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    address: SocketAddr,
    phase: Mutex<Phase>,
}

/// What a connection is doing.
#[derive(Debug)]
enum Phase {
    /// Its thread works for it without waiting.
    Busy,
    /// Nothing of a request has come since then, or the connection is about to close.
    Idle(Instant),
    /// It waits for the rest of a request that began then.
    Reading(Instant),
    /// A handler works on this request.
    Handling(Arc<Request>),
    /// It waits for the client to take a response that was ready then.
    Writing(Instant),
    /// The listener has taken it from its thread, which is to leave it alone.
    Taken,
}

impl Phase {
    fn waits_since(&self) -> Option<Instant> {
        match *self {
            Phase::Idle(since) | Phase::Reading(since) | Phase::Writing(since) => Some(since),
            Phase::Busy | Phase::Handling(_) | Phase::Taken => None,
        }
    }
}

/// The connection is closed or no longer ours: there is nobody to answer.
#[derive(Debug)]
struct Closed;

/// Why there is no request.
#[derive(Debug)]
enum NoRequest {
    Closed,
    Rejected(Rejected),
}

impl From<Closed> for NoRequest {
    fn from(_: Closed) -> NoRequest {
        NoRequest::Closed
    }
}

impl From<Refusal> for NoRequest {
    fn from(refusal: Refusal) -> NoRequest {
        NoRequest::Rejected(refusal.into())
    }
}

impl From<Rejected> for NoRequest {
    fn from(rejected: Rejected) -> NoRequest {
        NoRequest::Rejected(rejected)
    }
}

/// Serves a connection until it is to be closed.
pub(super) fn serve(server: &Server, link: &Arc<Link>) {
    let peer = Peer { link: Arc::clone(link) };
    let mut inbox = Inbox { link, bytes: Vec::new(), since: None };
    while exchange(server, &peer, &mut inbox).is_ok() {}
}

/// One request and its response; `Closed` where there is to be no other.
fn exchange(server: &Server, peer: &Peer, inbox: &mut Inbox) -> Result<(), Closed> {
    let (head, content) = match inbox.request() {
        Ok(request) => request,
        Err(NoRequest::Closed) => return Err(Closed),
        Err(NoRequest::Rejected(rejected)) => {
            // Where one request is malformed nobody knows where the next begins: never go on (RFC 9112 §6.3).
            let response = server.refuse(rejected.refusal, inbox.link.address, &rejected.headers);
            inbox.link.send(&to_bytes(response, &rejected.method, Connection::Close))?;
            return Err(inbox.linger());
        }
    };
    let asked = head.connection;
    let request =
        Arc::new(Request::fake_http_from(inbox.link.address, head.method, head.target, head.headers, content));
    let response = answer(server, peer, &request)?;
    // Who stops says so (RFC 9112 §9.6), but answers first what has already been received.
    let stops = server.is_stopping() && inbox.bytes.is_empty();
    let connection = if stops { Connection::Close } else { asked };
    let bytes = to_bytes(response, request.method(), connection);
    drop(request);
    inbox.link.send(&bytes)?;
    match connection {
        Connection::Close if asked == Connection::Close && inbox.bytes.is_empty() => Err(Closed),
        Connection::Close => Err(inbox.linger()),
        Connection::Keep | Connection::KeepAndSay => Ok(()),
    }
}

/// The handler's response. While it works nobody but a stopping server may take the connection away.
fn answer(server: &Server, peer: &Peer, request: &Arc<Request>) -> Result<Response, Closed> {
    peer.link.enter(Phase::Handling(Arc::clone(request)))?;
    let response = catch_unwind(AssertUnwindSafe(|| (server.handle)(request, peer)));
    peer.link.enter(Phase::Busy)?;
    Ok(response.unwrap_or_else(|_| server.refuse(Refusal::HandlerPanicked, peer.address(), &headers_of(request))))
}

fn headers_of(request: &Request) -> Headers {
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    request.headers().map(owned).collect()
}

/// A response as one piece of memory, so that it takes one send: two would wait for each other's acknowledgement, or,
/// with `TCP_NODELAY`, cost a quarter of the throughput.
fn to_bytes(response: Response, method: &str, connection: Connection) -> Vec<u8> {
    let (mut reader, size) = response.data.into_reader_and_size();
    let mut content = Vec::with_capacity(size.unwrap_or(0));
    let status = match reader.read_to_end(&mut content) {
        Ok(_) if (200..=599).contains(&response.status_code) => response.status_code,
        _ => 500,
    };
    head::response(status, &response.headers, &content, method, connection)
}

/// What has been received and not yet been used.
struct Inbox<'a> {
    link: &'a Link,
    bytes: Vec<u8>,
    /// When the first byte of the request came that is being read.
    since: Option<Instant>,
}

impl Inbox<'_> {
    /// The next request and its body, from what is here already and what the client sends.
    fn request(&mut self) -> Result<(Head, Vec<u8>), NoRequest> {
        if self.bytes.is_empty() {
            self.bytes.shrink_to(READ_BYTES);
            self.since = None;
        } else {
            self.since = Some(Instant::now());
        }
        let head = self.head()?;
        match self.body(&head) {
            Ok(content) => Ok((head, content)),
            Err(NoRequest::Rejected(why)) => Err(head.rejected(why.refusal).into()),
            Err(NoRequest::Closed) => Err(NoRequest::Closed),
        }
    }

    fn head(&mut self) -> Result<Head, NoRequest> {
        let mut search = Search::default();
        loop {
            if let Some(length) = search.head_length(&self.bytes)? {
                let head = head::parse(self.bytes.get(..length).unwrap_or_default())?;
                self.bytes.drain(..length);
                return Ok(head);
            }
            self.receive()?;
        }
    }

    fn body(&mut self, head: &Head) -> Result<Vec<u8>, NoRequest> {
        let mut body = Body::new(head.framing)?;
        // RFC 9110 §10.1.1: not where the body is on its way already. One that is too large was refused instead.
        if head.expects_continue && !body.is_complete() && self.bytes.is_empty() {
            self.link.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        loop {
            let used = body.read(&self.bytes)?;
            self.bytes.drain(..used);
            if body.is_complete() {
                return Ok(body.into_content());
            }
            self.receive()?;
        }
    }

    /// Waits for bytes, at least one.
    fn receive(&mut self) -> Result<(), NoRequest> {
        let Some(since) = self.since else {
            return self.receive_first();
        };
        self.link.enter(Phase::Reading(since))?;
        let is_ready = self.link.is_ready(PollFlags::IN, since + REQUEST_TIME);
        let count = if is_ready { self.read() } else { Ok(0) };
        self.link.enter(Phase::Busy)?;
        match count {
            _ if !is_ready => Err(Refusal::RequestTimeout.into()),
            // RFC 9112 §8: an incomplete request is not to be acted on.
            Ok(0) => Err(Refusal::BadRequest("the request ends early").into()),
            Ok(_) => Ok(()),
            Err(_) => Err(NoRequest::Closed),
        }
    }

    /// As `receive`, for the first bytes of a request. Usually they are all of it; so this does with one system call,
    /// for which the socket's own timeout was set once.
    fn receive_first(&mut self) -> Result<(), NoRequest> {
        self.link.enter(Phase::Idle(Instant::now()))?;
        let count = self.read();
        self.link.enter(Phase::Busy)?;
        if !count.is_ok_and(|count| count > 0) {
            return Err(NoRequest::Closed);
        }
        self.since = Some(Instant::now());
        Ok(())
    }

    fn read(&mut self) -> Result<usize, Errno> {
        if self.bytes.len() == self.bytes.capacity() {
            self.bytes.reserve(READ_BYTES);
        }
        let stream = &self.link.stream;
        retry_on_intr(|| recv(stream, spare_capacity(&mut self.bytes), RecvFlags::empty())).map(|(_, count)| count)
    }

    /// Closes the sending side and reads on for a while. A socket that is closed with bytes unread is reset, and a
    /// reset takes from the client the response that it has not read yet (RFC 9112 §9.6).
    fn linger(&mut self) -> Closed {
        let since = Instant::now();
        let mut left = LINGER_BYTES;
        if self.link.stream.shutdown(Shutdown::Write).is_err() || self.link.enter(Phase::Idle(since)).is_err() {
            return Closed;
        }
        while left > 0 && self.link.is_ready(PollFlags::IN, since + LINGER_TIME) {
            self.bytes.clear();
            match self.read() {
                Ok(count) if count > 0 => left = left.saturating_sub(count),
                _ => return Closed,
            }
        }
        Closed
    }
}

impl Link {
    /// A connection that has just been accepted.
    pub(super) fn new(stream: TcpStream, address: SocketAddr) -> Link {
        // Should one of them fail, the connection is slow or stays longer; the cap holds all the same.
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(IDLE_TIME));
        Link { stream, address, phase: Mutex::new(Phase::Idle(Instant::now())) }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the connection's own thread says of what it does next.
    fn enter(&self, next: Phase) -> Result<(), Closed> {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Taken) {
            return Err(Closed);
        }
        *phase = next;
        Ok(())
    }

    /// Since when the connection has waited for its client, if it does.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.phase().waits_since()
    }

    /// Whether the connection was taken from its thread, which has yet to leave.
    pub(super) fn is_taken(&self) -> bool {
        matches!(*self.phase(), Phase::Taken)
    }

    /// Closes the connection if it waits for its client, and wakes its thread to find it so.
    pub(super) fn evict(&self) -> bool {
        let is_evicted = self.take(|phase| phase.waits_since().is_some()).is_some();
        if is_evicted {
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        is_evicted
    }

    /// Closes the connection if nothing of a request has come.
    pub(super) fn evict_if_idle(&self) {
        if self.take(|phase| matches!(phase, Phase::Idle(_))).is_some() {
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }

    /// Answers with a refusal in place of the connection's thread, without waiting. Not where a response is under way.
    pub(super) fn dismiss(&self, server: &Server, refusal: Refusal) {
        let request = match self.take(|phase| !matches!(phase, Phase::Busy | Phase::Writing(_))) {
            Some(Phase::Handling(request)) => Some(request),
            Some(Phase::Idle(_) | Phase::Reading(_)) => None,
            _ => return,
        };
        let headers = request.as_deref().map(headers_of).unwrap_or_default();
        let method = request.as_deref().map_or("", Request::method);
        let response = server.refuse(refusal, self.address, &headers);
        let _ = self.send_now(&to_bytes(response, method, Connection::Close));
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Takes the connection from its thread if `may` says so of what it is doing, and tells what that was.
    fn take(&self, may: impl FnOnce(&Phase) -> bool) -> Option<Phase> {
        let mut phase = self.phase();
        may(&phase).then(|| mem::replace(&mut *phase, Phase::Taken))
    }

    /// Sends all of `bytes`, at once where the socket has room for them.
    fn send(&self, bytes: &[u8]) -> Result<(), Closed> {
        let mut rest = self.send_now(bytes)?;
        if rest.is_empty() {
            return Ok(());
        }
        let since = Instant::now();
        self.enter(Phase::Writing(since))?;
        // A blocking write whose timeout passes tells of a part written, and a second one would have all the time again.
        while !rest.is_empty() && self.is_ready(PollFlags::OUT, since + WRITE_TIME) {
            rest = self.send_now(rest)?;
        }
        self.enter(Phase::Busy)?;
        if rest.is_empty() { Ok(()) } else { Err(Closed) }
    }

    /// Sends what the socket has room for, without waiting, and gives the rest.
    fn send_now<'b>(&self, bytes: &'b [u8]) -> Result<&'b [u8], Closed> {
        match send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) => Ok(bytes.get(count..).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(bytes),
            Err(_) => Err(Closed),
        }
    }

    /// Waits until the deadline for what `flags` names, or an error or the end, which are for the caller to find.
    fn is_ready(&self, flags: PollFlags, deadline: Instant) -> bool {
        retry_on_intr(|| {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            poll(&mut [PollFd::new(&self.stream, flags)], left.as_ref())
        })
        .is_ok_and(|ready| ready > 0)
    }
}
