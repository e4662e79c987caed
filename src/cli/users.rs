//! The operator's commands on users. Each says on standard output what it did. What is done holds from the next request
//! on, on every instance.

use std::io::{self, BufWriter, Write};

use uuid::Uuid;

use super::{CommandError, failed, print, terminal};
use crate::better_auth::SUBJECT_MAX_LENGTH;
use crate::config::{self, BetterAuth, Environment};
use crate::credentials::{Email, Password};
use crate::error::{ApiError, Problem};
use crate::logging::quoted;
use crate::store::{NewUser, OperatorStore, UserAction, UserSummary};

/// `user list`: one line a user, between tabs: id, e-mail (`-` for a user of Better Auth), state, time, sessions, tasks.
/// By id, which for local users is by age.
pub fn list(store: &OperatorStore) -> Result<(), CommandError> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut after = String::new();
    loop {
        let page = store.list_users(&after).map_err(described)?;
        let Some(last) = page.last() else { return Ok(out.flush()?) };
        after.clone_from(&last.id);
        for user in &page {
            writeln!(out, "{}", line(user))?;
        }
    }
}

/// `user show`: the line of one user.
pub fn show(store: &OperatorStore, argument: &str) -> Result<(), CommandError> {
    print(&format!("{}\n", line(&find(store, argument)?)))
}

/// `user create`: prints the line of the new user.
pub fn create(environment: &Environment, store: &OperatorStore, email: &str) -> Result<(), CommandError> {
    let email = Email::parse(email).map_err(|rule| failed(format!("the e-mail {rule}")))?;
    let password_hash = read_hash(environment, email.as_str())?;
    let id = Uuid::now_v7().to_string();
    let new = NewUser { id: &id, email: email.as_str(), password_hash: &password_hash };
    store.create_user(&new).map_err(described)?;
    show(store, &format!("id:{id}"))
}

/// `user set-password`.
pub fn set_password(environment: &Environment, store: &OperatorStore, argument: &str) -> Result<(), CommandError> {
    let user = find(store, argument)?;
    let email = local_email(&user)?;
    let password_hash = read_hash(environment, email)?;
    done(store.set_password(&user.id, &password_hash), email, "new password, all sessions ended")
}

/// `user activate`.
pub fn activate(environment: &Environment, store: &OperatorStore, argument: &str) -> Result<(), CommandError> {
    switch(environment, store, argument, UserAction::Activate)
}

/// `user deactivate`.
pub fn deactivate(environment: &Environment, store: &OperatorStore, argument: &str) -> Result<(), CommandError> {
    switch(environment, store, argument, UserAction::Deactivate)
}

/// A user of Better Auth may have no row before the first task: `id:…` makes it where Better Auth is configured.
fn switch(
    environment: &Environment,
    store: &OperatorStore,
    argument: &str,
    action: UserAction,
) -> Result<(), CommandError> {
    let is_active = action == UserAction::Activate;
    let what = if is_active { "active" } else { "inactive, all sessions ended" };
    if let (true, Some(id)) = (find_all(store, argument)?.is_empty(), argument.strip_prefix("id:")) {
        if BetterAuth::from_environment(environment, &[])?.is_none() {
            return Err(failed("there is no such user (and Better Auth is not configured here)".into()));
        }
        if !(1..=SUBJECT_MAX_LENGTH).contains(&id.chars().count()) {
            return Err(failed("there can be no such user: the id is empty or too long".into()));
        }
        let made = store.make_external_user(id, is_active);
        return done(made, id, &format!("{what}; this user of Better Auth was not known here before"));
    }
    let user = find(store, argument)?;
    done(store.act_on_user(&user.id, action), name(&user), what)
}

/// `user logout`.
pub fn logout(store: &OperatorStore, argument: &str) -> Result<(), CommandError> {
    let user = find(store, argument)?;
    let email = local_email(&user)?;
    done(store.act_on_user(&user.id, UserAction::Logout), email, "all sessions ended")
}

