//! The connection pool, and the one place where a database failure becomes an answer.
//!
//! Sends no ping, keeps no minimum of connections and connects only for a request that waits, so that a serverless
//! database can sleep. A request never pays for a connection that died while it rested.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{debug, error};
use postgres::Row;
use postgres::error::SqlState;
use r2d2::{HandleError, Pool, PooledConnection};
use scheduled_thread_pool::ScheduledThreadPool;

use super::connection::{DatabaseError, Health, Manager, NoConnection, Parameter};
use crate::config::DatabaseConfig;
use crate::error::{ApiError, Problem, chain};
use crate::logging::quoted;

/// From the start of a request: no statement begins later, and none is waited for longer.
const REQUEST_LIMIT: Duration = Duration::from_secs(9);
/// For a connection; one that takes longer to make serves a later request.
const CHECKOUT_LIMIT: Duration = Duration::from_secs(5);
/// For the answer alone; above the server's own `statement_timeout`.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);
/// For the whole of a readiness probe.
const PING_LIMIT: Duration = Duration::from_secs(2);
/// Well under the minutes after which a serverless database goes to sleep.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How often a repeatable statement is run again after its connection was found dead.
const MAX_REPETITIONS: u32 = 2;
/// r2d2 waits between two attempts to connect for at most half of this.
const BACKOFF: Duration = Duration::from_secs(2);
const RETRY_AFTER_SECONDS: u64 = 2;
/// The same connect failure is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The connections, at most as many as configured.
pub struct DatabasePool {
    pool: Pool<Manager>,
    health: Arc<Health>,
}

impl DatabasePool {
    /// A pool that connects when it is first asked.
    pub fn new(database: &DatabaseConfig) -> DatabasePool {
        let manager = Manager::new(database);
        let health = manager.health();
        let pool = Pool::builder()
            .max_size(database.pool_size)
            .min_idle(Some(0))
            // Asks `Manager::is_valid`, which costs a round trip only where a connection has rested.
            .test_on_check_out(true)
            .connection_timeout(BACKOFF)
            .idle_timeout(Some(IDLE_TIMEOUT))
            .max_lifetime(None)
            // The default of three threads makes a burst of new connections wait in line.
            .thread_pool(Arc::new(ScheduledThreadPool::new(database.pool_size as usize)))
            .error_handler(Box::new(LogConnectFailure::default()))
            .build_unchecked(manager);
        DatabasePool { pool, health }
    }

    /// Whether the database answers; waits at most two seconds.
    ///
    /// # Errors
    /// [`Problem::DatabaseUnavailable`].
    pub fn ping(&self) -> Result<(), ApiError> {
        let deadline = Instant::now() + PING_LIMIT;
        let mut connection = self.connection(deadline)?;
        connection.run("select 1", &[], time_left(deadline)).map_err(ApiError::from).map(drop)
    }

    /// The rows of the statement, in one round trip. Asks nothing for a request that was answered in its place, or whose
    /// time is over. One that is repeatable is run again, at most twice, where its connection is found dead.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub fn run(&self, statement: &Statement<'_>, budget: &TimeBudget<'_>) -> Result<Vec<Row>, DatabaseError> {
        let started = Instant::now();
        let outcome = self.run_within(statement, budget);
        budget.spent.set(budget.spent.get() + started.elapsed());
        outcome
    }

    fn run_within(&self, statement: &Statement<'_>, budget: &TimeBudget<'_>) -> Result<Vec<Row>, DatabaseError> {
        let mut repetitions_left = if statement.is_repeatable { MAX_REPETITIONS } else { 0 };
        loop {
            let left = time_left(budget.deadline);
            if left.is_zero() || (budget.is_answered)() {
                return Err(DatabaseError::Unavailable("the request's time is over".into()));
            }
            let mut connection = self.connection(budget.deadline)?;
            let outcome =
                connection.run(statement.sql, statement.parameters, time_left(budget.deadline).min(ANSWER_LIMIT));
            match outcome {
                Err(DatabaseError::Dead(error)) if repetitions_left > 0 => {
                    debug!("event=database outcome=repeated reason={}", quoted(&chain(&error)));
                    repetitions_left -= 1;
                }
                outcome => return outcome,
            }
        }
    }

    fn connection(&self, deadline: Instant) -> Result<PooledConnection<Manager>, DatabaseError> {
        // With no connection there and none to come, waiting would only hold the request's thread.
        let is_hopeless = self.health.is_exhausted() && self.pool.state().connections == 0;
        let limit = if is_hopeless { Duration::ZERO } else { time_left(deadline).min(CHECKOUT_LIMIT) };
        self.health.waiting.fetch_add(1, Ordering::Relaxed);
        let connection = self.pool.get_timeout(limit);
        self.health.waiting.fetch_sub(1, Ordering::Relaxed);
        connection.map_err(|error| DatabaseError::Unavailable(chain(&error)))
    }
}

/// One statement to be run.
pub struct Statement<'a> {
    /// One literal of ours.
    pub sql: &'static str,
    /// The values of `$1`, `$2`, ….
    pub parameters: &'a [Parameter<'a>],
    /// Whether a second run gives the same answer.
    pub is_repeatable: bool,
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

fn time_left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

impl DatabaseError {
    /// Whether the statement failed because of this named constraint.
    pub fn violates(&self, constraint: &str) -> bool {
        matches!(self, DatabaseError::Refused(error) if violates(error, constraint))
    }
}

fn violates(error: &postgres::Error, constraint: &str) -> bool {
    error.as_db_error().and_then(|e| e.constraint()) == Some(constraint)
}

/// What a database failure means to the client: come back later, or a defect of ours.
impl From<DatabaseError> for ApiError {
    fn from(failure: DatabaseError) -> ApiError {
        match failure {
            // The user was deleted while the statement ran: no session of theirs lives any more.
            DatabaseError::Refused(error)
                if violates(&error, "tasks_user_id_fkey") || violates(&error, "sessions_user_id_fkey") =>
            {
                Problem::InvalidToken.with_cause("user_deleted")
            }
            DatabaseError::Refused(error) if !error.code().is_some_and(is_passing) => {
                Problem::Internal.with_cause(chain(&error))
            }
            DatabaseError::Refused(error) | DatabaseError::Dead(error) => unavailable(chain(&error)),
            DatabaseError::Unavailable(cause) => unavailable(cause),
        }
    }
}

/// A row that is not as the statement says: a defect.
impl From<postgres::Error> for ApiError {
    fn from(error: postgres::Error) -> ApiError {
        DatabaseError::Refused(error).into()
    }
}

/// Whether the same statement may well succeed a moment later.
fn is_passing(code: &SqlState) -> bool {
    let class = code.code().get(..2).unwrap_or_default();
    // 08 connection, 25 read only after a failover, 40 rollback, 53 resources, 55 locks, 57 shutdown and time limits.
    ["08", "25", "40", "53", "55", "57"].contains(&class)
}

fn unavailable(cause: String) -> ApiError {
    ApiError { cause: Some(cause), ..Problem::DatabaseUnavailable.retry_after(RETRY_AFTER_SECONDS) }
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
