//! Which tokens of a Better Auth are taken, by the library alone: each rule of section 4 of the contract with a token
//! that keeps it and one that breaks it. Every forged token carries a good signature unless the signature is the point.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use latchkey::config::{BetterAuth, Secret, TokenPolicy};
use latchkey::token::{self, External, Keys, TokenRefusal};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::issuer::{Behaviour, Issuer, SigningKey, base64url, hs256, now, random, signed};
use crate::support::strong_secret;

const SUBJECT: &str = "Zq3xkJ0Vb8nD5TfWmR7yLcA1sGhE2uPo";

struct Verifier {
    keys: Keys,
    external: External,
}

impl Verifier {
    fn new(settings: &BetterAuth) -> Self {
        let policy = TokenPolicy { issuer: "a".into(), audience: "b".into(), access_token_seconds: 900 };
        let secret: Secret = strong_secret().parse().unwrap();
        Self { keys: Keys::derive(&secret, None, policy), external: External::new(settings) }
    }

    /// By the key set of this issuer.
    fn published(issuer: &Issuer) -> Self {
        Self::new(&BetterAuth {
            secret: None,
            jwks_url: Some(format!("{}/api/auth/jwks", issuer.origin())),
            issuer: Some(issuer.origin()),
            audience: Some(issuer.origin()),
        })
    }

    /// By a shared secret, without any name.
    fn shared(secret: &str) -> Self {
        Self::new(&BetterAuth { secret: Some(secret.parse().unwrap()), jwks_url: None, issuer: None, audience: None })
    }

    fn verify(&self, token: &str) -> Result<String, TokenRefusal> {
        let principal = token::verify(token, &self.keys, Some(&self.external))?;
        assert!(principal.is_external() == principal.session().is_none());
        Ok(principal.subject().to_owned())
    }

    #[track_caller]
    fn takes(&self, what: &str, token: &str) {
        assert_eq!(self.verify(token), Ok(SUBJECT.to_owned()), "{what}");
    }

    #[track_caller]
    fn refuses(&self, what: &str, token: &str, why: TokenRefusal) {
        assert_eq!(self.verify(token), Err(why), "{what}");
    }
}

/// The object with this member set, or without it where the value is `Value::Null` and `name` begins with `-`.
fn with(object: &Value, name: &str, value: Value) -> Value {
    let mut object = object.clone();
    match name.strip_prefix('-') {
        Some(name) => drop(object.as_object_mut().unwrap().remove(name)),
        None => object[name] = value,
    }
    object
}

// ---------------------------------------------------------------------------------------------- published keys

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
    use TokenRefusal::{BadClaims, Expired, Lifetime, WrongIssuer};
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
    }
}

