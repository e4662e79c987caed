//! What the environment may hold, and that anything else stops the start with exit code 2
//! and one line that names the variable and never its value.

use crate::support::{Database, Environment, Finished, PASSWORD, Server, environment, run, strong_secret};

const MARK: &str = "quokka-wombat";

fn with(mut environment: Environment, variables: &[(&str, &str)]) -> Environment {
    for (name, value) in variables {
        environment.insert((*name).to_owned(), (*value).to_owned());
    }
    environment
}

fn without(mut environment: Environment, name: &str) -> Environment {
    environment.remove(name);
    environment
}

/// A database URL that nothing listens behind: whoever asks it has read too much.
fn nowhere() -> Environment {
    environment("postgres:///none?host=/nonexistent&user=nobody")
}

#[track_caller]
fn is_refused(variable: &str, value: &str, finished: &Finished) {
    let Finished { code, stdout, stderr } = finished;
    assert_eq!(*code, Some(2), "{variable}={value}: {stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{variable}={value}: {stderr}");
    assert!(stderr.contains(variable), "{variable}={value}: {stderr}");
    assert!(!stderr.contains(MARK), "{variable}={value}: {stderr}");
    assert!(value.len() < 5 || !stderr.contains(value), "{variable}={value}: {stderr}");
    assert_eq!(stdout, "", "{variable}={value}");
}

#[test]
fn s55_a_malformed_value_is_named_but_not_shown() {
    let remote = format!("postgres://ada:{MARK}@192.0.2.1/x?sslmode=secure");
    for (variable, values) in [
        (
            "DATABASE_URL",
            &[
                MARK,
                "mysql://h/x",
                "postgres://ada:quokka-wombat@[::1/x",
                "postgres:///x?host=/tmp&quokka-wombat=1",
                &remote,
            ][..],
        ),
        (
            "LISTEN",
            &[
                MARK,
                "127.0.0.1",
                ":8080",
                "8080",
                "127.0.0.1:65536",
                "127.0.0.1:-1",
                "127.0.0.1:http",
                "http://127.0.0.1:0",
                " 127.0.0.1:0",
            ],
        ),
        ("REGISTRATION", &[MARK, "OPEN", "true", "closed "]),
        (
            "ACCESS_TOKEN_SECONDS",
            &[MARK, "59", "3601", "-900", "+900", "900s", "9e2", "900.0", " 900", "99999999999999999999"],
        ),
        ("PASSWORD_MIN_LENGTH", &[MARK, "7", "65", "0", "-8", "+8", "8.0"]),
        ("BCRYPT_COST", &[MARK, "3", "16", "-4", "+4", "4.0"]),
        ("LOGIN_FAILURE_LIMIT", &[MARK, "-1", "+1", "1.5", "none"]),
        ("ADDRESS_LIMIT", &[MARK, "-1", "+1", "1.5", "none"]),
        ("TRUSTED_PROXIES", &[MARK, "-1", "+1", "1.5", "10.0.0.0/8"]),
        ("POOL_SIZE", &[MARK, "0", "-1", "+1", "1.5", "129"]),
        ("MAX_CONNECTIONS", &[MARK, "0", "-1", "+64", "1.5"]),
        ("RUST_LOG", &[MARK, "latchkey=quokka-wombat"]),
        ("LATCHKEY_ENV", &[MARK, "production", "TEST", "test "]),
        ("JWT_SECRET_PREVIOUS", &[MARK]),
    ] {
        for value in values {
            is_refused(variable, value, &run(&["serve"], &with(nowhere(), &[(variable, value)])));
        }
    }
}

#[test]
fn an_empty_value_stops_serve() {
    for variable in [
        "DATABASE_URL",
        "JWT_SECRET",
        "JWT_SECRET_PREVIOUS",
        "LISTEN",
        "REGISTRATION",
        "TOKEN_ISSUER",
        "TOKEN_AUDIENCE",
        "ACCESS_TOKEN_SECONDS",
        "PASSWORD_MIN_LENGTH",
        "BCRYPT_COST",
        "LOGIN_FAILURE_LIMIT",
        "ADDRESS_LIMIT",
        "TRUSTED_PROXIES",
        "POOL_SIZE",
        "MAX_CONNECTIONS",
        "RUST_LOG",
        "LATCHKEY_ENV",
    ] {
        is_refused(variable, "", &run(&["serve"], &with(nowhere(), &[(variable, "")])));
    }
}

#[test]
fn a_required_variable_that_is_absent_stops_the_start() {
    for variable in ["DATABASE_URL", "JWT_SECRET"] {
        is_refused(variable, "", &run(&["serve"], &without(nowhere(), variable)));
        is_refused(variable, "", &run(&[], &without(nowhere(), variable)));
    }
    is_refused("DATABASE_URL", "", &run(&["migrate"], &Environment::new()));
}

#[test]
fn s54_a_weak_or_placeholder_secret_stops_serve() {
    for secret in [
        "Zr8vQ1x-LmT0yB5hKd2sWg9uNe6oPc3",
        "123456781234567812345678123456781234",
        "abcabcabdabcabcabcabdabeabcabfabcabg",
        "k3J9x0Qz_pWvk3J9x0Qz_pWvk3J9x0Qz_pWv",
        "k3J9x0Qz_pWvk3J9x0Qz_pWvk3J9x0Qz_p",
        "Zr8vQ1x-LmT0yB5hKZr8vQ1x-LmT0yB5hK",
        &"a".repeat(64),
        "your-256-bit-secret-your-256-bit-key",
        "change-me-to-a-long-random-string-0123",
        "CHANGE-ME-to-a-long-random-string-0123",
    ] {
        for variable in ["JWT_SECRET", "JWT_SECRET_PREVIOUS"] {
            is_refused(variable, secret, &run(&["serve"], &with(nowhere(), &[(variable, secret)])));
        }
    }
}

