//! The entries of a published key set: the one algorithm of each key, or why the entry is no key for us.
//!
//! Pure. Source: RFC 7517 (JWK), RFC 7518 section 6 (key types), RFC 8037 (Ed25519), RFC 8725 section 3.5 (key sizes).

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::BASE64URL;
use crate::json::without_duplicates;

const COORDINATE_BYTES: usize = 32;
/// 2048 bits.
const RSA_MODULUS_MIN_BYTES: usize = 256;
/// 8192 bits, the most that the library accepts.
const RSA_MODULUS_MAX_BYTES: usize = 1024;
/// 65537, the usual one. With exponent 1 anybody could sign.
const RSA_EXPONENT: &[u8] = &[1, 0, 1];

/// A key and the one algorithm it is used with (RFC 8725 section 3.1).
pub(super) struct VerifyingKey {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// What one document holds.
#[derive(Default)]
pub(super) struct Listing {
    /// By key id.
    pub(super) keys: HashMap<String, Arc<VerifyingKey>>,
    /// For the log: why each of the other entries is no key for us.
    pub(super) refused: Vec<&'static str>,
}

impl Listing {
    /// The keys of a document; `None` if it is no key set or has a duplicate member.
    pub(super) fn read(document: &[u8]) -> Option<Listing> {
        let document = without_duplicates(document)?;
        let entries: Vec<_> = document.get("keys")?.as_array()?.iter().filter_map(Value::as_object).collect();
        let mut uses_of_id: HashMap<&str, usize> = HashMap::new();
        for entry in &entries {
            *uses_of_id.entry(text(entry, "kid").unwrap_or_default()).or_default() += 1;
        }
        let mut listing = Listing::default();
        for entry in &entries {
            let id = text(entry, "kid").unwrap_or_default();
            let key = match uses_of_id.get(id) {
                _ if id.is_empty() => Err("no_kid"),
                Some(1) => key(entry),
                // There is no telling which of them is meant.
                _ => Err("duplicate_kid"),
            };
            match key {
                Ok(key) => drop(listing.keys.insert(id.to_owned(), Arc::new(key))),
                Err(reason) => listing.refused.push(reason),
            }
        }
        Some(listing)
    }
}

fn key(entry: &Map<String, Value>) -> Result<VerifyingKey, &'static str> {
    if entry.contains_key("d") || entry.contains_key("k") {
        return Err("not_public");
    }
    if entry.get("use").is_some_and(|purpose| purpose != "sig") {
        return Err("other_use");
    }
    let verifies = |operations: &Value| operations.as_array().is_some_and(|all| all.iter().any(|one| one == "verify"));
    if entry.get("key_ops").is_some_and(|operations| !verifies(operations)) {
        return Err("other_use");
    }
    let algorithm = algorithm(entry)?;
    Ok(VerifyingKey { algorithm, key: public_key(entry, algorithm)? })
}

/// The algorithm, by type and curve of the key. An RSA key fits two algorithms, so that its entry must name one.
fn algorithm(entry: &Map<String, Value>) -> Result<Algorithm, &'static str> {
    let stated = match entry.get("alg") {
        None => None,
        Some(Value::String(stated)) => Some(stated.as_str()),
        Some(_) => return Err("algorithm_mismatch"),
    };
    match (text(entry, "kty"), text(entry, "crv"), stated) {
        (Some("OKP"), Some("Ed25519"), None | Some("EdDSA" | "Ed25519")) => Ok(Algorithm::EdDSA),
        (Some("EC"), Some("P-256"), None | Some("ES256")) => Ok(Algorithm::ES256),
        (Some("RSA"), None, Some("RS256")) => Ok(Algorithm::RS256),
        (Some("RSA"), None, Some("PS256")) => Ok(Algorithm::PS256),
        (Some("OKP" | "EC" | "RSA"), _, Some("EdDSA" | "Ed25519" | "ES256" | "RS256" | "PS256")) => {
            Err("algorithm_mismatch")
        }
        _ => Err("unsupported_algorithm"),
    }
}

fn public_key(entry: &Map<String, Value>, algorithm: Algorithm) -> Result<DecodingKey, &'static str> {
    let x = bytes(entry, "x").filter(|x| x.len() == COORDINATE_BYTES);
    let y = bytes(entry, "y").filter(|y| y.len() == COORDINATE_BYTES);
    let modulus = bytes(entry, "n").filter(|n| n.first().is_some_and(|first| *first != 0));
    match (algorithm, x, y, modulus) {
        (Algorithm::EdDSA, Some(x), None, None) => Ok(DecodingKey::from_ed_der(&x)),
        // An uncompressed point (SEC 1 section 2.3.3); that it lies on the curve is checked with each signature.
        (Algorithm::ES256, Some(x), Some(y), None) => Ok(DecodingKey::from_ec_der(&[&[4], &*x, &*y].concat())),
        (Algorithm::RS256 | Algorithm::PS256, None, None, Some(n)) => match bytes(entry, "e") {
            _ if !is_rsa_size(&n) => Err("rsa_size"),
            Some(e) if e == RSA_EXPONENT => Ok(DecodingKey::from_rsa_raw_components(&n, &e)),
            _ => Err("rsa_exponent"),
        },
        _ => Err("malformed"),
    }
}

fn is_rsa_size(modulus: &[u8]) -> bool {
    // A modulus of 2048 bits has the highest bit of its first byte set.
    let is_full = modulus.len() > RSA_MODULUS_MIN_BYTES || modulus.first().is_some_and(|first| *first >= 0x80);
    is_full && (RSA_MODULUS_MIN_BYTES..=RSA_MODULUS_MAX_BYTES).contains(&modulus.len())
}

fn text<'a>(entry: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    entry.get(name)?.as_str()
}

fn bytes(entry: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    BASE64URL.decode(text(entry, name)?).ok()
}
