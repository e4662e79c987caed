//! How the database is asked: the pool, one connection, migrations, and what a failure means.

mod connection;
pub mod inspect;
pub mod migrate;
mod pool;

pub use connection::{DatabaseError, Parameter, connect};
pub use pool::{DatabasePool, Statement, TimeBudget};