#[test]
fn two_equal_secrets_stop_serve() {
    let secret = strong_secret();
    let variables = [("JWT_SECRET", secret.as_str()), ("JWT_SECRET_PREVIOUS", secret.as_str())];
    is_refused("JWT_SECRET_PREVIOUS", &secret, &run(&["serve"], &with(nowhere(), &variables)));
}

#[test]
fn bcrypt_costs_below_10_are_for_tests_only() {
    for cost in ["4", "9"] {
        let environment = with(without(nowhere(), "LATCHKEY_ENV"), &[("BCRYPT_COST", cost)]);
        is_refused("BCRYPT_COST", cost, &run(&["serve"], &environment));
    }
}

#[test]
fn the_test_environment_is_refused_where_others_could_reach_it() {
    let remote = format!("postgres://ada:{MARK}@db.example.org/x?sslmode=disable");
    for (variable, value) in [
        ("LISTEN", "0.0.0.0:0"),
        ("LISTEN", "[::]:0"),
        ("LISTEN", "192.0.2.7:0"),
        ("DATABASE_URL", remote.as_str()),
        ("DATABASE_URL", "postgres://ada@192.0.2.1/x?sslmode=disable"),
    ] {
        let finished = run(&["serve"], &with(nowhere(), &[(variable, value)]));
        is_refused("LATCHKEY_ENV", value, &finished);
    }
}

#[test]
fn the_test_environment_is_warned_of() {
    let server = Server::start();
    server.wait_for_log(&["level=warn", "LATCHKEY_ENV"]);
}

#[test]
fn every_bound_of_a_value_is_taken() {
    let server = Server::start();
    let secret = "Zr8vQ1x-LmT0yB5hKd2sWg9uNe6oPc3a";
    assert_eq!(secret.len(), 32);
    for (variable, value) in [
        ("JWT_SECRET", secret),
        ("JWT_SECRET_PREVIOUS", secret),
        ("LISTEN", "[::1]:0"),
        ("REGISTRATION", "open"),
        ("REGISTRATION", "closed"),
        ("ACCESS_TOKEN_SECONDS", "60"),
        ("ACCESS_TOKEN_SECONDS", "3600"),
        ("PASSWORD_MIN_LENGTH", "8"),
        ("PASSWORD_MIN_LENGTH", "64"),
        ("BCRYPT_COST", "4"),
        ("BCRYPT_COST", "15"),
        ("LOGIN_FAILURE_LIMIT", "0"),
        ("ADDRESS_LIMIT", "0"),
        ("TRUSTED_PROXIES", "0"),
        ("TRUSTED_PROXIES", "2"),
        ("POOL_SIZE", "1"),
        ("MAX_CONNECTIONS", "64"),
        ("RUST_LOG", "off"),
        ("RUST_LOG", "warn"),
        ("RUST_LOG", "debug"),
        ("MIGRATE_DATABASE_URL", MARK),
    ] {
        let server = Server::beside(&server, &[(variable, value)]);
        server.request("GET", "/readyz").send().must(200);
    }
}

#[test]
fn the_defaults_serve_and_hash_at_cost_12() {
    let database = Database::create();
    let mut environment = environment(&database.url());
    environment.retain(|name, _| ["DATABASE_URL", "JWT_SECRET", "LISTEN"].contains(&name.as_str()));
    let server = Server::with(&database, &[], &environment);
    let body = serde_json::json!({"email": "ada@example.org", "password": PASSWORD});
    server.request("POST", "/auth/register").json(&body).send().must(201);
    let hash = server.sql().query_one("select password_hash from users", &[]).unwrap();
    assert!(hash.get::<_, String>(0).starts_with("$2b$12$"));
    server.wait_for_log(&["level=info", "route=/auth/register"]);
}

#[test]
fn migrate_reads_only_what_it_uses() {
    let database = Database::create();
    let broken = [("JWT_SECRET", "x"), ("LISTEN", "x"), ("BCRYPT_COST", "x"), ("LATCHKEY_ENV", "x")];
    let finished = run(&["migrate"], &with(environment(&database.url()), &broken));
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

#[test]
fn migrate_alone_reads_migrate_database_url() {
    let (database, other) = (Database::create(), Database::create());
    let environment = with(environment(&other.url()), &[("MIGRATE_DATABASE_URL", &database.url())]);
    let finished = run(&["migrate"], &environment);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    database.sql().query("select from users", &[]).expect("migrated");
    other.sql().query("select from users", &[]).expect_err("not migrated");
    for value in ["", MARK] {
        let environment = with(environment.clone(), &[("MIGRATE_DATABASE_URL", value)]);
        is_refused("MIGRATE_DATABASE_URL", value, &run(&["migrate"], &environment));
    }
}

#[test]
fn help_and_version_read_nothing() {
    for broken in [Environment::new(), with(Environment::new(), &[("DATABASE_URL", ""), ("RUST_LOG", "")])] {
        let help = run(&["--help"], &broken);
        assert_eq!(help.code, Some(0), "{help:?}");
        assert!(help.stdout.contains("serve") && help.stdout.contains("migrate"), "{help:?}");
        let version = run(&["--version"], &broken);
        assert_eq!(version.code, Some(0), "{version:?}");
        assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version:?}");
    }
}

#[test]
fn an_unknown_command_or_option_is_a_mistake_of_usage() {
    for arguments in [&["server"][..], &["serve", "--nomigrate"], &["migrate", "now"], &["--port", "1"], &[""]] {
        let finished = run(arguments, &nowhere());
        assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:?}");
        assert!(finished.stdout.is_empty() && !finished.stderr.is_empty(), "{arguments:?}: {finished:?}");
    }
}
