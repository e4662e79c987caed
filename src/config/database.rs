//! The database: how the driver connects, and TLS to it. TLS always verifies chain and name, and a host that is not this
//! machine gets TLS, whatever the connection string leaves out. A parameter that cannot be honoured is refused by its name.
//!
//! Source: PostgreSQL documentation, "Parameter Key Words" of libpq; OWASP ASVS 5.0 V12.3.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use postgres::config::{ChannelBinding, Host, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::connection_string;

/// For one address; several hosts share it, so that the second is asked before the request's time is over.
const TCP_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that has vanished is noticed a minute later, not two hours. These probes wake no serverless database.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;

/// Parameters of libpq and of other programs' strings that cannot be honoured here. A name outside this list is not repeated.
#[rustfmt::skip]
const REFUSED: &[&str] = &[
    "connection_limit", "gssdelegation", "gsslib", "krbsrvname", "max_protocol_version", "min_protocol_version",
    "passfile", "pool_timeout", "replication", "require_auth", "requirepeer", "schema", "service", "servicefile",
    "socket_timeout", "sslaccept", "sslcert", "sslcrl", "sslcrldir", "sslidentity", "sslkey", "sslkeylogfile", "sslpassword",
    "ssl_max_protocol_version", "statement_cache_size",
];
/// Parameters whose value changes nothing here, with the values for which that is so; without any, all of them.
const WITHOUT_EFFECT: &[(&str, &[&str])] = &[
    ("client_encoding", &["auto", "utf8", "UTF8", "utf-8", "UTF-8", "unicode", "UNICODE"]),
    ("gssencmode", &["disable", "prefer"]),
    ("sslcertmode", &["disable", "allow"]),
    ("sslcompression", &["0"]),
    ("sslsni", &["1"]),
    // Written by Vercel beside Supabase's pooler, and by node-postgres' users.
    ("supa", &[]),
    ("uselibpqcompat", &[]),
    ("workaround", &[]),
    // Nothing older than TLS 1.2 is spoken.
    ("ssl_min_protocol_version", &["", "TLSv1", "TLSv1.1", "TLSv1.2"]),
];

/// Where the database is and how to speak to it. It has no Debug: it holds the password.
#[derive(Clone)]
pub struct DatabaseConfig {
    /// What the driver connects by.
    pub driver: postgres::Config,
    /// Trusts the authorities of `sslrootcert`, by default Mozilla's list.
    pub tls: ClientConfig,
    /// Whether the server may be asked to keep prepared statements: not where the string says `pgbouncer=true`.
    pub prepares_statements: bool,
    /// Connections in the pool.
    pub pool_size: u32,
}

impl DatabaseConfig {
    /// The database that the string names.
    ///
    /// # Errors
    /// The rule that the string breaks, without any value of it.
    pub fn parse(text: &str, pool_size: u32) -> Result<DatabaseConfig, String> {
        let mut parameters = connection_string::parameters(text)?;
        let driver = driver(&mut parameters)?;
        let prepares_statements = match parameters.remove("pgbouncer").as_deref() {
            None | Some("false") => true,
            Some("true") => false,
            Some(_) => return Err("has a value for pgbouncer that is neither true nor false".into()),
        };
        let uses_tls = driver.get_ssl_mode() == SslMode::Require;
        let roots = match parameters.remove("sslrootcert") {
            Some(path) if uses_tls && path != "system" => roots_from_file(&path)?,
            _ if uses_tls => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
            _ => RootCertStore::empty(),
        };
        for (name, value) in &parameters {
            refuse_unless_without_effect(name, value)?;
        }
        Ok(DatabaseConfig { tls: tls(roots, driver.get_ssl_negotiation())?, driver, prepares_statements, pool_size })
    }

    /// Whether connections are encrypted, and the server's name and certificate verified.
    pub fn uses_tls(&self) -> bool {
        self.driver.get_ssl_mode() == SslMode::Require
    }

    /// A socket path, `localhost` or a loopback address, as written; no name is resolved to decide.
    pub fn is_this_machine(&self) -> bool {
        is_this_machine(&self.driver)
    }
}

