//! One pooled connection, on a thread of its own. The driver has no time limit for a query, its start-up none after TCP,
//! and dropping its client waits for the server: here whoever asks waits for the thread, with a limit, and abandons it.
//! Its statement may still run then. The thread ends as soon as the peer answers or closes; how many may be left behind
//! is bounded. Costs two hand-offs a statement.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres::error::{Severity, SqlState};
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Row};
use r2d2::ManageConnection;
use r2d2_postgres::PostgresConnectionManager;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::DatabaseConfig;
use crate::error::chain;

/// For all of connecting: names, TCP, TLS, authentication, and a database that has to wake up first.
const CONNECT_LIMIT: Duration = Duration::from_secs(8);
/// For the round trip that tells whether a connection still lives.
const VALIDATION_LIMIT: Duration = Duration::from_secs(2);
/// A connection that was used less long ago is taken to live.
const RESTED: Duration = Duration::from_secs(1);

/// The value of one parameter with its type on the server.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

type Driver = PostgresConnectionManager<MakeRustlsConnect>;

/// Why a statement gave no rows.
#[derive(Debug)]
pub enum DatabaseError {
    /// The server refused it; the connection is good.
    Refused(postgres::Error),
    /// The connection was found dead. The statement may have run.
    Dead(postgres::Error),
    /// No connection, or no answer in time. The statement may have run, or may still run.
    Unavailable(String),
}

/// Why the pool has no connection.
#[derive(Debug)]
pub(super) enum NoConnection {
    /// Connecting failed: the whole chain of causes.
    Failed(String),
    /// This one is not to be used any more: closed, silent, or from before the most recent failure.
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
    /// When a connection was last found dead or silent.
    failed_at: Mutex<Option<Instant>>,
    /// Has one owner more than there are abandoned threads.
    abandoned: Arc<()>,
    max_abandoned: usize,
}

impl Health {
    /// Whether so many threads wait for answers that never came that no more are begun.
    pub fn is_exhausted(&self) -> bool {
        Arc::strong_count(&self.abandoned) > self.max_abandoned
    }

    fn note_failure(&self) {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn has_failed_since(&self, moment: Instant) -> bool {
        self.failed_at.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|failed_at| failed_at > moment)
    }
}

/// Makes and judges connections for r2d2.
pub(super) struct Manager {
    driver: Arc<Driver>,
    health: Arc<Health>,
}

impl Manager {
    pub fn new(database: &DatabaseConfig) -> Manager {
        let health = Health {
            waiting: AtomicUsize::new(0),
            failed_at: Mutex::default(),
            abandoned: Arc::new(()),
            max_abandoned: 2 * database.pool_size as usize,
        };
        Manager { driver: Arc::new(driver(database)), health: Arc::new(health) }
    }

    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }
}

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = NoConnection;

    fn connect(&self) -> Result<Connection, NoConnection> {
        // r2d2 goes on trying after a failure, whether anybody waits or not.
        if self.health.waiting.load(Ordering::Relaxed) == 0 {
            return Err(NoConnection::NobodyWaits);
        }
        if self.health.is_exhausted() {
            return Err(NoConnection::Failed("too many connections wait for answers that have not come".into()));
        }
        Connection::open(self.driver.clone(), self.health.clone()).map_err(NoConnection::Failed)
    }

    fn is_valid(&self, connection: &mut Connection) -> Result<(), NoConnection> {
        if self.health.has_failed_since(connection.used_at) {
            return Err(NoConnection::Stale);
        }
        if connection.used_at.elapsed() < RESTED {
            return Ok(());
        }
        connection.run("select 1", &[], VALIDATION_LIMIT).map(drop).map_err(|_| NoConnection::Stale)
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.has_ended
    }
}

/// A handle on the thread that holds the driver's client. Dropping it takes no time.
pub(super) struct Connection {
    statements: Sender<Statement>,
    answers: Receiver<Answer>,
    used_at: Instant,
    has_ended: bool,
    mark: Mark,
    health: Arc<Health>,
}

/// Shared with the thread: what it holds once the thread was abandoned is counted until the thread ends.
type Mark = Arc<OnceLock<Arc<()>>>;

struct Statement {
    sql: &'static str,
    parameters: Vec<(Encoded, Type)>,
}

struct Answer {
    outcome: Result<Vec<Row>, postgres::Error>,
    has_ended: bool,
}

