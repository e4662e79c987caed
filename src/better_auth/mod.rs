//! Tokens of Better Auth: verified, never issued. The signature is the library's business; header and claims are read
//! here, since the library takes far more than it should (manual, "Tokens of Better Auth").
//!
//! Source: RFC 7515 section 4.1 (header), RFC 7519 section 4.1 (claims), RFC 8725 sections 3.1, 3.8, 3.9, 3.11, 3.12.

mod key_set;
mod keys;

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64URL, Engine};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use key_set::KeySet;
use keys::VerifyingKey;

use crate::config::BetterAuth;
use crate::error::TokenError;
use crate::json::without_duplicates;

/// What clocks of several machines may differ, for `exp` and for `iat`.
pub const LEEWAY_SECONDS: i64 = 5;
/// In characters; what a longer `sub` would name has no row.
pub const SUBJECT_MAX_LENGTH: usize = 255;
/// The end of the year 9999: a later time is no time but milliseconds, or somebody who never wants to end.
const LATEST_TIME: f64 = 253_402_300_800.0;
/// What a published key may sign with; anything else does not cause a fetch.
const PUBLISHED: [Algorithm; 4] = [Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256, Algorithm::PS256];
/// Members that bring a key of the sender's or change how a token is read.
const REFUSED_MEMBERS: [&str; 7] = ["jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"];

/// The members of a token's header that decide anything.
pub struct Header {
    alg: String,
    typ: Option<String>,
    /// A name of a key and nothing else: it is looked up, never resolved.
    pub kid: Option<String>,
    has_refused_member: bool,
}

impl Header {
    /// The header of a token, before anything is verified.
    ///
    /// # Errors
    /// It is no JSON object in base64url with each member once and each of the right type.
    pub fn read(token: &str) -> Result<Header, TokenError> {
        let members = decoded(token.split('.').next().unwrap_or_default())?;
        let text = |name| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(TokenError::Malformed),
        };
        Ok(Header {
            alg: text("alg")?.ok_or(TokenError::Malformed)?,
            typ: text("typ")?,
            kid: text("kid")?,
            has_refused_member: REFUSED_MEMBERS.iter().any(|name| members.contains_key(*name)),
        })
    }
}

/// What `iss` and `aud` must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// There, and the configured ones.
    Required,
    /// The configured ones if they are there. (RFC 7519 section 4.1.3: an audience that is not us is a refusal.)
    IfPresent,
}

/// The `sub` of a verified token of Better Auth: the id of a user of theirs.
pub struct ExternalSubject(pub String);

/// The keys of Better Auth and the rules for what they sign.
pub struct External {
    shared: Option<Arc<VerifyingKey>>,
    published: Option<KeySet>,
    issuer: Option<String>,
    audience: Option<String>,
}

impl External {
    /// Fetches nothing yet.
    pub fn new(settings: &BetterAuth) -> External {
        let shared =
            |bytes| Arc::new(VerifyingKey { algorithm: Algorithm::HS256, key: DecodingKey::from_secret(bytes) });
        External {
            shared: settings.secret.as_ref().map(|secret| shared(secret.expose())),
            published: settings.jwks_url.clone().map(KeySet::new),
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
        }
    }

    /// Fetches the key set once, past the cache, in at most five seconds, and says what is in it: one line a key, one for
    /// what is not taken. No line where only a secret is configured.
    ///
    /// # Errors
    /// Why there is no key set: for the operator.
    pub fn check(&self) -> Result<Vec<String>, String> {
        self.published.as_ref().map_or(Ok(Vec::new()), KeySet::check)
    }

