//! `latchkey check`: each thing broken once, seen with its reason, and no row left behind. Harmless settings pass.

use std::sync::Arc;

use uuid::Uuid;

use crate::migrations::Roles;
use crate::support::{Database, Finished, Server, administer, environment, run};

fn check(roles: &Roles) -> Finished {
    run(&["check"], &roles.environment())
}

/// Migrated, with the server's role beside the owner's; both are names in `change`.
fn changed(change: &str) -> Roles {
    let roles = Roles::create();
    let migrated = run(&["migrate"], &roles.environment());
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let change = change.replace("ROLE", &roles.server.name).replace("DATABASE", &roles.database.name);
    roles.database.sql().batch_execute(&change).unwrap_or_else(|error| panic!("{change}: {error:?}"));
    roles
}

#[track_caller]
fn fails_with(roles: &Roles, lines: &[&str]) {
    let checked = check(roles);
    assert_eq!(checked.code, Some(1), "{lines:?}: {checked:?}");
    for line in lines {
        let (start, reason) = line.split_once('|').unwrap_or((line, ""));
        let found = checked.stdout.lines().find(|line| line.starts_with(&format!("FAIL  {start}")));
        assert!(found.is_some_and(|line| line.contains(reason)), "{line}\n{}", checked.stdout);
    }
    leaves_no_row(roles);
}

#[track_caller]
fn leaves_no_row(roles: &Roles) {
    for table in ["users", "sessions", "tasks", "attempts", "known_addresses"] {
        let Ok(row) = roles.database.sql().query_one(&format!("select count(*) from {table}"), &[]) else { continue };
        assert_eq!(row.get::<_, i64>(0), 0, "check left a row in {table}");
    }
}

#[test]
fn what_holds_is_one_line_each_and_a_summary() {
    let roles = changed("select");
    let checked = check(&roles);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for line in [
        "ok    encoding: UTF8",
        "ok    clocks: ",
        "ok    login: rehearsed",
        "ok    rehearsal: rolled back, no row is left behind",
    ] {
        assert!(checked.stdout.contains(line), "{line}\n{}", checked.stdout);
    }
    assert!(checked.stdout.ends_with("all of this holds\n") && !checked.stdout.contains("FAIL"), "{checked:?}");
    leaves_no_row(&roles);
}

#[test]
fn a_missing_right_fails_with_what_needs_it() {
    for (change, lines) in [
        ("revoke delete on tasks from ROLE", &["delete a task|permission denied for table tasks"][..]),
        (
            // `for update skip locked` needs it.
            "revoke update on attempts from ROLE",
            &["login|permission denied for table attempts", "refresh|not tried, because of: login"],
        ),
        ("revoke insert on known_addresses from ROLE", &["login|permission denied for table known_addresses"]),
        ("revoke update on sessions from ROLE", &["login|permission denied for table sessions", "refresh|not tried"]),
        (
            "revoke execute on all functions in schema public from public, ROLE",
            &["count a registration|permission denied for function reserve_registration"],
        ),
        ("revoke usage on schema public from public, ROLE", &["migrations|001_accounts"]),
        ("revoke connect on database DATABASE from public", &["authentication|permission denied for database"]),
    ] {
        fails_with(&changed(change), lines);
    }
}

#[test]
fn a_policy_or_trigger_that_hides_rows_fails_as_a_wrong_answer() {
    let policies = "create policy s on users for select using (true);
         create policy i on users for insert with check (true);
         create policy d on users for delete using (true);
         alter table users enable row level security";
    fails_with(
        &changed(policies),
        &["user commands|a wrong answer", "change the password|a wrong answer", "logout-all|not tried"],
    );
    fails_with(&changed("alter table tasks enable row level security"), &["create a task|row-level security"]);
    let trigger = "create function swallow() returns trigger language plpgsql as 'begin return null; end';
         create trigger t before update on tasks for each row execute function swallow()";
    fails_with(&changed(trigger), &["update a task|"]);
    let deferred =
        "create function refuse() returns trigger language plpgsql as 'begin raise exception ''quokka''; end';
         create constraint trigger t after insert on tasks deferrable initially deferred
             for each row execute function refuse()";
    fails_with(&changed(deferred), &["create a task|"]);
}