impl Connection {
    fn open(driver: Arc<Driver>, health: Arc<Health>) -> Result<Connection, String> {
        let (statements, to_run) = mpsc::channel();
        let (answering, answers) = mpsc::channel();
        let (opening, opened) = mpsc::sync_channel(1);
        let mark = Mark::default();
        let of_thread = mark.clone();
        let live = move || {
            serve(&driver, &opening, &to_run, &answering);
            drop(of_thread);
        };
        thread::Builder::new().name("database".into()).spawn(live).map_err(|error| chain(&error))?;
        opened.recv_timeout(CONNECT_LIMIT).unwrap_or_else(|_| {
            let _ = mark.set(health.abandoned.clone());
            Err(no_connection_in_time())
        })?;
        Ok(Connection { statements, answers, used_at: Instant::now(), has_ended: false, mark, health })
    }

    /// The rows of one statement, in one round trip; waits for at most `limit`.
    pub fn run(
        &mut self,
        sql: &'static str,
        parameters: &[Parameter<'_>],
        limit: Duration,
    ) -> Result<Vec<Row>, DatabaseError> {
        let parameters =
            parameters.iter().map(encoded).collect::<Result<_, _>>().map_err(DatabaseError::Unavailable)?;
        let sent = self.statements.send(Statement { sql, parameters });
        let answer = match sent {
            Ok(()) => self.answers.recv_timeout(limit),
            Err(_) => Err(RecvTimeoutError::Disconnected),
        };
        self.used_at = Instant::now();
        self.has_ended = answer.as_ref().map_or(true, |answer| answer.has_ended);
        if self.has_ended {
            self.health.note_failure();
        }
        match answer {
            Ok(Answer { outcome: Err(error), has_ended: true }) => Err(DatabaseError::Dead(error)),
            Ok(Answer { outcome, .. }) => outcome.map_err(DatabaseError::Refused),
            Err(RecvTimeoutError::Timeout) => {
                let _ = self.mark.set(self.health.abandoned.clone());
                Err(DatabaseError::Unavailable(format!("the database was silent for {} s", limit.as_secs())))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(DatabaseError::Unavailable("the connection's thread ended".into()))
            }
        }
    }
}

/// The life of a connection's thread.
fn serve(
    driver: &Driver,
    opening: &SyncSender<Result<(), String>>,
    statements: &Receiver<Statement>,
    answers: &Sender<Answer>,
) {
    let mut client = match driver.connect() {
        Ok(client) => client,
        Err(error) => return drop(opening.send(Err(chain(&error)))),
    };
    if opening.send(Ok(())).is_err() {
        return;
    }
    for Statement { sql, parameters } in statements {
        let parameters: Vec<Parameter<'_>> = parameters.iter().map(|(value, of)| (value as _, of.clone())).collect();
        let outcome = client.query_typed(sql, &parameters);
        let has_ended = outcome.as_ref().is_err_and(|error| ends_connection(error, &client));
        if answers.send(Answer { outcome, has_ended }).is_err() || has_ended {
            return;
        }
    }
}

/// Whether nothing more can be asked on this connection: it is closed or about to be, or leads to a server that has
/// become a standby.
fn ends_connection(error: &postgres::Error, client: &Client) -> bool {
    let severity = error.as_db_error().and_then(|error| error.parsed_severity());
    client.is_closed()
        || matches!(severity, Some(Severity::Fatal | Severity::Panic))
        || error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION)
}

/// A parameter in the driver's binary form, which outlives a caller that gave up.
#[derive(Debug)]
struct Encoded(Option<Vec<u8>>);

fn encoded((value, of): &Parameter<'_>) -> Result<(Encoded, Type), String> {
    let mut bytes = BytesMut::new();
    let bytes = match value.to_sql_checked(of, &mut bytes).map_err(|error| error.to_string())? {
        IsNull::Yes => None,
        IsNull::No => Some(bytes.to_vec()),
    };
    Ok((Encoded(bytes), of.clone()))
}

impl ToSql for Encoded {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let Some(bytes) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(bytes);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A connection outside the pool, for commands.
///
/// # Errors
/// The whole chain of causes, after [`CONNECT_LIMIT`] at the latest.
pub fn connect(database: &DatabaseConfig) -> Result<Client, String> {
    let driver = driver(database);
    let (opening, opened) = mpsc::sync_channel(1);
    let connect = move || drop(opening.send(driver.connect().map_err(|error| chain(&error))));
    thread::Builder::new().name("database".into()).spawn(connect).map_err(|error| chain(&error))?;
    opened.recv_timeout(CONNECT_LIMIT).unwrap_or_else(|_| Err(no_connection_in_time()))
}

fn driver(database: &DatabaseConfig) -> Driver {
    PostgresConnectionManager::new(database.driver.clone(), MakeRustlsConnect::new(database.tls.clone()))
}

fn no_connection_in_time() -> String {
    format!("no connection within {} s", CONNECT_LIMIT.as_secs())
}
