//! The access tokens of latchkey: issued and verified. The library checks the signature, `exp`, `iss` and `aud`. It is
//! lenient about the header, `iat` and the types of claims; these are checked here.
//!
//! Source: RFC 9068 (`at+jwt`), RFC 7515 section 4.1.11 (`crit`), RFC 8725 sections 3.1, 3.8, 3.11.

use base64::Engine;
use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{BASE64URL, KeySet, Keys, Token};
use crate::better_auth::{LEEWAY_SECONDS, now};
use crate::config::TokenPolicy;
use crate::error::TokenError;

/// The longest lifetime that can be configured. A token that claims more is refused.
pub const ACCESS_TOKEN_MAX_SECONDS: i64 = 3600;

const TYPE: &str = "at+jwt";

/// S13: the whole header. A token with any other member (`crit`, `jwk`, `b64`, …) is not one of ours.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OurHeader {
    alg: String,
    typ: String,
    kid: String,
}

/// The whole claims set: no personal data, and any other claim is refused.
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
    /// Issues an access token for a session.
    ///
    /// # Errors
    /// The library cannot sign. With HS256 no case is known.
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

    /// Verifies a token of ours and returns the ids of user and session. Asks no database: whether the session is open is
    /// for the statement that does the work.
    ///
    /// # Errors
    /// The first rule that the token breaks.
    pub(super) fn verify_access(&self, token: &str) -> Result<(String, Uuid), TokenError> {
        let key = self.key_for(token)?;
        let claims = self.verified_claims(token, key)?;
        let now = now();
        // S14
        let starts_in_time = claims.iat <= now + LEEWAY_SECONDS;
        let ends_in_time = claims.exp <= now + ACCESS_TOKEN_MAX_SECONDS + LEEWAY_SECONDS;
        if !starts_in_time || !ends_in_time || claims.exp <= claims.iat {
            return Err(TokenError::Lifetime);
        }
        let session = Uuid::parse_str(&claims.sid).map_err(|_| TokenError::BadClaims)?;
        if claims.sub.is_empty() || claims.sub.contains('\0') {
            return Err(TokenError::BadClaims);
        }
        Ok((claims.sub, session))
    }

    /// Whether the key id is one of ours.
    pub(super) fn knows(&self, kid: &str) -> bool {
        self.all().any(|key| key.kid == kid)
    }

    /// The key with the header's `kid`, if the header is one that we write. `kid` is compared and never resolved.
    fn key_for(&self, token: &str) -> Result<&KeySet, TokenError> {
        let encoded = token.split('.').next().unwrap_or_default();
        let json = BASE64URL.decode(encoded).map_err(|_| TokenError::Malformed)?;
        let header: OurHeader = serde_json::from_slice(&json).map_err(|_| TokenError::Malformed)?;
        // S11
        if header.alg != "HS256" {
            return Err(TokenError::WrongAlgorithm);
        }
        // S13
        if header.typ != TYPE {
            return Err(TokenError::WrongType);
        }
        self.all().find(|key| key.kid == header.kid).ok_or(TokenError::UnknownKey)
    }

    /// S12: the library verifies the signature first.
    fn verified_claims(&self, token: &str, key: &KeySet) -> Result<Claims, TokenError> {
        use jsonwebtoken::errors::ErrorKind;
        match jsonwebtoken::decode::<Claims>(token, &key.access_verifying, &self.access_rules) {
            Ok(data) => Ok(data.claims),
            Err(error) => Err(match error.kind() {
                ErrorKind::InvalidSignature => TokenError::BadSignature,
                ErrorKind::ExpiredSignature => TokenError::Expired,
                ErrorKind::InvalidToken | ErrorKind::Base64(_) => TokenError::Malformed,
                _ => TokenError::BadClaims,
            }),
        }
    }
}

/// S11, S14: what the library checks: one algorithm, and the claims that it must require.
pub(super) fn rules(policy: &TokenPolicy) -> Validation {
    let mut rules = Validation::new(Algorithm::HS256);
    rules.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    rules.set_issuer(&[&policy.issuer]);
    rules.set_audience(&[&policy.audience]);
    rules.leeway = LEEWAY_SECONDS.unsigned_abs();
    rules
}
