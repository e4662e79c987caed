//! The log: one line per request and per event of authentication, key=value, on standard error.
//!
//! Never a password, a token, a hash, a body, a query or a typed e-mail.
//! Source: OWASP ASVS 5.0 V16.2, V16.3, V16.4.1 (encoding against log injection).

use std::borrow::Cow;
use std::io::Write;

/// Starts the log with these filters, as [`crate::config::log_filters`] gives them.
pub fn start(filters: &str) {
    env_logger::Builder::new()
        .parse_filters(filters)
        .format(|out, record| writeln!(out, "{} {} {}", out.timestamp_millis(), record.level(), record.args()))
        .init();
}

/// The value as it may stand behind `key=`: in quotes and escaped where it holds a space, a quote or a control character.
pub fn quoted(value: &str) -> Cow<'_, str> {
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && !b"\"\\".contains(&b)) {
        return Cow::Borrowed(value);
    }
    Cow::Owned(format!("{value:?}"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn no_value_can_begin_a_new_line_or_a_new_key() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("a b\nINFO status=200"), r#""a b\nINFO status=200""#);
        assert_eq!(quoted("\u{1b}[2J\""), r#""\u{1b}[2J\"""#);
    }
}
