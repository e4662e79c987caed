//! `latchkey check`: one line for each thing that must hold between this program and its database, in the order in which
//! a connection meets them, and for the keys of Better Auth. Leaves no trace: what is rehearsed is rolled back.

use std::io::{self, Write};
use std::time::Instant;

use postgres::Client;
use postgres::config::ChannelBinding;

use super::rehearsal;
use crate::better_auth::External;
use crate::config::DatabaseConfig;
use crate::database::inspect::{self, CLOCK_TOLERANCE_SECONDS, Identity};
use crate::database::{SingleConnection, connect, migrate};
use crate::store::OperatorStore;

/// Prints the lines; how many say FAIL. Takes seconds where the database sleeps. The key set of Better Auth is fetched
/// where one is configured.
///
/// # Errors
/// The lines cannot be written.
pub fn run(database: &DatabaseConfig, better_auth: Option<&External>, out: &mut impl Write) -> io::Result<usize> {
    let mut report = Report { out, failures: 0 };
    if let Some(better_auth) = better_auth {
        report.ok("Better Auth", &better_auth.summary())?;
        match better_auth.check() {
            Ok(lines) => lines.iter().try_for_each(|line| report.ok("Better Auth", line))?,
            Err(why) => report.failed("Better Auth", &why)?,
        }
    }
    if let Some(mut client) = connection(database, &mut report)? {
        match migrate::pending(&mut client) {
            Ok(pending) if pending.is_empty() => {
                report.ok("migrations", "none pending")?;
                let connection = SingleConnection::new(client, super::end_of_patience);
                rehearsal::run(&OperatorStore::new(connection), &mut report)?;
            }
            Ok(pending) => {
                report.failed("migrations", &format!("{} pending: run latchkey migrate", pending.join(", ")))?
            }
            Err(error) => report.failed("migrations", &error.to_string())?,
        }
    }
    match report.failures {
        0 => writeln!(report.out, "all of this holds")?,
        failures => writeln!(report.out, "{failures} of these lines say FAIL")?,
    }
    Ok(report.failures)
}

/// The lines that were printed.
pub struct Report<'a, W> {
    out: &'a mut W,
    failures: usize,
}

impl<W: Write> Report<'_, W> {
    /// A line for what holds.
    pub fn ok(&mut self, what: &str, words: &str) -> io::Result<()> {
        writeln!(self.out, "ok    {what}: {words}")
    }

    /// A line for what does not.
    pub fn failed(&mut self, what: &str, words: &str) -> io::Result<()> {
        self.failures += 1;
        writeln!(self.out, "FAIL  {what}: {words}")
    }

    /// A line for either.
    pub fn line(&mut self, what: &str, outcome: Result<String, String>) -> io::Result<()> {
        match outcome {
            Ok(words) => self.ok(what, &words),
            Err(words) => self.failed(what, &words),
        }
    }
}

/// The connection that commands get: every line up to who it speaks as.
fn connection<W: Write>(database: &DatabaseConfig, report: &mut Report<'_, W>) -> io::Result<Option<Client>> {
    let started = Instant::now();
    let connected = connect(database).and_then(|mut client| Ok((inspect::identity(&mut client)?, client)));
    let (identity, client) = match connected {
        Ok(connected) => connected,
        Err(causes) => {
            report.failed(stage(&causes), &causes)?;
            return Ok(None);
        }
    };
    report.ok("connect", &format!("in {} ms", started.elapsed().as_millis()))?;
    report.ok("TLS", &tls(database))?;
    let Identity { role, database, version, .. } = &identity;
    report.ok("authentication", &format!("role {role}, database {database}, PostgreSQL {version}"))?;
    settings(&identity, report)?;
    Ok(Some(client))
}

/// How far connecting came.
fn stage(causes: &str) -> &'static str {
    let mentions = |words: &[&str]| words.iter().any(|word| causes.contains(word));
    match () {
        () if mentions(&["TLS", "certificate"]) => "TLS",
        () if mentions(&["SQLSTATE", "FATAL", "authentication"]) => "authentication",
        () => "connect",
    }
}

fn tls(database: &DatabaseConfig) -> String {
    if !database.uses_tls() {
        let why = if database.is_this_machine() { "this machine" } else { "sslmode=disable is written" };
        return format!("none: {why}");
    }
    let mut insisting = database.clone();
    // The driver does not tell what a connection that prefers it got.
    insisting.driver.channel_binding(ChannelBinding::Require);
    let binding = if connect(&insisting).is_ok() { "with" } else { "without" };
    format!("name and certificate of the server verified, {binding} channel binding")
}

/// The settings that the throttle and the plans of statements need.
fn settings<W: Write>(identity: &Identity, report: &mut Report<'_, W>) -> io::Result<()> {
    let seconds = identity.clock_ahead_seconds;
    let clock = format!("the database is {seconds:.1} s ahead of this machine");
    let is_right = seconds.abs() <= CLOCK_TOLERANCE_SECONDS;
    report.line("clocks", if is_right { Ok(clock) } else { Err(clock + ": set both by NTP") })?;
    let encoding = identity.encoding.clone();
    let refused = format!("{encoding}: create the database with encoding 'UTF8'");
    report.line("encoding", if encoding == "UTF8" { Ok(encoding) } else { Err(refused) })?;
    for (name, value, is_right) in [
        ("statement_timeout", &identity.statement_timeout, identity.statement_timeout != "0"),
        ("default_transaction_isolation", &identity.isolation, identity.isolation == "read committed"),
        ("plan_cache_mode", &identity.plan_cache_mode, identity.plan_cache_mode == "force_generic_plan"),
    ] {
        report.line(name, if is_right { Ok(value.clone()) } else { Err(format!("{value}: run latchkey migrate")) })?;
    }
    Ok(())
}
