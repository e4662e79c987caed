//! What may be tried how often, and how passwords are hashed: guessing is bounded, nobody is locked out, and a flood of
//! logins is told to come back. With TRUSTED_PROXIES=1 the tests speak from any address.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Answer, PASSWORD, Request, Server, User, at_once, await_that};

const WRONG: &str = "not the password 11";
/// Takes zxcvbn 20 ms, twenty times as long as a hash of cost 4.
const SLOW_TO_JUDGE: &str = "48{3691!|170$5%2+@x(<[";

fn login(server: &Server, email: &str, password: &str) -> Request {
    server.request("POST", "/auth/login").json(&json!({"email": email, "password": password}))
}

fn from(request: Request, address: &str) -> Answer {
    request.header("X-Forwarded-For", address).send()
}

fn register_from(server: &Server, email: &str, address: &str) -> Answer {
    let body = json!({"email": email, "password": PASSWORD});
    from(server.request("POST", "/auth/register").json(&body), address)
}

fn attempts(server: &Server) -> i64 {
    server.sql().query_typed("select count(*) from attempts where kind = 'login'", &[]).unwrap()[0].get(0)
}

fn retry_after(answer: &Answer) -> i64 {
    answer.header("Retry-After").and_then(|text| text.parse().ok()).expect("Retry-After")
}

/// Moves all counted attempts into the past.
fn age_attempts(server: &Server, seconds: i64) {
    let statement = format!("update attempts set created_at = created_at - interval '{seconds} seconds'");
    server.sql().batch_execute(&statement).unwrap();
}

/// Until it is answered by something else than "busy", which counts nothing.
fn until_not_busy(request: &Request) -> Answer {
    loop {
        let answer = request.send();
        if answer.status != 503 {
            return answer;
        }
        thread::sleep(Duration::from_millis(20));
    }
}

// ------------------------------------------------------------------------------------------------ email and address

#[test]
fn s6_lockout_after_ten_failures_holds_for_the_right_password_too() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "10"), ("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    for _ in 0..10 {
        from(login(&server, &user.email, WRONG), "192.0.2.1").must(401);
    }
    let answer = from(login(&server, &user.email, PASSWORD), "192.0.2.1").must(429);
    assert!((890..=900).contains(&retry_after(&answer)), "{answer}");
    let user_id = format!("user={} address=192.0.2.1", user.id);
    server.wait_for_log(&["event=login outcome=throttled limit=email_and_address", &user_id, answer.request_id()]);
    from(login(&server, &user.email, PASSWORD), "192.0.2.2").must(200);
}

#[test]
fn s6_throttling_allows_no_user_enumeration() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "3")]);
    let user = server.user("ada");
    let outcomes = |email: &str| {
        let tries = (0..5).map(|_| login(&server, email, WRONG).send());
        tries.map(|answer| (answer.status, answer.without_request_id().2)).collect::<Vec<_>>()
    };
    let known = outcomes(&user.email);
    assert_eq!(known.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [401, 401, 401, 429, 429]);
    assert_eq!(outcomes("nobody@example.org"), known);
    assert_eq!(outcomes("no e-mail at all"), known);
}

#[test]
fn s8_guesses_at_once_get_no_more_attempts_than_in_turn() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "10")]);
    let user = server.user("ada");
    let answers = at_once(200, |_| until_not_busy(&login(&server, &user.email, WRONG)).status);
    let count = |status: u16| answers.iter().filter(|s| **s == status).count();
    assert_eq!((count(401), count(429)), (10, 190));
    assert_eq!(attempts(&server), 10);
}

#[test]
fn case_of_the_email_or_a_forged_address_evade_no_limit() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "3")]);
    server.user("ada");
    for (number, email) in ["ada@example.org", "ADA@example.org", "Ada@Example.Org"].into_iter().enumerate() {
        from(login(&server, email, WRONG), &format!("192.0.2.{number}")).must(401);
    }
    from(login(&server, "aDa@example.org", WRONG), "192.0.2.9").must(429);
}

#[test]
fn behind_a_proxy_only_the_entry_that_it_appended_counts() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "3"), ("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    for forged in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        from(login(&server, &user.email, WRONG), &format!("{forged}, 198.51.100.7")).must(401);
    }
    from(login(&server, &user.email, WRONG), "192.0.2.4, 198.51.100.7").must(429);
    from(login(&server, &user.email, WRONG), "192.0.2.4, 198.51.100.8").must(401);
}