#[test]
fn a_header_that_breaks_a_rule_is_refused_and_causes_no_fetch_of_its_own() {
    use TokenRefusal::{Malformed, UnknownKey, WrongKind};
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
    use TokenRefusal::{BadSignature, Malformed};
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

// ------------------------------------------------------------------------------------------------- confusion

#[test]
fn a_key_never_serves_another_algorithm_than_its_own() {
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
fn a_public_key_is_no_hmac_secret_in_any_form() {
    let keys = SigningKey::of_each_kind();
    let issuer = Issuer::start(&keys);
    let secret = strong_secret();
    let both = Verifier::new(&BetterAuth {
        secret: Some(secret.parse().unwrap()),
        jwks_url: Some(format!("{}/api/auth/jwks", issuer.origin())),
        issuer: Some(issuer.origin()),
        audience: Some(issuer.origin()),
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
fn none_is_no_algorithm_in_any_spelling() {
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

// -------------------------------------------------------------------------------------------- the shared secret

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
    verifier.refuses("without end", &endless, TokenRefusal::BadClaims);
}

#[test]
fn another_secret_than_the_shared_one_signs_nothing() {
    let secret = strong_secret();
    let verifier = Verifier::shared(&secret);
    let claims = json!({"sub": SUBJECT, "exp": now() + 60}).to_string();
    let bytes = STANDARD.decode(&secret).unwrap();
    for key in [strong_secret().as_bytes(), b"", &bytes, secret.to_lowercase().as_bytes()] {
        let token = signed(r#"{"alg":"HS256"}"#, &claims, hs256(key));
        verifier.refuses("another secret", &token, TokenRefusal::BadSignature);
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
        verifier.refuses(name, &token(&with(&claims, name, value)), TokenRefusal::WrongIssuer);
    }
}

// --------------------------------------------------------------------------------------------------- decisions

#[test]
fn each_key_decides_its_own_rules_where_all_are_configured() {
    let key = SigningKey::new("ES256", "k");
    let issuer = Issuer::start(std::slice::from_ref(&key));
    let secret = strong_secret();
    let settings = BetterAuth {
        secret: Some(secret.parse().unwrap()),
        jwks_url: Some(issuer.origin()),
        issuer: Some(issuer.origin()),
        audience: Some(issuer.origin()),
    };
    let verifier = Verifier::new(&settings);
    let local = verifier.keys.issue_access(SUBJECT, Uuid::now_v7()).unwrap();
    let local = token::verify(local.expose(), &verifier.keys, Some(&verifier.external)).unwrap();
    assert!(!local.is_external() && local.session().is_some());
    verifier.takes("published", &key.token(&issuer.claims(SUBJECT)));
    let claims = json!({"sub": SUBJECT, "exp": now() + 60}).to_string();
    verifier.takes("shared", &signed(r#"{"alg":"HS256"}"#, &claims, hs256(secret.as_bytes())));
    let without_kid = key.token_with(&json!({"alg": "ES256"}), &issuer.claims(SUBJECT));
    verifier.refuses("published without kid", &without_kid, TokenRefusal::WrongKind);
    let bare = key.token(&json!({"sub": SUBJECT, "exp": now() + 60}));
    verifier.refuses("published without names", &bare, TokenRefusal::WrongIssuer);
}

#[test]
fn a_local_token_is_judged_by_local_rules_alone() {
    let secret = strong_secret();
    let verifier = Verifier::shared(&secret);
    let local = verifier.keys.issue_access(SUBJECT, Uuid::now_v7()).unwrap();
    let mut parts = local.expose().split('.');
    let decode = |part: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap();
    let (header, claims) = (decode(parts.next().unwrap()), decode(parts.next().unwrap()));
    let (header, claims): (Value, String) =
        (serde_json::from_slice(&header).unwrap(), String::from_utf8(claims).unwrap());
    let forged = signed(&header.to_string(), &claims, hs256(secret.as_bytes()));
    verifier.refuses("our key id, their secret", &forged, TokenRefusal::BadSignature);
    let forged = signed(&with(&header, "-kid", Value::Null).to_string(), &claims, hs256(secret.as_bytes()));
    verifier.refuses("our claims and type, their secret", &forged, TokenRefusal::WrongKind);
    let untyped = signed(r#"{"alg":"HS256"}"#, &claims, hs256(secret.as_bytes()));
    verifier.refuses("our claims, their secret", &untyped, TokenRefusal::WrongIssuer);
}

// --------------------------------------------------------------------------------------------- published sets

#[test]
fn of_a_published_set_only_whole_and_fitting_keys_are_taken() {
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
        let expected = if is_taken { Ok(SUBJECT.to_owned()) } else { Err(TokenRefusal::UnknownKey) };
        assert_eq!(taken, expected, "{what}: {entry}");
    }
}

#[test]
fn two_keys_of_one_name_are_none_and_the_others_stay() {
    let [one, two, three] =
        [("EdDSA", "a"), ("EdDSA", "a"), ("ES256", "b")].map(|(alg, kid)| SigningKey::new(alg, kid));
    let issuer = Issuer::doing(Behaviour::Status(500));
    let claims = issuer.claims(SUBJECT);
    let tokens = [&one, &two, &three].map(|key| key.token(&claims));
    issuer.publish(&[one, two, three]);
    let verifier = Verifier::published(&issuer);
    verifier.refuses("the first", &tokens[0], TokenRefusal::UnknownKey);
    verifier.refuses("the second", &tokens[1], TokenRefusal::UnknownKey);
    verifier.takes("another one", &tokens[2]);
}

#[test]
fn what_is_no_key_set_is_as_good_as_no_answer() {
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
        assert!(matches!(refused, Err(TokenRefusal::NoKeys { .. })), "{body}: {refused:?}");
    }
}

#[test]
fn the_check_says_what_was_found_and_fails_without_a_key() {
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
