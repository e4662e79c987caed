//! How the database is asked: the pool, one connection, migrations, and what a failure means.

mod connection;
pub mod inspect;
pub mod migrate;
mod pool;
pub mod server_role;

pub use connection::{DatabaseError, Parameter, connect};
pub use pool::{DatabasePool, Statement, TimeBudget};

/// The database's own words for why it refused: message and SQLSTATE. Never the detail, which repeats values of the row.
pub fn words(error: &postgres::Error) -> String {
    match error.as_db_error() {
        Some(refusal) => format!("{} (SQLSTATE {})", refusal.message(), refusal.code().code()),
        None => crate::error::chain(error),
    }
}
