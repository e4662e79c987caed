//! All SQL. One file per table, each statement a visible literal, one round trip each.
//!
//! Every statement on tasks takes a [`crate::token::Principal`] and starts from `caller(…)`: no row means that the caller
//! may not act. Statements go by `query_typed`, which needs one round trip and no named statement.

mod attempts;
mod connection;
pub mod inspect;
pub mod migrate;
mod operator;
mod pool;
mod sessions;
mod tasks;
mod users;

pub use attempts::{Account, LoginAttempt, Reservation};
pub use connection::connect;
pub use operator::{Deed, Listed};
pub use pool::Store;
pub use sessions::{Opening, Rotation};
pub use tasks::{Changes, NewTask, Page, Task};
pub use users::{NewUser, User};
