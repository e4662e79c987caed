//! Table `sessions`: opened by a login (`sql/005_open_session.sql`), rotated by a refresh, revoked by a logout.

use postgres::types::Type;
use uuid::Uuid;

use super::{Store, one};
use crate::error::ApiError;
use crate::token::{Principal, RefreshClaim};

/// A session to be opened after a password was verified.
pub struct NewSession<'a> {
    /// Made by the server, so that the insert can be repeated.
    pub session: Uuid,
    /// Whose it is.
    pub user: &'a str,
    /// The user's epoch, read together with the hash that the password was verified against.
    pub verified_epoch: i32,
    /// A new hash of the same password, where the cost of the stored one is not the configured one.
    pub rehashed: Option<&'a str>,
    /// The attempt to give back.
    pub attempt: Uuid,
    /// From where: known from now on.
    pub address: &'a str,
}

/// What a refresh did.
#[derive(Debug)]
pub enum Rotation {
    /// The session goes on.
    Rotated {
        /// Whose it is.
        user: String,
        /// The counter of the successor.
        counter: i32,
        /// Until the session ends without another refresh.
        expires_in_seconds: i64,
    },
    /// The token was used before, or never issued: the session is revoked.
    Reused {
        /// Whose it was.
        user: String,
    },
    /// There is no valid session of this id.
    Over,
}

impl Store<'_> {
    /// Opens the session: the seconds until it ends without a refresh. `None` if the user is inactive, or a password change
    /// or a logout of all sessions came after the hash was read.
    ///
    /// # Errors
    /// Database failures.
    pub fn open_session(&self, new: &NewSession<'_>) -> Result<Option<i64>, ApiError> {
        let opened = self.repeatable(
            "select open_session($1, $2, $3, $4, $5, $6) as expires_in",
            &[
                (&new.session, Type::UUID),
                (&new.user, Type::TEXT),
                (&new.verified_epoch, Type::INT4),
                (&new.rehashed, Type::TEXT),
                (&new.attempt, Type::UUID),
                (&new.address, Type::TEXT),
            ],
        );
        match opened {
            Ok(rows) => Ok(one(&rows)?.try_get("expires_in")?),
            // The user was deleted beside this statement.
            Err(failure) if failure.violates("sessions_user_id_fkey") => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Rotates the refresh token: raises the counter if the token carries it; gives the same successor to a replay of the
    /// previous token within 60 seconds of the first rotation; revokes the session otherwise (reuse). One update of one
    /// row: where many come at once, each decides on what the one before has left.
    ///
    /// # Errors
    /// Database failures.
    pub fn rotate(&self, claim: RefreshClaim) -> Result<Rotation, ApiError> {
        let rotated = self.rotate_once(claim)?;
        // A password change that carried this session while the update waited for it looks like an end: the update saw
        // the session as it is and its user as they were. A new statement sees both as they are.
        if matches!(rotated, Rotation::Over) { self.rotate_once(claim) } else { Ok(rotated) }
    }

    fn rotate_once(&self, claim: RefreshClaim) -> Result<Rotation, ApiError> {
        // S17: any other counter is a reuse. S18: but for the previous token, for 60 seconds after the first rotation.
        let rows = self.repeatable(
            "update sessions as s set
                 counter = case when s.counter = $2 then s.counter + 1 else s.counter end,
                 refreshed_at = case when s.counter = $2 then now() else s.refreshed_at end,
                 ended_at = case
                     when s.counter = $2 then null
                     when s.counter - 1 = $2 and s.refreshed_at > now() - interval '60 seconds' then null
                     else now()
                 end
             from users as u
             where s.id = $1 and u.id = s.user_id and session_is_valid(s, u)
             returning s.user_id, s.counter, s.ended_at is null as is_valid,
                 extract(epoch from session_expires_at(s) - now())::bigint as expires_in",
            &[(&claim.session, Type::UUID), (&claim.counter, Type::INT4)],
        )?;
        let Some(row) = rows.first() else {
            return Ok(Rotation::Over);
        };
        let user = row.try_get("user_id")?;
        if !row.try_get::<_, bool>("is_valid")? {
            return Ok(Rotation::Reused { user });
        }
        Ok(Rotation::Rotated { user, counter: row.try_get("counter")?, expires_in_seconds: row.try_get("expires_in")? })
    }

    /// Revokes the principal's session; false if it is over already.
    ///
    /// # Errors
    /// Database failures.
    pub fn revoke_session(&self, principal: &Principal) -> Result<bool, ApiError> {
        let rows = self.once(
            // S20
            "update sessions set ended_at = now()
             from local_caller($1, $2) as c
             where sessions.id = $2 and sessions.user_id = c.id
             returning sessions.id",
            &[(&principal.subject(), Type::TEXT), (&principal.session(), Type::UUID)],
        )?;
        Ok(!rows.is_empty())
    }

    /// Revokes all sessions of the principal; false if its own is over already.
    ///
    /// # Errors
    /// Database failures.
    pub fn revoke_all_sessions(&self, principal: &Principal) -> Result<bool, ApiError> {
        let rows = self.once(
            // S21
            "update users set session_epoch = users.session_epoch + 1
             from local_caller($1, $2) as c
             where users.id = c.id
             returning users.id",
            &[(&principal.subject(), Type::TEXT), (&principal.session(), Type::UUID)],
        )?;
        Ok(!rows.is_empty())
    }
}
