//! Access tokens: what is refused, each by name. The forger here knows the signing key, so that every refusal is by the
//! rule that the name says and not by the signature.

use aws_lc_rs::{hkdf, hmac};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Server, User, decode, environment, strong_secret};

/// Signs what a case makes of a good header and good claims.
struct Forger {
    header: Value,
    claims: Value,
    key: [u8; 32],
}

impl Forger {
    fn of(user: &User) -> Self {
        let (header, claims) = decode(&user.token);
        Self { header, claims, key: derived(&environment("")["JWT_SECRET"], "latchkey access token HS256") }
    }

    fn header(&self, name: &str, value: Value) -> String {
        self.sign(&with(&self.header, name, value).to_string(), &self.claims.to_string())
    }

    fn claim(&self, name: &str, value: Value) -> String {
        self.sign(&self.header.to_string(), &with(&self.claims, name, value).to_string())
    }

    fn without_header(&self, name: &str) -> String {
        self.sign(&without(&self.header, name).to_string(), &self.claims.to_string())
    }

    fn without_claim(&self, name: &str) -> String {
        self.sign(&self.header.to_string(), &without(&self.claims, name).to_string())
    }

    fn header_text(&self, text: &str) -> String {
        self.sign(text, &self.claims.to_string())
    }

    fn claims_text(&self, text: &str) -> String {
        self.sign(&self.header.to_string(), text)
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        self.sign_bytes(header.as_bytes(), claims.as_bytes(), &self.key)
    }

    fn sign_bytes(&self, header: &[u8], claims: &[u8], key: &[u8]) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
    }

    /// The good header and claims under another key.
    fn under(&self, key: &[u8]) -> String {
        self.sign_bytes(self.header.to_string().as_bytes(), self.claims.to_string().as_bytes(), key)
    }

    fn now(&self) -> i64 {
        self.claims["iat"].as_i64().expect("iat")
    }
}

fn derived(secret: &str, purpose: &str) -> [u8; 32] {
    let mut key = [0; 32];
    let prk = hkdf::Salt::none(hkdf::HKDF_SHA256).extract(secret.as_bytes());
    prk.expand(&[purpose.as_bytes()], hkdf::HKDF_SHA256).unwrap().fill(&mut key).unwrap();
    key
}

fn with(object: &Value, name: &str, value: Value) -> Value {
    let mut object = object.clone();
    object[name] = value;
    object
}

fn without(object: &Value, name: &str) -> Value {
    let mut object = object.clone();
    object.as_object_mut().unwrap().remove(name);
    object
}

/// The object's text with one member more in front, which may repeat one that is there.
fn prefixed(object: &Value, member: &str) -> String {
    format!("{{{member},{}", &object.to_string()[1..])
}

/// These members' values as an array, which is a struct, too, for some readers.
fn values(object: &Value, names: &[&str]) -> String {
    Value::Array(names.iter().map(|name| object[*name].clone()).collect()).to_string()
}

