//! What a database failure means, and how it is logged: by SQLSTATE, constraint, table and column. Never by DETAIL, and by
//! the message only where it can hold no value: a row's values are e-mails, hashes and titles.

use std::fmt::Write;

use postgres::error::{Severity, SqlState};

use crate::error::{ApiError, Problem, chain};

const RETRY_AFTER_SECONDS: u64 = 2;
/// Classes whose messages name objects and settings, and never a value: 0A unsupported, 08 connection, 25 and 40
/// transactions, 26 statement name, 28 authentication, 3D and 3F names, 42 access and syntax, 53 to 58 operation.
const CLASSES_WITHOUT_VALUES: [&str; 14] =
    ["08", "0A", "25", "26", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58"];
/// Classes after which it is worth trying again: connection, read only after a failover, rollback, resources, locks, shutdown and limits.
const PASSING_CLASSES: [&str; 6] = ["08", "25", "40", "53", "55", "57"];

/// Why a statement gave no rows.
#[derive(Debug)]
pub enum DatabaseError {
    /// The server refused it, and undid it; the connection is good.
    Refused(postgres::Error),
    /// The connection was found dead. The statement may have run.
    Dead(postgres::Error),
    /// No connection, or no time left. The text says why.
    Unavailable(String),
}

impl DatabaseError {
    /// Whether the statement failed because of this named constraint.
    pub fn violates(&self, constraint: &str) -> bool {
        matches!(self, DatabaseError::Refused(error) if violates(error, constraint))
    }
}

fn violates(error: &postgres::Error, constraint: &str) -> bool {
    error.as_db_error().and_then(|error| error.constraint()) == Some(constraint)
}

/// The class of an error that ended the statement and not the connection.
pub(super) fn class_of_refusal(error: &postgres::Error) -> Option<&str> {
    let error = error.as_db_error().filter(|error| error.parsed_severity() == Some(Severity::Error))?;
    error.code().code().get(..2)
}

/// The error as it may be logged and shown to the operator: no value of a row or parameter is in it.
pub fn described(error: &postgres::Error) -> String {
    let Some(refusal) = error.as_db_error() else { return chain(error) };
    let code = refusal.code().code();
    let is_safe = CLASSES_WITHOUT_VALUES.contains(&code.get(..2).unwrap_or_default());
    let mut text = if is_safe { refusal.message().to_owned() } else { "refused".to_owned() };
    let _ = write!(text, " (SQLSTATE {code}");
    for (name, value) in
        [("constraint", refusal.constraint()), ("table", refusal.table()), ("column", refusal.column())]
    {
        let _ = value.map(|value| write!(text, ", {name} {value}"));
    }
    text.push(')');
    text
}

/// What a database failure means to the client: come back later, or a defect of ours.
impl From<DatabaseError> for ApiError {
    fn from(failure: DatabaseError) -> ApiError {
        match failure {
            // The user was deleted while the statement ran: none of their sessions is valid any more.
            DatabaseError::Refused(error)
                if violates(&error, "tasks_user_id_fkey") || violates(&error, "sessions_user_id_fkey") =>
            {
                Problem::InvalidToken.with_cause("user_deleted")
            }
            DatabaseError::Refused(error) if !error.code().is_some_and(is_passing) => {
                Problem::Internal.with_cause(described(&error))
            }
            DatabaseError::Refused(error) | DatabaseError::Dead(error) => unavailable(described(&error)),
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
    PASSING_CLASSES.contains(&code.code().get(..2).unwrap_or_default())
}

fn unavailable(cause: String) -> ApiError {
    ApiError { cause: Some(cause), ..Problem::DatabaseUnavailable.retry_after(RETRY_AFTER_SECONDS) }
}
