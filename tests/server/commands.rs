//! The command line: what is understood, what is named where it is not, and what the operator's commands do and say.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::support::{Database, Environment, Finished, PASSWORD, Server, environment, run, strong_secret};

/// A file that goes with the value.
struct File(PathBuf);

impl File {
    fn with(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lk{}.env", Uuid::now_v7().simple()));
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn user(server: &Server, arguments: &[&str]) -> Finished {
    run(&[&["user"], arguments].concat(), &environment(&server.database_url()))
}

/// The command with this on its standard input.
fn with_input(arguments: &[&str], environment: &Environment, input: &str) -> Finished {
    let mut child = Command::new(env!("CARGO_BIN_EXE_latchkey"))
        .args(arguments)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    Finished { code: output.status.code(), stdout, stderr }
}

#[track_caller]
fn says(finished: &Finished, text: &str) {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.contains(text), "{text}: {finished:?}");
}

#[track_caller]
fn fails(finished: &Finished, code: i32, text: &str) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    assert!(finished.stdout.is_empty() && finished.stderr.contains(text), "{text}: {finished:?}");
}

// ---------------------------------------------------------------------------------------------------- command line

#[test]
fn help_after_any_command_prints_its_usage_and_reads_nothing() {
    for (arguments, usage) in [
        (&["--help"][..], "serve [--no-migrate]"),
        (&["serve", "--help"], "serve [--no-migrate]"),
        (&["migrate", "-h"], "  migrate "),
        (&["check", "--help"], "  check "),
        (&["user", "--help"], "user set-password USER"),
        (&["user", "list", "--help"], "  user list "),
        (&["user", "delete", "ada", "--help"], "user delete USER [--yes]"),
        (&["user", "logout", "--help"], "user logout --all [--yes]"),
        (&["purge", "--help"], "  purge "),
    ] {
        let finished = run(arguments, &Environment::new());
        says(&finished, usage);
        assert!(arguments.len() == 1 || finished.stdout.len() < 1500, "{arguments:?} prints all: {finished:?}");
    }
}

#[test]
fn what_is_not_understood_is_named() {
    for (arguments, named) in [
        (&["server"][..], "unknown command \"server\""),
        (&["serve", "--nomigrate"], "unknown argument \"--nomigrate\""),
        (&["--port"], "unknown argument \"--port\""),
        (&["migrate", "now"], "unknown argument \"now\""),
        (&["user"], "user wants a command"),
        (&["user", "lst"], "unknown command user \"lst\""),
        (&["user", "show"], "user show wants USER"),
        (&["user", "show", "ada", "eve"], "unknown argument \"eve\""),
        (&["user", "show", "ada", "--yes"], "unknown argument \"--yes\""),
        (&["user", "delete", "ada", "--yes", "--yes"], "unknown argument \"--yes\""),
        (&["user", "create", ""], "unknown argument \"\""),
        (&["--env-file"], "--env-file wants a FILE"),
        (&["serve", "--env-file", "x"], "latchkey [--env-file FILE] serve"),
        (&["nonsense", "--help"], "unknown command \"nonsense\""),
        (&["--version", "extra"], "unknown argument \"extra\""),
        (&["--help", "serve"], "unknown argument \"serve\""),
        (&["help", "serve"], "unknown argument \"serve\""),
    ] {
        fails(&run(arguments, &Environment::new()), 2, named);
    }
}

// ------------------------------------------------------------------------------------------------------- --env-file

#[test]
fn env_file_settings_are_literal_and_the_environment_wins() {
    let database = Database::create();
    let secret = format!("#{}' $HOME", strong_secret());
    let url = database.url();
    let file = File::with(&format!(
        "# a comment\n\nDATABASE_URL={url}\nJWT_SECRET={secret}\nLISTEN=127.0.0.1:0\nREGISTRATION=closed\n"
    ));
    let environment = Environment::from([("REGISTRATION".into(), "open".into())]);
    let server = Server::with(&database, &["--env-file", file.path(), "serve"], &environment);
    let user = server.user("ada");
    // The same secret verifies: the line is literal.
    let second = Server::on(&database, &url, &[("JWT_SECRET", &secret)]);
    second.request("GET", "/auth/me").bearer(&user.token).send().must(200);
    says(&run(&["--env-file", file.path(), "user", "list"], &Environment::new()), "ada@example.org");
}

