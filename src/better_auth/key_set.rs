//! The published keys of Better Auth: fetched when first needed, kept, and asked for again no more than twice a minute
//! whatever tokens come, by one request at a time.
//!
//! Source: RFC 7517 section 5, RFC 8725 section 3.10 (no address from a token is ever fetched), OWASP ASVS 5.0 V9.1.3.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::{info, warn};
use rustls::crypto::aws_lc_rs;
use ureq::Agent;
use ureq::tls::TlsConfig;

use super::keys::{Listing, VerifyingKey};
use crate::error::TokenError;
use crate::logging::quoted;

/// A key that the issuer withdrew is refused after this time at the latest.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);
/// Between two fetches, however many unknown key ids come and however often a fetch fails.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// For the whole fetch, from the name look-up to the last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const DOCUMENT_MAX_BYTES: u64 = 64 * 1024;
/// Requests that wait for a running fetch; the rest is refused, so that a silent issuer cannot hold all connections.
const MAX_WAITING: usize = 64;

/// The key set at one URL.
pub(super) struct KeySet {
    url: String,
    agent: Agent,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Arc<VerifyingKey>>,
    fetched_at: Option<Instant>,
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
    /// An old key is used only while it cannot be renewed: because another request is at it, or the issuer is away.
    fn step(&self, kid: &str, now: Instant) -> Step {
        let key = self.keys.get(kid);
        let is_fresh = self.fetched_at.is_some_and(|fetched| now < fetched + MAX_AGE);
        let may_fetch = self.tried_at.is_none_or(|tried| now >= tried + COOL_DOWN);
        match key {
            Some(key) if is_fresh => Step::Use(key.clone()),
            _ if may_fetch => Step::Fetch,
            Some(key) => Step::Use(key.clone()),
            None if self.is_fetching && self.waiting < MAX_WAITING => Step::Wait,
            None => Step::Refuse(self.refusal(now)),
        }
    }

    fn refusal(&self, now: Instant) -> TokenError {
        if self.fetched_at.is_some() {
            return TokenError::UnknownKey;
        }
        let pause = if self.is_fetching { FETCH_TIMEOUT } else { COOL_DOWN };
        let next = self.tried_at.map_or(now, |tried| tried + pause);
        TokenError::NoKeys { retry_after_seconds: next.saturating_duration_since(now).as_secs().max(1) }
    }
}

impl KeySet {
    /// Fetches nothing yet.
    pub(super) fn new(url: String) -> KeySet {
        let tls = TlsConfig::builder()
            // The one cryptographic library of the program; without this line there would be none.
            .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .https_only(url.starts_with("https:"))
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_global(Some(FETCH_TIMEOUT))
            .max_idle_connections(0)
            // A variable that the configuration table does not list must not send the fetch elsewhere.
            .proxy(None)
            .user_agent("latchkey")
            .accept("application/json")
            .tls_config(tls)
            .build()
            .into();
        KeySet { url, agent, state: Mutex::default(), changed: Condvar::new() }
    }

    /// The key with this id. Fetches, or waits for the request that does, only where the kept set cannot answer.
    ///
    /// # Errors
    /// [`TokenError::UnknownKey`], or [`TokenError::NoKeys`] while no fetch has ever succeeded.
    pub(super) fn key(&self, kid: &str, now: Instant) -> Result<Arc<VerifyingKey>, TokenError> {
        let mut state = self.lock();
        match state.step(kid, now) {
            Step::Use(key) => return Ok(key),
            Step::Refuse(refusal) => return Err(refusal),
            Step::Wait => {
                state.waiting += 1;
                let waited = self.changed.wait_timeout_while(state, FETCH_TIMEOUT, |state| state.is_fetching);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                state.waiting -= 1;
            }
            Step::Fetch => {
                // Should the fetch never come back, the cool-down lets another request try.
                state.is_fetching = true;
                state.tried_at = Some(now);
                drop(state);
                let fetched = self.fetch();
                state = self.lock();
                state.is_fetching = false;
                Self::keep(&mut state, fetched, now);
                self.changed.notify_all();
            }
        }
        state.keys.get(kid).cloned().ok_or_else(|| state.refusal(now))
    }

    /// One fetch past the cache, in words for the operator.
    pub(super) fn check(&self) -> Result<Vec<String>, String> {
        let listing = self.fetch().map_err(|reason| format!("{}: {reason}", self.url))?;
        let keys = listing.keys.iter().map(|(kid, key)| format!("{}: {:?} {}", self.url, key.algorithm, quoted(kid)));
        let refused = listing.refused.iter().map(|reason| format!("{}: not taken: {reason}", self.url));
        let mut lines: Vec<String> = keys.chain(refused).collect();
        lines.sort();
        match listing.keys.is_empty() {
            true => Err(format!("{}: no key that could be used\n{}", self.url, lines.join("\n"))),
            false => Ok(lines),
        }
    }

