//! Access tokens: issued and verified. The library checks the signature, `exp`, `iss` and `aud`; where it is lenient, the
//! rule stands here.
//!
//! Source: RFC 9068 (`at+jwt`), RFC 7515 section 4.1.11 (`crit`), RFC 8725 sections 3.1, 3.8, 3.11.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{BASE64URL, KeySet, Keys, Principal, Token};
use crate::config::TokenPolicy;

/// The longest lifetime that can be configured; no token claims more.
pub const ACCESS_TOKEN_MAX_SECONDS: i64 = 3600;
/// What clocks of several instances may differ, for `exp` and for `iat`.
pub const LEEWAY_SECONDS: i64 = 5;

const TYPE: &str = "at+jwt";

/// Why an access token is refused: for the log; the client learns only that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenRefusal {
    /// Not three parts of base64url, or no JSON header of exactly `alg`, `typ`, `kid`.
    Malformed,
    /// The key id is not one of ours.
    UnknownKey,
    /// Another algorithm than the key's, or another type than `at+jwt`.
    WrongKind,
    /// The signature does not belong to header and claims.
    BadSignature,
    /// The claims are not exactly ours, each of the right type.
    BadClaims,
    /// `exp` has passed.
    Expired,
    /// `iat` lies in the future, or the lifetime is longer than any that is issued.
    Lifetime,
    /// Better Auth: not issued by the configured issuer, or not for the configured audience.
    WrongIssuer,
    /// Better Auth: its keys were never fetched and cannot be had now. The one refusal that says nothing of the token.
    NoKeys {
        /// Until the next fetch, at least 1.
        retry_after_seconds: u64,
    },
}

impl fmt::Display for TokenRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TokenRefusal::Malformed => "malformed",
            TokenRefusal::UnknownKey => "unknown_key",
            TokenRefusal::WrongKind => "wrong_kind",
            TokenRefusal::BadSignature => "bad_signature",
            TokenRefusal::BadClaims => "bad_claims",
            TokenRefusal::Expired => "expired",
            TokenRefusal::Lifetime => "lifetime",
            TokenRefusal::WrongIssuer => "wrong_issuer_or_audience",
            TokenRefusal::NoKeys { .. } => "no_keys",
        })
    }
}

/// The whole header. A member besides these (`crit`, `jwk`, `b64`, …) makes a token one that we did not issue.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OurHeader {
    alg: String,
    typ: String,
    kid: String,
}

/// The whole of the claims; nothing personal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    sid: String,
    iat: i64,
    exp: i64,
}

impl Keys {
    /// An access token for a session.
    ///
    /// # Errors
    /// The library cannot sign: never seen with HS256.
    pub fn issue_access(&self, user: &str, session: Uuid) -> Result<Token, jsonwebtoken::errors::Error> {
        let iat = now();
        let claims = Claims {
            iss: self.policy.issuer.clone(),
            aud: self.policy.audience.clone(),
            sub: user.to_owned(),
            sid: session.to_string(),
            iat,
            exp: iat + self.policy.access_token_seconds,
        };
        let header =
            Header { typ: Some(TYPE.into()), kid: Some(self.current.kid.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, &claims, &self.current.access_signing).map(Token)
    }

    /// The user and session that a token of ours speaks for. Asks no database: whether the session lives is the next statement's business.
    ///
    /// # Errors
    /// The first rule that the token breaks.
    pub fn verify(&self, token: &str) -> Result<Principal, TokenRefusal> {
        let key = self.key_for(token)?;
        let claims = self.verified_claims(token, key)?;
        let now = now();
        let starts_in_time = claims.iat <= now + LEEWAY_SECONDS;
        let ends_in_time = claims.exp <= now + ACCESS_TOKEN_MAX_SECONDS + LEEWAY_SECONDS;
        if !starts_in_time || !ends_in_time || claims.exp <= claims.iat {
            return Err(TokenRefusal::Lifetime);
        }
        let session = Uuid::parse_str(&claims.sid).map_err(|_| TokenRefusal::BadClaims)?;
        if claims.sub.is_empty() || claims.sub.contains('\0') {
            return Err(TokenRefusal::BadClaims);
        }
        Ok(Principal { subject: claims.sub, session: Some(session) })
    }

    /// Whether the key id is one of ours.
    pub(super) fn knows(&self, kid: &str) -> bool {
        self.all().any(|key| key.kid == kid)
    }

    /// The key that the header names, once the header is exactly one that we write: `kid` is a map key and nothing else.
    fn key_for(&self, token: &str) -> Result<&KeySet, TokenRefusal> {
        let encoded = token.split('.').next().unwrap_or_default();
        let json = BASE64URL.decode(encoded).map_err(|_| TokenRefusal::Malformed)?;
        let header: OurHeader = serde_json::from_slice(&json).map_err(|_| TokenRefusal::Malformed)?;
        if header.alg != "HS256" || header.typ != TYPE {
            return Err(TokenRefusal::WrongKind);
        }
        self.all().find(|key| key.kid == header.kid).ok_or(TokenRefusal::UnknownKey)
    }

    fn verified_claims(&self, token: &str, key: &KeySet) -> Result<Claims, TokenRefusal> {
        use jsonwebtoken::errors::ErrorKind;
        match jsonwebtoken::decode::<Claims>(token, &key.access_verifying, &self.access_rules) {
            Ok(data) => Ok(data.claims),
            Err(error) => Err(match error.kind() {
                ErrorKind::InvalidSignature => TokenRefusal::BadSignature,
                ErrorKind::ExpiredSignature => TokenRefusal::Expired,
                ErrorKind::InvalidToken | ErrorKind::Base64(_) => TokenRefusal::Malformed,
                _ => TokenRefusal::BadClaims,
            }),
        }
    }
}

/// What the library is to check: one algorithm, and claims that it would otherwise not miss.
pub(super) fn rules(policy: &TokenPolicy) -> Validation {
    let mut rules = Validation::new(Algorithm::HS256);
    rules.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    rules.set_issuer(&[&policy.issuer]);
    rules.set_audience(&[&policy.audience]);
    rules.leeway = LEEWAY_SECONDS.unsigned_abs();
    rules
}

pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}
