//! Which connections are open, which thread serves each, and which has to go when there is no room for another.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rouille::{Request, Response};

use super::connection::{self, Connection, Phase};
use super::{HttpError, PAUSE, RejectedRequest, Settings};

/// What a thread has, and so a handler but for a few KiB: little, since there are many.
const STACK_BYTES: usize = 256 * 1024;
/// How long a thread without a connection waits for one: threads that are used again halve the cost of a connection.
const THREAD_IDLE_TIME: Duration = Duration::from_secs(5);
/// From the stop on: when idle connections are closed, on which a request may be coming still; and when what is left is
/// refused, and has half a second to go out.
const STOP_IDLE_TIME: Duration = Duration::from_secs(1);
const STOP_REFUSE_TIME: Duration = Duration::from_secs(9);

type Handle = dyn Fn(&Request, &Connection) -> Response + Send + Sync;
type Reject = dyn Fn(&RejectedRequest<'_>) -> Response + Send + Sync;

/// What every thread has at hand.
pub(super) struct Server {
    settings: Settings,
    pub handle: Box<Handle>,
    reject: Box<Reject>,
    pub is_stopping: AtomicBool,
    state: Mutex<State>,
    /// Told when a connection has left.
    room: Condvar,
    /// Told when a connection is in the queue.
    work: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub open: Vec<Arc<Connection>>,
    /// Open connections that have no thread yet.
    queue: VecDeque<Arc<Connection>>,
    /// Threads that serve nobody, also those that have yet to start.
    free_threads: usize,
    /// Threads whose handler has not returned although its request was answered, and whose connection does not count
    /// as open any more.
    stuck_threads: usize,
}

impl Server {
    pub(super) fn new(settings: Settings, handle: Box<Handle>, reject: Box<Reject>) -> Server {
        let (state, room, work) = (Mutex::default(), Condvar::new(), Condvar::new());
        Server { settings, handle, reject, is_stopping: AtomicBool::new(false), state, room, work }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The application's words for a rejection; none, should it panic.
    pub(super) fn reject(&self, request: &RejectedRequest<'_>) -> Response {
        catch_unwind(AssertUnwindSafe(|| (self.reject)(request)))
            .unwrap_or_else(|_| Response::text("").with_status_code(500))
    }

    /// Gives a new connection a thread, or refuses it where there is no room or no thread.
    pub(super) fn admit(self: &Arc<Server>, peer: Arc<Connection>) {
        let mut state = self.state();
        if state.open.len() >= self.settings.max_connections {
            let enough = state.open.len() - self.evict(&state);
            let waited = self.room.wait_timeout_while(state, PAUSE, |state| state.open.len() > enough);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let server = Arc::clone(self);
        let spawn = || thread::Builder::new().stack_size(STACK_BYTES).spawn(move || server.work()).is_ok();
        let has_room = state.open.len() < self.settings.max_connections;
        if has_room && state.free_threads <= state.queue.len() && spawn() {
            state.free_threads += 1;
        }
        if has_room && state.free_threads > state.queue.len() {
            state.open.push(Arc::clone(&peer));
            state.queue.push_back(peer);
            return self.work.notify_one();
        }
        drop(state);
        peer.dismiss(self, HttpError::TooManyConnections, |_| true);
    }

    /// Answers the requests that handlers have had for too long. Each of their connections makes room for another, up to
    /// half of the cap: handlers that never return shut nobody out, and the process does not grow without bound.
    pub(super) fn answer_overdue(&self) {
        let overdue: Vec<_> = self.state().open.iter().filter(|peer| peer.is_overdue()).cloned().collect();
        for peer in overdue.iter().filter(|peer| peer.dismiss(self, HttpError::HandlerTimeout, Phase::is_overdue)) {
            let mut state = self.state();
            let open = state.open.len();
            if state.stuck_threads < self.settings.max_connections / 2 {
                state.open.retain(|other| !Arc::ptr_eq(other, peer));
                state.stuck_threads += open - state.open.len();
            }
        }
    }

    /// Closes those connections that have waited longest for their clients, and gives how many. Several, so that a crowd
    /// of new ones need not wait for a thread to end at each of them.
    pub(super) fn evict(&self, state: &State) -> usize {
        let Settings { max_connections: cap, evict_by_address } = self.settings;
        let mut held = HashMap::<IpAddr, usize>::new();
        state.open.iter().for_each(|peer| *held.entry(peer.holder()).or_default() += 1);
        let is_fair = |peer: &Connection| !evict_by_address || held.get(&peer.holder()) <= Some(&(cap / 4));
        let mut waiting: Vec<_> = state.open.iter().filter_map(|peer| Some((peer.waits_since()?, peer))).collect();
        waiting.sort_by_key(|(since, peer)| (is_fair(peer), *since));
        waiting.iter().take((cap / 32).max(1)).filter(|(_, peer)| peer.evict(Phase::is_waiting)).count()
    }

    /// Serves connections from the queue, until for a while there is none: the life of a thread.
    fn work(&self) {
        let mut state = self.state();
        loop {
            let waited = self.work.wait_timeout_while(state, THREAD_IDLE_TIME, |state| state.queue.is_empty());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.free_threads -= 1;
            let Some(peer) = state.queue.pop_front() else { return };
            drop(state);
            connection::serve(self, &peer);
            state = self.state();
            let open = state.open.len();
            state.open.retain(|other| !Arc::ptr_eq(other, &peer));
            state.stuck_threads -= usize::from(state.open.len() == open);
            state.free_threads += 1;
            self.room.notify_all();
        }
    }

    /// Lets the connections end.
    pub(super) fn drain(&self) {
        let stopped = Instant::now();
        self.is_stopping.store(true, Ordering::Release);
        let mut state = self.state();
        while !state.open.is_empty() && stopped.elapsed() < STOP_REFUSE_TIME + 10 * PAUSE {
            drop(state);
            self.answer_overdue();
            state = self.state();
            for peer in &state.open {
                if stopped.elapsed() >= STOP_REFUSE_TIME {
                    peer.dismiss(self, HttpError::Stopping, Phase::is_unanswered);
                } else if stopped.elapsed() >= STOP_IDLE_TIME {
                    peer.evict(|phase| matches!(phase, Phase::Idle(_)));
                }
            }
            state = self.room.wait_timeout(state, PAUSE).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
