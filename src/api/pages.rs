//! What needs no account: health, readiness, and the files of the program: the page, the JavaScript client, the
//! description and the reference of the API.
//!
//! Source: RFC 9110 section 13.1.2 (If-None-Match), Content Security Policy Level 3.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use log::error;
use rouille::Response;
use serde_json::json;

use super::{Services, docs};
use crate::error::{ApiError, Problem};
use crate::http::{RequestContext, json};
use crate::logging::{hex, quoted};

/// How long the result of one probe of the database is used.
const PROBE_HOLDS: Duration = Duration::from_secs(1);

/// `GET /healthz` → 200: the process answers. Never touches the database, which may be asleep.
pub fn healthz(_: &Services, _: &RequestContext<'_>) -> Result<Response, ApiError> {
    json(200, &json!({"status": "ok"}))
}

/// The last probe of the database.
#[derive(Default)]
pub struct Readiness(Mutex<Option<(Instant, bool)>>);

impl Readiness {
    /// Whether the database answers within two seconds. One probe at a time, however many ask.
    fn probe(&self, services: &Services) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *last {
            Some((when, is_ready)) if when.elapsed() < PROBE_HOLDS => is_ready,
            _ => {
                let answer = services.database.probe().map_err(ApiError::from);
                let is_ready = answer.is_ok();
                if let Some(cause) = answer.err().and_then(|error| error.cause) {
                    error!("event=readiness outcome=failed cause={}", quoted(&cause));
                }
                *last = Some((Instant::now(), is_ready));
                is_ready
            }
        }
    }
}

/// `GET /readyz` → 200 if the database answers within two seconds.
pub fn readyz(services: &Services, _: &RequestContext<'_>) -> Result<Response, ApiError> {
    match services.readiness.probe(services) {
        true => json(200, &json!({"status": "ready"})),
        false => Err(Problem::DatabaseUnavailable.into()),
    }
}

/// S47: scripts, styles and connections of this server alone; nothing inline, nothing from another origin, no frames.
/// The page's icon is the one `data:` URL.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const CSS: &str = "text/css; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
const OPENAPI: &str = include_str!("../web/openapi.json");

/// The files of the program: path, media type, text. The client's types are plain text, so that a browser shows them.
#[rustfmt::skip]
const FILES: &[(&str, &str, &str)] = &[
    ("/",               HTML,       include_str!("../web/index.html")),
    ("/page.css",       CSS,        include_str!("../web/page.css")),
    ("/docs.css",       CSS,        include_str!("../web/docs.css")),
    ("/docs.js",        JAVASCRIPT, include_str!("../web/docs.js")),
    ("/theme.js",       JAVASCRIPT, include_str!("../web/theme.js")),
    ("/page.js",        JAVASCRIPT, include_str!("../web/page.js")),
    ("/tasks.js",       JAVASCRIPT, include_str!("../web/tasks.js")),
    ("/flow.js",        JAVASCRIPT, include_str!("../web/flow.js")),
    ("/experiments.js", JAVASCRIPT, include_str!("../web/experiments.js")),
    ("/token.js",       JAVASCRIPT, include_str!("../web/token.js")),
    ("/shell.js",       JAVASCRIPT, include_str!("../web/shell.js")),
    ("/api.js",         JAVASCRIPT, include_str!("../web/api.js")),
    ("/api.d.ts",       PLAIN_TEXT, include_str!("../web/api.d.ts")),
];

/// What browsers get, prepared once at start: a request for it costs no more than copying it.
pub struct Pages(Vec<Page>);

struct Page {
    path: &'static str,
    media_type: &'static str,
    text: Cow<'static, str>,
    etag: String,
}

impl Pages {
    /// The files of the program, and the reference of the API.
    pub fn embedded() -> Pages {
        let files = FILES.iter().map(|(path, media_type, text)| (*path, *media_type, Cow::Borrowed(*text)));
        let pages = files.chain([("/docs", HTML, Cow::Owned(docs::reference(OPENAPI)))]);
        Pages(pages.map(|(path, media_type, text)| Page { path, media_type, etag: etag(&text), text }).collect())
    }
}

/// A strong validator (RFC 9110 section 8.8.3).
fn etag(text: &str) -> String {
    format!("\"{}\"", hex(digest(&SHA256, text.as_bytes()).as_ref().get(..16).unwrap_or_default()))
}

/// `GET` of the page, the reference, the JavaScript client → 200, or 304 where the client holds it already.
pub fn file(services: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    let page = services.pages.0.iter().find(|page| page.path == context.route).ok_or(Problem::NotFound)?;
    let known = context.request.header("If-None-Match").unwrap_or_default();
    let is_known = known.split(',').any(|tag| [&page.etag, "*"].contains(&tag.trim().trim_start_matches("W/")));
    let response = match is_known {
        true => Response { status_code: 304, ..Response::empty_204() },
        false => Response::from_data(page.media_type, page.text.as_bytes()),
    };
    Ok(response
        .with_additional_header("ETag", page.etag.clone())
        .with_additional_header("Cache-Control", "no-cache")
        .with_additional_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        .with_additional_header("Referrer-Policy", "no-referrer"))
}

/// `GET` of a part of the page, for which only the page asks: as [`file`].
pub fn part(services: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    file(services, context)
}

/// `GET /openapi.json` → the description of every operation, OpenAPI 3.1.
pub fn openapi(_: &Services, _: &RequestContext<'_>) -> Result<Response, ApiError> {
    Ok(Response::from_data("application/json", OPENAPI))
}
