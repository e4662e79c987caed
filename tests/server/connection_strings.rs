//! Connection strings: what providers and tools print is accepted, or refused by a line that says what to change, which
//! never repeats a piece of the string and asks no name server. No database is needed.

use std::time::{Duration, Instant};

use latchkey::config::DatabaseConfig as Parsed;
use postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation};

use crate::peers::{ADA_PASSWORD, ADA_PASSWORD_ESCAPED};
use crate::support::{environment, run};

fn parse(text: &str) -> Parsed {
    Parsed::parse(text, 10).unwrap_or_else(|rule| panic!("{text}: {rule}"))
}

#[test]
fn the_strings_that_neon_prints_are_accepted() {
    for (text, binding, negotiation) in [
        ("sslmode=require&channel_binding=require", ChannelBinding::Require, SslNegotiation::Postgres),
        ("sslmode=require", ChannelBinding::Prefer, SslNegotiation::Postgres),
        ("sslmode=verify-full", ChannelBinding::Prefer, SslNegotiation::Postgres),
        ("sslmode=verify-full&sslrootcert=system", ChannelBinding::Prefer, SslNegotiation::Postgres),
        ("sslmode=require&sslnegotiation=direct", ChannelBinding::Prefer, SslNegotiation::Direct),
        ("sslmode=require&pgbouncer=true&connect_timeout=15", ChannelBinding::Prefer, SslNegotiation::Postgres),
        ("", ChannelBinding::Prefer, SslNegotiation::Postgres),
    ] {
        for host in ["ep-a-b-123456.eu-central-1.aws.neon.tech", "ep-a-b-123456-pooler.eu-central-1.aws.neon.tech"] {
            for scheme in ["postgres", "postgresql"] {
                let database = parse(&format!("{scheme}://ada:npg_A1b2@{host}/neondb?{text}"));
                let driver = &database.driver;
                assert_eq!(driver.get_hosts(), [Host::Tcp(host.into())]);
                assert_eq!((driver.get_user(), driver.get_dbname()), (Some("ada"), Some("neondb")));
                assert_eq!(driver.get_password(), Some(&b"npg_A1b2"[..]));
                assert_eq!(driver.get_ssl_mode(), SslMode::Require, "{text}");
                assert_eq!(driver.get_channel_binding(), binding, "{text}");
                assert_eq!(driver.get_ssl_negotiation(), negotiation, "{text}");
                assert!(!database.is_this_machine());
            }
        }
    }
    let endpoint = parse("postgresql://ada:x@ep-a.neon.tech/db?sslmode=require&options=endpoint%3Dep-a-b-123456");
    assert_eq!(endpoint.driver.get_options(), Some("endpoint=ep-a-b-123456"));
}

#[test]
fn what_users_of_libpq_write_is_accepted() {
    let escaped = parse(&format!("postgres://a%40da:{ADA_PASSWORD_ESCAPED}@localhost:6543/d%20b"));
    assert_eq!(escaped.driver.get_password(), Some(ADA_PASSWORD.as_bytes()));
    assert_eq!((escaped.driver.get_user(), escaped.driver.get_dbname()), (Some("a@da"), Some("d b")));
    assert_eq!(escaped.driver.get_ports(), [6543]);
    let pairs = parse(r"host=localhost port = 6543 user=ada password='it\'s \\ x' dbname=db keepalives_count=5");
    assert_eq!(pairs.driver.get_password(), Some(&br"it's \ x"[..]));
    assert_eq!(pairs.driver.get_keepalives_retries(), Some(5));
    let several = parse("postgres://ada@[::1]:1,localhost,127.0.0.1:3/db?target_session_attrs=read-write");
    assert_eq!(several.driver.get_hosts(), ["::1", "localhost", "127.0.0.1"].map(|host| Host::Tcp(host.into())));
    assert_eq!(several.driver.get_ports(), [1, 5432, 3]);
    assert!(several.is_this_machine() && !several.uses_tls());
    for socket in ["postgres:///db?host=/run/pg&user=ada", "postgres://%2Frun%2Fpg/db", "host=/run/pg dbname=db"] {
        let socket = parse(socket);
        assert_eq!(socket.driver.get_hosts(), [Host::Unix("/run/pg".into())]);
        assert!(socket.is_this_machine());
    }
    let milliseconds = parse("host=localhost tcp_user_timeout=1500");
    assert_eq!(milliseconds.driver.get_tcp_user_timeout(), Some(&Duration::from_millis(1500)));
}

