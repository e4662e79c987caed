//! Table `users`.

use jiff::Timestamp;
use postgres::Row;
use postgres::types::Type;
use uuid::Uuid;

use super::{Store, one};
use crate::error::{ApiError, Problem};
use crate::token::Principal;

/// A user as everybody may see their own. One of Better Auth has no e-mail here, and before the first task no time.
#[derive(Debug, serde::Serialize)]
pub struct User {
    id: String,
    email: Option<String>,
    is_active: bool,
    #[serde(serialize_with = "super::rfc3339_or_null")]
    created_at: Option<Timestamp>,
}

/// An account to be made.
pub struct NewUser<'a> {
    /// Made by the server, so that the insert can be repeated.
    pub id: &'a str,
    /// In lower case.
    pub email: &'a str,
    /// bcrypt.
    pub password_hash: &'a str,
}

impl Store<'_> {
    /// The user that was made; the same one if it is made again with the same id.
    ///
    /// # Errors
    /// [`Problem::EmailTaken`]; database failures.
    pub fn create_user(&self, new: &NewUser<'_>) -> Result<User, ApiError> {
        let made = self.repeatable(
            "insert into users (id, email, password_hash)
             values ($1, $2, $3)
             on conflict (id) do update set id = excluded.id
             returning id, email, is_active, created_at",
            &[(&new.id, Type::TEXT), (&new.email, Type::TEXT), (&new.password_hash, Type::TEXT)],
        );
        match made {
            Ok(rows) => user(one(&rows)?),
            Err(failure) if failure.violates("users_email_key") => Err(Problem::EmailTaken.into()),
            Err(failure) => Err(failure.into()),
        }
    }

    /// The principal's own user; `None` if the session is over or the user inactive.
    ///
    /// # Errors
    /// Database failures.
    pub fn user(&self, principal: &Principal) -> Result<Option<User>, ApiError> {
        let rows = self.repeatable_by(
            principal,
            "select c.id, u.email, coalesce(u.is_active, true) as is_active, u.created_at
             from caller($1, $2, $3) as c
             left join users as u on u.id = c.id",
            &[],
        )?;
        rows.first().map(user).transpose()
    }

    /// The e-mail of the local user whose password is about to be asked for again; `None` if the session is over.
    ///
    /// # Errors
    /// Database failures.
    pub fn user_email(&self, principal: &Principal) -> Result<Option<String>, ApiError> {
        let rows = self.repeatable(
            "select u.email from local_caller($1, $2) as c join users as u on u.id = c.id",
            &[(&principal.subject(), Type::TEXT), (&principal.session(), Type::UUID)],
        )?;
        Ok(rows.first().map(|row| row.try_get("email")).transpose()?)
    }

    /// Stores the new hash, ends every other session and gives the attempt back; false if meanwhile the session ended
    /// or the password is no longer the verified one. An ended session gives no row in `local_caller`; a new password raises
    /// the epoch, which must be the same in the session, in the user, and when the password was verified.
    ///
    /// # Errors
    /// Database failures.
    pub fn change_password(
        &self,
        principal: &Principal,
        verified_epoch: i32,
        new_hash: &str,
        attempt: Uuid,
    ) -> Result<bool, ApiError> {
        let rows = self.once(
            // S21
            "with changed as (
                 update users set password_hash = $4, session_epoch = users.session_epoch + 1
                 from local_caller($1, $2) as c
                 where users.id = c.id and users.session_epoch = $3 and c.session_epoch = $3 and users.is_active
                 returning users.id, users.session_epoch
             ), kept_session as (
                 update sessions set session_epoch = changed.session_epoch
                 from changed
                 where sessions.id = $2 and sessions.user_id = changed.id
             ), refunded as (
                 delete from attempts using changed where attempts.id = $5
             )
             select id from changed",
            &[
                (&principal.subject(), Type::TEXT),
                (&principal.session(), Type::UUID),
                (&verified_epoch, Type::INT4),
                (&new_hash, Type::TEXT),
                (&attempt, Type::UUID),
            ],
        )?;
        Ok(!rows.is_empty())
    }

    /// Deletes the user with all tasks and sessions, and gives the attempt back; false if meanwhile the session ended
    /// or the password is no longer the verified one, as in [`Store::change_password`].
    ///
    /// # Errors
    /// Database failures.
    pub fn delete_user(&self, principal: &Principal, verified_epoch: i32, attempt: Uuid) -> Result<bool, ApiError> {
        let rows = self.once(
            // S22
            "with gone as (
                 delete from users using local_caller($1, $2) as c
                 where users.id = c.id and users.session_epoch = $3 and c.session_epoch = $3 and users.is_active
                 returning users.id
             ), refunded as (
                 delete from attempts using gone where attempts.id = $4
             )
             select id from gone",
            &[
                (&principal.subject(), Type::TEXT),
                (&principal.session(), Type::UUID),
                (&verified_epoch, Type::INT4),
                (&attempt, Type::UUID),
            ],
        )?;
        Ok(!rows.is_empty())
    }
}

fn user(row: &Row) -> Result<User, ApiError> {
    Ok(User {
        id: row.try_get("id")?,
        email: row.try_get("email")?,
        is_active: row.try_get("is_active")?,
        created_at: row.try_get("created_at")?,
    })
}