#[test]
fn a_malformed_env_file_is_refused_by_its_line() {
    for (text, reason) in [
        ("LISTEN=127.0.0.1:0\nnonsense quokka\n", "line 2, is not NAME=VALUE"),
        ("export LISTEN=quokka\n", "line 1, has a name with other characters"),
        ("=quokka", "line 1, has a name"),
        ("LISTEN=quokka\r\n", "line 1, ends in a carriage return"),
        ("LISTEN=quokka\nLISTEN=quokka\n", "line 2, sets a variable a second time"),
        ("DATABASE_URL=\n", "DATABASE_URL is set but empty"),
        ("DATABASE_URL=\"postgres://ada:quokka@db.invalid/x\"\n", "DATABASE_URL is in quotes: take them off"),
        ("DATABASE_URL='postgres://ada:quokka@db.invalid/x'\n", "DATABASE_URL is in quotes: take them off"),
    ] {
        let file = File::with(text);
        let finished = run(&["--env-file", file.path(), "check"], &Environment::new());
        fails(&finished, 2, reason);
        assert!(!finished.stderr.contains("quokka"), "{finished:?}");
    }
    fails(&run(&["--env-file", "/nowhere/env", "check"], &Environment::new()), 2, "/nowhere/env cannot be read");
}

// ------------------------------------------------------------------------------------------------------------ output

