//! The connection pool: a line before it, a statement on the request's own thread, and the end of waiting.
//!
//! A thread gets the connection back that it had last, where it can: thread and PostgreSQL's process then mostly stay on
//! one core, which saves a fifth of a read's CPU.
//!
//! Sends no ping, keeps no minimum of connections and connects only for a request that waits, so that a serverless
//! database can sleep. The driver cannot be interrupted: a request that waits for a silent server takes the driver's
//! client out of its place in the pool, and when its time is over, whoever asks next gives the place to the others. The
//! stuck thread keeps the client alone; how many there may be is limited, and beyond it the answer is 503 at once.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use log::{debug, error};
use postgres::Row;
use postgres::types::Type;
use r2d2::{HandleError, Pool, PooledConnection};
use scheduled_thread_pool::ScheduledThreadPool;

use super::connection::{CloseElsewhere, Health, Manager, NoConnection, Parameter, Session};
use super::error::{DatabaseError, class_of_refusal};
use super::migrate::MIGRATIONS;
use super::queue::{Permit, Queue};
use crate::config::DatabaseConfig;
use crate::error::chain;
use crate::logging::quoted;

/// From the start of a request: no statement begins later, and its place in the pool goes to others.
const REQUEST_LIMIT: Duration = Duration::from_secs(9);
/// For a connection: the line, and a new one, which serves a later request where it takes longer.
const WAIT_LIMIT: Duration = Duration::from_secs(5);
/// For the whole of a readiness probe.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Well under the minutes after which a serverless database goes to sleep.
const IDLE_TIMEOUT: Duration = Duration::from_secs(80);
/// How often unused connections are given back where no request comes.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// How often a repeatable statement is run again after its connection was found dead, or it had to yield to another.
const MAX_REPETITIONS: u32 = 2;
/// r2d2 waits between two attempts to connect for at most half of this.
const BACKOFF: Duration = Duration::from_secs(2);
/// The same connect failure is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// One statement to be run.
#[derive(Clone, Copy)]
pub struct Statement<'a> {
    /// One literal of ours. S33: the type admits nothing that was put together from a request.
    pub sql: &'static str,
    /// The values of its parameters in order; where it is prepared, from `$2` on.
    pub parameters: &'a [Parameter<'a>],
    /// Whether it is planned once per connection. It must start from `caller($1, …)`, which refuses another statement
    /// of the same name: `$1` is its own text.
    pub is_prepared: bool,
    /// Whether a second run gives the same answer.
    pub is_repeatable: bool,
    /// The id of the user who asks: one user holds at most half of the connections.
    pub user: Option<&'a str>,
}

/// How long the statements of one request may take, and how long they took.
pub struct TimeBudget<'a> {
    deadline: Instant,
    is_answered: &'a dyn Fn() -> bool,
    spent: Cell<Duration>,
}

impl<'a> TimeBudget<'a> {
    /// For a request that came at this moment. `is_answered` says whether it was answered in its handler's place.
    pub fn new(started: Instant, is_answered: &'a dyn Fn() -> bool) -> TimeBudget<'a> {
        TimeBudget { deadline: started + REQUEST_LIMIT, is_answered, spent: Cell::default() }
    }

    /// For one statement of a command.
    pub fn of_command() -> TimeBudget<'static> {
        TimeBudget::new(Instant::now(), &|| false)
    }

    /// The time that the statements took, waiting for a connection included.
    pub fn spent(&self) -> Duration {
        self.spent.get()
    }
}

/// The connections, at most as many as configured. A clone is the same pool.
#[derive(Clone)]
pub struct DatabasePool {
    pool: Pool<Manager>,
    health: Arc<Health>,
    queue: Arc<Queue>,
    register: Arc<Mutex<Register>>,
}

/// The places that are taken from the pool: those whose sessions are in use, by number, and those whose sessions were in
/// use a moment ago, by thread, the latest last.
#[derive(Default)]
struct Register {
    next: u64,
    in_use: Vec<InUse>,
    recent: Vec<(ThreadId, PooledConnection<Manager>)>,
}

/// The order of the fields matters: the place returns to the pool, then the permit is freed.
struct InUse {
    number: u64,
    place: PooledConnection<Manager>,
    _permit: Permit,
    deadline: Instant,
}

/// A session on loan to one request.
struct Loan<'a> {
    pool: &'a DatabasePool,
    number: u64,
    session: Option<Session>,
}

