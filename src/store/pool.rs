//! The connection pool, and the one place where a database failure becomes an answer.
//!
//! Holds no idle connection for long and sends no ping, so that a serverless database can sleep.

use std::sync::Arc;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::types::{ToSql, Type};
use postgres::{NoTls, Row};
use r2d2::{HandleError, Pool};
use r2d2_postgres::PostgresConnectionManager;
use scheduled_thread_pool::ScheduledThreadPool;

use crate::config::Database;
use crate::error::{ApiError, Problem, chain};
use crate::logging::quoted;

/// How long a request waits for a connection, the making of one included.
const CHECKOUT_TIMEOUT: Duration = Duration::from_secs(5);
/// Well under the minutes after which a serverless database goes to sleep.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// TCP only; the server's answer is covered by the check-out's limit.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_AFTER_SECONDS: u64 = 2;

/// The value of one parameter with its type on the server.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// The tables, behind a pool of connections. Each method asks the database.
pub struct Store {
    pool: Pool<PostgresConnectionManager<NoTls>>,
}

impl Store {
    /// A store that connects when it is first asked.
    pub fn new(database: &Database) -> Store {
        let mut driver = database.driver.clone();
        driver.connect_timeout(CONNECT_TIMEOUT);
        if driver.get_application_name().is_none() {
            driver.application_name("latchkey");
        }
        let pool = Pool::builder()
            .max_size(database.pool_size)
            .min_idle(Some(0))
            // The default pings at each check-out: one more round trip for every request.
            .test_on_check_out(false)
            .connection_timeout(CHECKOUT_TIMEOUT)
            .idle_timeout(Some(IDLE_TIMEOUT))
            .max_lifetime(None)
            // The default of three threads makes a burst of new connections wait in line.
            .thread_pool(Arc::new(ScheduledThreadPool::new(database.pool_size as usize)))
            .error_handler(Box::new(LogConnectFailure))
            .build_unchecked(PostgresConnectionManager::new(driver, NoTls));
        Store { pool }
    }

    /// Whether the database answers; waits at most two seconds for a connection.
    ///
    /// # Errors
    /// [`Problem::DatabaseUnavailable`].
    pub fn ping(&self) -> Result<(), ApiError> {
        let mut client = self.pool.get_timeout(Duration::from_secs(2)).map_err(|e| unavailable(&e))?;
        client.query_typed("select 1", &[]).map(|_| ()).map_err(|e| database_error(&e))
    }

    /// The rows of one statement, in one round trip.
    pub(super) fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, ApiError> {
        self.try_query(sql, parameters)?.map_err(|e| database_error(&e))
    }

    /// As [`Store::query`], for a statement of which at most one row comes.
    pub(super) fn query_opt(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Option<Row>, ApiError> {
        Ok(self.query(sql, parameters)?.into_iter().next())
    }

    /// As [`Store::query`], for a statement whose violated constraint means something to the caller.
    pub(super) fn try_query(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Result<Vec<Row>, postgres::Error>, ApiError> {
        let mut client = self.pool.get().map_err(|e| unavailable(&e))?;
        Ok(client.query_typed(sql, parameters))
    }
}

/// Whether the statement failed because of this named constraint.
pub(super) fn violates(error: &postgres::Error, constraint: &str) -> bool {
    error.as_db_error().and_then(|e| e.constraint()) == Some(constraint)
}

/// What a database failure means to the client: come back later, or a defect of ours.
pub(super) fn database_error(error: &postgres::Error) -> ApiError {
    // The user was deleted while the statement ran: no session of theirs lives any more.
    if violates(error, "tasks_user_id_fkey") || violates(error, "sessions_user_id_fkey") {
        return Problem::InvalidToken.because("user_deleted");
    }
    match error.code() {
        Some(code) if !is_passing(code) => Problem::Internal.because(chain(error)),
        // No code: the connection failed, not the statement.
        _ => unavailable(error),
    }
}

/// Whether the same statement may well succeed a moment later.
fn is_passing(code: &SqlState) -> bool {
    let class = code.code().get(..2).unwrap_or_default();
    // 08 connection, 25 read only after a failover, 40 rollback, 53 resources, 55 locks, 57 shutdown and time limits.
    ["08", "25", "40", "53", "55", "57"].contains(&class)
}

fn unavailable(error: &dyn std::error::Error) -> ApiError {
    ApiError { cause: Some(chain(error)), ..Problem::DatabaseUnavailable.retry_after(RETRY_AFTER_SECONDS) }
}

#[derive(Debug)]
struct LogConnectFailure;

impl<E: std::error::Error> HandleError<E> for LogConnectFailure {
    fn handle_error(&self, error: E) {
        log::error!("event=database outcome=failed reason={}", quoted(&chain(&error)));
    }
}
