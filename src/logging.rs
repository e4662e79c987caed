//! The log: one line per request and per event of authentication, logfmt, on standard error.
//!
//! The server writes it through a bounded queue and one thread, so that no request and no stop waits for whoever reads the
//! log. Commands write it directly. It never holds a password, a token, a hash, a body, a query or a typed e-mail.
//! Source: OWASP ASVS 5.0 V16.2, V16.3, V16.4.1 (encoding against log injection).

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{mem, panic, thread};

use env_logger::{Builder, Target};
use log::{Level, error, warn};

/// How much waits to be written. Request lines may fill half of it: the rest is kept for events.
const QUEUE_BYTES: usize = 1024 * 1024;
/// How long lines are collected for one write.
const COLLECT_TIME: Duration = Duration::from_millis(10);
/// How long the end of the program waits for what is still in the queue.
const FLUSH_TIME: Duration = Duration::from_millis(500);
/// No value in the log is longer, its quotes included.
const VALUE_MAX_BYTES: usize = 500;

/// Starts the log of a command. `filters` as [`crate::config::log_filters`] gives them.
pub fn start(filters: &str) {
    builder(filters).init();
}

/// Starts the log of the server: to log never waits. Panics are logged too.
///
/// # Errors
/// The thread that writes cannot be started.
pub fn start_queued(filters: &str) -> io::Result<QueuedLog> {
    let log = QueuedLog(Arc::default());
    let queue = Arc::clone(&log.0);
    thread::Builder::new().spawn(move || queue.write_all_lines())?;
    log_to(&log.0, filters);
    Ok(log)
}

fn log_to(queue: &Arc<Queue>, filters: &str) {
    builder(filters).target(Target::Pipe(Box::new(Sender(Arc::clone(queue))))).init();
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let payload = panic.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str).or(payload.downcast_ref().copied());
        error!("event=panic place={} cause={}", quoted(&place), quoted(text.unwrap_or_default()));
    }));
}

fn builder(filters: &str) -> Builder {
    let mut builder = Builder::new();
    builder.parse_filters(filters).format(|out, record| {
        let (time, level) = (out.timestamp_millis(), level(record.level()));
        match record.target().split("::").next() {
            Some("latchkey") => writeln!(out, "time={time} level={level} {}", record.args()),
            // S50: below a warning libraries log what they work on: the database driver the parameters of its statements.
            _ if record.level() > Level::Warn => Ok(()),
            library => writeln!(
                out,
                "time={time} level={level} event=library name={} cause={}",
                library.unwrap_or_default(),
                quoted(&record.args().to_string())
            ),
        }
    });
    builder
}

const fn level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// The log of the server. When it is dropped it waits until all lines are written, at most half a second.
pub struct QueuedLog(Arc<Queue>);

impl Drop for QueuedLog {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_closing = true;
        self.0.changed.notify_all();
        let _ = self.0.changed.wait_timeout_while(state, FLUSH_TIME, |state| !state.is_done);
    }
}

/// Lines on their way to standard error.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    dropped: usize,
    is_closing: bool,
    is_done: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// S53: adds a line, or counts it as dropped where there is no room for its kind.
    fn add(&self, line: &[u8]) {
        let limit = if is_request_line(line) { QUEUE_BYTES / 2 } else { QUEUE_BYTES };
        let mut state = self.state();
        if state.lines.len() + line.len() > limit {
            state.dropped += 1;
            return;
        }
        let was_empty = state.lines.is_empty();
        state.lines.extend_from_slice(line);
        if was_empty {
            self.changed.notify_all();
        }
    }

    /// Writes what comes, until the log is closed and empty. The one place that waits for the reader.
    fn write_all_lines(&self) {
        let mut lines = Vec::new();
        loop {
            let state = self.state();
            let waited = self.changed.wait_while(state, |state| state.lines.is_empty() && !state.is_closing);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            if state.lines.is_empty() {
                state.is_done = true;
                return self.changed.notify_all();
            }
            mem::swap(&mut state.lines, &mut lines);
            let (dropped, is_closing) = (mem::take(&mut state.dropped), state.is_closing);
            drop(state);
            // A reader that has gone is no reason to stop.
            let _ = io::stderr().write_all(&lines);
            lines.clear();
            if dropped > 0 {
                warn!("event=log dropped={dropped}");
            }
            if !is_closing {
                thread::sleep(COLLECT_TIME);
            }
        }
    }
}

