//! axum and sqlx as people write them: an extractor that verifies the token, looks up the session, then the user, and a
//! handler that does its one statement. sqlx caches the statements. It pings each connection before it hands it out and
//! after it got it back: four round trips before the answer, and one after it.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::routing::{get, post};
use axum::{Json, Router};
use bench::peer::{self, Credentials, Failure, Keys, NewTask, Task};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, PgPoolOptions};
use uuid::Uuid;

#[derive(Clone)]
struct App {
    pool: PgPool,
    keys: Arc<Keys>,
}

#[derive(sqlx::FromRow)]
struct Account {
    id: String,
    password_hash: String,
    session_epoch: i32,
    is_active: bool,
}

#[derive(sqlx::FromRow)]
struct Session {
    user_id: String,
    session_epoch: i32,
    created_at: DateTime<Utc>,
    refreshed_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

#[derive(sqlx::FromRow)]
struct User {
    id: String,
    is_active: bool,
    session_epoch: i32,
}

struct Caller {
    user: User,
    connection: PoolConnection<Postgres>,
}

impl FromRequestParts<App> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Caller, Failure> {
        let claims = app.keys.claims(&parts.headers)?;
        let mut connection = app.pool.acquire().await.map_err(Failure::internal)?;
        let session: Option<Session> = sqlx::query_as(
            "select user_id, session_epoch, created_at, refreshed_at, ended_at from sessions where id = $1",
        )
        .bind(claims.sid)
        .fetch_optional(&mut *connection)
        .await
        .map_err(Failure::internal)?;
        let session = session.ok_or(Failure::Unauthorized)?;
        let user: Option<User> = sqlx::query_as("select id, is_active, session_epoch from users where id = $1")
            .bind(&session.user_id)
            .fetch_optional(&mut *connection)
            .await
            .map_err(Failure::internal)?;
        let user = user.ok_or(Failure::Unauthorized)?;
        let now = Utc::now();
        let is_valid = session.ended_at.is_none()
            && session.session_epoch == user.session_epoch
            && session.refreshed_at > now - TimeDelta::days(14)
            && session.created_at > now - TimeDelta::days(30);
        if !is_valid || !user.is_active || user.id != claims.sub {
            return Err(Failure::Unauthorized);
        }
        Ok(Caller { user, connection })
    }
}

async fn login(State(app): State<App>, Json(credentials): Json<Credentials>) -> Result<Json<Value>, Failure> {
    let account: Option<Account> =
        sqlx::query_as("select id, password_hash, session_epoch, is_active from users where email = $1")
            .bind(&credentials.email)
            .fetch_optional(&app.pool)
            .await
            .map_err(Failure::internal)?;
    let account = account.filter(|account| account.is_active).ok_or(Failure::Unauthorized)?;
    peer::verify(credentials.password, account.password_hash).await?;
    let session = Uuid::now_v7();
    sqlx::query("insert into sessions (id, user_id, session_epoch) values ($1, $2, $3)")
        .bind(session)
        .bind(&account.id)
        .bind(account.session_epoch)
        .execute(&app.pool)
        .await
        .map_err(Failure::internal)?;
    app.keys.tokens(account.id, session)
}

async fn list(mut caller: Caller) -> Result<Json<Vec<Task>>, Failure> {
    let tasks = sqlx::query_as(
        "select id, user_id, title, description, completed, created_at, updated_at
         from tasks where user_id = $1 order by id limit 50",
    )
    .bind(&caller.user.id)
    .fetch_all(&mut *caller.connection)
    .await;
    tasks.map(Json).map_err(Failure::internal)
}

async fn task(mut caller: Caller, Path(id): Path<Uuid>) -> Result<Json<Task>, Failure> {
    let task = sqlx::query_as(
        "select id, user_id, title, description, completed, created_at, updated_at
         from tasks where user_id = $1 and id = $2",
    )
    .bind(&caller.user.id)
    .bind(id)
    .fetch_optional(&mut *caller.connection)
    .await;
    task.map_err(Failure::internal)?.map(Json).ok_or(Failure::NotFound)
}

async fn create(mut caller: Caller, Json(new): Json<NewTask>) -> Result<(StatusCode, Json<Task>), Failure> {
    let task = sqlx::query_as(
        "insert into tasks (id, user_id, title, description) values ($1, $2, $3, $4)
         returning id, user_id, title, description, completed, created_at, updated_at",
    )
    .bind(Uuid::now_v7())
    .bind(&caller.user.id)
    .bind(&new.title)
    .bind(&new.description)
    .fetch_one(&mut *caller.connection)
    .await;
    task.map(|task| (StatusCode::CREATED, Json(task))).map_err(Failure::internal)
}

fn main() {
    peer::serve(async {
        let options = PgPoolOptions::new().max_connections(peer::POOL_SIZE);
        let pool = options.connect(&peer::setting("DATABASE_URL")).await.expect("the database");
        Router::new()
            .route("/healthz", get(peer::health))
            .route("/auth/login", post(login))
            .route("/api/me/tasks", get(list).post(create))
            .route("/api/me/tasks/{id}", get(task))
            .with_state(App { pool, keys: Arc::new(Keys::from_environment()) })
    });
}
