//! `latchkey check`: one line for each thing that must hold between this program and its database, in the order in which
//! a connection meets them, and for each key of Better Auth. Changes nothing.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postgres::Client;
use postgres::config::{ChannelBinding, Host, SslNegotiation};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::better_auth::External;
use crate::config::DatabaseConfig;
use crate::database::{connect, inspect, migrate};
use crate::error::chain;

const NETWORK_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_PORT: u16 = 5432;
/// Asks a PostgreSQL server for TLS: the length, then the number that stands for this request.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Prints the lines; whether all of it holds. Takes seconds where the database sleeps. The key set of Better Auth is
/// fetched where one is configured.
///
/// # Errors
/// The lines cannot be written.
pub fn run(database: &DatabaseConfig, better_auth: Option<&External>, out: &mut impl Write) -> io::Result<bool> {
    let mut report = Report { out, holds: true };
    match better_auth.map(External::check) {
        Some(Ok(lines)) => lines.iter().try_for_each(|line| report.ok("Better Auth", line))?,
        Some(Err(why)) => report.failed("Better Auth", &why)?,
        None => {}
    }
    for (position, host) in hosts(database).iter().enumerate() {
        reach(database, host, port(database, position), &mut report)?;
    }
    let Some(mut client) = authenticate(database, &mut report)? else {
        return Ok(false);
    };
    match migrate::pending(&mut client) {
        Ok(pending) if pending.is_empty() => report.ok("migrations", "none pending")?,
        Ok(pending) => report.failed("migrations", &format!("run latchkey migrate: {} pending", pending.join(", ")))?,
        Err(failure) => report.failed("migrations", &failure.to_string())?,
    }
    schema(&mut client, &mut report)?;
    Ok(report.holds)
}

struct Report<'a, W> {
    out: &'a mut W,
    holds: bool,
}

impl<W: Write> Report<'_, W> {
    fn ok(&mut self, what: &str, words: &str) -> io::Result<()> {
        writeln!(self.out, "ok    {what}: {words}")
    }

    fn failed(&mut self, what: &str, words: &str) -> io::Result<()> {
        self.holds = false;
        writeln!(self.out, "FAIL  {what}: {words}")
    }

    fn line(&mut self, what: &str, outcome: Result<String, String>) -> io::Result<()> {
        match outcome {
            Ok(words) => self.ok(what, &words),
            Err(words) => self.failed(what, &words),
        }
    }
}

/// The hosts as written; the addresses where there are only those.
fn hosts(database: &DatabaseConfig) -> Vec<Host> {
    match database.driver.get_hosts() {
        [] => database.driver.get_hostaddrs().iter().map(|address| Host::Tcp(address.to_string())).collect(),
        hosts => hosts.to_vec(),
    }
}

fn port(database: &DatabaseConfig, position: usize) -> u16 {
    let ports = database.driver.get_ports();
    ports.get(position).or_else(|| ports.first()).copied().unwrap_or(DEFAULT_PORT)
}

/// The lines up to TLS, of one host.
fn reach<W: Write>(database: &DatabaseConfig, host: &Host, port: u16, report: &mut Report<'_, W>) -> io::Result<()> {
    let name = match host {
        Host::Tcp(name) => name,
        Host::Unix(directory) => {
            let path = directory.join(format!(".s.PGSQL.{port}"));
            let connected = UnixStream::connect(&path).map(|_| path.display().to_string());
            report.line("connect", connected.map_err(|error| format!("{}: {error}", path.display())))?;
            return report.ok("TLS", "none: a socket of this machine");
        }
    };
    let addresses = match resolve(database, name, port) {
        Ok(addresses) => addresses,
        Err(error) => return report.failed("resolve", &format!("{name}: {error}")),
    };
    let listed: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    report.ok("resolve", &format!("{name} is {}", listed.join(", ")))?;
    let started = Instant::now();
    let socket = match connect_to_one(&addresses) {
        Ok(socket) => socket,
        Err(error) => return report.failed("connect", &format!("{name} port {port}: {error}")),
    };
    report.ok("connect", &format!("{name} port {port} in {} ms", started.elapsed().as_millis()))?;
    if !database.uses_tls() {
        let why = if database.is_this_machine() { "this machine" } else { "sslmode=disable is written" };
        return report.ok("TLS", &format!("none: {why}"));
    }
    report.line("TLS", negotiate(database, name, socket))
}

