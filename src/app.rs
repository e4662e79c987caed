//! The route table, and what every request passes: an id, a caller, an answer, a line in the log.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use log::{error, info, warn};
use rouille::{Request, Response};

use crate::auth::{self, Desk};
use crate::config::{AccountPolicy, PasswordPolicy};
use crate::cors::Cors;
use crate::error::{ApiError, Problem};
use crate::hasher::Hasher;
use crate::http::{self, Call, Client};
use crate::listener::{Peer, Refusal};
use crate::logging::quoted;
use crate::pages::{self, Readiness};
use crate::store::Store;
use crate::tasks;
use crate::token::{self, External, Keys, Principal, TokenRefusal};

type Handler = fn(&App, &Call<'_>) -> Result<Response, ApiError>;

/// Every request that is answered by a handler; `{…}` stands for one segment. The path alone decides between 404 and
/// 405; `HEAD` goes where `GET` goes.
#[rustfmt::skip]
const ROUTES: &[(&str, &str, Handler)] = &[
    ("POST",   "/auth/register",                    |app, call| auth::register(&app.desk(), call)),
    ("POST",   "/auth/login",                       |app, call| auth::login(&app.desk(), call)),
    ("POST",   "/auth/refresh",                     |app, call| auth::refresh(&app.store, &app.keys, call)),
    ("POST",   "/auth/logout",                      |app, call| auth::logout(&app.store, &app.holder(call)?, &call.client)),
    ("POST",   "/auth/logout-all",                  |app, call| auth::logout_all(&app.store, &app.holder(call)?, &call.client)),
    ("GET",    "/auth/me",                          |app, call| auth::me(&app.store, &app.caller(call)?)),
    ("PUT",    "/auth/password",                    |app, call| auth::change_password(&app.desk(), &app.holder(call)?, call)),
    ("POST",   "/auth/delete",                      |app, call| auth::delete(&app.desk(), &app.holder(call)?, call)),
    ("GET",    "/api/{user_id}/tasks",              |app, call| tasks::list(&app.store, &app.owner(call)?, call)),
    ("POST",   "/api/{user_id}/tasks",              |app, call| tasks::create(&app.store, &app.owner(call)?, call)),
    ("GET",    "/api/{user_id}/tasks/{id}",         |app, call| tasks::read(&app.store, &app.owner(call)?, call)),
    ("PUT",    "/api/{user_id}/tasks/{id}",         |app, call| tasks::update(&app.store, &app.owner(call)?, call)),
    ("PATCH",  "/api/{user_id}/tasks/{id}",         |app, call| tasks::update(&app.store, &app.owner(call)?, call)),
    ("DELETE", "/api/{user_id}/tasks/{id}",         |app, call| tasks::delete(&app.store, &app.owner(call)?, call)),
    ("PATCH",  "/api/{user_id}/tasks/{id}/complete", |app, call| tasks::complete(&app.store, &app.owner(call)?, call)),
    ("GET",    "/healthz",                          |_, _| pages::healthz()),
    ("GET",    "/readyz",                           |app, _| app.readiness.readyz(&app.store)),
    ("GET",    "/",                                 |_, call| pages::embedded(pages::PAGE, call)),
    ("GET",    "/page.css",                         |_, call| pages::embedded(pages::STYLE, call)),
    ("GET",    "/page.js",                          |_, call| pages::embedded(pages::SCRIPT, call)),
    ("GET",    "/flow.js",                          |_, call| pages::embedded(pages::FLOW, call)),
    ("GET",    "/api.js",                           |_, call| pages::embedded(pages::CLIENT, call)),
    ("GET",    "/api.d.ts",                         |_, call| pages::embedded(pages::CLIENT_TYPES, call)),
    ("GET",    "/openapi.json",                     |_, _| pages::openapi()),
    ("GET",    "/docs",                             |_, call| pages::docs(ROUTES.iter().map(|(method, path, _)| (*method, *path)), call)),
];

/// All that handlers can be given.
pub struct App {
    /// The tables.
    pub store: Store,
    /// The hash threads.
    pub hasher: Hasher,
    /// The keys.
    pub keys: Keys,
    /// The keys of Better Auth, where its tokens are taken.
    pub better_auth: Option<External>,
    /// The rules for accounts.
    pub accounts: AccountPolicy,
    /// The rules for passwords.
    pub passwords: PasswordPolicy,
    /// Proxies in front that append to `X-Forwarded-For`.
    pub trusted_proxies: usize,
    /// Other origins whose pages may read the answers.
    pub cors: Cors,
    /// The last probe of the database.
    pub readiness: Readiness,
    /// Whether the missing `TRUSTED_PROXIES` was mentioned.
    pub proxy_was_mentioned: AtomicBool,
}

impl App {
    /// The answer to a request.
    pub fn handle(&self, request: &Request, peer: &Peer) -> Response {
        let started = Instant::now();
        let client = Client::new(peer.address().ip(), request.headers(), self.trusted_proxies, Some(peer));
        self.mention_proxy(request, peer);
        let (address, request_id) = (client.address, client.request_id);
        let (route, outcome) = self.dispatch(request, client);
        let response = outcome.unwrap_or_else(|error| {
            log_cause(&error, &format!("address={address} request_id={request_id}"));
            http::problem(&error, request_id)
        });
        info!(
            "method={} route={route} status={} ms={:.3} request_id={request_id} address={address}",
            quoted(request.method()),
            response.status_code,
            started.elapsed().as_secs_f64() * 1000.0,
        );
        finished(self.cors.applied(response, request.method(), request.headers()), &request_id.to_string())
    }

    /// The answer to what the listener did not take for a request, or could not have answered.
    pub fn refuse(&self, refusal: Refusal, peer: SocketAddr, headers: &[(String, String)]) -> Response {
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let client = Client::new(peer.ip(), headers.clone(), self.trusted_proxies, None);
        let (address, request_id) = (client.address, client.request_id);
        let error = refused(refusal);
        log_cause(&error, &format!("address={address} request_id={request_id}"));
        let response = http::problem(&error, request_id);
        info!("method=- route=- status={} ms=0 request_id={request_id} address={address}", response.status_code);
        finished(self.cors.applied(response, "-", headers), &request_id.to_string())
    }

    fn dispatch(&self, request: &Request, client: Client<'_>) -> (&'static str, Result<Response, ApiError>) {
        let path = request.raw_url().split('?').next().unwrap_or_default();
        if path == "*" {
            let all =
                http::no_content().with_additional_header("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            return ("*", Ok(all));
        }
        let Some(segments) = http::segments(path) else {
            return ("-", Err(Problem::NotFound.into()));
        };
        let Some(((_, template, _), parameters)) =
            ROUTES.iter().find_map(|route| Some((route, matched(route.1, &segments)?)))
        else {
            return ("-", Err(Problem::NotFound.into()));
        };
        let method = if request.method() == "HEAD" { "GET" } else { request.method() };
        let outcome = match ROUTES.iter().find(|(known, path, _)| *known == method && path == template) {
            Some((_, _, handler)) => handler(self, &Call { request, parameters, client }),
            None if method == "OPTIONS" => Ok(http::no_content().with_additional_header("Allow", allowed(template))),
            None => Err(ApiError { allow: allowed(template), ..Problem::MethodNotAllowed.into() }),
        };
        (template, outcome)
    }

    /// Who the bearer token speaks for.
    fn caller(&self, call: &Call<'_>) -> Result<Principal, ApiError> {
        let token = http::bearer(call.request)?;
        token::verify(token, &self.keys, self.better_auth.as_ref()).map_err(|refusal| match refusal {
            TokenRefusal::NoKeys { retry_after_seconds } => Problem::IssuerUnavailable.retry_after(retry_after_seconds),
            reason => Problem::InvalidToken.because(reason.to_string()),
        })
    }

    /// The caller, where the account is one that this server manages; decided before the database is asked.
    fn holder(&self, call: &Call<'_>) -> Result<Principal, ApiError> {
        let caller = self.caller(call)?;
        match caller.is_external() {
            true => Err(Problem::AccountManagedElsewhere.into()),
            false => Ok(caller),
        }
    }

    /// The caller, where the path names the caller's own id or `me`; compared before the database is asked.
    fn owner(&self, call: &Call<'_>) -> Result<Principal, ApiError> {
        let caller = self.caller(call)?;
        match call.parameter(0) {
            "me" => Ok(caller),
            named if named == caller.subject() => Ok(caller),
            _ => Err(Problem::UserMismatch.into()),
        }
    }

    fn desk(&self) -> Desk<'_> {
        Desk {
            store: &self.store,
            hasher: &self.hasher,
            keys: &self.keys,
            policy: &self.accounts,
            passwords: self.passwords,
        }
    }

    /// Behind a proxy that is not configured, all clients share one address and its limits: say so, once.
    fn mention_proxy(&self, request: &Request, peer: &Peer) {
        let is_near = match peer.address().ip().to_canonical() {
            std::net::IpAddr::V4(address) => address.is_loopback() || address.is_private(),
            std::net::IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
        };
        if self.trusted_proxies == 0
            && is_near
            && request.header("X-Forwarded-For").is_some()
            && !self.proxy_was_mentioned.swap(true, Ordering::Relaxed)
        {
            warn!("event=proxy reason=\"X-Forwarded-For comes from a near address and TRUSTED_PROXIES is 0\"");
        }
    }
}

/// The segments that stand for `{…}`, if the path is of this template.
fn matched(template: &str, segments: &[String]) -> Option<Vec<String>> {
    let mut parameters = Vec::new();
    let mut rest = segments.iter();
    for expected in template.split('/').skip(1) {
        let segment = rest.next()?;
        if expected.starts_with('{') {
            parameters.push(segment.clone());
        } else if expected != segment {
            return None;
        }
    }
    rest.next().is_none().then_some(parameters)
}

/// The methods of a path, for `Allow`.
fn allowed(template: &str) -> String {
    let mut allow: Vec<&str> = ROUTES.iter().filter(|(_, path, _)| *path == template).map(|(m, ..)| *m).collect();
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    allow.push("OPTIONS");
    allow.join(", ")
}

fn refused(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::BadRequest(reason) => Problem::BadRequest.because(reason),
        Refusal::RequestTimeout => Problem::RequestTimeout.into(),
        Refusal::BodyTooLarge => Problem::BodyTooLarge.into(),
        Refusal::TargetTooLong => Problem::TargetTooLong.into(),
        Refusal::ExpectationFailed => Problem::ExpectationFailed.into(),
        Refusal::HeadTooLarge => Problem::HeadTooLarge.into(),
        Refusal::HandlerPanicked => Problem::Internal.because("a handler panicked"),
        Refusal::NotImplemented => Problem::NotImplemented.into(),
        Refusal::TooManyConnections => Problem::TooManyConnections.retry_after(2),
        Refusal::Stopping => Problem::Stopping.retry_after(5),
        Refusal::VersionNotSupported => Problem::VersionNotSupported.into(),
    }
}

/// The one place where a hidden cause is logged.
fn log_cause(failure: &ApiError, trace: &str) {
    let Some(cause) = &failure.cause else { return };
    let words = failure.problem.words();
    match failure.problem {
        Problem::InvalidToken => info!("event=token outcome=refused reason={} {trace}", quoted(cause)),
        _ if words.status >= 500 => error!("event=failure problem={} cause={} {trace}", words.slug, quoted(cause)),
        _ => info!("event=refusal problem={} cause={} {trace}", words.slug, quoted(cause)),
    }
}

/// What every answer carries. Only what is part of the program says itself how it may be kept.
fn finished(mut response: Response, request_id: &str) -> Response {
    if !response.headers.iter().any(|(name, _)| name == "Cache-Control") {
        response = response.with_additional_header("Cache-Control", "no-store");
    }
    response
        .with_additional_header("X-Request-Id", request_id.to_owned())
        .with_additional_header("X-Content-Type-Options", "nosniff")
}
