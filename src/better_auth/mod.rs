//! Tokens of Better Auth: verified, never issued. The library verifies the signature and nothing else; header and claims
//! are checked here, since the library accepts too much (manual, "Tokens of Better Auth").
//!
//! Source: RFC 7515 section 4.1 (header), RFC 7519 section 4.1 (claims), RFC 8725 sections 3.1, 3.8, 3.9, 3.11, 3.12.

mod fetch;
mod key_set;
mod keys;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as BASE64URL, Engine};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use key_set::KeySet;
use keys::VerifyingKey;

use crate::config::BetterAuth;
use crate::error::TokenError;
use crate::json::without_duplicates;
use crate::logging::quoted;

/// Tolerated difference between the clocks of several machines, for `exp`, `iat` and `nbf`.
pub const LEEWAY_SECONDS: i64 = 5;
/// In characters. A longer `sub` is refused.
pub const SUBJECT_MAX_LENGTH: usize = 255;
/// The end of the year 9999. A later time is refused: probably milliseconds.
const LATEST_TIME: f64 = 253_402_300_800.0;
/// Header members with a key of the sender's choice, or that change how the token is to be read.
const REFUSED_MEMBERS: [&str; 7] = ["jwk", "jku", "x5u", "x5c", "crit", "b64", "zip"];

/// The members of a token's header that matter here.
pub struct Header {
    alg: String,
    typ: Option<String>,
    /// The id of a key: compared, never resolved.
    pub kid: Option<String>,
    has_refused_member: bool,
}

impl Header {
    /// Reads the header of a token, before anything is verified.
    ///
    /// # Errors
    /// [`TokenError::Malformed`]: not a JSON object in base64url without duplicate members, or `alg`, `typ` or `kid` is not
    /// a string.
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

    /// Whether the type is that of Better Auth's access tokens. `typ` is compared without regard to case (RFC 7515
    /// section 4.1.9).
    pub fn is_of_better_auth(&self) -> bool {
        self.typ.as_ref().is_none_or(|typ| typ.eq_ignore_ascii_case("JWT"))
    }
}

/// Whether `iss` and `aud` may be missing. Where they are present, they must match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// They are required.
    Required,
    /// They may be missing. A present audience that is not ours is a refusal all the same (RFC 7519 section 4.1.3).
    IfPresent,
}

