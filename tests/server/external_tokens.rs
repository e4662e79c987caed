//! Which tokens of a Better Auth are taken, by the library alone: each rule with a token
//! that keeps it and one that breaks it. Every forged token carries a good signature unless the signature is the point.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use latchkey::config::BetterAuth;
use latchkey::error::TokenError;
use serde_json::{Value, json};

use crate::issuer::{Issuer, SUBJECT, SigningKey, Verifier, base64url, hs256, now, random, signed, with};
use crate::support::strong_secret;

// ---------------------------------------------------------------------------------------------------- published keys

#[test]
fn a_token_of_each_algorithm_is_taken() {
    let keys = SigningKey::of_each_kind();
    let issuer = Issuer::start(&keys);
    let verifier = Verifier::published(&issuer);
    for key in &keys {
        let claims = issuer.claims(SUBJECT);
        verifier.takes(key.alg, &key.token(&claims));
        let typed = json!({"alg": key.alg, "kid": key.kid, "typ": "JWT"});
        verifier.takes(key.alg, &key.token_with(&typed, &claims));
        for (name, value) in [
            ("aud", json!(["https://other.example", issuer.origin()])),
            ("exp", json!(now() as f64 + 60.5)),
            ("-iat", Value::Null),
            ("iat", json!(now() + 3)),
            ("nbf", json!(now())),
            ("exp", json!(now() - 2)),
            ("kid", json!("another")),
            ("role", json!({"admin": [true]})),
        ] {
            let claims = with(&with(&claims, "iat", json!(now() - 900)), name, value.clone());
            verifier.takes(&format!("{} {name} {value}", key.alg), &key.token(&claims));
        }
    }
    assert_eq!(issuer.fetches(), 1);
}

#[test]
fn a_subject_is_taken_as_it_is() {
    let keys = [SigningKey::new("EdDSA", "k")];
    let issuer = Issuer::start(&keys);
    let verifier = Verifier::published(&issuer);
    for subject in ["1", " ", "ada@example.org", "../a/b", "me", &"ü".repeat(255), "\u{1}\n", "00000000"] {
        assert_eq!(verifier.verify(&keys[0].token(&issuer.claims(subject))), Ok(subject.to_owned()));
    }
}

#[test]
fn a_claim_that_breaks_a_rule_is_refused_for_each_algorithm() {
    use TokenError::{BadClaims, Expired, Lifetime, WrongIssuer};
    let keys = SigningKey::of_each_kind();
    let issuer = Issuer::start(&keys);
    let verifier = Verifier::published(&issuer);
    let origin = issuer.origin();
    let rules = [
        ("-sub", Value::Null, BadClaims),
        ("sub", Value::Null, BadClaims),
        ("sub", json!(""), BadClaims),
        ("sub", json!(7), BadClaims),
        ("sub", json!([SUBJECT]), BadClaims),
        ("sub", json!({"id": SUBJECT}), BadClaims),
        ("sub", json!("a\0b"), BadClaims),
        ("sub", json!("a".repeat(256)), BadClaims),
        ("-exp", Value::Null, BadClaims),
        ("exp", Value::Null, BadClaims),
        ("exp", json!((now() + 900).to_string()), BadClaims),
        ("exp", json!(-1), BadClaims),
        ("exp", json!(1e300), BadClaims),
        ("exp", json!((now() + 900) * 1000), BadClaims),
        ("exp", json!(true), BadClaims),
        ("exp", json!(now() - 10), Expired),
        ("exp", json!(0), Expired),
        ("iat", json!(now() + 60), Lifetime),
        ("iat", json!(now() + 900), Lifetime),
        ("iat", json!("1"), BadClaims),
        ("nbf", json!(now() + 60), Lifetime),
        ("nbf", json!("x"), BadClaims),
        ("nbf", Value::Null, BadClaims),
        ("-iss", Value::Null, WrongIssuer),
        ("iss", json!("https://evil.example"), WrongIssuer),
        ("iss", json!([origin]), WrongIssuer),
        ("iss", json!(format!("{origin}/")), WrongIssuer),
        ("iss", json!(origin.to_uppercase()), WrongIssuer),
        ("iss", Value::Null, WrongIssuer),
        ("-aud", Value::Null, WrongIssuer),
        ("aud", json!("better-auth:session-cache"), WrongIssuer),
        ("aud", json!([]), WrongIssuer),
        ("aud", json!(["https://evil.example"]), WrongIssuer),
        ("aud", json!([origin, 1]), WrongIssuer),
        ("aud", json!({"a": origin}), WrongIssuer),
        ("aud", json!(format!("{origin} ")), WrongIssuer),
        ("aud", Value::Null, WrongIssuer),
    ];
    for key in &keys {
        for (name, value, why) in &rules {
            let claims = with(&issuer.claims(SUBJECT), name, value.clone());
            verifier.refuses(&format!("{} {name} {value}", key.alg), &key.token(&claims), *why);
        }
        let ended_before_it_began = with(&with(&issuer.claims(SUBJECT), "iat", json!(now())), "exp", json!(now() - 1));
        verifier.refuses("exp before iat", &key.token(&ended_before_it_began), Lifetime);
    }
}

