//! The published key set of Better Auth: fetched when it is first needed, then kept. However many tokens come, one request
//! at a time fetches it, at most once in 10 s.
//!
//! Source: RFC 7517 section 5, RFC 8725 section 3.10 (no address from a token is ever fetched), OWASP ASVS 5.0 V9.1.3.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{info, warn};

use super::LEEWAY_SECONDS;
use super::fetch::{FETCH_TIMEOUT, fetch};
use super::keys::{Listing, VerifyingKey};
use crate::error::TokenError;
use crate::logging::quoted;

/// A key that the issuer no longer lists is refused after this time at the latest, if the issuer can be reached.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);
/// Tolerated difference between the issuer's clock and ours.
const LEEWAY: Duration = Duration::from_secs(LEEWAY_SECONDS.unsigned_abs());
/// Between the beginnings of two fetches, whatever tokens come and however often a fetch fails.
const COOL_DOWN: Duration = Duration::from_secs(10);
/// Requests that wait for a running fetch. All others are refused, so that a silent issuer cannot hold all connections.
const MAX_WAITING: usize = 64;

/// The key set at one URL.
pub(super) struct KeySet {
    url: String,
    fetch: fn(&str) -> Result<Listing, String>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Arc<VerifyingKey>>,
    /// When the last fetch that succeeded began.
    fetched_at: Option<Instant>,
    /// When the last fetch began.
    tried_at: Option<Instant>,
    is_fetching: bool,
    waiting: usize,
}

/// What a request for a key must do.
enum Step {
    Use(Arc<VerifyingKey>),
    Fetch,
    Wait,
    Refuse(TokenError),
}

impl State {
    /// A key of a set that is too old is still used while another request fetches, or while the issuer cannot be reached.
    fn step(&self, kid: &str, issued_at: Option<Instant>, now: Instant) -> Step {
        let key = self.keys.get(kid);
        // S61
        let is_fresh = self.fetched_at.is_some_and(|fetched| now < fetched + MAX_AGE);
        // S60
        let may_fetch = self.tried_at.is_none_or(|tried| now >= tried + COOL_DOWN);
        match key {
            Some(key) if is_fresh => Step::Use(key.clone()),
            _ if may_fetch => Step::Fetch,
            Some(key) => Step::Use(key.clone()),
            None if self.is_fetching && self.waiting < MAX_WAITING => Step::Wait,
            None => Step::Refuse(self.refusal(issued_at, now)),
        }
    }

    /// Why there is no key, and when it is worth asking again. A key appears when it signs its first token, so that a set
    /// fetched before a token was issued says nothing about its key.
    fn refusal(&self, issued_at: Option<Instant>, now: Instant) -> TokenError {
        let pause = if self.is_fetching { FETCH_TIMEOUT } else { COOL_DOWN };
        let next = self.tried_at.map_or(now, |tried| tried + pause);
        let left = next.saturating_duration_since(now);
        let retry_after_seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0 || left.is_zero());
        match (self.fetched_at, issued_at) {
            (None, _) => TokenError::NoKeySet { retry_after_seconds },
            (Some(fetched), Some(issued_at)) if issued_at + LEEWAY > fetched => {
                TokenError::KeyMayBeNew { retry_after_seconds }
            }
            _ => TokenError::UnknownKey,
        }
    }
}

