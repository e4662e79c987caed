//! The access tokens of latchkey: issued and verified. The library verifies the signature and nothing else; header and
//! claims are checked here, since the library is lenient about the header, `iat` and the types of claims.
//!
//! Source: RFC 9068 (`at+jwt`), RFC 7515 section 4.1.11 (`crit`), RFC 8725 sections 3.1, 3.8, 3.11.

use std::borrow::Cow;

use base64::Engine;
use jsonwebtoken::{Algorithm, Header};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{BASE64URL, KeySet, Keys, Token};
use crate::better_auth::{LEEWAY_SECONDS, now, signed_claims};
use crate::error::TokenError;

/// The longest lifetime that can be configured. A token that claims more is refused.
pub const ACCESS_TOKEN_MAX_SECONDS: i64 = 3600;

const TYPE: &str = "at+jwt";

/// S13: the whole header. A token with any other member (`crit`, `jwk`, `b64`, …) is not one of ours.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OurHeader<'a> {
    alg: &'a str,
    typ: &'a str,
    kid: &'a str,
}

/// The whole claims set: no personal data, and any other claim is refused.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims<'a> {
    #[serde(borrow)]
    iss: Cow<'a, str>,
    #[serde(borrow)]
    aud: Cow<'a, str>,
    sub: String,
    sid: &'a str,
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
            iss: Cow::Borrowed(&self.policy.issuer),
            aud: Cow::Borrowed(&self.policy.audience),
            sub: user.to_owned(),
            sid: &session.to_string(),
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
    pub(super) fn verify_access(&self, token: &str, key: &KeySet) -> Result<(String, Uuid), TokenError> {
        let json = signed_claims(token, &key.access_verifying, Algorithm::HS256)?;
        let claims: Claims<'_> = object(&json).ok_or(TokenError::BadClaims)?;
        // S14
        if claims.iss != self.policy.issuer || claims.aud != self.policy.audience {
            return Err(TokenError::BadClaims);
        }
        let now = now();
        if claims.exp <= now - LEEWAY_SECONDS {
            return Err(TokenError::Expired);
        }
        // S14
        let starts_in_time = claims.iat <= now + LEEWAY_SECONDS;
        let ends_in_time = claims.exp <= now + ACCESS_TOKEN_MAX_SECONDS + LEEWAY_SECONDS;
        if !starts_in_time || !ends_in_time || claims.exp <= claims.iat {
            return Err(TokenError::Lifetime);
        }
        let session = Uuid::parse_str(claims.sid).map_err(|_| TokenError::BadClaims)?;
        if claims.sub.is_empty() || claims.sub.contains('\0') {
            return Err(TokenError::BadClaims);
        }
        Ok((claims.sub, session))
    }

    /// The key of a token whose header is as we write it, with a key id of ours; `None` for any other. `kid` is compared and
    /// never resolved.
    ///
    /// # Errors
    /// A key id of ours, and not the algorithm or the type that go with it.
    pub(super) fn key_for(&self, token: &str) -> Result<Option<&KeySet>, TokenError> {
        let json = BASE64URL.decode(token.split('.').next().unwrap_or_default()).unwrap_or_default();
        let Some(header) = object::<OurHeader<'_>>(&json) else { return Ok(None) };
        let Some(key) = self.all().find(|key| key.kid == header.kid) else { return Ok(None) };
        // S11
        if header.alg != "HS256" {
            return Err(TokenError::WrongAlgorithm);
        }
        // S13
        if header.typ != TYPE {
            return Err(TokenError::WrongType);
        }
        Ok(Some(key))
    }
}

/// What a JSON object says; the library would take an array, too.
fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    serde_json::from_slice(json).ok().filter(|_| json.starts_with(b"{"))
}