#[test]
fn what_no_published_key_signs_causes_no_fetch() {
    let key = SigningKey::new("EdDSA", "k");
    let issuer = Issuer::start(std::slice::from_ref(&key));
    let verifier = Verifier::published(&issuer);
    for (name, value) in [("alg", "HS256"), ("alg", "none"), ("alg", "ES512"), ("typ", "at+jwt"), ("jku", "x")] {
        let header = with(&json!({"alg": "EdDSA", "kid": "k"}), name, json!(value));
        verifier.refuses(name, &key.token_with(&header, &issuer.claims(SUBJECT)), TokenError::WrongKind);
    }
    assert_eq!(issuer.fetches(), 0);
}

#[test]
fn a_header_that_breaks_a_rule_is_refused_and_causes_no_fetch_of_its_own() {
    use TokenError::{Malformed, UnknownKey, WrongKind};
    let key = SigningKey::new("EdDSA", "k");
    let theirs = SigningKey::new("EdDSA", "theirs");
    let issuer = Issuer::start(std::slice::from_ref(&key));
    let evil = Issuer::start(std::slice::from_ref(&theirs));
    let verifier = Verifier::published(&issuer);
    let claims = issuer.claims(SUBJECT);
    let header = json!({"alg": "EdDSA", "kid": "k"});
    verifier.takes("the untouched one", &key.token_with(&header, &claims));
    for (name, value, why) in [
        ("typ", json!("at+jwt"), WrongKind),
        ("typ", json!("better-auth.session-cache+jwt"), WrongKind),
        ("typ", json!("jwt"), WrongKind),
        ("typ", json!("JWT "), WrongKind),
        ("typ", json!("application/jwt"), WrongKind),
        ("typ", json!("dpop+jwt"), WrongKind),
        ("typ", json!(""), WrongKind),
        ("typ", Value::Null, Malformed),
        ("typ", json!(["JWT"]), Malformed),
        ("crit", json!(["exp"]), WrongKind),
        ("crit", json!([]), WrongKind),
        ("b64", json!(true), WrongKind),
        ("b64", json!(false), WrongKind),
        ("zip", json!("DEF"), WrongKind),
        ("jku", json!(evil.origin()), WrongKind),
        ("x5u", json!(evil.origin()), WrongKind),
        ("x5c", json!([STANDARD.encode(theirs.der())]), WrongKind),
        ("jwk", theirs.jwk(), WrongKind),
        ("jwk", Value::Null, WrongKind),
        ("alg", json!("none"), WrongKind),
        ("alg", json!("HS256"), WrongKind),
        ("alg", json!("eddsa"), WrongKind),
        ("alg", json!("Ed25519"), WrongKind),
        ("alg", json!("ES256"), WrongKind),
        ("alg", json!("ES512"), WrongKind),
        ("alg", Value::Null, Malformed),
        ("alg", json!(["EdDSA"]), Malformed),
        ("-alg", Value::Null, Malformed),
        ("kid", json!(""), UnknownKey),
        ("kid", json!("K"), UnknownKey),
        ("kid", json!("../k"), UnknownKey),
        ("kid", json!("/dev/null"), UnknownKey),
        ("kid", json!("' or 1=1 --"), UnknownKey),
        ("kid", json!(1), Malformed),
        ("kid", Value::Null, Malformed),
        ("-kid", Value::Null, UnknownKey),
    ] {
        for signer in [&key, &theirs] {
            let token = signer.token_with(&with(&header, name, value.clone()), &claims);
            verifier.refuses(&format!("{name} {value}"), &token, why);
        }
    }
    assert_eq!((issuer.fetches(), evil.fetches()), (1, 0));
}

