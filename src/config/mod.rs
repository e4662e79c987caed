//! The environment, read once and validated whole: a wrong value stops the start and is never repeated in a message.
//!
//! Source: OWASP ASVS 5.0 V13.1 (configuration), V13.3 (secrets).

mod better_auth;
mod connection_string;
mod database;
mod environment;
mod origins;
mod secrets;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use log::LevelFilter;

pub use better_auth::BetterAuth;
pub use database::DatabaseConfig;
pub use environment::Environment;
pub use origins::Origins;
pub use secrets::Secret;

const DATABASE_URL: &str = "DATABASE_URL";
const MIGRATE_DATABASE_URL: &str = "MIGRATE_DATABASE_URL";

// S55
/// A setting that stops the start. Its Display is one line: the name and the rule, never the value.
#[derive(Debug)]
pub struct ConfigError {
    variable: &'static str,
    rule: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.variable, self.rule)
    }
}

/// Who issues access tokens, for whom, for how long.
#[derive(Debug, Clone)]
pub struct TokenPolicy {
    /// Claim `iss`.
    pub issuer: String,
    /// Claim `aud`.
    pub audience: String,
    /// Lifetime of an access token, in seconds.
    pub access_token_seconds: i64,
}

/// The rules for accounts and attempts.
#[derive(Debug, Clone)]
pub struct AccountPolicy {
    /// Whether anybody may register.
    pub registration_is_open: bool,
    /// Failed logins per e-mail and address in 15 minutes; 0 = no limit, for the e-mail alone neither.
    pub login_failure_limit: i32,
    /// Failed logins, and separately registrations, per address in an hour; 0 = no limit.
    pub address_limit: i32,
}

/// The rules for a password and its hash.
#[derive(Debug, Clone, Copy)]
pub struct PasswordPolicy {
    /// Shortest password that may be chosen, in characters.
    pub min_length: usize,
    /// bcrypt's cost, as the power of two of its rounds.
    pub bcrypt_cost: u32,
}

/// All that `serve` reads.
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Open client connections.
    pub max_connections: usize,
    /// Proxies in front that append to `X-Forwarded-For`.
    pub trusted_proxies: usize,
    /// Other origins whose pages may read the answers.
    pub cors_origins: Origins,
    /// The database.
    pub database: DatabaseConfig,
    /// Signs and verifies.
    pub secret: Secret,
    /// Only verifies.
    pub previous_secret: Option<Secret>,
    /// Access tokens.
    pub tokens: TokenPolicy,
    /// Tokens of Better Auth.
    pub better_auth: Option<BetterAuth>,
    /// Accounts.
    pub accounts: AccountPolicy,
    /// Passwords.
    pub passwords: PasswordPolicy,
    /// `LATCHKEY_ENV=test` is set: weak hashes are allowed.
    pub is_test: bool,
}

impl Config {
    /// What `serve` needs, from the environment.
    ///
    /// # Errors
    /// The first variable that is missing or malformed.
    pub fn from_environment(environment: &Environment) -> Result<Config, ConfigError> {
        let secret: Secret = environment.required("JWT_SECRET")?;
        let previous_secret: Option<Secret> = environment.optional("JWT_SECRET_PREVIOUS")?;
        if previous_secret.as_ref() == Some(&secret) {
            return Err(config_error("JWT_SECRET_PREVIOUS", "must differ from JWT_SECRET"));
        }
        let ours: Vec<&Secret> = [Some(&secret), previous_secret.as_ref()].into_iter().flatten().collect();
        let better_auth = BetterAuth::from_environment(environment, &ours)?;
        let is_test = is_test(environment)?;
        let max_connections = environment.number("MAX_CONNECTIONS", 512, 1..=100_000)?;
        let url: String = environment.required(DATABASE_URL)?;
        let config = Config {
            listen: environment.optional("LISTEN")?.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080))),
            max_connections: max_connections as usize,
            trusted_proxies: environment.number("TRUSTED_PROXIES", 0, 0..=16)?,
            cors_origins: environment.optional("CORS_ORIGINS")?.unwrap_or_default(),
            database: database(DATABASE_URL, &url, pool_size(environment, max_connections)?)?,
            secret,
            previous_secret,
            tokens: TokenPolicy {
                issuer: environment.text("TOKEN_ISSUER", "latchkey")?,
                audience: environment.text("TOKEN_AUDIENCE", "latchkey")?,
                access_token_seconds: environment.number("ACCESS_TOKEN_SECONDS", 900, 60..=3600)?,
            },
            better_auth,
            accounts: AccountPolicy {
                registration_is_open: registration_is_open(environment)?,
                login_failure_limit: environment.number("LOGIN_FAILURE_LIMIT", 10, 0..=1_000_000)?,
                address_limit: environment.number("ADDRESS_LIMIT", 100, 0..=1_000_000)?,
            },
            passwords: password_policy_from_environment(environment)?,
            is_test,
        };
        if is_test && !(config.listen.ip().is_loopback() && config.database.is_this_machine()) {
            return Err(config_error("LATCHKEY_ENV", "may be test only on loopback with a database on this machine"));
        }
        Ok(config)
    }
}

