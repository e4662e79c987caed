//! What needs no account: health, readiness, and the page that explains each problem.

use std::fmt::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rouille::Response;
use serde_json::json;

use crate::error::{ApiError, Problem};
use crate::http::json;
use crate::store::Store;

/// How long one probe of the database stands for all who ask.
const PROBE_HOLDS: Duration = Duration::from_secs(1);
/// How long who asks waits for it.
const PROBE_TIME: Duration = Duration::from_secs(2);

/// `GET /healthz` → 200: the process answers. Never touches the database, which may be asleep.
pub fn healthz() -> Result<Response, ApiError> {
    json(200, &json!({"status": "ok"}))
}

/// Whether the database answers: one probe at a time, however many ask.
pub struct Readiness {
    store: Arc<Store>,
    last: Mutex<Probe>,
}

#[derive(Default)]
struct Probe {
    answer: Option<(Instant, bool)>,
    /// A probe that took longer than anybody waits; no other begins before it has ended.
    pending: Option<Receiver<bool>>,
}

impl Readiness {
    /// Asks nothing yet.
    pub fn new(store: Arc<Store>) -> Readiness {
        Readiness { store, last: Mutex::default() }
    }

    /// `GET /readyz` → 200 if the database answers within two seconds.
    pub fn readyz(&self) -> Result<Response, ApiError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ready = match last.answer {
            Some((when, is_ready)) if when.elapsed() < PROBE_HOLDS => is_ready,
            _ => {
                let probe = last.pending.take().unwrap_or_else(|| self.begin_probe());
                let outcome = probe.recv_timeout(PROBE_TIME);
                last.pending = (outcome == Err(RecvTimeoutError::Timeout)).then_some(probe);
                last.answer = Some((Instant::now(), outcome == Ok(true)));
                outcome == Ok(true)
            }
        };
        match is_ready {
            true => json(200, &json!({"status": "ready"})),
            false => Err(Problem::DatabaseUnavailable.into()),
        }
    }

    fn begin_probe(&self) -> Receiver<bool> {
        let (sender, receiver) = channel();
        let store = self.store.clone();
        // Without a thread nothing is ever sent: not ready. Nobody may be left to hear the answer.
        let _ = thread::Builder::new().spawn(move || sender.send(store.ping().is_ok()));
        receiver
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
