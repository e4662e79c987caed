//! Statements of the operator's commands: the only ones beside registration, login, refresh and giving an
//! attempt back that start from no principal. No handler is given them.

use jiff::Timestamp;
use postgres::Row;
use postgres::types::Type;

use super::{NewUser, Store, User, one};
use crate::database::{DatabaseError, Parameter, SingleConnection, TimeBudget};
use crate::error::ApiError;

/// A user as the operator sees it.
#[derive(Debug)]
pub struct UserSummary {
    /// The id.
    pub id: String,
    /// The e-mail; `None` for a user of Better Auth, and only for them.
    pub email: Option<String>,
    /// Whether the user may act.
    pub is_active: bool,
    /// When the row was made.
    pub created_at: Timestamp,
    /// Valid sessions.
    pub sessions: i64,
    /// Tasks, completed or not.
    pub tasks: i64,
}

/// What is to happen to one user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserAction {
    /// The user may act again; no session of before comes back.
    Activate,
    /// No login, no valid session, and no token of Better Auth is accepted.
    Deactivate,
    /// All sessions end.
    Logout,
    /// The user goes with all that is theirs.
    Delete,
}

/// The statements of the operator's commands. Each method asks the database.
// S32: `Services`, which handlers work with, has none of these.
pub struct OperatorStore {
    connection: SingleConnection,
}

impl OperatorStore {
    /// A store on this connection.
    pub fn new(connection: SingleConnection) -> OperatorStore {
        OperatorStore { connection }
    }

    /// What the statements run on.
    pub fn connection(&self) -> &SingleConnection {
        &self.connection
    }

    /// The user that was made, as [`Store::create_user`].
    ///
    /// # Errors
    /// As there.
    pub fn create_user(&self, user: &NewUser<'_>) -> Result<User, ApiError> {
        Store::new(&self.connection, &TimeBudget::of_command()).create_user(user)
    }

