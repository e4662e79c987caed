//! What needs no account: health, readiness, and what is part of the program: the page, the JavaScript client, the
//! description of the API, and the explanation of each problem.
//!
//! Source: RFC 9110 section 13.1.2 (If-None-Match), Content Security Policy Level 3.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use rouille::Response;
use serde_json::{Value, json};

use super::Services;
use crate::error::{ApiError, Problem};
use crate::http::{RequestContext, json};

/// How long one probe of the database stands for all who ask.
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
                let is_ready = services.database.ping().is_ok();
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

/// The program's own HTML, CSS and JavaScript, and connections to this server; nothing inline, nothing from elsewhere.
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
    ("/",         HTML,       include_str!("../web/index.html")),
    ("/page.css", CSS,        include_str!("../web/page.css")),
    ("/page.js",  JAVASCRIPT, include_str!("../web/page.js")),
    ("/flow.js",  JAVASCRIPT, include_str!("../web/flow.js")),
    ("/api.js",   JAVASCRIPT, include_str!("../web/api.js")),
    ("/api.d.ts", PLAIN_TEXT, include_str!("../web/api.d.ts")),
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
        let pages = files.chain([("/docs", HTML, Cow::Owned(reference()))]);
        Pages(pages.map(|(path, media_type, text)| Page { path, media_type, etag: etag(&text), text }).collect())
    }
}

/// A strong validator (RFC 9110 section 8.8.3).
fn etag(text: &str) -> String {
    let hash = digest(&SHA256, text.as_bytes());
    let hash: String = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hash}\"")
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

/// The text of `/docs`: the API at a glance, and for each problem what it means and what to do.
fn reference() -> String {
    let described: Value = serde_json::from_str(OPENAPI).unwrap_or_default();
    let mut paths = String::new();
    for (path, item) in described.get("paths").and_then(Value::as_object).into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            let Some(summary) = operation.get("summary").and_then(Value::as_str) else { continue };
            let _ = writeln!(
                paths,
                "<tr><td><code>{}</code></td><td><code>{path}</code></td><td>{}</td></tr>",
                method.to_uppercase(),
                escaped(summary)
            );
        }
    }
    let mut problems = String::new();
    for problem in Problem::ALL {
        let spec = problem.spec();
        let _ = writeln!(
            problems,
            "<section class=\"problem\" id=\"{0}\">\n<h3><a href=\"#{0}\"><code>{1}</code> {2}</a></h3>\n\
             <p class=\"says\">{3}</p>\n<p>{4}</p>\n<p class=\"type\"><code>/docs#{0}</code></p>\n</section>",
            spec.slug,
            spec.status,
            escaped(spec.title),
            escaped(spec.detail),
            escaped(spec.advice),
        );
    }
    let page = include_str!("../web/docs.html").replace("<!-- paths -->\n", &paths);
    page.replace("<!-- problems -->\n", &problems)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
