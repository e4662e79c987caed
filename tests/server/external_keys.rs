//! Which key verifies a token of Better Auth, by the library alone: each key only with its own algorithm, chosen by
//! configuration and key id; and which entries of a published set are usable keys.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use latchkey::config::BetterAuth;
use latchkey::token;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::issuer::{Behaviour, Issuer, SUBJECT, SigningKey, Verifier, base64url, hs256, now, signed, with};
use crate::support::strong_secret;

// --------------------------------------------------------------------------------------------------------- confusion

#[test]
fn s57_algorithm_confusion_a_key_verifies_only_its_algorithm() {
    let keys = SigningKey::of_each_kind();
    let issuer = Issuer::start(&keys);
    let verifier = Verifier::published(&issuer);
    let claims = issuer.claims(SUBJECT);
    for key in &keys {
        for alg in ["EdDSA", "ES256", "RS256", "PS256", "ES384", "RS384", "RS512", "PS384", "PS512", "HS256", "HS384"] {
            let header = json!({"alg": alg, "kid": key.kid});
            for signer in &keys {
                let is_right = alg == key.alg && signer.kid == key.kid;
                let taken = verifier.verify(&signer.token_with(&header, &claims)).is_ok();
                assert_eq!(taken, is_right, "{} as {alg}, signed by {}", key.kid, signer.kid);
            }
        }
    }
}

#[test]
fn s57_algorithm_confusion_a_public_key_is_no_hmac_secret() {
    let keys = SigningKey::of_each_kind();
    let issuer = Issuer::start(&keys);
    let secret = strong_secret();
    let both = Verifier::new(&BetterAuth {
        secret: Some(secret.parse().unwrap()),
        jwks_url: Some(format!("{}/api/auth/jwks", issuer.origin())),
        issuer: Some(issuer.origin()),
        audience: Some(issuer.origin()),
        is_insecure: false,
    });
    let only_published = Verifier::published(&issuer);
    for key in &keys {
        let (der, jwk) = (key.der(), key.jwk());
        let lines: Vec<String> = STANDARD
            .encode(&der)
            .as_bytes()
            .chunks(64)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
        let member = jwk["x"].as_str().or(jwk["n"].as_str()).unwrap();
        let forms = [
            ("PEM", pem.clone().into_bytes()),
            ("PEM with a line end", format!("{pem}\n").into_bytes()),
            ("DER", der.clone()),
            ("base64 of DER", STANDARD.encode(&der).into_bytes()),
            ("JWK", jwk.to_string().into_bytes()),
            ("key set", json!({"keys": [jwk]}).to_string().into_bytes()),
            ("raw", key.raw()),
            ("the JWK's own text", member.as_bytes().to_vec()),
            ("nothing", Vec::new()),
        ];
        for (form, bytes) in forms {
            for header in [
                json!({"alg": "HS256", "kid": key.kid}),
                json!({"alg": "HS256"}),
                json!({"alg": key.alg, "kid": key.kid}),
                json!({"alg": "HS256", "typ": "JWT", "kid": key.kid}),
            ] {
                let claims = issuer.claims(SUBJECT).to_string();
                let token = signed(&header.to_string(), &claims, hs256(&bytes));
                assert!(both.verify(&token).is_err(), "{} as {form} under {header}", key.alg);
                assert!(only_published.verify(&token).is_err(), "{} as {form} under {header}", key.alg);
            }
        }
    }
}

#[test]
fn algorithm_none_is_refused_in_any_spelling() {
    let key = SigningKey::new("RS256", "k");
    let issuer = Issuer::start(std::slice::from_ref(&key));
    let secret = strong_secret();
    let (published, shared) = (Verifier::published(&issuer), Verifier::shared(&secret));
    let claims = issuer.claims(SUBJECT);
    let bare = json!({"sub": SUBJECT, "exp": now() + 60}).to_string();
    for alg in ["none", "None", "NONE", "nOnE", "none ", " none", "", "null", "HS", "HS1", "hs256", "Hs256", "HS256 "] {
        for header in
            [json!({"alg": alg}), json!({"alg": alg, "kid": "k"}), json!({"alg": alg, "typ": "JWT", "kid": "k"})]
        {
            let header = header.to_string();
            for claims in [claims.to_string(), bare.clone()] {
                for token in [
                    signed(&header, &claims, |_| Vec::new()),
                    signed(&header, &claims, |message| key.sign(message)),
                    signed(&header, &claims, hs256(secret.as_bytes())),
                    signed(&header, &claims, hs256(b"")),
                ] {
                    assert!(published.verify(&token).is_err() && shared.verify(&token).is_err(), "{header} {token}");
                }
            }
        }
    }
}

// --------------------------------------------------------------------------------------------------------- decisions