impl KeySet {
    /// Fetches nothing yet.
    pub(super) fn new(url: String) -> KeySet {
        KeySet { url, fetch, state: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The key with this id. Fetches, or waits for the request that does, only if the kept set cannot answer. `issued_at`
    /// is the token's `iat` by the clock of `now`.
    ///
    /// # Errors
    /// [`TokenError::UnknownKey`]; [`TokenError::NoKeySet`] while no fetch has ever succeeded; [`TokenError::KeyMayBeNew`].
    pub(super) fn key(
        &self,
        kid: &str,
        issued_at: Option<Instant>,
        now: Instant,
    ) -> Result<Arc<VerifyingKey>, TokenError> {
        let mut state = self.lock();
        let mut has_just_fetched = false;
        match state.step(kid, issued_at, now) {
            Step::Use(key) => return Ok(key),
            Step::Refuse(refusal) => return Err(refusal),
            Step::Wait => {
                state.waiting += 1;
                let waited = self.changed.wait_timeout_while(state, FETCH_TIMEOUT, |state| state.is_fetching);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                state.waiting -= 1;
            }
            Step::Fetch => {
                // If the fetch never returns, another request may try after the cool-down.
                state.is_fetching = true;
                state.tried_at = Some(now);
                drop(state);
                // The name look-up panics where no thread can be started.
                let fetched = catch_unwind(AssertUnwindSafe(|| (self.fetch)(&self.url)))
                    .unwrap_or_else(|_| Err("panic".to_owned()));
                has_just_fetched = fetched.is_ok();
                state = self.lock();
                state.is_fetching = false;
                self.keep(&mut state, fetched, now);
                self.changed.notify_all();
            }
        }
        match state.keys.get(kid) {
            Some(key) => Ok(key.clone()),
            // The fetch began after the token was issued.
            None if has_just_fetched => Err(TokenError::UnknownKey),
            None => Err(state.refusal(issued_at, now)),
        }
    }

    /// One fetch without the cache, described for the operator.
    pub(super) fn check(&self) -> Result<Vec<String>, String> {
        let listing = (self.fetch)(&self.url)?;
        let keys = listing.keys.iter().map(|(kid, key)| format!("key {:?} {}", key.algorithm, quoted(kid)));
        let mut lines: Vec<String> =
            keys.chain(listing.refused.iter().map(|why| format!("no usable key: {why}"))).collect();
        lines.sort();
        if listing.keys.is_empty() {
            lines.insert(0, "the key set has no usable key".to_owned());
            return Err(lines.join("; "));
        }
        Ok(lines)
    }

    /// A failed fetch leaves the kept set as it is.
    fn keep(&self, state: &mut State, fetched: Result<Listing, String>, now: Instant) {
        let url = quoted(&self.url);
        match fetched {
            Ok(Listing { keys, refused }) => {
                info!("event=jwks outcome=ok url={url} keys={} refused={}", keys.len(), quoted(&refused.join(",")));
                state.keys = keys;
                state.fetched_at = Some(now);
            }
            Err(reason) => {
                let kept = state.keys.len();
                warn!("event=jwks outcome=failed url={url} reason={} kept={kept}", quoted(&reason));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must fail at once")]
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier, Mutex};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::{COOL_DOWN, KeySet, MAX_AGE, MAX_WAITING, State, Step, TokenError};

    /// Answers each connection with its present text, slowly, and counts.
    #[derive(Clone, Default)]
    struct Issuer {
        answer: Arc<Mutex<String>>,
        fetches: Arc<AtomicUsize>,
    }

    impl Issuer {
        fn start() -> (Issuer, KeySet) {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/jwks", listener.local_addr().unwrap());
            let issuer = Issuer::default();
            let served = issuer.clone();
            thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let _ = stream.read(&mut [0; 4096]);
                    served.fetches.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(50));
                    let _ = stream.write_all(served.answer.lock().unwrap().as_bytes());
                }
            });
            (issuer, KeySet::new(url))
        }

        fn publish(&self, kids: &[&str]) {
            let key = |kid: &&str| format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}","kid":"{kid}"}}"#, "A".repeat(43));
            let body = format!(r#"{{"keys":[{}]}}"#, kids.iter().map(key).collect::<Vec<_>>().join(","));
            *self.answer.lock().unwrap() = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }

        fn fail(&self) {
            *self.answer.lock().unwrap() = "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".into();
        }

        fn fetches(&self) -> usize {
            self.fetches.load(Ordering::SeqCst)
        }
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    impl KeySet {
        /// The outcome for a token issued at this time by the same clock.
        fn ask(&self, kid: &str, issued: Instant, now: Instant) -> Option<TokenError> {
            self.key(kid, Some(issued), now).err()
        }
    }

    #[test]
    fn s61_a_withdrawn_key_is_refused_after_ten_minutes() {
        let ((issuer, set), start) = (Issuer::start(), Instant::now());
        issuer.publish(&["a", "b"]);
        assert_eq!(set.ask("a", start, start), None);
        issuer.publish(&["b"]);
        let old = start + MAX_AGE;
        assert_eq!(set.ask("a", start, start + MAX_AGE - seconds(1)), None);
        assert_eq!(issuer.fetches(), 1);
        assert_eq!(set.ask("a", start, old), Some(TokenError::UnknownKey));
        assert_eq!(set.ask("b", start, old), None);
        assert_eq!(issuer.fetches(), 2);
    }

    #[test]
    fn s60_random_key_ids_cause_one_fetch_in_ten_seconds() {
        let ((issuer, set), start) = (Issuer::start(), Instant::now());
        issuer.publish(&["a"]);
        for n in 0..100 {
            assert!(set.ask(&format!("{n}"), start, start).is_some());
            assert!(set.key(&format!("{n}"), None, start + seconds(9)).is_err());
        }
        assert_eq!(issuer.fetches(), 1);
        issuer.publish(&["a", "new"]);
        assert_eq!(set.ask("new", start, start + COOL_DOWN), None);
        assert_eq!(issuer.fetches(), 2);
    }

    #[test]
    fn a_token_newer_than_the_set_is_told_when_to_come_back() {
        let ((issuer, set), start) = (Issuer::start(), Instant::now());
        issuer.publish(&["a"]);
        assert_eq!(set.ask("a", start, start), None);
        let (old, new) = (start + seconds(2), start + seconds(7));
        let before = start - seconds(60);
        assert_eq!(set.ask("new", before, old), Some(TokenError::UnknownKey));
        assert_eq!(set.key("new", None, old).err(), Some(TokenError::UnknownKey), "without iat");
        let refused = |retry_after_seconds| Some(TokenError::KeyMayBeNew { retry_after_seconds });
        assert_eq!(set.ask("new", old, old), refused(8));
        assert_eq!(set.ask("new", new, new), refused(3));
        let half = new + Duration::from_millis(500);
        assert_eq!(set.ask("new", new, half), refused(3), "not before the next fetch");
        assert_eq!(set.ask("new", new, start + COOL_DOWN), Some(TokenError::UnknownKey), "fetched for this token");
        assert_eq!(issuer.fetches(), 2);
    }

    #[test]
    fn old_keys_hold_while_the_issuer_is_away() {
        let ((issuer, set), start) = (Issuer::start(), Instant::now());
        issuer.publish(&["a"]);
        assert_eq!(set.ask("a", start, start), None);
        issuer.fail();
        for hour in 1..4 {
            let now = start + seconds(hour * 3600);
            assert_eq!((set.ask("a", start, now), set.ask("a", start, now)), (None, None));
            let before = start - seconds(60);
            assert_eq!(set.ask("b", before, now), Some(TokenError::UnknownKey));
            assert_eq!(set.ask("b", now, now), Some(TokenError::KeyMayBeNew { retry_after_seconds: 10 }));
        }
        assert_eq!(issuer.fetches(), 4, "one fetch an hour: the others came within the cool-down");
    }

    #[test]
    fn without_any_set_the_refusal_says_when_to_come_back() {
        let ((issuer, set), start) = (Issuer::start(), Instant::now());
        issuer.fail();
        let refused = |retry_after_seconds| Some(TokenError::NoKeySet { retry_after_seconds });
        assert_eq!(set.ask("a", start, start), refused(10));
        assert_eq!(set.ask("a", start, start + seconds(4)), refused(6));
        issuer.publish(&["a"]);
        assert_eq!(set.ask("a", start, start + COOL_DOWN), None);
        assert_eq!(issuer.fetches(), 2);
    }

    #[test]
    fn a_fetch_that_panics_is_a_failed_fetch_and_is_tried_again() {
        let ((issuer, mut set), start) = (Issuer::start(), Instant::now());
        let fetch = std::mem::replace(&mut set.fetch, |_| panic!("no thread can be started"));
        assert_eq!(set.ask("a", start, start), Some(TokenError::NoKeySet { retry_after_seconds: 10 }));
        assert!(!set.lock().is_fetching);
        set.fetch = fetch;
        issuer.publish(&["a"]);
        assert_eq!(set.ask("a", start, start + COOL_DOWN), None);
    }

    #[test]
    fn of_many_first_requests_one_fetches_and_all_are_answered() {
        let ((issuer, set), start) = (Issuer::start(), Instant::now());
        issuer.publish(&["a"]);
        let together = Barrier::new(40);
        thread::scope(|scope| {
            let ask = || {
                together.wait();
                set.ask("a", start, start).is_none()
            };
            let threads: Vec<_> = (0..40).map(|_| scope.spawn(ask)).collect();
            assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
        });
        assert_eq!((issuer.fetches(), set.lock().waiting), (1, 0));
    }

    #[test]
    fn no_more_than_a_few_requests_wait_for_a_fetch() {
        let now = Instant::now();
        let mut state = State { is_fetching: true, tried_at: Some(now), ..State::default() };
        assert!(matches!(state.step("a", None, now), Step::Wait));
        state.waiting = MAX_WAITING;
        assert!(matches!(state.step("a", None, now), Step::Refuse(TokenError::NoKeySet { retry_after_seconds: 5 })));
    }
}
