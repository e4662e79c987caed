//! Where the settings come from: the environment of the process, and beneath it a file of `NAME=VALUE` lines. A variable
//! that is set but empty is an error, not an absence. No message repeats a value.

use std::collections::BTreeMap;
use std::env::VarError;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::{ConfigError, config_error};

const ENV_FILE: &str = "--env-file";

/// The variables of the process and of one file; the process's win. It has no Debug: it holds secrets.
#[derive(Default)]
pub struct Environment {
    file: BTreeMap<String, String>,
}

impl Environment {
    /// The environment of the process over the lines of this file. Each line is `NAME=VALUE`, taken literally to its end;
    /// blank lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// The file cannot be read, or the number of the line that breaks the rule.
    pub fn with_file(path: &str) -> Result<Environment, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| config_error(ENV_FILE, format!("{path} cannot be read: {error}")))?;
        let mut file = BTreeMap::new();
        for (number, line) in (1..).zip(text.split('\n')) {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let refused = |rule: &str| config_error(ENV_FILE, format!("{path}, line {number}, {rule}"));
            let (name, value) = line.split_once('=').ok_or_else(|| refused("is not NAME=VALUE"))?;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(refused("has a name with other characters than letters, digits and _"));
            }
            if value.ends_with('\r') {
                return Err(refused("ends in a carriage return"));
            }
            if file.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(refused("sets a variable a second time"));
            }
        }
        Ok(Environment { file })
    }

    /// The variable, if it is set.
    pub(super) fn read(&self, variable: &'static str) -> Result<Option<String>, ConfigError> {
        let value = match std::env::var(variable) {
            Ok(value) => Some(value),
            Err(VarError::NotPresent) => self.file.get(variable).cloned(),
            Err(VarError::NotUnicode(_)) => return Err(config_error(variable, "is not UTF-8")),
        };
        match value {
            Some(value) if value.is_empty() => Err(config_error(variable, "is set but empty")),
            value => Ok(value),
        }
    }

    /// The variable as a value of this type, if it is set.
    pub(super) fn optional<T: FromStr<Err: Display>>(&self, variable: &'static str) -> Result<Option<T>, ConfigError> {
        // Only messages of our own types and of the standard library's, none of which repeats the value.
        let parse = |value: String| value.parse().map_err(|error: T::Err| config_error(variable, error.to_string()));
        self.read(variable)?.map(parse).transpose()
    }

    pub(super) fn required<T: FromStr<Err: Display>>(&self, variable: &'static str) -> Result<T, ConfigError> {
        self.optional(variable)?.ok_or_else(|| config_error(variable, "must be set"))
    }

    pub(super) fn text(&self, variable: &'static str, default: &str) -> Result<String, ConfigError> {
        Ok(self.read(variable)?.unwrap_or_else(|| default.to_owned()))
    }

    pub(super) fn number<T>(
        &self,
        variable: &'static str,
        default: T,
        range: RangeInclusive<T>,
    ) -> Result<T, ConfigError>
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        let Some(value) = self.read(variable)? else {
            return Ok(default);
        };
        let is_plain = value.bytes().all(|b| b.is_ascii_digit());
        match value.parse() {
            Ok(number) if is_plain && range.contains(&number) => Ok(number),
            _ => {
                let rule = format!("must be a whole number from {} to {}", range.start(), range.end());
                Err(config_error(variable, rule))
            }
        }
    }
}
