//! The keys of a Better Auth at the shipped binary: a key set that counts its fetches, goes away, rotates, redirects,
//! floods, drips and hangs; the shared secret; and the settings for both.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::external::{Pair, list, subject};
use crate::issuer::{Behaviour, Issuer, SigningKey, hs256, now, signed, with};
use crate::support::{Answer, Environment, Server, at_once, environment, run, strong_secret};

#[track_caller]
fn assert_unavailable(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer}");
    assert_eq!(answer.json()["type"], "/docs#issuer-unavailable", "{answer}");
    let seconds: u64 = answer.header("Retry-After").unwrap().parse().unwrap();
    assert!((1..=10).contains(&seconds), "{answer}");
}

// ----------------------------------------------------------------------------------------------------------- key set

#[test]
fn the_key_set_is_fetched_at_first_need_and_once() {
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
fn a_flood_of_random_key_ids_causes_one_fetch_in_ten_seconds() {
    let pair = Pair::start();
    let claims = pair.issuer.claims(&subject());
    let began = Instant::now();
    let statuses = at_once(40, |n| {
        let stranger = SigningKey::new("EdDSA", &format!("key-{n}"));
        let token = stranger.token(&claims);
        (0..25).map(|_| list(&pair.server, &token).status).collect::<Vec<_>>()
    });
    assert!(statuses.iter().flatten().all(|status| [401, 503].contains(status)), "{statuses:?}");
    assert!(pair.issuer.fetches() as u64 <= 1 + began.elapsed().as_secs() / 10, "{}", pair.issuer.fetches());
    let old = with(&claims, "iat", json!(now() - 60));
    list(&pair.server, &SigningKey::new("EdDSA", "other").token(&old)).must(401);
}

#[test]
fn key_rotation_a_new_key_is_503_until_it_is_fetched_never_401() {
    let pair = Pair::start();
    let id = subject();
    list(&pair.server, &pair.token(&id)).must(200);
    let since = Instant::now();
    pair.issuer.set(Behaviour::Status(500));
    list(&pair.server, &pair.token(&id)).must(200);
    let next = SigningKey::new("PS256", "second");
    let token = next.token(&pair.issuer.claims(&id));
    pair.issuer.publish(&[next]);
    loop {
        let answer = list(&pair.server, &token);
        if answer.status == 200 {
            break;
        }
        assert_unavailable(&answer);
        assert!(since.elapsed() < Duration::from_secs(40), "waited in vain for the new key");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(since.elapsed() >= Duration::from_secs(9), "{:?}", since.elapsed());
    assert_eq!(pair.issuer.fetches(), 2);
    pair.server.wait_for_log(&["event=token outcome=refused", "reason=key_may_be_new "]);
    let withdrawn = pair.key.token(&with(&pair.issuer.claims(&id), "iat", json!(now() - 60)));
    list(&pair.server, &withdrawn).must(401);
}

#[test]
fn without_a_key_set_its_tokens_are_503_and_local_ones_work() {
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
            assert_unavailable(&list(&server, &token));
        }
        assert_eq!(issuer.fetches(), 1);
        assert!(issuer.sent_bytes() < 8 * 1024 * 1024, "it was read on: {} bytes", issuer.sent_bytes());
        let local = server.user("ada");
        list(&server, &local.token).must(200);
        let url = format!("url={}/api/auth/jwks ", issuer.origin());
        server.wait_for_log(&["event=jwks", "outcome=failed", &url]);
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
    assert_unavailable(&list(&server, &key.token(&claims)));
}

#[test]
fn a_silent_issuer_holds_few_requests_and_for_five_seconds() {
    let key = SigningKey::new("EdDSA", "k");
    for behaviour in [Behaviour::Hang, Behaviour::Drip] {
        let issuer = Issuer::doing(behaviour);
        let server = Server::start_with(&[("BETTER_AUTH_URL", &issuer.origin())]);
        let token = key.token(&issuer.claims(&subject()));
        let local = server.user("ada");
        let times = at_once(120, |_| {
            let started = Instant::now();
            assert_unavailable(&list(&server, &token));
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
fn a_token_signed_with_the_shared_secret_creates_a_task() {
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
fn a_token_that_no_setting_accepts_has_a_reason_of_its_own() {
    let key = SigningKey::new("EdDSA", "k");
    let issuer = Issuer::start(std::slice::from_ref(&key));
    let published = key.token(&issuer.claims(&subject()));
    let secret = strong_secret();
    let shared = signed(r#"{"alg":"HS256"}"#, &issuer.claims(&subject()).to_string(), hs256(secret.as_bytes()));
    for (settings, token) in [
        (&[][..], &published),
        (&[], &shared),
        (&[("BETTER_AUTH_SECRET", secret.as_str())], &published),
        (&[("BETTER_AUTH_URL", issuer.origin().as_str())], &shared),
    ] {
        let server = Server::start_with(settings);
        list(&server, token).must(401);
        server.wait_for_log(&["event=token outcome=refused", "reason=better_auth_not_configured "]);
    }
    assert_eq!(issuer.fetches(), 0);
}

// ----------------------------------------------------------------------------------------------------- configuration

fn nowhere(variables: &[(&str, &str)]) -> Environment {
    let mut environment = environment("postgres:///none?host=/nonexistent&user=nobody");
    environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    environment
}

#[test]
fn a_malformed_setting_stops_serve_and_is_not_shown() {
    let secret = strong_secret();
    let (url, jwks) = ("BETTER_AUTH_URL", "BETTER_AUTH_JWKS_URL");
    for (variable, settings) in [
        (url, &[(url, "http://wombat.example")][..]),
        (url, &[(url, "https://wombat.example/app")]),
        (url, &[(url, "https://quokka:wombat@app.example")]),
        (url, &[(url, "wombat.example")]),
        (url, &[(url, "")]),
        ("BETTER_AUTH_INSECURE_HTTP", &[(url, "http://wombat.example")]),
        ("BETTER_AUTH_INSECURE_HTTP", &[(url, "https://app.example"), ("BETTER_AUTH_INSECURE_HTTP", "wombat")]),
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
        let finished = run(&["serve"], &nowhere(settings));
        assert_eq!(finished.code, Some(2), "{settings:?}: {}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{settings:?}: {}", finished.stderr);
        assert!(finished.stderr.contains(variable), "{settings:?}: {}", finished.stderr);
        assert!(!finished.stderr.contains("wombat") && !finished.stderr.contains(&secret), "{}", finished.stderr);
    }
}

#[test]
fn issuer_and_audience_are_configured_and_a_mismatch_logged() {
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
    for (iss, aud, logged) in [
        (
            "https://app.example",
            "tasks",
            r#"reason=wrong_issuer expected=https://auth.example seen="\"https://app.example\"" "#,
        ),
        ("https://auth.example", "other tasks", r#"reason=wrong_audience expected=tasks seen="\"other tasks\"" "#),
        ("x\nevent=login", "tasks", r#"seen="\"x\\nevent=login\"" "#),
    ] {
        let request_id = list(&server, &key.token(&claims(iss, aud))).must(401).request_id().to_owned();
        server.wait_for_log(&["event=token outcome=refused", logged, &request_id]);
    }
    let forged = SigningKey::new("EdDSA", "k").token(&claims("https://wombat.example", "tasks"));
    let request_id = list(&server, &forged).must(401).request_id().to_owned();
    server.wait_for_log(&["event=token outcome=refused reason=bad_signature ", &request_id]);
    assert!(!server.log().contains("wombat"), "a forged claim is in the log");
}

#[test]
fn start_and_check_name_key_set_issuer_audience_and_shared_secret() {
    let keys = [SigningKey::new("EdDSA", "k")];
    let issuer = Issuer::start(&keys);
    let (origin, secret) = (issuer.origin(), strong_secret());
    let jwks = format!("{origin}/api/auth/jwks");
    for (settings, expected) in [
        (
            &[("BETTER_AUTH_URL", origin.as_str())][..],
            format!("key_set={jwks} issuer={origin} audience={origin} shared_secret=none"),
        ),
        (
            &[("BETTER_AUTH_SECRET", &secret)],
            "key_set=none issuer=none audience=none shared_secret=accepted".to_owned(),
        ),
        (
            &[("BETTER_AUTH_URL", &origin), ("BETTER_AUTH_AUDIENCE", "tasks"), ("BETTER_AUTH_SECRET", &secret)],
            format!("key_set={jwks} issuer={origin} audience=tasks shared_secret=accepted"),
        ),
    ] {
        let server = Server::start_with(settings);
        server.wait_for_log(&["event=better_auth", &expected]);
        assert!(!server.log().contains("BETTER_AUTH_INSECURE_HTTP") && !server.log().contains(&secret));
        let mut environment = environment(&server.database_url());
        environment.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let checked = run(&["check"], &environment);
        assert!(checked.stdout.contains(&format!("Better Auth: {expected}\n")), "{}", checked.stdout);
        assert!(!checked.stdout.contains(&secret));
    }
}

#[test]
fn plain_http_to_another_host_is_allowed_by_a_setting_and_warned_of() {
    // An address for documentation (RFC 5737): nobody answers there.
    let url = [("BETTER_AUTH_URL", "http://192.0.2.1:3000"), ("BETTER_AUTH_INSECURE_HTTP", "yes")];
    let server = Server::start_with(&url);
    server.wait_for_log(&["level=warn", "event=better_auth", "BETTER_AUTH_INSECURE_HTTP"]);
    server.wait_for_log(&["key_set=http://192.0.2.1:3000/api/auth/jwks"]);
}
