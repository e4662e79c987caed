//! Which other origins' pages may read the answers. Without configuration no answer says anything of it; with it every
//! one says `Vary: Origin`, refusals of the listener included. Cookies are never allowed across origins: there are none.
//!
//! Source: Fetch Standard, "HTTP CORS protocol".

use rouille::Response;

use crate::config::Origins;

/// What a page of another origin may read besides the status, the body and the harmless fields.
const EXPOSED: &str = "Link, Location, Retry-After, WWW-Authenticate, X-Request-Id";
/// Every method that any path knows, so that a page can read a 404 and a 405 too.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
const REQUEST_HEADERS: &str = "authorization, content-type";
/// How long a browser may remember a preflight: short, so that an origin that is struck off the list is soon off.
const PREFLIGHT_SECONDS: &str = "600";

/// S48: the answer with what its reader's browser has to know. A preflight from an allowed origin is 204 on every path.
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
