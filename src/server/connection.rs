//! One connection: its requests are read, handed over and answered, one after the other, until it closes.
//!
//! Two threads may act on a connection: its own, and the listener's, which closes it to make room, and answers in its
//! thread's place when a handler takes too long or the server stops. What is being done stands under a lock (`Phase`);
//! the thread that changes it first has the connection. So a connection is closed to make room only while it waits for
//! its client, and no request is answered twice.

use std::mem::take;
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rouille::{Request, Response};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::admission::Server;
use super::head::Head;
use super::response;
use super::{HttpError, RejectedRequest, lock};

/// How long a connection may be open without a byte of a request: longer than the 60 s of nginx and most balancers, so
/// that they close first and send no request into a connection that is about to end.
pub(super) const IDLE_TIME: Duration = Duration::from_secs(75);
/// How long a request may take from its first byte to its last; and the same for a response.
const MESSAGE_TIME: Duration = Duration::from_secs(10);
/// How long a connection that closes is read on.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// How much is read at once; an idle connection keeps no more.
const READ_BYTES: usize = 4 * 1024;
/// How much the operating system holds of a response; left alone, it is some MiB for each client that never reads.
pub(super) const SEND_BYTES: usize = 64 * 1024;

/// A connection, as far as a handler may know it.
pub struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    /// `None` once another thread has closed the connection or answered on it; its own is to leave then.
    phase: Mutex<Option<Phase>>,
    /// Since when a thread has been at it, if one is.
    served_since: Mutex<Option<Instant>>,
    /// Whether the next answer is the last, since others need the room.
    ends_after_answer: AtomicBool,
    /// What the handler of this exchange has left by `leave_note`.
    notes: Mutex<Vec<String>>,
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

/// Why an exchange ends early: with an error that is answered; or with none, since the connection is over or another
/// thread has answered on it.
type Stop = Option<HttpError>;

/// Serves a connection on which something has come: until it waits for its client, or is to be closed, which `false` says.
/// `buffer` is empty then.
pub(super) fn serve(server: &Server, connection: &Connection, buffer: &mut Vec<u8>) -> bool {
    let mut exchanges = ConnectionLoop { server, connection, received: take(buffer), began: None };
    *lock(&connection.served_since) = Some(Instant::now());
    let goes_on = connection.enter(Phase::Busy).is_ok()
        && loop {
            match exchanges.exchange() {
                Ok(()) if exchanges.received.is_empty() => break connection.enter(Phase::Idle(Instant::now())).is_ok(),
                Ok(()) => {}
                Err(_) => break false,
            }
        };
    *lock(&connection.served_since) = None;
    *buffer = take(&mut exchanges.received);
    buffer.clear();
    buffer.shrink_to(READ_BYTES);
    goes_on
}

/// What a connection's thread knows of it.
struct ConnectionLoop<'a> {
    server: &'a Server,
    connection: &'a Connection,
    /// What has been received and not been used.
    received: Vec<u8>,
    /// When the request that is being read began to come.
    began: Option<Instant>,
}