    /// Who the token speaks for. May fetch the key set, which takes at most five seconds; asks no database.
    ///
    /// # Errors
    /// The first rule that the token breaks, or that the keys cannot be had.
    pub fn verify(&self, token: &str, header: &Header) -> Result<ExternalSubject, TokenError> {
        // Any other type is a token for something else: a cookie, a mailed link, our own access tokens.
        if header.has_refused_member || header.typ.as_ref().is_some_and(|typ| typ != "JWT") {
            return Err(TokenError::WrongKind);
        }
        let (key, names) = self.key_for(header)?;
        if header.alg.parse() != Ok(key.algorithm) {
            return Err(TokenError::WrongKind);
        }
        let claims = signed_claims(token, &key)?;
        check_times(&claims, now() as f64)?;
        self.check_names(&claims, names)?;
        match claims.get("sub") {
            Some(Value::String(sub)) if is_subject(sub) => Ok(ExternalSubject(sub.clone())),
            _ => Err(TokenError::BadClaims),
        }
    }

    /// With a key id only the published keys are looked at, without one only the shared secret: no key is tried twice and
    /// none under another algorithm than its own.
    fn key_for(&self, header: &Header) -> Result<(Arc<VerifyingKey>, Names), TokenError> {
        match (&header.kid, &self.published, &self.shared) {
            (Some(kid), Some(published), _) => {
                let claimed = header.alg.parse().map_err(|_| TokenError::WrongKind)?;
                if !PUBLISHED.contains(&claimed) {
                    return Err(TokenError::WrongKind);
                }
                Ok((published.key(kid, Instant::now())?, Names::Required))
            }
            (None, _, Some(shared)) => Ok((shared.clone(), Names::IfPresent)),
            _ => Err(TokenError::UnknownKey),
        }
    }

    fn check_names(&self, claims: &Map<String, Value>, names: Names) -> Result<(), TokenError> {
        let issuer_is_ours = match claims.get("iss") {
            None => names == Names::IfPresent,
            Some(Value::String(iss)) => Some(iss) == self.issuer.as_ref(),
            Some(_) => false,
        };
        let audience = self.audience.as_deref();
        let audience_is_us = match claims.get("aud") {
            None => names == Names::IfPresent,
            Some(Value::String(aud)) => Some(aud.as_str()) == audience,
            Some(Value::Array(all)) => {
                all.iter().all(Value::is_string) && all.iter().any(|aud| aud.is_string() && aud.as_str() == audience)
            }
            Some(_) => false,
        };
        if issuer_is_ours && audience_is_us { Ok(()) } else { Err(TokenError::WrongIssuer) }
    }
}

/// The claims, once the signature over header and claims is the key's.
fn signed_claims(token: &str, key: &VerifyingKey) -> Result<Map<String, Value>, TokenError> {
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (_, claims) = message.split_once('.').ok_or(TokenError::Malformed)?;
    match jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key.key, key.algorithm) {
        Ok(true) => decoded(claims),
        _ => Err(TokenError::BadSignature),
    }
}

/// `exp` must be there; `iat` and `nbf` may. Fractions are allowed (RFC 7519 section 2, NumericDate).
fn check_times(claims: &Map<String, Value>, now: f64) -> Result<(), TokenError> {
    let time = |name| match claims.get(name).map(Value::as_f64) {
        None => Ok(None),
        Some(Some(time)) if (0.0..LATEST_TIME).contains(&time) => Ok(Some(time)),
        Some(_) => Err(TokenError::BadClaims),
    };
    let (exp, iat, nbf) = (time("exp")?.ok_or(TokenError::BadClaims)?, time("iat")?, time("nbf")?);
    let leeway = LEEWAY_SECONDS as f64;
    if exp <= now - leeway {
        return Err(TokenError::Expired);
    }
    let starts_later = |start: f64| start > now + leeway || start >= exp;
    if iat.is_some_and(starts_later) || nbf.is_some_and(starts_later) {
        return Err(TokenError::Lifetime);
    }
    Ok(())
}

fn is_subject(sub: &str) -> bool {
    (1..=SUBJECT_MAX_LENGTH).contains(&sub.chars().count()) && !sub.contains('\0')
}

fn decoded(part: &str) -> Result<Map<String, Value>, TokenError> {
    let json = BASE64URL.decode(part).map_err(|_| TokenError::Malformed)?;
    match without_duplicates(&json) {
        Some(Value::Object(members)) => Ok(members),
        _ => Err(TokenError::Malformed),
    }
}

/// Seconds since 1970 by this machine's clock.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}