fn resolve(database: &DatabaseConfig, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let given: Vec<IpAddr> = database.driver.get_hostaddrs().to_vec();
    if !given.is_empty() {
        return Ok(given.into_iter().map(|address| SocketAddr::new(address, port)).collect());
    }
    Ok((name, port).to_socket_addrs()?.collect())
}

fn connect_to_one(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
    for address in addresses {
        outcome = TcpStream::connect_timeout(address, NETWORK_TIMEOUT);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// What TLS agrees on, in a handshake of its own that is then given up.
fn negotiate(database: &DatabaseConfig, name: &str, mut socket: TcpStream) -> Result<String, String> {
    let words = |error: io::Error| chain(&error);
    socket.set_read_timeout(Some(NETWORK_TIMEOUT)).map_err(words)?;
    socket.set_write_timeout(Some(NETWORK_TIMEOUT)).map_err(words)?;
    if database.driver.get_ssl_negotiation() == SslNegotiation::Postgres {
        let mut answer = [0];
        socket.write_all(&SSL_REQUEST).and_then(|()| socket.read_exact(&mut answer)).map_err(words)?;
        if answer != *b"S" {
            return Err("the server offers plain text only".into());
        }
    }
    let server = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let mut session =
        ClientConnection::new(Arc::new(database.tls.clone()), server).map_err(|error| error.to_string())?;
    while session.is_handshaking() {
        session.complete_io(&mut socket).map_err(words)?;
    }
    let protocol =
        session.protocol_version().and_then(|version| version.as_str()).unwrap_or("unknown").replace('_', ".");
    let suite = session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown");
    Ok(format!("{protocol}, {suite}, certificate of {name} verified"))
}

fn authenticate<W: Write>(database: &DatabaseConfig, report: &mut Report<'_, W>) -> io::Result<Option<Client>> {
    let connected = connect(database).and_then(|mut client| Ok((inspect::identity(&mut client)?, client)));
    let (identity, client) = match connected {
        Ok(connected) => connected,
        Err(causes) => {
            report.failed("authentication", &causes)?;
            return Ok(None);
        }
    };
    let inspect::Identity { role, database: name, version, statement_timeout } = identity;
    let binding = if binds_channel(database) { "with" } else { "without" };
    let words = format!("role {role}, database {name}, PostgreSQL {version}, {binding} channel binding");
    report.ok("authentication", &words)?;
    if statement_timeout == "0" {
        report.failed("statement_timeout", "none: run latchkey migrate")?;
    } else {
        report.ok("statement_timeout", &statement_timeout)?;
    }
    Ok(Some(client))
}

/// Whether a connection that insists on it comes about: the driver does not tell what one that prefers it got.
fn binds_channel(database: &DatabaseConfig) -> bool {
    let mut insisting = database.clone();
    insisting.driver.channel_binding(ChannelBinding::Require);
    database.uses_tls() && connect(&insisting).is_ok()
}

fn schema<W: Write>(client: &mut Client, report: &mut Report<'_, W>) -> io::Result<()> {
    match inspect::objects(client) {
        Ok(there) => {
            for wanted in inspect::RELIED_ON {
                let outcome = if there.contains(*wanted) { Ok("there".into()) } else { Err("missing".into()) };
                report.line(wanted, outcome)?;
            }
        }
        Err(causes) => report.failed("schema", &causes)?,
    }
    for (table, rights) in inspect::RIGHTS {
        let outcome = match inspect::missing_rights(client, table, rights) {
            Ok(missing) if missing.is_empty() => Ok(rights.join(", ")),
            Ok(missing) => Err(format!("not granted: {}", missing.join(", "))),
            Err(causes) => Err(causes),
        };
        report.line(&format!("rights on {table}"), outcome)?;
    }
    Ok(())
}