fn is_this_machine(driver: &postgres::Config) -> bool {
    let host_is_here = |host: &Host| match host {
        Host::Tcp(name) => super::is_this_machine(name),
        Host::Unix(_) => true,
    };
    driver.get_hosts().iter().all(host_is_here) && driver.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

/// The driver's settings; takes out of the parameters what it has applied.
fn driver(parameters: &mut BTreeMap<String, String>) -> Result<postgres::Config, String> {
    let mut driver = postgres::Config::new();
    driver
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES);
    for (name, apply) in APPLIED {
        if let Some(value) = parameters.remove(*name) {
            apply(&mut driver, &value).ok_or_else(|| format!("has a value for {name} that cannot be honoured"))?;
        }
    }
    let (hosts, addresses) = (driver.get_hosts().len(), driver.get_hostaddrs().len());
    if hosts == 0 && addresses == 0 || driver.get_hosts().contains(&Host::Tcp(String::new())) {
        return Err("names no host".into());
    }
    if driver.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if !name.bytes().all(is_host_byte))) {
        return Err("names a host with a character that no host has".into());
    }
    let count = hosts.max(addresses);
    if hosts > 0 && addresses > 0 && hosts != addresses || ![0, 1, count].contains(&driver.get_ports().len()) {
        return Err("has lists of hosts, addresses and ports that differ in length".into());
    }
    if driver.get_application_name().is_none() {
        driver.application_name(&parameters.remove("fallback_application_name").unwrap_or_else(|| "latchkey".into()));
    }
    let limit = TCP_CONNECT_TIMEOUT / u32::try_from(count).unwrap_or(u32::MAX);
    driver.connect_timeout(driver.get_connect_timeout().map_or(limit, |asked| limit.min(*asked)));
    driver.ssl_mode(ssl_mode(parameters.remove("sslmode").as_deref(), &driver)?);
    let is_plain = driver.get_ssl_mode() == SslMode::Disable;
    if is_plain && driver.get_channel_binding() == ChannelBinding::Require {
        return Err("asks for channel_binding, which needs TLS".into());
    }
    if is_plain && driver.get_ssl_negotiation() == SslNegotiation::Direct {
        return Err("asks for sslnegotiation=direct, which needs TLS".into());
    }
    if !is_plain && hosts == 0 {
        return Err("has hostaddr without host: TLS has no name to verify".into());
    }
    Ok(driver)
}

/// What names and addresses are made of, an IPv6 zone included.
fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte)
}

/// Plain text where it is asked for, or on this machine where nothing else is; else TLS with full verification, of
/// which libpq's weaker modes are only a part.
fn ssl_mode(asked: Option<&str>, driver: &postgres::Config) -> Result<SslMode, String> {
    // As in libpq: a socket path never speaks TLS.
    let is_tcp = driver.get_hosts().iter().any(|host| matches!(host, Host::Tcp(_))) || driver.get_hosts().is_empty();
    match asked {
        Some("disable") => Ok(SslMode::Disable),
        None | Some("allow" | "prefer") if is_this_machine(driver) => Ok(SslMode::Disable), // S37
        None | Some("allow" | "prefer" | "require" | "verify-ca" | "verify-full") => {
            Ok(if is_tcp { SslMode::Require } else { SslMode::Disable })
        }
        Some("no-verify") => Err("has sslmode=no-verify: name the server's authority by sslrootcert instead".into()),
        Some(_) => Err("has an sslmode that libpq does not know".into()),
    }
}

/// How one parameter is applied to the driver; `None` if the value cannot be honoured.
type Apply = fn(&mut postgres::Config, &str) -> Option<()>;

