//! The keys of a Better Auth at the shipped binary: a key set that counts its fetches, goes away, rotates, redirects,
//! floods, drips and hangs; the shared secret; and the settings for both.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::external::{Pair, list, subject};
use crate::issuer::{Behaviour, Issuer, SigningKey, hs256, now, signed};
use crate::support::{Answer, Environment, Server, at_once, await_that, environment, run, strong_secret};

#[track_caller]
fn assert_no_keys(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer}");
    assert_eq!(answer.json()["type"], "/docs#issuer-unavailable", "{answer}");
    let seconds: u64 = answer.header("Retry-After").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds), "{answer}");
}

// ----------------------------------------------------------------------------------------------------------- key set

#[test]
fn the_key_set_is_fetched_at_the_first_need_and_once() {
    let pair = Pair::start();
    let local = pair.server.user("ada");
    list(&pair.server, &local.token).must(200);
    list(&pair.server, "rubbish").must(401);
    assert_eq!(pair.issuer.fetches(), 0);
    let token = pair.token(&subject());
    assert_eq!(at_once(30, |_| list(&pair.server, &token).status), vec![200; 30]);
    assert_eq!(pair.issuer.fetches(), 1);
    pair.server.wait_for_log(&["event=jwks", "outcome=ok", "keys=1"]);
}

#[test]
fn a_storm_of_unknown_keys_causes_one_fetch() {
    let pair = Pair::start();
    let claims = pair.issuer.claims(&subject());
    let mut statuses = at_once(40, |n| {
        let stranger = SigningKey::new("EdDSA", &format!("key-{n}"));
        let token = stranger.token(&claims);
        (0..25).map(|_| list(&pair.server, &token).status).collect::<Vec<_>>()
    });
    assert!(statuses.drain(..).flatten().all(|status| status == 401));
    assert_eq!(pair.issuer.fetches(), 1);
}

