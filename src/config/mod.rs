//! The environment, read once and validated whole: a wrong value stops the start and is never repeated in a message.
//!
//! Source: OWASP ASVS 5.0 V13.1 (configuration), V13.3 (secrets).

mod better_auth;
mod connection_string;
mod origins;

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use log::LevelFilter;

pub use better_auth::BetterAuth;
pub use connection_string::DatabaseConfig;
pub use origins::Origins;

const SECRET_MIN_BYTES: usize = 32;
const SECRET_MIN_DIFFERENT_BYTES: usize = 10;
/// What examples and tutorials print in place of a secret, in lower case.
const PLACEHOLDERS: &[&str] = &[
    "change-me",
    "change_me",
    "changeme",
    "change-this",
    "change_this",
    "changethis",
    "replace-me",
    "replace_me",
    "replace-this",
    "your-secret",
    "your_secret",
    "yoursecret",
    "your-super-secret",
    "your-256-bit-secret",
    "your-jwt-secret",
    "a-string-secret-at-least-256-bits-long",
    "better-auth-secret",
    "super-secret",
    "supersecret",
    "secret-key",
    "secret_key",
    "placeholder",
    "0123456789abcdef",
    "abcdefghijklmnop",
    "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
];

/// A variable that stops the start. Its Display is one line: the name and the rule, never the value.
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

/// Bytes that sign: their Debug prints nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The bytes, for the derivation of keys and nothing else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Secret, String> {
        let bytes = text.as_bytes();
        if bytes.len() < SECRET_MIN_BYTES {
            return Err(format!("must be at least {SECRET_MIN_BYTES} bytes long"));
        }
        let lower = text.to_ascii_lowercase();
        if PLACEHOLDERS.iter().any(|known| lower.contains(known)) {
            return Err("is a placeholder from an example; take 32 random bytes".into());
        }
        if repeats_a_piece(bytes) {
            return Err("repeats a shorter piece; take 32 random bytes".into());
        }
        let mut seen = [false; 256];
        bytes.iter().filter_map(|b| seen.get_mut(usize::from(*b)).map(|s| *s = true)).for_each(drop);
        if seen.iter().filter(|s| **s).count() < SECRET_MIN_DIFFERENT_BYTES {
            return Err(format!("must hold at least {SECRET_MIN_DIFFERENT_BYTES} different bytes"));
        }
        Ok(Secret(bytes.to_vec()))
    }
}

/// Whether the bytes are one shorter piece over and over, the last time perhaps cut.
fn repeats_a_piece(bytes: &[u8]) -> bool {
    (1..=bytes.len() / 2).any(|length| bytes.iter().zip(bytes.iter().skip(length)).all(|(a, b)| a == b))
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
    pub fn from_environment() -> Result<Config, ConfigError> {
        let secret: Secret = required("JWT_SECRET")?;
        let previous_secret: Option<Secret> = optional("JWT_SECRET_PREVIOUS")?;
        if previous_secret.as_ref() == Some(&secret) {
            return Err(config_error("JWT_SECRET_PREVIOUS", "must differ from JWT_SECRET"));
        }
        let ours: Vec<&Secret> = [Some(&secret), previous_secret.as_ref()].into_iter().flatten().collect();
        let better_auth = BetterAuth::from_environment(&ours)?;
        let is_test = is_test()?;
        let config = Config {
            listen: optional("LISTEN")?.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080))),
            max_connections: number("MAX_CONNECTIONS", 512, 1..=100_000)?,
            trusted_proxies: number("TRUSTED_PROXIES", 0, 0..=16)?,
            cors_origins: optional("CORS_ORIGINS")?.unwrap_or_default(),
            database: database_from_environment()?,
            secret,
            previous_secret,
            tokens: TokenPolicy {
                issuer: text("TOKEN_ISSUER", "latchkey")?,
                audience: text("TOKEN_AUDIENCE", "latchkey")?,
                access_token_seconds: number("ACCESS_TOKEN_SECONDS", 900, 60..=3600)?,
            },
            better_auth,
            accounts: AccountPolicy {
                registration_is_open: registration_is_open()?,
                login_failure_limit: number("LOGIN_FAILURE_LIMIT", 10, 0..=1_000_000)?,
                address_limit: number("ADDRESS_LIMIT", 100, 0..=1_000_000)?,
            },
            passwords: password_policy_from_environment()?,
            is_test,
        };
        if is_test && !(config.listen.ip().is_loopback() && config.database.is_this_machine()) {
            return Err(config_error("LATCHKEY_ENV", "may be test only on loopback with a database on this machine"));
        }
        Ok(config)
    }
}

/// The database that `serve` and the commands use.
///
/// # Errors
/// `DATABASE_URL` is missing or cannot be used, or `POOL_SIZE` is malformed.
pub fn database_from_environment() -> Result<DatabaseConfig, ConfigError> {
    database("DATABASE_URL", &required::<String>("DATABASE_URL")?)
}

