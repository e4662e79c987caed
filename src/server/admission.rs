//! Which connections are open, and which has to go when there is no room for another.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::{Connection, IDLE_TIME, Phase};
use super::workers::Workers;
use super::{HANDLER_TIME, Handle, HttpError, PAUSE, Reject, Settings, lock};

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
    pub workers: Workers,
    state: Mutex<State>,
    /// Told when a connection has left.
    room: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    pub open: HashMap<RawFd, Arc<Connection>>,
    /// Threads whose handler has not returned although its request was answered, and whose connection does not count
    /// as open any more.
    stuck_threads: usize,
}

impl Server {
    pub(super) fn new(settings: Settings, handle: Handle, reject: Reject) -> io::Result<Server> {
        let (workers, state, room) = (Workers::new()?, Mutex::default(), Condvar::new());
        Ok(Server { settings, handle, reject, is_stopping: AtomicBool::new(false), workers, state, room })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes a new connection in, or rejects it where no room can be made.
    pub(super) fn admit(&self, connection: Arc<Connection>) {
        let cap = self.settings.max_connections;
        let mut state = self.state();
        if state.open.len() >= cap {
            let expected = state.open.len() - self.evict(&state, Some(connection.holder()));
            let waited = self.room.wait_timeout_while(state, 2 * PAUSE, |state| state.open.len() > expected);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let has_room = state.open.len() < cap;
        if has_room {
            state.open.insert(connection.descriptor(), Arc::clone(&connection));
        }
        drop(state);
        if !has_room || self.workers.watch(&connection).is_err() {
            connection.answer_instead(self, HttpError::TooManyConnections, |_| true);
            self.state().open.remove(&connection.descriptor());
        }
    }

    /// Forgets a connection that is over.
    pub(super) fn leave(&self, connection: &Connection) {
        let mut state = self.state();
        if state.open.remove(&connection.descriptor()).is_none() {
            state.stuck_threads -= 1;
        }
        self.room.notify_all();
    }

    /// S41: makes some connections end, and gives how many to wait for: all of them, so that a crowd of newcomers need not
    /// wait at each; but one for a newcomer from an address that holds too much, whose crowd would hold up all others.
    /// The first to go are connections of addresses that hold more than a quarter of the cap: those that have waited
    /// longest for their client, then busy ones, after their answer. Last go those of other addresses that have waited
    /// longest. A newcomer from an address that holds too much makes only waiting ones of such addresses go.
    pub(super) fn evict(&self, state: &State, newcomer: Option<IpAddr>) -> usize {
        let Settings { max_connections: cap, evict_by_address } = self.settings;
        let mut held = HashMap::<IpAddr, usize>::new();
        state.open.values().for_each(|connection| *held.entry(connection.holder()).or_default() += 1);
        let holds_too_much = |address| evict_by_address && held.get(&address) > Some(&(cap / 4));
        let is_fair = !newcomer.is_some_and(holds_too_much);
        let rank = |connection: &Connection| match (holds_too_much(connection.holder()), connection.waits_since()) {
            (true, Some(since)) => Some((1, Some(since))),
            (true, None) if is_fair && !connection.ends_after_answer() => Some((2, None)),
            (false, Some(since)) if is_fair => Some((3, Some(since))),
            _ => None,
        };
        let mut ranked: Vec<_> = state.open.values().filter_map(|one| Some((rank(one)?, one))).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        let first = ranked.first().map_or(0, |((class, _), _)| *class);
        let victims = ranked.iter().filter(|((class, _), _)| *class == first).take(self.batch());
        let count = victims.filter(|(_, victim)| victim.give_up()).count();
        if is_fair { count } else { count.min(1) }
    }

    /// How many connections end at once: one by one, a crowd of newcomers would wait at each.
    fn batch(&self) -> usize {
        (self.settings.max_connections / 32).max(1)
    }

    /// Whether the server has stopped and no connection is left.
    pub(super) fn is_over(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire) && self.state().open.is_empty()
    }

    /// How many threads have been at one connection since before this moment.
    pub(super) fn held_up(&self, since: Instant) -> usize {
        let state = self.state();
        let is_held_up = |one: &&Arc<Connection>| one.served_since().is_some_and(|began| began < since);
        state.stuck_threads + state.open.values().filter(is_held_up).count()
    }

    /// Ends some connections that hold a thread and wait for their client, those first that have waited longest: where no
    /// other thread can be had.
    pub(super) fn free_threads(&self) {
        let state = self.state();
        let holders = state.open.values().filter(|one| one.served_since().is_some());
        let mut waiting: Vec<_> = holders.filter_map(|one| Some((one.waits_since()?, one))).collect();
        waiting.sort_by_key(|(since, _)| *since);
        for (_, victim) in waiting.into_iter().take(self.batch()) {
            victim.give_up();
        }
    }

    /// Closes connections on which nothing has come for too long, and answers the requests that handlers have had for too
    /// long. Each of their connections makes room for another, up to half of the cap: handlers that never return shut
    /// nobody out, and the process does not grow without bound.
    pub(super) fn end_overdue(&self) {
        // Answered without the lock: the application words each answer.
        let mut open = self.open();
        open.iter().for_each(|one| {
            one.close_if(|phase| matches!(phase, Phase::Idle(since) if since.elapsed() >= IDLE_TIME));
        });
        let is_overdue = |phase: &Phase| matches!(phase, Phase::Handling(since, _) if since.elapsed() >= HANDLER_TIME);
        open.retain(|connection| connection.answer_instead(self, HttpError::HandlerTimeout, is_overdue));
        for connection in open {
            let mut state = self.state();
            if state.stuck_threads < self.settings.max_connections / 2 {
                state.stuck_threads += usize::from(state.open.remove(&connection.descriptor()).is_some());
            }
        }
    }

    fn open(&self) -> Vec<Arc<Connection>> {
        self.state().open.values().map(Arc::clone).collect()
    }

    /// S42: lets the connections end.
    pub(super) fn drain(&self) {
        let stopped = Instant::now();
        self.is_stopping.store(true, Ordering::Release);
        while !self.state().open.is_empty() && stopped.elapsed() < STOP_REFUSE_TIME + 10 * PAUSE {
            self.end_overdue();
            for connection in self.open() {
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
        self.workers.wake_manager();
    }
}
