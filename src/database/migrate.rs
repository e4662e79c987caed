//! Migrations: embedded, forward only, all pending ones in one transaction under an advisory lock, so that many instances
//! may start at once. An applied file that was edited since stops the start.

use std::fmt;

use aws_lc_rs::digest;
use postgres::error::SqlState;
use postgres::types::Type;
use postgres::{Client, GenericClient};

use super::connection::connect;
use crate::config::DatabaseConfig;
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
pub enum MigrationError {
    /// The text of an applied migration has changed.
    Edited(&'static str),
    /// The database has a migration that this program does not know.
    Newer(String),
    /// Migrations are pending and this role may not apply them.
    NotAllowed,
    /// The whole chain of causes, without the connection string.
    NoConnection(String),
    /// The database's own words, without the connection string.
    Refused(String),
}

impl fmt::Display for MigrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MigrationError::Edited(name) => write!(f, "migration {name} was edited after it was applied"),
            MigrationError::Newer(name) => {
                write!(f, "the database has migration {name}, which this program does not know")
            }
            MigrationError::NotAllowed => {
                write!(f, "migrations are pending and this role may not apply them: run latchkey migrate")
            }
            MigrationError::NoConnection(cause) => write!(f, "no connection to the database: {cause}"),
            MigrationError::Refused(cause) => write!(f, "the database refused: {cause}"),
        }
    }
}

impl From<postgres::Error> for MigrationError {
    fn from(error: postgres::Error) -> Self {
        match error.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => MigrationError::NotAllowed,
            _ => MigrationError::Refused(chain(&error)),
        }
    }
}

/// What [`bring_up_to_date`] did.
pub struct Done {
    /// The migrations that were applied now.
    pub applied: Vec<&'static str>,
    /// What became of the time limit for statements.
    pub time_limit: TimeLimit,
}

/// The limit in which the server's role must get its answers, in this one database; it holds for new connections.
pub enum TimeLimit {
    /// There was one; whoever set it meant it.
    Kept,
    /// It is five seconds from now on.
    Set,
    /// It could not be set: the database's own words.
    Refused(String),
}

/// Applies the pending migrations, then gives the server's role (`None`: the connected one) a limit for its statements
/// where it has none. Where there is nothing to do, nothing is written and no lock taken.
///
/// # Errors
/// See [`MigrationError`]; nothing is applied then. A time limit that could not be set is no failure.
pub fn bring_up_to_date(database: &DatabaseConfig, server_role: Option<&str>) -> Result<Done, MigrationError> {
    let mut client = connect(database).map_err(MigrationError::NoConnection)?;
    let applied = if pending(&mut client)?.is_empty() { Vec::new() } else { apply(&mut client)? };
    let time_limit =
        limit_statements(&mut client, server_role).unwrap_or_else(|error| TimeLimit::Refused(chain(&error)));
    Ok(Done { applied, time_limit })
}

/// The names of the migrations that are not applied yet. Changes nothing.
///
/// # Errors
/// As [`bring_up_to_date`].
pub fn state(client: &mut Client) -> Result<Vec<&'static str>, MigrationError> {
    Ok(pending(client)?.into_iter().map(|(name, _)| name).collect())
}

fn limit_statements(client: &mut Client, role: Option<&str>) -> Result<TimeLimit, postgres::Error> {
    if has_time_limit(client, role)? {
        return Ok(TimeLimit::Kept);
    }
    let mut transaction = client.transaction()?;
    // Two sessions that alter one role at a time fail.
    transaction.query_typed("select pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)])?;
    if has_time_limit(&mut transaction, role)? {
        return Ok(TimeLimit::Kept);
    }
    let statement = transaction.query_typed_one(
        "select format(
             'alter role %I in database %I set statement_timeout = %L',
             coalesce($1, current_user), current_database(), '5s'
         )",
        &[(&role, Type::TEXT)],
    )?;
    transaction.batch_execute(statement.get(0))?;
    transaction.commit()?;
    Ok(TimeLimit::Set)
}

fn has_time_limit(client: &mut impl GenericClient, role: Option<&str>) -> Result<bool, postgres::Error> {
    let rows = client.query_typed(
        "select from pg_db_role_setting as s
         join pg_roles as r on r.oid = s.setrole
         join pg_database as d on d.oid = s.setdatabase
         where r.rolname = coalesce($1, current_user) and d.datname = current_database()
             and exists (select from unnest(s.setconfig) as setting where setting like 'statement_timeout=%')",
        &[(&role, Type::TEXT)],
    )?;
    Ok(!rows.is_empty())
}

fn apply(client: &mut Client) -> Result<Vec<&'static str>, MigrationError> {
    let mut transaction = client.transaction()?;
    // The limit is for requests: building an index may take longer, and so may waiting for another instance's migrations.
    transaction.batch_execute("set local statement_timeout = 0")?;
    transaction.query_typed("select pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)])?;
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
fn pending(client: &mut impl GenericClient) -> Result<Vec<(&'static str, &'static str)>, MigrationError> {
    let exists = client.query_typed("select from pg_class where oid = to_regclass('migrations')", &[])?;
    if exists.is_empty() {
        return Ok(MIGRATIONS.to_vec());
    }
    // Without the right to read it nobody knows what is pending: the database's own words say so.
    let rows = client
        .query_typed("select name, checksum from migrations order by name", &[])
        .map_err(|error| MigrationError::Refused(chain(&error)))?;
    let mut applied = Vec::new();
    for row in rows {
        let (name, sum): (String, String) = (row.get("name"), row.get("checksum"));
        match MIGRATIONS.iter().find(|(ours, _)| *ours == name) {
            Some((ours, sql)) if checksum(sql) != sum => return Err(MigrationError::Edited(ours)),
            Some((ours, _)) => applied.push(*ours),
            None => return Err(MigrationError::Newer(name)),
        }
    }
    Ok(MIGRATIONS.iter().filter(|(name, _)| !applied.contains(name)).copied().collect())
}

/// SHA-256 in hexadecimal.
fn checksum(sql: &str) -> String {
    digest::digest(&digest::SHA256, sql.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
