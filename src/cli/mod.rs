//! The commands. Data goes to standard output, the log to standard error; exit code 0, 1 (failed) or 2 (usage or
//! configuration).

mod arguments;
mod check;
mod rehearsal;
mod terminal;
mod users;

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::{io, thread};

use log::{info, warn};
use postgres::Client;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use arguments::{Command, Invocation};

use crate::api::Services;
use crate::api::pages::{Pages, Readiness};
use crate::app::App;
use crate::better_auth::External;
use crate::config::{
    self, AccountPolicy, BetterAuth, Config, ConfigError, DatabaseConfig, Environment, PasswordPolicy,
};
use crate::credentials::hash_queue::HashQueue;
use crate::database::migrate::{self, MigrationError};
use crate::database::{self, DatabasePool, SingleConnection, inspect, server_role};
use crate::error::ApiError;
use crate::http::TrustedProxies;
use crate::logging::{self, quoted};
use crate::server::{self, Listener, Settings, Stopper};
use crate::store::OperatorStore;
use crate::token::Keys;

const PURGE_BATCH_ROWS: i64 = 10_000;
/// The first line of every help.
const ABOUT: &str = "latchkey: accounts, bearer tokens and each user's own tasks\n";
/// The last lines of every help.
const NOTES: &str = "
USER is an e-mail or an id; email:… or id:… where both fit. A user of Better Auth can be shown, deactivated (by id:…
also before the first task), activated and deleted. A password comes from a prompt or from standard input.
Settings are environment variables, and beneath them the lines NAME=VALUE of FILE.
";

/// Every command; the first one is run where none is named.
#[rustfmt::skip]
const COMMANDS: &[Command] = &[
    Command { name: "serve", parameters: "[--no-migrate]", about: "apply pending migrations, then serve",
              run: |environment, arguments| serve(environment, !arguments.has_option) },
    Command { name: "migrate", parameters: "", about: "apply pending migrations; rights and settings of the server's role",
              run: |environment, _| migrate_only(environment) },
    Command { name: "check", parameters: "", about: "rehearse what the server does, and undo it; one line for each thing",
              run: |environment, _| check_database(environment) },
    Command { name: "user list", parameters: "", about: "id, e-mail, state, time, sessions and tasks of every user",
              run: |environment, _| users::list(&store(environment)?) },
    Command { name: "user show", parameters: "USER", about: "the same of one user",
              run: |environment, arguments| users::show(&store(environment)?, arguments.operand) },
    Command { name: "user create", parameters: "EMAIL", about: "also where registration is closed",
              run: |environment, arguments| users::create(environment, &store(environment)?, arguments.operand) },
    Command { name: "user set-password", parameters: "USER", about: "end all sessions too",
              run: |environment, arguments| users::set_password(environment, &store(environment)?, arguments.operand) },
    Command { name: "user activate", parameters: "USER", about: "allow logins again; revives no session",
              run: |environment, arguments| users::activate(environment, &store(environment)?, arguments.operand) },
    Command { name: "user deactivate", parameters: "USER", about: "allow no login; end all sessions",
              run: |environment, arguments| users::deactivate(environment, &store(environment)?, arguments.operand) },
    Command { name: "user logout", parameters: "USER", about: "end all sessions",
              run: |environment, arguments| users::logout(&store(environment)?, arguments.operand) },
    Command { name: "user logout --all", parameters: "[--yes]", about: "end all sessions of all users",
              run: |environment, arguments| users::logout_all(&store(environment)?, arguments.has_option) },
    Command { name: "user delete", parameters: "USER [--yes]", about: "delete the user with all tasks",
              run: |environment, arguments| users::delete(&store(environment)?, arguments.operand, arguments.has_option) },
    Command { name: "purge", parameters: "", about: "delete ended sessions, old attempts, forgotten addresses",
              run: |environment, _| purge(environment) },
];

/// Why a command ends without success.
pub enum CommandError {
    /// Exit code 2: the command line or the configuration.
    Usage(String),
    /// Exit code 1.
    Failed(String),
    /// Exit code 0: whoever reads standard output has closed it.
    OutputClosed,
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        CommandError::Usage(error.to_string())
    }
}

/// For what is written to standard output.
impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => CommandError::OutputClosed,
            _ => CommandError::Failed(format!("standard output: {error}")),
        }
    }
}

/// Runs the command that the arguments name.
pub fn run(arguments: &[String]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (code, message) = match run_command(&arguments) {
        Ok(()) | Err(CommandError::OutputClosed) => return ExitCode::SUCCESS,
        Err(CommandError::Failed(message)) => (1, message),
        Err(CommandError::Usage(message)) => (2, message),
    };
    let _ = writeln!(io::stderr(), "latchkey: {}", message.trim_end());
    ExitCode::from(code)
}

