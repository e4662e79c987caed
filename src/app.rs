//! The route table, and what every request passes: an id, a caller, an answer, a line in the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use log::{error, info, warn};
use rouille::{Request, Response};
use uuid::Uuid;

use crate::api::{Caller as ByCaller, LocalUser as ByLocalUser, Owner as ByOwner, Services, auth, pages, tasks};
use crate::config::Origins;
use crate::database::TimeBudget;
use crate::error::{ApiError, Problem};
use crate::http::{self, ClientInfo, RequestContext, cors};
use crate::logging::quoted;
use crate::server::{Connection, HttpError, RejectedRequest};

/// Who may call a handler. The handler takes the proof that its variant names, which only the check makes.
enum Access {
    /// Anybody.
    Public(fn(&Services, &RequestContext<'_>) -> Result<Response, ApiError>),
    /// Whoever presents a valid access token.
    Caller(fn(&Services, &ByCaller, &RequestContext<'_>) -> Result<Response, ApiError>),
    /// A caller whose account this server manages.
    LocalUser(fn(&Services, &ByLocalUser, &RequestContext<'_>) -> Result<Response, ApiError>),
    /// A caller whom `{user_id}` names.
    Owner(fn(&Services, &ByOwner, &RequestContext<'_>) -> Result<Response, ApiError>),
}
use Access::{Caller, LocalUser, Owner, Public};

/// Every request that is answered by a handler, and who may call it; `{…}` stands for one segment. The path alone
/// decides between 404 and 405; `HEAD` goes where `GET` goes.
#[rustfmt::skip]
const ROUTES: &[(&str, &str, Access)] = &[
    ("POST",   "/auth/register",                     Public(auth::register)),
    ("POST",   "/auth/login",                        Public(auth::login)),
    ("POST",   "/auth/refresh",                      Public(auth::refresh)),
    ("POST",   "/auth/logout",                       LocalUser(auth::logout)),
    ("POST",   "/auth/logout-all",                   LocalUser(auth::logout_all)),
    ("GET",    "/auth/me",                           Caller(auth::me)),
    ("PUT",    "/auth/password",                     LocalUser(auth::change_password)),
    ("POST",   "/auth/delete",                       LocalUser(auth::delete)),
    ("GET",    "/api/{user_id}/tasks",               Owner(tasks::list)),
    ("POST",   "/api/{user_id}/tasks",               Owner(tasks::create)),
    ("GET",    "/api/{user_id}/tasks/{id}",          Owner(tasks::read)),
    ("PUT",    "/api/{user_id}/tasks/{id}",          Owner(tasks::update)),
    ("PATCH",  "/api/{user_id}/tasks/{id}",          Owner(tasks::update)),
    ("DELETE", "/api/{user_id}/tasks/{id}",          Owner(tasks::delete)),
    ("PATCH",  "/api/{user_id}/tasks/{id}/complete", Owner(tasks::complete)),
    ("GET",    "/healthz",                           Public(pages::healthz)),
    ("GET",    "/readyz",                            Public(pages::readyz)),
    ("GET",    "/",                                  Public(pages::page)),
    ("GET",    "/page.css",                          Public(pages::style)),
    ("GET",    "/page.js",                           Public(pages::script)),
    ("GET",    "/flow.js",                           Public(pages::flow)),
    ("GET",    "/api.js",                            Public(pages::client)),
    ("GET",    "/api.d.ts",                          Public(pages::client_types)),
    ("GET",    "/openapi.json",                      Public(pages::openapi)),
    ("GET",    "/docs",                              Public(pages::docs)),
];

impl Access {
    fn call(&self, services: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
        match self {
            Public(handler) => handler(services, context),
            Caller(handler) => handler(services, &ByCaller::authenticate(services, context)?, context),
            LocalUser(handler) => handler(services, &ByLocalUser::authorize(services, context)?, context),
            Owner(handler) => handler(services, &ByOwner::authorize(services, context)?, context),
        }
    }
}

/// The handlers' services, and what only the way of a request through the server needs.
pub struct App {
    /// What handlers work with.
    pub services: Services,
    /// Proxies in front that append to `X-Forwarded-For`.
    pub trusted_proxies: usize,
    /// Other origins whose pages may read the answers.
    pub cors_origins: Origins,
    /// Whether the missing `TRUSTED_PROXIES` was logged.
    pub proxy_was_logged: AtomicBool,
}

impl App {
    /// The answer to a request. What the server has answered meanwhile, since the handler took too long, is not logged
    /// again.
    pub fn handle(&self, request: &Request, connection: &Connection) -> Response {
        let started = Instant::now();
        let client =
            ClientInfo::new(connection.address().ip(), request.headers(), self.trusted_proxies, Some(connection));
        self.log_missing_proxy_setting(request, connection);
        let (address, request_id) = (client.address, client.request_id);
        connection.set_request_id(request_id.as_u128());
        let is_answered = || connection.is_answered();
        let budget = TimeBudget::new(started, &is_answered);
        let (route, outcome) = self.dispatch(request, client, &budget);
        if !connection.claim_answer() {
            return http::no_content();
        }
        let response = outcome.unwrap_or_else(|error| {
            log_cause(&error, &format!("address={address} request_id={request_id}"));
            http::problem(&error, request_id)
        });
        info!(
            "method={} route={route} status={} ms={:.3} db_ms={:.3} request_id={request_id} address={address}",
            quoted(request.method()),
            response.status_code,
            started.elapsed().as_secs_f64() * 1000.0,
            budget.spent().as_secs_f64() * 1000.0,
        );
        finished(
            cors::applied(&self.cors_origins, response, request.method(), request.headers()),
            &request_id.to_string(),
        )
    }

    /// The answer to what is no request, or gets no answer by a handler.
    pub fn reject(&self, rejected: &RejectedRequest<'_>) -> Response {
        let headers = rejected.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let client = ClientInfo::new(rejected.address.ip(), headers.clone(), self.trusted_proxies, None);
        let request_id = rejected.request_id.map_or(client.request_id, Uuid::from_u128);
        let (address, error) = (client.address, problem_of(rejected.error));
        log_cause(&error, &format!("address={address} request_id={request_id}"));
        let response = http::problem(&error, request_id);
        info!("method=- route=- status={} ms=0 request_id={request_id} address={address}", response.status_code);
        finished(cors::applied(&self.cors_origins, response, "-", headers), &request_id.to_string())
    }

    fn dispatch(
        &self,
        request: &Request,
        client: ClientInfo<'_>,
        budget: &TimeBudget<'_>,
    ) -> (&'static str, Result<Response, ApiError>) {
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
            Some((_, _, access)) => {
                access.call(&self.services, &RequestContext { request, parameters, client, budget })
            }
            None if method == "OPTIONS" => Ok(http::no_content().with_additional_header("Allow", allowed(template))),
            None => Err(ApiError { allow: allowed(template), ..Problem::MethodNotAllowed.into() }),
        };
        (template, outcome)
    }

    /// Behind a proxy that is not configured, all clients share one address and its limits: say so, once.
    fn log_missing_proxy_setting(&self, request: &Request, connection: &Connection) {
        let is_near = match connection.address().ip().to_canonical() {
            std::net::IpAddr::V4(address) => address.is_loopback() || address.is_private(),
            std::net::IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
        };
        if self.trusted_proxies == 0
            && is_near
            && request.header("X-Forwarded-For").is_some()
            && !self.proxy_was_logged.swap(true, Ordering::Relaxed)
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

fn problem_of(error: HttpError) -> ApiError {
    match error {
        HttpError::BadRequest(reason) => Problem::BadRequest.with_cause(reason),
        HttpError::RequestTimeout => Problem::RequestTimeout.into(),
        HttpError::BodyTooLarge => Problem::BodyTooLarge.into(),
        HttpError::TargetTooLong => Problem::TargetTooLong.into(),
        HttpError::ExpectationFailed => Problem::ExpectationFailed.into(),
        HttpError::HeadTooLarge => Problem::HeadTooLarge.into(),
        HttpError::HandlerPanicked => Problem::Internal.with_cause("a handler panicked"),
        HttpError::HandlerTimeout => Problem::HandlerTimeout.retry_after(2),
        HttpError::NotImplemented => Problem::NotImplemented.into(),
        HttpError::TooManyConnections => Problem::TooManyConnections.retry_after(2),
        HttpError::Stopping => Problem::Stopping.retry_after(5),
        HttpError::VersionNotSupported => Problem::VersionNotSupported.into(),
    }
}

/// The one place where a hidden cause is logged.
fn log_cause(failure: &ApiError, trace: &str) {
    let Some(cause) = &failure.cause else { return };
    let spec = failure.problem.spec();
    match failure.problem {
        Problem::InvalidToken => info!("event=token outcome=refused reason={} {trace}", quoted(cause)),
        _ if spec.status >= 500 => error!("event=failure problem={} cause={} {trace}", spec.slug, quoted(cause)),
        _ => info!("event=refusal problem={} cause={} {trace}", spec.slug, quoted(cause)),
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