#[test]
fn s37_a_host_elsewhere_gets_tls_unless_disable_is_written() {
    for (text, tls) in [
        ("host=db.example.org", true),
        ("host=db.example.org sslmode=allow", true),
        ("host=db.example.org sslmode=prefer", true),
        ("host=db.example.org sslmode=verify-ca", true),
        ("host=db.example.org sslmode=disable", false),
        ("host=192.0.2.1", true),
        ("host=localhost,db.example.org", true),
        ("host=localhost hostaddr=192.0.2.1", true),
        ("host=localhost.example.org", true),
        ("host=localhost", false),
        ("host=127.0.0.1", false),
        ("host=::1 sslmode=prefer", false),
        ("host=localhost sslmode=require", true),
        ("host=127.0.0.1 sslmode=verify-full", true),
        ("host=/run/postgresql sslmode=require", false),
    ] {
        assert_eq!(parse(text).uses_tls(), tls, "{text}");
    }
}

#[test]
fn a_refused_parameter_is_named_and_no_value_is_repeated() {
    for (text, named) in [
        ("postgres://ada:quokka@h/db?sslcert=quokka", "sslcert"),
        ("postgres://ada:quokka@h/db?pool_timeout=77", "pool_timeout"),
        ("postgres://ada:quokka@h/db?connection_limit=77", "connection_limit"),
        ("postgres://ada:quokka@h/db?service=quokka", "service"),
        ("postgres://ada:quokka@h/db?sslmode=quokka", "sslmode"),
        ("postgres://ada:quokka@h/db?channel_binding=quokka", "channel_binding"),
        ("postgres://ada:quokka@h:quokka/db", "port"),
        ("postgres://ada:quokka@h/db?gssencmode=require", "gssencmode"),
        ("postgres://ada:quokka@h/db?target_session_attrs=standby", "target_session_attrs"),
        ("postgres://ada:quokka@h/db?sslrootcert=/nowhere/quokka", "sslrootcert"),
        ("postgres://ada:quokka@h/db?sslmode=disable&channel_binding=require", "channel_binding"),
        ("postgres://ada:quokka@localhost/db?sslnegotiation=direct", "sslnegotiation"),
        ("hostaddr=192.0.2.1 password=quokka", "hostaddr"),
        ("host=a,b port=1,2,3 password=quokka", "differ in length"),
        ("postgres:///db?user=quokka", "no host"),
        ("postgres://ada:x@h/db?quokka=1", "not known"),
        ("postgres://ada:quokka@h/db?quokka", "without a value"),
        ("postgres://ada:%ff@h/quokka", "UTF-8"),
        ("host=h password='quokka", "neither"),
        ("quokka", "neither"),
        ("mysql://ada:quokka@h/db", "neither"),
    ] {
        let Err(rule) = Parsed::parse(text, 10) else { panic!("{text} was taken") };
        assert!(rule.contains(named), "{text}: {rule}");
        assert!(!rule.contains("quokka") && !rule.contains("77"), "{text}: {rule}");
    }
}

