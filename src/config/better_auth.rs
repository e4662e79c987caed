//! The settings of the one other authority whose tokens are taken: a Better Auth, by its key set, by a shared secret, or
//! by both.

use ureq::http::Uri;

use super::{ConfigError, Environment, Secret, config_error, is_this_machine};

const SECRET: &str = "BETTER_AUTH_SECRET";
const URL: &str = "BETTER_AUTH_URL";
const JWKS_URL: &str = "BETTER_AUTH_JWKS_URL";
const ISSUER: &str = "BETTER_AUTH_ISSUER";
const AUDIENCE: &str = "BETTER_AUTH_AUDIENCE";
/// Where Better Auth's JWT plugin publishes its keys unless told otherwise.
const JWKS_PATH: &str = "/api/auth/jwks";

/// Which tokens of Better Auth are taken.
#[derive(Debug, Clone)]
pub struct BetterAuth {
    /// Verifies HS256 tokens without a key id.
    pub secret: Option<Secret>,
    /// Where the key set is: `https`, or `http` on this machine.
    pub jwks_url: Option<String>,
    /// What `iss` must be; always there beside a key set.
    pub issuer: Option<String>,
    /// What `aud` must be or hold; always there beside a key set.
    pub audience: Option<String>,
}

impl BetterAuth {
    /// What the environment says; nothing if none of the variables is set. `ours` are the secrets that sign local tokens.
    ///
    /// # Errors
    /// The first variable that is malformed, contradicts another or stands alone.
    pub fn from_environment(environment: &Environment, ours: &[&Secret]) -> Result<Option<BetterAuth>, ConfigError> {
        let secret: Option<Secret> = environment.optional(SECRET)?;
        if secret.as_ref().is_some_and(|secret| ours.contains(&secret)) {
            return Err(config_error(SECRET, "must differ from JWT_SECRET and JWT_SECRET_PREVIOUS"));
        }
        let origin = environment.read(URL)?.map(|url| origin(URL, &url)).transpose()?;
        let jwks_url = match (environment.read(JWKS_URL)?, &origin) {
            (Some(url), _) => Some(location(JWKS_URL, &url).map(|_| url)?),
            (None, Some(origin)) => Some(format!("{origin}{JWKS_PATH}")),
            (None, None) => None,
        };
        let issuer = environment.read(ISSUER)?.or_else(|| origin.clone());
        let audience = environment.read(AUDIENCE)?.or(origin);
        for (variable, value) in [(ISSUER, &issuer), (AUDIENCE, &audience)] {
            if jwks_url.is_some() && value.is_none() {
                return Err(config_error(
                    variable,
                    "must be set where BETTER_AUTH_JWKS_URL is and BETTER_AUTH_URL is not",
                ));
            }
            if jwks_url.is_none() && secret.is_none() && value.is_some() {
                return Err(config_error(variable, "says nothing without BETTER_AUTH_URL or BETTER_AUTH_SECRET"));
            }
        }
        let is_configured = secret.is_some() || jwks_url.is_some();
        Ok(is_configured.then_some(BetterAuth { secret, jwks_url, issuer, audience }))
    }
}

/// The origin as browsers and Better Auth write it: lower case, no default port, no slash.
fn origin(variable: &'static str, url: &str) -> Result<String, ConfigError> {
    let uri = location(variable, url)?;
    if !["", "/"].contains(&uri.path()) || uri.query().is_some() {
        return Err(config_error(
            variable,
            "must be an origin without a path; where the keys are not at /api/auth/jwks, set BETTER_AUTH_JWKS_URL",
        ));
    }
    let (scheme, host) = (uri.scheme_str().unwrap_or_default(), uri.host().unwrap_or_default().to_ascii_lowercase());
    match (scheme, uri.port_u16()) {
        (_, None) | ("https", Some(443)) | ("http", Some(80)) => Ok(format!("{scheme}://{host}")),
        (_, Some(port)) => Ok(format!("{scheme}://{host}:{port}")),
    }
}

/// The URL, if keys may be fetched from it: over plain http anybody on the way could put their own key in.
fn location(variable: &'static str, url: &str) -> Result<Uri, ConfigError> {
    let rule =
        "must be an https URL without user and fragment, or http on this machine (localhost or a loopback address)";
    let uri: Uri = url.parse().map_err(|_| config_error(variable, rule))?;
    let host = uri.host().unwrap_or_default();
    let is_allowed = match uri.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => is_this_machine(host),
        _ => false,
    };
    let has_port = uri.authority().is_some_and(|authority| !authority.as_str().ends_with(':'));
    if is_allowed && has_port && !url.contains(['@', '#']) { Ok(uri) } else { Err(config_error(variable, rule)) }
}

#[cfg(test)]
mod tests {
    use super::{location, origin};

    #[test]
    fn an_origin_is_kept_as_better_auth_writes_it() {
        for (url, expected) in [
            ("https://Example.com", "https://example.com"),
            ("https://example.com:443/", "https://example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("http://[::1]:3000/", "http://[::1]:3000"),
        ] {
            assert_eq!(origin("X", url).ok().as_deref(), Some(expected), "{url}");
        }
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for url in ["https://example.com/app", "https://example.com/?a=b", "example.com", "https://", "/", "*", ""] {
            assert!(origin("X", url).is_err(), "{url}");
        }
    }

    #[test]
    fn keys_are_fetched_over_https_or_from_this_machine() {
        for url in ["https://a.example/keys?x=1", "http://127.9.9.9/jwks", "http://LOCALHOST:1/", "http://[::1]/"] {
            assert!(location("X", url).is_ok(), "{url}");
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
            assert!(location("X", url).is_err(), "{url}");
        }
    }
}