impl ConnectionLoop<'_> {
    /// One request and its response. An error where there is to be no other.
    fn exchange(&mut self) -> Result<(), Stop> {
        let mut head = Head::default();
        if let Err(stop) = self.request(&mut head) {
            // S39: after what is malformed nobody knows where the next request begins: it is the last (RFC 9112 §6.3).
            let response = self.connection.reject(self.server, stop.ok_or(None)?, self.began, &head);
            // Nothing of the request stays in memory while the connection lingers.
            head = Head { method: head.method, ..Head::default() };
            return self.respond(response, &head);
        }
        let response = self.handle(&mut head)?;
        // RFC 9112 §9.6: a server that stops says so; but what it has received it answers.
        let is_last = self.server.is_stopping.load(Ordering::Acquire) && self.received.is_empty();
        head.keep_alive &= !is_last && !self.connection.ends_after_answer();
        self.respond(response, &head)
    }

    /// Reads the next request, with its body, into `head`.
    fn request(&mut self, head: &mut Head) -> Result<(), Stop> {
        lock(&self.connection.notes).clear();
        self.received.shrink_to(READ_BYTES);
        self.began = (!self.received.is_empty()).then(Instant::now);
        // Read from its start whenever more has come: a head is too small for that to be worth an attack.
        while !head.read(&mut self.received)? {
            self.receive()?;
        }
        // RFC 9110 §10.1.1: not where the body comes already. One that is too large was rejected instead.
        if head.expects_continue && self.received.is_empty() {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n".into())?;
        }
        while !head.body.read(&mut self.received)? {
            self.receive()?;
        }
        Ok(())
    }

    /// The handler's response, or none where the request was answered in its place.
    fn handle(&self, head: &mut Head) -> Result<Response, Stop> {
        let (target, headers, body) = (take(&mut head.target), take(&mut head.headers), take(&mut head.body));
        let request =
            Arc::new(Request::fake_http_from(self.connection.address, &head.method, target, headers, body.content));
        let began = Instant::now();
        self.connection.enter(Phase::Handling(began, Arc::clone(&request)))?;
        // S46
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.server.handle)(&request, self.connection)));
        self.connection.enter(Phase::Busy)?;
        Ok(outcome.unwrap_or_else(|_| {
            self.connection.reject(self.server, HttpError::HandlerPanicked, Some(began), &head_of(&request))
        }))
    }

    /// Waits for more bytes, at least one.
    fn receive(&mut self) -> Result<(), Stop> {
        // The first bytes are there; mostly they are the whole request.
        if let Some(began) = self.began {
            self.wait(Phase::Reading(began), PollFlags::IN, began + MESSAGE_TIME)?;
        }
        let count = self.read();
        self.began.get_or_insert_with(Instant::now);
        // RFC 9112 §8: what ends early is not acted on, and need not be answered.
        count.ok().filter(|&count| count > 0).map(drop).ok_or(None)
    }

    fn read(&mut self) -> Result<usize, Errno> {
        self.received.reserve(READ_BYTES);
        let read = || recv(&self.connection.stream, spare_capacity(&mut self.received), RecvFlags::DONTWAIT);
        retry_on_intr(read).map(|(count, _)| count)
    }

    /// Sends a response, and ends the connection where that is meant.
    fn respond(&mut self, response: Response, head: &Head) -> Result<(), Stop> {
        self.send(response::bytes_of(response, head))?;
        if head.keep_alive { Ok(()) } else { self.linger() }
    }

    /// Sends all of `bytes`, mostly at once. While a client takes its time, only what is left stays in memory.
    fn send(&self, bytes: Vec<u8>) -> Result<(), Stop> {
        let mut rest = self.connection.send_now(&bytes)?.to_vec();
        // What fills the socket is to be taken before the next answer is made, which would only wait in memory.
        let is_long = bytes.len() > SEND_BYTES;
        drop(bytes);
        let began = Instant::now();
        while !rest.is_empty() {
            // Not by a blocking write: when its time is over it tells of the part that went, and the next begins anew.
            self.wait(Phase::Writing(began), PollFlags::OUT, began + MESSAGE_TIME)?;
            rest = self.connection.send_now(&rest)?.to_vec();
        }
        if is_long { self.wait(Phase::Writing(began), PollFlags::OUT, began + MESSAGE_TIME) } else { Ok(()) }
    }

    /// Closes the sending side and reads on for a while. Closed with bytes unread a socket is reset, and a reset takes
    /// the response from a client that has not read it yet (RFC 9112 §9.6). Not where the room is needed at once.
    fn linger(&mut self) -> Result<(), Stop> {
        let began = Instant::now();
        let deadline = if self.connection.ends_after_answer() { began } else { began + LINGER_TIME };
        let _ = self.connection.stream.shutdown(Shutdown::Write);
        self.connection.enter(Phase::Writing(began))?;
        while self.connection.is_ready(PollFlags::IN, deadline) && matches!(self.read(), Ok(1..)) {
            self.received.clear();
        }
        Err(None)
    }

    /// Waits for what `flags` say, in this phase.
    fn wait(&self, phase: Phase, flags: PollFlags, deadline: Instant) -> Result<(), Stop> {
        self.connection.enter(phase)?;
        let is_ready = self.connection.is_ready(flags, deadline);
        self.connection.enter(Phase::Busy)?;
        is_ready.then_some(()).ok_or(Some(HttpError::RequestTimeout))
    }
}