fn headers(f: &Forger) -> Vec<(&'static str, String)> {
    let none = |alg: &str| {
        let token = f.header("alg", json!(alg));
        token[..=token.rfind('.').unwrap()].to_owned()
    };
    vec![
        ("alg none without a signature", none("none")),
        ("alg None without a signature", none("None")),
        ("alg NONE without a signature", none("NONE")),
        ("alg nOnE without a signature", none("nOnE")),
        ("alg none with a signature", f.header("alg", json!("none"))),
        ("alg HS384", f.header("alg", json!("HS384"))),
        ("alg HS512", f.header("alg", json!("HS512"))),
        ("alg RS256", f.header("alg", json!("RS256"))),
        ("alg ES256", f.header("alg", json!("ES256"))),
        ("alg PS256", f.header("alg", json!("PS256"))),
        ("alg EdDSA", f.header("alg", json!("EdDSA"))),
        ("alg in lower case", f.header("alg", json!("hs256"))),
        ("alg a number", f.header("alg", json!(256))),
        ("alg null", f.header("alg", Value::Null)),
        ("alg missing", f.without_header("alg")),
        ("alg twice", f.header_text(&prefixed(&f.header, r#""alg":"HS256""#))),
        ("typ JWT", f.header("typ", json!("JWT"))),
        ("typ in upper case", f.header("typ", json!("AT+JWT"))),
        ("typ as a whole media type", f.header("typ", json!("application/at+jwt"))),
        ("typ with a space", f.header("typ", json!("at+jwt "))),
        ("typ null", f.header("typ", Value::Null)),
        ("typ missing", f.without_header("typ")),
        ("kid unknown", f.header("kid", json!("other"))),
        ("kid empty", f.header("kid", json!(""))),
        ("kid a path", f.header("kid", json!("../../../dev/null"))),
        ("kid SQL", f.header("kid", json!("' or '1'='1"))),
        ("kid a number", f.header("kid", json!(0))),
        ("kid missing", f.without_header("kid")),
        ("kid twice", f.header_text(&prefixed(&f.header, r#""kid":"other""#))),
        ("crit empty", f.header("crit", json!([]))),
        ("crit of a known claim", f.header("crit", json!(["exp"]))),
        ("crit of an unknown one", f.header("crit", json!(["latchkey"]))),
        ("b64 false", f.header("b64", json!(false))),
        ("zip", f.header("zip", json!("DEF"))),
        ("jwk", f.header("jwk", json!({"kty": "oct", "k": "AA"}))),
        ("jku", f.header("jku", json!("https://example.com/jwks"))),
        ("x5u", f.header("x5u", json!("https://example.com/cert"))),
        ("x5c", f.header("x5c", json!(["AA=="]))),
        ("cty JWT", f.header("cty", json!("JWT"))),
        ("an unknown header member", f.header("latchkey", json!(1))),
        ("header no JSON", f.header_text("alg")),
        ("header an array", f.header_text("[]")),
        ("header an array of the values", f.header_text(&values(&f.header, &["alg", "typ", "kid"]))),
        ("header with data behind it", f.header_text(&format!("{} {{}}", f.header))),
        ("header not UTF-8", f.sign_bytes(b"{\"alg\":\"\xff\"}", f.claims.to_string().as_bytes(), &f.key)),
    ]
}

fn claims(f: &Forger, other: &User) -> Vec<(&'static str, String)> {
    let now = f.now();
    let lived = |from: i64, to: i64| {
        f.sign(&f.header.to_string(), &with(&with(&f.claims, "iat", json!(from)), "exp", json!(to)).to_string())
    };
    vec![
        ("iss missing", f.without_claim("iss")),
        ("iss another", f.claim("iss", json!("other"))),
        ("iss a list", f.claim("iss", json!(["latchkey"]))),
        ("iss null", f.claim("iss", Value::Null)),
        ("aud missing", f.without_claim("aud")),
        ("aud another", f.claim("aud", json!("other"))),
        ("aud a list", f.claim("aud", json!(["latchkey", "other"]))),
        ("aud a number", f.claim("aud", json!(1))),
        ("sub missing", f.without_claim("sub")),
        ("sub empty", f.claim("sub", json!(""))),
        ("sub a number", f.claim("sub", json!(1))),
        ("sub null", f.claim("sub", Value::Null)),
        ("sub with NUL", f.claim("sub", json!("a\0b"))),
        ("sub another user", f.claim("sub", json!(other.id))),
        ("sub me", f.claim("sub", json!("me"))),
        ("sid missing", f.without_claim("sid")),
        ("sid no id", f.claim("sid", json!("session"))),
        ("sid a number", f.claim("sid", json!(1))),
        ("sid of no session", f.claim("sid", json!(Uuid::now_v7().to_string()))),
        ("sid of another user's session", f.claim("sid", decode(&other.token).1["sid"].clone())),
        ("iat missing", f.without_claim("iat")),
        ("iat in a minute", f.claim("iat", json!(now + 60))),
        ("iat a text", f.claim("iat", json!(now.to_string()))),
        ("iat with a fraction", f.claim("iat", json!(now as f64 + 0.5))),
        ("iat after exp", lived(now + 3, now)),
        ("exp missing", f.without_claim("exp")),
        ("exp a minute ago", lived(now - 660, now - 60)),
        ("exp ten seconds ago", lived(now - 610, now - 10)),
        ("exp a text", f.claim("exp", json!((now + 60).to_string()))),
        ("exp with a fraction", f.claim("exp", json!((now + 60) as f64 + 0.5))),
        ("exp negative", f.claim("exp", json!(-1))),
        ("exp null", f.claim("exp", Value::Null)),
        ("exp in two hours", f.claim("exp", json!(now + 7200))),
        ("exp beyond all numbers", f.claims_text(&prefixed(&without(&f.claims, "exp"), r#""exp":1e400"#))),
        ("nbf in the future", f.claim("nbf", json!(now + 60))),
        ("an unknown claim", f.claim("admin", json!(true))),
        ("sub twice", f.claims_text(&prefixed(&f.claims, &format!(r#""sub":"{}""#, other.id)))),
        ("exp twice", f.claims_text(&prefixed(&f.claims, &format!(r#""exp":{}"#, now + 900)))),
        ("claims a list", f.claims_text("[]")),
        ("claims a list of the values", f.claims_text(&values(&f.claims, &["iss", "aud", "sub", "sid", "iat", "exp"]))),
        ("claims no JSON", f.claims_text("sub")),
    ]
}

fn shapes(f: &Forger, user: &User) -> Vec<(&'static str, String)> {
    let good = &user.token;
    let parts: Vec<&str> = good.split('.').collect();
    let flipped = |text: &str| format!("{}{}", &text[..text.len() - 1], if text.ends_with('A') { 'B' } else { 'A' });
    let secret = &environment("")["JWT_SECRET"];
    vec![
        ("one part", parts[0].to_owned()),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("four parts", format!("{good}.{}", parts[2])),
        ("five parts", format!("{good}.{}.{}", parts[1], parts[2])),
        ("a dot in front", format!(".{good}")),
        ("a dot behind", format!("{good}.")),
        ("padding", format!("{good}=")),
        ("a space inside", good.replacen('.', " .", 1)),
        ("twice the scheme", format!("Bearer {good}")),
        ("all in lower case", good.to_lowercase()),
        ("the signature cut", good[..good.len() - 2].to_owned()),
        ("the signature changed", format!("{}.{}.A{}", parts[0], parts[1], &flipped(parts[2])[1..])),
        ("the claims of another token", format!("{}.{}.{}", parts[0], flipped(parts[1]), parts[2])),
        ("signed with the secret itself", f.under(secret.as_bytes())),
        ("signed with the decoded secret", f.under(&STANDARD.decode(secret).unwrap())),
        ("signed with an empty key", f.under(b"")),
        ("signed with the refresh key", f.under(&derived(secret, "latchkey refresh token MAC"))),
        ("signed by another server", f.under(&derived(&strong_secret(), "latchkey access token HS256"))),
        ("an opaque token", "lkr_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".to_owned()),
    ]
}

/// Two users, and a forger whose untouched token is accepted.
fn forgery() -> (Server, User, User, Forger) {
    let server = Server::start();
    let (user, other) = (server.user("ada"), server.user("bob"));
    let forger = Forger::of(&user);
    let untouched = forger.sign(&forger.header.to_string(), &forger.claims.to_string());
    server.request("GET", "/auth/me").bearer(&untouched).send().must(200);
    (server, user, other, forger)
}

/// The id of the request that was refused with this token.
#[track_caller]
fn refused(server: &Server, name: &str, token: &str) -> String {
    let answer = server.request("GET", "/auth/me").bearer(token).send();
    assert_eq!(answer.status, 401, "{name}: {answer}");
    let challenge = answer.header("WWW-Authenticate").unwrap_or_default();
    assert_eq!(challenge, r#"Bearer realm="latchkey", error="invalid_token""#, "{name}");
    answer.request_id().to_owned()
}

#[test]
fn s11_algorithm_none_and_every_other_alg_is_refused() {
    let (server, _, _, forger) = forgery();
    let cases: Vec<_> = headers(&forger).into_iter().filter(|(name, _)| name.starts_with("alg ")).collect();
    assert!(cases.len() >= 15, "{} cases", cases.len());
    for (name, token) in cases {
        let id = refused(&server, name, &token);
        let is_text = !["alg a number", "alg null", "alg missing", "alg twice"].contains(&name);
        let reason = if is_text { "reason=wrong_algorithm " } else { "reason=malformed " };
        server.wait_for_log(&["event=token outcome=refused", reason, &id]);
    }
}

#[test]
fn s12_a_token_with_a_forged_signature_is_refused() {
    let (server, user, _, forger) = forgery();
    for (name, token) in shapes(&forger, &user) {
        refused(&server, name, &token);
    }
}

#[test]
fn s13_crit_typ_kid_and_unknown_header_members_are_refused() {
    let (server, _, _, forger) = forgery();
    let cases: Vec<_> = headers(&forger).into_iter().filter(|(name, _)| !name.starts_with("alg ")).collect();
    assert!(cases.len() >= 25, "{} cases", cases.len());
    for (name, token) in cases {
        refused(&server, name, &token);
    }
}

#[test]
fn s14_forged_claims_are_refused_iss_aud_sub_sid_iat_exp() {
    let (server, _, other, forger) = forgery();
    for (name, token) in claims(&forger, &other) {
        refused(&server, name, &token);
    }
}

#[test]
fn s15_each_use_of_the_secret_has_its_own_key() {
    let (server, _, _, forger) = forgery();
    let secret = &environment("")["JWT_SECRET"];
    for (name, key) in [
        ("the secret itself", secret.as_bytes()),
        ("the key of refresh tokens", &derived(secret, "latchkey refresh token MAC")),
        ("the key of digests", &derived(secret, "latchkey e-mail digest")),
        ("a key without a purpose", &derived(secret, "")),
    ] {
        refused(&server, name, &forger.under(key));
    }
}

#[test]
fn s16_a_bearer_token_comes_only_from_one_authorization_field() {
    let server = Server::start();
    let user = server.user("ada");
    let me = |path: &str| server.request("GET", path);
    me("/auth/me").bearer(&user.token).send().must(200);
    me("/auth/me").bearer(&user.token).bearer(&user.token).send().must(401);
    me("/auth/me").bearer(&user.token).header("Authorization", "Basic YWRhOnB3").send().must(401);
    for name in ["access_token", "token", "bearer_token"] {
        me(&format!("/auth/me?{name}={}", user.token)).send().must(401);
        me("/auth/me").header("Cookie", &format!("{name}={}", user.token)).send().must(401);
        me("/auth/me").json(&json!({name: user.token})).send().must(401);
    }
    me("/auth/me").header("X-Access-Token", &user.token).send().must(401);
}

#[test]
fn clock_leeway_of_an_access_token_is_a_few_seconds() {
    let server = Server::start();
    let user = server.user("ada");
    let forger = Forger::of(&user);
    let me = |token: &str| server.request("GET", "/auth/me").bearer(token).send().status;
    assert_eq!(me(&forger.claim("iat", json!(forger.now() + 3))), 200, "another instance's clock is 3 s ahead");
    let ends = with(&with(&forger.claims, "iat", json!(forger.now() - 900)), "exp", json!(forger.now() - 1));
    assert_eq!(me(&forger.sign(&forger.header.to_string(), &ends.to_string())), 200, "expired a second ago");
}

#[test]
fn an_access_token_holds_no_personal_data() {
    let server = Server::start();
    let user = server.user("ada");
    let (header, claims) = decode(&user.token);
    assert_eq!(crate::support::members(&header), ["alg", "kid", "typ"]);
    assert_eq!(crate::support::members(&claims), ["aud", "exp", "iat", "iss", "sid", "sub"]);
    assert_eq!(claims["sub"], user.id);
}

#[test]
fn after_key_rotation_the_previous_secret_only_verifies() {
    let old = strong_secret();
    let server = Server::start_with(&[("JWT_SECRET", &old)]);
    let user = server.user("ada");
    let tokens =
        server.request("POST", "/auth/login").json(&json!({"email": user.email, "password": crate::support::PASSWORD}));
    let refresh = tokens.send().must(200).json()["refresh_token"].clone();

    let changed = Server::beside(&server, &[("JWT_SECRET_PREVIOUS", &old)]);
    changed.request("GET", "/auth/me").bearer(&user.token).send().must(200);
    let renewed =
        changed.request("POST", "/auth/refresh").json(&json!({"refresh_token": refresh})).send().must(200).json();
    let kid = |token: &Value| decode(token.as_str().unwrap()).0["kid"].clone();
    assert_ne!(kid(&renewed["access_token"]), kid(&json!(user.token)));

    let without = Server::beside(&server, &[]);
    without.request("GET", "/auth/me").bearer(&user.token).send().must(401);
    without.request("GET", "/auth/me").bearer(renewed["access_token"].as_str().unwrap()).send().must(200);
    without.request("POST", "/auth/refresh").json(&json!({"refresh_token": renewed["refresh_token"]})).send().must(200);
}

#[test]
fn an_access_token_of_another_issuer_or_audience_is_refused() {
    let server = Server::start();
    let user = server.user("ada");
    for variables in [[("TOKEN_AUDIENCE", "other")], [("TOKEN_ISSUER", "other")]] {
        let other = Server::beside(&server, &variables);
        other.request("GET", "/auth/me").bearer(&user.token).send().must(401);
    }
}

#[test]
fn the_log_names_the_reason_of_each_refused_token() {
    let server = Server::start();
    let user = server.user("ada");
    let forger = Forger::of(&user);
    let cases = [
        ("malformed", "x".to_owned()),
        ("unknown_key", forger.header("kid", json!("other"))),
        ("wrong_type", forger.header("typ", json!("JWT"))),
        ("wrong_algorithm", forger.header("alg", json!("HS512"))),
        ("bad_signature", forger.under(b"another key")),
        ("bad_claims", forger.without_claim("sid")),
        ("expired", forger.claim("exp", json!(forger.now() - 60))),
        ("lifetime", forger.claim("iat", json!(forger.now() + 60))),
        ("session_over", forger.claim("sid", json!(Uuid::now_v7().to_string()))),
    ];
    for (reason, token) in cases {
        let answer = server.request("GET", "/auth/me").bearer(&token).send().must(401);
        server.wait_for_log(&["event=token outcome=refused", &format!("reason={reason} "), answer.request_id()]);
    }
}
