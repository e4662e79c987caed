//! Whom a bearer token speaks for. [`verify`] is the only maker of a [`Principal`]: nothing else can see its fields.
//!
//! No database, and no HTTP but the fetch of Better Auth's key set. Whether the session is still open and the user active
//! is for the statement that does the work.
//! Source: RFC 8725 sections 3.1 and 3.12 (the key decides the algorithm; exclusive rules for each kind of token).

use uuid::Uuid;

use super::Keys;
use crate::better_auth::{External, Header};
use crate::error::TokenError;

/// Whom a verified token speaks for.
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

    /// The id of the session that the token belongs to. `None` for a token of Better Auth, which has no session here.
    pub fn session(&self) -> Option<Uuid> {
        self.session
    }

    /// Whether Better Auth issued the token, and so manages the account.
    pub fn is_external(&self) -> bool {
        self.session.is_none()
    }
}

/// Verifies a token and returns whom it speaks for. Configuration and header decide by which rules, never a claim:
///
/// | key id in the header | configured | rules |
/// |---|---|---|
/// | one of ours, and no other members than ours have | | access tokens of latchkey |
/// | any other | `BETTER_AUTH_URL` | the published key with this id, or refused |
/// | none | `BETTER_AUTH_SECRET` | the shared secret, HS256 |
/// | anything else | | refused |
///
/// May fetch the key set of Better Auth, which takes at most five seconds; asks no database.
///
/// # Errors
/// The first rule that the token breaks, or [`TokenError::NoKeySet`] and [`TokenError::KeyMayBeNew`], which say nothing
/// about the token.
pub fn verify(token: &str, ours: &Keys, better_auth: Option<&External>) -> Result<Principal, TokenError> {
    if let Some(key) = ours.key_for(token)? {
        let (subject, session) = ours.verify_access(token, key)?;
        return Ok(Principal { subject, session: Some(session) });
    }
    let header = Header::read(token)?;
    match better_auth {
        Some(better_auth) => Ok(Principal { subject: better_auth.verify(token, &header)?, session: None }),
        None if header.is_of_better_auth() => Err(TokenError::NotConfigured),
        None => Err(TokenError::UnknownKey),
    }
}
