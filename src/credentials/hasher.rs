//! What is made to cost time, on threads of its own, at low priority, behind a short queue: bcrypt, and the estimate of
//! how easily a password is guessed. A login flood must not slow anything else.
//!
//! Holds no database connection and knows no user. A permit to hash is taken before an attempt is counted, so that
//! "busy" costs nobody an attempt.
//! Source: OWASP ASVS 5.0 V2.4 (anti-automation), V11.4.2 (password hashing).

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use crate::credentials::Password;
use crate::error::{ApiError, Problem};

/// Nobody waits longer than this for a hash to begin; who would have to is told to come back.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Upper bound whatever the speed: far below the connections a server holds, so that logins cannot take them all.
const MAX_PLACES: usize = 64;
/// How often a waiting request looks whether its client is still there.
const CLIENT_CHECK: Duration = Duration::from_millis(100);
const LOWEST_PRIORITY: i32 = 19;

type Job = Box<dyn FnOnce() + Send>;

/// The hash threads and their queue. One per process.
pub struct Hasher {
    shared: Arc<Shared>,
    cost: u32,
    threads: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// Microseconds that one hash takes, a moving average.
    hash_micros: AtomicU64,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Places taken, by address: waiting, running, and those whose job has not been handed in yet.
    places: HashMap<IpAddr, usize>,
}

/// What a hash check found.
#[derive(Debug)]
pub struct Verified {
    /// Whether the password is the one.
    pub matches: bool,
    /// A hash of the configured cost, where the stored one has another and the password matched.
    pub rehashed: Option<String>,
}

impl Hasher {
    /// Starts one thread per core, each at the lowest priority.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(cost: u32) -> io::Result<Hasher> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            hash_micros: AtomicU64::new(expected_micros(cost)),
        });
        for number in 0..threads {
            let shared = shared.clone();
            thread::Builder::new().name(format!("hash-{number}")).spawn(move || run(&shared))?;
        }
        Ok(Hasher { shared, cost, threads })
    }

    /// A permit to hash for this address; given back when it is dropped.
    ///
    /// # Errors
    /// [`Problem::HashingBusy`] where the wait would pass two seconds, or this address has half of the places.
    pub fn permit(&self, address: IpAddr) -> Result<Permit<'_>, ApiError> {
        let hash_micros = self.shared.hash_micros.load(Ordering::Relaxed).max(1);
        let in_time = MAX_WAIT.as_micros() as u64 / hash_micros * self.threads as u64;
        let fewest = self.threads.max(2);
        let places = (in_time as usize).clamp(fewest, MAX_PLACES.max(fewest));
        let mut queue = self.shared.lock();
        let taken: usize = queue.places.values().sum();
        let mine = queue.places.entry(address).or_default();
        if taken >= places || *mine >= places / 2 {
            if *mine == 0 {
                queue.places.remove(&address);
            }
            return Err(Problem::HashingBusy.retry_after(MAX_WAIT.as_secs()));
        }
        *mine += 1;
        Ok(Permit { hasher: self, address })
    }

    /// A bcrypt string of the configured cost that no password matches, checked in place of a hash that is not there,
    /// so that an unknown e-mail costs what a wrong password costs.
    pub fn dummy(&self) -> String {
        format!("$2b${:02}$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01232", self.cost)
    }
}

/// A permit to hash.
pub struct Permit<'a> {
    hasher: &'a Hasher,
    address: IpAddr,
}