    /// All users by id, which for local ones is by age: a page of 10,000 after the id that came last. Counts sessions and
    /// tasks for the page as a whole, which takes as long with 10,000 users as a count for each of 500.
    ///
    /// # Errors
    /// Database failures.
    pub fn list_users(&self, after: &str) -> Result<Vec<UserSummary>, ApiError> {
        let rows = self.repeatable(
            "with page as (
                 select id from users where id > $1 order by id limit 10000
             ), valid_sessions as (
                 select s.user_id, count(*) as count
                 from page
                 join users as u on u.id = page.id
                 join sessions as s on s.user_id = u.id
                 where session_is_valid(s, u)
                 group by s.user_id
             ), all_tasks as (
                 select t.user_id, count(*) as count from page join tasks as t on t.user_id = page.id group by t.user_id
             )
             select u.id, u.email, u.is_active, u.created_at, coalesce(s.count, 0) as sessions,
                 coalesce(t.count, 0) as tasks
             from page
             join users as u on u.id = page.id
             left join valid_sessions as s on s.user_id = u.id
             left join all_tasks as t on t.user_id = u.id
             order by u.id",
            &[(&after, Type::TEXT)],
        )?;
        rows.iter().map(summary).collect()
    }

    /// The users with this id, or with this e-mail; an absent one fits nobody. More than one only where an id looks like
    /// an e-mail.
    ///
    /// # Errors
    /// Database failures.
    pub fn find_users(&self, id: Option<&str>, email: Option<&str>) -> Result<Vec<UserSummary>, ApiError> {
        let rows = self.repeatable(
            "select u.id, u.email, u.is_active, u.created_at,
                 (select count(*) from sessions as s where s.user_id = u.id and session_is_valid(s, u)) as sessions,
                 (select count(*) from tasks as t where t.user_id = u.id) as tasks
             from users as u
             where u.id = $1 or u.email = $2
             order by u.id",
            &[(&id, Type::TEXT), (&email, Type::TEXT)],
        )?;
        rows.iter().map(summary).collect()
    }

    /// Applies the action to the user; false if there is none of this id.
    ///
    /// # Errors
    /// Database failures.
    pub fn act_on_user(&self, id: &str, action: UserAction) -> Result<bool, ApiError> {
        let sql = match action {
            UserAction::Activate => "update users set is_active = true where id = $1 returning id",
            UserAction::Deactivate => {
                // S22
                "update users set is_active = false, session_epoch = session_epoch + 1 where id = $1 returning id"
            }
            UserAction::Logout => "update users set session_epoch = session_epoch + 1 where id = $1 returning id",
            UserAction::Delete => "delete from users where id = $1 returning id",
        };
        Ok(!self.once(sql, &[(&id, Type::TEXT)])?.is_empty())
    }

    /// Ends all sessions of all users; returns how many users.
    ///
    /// # Errors
    /// Database failures.
    pub fn logout_all(&self) -> Result<i64, ApiError> {
        let rows = self.once(
            "with changed as (
                 update users set session_epoch = session_epoch + 1 where kind = 'local' returning id
             )
             select count(*) as users from changed",
            &[],
        )?;
        Ok(one(&rows)?.get("users"))
    }

    /// Makes the row of a user of Better Auth before their first task would; false if meanwhile a local user has the id.
    ///
    /// # Errors
    /// Database failures.
    pub fn make_external_user(&self, id: &str, is_active: bool) -> Result<bool, ApiError> {
        let rows = self.repeatable(
            "insert into users (id, kind, is_active) values ($1, 'better_auth', $2)
             on conflict (id) do update set is_active = excluded.is_active where users.kind = 'better_auth'
             returning id",
            &[(&id, Type::TEXT), (&is_active, Type::BOOL)],
        )?;
        Ok(!rows.is_empty())
    }

    /// Sets the hash of a new password and ends all sessions; false if there is no such local user.
    ///
    /// # Errors
    /// Database failures.
    pub fn set_password(&self, id: &str, password_hash: &str) -> Result<bool, ApiError> {
        let rows = self.once(
            "update users set password_hash = $2, session_epoch = session_epoch + 1
             where id = $1 and kind = 'local'
             returning id",
            &[(&id, Type::TEXT), (&password_hash, Type::TEXT)],
        )?;
        Ok(!rows.is_empty())
    }

    /// Deletes at most this many of the sessions that can never be used again: how many.
    ///
    /// # Errors
    /// Database failures.
    pub fn purge_sessions(&self, limit: i64) -> Result<i64, ApiError> {
        self.counted(
            "with gone as (
                 delete from sessions where id in (
                     select s.id from sessions as s join users as u on u.id = s.user_id
                     where not session_is_valid(s, u) limit $1 for update of s skip locked
                 )
                 returning id
             )
             select count(*) as count from gone",
            limit,
        )
    }

    /// Deletes at most this many of the attempts that no longer count: how many.
    ///
    /// # Errors
    /// Database failures.
    pub fn purge_attempts(&self, limit: i64) -> Result<i64, ApiError> {
        self.counted(
            "with gone as (
                 delete from attempts where id in (
                     select id from attempts where created_at < now() - interval '1 hour'
                     limit $1 for update skip locked
                 )
                 returning id
             )
             select count(*) as count from gone",
            limit,
        )
    }

    /// Deletes at most this many of the addresses from which nobody has logged in for 90 days: how many.
    ///
    /// # Errors
    /// Database failures.
    pub fn purge_addresses(&self, limit: i64) -> Result<i64, ApiError> {
        self.counted(
            "with gone as (
                 delete from known_addresses where (user_id, address) in (
                     select user_id, address from known_addresses where last_seen < now() - interval '90 days'
                     limit $1 for update skip locked
                 )
                 returning user_id
             )
             select count(*) as count from gone",
            limit,
        )
    }

    fn counted(&self, sql: &'static str, limit: i64) -> Result<i64, ApiError> {
        Ok(one(&self.once(sql, &[(&limit, Type::INT8)])?)?.try_get("count")?)
    }

    fn repeatable(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        Store::new(&self.connection, &TimeBudget::of_command()).repeatable(sql, parameters)
    }

    fn once(&self, sql: &'static str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, DatabaseError> {
        Store::new(&self.connection, &TimeBudget::of_command()).once(sql, parameters)
    }
}

fn summary(row: &Row) -> Result<UserSummary, ApiError> {
    Ok(UserSummary {
        id: row.try_get("id")?,
        email: row.try_get("email")?,
        is_active: row.try_get("is_active")?,
        created_at: row.try_get("created_at")?,
        sessions: row.try_get("sessions")?,
        tasks: row.try_get("tasks")?,
    })
}
