//! `CORS_ORIGINS`: the other origins whose pages may read the answers.
//!
//! Source: RFC 6454 section 6.2 (how an origin is written).

use std::net::Ipv6Addr;
use std::str::FromStr;

/// The origins that are allowed; by default none.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    origins: Vec<String>,
}

impl FromStr for Origins {
    type Err = &'static str;

    /// Origins between commas, each exactly as browsers send it.
    fn from_str(text: &str) -> Result<Origins, &'static str> {
        const RULE: &str = "must be exact origins between commas, as browsers send them: scheme://host or \
             scheme://host:port in lower case, no path, no *, no port that the scheme has anyway";
        let origins: Vec<&str> = text.split(',').map(str::trim).collect();
        if !origins.iter().all(|origin| is_origin(origin)) {
            return Err(RULE);
        }
        Ok(Origins { origins: origins.into_iter().map(str::to_owned).collect() })
    }
}

impl Origins {
    /// Whether none is allowed.
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Whether this is one of them, as the browser sent it.
    pub fn contains(&self, origin: &str) -> bool {
        self.origins.iter().any(|allowed| allowed == origin)
    }
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
    use super::Origins;

    #[test]
    fn only_what_a_browser_can_send_is_an_origin() {
        for good in [
            "http://localhost:3000",
            "https://app.example.com",
            "https://app.example.com:8443, http://127.0.0.1:5173",
            "http://[::1]:3000",
            "tauri://localhost",
        ] {
            assert!(good.parse::<Origins>().is_ok(), "{good}");
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
            assert!(bad.parse::<Origins>().is_err(), "{bad}");
        }
    }
}
