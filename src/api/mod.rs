//! The handlers, and the types that prove who may call them. A handler takes `Caller`, `LocalUser` or `Owner` as its
//! parameter, and only the check of that type makes one: a handler without its check does not compile.

pub mod auth;
mod docs;
pub mod pages;
pub mod tasks;

use crate::better_auth::External;
use crate::config::{AccountPolicy, PasswordPolicy};
use crate::credentials::hash_queue::HashQueue;
use crate::database::DatabasePool;
use crate::error::{ApiError, Problem, TokenError};
use crate::http::{self, RequestContext};
use crate::store::Store;
use crate::token::{self, Keys, Principal};

/// What handlers work with.
pub struct Services {
    /// The connections to the database.
    pub database: DatabasePool,
    /// The hash threads.
    pub hash_queue: HashQueue,
    /// The keys.
    pub keys: Keys,
    /// The keys of Better Auth, where its tokens are accepted.
    pub better_auth: Option<External>,
    /// The rules for accounts.
    pub accounts: AccountPolicy,
    /// The rules for passwords.
    pub passwords: PasswordPolicy,
    /// The last probe of the database.
    pub readiness: pages::Readiness,
    /// What browsers get.
    pub pages: pages::Pages,
}

impl Services {
    /// The statements of this request.
    pub fn store<'a>(&'a self, context: &'a RequestContext<'_>) -> Store<'a> {
        Store::new(&self.database, context.budget)
    }
}

/// A principal: whoever presents a valid access token.
pub struct Caller(Principal);

/// A principal whose account this server manages.
pub struct LocalUser(Principal);

/// A principal that the path names, by id or as `me`.
pub struct Owner(Principal);

impl Caller {
    /// Verifies the bearer token of this request. Asks no database.
    ///
    /// # Errors
    /// [`Problem::Unauthenticated`], [`Problem::InvalidToken`], [`Problem::IssuerUnavailable`].
    pub fn authenticate(services: &Services, context: &RequestContext<'_>) -> Result<Caller, ApiError> {
        let token = http::bearer(context.request)?;
        let verified = token::verify(token, &services.keys, services.better_auth.as_ref());
        let principal = verified.map_err(|error| {
            let cause = Some(error.to_string());
            match error {
                TokenError::NoKeySet { retry_after_seconds } | TokenError::KeyMayBeNew { retry_after_seconds } => {
                    ApiError { cause, ..Problem::IssuerUnavailable.retry_after(retry_after_seconds) }
                }
                _ => ApiError { cause, ..Problem::InvalidToken.into() },
            }
        })?;
        context.set_user(principal.subject());
        Ok(Caller(principal))
    }

    /// The verified principal.
    pub fn principal(&self) -> &Principal {
        &self.0
    }
}

impl LocalUser {
    /// As [`Caller::authenticate`], unless Better Auth manages the account. Asks no database.
    ///
    /// # Errors
    /// As [`Caller::authenticate`], and [`Problem::AccountManagedElsewhere`].
    pub fn authorize_local(services: &Services, context: &RequestContext<'_>) -> Result<LocalUser, ApiError> {
        let Caller(principal) = Caller::authenticate(services, context)?;
        match principal.is_external() {
            true => Err(Problem::AccountManagedElsewhere.into()),
            false => Ok(LocalUser(principal)),
        }
    }

    /// The verified principal.
    pub fn principal(&self) -> &Principal {
        &self.0
    }
}

impl Owner {
    /// As [`Caller::authenticate`], if the first parameter of the path is `me` or the subject of the token. Asks no
    /// database.
    ///
    /// # Errors
    /// As [`Caller::authenticate`], and [`Problem::UserMismatch`].
    pub fn authorize_owner(services: &Services, context: &RequestContext<'_>) -> Result<Owner, ApiError> {
        let Caller(principal) = Caller::authenticate(services, context)?;
        // S28
        match context.parameter(0) {
            "me" => Ok(Owner(principal)),
            named if named == principal.subject() => Ok(Owner(principal)),
            _ => Err(Problem::UserMismatch.into()),
        }
    }

    /// The verified principal.
    pub fn principal(&self) -> &Principal {
        &self.0
    }
}
