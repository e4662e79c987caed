//! Connection strings, as Neon prints them and as libpq's users write them: a URL, or `key=value` pairs. What other tools
//! print is refused by a line that says what to change. No message repeats a piece of the string, and a string in which a
//! piece of the password could pass for the host is refused: it would be looked up in DNS.
//!
//! Source: PostgreSQL documentation, "Connection Strings" of libpq; RFC 3986 section 2.2 (reserved characters).

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

/// The parameters that the string sets.
///
/// # Errors
/// What to change in it.
pub(super) fn parameters(text: &str) -> Result<BTreeMap<String, String>, String> {
    if let Some(rule) = foreign_form(text) {
        return Err(rule.into());
    }
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => {
            refuse_unescaped(rest)?;
            url_parameters(rest)
        }
        None => key_value_parameters(text),
    }
}

/// What to change where the string is of another program's form.
fn foreign_form(text: &str) -> Option<&'static str> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        _ if text.starts_with(['"', '\'']) => Some("is in quotes: take them off"),
        _ if text.starts_with("psql ") => Some("begins with psql: take the URL alone, without quotes"),
        _ if text.starts_with("jdbc:") => Some("is a JDBC URL: write postgres://user:password@host/database"),
        Some(scheme) if scheme.starts_with("postgresql+") || scheme.starts_with("postgres+") => {
            Some("names a driver of another language after a +: begin with postgresql://")
        }
        Some("prisma" | "prisma+postgres") => Some("is a Prisma URL: take the postgres:// URL of the database itself"),
        _ if text.trim() != text => Some("begins or ends with white space: take it off"),
        _ => None,
    }
}

/// A URL in which a character of the user name or password was not escaped. Only one `@` may stand in it, and nothing
/// before that one may end what comes before the host.
fn refuse_unescaped(rest: &str) -> Result<(), String> {
    let (before_at, after_at) = rest.split_once('@').unwrap_or(("", rest));
    let rules = [
        (rest.contains('#'), "holds a #: write it %23"),
        (after_at.contains('@'), "holds a second @: write each @ of the user name or password %40"),
        (before_at.contains('/'), "holds a / before the @: in the user name or password write it %2F"),
        (before_at.contains('?'), "holds a ? before the @: in the user name or password write it %3F"),
        (rest.contains(char::is_whitespace), "holds white space: write a space %20"),
    ];
    rules.iter().find(|(is_broken, _)| *is_broken).map_or(Ok(()), |(_, rule)| Err((*rule).into()))
}

/// The parameters of `user:password@host:port,host/dbname?key=value`; the last of one name holds.
fn url_parameters(rest: &str) -> Result<BTreeMap<String, String>, String> {
    let mut parameters = BTreeMap::new();
    let mut keep = |name: &str, value: &str| {
        let value = percent_decode_str(value).decode_utf8().map_err(|_| "holds escapes that are not UTF-8")?;
        parameters.insert(name.to_owned(), value.into_owned());
        Ok::<(), String>(())
    };
    let (credentials, rest) = rest.split_once('@').unwrap_or(("", rest));
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, name) = rest.split_once('/').unwrap_or((rest, ""));
    let (hosts, ports) = hosts_and_ports(hosts)?;
    let given = [("user", user), ("password", password), ("host", &hosts), ("port", &ports), ("dbname", name)];
    for (name, value) in given.into_iter().filter(|(_, value)| !value.is_empty()) {
        keep(name, value)?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=').ok_or("has a parameter without a value")? {
            ("ssl", "true") => keep("sslmode", "require")?,
            (name, value) => keep(name, value)?,
        }
    }
    Ok(parameters)
}

/// `a:1,[::1],b` as `a,::1,b` and `1,,`.
fn hosts_and_ports(text: &str) -> Result<(String, String), String> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for one in text.split(',') {
        let (host, port) = match one.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').ok_or("has a [ without a ]")?,
            None => one.split_at_checked(one.find(':').unwrap_or(one.len())).unwrap_or((one, "")),
        };
        hosts.push(host);
        ports.push(port.strip_prefix(':').unwrap_or(port));
    }
    let has_ports = ports.iter().any(|port| !port.is_empty());
    Ok((hosts.join(","), if has_ports { ports.join(",") } else { String::new() }))
}

/// The parameters of `key=value key='va\'lue'`.
fn key_value_parameters(text: &str) -> Result<BTreeMap<String, String>, String> {
    const RULE: &str = "is neither a postgres:// URL nor key=value pairs";
    let mut parameters = BTreeMap::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or(RULE)?;
        let mut characters = after.trim_start().chars();
        let is_quoted = characters.as_str().starts_with('\'');
        if is_quoted {
            characters.next();
        }
        let mut value = String::new();
        let is_closed = loop {
            match characters.next() {
                Some('\\') => value.extend(characters.next()),
                Some('\'') if is_quoted => break true,
                Some(c) if !is_quoted && c.is_whitespace() => break true,
                Some(c) => value.push(c),
                None => break !is_quoted,
            }
        };
        if !is_closed || name.trim().is_empty() {
            return Err(RULE.into());
        }
        parameters.insert(name.trim().to_owned(), value);
        rest = characters.as_str().trim_start();
    }
    Ok(parameters)
}
