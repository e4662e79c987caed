//! Table `tasks`. Each statement says who the principal is, that the session is valid, whose the tasks are, and does the
//! work: no row at all means that the principal may not act; a row without a task, that there is none.
//!
//! A task is `tasks.*`, read by the columns' names: the table is the one list of them.

use jiff::Timestamp;
use postgres::Row;
use postgres::types::Type;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::{Store, session_over};
use crate::database::Parameter;
use crate::error::{ApiError, Problem};
use crate::token::Principal;

/// A task, in the row that it came in: nothing is copied on the way into the answer.
#[derive(Debug)]
pub struct Task {
    /// UUIDv7.
    pub id: Uuid,
    row: Row,
}

/// A task as its owner sees it.
#[derive(Serialize)]
struct Members<'a> {
    id: Uuid,
    user_id: &'a str,
    title: &'a str,
    description: Option<&'a str>,
    completed: bool,
    #[serde(serialize_with = "super::rfc3339")]
    created_at: Timestamp,
    #[serde(serialize_with = "super::rfc3339")]
    updated_at: Timestamp,
}

impl Serialize for Task {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.members().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl Task {
    fn members(&self) -> Result<Members<'_>, postgres::Error> {
        Ok(Members {
            id: self.id,
            user_id: self.row.try_get("user_id")?,
            title: self.row.try_get("title")?,
            description: self.row.try_get("description")?,
            completed: self.row.try_get("completed")?,
            created_at: self.row.try_get("created_at")?,
            updated_at: self.row.try_get("updated_at")?,
        })
    }
}

/// A task to be made.
pub struct NewTask {
    /// Made by the server, so that the insert can be repeated.
    pub id: Uuid,
    /// 1 to 255 characters.
    pub title: String,
    /// At most 2,000 characters.
    pub description: Option<String>,
}

/// What to change; what is `None` stays.
#[derive(Default)]
pub struct Changes {
    /// 1 to 255 characters.
    pub title: Option<String>,
    /// `Some(None)` removes it.
    pub description: Option<Option<String>>,
    /// Done or not.
    pub completed: Option<bool>,
}

/// Which part of the list.
pub struct Page {
    /// Only done ones, or only open ones.
    pub completed: Option<bool>,
    /// Only tasks after this id, which need not exist.
    pub after: Option<Uuid>,
    /// At most this many.
    pub limit: i64,
}

