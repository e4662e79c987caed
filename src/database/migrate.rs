//! Migrations: embedded, forward only, all pending ones in one transaction under an advisory lock, so that many instances
//! may start at once. An applied file that was edited since stops the start.

use std::fmt;

use aws_lc_rs::digest;
use postgres::error::SqlState;
use postgres::types::Type;
use postgres::{Client, GenericClient, IsolationLevel, Transaction};

use super::described;
use crate::logging::hex;

/// Name and text, in the order in which they are applied.
pub(super) const MIGRATIONS: &[(&str, &str)] = &[
    ("001_accounts", include_str!("../../sql/001_accounts.sql")),
    ("002_tasks", include_str!("../../sql/002_tasks.sql")),
    ("003_attempts", include_str!("../../sql/003_attempts.sql")),
    ("004_caller", include_str!("../../sql/004_caller.sql")),
    ("005_open_session", include_str!("../../sql/005_open_session.sql")),
];

/// Any constant: what else locks in this database must not use it. ("latchkey" in ASCII.)
const LOCK: i64 = 0x6c61_7463_686b_6579;

/// Why migrations were not applied.
#[derive(Debug)]
pub enum MigrationError {
    /// The text of an applied migration has changed.
    Edited(&'static str),
    /// The database has a migration that this program does not know.
    Newer(String),
    /// Other transactions held the tables for too long.
    TablesInUse,
    /// The database's own words: a right that is missing, among others.
    Refused(String),
}

impl fmt::Display for MigrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MigrationError::Edited(name) => write!(f, "migration {name} was edited after it was applied"),
            MigrationError::Newer(name) => {
                write!(f, "the database has migration {name}, which this program does not know: it is too old for it")
            }
            MigrationError::TablesInUse => write!(
                f,
                "migrations are pending, and other transactions held the tables for over 3 s: nothing was changed; \
                 try again, or end those transactions"
            ),
            MigrationError::Refused(cause) => write!(f, "the database refused: {cause}"),
        }
    }
}

impl From<postgres::Error> for MigrationError {
    fn from(error: postgres::Error) -> Self {
        MigrationError::Refused(described(&error))
    }
}

/// The names of the migrations that are not applied yet. Changes nothing.
///
/// # Errors
/// [`MigrationError::Edited`], [`MigrationError::Newer`], [`MigrationError::Refused`].
pub fn pending(client: &mut impl GenericClient) -> Result<Vec<&'static str>, MigrationError> {
    Ok(missing(client)?.into_iter().map(|(name, _)| name).collect())
}

/// Applies what is pending; the names. Waits for another instance's migrations without limit, for other transactions on
/// the tables at most three seconds. Where nothing is pending, takes no lock and writes nothing.
///
/// # Errors
/// See [`MigrationError`]; nothing is applied then.
pub fn apply(client: &mut Client) -> Result<Vec<&'static str>, MigrationError> {
    if missing(client)?.is_empty() {
        return Ok(Vec::new());
    }
    let mut transaction = locked(client)?;
    let pending = missing(&mut transaction)?;
    lock_tables(&mut transaction)?;
    transaction.execute_typed(
        "create table if not exists migrations (
             name text constraint migrations_pkey primary key,
             checksum text not null,
             applied_at timestamptz not null default now()
         )",
        &[],
    )?;
    // What a function's search_path is set to: the one schema in which the tables are made.
    transaction.batch_execute("select set_config('search_path', quote_ident(current_schema()), true)")?;
    for (name, sql) in &pending {
        transaction.batch_execute(sql)?;
        transaction.execute_typed(
            "insert into migrations (name, checksum) values ($1, $2)",
            &[(name, Type::TEXT), (&checksum(sql), Type::TEXT)],
        )?;
    }
    transaction.commit()?;
    Ok(pending.into_iter().map(|(name, _)| name).collect())
}

/// A transaction that runs alone among those of this program that change the schema, a role or its rights. Sees what the
/// ones before it committed. The limits of requests do not hold in it.
pub(super) fn locked(client: &mut Client) -> Result<Transaction<'_>, postgres::Error> {
    let mut transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start()?;
    transaction.batch_execute("set local statement_timeout = 0; set local lock_timeout = 0")?;
    transaction.query_typed("select pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)])?; // S56
    Ok(transaction)
}

/// Takes all tables at once, or gives up: whoever reads one of them never waits longer than this for a lock that is
/// itself waiting. (A `lock_timeout` would count for each table anew.)
fn lock_tables(transaction: &mut Transaction<'_>) -> Result<(), MigrationError> {
    let statement = transaction.query_typed_one(
        "select 'lock table ' || string_agg(to_regclass(name)::text, ', ') as statement from unnest($1) as name
         where to_regclass(name) is not null",
        &[(&created("table"), Type::TEXT_ARRAY)],
    )?;
    let Some(statement) = statement.get::<_, Option<&str>>("statement") else { return Ok(()) };
    transaction.batch_execute("set local statement_timeout = '3s'")?; // S67
    transaction.batch_execute(statement).map_err(|error| match error.code() {
        Some(&SqlState::QUERY_CANCELED) => MigrationError::TablesInUse,
        _ => error.into(),
    })?;
    Ok(transaction.batch_execute("set local statement_timeout = 0")?)
}

/// The names of what the migrations create: `table`s or `function`s.
pub(super) fn created(kind: &str) -> Vec<&'static str> {
    let start = format!("create {kind} ");
    let lines = MIGRATIONS.iter().flat_map(|(_, sql)| sql.lines());
    lines.filter_map(|line| line.strip_prefix(&start)?.split(['(', ' ']).next()).collect()
}

/// The migrations that the database does not have yet, after those that it has were compared with ours.
fn missing(client: &mut impl GenericClient) -> Result<Vec<(&'static str, &'static str)>, MigrationError> {
    let exists = client.query_typed("select from pg_class where oid = to_regclass('migrations')", &[])?;
    if exists.is_empty() {
        return Ok(MIGRATIONS.to_vec());
    }
    let rows = client.query_typed("select name, checksum from migrations order by name", &[])?;
    let mut applied = Vec::new();
    for row in rows {
        let (name, sum): (String, String) = (row.get("name"), row.get("checksum"));
        match MIGRATIONS.iter().find(|(ours, _)| *ours == name) {
            Some((ours, sql)) if checksum(sql) != sum => return Err(MigrationError::Edited(ours)), // S56
            Some((ours, _)) => applied.push(*ours),
            None => return Err(MigrationError::Newer(name)),
        }
    }
    Ok(MIGRATIONS.iter().filter(|(name, _)| !applied.contains(name)).copied().collect())
}

/// SHA-256 in hexadecimal.
fn checksum(sql: &str) -> String {
    hex(digest::digest(&digest::SHA256, sql.as_bytes()).as_ref())
}
