//! Secrets that sign or verify tokens: what is too weak to be one.
//!
//! Source: OWASP ASVS 5.0 V13.3; RFC 7518 section 3.2 (an HS256 key has at least 256 bits).

use std::fmt;
use std::str::FromStr;

const MIN_BYTES: usize = 32;
const MIN_DIFFERENT_BYTES: usize = 10;
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

/// Bytes that sign. The Debug is redacted.
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
        if bytes.len() < MIN_BYTES {
            return Err(format!("must be at least {MIN_BYTES} bytes long"));
        }
        let lower = text.to_ascii_lowercase();
        // S54
        if PLACEHOLDERS.iter().any(|known| lower.contains(known)) {
            return Err("is a placeholder from an example; take 32 random bytes".into());
        }
        if repeats_a_piece(bytes) {
            return Err("repeats a shorter piece; take 32 random bytes".into());
        }
        let mut different = bytes.to_vec();
        different.sort_unstable();
        different.dedup();
        if different.len() < MIN_DIFFERENT_BYTES {
            return Err(format!("must hold at least {MIN_DIFFERENT_BYTES} different bytes"));
        }
        Ok(Secret(bytes.to_vec()))
    }
}

/// Whether the bytes are one shorter piece over and over; the last one may be cut.
fn repeats_a_piece(bytes: &[u8]) -> bool {
    (1..=bytes.len() / 2).any(|length| bytes.iter().zip(bytes.iter().skip(length)).all(|(a, b)| a == b))
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
    fn a_random_secret_is_accepted_and_its_debug_redacted() {
        let secret = "Zr8vQ1x-LmT0yB5hKd2sWg9uNe6oPc3a_fJ7".parse::<Secret>();
        assert!(format!("{secret:?}").contains("Secret(…)"));
    }

    #[test]
    fn a_repetition_is_found_even_where_the_last_piece_is_cut() {
        assert!(repeats_a_piece(b"abcabca") && !repeats_a_piece(b"abcdabce"));
    }
}
