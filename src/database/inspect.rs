//! Who a connection speaks as, to what: for `latchkey check`, for `migrate`, and for the start of the server.

use std::time::{SystemTime, UNIX_EPOCH};

use postgres::Client;

use super::described;

/// A difference of the two clocks that disturbs nothing, in seconds.
pub const CLOCK_TOLERANCE_SECONDS: f64 = 2.0;

/// Role, database and settings of a connection.
pub struct Identity {
    /// The role.
    pub role: String,
    /// The database.
    pub database: String,
    /// The server's version.
    pub version: String,
    /// Of the database, as PostgreSQL names it.
    pub encoding: String,
    /// `0` is none.
    pub statement_timeout: String,
    /// Of new transactions.
    pub isolation: String,
    /// `force_generic_plan` is what the indexes are made for.
    pub plan_cache_mode: String,
    /// How far the clock of the database is ahead of the one of this machine, in seconds; half of the round trip is
    /// taken off.
    pub clock_ahead_seconds: f64,
}

/// Who this connection speaks as. One round trip.
///
/// # Errors
/// The database's words.
pub fn identity(client: &mut Client) -> Result<Identity, String> {
    let asked_at = unix_seconds();
    let row = client
        .query_typed_one(
            "select current_user::text as role, current_database()::text as database,
                 current_setting('server_version') as version, current_setting('server_encoding') as encoding,
                 current_setting('statement_timeout') as statement_timeout,
                 current_setting('default_transaction_isolation') as isolation,
                 current_setting('plan_cache_mode') as plan_cache_mode,
                 extract(epoch from clock_timestamp())::float8 as now",
            &[],
        )
        .map_err(|error| described(&error))?;
    Ok(Identity {
        role: row.get("role"),
        database: row.get("database"),
        version: row.get("version"),
        encoding: row.get("encoding"),
        statement_timeout: row.get("statement_timeout"),
        isolation: row.get("isolation"),
        plan_cache_mode: row.get("plan_cache_mode"),
        clock_ahead_seconds: row.get::<_, f64>("now") - (asked_at + unix_seconds()) / 2.0,
    })
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
