//! Refresh tokens: `lkr_` + base64url(session id, counter, MAC). The database holds the counter and no token, so that
//! nothing in it could be presented, and a successor can be made again without having been kept.
//!
//! Source: RFC 9700 section 4.14.2 (rotation and reuse), RFC 2104 (HMAC).

use aws_lc_rs::hmac;
use base64::Engine;
use uuid::Uuid;

use super::{BASE64URL, KeySet, Keys, Token};

const PREFIX: &str = "lkr_";
const ID_BYTES: usize = 16;
const COUNTER_BYTES: usize = 4;

/// What an authentic refresh token says: which session, and how many rotations came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshClaim {
    /// The id of the session.
    pub session: Uuid,
    /// 0 for the token of the login, one more with each rotation.
    pub counter: i32,
}

impl Keys {
    /// The refresh token of a session at a counter: the same for the same input and secret.
    pub fn issue_refresh(&self, claim: RefreshClaim) -> Token {
        let mut bytes = self.current.message(claim);
        let tag = hmac::sign(&self.current.refresh, &bytes);
        bytes.extend_from_slice(tag.as_ref());
        Token(format!("{PREFIX}{}", BASE64URL.encode(bytes)))
    }

    /// What the token says, if the MAC is ours, in constant time; nothing otherwise. Asks no database.
    pub fn verify_refresh(&self, token: &str) -> Option<RefreshClaim> {
        let bytes = BASE64URL.decode(token.strip_prefix(PREFIX)?).ok()?;
        let (message, tag) = bytes.split_at_checked(ID_BYTES + COUNTER_BYTES)?;
        let (id, counter) = message.split_at_checked(ID_BYTES)?;
        let claim =
            RefreshClaim { session: Uuid::from_slice(id).ok()?, counter: i32::from_be_bytes(counter.try_into().ok()?) };
        self.all().any(|key| hmac::verify(&key.refresh, message, tag).is_ok()).then_some(claim)
    }
}

impl KeySet {
    fn message(&self, claim: RefreshClaim) -> Vec<u8> {
        [claim.session.as_bytes().as_slice(), &claim.counter.to_be_bytes()].concat()
    }
}
