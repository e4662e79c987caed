//! One connection: its requests are read, handed over and answered, one after the other, until it closes.
//!
//! Two threads may want a connection: its own, and the listener's, which closes it to make room, or answers in its
//! place when the server stops. What is being done stands under a lock (`Phase`), and who changes it first has the
//! connection; so it is closed only while it waits for its client, and no request is answered twice.

use std::mem::take;
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rouille::{Request, Response};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::admission::Server;
use super::head::Head;
use super::response;
use super::{HANDLER_TIME, Headers, HttpError, RejectedRequest};

/// How long a connection may be open without a byte of a request: longer than the 60 s of nginx and most balancers, so
/// that they close first and send no request into a connection that is about to end.
const IDLE_TIME: Duration = Duration::from_secs(75);
/// How long a request may take from its first byte to its last; and the same for a response.
const MESSAGE_TIME: Duration = Duration::from_secs(10);
/// How long a connection that closes is read on.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// How much is read at once; an idle connection keeps no more.
const READ_BYTES: usize = 4 * 1024;
/// How much the operating system holds of a response; left alone, it is some MiB for each client that never reads.
const SEND_BYTES: usize = 64 * 1024;

/// A connection, as far as a handler may know it.
pub struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    /// Nothing once the listener has taken the connection; its thread is to leave then.
    phase: Mutex<Option<Phase>>,
    /// What the handler of this exchange has left in `set_request_id`.
    request_id: Mutex<Option<u128>>,
}

/// What counts as one client: an IPv4 address, also where it came mapped into IPv6, or the /64 that one IPv6 customer has.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// What is being done with a connection.
pub(super) enum Phase {
    /// Its thread works, and does not wait.
    Busy,
    /// Since then it waits for the first byte of a request, or for the client to close.
    Idle(Instant),
    /// Since then a request is being read.
    Reading(Instant),
    /// Since then a handler has this request.
    Handling(Instant, Arc<Request>),
    /// Since then a response waits for the client to read.
    Writing(Instant),
}

/// Why an exchange ends early: with a refusal, or with nothing, since the connection is closed or taken.
type Stop = Option<HttpError>;

/// Serves a connection until it is to be closed.
pub(super) fn serve(server: &Server, peer: &Connection) {
    let mut conversation = ConnectionLoop { server, peer, bytes: Vec::new(), since: None };
    while conversation.exchange().is_ok() {}
}

/// What a connection's thread knows of it.
struct ConnectionLoop<'a> {
    server: &'a Server,
    peer: &'a Connection,
    /// What has been received and not been used.
    bytes: Vec<u8>,
    /// When the request that is being read began to come.
    since: Option<Instant>,
}