impl DatabasePool {
    /// A pool that connects when it is first asked.
    pub fn new(database: &DatabaseConfig) -> DatabasePool {
        let health = Arc::new(Health::new(database));
        // The default of three threads makes a burst of new connections wait in line.
        let threads = Arc::new(ScheduledThreadPool::new(database.pool_size as usize));
        let pool = Pool::builder()
            .max_size(database.pool_size)
            .min_idle(Some(0))
            // Asks `Manager::is_valid`, which costs a round trip only where a connection was idle.
            .test_on_check_out(true)
            .connection_timeout(BACKOFF)
            .idle_timeout(Some(IDLE_TIMEOUT))
            .max_lifetime(None)
            .thread_pool(Arc::clone(&threads))
            .error_handler(Box::new(LogConnectFailure::default()))
            .connection_customizer(Box::new(CloseElsewhere))
            .build_unchecked(Manager { database: database.clone(), health: Arc::clone(&health) });
        let pool = DatabasePool { pool, health, queue: Queue::new(database.pool_size), register: Arc::default() };
        let swept = pool.clone();
        threads.execute_at_fixed_rate(SWEEP_INTERVAL, SWEEP_INTERVAL, move || swept.sweep());
        pool
    }

    /// The rows of the statement, in one round trip. Asks nothing for a request that was already answered 503, or whose
    /// time is over. One that is repeatable is run again, at most twice, where its connection is found dead or the
    /// server had to roll it back. Waits without limit for a server that falls silent during the statement.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub fn run(&self, statement: &Statement<'_>, budget: &TimeBudget<'_>) -> Result<Vec<Row>, DatabaseError> {
        let started = Instant::now();
        let repetitions = if statement.is_repeatable { MAX_REPETITIONS } else { 0 };
        let outcome =
            repeated(repetitions, || self.lend(statement.user, budget)?.session()?.run(statement, &self.health));
        budget.spent.set(budget.spent.get() + started.elapsed());
        outcome
    }

    /// A session, when it is this request's turn.
    fn lend(&self, user: Option<&str>, budget: &TimeBudget<'_>) -> Result<Loan<'_>, DatabaseError> {
        let now = Instant::now();
        if now >= budget.deadline || (budget.is_answered)() {
            return Err(DatabaseError::Unavailable("the request's time is over".into()));
        }
        self.sweep();
        // With no connection there and none to come, waiting would only hold the request's thread.
        let is_hopeless = self.health.is_exhausted() && self.pool.state().connections == 0;
        let until = if is_hopeless { now } else { budget.deadline.min(now + WAIT_LIMIT) };
        let permit = self.queue.enter(user, until, || self.sweep());
        let permit = permit.ok_or_else(|| DatabaseError::Unavailable("all connections are in use".into()))?;
        let recent = self.register().take_recent(&self.health);
        let mut place = match recent {
            Some(place) => place,
            None => {
                let place = self.pool.get_timeout(until.saturating_duration_since(Instant::now()));
                self.health.waiting.fetch_sub(1, Ordering::Relaxed);
                place.map_err(|error| DatabaseError::Unavailable(chain(&error)))?
            }
        };
        let session = place.session.take();
        let mut register = self.register();
        register.next += 1;
        let number = register.next;
        register.in_use.push(InUse { number, place, _permit: permit, deadline: budget.deadline });
        Ok(Loan { pool: self, number, session })
    }

    /// Gives back the places of those whose time is over, and the places that nobody has used for a while.
    fn sweep(&self) {
        // S65
        let now = Instant::now();
        let mut register = self.register();
        let overdue: Vec<InUse> = register.in_use.extract_if(.., |entry| entry.deadline <= now).collect();
        let trusted_since = self.health.trusted_since(now);
        // Back to the pool at once: whoever finds none here is to find them there, and not to connect.
        register.recent.retain(|(_, place)| place.is_good_since(trusted_since));
        drop(register);
        if !overdue.is_empty() {
            self.health.note_silence();
        }
    }

    fn register(&self) -> MutexGuard<'_, Register> {
        self.register.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the database answers and has all migrations; waits at most two seconds.
    ///
    /// # Errors
    /// [`DatabaseError::Unavailable`].
    pub fn probe(&self) -> Result<(), DatabaseError> {
        let pool = self.clone();
        let (answering, answer) = mpsc::sync_channel(1);
        let probe = move || drop(answering.send(repeated(MAX_REPETITIONS, || pool.probe_without_limit())));
        let spawned = thread::Builder::new().name("probe".into()).spawn(probe);
        spawned.map_err(|error| DatabaseError::Unavailable(chain(&error)))?;
        let silent = || Err(DatabaseError::Unavailable(format!("no answer within {} s", PROBE_LIMIT.as_secs())));
        answer.recv_timeout(PROBE_LIMIT).unwrap_or_else(|_| silent())
    }

    fn probe_without_limit(&self) -> Result<(), DatabaseError> {
        let budget =
            TimeBudget { deadline: Instant::now() + PROBE_LIMIT, is_answered: &|| false, spent: Cell::default() };
        let names: Vec<&str> = MIGRATIONS.iter().map(|(name, _)| *name).collect();
        let statement = Statement {
            sql: "select count(*) as applied from migrations where name = any ($1)",
            parameters: &[(&names, Type::TEXT_ARRAY)],
            is_prepared: false,
            is_repeatable: true,
            user: None,
        };
        let mut loan = self.lend(None, &budget)?;
        let session = loan.session()?;
        // First what has a limit: a silent server leaves no thread behind.
        session.validate(PROBE_LIMIT, &self.health)?;
        let rows = session.run(&statement, &self.health)?;
        let applied: i64 = rows.first().map_or(Ok(0), |row| row.try_get("applied")).map_err(DatabaseError::Refused)?;
        match usize::try_from(applied) {
            Ok(applied) if applied == names.len() => Ok(()),
            _ => Err(DatabaseError::Unavailable("the database lacks a migration".into())),
        }
    }
}

