//! Table `users`.

use postgres::types::Type;
use uuid::Uuid;

use super::Store;
use crate::database::DatabasePool;
use crate::error::{ApiError, Problem};
use crate::token::Principal;

/// A user as everybody may see their own. One of Better Auth has no e-mail here, and before the first task no time.
#[derive(Debug, serde::Serialize)]
pub struct User {
    id: String,
    email: Option<String>,
    is_active: bool,
    created_at: Option<String>,
}

/// An account to be made.
pub struct NewUser<'a> {
    /// Made by the caller, so that the insert can be repeated.
    pub id: &'a str,
    /// In lower case.
    pub email: &'a str,
    /// bcrypt.
    pub password_hash: &'a str,
}

impl Store {
    /// The user that was made; the same one if it is made again with the same id.
    ///
    /// # Errors
    /// [`Problem::EmailTaken`]; database failures.
    pub fn create_user(&self, user: &NewUser<'_>) -> Result<User, ApiError> {
        create_user(&self.database, user)
    }

    /// The caller's own user; nothing if the session is over or the user inactive.
    ///
    /// # Errors
    /// Database failures.
    pub fn caller(&self, principal: &Principal) -> Result<Option<User>, ApiError> {
        let row = self.database.repeatable_row(
            "select c.id, u.email, coalesce(u.is_active, true) as is_active, rfc3339(u.created_at) as created_at
             from caller($1, $2) as c
             left join users as u on u.id = c.id",
            &[(&principal.subject(), Type::TEXT), (&principal.session(), Type::UUID)],
        )?;
        Ok(one_user(row.as_ref()))
    }

    /// The e-mail of the caller, whose password is about to be asked for again; nothing if the session is over.
    ///
    /// # Errors
    /// Database failures.
    pub fn caller_email(&self, principal: &Principal) -> Result<Option<String>, ApiError> {
        let row = self.database.repeatable_row(
            "select u.email from local_caller($1, $2) as c join users as u on u.id = c.id",
            &[(&principal.subject(), Type::TEXT), (&principal.session(), Type::UUID)],
        )?;
        Ok(row.map(|row| row.get("email")))
    }

    /// Stores the new hash, ends every other session and takes the attempt back; false if meanwhile the session ended
    /// or the password is no longer the verified one. Both raise the epoch, which must be the same in the session, in the
    /// user, and when the password was verified.
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
        let row = self.database.once(
            "with changed as (
                 update users set password_hash = $4, session_epoch = users.session_epoch + 1
                 from local_caller($1, $2) as c
                 where users.id = c.id and users.session_epoch = $3 and c.session_epoch = $3 and users.is_active
                 returning users.id, users.session_epoch
             ), carried as (
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
        Ok(row.is_some())
    }

    /// Deletes the caller with all tasks and sessions, and takes the attempt back; false if meanwhile the session ended
    /// or the password is no longer the verified one, as in [`Store::change_password`].
    ///
    /// # Errors
    /// Database failures.
    pub fn delete_caller(&self, principal: &Principal, verified_epoch: i32, attempt: Uuid) -> Result<bool, ApiError> {
        let row = self.database.once(
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
        Ok(row.is_some())
    }
}

pub(super) fn create_user(database: &DatabasePool, user: &NewUser<'_>) -> Result<User, ApiError> {
    let made = database.repeatable(
        "insert into users (id, email, password_hash)
         values ($1, $2, $3)
         on conflict (id) do update set id = excluded.id
         returning id, email, is_active, rfc3339(created_at) as created_at",
        &[(&user.id, Type::TEXT), (&user.email, Type::TEXT), (&user.password_hash, Type::TEXT)],
    );
    match made {
        Ok(rows) => one_user(rows.first()).ok_or_else(|| Problem::Internal.with_cause("insert without a row")),
        Err(failure) if failure.violates("users_email_key") => Err(Problem::EmailTaken.into()),
        Err(failure) => Err(failure.into()),
    }
}

fn one_user(row: Option<&postgres::Row>) -> Option<User> {
    let row = row?;
    Some(User {
        id: row.get("id"),
        email: row.get("email"),
        is_active: row.get("is_active"),
        created_at: row.get("created_at"),
    })
}
