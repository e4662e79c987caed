//! The hash queue: bcrypt, and whatever else may cost as much, runs on threads of its own at low priority, so that a flood
//! of logins slows nothing else. Places go round by address, so that a flood shuts nobody out of login.
//!
//! Holds no database connection and knows no user.
//! Source: OWASP ASVS 5.0 V2.4 (anti-automation), V15.2.2 (resource-demanding functions).

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

use super::PasswordHasher;
use crate::error::{ApiError, Problem};

/// Target queue delay. The queue has as many places as verifications can begin in this time.
const TARGET_DELAY: Duration = Duration::from_secs(2);
/// Upper bound on the places: far fewer than the connections of a server, so that logins cannot take them all.
const MAX_PLACES: usize = 64;
/// How often a waiting request looks whether anybody still waits for its answer.
const ABANDONED_CHECK: Duration = Duration::from_millis(100);
/// At nice 19 logins wait for seconds beside any other load; at nice 5 other requests are as fast.
const NICE: i32 = 5;

type Work = Box<dyn FnOnce() + Send>;

/// The hash threads and their queue. One per process.
pub struct HashQueue {
    shared: Arc<Shared>,
    hasher: PasswordHasher,
    threads: usize,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work_came: Condvar,
}

#[derive(Default)]
struct Queue {
    /// The addresses in the order of their turns, each with its waiting jobs, oldest first.
    turns: VecDeque<(IpAddr, VecDeque<Job>)>,
    /// Places by address: waiting and running jobs.
    held: HashMap<IpAddr, usize>,
    next_id: u64,
}

/// A job that waits. Dropping it tells its request that it will never run.
struct Job {
    id: u64,
    work: Work,
}

impl HashQueue {
    /// Starts one thread per core.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(bcrypt_cost: u32) -> io::Result<HashQueue> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared::default());
        for number in 0..threads {
            let shared = shared.clone();
            thread::Builder::new().name(format!("hash-{number}")).spawn(move || run_jobs(&shared))?;
        }
        Ok(HashQueue { shared, hasher: PasswordHasher::new(bcrypt_cost), threads })
    }

    /// Whether [`HashQueue::run`] would accept a job of this address now. Asked before an attempt is counted, so that a
    /// busy server counts nothing. Holds no place: what follows may take long.
    ///
    /// # Errors
    /// [`Problem::HashingBusy`].
    pub fn admit(&self, address: IpAddr) -> Result<(), ApiError> {
        self.shared.lock().place_for(address, self.places()).map(drop).ok_or_else(busy)
    }

    /// What `work` gives back. Waits for its turn, then for the work: about 230 ms for each hash at cost 12.
    /// `is_abandoned` says whether nobody waits for the answer any more.
    ///
    /// # Errors
    /// [`Problem::HashingBusy`] where the work never began: no place was free, another address took the place, or the
    /// request was abandoned.
    pub fn run<T: Send + 'static>(
        &self,
        address: IpAddr,
        is_abandoned: &dyn Fn() -> bool,
        work: impl FnOnce(&PasswordHasher) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let hasher = self.hasher.clone();
        let (sender, receiver) = sync_channel(1);
        let work = Box::new(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&hasher)));
            // Fails only where the request's own thread has panicked.
            let _ = sender.send(outcome);
        });
        if is_abandoned() {
            return Err(busy());
        }
        let id = self.shared.lock().add(address, self.places(), work).ok_or_else(busy)?;
        self.shared.work_came.notify_one();
        loop {
            match receiver.recv_timeout(ABANDONED_CHECK) {
                Ok(outcome) => return outcome.map_err(|_| Problem::Internal.with_cause("a hash job panicked")),
                Err(RecvTimeoutError::Timeout) if is_abandoned() => self.shared.lock().remove(address, id),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(busy()),
            }
        }
    }

    /// How many jobs may wait and run together: with two places per thread, an address with none always finds one to take
    /// while other addresses are at most half as many as there are places.
    fn places(&self) -> usize {
        let in_time = TARGET_DELAY.as_micros() / self.hasher.verification_time().as_micros().max(1);
        let at_least = (self.threads * 2).max(4);
        usize::try_from(in_time).unwrap_or(MAX_PLACES).saturating_mul(self.threads).min(MAX_PLACES).max(at_least)
    }
}