/// The outcome of the work, which is done again where its connection was found dead or the server rolled it back.
fn repeated<T>(times: u32, work: impl Fn() -> Result<T, DatabaseError>) -> Result<T, DatabaseError> {
    for _ in 0..times {
        match work() {
            Err(DatabaseError::Dead(_)) => {}
            Err(DatabaseError::Refused(error)) if class_of_refusal(&error) == Some("40") => {}
            outcome => return outcome,
        }
        debug!("event=database outcome=repeated");
    }
    work()
}

impl Loan<'_> {
    fn session(&mut self) -> Result<&mut Session, DatabaseError> {
        self.session.as_mut().ok_or_else(|| DatabaseError::Unavailable("an empty place in the pool".into()))
    }
}

impl Register {
    /// The place that this thread had last, or else the latest. Without one, the caller counts as waiting for the pool.
    fn take_recent(&mut self, health: &Health) -> Option<PooledConnection<Manager>> {
        let thread = thread::current().id();
        let own = self.recent.iter().position(|(last, _)| *last == thread);
        let Some(position) = own.or(self.recent.len().checked_sub(1)) else {
            health.waiting.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        Some(self.recent.remove(position).1)
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        let mut register = self.pool.register();
        let position = register.in_use.iter().position(|entry| entry.number == self.number);
        // Where the place is others' by now the session is closed, here on the thread that waited for it.
        let Some(position) = position else { return };
        let InUse { mut place, _permit: permit, .. } = register.in_use.swap_remove(position);
        place.session = self.session.take();
        // Whoever waits for the pool sees only what comes back to it.
        let is_awaited = self.pool.health.waiting.load(Ordering::Relaxed) > 0;
        if !is_awaited && place.is_good_since(None) {
            register.recent.push((thread::current().id(), place));
            drop(register);
        } else {
            drop(register);
            drop(place);
        }
        // The place is there before the next may look for it.
        drop(permit);
    }
}

/// Logs why connecting failed: each reason when it comes up, then once in ten seconds with the number in between.
#[derive(Debug, Default)]
struct LogConnectFailure(Mutex<Option<Logged>>);

#[derive(Debug)]
struct Logged {
    reason: String,
    at: Instant,
    repeated: u32,
}

impl HandleError<NoConnection> for LogConnectFailure {
    fn handle_error(&self, failure: NoConnection) {
        let NoConnection::Failed(reason) = failure else { return };
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let repeated = match last.as_mut().filter(|last| last.reason == reason) {
            Some(last) if last.at.elapsed() < LOG_INTERVAL => {
                last.repeated += 1;
                return;
            }
            Some(last) => last.repeated,
            None => 0,
        };
        error!("event=database outcome=failed reason={} repeated={repeated}", quoted(&reason));
        *last = Some(Logged { reason, at: Instant::now(), repeated: 0 });
    }
}