/// A request's line begins with its method, an event's with its name, each behind time and level.
fn is_request_line(line: &[u8]) -> bool {
    line.split(|byte| *byte == b' ').nth(2).is_some_and(|field| field.starts_with(b"method="))
}

/// Where env_logger writes its lines, each in one call.
struct Sender(Arc<Queue>);

impl Write for Sender {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// S51: the value as it may stand behind `key=`: cut at 500 bytes; in quotes and escaped as in JSON where it holds anything
/// but plain ASCII.
pub fn quoted(value: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\=".contains(&byte);
    if (1..=VALUE_MAX_BYTES).contains(&value.len()) && value.bytes().all(is_plain) {
        return Cow::Borrowed(value);
    }
    let mut text = String::from('"');
    for c in value.chars() {
        let start = text.len();
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\'' => text.push(c),
            c if c.escape_debug().len() == 1 => text.push(c),
            c => text.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}"))),
        }
        if text.len() > VALUE_MAX_BYTES - "…\"".len() {
            text.truncate(start);
            text.push('…');
            break;
        }
    }
    text.push('"');
    Cow::Owned(text)
}

/// A time as the log shows it: milliseconds with three decimals.
pub struct Milliseconds(pub Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0.as_millis(), self.0.subsec_micros() % 1000)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn s51_log_injection_no_value_begins_a_line_or_a_key() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("a b\nlevel=info"), r#""a b\u000alevel=info""#);
        assert_eq!(quoted("a=b"), r#""a=b""#);
        assert_eq!(quoted("\u{1b}[2J\"\u{9b}\u{202e}'"), r#""\u001b[2J\"\u009b\u202e'""#);
        assert_eq!(quoted(""), r#""""#);
    }

    #[test]
    fn a_value_is_cut_at_500_bytes_and_stays_a_json_string() {
        for value in ["a", "\n", "\"", "é", "🚀", "\u{10ffff}", " "].map(|piece| piece.repeat(5000)) {
            let text = quoted(&value);
            assert!(text.len() <= 500 && text.len() > 480, "{text}");
            let read: String = serde_json::from_str(&text).unwrap();
            assert!(value.starts_with(read.trim_end_matches('…')), "{text}");
        }
    }

    #[test]
    fn a_panic_goes_into_the_queue() {
        let queue = Arc::default();
        log_to(&queue, "info");
        assert!(thread::spawn(|| panic!("no {}", "luck")).join().is_err());
        drop(panic::take_hook());
        let lines = String::from_utf8(queue.state().lines.clone()).unwrap();
        assert!(lines.contains("level=error event=panic place=src/logging.rs:"), "{lines}");
        assert!(lines.ends_with(" cause=\"no luck\"\n"), "{lines}");
    }

    #[test]
    fn a_full_queue_drops_request_lines_before_events() {
        let queue = Queue::default();
        let (request, event) = (b"time=0 level=info method=GET\n", b"time=0 level=info event=login\n");
        let fill_with = |line: &[u8]| {
            let dropped = queue.state().dropped;
            while queue.state().dropped == dropped {
                queue.add(line);
            }
            QUEUE_BYTES - queue.state().lines.len()
        };
        let left_for_events = fill_with(request);
        assert!((QUEUE_BYTES / 2..QUEUE_BYTES / 2 + 100).contains(&left_for_events), "{left_for_events}");
        assert!(fill_with(event) < 100);
        assert_eq!(queue.state().dropped, 2);
    }
}
