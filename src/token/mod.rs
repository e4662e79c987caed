//! Tokens: the keys, the access and refresh tokens made with them, and [`verify`], which returns whom one speaks for.
//!
//! Source: RFC 7519 (JWT), RFC 8725 (JWT best current practices), RFC 5869 (HKDF).

mod access;
mod refresh;
mod verify;

use std::fmt;

use aws_lc_rs::{hkdf, hmac};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64URL, Engine};
use jsonwebtoken::{DecodingKey, EncodingKey};

use crate::config::{Secret, TokenPolicy};
pub use access::ACCESS_TOKEN_MAX_SECONDS;
pub use refresh::RefreshClaim;
pub use verify::{Principal, verify};

/// An issued token on its way to its owner. It is never logged or stored; its Debug is redacted.
pub struct Token(String);

impl Token {
    /// The token itself, for the answer to its owner only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The keys derived from `JWT_SECRET` and `JWT_SECRET_PREVIOUS`, and the rules for the tokens made with them.
pub struct Keys {
    current: KeySet,
    /// Verifies but does not sign.
    previous: Option<KeySet>,
    policy: TokenPolicy,
}

/// What is derived from one secret: a key for each use, so that no key has two uses.
struct KeySet {
    kid: String,
    access_signing: EncodingKey,
    access_verifying: DecodingKey,
    refresh: hmac::Key,
    email_digest: hmac::Key,
}

impl Keys {
    /// Derives the keys of these secrets.
    pub fn derive(current: &Secret, previous: Option<&Secret>, policy: TokenPolicy) -> Keys {
        Keys { current: KeySet::derive(current), previous: previous.map(KeySet::derive), policy }
    }

    /// The lifetime of an access token, in seconds.
    pub fn access_token_seconds(&self) -> i64 {
        self.policy.access_token_seconds
    }

    /// A keyed digest (16 bytes) in place of an e-mail that must not be kept: in counted attempts and in the log. Does not
    /// depend on the case of ASCII letters.
    pub fn email_digest(&self, email: &str) -> Vec<u8> {
        let tag = hmac::sign(&self.current.email_digest, email.to_ascii_lowercase().as_bytes());
        tag.as_ref().iter().take(16).copied().collect()
    }

    fn all(&self) -> impl Iterator<Item = &KeySet> {
        std::iter::once(&self.current).chain(&self.previous)
    }
}

impl KeySet {
    fn derive(secret: &Secret) -> KeySet {
        let access = derive_key(secret, "latchkey access token HS256");
        let kid = derive_key(secret, "latchkey key id");
        KeySet {
            kid: BASE64URL.encode(kid.iter().take(9).copied().collect::<Vec<u8>>()),
            access_signing: EncodingKey::from_secret(&access),
            access_verifying: DecodingKey::from_secret(&access),
            refresh: hmac::Key::new(hmac::HMAC_SHA256, &derive_key(secret, "latchkey refresh token MAC")),
            email_digest: hmac::Key::new(hmac::HMAC_SHA256, &derive_key(secret, "latchkey e-mail digest")),
        }
    }
}

/// S15: HKDF-SHA256 (RFC 5869) without a salt; `purpose` is the `info` that separates the keys.
#[allow(clippy::expect_used, reason = "HKDF fails only for output over 255 hash lengths; this is one")]
fn derive_key(secret: &Secret, purpose: &str) -> [u8; 32] {
    let mut key = [0; 32];
    hkdf::Salt::none(hkdf::HKDF_SHA256)
        .extract(secret.expose())
        .expand(&[purpose.as_bytes()], hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut key))
        .expect("one hash length is always a valid output length");
    key
}
