//! The rehearsal of `latchkey check`: the statements of every request, and of the commands but
//! `user list` and `user logout --all`, by the functions of the store that the
//! server itself calls, on a user, a session and tasks with fresh ids, as the server's role and under its settings. Each
//! is in a savepoint of its own, and all of it is rolled back. An answer is compared with what must come: under row level
//! security a statement may just find no row.

use std::io::{self, Write};

use base64::prelude::{BASE64_STANDARD as BASE64, Engine};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use uuid::Uuid;

use super::check::Report;
use super::users::cause;
use crate::better_auth::External;
use crate::config::{BetterAuth, Secret, TokenPolicy};
use crate::database::{TimeBudget, described};
use crate::error::ApiError;
use crate::store::{
    Changes, LoginAttempt, NewSession, NewTask, NewUser, OperatorStore, Page, Reservation, Rotation, Store, UserAction,
};
use crate::token::{self, Keys, Principal, RefreshClaim};

/// Of no client: no request waits for the locks of the rehearsal.
const ADDRESS: &str = "check";
const HASH: &str = "$2b$12$no.password.has.this.hash";

/// One line for each step, and one for the end.
pub fn run<W: Write>(operator: &OperatorStore, report: &mut Report<'_, W>) -> io::Result<()> {
    let budget = TimeBudget::of_command();
    let store = &Store::new(operator.connection(), &budget);
    let mut rehearsal = Rehearsal { operator, report, failed: Vec::new() };
    let begun = ["begin", "set constraints all immediate"].into_iter().try_for_each(|sql| rehearsal.control(sql));
    let outcome = match begun.and_then(|()| Actors::new()) {
        Ok(mut actors) => {
            rehearsal.accounts(store, &mut actors)?;
            rehearsal.tasks(store, &actors)?;
            rehearsal.ends(store, &mut actors)?;
            rehearsal.control("rollback").map(|()| "rolled back, no row is left behind".to_owned())
        }
        Err(why) => Err(why),
    };
    report.line("rehearsal", outcome)
}

/// What the steps act on and learn from each other.
struct Actors {
    user: String,
    email: String,
    sessions: [(Uuid, Principal); 3],
    attempt: Uuid,
    epoch: i32,
    external: Principal,
}

impl Actors {
    fn new() -> Result<Actors, String> {
        let user = Uuid::now_v7().to_string();
        let session = || {
            let id = Uuid::now_v7();
            principal(&user, id).map(|principal| (id, principal))
        };
        Ok(Actors {
            sessions: [session()?, session()?, session()?],
            email: format!("{user}@check.invalid"),
            external: external_principal(&format!("check-{user}"))?,
            user,
            attempt: Uuid::now_v7(),
            epoch: 0,
        })
    }
}

struct Rehearsal<'a, 'b, W> {
    operator: &'a OperatorStore,
    report: &'a mut Report<'b, W>,
    failed: Vec<&'static str>,
}

impl<W: Write> Rehearsal<'_, '_, W> {
    fn control(&self, sql: &'static str) -> Result<(), String> {
        self.operator.connection().control(sql).map_err(|error| described(&error))
    }

    /// One step, which is not tried where one that it needs has failed. False is a wrong answer.
    fn step(
        &mut self,
        name: &'static str,
        needs: &str,
        act: impl FnOnce() -> Result<bool, ApiError>,
    ) -> io::Result<()> {
        let outcome = match self.failed.contains(&needs) {
            true => Err(format!("not tried, because of: {needs}")),
            false => self.control("savepoint step").and_then(|()| {
                let outcome = act();
                let is_done = matches!(outcome, Ok(true));
                self.control(if is_done { "release savepoint step" } else { "rollback to savepoint step" })?;
                match outcome.map_err(cause)? {
                    true => Ok("rehearsed".to_owned()),
                    false => Err("a wrong answer: is there a policy or a trigger?".to_owned()),
                }
            }),
        };
        if outcome.is_err() {
            self.failed.push(name);
        }
        self.report.line(name, outcome)
    }

    fn accounts(&mut self, store: &Store<'_>, actors: &mut Actors) -> io::Result<()> {
        let operator = self.operator;
        let (user, email) = (&actors.user, &actors.email);
        self.step("count a registration", "", || Ok(store.reserve_registration(Uuid::now_v7(), ADDRESS, 9)? == 0))?;
        self.step("register", "", || {
            store.create_user(&NewUser { id: user, email, password_hash: HASH }).map(|_| true)
        })?;
        self.step("user commands", "register", || {
            let act = |action| operator.act_on_user(user, action);
            Ok(operator.find_users(Some(user), Some(email))?.len() == 1
                && operator.set_password(user, HASH)?
                && act(UserAction::Deactivate)?
                && act(UserAction::Activate)?
                && act(UserAction::Logout)?
                && operator.make_external_user(&format!("{user}-external"), false)?
                && operator.act_on_user(&format!("{user}-external"), UserAction::Delete)?)
        })?;
        let epoch = &mut actors.epoch;
        let (id, digest) = (actors.attempt, user.as_bytes());
        self.step("count a login", "register", || {
            let attempt = attempt(id, Some(email), digest);
            let Reservation::Counted(Some(account)) = store.reserve_login(&attempt)? else { return Ok(false) };
            *epoch = account.session_epoch;
            Ok(account.id == *user && account.password_hash == HASH && account.is_active)
        })?;
        let [(session, principal), ..] = &actors.sessions;
        self.step("login", "count a login", || login(store, actors, *session))?;
        self.step("refresh", "login", || {
            let rotated = store.rotate(RefreshClaim { session: *session, counter: 0 })?;
            Ok(matches!(rotated, Rotation::Rotated { counter: 1, .. }))
        })?;
        self.step("read the user", "login", || {
            Ok(store.user(principal)?.is_some() && store.user_email(principal)?.as_ref() == Some(email))
        })
    }

