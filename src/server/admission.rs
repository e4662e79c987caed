//! Which connections are open, which thread serves each, and which has to go when there is no room for another.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::connection::{self, Connection, Phase};
use super::{HANDLER_TIME, Handle, HttpError, PAUSE, Reject, Settings, lock};

/// The stack of a thread, and so of a handler: little, since there are many threads.
const STACK_BYTES: usize = 256 * 1024;
/// How long a thread without a connection waits for one: threads that are used again halve the cost of a connection.
const THREAD_IDLE_TIME: Duration = Duration::from_secs(5);
/// From the stop on: when idle connections are closed, on which a request may be coming still; and when what is left is
/// refused, and has half a second to go out.
const STOP_IDLE_TIME: Duration = Duration::from_secs(1);
const STOP_REFUSE_TIME: Duration = Duration::from_secs(9);

/// What every thread has at hand.
pub(super) struct Server {
    settings: Settings,
    pub handle: Handle,
    pub reject: Reject,
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
    pub(super) fn new(settings: Settings, handle: Handle, reject: Reject) -> Server {
        let (state, room, work) = (Mutex::default(), Condvar::new(), Condvar::new());
        Server { settings, handle, reject, is_stopping: AtomicBool::new(false), state, room, work }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Gives a new connection a thread, or rejects it where no room can be made.
    pub(super) fn admit(self: &Arc<Server>, connection: Arc<Connection>) {
        let mut state = self.state();
        if !self.has_place(&mut state) {
            let expected = state.open.len() - self.evict(&state, Some(connection.holder()));
            let waited = self.room.wait_timeout_while(state, 2 * PAUSE, |state| state.open.len() > expected);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if self.has_place(&mut state) {
            state.open.push(Arc::clone(&connection));
            state.queue.push_back(connection);
            return self.work.notify_one();
        }
        drop(state);
        connection.answer_instead(self, HttpError::TooManyConnections, |_| true);
    }

    /// Whether one more connection may be open and has a thread, for which one is started where none is free.
    fn has_place(self: &Arc<Server>, state: &mut State) -> bool {
        if state.open.len() >= self.settings.max_connections {
            return false;
        }
        if state.free_threads <= state.queue.len() {
            let server = Arc::clone(self);
            let started = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || server.work());
            state.free_threads += usize::from(started.is_ok());
        }
        state.free_threads > state.queue.len()
    }

    /// S41: makes some connections end, and gives how many to wait for: all of them, so that a crowd of newcomers need not
    /// wait at each; but one for a newcomer from an address that holds too much, whose crowd would hold up all others.
    /// The first to go are connections of addresses that hold more than a quarter of the cap: those that have waited
    /// longest for their client, then busy ones, after their answer. Last go those of other addresses that have waited
    /// longest. A newcomer from an address that holds too much makes only waiting ones of such addresses go.
    pub(super) fn evict(&self, state: &State, newcomer: Option<IpAddr>) -> usize {
        let Settings { max_connections: cap, evict_by_address } = self.settings;
        let mut held = HashMap::<IpAddr, usize>::new();
        state.open.iter().for_each(|connection| *held.entry(connection.holder()).or_default() += 1);
        let holds_too_much = |address| evict_by_address && held.get(&address) > Some(&(cap / 4));
        let is_fair = !newcomer.is_some_and(holds_too_much);
        let rank = |connection: &Connection| match (holds_too_much(connection.holder()), connection.waits_since()) {
            (true, Some(since)) => Some((1, Some(since))),
            (true, None) if is_fair && !connection.ends_after_answer() => Some((2, None)),
            (false, Some(since)) if is_fair => Some((3, Some(since))),
            _ => None,
        };
        let mut ranked: Vec<_> = state.open.iter().filter_map(|one| Some((rank(one)?, one))).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        let first = ranked.first().map_or(0, |((class, _), _)| *class);
        let victims = ranked.iter().filter(|((class, _), _)| *class == first).take((cap / 32).max(1));
        let count = victims.filter(|(_, victim)| victim.give_up()).count();
        if is_fair { count } else { count.min(1) }
    }

    /// Answers the requests that handlers have had for too long. Each of their connections makes room for another, up to
    /// half of the cap: handlers that never return shut nobody out, and the process does not grow without bound.
    pub(super) fn answer_overdue(&self) {
        // Answered without the lock: the application words each answer.
        let mut open = self.state().open.clone();
        let is_overdue = |phase: &Phase| matches!(phase, Phase::Handling(since, _) if since.elapsed() >= HANDLER_TIME);
        open.retain(|connection| connection.answer_instead(self, HttpError::HandlerTimeout, is_overdue));
        for connection in open {
            let mut state = self.state();
            let open = state.open.len();
            if state.stuck_threads < self.settings.max_connections / 2 {
                state.open.retain(|other| !Arc::ptr_eq(other, &connection));
                state.stuck_threads += open - state.open.len();
            }
        }
    }

    /// Serves connections from the queue, until for a while there is none: the life of a thread.
    fn work(&self) {
        let mut state = self.state();
        loop {
            let waited = self.work.wait_timeout_while(state, THREAD_IDLE_TIME, |state| state.queue.is_empty());
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.free_threads -= 1;
            let Some(connection) = state.queue.pop_front() else { return };
            drop(state);
            connection::serve(self, &connection);
            state = self.state();
            let open = state.open.len();
            state.open.retain(|other| !Arc::ptr_eq(other, &connection));
            state.stuck_threads -= usize::from(state.open.len() == open);
            state.free_threads += 1;
            self.room.notify_all();
        }
    }

    /// S42: lets the connections end.
    pub(super) fn drain(&self) {
        let stopped = Instant::now();
        self.is_stopping.store(true, Ordering::Release);
        while !self.state().open.is_empty() && stopped.elapsed() < STOP_REFUSE_TIME + 10 * PAUSE {
            self.answer_overdue();
            let open = self.state().open.clone();
            for connection in open {
                if stopped.elapsed() >= STOP_REFUSE_TIME {
                    connection.answer_instead(self, HttpError::Stopping, |phase| {
                        !matches!(phase, Phase::Busy | Phase::Writing(_))
                    });
                } else if stopped.elapsed() >= STOP_IDLE_TIME {
                    connection.close_if(|phase| matches!(phase, Phase::Idle(_)));
                }
            }
            drop(self.room.wait_timeout(self.state(), PAUSE));
        }
    }
}
