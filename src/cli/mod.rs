//! The commands. Data goes to standard output, the log to standard error; exit code 0, 1 (failed) or 2 (usage or
//! configuration).

mod check;
mod users;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::{io, thread};

use log::{info, warn};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::api::Services;
use crate::api::pages::Readiness;
use crate::app::App;
use crate::better_auth::External;
use crate::config::{self, Config, ConfigError, DatabaseConfig, Environment};
use crate::credentials::hasher::Hasher;
use crate::database::DatabasePool;
use crate::database::migrate::{self, TimeLimit};
use crate::logging;
use crate::server::{Listener, Settings, Stopper};
use crate::store::{OperatorStore, UserAction};
use crate::token::Keys;

const HELP: &str = "\
latchkey: accounts, bearer tokens and each user's own tasks

usage:
  latchkey [serve] [--no-migrate]  apply pending migrations, then serve
  latchkey migrate                 apply pending migrations
  latchkey check                   say what holds between this program and its database, line by line
  latchkey user list
  latchkey user show USER
  latchkey user create EMAIL       the password comes from standard input
  latchkey user set-password USER  the password comes from standard input; ends all sessions
  latchkey user activate USER
  latchkey user deactivate USER    ends all sessions
  latchkey user logout USER        ends all sessions
  latchkey user delete USER [--yes]
  latchkey purge                   delete ended sessions and old attempts
  latchkey --help | --version

USER is an e-mail or an id; email:… or id:… where both fit. A user of Better Auth can be shown, deactivated (by id:…
also before the first task), activated and deleted.
All configuration is by environment variables; DATABASE_URL and JWT_SECRET are required to serve.
";

/// Why a command ends without success.
enum Failure {
    /// Exit code 2.
    Usage(String),
    /// Exit code 1.
    Failed(String),
}

impl From<ConfigError> for Failure {
    fn from(refused: ConfigError) -> Self {
        Failure::Usage(refused.to_string())
    }
}

/// Runs the command that the arguments name.
pub fn run(arguments: &[String]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let environment = &Environment::default();
    let outcome = match arguments.as_slice() {
        [] | ["serve"] => serve(environment, true),
        ["--no-migrate"] | ["serve", "--no-migrate"] => serve(environment, false),
        ["migrate"] => migrate_only(environment),
        ["check"] => check_database(environment),
        ["user", command @ ..] => user(environment, command),
        ["purge"] => purge(environment),
        ["--help" | "-h" | "help"] => print(HELP),
        ["--version" | "-V"] => print(concat!("latchkey ", env!("CARGO_PKG_VERSION"), "\n")),
        _ => Err(unknown_arguments()),
    };
    let (code, message) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => (1, message),
        Err(Failure::Usage(message)) => (2, message),
    };
    let _ = writeln!(io::stderr(), "latchkey: {}", message.trim_end());
    ExitCode::from(code)
}

fn serve(environment: &Environment, migrates: bool) -> Result<(), Failure> {
    logging::start(&config::log_filters(environment)?);
    let config = Config::from_environment(environment)?;
    if config.is_test {
        warn!("event=start reason=\"LATCHKEY_ENV=test: weak password hashes are allowed\"");
    }
    let listener = Listener::bind(config.listen).map_err(|error| failed(format!("LISTEN: {error}")))?;
    if migrates {
        apply_migrations(&config.database, None)?;
    }
    stop_on_signal(listener.stopper())?;
    let settings = Settings { max_connections: config.max_connections, evict_by_address: config.trusted_proxies == 0 };
    let hasher =
        Hasher::start(config.passwords.bcrypt_cost).map_err(|error| failed(format!("hash threads: {error}")))?;
    let services = Services {
        database: DatabasePool::new(&config.database),
        hasher,
        keys: Keys::derive(&config.secret, config.previous_secret.as_ref(), config.tokens),
        better_auth: config.better_auth.as_ref().map(External::new),
        accounts: config.accounts,
        passwords: config.passwords,
        readiness: Readiness::default(),
    };
    let app = Arc::new(App {
        services,
        trusted_proxies: config.trusted_proxies,
        cors_origins: config.cors_origins,
        proxy_was_logged: AtomicBool::new(false),
    });
    print(&format!("listening on http://{}\n", listener.local_address()))?;
    let rejecting = app.clone();
    listener.run(
        settings,
        move |request, connection| app.handle(request, connection),
        move |rejected| rejecting.reject(rejected),
    );
    info!("event=stop outcome=ok");
    Ok(())
}

