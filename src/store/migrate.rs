//! Migrations: embedded, forward only, all pending ones in one transaction under an advisory lock, so that many instances
//! may start at once. An applied file that was edited since stops the start.

use std::fmt;

use aws_lc_rs::digest;
use postgres::error::SqlState;
use postgres::types::Type;
use postgres::{Client, GenericClient};

use super::connection::connect;
use crate::database::Database;
use crate::error::chain;

/// Name and text, in the order in which they are applied.
const MIGRATIONS: &[(&str, &str)] = &[
    ("001_accounts", include_str!("../../sql/001_accounts.sql")),
    ("002_tasks", include_str!("../../sql/002_tasks.sql")),
    ("003_attempts", include_str!("../../sql/003_attempts.sql")),
];

/// Any constant: what else locks in this database must not use it. ("latchkey" in ASCII.)
const LOCK: i64 = 0x6c61_7463_686b_6579;

/// Why migrations could not be applied.
#[derive(Debug)]
pub enum Failure {
    /// The text of an applied migration has changed.
    Edited(&'static str),
    /// The database has a migration that this program does not know.
    Newer(String),
    /// Migrations are pending and this role may not apply them.
    NotAllowed,
    /// The whole chain of causes, without the connection string.
    NoConnection(String),
    /// The database's own words, without the connection string.
    Database(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Edited(name) => write!(f, "migration {name} was edited after it was applied"),
            Failure::Newer(name) => write!(f, "the database has migration {name}, which this program does not know"),
            Failure::NotAllowed => {
                write!(f, "migrations are pending and this role may not apply them: run latchkey migrate")
            }
            Failure::NoConnection(cause) => write!(f, "no connection to the database: {cause}"),
            Failure::Database(cause) => write!(f, "the database refused: {cause}"),
        }
    }
}

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        match error.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Failure::NotAllowed,
            _ => Failure::Database(chain(&error)),
        }
    }
}

/// The names of the migrations that were applied now. Where nothing is pending, nothing is written and no lock taken.
///
/// # Errors
/// See [`Failure`]; nothing is applied then.
pub fn apply_pending(database: &Database) -> Result<Vec<&'static str>, Failure> {
    let mut client = connect(database).map_err(Failure::NoConnection)?;
    if pending(&mut client)?.is_empty() {
        return Ok(Vec::new());
    }
    apply(&mut client)
}

fn apply(client: &mut Client) -> Result<Vec<&'static str>, Failure> {
    let mut transaction = client.transaction()?;
    transaction.query_typed("select pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)])?;
    transaction.execute_typed(
        "create table if not exists migrations (
             name text constraint migrations_pkey primary key,
             checksum text not null,
             applied_at timestamptz not null default now()
         )",
        &[],
    )?;
    let mut applied = Vec::new();
    for (name, sql) in pending(&mut transaction)? {
        transaction.batch_execute(sql)?;
        transaction.execute_typed(
            "insert into migrations (name, checksum) values ($1, $2)",
            &[(&name, Type::TEXT), (&checksum(sql), Type::TEXT)],
        )?;
        applied.push(name);
    }
    transaction.commit()?;
    Ok(applied)
}

/// The migrations that the database does not have yet, after those that it has were compared with ours.
fn pending(client: &mut impl GenericClient) -> Result<Vec<(&'static str, &'static str)>, Failure> {
    let exists = client.query_typed("select from pg_class where oid = to_regclass('migrations')", &[])?;
    if exists.is_empty() {
        return Ok(MIGRATIONS.to_vec());
    }
    let rows = client.query_typed("select name, checksum from migrations order by name", &[])?;
    let mut applied = Vec::new();
    for row in rows {
        let (name, sum): (String, String) = (row.get("name"), row.get("checksum"));
        match MIGRATIONS.iter().find(|(ours, _)| *ours == name) {
            Some((ours, sql)) if checksum(sql) != sum => return Err(Failure::Edited(ours)),
            Some((ours, _)) => applied.push(*ours),
            None => return Err(Failure::Newer(name)),
        }
    }
    Ok(MIGRATIONS.iter().filter(|(name, _)| !applied.contains(name)).copied().collect())
}

/// SHA-256 in hexadecimal.
fn checksum(sql: &str) -> String {
    digest::digest(&digest::SHA256, sql.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