#[test]
fn the_addresses_of_one_ipv6_network_are_one_address() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "3"), ("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    for host in 1..=3 {
        from(login(&server, &user.email, WRONG), &format!("2001:db8:1:2::{host}")).must(401);
    }
    from(login(&server, &user.email, WRONG), "2001:db8:1:2:ffff::1").must(429);
    from(login(&server, &user.email, WRONG), "2001:db8:1:3::1").must(401);
}

#[test]
fn a_success_gives_its_own_attempt_back_and_no_other() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "3")]);
    let user = server.user("ada");
    login(&server, &user.email, WRONG).send().must(401);
    for _ in 0..5 {
        login(&server, &user.email, PASSWORD).send().must(200);
    }
    assert_eq!(attempts(&server), 1);
    login(&server, &user.email, WRONG).send().must(401);
    login(&server, &user.email, WRONG).send().must(401);
    login(&server, &user.email, PASSWORD).send().must(429);
}

#[test]
fn retry_after_is_true_and_refused_attempts_do_not_extend_it() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "3")]);
    let user = server.user("ada");
    login(&server, &user.email, WRONG).send().must(401);
    age_attempts(&server, 600);
    login(&server, &user.email, WRONG).send().must(401);
    login(&server, &user.email, WRONG).send().must(401);
    for _ in 0..5 {
        login(&server, &user.email, WRONG).send().must(429);
    }
    let answer = login(&server, &user.email, PASSWORD).send().must(429);
    assert!((280..=300).contains(&retry_after(&answer)), "the first of three leaves the 15 minutes: {answer}");
    assert_eq!(attempts(&server), 3);
    age_attempts(&server, retry_after(&answer) - 20);
    login(&server, &user.email, PASSWORD).send().must(429);
    age_attempts(&server, 20);
    login(&server, &user.email, PASSWORD).send().must(200);
}

#[test]
fn attempts_dated_in_the_future_ask_for_no_longer_wait() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "1")]);
    login(&server, "ada@example.org", WRONG).send().must(401);
    age_attempts(&server, -86_400);
    let answer = login(&server, "ada@example.org", WRONG).send().must(429);
    assert!(retry_after(&answer) <= 900, "{answer}");
}

/// Under another isolation a count does not see what was committed after its snapshot.
#[test]
fn attempts_are_counted_under_read_committed_or_not_at_all() {
    let server = Server::start();
    for function in
        ["reserve_login(gen_random_uuid(), 'x', 'x', null, 1, 1)", "reserve_registration(gen_random_uuid(), 'x', 1)"]
    {
        for (isolation, is_counted) in [("read committed", true), ("repeatable read", false), ("serializable", false)] {
            let statement = format!("begin isolation level {isolation}; select {function}; commit");
            let outcome = server.sql().batch_execute(&statement);
            assert_eq!(outcome.is_ok(), is_counted, "{function} {isolation}");
        }
    }
}

#[test]
fn a_limit_of_zero_is_no_limit() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "0"), ("ADDRESS_LIMIT", "0")]);
    let user = server.user("ada");
    let answers = (0..120).map(|_| login(&server, &user.email, WRONG).send().status);
    assert!(answers.into_iter().all(|status| status == 401));
    login(&server, &user.email, PASSWORD).send().must(200);
}

// ------------------------------------------------------------------------------------------------ address, and email

