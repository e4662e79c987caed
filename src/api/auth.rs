//! Accounts and sessions: register, log in, refresh, log out, change the password, delete the account.
//!
//! Each handler reads, validates, decides, stores and replies, in this order. Where a password is hashed, the order is:
//! room in the hash queue, the count, the hash, then one statement that acts only if nothing was revoked meanwhile.
//! Source: OWASP ASVS 5.0 V6 (authentication), V7 (sessions).

use log::info;
use rouille::Response;
use uuid::Uuid;

use super::{Caller, LocalUser, Services};
use crate::credentials::{Email, Password, PasswordHasher};
use crate::error::{ApiError, Problem};
use crate::http::{Body, ClientInfo, RequestContext, json, no_content, without_nul};
use crate::logging::hex;
use crate::store::{Account, LoginAttempt, NewSession, NewUser, Reservation, Rotation, session_over};
use crate::token::{Keys, Principal, RefreshClaim};

/// RFC 6749 section 5.1; lifetimes in seconds.
#[derive(serde::Serialize)]
struct Tokens<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: i64,
    refresh_token: &'a str,
    refresh_expires_in: i64,
}

/// `POST /auth/register` → 201 user.
pub fn register(services: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    if !services.accounts.registration_is_open {
        return Err(Problem::RegistrationClosed.into());
    }
    let mut body = Body::read(context.request, &["email", "password"])?;
    let email = body.text("email", |text| Email::parse(&text));
    let password = body.text("password", |text| Password::chosen(text, services.passwords.min_length));
    let (email, password) = body.done(email.zip(password))?;

    services.hash_queue.admit(context.client.network())?;
    let attempt = Uuid::now_v7();
    let address = context.client.network().to_string();
    let seconds = services.store(context).reserve_registration(attempt, &address, services.accounts.address_limit)?;
    if seconds > 0 {
        let digest = services.user_or_digest(None, email.as_str());
        return Err(throttled("register", "address", &digest, seconds, &context.client));
    }
    let known = email.clone();
    let password_hash = services.hash_job(attempt, context, move |hasher| {
        refuse_weak("password", &password, known.as_str())?;
        hasher.hash(&password)
    })?;

    let id = Uuid::now_v7().to_string();
    let new = NewUser { id: &id, email: email.as_str(), password_hash: &password_hash };
    let user = services.store(context).create_user(&new).inspect_err(|error| {
        if error.problem == Problem::EmailTaken {
            refused("register", "email_taken", &services.user_or_digest(None, email.as_str()), &context.client);
        }
    })?;
    info!("event=register outcome=ok user={id} {}", traced(&context.client));
    Ok(json(201, &user)?.with_additional_header("Location", "/auth/me"))
}

/// `POST /auth/login` → 200 tokens. An unknown e-mail, a wrong password, a deactivated account and a malformed e-mail have
/// one answer, one cost (unless the stored hash costs more) and one count.
pub fn login(services: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    let mut body = Body::read(context.request, &["email", "password"])?;
    let typed = body.text("email", Ok::<_, &str>);
    let password = body.text("password", Password::presented);
    let (typed, password) = body.done(typed.zip(password))?;

    services.hash_queue.admit(context.client.network())?;
    let (attempt, account) = services.count_attempt("login", &typed, context)?;
    let user = services.user_or_digest(account.as_ref().map(|account| account.id.as_str()), &typed);
    let refuse = |reason| {
        refused("login", reason, &user, &context.client);
        ApiError::from(Problem::WrongCredentials)
    };
    let (presented, stored) = (password.clone(), account.as_ref().map(|account| account.password_hash.clone()));
    let (matches, is_outdated) = services.hash_job(attempt, context, move |hasher| {
        let is_outdated = stored.as_deref().is_some_and(|stored| hasher.is_outdated(stored));
        Ok((hasher.verify(&presented, stored.as_deref())?, is_outdated))
    })?;
    // S4
    let account = account.ok_or_else(|| refuse("unknown_email"))?;
    if !matches {
        return Err(refuse("wrong_password"));
    }
    if !account.is_active {
        return Err(refuse("inactive"));
    }

    // Where the queue has no place for a second hash, the next login makes it.
    let rehash = move |hasher: &PasswordHasher| hasher.hash(&password);
    let rehashed = if is_outdated { services.hash_job(attempt, context, rehash).ok() } else { None };
    let session = Uuid::now_v7();
    let opened = services.store(context).open_session(&NewSession {
        session,
        user: &account.id,
        verified_epoch: account.session_epoch,
        rehashed: rehashed.as_deref(),
        attempt,
        address: &context.client.network().to_string(),
    })?;
    let expires_in_seconds = opened.ok_or_else(|| refuse("changed_meanwhile"))?;
    info!("event=login outcome=ok user={} session={session} {}", account.id, traced(&context.client));
    tokens(&services.keys, &account.id, RefreshClaim { session, counter: 0 }, expires_in_seconds)
}