/// The keys of Better Auth and the rules for the tokens signed with them.
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

    /// Which tokens are accepted, as the log shows it at the start.
    pub fn summary(&self) -> String {
        let or_none = |value: Option<&str>| quoted(value.unwrap_or("none")).into_owned();
        format!(
            "key_set={} issuer={} audience={} shared_secret={}",
            or_none(self.published.as_ref().map(KeySet::url)),
            or_none(self.issuer.as_deref()),
            or_none(self.audience.as_deref()),
            if self.shared.is_some() { "accepted" } else { "none" },
        )
    }

    /// Fetches the key set once, without the cache, in at most five seconds. One line for each key and each entry that is no
    /// key; no line if only a secret is configured.
    ///
    /// # Errors
    /// Why there is no key set, for the operator.
    pub fn check(&self) -> Result<Vec<String>, String> {
        self.published.as_ref().map_or(Ok(Vec::new()), KeySet::check)
    }

    /// Verifies a token and returns its subject, the id of a user of Better Auth. May fetch the key set, which takes at most five seconds; asks no database.
    ///
    /// # Errors
    /// The first rule that the token breaks, or that there is no key to verify it with.
    pub fn verify(&self, token: &str, header: &Header) -> Result<String, TokenError> {
        if header.has_refused_member {
            return Err(TokenError::ForbiddenHeader);
        }
        // S58: any other type is that of a token for something else: a cookie, an access token of ours or of an OAuth provider.
        if !header.is_of_better_auth() {
            return Err(TokenError::WrongType);
        }
        let (key, names) = self.key_for(token, header)?;
        // S57
        if algorithm_named(&header.alg) != Some(key.algorithm) {
            return Err(TokenError::WrongAlgorithm);
        }
        let claims = members_of(&signed_claims(token, &key.key, key.algorithm)?)?;
        check_times(&claims, now() as f64)?;
        self.check_names(&claims, names)?;
        match claims.get("sub") {
            Some(Value::String(subject)) if is_subject(subject) => Ok(subject.clone()),
            _ => Err(TokenError::BadClaims),
        }
    }

    /// S57: the published key with the header's key id, or the shared secret if there is none. No token is tried with two
    /// keys.
    fn key_for(&self, token: &str, header: &Header) -> Result<(Arc<VerifyingKey>, Names), TokenError> {
        match (&header.kid, &self.published, &self.shared) {
            (Some(kid), Some(published), _) => match algorithm_named(&header.alg) {
                // Such a token causes no fetch.
                None | Some(Algorithm::HS256) => Err(TokenError::UnsupportedAlgorithm),
                Some(_) => Ok((published.key(kid, claimed_issue_time(token), Instant::now())?, Names::Required)),
            },
            (None, _, Some(shared)) => Ok((shared.clone(), Names::IfPresent)),
            _ => Err(TokenError::NotConfigured),
        }
    }

    fn check_names(&self, claims: &Map<String, Value>, names: Names) -> Result<(), TokenError> {
        let (iss, aud, may_be_missing) = (claims.get("iss"), claims.get("aud"), names == Names::IfPresent);
        let is = |expected: &Option<String>, seen: &Value| seen.is_string() && seen.as_str() == expected.as_deref();
        let mismatch = |expected: &Option<String>, seen: Option<&Value>| {
            let seen = seen.map(Value::to_string).unwrap_or_default();
            format!("expected={} seen={}", quoted(expected.as_deref().unwrap_or_default()), quoted(&seen))
        };
        let names_us = |aud: &Value| match aud {
            Value::Array(all) => all.iter().all(Value::is_string) && all.iter().any(|one| is(&self.audience, one)),
            one => is(&self.audience, one),
        };
        if !iss.map_or(may_be_missing, |iss| is(&self.issuer, iss)) {
            return Err(TokenError::WrongIssuer(mismatch(&self.issuer, iss)));
        }
        // S58
        if !aud.map_or(may_be_missing, names_us) {
            return Err(TokenError::WrongAudience(mismatch(&self.audience, aud)));
        }
        Ok(())
    }
}

/// An algorithm by its name in a header or a published key; `None` if it is not supported.
fn algorithm_named(name: &str) -> Option<Algorithm> {
    match name {
        "HS256" => Some(Algorithm::HS256),
        // RFC 9864 section 2.2 names EdDSA with this curve `Ed25519`.
        "EdDSA" | "Ed25519" => Some(Algorithm::EdDSA),
        "ES256" => Some(Algorithm::ES256),
        "RS256" => Some(Algorithm::RS256),
        "PS256" => Some(Algorithm::PS256),
        _ => None,
    }
}

/// `iat` before anything is verified, which is used for nothing but the choice between two refusals. `None` if it is missing
/// or before the start of this machine.
fn claimed_issue_time(token: &str) -> Option<Instant> {
    let iat = decoded(token.split('.').nth(1)?).ok()?.get("iat")?.as_f64()?;
    let age = Duration::try_from_secs_f64((now() as f64 - iat).max(0.0)).ok()?;
    Instant::now().checked_sub(age)
}

/// S12: the claims as they were signed, if the signature over header and claims is the key's.
///
/// # Errors
/// [`TokenError::BadSignature`]; [`TokenError::Malformed`].
pub fn signed_claims(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Vec<u8>, TokenError> {
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (_, claims) = message.split_once('.').ok_or(TokenError::Malformed)?;
    match jsonwebtoken::crypto::verify(signature, message.as_bytes(), key, algorithm) {
        Ok(true) => BASE64URL.decode(claims).map_err(|_| TokenError::Malformed),
        _ => Err(TokenError::BadSignature),
    }
}

/// `exp` is required, `iat` and `nbf` are optional. Fractions are allowed (RFC 7519 section 2, NumericDate).
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
    members_of(&BASE64URL.decode(part).map_err(|_| TokenError::Malformed)?)
}

fn members_of(json: &[u8]) -> Result<Map<String, Value>, TokenError> {
    match without_duplicates(json) {
        Some(Value::Object(members)) => Ok(members),
        _ => Err(TokenError::Malformed),
    }
}

/// Seconds since 1970 by this machine's clock.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}
