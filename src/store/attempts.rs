//! Table `attempts`: rate limits of logins and registrations. The counting itself is `sql/003_attempts.sql`.

use postgres::types::Type;
use uuid::Uuid;

use super::{Store, one};
use crate::error::ApiError;

/// A login attempt to be counted.
pub struct LoginAttempt<'a> {
    /// Made by the server, so that counting it can be repeated, and undone.
    pub id: Uuid,
    /// The e-mail as it is stored; `None` for a malformed one.
    pub email: Option<&'a str>,
    /// Keyed digest of what was typed.
    pub email_digest: &'a [u8],
    /// IPv4 address or IPv6 /64.
    pub address: &'a str,
    /// Failures per e-mail and address in 15 minutes; 0 = no limit.
    pub pair_limit: i32,
    /// Failures per address in an hour; 0 = no limit.
    pub address_limit: i32,
}

/// What a counted attempt may be verified against.
pub struct Account {
    /// The user.
    pub id: String,
    /// bcrypt.
    pub password_hash: String,
    /// Raised by whatever ends all sessions: what follows the hash check acts only while it is the same.
    pub session_epoch: i32,
    /// Whether the user may log in.
    pub is_active: bool,
}

/// The outcome of counting.
pub enum Reservation {
    /// Counted; the account, if there is one.
    Counted(Option<Account>),
    /// Not counted: this many seconds until the next attempt is allowed.
    Refused {
        /// At least 1.
        seconds: u64,
        /// The limit that was met: `email_and_address`, `address` or `email`.
        limit: String,
        /// The id of the user, if there is one.
        user: Option<String>,
    },
}

impl Store<'_> {
    /// Counts a login attempt and finds the account, in one round trip and atomically: a crowd gets no more attempts
    /// than one after the other.
    ///
    /// # Errors
    /// Database failures.
    pub fn reserve_login(&self, attempt: &LoginAttempt<'_>) -> Result<Reservation, ApiError> {
        let rows = self.repeatable(
            "select r.seconds, r.limit_met, u.id, u.password_hash, u.session_epoch, u.is_active
             from (select) as one_row
             left join users as u on u.email = $4
             cross join lateral reserve_login($1, $2, $3, u.id, $5, $6) as r",
            &[
                (&attempt.id, Type::UUID),
                (&attempt.email_digest, Type::BYTEA),
                (&attempt.address, Type::TEXT),
                (&attempt.email, Type::TEXT),
                (&attempt.pair_limit, Type::INT4),
                (&attempt.address_limit, Type::INT4),
            ],
        )?;
        let row = one(&rows)?;
        let seconds: i32 = row.try_get("seconds")?;
        if seconds > 0 {
            let (limit, user) = (row.try_get("limit_met")?, row.try_get("id")?);
            return Ok(Reservation::Refused { seconds: u64::from(seconds.unsigned_abs()), limit, user });
        }
        let Some(id) = row.try_get("id")? else { return Ok(Reservation::Counted(None)) };
        Ok(Reservation::Counted(Some(Account {
            id,
            password_hash: row.try_get("password_hash")?,
            session_epoch: row.try_get("session_epoch")?,
            is_active: row.try_get("is_active")?,
        })))
    }

    /// Counts a registration: 0, or the seconds until the next one is allowed.
    ///
    /// # Errors
    /// Database failures.
    pub fn reserve_registration(&self, id: Uuid, address: &str, limit: i32) -> Result<u64, ApiError> {
        let rows = self.repeatable(
            "select reserve_registration($1, $2, $3) as seconds",
            &[(&id, Type::UUID), (&address, Type::TEXT), (&limit, Type::INT4)],
        )?;
        let row = one(&rows)?;
        let seconds: i32 = row.try_get("seconds")?;
        Ok(u64::from(seconds.unsigned_abs()))
    }

    /// Deletes a counted attempt.
    ///
    /// # Errors
    /// Database failures.
    pub fn give_back(&self, attempt: Uuid) -> Result<(), ApiError> {
        self.repeatable("delete from attempts where id = $1", &[(&attempt, Type::UUID)])?;
        Ok(())
    }
}
