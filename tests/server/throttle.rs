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
fn the_eleventh_failure_from_one_address_is_429_even_with_the_right_password() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "10"), ("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    for _ in 0..10 {
        from(login(&server, &user.email, WRONG), "192.0.2.1").must(401);
    }
    let answer = from(login(&server, &user.email, PASSWORD), "192.0.2.1").must(429);
    assert!((890..=900).contains(&retry_after(&answer)), "{answer}");
    server.wait_for_log(&["event=login outcome=throttled", answer.request_id()]);
    from(login(&server, &user.email, PASSWORD), "192.0.2.2").must(200);
}

#[test]
fn an_unknown_email_is_throttled_just_as_a_known_one() {
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
fn two_hundred_at_once_get_no_more_attempts_than_one_after_the_other() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "10")]);
    let user = server.user("ada");
    let answers = at_once(200, |_| until_not_busy(&login(&server, &user.email, WRONG)).status);
    let count = |status: u16| answers.iter().filter(|s| **s == status).count();
    assert_eq!((count(401), count(429)), (10, 190));
    assert_eq!(attempts(&server), 10);
}

#[test]
fn neither_the_case_of_the_email_nor_a_forged_address_gives_more_attempts() {
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
fn the_addresses_of_one_ipv6_customer_are_one_address() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "3"), ("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    for host in 1..=3 {
        from(login(&server, &user.email, WRONG), &format!("2001:db8:1:2::{host}")).must(401);
    }
    from(login(&server, &user.email, WRONG), "2001:db8:1:2:ffff::1").must(429);
    from(login(&server, &user.email, WRONG), "2001:db8:1:3::1").must(401);
}

#[test]
fn a_success_takes_its_own_attempt_back_and_no_other() {
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
fn retry_after_is_true_and_refused_attempts_do_not_prolong_it() {
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
fn a_limit_of_zero_is_no_limit() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "0"), ("ADDRESS_LIMIT", "0")]);
    let user = server.user("ada");
    let answers = (0..120).map(|_| login(&server, &user.email, WRONG).send().status);
    assert!(answers.into_iter().all(|status| status == 401));
    login(&server, &user.email, PASSWORD).send().must(200);
}

// ------------------------------------------------------------------------------------------------ address, and email