/// `POST /auth/refresh` → 200 tokens.
pub fn refresh(services: &Services, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    let mut body = Body::read(context.request, &["refresh_token"])?;
    let token = body.text("refresh_token", without_nul);
    let token = body.done(token)?;
    let refuse = |reason, who: &str| {
        refused("refresh", reason, who, &context.client);
        ApiError::from(Problem::InvalidRefreshToken)
    };
    let claim = services.keys.verify_refresh(&token).ok_or_else(|| refuse("bad_mac", "session=-"))?;
    let session = format!("session={}", claim.session);

    match services.store(context).rotate(claim)? {
        Rotation::Rotated { user, counter, expires_in_seconds } => {
            info!("event=refresh outcome=ok user={user} {session} {}", traced(&context.client));
            tokens(&services.keys, &user, RefreshClaim { session: claim.session, counter }, expires_in_seconds)
        }
        Rotation::Reused { user } => Err(refuse("reuse", &format!("user={user} {session}"))),
        Rotation::Over => Err(refuse("session_over", &session)),
    }
}

/// `POST /auth/logout` → 204: the principal's session is over.
pub fn logout(services: &Services, user: &LocalUser, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    if !services.store(context).revoke_session(user.principal())? {
        return Err(session_over());
    }
    done("logout", user.principal(), &context.client)
}

/// `POST /auth/logout-all` → 204: all sessions of the principal are over.
pub fn logout_all(services: &Services, user: &LocalUser, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    if !services.store(context).revoke_all_sessions(user.principal())? {
        return Err(session_over());
    }
    done("logout_all", user.principal(), &context.client)
}

/// `GET /auth/me` → 200 user.
pub fn me(services: &Services, caller: &Caller, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    let user = services.store(context).user(caller.principal())?.ok_or_else(session_over)?;
    json(200, &user)
}

/// `PUT /auth/password` → 204: the new password is valid, every other session is over.
pub fn change_password(
    services: &Services,
    user: &LocalUser,
    context: &RequestContext<'_>,
) -> Result<Response, ApiError> {
    let mut body = Body::read(context.request, &["current_password", "new_password"])?;
    let current = body.text("current_password", Password::presented);
    let new = body.text("new_password", |text| Password::chosen(text, services.passwords.min_length));
    let (current, new) = body.done(current.zip(new))?;

    let work = move |hasher: &PasswordHasher, account: &Account, email: &str| {
        refuse_weak("new_password", &new, email)?;
        refuse_wrong(hasher, &current, account)?;
        hasher.hash(&new)
    };
    let (attempt, epoch, new_hash) = services.confirm("password_change", user.principal(), context, work)?;

    if !services.store(context).change_password(user.principal(), epoch, &new_hash, attempt)? {
        return Err(services.why_nothing_happened(user.principal(), context));
    }
    done("password_change", user.principal(), &context.client)
}

/// `POST /auth/delete` → 204: the user, the tasks and the sessions are gone.
pub fn delete(services: &Services, user: &LocalUser, context: &RequestContext<'_>) -> Result<Response, ApiError> {
    let mut body = Body::read(context.request, &["password"])?;
    let password = body.text("password", Password::presented);
    let password = body.done(password)?;

    let work = move |hasher: &PasswordHasher, account: &Account, _: &str| refuse_wrong(hasher, &password, account);
    let (attempt, epoch, ()) = services.confirm("deletion", user.principal(), context, work)?;

    if !services.store(context).delete_user(user.principal(), epoch, attempt)? {
        return Err(services.why_nothing_happened(user.principal(), context));
    }
    done("deletion", user.principal(), &context.client)
}

impl Services {
    /// Counts an attempt for what was typed as an e-mail: its id, and the account if there is one.
    fn count_attempt(
        &self,
        name: &str,
        typed: &str,
        context: &RequestContext<'_>,
    ) -> Result<(Uuid, Option<Account>), ApiError> {
        let email = Email::parse(typed).ok();
        let id = Uuid::now_v7();
        let reservation = self.store(context).reserve_login(&LoginAttempt {
            id,
            email: email.as_ref().map(Email::as_str),
            email_digest: &self.keys.email_digest(typed),
            address: &context.client.network().to_string(),
            pair_limit: self.accounts.login_failure_limit,
            address_limit: self.accounts.address_limit,
        })?;
        match reservation {
            Reservation::Counted(account) => Ok((id, account)),
            Reservation::Refused { seconds, limit, user } => {
                Err(throttled(name, &limit, &self.user_or_digest(user.as_deref(), typed), seconds, &context.client))
            }
        }
    }