fn run_command(arguments: &[&str]) -> Result<(), CommandError> {
    let (env_file, invocation) = arguments::parse(COMMANDS, arguments)?;
    let (command, arguments) = match invocation {
        Invocation::Print(text) => return print(&text),
        Invocation::Run(command, arguments) => (command, arguments),
    };
    let environment = env_file.map(Environment::with_file).transpose()?.unwrap_or_default();
    (command.run)(&environment, &arguments)
}

fn serve(environment: &Environment, migrates: bool) -> Result<(), CommandError> {
    let filters = config::log_filters(environment)?;
    // Dropped last: it writes what is still in its queue.
    let _log = logging::start_queued(&filters).map_err(|error| failed(format!("log thread: {error}")))?;
    let config = Config::from_environment(environment)?;
    server::reserve(config.max_connections, config.database.pool_size as usize).map_err(failed)?;
    let listener = Listener::bind(config.listen).map_err(|error| failed(format!("LISTEN: {error}")))?;
    migrate_before_serving(&config.database, migrates)?;
    stop_on_signal(listener.stopper())?;
    log_start(&config, listener.local_address());
    let settings = Settings { max_connections: config.max_connections, evict_by_address: config.trusted_proxies == 0 };
    let hash_queue =
        HashQueue::start(config.passwords.bcrypt_cost).map_err(|error| failed(format!("hash threads: {error}")))?;
    let services = Services {
        database: DatabasePool::new(&config.database),
        hash_queue,
        keys: Keys::derive(&config.secret, config.previous_secret.as_ref(), config.tokens),
        better_auth: config.better_auth.as_ref().map(start_better_auth),
        accounts: config.accounts,
        passwords: config.passwords,
        readiness: Readiness::default(),
        pages: Pages::embedded(),
    };
    let app = Arc::new(App {
        services,
        trusted_proxies: TrustedProxies::new(config.trusted_proxies),
        cors_origins: config.cors_origins,
    });
    print(&format!("listening on http://{}\n", listener.local_address()))?;
    let rejecting = app.clone();
    let ended = listener.run(
        settings,
        Box::new(move |request, connection| app.handle(request, connection)),
        Box::new(move |rejected| rejecting.reject(rejected)),
    );
    ended.map_err(|error| failed(format!("threads: {error}")))?;
    info!("event=stop outcome=ok");
    Ok(())
}

/// The version, and the settings that are no secrets.
fn log_start(config: &Config, address: SocketAddr) {
    let Config { max_connections, trusted_proxies, .. } = config;
    let AccountPolicy { registration_is_open, login_failure_limit, address_limit } = config.accounts;
    let PasswordPolicy { min_length, bcrypt_cost } = config.passwords;
    info!(
        "event=start version={} address={address} max_connections={max_connections} pool_size={} \
         trusted_proxies={trusted_proxies} registration_is_open={registration_is_open} \
         access_token_seconds={} password_min_length={min_length} bcrypt_cost={bcrypt_cost} \
         login_failure_limit={login_failure_limit} address_limit={address_limit}",
        env!("CARGO_PKG_VERSION"),
        config.database.pool_size,
        config.tokens.access_token_seconds,
    );
    if config.is_test {
        warn!("event=start reason=\"LATCHKEY_ENV=test: weak password hashes are allowed\"");
    }
}

fn start_better_auth(settings: &config::BetterAuth) -> External {
    let external = External::new(settings);
    info!("event=better_auth {}", external.summary());
    if settings.is_insecure {
        warn!("event=better_auth reason=\"BETTER_AUTH_INSECURE_HTTP=yes: the network can forge tokens\"");
    }
    external
}

fn migrate_only(environment: &Environment) -> Result<(), CommandError> {
    logging::start(&config::log_filters(environment)?);
    let (owner, server) = config::migration_databases_from_environment(environment)?;
    let mut owner = connected(&owner)?;
    let applied = migrate::apply(&mut owner).map_err(|error| failed(error.to_string()))?;
    if applied.is_empty() {
        print("nothing pending\n")?;
    }
    for name in applied {
        print(&format!("{name}: applied\n"))?;
    }
    let refused = |error: postgres::Error| failed(format!("the database refused: {}", database::described(&error)));
    let role = |client: &mut Client| inspect::identity(client).map(|identity| identity.role).map_err(failed);
    let mut server = server.as_ref().map(connected).transpose()?;
    if let Some(server) = &mut server {
        let (role, owner_role) = (role(server)?, role(&mut owner)?);
        if role != owner_role {
            let lacking = server_role::grant(&mut owner, &role).map_err(refused)?;
            if !lacking.is_empty() {
                let grants = lacking.join("; ");
                return Err(failed(format!("role {role} lacks rights that role {owner_role} may not grant: {grants}")));
            }
            print(&format!("role {role}: rights granted\n"))?;
        }
    }
    let server = server.as_mut().unwrap_or(&mut owner);
    for setting in server_role::set_up(server).map_err(refused)? {
        print(&format!("role {}: {setting}\n", role(server)?))?;
    }
    Ok(())
}

