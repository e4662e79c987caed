//! One pooled connection: validating, closing, and running a statement on it, prepared once.
//!
//! The driver has no time limit for a statement, and dropping its client waits for the server. So closing has a thread of
//! its own, every client is counted, and the pool limits how long a statement is waited for.

use std::error::Error;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::warn;
use postgres::error::{Severity, SqlState};
use postgres::types::{ToSql, Type};
use postgres::{Client, Row};
use r2d2::{CustomizeConnection, ManageConnection};

use super::connect::{ConnectError, connect_within_limit};
use super::error::{DatabaseError, class_of_refusal, described};
use super::pool::Statement;
use crate::config::DatabaseConfig;
use crate::logging::quoted;

/// For the round trip that tells whether an idle connection is still good.
const VALIDATION_LIMIT: Duration = Duration::from_secs(2);
/// A connection that was used less long ago is not validated.
const IDLE: Duration = Duration::from_secs(1);

/// The value of one parameter with its type on the server.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Why the pool has no connection.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// Connecting failed: the whole chain of causes.
    Failed(String),
    /// This one is not to be used any more: closed, silent, or opened before the most recent failure.
    Stale,
    /// No request waits for one: a database that is down or asleep is left alone.
    NobodyWaits,
}

impl fmt::Display for NoConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoConnection::Failed(causes) => f.write_str(causes),
            NoConnection::Stale => f.write_str("the connection had ended"),
            NoConnection::NobodyWaits => f.write_str("no request waits for a connection"),
        }
    }
}

impl Error for NoConnection {}

/// What the connections of one pool know of each other.
#[derive(Debug)]
pub(super) struct Health {
    /// Requests that wait for a connection.
    pub waiting: AtomicUsize,
    /// Connects that are still waited for.
    connecting: AtomicUsize,
    /// Clients and connects in existence: in the pool, in use, closing, or left behind with a silent server.
    open: Arc<AtomicUsize>,
    max_open: usize,
    /// Whether the server was silent, and no connect has succeeded since.
    is_suspect: AtomicBool,
    /// When a connection was last found dead or silent.
    failed_at: Mutex<Option<Instant>>,
    /// Whether the name of a prepared statement means the same at each use: some poolers mix them up.
    names_are_reliable: AtomicBool,
}

impl Health {
    pub fn new(database: &DatabaseConfig) -> Health {
        Health {
            waiting: AtomicUsize::new(0),
            connecting: AtomicUsize::new(0),
            open: Arc::default(),
            max_open: 2 * database.pool_size as usize,
            is_suspect: AtomicBool::new(false),
            failed_at: Mutex::default(),
            names_are_reliable: AtomicBool::new(database.prepares_statements),
        }
    }

    /// Whether every client that may exist was left behind with a silent server.
    pub fn is_exhausted(&self) -> bool {
        self.open.load(Ordering::Acquire) >= self.max_open + self.connecting.load(Ordering::Acquire)
    }