#[test]
fn a_reader_that_closes_the_pipe_early_is_no_failure() {
    let server = Server::start();
    let fill = "set statement_timeout = 0; insert into users (id, email, password_hash)
                select 'u' || n, 'u' || n || '@example.org', 'x' from generate_series(1, 5000) as n";
    server.sql().batch_execute(fill).unwrap();
    for arguments in [&["--help"][..], &["user", "list"], &["check"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_latchkey"))
            .args(arguments)
            .env_clear()
            .envs(environment(&server.database_url()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments:?}: {output:?}");
        assert!(first.ends_with('\n'), "{arguments:?}: {first:?}");
    }
}

#[test]
fn every_deed_is_said_on_standard_output_whatever_the_log_level() {
    let server = Server::start();
    let ada = server.user("ada");
    let mut environment = environment(&server.database_url());
    environment.insert("RUST_LOG".into(), "off".into());
    let operator = |arguments: &[&str]| run(&[&["user"], arguments].concat(), &environment);
    let with_password = |arguments: &[&str]| with_input(arguments, &environment, &format!("{PASSWORD}\n"));
    says(&with_password(&["user", "create", "Eve@example.org"]), "\teve@example.org\tactive\t");
    says(&with_password(&["user", "set-password", &ada.email]), "ada@example.org: new password, all sessions ended");
    says(&operator(&["logout", &ada.email]), "ada@example.org: all sessions ended");
    says(&operator(&["deactivate", &ada.id]), "ada@example.org: inactive, all sessions ended");
    says(&operator(&["activate", &ada.id]), "ada@example.org: active");
    says(&operator(&["logout", "--all", "--yes"]), "all sessions of 2 users ended");
    says(&operator(&["delete", &ada.email, "--yes"]), "ada@example.org: deleted with 0 tasks");
    says(&run(&["migrate"], &environment), "nothing pending");
}

// ------------------------------------------------------------------------------------------------------------- users

#[test]
fn user_list_of_100000_users_takes_seconds() {
    let server = Server::start();
    let fill = "set statement_timeout = 0; insert into users (id, email, password_hash)
                    select 'u' || n, 'u' || n || '@example.org', 'x' from generate_series(1, 100000) as n;
                insert into sessions (id, user_id, session_epoch)
                    select gen_random_uuid(), 'u' || n, 0 from generate_series(1, 100000) as n;
                insert into tasks (id, user_id, title)
                    select gen_random_uuid(), 'u' || n % 1000 + 1, 'x' from generate_series(1, 100000) as n";
    server.sql().batch_execute(fill).unwrap();
    let start = Instant::now();
    let listed = user(&server, &["list"]);
    assert_eq!((listed.code, listed.stdout.lines().count()), (Some(0), 100_000));
    println!("100,000 users in {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[test]
fn logout_all_ends_the_sessions_of_every_user_and_wants_yes() {
    let server = Server::start();
    let users = [server.user("ada"), server.user("eve")];
    fails(&user(&server, &["logout", "--all"]), 1, "--yes");
    server.request("GET", "/auth/me").bearer(&users[0].token).send().must(200);
    says(&user(&server, &["logout", "--all", "--yes"]), "all sessions of 2 users ended");
    for user in users {
        server.request("GET", "/auth/me").bearer(&user.token).send().must(401);
    }
}

#[test]
fn a_mistyped_id_changes_nothing_without_better_auth() {
    let server = Server::start();
    for command in ["deactivate", "activate"] {
        fails(&user(&server, &[command, "id:typo"]), 1, "there is no such user");
    }
    let known: i64 = server.sql().query_one("select count(*) from users", &[]).unwrap().get(0);
    assert_eq!(known, 0);
    let mut environment = environment(&server.database_url());
    environment.insert("BETTER_AUTH_SECRET".into(), strong_secret());
    let finished = run(&["user", "deactivate", "id:not-yet-seen"], &environment);
    says(&finished, "not-yet-seen: inactive, all sessions ended; this user of Better Auth was not known here before");
}

/// Types these lines at the terminal of `user create`; what the terminal showed, and the exit code.
fn at_a_terminal(environment: &Environment, lines: &[&str]) -> (String, Option<i32>) {
    // `script` of util-linux gives the command a terminal.
    let command = format!("{} user create ada@example.org", env!("CARGO_BIN_EXE_latchkey"));
    let mut child = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .env_clear()
        .envs(environment)
        .env("PATH", std::env::var_os("PATH").unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script of util-linux");
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    for (line, prompt) in lines.iter().zip(["Password: ", "The same again: "]) {
        while !String::from_utf8_lossy(&shown).ends_with(prompt) {
            let mut byte = [0];
            screen.read_exact(&mut byte).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&shown)));
            shown.extend(byte);
        }
        keys.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
    screen.read_to_end(&mut shown).unwrap();
    (String::from_utf8(shown).unwrap(), child.wait().unwrap().code())
}

#[test]
fn a_password_is_asked_for_twice_without_echo() {
    let server = Server::start();
    let environment = environment(&server.database_url());
    let (shown, code) = at_a_terminal(&environment, &[PASSWORD, "another one"]);
    assert!(code == Some(1) && shown.contains("the two passwords differ"), "{code:?} {shown}");
    let (shown, code) = at_a_terminal(&environment, &[PASSWORD, PASSWORD]);
    assert!(code == Some(0) && shown.contains("ada@example.org\tactive"), "{code:?} {shown}");
    assert!(!shown.contains(PASSWORD), "{shown}");
    server.login("ada@example.org", PASSWORD);
}

#[test]
fn purge_deletes_in_batches_under_the_time_limit_and_counts() {
    let server = Server::start();
    let ada = server.user("ada");
    let fill = "insert into sessions (id, user_id, session_epoch, ended_at)
                    select gen_random_uuid(), id, 0, now() from users, generate_series(1, 25000);
                insert into attempts (id, kind, address, created_at)
                    select gen_random_uuid(), 'registration', 'x', now() - interval '61 minutes' from generate_series(1, 10000);
                insert into known_addresses (user_id, address, last_seen)
                    select id, 'a' || n, now() - interval '91 days' from users, generate_series(1, 3) as n;
                alter role postgres in database DATABASE set statement_timeout = '1s'";
    server.sql().batch_execute(&fill.replace("DATABASE", &server.database.name)).unwrap();
    says(&run(&["purge"], &environment(&server.database_url())), "deleted 25000 sessions, 10000 attempts, 3 addresses");
    says(&run(&["purge"], &environment(&server.database_url())), "deleted 0 sessions, 0 attempts, 0 addresses");
    server.request("GET", "/auth/me").bearer(&ada.token).send().must(200);
}

#[test]
fn a_wrong_role_or_database_is_said_at_once_in_the_words_of_the_database() {
    let database = Database::create();
    for (url, words) in [
        (database.url_as("nobody_here"), "role \"nobody_here\" does not exist"),
        (database.url().replace(&database.name, "nowhere"), "database \"nowhere\" does not exist"),
    ] {
        for command in [&["serve"][..], &["migrate"], &["user", "list"], &["purge"]] {
            let start = Instant::now();
            fails(&run(command, &environment(&url)), 1, words);
            assert!(start.elapsed() < Duration::from_secs(2), "{command:?} took {:?}", start.elapsed());
        }
        assert!(run(&["check"], &environment(&url)).stdout.contains(words));
    }
}
