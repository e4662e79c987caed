//! Keys, and the one door to a [`Principal`]: [`verify`].
//!
//! No database, and no HTTP but the fetch of `jwks`. What a token says is believed here; whether its session still lives
//! and its user is active, the database says.
//! Source: RFC 7519 (JWT), RFC 8725 (JWT best current practices), RFC 5869 (HKDF).

mod access;
mod refresh;

use std::fmt;

use aws_lc_rs::{hkdf, hmac};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64URL, Engine};
use jsonwebtoken::{DecodingKey, EncodingKey, Validation};
use uuid::Uuid;

use crate::better_auth::{External, ExternalSubject, Header};
use crate::config::{Secret, TokenPolicy};
use crate::error::TokenError;
pub use access::ACCESS_TOKEN_MAX_SECONDS;
pub use refresh::RefreshClaim;

/// Who a verified access token speaks for. Only [`verify`] makes one, so that to forget the check does not compile.
#[derive(Debug)]
pub struct Principal {
    subject: String,
    session: Option<Uuid>,
}

impl Principal {
    /// The id of the user.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The id of the session that the token belongs to; none for a token of Better Auth, which has no session here.
    pub fn session(&self) -> Option<Uuid> {
        self.session
    }

    /// Whether Better Auth issued the token, and so manages the account.
    pub fn is_external(&self) -> bool {
        self.session.is_none()
    }
}

/// Who the token speaks for. The one place that decides by which rules a token is judged; a claim never does:
///
/// | key id in the header | configured | rules |
/// |---|---|---|
/// | one of ours | | of our access tokens |
/// | any other | `BETTER_AUTH_URL` | of the published key with this id, or refused |
/// | none | `BETTER_AUTH_SECRET` | of the shared secret, HS256 |
/// | any other, or none | neither | refused |
///
/// May fetch the key set of Better Auth, which takes at most five seconds; asks no database.
///
/// # Errors
/// The first rule that the token breaks, or that the keys cannot be had.
pub fn verify(token: &str, ours: &Keys, better_auth: Option<&External>) -> Result<Principal, TokenError> {
    let Some(better_auth) = better_auth else {
        return ours.verify(token);
    };
    let header = Header::read(token)?;
    match &header.kid {
        Some(kid) if ours.knows(kid) => ours.verify(token),
        _ => {
            let ExternalSubject(subject) = better_auth.verify(token, &header)?;
            Ok(Principal { subject, session: None })
        }
    }
}

/// A bearer credential on its way to its owner: not to be logged or stored.
pub struct Token(String);

impl Token {
    /// The characters, for the answer to the owner and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// All keys, derived from the secrets, and the rules for the tokens made with them.
pub struct Keys {
    current: KeySet,
    /// Verifies and no longer signs, while keys are changed.
    previous: Option<KeySet>,
    policy: TokenPolicy,
    access_rules: Validation,
}

/// What is derived from one secret: one key for each use, so that no key ever serves two.
struct KeySet {
    kid: String,
    access_signing: EncodingKey,
    access_verifying: DecodingKey,
    refresh: hmac::Key,
    email_digest: hmac::Key,
}

impl Keys {
    /// The keys of these secrets.
    pub fn derive(current: &Secret, previous: Option<&Secret>, policy: TokenPolicy) -> Keys {
        Keys {
            current: KeySet::derive(current),
            previous: previous.map(KeySet::derive),
            access_rules: access::rules(&policy),
            policy,
        }
    }

    /// The lifetime of an access token, in seconds.
    pub fn access_token_seconds(&self) -> i64 {
        self.policy.access_token_seconds
    }

    /// A keyed digest (16 bytes) that stands for an e-mail where the e-mail itself must not be kept: in counted attempts
    /// and in the log. Equal for equal e-mails in any case of ASCII letters.
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

/// HKDF-SHA256 (RFC 5869) without salt: the secret is already uniform; `purpose` keeps the keys apart.
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
