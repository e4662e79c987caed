//! Which other origins' pages may read the answers. Without configuration no answer says anything of it; with it every
//! one says `Vary: Origin`, refusals of the listener included. Cookies are never allowed across origins: there are none.
//!
//! Source: Fetch Standard, "HTTP CORS protocol"; RFC 6454 section 6.2 (how an origin is written).

use std::net::Ipv6Addr;
use std::str::FromStr;

use rouille::Response;

/// What a page of another origin may read besides the status, the body and the harmless fields.
const EXPOSED: &str = "Link, Location, Retry-After, WWW-Authenticate, X-Request-Id";
/// Every method that any path knows, so that a page can read a 404 and a 405 too.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
const REQUEST_HEADERS: &str = "authorization, content-type";
/// How long a browser may remember a preflight: short, so that an origin that is struck off the list is soon off.
const PREFLIGHT_SECONDS: &str = "600";

/// The origins that are allowed; by default none, and then no header is added.
#[derive(Debug, Clone, Default)]
pub struct Cors {
    origins: Vec<String>,
}

impl FromStr for Cors {
    type Err = &'static str;

    /// Origins between commas, each exactly as browsers send it.
    fn from_str(text: &str) -> Result<Cors, &'static str> {
        const RULE: &str = "must be exact origins between commas, as browsers send them: scheme://host or \
             scheme://host:port in lower case, no path, no *, no port that the scheme has anyway";
        let origins: Vec<&str> = text.split(',').map(str::trim).collect();
        if !origins.iter().all(|origin| is_origin(origin)) {
            return Err(RULE);
        }
        Ok(Cors { origins: origins.into_iter().map(str::to_owned).collect() })
    }
}

impl Cors {
    /// The answer with what its reader's browser has to know. A preflight from an allowed origin is 204 on every path.
    pub fn applied<'a>(
        &self,
        response: Response,
        method: &str,
        mut headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Response {
        if self.origins.is_empty() {
            return response;
        }
        let is_preflight = method == "OPTIONS"
            && headers.clone().any(|(name, _)| name.eq_ignore_ascii_case("Access-Control-Request-Method"));
        let origin = headers.find(|(name, _)| name.eq_ignore_ascii_case("Origin")).map(|(_, value)| value);
        let Some(origin) = origin.filter(|origin| self.origins.iter().any(|allowed| allowed == origin)) else {
            return response.with_additional_header("Vary", "Origin");
        };
        let response = match is_preflight {
            true if response.status_code == 404 => allowing(Response::empty_204()),
            true => allowing(response),
            false => response.with_additional_header("Access-Control-Expose-Headers", EXPOSED),
        };
        response
            .with_additional_header("Vary", "Origin")
            .with_additional_header("Access-Control-Allow-Origin", origin.to_owned())
    }
}

fn allowing(response: Response) -> Response {
    response
        .with_additional_header("Access-Control-Allow-Methods", METHODS)
        .with_additional_header("Access-Control-Allow-Headers", REQUEST_HEADERS)
        .with_additional_header("Access-Control-Max-Age", PREFLIGHT_SECONDS)
}

/// Whether a browser could send exactly this: anything else in the list would never match, which nobody would notice.
fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else {
        return false;
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    is_scheme && is_host(host) && port.is_none_or(|port| is_port(port, scheme))
}

fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok_and(|parsed| parsed.to_string() == address);
    }
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
    };
    text.split('.').all(is_label)
}

fn is_port(text: &str, scheme: &str) -> bool {
    let is_default = matches!((scheme, text), ("http", "80") | ("https", "443"));
    !is_default && text.parse::<u16>().is_ok_and(|port| port > 0 && port.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::Cors;

    #[test]
    fn only_what_a_browser_can_send_is_an_origin() {
        for good in [
            "http://localhost:3000",
            "https://app.example.com",
            "https://app.example.com:8443, http://127.0.0.1:5173",
            "http://[::1]:3000",
            "tauri://localhost",
        ] {
            assert!(good.parse::<Cors>().is_ok(), "{good}");
        }
        for bad in [
            "*",
            "null",
            "https://*.example.com",
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com/path",
            "https://App.example.com",
            "HTTPS://app.example.com",
            "https://app.example.com:443",
            "http://app.example.com:80",
            "http://app.example.com:0",
            "http://app.example.com:65536",
            "http://app.example.com:03000",
            "http://app.example.com:",
            "https://user@app.example.com",
            "https://",
            "https://a..b",
            "http://[::1",
            "http://[0:0:0:0:0:0:0:1]",
            "https://a.example,,https://b.example",
            "https://a.example,",
            "https://a.example https://b.example",
        ] {
            assert!(bad.parse::<Cors>().is_err(), "{bad}");
        }
    }
}