#[rustfmt::skip]
const APPLIED: &[(&str, Apply)] = &[
    ("host", |driver, value| { value.split(',').for_each(|host| { driver.host(host); }); Some(()) }),
    ("hostaddr", |driver, value| value.split(',').try_for_each(|a| { driver.hostaddr(a.parse().ok()?); Some(()) })),
    ("port", |driver, value| value.split(',').try_for_each(|text| {
        driver.port(if text.is_empty() { 5432 } else { text.parse().ok()? });
        Some(())
    })),
    ("user", |driver, value| { driver.user(value); Some(()) }),
    ("password", |driver, value| { driver.password(value); Some(()) }),
    ("dbname", |driver, value| { driver.dbname(value); Some(()) }),
    ("options", |driver, value| { driver.options(value); Some(()) }),
    ("application_name", |driver, value| { driver.application_name(value); Some(()) }),
    ("connect_timeout", |driver, value| {
        if let seconds @ 1.. = number(value)? { driver.connect_timeout(Duration::from_secs(seconds)); }
        Some(())
    }),
    // libpq counts milliseconds, the driver's own parser seconds.
    ("tcp_user_timeout", |driver, value| {
        if let milliseconds @ 1.. = number(value)? { driver.tcp_user_timeout(Duration::from_millis(milliseconds)); }
        Some(())
    }),
    ("keepalives", |driver, value| { driver.keepalives(number(value)? != 0); Some(()) }),
    ("keepalives_idle", |driver, value| { driver.keepalives_idle(seconds_or(value, KEEPALIVE_IDLE)?); Some(()) }),
    ("keepalives_interval", |driver, value| {
        driver.keepalives_interval(seconds_or(value, KEEPALIVE_INTERVAL)?);
        Some(())
    }),
    ("keepalives_count", |driver, value| {
        let count = u32::try_from(number(value)?).ok()?;
        driver.keepalives_retries(if count == 0 { KEEPALIVE_RETRIES } else { count });
        Some(())
    }),
    ("target_session_attrs", |driver, value| {
        driver.target_session_attrs(match value {
            "any" => TargetSessionAttrs::Any,
            "read-write" => TargetSessionAttrs::ReadWrite,
            _ => return None,
        });
        Some(())
    }),
    ("load_balance_hosts", |driver, value| {
        driver.load_balance_hosts(match value {
            "disable" => LoadBalanceHosts::Disable,
            "random" => LoadBalanceHosts::Random,
            _ => return None,
        });
        Some(())
    }),
    ("channel_binding", |driver, value| {
        driver.channel_binding(match value {
            "disable" => ChannelBinding::Disable,
            "prefer" => ChannelBinding::Prefer,
            "require" => ChannelBinding::Require,
            _ => return None,
        });
        Some(())
    }),
    ("sslnegotiation", |driver, value| {
        driver.ssl_negotiation(match value {
            "postgres" => SslNegotiation::Postgres,
            "direct" => SslNegotiation::Direct,
            _ => return None,
        });
        Some(())
    }),
];

/// A whole number; libpq takes a negative one for zero.
fn number(text: &str) -> Option<u64> {
    i64::from_str(text).ok().map(|number| u64::try_from(number).unwrap_or(0))
}

/// Seconds; zero is the default.
fn seconds_or(text: &str, default: Duration) -> Option<Duration> {
    number(text).map(|seconds| if seconds == 0 { default } else { Duration::from_secs(seconds) })
}

fn refuse_unless_without_effect(name: &str, value: &str) -> Result<(), String> {
    let without_effect = WITHOUT_EFFECT.iter().find(|(known, _)| *known == name);
    match without_effect {
        Some((_, values)) if values.is_empty() || values.contains(&value) => Ok(()),
        Some((known, _)) => Err(format!("has a value for {known} that cannot be honoured")),
        None if name == "fallback_application_name" => Ok(()),
        None => match REFUSED.iter().find(|known| **known == name) {
            Some(known) => Err(format!("has the parameter {known}, which has no effect here: take it out")),
            None => Err("has a parameter that is not known (its name may be a piece of an unescaped password)".into()),
        },
    }
}

fn roots_from_file(path: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|_| "has an sslrootcert that cannot be read")?;
    for certificate in certificates {
        let certificate = certificate.map_err(|_| "has an sslrootcert that is not PEM")?;
        roots.add(certificate).map_err(|_| "has an sslrootcert with a certificate that cannot be used")?;
    }
    if roots.is_empty() {
        return Err("has an sslrootcert without a certificate".into());
    }
    Ok(roots)
}

fn tls(roots: RootCertStore, negotiation: SslNegotiation) -> Result<ClientConfig, String> {
    let mut tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| "cannot be used: TLS has no protocol version")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    if negotiation == SslNegotiation::Direct {
        // Without it a server refuses TLS that was not asked for first.
        tls.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(tls)
}