/// The database that `migrate` changes, `MIGRATE_DATABASE_URL` where it is set; and the role that will serve, where
/// `DATABASE_URL` names another one.
///
/// # Errors
/// As [`database_from_environment`].
pub fn migration_database_from_environment() -> Result<(DatabaseConfig, Option<String>), ConfigError> {
    let Some(url) = optional::<String>("MIGRATE_DATABASE_URL")? else {
        return Ok((database_from_environment()?, None));
    };
    let server = optional::<String>("DATABASE_URL")?.map(|url| database("DATABASE_URL", &url)).transpose()?;
    let server_role = server.and_then(|server| server.driver.get_user().map(str::to_owned));
    Ok((database("MIGRATE_DATABASE_URL", &url)?, server_role))
}

/// The rules for passwords that `serve` and the commands use.
///
/// # Errors
/// `PASSWORD_MIN_LENGTH`, `BCRYPT_COST` or `LATCHKEY_ENV` is malformed.
pub fn password_policy_from_environment() -> Result<PasswordPolicy, ConfigError> {
    let costs = if is_test()? { 4..=15 } else { 10..=15 };
    Ok(PasswordPolicy {
        min_length: number("PASSWORD_MIN_LENGTH", 8, 8..=64)?,
        bcrypt_cost: number("BCRYPT_COST", 12, costs)?,
    })
}

/// The filters of `RUST_LOG`: levels, or `module=level`, between commas.
///
/// # Errors
/// A level that is none.
pub fn log_filters() -> Result<String, ConfigError> {
    let filters = text("RUST_LOG", "info")?;
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

fn database(variable: &'static str, text: &str) -> Result<DatabaseConfig, ConfigError> {
    let pool_size = number("POOL_SIZE", 10, 1..=1000)?;
    DatabaseConfig::parse(text, pool_size).map_err(|rule| config_error(variable, rule))
}

fn is_test() -> Result<bool, ConfigError> {
    match optional::<String>("LATCHKEY_ENV")?.as_deref() {
        None => Ok(false),
        Some("test") => Ok(true),
        Some(_) => Err(config_error("LATCHKEY_ENV", "may only be test")),
    }
}

fn registration_is_open() -> Result<bool, ConfigError> {
    match text("REGISTRATION", "open")?.as_str() {
        "open" => Ok(true),
        "closed" => Ok(false),
        _ => Err(config_error("REGISTRATION", "must be open or closed")),
    }
}

fn config_error(variable: &'static str, rule: impl Into<String>) -> ConfigError {
    ConfigError { variable, rule: rule.into() }
}

/// The variable, if it is set. Set and empty is a mistake, not an absence.
fn read(variable: &'static str) -> Result<Option<String>, ConfigError> {
    match std::env::var(variable) {
        Ok(value) if value.is_empty() => Err(config_error(variable, "is set but empty")),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(config_error(variable, "is not UTF-8")),
    }
}

fn optional<T: FromStr>(variable: &'static str) -> Result<Option<T>, ConfigError>
where
    T::Err: fmt::Display,
{
    // Only messages of our own types and of the standard library's, none of which repeats the value.
    read(variable)?.map(|value| value.parse().map_err(|e: T::Err| config_error(variable, e.to_string()))).transpose()
}

fn required<T: FromStr>(variable: &'static str) -> Result<T, ConfigError>
where
    T::Err: fmt::Display,
{
    optional(variable)?.ok_or_else(|| config_error(variable, "must be set"))
}

fn text(variable: &'static str, default: &str) -> Result<String, ConfigError> {
    Ok(read(variable)?.unwrap_or_else(|| default.to_owned()))
}

fn number<T>(variable: &'static str, default: T, range: std::ops::RangeInclusive<T>) -> Result<T, ConfigError>
where
    T: FromStr + PartialOrd + fmt::Display + Copy,
{
    let Some(value) = read(variable)? else {
        return Ok(default);
    };
    match value.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(config_error(variable, format!("must be a whole number from {} to {}", range.start(), range.end()))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Secret, repeats_a_piece};

    #[test]
    fn a_weak_secret_is_refused() {
        let long_placeholder = format!("{}{}", "your-secret", "-key-here-and-then-some-more-of-it");
        for weak in [
            "short",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "k3J9x0Qz_pk3J9x0Qz_pk3J9x0Qz_pk3J",
            "abcabdabcabdaabbccddabcdabdcabcdabdd",
            long_placeholder.as_str(),
        ] {
            assert!(weak.parse::<Secret>().is_err(), "{weak}");
        }
    }

    #[test]
    fn a_random_secret_is_taken_and_not_shown() {
        let secret = "Zr8vQ1x-LmT0yB5hKd2sWg9uNe6oPc3a_fJ7".parse::<Secret>();
        assert!(format!("{secret:?}").contains("Secret(…)"));
    }

    #[test]
    fn a_repetition_is_seen_even_where_the_last_piece_is_cut() {
        assert!(repeats_a_piece(b"abcabca") && !repeats_a_piece(b"abcdabce"));
    }
}
