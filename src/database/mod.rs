//! How the database is asked: the line before the pool, the pool, one connection, what a failure means; and migrations.

mod connect;
mod connection;
mod error;
pub mod inspect;
pub mod migrate;
mod pool;
mod queue;
pub mod server_role;
mod single;

pub use connect::connect;
pub use connection::Parameter;
pub use error::{DatabaseError, described};
pub use pool::{DatabasePool, Statement, TimeBudget};
pub use single::{Executor, SingleConnection};