#[test]
fn a_token_that_is_no_jws_of_one_meaning_is_refused() {
    use TokenError::{BadSignature, Malformed};
    let key = SigningKey::new("EdDSA", "k");
    let issuer = Issuer::start(std::slice::from_ref(&key));
    let verifier = Verifier::published(&issuer);
    let (header, claims) = (r#"{"alg":"EdDSA","kid":"k"}"#, issuer.claims(SUBJECT).to_string());
    let sign = |header: &str, claims: &str| signed(header, claims, |message| key.sign(message));
    let good = sign(header, &claims);
    verifier.takes("the untouched one", &good);
    let twice = |name: &str, value: Value| claims.replacen('{', &format!("{{\"{name}\":{value},"), 1);
    let [head, body, signature]: [&str; 3] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let changed = base64url(issuer.claims("somebody else").to_string());
    for (what, token, why) in [
        ("sub twice", sign(header, &twice("sub", json!("eve"))), Malformed),
        ("sub twice, once escaped", sign(header, &twice("s\\u0075b", json!("eve"))), Malformed),
        ("exp twice", sign(header, &twice("exp", json!(1))), Malformed),
        ("iss twice", sign(header, &twice("iss", json!("x"))), Malformed),
        ("kid twice", sign(r#"{"alg":"EdDSA","kid":"k","kid":"k"}"#, &claims), Malformed),
        ("alg twice", sign(r#"{"alg":"none","alg":"EdDSA","kid":"k"}"#, &claims), Malformed),
        ("trailing data", sign(header, &format!("{claims}{{}}")), Malformed),
        ("claims are no object", sign(header, "[]"), Malformed),
        ("claims are no JSON", sign(header, "sub=eve"), Malformed),
        ("header is no object", sign("\"EdDSA\"", &claims), Malformed),
        ("no signature", format!("{head}.{body}."), BadSignature),
        ("two parts", format!("{head}.{body}"), Malformed),
        ("one part", head.to_owned(), Malformed),
        ("four parts", format!("{good}.{signature}"), BadSignature),
        ("five parts", format!("{head}.{body}.{signature}.{body}.{signature}"), BadSignature),
        ("empty", String::new(), Malformed),
        ("dots", "..".to_owned(), Malformed),
        ("padding", format!("{good}="), BadSignature),
        ("another claim set", format!("{head}.{changed}.{signature}"), BadSignature),
        ("another key's signature", SigningKey::new("EdDSA", "k").token(&issuer.claims(SUBJECT)), BadSignature),
        (
            "JSON serialization",
            json!({"payload": body, "protected": head, "signature": signature}).to_string(),
            Malformed,
        ),
        ("the bytes of base64", good.replace('.', "%2E"), Malformed),
    ] {
        verifier.refuses(what, &token, why);
    }
}

// ------------------------------------------------------------------------------------------------- the shared secret

#[test]
fn a_token_signed_with_the_shared_secret_is_taken() {
    let secret = strong_secret();
    let verifier = Verifier::shared(&secret);
    for header in [json!({"alg": "HS256"}), json!({"alg": "HS256", "typ": "JWT"})] {
        for claims in [
            json!({"sub": SUBJECT, "exp": now() + 60}),
            json!({"sub": SUBJECT, "email": "a@b.c", "name": "Ada", "iat": now(), "exp": now() + 7 * 86_400}),
        ] {
            let token = signed(&header.to_string(), &claims.to_string(), hs256(secret.as_bytes()));
            verifier.takes(&format!("{header} {claims}"), &token);
        }
    }
}

#[test]
fn what_better_auth_signs_with_its_secret_for_another_use_is_refused() {
    let secret = strong_secret();
    let verifier = Verifier::shared(&secret);
    let user = json!({"id": SUBJECT, "email": "ada@example.org"});
    let session = json!({"id": "s", "token": random(24), "userId": SUBJECT});
    for (what, header, claims) in [
        (
            "a session cookie",
            json!({"alg": "HS256"}),
            json!({"session": session, "user": user, "updatedAt": 1, "version": "1"}),
        ),
        ("an e-mail verification", json!({"alg": "HS256"}), json!({"email": "ada@example.org", "iat": now()})),
        (
            "a newer e-mail verification",
            json!({"alg": "HS256"}),
            json!({"email": "a@b.c", "userId": SUBJECT, "iat": now()}),
        ),
        ("id alone", json!({"alg": "HS256"}), json!({"id": SUBJECT})),
        ("another use by its type", json!({"alg": "HS256", "typ": "at+jwt"}), json!({"sub": SUBJECT})),
        (
            "another use by its audience",
            json!({"alg": "HS256"}),
            json!({"sub": SUBJECT, "aud": "better-auth:session-cache"}),
        ),
        ("another issuer", json!({"alg": "HS256"}), json!({"sub": SUBJECT, "iss": "https://other.example"})),
        ("a key id", json!({"alg": "HS256", "kid": "k"}), json!({"sub": SUBJECT})),
        ("another algorithm", json!({"alg": "HS512"}), json!({"sub": SUBJECT})),
    ] {
        let claims = with(&claims, "exp", json!(now() + 60)).to_string();
        let token = signed(&header.to_string(), &claims, hs256(secret.as_bytes()));
        assert!(verifier.verify(&token).is_err(), "{what}");
    }
    let header = json!({"alg": "HS256"}).to_string();
    let endless = signed(&header, &json!({"sub": SUBJECT}).to_string(), hs256(secret.as_bytes()));
    verifier.refuses("without end", &endless, TokenError::BadClaims);
}

#[test]
fn another_secret_than_the_shared_one_signs_nothing() {
    let secret = strong_secret();
    let verifier = Verifier::shared(&secret);
    let claims = json!({"sub": SUBJECT, "exp": now() + 60}).to_string();
    let bytes = STANDARD.decode(&secret).unwrap();
    for key in [strong_secret().as_bytes(), b"", &bytes, secret.to_lowercase().as_bytes()] {
        let token = signed(r#"{"alg":"HS256"}"#, &claims, hs256(key));
        verifier.refuses("another secret", &token, TokenError::BadSignature);
    }
}

#[test]
fn names_that_are_configured_hold_for_the_shared_secret_where_they_are_claimed() {
    let secret = strong_secret();
    let [issuer, audience] = ["https://app.example", "https://tasks.example"].map(str::to_owned);
    let settings = BetterAuth {
        secret: Some(secret.parse().unwrap()),
        jwks_url: None,
        issuer: Some(issuer.clone()),
        audience: Some(audience.clone()),
    };
    let verifier = Verifier::new(&settings);
    let claims = json!({"sub": SUBJECT, "exp": now() + 60});
    let token = |claims: &Value| signed(r#"{"alg":"HS256"}"#, &claims.to_string(), hs256(secret.as_bytes()));
    verifier.takes("neither", &token(&claims));
    verifier.takes("iss", &token(&with(&claims, "iss", json!(issuer))));
    verifier.takes("aud", &token(&with(&claims, "aud", json!([audience]))));
    for (name, value) in [("iss", json!(audience)), ("aud", json!(issuer)), ("aud", json!([])), ("iss", Value::Null)] {
        verifier.refuses(name, &token(&with(&claims, name, value)), TokenError::WrongIssuer);
    }
}