/// `user logout --all`: asks first, unless `--yes` says so.
pub fn logout_all(store: &OperatorStore, is_confirmed: bool) -> Result<(), CommandError> {
    if !is_confirmed && !terminal::confirm("End all sessions of all users?").map_err(failed)? {
        return Err(failed("nothing was done".into()));
    }
    let users = store.logout_all().map_err(described)?;
    print(&format!("all sessions of {users} users ended\n"))
}

/// `user delete`: asks first, unless `--yes` says so.
pub fn delete(store: &OperatorStore, argument: &str, is_confirmed: bool) -> Result<(), CommandError> {
    let user = find(store, argument)?;
    let question = format!("Delete {} with {} tasks?", quoted(name(&user)), user.tasks);
    if !is_confirmed && !terminal::confirm(&question).map_err(failed)? {
        return Err(failed("nothing was deleted".into()));
    }
    let what = format!("deleted with {} tasks", user.tasks);
    done(store.act_on_user(&user.id, UserAction::Delete), name(&user), &what)
}

/// The e-mail, or the id of a user of Better Auth.
fn name(user: &UserSummary) -> &str {
    user.email.as_ref().unwrap_or(&user.id)
}

/// The e-mail of a local user, who alone has a password and sessions here.
fn local_email(user: &UserSummary) -> Result<&str, CommandError> {
    user.email.as_deref().ok_or_else(|| {
        let id = quoted(&user.id);
        failed(format!("{id} is a user of Better Auth: deactivate refuses the tokens here; the rest is done there"))
    })
}

fn done(outcome: Result<bool, ApiError>, name: &str, what: &str) -> Result<(), CommandError> {
    match outcome.map_err(described)? {
        true => print(&format!("{}: {what}\n", quoted(name))),
        false => Err(failed("there is no such user any more".into())),
    }
}

/// The users that the argument may name: `id:…`, `email:…`, or either.
fn find_all(store: &OperatorStore, argument: &str) -> Result<Vec<UserSummary>, CommandError> {
    let email = argument.strip_prefix("email:").unwrap_or(argument).to_ascii_lowercase();
    match argument.strip_prefix("id:") {
        Some(id) => store.find_users(Some(id), None),
        None if argument.starts_with("email:") => store.find_users(None, Some(&email)),
        None => store.find_users(Some(argument), Some(&email)),
    }
    .map_err(described)
}

/// The one user that the argument names.
fn find(store: &OperatorStore, argument: &str) -> Result<UserSummary, CommandError> {
    let mut users = find_all(store, argument)?;
    match users.pop() {
        None => Err(failed("there is no such user".into())),
        Some(user) if users.is_empty() => Ok(user),
        Some(user) => {
            users.push(user);
            let all: Vec<String> = users.iter().map(line).collect();
            Err(failed(format!("two users fit; say email:… or id:…\n{}", all.join("\n"))))
        }
    }
}

fn line(user: &UserSummary) -> String {
    let state = if user.is_active { "active" } else { "inactive" };
    let UserSummary { id, email, created_at, sessions, tasks, .. } = user;
    // Whoever issues the ids of Better Auth could put a tab or a line end into one.
    let (id, email) = (quoted(id), email.as_deref().unwrap_or("-"));
    format!("{id}\t{email}\t{state}\t{created_at:.6}\t{sessions} sessions\t{tasks} tasks")
}

fn read_hash(environment: &Environment, email: &str) -> Result<String, CommandError> {
    let policy = config::password_policy_from_environment(environment)?;
    let text = terminal::chosen_password().map_err(failed)?;
    let password = Password::chosen(text, policy.min_length).map_err(|rule| failed(format!("the password {rule}")))?;
    if let Some(weakness) = password.weakness(email) {
        return Err(failed(format!("the password {weakness}")));
    }
    bcrypt::hash(password.expose(), policy.bcrypt_cost).map_err(|error| failed(error.to_string()))
}

/// Why a statement failed, for the operator.
pub fn cause(error: ApiError) -> String {
    match error.problem {
        Problem::EmailTaken => "this e-mail already has an account".into(),
        _ => error.cause.unwrap_or_else(|| error.problem.spec().detail.to_owned()),
    }
}

/// As [`cause`].
pub fn described(error: ApiError) -> CommandError {
    failed(cause(error))
}