impl ConnectionLoop<'_> {
    /// One request and its response. An error where there is to be no other.
    fn exchange(&mut self) -> Result<(), Stop> {
        let mut head = Head::default();
        if let Err(stop) = self.request(&mut head) {
            // After what is malformed nobody knows where the next request begins: it is the last (RFC 9112 §6.3).
            let response = self.peer.reject(self.server, stop.ok_or(None)?, &head.method, &head.headers);
            // Nothing of the request stays in memory while the connection lingers.
            head = Head { method: head.method, ..Head::default() };
            return self.respond(response, &head);
        }
        let (target, headers, body) = (take(&mut head.target), take(&mut head.headers), take(&mut head.body));
        let request = Arc::new(Request::fake_http_from(self.peer.address, &head.method, target, headers, body.content));
        self.peer.enter(Phase::Handling(Instant::now(), Arc::clone(&request)))?;
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.server.handle)(&request, self.peer)));
        self.peer.enter(Phase::Busy)?;
        let response = outcome.unwrap_or_else(|_| {
            self.peer.reject(self.server, HttpError::HandlerPanicked, request.method(), &headers_of(&request))
        });
        drop(request);
        // RFC 9112 §9.6: a server that stops says so; but what it has received it answers.
        head.keep_alive &= !self.server.is_stopping.load(Ordering::Acquire) || !self.bytes.is_empty();
        self.respond(response, &head)
    }

    /// Reads the next request, with its body, into `head`.
    fn request(&mut self, head: &mut Head) -> Result<(), Stop> {
        *self.peer.request_id() = None;
        self.since = (!self.bytes.is_empty()).then(Instant::now);
        self.bytes.shrink_to(READ_BYTES);
        // Read from its start whenever more has come: a head is too small for that to be worth an attack.
        while !head.read(&mut self.bytes)? {
            self.receive()?;
        }
        // RFC 9110 §10.1.1: not where the body comes already. One that is too large was refused instead.
        if head.expects_continue && self.bytes.is_empty() {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        while !head.body.read(&mut self.bytes)? {
            self.receive()?;
        }
        Ok(())
    }

    /// Waits for more bytes, at least one.
    fn receive(&mut self) -> Result<(), Stop> {
        match self.since {
            // The first bytes are mostly the whole request, and take one system call: their time was set once.
            None => self.peer.enter(Phase::Idle(Instant::now()))?,
            Some(since) => self.wait(Phase::Reading(since), PollFlags::IN, since + MESSAGE_TIME)?,
        }
        let count = self.read();
        self.peer.enter(Phase::Busy)?;
        self.since = self.since.or_else(|| Some(Instant::now()));
        // RFC 9112 §8: what ends early is not acted on, and need not be answered.
        count.ok().filter(|&count| count > 0).map(drop).ok_or(None)
    }

    fn read(&mut self) -> Result<usize, Errno> {
        let mut chunk = [0; READ_BYTES];
        let (_, count) = retry_on_intr(|| recv(&self.peer.stream, &mut chunk, RecvFlags::empty()))?;
        self.bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
        Ok(count)
    }

    /// Sends a response, and ends the connection where that is meant.
    fn respond(&mut self, response: Response, head: &Head) -> Result<(), Stop> {
        self.send(&response::written(response, head))?;
        if head.keep_alive { Ok(()) } else { self.linger() }
    }

    /// Sends all of `bytes`, mostly at once.
    fn send(&self, bytes: &[u8]) -> Result<(), Stop> {
        let mut rest = self.peer.send_now(bytes)?;
        let since = Instant::now();
        while !rest.is_empty() {
            // Not by a blocking write: when its time is over it tells of the part that went, and the next begins anew.
            self.wait(Phase::Writing(since), PollFlags::OUT, since + MESSAGE_TIME)?;
            rest = self.peer.send_now(rest)?;
        }
        Ok(())
    }

    /// Closes the sending side and reads on for a while. Closed with bytes unread a socket is reset, and a reset takes
    /// the response from a client that has not read it yet (RFC 9112 §9.6).
    fn linger(&mut self) -> Result<(), Stop> {
        let since = Instant::now();
        let _ = self.peer.stream.shutdown(Shutdown::Write);
        self.peer.enter(Phase::Idle(since))?;
        while self.peer.is_ready(PollFlags::IN, since + LINGER_TIME) && matches!(self.read(), Ok(1..)) {
            self.bytes.clear();
        }
        Err(None)
    }

    /// Waits for what `flags` say, in this phase.
    fn wait(&self, phase: Phase, flags: PollFlags, deadline: Instant) -> Result<(), Stop> {
        self.peer.enter(phase)?;
        let is_ready = self.peer.is_ready(flags, deadline);
        self.peer.enter(Phase::Busy)?;
        is_ready.then_some(()).ok_or(Some(HttpError::RequestTimeout))
    }
}

impl Phase {
    /// Whether no response is on its way, so that one can be sent in the place of the connection's thread.
    pub(super) fn is_unanswered(&self) -> bool {
        !matches!(self, Phase::Busy | Phase::Writing(_))
    }

    /// Whether the connection waits for its client.
    pub(super) fn is_waiting(&self) -> bool {
        !matches!(self, Phase::Busy | Phase::Handling(..))
    }

    /// Whether a handler has had its request for too long.
    pub(super) fn is_overdue(&self) -> bool {
        matches!(self, Phase::Handling(since, _) if since.elapsed() >= HANDLER_TIME)
    }
}

