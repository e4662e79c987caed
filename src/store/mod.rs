//! All SQL of requests and commands. One file per table, each statement one literal, one round trip each.
//!
//! A [`Store`] is bound to one request. Every statement on tasks takes a [`Principal`] and starts from `caller(…)`: no row
//! means that the principal may not act. The operator's statements are in [`OperatorStore`], which no handler is given.

mod attempts;
mod operator;
mod sessions;
mod tasks;
mod users;

use jiff::Timestamp;
use postgres::Row;
use postgres::types::Type;
use serde::Serializer;
use uuid::Uuid;

use crate::database::{DatabaseError, Executor, Parameter, Statement, TimeBudget};
use crate::error::{ApiError, Problem};
use crate::token::Principal;

pub use attempts::{Account, LoginAttempt, Reservation};
pub use operator::{OperatorStore, UserAction, UserSummary};
pub use sessions::{NewSession, Rotation};
pub use tasks::{Changes, NewTask, Page, Task};
pub use users::{NewUser, User};

/// The statements of one request. Each method asks the database.
pub struct Store<'a> {
    database: &'a dyn Executor,
    budget: &'a TimeBudget<'a>,
}

impl<'a> Store<'a> {
    /// The statements of the request with this budget.
    pub fn new(database: &'a dyn Executor, budget: &'a TimeBudget<'a>) -> Store<'a> {
        Store { database, budget }
    }

    /// The rows of a statement whose second run gives the same answer.
    fn repeatable(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        let statement = Statement { sql, parameters, is_prepared: false, is_repeatable: true, user: None };
        self.database.run(&statement, self.budget)
    }

    /// The rows of a statement whose second run could give another answer. Where its connection ends after it was sent,
    /// nobody knows whether it ran: the client is told so.
    fn once(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        let statement = Statement { sql, parameters, is_prepared: false, is_repeatable: false, user: None };
        self.database.run(&statement, self.budget)
    }

    /// As [`Store::repeatable`], for a statement that starts from `caller($1, $2, $3)`, which the pool prepares; `$4` is the
    /// first of `rest`.
    fn repeatable_by(&self, who: &Principal, sql: &'static str, rest: &[Parameter<'_>]) -> Rows {
        let (subject, session) = (who.subject(), who.session());
        let parameters = &with_caller(&subject, &session, rest);
        let statement = Statement { sql, parameters, is_prepared: true, is_repeatable: true, user: Some(subject) };
        self.database.run(&statement, self.budget)
    }

    /// As [`Store::once`], for a statement that starts from `caller($1, $2, $3)`, which the pool prepares; `$4` is the
    /// first of `rest`.
    fn once_by(&self, who: &Principal, sql: &'static str, rest: &[Parameter<'_>]) -> Rows {
        let (subject, session) = (who.subject(), who.session());
        let parameters = &with_caller(&subject, &session, rest);
        let statement = Statement { sql, parameters, is_prepared: true, is_repeatable: false, user: Some(subject) };
        self.database.run(&statement, self.budget)
    }
}

type Rows = Result<Vec<Row>, DatabaseError>;

/// The parameters `$2` and `$3`, which `caller($1, $2, $3)` takes, and the others. `$1` is bound by the pool.
fn with_caller<'a>(subject: &'a &'a str, session: &'a Option<Uuid>, rest: &[Parameter<'a>]) -> Vec<Parameter<'a>> {
    let caller: [Parameter<'_>; 2] = [(subject, Type::TEXT), (session, Type::UUID)];
    [&caller, rest].concat()
}

/// The row of a statement that always gives one.
fn one(rows: &[Row]) -> Result<&Row, ApiError> {
    rows.first().ok_or_else(|| Problem::Internal.with_cause("a statement without its row"))
}

/// The 401 of a token whose session or user may not act any more.
pub fn session_over() -> ApiError {
    Problem::InvalidToken.with_cause("session_over")
}

/// A time as every answer shows it: RFC 3339 in UTC, with microseconds.
fn rfc3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

/// As [`rfc3339`]; null where there is none.
fn rfc3339_or_null<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}
