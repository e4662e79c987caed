//! The recipes of the manual's chapter "Operating": the commands are taken from its text and run.

use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Database, Environment, PASSWORD, Server, User, await_that, environment, run, strong_secret};

const CHAPTER: &str = include_str!("../../src/manual/operating.md");

/// The blocks of commands under this heading.
fn recipes(heading: &str) -> Vec<String> {
    let section = CHAPTER.split(&format!("\n## {heading}\n")).nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned());
    blocks.collect()
}

/// Runs a block of commands in a directory, with the program and PostgreSQL's on PATH.
#[track_caller]
fn shell(block: &str, directory: &str, environment: &Environment) {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_latchkey")).parent().unwrap();
    let postgres = std::env::var("LATCHKEY_TEST_POSTGRES_BIN").expect("make test brings PostgreSQL");
    let path = format!("{}:{postgres}:{}", program.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euc", block])
        .current_dir(directory)
        .env_clear()
        .envs(environment)
        .env("PATH", path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{block}: {output:?}");
}

fn login(server: &Server, user: &User) -> Value {
    let body = json!({"email": user.email, "password": PASSWORD});
    server.request("POST", "/auth/login").json(&body).send().must(200).json()
}

fn refresh(server: &Server, tokens: &Value, status: u16) -> Value {
    let body = json!({"refresh_token": tokens["refresh_token"]});
    let answer = server.request("POST", "/auth/refresh").json(&body).send().must(status);
    answer.json()
}

fn me(server: &Server, tokens: &Value, status: u16) {
    server.request("GET", "/auth/me").bearer(tokens["access_token"].as_str().unwrap()).send().must(status);
}

/// What both commands and the recipes read.
fn variables(database: &Database) -> Environment {
    let mut environment = environment(&database.url());
    environment.insert("MIGRATE_DATABASE_URL".into(), database.url());
    environment
}

#[test]
fn a_restored_backup_holds_all_data_and_logout_all_ends_what_came_back() {
    let [backup, restore] = &recipes("Backup and restore")[..] else { panic!("two blocks") };
    let directory = std::env::temp_dir().join(format!("lk{}", uuid::Uuid::now_v7().simple()));
    std::fs::create_dir(&directory).unwrap();
    let directory_name = directory.to_str().unwrap();
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "kept");
    let (spent, ended) = (login(&server, &user), login(&server, &user));
    shell(backup, directory_name, &variables(&server.database));
    refresh(&server, &spent, 200);
    let logout = server.request("POST", "/auth/logout").bearer(ended["access_token"].as_str().unwrap());
    logout.send().must(204);
    me(&server, &ended, 401);

    let restored = Database::create();
    // First without the line that ends all sessions, to see why it is there.
    let (before, after) = restore.split_once("latchkey user logout").unwrap();
    shell(before, directory_name, &variables(&restored));
    let second = Server::on(&restored, &restored.url(), &[]);
    me(&second, &ended, 200);
    let rest = format!("latchkey user logout{after}");
    shell(&rest, directory_name, &variables(&restored));
    me(&second, &ended, 401);
    refresh(&second, &spent, 401);
    let tokens = login(&second, &user);
    let list = second.request("GET", "/api/me/tasks").bearer(tokens["access_token"].as_str().unwrap());
    assert_eq!(list.send().must(200).json(), json!([task]));
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn an_old_program_goes_on_with_a_newer_schema_and_does_not_start_anew() {
    let server = Server::start();
    let user = server.user("ada");
    server.sql().batch_execute("insert into migrations (name, checksum) values ('999_future', 'x')").unwrap();
    server.task(&user, "one");
    server.request("GET", "/readyz").send().must(200);
    for arguments in [&["serve"][..], &["serve", "--no-migrate"], &["migrate"]] {
        let finished = run(arguments, &environment(&server.database_url()));
        assert!(finished.code == Some(1) && finished.stderr.contains("999_future"), "{finished:?}");
    }
}

/// As an older program left it: without the last migration.
fn older_schema() -> Arc<Database> {
    let database = Database::create();
    assert_eq!(run(&["migrate"], &environment(&database.url())).code, Some(0));
    undo_last_migration(&database);
    database
}

fn undo_last_migration(database: &Database) {
    let undo = "drop function open_session; delete from migrations where name = '005_open_session'";
    database.sql().batch_execute(undo).unwrap();
}

#[test]
fn a_new_program_on_an_older_schema_migrates_or_does_not_start() {
    let database = older_schema();
    let finished = run(&["serve", "--no-migrate"], &environment(&database.url()));
    assert!(finished.code == Some(1) && finished.stderr.contains("005_open_session"), "{finished:?}");
    let server = Server::on(&database, &database.url(), &[]);
    server.user("ada");
}

#[test]
fn readyz_is_503_while_a_migration_is_pending() {
    let server = Server::start();
    undo_last_migration(&server.database);
    await_that("/readyz is 503", || server.request("GET", "/readyz").send().status == 503);
    assert_eq!(run(&["migrate"], &environment(&server.database_url())).code, Some(0));
    await_that("/readyz is 200", || server.request("GET", "/readyz").send().status == 200);
}

#[test]
fn an_instance_answers_while_another_one_migrates() {
    let first = Server::start();
    let user = first.user("ada");
    undo_last_migration(&first.database);
    let list = first.request("GET", "/api/me/tasks").bearer(&user.token);
    let second = thread::scope(|scope| {
        let starting = scope.spawn(|| Server::beside(&first, &[]));
        while !starting.is_finished() {
            list.send().must(200);
        }
        starting.join().unwrap()
    });
    for server in [&first, &second] {
        server.request("GET", "/auth/me").bearer(&user.token).send().must(200);
        login(server, &user);
    }
}

#[test]
fn a_changed_jwt_secret_logs_nobody_out_with_two_instances() {
    let (old, new) = (strong_secret(), strong_secret());
    let database = Database::create();
    let start = |secret: &str, previous: Option<&str>| {
        let mut variables = vec![("JWT_SECRET", secret)];
        variables.extend(previous.map(|previous| ("JWT_SECRET_PREVIOUS", previous)));
        Server::on(&database, &database.url(), &variables)
    };
    let mut instances = [start(&old, None), start(&old, None)];
    let user = instances[0].user("ada");
    // One session for each moment at which an instance was restarted, by the instance that was not.
    let mut sessions = vec![login(&instances[0], &user), login(&instances[1], &user)];
    for (secret, previous) in [(&old, Some(&new)), (&new, Some(&old)), (&new, None)] {
        for n in 0..2 {
            instances[n] = start(secret, previous.map(String::as_str));
            for tokens in &mut sessions {
                me(&instances[0], tokens, 200);
                me(&instances[1], tokens, 200);
                *tokens = refresh(&instances[1 - n], tokens, 200);
                *tokens = refresh(&instances[n], tokens, 200);
            }
            sessions.push(login(&instances[n], &user));
            sessions.push(login(&instances[1 - n], &user));
        }
    }
    for tokens in &sessions {
        me(&instances[0], tokens, 200);
        refresh(&instances[1], tokens, 200);
    }
}

#[test]
fn sighup_is_ignored() {
    let mut server = Server::start();
    server.signal(Signal::HUP);
    server.user("ada");
    assert_eq!(server.stop().code(), Some(0), "SIGTERM still stops");
}

#[test]
fn clocks_that_differ_are_warned_of_at_the_start() {
    let database = Database::create();
    assert_eq!(run(&["migrate"], &environment(&database.url())).code, Some(0));
    let fake = format!(
        "create schema fake;
         create function fake.clock_timestamp() returns timestamptz language sql
             return pg_catalog.clock_timestamp() - interval '10 seconds';
         alter database {} set search_path = fake, pg_catalog, public",
        database.name
    );
    database.sql().batch_execute(&fake).unwrap();
    let server = Server::on(&database, &database.url(), &[]);
    server.wait_for_log(&["level=warn", "event=clocks database_ahead_seconds=-10.0"]);
}