    /// The right to one more client, if there may be one more.
    fn count(&self) -> Option<Counted> {
        let more = |open| (open < self.max_open).then_some(open + 1);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Counted(Arc::clone(&self.open)))
    }

    /// The server was silent: a connection from before is not used any more, and a connect first asks for a sign of life.
    pub fn note_silence(&self) {
        self.is_suspect.store(true, Ordering::Release);
        self.note_failure();
    }

    fn note_failure(&self) {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn failed_at(&self) -> Option<Instant> {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that was used after this moment is taken to be good without a question.
    pub fn trusted_since(&self, now: Instant) -> Option<Instant> {
        self.failed_at().max(now.checked_sub(IDLE))
    }

    fn give_up_names(&self, error: &postgres::Error) {
        if self.names_are_reliable.swap(false, Ordering::AcqRel) {
            let reason = "a pooler mixes up prepared statements: from now on none is prepared";
            warn!("event=database reason={} cause={}", quoted(reason), quoted(&described(error)));
        }
    }
}

/// One of [`Health::open`].
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Makes and judges connections for r2d2.
pub(super) struct Manager {
    pub database: DatabaseConfig,
    pub health: Arc<Health>,
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = NoConnection;

    fn connect(&self) -> Result<Connection, NoConnection> {
        // r2d2 goes on trying after a failure, whether anybody waits or not.
        if self.health.waiting.load(Ordering::Relaxed) == 0 {
            return Err(NoConnection::NobodyWaits);
        }
        let too_many = || NoConnection::Failed("too many connections wait for a silent server".into());
        let counted = self.health.count().ok_or_else(too_many)?;
        let is_suspect = self.health.is_suspect.load(Ordering::Acquire);
        self.health.connecting.fetch_add(1, Ordering::AcqRel);
        let connected = connect_within_limit(&self.database, is_suspect, Some(counted));
        self.health.connecting.fetch_sub(1, Ordering::AcqRel);
        match connected {
            Ok((client, counted)) => {
                self.health.is_suspect.store(false, Ordering::Release);
                let (prepared, used_at) = (Vec::new(), Instant::now());
                Ok(Connection { session: Some(Session { client, prepared, used_at, is_dead: false, counted }) })
            }
            Err(ConnectError::Silent(causes)) => {
                self.health.note_silence();
                Err(NoConnection::Failed(causes))
            }
            Err(ConnectError::Failed(causes)) => Err(NoConnection::Failed(causes)),
        }
    }

    fn is_valid(&self, connection: &mut Connection) -> Result<(), NoConnection> {
        if connection.is_good_since(self.health.trusted_since(Instant::now())) {
            return Ok(());
        }
        let session = connection.session.as_mut().ok_or(NoConnection::Stale)?;
        if self.health.failed_at() > Some(session.used_at) {
            return Err(NoConnection::Stale);
        }
        session.validate(VALIDATION_LIMIT, &self.health).map_err(|_| NoConnection::Stale)
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        !connection.is_good_since(None)
    }
}

/// Closes what r2d2 gives up, each on a thread of its own, since the driver waits for the server.
#[derive(Debug)]
pub(super) struct CloseElsewhere;

impl CustomizeConnection<Connection, NoConnection> for CloseElsewhere {
    fn on_release(&self, connection: Connection) {
        let Some(Session { client, prepared, counted, .. }) = connection.session else { return };
        // Where no thread can be had the client is leaked, which takes a socket, and nothing waits.
        let client = ManuallyDrop::new((client, prepared));
        let close = move || {
            drop(ManuallyDrop::into_inner(client));
            drop(counted);
        };
        let _ = thread::Builder::new().name("database".into()).spawn(close);
    }
}

/// A place in the pool. While a request uses the session, the place is empty.
pub(super) struct Connection {
    pub session: Option<Session>,
}

impl Connection {
    /// Whether it can be used, and was used after this moment.
    pub fn is_good_since(&self, moment: Option<Instant>) -> bool {
        self.session.as_ref().is_some_and(|session| !session.is_dead && Some(session.used_at) > moment)
    }
}

/// The driver's client, and the statements that are prepared on it. The client is dropped first: a statement that is
/// dropped while the client is there would send a message.
pub(super) struct Session {
    client: Client,
    /// By the address of the statement's literal.
    prepared: Vec<(usize, postgres::Statement)>,
    used_at: Instant,
    is_dead: bool,
    counted: Option<Counted>,
}

impl Session {
    /// Asks for an empty answer within this time.
    pub fn validate(&mut self, limit: Duration, health: &Health) -> Result<(), DatabaseError> {
        let valid = self.client.is_valid(limit);
        self.used_at = Instant::now();
        valid.map_err(|error| {
            self.is_dead = true;
            health.note_silence();
            DatabaseError::Dead(error)
        })
    }

    /// The rows of one statement. May wait without limit for a server that is silent.
    pub fn run(&mut self, statement: &Statement<'_>, health: &Health) -> Result<Vec<Row>, DatabaseError> {
        let is_named = statement.is_prepared && health.names_are_reliable.load(Ordering::Acquire);
        let mut outcome = if is_named { self.run_prepared(statement) } else { self.run_unnamed(statement) };
        if let Some(error) = outcome.as_ref().err().filter(|error| is_named && is_doubtful(error)) {
            // An error undoes the whole statement, so that it can be run again, whatever it does.
            match error.code() {
                Some(code) if MIXED_UP.contains(code) => health.give_up_names(error),
                // Prepared anew at the next use: a table may have changed.
                _ => self.prepared.retain(|(key, _)| *key != address(statement.sql)),
            }
            outcome = self.run_unnamed(statement);
        }
        self.used_at = Instant::now();
        outcome.map_err(|error| {
            if !ends_connection(&error, &self.client) {
                return DatabaseError::Refused(error);
            }
            self.is_dead = true;
            health.note_failure();
            DatabaseError::Dead(error)
        })
    }

    /// One round trip, and one more at the first use. The text of the statement is bound as `$1`: `caller` in SQL compares
    /// it with the statement that runs.
    fn run_prepared(&mut self, statement: &Statement<'_>) -> Result<Vec<Row>, postgres::Error> {
        let key = address(statement.sql);
        let prepared = match self.prepared.iter().find(|(known, _)| *known == key) {
            Some((_, prepared)) => prepared.clone(),
            None => {
                let types: Vec<Type> =
                    [Type::TEXT].into_iter().chain(statement.parameters.iter().map(|(_, of)| of.clone())).collect();
                let prepared = self.client.prepare_typed(statement.sql, &types)?;
                self.prepared.push((key, prepared.clone())); // S35
                prepared
            }
        };
        let mut values: Vec<&(dyn ToSql + Sync)> = Vec::with_capacity(1 + statement.parameters.len());
        values.push(&statement.sql);
        values.extend(statement.parameters.iter().map(|(value, _)| *value));
        self.client.query(&prepared, &values)
    }

    /// One round trip. Nothing on the server outlives it.
    fn run_unnamed(&mut self, statement: &Statement<'_>) -> Result<Vec<Row>, postgres::Error> {
        // S66: one statement and nothing around it.
        if !statement.is_prepared {
            return self.client.query_typed(statement.sql, statement.parameters);
        }
        let nameless: Parameter<'_> = (&None::<&str>, Type::TEXT);
        self.client.query_typed(statement.sql, &[&[nameless], statement.parameters].concat())
    }
}

/// What says that the name of a prepared statement stands for nothing or for another statement: no such statement, a
/// second one of this name, and parameters that are not the other one's in number, form or bytes.
const MIXED_UP: [SqlState; 5] = [
    SqlState::INVALID_SQL_STATEMENT_NAME,
    SqlState::DUPLICATE_PSTATEMENT,
    SqlState::PROTOCOL_VIOLATION,
    SqlState::INVALID_BINARY_REPRESENTATION,
    SqlState::CHARACTER_NOT_IN_REPERTOIRE,
];

/// Whether the statement could have failed because it was a prepared one.
fn is_doubtful(error: &postgres::Error) -> bool {
    class_of_refusal(error).is_some_and(|class| ["08", "0A", "22", "26", "42"].contains(&class))
}

fn address(sql: &'static str) -> usize {
    sql.as_ptr().addr()
}

/// Whether nothing more can be asked on this connection: it is closed or about to be, or leads to a server that has
/// become a standby.
fn ends_connection(error: &postgres::Error, client: &Client) -> bool {
    let severity = error.as_db_error().and_then(|error| error.parsed_severity());
    client.is_closed()
        || matches!(severity, Some(Severity::Fatal | Severity::Panic))
        || error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
}
