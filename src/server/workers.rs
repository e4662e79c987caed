//! The threads that serve connections. A connection that waits for its client has none; a thread that is done takes the
//! next connection on which something has come. So while requests are quick, few threads serve all of them: a request
//! wakes one thread and, until one is free, waits where waiting costs nothing. A thread that is held up, by the database,
//! a hash, or a client that sends or reads slowly, is made up for by another.

use std::io;
use std::mem::MaybeUninit;
use std::num::NonZero;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::PAUSE;
use super::admission::Server;
use super::connection::{self, Connection};

/// With fewer threads cores would idle while requests wait for the database; more would be in each other's way.
const THREADS_PER_CORE: usize = 3;
/// The stack of a thread, and so of a handler: little, since there may be many threads.
const STACK_BYTES: usize = 256 * 1024;
/// A request that takes longer holds its thread up.
const QUICK: Duration = Duration::from_millis(2);
/// How long a thread stays that is no longer needed; one after the other.
const STAY: Duration = Duration::from_millis(20);
/// How long a free thread waits before it looks whether it is needed.
const WAIT: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// When something has come, once: no other thread gets the connection until it is watched again.
const ONCE: EventFlags = EventFlags::IN.union(EventFlags::ONESHOT);

/// The threads, and the connections that wait for their clients.
pub(super) struct Workers {
    watched: OwnedFd,
    /// How many threads there may be, and how many there are.
    allowed: AtomicUsize,
    threads: AtomicUsize,
    /// Threads without a connection.
    free: AtomicUsize,
    manager: OnceLock<Thread>,
}

impl Workers {
    pub(super) fn new() -> io::Result<Workers> {
        let watched = epoll::create(CreateFlags::CLOEXEC)?;
        let (allowed, threads, free, manager) = Default::default();
        Ok(Workers { watched, allowed, threads, free, manager })
    }

    /// Waits for something to come on a new connection.
    pub(super) fn watch(&self, connection: &Connection) -> io::Result<()> {
        Ok(epoll::add(&self.watched, connection, key(connection), ONCE)?)
    }

    fn watch_again(&self, connection: &Connection) -> io::Result<()> {
        Ok(epoll::modify(&self.watched, connection, key(connection), ONCE)?)
    }

    /// The descriptor of a connection on which something has come.
    fn next(&self) -> Option<RawFd> {
        self.free.fetch_add(1, Ordering::AcqRel);
        let mut events = [MaybeUninit::uninit()];
        let next = epoll::wait(&self.watched, &mut events, Some(&WAIT));
        if self.free.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.wake_manager();
        }
        next.ok()?.0.first().and_then(|event| event.data.u64().try_into().ok())
    }

    pub(super) fn wake_manager(&self) {
        self.manager.get().map(Thread::unpark);
    }

    fn is_needless(&self) -> bool {
        let allowed = self.allowed.load(Ordering::Relaxed);
        let one_less = |threads| (threads > allowed).then(|| threads - 1);
        self.threads.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_less).is_ok()
    }
}

impl Server {
    /// Sees to it that there are enough threads, and not too many: the life of the thread that starts the others.
    pub(super) fn manage(self: &Arc<Server>) {
        let usual = THREADS_PER_CORE * thread::available_parallelism().map_or(1, NonZero::get);
        let workers = &self.workers;
        let _ = workers.manager.set(thread::current());
        while !self.is_over() {
            let needed = usual + self.held_up(Instant::now() - QUICK);
            let allowed = needed.max(workers.allowed.load(Ordering::Relaxed).saturating_sub(1));
            workers.allowed.store(allowed, Ordering::Relaxed);
            let is_short = !(workers.threads.load(Ordering::Acquire)..allowed).all(|_| self.start_worker());
            match workers.free.load(Ordering::Acquire) {
                0 if is_short => {
                    self.free_threads();
                    thread::sleep(PAUSE);
                }
                0 => thread::sleep(QUICK),
                _ if is_short => thread::park_timeout(PAUSE),
                _ if allowed > usual => thread::park_timeout(STAY),
                // Until a thread takes a connection and leaves none free.
                _ => thread::park(),
            }
        }
        workers.allowed.store(0, Ordering::Relaxed);
    }

    fn start_worker(self: &Arc<Server>) -> bool {
        let server = Arc::clone(self);
        let started = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || server.work()).is_ok();
        self.workers.threads.fetch_add(usize::from(started), Ordering::AcqRel);
        started
    }

    /// Serves one connection after the other.
    fn work(&self) {
        let mut buffer = Vec::new();
        while !self.workers.is_needless() {
            let Some(descriptor) = self.workers.next() else { continue };
            let Some(connection) = self.state().open.get(&descriptor).map(Arc::clone) else { continue };
            let goes_on = connection::serve(self, &connection, &mut buffer);
            if !goes_on || self.workers.watch_again(&connection).is_err() {
                self.leave(&connection);
            }
        }
    }
}

fn key(connection: &Connection) -> EventData {
    EventData::new_u64(connection.descriptor() as u64)
}
