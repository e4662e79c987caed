//! All SQL of requests and commands. One file per table, each statement a visible literal, one round trip each.
//!
//! Every statement on tasks takes a [`crate::token::Principal`] and starts from `caller(…)`: no row means that the caller
//! may not act. The operator's statements are in [`OperatorStore`], which no handler of a request is given.

mod attempts;
mod operator;
mod sessions;
mod tasks;
mod users;

use crate::config::DatabaseConfig;
use crate::database::DatabasePool;
use crate::error::{ApiError, Problem};

pub use attempts::{Account, LoginAttempt, Reservation};
pub use operator::{OperatorStore, UserAction, UserSummary};
pub use sessions::{NewSession, Rotation};
pub use tasks::{Changes, NewTask, Page, Task};
pub use users::{NewUser, User};

/// The statements of requests. Each method asks the database.
pub struct Store {
    database: DatabasePool,
}

impl Store {
    /// A store that connects when it is first asked.
    pub fn new(database: &DatabaseConfig) -> Store {
        Store { database: DatabasePool::new(database) }
    }

    /// Whether the database answers; waits at most two seconds.
    ///
    /// # Errors
    /// [`Problem::DatabaseUnavailable`].
    pub fn ping(&self) -> Result<(), ApiError> {
        self.database.ping()
    }
}

/// The 401 of a token whose session or user may not act any more.
pub fn session_over() -> ApiError {
    Problem::InvalidToken.with_cause("session_over")
}
