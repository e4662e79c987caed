//! The owner's tasks. Every handler takes an [`Owner`], and every store function on tasks its principal.

use rouille::{Request, Response};
use uuid::Uuid;

use super::{Owner, Services};
use crate::error::ApiError;
use crate::http::{Body, RequestContext, json, json_page, no_content, query, segment, without_nul};
use crate::store::{Changes, NewTask, Page};

const TITLE_MAX_LENGTH: usize = 255;
const DESCRIPTION_MAX_LENGTH: usize = 2000;
const PAGE_MAX: i64 = 100;
const PAGE_DEFAULT: i64 = 50;
/// What a client that never reads can make the server hold; a page of usual tasks is far smaller.
const PAGE_MAX_BYTES: usize = 128 * 1024;

/// `GET /api/{user_id}/tasks` → 200, oldest first, at most 128 KiB, `Link: <…>; rel="next"` while there is more
/// (RFC 8288).
pub fn list(services: &Services, owner: &Owner, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    let limit = query(context.request, "limit", "must be a whole number from 1 to 100", parse_limit)?;
    let completed = query(context.request, "completed", "must be true or false", |text| text.parse().ok())?;
    let after = query(context.request, "after", "must be the id of a task", parse_id)?;
    let limit = limit.unwrap_or(PAGE_DEFAULT);

    // One more than asked for tells whether there is a next page.
    let page = Page { completed, after, limit: limit + 1 };
    let tasks = services.store(context).list_tasks(owner.principal(), &page)?;
    let asked_for = tasks.get(..limit as usize).unwrap_or(&tasks);
    let (response, count) = json_page(asked_for, PAGE_MAX_BYTES)?;
    match asked_for.get(..count).and_then(<[_]>::last) {
        Some(last) if count < tasks.len() => {
            Ok(response.with_additional_header("Link", next_page(context, last.id, limit, completed)))
        }
        _ => Ok(response),
    }
}

/// `POST /api/{user_id}/tasks` → 201 task, `Location`.
pub fn create(services: &Services, owner: &Owner, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    let mut body = Body::read(context.request, &["title", "description"])?;
    let title = body.text("title", parse_title);
    let description = match body.has("description") {
        true => body.nullable("description", parse_description),
        false => Some(None),
    };
    let (title, description) = body.done(title.zip(description))?;

    let task =
        services.store(context).create_task(owner.principal(), &NewTask { id: Uuid::now_v7(), title, description })?;
    let location = format!("/api/{}/tasks/{}", segment(context.parameter(0)), task.id);
    Ok(json(201, &task)?.with_additional_header("Location", location))
}

/// `GET /api/{user_id}/tasks/{id}` → 200 task.
pub fn read(services: &Services, owner: &Owner, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    json(200, &services.store(context).task(owner.principal(), id_in_path(context))?)
}

/// `PUT` or `PATCH /api/{user_id}/tasks/{id}` → 200 task; what the body does not name stays.
pub fn update(services: &Services, owner: &Owner, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    let changes = read_changes(context.request)?;
    json(200, &services.store(context).update_task(owner.principal(), id_in_path(context), &changes)?)
}

/// `PATCH /api/{user_id}/tasks/{id}/complete` → 200 task: without a body the other way round, with one as it says.
pub fn complete(services: &Services, owner: &Owner, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    let Some(mut body) = Body::read_optional(context.request, &["completed"])? else {
        return json(200, &services.store(context).toggle_task(owner.principal(), id_in_path(context))?);
    };
    let completed = body.flag("completed");
    let completed = Some(body.done(completed)?);
    let changes = Changes { completed, ..Changes::default() };
    json(200, &services.store(context).update_task(owner.principal(), id_in_path(context), &changes)?)
}

/// `DELETE /api/{user_id}/tasks/{id}` → 204.
pub fn delete(services: &Services, owner: &Owner, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    services.store(context).delete_task(owner.principal(), id_in_path(context))?;
    Ok(no_content())
}

fn read_changes(request: &Request) -> Result<Changes, ApiError> {
    let known = ["title", "description", "completed"];
    let mut body = Body::read(request, &known)?;
    let mut changes = Changes::default();
    if !known.iter().any(|name| body.has(name)) {
        body.refuse("must name at least one of title, description, completed");
    }
    if body.has("title") {
        changes.title = body.text("title", parse_title);
    }
    if body.has("description") {
        changes.description = body.nullable("description", parse_description);
    }
    if body.has("completed") {
        changes.completed = body.flag("completed");
    }
    body.done(Some(changes))
}

fn parse_title(text: String) -> Result<String, &'static str> {
    match text.chars().count() {
        1..=TITLE_MAX_LENGTH if text.trim().is_empty() => Err("must not be all white space"),
        1..=TITLE_MAX_LENGTH => without_nul(text),
        _ => Err("must be 1 to 255 characters long"),
    }
}

fn parse_description(text: String) -> Result<String, &'static str> {
    match text.chars().count() {
        0..=DESCRIPTION_MAX_LENGTH => without_nul(text),
        _ => Err("must be at most 2000 characters long"),
    }
}

fn parse_limit(text: &str) -> Option<i64> {
    text.parse().ok().filter(|limit| (1..=PAGE_MAX).contains(limit) && text.bytes().all(|b| b.is_ascii_digit()))
}

/// A task's id, only as it is written in answers.
fn parse_id(text: &str) -> Option<Uuid> {
    Uuid::parse_str(text).ok().filter(|id| id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) == text)
}

/// S30: a malformed id is looked up as the id of no task, so that the caller rule comes first for it too.
fn id_in_path(context: &RequestContext<'_>) -> Uuid {
    parse_id(context.parameter(1)).unwrap_or(Uuid::nil())
}

fn next_page(context: &RequestContext<'_>, last: Uuid, limit: i64, completed: Option<bool>) -> String {
    let completed = completed.map_or(String::new(), |flag| format!("&completed={flag}"));
    format!("</api/{}/tasks?limit={limit}{completed}&after={last}>; rel=\"next\"", segment(context.parameter(0)))
}
