//! Connecting, on a thread of its own: the driver's start-up has a time limit for TCP alone.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use postgres::Client;
use postgres::config::Host;
use r2d2::ManageConnection;
use r2d2_postgres::PostgresConnectionManager;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connection::Counted;
use super::error::described;
use crate::config::DatabaseConfig;
use crate::error::chain;

/// For all of connecting: names, TCP, TLS, authentication, and a database that has to wake up first.
const CONNECT_LIMIT: Duration = Duration::from_secs(8);
/// For the first byte of a server that has been silent before.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// Asks any PostgreSQL server for one byte: the length, then the number of the request for TLS.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const DEFAULT_PORT: u16 = 5432;

type Driver = PostgresConnectionManager<MakeRustlsConnect>;

/// Why there is no client.
pub(super) enum ConnectError {
    /// The server was reached and did not answer.
    Silent(String),
    /// Connecting failed: the whole chain of causes.
    Failed(String),
}

/// A connection outside the pool, for commands.
///
/// # Errors
/// The whole chain of causes, after [`CONNECT_LIMIT`] at the latest; and what to do about an authority that is not known.
pub fn connect(database: &DatabaseConfig) -> Result<Client, String> {
    match connect_within_limit(database, false, None) {
        Ok((client, _)) => Ok(client),
        // How rustls names a certificate of a provider's own authority, and one that signs itself.
        Err(ConnectError::Silent(causes) | ConnectError::Failed(causes))
            if causes.contains("UnknownIssuer") || causes.contains("CaUsedAsEndEntity") =>
        {
            Err(format!("{causes}: name the PEM file of its authority by sslrootcert in the connection string"))
        }
        Err(ConnectError::Silent(causes) | ConnectError::Failed(causes)) => Err(causes),
    }
}

/// A client, with what was counted for it. `is_suspect`: only after a sign of life.
pub(super) fn connect_within_limit(
    database: &DatabaseConfig,
    is_suspect: bool,
    counted: Option<Counted>,
) -> Result<(Client, Option<Counted>), ConnectError> {
    let database = database.clone();
    let (opening, opened) = mpsc::sync_channel(1);
    let connect = move || {
        let outcome = if is_suspect && is_silent(&database.driver) {
            Err(ConnectError::Silent(format!("no answer within {} s", PROBE_LIMIT.as_secs())))
        } else {
            let driver: Driver = PostgresConnectionManager::new(database.driver, MakeRustlsConnect::new(database.tls));
            driver.connect().map_err(|error| ConnectError::Failed(described(&error)))
        };
        // Where nobody waits any more the client is closed here, which waits for the server.
        let _ = opening.send(outcome.map(|client| (client, counted)));
    };
    let spawned = thread::Builder::new().name("database".into()).spawn(connect);
    spawned.map_err(|error| ConnectError::Failed(chain(&error)))?;
    let silent = || ConnectError::Silent(format!("no connection within {} s", CONNECT_LIMIT.as_secs()));
    opened.recv_timeout(CONNECT_LIMIT).unwrap_or_else(|_| Err(silent()))
}

/// Whether the first host that takes a connection then sends nothing. Unlike the driver's start-up this has a limit, so
/// that a server that stays silent costs no thread for each attempt.
fn is_silent(driver: &postgres::Config) -> bool {
    let addresses = driver.get_hostaddrs().iter().map(|address| Host::Tcp(address.to_string()));
    let hosts: Vec<Host> =
        if driver.get_hostaddrs().is_empty() { driver.get_hosts().to_vec() } else { addresses.collect() };
    let ports = driver.get_ports();
    let outcome = hosts.iter().enumerate().find_map(|(position, host)| {
        let port = ports.get(position).or_else(|| ports.first()).copied().unwrap_or(DEFAULT_PORT);
        match host {
            Host::Tcp(name) => {
                let addresses = (name.as_str(), port).to_socket_addrs().ok()?;
                let socket = addresses.into_iter().find_map(|a| TcpStream::connect_timeout(&a, PROBE_LIMIT).ok())?;
                socket.set_read_timeout(Some(PROBE_LIMIT)).ok()?;
                Some(first_byte(socket))
            }
            Host::Unix(directory) => {
                let socket = UnixStream::connect(directory.join(format!(".s.PGSQL.{port}"))).ok()?;
                socket.set_read_timeout(Some(PROBE_LIMIT)).ok()?;
                Some(first_byte(socket))
            }
        }
    });
    matches!(outcome, Some(Err(error)) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()))
}

fn first_byte(mut socket: impl Read + Write) -> io::Result<usize> {
    socket.write_all(&SSL_REQUEST)?;
    socket.read(&mut [0])
}