fn migrate_only(environment: &Environment) -> Result<(), Failure> {
    logging::start(&config::log_filters(environment)?);
    let (database, server) = config::migration_databases_from_environment(environment)?;
    apply_migrations(&database, server.as_ref().and_then(|server| server.driver.get_user()))
}

fn user(environment: &Environment, command: &[&str]) -> Result<(), Failure> {
    let store = store_for_command(environment)?;
    let out = &mut io::stdout();
    match command {
        ["list"] => users::list(&store, out),
        ["show", user] => users::show(&store, user, out),
        ["create", email] => users::create(&store, &config::password_policy_from_environment(environment)?, email, out),
        ["set-password", user] => {
            users::set_password(&store, &config::password_policy_from_environment(environment)?, user)
        }
        ["activate", user] => users::switch(&store, user, UserAction::Activate),
        ["deactivate", user] => users::switch(&store, user, UserAction::Deactivate),
        ["logout", user] => users::logout(&store, user),
        ["delete", user] => users::delete(&store, user, false),
        ["delete", user, "--yes"] | ["delete", "--yes", user] => users::delete(&store, user, true),
        _ => return Err(unknown_arguments()),
    }
    .map_err(Failure::Failed)
}

fn purge(environment: &Environment) -> Result<(), Failure> {
    let (sessions, attempts) =
        store_for_command(environment)?.purge().map_err(|error| failed(error.cause.unwrap_or_default()))?;
    print(&format!("{sessions} sessions, {attempts} attempts\n"))
}

fn store_for_command(environment: &Environment) -> Result<OperatorStore, Failure> {
    logging::start(&config::log_filters(environment)?);
    Ok(OperatorStore::new(&config::database_from_environment(environment)?))
}

fn apply_migrations(database: &DatabaseConfig, server_role: Option<&str>) -> Result<(), Failure> {
    let done = migrate::bring_up_to_date(database, server_role).map_err(|failure| failed(failure.to_string()))?;
    for name in &done.applied {
        info!("event=migration outcome=applied name={name}");
    }
    match done.time_limit {
        TimeLimit::Kept => {}
        TimeLimit::Set => info!("event=migration outcome=applied name=statement_timeout seconds=5"),
        TimeLimit::Refused(cause) => {
            warn!("event=migration outcome=refused name=statement_timeout cause={}", logging::quoted(&cause));
        }
    }
    Ok(())
}

fn check_database(environment: &Environment) -> Result<(), Failure> {
    logging::start(&config::log_filters(environment)?);
    let better_auth = config::BetterAuth::from_environment(environment, &[])?.map(|settings| External::new(&settings));
    match check::run(&config::database_from_environment(environment)?, better_auth.as_ref(), &mut io::stdout()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(failed("the check failed".into())),
        Err(error) => Err(failed(format!("standard output: {error}"))),
    }
}

fn stop_on_signal(stopper: Stopper) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| failed(format!("signals: {error}")))?;
    let wait = move || {
        if signals.forever().next().is_some() {
            info!("event=stop outcome=begun");
            stopper.stop();
        }
    };
    thread::Builder::new().spawn(wait).map(drop).map_err(|error| failed(format!("signals: {error}")))
}

fn unknown_arguments() -> Failure {
    Failure::Usage(format!("unknown arguments\n\n{HELP}"))
}

fn failed(message: String) -> Failure {
    Failure::Failed(message)
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| failed(format!("standard output: {error}")))
}