/// What a rejection needs to know of a request that a handler has.
fn head_of(request: &Request) -> Head {
    let headers = request.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Head { method: request.method().to_owned(), target: request.raw_url().to_owned(), headers, ..Head::default() }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
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

    /// Leaves a text about the request that the handler works on, for a rejection in the handler's place.
    pub fn leave_note(&self, note: String) {
        lock(&self.notes).push(note);
    }

    /// Whether the request was answered in the handler's place. The handler then begins nothing more: nobody would
    /// learn of it.
    pub fn is_answered(&self) -> bool {
        lock(&self.phase).is_none()
    }

    /// Makes sure that the handler's answer is the one that is sent: from now on none is sent in its place. `false`
    /// where one was already.
    pub fn claim_answer(&self) -> bool {
        self.enter(Phase::Busy).is_ok()
    }

    /// A connection that has just been accepted.
    pub(super) fn new(stream: TcpStream, address: SocketAddr) -> Arc<Connection> {
        let phase = Mutex::new(Some(Phase::Idle(Instant::now())));
        let (served_since, ends_after_answer, notes) = Default::default();
        Arc::new(Connection { stream, address, phase, served_since, ends_after_answer, notes })
    }

    /// What tells it from the other open ones.
    pub(super) fn descriptor(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// The network that holds the connection.
    pub(super) fn holder(&self) -> IpAddr {
        network(self.address.ip())
    }

    /// What the connection's own thread does from now on, unless another thread has ended the connection.
    fn enter(&self, next: Phase) -> Result<(), Stop> {
        lock(&self.phase).as_mut().map(|phase| *phase = next).ok_or(None)
    }

    /// Since when the connection has waited for its client, if it does.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        match *lock(&self.phase) {
            Some(Phase::Idle(since) | Phase::Reading(since) | Phase::Writing(since)) => Some(since),
            None | Some(Phase::Busy | Phase::Handling(..)) => None,
        }
    }

    /// Since when a thread has been at it, if one is.
    pub(super) fn served_since(&self) -> Option<Instant> {
        *lock(&self.served_since)
    }

    /// Whether the next answer is the last.
    pub(super) fn ends_after_answer(&self) -> bool {
        self.ends_after_answer.load(Ordering::Relaxed)
    }

    /// Closes the connection where it waits for its client, and else makes its next answer the last; `false` where it is
    /// already.
    pub(super) fn give_up(&self) -> bool {
        self.close_if(|phase| !matches!(phase, Phase::Busy | Phase::Handling(..)))
            || !self.ends_after_answer.swap(true, Ordering::Relaxed)
    }

    /// Closes the connection, if `may` says so of what is being done, and wakes its thread to find it closed.
    pub(super) fn close_if(&self, may: impl FnOnce(&Phase) -> bool) -> bool {
        let ended = lock(&self.phase).take_if(|phase| may(phase));
        ended.map(|_| self.stream.shutdown(Shutdown::Both)).is_some()
    }

    /// Answers in place of the connection's thread, if `may` says so of what is being done. Does not wait; the
    /// connection's thread closes it, as soon as it is back from the handler.
    pub(super) fn answer_instead(&self, server: &Server, error: HttpError, may: impl FnOnce(&Phase) -> bool) -> bool {
        let (began, head) = match lock(&self.phase).take_if(|phase| may(phase)) {
            None => return false,
            Some(Phase::Handling(since, request)) => (Some(since), head_of(&request)),
            Some(Phase::Reading(since)) => (Some(since), Head::default()),
            Some(_) => (None, Head::default()),
        };
        let response = self.reject(server, error, began, &head);
        let _ = self.send_now(&response::bytes_of(response, &head));
        let _ = self.stream.shutdown(Shutdown::Write);
        true
    }

    /// The application's words for an error; none, should it panic.
    fn reject(&self, server: &Server, error: HttpError, began: Option<Instant>, head: &Head) -> Response {
        let Head { method, target, headers, .. } = head;
        let (address, notes) = (self.address, lock(&self.notes).clone());
        let rejected = RejectedRequest { error, address, method, target, headers, began, notes: &notes };
        let outcome = catch_unwind(AssertUnwindSafe(|| (server.reject)(&rejected)));
        outcome.unwrap_or_else(|_| Response::text("").with_status_code(500))
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
    use super::*;
    use std::io::Write;
    use std::net::TcpListener;

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
