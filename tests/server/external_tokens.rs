//! Which tokens of Better Auth are accepted, by the library alone: each rule with a token that keeps it and one that breaks
//! it. Every forged token has a good signature unless the test is about the signature.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use latchkey::config::BetterAuth;
use serde_json::{Value, json};

use crate::issuer::{Behaviour, Issuer, SUBJECT, SigningKey, Verifier, base64url, hs256, now, random, signed, with};
use crate::support::strong_secret;

// ---------------------------------------------------------------------------------------------------- published keys

#[test]
fn a_token_of_each_supported_algorithm_is_accepted() {
    let keys = SigningKey::of_each_kind();
    let issuer = Issuer::start(&keys);
    let verifier = Verifier::published(&issuer);
    for key in &keys {
        let claims = issuer.claims(SUBJECT);
        verifier.takes(key.alg, &key.token(&claims));
        for typ in ["JWT", "jwt", "Jwt"] {
            let typed = json!({"alg": key.alg, "kid": key.kid, "typ": typ});
            verifier.takes(typ, &key.token_with(&typed, &claims));
        }
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
fn ed25519_is_a_name_of_eddsa_in_header_and_key() {
    let key = SigningKey::new("EdDSA", "k");
    let issuer = Issuer::doing(Behaviour::Status(500));
    for (published, claimed) in [("Ed25519", "Ed25519"), ("Ed25519", "EdDSA"), ("EdDSA", "Ed25519")] {
        issuer.set(Behaviour::Publish(json!({"keys": [with(&key.jwk(), "alg", json!(published))]}).to_string()));
        let header = json!({"alg": claimed, "kid": "k"});
        Verifier::published(&issuer).takes(claimed, &key.token_with(&header, &issuer.claims(SUBJECT)));
    }
}

#[test]
fn a_subject_is_any_string_up_to_255_characters() {
    let keys = [SigningKey::new("EdDSA", "k")];
    let issuer = Issuer::start(&keys);
    let verifier = Verifier::published(&issuer);
    for subject in ["1", " ", "ada@example.org", "../a/b", "me", &"ü".repeat(255), "\u{1}\n", "00000000"] {
        assert_eq!(verifier.verify(&keys[0].token(&issuer.claims(subject))), Ok(subject.to_owned()));
    }
}

#[test]
fn s58_forged_claims_are_refused_issuer_audience_sub_and_times() {
    let keys = SigningKey::of_each_kind();
    let issuer = Issuer::start(&keys);
    let verifier = Verifier::published(&issuer);
    let origin = issuer.origin();
    let rules = [
        ("-sub", Value::Null, "bad_claims"),
        ("sub", Value::Null, "bad_claims"),
        ("sub", json!(""), "bad_claims"),
        ("sub", json!(7), "bad_claims"),
        ("sub", json!([SUBJECT]), "bad_claims"),
        ("sub", json!({"id": SUBJECT}), "bad_claims"),
        ("sub", json!("a\0b"), "bad_claims"),
        ("sub", json!("a".repeat(256)), "bad_claims"),
        ("-exp", Value::Null, "bad_claims"),
        ("exp", Value::Null, "bad_claims"),
        ("exp", json!((now() + 900).to_string()), "bad_claims"),
        ("exp", json!(-1), "bad_claims"),
        ("exp", json!(1e300), "bad_claims"),
        ("exp", json!((now() + 900) * 1000), "bad_claims"),
        ("exp", json!(true), "bad_claims"),
        ("exp", json!(now() - 10), "expired"),
        ("exp", json!(0), "expired"),
        ("iat", json!(now() + 60), "lifetime"),
        ("iat", json!(now() + 900), "lifetime"),
        ("iat", json!("1"), "bad_claims"),
        ("nbf", json!(now() + 60), "lifetime"),
        ("nbf", json!("x"), "bad_claims"),
        ("nbf", Value::Null, "bad_claims"),
        ("-iss", Value::Null, "wrong_issuer"),
        ("iss", json!("https://evil.example"), "wrong_issuer"),
        ("iss", json!([origin]), "wrong_issuer"),
        ("iss", json!(format!("{origin}/")), "wrong_issuer"),
        ("iss", json!(origin.to_uppercase()), "wrong_issuer"),
        ("iss", Value::Null, "wrong_issuer"),
        ("-aud", Value::Null, "wrong_audience"),
        ("aud", json!("better-auth:session-cache"), "wrong_audience"),
        ("aud", json!([]), "wrong_audience"),
        ("aud", json!(["https://evil.example"]), "wrong_audience"),
        ("aud", json!([origin, 1]), "wrong_audience"),
        ("aud", json!({"a": origin}), "wrong_audience"),
        ("aud", json!(format!("{origin} ")), "wrong_audience"),
        ("aud", Value::Null, "wrong_audience"),
    ];
    for key in &keys {
        for (name, value, why) in &rules {
            let claims = with(&issuer.claims(SUBJECT), name, value.clone());
            verifier.refuses(&format!("{} {name} {value}", key.alg), &key.token(&claims), why);
        }
        let ended_before_it_began = with(&with(&issuer.claims(SUBJECT), "iat", json!(now())), "exp", json!(now() - 1));
        verifier.refuses("exp before iat", &key.token(&ended_before_it_began), "lifetime");
    }
}

#[test]
fn an_unsupported_algorithm_or_type_causes_no_fetch() {
    let key = SigningKey::new("EdDSA", "k");
    let issuer = Issuer::start(std::slice::from_ref(&key));
    let verifier = Verifier::published(&issuer);
    for (name, value, why) in [
        ("alg", "HS256", "unsupported_algorithm"),
        ("alg", "none", "unsupported_algorithm"),
        ("alg", "ES512", "unsupported_algorithm"),
        ("alg", "Ed448", "unsupported_algorithm"),
        ("typ", "at+jwt", "wrong_type"),
        ("jku", "x", "forbidden_header"),
    ] {
        let header = with(&json!({"alg": "EdDSA", "kid": "k"}), name, json!(value));
        verifier.refuses(name, &key.token_with(&header, &issuer.claims(SUBJECT)), why);
    }
    assert_eq!(issuer.fetches(), 0);
}

#[test]
fn s58_forged_headers_are_refused_crit_jku_jwk_typ_alg_kid() {
    let key = SigningKey::new("EdDSA", "k");
    let theirs = SigningKey::new("EdDSA", "theirs");
    let issuer = Issuer::start(std::slice::from_ref(&key));
    let evil = Issuer::start(std::slice::from_ref(&theirs));
    let verifier = Verifier::published(&issuer);
    // Older than the key set: an unknown key id is none that may be new.
    let claims = with(&issuer.claims(SUBJECT), "iat", json!(now() - 60));
    let header = json!({"alg": "EdDSA", "kid": "k"});
    verifier.takes("the untouched one", &key.token_with(&header, &claims));
    for (name, value, why) in [
        ("typ", json!("at+jwt"), "wrong_type"),
        ("typ", json!("better-auth.session-cache+jwt"), "wrong_type"),
        ("typ", json!("JWT "), "wrong_type"),
        ("typ", json!("application/jwt"), "wrong_type"),
        ("typ", json!("dpop+jwt"), "wrong_type"),
        ("typ", json!(""), "wrong_type"),
        ("typ", Value::Null, "malformed"),
        ("typ", json!(["JWT"]), "malformed"),
        ("crit", json!(["exp"]), "forbidden_header"),
        ("crit", json!([]), "forbidden_header"),
        ("b64", json!(true), "forbidden_header"),
        ("b64", json!(false), "forbidden_header"),
        ("zip", json!("DEF"), "forbidden_header"),
        ("jku", json!(evil.origin()), "forbidden_header"),
        ("x5u", json!(evil.origin()), "forbidden_header"),
        ("x5c", json!([STANDARD.encode(theirs.der())]), "forbidden_header"),
        ("jwk", theirs.jwk(), "forbidden_header"),
        ("jwk", Value::Null, "forbidden_header"),
        ("alg", json!("none"), "unsupported_algorithm"),
        ("alg", json!("HS256"), "unsupported_algorithm"),
        ("alg", json!("eddsa"), "unsupported_algorithm"),
        ("alg", json!("ES256"), "wrong_algorithm"),
        ("alg", json!("ES512"), "unsupported_algorithm"),
        ("alg", Value::Null, "malformed"),
        ("alg", json!(["EdDSA"]), "malformed"),
        ("-alg", Value::Null, "malformed"),
        ("kid", json!(""), "unknown_key"),
        ("kid", json!("K"), "unknown_key"),
        ("kid", json!("../k"), "unknown_key"),
        ("kid", json!("/dev/null"), "unknown_key"),
        ("kid", json!("' or 1=1 --"), "unknown_key"),
        ("kid", json!(1), "malformed"),
        ("kid", Value::Null, "malformed"),
        ("-kid", Value::Null, "better_auth_not_configured"),
    ] {
        for signer in [&key, &theirs] {
            let token = signer.token_with(&with(&header, name, value.clone()), &claims);
            verifier.refuses(&format!("{name} {value}"), &token, why);
        }
    }
    assert_eq!((issuer.fetches(), evil.fetches()), (1, 0));
}

#[test]
fn s12_forged_and_ambiguous_external_tokens_are_refused() {
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
        ("sub twice", sign(header, &twice("sub", json!("eve"))), "malformed"),
        ("sub twice, once escaped", sign(header, &twice("s\\u0075b", json!("eve"))), "malformed"),
        ("exp twice", sign(header, &twice("exp", json!(1))), "malformed"),
        ("iss twice", sign(header, &twice("iss", json!("x"))), "malformed"),
        ("kid twice", sign(r#"{"alg":"EdDSA","kid":"k","kid":"k"}"#, &claims), "malformed"),
        ("alg twice", sign(r#"{"alg":"none","alg":"EdDSA","kid":"k"}"#, &claims), "malformed"),
        ("trailing data", sign(header, &format!("{claims}{{}}")), "malformed"),
        ("claims are no object", sign(header, "[]"), "malformed"),
        ("claims are no JSON", sign(header, "sub=eve"), "malformed"),
        ("header is no object", sign("\"EdDSA\"", &claims), "malformed"),
        ("no signature", format!("{head}.{body}."), "bad_signature"),
        ("two parts", format!("{head}.{body}"), "malformed"),
        ("one part", head.to_owned(), "malformed"),
        ("four parts", format!("{good}.{signature}"), "bad_signature"),
        ("five parts", format!("{head}.{body}.{signature}.{body}.{signature}"), "bad_signature"),
        ("empty", String::new(), "malformed"),
        ("dots", "..".to_owned(), "malformed"),
        ("padding", format!("{good}="), "bad_signature"),
        ("another claim set", format!("{head}.{changed}.{signature}"), "bad_signature"),
        ("another key's signature", SigningKey::new("EdDSA", "k").token(&issuer.claims(SUBJECT)), "bad_signature"),
        (
            "JSON serialization",
            json!({"payload": body, "protected": head, "signature": signature}).to_string(),
            "malformed",
        ),
        ("the bytes of base64", good.replace('.', "%2E"), "malformed"),
    ] {
        verifier.refuses(what, &token, why);
    }
}

// ------------------------------------------------------------------------------------------------- the shared secret

#[test]
fn a_token_signed_with_the_shared_secret_is_accepted() {
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
fn s58_replay_of_a_cookie_or_mailed_link_is_refused() {
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
    verifier.refuses("without end", &endless, "bad_claims");
}

#[test]
fn a_token_forged_with_another_secret_is_refused() {
    let secret = strong_secret();
    let verifier = Verifier::shared(&secret);
    let claims = json!({"sub": SUBJECT, "exp": now() + 60}).to_string();
    let bytes = STANDARD.decode(&secret).unwrap();
    for key in [strong_secret().as_bytes(), b"", &bytes, secret.to_lowercase().as_bytes()] {
        let token = signed(r#"{"alg":"HS256"}"#, &claims, hs256(key));
        verifier.refuses("another secret", &token, "bad_signature");
    }
}

#[test]
fn shared_secret_issuer_and_audience_must_match_if_present() {
    let secret = strong_secret();
    let [issuer, audience] = ["https://app.example", "https://tasks.example"].map(str::to_owned);
    let settings = BetterAuth {
        secret: Some(secret.parse().unwrap()),
        jwks_url: None,
        issuer: Some(issuer.clone()),
        audience: Some(audience.clone()),
        is_insecure: false,
    };
    let verifier = Verifier::new(&settings);
    let claims = json!({"sub": SUBJECT, "exp": now() + 60});
    let token = |claims: &Value| signed(r#"{"alg":"HS256"}"#, &claims.to_string(), hs256(secret.as_bytes()));
    verifier.takes("neither", &token(&claims));
    verifier.takes("iss", &token(&with(&claims, "iss", json!(issuer))));
    verifier.takes("aud", &token(&with(&claims, "aud", json!([audience]))));
    for (name, value, why) in [
        ("iss", json!(audience), "wrong_issuer"),
        ("iss", Value::Null, "wrong_issuer"),
        ("aud", json!(issuer), "wrong_audience"),
        ("aud", json!([]), "wrong_audience"),
    ] {
        verifier.refuses(name, &token(&with(&claims, name, value)), why);
    }
}
