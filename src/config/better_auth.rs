//! The settings for tokens of Better Auth: by its published key set, by its shared secret, or by both.

use ureq::http::Uri;

use super::{ConfigError, Environment, Secret, config_error, is_this_machine};

const SECRET: &str = "BETTER_AUTH_SECRET";
const URL: &str = "BETTER_AUTH_URL";
const JWKS_URL: &str = "BETTER_AUTH_JWKS_URL";
const ISSUER: &str = "BETTER_AUTH_ISSUER";
const AUDIENCE: &str = "BETTER_AUTH_AUDIENCE";
const INSECURE_HTTP: &str = "BETTER_AUTH_INSECURE_HTTP";
/// Where Better Auth's JWT plugin publishes its keys unless told otherwise.
const JWKS_PATH: &str = "/api/auth/jwks";

/// Which tokens of Better Auth are accepted.
#[derive(Debug, Clone)]
pub struct BetterAuth {
    /// Verifies HS256 tokens without a key id.
    pub secret: Option<Secret>,
    /// Where the key set is: `https`, or `http` on this machine or by `BETTER_AUTH_INSECURE_HTTP`.
    pub jwks_url: Option<String>,
    /// What `iss` must be. `Some` if there is a key set.
    pub issuer: Option<String>,
    /// What `aud` must be or hold. `Some` if there is a key set.
    pub audience: Option<String>,
    /// Whether the key set comes over plain `http` from another machine.
    pub is_insecure: bool,
}

impl BetterAuth {
    /// Reads the variables; `None` if nothing of Better Auth is configured. `ours` are the secrets of `JWT_SECRET` and
    /// `JWT_SECRET_PREVIOUS`.
    ///
    /// # Errors
    /// The first variable that is malformed, contradicts another or has no effect without another.
    pub fn from_environment(environment: &Environment, ours: &[&Secret]) -> Result<Option<BetterAuth>, ConfigError> {
        let secret: Option<Secret> = environment.optional(SECRET)?;
        if secret.as_ref().is_some_and(|secret| ours.contains(&secret)) {
            return Err(config_error(SECRET, "must differ from JWT_SECRET and JWT_SECRET_PREVIOUS"));
        }
        let is_http_host = match environment.read(INSECURE_HTTP)?.as_deref() {
            None => is_this_machine,
            Some("yes") => |_: &str| true,
            Some(_) => return Err(config_error(INSECURE_HTTP, "may only be yes")),
        };
        let origin = environment.read(URL)?.map(|url| origin(URL, &url, is_http_host)).transpose()?;
        let jwks_url = match (environment.read(JWKS_URL)?, &origin) {
            (Some(url), _) => Some(location(JWKS_URL, &url, is_http_host).map(|_| url)?),
            (None, Some(origin)) => Some(format!("{origin}{JWKS_PATH}")),
            (None, None) => None,
        };
        let issuer = environment.read(ISSUER)?.or_else(|| origin.clone());
        let audience = environment.read(AUDIENCE)?.or(origin);
        for (variable, value) in [(ISSUER, &issuer), (AUDIENCE, &audience)] {
            if jwks_url.is_some() && value.is_none() {
                return Err(config_error(variable, "must be set if BETTER_AUTH_URL is not"));
            }
            if jwks_url.is_none() && secret.is_none() && value.is_some() {
                return Err(config_error(variable, "has no effect without BETTER_AUTH_URL or BETTER_AUTH_SECRET"));
            }
        }
        let is_configured = secret.is_some() || jwks_url.is_some();
        let is_insecure = jwks_url.as_ref().is_some_and(|url| location(JWKS_URL, url, is_this_machine).is_err());
        Ok(is_configured.then_some(BetterAuth { secret, jwks_url, issuer, audience, is_insecure }))
    }
}

/// The origin as browsers and Better Auth write it: lower case, no default port, no slash.
fn origin(variable: &'static str, url: &str, is_http_host: fn(&str) -> bool) -> Result<String, ConfigError> {
    let uri = location(variable, url, is_http_host)?;
    if !["", "/"].contains(&uri.path()) || uri.query().is_some() {
        return Err(config_error(
            variable,
            "must be an origin without a path; if the keys are not at /api/auth/jwks, set BETTER_AUTH_JWKS_URL",
        ));
    }
    let (scheme, host) = (uri.scheme_str().unwrap_or_default(), uri.host().unwrap_or_default().to_ascii_lowercase());
    match (scheme, uri.port_u16()) {
        (_, None) | ("https", Some(443)) | ("http", Some(80)) => Ok(format!("{scheme}://{host}")),
        (_, Some(port)) => Ok(format!("{scheme}://{host}:{port}")),
    }
}

/// The URL, if keys may be fetched from it: over `http` only from these hosts, since anybody on the way could put in a key
/// of their own.
fn location(variable: &'static str, url: &str, is_http_host: fn(&str) -> bool) -> Result<Uri, ConfigError> {
    let rule = "must be an https URL without user and fragment, or http on this machine (localhost or a loopback address); \
                BETTER_AUTH_INSECURE_HTTP=yes allows http between containers of one host";
    let uri: Uri = url.parse().map_err(|_| config_error(variable, rule))?;
    let host = uri.host().unwrap_or_default();
    let is_allowed = match uri.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => !host.is_empty() && is_http_host(host),
        _ => false,
    };
    let has_port = uri.authority().is_some_and(|authority| !authority.as_str().ends_with(':'));
    if is_allowed && has_port && !url.contains(['@', '#']) { Ok(uri) } else { Err(config_error(variable, rule)) }
}

#[cfg(test)]
mod tests {
    use super::{is_this_machine, location, origin};

    #[test]
    fn an_origin_is_kept_as_better_auth_writes_it() {
        for (url, expected) in [
            ("https://Example.com", "https://example.com"),
            ("https://example.com:443/", "https://example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("http://[::1]:3000/", "http://[::1]:3000"),
        ] {
            assert_eq!(origin("X", url, is_this_machine).ok().as_deref(), Some(expected), "{url}");
        }
    }

    #[test]
    fn a_url_with_a_path_is_no_origin() {
        for url in ["https://example.com/app", "https://example.com/?a=b", "example.com", "https://", "/", "*", ""] {
            assert!(origin("X", url, is_this_machine).is_err(), "{url}");
        }
    }

    #[test]
    fn keys_are_fetched_over_https_or_from_this_machine() {
        for url in ["https://a.example/keys?x=1", "http://127.9.9.9/jwks", "http://LOCALHOST:1/", "http://[::1]/"] {
            assert!(location("X", url, is_this_machine).is_ok(), "{url}");
        }
        for url in [
            "http://example.com",
            "http://localhost.example.com/",
            "http://127.0.0.1.example.com/",
            "http://192.168.0.1/",
            "http://127.1/",
            "http://0.0.0.0/",
            "http://user@127.0.0.1/",
            "https://user:secret@example.com/",
            "https://example.com/#keys",
            "https://example.com:/",
            "ftp://localhost/",
            "file:///etc/keys",
            "//localhost/",
        ] {
            assert!(location("X", url, is_this_machine).is_err(), "{url}");
        }
    }

    #[test]
    fn plain_http_anywhere_is_allowed_only_by_its_setting() {
        for url in ["http://web:3000", "http://192.168.0.1/jwks"] {
            assert!(location("X", url, |_| true).is_ok() && location("X", url, is_this_machine).is_err(), "{url}");
        }
        for url in ["ftp://web/", "http://user@web/", "http:///jwks", "web:3000"] {
            assert!(location("X", url, |_| true).is_err(), "{url}");
        }
    }
}
