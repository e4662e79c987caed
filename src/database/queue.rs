//! Who may use a connection next: first come, first served. One user holds at most half of the connections (rounded up);
//! requests without a user are exempt, and whoever is at this limit is passed by the others.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How often whoever waits looks for connections that are overdue.
const SWEEP_INTERVAL: Duration = Duration::from_millis(200);

/// The line before the pool. It gives as many permits as the pool has connections.
pub(super) struct Queue {
    state: Mutex<State>,
    size: usize,
    user_hasher: RandomState,
}

#[derive(Default)]
struct State {
    /// Whose the permits are: the hash of the user's id, or `None`.
    held: Vec<Option<u64>>,
    waiting: VecDeque<Arc<Waiter>>,
}

struct Waiter {
    user: Option<u64>,
    thread: Thread,
    is_admitted: AtomicBool,
}

/// The right to use one connection. Dropping it admits the next.
pub(super) struct Permit {
    queue: Arc<Queue>,
    user: Option<u64>,
}

impl Queue {
    pub fn new(size: u32) -> Arc<Queue> {
        Arc::new(Queue { state: Mutex::default(), size: size as usize, user_hasher: RandomState::new() })
    }

    /// A permit, or `None` if none came in time. While it waits it calls `sweep` now and then.
    pub fn enter(self: &Arc<Self>, user: Option<&str>, until: Instant, sweep: impl Fn()) -> Option<Permit> {
        let user = user.map(|id| self.user_hasher.hash_one(id));
        let mut state = self.lock();
        // If a permit is free, those who wait are requests of users at their limit.
        if self.admits(&state, user) {
            state.held.push(user);
            drop(state);
            return Some(Permit { queue: Arc::clone(self), user });
        }
        let waiter = Arc::new(Waiter { user, thread: thread::current(), is_admitted: AtomicBool::new(false) });
        state.waiting.push_back(Arc::clone(&waiter));
        drop(state);
        while !waiter.is_admitted.load(Ordering::Acquire) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() && self.leave(&waiter) {
                return None;
            }
            thread::park_timeout(left.min(SWEEP_INTERVAL));
            sweep();
        }
        Some(Permit { queue: Arc::clone(self), user })
    }

    fn admits(&self, state: &State, user: Option<u64>) -> bool {
        let held_by_user = state.held.iter().filter(|held| user.is_some() && **held == user).count();
        state.held.len() < self.size && held_by_user < self.size.div_ceil(2)
    }

    /// Gives up waiting; false if the permit came meanwhile.
    fn leave(&self, waiter: &Arc<Waiter>) -> bool {
        let mut state = self.lock();
        state.waiting.retain(|other| !Arc::ptr_eq(other, waiter));
        !waiter.is_admitted.load(Ordering::Acquire)
    }

    fn release(&self, user: Option<u64>) {
        let mut state = self.lock();
        if let Some(position) = state.held.iter().position(|held| *held == user) {
            state.held.swap_remove(position);
        }
        let next = state.waiting.iter().position(|waiter| self.admits(&state, waiter.user));
        if let Some(waiter) = next.and_then(|position| state.waiting.remove(position)) {
            state.held.push(waiter.user);
            waiter.is_admitted.store(true, Ordering::Release);
            drop(state);
            waiter.thread.unpark();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.queue.release(self.user);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(queue: &Arc<Queue>, user: &str) -> Option<Permit> {
        queue.enter(Some(user), Instant::now() + Duration::from_secs(10), || ())
    }

    #[test]
    fn permits_are_given_in_the_order_of_arrival() {
        let queue = Queue::new(1);
        let first = enter(&queue, "first");
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for number in 0..8 {
                let (queue, order) = (&queue, &order);
                scope.spawn(move || {
                    let permit = enter(queue, &number.to_string());
                    order.lock().unwrap_or_else(PoisonError::into_inner).push(number);
                    drop(permit);
                });
                while queue.lock().waiting.len() <= number {
                    thread::yield_now();
                }
            }
            drop(first);
        });
        assert_eq!(order.into_inner().ok(), Some((0..8).collect()));
    }

    #[test]
    fn a_user_at_the_limit_is_passed_by_others_and_not_forgotten() {
        let queue = Queue::new(3);
        let (one, two) = (enter(&queue, "greedy"), enter(&queue, "greedy"));
        thread::scope(|scope| {
            let third = scope.spawn(|| enter(&queue, "greedy").is_some());
            while queue.lock().waiting.is_empty() {
                thread::yield_now();
            }
            let other = queue.enter(Some("other"), Instant::now(), || ());
            assert!(other.is_some(), "a newcomer of another user");
            assert!(queue.enter(None, Instant::now(), || ()).is_none(), "all are held");
            drop(one);
            assert_eq!(third.join().ok(), Some(true));
            drop((two, other));
        });
        assert!(queue.lock().held.is_empty());
    }
}
