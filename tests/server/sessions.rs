//! Rotation and reuse of refresh tokens; logout, password change, deletion, deactivation: which sessions stay valid, and
//! which are revoked with the very next request.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use postgres::Client;
use serde_json::json;

use crate::support::{Answer, Cut, PASSWORD, Server, User, at_once, await_that, decode, environment};

const NEW_PASSWORD: &str = "nineteen paper lanterns 3";

/// What a login gives.
#[derive(Clone)]
struct Tokens {
    access: String,
    refresh: String,
}

impl Tokens {
    fn of(answer: &Answer) -> Self {
        let json = answer.json();
        let text = |name: &str| json[name].as_str().expect("a token").to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token") }
    }

    fn session(&self) -> String {
        decode(&self.access).1["sid"].as_str().expect("sid").to_owned()
    }
}

fn try_login(server: &Server, user: &User, password: &str) -> Answer {
    server.request("POST", "/auth/login").json(&json!({"email": user.email, "password": password})).send()
}

fn login(server: &Server, user: &User) -> Tokens {
    Tokens::of(&try_login(server, user, PASSWORD).must(200))
}

fn refresh(server: &Server, token: &str) -> Answer {
    server.request("POST", "/auth/refresh").json(&json!({"refresh_token": token})).send()
}

fn me(server: &Server, token: &str) -> u16 {
    server.request("GET", "/auth/me").bearer(token).send().status
}

fn post(server: &Server, path: &str, token: &str) -> Answer {
    server.request("POST", path).bearer(token).send()
}

fn change_password(server: &Server, token: &str) -> Answer {
    let body = json!({"current_password": PASSWORD, "new_password": NEW_PASSWORD});
    server.request("PUT", "/auth/password").bearer(token).json(&body).send()
}

fn delete(server: &Server, token: &str) -> Answer {
    server.request("POST", "/auth/delete").bearer(token).json(&json!({"password": PASSWORD})).send()
}