fn busy() -> ApiError {
    Problem::HashingBusy.retry_after(TARGET_DELAY.as_secs())
}

/// Where a new job may go.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Free,
    /// Into the place of the newest waiting job of this address.
    Of(IpAddr),
}

impl Queue {
    /// The place for one more job of this address, which may hold half of them; `None` where there is none. In a full
    /// queue it takes a place of the address that holds most, where that one still holds as many afterwards.
    fn place_for(&self, address: IpAddr, places: usize) -> Option<Place> {
        // S9
        let own = self.held_by(address);
        if own >= places / 2 {
            return None;
        }
        if self.held.values().sum::<usize>() < places {
            return Some(Place::Free);
        }
        let (most, holder) = self.turns.iter().map(|(holder, _)| (self.held_by(*holder), *holder)).max()?;
        (most >= own + 2).then_some(Place::Of(holder))
    }

    /// Adds the job at the end of its address' jobs: its id, or `None` where there is no place.
    fn add(&mut self, address: IpAddr, places: usize, work: Work) -> Option<u64> {
        if let Place::Of(holder) = self.place_for(address, places)? {
            let newest = self.turns.iter().find(|(other, _)| *other == holder).and_then(|(_, jobs)| jobs.back())?.id;
            self.remove(holder, newest);
        }
        self.next_id += 1;
        let job = Job { id: self.next_id, work };
        match self.turns.iter_mut().find(|(other, _)| *other == address) {
            Some((_, jobs)) => jobs.push_back(job),
            None => self.turns.push_back((address, VecDeque::from([job]))),
        }
        *self.held.entry(address).or_default() += 1;
        Some(self.next_id)
    }

    /// The next job: the oldest of the address whose turn it is. Its place is held until [`Queue::release`].
    fn next(&mut self) -> Option<(IpAddr, Work)> {
        let (address, mut jobs) = self.turns.pop_front()?;
        let job = jobs.pop_front()?;
        if !jobs.is_empty() {
            self.turns.push_back((address, jobs));
        }
        Some((address, job.work))
    }

    /// Drops a job with its place, unless it has begun.
    fn remove(&mut self, address: IpAddr, id: u64) {
        let Some((_, jobs)) = self.turns.iter_mut().find(|(other, _)| *other == address) else { return };
        let waiting = jobs.len();
        jobs.retain(|job| job.id != id);
        if jobs.len() < waiting {
            self.turns.retain(|(_, jobs)| !jobs.is_empty());
            self.release(address);
        }
    }

    fn release(&mut self, address: IpAddr) {
        if let Some(held) = self.held.get_mut(&address) {
            *held -= 1;
        }
        self.held.retain(|_, held| *held > 0);
    }

