//! The address that a request comes from, behind trusted proxies too.
//!
//! Source: RFC 7239 section 5.2 and what proxies write into `X-Forwarded-For`, for which there is no standard.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use log::warn;

/// The proxies in front that append to `X-Forwarded-For`.
#[derive(Default)]
pub struct TrustedProxies {
    count: usize,
    was_warned: AtomicBool,
}

impl TrustedProxies {
    /// So many proxies, of which each appends one entry; 0: nobody's entry is believed.
    pub fn new(count: usize) -> TrustedProxies {
        TrustedProxies { count, was_warned: AtomicBool::new(false) }
    }

    /// S49: the client's address, IPv4 also where it came mapped into IPv6: with N proxies the N-th entry from the right over
    /// all lines of `X-Forwarded-For`, since anybody can write what stands farther left. The socket's address where the
    /// entries are fewer or it is not readable. Warns once per process of a setting that does not fit the requests.
    pub fn address<'a>(&self, socket: IpAddr, headers: impl Iterator<Item = (&'a str, &'a str)>) -> IpAddr {
        let socket = socket.to_canonical();
        let mut lines = headers.filter(|(name, _)| name.eq_ignore_ascii_case("X-Forwarded-For")).map(|(_, line)| line);
        if self.count == 0 {
            if lines.next().is_some() && is_near(socket) {
                self.warn_once("X-Forwarded-For comes from a near address and TRUSTED_PROXIES is 0");
            }
            return socket;
        }
        let entries: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
        let forwarded = entries.iter().rev().nth(self.count - 1).and_then(|entry| parse_entry(entry.trim()));
        forwarded.unwrap_or_else(|| {
            self.warn_once("X-Forwarded-For has fewer entries than TRUSTED_PROXIES, or no address in its place");
            socket
        })
    }

    fn warn_once(&self, reason: &str) {
        if !self.was_warned.swap(true, Ordering::Relaxed) {
            warn!("event=proxy reason=\"{reason}\"");
        }
    }
}

/// Whether a proxy of the operator's may well have this address.
fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_private(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

/// An address as proxies write it: alone, with a port, in brackets.
fn parse_entry(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(entry);
    let address = bare.parse().ok().or_else(|| entry.parse().ok().map(|with_port: SocketAddr| with_port.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::TrustedProxies;

    fn address_behind(lines: &[&str], proxies: usize) -> String {
        let headers = lines.iter().map(|line| ("x-forwarded-for", *line));
        TrustedProxies::new(proxies).address([10, 0, 0, 9].into(), headers).to_string()
    }

    #[test]
    fn s49_only_what_trusted_proxies_appended_is_believed() {
        let lines = ["1.1.1.1, 2.2.2.2", "3.3.3.3"];
        for (proxies, expected) in [(0, "10.0.0.9"), (1, "3.3.3.3"), (2, "2.2.2.2"), (3, "1.1.1.1"), (4, "10.0.0.9")] {
            assert_eq!(address_behind(&lines, proxies), expected, "{proxies} proxies");
        }
    }

    #[test]
    fn a_forwarded_address_may_have_a_port_and_brackets() {
        for (entry, expected) in [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7:51234", "203.0.113.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:443", "2001:db8::7"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("[::ffff:203.0.113.7]:80", "203.0.113.7"),
            ("unknown", "10.0.0.9"),
            ("203.0.113.7:", "10.0.0.9"),
            ("203.0.113.7:99999", "10.0.0.9"),
            ("203.0.113.7 5", "10.0.0.9"),
            ("[2001:db8::7", "10.0.0.9"),
            ("_hidden", "10.0.0.9"),
            ("", "10.0.0.9"),
        ] {
            assert_eq!(address_behind(&["1.1.1.1", entry], 1), expected, "{entry}");
        }
    }
}