/// Runs one of the operator's commands with this standard input; the exit code.
fn operator(server: &Server, arguments: &[&str], input: &str) -> Option<i32> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_latchkey"))
        .args(arguments)
        .env_clear()
        .envs(environment(&server.database_url()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let _ = child.stdin.take().expect("standard input").write_all(input.as_bytes());
    child.wait().expect("the program ends").code()
}

/// Moves the times of a session into the past.
fn age(server: &Server, tokens: &Tokens, column: &str, by: &str) {
    let statement =
        format!("update sessions set {column} = {column} - interval '{by}' where id = '{}'", tokens.session());
    server.sql().batch_execute(&statement).expect("a session to age");
}

// ------------------------------------------------------------------------------------------------------ refresh

#[test]
fn rotation_gives_new_tokens_of_the_same_session() {
    let server = Server::start();
    let first = login(&server, &server.user("ada"));
    let answer = refresh(&server, &first.refresh).must(200);
    let json = answer.json();
    let second = Tokens::of(&answer);
    assert_eq!(second.session(), first.session());
    assert_ne!(second.refresh, first.refresh);
    assert_eq!((&json["token_type"], &json["expires_in"]), (&json!("bearer"), &json!(900)));
    assert!((1_209_590..=1_209_600).contains(&json["refresh_expires_in"].as_i64().unwrap()), "{json}");
    assert_eq!((me(&server, &first.access), me(&server, &second.access)), (200, 200));
    refresh(&server, &second.refresh).must(200);
}

#[test]
fn twenty_rotations_at_once_give_one_successor_and_no_error() {
    let server = Server::start();
    let first = login(&server, &server.user("ada"));
    let answers = at_once(20, |_| refresh(&server, &first.refresh).must(200));
    let mut successors: Vec<_> = answers.iter().map(|answer| Tokens::of(answer).refresh).collect();
    successors.dedup();
    assert_eq!(successors.len(), 1);
    refresh(&server, &successors[0]).must(200);
}

#[test]
fn rotation_works_across_instances_and_restarts() {
    let mut server = Server::start();
    let first = login(&server, &server.user("ada"));
    let beside = Server::beside(&server, &[]);
    let second = Tokens::of(&refresh(&beside, &first.refresh).must(200));
    assert_eq!(Tokens::of(&refresh(&server, &first.refresh).must(200)).refresh, second.refresh);
    let database = server.database.clone();
    server.stop();
    let restarted = Server::on(&database, &database.url(), &[]);
    refresh(&restarted, &second.refresh).must(200);
}

#[test]
fn rotation_survives_a_database_connection_that_is_cut() {
    for when in [Cut::BeforeTheDatabase, Cut::BeforeTheAnswer] {
        let (server, gate) = Server::behind_gate(&[]);
        let first = login(&server, &server.user("ada"));
        gate.cut("update sessions as s", when);
        let cut = refresh(&server, &first.refresh);
        assert!([200, 503].contains(&cut.status), "{when:?}: {cut}");
        let second = Tokens::of(&refresh(&server, &first.refresh).must(200));
        if cut.status == 200 {
            assert_eq!(Tokens::of(&cut).refresh, second.refresh, "{when:?}");
        }
        let counter: i32 = server.sql().query_typed("select max(counter) from sessions", &[]).unwrap()[0].get(0);
        assert_eq!(counter, 1, "{when:?}");
        refresh(&server, &second.refresh).must(200);
    }
}

/// The longest way: the answer is lost, the server gives up, the client waits as it is told, and asks again.
#[test]
fn rotation_survives_a_database_that_falls_silent_after_it() {
    let (server, gate) = Server::behind_gate(&[]);
    let first = login(&server, &server.user("ada"));
    gate.cut("update sessions as s", Cut::SilentBeforeTheAnswer);
    let lost = refresh(&server, &first.refresh).must(503);
    gate.open();
    let seconds = lost.header("Retry-After").and_then(|text| text.parse().ok()).expect("Retry-After");
    thread::sleep(Duration::from_secs(seconds));
    let second = Tokens::of(&refresh(&server, &first.refresh).must(200));
    let row = &server
        .sql()
        .query_typed(
            "select max(counter), min(now() - refreshed_at) > '9 seconds' from sessions where counter > 0",
            &[],
        )
        .unwrap()[0];
    assert_eq!((row.get(0), row.get(1)), (1, true), "one rotation, nine seconds ago or more");
    assert_eq!(Tokens::of(&refresh(&server, &first.refresh).must(200)).refresh, second.refresh);
    refresh(&server, &second.refresh).must(200);
}

#[test]
fn s18_replay_of_the_previous_token_within_60_s_gets_the_same_one() {
    let server = Server::start();
    let first = login(&server, &server.user("ada"));
    let second = Tokens::of(&refresh(&server, &first.refresh).must(200));
    age(&server, &second, "refreshed_at", "50 seconds");
    assert_eq!(Tokens::of(&refresh(&server, &first.refresh).must(200)).refresh, second.refresh);
    age(&server, &second, "refreshed_at", "11 seconds");
    refresh(&server, &first.refresh).must(401);
}

#[test]
fn s18_reuse_of_the_previous_token_after_60_s_revokes_the_session() {
    let server = Server::start();
    let first = login(&server, &server.user("ada"));
    let second = Tokens::of(&refresh(&server, &first.refresh).must(200));
    age(&server, &second, "refreshed_at", "61 seconds");
    let answer = refresh(&server, &first.refresh).must(401);
    assert_eq!(answer.header("WWW-Authenticate"), Some(r#"Bearer realm="latchkey""#));
    server.wait_for_log(&["event=refresh outcome=refused reason=reuse", &second.session()]);
    refresh(&server, &second.refresh).must(401);
    assert_eq!((me(&server, &first.access), me(&server, &second.access)), (401, 401));
}

#[test]
fn s17_reuse_of_an_older_token_revokes_the_session_at_once() {
    let server = Server::start();
    let first = login(&server, &server.user("ada"));
    let second = Tokens::of(&refresh(&server, &first.refresh).must(200));
    let third = Tokens::of(&refresh(&server, &second.refresh).must(200));
    refresh(&server, &first.refresh).must(401);
    refresh(&server, &third.refresh).must(401);
    assert_eq!(me(&server, &third.access), 401);
}

#[test]
fn s17_a_refresh_token_ahead_of_the_counter_revokes_the_session() {
    let server = Server::start();
    let first = login(&server, &server.user("ada"));
    let second = Tokens::of(&refresh(&server, &first.refresh).must(200));
    let back = format!("update sessions set counter = 0 where id = '{}'", second.session());
    server.sql().batch_execute(&back).unwrap();
    refresh(&server, &second.refresh).must(401);
    assert_eq!(me(&server, &second.access), 401);
}

#[test]
fn s19_a_forged_refresh_token_is_refused_and_changes_nothing() {
    let server = Server::start();
    let tokens = login(&server, &server.user("ada"));
    for position in 0..tokens.refresh.len() - 1 {
        let mut bytes = tokens.refresh.clone().into_bytes();
        bytes[position] = if bytes[position] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert_eq!(refresh(&server, &changed).status, 401, "character {position}");
    }
    for odd in ["", "lkr_", &tokens.access, &tokens.refresh[4..], &format!("{}A", tokens.refresh)] {
        assert_eq!(refresh(&server, odd).status, 401, "{odd}");
    }
    refresh(&server, &tokens.refresh).must(200);
}

#[test]
fn s24_a_session_expires_after_14_days_without_a_refresh() {
    let server = Server::start();
    let user = server.user("ada");
    let (tired, awake) = (login(&server, &user), login(&server, &user));
    age(&server, &tired, "refreshed_at", "14 days");
    age(&server, &awake, "refreshed_at", "13 days 23 hours");
    assert_eq!((me(&server, &tired.access), me(&server, &awake.access)), (401, 200));
    refresh(&server, &tired.refresh).must(401);
    refresh(&server, &awake.refresh).must(200);
}

#[test]
fn s24_a_session_expires_after_30_days_and_says_what_is_left() {
    let server = Server::start();
    let user = server.user("ada");
    let (over, nearly) = (login(&server, &user), login(&server, &user));
    age(&server, &over, "created_at", "30 days");
    age(&server, &nearly, "created_at", "29 days");
    assert_eq!(me(&server, &over.access), 401);
    refresh(&server, &over.refresh).must(401);
    let left = refresh(&server, &nearly.refresh).must(200).json()["refresh_expires_in"].as_i64().unwrap();
    assert!((86_300..=86_400).contains(&left), "{left}");
}

#[test]
fn s25_of_51_sessions_the_longest_without_a_refresh_is_revoked() {
    let server = Server::start();
    let user = server.user("ada");
    let oldest = login(&server, &user);
    let refreshed = login(&server, &user);
    server.sql().batch_execute("update sessions set refreshed_at = refreshed_at - interval '1 hour'").unwrap();
    refresh(&server, &refreshed.refresh).must(200);
    // The one of `Server::user` is as old as the oldest: end it, so that there is one answer.
    post(&server, "/auth/logout", &user.token).must(204);
    let others: Vec<_> = (0..48).map(|_| login(&server, &user)).collect();
    assert_eq!(me(&server, &oldest.access), 200, "fifty live");
    let newest = login(&server, &user);
    assert_eq!(me(&server, &oldest.access), 401);
    for tokens in others.iter().chain([&refreshed, &newest]) {
        assert_eq!(me(&server, &tokens.access), 200);
    }
}

#[test]
fn s26_the_database_holds_no_token_password_or_typed_email() {
    let server = Server::start();
    let user = server.user("ada");
    let first = login(&server, &user);
    let tokens = Tokens::of(&refresh(&server, &first.refresh).must(200));
    try_login(&server, &user, "a wrong password 11").must(401);
    server
        .request("POST", "/auth/login")
        .json(&json!({"email": "nobody@example.org", "password": PASSWORD}))
        .send()
        .must(401);
    let dump = everything(&mut server.sql());
    assert!(dump.contains(&user.email) && dump.contains(&tokens.session()), "the dump holds the rows");
    let mac = &tokens.refresh[tokens.refresh.len() - 43..];
    for secret in [
        &*first.refresh,
        &tokens.refresh,
        &tokens.refresh[4..],
        mac,
        &first.access,
        &tokens.access,
        PASSWORD,
        "a wrong password 11",
        "nobody@",
    ] {
        assert!(!dump.contains(secret), "the database holds {secret}");
    }
}

fn everything(sql: &mut Client) -> String {
    let tables = ["users", "sessions", "tasks", "attempts", "known_addresses", "migrations"];
    let rows = tables.iter().flat_map(|table| {
        let rows = sql.query_typed(&format!("select to_jsonb({table})::text as row from {table}"), &[]).unwrap();
        rows.into_iter().map(|row| row.get::<_, String>("row")).collect::<Vec<_>>()
    });
    rows.collect::<Vec<_>>().join("\n")
}

// --------------------------------------------------------------------------------------- ends with the next request

#[test]
fn s20_logout_revokes_this_session_on_every_instance() {
    let server = Server::start();
    let beside = Server::beside(&server, &[]);
    let user = server.user("ada");
    let tokens = login(&server, &user);
    post(&server, "/auth/logout", &tokens.access).must(204);
    assert_eq!((me(&server, &tokens.access), me(&beside, &tokens.access)), (401, 401));
    refresh(&beside, &tokens.refresh).must(401);
    post(&server, "/auth/logout", &tokens.access).must(401);
    assert_eq!(me(&beside, &user.token), 200);
    server.wait_for_log(&["event=logout outcome=ok", &user.id]);
}

#[test]
fn s21_logout_all_revokes_every_session_of_this_user_alone() {
    let server = Server::start();
    let beside = Server::beside(&server, &[]);
    let (user, other) = (server.user("ada"), server.user("bob"));
    let tokens = login(&beside, &user);
    post(&server, "/auth/logout-all", &user.token).must(204);
    assert_eq!((me(&server, &user.token), me(&beside, &tokens.access)), (401, 401));
    refresh(&beside, &tokens.refresh).must(401);
    post(&server, "/auth/logout-all", &user.token).must(401);
    assert_eq!(me(&server, &other.token), 200);
    login(&server, &user);
}

#[test]
fn s21_a_password_change_revokes_every_other_session() {
    let server = Server::start();
    let beside = Server::beside(&server, &[]);
    let user = server.user("ada");
    let (own, other) = (login(&server, &user), login(&beside, &user));
    change_password(&server, &own.access).must(204);
    assert_eq!((me(&beside, &own.access), me(&beside, &other.access), me(&server, &user.token)), (200, 401, 401));
    refresh(&server, &own.refresh).must(200);
    refresh(&server, &other.refresh).must(401);
    try_login(&server, &user, PASSWORD).must(401);
    try_login(&server, &user, NEW_PASSWORD).must(200);
}

#[test]
fn a_refused_password_change_changes_nothing() {
    let server = Server::start();
    let user = server.user("ada.lovelace1815");
    let change = |current: &str, new: &str| {
        let body = json!({"current_password": current, "new_password": new});
        server.request("PUT", "/auth/password").bearer(&user.token).json(&body).send()
    };
    change("not this one 11", NEW_PASSWORD).must(403);
    for (new, why) in
        [("short", "length"), ("password123", "common"), ("lovelace1815", "the e-mail"), (&"x".repeat(73), "73 bytes")]
    {
        let answer = change(PASSWORD, new);
        assert_eq!((answer.status, answer.fields()), (422, vec!["new_password".to_owned()]), "{why}: {answer}");
    }
    change(PASSWORD, "nul\0in the middle of it").must(422);
    server.request("PUT", "/auth/password").json(&json!({})).send().must(401);
    try_login(&server, &user, PASSWORD).must(200);
}

#[test]
fn s22_deletion_removes_the_user_the_tasks_and_the_sessions() {
    let server = Server::start();
    let (user, other) = (server.user("ada"), server.user("bob"));
    let tokens = login(&server, &user);
    server.task(&user, "gone");
    server.task(&other, "stays");
    server
        .request("POST", "/auth/delete")
        .bearer(&user.token)
        .json(&json!({"password": "not this one 11"}))
        .send()
        .must(403);
    assert_eq!(me(&server, &user.token), 200);
    delete(&server, &user.token).must(204);
    assert_eq!((me(&server, &user.token), me(&server, &tokens.access)), (401, 401));
    refresh(&server, &tokens.refresh).must(401);
    try_login(&server, &user, PASSWORD).must(401);
    let dump = everything(&mut server.sql());
    assert!(!dump.contains(&user.id) && !dump.contains("gone") && dump.contains("stays"), "{dump}");
    assert_ne!(server.user("ada").id, user.id, "the e-mail is free again, the id is not");
}

#[test]
fn s22_deactivation_revokes_all_sessions_activation_revives_none() {
    let server = Server::start();
    let beside = Server::beside(&server, &[]);
    let user = server.user("ada");
    let tokens = login(&server, &user);
    assert_eq!(operator(&server, &["user", "deactivate", &user.email], ""), Some(0));
    assert_eq!((me(&server, &tokens.access), me(&beside, &user.token)), (401, 401));
    refresh(&server, &tokens.refresh).must(401);
    try_login(&server, &user, PASSWORD).must(401);
    assert_eq!(operator(&server, &["user", "activate", &user.id], ""), Some(0));
    assert_eq!((me(&server, &tokens.access), me(&beside, &user.token)), (401, 401));
    refresh(&server, &tokens.refresh).must(401);
    try_login(&server, &user, PASSWORD).must(200);
}

#[test]
fn the_operators_logout_and_new_password_revoke_all_sessions() {
    let server = Server::start();
    let user = server.user("ada");
    assert_eq!(operator(&server, &["user", "logout", &user.email], ""), Some(0));
    assert_eq!(me(&server, &user.token), 401);
    let tokens = login(&server, &user);
    assert_eq!(operator(&server, &["user", "set-password", &user.email], "short\n"), Some(1));
    assert_eq!(me(&server, &tokens.access), 200);
    assert_eq!(operator(&server, &["user", "set-password", &user.email], &format!("{NEW_PASSWORD}\n")), Some(0));
    assert_eq!(me(&server, &tokens.access), 401);
    try_login(&server, &user, PASSWORD).must(401);
    try_login(&server, &user, NEW_PASSWORD).must(200);
}

// ------------------------------------------------------------------------------------------------------- races

/// Waits until a statement that holds this text waits for a lock, and so has taken its snapshot.
fn await_lock(server: &Server, text: &str) {
    let mut watcher = server.sql();
    await_that("the statement waits for a lock", || {
        let waiting = format!(
            "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
                and wait_event_type = 'Lock' and query like '%{text}%'"
        );
        !watcher.query_typed(&waiting, &[]).unwrap().is_empty()
    });
}

fn await_attempt(server: &Server) {
    let mut watcher = server.sql();
    await_that("the attempt is counted", || {
        !watcher.query_typed("select from attempts where kind = 'login'", &[]).unwrap().is_empty()
    });
}

/// Holds the login's second statement after it has taken its snapshot, does the deed, and lets it go on.
fn login_held_while(server: &Server, user: &User, deed: impl FnOnce()) -> Answer {
    let mut holder = server.sql();
    let mut transaction = holder.transaction().unwrap();
    transaction.execute_typed("select from known_addresses for update", &[]).unwrap();
    thread::scope(|scope| {
        let login = scope.spawn(|| try_login(server, user, PASSWORD));
        await_lock(server, "open_session");
        deed();
        transaction.commit().unwrap();
        login.join().unwrap()
    })
}

#[test]
fn a_login_beside_a_password_change_leaves_no_valid_session() {
    let server = Server::start();
    let user = server.user("ada");
    let answer = login_held_while(&server, &user, || drop(change_password(&server, &user.token).must(204)));
    let tokens = Tokens::of(&answer.must(200));
    assert_eq!(me(&server, &tokens.access), 401);
    refresh(&server, &tokens.refresh).must(401);
    assert_eq!(me(&server, &user.token), 200, "the session that changed the password stays valid");
}

#[test]
fn s23_a_login_beside_a_logout_all_leaves_no_valid_session() {
    let server = Server::start();
    let user = server.user("ada");
    let answer = login_held_while(&server, &user, || drop(post(&server, "/auth/logout-all", &user.token).must(204)));
    let tokens = Tokens::of(&answer.must(200));
    assert_eq!(me(&server, &tokens.access), 401);
    refresh(&server, &tokens.refresh).must(401);
}

#[test]
fn a_login_beside_a_deactivation_leaves_no_valid_session() {
    let server = Server::start();
    let user = server.user("ada");
    let answer = login_held_while(&server, &user, || {
        assert_eq!(operator(&server, &["user", "deactivate", &user.email], ""), Some(0));
    });
    let tokens = Tokens::of(&answer.must(200));
    assert_eq!(me(&server, &tokens.access), 401);
    assert_eq!(operator(&server, &["user", "activate", &user.email], ""), Some(0));
    assert_eq!(me(&server, &tokens.access), 401);
}

/// Does the deed while the login's password is hashed, between its two statements.
fn login_hashed_while(server: &Server, user: &User, deed: impl FnOnce()) -> Answer {
    let slow = bcrypt::hash(PASSWORD, 14).unwrap();
    server.sql().batch_execute(&format!("delete from attempts; update users set password_hash = '{slow}'")).unwrap();
    thread::scope(|scope| {
        let login = scope.spawn(|| try_login(server, user, PASSWORD));
        await_attempt(server);
        deed();
        login.join().unwrap()
    })
}

#[test]
fn s23_a_login_beside_a_revocation_of_sessions_is_refused() {
    let server = Server::start();
    let user = server.user("ada");
    login_hashed_while(&server, &user, || drop(post(&server, "/auth/logout-all", &user.token).must(204))).must(401);
    server.wait_for_log(&["event=login outcome=refused reason=changed_meanwhile", &user.id]);
    let operator = |command: &str| assert_eq!(operator(&server, &["user", command, &user.email], ""), Some(0));
    login_hashed_while(&server, &user, || operator("logout")).must(401);
    let again = || {
        operator("deactivate");
        operator("activate");
    };
    login_hashed_while(&server, &user, again).must(401);
    let sessions = server.sql().query_typed("select from sessions", &[]).unwrap();
    assert_eq!(sessions.len(), 1, "the first login's, and none of the refused ones");
}

#[test]
fn a_login_whose_password_changes_during_its_hash_is_refused() {
    let server = Server::start();
    let user = server.user("ada");
    let slow = bcrypt::hash(PASSWORD, 13).unwrap();
    let set = |hash: &str| {
        let statement = format!("update users set password_hash = '{hash}', session_epoch = session_epoch + 1");
        server.sql().batch_execute(&statement).unwrap();
    };
    set(&slow);
    thread::scope(|scope| {
        let login = scope.spawn(|| try_login(&server, &user, PASSWORD));
        await_attempt(&server);
        set(&bcrypt::hash(NEW_PASSWORD, 4).unwrap());
        login.join().unwrap().must(401);
    });
    server.wait_for_log(&["event=login outcome=refused reason=changed_meanwhile"]);
}

#[test]
fn s23_a_refresh_beside_a_revocation_leaves_no_valid_session() {
    let server = Server::start();
    let user = server.user("ada");
    for (round, path) in ["/auth/logout", "/auth/logout-all"].into_iter().cycle().take(20).enumerate() {
        let tokens = login(&server, &user);
        let answers = at_once(6, |number| match number {
            0 => post(&server, path, &tokens.access).must(204),
            _ => refresh(&server, &tokens.refresh),
        });
        for answer in answers.iter().filter(|answer| answer.status == 200) {
            let left = Tokens::of(answer);
            assert_eq!(me(&server, &left.access), 401, "round {round}");
            refresh(&server, &left.refresh).must(401);
        }
    }
}

#[test]
fn a_password_change_beside_a_logout_all_keeps_no_session() {
    let server = Server::start();
    for round in 0..10 {
        let user = server.user(&format!("ada{round}"));
        let tokens = login(&server, &user);
        at_once(2, |number| match number {
            0 => post(&server, "/auth/logout-all", &tokens.access).status,
            _ => change_password(&server, &tokens.access).status,
        });
        assert_eq!(me(&server, &tokens.access), 401, "round {round}");
        refresh(&server, &tokens.refresh).must(401);
    }
}

#[test]
fn a_password_change_of_a_session_revoked_meanwhile_is_refused() {
    let server = Server::start();
    let user = server.user("ada");
    let mut holder = server.sql();
    let mut transaction = holder.transaction().unwrap();
    transaction.execute_typed("update users set session_epoch = session_epoch + 1", &[]).unwrap();
    thread::scope(|scope| {
        let change = scope.spawn(|| change_password(&server, &user.token));
        await_lock(&server, "update users set password_hash");
        transaction.commit().unwrap();
        change.join().unwrap().must(401);
    });
    assert_eq!(me(&server, &user.token), 401);
    try_login(&server, &user, PASSWORD).must(200);
}

#[test]
fn of_password_changes_at_once_one_wins_and_the_others_are_403() {
    let server = Server::start();
    let user = server.user("ada");
    let new = |number: usize| format!("nineteen paper lanterns {number}");
    let answers = at_once(6, |number| {
        let body = json!({"current_password": PASSWORD, "new_password": new(number)});
        server.request("PUT", "/auth/password").bearer(&user.token).json(&body).send().status
    });
    let winners: Vec<_> = (0..6).filter(|number| answers[*number] == 204).collect();
    assert_eq!((winners.len(), answers.iter().filter(|status| **status == 403).count()), (1, 5), "{answers:?}");
    assert_eq!(me(&server, &user.token), 200);
    try_login(&server, &user, &new(winners[0])).must(200);
}

#[test]
fn a_deletion_whose_password_was_changed_meanwhile_is_refused() {
    let server = Server::start();
    let user = server.user("ada");
    let set = |hash: &str, statement: &str| {
        let change = format!("update users set password_hash = '{hash}'{statement}");
        server.sql().batch_execute(&change).unwrap();
    };
    set(&bcrypt::hash(PASSWORD, 13).unwrap(), "");
    thread::scope(|scope| {
        let running = scope.spawn(|| delete(&server, &user.token));
        await_attempt(&server);
        // As a password change by the same session does.
        set(
            &bcrypt::hash(NEW_PASSWORD, 4).unwrap(),
            ", session_epoch = session_epoch + 1; update sessions set session_epoch = session_epoch + 1",
        );
        running.join().unwrap().must(403);
    });
    assert_eq!(me(&server, &user.token), 200);
}

#[test]
fn a_deletion_of_a_session_revoked_meanwhile_is_refused() {
    let server = Server::start();
    let user = server.user("ada");
    let mut holder = server.sql();
    let mut transaction = holder.transaction().unwrap();
    transaction.execute_typed("update users set session_epoch = session_epoch + 1", &[]).unwrap();
    thread::scope(|scope| {
        let running = scope.spawn(|| delete(&server, &user.token));
        await_lock(&server, "delete from users");
        transaction.commit().unwrap();
        running.join().unwrap().must(401);
    });
    try_login(&server, &user, PASSWORD).must(200);
}

#[test]
fn logins_at_once_that_renew_a_hash_all_succeed() {
    let server = Server::start();
    let user = server.user("ada");
    for _ in 0..5 {
        let old = bcrypt::hash(PASSWORD, 5).unwrap();
        server.sql().batch_execute(&format!("update users set password_hash = '{old}'")).unwrap();
        at_once(4, |_| drop(try_login(&server, &user, PASSWORD).must(200)));
    }
}

#[test]
fn a_refresh_beside_a_password_change_of_its_session_succeeds() {
    let server = Server::start();
    let tokens = login(&server, &server.user("ada"));
    let mut holder = server.sql();
    let mut transaction = holder.transaction().unwrap();
    let carry =
        "update users set session_epoch = session_epoch + 1; update sessions set session_epoch = session_epoch + 1";
    transaction.batch_execute(carry).unwrap();
    thread::scope(|scope| {
        let running = scope.spawn(|| refresh(&server, &tokens.refresh));
        await_lock(&server, "update sessions as s");
        transaction.commit().unwrap();
        running.join().unwrap().must(200);
    });
}

#[test]
fn a_task_of_a_user_who_is_deleted_meanwhile_is_refused() {
    let server = Server::start();
    for round in 0..10 {
        let user = server.user(&format!("ada{round}"));
        let answers = at_once(8, |number| match number {
            0 => delete(&server, &user.token).status,
            _ => server.request("POST", "/api/me/tasks").bearer(&user.token).json(&json!({"title": "x"})).send().status,
        });
        assert_eq!(answers[0], 204);
        assert!(answers[1..].iter().all(|status| [201, 401].contains(status)), "{answers:?}");
    }
}

// --------------------------------------------------------------------------------------------------------- log

#[test]
fn the_log_holds_no_password_token_or_typed_email() {
    let server = Server::start_with(&[("RUST_LOG", "trace")]);
    let user = server.user("ada");
    let tokens = login(&server, &user);
    let renewed = Tokens::of(&refresh(&server, &tokens.refresh).must(200));
    try_login(&server, &user, "a wrong password 11").must(401);
    let nobody = json!({"email": "typed.secret@example.org", "password": "another wrong 12"});
    server.request("POST", "/auth/login").json(&nobody).send().must(401);
    server.request("POST", "/auth/login").json_bytes(format!("{nobody}x")).send().must(400);
    server.request("GET", &format!("/auth/me?token={}", renewed.access)).send().must(401);
    server.request("GET", "/auth/me").bearer(&renewed.access[1..]).send().must(401);
    server
        .request("POST", "/api/me/tasks")
        .bearer(&renewed.access)
        .json(&json!({"title": "a private title"}))
        .send()
        .must(201);
    server
        .request("POST", "/api/me/tasks")
        .bearer(&renewed.access)
        .json(&json!({"titel": "a private title"}))
        .send()
        .must(422);
    change_password(&server, &renewed.access).must(204);
    refresh(&server, &tokens.refresh[..tokens.refresh.len() - 1]).must(401);
    server.sql().batch_execute("alter table tasks rename to away").unwrap();
    server.request("GET", "/api/me/tasks").bearer(&renewed.access).send().must(500);
    post(&server, "/auth/logout", &renewed.access).must(204);
    let hash: String = server.sql().query_typed("select password_hash from users", &[]).unwrap()[0].get(0);
    let log = server.wait_for_log(&["event=logout outcome=ok"]) + &server.log();
    for secret in [
        PASSWORD,
        NEW_PASSWORD,
        "a wrong password 11",
        "another wrong 12",
        "typed.secret",
        "a private title",
        &user.email,
        &user.token,
        &tokens.access[1..],
        &tokens.refresh[4..],
        &renewed.access[1..],
        &renewed.refresh[4..],
        &environment("")["JWT_SECRET"],
        &hash,
    ] {
        assert!(!log.contains(secret), "the log holds {secret}");
    }
    for event in [
        "register outcome=ok",
        "login outcome=ok",
        "login outcome=refused",
        "refresh outcome=ok",
        "refresh outcome=refused",
        "password_change outcome=ok",
        "token outcome=refused",
    ] {
        assert!(log.contains(&format!("event={event}")), "the log lacks {event}");
    }
}
