//! What needs no account: health, readiness, and the page that explains each problem.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rouille::Response;
use serde_json::json;

use crate::error::{ApiError, Problem};
use crate::http::json;
use crate::store::Store;

/// How long one probe of the database stands for all who ask.
const PROBE_HOLDS: Duration = Duration::from_secs(1);

/// `GET /healthz` → 200: the process answers. Never touches the database, which may be asleep.
pub fn healthz() -> Result<Response, ApiError> {
    json(200, &json!({"status": "ok"}))
}

/// The last probe of the database.
#[derive(Default)]
pub struct Readiness(Mutex<Option<(Instant, bool)>>);

impl Readiness {
    /// `GET /readyz` → 200 if the database answers. One probe at a time, however many ask.
    pub fn readyz(&self, store: &Store) -> Result<Response, ApiError> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ready = match *last {
            Some((when, is_ready)) if when.elapsed() < PROBE_HOLDS => is_ready,
            _ => {
                let is_ready = store.ping().is_ok();
                *last = Some((Instant::now(), is_ready));
                is_ready
            }
        };
        if !is_ready {
            return Err(Problem::DatabaseUnavailable.into());
        }
        json(200, &json!({"status": "ready"}))
    }
}

/// `GET /docs` → HTML: the paths, and for each problem what it means and what to do.
pub fn docs(routes: impl Iterator<Item = (&'static str, &'static str)>) -> Result<Response, ApiError> {
    let mut page = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>latchkey: API and problems</title>\n<h1>latchkey</h1>\n<h2>Paths</h2>\n<ul>\n",
    );
    for (method, path) in routes {
        let _ = writeln!(page, "<li><code>{method} {path}</code></li>");
    }
    page.push_str("</ul>\n<h2>Problems</h2>\n");
    for problem in Problem::ALL {
        let words = problem.words();
        let _ = writeln!(
            page,
            "<section id=\"{}\">\n<h3>{} {}</h3>\n<p>{}</p>\n<p>{}</p>\n</section>",
            words.slug,
            words.status,
            escaped(words.title),
            escaped(words.detail),
            escaped(words.advice),
        );
    }
    page.push_str("</html>\n");
    Ok(Response::html(page).with_additional_header("Content-Security-Policy", "default-src 'none'"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
