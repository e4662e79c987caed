//! Statements of the operator's commands: the only ones beside registration, login and refresh that need no caller. No handler of
//! a request uses them.

use postgres::Row;
use postgres::types::Type;

#[cfg(doc)]
use super::Store;
use super::{NewUser, User, users};
use crate::config::DatabaseConfig;
use crate::database::DatabasePool;
use crate::error::{ApiError, Problem};

/// A user as the operator sees it.
#[derive(Debug)]
pub struct UserSummary {
    /// The id.
    pub id: String,
    /// The e-mail; none for a user of Better Auth, and only for them.
    pub email: Option<String>,
    /// Whether the user may act.
    pub is_active: bool,
    /// RFC 3339.
    pub created_at: String,
    /// Sessions that are alive.
    pub sessions: i64,
    /// Tasks, done or not.
    pub tasks: i64,
}

/// What is to happen to one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserAction {
    /// The user may act again; no session of before comes back.
    Activate,
    /// No login, no session lives on, and no token of Better Auth is taken.
    Deactivate,
    /// All sessions end.
    Logout,
    /// The user goes with all that is theirs.
    Delete,
}

/// The statements of the operator's commands. Each method asks the database.
pub struct OperatorStore {
    database: DatabasePool,
}

impl OperatorStore {
    /// A store that connects when it is first asked.
    pub fn new(database: &DatabaseConfig) -> OperatorStore {
        OperatorStore { database: DatabasePool::new(database) }
    }

    /// The user that was made, as [`Store::create_user`].
    ///
    /// # Errors
    /// As there.
    pub fn create_user(&self, user: &NewUser<'_>) -> Result<User, ApiError> {
        users::create_user(&self.database, user)
    }

    /// All users by id, which for local ones is the time of their making, a page of 500 after the id that came last.
    ///
    /// # Errors
    /// Database failures.
    pub fn list_users(&self, after: &str) -> Result<Vec<UserSummary>, ApiError> {
        let rows = self.database.repeatable(
            "select u.id, u.email, u.is_active, rfc3339(u.created_at) as created_at,
                 (select count(*) from sessions as s where s.user_id = u.id and session_lives(s, u)) as sessions,
                 (select count(*) from tasks as t where t.user_id = u.id) as tasks
             from users as u
             where u.id > $1
             order by u.id
             limit 500",
            &[(&after, Type::TEXT)],
        )?;
        Ok(rows.iter().map(listed).collect())
    }

    /// The users with this id, or with this e-mail; an absent one fits nobody. More than one only where an id looks like
    /// an e-mail.
    ///
    /// # Errors
    /// Database failures.
    pub fn find_users(&self, id: Option<&str>, email: Option<&str>) -> Result<Vec<UserSummary>, ApiError> {
        let rows = self.database.repeatable(
            "select u.id, u.email, u.is_active, rfc3339(u.created_at) as created_at,
                 (select count(*) from sessions as s where s.user_id = u.id and session_lives(s, u)) as sessions,
                 (select count(*) from tasks as t where t.user_id = u.id) as tasks
             from users as u
             where u.id = $1 or u.email = $2
             order by u.id",
            &[(&id, Type::TEXT), (&email, Type::TEXT)],
        )?;
        Ok(rows.iter().map(listed).collect())
    }

    /// Does the deed to the user; false if there is none of this id.
    ///
    /// # Errors
    /// Database failures.
    pub fn act_on_user(&self, id: &str, deed: UserAction) -> Result<bool, ApiError> {
        let sql = match deed {
            UserAction::Activate => "update users set is_active = true where id = $1 returning id",
            UserAction::Deactivate => {
                "update users set is_active = false, session_epoch = session_epoch + 1 where id = $1 returning id"
            }
            UserAction::Logout => "update users set session_epoch = session_epoch + 1 where id = $1 returning id",
            UserAction::Delete => "delete from users where id = $1 returning id",
        };
        Ok(self.database.once(sql, &[(&id, Type::TEXT)])?.is_some())
    }

    /// Makes the row of a user of Better Auth before their first task would; false if meanwhile a local user has the id.
    ///
    /// # Errors
    /// Database failures.
    pub fn make_external_user(&self, id: &str, is_active: bool) -> Result<bool, ApiError> {
        let row = self.database.repeatable_row(
            "insert into users (id, kind, is_active) values ($1, 'better_auth', $2)
             on conflict (id) do update set is_active = excluded.is_active where users.kind = 'better_auth'
             returning id",
            &[(&id, Type::TEXT), (&is_active, Type::BOOL)],
        )?;
        Ok(row.is_some())
    }

    /// Sets the hash of a new password and ends all sessions; false if there is no such local user.
    ///
    /// # Errors
    /// Database failures.
    pub fn set_password(&self, id: &str, password_hash: &str) -> Result<bool, ApiError> {
        let row = self.database.once(
            "update users set password_hash = $2, session_epoch = session_epoch + 1
             where id = $1 and kind = 'local'
             returning id",
            &[(&id, Type::TEXT), (&password_hash, Type::TEXT)],
        )?;
        Ok(row.is_some())
    }

    /// Deletes the sessions that can never be used again and the attempts that no longer count: how many of each. Also the
    /// addresses that no longer count as known.
    ///
    /// # Errors
    /// Database failures.
    pub fn purge(&self) -> Result<(i64, i64), ApiError> {
        let row = self.database.once(
            "with over as (
                 delete from sessions as s using users as u
                 where u.id = s.user_id and not session_lives(s, u)
                 returning s.id
             ), old as (
                 delete from attempts where created_at < now() - interval '1 hour'
                 returning id
             ), unknown_again as (
                 delete from known_addresses where last_seen < now() - interval '90 days'
             )
             select (select count(*) from over) as sessions, (select count(*) from old) as attempts",
            &[],
        )?;
        let row = row.ok_or_else(|| Problem::Internal.with_cause("purge without a row"))?;
        Ok((row.get("sessions"), row.get("attempts")))
    }
}

fn listed(row: &Row) -> UserSummary {
    UserSummary {
        id: row.get("id"),
        email: row.get("email"),
        is_active: row.get("is_active"),
        created_at: row.get("created_at"),
        sessions: row.get("sessions"),
        tasks: row.get("tasks"),
    }
}