    /// A failed fetch leaves what was kept as it is.
    fn keep(state: &mut State, fetched: Result<Listing, String>, now: Instant) {
        match fetched {
            Ok(Listing { keys, refused }) => {
                info!("event=jwks outcome=ok keys={} refused={}", keys.len(), quoted(&refused.join(",")));
                state.keys = keys;
                state.fetched_at = Some(now);
            }
            Err(reason) => {
                warn!("event=jwks outcome=failed reason={} kept={}", quoted(&reason), state.keys.len());
            }
        }
    }

    fn fetch(&self) -> Result<Listing, String> {
        let mut answer = self.agent.get(&self.url).call().map_err(|error| error.to_string())?;
        if answer.status() != 200 {
            return Err(format!("status {}", answer.status().as_u16()));
        }
        let document = answer.body_mut().with_config().limit(DOCUMENT_MAX_BYTES).read_to_vec();
        let document = document.map_err(|error| error.to_string())?;
        Listing::read(&document).ok_or_else(|| "no JSON Web Key Set".to_owned())
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

    #[track_caller]
    fn assert_unknown(jwks: &KeySet, kid: &str, now: Instant) {
        assert_eq!(jwks.key(kid, now).err(), Some(TokenError::UnknownKey), "{kid}");
    }

    #[test]
    fn a_kept_set_is_fetched_again_after_ten_minutes_and_a_withdrawn_key_is_refused_then() {
        let ((issuer, jwks), start) = (Issuer::start(), Instant::now());
        issuer.publish(&["a", "b"]);
        assert!(jwks.key("a", start).is_ok());
        issuer.publish(&["b"]);
        assert!(jwks.key("a", start + MAX_AGE - Duration::from_secs(1)).is_ok());
        assert_eq!(issuer.fetches(), 1);
        assert_unknown(&jwks, "a", start + MAX_AGE);
        assert!(jwks.key("b", start + MAX_AGE).is_ok());
        assert_eq!(issuer.fetches(), 2);
    }

    #[test]
    fn an_unknown_key_causes_one_fetch_in_thirty_seconds() {
        let ((issuer, jwks), start) = (Issuer::start(), Instant::now());
        issuer.publish(&["a"]);
        for n in 0..100 {
            assert_unknown(&jwks, &format!("{n}"), start);
        }
        issuer.publish(&["a", "new"]);
        assert_unknown(&jwks, "new", start + COOL_DOWN - Duration::from_secs(1));
        assert_eq!(issuer.fetches(), 1);
        assert!(jwks.key("new", start + COOL_DOWN).is_ok());
        assert_eq!(issuer.fetches(), 2);
    }

    #[test]
    fn old_keys_hold_while_the_issuer_is_away() {
        let ((issuer, jwks), start) = (Issuer::start(), Instant::now());
        issuer.publish(&["a"]);
        assert!(jwks.key("a", start).is_ok());
        issuer.fail();
        for hour in 1..4 {
            let now = start + Duration::from_secs(hour * 3600);
            assert!(jwks.key("a", now).is_ok() && jwks.key("a", now).is_ok());
            assert_unknown(&jwks, "b", now);
        }
        assert_eq!(issuer.fetches(), 4, "one fetch an hour: the others came within the cool-down");
    }

    #[test]
    fn without_any_set_the_refusal_says_when_to_come_back() {
        let ((issuer, jwks), start) = (Issuer::start(), Instant::now());
        issuer.fail();
        let refusal = |now| jwks.key("a", now).err();
        assert_eq!(refusal(start), Some(TokenError::NoKeys { retry_after_seconds: 30 }));
        let later = start + Duration::from_secs(20);
        assert_eq!(refusal(later), Some(TokenError::NoKeys { retry_after_seconds: 10 }));
        issuer.publish(&["a"]);
        assert!(jwks.key("a", start + COOL_DOWN).is_ok());
        assert_eq!(issuer.fetches(), 2);
    }

    #[test]
    fn of_many_first_requests_one_fetches_and_all_are_answered() {
        let ((issuer, jwks), start) = (Issuer::start(), Instant::now());
        issuer.publish(&["a"]);
        let together = Barrier::new(40);
        thread::scope(|scope| {
            let ask = || {
                together.wait();
                jwks.key("a", start).is_ok()
            };
            let threads: Vec<_> = (0..40).map(|_| scope.spawn(ask)).collect();
            assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
        });
        assert_eq!((issuer.fetches(), jwks.lock().waiting), (1, 0));
    }

    #[test]
    fn no_more_than_a_few_requests_wait_for_a_fetch() {
        let now = Instant::now();
        let mut state = State { is_fetching: true, tried_at: Some(now), ..State::default() };
        assert!(matches!(state.step("a", now), Step::Wait));
        state.waiting = MAX_WAITING;
        assert!(matches!(state.step("a", now), Step::Refuse(TokenError::NoKeys { retry_after_seconds: 5 })));
    }
}