    /// Runs the work in the hash queue. Where it never began, the attempt is given back.
    fn hash_job<T: Send + 'static>(
        &self,
        attempt: Uuid,
        context: &RequestContext<'_>,
        work: impl FnOnce(&PasswordHasher) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let is_abandoned = || context.client.is_answered() || context.client.is_gone();
        let outcome = self.hash_queue.run(context.client.network(), &is_abandoned, work);
        if outcome.as_ref().is_err_and(|error| error.problem == Problem::HashingBusy) {
            // Where this fails, the attempt stays counted.
            let _ = self.store(context).give_back(attempt);
        }
        outcome?
    }

    /// Asks a principal for the password again: a guess like any other, under the same count. `work` takes the account and
    /// its e-mail. Gives the attempt, the epoch when the password was verified, and what `work` gives.
    fn confirm<T: Send + 'static>(
        &self,
        name: &str,
        principal: &Principal,
        context: &RequestContext<'_>,
        work: impl FnOnce(&PasswordHasher, &Account, &str) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<(Uuid, i32, T), ApiError> {
        self.hash_queue.admit(context.client.network())?;
        let email = self.store(context).user_email(principal)?.ok_or_else(session_over)?;
        // S10
        let (attempt, account) = self.count_attempt(name, &email, context)?;
        let account = account.ok_or_else(|| Problem::InvalidToken.with_cause("user_deleted"))?;
        let epoch = account.session_epoch;
        let outcome = self.hash_job(attempt, context, move |hasher| work(hasher, &account, &email));
        match outcome.as_ref().map_err(|error| error.problem) {
            Err(Problem::WrongPassword) => {
                refused(name, "wrong_password", &format!("user={}", principal.subject()), &context.client);
            }
            // The new password is weak, and the current one was not looked at: no guess.
            Err(Problem::Validation) => self.store(context).give_back(attempt)?,
            _ => {}
        }
        Ok((attempt, epoch, outcome?))
    }

    /// For the log: the user, or 6 bytes of a keyed digest of what was typed, since people type passwords there too.
    fn user_or_digest(&self, user: Option<&str>, typed: &str) -> String {
        match user {
            Some(user) => format!("user={user}"),
            None => format!("email_digest={}", hex(self.keys.email_digest(typed).get(..6).unwrap_or_default())),
        }
    }

    /// The password was changed by another request of the same session, or the session is over.
    fn why_nothing_happened(&self, principal: &Principal, context: &RequestContext<'_>) -> ApiError {
        match self.store(context).user_email(principal) {
            Ok(Some(_)) => Problem::WrongPassword.into(),
            Ok(None) => session_over(),
            Err(error) => error,
        }
    }
}

/// The last rule for a new password, to be asked in the hash queue: its cost is the client's to choose.
fn refuse_weak(field: &str, password: &Password, email: &str) -> Result<(), ApiError> {
    password.weakness(email).map_or(Ok(()), |weakness| Err(ApiError::field(field, weakness)))
}

fn refuse_wrong(hasher: &PasswordHasher, password: &Password, account: &Account) -> Result<(), ApiError> {
    let matches = hasher.verify(password, Some(&account.password_hash))?;
    if matches { Ok(()) } else { Err(Problem::WrongPassword.into()) }
}

fn tokens(keys: &Keys, user: &str, claim: RefreshClaim, refresh_seconds: i64) -> Result<Response, ApiError> {
    let access =
        keys.issue_access(user, claim.session).map_err(|error| Problem::Internal.with_cause(error.to_string()))?;
    let refresh = keys.issue_refresh(claim);
    let reply = Tokens {
        access_token: access.expose(),
        token_type: "bearer",
        expires_in: keys.access_token_seconds(),
        refresh_token: refresh.expose(),
        refresh_expires_in: refresh_seconds,
    };
    json(200, &reply)
}

fn done(name: &str, principal: &Principal, client: &ClientInfo<'_>) -> Result<Response, ApiError> {
    info!("event={name} outcome=ok user={} {}", principal.subject(), traced(client));
    Ok(no_content())
}

fn throttled(name: &str, limit: &str, user: &str, seconds: u64, client: &ClientInfo<'_>) -> ApiError {
    // S52
    info!("event={name} outcome=throttled limit={limit} retry_after={seconds} {user} {}", traced(client));
    Problem::TooManyAttempts.retry_after(seconds)
}

fn refused(name: &str, reason: &str, who: &str, client: &ClientInfo<'_>) {
    // S52
    info!("event={name} outcome=refused reason={reason} {who} {}", traced(client));
}

fn traced(client: &ClientInfo<'_>) -> String {
    format!("address={} request_id={}", client.address, client.request_id)
}
