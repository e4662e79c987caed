//! The route table with who may call each route, and what every request gets: an id, a response, a line in the log.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::net::IpAddr;
use std::time::Instant;

use log::{error, info};
use rouille::{Request, Response};
use uuid::Uuid;

use crate::api::{Caller as ByCaller, LocalUser as ByLocalUser, Owner as ByOwner, Services, auth, pages, tasks};
use crate::config::Origins;
use crate::database::TimeBudget;
use crate::error::{ApiError, Problem, ProblemSpec};
use crate::http::{self, ClientInfo, RequestContext, TrustedProxies, cors, no_content};
use crate::logging::{Milliseconds, quoted};
use crate::server::{Connection, HttpError, RejectedRequest};

/// S27: who may call a handler. The handler takes a value that only the check of its variant makes.
enum Access {
    /// Anybody.
    Public(fn(&Services, &RequestContext<'_>) -> Result<Response, ApiError>),
    /// A principal: whoever presents a valid access token.
    Caller(fn(&Services, &ByCaller, &RequestContext<'_>) -> Result<Response, ApiError>),
    /// A principal whose account this server manages.
    LocalUser(fn(&Services, &ByLocalUser, &RequestContext<'_>) -> Result<Response, ApiError>),
    /// A principal that `{user_id}` in the path names.
    Owner(fn(&Services, &ByOwner, &RequestContext<'_>) -> Result<Response, ApiError>),
}
use Access::{Caller, LocalUser, Owner, Public};

/// Every route and who may call it; `{…}` stands for one segment of the path. This is the access list: a request that
/// matches no row is 404, or 405 where another method has the path.
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
    ("GET",    "/",                                  Public(pages::file)),
    ("GET",    "/page.css",                          Public(pages::part)),
    ("GET",    "/docs.css",                          Public(pages::part)),
    ("GET",    "/docs.js",                           Public(pages::part)),
    ("GET",    "/page.js",                           Public(pages::part)),
    ("GET",    "/flow.js",                           Public(pages::part)),
    ("GET",    "/theme.js",                          Public(pages::part)),
    ("GET",    "/tasks.js",                          Public(pages::part)),
    ("GET",    "/token.js",                          Public(pages::part)),
    ("GET",    "/shell.js",                          Public(pages::part)),
    ("GET",    "/experiments.js",                    Public(pages::part)),
    ("GET",    "/api.js",                            Public(pages::file)),
    ("GET",    "/api.d.ts",                          Public(pages::file)),
    ("GET",    "/openapi.json",                      Public(pages::openapi)),
    ("GET",    "/docs",                              Public(pages::file)),
];

impl Access {
    fn call(&self, services: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
        match self {
            Public(handler) => handler(services, context),
            Caller(handler) => handler(services, &ByCaller::authenticate(services, context)?, context),
            LocalUser(handler) => handler(services, &ByLocalUser::authorize_local(services, context)?, context),
            Owner(handler) => handler(services, &ByOwner::authorize_owner(services, context)?, context),
        }
    }
}

/// The services of the handlers, and what only this room needs.
pub struct App {
    /// What handlers work with.
    pub services: Services,
    /// Proxies in front that append to `X-Forwarded-For`.
    pub trusted_proxies: TrustedProxies,
    /// Other origins whose pages may read the answers.
    pub cors_origins: Origins,
}

impl App {
    /// The response to a request, and its line in the log. Where the server has answered in place of a handler that took
    /// too long, the response is not sent and there is no second line.
    pub fn handle(&self, request: &Request, connection: &Connection) -> Response {
        let started = Instant::now();
        let address = self.trusted_proxies.address(connection.address().ip(), request.headers());
        let request_id = Uuid::now_v7().to_string();
        connection.leave_note(request_id.clone());
        let client = ClientInfo { address, request_id, connection };
        let path = request.raw_url().split('?').next().unwrap_or_default();
        let (route, parameters) = route_of(path).unwrap_or(("-", Vec::new()));
        let is_answered = || connection.is_answered();
        let budget = &TimeBudget::new(started, &is_answered);
        let context = RequestContext { request, route, parameters, client, user: OnceCell::new(), budget };

        let id = &context.client.request_id;
        let outcome = self.dispatch(&context);
        if !connection.claim_answer() {
            return no_content();
        }
        let response = outcome.unwrap_or_else(|error| problem(&error, address, id));
        // S50: the route, never the path or the query.
        info!(
            "method={method} route={route} status={status} ms={ms} db_ms={db_ms} request_id={id} \
             address={address}{user}",
            method = quoted(request.method()),
            status = response.status_code,
            ms = Milliseconds(started.elapsed()),
            db_ms = Milliseconds(budget.spent()),
            user = user_field(context.user.get()),
        );
        self.finished(response, request.method(), request.headers(), id)
    }

    /// The response to a request that reaches no handler, or whose handler did not answer in time.
    pub fn reject(&self, rejected: &RejectedRequest<'_>) -> Response {
        let headers = rejected.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let address = self.trusted_proxies.address(rejected.address.ip(), headers.clone());
        // The notes of a handler: the id and, where the token was verified, its subject. S50: of the target the route alone.
        let id = rejected.notes.first().cloned().unwrap_or_else(|| Uuid::now_v7().to_string());
        let user = user_field(rejected.notes.get(1));
        let response = problem(&problem_of(rejected.error), address, &id);
        let method = if rejected.method.is_empty() { "-".into() } else { quoted(rejected.method) };
        let route = rejected.target.split('?').next().and_then(route_of).map_or("-", |(route, _)| route);
        let status = response.status_code;
        let ms = Milliseconds(rejected.began.map(|began| began.elapsed()).unwrap_or_default());
        // How long a handler without an answer has waited for the database is not known.
        let db_ms = if rejected.notes.is_empty() { "0.000" } else { "-" };
        info!(
            "method={method} route={route} status={status} ms={ms} db_ms={db_ms} request_id={id} \
             address={address}{user}"
        );
        self.finished(response, rejected.method, headers, &id)
    }

    /// The path alone decides between 404 and 405. `HEAD` goes where `GET` goes.
    fn dispatch(&self, context: &RequestContext<'_>) -> Result<Response, ApiError> {
        let method = match context.request.method() {
            "HEAD" => "GET",
            method => method,
        };
        match ROUTES.iter().find(|(known, path, _)| *known == method && *path == context.route) {
            Some((_, _, access)) => access.call(&self.services, context),
            None if context.route == "-" => Err(Problem::NotFound.into()),
            None if method == "OPTIONS" => Ok(no_content().with_additional_header("Allow", allowed(context.route))),
            None => Err(ApiError { allow: allowed(context.route), ..Problem::MethodNotAllowed.into() }),
        }
    }

    /// Adds what every response carries. Only a file of the program has a `Cache-Control` of its own.
    fn finished<'a>(
        &self,
        response: Response,
        method: &str,
        headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
        request_id: &str,
    ) -> Response {
        // S43
        let mut response = cors::applied(&self.cors_origins, response, method, headers);
        if !response.headers.iter().any(|(name, _)| name == "Cache-Control") {
            response.headers.push(("Cache-Control".into(), "no-store".into()));
        }
        response.headers.push(("X-Request-Id".into(), request_id.to_owned().into()));
        response.headers.push(("X-Content-Type-Options".into(), "nosniff".into()));
        response
    }
}

/// The route of a path, and the segments in place of `{…}`. `*` stands for the server as a whole (RFC 9110 section
/// 9.3.7).
fn route_of(path: &str) -> Option<(&'static str, Vec<Cow<'_, str>>)> {
    if path == "*" {
        return Some(("*", Vec::new()));
    }
    let segments = http::segments(path)?;
    let is_parameter = |expected: &str| expected.starts_with('{');
    let (_, template, _) = ROUTES.iter().find(|(_, template, _)| {
        let mut rest = segments.iter();
        let has_all = template
            .split('/')
            .skip(1)
            .all(|expected| rest.next().is_some_and(|segment| is_parameter(expected) || expected == segment));
        has_all && rest.next().is_none()
    })?;
    let pairs = template.split('/').skip(1).zip(segments);
    Some((template, pairs.filter(|(expected, _)| is_parameter(expected)).map(|(_, segment)| segment).collect()))
}

/// The methods of a path, for `Allow`; of all paths for `*`.
fn allowed(template: &str) -> String {
    let mut allow: Vec<&str> = Vec::new();
    for (method, _, _) in ROUTES.iter().filter(|(_, path, _)| template == "*" || *path == template) {
        if !allow.contains(method) {
            allow.push(method);
        }
    }
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    allow.push("OPTIONS");
    allow.join(", ")
}

/// ` user=…`, or nothing where no token was verified.
fn user_field(user: Option<&String>) -> String {
    user.map(|user| format!(" user={}", quoted(user))).unwrap_or_default()
}

fn problem_of(error: HttpError) -> ApiError {
    match error {
        HttpError::BadRequest(reason) => Problem::BadRequest.with_cause(reason),
        HttpError::RequestTimeout => Problem::RequestTimeout.into(),
        HttpError::BodyTooLarge => Problem::BodyTooLarge.into(),
        HttpError::TargetTooLong => Problem::TargetTooLong.into(),
        HttpError::ExpectationFailed => Problem::ExpectationFailed.into(),
        HttpError::HeadTooLarge => Problem::HeadTooLarge.into(),
        // S46
        HttpError::HandlerPanicked => Problem::Internal.with_cause("a handler panicked"),
        HttpError::HandlerTimeout => Problem::HandlerTimeout.retry_after(2),
        HttpError::NotImplemented => Problem::NotImplemented.into(),
        HttpError::TooManyConnections => Problem::TooManyConnections.retry_after(2),
        HttpError::Stopping => Problem::Stopping.retry_after(5),
        HttpError::VersionNotSupported => Problem::VersionNotSupported.into(),
    }
}

/// The answer to a failed request. The one place where a hidden cause is logged.
fn problem(error: &ApiError, address: IpAddr, id: &str) -> Response {
    if let Some(cause) = error.cause.as_deref() {
        let ProblemSpec { slug, status, .. } = error.problem.spec();
        match error.problem {
            // One word, or a `TokenError`, whose Display quotes what it holds.
            Problem::InvalidToken | Problem::IssuerUnavailable => {
                info!("event=token outcome=refused reason={cause} address={address} request_id={id}");
            }
            _ if status >= 500 => {
                error!("event=failure problem={slug} cause={} address={address} request_id={id}", quoted(cause));
            }
            _ => info!("event=refusal problem={slug} cause={} address={address} request_id={id}", quoted(cause)),
        }
    }
    http::problem(error, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s46_a_panic_is_answered_500_without_its_message() {
        let error = problem_of(HttpError::HandlerPanicked);
        assert_eq!((error.problem.spec().status, error.cause.as_deref()), (500, Some("a handler panicked")));
    }
}
