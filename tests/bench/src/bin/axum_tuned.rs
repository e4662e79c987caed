//! axum as an expert tunes it: tokio-postgres behind a pool that asks nothing when it hands out a connection, and one
//! cached statement that checks session and user and does the work, as latchkey's do: one round trip a request.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use bench::peer::{self, Claims, Credentials, Failure, Keys, NewTask, Task};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{NoTls, Row};
use uuid::Uuid;

#[derive(Clone)]
struct App {
    pool: Pool,
    keys: Arc<Keys>,
}

impl App {
    /// The rows of a statement that is prepared once per connection.
    async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Failure> {
        let client = self.pool.get().await.map_err(Failure::internal)?;
        let statement = client.prepare_cached(sql).await.map_err(Failure::internal)?;
        client.query(&statement, parameters).await.map_err(Failure::internal)
    }

    fn claims(&self, headers: &HeaderMap) -> Result<Claims, Failure> {
        self.keys.claims(headers)
    }
}

async fn login(State(app): State<App>, Json(credentials): Json<Credentials>) -> Result<Json<Value>, Failure> {
    let find = "select id, password_hash, session_epoch from users where email = $1 and is_active";
    let rows = app.query(find, &[&credentials.email]).await?;
    let account = rows.first().ok_or(Failure::Unauthorized)?;
    peer::verify(credentials.password, account.get("password_hash")).await?;
    let (user, epoch): (String, i32) = (account.get("id"), account.get("session_epoch"));
    let session = Uuid::now_v7();
    let open = "insert into sessions (id, user_id, session_epoch) values ($1, $2, $3)";
    app.query(open, &[&session, &user, &epoch]).await?;
    app.keys.tokens(user, session)
}

async fn list(State(app): State<App>, headers: HeaderMap) -> Result<Json<Vec<Task>>, Failure> {
    let claims = app.claims(&headers)?;
    let list = "select t.id, t.user_id, t.title, t.description, t.completed, t.created_at, t.updated_at
         from sessions as s
         join users as u on u.id = s.user_id
         left join lateral (
             select * from tasks where tasks.user_id = $1 order by tasks.id limit 50
         ) as t on true
         where s.id = $2 and u.id = $1 and u.is_active and s.ended_at is null and s.session_epoch = u.session_epoch
             and s.refreshed_at > now() - interval '14 days' and s.created_at > now() - interval '30 days'
         order by t.id";
    let rows = app.query(list, &[&claims.sub, &claims.sid]).await?;
    if rows.is_empty() {
        return Err(Failure::Unauthorized);
    }
    Ok(Json(rows.iter().filter_map(found).collect()))
}

async fn task(State(app): State<App>, headers: HeaderMap, Path(id): Path<Uuid>) -> Result<Json<Task>, Failure> {
    let claims = app.claims(&headers)?;
    let get = "select t.id, t.user_id, t.title, t.description, t.completed, t.created_at, t.updated_at
         from sessions as s
         join users as u on u.id = s.user_id
         left join tasks as t on t.user_id = $1 and t.id = $3
         where s.id = $2 and u.id = $1 and u.is_active and s.ended_at is null and s.session_epoch = u.session_epoch
             and s.refreshed_at > now() - interval '14 days' and s.created_at > now() - interval '30 days'";
    let rows = app.query(get, &[&claims.sub, &claims.sid, &id]).await?;
    let row = rows.first().ok_or(Failure::Unauthorized)?;
    found(row).map(Json).ok_or(Failure::NotFound)
}

async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    Json(new): Json<NewTask>,
) -> Result<(StatusCode, Json<Task>), Failure> {
    let claims = app.claims(&headers)?;
    let insert = "insert into tasks (id, user_id, title, description)
         select $3, u.id, $4, $5
         from sessions as s
         join users as u on u.id = s.user_id
         where s.id = $2 and u.id = $1 and u.is_active and s.ended_at is null and s.session_epoch = u.session_epoch
             and s.refreshed_at > now() - interval '14 days' and s.created_at > now() - interval '30 days'
         returning id, user_id, title, description, completed, created_at, updated_at";
    let id = Uuid::now_v7();
    let rows = app.query(insert, &[&claims.sub, &claims.sid, &id, &new.title, &new.description]).await?;
    let task = rows.first().and_then(found).ok_or(Failure::Unauthorized)?;
    Ok((StatusCode::CREATED, Json(task)))
}

/// The task of a row; `None` if the row says only that the caller may act.
fn found(row: &Row) -> Option<Task> {
    Some(Task {
        id: row.get::<_, Option<Uuid>>("id")?,
        user_id: row.get("user_id"),
        title: row.get("title"),
        description: row.get("description"),
        completed: row.get("completed"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    })
}

fn main() {
    peer::serve(async {
        let config = peer::setting("DATABASE_URL").parse().expect("DATABASE_URL");
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(config, NoTls, recycling);
        let pool = Pool::builder(manager).max_size(peer::POOL_SIZE as usize).build().expect("a pool");
        Router::new()
            .route("/healthz", get(peer::health))
            .route("/auth/login", post(login))
            .route("/api/me/tasks", get(list).post(create))
            .route("/api/me/tasks/{id}", get(task))
            .with_state(App { pool, keys: Arc::new(Keys::from_environment()) })
    });
}