#[test]
fn s6_password_spraying_from_one_address_is_limited_there_alone() {
    let server = Server::start_with(&[("ADDRESS_LIMIT", "5"), ("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    for number in 0..5 {
        from(login(&server, &format!("user{number}@example.org"), WRONG), "192.0.2.1").must(401);
    }
    let answer = from(login(&server, &user.email, PASSWORD), "192.0.2.1").must(429);
    assert!((3_590..=3_600).contains(&retry_after(&answer)), "{answer}");
    from(login(&server, &user.email, PASSWORD), "192.0.2.2").must(200);
}

#[test]
fn registrations_are_limited_taken_and_weak_ones_included() {
    let server = Server::start_with(&[("ADDRESS_LIMIT", "3"), ("TRUSTED_PROXIES", "1")]);
    register_from(&server, "one@example.org", "192.0.2.1").must(201);
    register_from(&server, "one@example.org", "192.0.2.1").must(409);
    let weak = json!({"email": "two@example.org", "password": "password123"});
    from(server.request("POST", "/auth/register").json(&weak), "192.0.2.1").must(422);
    let answer = register_from(&server, "three@example.org", "192.0.2.1").must(429);
    assert!((3_590..=3_600).contains(&retry_after(&answer)), "{answer}");
    server.wait_for_log(&["event=register outcome=throttled limit=address retry_after=", "email_digest="]);
    register_from(&server, "three@example.org", "192.0.2.2").must(201);
    from(login(&server, "one@example.org", WRONG), "192.0.2.1").must(401);
}

/// A hundred failures for the account, each from an address of its own, without the hashes.
fn attack_from_everywhere(server: &Server, user: &User) {
    from(login(server, &user.email, WRONG), "203.0.113.1").must(401);
    let statement = "insert into attempts (id, kind, email_digest, address)
        select gen_random_uuid(), kind, email_digest, '203.0.113.' || n + 1 from attempts, generate_series(1, 99) as n";
    server.sql().batch_execute(statement).unwrap();
}

#[test]
fn distributed_guessing_of_one_account_is_limited() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "10"), ("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    attack_from_everywhere(&server, &user);
    from(login(&server, &user.email, WRONG), "198.51.100.1").must(429);
    server.wait_for_log(&["event=login outcome=throttled limit=email retry_after=", &user.id]);
    from(login(&server, "other@example.org", WRONG), "198.51.100.1").must(401);
}

#[test]
fn s7_no_lockout_of_the_owner_at_an_address_they_logged_in_from() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "10"), ("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    from(login(&server, &user.email, PASSWORD), "198.51.100.1").must(200);
    attack_from_everywhere(&server, &user);
    from(login(&server, &user.email, PASSWORD), "198.51.100.2").must(429);
    from(login(&server, &user.email, PASSWORD), "198.51.100.1").must(200);
    for _ in 0..10 {
        from(login(&server, &user.email, WRONG), "198.51.100.1").must(401);
    }
    from(login(&server, &user.email, PASSWORD), "198.51.100.1").must(429);
}

#[test]
fn mistakes_at_known_addresses_lock_no_new_address_out() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "10"), ("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    attack_from_everywhere(&server, &user);
    server.sql().batch_execute("update attempts set address_is_known = true").unwrap();
    from(login(&server, &user.email, PASSWORD), "198.51.100.1").must(200);
}

#[test]
fn an_address_is_known_for_ninety_days() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "10"), ("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    for (address, days) in [("198.51.100.1", 91), ("198.51.100.2", 89)] {
        from(login(&server, &user.email, PASSWORD), address).must(200);
        let statement = format!(
            "update known_addresses set last_seen = now() - interval '{days} days' where address = '{address}'"
        );
        server.sql().batch_execute(&statement).unwrap();
    }
    attack_from_everywhere(&server, &user);
    from(login(&server, &user.email, PASSWORD), "198.51.100.1").must(429);
    from(login(&server, &user.email, PASSWORD), "198.51.100.2").must(200);
}

#[test]
fn s10_a_wrong_current_password_counts_as_a_failed_login() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "4")]);
    let user = server.user("ada");
    let change = |password: &str| {
        let body = json!({"current_password": password, "new_password": "nineteen paper lanterns 3"});
        server.request("PUT", "/auth/password").bearer(&user.token).json(&body).send()
    };
    let delete = |password: &str| {
        server.request("POST", "/auth/delete").bearer(&user.token).json(&json!({"password": password})).send()
    };
    change(WRONG).must(403);
    delete(WRONG).must(403);
    login(&server, &user.email, WRONG).send().must(401);
    change(WRONG).must(403);
    change(PASSWORD).must(429);
    delete(PASSWORD).must(429);
    login(&server, &user.email, PASSWORD).send().must(429);
    server.wait_for_log(&["event=password_change outcome=throttled"]);
    age_attempts(&server, 901);
    change(PASSWORD).must(204);
    assert_eq!(attempts(&server), 4, "a success took its own attempt back");
}

/// The current password is not looked at, so that it is no guess.
#[test]
fn s3_a_weak_new_password_is_422_and_not_counted() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "2")]);
    let user = server.user("ada");
    for current in [WRONG, PASSWORD, WRONG] {
        let body = json!({"current_password": current, "new_password": "password123"});
        let answer = server.request("PUT", "/auth/password").bearer(&user.token).json(&body).send();
        assert_eq!((answer.status, answer.fields()), (422, vec!["new_password".to_owned()]), "{answer}");
    }
    assert_eq!(attempts(&server), 0);
}

#[test]
fn several_instances_share_one_count() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "4")]);
    let beside = Server::beside(&server, &[("LOGIN_FAILURE_LIMIT", "4")]);
    let user = server.user("ada");
    for number in 0..4 {
        login([&server, &beside][number % 2], &user.email, WRONG).send().must(401);
    }
    login(&beside, &user.email, WRONG).send().must(429);
}

