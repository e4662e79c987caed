//! Table `tasks`. Each statement says who the caller is, that the session lives, whose the tasks are, and does the work:
//! no row at all means that the caller may not act; a row without a task, that there is none.

use postgres::Row;
use postgres::types::Type;
use uuid::Uuid;

use super::{Store, session_over};
use crate::error::{ApiError, Problem};
use crate::token::Principal;

/// A task as its owner sees it.
#[derive(Debug, serde::Serialize)]
pub struct Task {
    /// UUIDv7.
    pub id: String,
    user_id: String,
    title: String,
    description: Option<String>,
    completed: bool,
    created_at: String,
    updated_at: String,
}

/// A task to be made.
pub struct NewTask {
    /// Made by the caller, so that the insert can be repeated.
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

impl Store {
    /// The caller's tasks, oldest first.
    ///
    /// # Errors
    /// [`Problem::InvalidToken`] if the session is over; database failures.
    pub fn list_tasks(&self, principal: &Principal, page: &Page) -> Result<Vec<Task>, ApiError> {
        let rows = self.database.repeatable(
            "select t.id, t.user_id, t.title, t.description, t.completed,
                 rfc3339(t.created_at) as created_at, rfc3339(t.updated_at) as updated_at
             from caller($1, $2) as c
             left join lateral (
                 select * from tasks
                 where tasks.user_id = c.id
                     and ($3 is null or tasks.id > $3)
                     and ($4 is null or tasks.completed = $4)
                 order by tasks.id
                 limit $5
             ) as t on true
             order by t.id",
            &[
                (&principal.subject(), Type::TEXT),
                (&principal.session(), Type::UUID),
                (&page.after, Type::UUID),
                (&page.completed, Type::BOOL),
                (&page.limit, Type::INT8),
            ],
        )?;
        if rows.is_empty() {
            return Err(session_over());
        }
        Ok(rows.iter().filter_map(task).collect())
    }

    /// The task that was made; the same one if it is made again with the same id. The first task of an external user
    /// makes the user too: where two race, the one that finds the other's row waits for it, and the foreign key, checked
    /// at the statement's end, sees whichever row came to be.
    ///
    /// # Errors
    /// [`Problem::InvalidToken`] if the session is over; database failures.
    pub fn create_task(&self, principal: &Principal, new: &NewTask) -> Result<Task, ApiError> {
        let row = self.database.repeatable_row(
            "with c as (
                 select id from caller($1, $2)
             ), made as (
                 insert into users (id, kind)
                 select id, 'better_auth' from c where $2 is null
                 on conflict (id) do nothing
             )
             insert into tasks (id, user_id, title, description)
             select $3, c.id, $4, $5 from c
             on conflict (id) do update set id = excluded.id where tasks.user_id = excluded.user_id
             returning id, user_id, title, description, completed,
                 rfc3339(created_at) as created_at, rfc3339(updated_at) as updated_at",
            &[
                (&principal.subject(), Type::TEXT),
                (&principal.session(), Type::UUID),
                (&new.id, Type::UUID),
                (&new.title, Type::TEXT),
                (&new.description, Type::TEXT),
            ],
        )?;
        row.as_ref().and_then(task).ok_or_else(session_over)
    }

    /// One task of the caller.
    ///
    /// # Errors
    /// [`Problem::InvalidToken`] if the session is over; [`Problem::TaskNotFound`]; database failures.
    pub fn task(&self, principal: &Principal, id: Uuid) -> Result<Task, ApiError> {
        let row = self.database.repeatable_row(
            "select t.id, t.user_id, t.title, t.description, t.completed,
                 rfc3339(t.created_at) as created_at, rfc3339(t.updated_at) as updated_at
             from caller($1, $2) as c
             left join tasks as t on t.user_id = c.id and t.id = $3",
            &[(&principal.subject(), Type::TEXT), (&principal.session(), Type::UUID), (&id, Type::UUID)],
        )?;
        found(row.as_ref())
    }

    /// The task with these changes.
    ///
    /// # Errors
    /// As [`Store::task`].
    pub fn update_task(&self, principal: &Principal, id: Uuid, changes: &Changes) -> Result<Task, ApiError> {
        let row = self.database.repeatable_row(
            "with c as (
                 select id from caller($1, $2)
             ), t as (
                 update tasks set
                     title = coalesce($4, tasks.title),
                     description = case when $5 then $6 else tasks.description end,
                     completed = coalesce($7, tasks.completed),
                     updated_at = now()
                 from c
                 where tasks.user_id = c.id and tasks.id = $3
                 returning tasks.*
             )
             select t.id, t.user_id, t.title, t.description, t.completed,
                 rfc3339(t.created_at) as created_at, rfc3339(t.updated_at) as updated_at
             from c left join t on true",
            &[
                (&principal.subject(), Type::TEXT),
                (&principal.session(), Type::UUID),
                (&id, Type::UUID),
                (&changes.title, Type::TEXT),
                (&changes.description.is_some(), Type::BOOL),
                (&changes.description.as_ref().and_then(Option::as_ref), Type::TEXT),
                (&changes.completed, Type::BOOL),
            ],
        )?;
        found(row.as_ref())
    }

    /// The task, done if it was open and open if it was done. Not repeatable.
    ///
    /// # Errors
    /// As [`Store::task`].
    pub fn toggle_task(&self, principal: &Principal, id: Uuid) -> Result<Task, ApiError> {
        let row = self.database.once(
            "with c as (
                 select id from caller($1, $2)
             ), t as (
                 update tasks set completed = not tasks.completed, updated_at = now()
                 from c
                 where tasks.user_id = c.id and tasks.id = $3
                 returning tasks.*
             )
             select t.id, t.user_id, t.title, t.description, t.completed,
                 rfc3339(t.created_at) as created_at, rfc3339(t.updated_at) as updated_at
             from c left join t on true",
            &[(&principal.subject(), Type::TEXT), (&principal.session(), Type::UUID), (&id, Type::UUID)],
        )?;
        found(row.as_ref())
    }

    /// Deletes one task of the caller. Not repeatable.
    ///
    /// # Errors
    /// As [`Store::task`].
    pub fn delete_task(&self, principal: &Principal, id: Uuid) -> Result<(), ApiError> {
        let row = self.database.once(
            "with c as (
                 select id from caller($1, $2)
             ), t as (
                 delete from tasks using c
                 where tasks.user_id = c.id and tasks.id = $3
                 returning tasks.id
             )
             select t.id from c left join t on true",
            &[(&principal.subject(), Type::TEXT), (&principal.session(), Type::UUID), (&id, Type::UUID)],
        )?;
        match row.ok_or_else(session_over)?.get::<_, Option<Uuid>>("id") {
            Some(_) => Ok(()),
            None => Err(Problem::TaskNotFound.into()),
        }
    }
}

fn found(row: Option<&Row>) -> Result<Task, ApiError> {
    task(row.ok_or_else(session_over)?).ok_or_else(|| Problem::TaskNotFound.into())
}

/// The task of a row; nothing if the row says only that the caller may act.
fn task(row: &Row) -> Option<Task> {
    let id: Uuid = row.get::<_, Option<Uuid>>("id")?;
    Some(Task {
        id: id.to_string(),
        user_id: row.get("user_id"),
        title: row.get("title"),
        description: row.get("description"),
        completed: row.get("completed"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    })
}