impl Store<'_> {
    /// The principal's tasks, oldest first.
    ///
    /// # Errors
    /// [`Problem::InvalidToken`] if the session is over; database failures.
    pub fn list_tasks(&self, principal: &Principal, page: &Page) -> Result<Vec<Task>, ApiError> {
        // The nil id comes before every other.
        let after = page.after.unwrap_or_default();
        let rows = match page.completed {
            None => self.repeatable_by(
                principal,
                "select t.* from caller($1, $2, $3) as c
                 left join lateral (
                     select * from tasks where user_id = $2 and id > $4 order by id limit $5
                 ) as t on true",
                &[(&after, Type::UUID), (&page.limit, Type::INT8)],
            ),
            Some(completed) => self.repeatable_by(
                principal,
                "select t.* from caller($1, $2, $3) as c
                 left join lateral (
                     select * from tasks where user_id = $2 and completed = $6 and id > $4 order by id limit $5
                 ) as t on true",
                &[(&after, Type::UUID), (&page.limit, Type::INT8), (&completed, Type::BOOL)],
            ),
        }?;
        if rows.is_empty() {
            return Err(session_over());
        }
        let mut tasks = rows.into_iter().filter_map(|row| task(row).transpose()).collect::<Result<Vec<_>, _>>()?;
        // A join promises no order. Sorted they are, mostly, and sorting here costs less than in the database.
        tasks.sort_by_key(|task| task.id);
        Ok(tasks)
    }

    /// The task that was made; the same one if it is made again with the same id. The first task of an external user
    /// makes the user too: where two race, the one that finds the other's row waits for it, and the foreign key, checked
    /// at the statement's end, sees whichever row came to be.
    ///
    /// # Errors
    /// [`Problem::InvalidToken`] if the session is over; database failures.
    pub fn create_task(&self, principal: &Principal, new: &NewTask) -> Result<Task, ApiError> {
        let values: &[Parameter<'_>] =
            &[(&new.id, Type::UUID), (&new.title, Type::TEXT), (&new.description, Type::TEXT)];
        let made = match principal.is_external() {
            false => self.repeatable_by(
                principal,
                "insert into tasks (id, user_id, title, description)
                 select $4, c.id, $5, $6 from caller($1, $2, $3) as c
                 returning tasks.*",
                values,
            ),
            true => self.repeatable_by(
                principal,
                "with made as (
                     insert into users (id, kind) select id, 'better_auth' from caller($1, $2, $3)
                     on conflict (id) do nothing
                 )
                 insert into tasks (id, user_id, title, description)
                 select $4, c.id, $5, $6 from caller($1, $2, $3) as c
                 returning tasks.*",
                values,
            ),
        };
        match made {
            // Made already: the connection ended before the answer came.
            Err(error) if error.violates("tasks_pkey") => self.task(principal, new.id),
            rows => found(rows?),
        }
    }

    /// One task of the principal.
    ///
    /// # Errors
    /// [`Problem::InvalidToken`] if the session is over; [`Problem::TaskNotFound`]; database failures.
    pub fn task(&self, principal: &Principal, id: Uuid) -> Result<Task, ApiError> {
        let rows = self.repeatable_by(
            principal,
            // S29
            "select t.* from caller($1, $2, $3) as c
             left join tasks as t on t.user_id = $2 and t.id = $4",
            &[(&id, Type::UUID)],
        )?;
        found(rows)
    }

    /// The task with these changes.
    ///
    /// # Errors
    /// As [`Store::task`].
    pub fn update_task(&self, principal: &Principal, id: Uuid, changes: &Changes) -> Result<Task, ApiError> {
        let rows = self.repeatable_by(
            principal,
            "with c as (
                 select id from caller($1, $2, $3)
             ), t as (
                 update tasks set
                     title = coalesce($5, tasks.title),
                     description = case when $6 then $7 else tasks.description end,
                     completed = coalesce($8, tasks.completed),
                     updated_at = now()
                 from c
                 where tasks.user_id = c.id and tasks.id = $4
                 returning tasks.*
             )
             select t.* from c left join t on true",
            &[
                (&id, Type::UUID),
                (&changes.title, Type::TEXT),
                (&changes.description.is_some(), Type::BOOL),
                (&changes.description.as_ref().and_then(Option::as_ref), Type::TEXT),
                (&changes.completed, Type::BOOL),
            ],
        )?;
        found(rows)
    }

    /// The task, completed if it was open and open if it was completed. Not repeatable.
    ///
    /// # Errors
    /// As [`Store::task`].
    pub fn toggle_task(&self, principal: &Principal, id: Uuid) -> Result<Task, ApiError> {
        let rows = self.once_by(
            principal,
            "with c as (
                 select id from caller($1, $2, $3)
             ), t as (
                 update tasks set completed = not tasks.completed, updated_at = now()
                 from c
                 where tasks.user_id = c.id and tasks.id = $4
                 returning tasks.*
             )
             select t.* from c left join t on true",
            &[(&id, Type::UUID)],
        )?;
        found(rows)
    }

    /// Deletes one task of the principal. Not repeatable.
    ///
    /// # Errors
    /// As [`Store::task`].
    pub fn delete_task(&self, principal: &Principal, id: Uuid) -> Result<(), ApiError> {
        let rows = self.once_by(
            principal,
            "with c as (
                 select id from caller($1, $2, $3)
             ), t as (
                 delete from tasks using c
                 where tasks.user_id = c.id and tasks.id = $4
                 returning tasks.*
             )
             select t.* from c left join t on true",
            &[(&id, Type::UUID)],
        )?;
        found(rows).map(drop)
    }
}

/// The task of the one row; without a row the principal may not act.
fn found(rows: Vec<Row>) -> Result<Task, ApiError> {
    let row = rows.into_iter().next().ok_or_else(session_over)?;
    task(row)?.ok_or_else(|| Problem::TaskNotFound.into())
}

/// The task of a row; `None` if the row says only that the principal may act.
fn task(row: Row) -> Result<Option<Task>, postgres::Error> {
    let id: Option<Uuid> = row.try_get("id")?;
    Ok(id.map(|id| Task { id, row }))
}