#[test]
fn an_address_is_bounded_over_all_emails_and_no_other_address_suffers() {
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
fn registrations_per_address_are_bounded_and_a_taken_email_counts_too() {
    let server = Server::start_with(&[("ADDRESS_LIMIT", "3"), ("TRUSTED_PROXIES", "1")]);
    register_from(&server, "one@example.org", "192.0.2.1").must(201);
    register_from(&server, "one@example.org", "192.0.2.1").must(409);
    register_from(&server, "two@example.org", "192.0.2.1").must(201);
    let answer = register_from(&server, "three@example.org", "192.0.2.1").must(429);
    assert!((3_590..=3_600).contains(&retry_after(&answer)), "{answer}");
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
fn an_account_is_bounded_over_all_addresses_that_never_logged_in_to_it() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "10"), ("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    attack_from_everywhere(&server, &user);
    from(login(&server, &user.email, WRONG), "198.51.100.1").must(429);
    from(login(&server, "other@example.org", WRONG), "198.51.100.1").must(401);
}

#[test]
fn the_owner_is_never_locked_out_of_an_address_they_logged_in_from() {
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
fn the_owners_own_mistakes_lock_no_new_address_of_theirs() {
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
fn asking_for_the_password_again_counts_as_a_guess() {
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

#[test]
fn several_instances_count_together() {
    let server = Server::start_with(&[("LOGIN_FAILURE_LIMIT", "4")]);
    let beside = Server::beside(&server, &[("LOGIN_FAILURE_LIMIT", "4")]);
    let user = server.user("ada");
    for number in 0..4 {
        login([&server, &beside][number % 2], &user.email, WRONG).send().must(401);
    }
    login(&beside, &user.email, WRONG).send().must(429);
}

#[test]
fn old_attempts_and_ended_sessions_go_with_the_next_login() {
    let server = Server::start();
    let user = server.user("ada");
    login(&server, &user.email, WRONG).send().must(401);
    server.request("POST", "/auth/logout").bearer(&user.token).send().must(204);
    age_attempts(&server, 3_700);
    server.sql().batch_execute("update sessions set ended_at = ended_at - interval '2 days'").unwrap();
    login(&server, &user.email, PASSWORD).send().must(200);
    let left = server
        .sql()
        .query_typed("select (select count(*) from attempts), (select count(*) from sessions)", &[])
        .unwrap();
    assert_eq!((left[0].get::<_, i64>(0), left[0].get::<_, i64>(1)), (0, 1));
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
fn a_flood_of_right_logins_from_two_addresses_shuts_nobody_out_of_login() {
    let server = Server::start_with(&[("BCRYPT_COST", "10"), ("TRUSTED_PROXIES", "1")]);
    let (user, attacker) = (server.user("ada"), server.user("eve"));
    flooded(2, 40, || login(&server, &attacker.email, PASSWORD), || nobody_is_shut_out(&server, &user));
}

#[test]
fn a_flood_of_registrations_that_are_slow_to_judge_shuts_nobody_out_of_login() {
    let server = Server::start_with(&[("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    let body = json!({"email": "eve@example.org", "password": SLOW_TO_JUDGE});
    let register = || server.request("POST", "/auth/register").json(&body);
    flooded(2, 40, register, || nobody_is_shut_out(&server, &user));
}

#[test]
fn a_login_without_a_place_in_the_queue_is_503_and_gets_its_attempt_back() {
    let server = Server::start_with(&[("BCRYPT_COST", "13"), ("TRUSTED_PROXIES", "1"), ("LOGIN_FAILURE_LIMIT", "100")]);
    let user = server.user("ada");
    let before = attempts(&server);
    let statuses = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            at_once(40, |number| from(login(&server, &user.email, WRONG), &format!("192.0.2.{}", number % 2)).status)
        });
        await_that("the flood is counted", || attempts(&server) >= before + 4);
        from(login(&server, &user.email, PASSWORD), "198.51.100.1").must(200);
        flood.join().unwrap()
    });
    let hashed = statuses.iter().filter(|status| **status == 401).count() as i64;
    assert!(statuses.iter().all(|status| [401, 503].contains(status)), "{statuses:?}");
    assert_eq!(attempts(&server) - before, hashed, "a 503 counts nothing");
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
fn a_client_that_left_before_its_turn_costs_no_hash() {
    let server = Server::start_with(&[("BCRYPT_COST", "12"), ("TRUSTED_PROXIES", "1")]);
    let user = server.user("ada");
    thread::scope(|scope| {
        for number in 0..6 {
            let (server, user) = (&server, &user);
            scope.spawn(move || from(login(server, &user.email, WRONG), &format!("192.0.2.{number}")));
        }
        await_that("the hash threads have work", || attempts(&server) > 0);
        let body = json!({"email": user.email, "password": WRONG}).to_string();
        let head =
            "POST /auth/login HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.1\r\nContent-Type: application/json";
        let stream = crate::support::connect(server.address).unwrap();
        let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        std::io::Write::write_all(&mut &stream, request.as_bytes()).unwrap();
        drop(stream);
        server.wait_for_log(&["route=/auth/login status=503", "address=198.51.100.1"]);
    });
}

#[test]
fn an_endless_password_costs_neither_a_hash_nor_an_attempt() {
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

#[test]
fn an_unknown_email_a_wrong_password_and_a_deactivated_account_take_the_same_time() {
    let server = Server::start_with(&[("BCRYPT_COST", "10")]);
    let (user, inactive) = (server.user("ada"), server.user("bob"));
    server.sql().batch_execute(&format!("update users set is_active = false where id = '{}'", inactive.id)).unwrap();
    let cases =
        [("nobody@example.org", WRONG), ("no e-mail", WRONG), (&*user.email, WRONG), (&*inactive.email, PASSWORD)];
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..9 {
        for ((email, password), times) in cases.iter().zip(&mut times) {
            let began = Instant::now();
            login(&server, email, password).send().must(401);
            times.push(began.elapsed());
        }
    }
    let fastest: Vec<_> = times.iter().map(|times| times.iter().min().unwrap().as_secs_f64()).collect();
    let (least, most) =
        fastest.iter().fold((f64::MAX, 0.0_f64), |(least, most), time| (least.min(*time), most.max(*time)));
    assert!(most / least < 3.0, "{fastest:?}");
}