#[test]
fn the_strings_of_providers_are_accepted() {
    for (provider, text, host) in [
        (
            "Supabase",
            "postgresql://postgres.abcdefghij:npg@aws-0-eu-central-1.pooler.supabase.com:5432/postgres",
            "aws-0-eu-central-1.pooler.supabase.com",
        ),
        (
            "Supabase by Vercel",
            "postgres://postgres.abcdefghij:npg@aws-0-us-east-1.pooler.supabase.com:6543/postgres?sslmode=require\
             &supa=base-pooler.x",
            "aws-0-us-east-1.pooler.supabase.com",
        ),
        (
            "RDS",
            "postgresql://ada:npg@latchkey.abcdefghij.eu-west-1.rds.amazonaws.com:5432/postgres",
            "latchkey.abcdefghij.eu-west-1.rds.amazonaws.com",
        ),
        (
            "Render",
            "postgresql://ada:npg@dpg-abcdefghij-a.frankfurt-postgres.render.com/ada_db",
            "dpg-abcdefghij-a.frankfurt-postgres.render.com",
        ),
        ("Railway", "postgresql://postgres:npg@roundhouse.proxy.rlwy.net:12345/railway", "roundhouse.proxy.rlwy.net"),
        ("Fly", "postgres://ada:npg@latchkey-db.flycast:5432/ada?sslmode=disable", "latchkey-db.flycast"),
        (
            "Heroku",
            "postgres://ada:npg@ec2-1-2-3-4.eu-west-1.compute.amazonaws.com:5432/d1",
            "ec2-1-2-3-4.eu-west-1.compute.amazonaws.com",
        ),
        (
            "Azure",
            "host=latchkey.postgres.database.azure.com port=5432 dbname=postgres user=ada password=npg sslmode=require",
            "latchkey.postgres.database.azure.com",
        ),
        (
            "DigitalOcean",
            "postgresql://doadmin:npg@db-1-do-user-2-0.b.db.ondigitalocean.com:25060/defaultdb?sslmode=require",
            "db-1-do-user-2-0.b.db.ondigitalocean.com",
        ),
    ] {
        let database = parse(text);
        assert_eq!(database.driver.get_hosts(), [Host::Tcp(host.into())], "{provider}");
        assert_eq!(database.driver.get_password(), Some(&b"npg"[..]), "{provider}");
        assert_eq!(database.uses_tls(), provider != "Fly", "{provider}");
    }
}

#[test]
fn pgbouncer_true_turns_prepared_statements_off() {
    for (parameter, prepares) in [("", true), ("?pgbouncer=false", true), ("?pgbouncer=true", false)] {
        assert_eq!(parse(&format!("postgres://ada:x@db/x{parameter}")).prepares_statements, prepares, "{parameter}");
    }
}

#[test]
fn a_string_of_another_tool_is_refused_with_what_to_change() {
    for (text, advice) in [
        ("'postgres://ada:quokka@db.invalid/x'", "quotes"),
        ("\"postgres://ada:quokka@db.invalid/x\"", "quotes"),
        ("psql 'postgres://ada:quokka@db.invalid/x'", "psql"),
        ("psql \"host=db.invalid password=quokka\"", "psql"),
        ("jdbc:postgresql://db.invalid/x?user=ada&password=quokka", "JDBC"),
        ("postgresql+asyncpg://ada:quokka@db.invalid/x", "after a +"),
        ("postgresql+psycopg2://ada:quokka@db.invalid/x", "after a +"),
        ("prisma+postgres://db.invalid/?api_key=quokka", "Prisma"),
        (" postgres://ada:quokka@db.invalid/x", "white space"),
        ("postgres://ada:quokka@db.invalid/x\n", "white space"),
        ("postgres://ada:quokka@db.invalid/x?sslmode=no-verify", "sslrootcert"),
    ] {
        let Err(rule) = Parsed::parse(text, 10) else { panic!("{text} was accepted") };
        assert!(rule.contains(advice) && !rule.contains("quokka"), "{text}: {rule}");
    }
}

#[test]
fn an_unescaped_password_is_refused_without_a_look_up() {
    for (text, advice) in [
        ("postgres://ada:quo@kka@db.invalid/x", "%40"),
        ("postgres://ada:Pw@quokka/more@db.invalid/x", "%40"),
        ("postgres://ada:quo/kka@db.invalid/x", "%2F"),
        ("postgres://ada:quo#kka@db.invalid/x", "%23"),
        ("postgres://ada:quo?kka=1@db.invalid/x", "%3F"),
        ("postgres://ada:quo kka@db.invalid/x", "%20"),
    ] {
        let Err(rule) = Parsed::parse(text, 10) else { panic!("{text} was accepted") };
        assert!(rule.contains(advice) && !rule.contains("quo") && !rule.contains("kka"), "{text}: {rule}");
        for command in ["check", "migrate", "serve"] {
            let start = Instant::now();
            let finished = run(&[command], &environment(text));
            assert_eq!(finished.code, Some(2), "{text}: {finished:?}");
            assert!(!format!("{finished:?}").contains("kka"), "{text}: {finished:?}");
            assert!(start.elapsed() < Duration::from_secs(2), "{text}: a name was looked up");
        }
    }
}