#[test]
fn the_key_decides_the_rules_if_all_are_configured() {
    let key = SigningKey::new("ES256", "k");
    let issuer = Issuer::start(std::slice::from_ref(&key));
    let secret = strong_secret();
    let settings = BetterAuth {
        secret: Some(secret.parse().unwrap()),
        jwks_url: Some(issuer.origin()),
        issuer: Some(issuer.origin()),
        audience: Some(issuer.origin()),
        is_insecure: false,
    };
    let verifier = Verifier::new(&settings);
    let local = verifier.keys.issue_access(SUBJECT, Uuid::now_v7()).unwrap();
    let local = token::verify(local.expose(), &verifier.keys, Some(&verifier.external)).unwrap();
    assert!(!local.is_external() && local.session().is_some());
    verifier.takes("published", &key.token(&issuer.claims(SUBJECT)));
    let claims = json!({"sub": SUBJECT, "exp": now() + 60}).to_string();
    verifier.takes("shared", &signed(r#"{"alg":"HS256"}"#, &claims, hs256(secret.as_bytes())));
    let without_kid = key.token_with(&json!({"alg": "ES256"}), &issuer.claims(SUBJECT));
    verifier.refuses("published without kid", &without_kid, "wrong_algorithm");
    let bare = key.token(&json!({"sub": SUBJECT, "exp": now() + 60}));
    verifier.refuses("published without names", &bare, "wrong_issuer");
}

#[test]
fn a_local_token_forged_with_the_shared_secret_is_refused() {
    let secret = strong_secret();
    let verifier = Verifier::shared(&secret);
    let local = verifier.keys.issue_access(SUBJECT, Uuid::now_v7()).unwrap();
    let mut parts = local.expose().split('.');
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let (header, claims) = (decode(parts.next().unwrap()), decode(parts.next().unwrap()));
    let (header, claims): (Value, String) =
        (serde_json::from_slice(&header).unwrap(), String::from_utf8(claims).unwrap());
    let forged = signed(&header.to_string(), &claims, hs256(secret.as_bytes()));
    verifier.refuses("our key id, their secret", &forged, "bad_signature");
    let forged = signed(&with(&header, "-kid", Value::Null).to_string(), &claims, hs256(secret.as_bytes()));
    verifier.refuses("our claims and type, their secret", &forged, "wrong_type");
    let untyped = signed(r#"{"alg":"HS256"}"#, &claims, hs256(secret.as_bytes()));
    verifier.refuses("our claims, their secret", &untyped, "wrong_issuer");
}

// ---------------------------------------------------------------------------------------------------- published sets

#[test]
fn key_set_entries_that_are_weak_or_unfit_are_no_keys() {
    let keys = SigningKey::of_each_kind();
    let issuer = Issuer::doing(Behaviour::Status(500));
    let claims = issuer.claims(SUBJECT);
    let [eddsa, es256, rs256, _] = &keys[..] else { panic!("four keys") };
    let long = base64url([0xff; 1025]);
    for (what, key, name, value, is_taken) in [
        ("untouched", eddsa, "-nothing", Value::Null, true),
        ("without alg", eddsa, "-alg", Value::Null, true),
        ("without alg", es256, "-alg", Value::Null, true),
        ("for signatures", eddsa, "use", json!("sig"), true),
        ("for verification", eddsa, "key_ops", json!(["verify"]), true),
        ("a member of the future", eddsa, "ext", json!(true), true),
        ("without alg", rs256, "-alg", Value::Null, false),
        ("for encryption", eddsa, "use", json!("enc"), false),
        ("use of another type", eddsa, "use", json!(["sig"]), false),
        ("for wrapping", eddsa, "key_ops", json!(["wrapKey"]), false),
        ("for nothing", eddsa, "key_ops", json!([]), false),
        ("another algorithm", eddsa, "alg", json!("ES256"), false),
        ("another algorithm", es256, "alg", json!("EdDSA"), false),
        ("another algorithm", rs256, "alg", json!("HS256"), false),
        ("alg of another type", eddsa, "alg", json!(1), false),
        ("another curve", eddsa, "crv", json!("Ed448"), false),
        ("another curve", es256, "crv", json!("P-384"), false),
        ("no curve", es256, "-crv", Value::Null, false),
        ("another kind", eddsa, "kty", json!("EC"), false),
        ("another kind", es256, "kty", json!("OKP"), false),
        ("a kind of the future", eddsa, "kty", json!("AKP"), false),
        ("a private key", eddsa, "d", json!("AAAA"), false),
        ("a symmetric key", eddsa, "k", json!("AAAA"), false),
        ("a short point", eddsa, "x", json!(base64url([1; 31])), false),
        ("a point in base64", eddsa, "x", json!(format!("{}=", eddsa.jwk()["x"].as_str().unwrap())), false),
        ("half a point", es256, "-y", Value::Null, false),
        ("1024 bits", rs256, "n", json!(base64url([0xff; 128])), false),
        ("2047 bits", rs256, "n", json!(base64url([0x7f; 256])), false),
        ("too many bits", rs256, "n", json!(long), false),
        ("exponent 1", rs256, "e", json!("AQ"), false),
        ("exponent 3", rs256, "e", json!("Aw"), false),
        ("no name", eddsa, "-kid", Value::Null, false),
        ("an empty name", eddsa, "kid", json!(""), false),
    ] {
        let entry = with(&key.jwk(), name, value);
        let other = json!({"kty": "oct", "k": "AAAA", "kid": "other"});
        issuer.set(Behaviour::Publish(json!({"keys": [other, entry, 7]}).to_string()));
        let taken = Verifier::published(&issuer).verify(&key.token(&claims));
        let expected = if is_taken { Ok(SUBJECT.to_owned()) } else { Err("unknown_key".to_owned()) };
        assert_eq!(taken, expected, "{what}: {entry}");
    }
}

#[test]
fn key_set_entries_with_a_duplicate_kid_are_no_keys() {
    let [one, two, three] =
        [("EdDSA", "a"), ("EdDSA", "a"), ("ES256", "b")].map(|(alg, kid)| SigningKey::new(alg, kid));
    let issuer = Issuer::doing(Behaviour::Status(500));
    let claims = with(&issuer.claims(SUBJECT), "iat", json!(now() - 60));
    let tokens = [&one, &two, &three].map(|key| key.token(&claims));
    issuer.publish(&[one, two, three]);
    let verifier = Verifier::published(&issuer);
    verifier.refuses("the first", &tokens[0], "unknown_key");
    verifier.refuses("the second", &tokens[1], "unknown_key");
    verifier.takes("another one", &tokens[2]);
}

#[test]
fn a_key_set_entry_without_kid_is_no_key() {
    let key = SigningKey::new("EdDSA", "");
    let issuer = Issuer::doing(Behaviour::Status(500));
    let token = key.token(&issuer.claims(SUBJECT));
    for entry in [key.jwk(), with(&key.jwk(), "-kid", Value::Null)] {
        issuer.set(Behaviour::Publish(json!({"keys": [entry]}).to_string()));
        Verifier::published(&issuer).refuses("an empty name", &token, "unknown_key");
    }
}

#[test]
fn s60_a_redirect_of_the_key_set_is_not_followed() {
    let key = SigningKey::new("EdDSA", "k");
    let elsewhere = Issuer::start(std::slice::from_ref(&key));
    let issuer = Issuer::doing(Behaviour::Redirect(format!("{}/api/auth/jwks", elsewhere.origin())));
    Verifier::published(&issuer).refuses("redirected", &key.token(&issuer.claims(SUBJECT)), "no_key_set");
    assert_eq!(elsewhere.fetches(), 0);
}

#[test]
fn a_document_that_is_no_key_set_is_a_failed_fetch() {
    let key = SigningKey::new("EdDSA", "k");
    let issuer = Issuer::doing(Behaviour::Status(500));
    let token = key.token(&issuer.claims(SUBJECT));
    let entry = key.jwk();
    for body in [
        String::new(),
        "<!doctype html>".into(),
        "{}".into(),
        "[]".into(),
        json!({"keys": entry}).to_string(),
        json!([entry]).to_string(),
        format!("{{\"keys\":[{entry}],\"keys\":[]}}"),
        format!("{{\"keys\":[{}]}}", entry.to_string().replacen('{', "{\"kid\":\"k\",", 1)),
        format!("{{\"keys\":[{entry}]}} x"),
    ] {
        issuer.set(Behaviour::Publish(body.clone()));
        let refused = Verifier::published(&issuer).verify(&token);
        assert_eq!(refused, Err("no_key_set".to_owned()), "{body}");
    }
}

#[test]
fn check_lists_the_keys_and_fails_without_a_usable_one() {
    let keys = SigningKey::of_each_kind();
    let issuer = Issuer::start(&keys);
    let found = Verifier::published(&issuer).external.check().unwrap();
    assert_eq!(found.len(), 4);
    assert!(
        keys.iter().all(|key| found.iter().any(|line| line.contains(key.alg) && line.contains(&key.kid))),
        "{found:?}"
    );
    issuer.set(Behaviour::Publish(json!({"keys": [{"kty": "oct", "kid": "k", "k": "AA"}]}).to_string()));
    assert!(Verifier::published(&issuer).external.check().unwrap_err().contains("not_public"));
    issuer.set(Behaviour::Status(404));
    assert!(Verifier::published(&issuer).external.check().unwrap_err().contains("404"));
    assert_eq!(Verifier::shared(&strong_secret()).external.check(), Ok(Vec::new()));
}