fn purge(environment: &Environment) -> Result<(), CommandError> {
    let store = store(environment)?;
    let sessions = in_batches(|limit| store.purge_sessions(limit))?;
    let attempts = in_batches(|limit| store.purge_attempts(limit))?;
    let addresses = in_batches(|limit| store.purge_addresses(limit))?;
    print(&format!("deleted {sessions} sessions, {attempts} attempts, {addresses} addresses\n"))
}

/// Each batch is a statement of its own, well under the role's time limit.
fn in_batches(purge: impl Fn(i64) -> Result<i64, ApiError>) -> Result<i64, CommandError> {
    let mut all = 0;
    loop {
        let count = purge(PURGE_BATCH_ROWS).map_err(users::described)?;
        all += count;
        if count < PURGE_BATCH_ROWS {
            return Ok(all);
        }
    }
}

fn store(environment: &Environment) -> Result<OperatorStore, CommandError> {
    logging::start(&config::log_filters(environment)?);
    let client = connected(&config::database_from_environment(environment)?)?;
    Ok(OperatorStore::new(SingleConnection::new(client, end_of_patience)))
}

/// Ends a command whose statement is not answered.
fn end_of_patience() {
    let _ = writeln!(io::stderr(), "latchkey: the database was silent for 9 s");
    std::process::exit(1);
}

/// Before the server serves: it never does on a schema that is known to lack something. A server that does not migrate may
/// start while the database is away; `/readyz` is 503 then.
fn migrate_before_serving(database: &DatabaseConfig, migrates: bool) -> Result<(), CommandError> {
    let mut client = match database::connect(database) {
        Ok(client) => client,
        Err(causes) if migrates => return Err(no_connection(&causes)),
        Err(causes) => {
            warn!("event=migration outcome=unknown reason={}", quoted(&causes));
            return Ok(());
        }
    };
    let seconds = inspect::identity(&mut client).map_err(failed)?.clock_ahead_seconds;
    if seconds.abs() > inspect::CLOCK_TOLERANCE_SECONDS {
        warn!("event=clocks database_ahead_seconds={seconds:.1}");
    }
    let pending = migrate::pending(&mut client).map_err(|error| failed(error.to_string()))?;
    if pending.is_empty() {
        return Ok(());
    }
    let names = pending.join(", ");
    if !migrates {
        return Err(failed(format!("migrations are pending: {names}; run latchkey migrate")));
    }
    let applied = migrate::apply(&mut client).map_err(|error| match error {
        MigrationError::Refused(_) => failed(format!("{error}; migrations are pending: {names}; run latchkey migrate")),
        _ => failed(error.to_string()),
    })?;
    info!("event=migration outcome=applied names={}", quoted(&applied.join(" ")));
    match server_role::set_up(&mut client) {
        Ok(settings) => info!("event=migration outcome=applied settings={}", quoted(&settings.join(", "))),
        Err(error) => warn!("event=migration outcome=refused cause={}", quoted(&database::described(&error))),
    }
    Ok(())
}

fn connected(database: &DatabaseConfig) -> Result<Client, CommandError> {
    database::connect(database).map_err(|causes| no_connection(&causes))
}

fn no_connection(causes: &str) -> CommandError {
    failed(format!("no connection to the database: {causes}"))
}

fn check_database(environment: &Environment) -> Result<(), CommandError> {
    logging::start(&config::log_filters(environment)?);
    let better_auth = BetterAuth::from_environment(environment, &[])?.map(|settings| External::new(&settings));
    match check::run(&config::database_from_environment(environment)?, better_auth.as_ref(), &mut io::stdout())? {
        0 => Ok(()),
        failed_lines => Err(failed(format!("the check failed: {failed_lines} lines say FAIL"))),
    }
}

fn stop_on_signal(stopper: Stopper) -> Result<(), CommandError> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(|error| failed(format!("signals: {error}")))?;
    let wait = move || {
        // SIGHUP, which a closed terminal sends, is ignored.
        if signals.forever().any(|signal| signal != SIGHUP) {
            info!("event=stop outcome=begun");
            stopper.stop();
        }
    };
    thread::Builder::new().spawn(wait).map(drop).map_err(|error| failed(format!("signals: {error}")))
}

fn failed(message: String) -> CommandError {
    CommandError::Failed(message)
}

/// Writes to standard output. That nobody reads it any more is no failure.
fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CommandError::from) {
        Err(CommandError::OutputClosed) => Ok(()),
        outcome => outcome,
    }
}
