//! One fetch of the published key set: `https` with the authorities of Mozilla's list, no redirect, no proxy, 64 KiB, 5 s.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use ureq::Agent;
use ureq::tls::TlsConfig;

use super::keys::Listing;

/// For the whole fetch, from the name look-up to the last byte.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const DOCUMENT_MAX_BYTES: u64 = 64 * 1024;

/// The keys at this URL.
///
/// # Errors
/// Why there are none, for the log.
pub(super) fn fetch(url: &str) -> Result<Listing, String> {
    let mut answer = agent(url).get(url).call().map_err(|error| error.to_string())?;
    if answer.status() != 200 {
        return Err(format!("status {}", answer.status().as_u16()));
    }
    let document = answer.body_mut().with_config().limit(DOCUMENT_MAX_BYTES).read_to_vec();
    let document = document.map_err(|error| error.to_string())?;
    Listing::read(&document).ok_or_else(|| "not a JSON Web Key Set".to_owned())
}

/// A new one for each fetch, so that no fetch that failed or panicked affects the next.
fn agent(url: &str) -> Agent {
    let tls = TlsConfig::builder()
        // Without this line there would be no provider: the features that bring one are off.
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .build();
    Agent::config_builder()
        .https_only(url.starts_with("https:"))
        // S60
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_global(Some(FETCH_TIMEOUT))
        .max_idle_connections(0)
        // The proxy variables of the environment are no setting of this program.
        .proxy(None)
        .user_agent("latchkey")
        .accept("application/json")
        .tls_config(tls)
        .build()
        .into()
}