fn headers_of(request: &Request) -> Headers {
    request.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl Connection {
    /// The address and port at the other end of the socket: the last proxy's, where there is one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the client has closed or reset the connection, so that an answer would reach nobody. One system call,
    /// which never waits. A client that closes only its sending side, as few do, looks the same; one that has sent
    /// another request before it left looks as if it were there.
    pub fn is_gone(&self) -> bool {
        let peeked = recv(&self.stream, &mut [0], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        !matches!(peeked, Ok((_, 1..)) | Err(Errno::AGAIN | Errno::INTR))
    }

    /// Leaves the id of the request that the handler works on, so that a rejection in the handler's place can name it.
    pub fn set_request_id(&self, id: u128) {
        *self.request_id() = Some(id);
    }

    /// Whether the request was answered in the handler's place. The handler then begins nothing more: nobody would
    /// learn of it.
    pub fn is_answered(&self) -> bool {
        self.phase().is_none()
    }

    /// Makes sure that the handler's answer is the one that is sent: from now on none is sent in its place. `false`
    /// where one was already.
    pub fn claim_answer(&self) -> bool {
        self.enter(Phase::Busy).is_ok()
    }

    /// A connection that has just been accepted.
    pub(super) fn new(stream: TcpStream, address: SocketAddr) -> Arc<Connection> {
        // Where they fail the connection costs more time or memory; the cap holds all the same.
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(IDLE_TIME));
        let _ = socket2::SockRef::from(&stream).set_send_buffer_size(SEND_BYTES);
        let phase = Mutex::new(Some(Phase::Idle(Instant::now())));
        Arc::new(Connection { stream, address, phase, request_id: Mutex::default() })
    }

    /// The network that holds the connection.
    pub(super) fn holder(&self) -> IpAddr {
        network(self.address.ip())
    }

    fn phase(&self) -> MutexGuard<'_, Option<Phase>> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request_id(&self) -> MutexGuard<'_, Option<u128>> {
        self.request_id.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Whether a handler has had the request for too long.
    pub(super) fn is_overdue(&self) -> bool {
        self.phase().as_ref().is_some_and(Phase::is_overdue)
    }

    /// Answers in place of the connection's thread, if `may` says so of what is being done. Does not wait; the
    /// connection's thread closes it, as soon as it is back from the handler.
    pub(super) fn dismiss(&self, server: &Server, error: HttpError, may: impl FnOnce(&Phase) -> bool) -> bool {
        let (method, headers) = match self.phase().take_if(|phase| may(phase)) {
            None => return false,
            Some(Phase::Handling(_, request)) => (request.method().to_owned(), headers_of(&request)),
            Some(_) => (String::new(), Headers::new()),
        };
        let response = self.reject(server, error, &method, &headers);
        let _ = self.send_now(&response::written(response, &Head { method, ..Head::default() }));
        let _ = self.stream.shutdown(Shutdown::Write);
        true
    }

    /// The application's words for an error.
    fn reject(&self, server: &Server, error: HttpError, method: &str, headers: &Headers) -> Response {
        let request_id = *self.request_id();
        server.reject(&RejectedRequest { error, address: self.address, method, headers, request_id })
    }

    /// Sends what there is room for, and gives the rest.
    fn send_now<'b>(&self, bytes: &'b [u8]) -> Result<&'b [u8], Stop> {
        match send(&self.stream, bytes, SendFlags::DONTWAIT) {
            Ok(count) => Ok(bytes.get(count..).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => Ok(bytes),
            Err(_) => Err(None),
        }
    }

    /// Waits until `deadline` for what `flags` say, or for the connection's end. `false` once it has passed, even where
    /// more bytes are there: else a client that never stops sending would be waited for without end.
    fn is_ready(&self, flags: PollFlags, deadline: Instant) -> bool {
        let poll_once = || {
            let left = deadline.checked_duration_since(Instant::now()).ok_or(Errno::TIMEDOUT)?;
            poll(&mut [PollFd::new(&self.stream, flags)], Timespec::try_from(left).ok().as_ref())
        };
        retry_on_intr(poll_once).is_ok_and(|ready| ready > 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on must fail at once")]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_deadline_that_has_passed_ends_a_wait_even_while_bytes_come() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, address) = listener.accept().unwrap();
        let connection = Connection::new(stream, address);
        client.write_all(b"x").unwrap();
        assert!(connection.is_ready(PollFlags::IN, Instant::now() + LINGER_TIME));
        assert!(!connection.is_ready(PollFlags::IN, Instant::now()));
    }
}