#[test]
fn a_login_deletes_old_attempts_sessions_and_addresses() {
    let server = Server::start_with(&[("TRUSTED_PROXIES", "1")]);
    let (user, other) = (server.user("ada"), server.user("bob"));
    for (user, address) in [(&user, "192.0.2.1"), (&user, "192.0.2.2"), (&other, "192.0.2.3")] {
        from(login(&server, &user.email, PASSWORD), address).must(200);
    }
    login(&server, &user.email, WRONG).send().must(401);
    age_attempts(&server, 3_700);
    let age = "update sessions set ended_at = now() - interval '2 days';
        update known_addresses set last_seen = now() - interval '91 days'";
    server.sql().batch_execute(age).unwrap();
    from(login(&server, &user.email, PASSWORD), "192.0.2.1").must(200);
    let statement = "select (select count(*) from attempts), (select count(*) from sessions),
        (select string_agg(address, ' ') from known_addresses)";
    let left = &server.sql().query_typed(statement, &[]).unwrap()[0];
    assert_eq!((left.get(0), left.get(1), left.get(2)), (0_i64, 1_i64, "192.0.2.1"));
}

// ---------------------------------------------------------------------------------------------------------- hashing

/// Repeats requests from each of these addresses, `width` at a time, until the work is done.
fn flooded(addresses: u8, width: usize, request: impl Fn() -> Request + Sync, work: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..addresses {
            for _ in 0..width {
                let (request, is_over) = (&request, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        let answer = request().header("X-Forwarded-For", &format!("192.0.2.{number}")).try_send();
                        // Busy clients would take the processor from the hash threads, which have a lower priority.
                        thread::sleep(Duration::from_millis(if answer.is_ok_and(|a| a.status == 503) {
                            100
                        } else {
                            0
                        }));
                    }
                });
            }
        }
        let outcome = catch_unwind(AssertUnwindSafe(work));
        is_over.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// Waits until the queue refuses a request of the flood, then logs in twenty times from addresses outside of it.
fn nobody_is_shut_out(server: &Server, user: &User) {
    server.wait_for_log(&["status=503"]);
    for number in 0..20 {
        from(login(server, &user.email, PASSWORD), &format!("198.51.100.{number}")).must(200);
    }
}

#[test]
fn s9_a_flood_of_right_logins_shuts_nobody_out_of_login() {
    let server = Server::start_with(&[("BCRYPT_COST", "10"), ("TRUSTED_PROXIES", "1")]);
    let (user, attacker) = (server.user("ada"), server.user("eve"));
    flooded(2, 40, || login(&server, &attacker.email, PASSWORD), || nobody_is_shut_out(&server, &user));
}

