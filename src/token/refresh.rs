//! Refresh tokens: `lkr_` + base64url(session id, counter, MAC). The database holds the counter and no token: nothing
//! stolen from it can be presented, and the successor of a token can be issued again.
//!
//! Source: RFC 9700 section 4.14.2 (rotation and reuse), RFC 2104 (HMAC).

use aws_lc_rs::hmac;
use base64::Engine;
use uuid::Uuid;

use super::{BASE64URL, KeySet, Keys, Token};

const PREFIX: &str = "lkr_";
const ID_BYTES: usize = 16;
const COUNTER_BYTES: usize = 4;

/// What a refresh token with a valid MAC says: its session, and the number of rotations before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshClaim {
    /// The id of the session.
    pub session: Uuid,
    /// 0 for the token of the login; each rotation adds 1.
    pub counter: i32,
}

impl Keys {
    /// Issues the refresh token of a session at this counter: always the same one for the same secret.
    pub fn issue_refresh(&self, claim: RefreshClaim) -> Token {
        let mut bytes = self.current.message(claim);
        let tag = hmac::sign(&self.current.refresh, &bytes);
        bytes.extend_from_slice(tag.as_ref());
        Token(format!("{PREFIX}{}", BASE64URL.encode(bytes)))
    }

    /// What the token says; `None` if its MAC, compared in constant time, is not ours. Asks no database.
    pub fn verify_refresh(&self, token: &str) -> Option<RefreshClaim> {
        let bytes = BASE64URL.decode(token.strip_prefix(PREFIX)?).ok()?;
        let (message, tag) = bytes.split_at_checked(ID_BYTES + COUNTER_BYTES)?;
        let (id, counter) = message.split_at_checked(ID_BYTES)?;
        let claim =
            RefreshClaim { session: Uuid::from_slice(id).ok()?, counter: i32::from_be_bytes(counter.try_into().ok()?) };
        // S19
        self.all().any(|key| hmac::verify(&key.refresh, message, tag).is_ok()).then_some(claim)
    }
}

impl KeySet {
    fn message(&self, claim: RefreshClaim) -> Vec<u8> {
        [claim.session.as_bytes().as_slice(), &claim.counter.to_be_bytes()].concat()
    }
}
