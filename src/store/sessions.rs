//! Table `sessions`: opened by a login, carried on by a refresh, ended by a logout.

use postgres::types::Type;
use uuid::Uuid;

use super::Store;
use crate::error::ApiError;
use crate::token::{Principal, RefreshClaim};

/// A session to be opened after a password was verified.
pub struct NewSession<'a> {
    /// Made by the caller, so that the insert can be repeated.
    pub session: Uuid,
    /// Whose it is.
    pub user: &'a str,
    /// The hash that the password was verified against.
    pub verified_hash: &'a str,
    /// The user's epoch then.
    pub verified_epoch: i32,
    /// Its replacement, where its cost is not the configured one.
    pub rehashed: Option<&'a str>,
    /// The attempt to take back.
    pub attempt: Uuid,
    /// From where: known from now on.
    pub address: &'a str,
}

/// What a refresh did.
#[derive(Debug)]
pub enum Rotation {
    /// The session lives on.
    Rotated {
        /// Whose it is.
        user: String,
        /// The counter of the successor.
        counter: i32,
        /// Until the session ends without another refresh.
        expires_in_seconds: i64,
    },
    /// The token was used before, or never issued: the session is over from now on.
    Reused {
        /// Whose it was.
        user: String,
    },
    /// There is no living session of this id.
    Over,
}

impl Store {
    /// Opens the session if the password is still the verified one and the user is active; else false. The session
    /// belongs to the epoch that this statement sees: where a password change or a logout of all sessions runs beside
    /// it, it is born dead. In the same round trip the 51st living session ends and some old rows go.
    ///
    /// # Errors
    /// Database failures.
    pub fn open_session(&self, opening: &NewSession<'_>) -> Result<bool, ApiError> {
        let opened = self.database.repeatable(
            "with verified as (
                 select id, session_epoch from users
                 where id = $2 and is_active
                     -- another login may have renewed the hash, which leaves the epoch; a new password changes both
                     and (password_hash = $3 or session_epoch = $7)
             ), opened as (
                 insert into sessions (id, user_id, session_epoch)
                 select $1, id, session_epoch from verified
                 on conflict (id) do update set id = excluded.id
                 returning id
             ), rehashed as (
                 update users set password_hash = $4
                 from verified
                 where users.id = verified.id and users.password_hash = $3 and $4 is not null
             ), seen as (
                 insert into known_addresses (user_id, address)
                 select id, $6 from verified
                 on conflict (user_id, address) do update set last_seen = now()
             ), refunded as (
                 delete from attempts using verified where attempts.id = $5
             ), surplus as (
                 update sessions set ended_at = now()
                 from (
                     select s.id from verified
                     join sessions as s on s.user_id = verified.id
                     join users as u on u.id = s.user_id
                     where session_lives(s, u) and s.id <> $1
                     order by s.refreshed_at desc, s.id desc
                     offset 49
                 ) as oldest
                 where sessions.id = oldest.id
             ), old_attempts as (
                 delete from attempts where id in (
                     select id from attempts where created_at < now() - interval '1 hour'
                     order by created_at limit 100 for update skip locked
                 )
             ), old_sessions as (
                 delete from sessions where id in (
                     select id from sessions
                     where created_at < now() - interval '30 days' or ended_at < now() - interval '1 day'
                     limit 100 for update skip locked
                 )
             )
             select id from opened",
            &[
                (&opening.session, Type::UUID),
                (&opening.user, Type::TEXT),
                (&opening.verified_hash, Type::TEXT),
                (&opening.rehashed, Type::TEXT),
                (&opening.attempt, Type::UUID),
                (&opening.address, Type::TEXT),
                (&opening.verified_epoch, Type::INT4),
            ],
        );
        match opened {
            Ok(rows) => Ok(!rows.is_empty()),
            // The user was deleted beside this statement.
            Err(failure) if failure.violates("sessions_user_id_fkey") => Ok(false),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Raises the counter if the token carries it; gives the same successor to its parent within ten seconds of the first
    /// rotation; ends the session otherwise. One update of one row: where many come at once, each decides on what the
    /// one before has left.
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
        let row = self.database.repeatable_row(
            "update sessions as s set
                 counter = case when s.counter = $2 then s.counter + 1 else s.counter end,
                 refreshed_at = case when s.counter = $2 then now() else s.refreshed_at end,
                 ended_at = case
                     when s.counter = $2 then null
                     when s.counter - 1 = $2 and s.refreshed_at > now() - interval '10 seconds' then null
                     else now()
                 end
             from users as u
             where s.id = $1 and u.id = s.user_id and session_lives(s, u)
             returning s.user_id, s.counter, s.ended_at is null as lives, extract(epoch from least(
                 s.refreshed_at + interval '14 days', s.created_at + interval '30 days'
             ) - now())::bigint as expires_in",
            &[(&claim.session, Type::UUID), (&claim.counter, Type::INT4)],
        )?;
        let Some(row) = row else {
            return Ok(Rotation::Over);
        };
        let user = row.get("user_id");
        if !row.get::<_, bool>("lives") {
            return Ok(Rotation::Reused { user });
        }
        Ok(Rotation::Rotated { user, counter: row.get("counter"), expires_in_seconds: row.get("expires_in") })
    }

    /// Ends the caller's session; false if it is over already.
    ///
    /// # Errors
    /// Database failures.
    pub fn end_session(&self, principal: &Principal) -> Result<bool, ApiError> {
        let row = self.database.once(
            "update sessions set ended_at = now()
             from local_caller($1, $2) as c
             where sessions.id = $2 and sessions.user_id = c.id
             returning sessions.id",
            &[(&principal.subject(), Type::TEXT), (&principal.session(), Type::UUID)],
        )?;
        Ok(row.is_some())
    }

    /// Ends all sessions of the caller; false if the caller's own is over already.
    ///
    /// # Errors
    /// Database failures.
    pub fn end_all_sessions(&self, principal: &Principal) -> Result<bool, ApiError> {
        let row = self.database.once(
            "update users set session_epoch = users.session_epoch + 1
             from local_caller($1, $2) as c
             where users.id = c.id
             returning users.id",
            &[(&principal.subject(), Type::TEXT), (&principal.session(), Type::UUID)],
        )?;
        Ok(row.is_some())
    }
}