#[test]
fn a_flood_of_slow_registrations_shuts_nobody_out_of_login() {
    let server = Server::start_with(&[("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    let body = json!({"email": "eve@example.org", "password": SLOW_TO_JUDGE});
    let register = || server.request("POST", "/auth/register").json(&body);
    flooded(2, 40, register, || nobody_is_shut_out(&server, &user));
}

#[test]
fn a_login_without_a_place_in_the_queue_is_503_and_not_counted() {
    let server = Server::start_with(&[("BCRYPT_COST", "12"), ("LOGIN_FAILURE_LIMIT", "100")]);
    let user = server.user("ada");
    let statuses = at_once(40, |_| login(&server, &user.email, WRONG).send().status);
    let hashed = statuses.iter().filter(|status| **status == 401).count() as i64;
    assert!(statuses.iter().all(|status| [401, 503].contains(status)), "{statuses:?}");
    assert!((1..40).contains(&hashed), "some were hashed, some were told to come back: {statuses:?}");
    // On a slow machine a hash may outlast the request, which is 503 then and stays counted.
    assert!((hashed..=hashed + 4).contains(&attempts(&server)), "a 503 without a hash counts nothing: {statuses:?}");
}

#[test]
fn order_of_refusal_is_503_then_429_then_401() {
    let server = Server::start_with(&[("BCRYPT_COST", "13"), ("LOGIN_FAILURE_LIMIT", "1")]);
    let refused = || login(&server, "ada@example.org", WRONG).send();
    refused().must(401);
    refused().must(429);
    thread::scope(|scope| {
        // Half of the eight places that there are at this cost, or fewer on a slow machine.
        for name in ["eve", "mallory", "oscar", "trudy"] {
            let email = format!("{name}@example.org");
            scope.spawn(|| login(&server, &{ email }, WRONG).send());
        }
        await_that("the queue has no place for this address", || refused().status == 503);
    });
}

#[test]
fn no_database_connection_is_held_while_a_password_is_hashed() {
    let server = Server::start_with(&[("POOL_SIZE", "1")]);
    let user = server.user("ada");
    let slow = bcrypt::hash(PASSWORD, 13).unwrap();
    server.sql().batch_execute(&format!("update users set password_hash = '{slow}'")).unwrap();
    thread::scope(|scope| {
        let began = Instant::now();
        let slow_login = scope.spawn({
            let (server, user) = (&server, &user);
            move || {
                login(server, &user.email, PASSWORD).send().must(200);
                began.elapsed()
            }
        });
        await_that("the attempt is counted", || attempts(&server) == 1);
        server.request("GET", "/auth/me").bearer(&user.token).send().must(200);
        let read_at = began.elapsed();
        assert!(read_at < slow_login.join().unwrap(), "the read was answered before the hash was done");
    });
}

#[test]
fn a_client_that_left_before_its_turn_costs_no_hash_and_no_attempt() {
    let server = Server::start_with(&[("BCRYPT_COST", "14"), ("TRUSTED_PROXIES", "1")]);
    let email = "ada@example.org";
    let of_the_client = || -> i64 {
        let statement = "select count(*) from attempts where address = '198.51.100.1'";
        server.sql().query_typed(statement, &[]).unwrap()[0].get(0)
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for number in 0..threads {
            let server = &server;
            scope.spawn(move || from(login(server, email, WRONG), &format!("192.0.2.{number}")));
        }
        await_that("the hash threads have work", || attempts(&server) == threads as i64);
        let body = json!({"email": email, "password": WRONG}).to_string();
        let head =
            "POST /auth/login HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.1\r\nContent-Type: application/json";
        let stream = crate::support::connect(server.address).unwrap();
        let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        std::io::Write::write_all(&mut &stream, request.as_bytes()).unwrap();
        await_that("the attempt is counted", || of_the_client() == 1);
        drop(stream);
        server.wait_for_log(&["route=/auth/login status=503", "address=198.51.100.1"]);
        assert_eq!(of_the_client(), 0, "given back");
    });
}

#[test]
fn a_password_over_72_bytes_costs_no_hash_and_no_attempt() {
    let server = Server::start_with(&[("BCRYPT_COST", "13"), ("LOGIN_FAILURE_LIMIT", "10")]);
    let began = Instant::now();
    for _ in 0..20 {
        login(&server, "ada@example.org", &"x".repeat(60_000)).send().must(422);
    }
    login(&server, "ada@example.org", "nul\0nul\0nul").send().must(422);
    assert_eq!(attempts(&server), 0);
    assert!(began.elapsed() < Duration::from_secs(5), "twenty hashes would have taken {:?}", began.elapsed());
}

#[test]
fn a_password_that_is_slow_to_judge_waits_in_the_hash_queue() {
    let server = Server::start();
    let statuses = at_once(60, |number| {
        let body = json!({"email": format!("user{number}@example.org"), "password": SLOW_TO_JUDGE});
        server.request("POST", "/auth/register").json(&body).send().status
    });
    assert!(statuses.iter().all(|status| [201, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&503), "all at once were judged outside of the queue: {statuses:?}");
}

/// An e-mail without an account, a malformed one, and accounts that are active, deactivated, and of a cheaper hash.
#[test]
fn s5_timing_of_refused_logins_allows_no_user_enumeration() {
    let server = Server::start_with(&[("BCRYPT_COST", "10")]);
    let (user, inactive, cheap) = (server.user("ada"), server.user("bob"), server.user("eve"));
    let hash = bcrypt::hash(PASSWORD, 6).unwrap();
    let change = format!(
        "update users set is_active = false where id = '{}'; update users set password_hash = '{hash}' where id = '{}'",
        inactive.id, cheap.id
    );
    server.sql().batch_execute(&change).unwrap();
    let cases = [
        ("nobody@example.org", WRONG),
        ("no e-mail", WRONG),
        (&*user.email, WRONG),
        (&*inactive.email, PASSWORD),
        (&*cheap.email, WRONG),
    ];
    let mut fastest = [f64::MAX; 5];
    for _ in 0..9 {
        for ((email, password), fastest) in cases.iter().zip(&mut fastest) {
            let began = Instant::now();
            login(&server, email, password).send().must(401);
            *fastest = fastest.min(began.elapsed().as_secs_f64());
        }
    }
    let least = fastest.iter().copied().fold(f64::MAX, f64::min);
    // Without the missing work the cheap hash would take a sixteenth.
    assert!(fastest.iter().all(|time| time / least < 4.0), "{fastest:?}");
}
