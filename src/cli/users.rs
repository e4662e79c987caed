//! The operator's commands on users. A password comes from a prompt without echo or from standard input, never as an
//! argument, where every other user of the machine could read it.

use std::io::{self, BufRead, IsTerminal, Write};
use std::{process, thread};

use log::info;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use uuid::Uuid;

use crate::better_auth::SUBJECT_MAX_LENGTH;
use crate::config::PasswordPolicy;
use crate::credentials::{Email, Password};
use crate::error::{ApiError, Problem};
use crate::logging::quoted;
use crate::store::{NewUser, OperatorStore, UserAction, UserSummary};

/// Why a command on users fails, in words for the operator.
pub type Failure = String;

/// `user list`: one line a user, local ones by age: id, e-mail (`-` for one of Better Auth), state, time, sessions, tasks,
/// between tabs.
pub fn list(store: &OperatorStore, out: &mut impl Write) -> Result<(), Failure> {
    let mut after = String::new();
    loop {
        let page = store.list_users(&after).map_err(described)?;
        let Some(last) = page.last() else { return Ok(()) };
        after.clone_from(&last.id);
        for user in &page {
            writeln!(out, "{}", line(user)).map_err(|error| error.to_string())?;
        }
    }
}

/// `user show`: the one user.
pub fn show(store: &OperatorStore, argument: &str, out: &mut impl Write) -> Result<(), Failure> {
    writeln!(out, "{}", line(&find(store, argument)?)).map_err(|error| error.to_string())
}

/// `user create`: also where registration is closed. Prints the new user.
pub fn create(
    store: &OperatorStore,
    policy: &PasswordPolicy,
    email: &str,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let email = Email::parse(email).map_err(|rule| format!("the e-mail {rule}"))?;
    let password_hash = read_hash(policy, email.as_str())?;
    let id = Uuid::now_v7().to_string();
    let new = NewUser { id: &id, email: email.as_str(), password_hash: &password_hash };
    store.create_user(&new).map_err(described)?;
    info!("event=register outcome=ok by=operator user={id}");
    show(store, &format!("id:{id}"), out)
}

/// `user set-password`: ends all sessions.
pub fn set_password(store: &OperatorStore, policy: &PasswordPolicy, argument: &str) -> Result<(), Failure> {
    let user = find(store, argument)?;
    let email = local_email(&user)?;
    let password_hash = read_hash(policy, email)?;
    done(store.set_password(&user.id, &password_hash), "password_change", &user.id)
}

/// `user activate|deactivate`: holds from the next request on. A user of Better Auth may have no row yet: `id:…` makes it.
pub fn switch(store: &OperatorStore, argument: &str, deed: UserAction) -> Result<(), Failure> {
    let event = if deed == UserAction::Activate { "activation" } else { "deactivation" };
    match (find_all(store, argument)?.is_empty(), argument.strip_prefix("id:")) {
        (true, Some(id)) if (1..=SUBJECT_MAX_LENGTH).contains(&id.chars().count()) => {
            done(store.make_external_user(id, deed == UserAction::Activate), event, id)
        }
        _ => {
            let user = find(store, argument)?;
            done(store.act_on_user(&user.id, deed), event, &user.id)
        }
    }
}

/// `user logout`: ends all sessions.
pub fn logout(store: &OperatorStore, argument: &str) -> Result<(), Failure> {
    let user = find(store, argument)?;
    local_email(&user)?;
    done(store.act_on_user(&user.id, UserAction::Logout), "logout_all", &user.id)
}

/// `user delete`: asks first, unless `--yes` said so.
pub fn delete(store: &OperatorStore, argument: &str, is_sure: bool) -> Result<(), Failure> {
    let user = find(store, argument)?;
    if !is_sure {
        if !io::stdin().is_terminal() {
            return Err("standard input is no terminal to ask: repeat with --yes".into());
        }
        eprint!("Delete {} with {} tasks? Type yes: ", quoted(user.email.as_ref().unwrap_or(&user.id)), user.tasks);
        if read_line()? != "yes" {
            return Err("nothing was deleted".into());
        }
    }
    done(store.act_on_user(&user.id, UserAction::Delete), "deletion", &user.id)
}

/// The e-mail of a local user, who alone has a password and sessions here.
fn local_email(user: &UserSummary) -> Result<&str, Failure> {
    user.email.as_deref().ok_or_else(|| {
        format!("{} is a user of Better Auth: deactivate stops the tokens; the rest is done there", quoted(&user.id))
    })
}

fn done(outcome: Result<bool, ApiError>, event: &str, id: &str) -> Result<(), Failure> {
    match outcome.map_err(described)? {
        true => info!("event={event} outcome=ok by=operator user={}", quoted(id)),
        false => return Err("there is no such user any more".into()),
    }
    Ok(())
}

/// The users that the argument may name: `id:…`, `email:…`, or either.
fn find_all(store: &OperatorStore, argument: &str) -> Result<Vec<UserSummary>, Failure> {
    let email = argument.strip_prefix("email:").unwrap_or(argument).to_ascii_lowercase();
    match argument.strip_prefix("id:") {
        Some(id) => store.find_users(Some(id), None),
        None if argument.starts_with("email:") => store.find_users(None, Some(&email)),
        None => store.find_users(Some(argument), Some(&email)),
    }
    .map_err(described)
}

/// The one user that the argument names.
fn find(store: &OperatorStore, argument: &str) -> Result<UserSummary, Failure> {
    let mut users = find_all(store, argument)?;
    match users.pop() {
        None => Err("there is no such user".into()),
        Some(user) if users.is_empty() => Ok(user),
        Some(user) => {
            users.push(user);
            let all: Vec<String> = users.iter().map(line).collect();
            Err(format!("two users fit; say email:… or id:…\n{}", all.join("\n")))
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

fn read_hash(policy: &PasswordPolicy, email: &str) -> Result<String, Failure> {
    let text = if io::stdin().is_terminal() { prompt()? } else { read_line()? };
    let password = Password::chosen(text, policy.min_length).map_err(|rule| format!("the password {rule}"))?;
    if let Some(weakness) = password.weakness(email) {
        return Err(format!("the password {weakness}"));
    }
    bcrypt::hash(password.expose(), policy.bcrypt_cost).map_err(|error| error.to_string())
}

/// A line from the terminal that does not show it, and shows again what is typed whatever ends the wait.
fn prompt() -> Result<String, Failure> {
    let terminal = io::stdin();
    let shown = tcgetattr(&terminal).map_err(|error| error.to_string())?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    eprint!("Password: ");
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| error.to_string())?;
    let (waiting, before) = (signals.handle(), shown.clone());
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &before);
            eprintln!();
            process::exit(1);
        }
    });
    tcsetattr(&terminal, OptionalActions::Flush, &hidden).map_err(|error| error.to_string())?;
    let line = read_line();
    waiting.close();
    let restored = tcsetattr(&terminal, OptionalActions::Flush, &shown);
    eprintln!();
    restored.map_err(|error| error.to_string())?;
    line
}

/// One line without its end; nothing else is taken from it.
fn read_line() -> Result<String, Failure> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(|error| error.to_string())?;
    let end = line.trim_end_matches('\n').len();
    line.truncate(end);
    // The end of a line in a file from elsewhere, which nobody could type at a login.
    if line.ends_with('\r') { Err("the line ends in a carriage return".into()) } else { Ok(line) }
}

fn described(error: ApiError) -> Failure {
    match error.problem {
        Problem::EmailTaken => "this e-mail already has an account".into(),
        _ => error.cause.unwrap_or_else(|| error.problem.spec().detail.to_owned()),
    }
}
