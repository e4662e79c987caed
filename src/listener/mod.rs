//! A blocking HTTP/1.1 server: one thread for each open connection, up to a cap. Being written; the interface stands.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a `Listener` is told about its surroundings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The most connections that are open at once.
    pub max_connections: usize,
    /// Whether an address that holds more than a quarter of the cap is the first to lose connections; `false` behind
    /// a proxy, where all connections come from one address.
    pub evict_by_address: bool,
}

/// Why a request gets no handler's answer. The application owns the status and the words; the comments give the usual
/// status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400: malformed or ambiguous; the text says how, for the log.
    BadRequest(&'static str),
    /// 408: the request took longer than its deadline.
    RequestTimeout,
    /// 413: the body is too large.
    BodyTooLarge,
    /// 414: the request target is too long.
    TargetTooLong,
    /// 417: an expectation other than `100-continue`.
    ExpectationFailed,
    /// 431: the head is too large or has too many fields.
    HeadTooLarge,
    /// 500: the handler panicked.
    HandlerPanicked,
    /// 501: a transfer coding other than `chunked`.
    NotImplemented,
    /// 503: every connection up to the cap is busy.
    TooManyConnections,
    /// 503: the server stops and the request was not done in time.
    Stopping,
    /// 505: not HTTP/1.
    VersionNotSupported,
}

/// What a handler may know of the connection that its request came by.
#[derive(Debug)]
pub struct Peer {
    address: SocketAddr,
}

impl Peer {
    /// The client's address and port, as the socket has it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the client has closed or reset the connection.
    pub fn is_gone(&self) -> bool {
        false
    }
}

/// Stops a `Listener` from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    stopped: Arc<AtomicBool>,
}

impl Stopper {
    /// Begins the stop and returns at once.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }
}

/// A bound socket that is ready to serve.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

impl Listener {
    /// A listener on `address`; port 0 takes any free one.
    ///
    /// # Errors
    /// What the operating system says against the address.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        Ok(Listener {
            listener,
            address,
            stopped: Arc::default(),
        })
    }

    /// The address that is listened on, with the port that was chosen.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// A handle that ends `run`.
    pub fn stopper(&self) -> Stopper {
        Stopper {
            stopped: Arc::clone(&self.stopped),
        }
    }

    /// Serves until it is stopped, then lets what was accepted be answered; returns within 10 s of the stop.
    pub fn run<H, R>(self, settings: Settings, handle: H, refuse: R)
    where
        H: Fn(&rouille::Request, &Peer) -> rouille::Response + Send + Sync + 'static,
        R: Fn(Refusal, SocketAddr, &[(String, String)]) -> rouille::Response
            + Send
            + Sync
            + 'static,
    {
        let _ = (settings, handle, refuse, self.listener);
    }
}
