//! CORS: which other origins may read responses. Without `CORS_ORIGINS` no response has a CORS header; with it every
//! response has `Vary: Origin`, early refusals included. Credentials are never allowed: there are no cookies.
//!
//! Source: Fetch Standard, "HTTP CORS protocol".

use rouille::Response;

use crate::config::Origins;

/// The headers that another origin may read besides the safelisted ones.
const EXPOSED: &str = "Link, Location, Retry-After, WWW-Authenticate, X-Request-Id";
/// The methods of all routes, so that a page can read a 404 and a 405 too.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
const REQUEST_HEADERS: &str = "authorization, content-type";
/// How long a browser may keep a preflight: short, so that removing an origin takes effect soon.
const PREFLIGHT_SECONDS: &str = "600";

/// S48: the response with the CORS headers that it needs. A preflight from a listed origin is 204 on every path.
pub fn applied<'a>(
    origins: &Origins,
    response: Response,
    method: &str,
    mut headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> Response {
    if origins.is_empty() {
        return response;
    }
    let is_preflight = method == "OPTIONS"
        && headers.clone().any(|(name, _)| name.eq_ignore_ascii_case("Access-Control-Request-Method"));
    let origin = headers.find(|(name, _)| name.eq_ignore_ascii_case("Origin")).map(|(_, value)| value);
    let Some(origin) = origin.filter(|origin| origins.contains(origin)) else {
        return response.with_additional_header("Vary", "Origin");
    };
    let response = match is_preflight {
        true if response.status_code == 404 => allowing(Response::empty_204()),
        true => allowing(response),
        false => response.with_additional_header("Access-Control-Expose-Headers", EXPOSED),
    };
    response
        .with_additional_header("Vary", "Origin")
        .with_additional_header("Access-Control-Allow-Origin", origin.to_owned())
}

fn allowing(response: Response) -> Response {
    response
        .with_additional_header("Access-Control-Allow-Methods", METHODS)
        .with_additional_header("Access-Control-Allow-Headers", REQUEST_HEADERS)
        .with_additional_header("Access-Control-Max-Age", PREFLIGHT_SECONDS)
}
