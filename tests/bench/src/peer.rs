//! What both axum servers share: start, tokens, the password check, errors. Each is one binary in `src/bin/`, with its
//! own way of asking the database. Settings: `LISTEN`, `DATABASE_URL`, `JWT_SECRET`.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// As many as latchkey's `POOL_SIZE`, which is sqlx's own default too.
pub const POOL_SIZE: u32 = 10;

const TOKEN_SECONDS: i64 = 3600;

#[derive(Serialize, Deserialize)]
pub struct Claims {
    pub sub: String,
    pub sid: Uuid,
    exp: i64,
}

#[derive(Serialize, sqlx::FromRow)]
pub struct Task {
    pub id: Uuid,
    pub user_id: String,
    pub title: String,
    pub description: Option<String>,
    pub completed: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

#[derive(Deserialize)]
pub struct NewTask {
    pub title: String,
    pub description: Option<String>,
}

#[derive(Deserialize)]
pub struct Credentials {
    pub email: String,
    pub password: String,
}

/// What a handler answers when it cannot.
pub enum Failure {
    Unauthorized,
    NotFound,
    Internal(String),
}

impl Failure {
    /// Of whatever went wrong.
    pub fn internal(cause: impl ToString) -> Failure {
        Failure::Internal(cause.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let (status, detail) = match self {
            Failure::Unauthorized => (StatusCode::UNAUTHORIZED, "not authorized".to_owned()),
            Failure::NotFound => (StatusCode::NOT_FOUND, "not found".to_owned()),
            Failure::Internal(cause) => (StatusCode::INTERNAL_SERVER_ERROR, cause),
        };
        (status, Json(json!({ "detail": detail }))).into_response()
    }
}

/// Signs and verifies HS256 tokens.
pub struct Keys {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
}

impl Keys {
    /// From `JWT_SECRET`.
    pub fn from_environment() -> Keys {
        let secret = setting("JWT_SECRET");
        Keys {
            encoding: EncodingKey::from_secret(secret.as_bytes()),
            decoding: DecodingKey::from_secret(secret.as_bytes()),
            validation: Validation::new(Algorithm::HS256),
        }
    }

    /// The claims of the request's bearer token.
    ///
    /// # Errors
    /// [`Failure::Unauthorized`] if there is none, or it is not one of ours, or it has expired.
    pub fn claims(&self, headers: &HeaderMap) -> Result<Claims, Failure> {
        let field = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = field.and_then(|value| value.strip_prefix("Bearer ")).ok_or(Failure::Unauthorized)?;
        let decoded = jsonwebtoken::decode(token, &self.decoding, &self.validation);
        decoded.map(|token| token.claims).map_err(|_| Failure::Unauthorized)
    }

    /// The answer to a log-in.
    ///
    /// # Errors
    /// [`Failure::Internal`] if the token cannot be signed.
    pub fn tokens(&self, user: String, session: Uuid) -> Result<Json<Value>, Failure> {
        let claims = Claims { sub: user, sid: session, exp: Utc::now().timestamp() + TOKEN_SECONDS };
        let token = jsonwebtoken::encode(&Header::default(), &claims, &self.encoding).map_err(Failure::internal)?;
        Ok(Json(json!({"access_token": token, "token_type": "bearer", "expires_in": TOKEN_SECONDS})))
    }
}

/// Verifies on one of tokio's blocking threads.
///
/// # Errors
/// [`Failure::Unauthorized`] if the password is another one.
pub async fn verify(password: String, hash: String) -> Result<(), Failure> {
    let verified = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash)).await;
    match verified.map_err(Failure::internal)? {
        Ok(true) => Ok(()),
        _ => Err(Failure::Unauthorized),
    }
}

/// `GET /healthz`.
pub async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

pub fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

/// Serves what `router` makes until it is killed; says where on standard output.
pub fn serve<F: Future<Output = Router>>(router: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let app = router.await;
        let listener = tokio::net::TcpListener::bind(setting("LISTEN")).await.expect("a free port");
        println!("listening on http://{}", listener.local_addr().expect("an address"));
        axum::serve(listener, app).await.expect("to serve");
    });
}