#[test]
fn settings_that_the_statements_cannot_bear_fail() {
    for (change, lines) in [
        (
            "alter role ROLE in database DATABASE set default_transaction_read_only = on",
            &["register|read-only transaction"][..],
        ),
        (
            "alter role ROLE in database DATABASE set default_transaction_isolation = 'serializable'",
            &["default_transaction_isolation|serializable: run latchkey migrate", "count a login|read committed only"],
        ),
        (
            "alter role ROLE in database DATABASE reset all",
            &["statement_timeout|0: run latchkey migrate", "plan_cache_mode|auto: run latchkey migrate"],
        ),
        (
            "create schema fake;
             create function fake.clock_timestamp() returns timestamptz language sql
                 return pg_catalog.clock_timestamp() + interval '1 hour';
             grant usage on schema fake to ROLE;
             alter role ROLE in database DATABASE set search_path = fake, pg_catalog, public",
            &["clocks|3600.0 s ahead of this machine: set both by NTP"],
        ),
    ] {
        fails_with(&changed(change), lines);
    }
}

#[test]
fn a_schema_that_lacks_something_fails_with_what_needs_it() {
    for (change, lines) in [
        ("drop function external_caller cascade", &["read the user|caller"][..]),
        ("drop function seconds_until_free", &["count a registration|seconds_until_free", "count a login|"]),
        ("drop table known_addresses", &["count a login|known_addresses"]),
        ("alter table tasks drop column description", &["create a task|description"]),
        ("alter table users add constraint x check (email not like '%check%')", &["register|constraint"]),
        ("delete from migrations where name = '002_tasks'", &["migrations|002_tasks pending: run latchkey migrate"]),
    ] {
        fails_with(&changed(change), lines);
    }
}

#[test]
fn another_encoding_than_utf8_fails() {
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("latchkey_test_{}", Uuid::now_v7().simple());
        administer(&format!("create database {name} template template0 encoding '{encoding}' locale 'C'"));
        let roles = Roles::on(Arc::new(Database { name }));
        assert_eq!(run(&["migrate"], &roles.environment()).code, Some(0));
        fails_with(&roles, &[&format!("encoding|{encoding}: create the database with encoding 'UTF8'")]);
    }
}

#[test]
fn a_better_auth_that_cannot_be_reached_fails() {
    let database = Database::create();
    let mut environment = environment(&database.url());
    assert_eq!(run(&["migrate"], &environment).code, Some(0));
    environment.insert("BETTER_AUTH_URL".into(), "http://127.0.0.1:9".into());
    let checked = run(&["check"], &environment);
    assert!(checked.code == Some(1) && checked.stdout.contains("FAIL  Better Auth: "), "{checked:?}");
}

#[test]
fn harmless_settings_pass() {
    let settings = [
        "quote_all_identifiers = on",
        "datestyle = 'German'",
        "intervalstyle = 'sql_standard'",
        "timezone = 'Asia/Kolkata'",
        "bytea_output = 'escape'",
        "extra_float_digits = 0",
        "standard_conforming_strings = off",
        "backslash_quote = off",
        "enable_seqscan = off",
        "default_transaction_deferrable = on",
        "check_function_bodies = off",
    ];
    let change = settings.map(|setting| format!("alter database DATABASE set {setting};")).concat();
    let roles = changed(&change);
    let checked = check(&roles);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    leaves_no_row(&roles);
}

#[test]
fn check_hinders_no_request_and_is_hindered_by_none() {
    let server = Server::start();
    let user = server.user("ada");
    let mut sql = server.sql();
    let mut other = sql.transaction().unwrap();
    other.batch_execute("update users set email = email").unwrap();
    let checked = run(&["check"], &environment(&server.database_url()));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    other.rollback().unwrap();
    server.task(&user, "one");
}