    fn held_by(&self, address: IpAddr) -> usize {
        self.held.get(&address).copied().unwrap_or_default()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_work(&self) -> (IpAddr, Work) {
        let mut queue = self.lock();
        loop {
            match queue.next() {
                Some(next) => return next,
                None => queue = self.work_came.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

fn run_jobs(shared: &Shared) {
    lower_priority();
    loop {
        let (address, work) = shared.wait_for_work();
        work();
        shared.lock().release(address);
    }
}

/// Where the system refuses it, hashing goes on at the usual priority.
fn lower_priority() {
    // Linux sets the priority of one thread by its id; elsewhere the same call would set the whole process'.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        log::warn!("event=hash_queue outcome=refused reason=\"{error}\"");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use std::net::IpAddr;
    use std::sync::mpsc::channel;
    use std::thread;

    use super::{HashQueue, Place, Queue};
    use crate::error::Problem;

    fn address(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    /// A queue of eight places with waiting jobs of these addresses, in this order.
    fn queue_of(addresses: &[u8]) -> Queue {
        let mut queue = Queue::default();
        for number in addresses {
            queue.add(address(*number), 8, Box::new(|| {})).unwrap();
        }
        queue
    }

    fn order(mut queue: Queue) -> Vec<IpAddr> {
        std::iter::from_fn(|| queue.next().map(|(address, _)| address)).collect()
    }

    #[test]
    fn turns_go_round_by_address() {
        assert_eq!(order(queue_of(&[1, 1, 1, 2, 2, 3])), [1, 2, 3, 1, 2, 1].map(address));
    }

    #[test]
    fn s9_one_address_holds_at_most_half_of_the_places() {
        let mut queue = queue_of(&[1, 1, 1, 1]);
        assert!(queue.next().is_some());
        assert_eq!(queue.place_for(address(1), 8), None);
        assert_eq!(queue.place_for(address(2), 8), Some(Place::Free));
        queue.release(address(1));
        assert_eq!(queue.place_for(address(1), 8), Some(Place::Free));
    }

    #[test]
    fn s9_a_newcomer_displaces_the_address_that_holds_most() {
        let mut queue = queue_of(&[1, 1, 2, 2, 2, 2, 3, 3]);
        queue.add(address(4), 8, Box::new(|| {})).unwrap();
        assert_eq!(queue.held_by(address(2)), 3);
        assert_eq!(order(queue), [1, 2, 3, 4, 1, 2, 3, 2].map(address));
    }

    #[test]
    fn a_place_is_taken_only_where_the_other_address_holds_two_more() {
        let queue = queue_of(&[1, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(queue.place_for(address(5), 8), Some(Place::Of(address(4))));
        assert_eq!(queue.place_for(address(1), 8), None);
        let mut queue = queue_of(&[1, 1, 2, 2, 3, 3, 4]);
        queue.add(address(5), 8, Box::new(|| {})).unwrap();
        assert_eq!(queue.place_for(address(4), 8), None);
    }

    #[test]
    fn a_running_job_is_never_displaced() {
        let mut queue = queue_of(&[1, 1, 2, 2, 3, 3, 4, 4]);
        for _ in 0..8 {
            assert!(queue.next().is_some());
        }
        assert_eq!(queue.place_for(address(5), 8), None);
    }

    #[test]
    fn while_one_job_runs_others_wait_and_a_displaced_one_is_told_that_it_never_began() {
        let queue = HashQueue::start(15).unwrap();
        let places = queue.places();
        let (ended, ends) = channel::<()>();
        let ends = std::sync::Arc::new(std::sync::Mutex::new(ends));
        thread::scope(|scope| {
            let flood: Vec<_> = (0..places)
                .map(|number| {
                    let (queue, ends) = (&queue, ends.clone());
                    scope.spawn(move || {
                        let address = address(if number % 2 == 0 { 1 } else { 2 });
                        queue.run(address, &|| false, move |_| ends.lock().unwrap().recv().is_ok())
                    })
                })
                .collect();
            while queue.shared.lock().held.values().sum::<usize>() < places {
                thread::yield_now();
            }
            assert!(queue.admit(address(3)).is_ok() && queue.admit(address(1)).is_err());
            let newcomer = scope.spawn(|| queue.run(address(3), &|| false, |_| "hashed"));
            while queue.shared.lock().held_by(address(3)) == 0 {
                thread::yield_now();
            }
            drop(ended);
            assert_eq!(newcomer.join().unwrap().unwrap(), "hashed");
            let outcomes: Vec<_> = flood.into_iter().map(|job| job.join().unwrap()).collect();
            let refused: Vec<_> = outcomes.into_iter().filter_map(Result::err).map(|error| error.problem).collect();
            assert_eq!(refused, [Problem::HashingBusy]);
        });
        while !queue.shared.lock().held.is_empty() {
            thread::yield_now();
        }
    }

    #[test]
    fn an_abandoned_request_begins_no_work() {
        let queue = HashQueue::start(4).unwrap();
        let began = queue.run(address(1), &|| true, |_| ());
        assert_eq!(began.map_err(|error| error.problem), Err(Problem::HashingBusy));
    }

    #[test]
    fn a_panic_in_a_job_is_an_error_and_gives_the_place_back() {
        let queue = HashQueue::start(4).unwrap();
        let outcome = queue.run(address(1), &|| false, |_| std::panic::resume_unwind(Box::new(())));
        assert_eq!(outcome.map_err(|error: crate::error::ApiError| error.problem), Err(Problem::Internal));
        assert_eq!(queue.run(address(1), &|| false, |_| 7).unwrap(), 7);
    }
}