#[test]
fn keys_hold_while_the_issuer_is_away_and_new_ones_are_found_after_the_cool_down() {
    let pair = Pair::start();
    let id = subject();
    list(&pair.server, &pair.token(&id)).must(200);
    let since = Instant::now();
    pair.issuer.set(Behaviour::Status(500));
    list(&pair.server, &pair.token(&id)).must(200);
    let next = SigningKey::new("PS256", "second");
    let token = next.token(&pair.issuer.claims(&id));
    pair.issuer.publish(&[next]);
    // Longer than any other wait: the cool-down is 30 s by the clock of the program.
    while list(&pair.server, &token).status != 200 {
        assert!(since.elapsed() < Duration::from_secs(60), "waited in vain for the new key");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(since.elapsed() >= Duration::from_secs(29), "{:?}", since.elapsed());
    assert_eq!(pair.issuer.fetches(), 2);
    list(&pair.server, &pair.token(&id)).must(401);
}

#[test]
fn without_a_key_set_a_published_token_is_503_and_a_local_one_works() {
    let key = SigningKey::new("ES256", "k");
    let elsewhere = Issuer::start(std::slice::from_ref(&key));
    let claims = |issuer: &Issuer| issuer.claims(&subject());
    for behaviour in [
        Behaviour::Status(500),
        Behaviour::Status(404),
        Behaviour::Status(206),
        Behaviour::Redirect(format!("{}/api/auth/jwks", elsewhere.origin())),
        Behaviour::Flood,
        Behaviour::Publish("not JSON".into()),
    ] {
        let issuer = Issuer::doing(behaviour);
        let server = Server::start_with(&[("BETTER_AUTH_URL", &issuer.origin())]);
        let token = key.token(&claims(&issuer));
        for _ in 0..3 {
            assert_no_keys(&list(&server, &token));
        }
        assert_eq!(issuer.fetches(), 1);
        assert!(issuer.sent_bytes() < 8 * 1024 * 1024, "it was read on: {} bytes", issuer.sent_bytes());
        let local = server.user("ada");
        list(&server, &local.token).must(200);
        server.wait_for_log(&["event=jwks", "outcome=failed"]);
    }
    assert_eq!(elsewhere.fetches(), 0, "a redirect was followed");
}

#[test]
fn an_issuer_that_refuses_connections_is_503() {
    let key = SigningKey::new("EdDSA", "k");
    // Bound and dropped: nobody listens there now.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let origin = format!("http://{address}");
    let server = Server::start_with(&[("BETTER_AUTH_URL", &origin)]);
    let claims = json!({"sub": "a", "exp": now() + 60, "iss": origin, "aud": origin});
    assert_no_keys(&list(&server, &key.token(&claims)));
}

#[test]
fn a_silent_issuer_holds_a_request_for_five_seconds_at_most_and_few_of_them() {
    let key = SigningKey::new("EdDSA", "k");
    for behaviour in [Behaviour::Hang, Behaviour::Drip] {
        let issuer = Issuer::doing(behaviour);
        let server = Server::start_with(&[("BETTER_AUTH_URL", &issuer.origin())]);
        let token = key.token(&issuer.claims(&subject()));
        let local = server.user("ada");
        let times = at_once(120, |_| {
            let started = Instant::now();
            assert_no_keys(&list(&server, &token));
            started.elapsed()
        });
        let slow = times.iter().filter(|time| **time > Duration::from_secs(3)).count();
        assert!((1..=65).contains(&slow), "{slow} requests waited");
        assert!(times.iter().all(|time| *time < Duration::from_secs(8)), "{times:?}");
        list(&server, &local.token).must(200);
        assert_eq!(issuer.fetches(), 1);
    }
}

// ----------------------------------------------------------------------------------------------------- shared secret

#[test]
fn a_token_of_the_shared_secret_makes_a_task() {
    let secret = strong_secret();
    let server = Server::start_with(&[("BETTER_AUTH_SECRET", &secret)]);
    let token = |claims: &Value| signed(r#"{"alg":"HS256"}"#, &claims.to_string(), hs256(secret.as_bytes()));
    let id = subject();
    let good = token(&json!({"sub": id, "exp": now() + 60}));
    let task = server.request("POST", "/api/me/tasks").bearer(&good).json(&json!({"title": "one"})).send().must(201);
    assert_eq!(task.json()["user_id"], id);
    for claims in [json!({"userId": id, "exp": now() + 60}), json!({"sub": id}), json!({"sub": id, "exp": now() - 60})]
    {
        list(&server, &token(&claims)).must(401);
    }
    assert!(!server.log().contains(&good) && !server.log().contains(&secret));
}

#[test]
fn without_configuration_no_token_of_better_auth_is_taken() {
    let key = SigningKey::new("EdDSA", "k");
    let issuer = Issuer::start(std::slice::from_ref(&key));
    let server = Server::start();
    list(&server, &key.token(&issuer.claims(&subject()))).must(401);
    assert_eq!(issuer.fetches(), 0);
}

// ----------------------------------------------------------------------------------------------------- configuration

fn with(variables: &[(&str, &str)]) -> Environment {
    let mut environment = environment("postgres:///none?host=/nonexistent&user=nobody");
    environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    environment
}

#[test]
fn a_setting_that_cannot_be_meant_stops_serve_and_is_not_shown() {
    let secret = strong_secret();
    let (url, jwks) = ("BETTER_AUTH_URL", "BETTER_AUTH_JWKS_URL");
    for (variable, settings) in [
        (url, &[(url, "http://wombat.example")][..]),
        (url, &[(url, "https://wombat.example/app")]),
        (url, &[(url, "https://quokka:wombat@app.example")]),
        (url, &[(url, "wombat.example")]),
        (url, &[(url, "")]),
        (jwks, &[(url, "https://app.example"), (jwks, "http://wombat.example/jwks")]),
        (jwks, &[(url, "https://app.example"), (jwks, "")]),
        ("BETTER_AUTH_ISSUER", &[(jwks, "https://wombat.example/jwks")]),
        ("BETTER_AUTH_AUDIENCE", &[(jwks, "https://wombat.example/jwks"), ("BETTER_AUTH_ISSUER", "wombat")]),
        ("BETTER_AUTH_ISSUER", &[("BETTER_AUTH_ISSUER", "wombat")]),
        ("BETTER_AUTH_AUDIENCE", &[("BETTER_AUTH_AUDIENCE", "wombat")]),
        ("BETTER_AUTH_AUDIENCE", &[(url, "https://app.example"), ("BETTER_AUTH_AUDIENCE", "")]),
        ("BETTER_AUTH_SECRET", &[("BETTER_AUTH_SECRET", "wombat")]),
        ("BETTER_AUTH_SECRET", &[("BETTER_AUTH_SECRET", "better-auth-secret-12345678901234567890")]),
        ("BETTER_AUTH_SECRET", &[("BETTER_AUTH_SECRET", &secret), ("JWT_SECRET", &secret)]),
        ("BETTER_AUTH_SECRET", &[("BETTER_AUTH_SECRET", &secret), ("JWT_SECRET_PREVIOUS", &secret)]),
    ] {
        let finished = run(&["serve"], &with(settings));
        assert_eq!(finished.code, Some(2), "{settings:?}: {}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{settings:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(variable), "{settings:?}: {}", finished.stderr);
        assert!(!finished.stderr.contains("wombat") && !finished.stderr.contains(&secret), "{}", finished.stderr);
    }
}

#[test]
fn issuer_audience_and_address_of_the_keys_may_differ_from_the_origin() {
    let key = SigningKey::new("EdDSA", "k");
    let issuer = Issuer::start(std::slice::from_ref(&key));
    let jwks_url = format!("{}/keys?of=me", issuer.origin());
    let server = Server::start_with(&[
        ("BETTER_AUTH_URL", "https://app.example"),
        ("BETTER_AUTH_JWKS_URL", &jwks_url),
        ("BETTER_AUTH_ISSUER", "https://auth.example"),
        ("BETTER_AUTH_AUDIENCE", "tasks"),
    ]);
    let claims = |iss: &str, aud: &str| json!({"sub": "a", "exp": now() + 60, "iss": iss, "aud": aud});
    list(&server, &key.token(&claims("https://auth.example", "tasks"))).must(200);
    list(&server, &key.token(&claims("https://app.example", "https://app.example"))).must(401);
    list(&server, &key.token(&claims("tasks", "https://auth.example"))).must(401);
    await_that("the refusal is logged", || server.log().contains("wrong_issuer_or_audience"));
}
