//! One connection outside the pool, for commands: a failure to connect is said at once, in the words of the database.
//! Nothing is prepared or repeated on it, and whoever holds it may open a transaction.

use std::cell::RefCell;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use postgres::types::Type;
use postgres::{Client, Row};

use super::{DatabaseError, DatabasePool, Parameter, Statement, TimeBudget};

/// For one statement of a command.
const STATEMENT_LIMIT: Duration = Duration::from_secs(9);

/// What runs the statements of the store.
pub trait Executor {
    /// The rows of the statement, in one round trip.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    fn run(&self, statement: &Statement<'_>, budget: &TimeBudget<'_>) -> Result<Vec<Row>, DatabaseError>;
}

/// For requests.
impl Executor for DatabasePool {
    fn run(&self, statement: &Statement<'_>, budget: &TimeBudget<'_>) -> Result<Vec<Row>, DatabaseError> {
        DatabasePool::run(self, statement, budget)
    }
}

/// A connection of a command. The limits of requests do not hold here; the role's `statement_timeout` does.
pub struct SingleConnection {
    client: RefCell<Client>,
    on_silence: fn(),
}

impl SingleConnection {
    /// This connection. Where a statement takes over 9 s, `on_silence` is called on another thread and is to end the
    /// process: nothing can interrupt the driver.
    pub fn new(client: Client, on_silence: fn()) -> SingleConnection {
        SingleConnection { client: RefCell::new(client), on_silence }
    }

    /// Runs a statement that begins or ends a transaction or a savepoint.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn control(&self, sql: &'static str) -> Result<(), postgres::Error> {
        self.client.borrow_mut().batch_execute(sql)
    }
}

impl Executor for SingleConnection {
    /// Never prepares. The guard's parameter `$1` of a statement that requests prepare is null.
    fn run(&self, statement: &Statement<'_>, _: &TimeBudget<'_>) -> Result<Vec<Row>, DatabaseError> {
        let (done, waiting) = mpsc::channel::<()>();
        let on_silence = self.on_silence;
        let watch = move || {
            if waiting.recv_timeout(STATEMENT_LIMIT) == Err(RecvTimeoutError::Timeout) {
                on_silence();
            }
        };
        // Without a thread there is no limit.
        let _ = thread::Builder::new().spawn(watch);
        let guard: Parameter<'_> = (&statement.sql, Type::TEXT);
        let guard = if statement.is_prepared { vec![guard] } else { Vec::new() };
        let rows = self.client.borrow_mut().query_typed(statement.sql, &[&guard, statement.parameters].concat());
        drop(done);
        rows.map_err(DatabaseError::Refused)
    }
}