impl Permit<'_> {
    /// Why the password is easy to guess, by [`Password::weakness`], whose cost a hostile client can choose.
    ///
    /// # Errors
    /// [`Problem::HashingBusy`] where the client left before its turn came.
    pub fn weakness(
        &self,
        password: &Password,
        email: &str,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<Option<&'static str>, ApiError> {
        let (password, email) = (password.clone(), email.to_owned());
        self.run(move || password.weakness(&email), is_gone)
    }

    /// The bcrypt hash of the password. Waits for its turn, then takes one hash (about 230 ms at cost 12).
    ///
    /// # Errors
    /// [`Problem::HashingBusy`] where the client left before its turn came.
    pub fn hash(&self, password: Password, is_gone: &dyn Fn() -> bool) -> Result<String, ApiError> {
        let cost = self.hasher.cost;
        let shared = self.hasher.shared.clone();
        self.run(move || shared.timed(|| bcrypt::hash(password.expose(), cost)), is_gone)?
            .map_err(|error| Problem::Internal.with_cause(error.to_string()))
    }

    /// Whether the password belongs to the hash; against [`Hasher::dummy`] where there is no hash, with the same work.
    ///
    /// # Errors
    /// [`Problem::HashingBusy`] where the client left before its turn came.
    pub fn verify(
        &self,
        password: Password,
        stored: Option<String>,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<Verified, ApiError> {
        let cost = self.hasher.cost;
        let exists = stored.is_some();
        let hash = stored.unwrap_or_else(|| self.hasher.dummy());
        let shared = self.hasher.shared.clone();
        let check = move || {
            let matches = shared.timed(|| bcrypt::verify(password.expose(), &hash))? && exists;
            let other_cost = !hash.get(4..6).is_some_and(|digits| digits.parse() == Ok(cost));
            let rehashed = match matches && other_cost {
                true => Some(bcrypt::hash(password.expose(), cost)?),
                false => None,
            };
            Ok::<_, bcrypt::BcryptError>(Verified { matches, rehashed })
        };
        self.run(check, is_gone)?.map_err(|error| Problem::Internal.with_cause(error.to_string()))
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
        is_gone: &dyn Fn() -> bool,
    ) -> Result<T, ApiError> {
        let abandoned = Arc::new(AtomicBool::new(false));
        let seen = abandoned.clone();
        let (sender, receiver) = sync_channel(1);
        let job = Box::new(move || {
            if !seen.load(Ordering::Relaxed) {
                // The receiver is gone only where a panic took its thread: nobody is left to tell.
                let _ = sender.send(work());
            }
        });
        self.hasher.shared.lock().jobs.push_back(job);
        self.hasher.shared.work.notify_one();
        loop {
            match receiver.recv_timeout(CLIENT_CHECK) {
                Ok(done) => return Ok(done),
                Err(RecvTimeoutError::Timeout) if is_gone() => abandoned.store(true, Ordering::Relaxed),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(Problem::HashingBusy.into()),
            }
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut queue = self.hasher.shared.lock();
        if let Some(mine) = queue.places.get_mut(&self.address) {
            *mine -= 1;
            if *mine == 0 {
                queue.places.remove(&self.address);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the hash and learns how long hashes take here.
    fn timed<T>(&self, hash: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = hash();
        let old = self.hash_micros.load(Ordering::Relaxed);
        let new = (old * 7 + started.elapsed().as_micros() as u64) / 8;
        self.hash_micros.store(new.max(1), Ordering::Relaxed);
        done
    }
}

fn run(shared: &Shared) {
    lower_priority();
    loop {
        let mut queue = shared.lock();
        let job = loop {
            match queue.jobs.pop_front() {
                Some(job) => break job,
                None => queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(queue);
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            log::error!("event=hasher outcome=failed reason=panic");
        }
    }
}

/// A kindness to the other threads, not a need: where the system refuses it, hashing goes on.
fn lower_priority() {
    // Linux lowers one thread by its id; elsewhere the same call would lower the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), LOWEST_PRIORITY) {
        log::warn!("event=hasher outcome=refused reason=\"{error}\"");
    }
}

/// About 230 ms at cost 12, and twice as much with each step; only until the first hashes are measured.
fn expected_micros(cost: u32) -> u64 {
    56 << cost.min(20)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::Hasher;
    use crate::credentials::Password;

    fn password(text: &str) -> Password {
        Password::presented(text.into()).unwrap()
    }

    #[test]
    fn the_dummy_costs_a_whole_hash_and_never_matches() {
        let hasher = Hasher::start(4).unwrap();
        assert!(matches!(bcrypt::verify("x", &hasher.dummy()), Ok(false)));
        let permit = hasher.permit([127, 0, 0, 1].into()).unwrap();
        assert!(!permit.verify(password("x"), None, &|| false).unwrap().matches);
    }

    #[test]
    fn a_hash_of_another_cost_is_renewed_only_for_the_right_password() {
        let hasher = Hasher::start(4).unwrap();
        let stored = bcrypt::hash("right", 5).unwrap();
        let permit = hasher.permit([127, 0, 0, 1].into()).unwrap();
        let right = permit.verify(password("right"), Some(stored.clone()), &|| false).unwrap();
        assert!(right.matches && right.rehashed.is_some_and(|h| h.starts_with("$2b$04$")));
        let wrong = permit.verify(password("wrong"), Some(stored), &|| false).unwrap();
        assert!(!wrong.matches && wrong.rehashed.is_none());
    }

    #[test]
    fn one_address_gets_at_most_half_of_the_places_and_dropping_gives_them_back() {
        let hasher = Hasher::start(4).unwrap();
        let places: Vec<_> = (0..100).map_while(|_| hasher.permit([10, 0, 0, 1].into()).ok()).collect();
        assert_eq!(places.len(), 32);
        assert!(hasher.permit([10, 0, 0, 2].into()).is_ok());
        drop(places);
        assert!(hasher.permit([10, 0, 0, 1].into()).is_ok());
    }
}
