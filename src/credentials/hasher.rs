//! bcrypt at one cost. A verification takes the time of the configured cost whether there is a stored hash or none, and
//! whether the stored hash has that cost or a lower one, so that the time tells nobody which e-mails have accounts.
//!
//! A stored hash of a higher cost takes longer: lowering the cost shows which accounts have not logged in since.
//! Source: OWASP ASVS 5.0 V11.4.2 (password hashing), V6.3.8 (user enumeration by time).

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bcrypt::BcryptResult;

use super::Password;
use crate::error::{ApiError, Problem};

/// Hashes and verifies passwords, and knows how long a verification takes on this machine.
#[derive(Clone)]
pub struct PasswordHasher {
    cost: u32,
    /// Microseconds that one verification takes, a moving average.
    verification_micros: Arc<AtomicU64>,
}

impl PasswordHasher {
    /// A hasher of this bcrypt cost.
    pub(super) fn new(cost: u32) -> PasswordHasher {
        // About 230 ms at cost 12, doubled by each step: until the first verifications are measured.
        PasswordHasher { cost, verification_micros: Arc::new(AtomicU64::new(56 << cost.min(20))) }
    }

    /// The bcrypt hash of the password.
    ///
    /// # Errors
    /// [`Problem::Internal`] where the system gives no random salt.
    pub fn hash(&self, password: &Password) -> Result<String, ApiError> {
        // S1
        bcrypt::hash(password.expose(), self.cost).map_err(|error| Problem::Internal.with_cause(error.to_string()))
    }

    /// Whether the password belongs to the stored hash; false where there is none. Takes the time of the configured cost.
    ///
    /// # Errors
    /// [`Problem::Internal`] where the stored hash is not bcrypt's.
    pub fn verify(&self, password: &Password, stored: Option<&str>) -> Result<bool, ApiError> {
        let started = Instant::now();
        let matches = verify_at_cost(self.cost, stored, |hash| bcrypt::verify(password.expose(), hash))
            .map_err(|error| Problem::Internal.with_cause(error.to_string()))?;
        let average = self.verification_micros.load(Ordering::Relaxed);
        let micros = started.elapsed().as_micros().try_into().unwrap_or(u64::MAX / 8);
        self.verification_micros.store((average / 8 * 7).saturating_add(micros / 8).max(1), Ordering::Relaxed);
        Ok(matches)
    }

    /// Whether the stored hash has another cost than the configured one.
    pub fn is_outdated(&self, stored: &str) -> bool {
        cost_of(stored) != Some(self.cost) // S1: the next login renews it.
    }

    /// How long a verification takes, as an average of the last ones.
    pub(super) fn verification_time(&self) -> Duration {
        Duration::from_micros(self.verification_micros.load(Ordering::Relaxed))
    }
}

/// Whether `check` accepts the stored hash. Without one it checks a dummy of the configured cost. After a stored hash of a
/// lower cost it checks one dummy of each cost from that one up to, and without, the configured one: since each step
/// doubles the work, 2^s + (2^s + … + 2^(c-1)) = 2^c.
fn verify_at_cost(cost: u32, stored: Option<&str>, check: impl Fn(&str) -> BcryptResult<bool>) -> BcryptResult<bool> {
    // S5
    let Some(stored) = stored else {
        black_box(check(&dummy(cost))?);
        return Ok(false);
    };
    let matches = check(stored)?;
    for missing in cost_of(stored).unwrap_or(cost)..cost {
        black_box(check(&dummy(missing))?);
    }
    Ok(matches)
}

/// A well-formed bcrypt string of this cost.
fn dummy(cost: u32) -> String {
    format!("$2b${cost:02}$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01232")
}

/// The cost that a bcrypt string names: `$2b$12$…`.
fn cost_of(hash: &str) -> Option<u32> {
    hash.get(4..6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use std::cell::Cell;

    use super::{PasswordHasher, cost_of, dummy, verify_at_cost};
    use crate::credentials::Password;

    fn password(text: &str) -> Password {
        Password::presented(text.into()).unwrap()
    }

    /// How many rounds of bcrypt a verification does, with a password that is right or wrong.
    fn rounds(cost: u32, stored: Option<&str>, matches: bool) -> u64 {
        let rounds = Cell::new(0);
        let check = |hash: &str| {
            assert!(bcrypt::verify("", hash).is_ok(), "{hash}");
            rounds.set(rounds.get() + (1 << cost_of(hash).unwrap()));
            Ok(matches)
        };
        assert_eq!(verify_at_cost(cost, stored, check).unwrap(), matches && stored.is_some());
        rounds.get()
    }

    #[test]
    fn s5_timing_costs_the_configured_rounds_whatever_is_stored() {
        for cost in 4..=8 {
            assert_eq!(rounds(cost, None, true), 1 << cost);
            for stored in 4..=cost {
                for matches in [true, false] {
                    assert_eq!(rounds(cost, Some(&dummy(stored)), matches), 1 << cost, "{stored} of {cost}");
                }
            }
        }
    }

    #[test]
    fn only_the_right_password_verifies() {
        let hasher = PasswordHasher::new(5);
        let stored = bcrypt::hash("right", 4).unwrap();
        assert!(hasher.verify(&password("right"), Some(&stored)).unwrap());
        assert!(!hasher.verify(&password("wrong"), Some(&stored)).unwrap());
        assert!(!hasher.verify(&password("right"), None).unwrap());
        assert!(hasher.verify(&password("right"), Some("no hash")).is_err());
    }

    #[test]
    fn a_hash_of_another_cost_is_outdated() {
        let hasher = PasswordHasher::new(5);
        let hash = hasher.hash(&password("right")).unwrap();
        assert!(!hasher.is_outdated(&hash));
        assert!(PasswordHasher::new(4).is_outdated(&hash) && PasswordHasher::new(6).is_outdated(&hash));
    }
}
