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

/// `GET /` → 200 the page.
pub fn page(_: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    embedded(HTML, include_str!("../web/index.html"), context)
}

/// `GET /page.css` → 200 the style of the page and of `/docs`.
pub fn style(_: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    embedded(CSS, include_str!("../web/page.css"), context)
}

/// `GET /page.js` → 200 the page's tasks and account.
pub fn script(_: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    embedded(JAVASCRIPT, include_str!("../web/page.js"), context)
}

/// `GET /flow.js` → 200 the page's account of every exchange.
pub fn flow(_: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    embedded(JAVASCRIPT, include_str!("../web/flow.js"), context)
}

/// `GET /api.js` → 200 the JavaScript client.
pub fn client(_: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    embedded(JAVASCRIPT, include_str!("../web/api.js"), context)
}

/// `GET /api.d.ts` → 200 its types, as plain text so that a browser shows them.
pub fn client_types(_: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    embedded(PLAIN_TEXT, include_str!("../web/api.d.ts"), context)
}

/// `GET /openapi.json` → the description of every operation, OpenAPI 3.1.
pub fn openapi(_: &Services, _: &RequestContext<'_>) -> Result<Response, ApiError> {
    Ok(Response::from_data("application/json", OPENAPI))
}

/// `GET /docs` → HTML: the API at a glance, and for each problem what it means and what to do.
pub fn docs(_: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    let described: Value = serde_json::from_str(OPENAPI).map_err(|e| Problem::Internal.with_cause(e.to_string()))?;
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
    Ok(revalidated(HTML, page.replace("<!-- problems -->\n", &problems).into(), context))
}

/// 200 with the text, or 304 where the client holds it already.
fn embedded(media_type: &'static str, text: &'static str, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    Ok(revalidated(media_type, text.into(), context))
}

fn revalidated(media_type: &'static str, text: Cow<'static, str>, context: &RequestContext<'_>) -> Response {
    let hash = digest(&SHA256, text.as_bytes());
    let hash: String = hash.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let etag = format!("\"{hash}\"");
    let known = context.request.header("If-None-Match").unwrap_or_default();
    let is_known = known.split(',').any(|tag| [etag.as_str(), "*"].contains(&tag.trim().trim_start_matches("W/")));
    let response = match is_known {
        true => Response { status_code: 304, ..Response::empty_204() },
        false => Response::from_data(media_type, text.into_owned()),
    };
    response
        .with_additional_header("ETag", etag)
        .with_additional_header("Cache-Control", "no-cache")
        .with_additional_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        .with_additional_header("Referrer-Policy", "no-referrer")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