/// The database that the commands use, on one connection at a time.
///
/// # Errors
/// `DATABASE_URL` is missing or cannot be used.
pub fn database_from_environment(environment: &Environment) -> Result<DatabaseConfig, ConfigError> {
    database(DATABASE_URL, &environment.required::<String>(DATABASE_URL)?, 1)
}

/// The database as the role that `migrate` changes it with; and as the server's role, where `MIGRATE_DATABASE_URL` is set
/// beside `DATABASE_URL`.
///
/// # Errors
/// As [`database_from_environment`], for either variable.
pub fn migration_databases_from_environment(
    environment: &Environment,
) -> Result<(DatabaseConfig, Option<DatabaseConfig>), ConfigError> {
    let Some(url) = environment.read(MIGRATE_DATABASE_URL)? else {
        return Ok((database_from_environment(environment)?, None));
    };
    let server = environment.read(DATABASE_URL)?.map(|url| database(DATABASE_URL, &url, 1)).transpose()?;
    Ok((database(MIGRATE_DATABASE_URL, &url, 1)?, server))
}

/// The rules for passwords that `serve` and the commands use.
///
/// # Errors
/// `PASSWORD_MIN_LENGTH`, `BCRYPT_COST` or `LATCHKEY_ENV` is malformed.
pub fn password_policy_from_environment(environment: &Environment) -> Result<PasswordPolicy, ConfigError> {
    let costs = if is_test(environment)? { 4..=15 } else { 10..=15 };
    Ok(PasswordPolicy {
        min_length: environment.number("PASSWORD_MIN_LENGTH", 8, 8..=64)?,
        bcrypt_cost: environment.number("BCRYPT_COST", 12, costs)?,
    })
}

/// The filters of `RUST_LOG`: levels, or `module=level`, between commas.
///
/// # Errors
/// A level that is none.
pub fn log_filters(environment: &Environment) -> Result<String, ConfigError> {
    let filters = environment.text("RUST_LOG", "info")?;
    let is_filter = |part: &str| {
        let (module, level) = part.split_once('=').unwrap_or(("latchkey", part));
        let is_module = !module.is_empty() && module.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b));
        is_module && LevelFilter::from_str(level).is_ok()
    };
    if filters.split(',').all(is_filter) {
        return Ok(filters);
    }
    Err(config_error(
        "RUST_LOG",
        "must be a level (off, error, warn, info, debug, trace) or module=level, between commas",
    ))
}

fn database(variable: &'static str, text: &str, pool_size: u32) -> Result<DatabaseConfig, ConfigError> {
    DatabaseConfig::parse(text, pool_size).map_err(|rule| config_error(variable, rule))
}

/// At most a quarter of the connections of clients: the rest can wait for the database without holding up each other.
fn pool_size(environment: &Environment, max_connections: u32) -> Result<u32, ConfigError> {
    let most = (max_connections / 4).max(1);
    let size = environment.number("POOL_SIZE", most.min(10), 1..=1000)?;
    if size > most {
        return Err(config_error("POOL_SIZE", format!("must be at most {most}, a quarter of MAX_CONNECTIONS")));
    }
    Ok(size)
}

fn is_test(environment: &Environment) -> Result<bool, ConfigError> {
    match environment.optional::<String>("LATCHKEY_ENV")?.as_deref() {
        None => Ok(false),
        Some("test") => Ok(true),
        Some(_) => Err(config_error("LATCHKEY_ENV", "may only be test")),
    }
}

fn registration_is_open(environment: &Environment) -> Result<bool, ConfigError> {
    match environment.text("REGISTRATION", "open")?.as_str() {
        "open" => Ok(true),
        "closed" => Ok(false),
        _ => Err(config_error("REGISTRATION", "must be open or closed")),
    }
}

fn config_error(variable: &'static str, rule: impl Into<String>) -> ConfigError {
    ConfigError { variable, rule: rule.into() }
}

/// Whether this host is the machine itself, as it is written: `localhost` or a loopback address, in brackets or not. No
/// name is resolved to decide.
fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}