    fn tasks(&mut self, store: &Store<'_>, actors: &Actors) -> io::Result<()> {
        let [(_, principal), ..] = &actors.sessions;
        let task = || NewTask { id: Uuid::now_v7(), title: "check".into(), description: Some("é 字".into()) };
        let (new, created) = (task(), "create a task");
        let id = new.id;
        let count = |completed, after| {
            store.list_tasks(principal, &Page { completed, after, limit: 2 }).map(|tasks| tasks.len())
        };
        self.step(created, "login", || store.create_task(principal, &new).map(|_| true))?;
        self.step("list tasks", created, || {
            Ok(count(None, None)? == 1 && count(Some(false), Some(Uuid::nil()))? == 1 && count(Some(true), None)? == 0)
        })?;
        self.step("read a task", created, || store.task(principal, id).map(|_| true))?;
        let changes = Changes { title: Some("changed".into()), description: Some(None), completed: Some(false) };
        self.step("update a task", created, || store.update_task(principal, id, &changes).map(|_| true))?;
        self.step("toggle a task", created, || store.toggle_task(principal, id).map(|_| true))?;
        self.step("delete a task", created, || store.delete_task(principal, id).map(|()| true))?;
        self.step("create a task of Better Auth", "", || {
            store.create_task(&actors.external, &task())?;
            Ok(store.user(&actors.external)?.is_some())
        })
    }

    fn ends(&mut self, store: &Store<'_>, actors: &mut Actors) -> io::Result<()> {
        let (operator, attempt, epoch) = (self.operator, actors.attempt, actors.epoch);
        let [(_, first), (second_id, second), (third_id, third)] = &actors.sessions;
        self.step("change the password", "login", || store.change_password(first, epoch, HASH, attempt))?;
        self.step("logout-all", "change the password", || store.revoke_all_sessions(first))?;
        actors.epoch += 2;
        let epoch = actors.epoch;
        self.step("logout", "logout-all", || Ok(login(store, actors, *second_id)? && store.revoke_session(second)?))?;
        self.step("delete the account", "logout-all", || {
            Ok(login(store, actors, *third_id)? && store.delete_user(third, epoch, attempt)?)
        })?;
        self.step("give an attempt back", "", || store.give_back(attempt).map(|()| true))?;
        self.step("purge", "", || {
            Ok(operator.purge_sessions(0)? + operator.purge_attempts(0)? + operator.purge_addresses(0)? == 0)
        })
    }
}

fn attempt<'a>(id: Uuid, email: Option<&'a str>, email_digest: &'a [u8]) -> LoginAttempt<'a> {
    LoginAttempt { id, email, email_digest, address: ADDRESS, pair_limit: 10, address_limit: 100 }
}

fn login(store: &Store<'_>, actors: &Actors, session: Uuid) -> Result<bool, ApiError> {
    let (user, verified_epoch, attempt) = (&actors.user, actors.epoch, actors.attempt);
    let new = NewSession { session, user, verified_epoch, rehashed: Some(HASH), attempt, address: ADDRESS };
    store.open_session(&new).map(|opened| opened.is_some())
}

/// From a token signed with a random secret.
fn principal(user: &str, session: Uuid) -> Result<Principal, String> {
    let keys = keys()?;
    let token = keys.issue_access(user, session).map_err(|error| error.to_string())?;
    token::verify(token.expose(), &keys, None).map_err(|error| error.to_string())
}

fn external_principal(subject: &str) -> Result<Principal, String> {
    let (secret, now) = (random_secret()?, jsonwebtoken::get_current_timestamp());
    let claims = json!({"sub": subject, "iat": now, "exp": now + 60});
    let token = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.expose()));
    let secret = Some(secret);
    let shared = BetterAuth { secret, jwks_url: None, issuer: None, audience: None, is_insecure: false };
    let external = External::new(&shared);
    let token = token.map_err(|error| error.to_string())?;
    token::verify(&token, &keys()?, Some(&external)).map_err(|error| error.to_string())
}

fn keys() -> Result<Keys, String> {
    let policy = TokenPolicy { issuer: "check".into(), audience: "check".into(), access_token_seconds: 60 };
    Ok(Keys::derive(&random_secret()?, None, policy))
}

fn random_secret() -> Result<Secret, String> {
    let mut bytes = [0; 48];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|error| error.to_string())?;
    BASE64.encode(bytes).parse()
}
