//! Registration, login and the protected example endpoint.

use serde_json::{Value, json};

use crate::support::{Answer, PASSWORD, Server, User, at_once, await_that, decode, is_time, members, strong_secret};

fn register(server: &Server, email: &str, password: &str) -> Answer {
    let credentials = json!({"email": email, "password": password});
    server.request("POST", "/auth/register").json(&credentials).send()
}

fn login(server: &Server, email: &str, password: &str) -> Answer {
    let credentials = json!({"email": email, "password": password});
    server.request("POST", "/auth/login").json(&credentials).send()
}

fn count(server: &Server, table: &str) -> i64 {
    let mut sql = server.sql();
    sql.query_one(&format!("select count(*) from {table}"), &[]).unwrap().get(0)
}

// ---------------------------------------------------------------------------------------------------- register

#[test]
fn a_registration_is_answered_with_exactly_the_user() {
    let server = Server::start();
    let user = register(&server, "ada@example.org", PASSWORD).must(201).json();
    assert_eq!(members(&user), ["created_at", "email", "id", "is_active"]);
    assert_eq!((&user["email"], &user["is_active"]), (&json!("ada@example.org"), &json!(true)));
    assert!(user["id"].as_str().is_some_and(|id| !id.is_empty()), "{user}");
    assert!(is_time(&user["created_at"]), "{user}");
}

#[test]
fn the_location_of_a_registration_leads_to_the_same_user() {
    let server = Server::start();
    let answer = register(&server, "ada@example.org", PASSWORD).must(201);
    assert_eq!(answer.header("Location"), Some("/auth/me"));
    let token = server.login("ada@example.org", PASSWORD);
    let me = server.request("GET", "/auth/me").bearer(&token).send().must(200);
    assert_eq!(me.json(), answer.json());
}

#[test]
fn s1_a_registration_stores_a_bcrypt_hash_of_the_configured_cost() {
    let server = Server::start_with(&[("BCRYPT_COST", "5")]);
    register(&server, "ada@example.org", PASSWORD).must(201);
    let row = server.sql().query_one("select password_hash from users", &[]).unwrap();
    let hash: String = row.get(0);
    assert!(hash.starts_with("$2b$05$") && hash.len() == 60, "{hash}");
}

/// The form of HTML's `input type=email`, in ASCII.
#[test]
fn an_email_of_the_html_form_is_accepted() {
    let server = Server::start();
    let label = "d".repeat(63);
    let domain = format!("{label}.{label}.{}", "d".repeat(61));
    for email in [
        "a@b",
        "a@localhost",
        "ada.lovelace@example.org",
        ".a@example.org",
        "a.@example.org",
        "a..b@example.org",
        "-@example.org",
        "ada+news@example.org",
        "!#$%&'*+/=?^_`{|}~-@example.org",
        "0@1.2.3.4",
        "a@b-c.d--e.f",
        "a@xn--bcher-kva.example",
        &format!("a@{label}.org"),
        &format!("{}@example.org", "l".repeat(64)),
        &format!("{}@{domain}", "l".repeat(64)),
    ] {
        let answer = register(&server, email, PASSWORD);
        assert_eq!(answer.status, 201, "{email}: {answer}");
        assert_eq!(answer.json()["email"], email);
    }
}

#[test]
fn a_malformed_email_is_422_at_registration() {
    let server = Server::start();
    let label = "d".repeat(63);
    let domain = format!("{label}.{label}.{}", "d".repeat(62));
    for email in [
        "",
        " ",
        "@",
        "ada",
        "ada@",
        "@example.org",
        "ada@@example.org",
        "ada@b@example.org",
        " ada@example.org",
        "ada@example.org ",
        "ada@example.org\n",
        "\tada@example.org",
        "a da@example.org",
        "ada@exam ple.org",
        "ada@example..org",
        "ada@.example.org",
        "ada@example.org.",
        "ada@-example.org",
        "ada@example-.org",
        "ada@example.-org",
        "ada@exam_ple.org",
        "ada@[127.0.0.1]",
        "ada@[::1]",
        "ada@example.org:25",
        "\"ada\"@example.org",
        "ada(comment)@example.org",
        "ada,eve@example.org",
        "ada;@example.org",
        "ada:eve@example.org",
        "ada\\@example.org",
        "<ada@example.org>",
        "Ada <ada@example.org>",
        "mailto:ada@example.org",
        "ädä@example.org",
        "ada@exämple.org",
        "ada@example.org\u{200b}",
        "ada＠example.org",
        "\u{212a}ada@example.org",
        "ada\0@example.org",
        "ada@example.org\0",
        "ada\r\nBcc: eve@example.org",
        &format!("a@{}.org", "d".repeat(64)),
        &format!("{}@example.org", "l".repeat(65)),
        &format!("{}@{domain}", "l".repeat(64)),
    ] {
        let answer = register(&server, email, PASSWORD);
        assert_eq!(answer.status, 422, "{email:?}: {answer}");
        assert_eq!(answer.fields(), ["email"], "{email:?}: {answer}");
    }
    assert_eq!(count(&server, "users"), 0);
}

#[test]
fn an_email_is_kept_in_ascii_lower_case() {
    let server = Server::start();
    let user = register(&server, "Ada.LOVELACE+Z@Example.ORG", PASSWORD).must(201).json();
    assert_eq!(user["email"], "ada.lovelace+z@example.org");
    let row = server.sql().query_one("select email from users", &[]).unwrap();
    assert_eq!(row.get::<_, String>(0), "ada.lovelace+z@example.org");
}

#[test]
fn a_taken_email_is_409_in_any_case_and_with_any_password() {
    let server = Server::start();
    server.user("ada");
    for (email, password) in [
        ("ada@example.org", PASSWORD),
        ("ADA@Example.org", PASSWORD),
        ("ada@example.org", "another long pass phrase 9"),
    ] {
        let answer = register(&server, email, password);
        assert_eq!(answer.status, 409, "{email}: {answer}");
    }
    assert_eq!(count(&server, "users"), 1);
}

#[test]
fn plus_tags_and_dots_make_another_email() {
    let server = Server::start();
    for email in ["ada@example.org", "ada+x@example.org", "a.da@example.org", "ada@example.org.uk"] {
        let answer = register(&server, email, PASSWORD);
        assert_eq!(answer.status, 201, "{email}: {answer}");
    }
}

#[test]
fn of_ten_registrations_at_once_one_is_201_and_nine_are_409() {
    let server = Server::start();
    let mut statuses = at_once(10, |n| {
        let email = if n % 2 == 0 { "ada@example.org" } else { "ADA@example.org" };
        register(&server, email, PASSWORD).status
    });
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![201], vec![409; 9]].concat());
}

#[test]
fn a_password_within_the_rule_is_accepted_and_logs_in() {
    let server = Server::start();
    let bytes = "Sweet are the uses of adversity, which, like the toad, ugly and venomous";
    for (n, password) in [
        "kT9#vQ2x",
        "жэщфъцыё",
        "correct horse battery staple 7",
        "  leading and trailing blanks  ",
        "line\nfeed\tand\u{7f}control\u{1}",
        "🦀🐙🌋🪁🧲🛶🪗🦚",
        bytes,
        &"жэщфъцыё".repeat(5)[..72],
    ]
    .iter()
    .enumerate()
    {
        let email = format!("u{n}@example.org");
        let answer = register(&server, &email, password);
        assert_eq!(answer.status, 201, "{password:?}: {answer}");
        let answer = login(&server, &email, password);
        assert_eq!(answer.status, 200, "{password:?}: {answer}");
    }
    assert_eq!(bytes.len(), 72);
}

#[test]
fn s2_a_password_against_the_rule_is_422() {
    let server = Server::start();
    let bytes = "Sweet are the uses of adversity, which, like the toad, ugly and venomous!";
    assert_eq!(bytes.len(), 73);
    for (name, password) in [
        ("empty", ""),
        ("7 characters", "kT9#vQ2"),
        ("7 characters of 14 bytes", "жэщфъцы"),
        ("7 characters of 28 bytes", "🦀🐙🌋🪁🧲🛶🪗"),
        ("73 bytes", bytes),
        ("73 bytes in fewer characters", &format!("x{}", &"жэщфъцыё".repeat(5)[..72])),
        ("60,000 bytes", &"correct horse ".repeat(4_285)),
        ("NUL inside", "correct horse\0battery staple"),
        ("NUL at the end", "correct horse battery\0"),
    ] {
        let answer = register(&server, "ada@example.org", password);
        assert_eq!(answer.status, 422, "{name}: {answer}");
        assert_eq!(answer.fields(), ["password"], "{name}: {answer}");
    }
    assert_eq!(count(&server, "users"), 0);
}

#[test]
fn s3_a_weak_password_is_422_that_says_why() {
    let server = Server::start();
    let why = |email: &str, password: &str| {
        let answer = register(&server, email, password);
        assert_eq!(answer.status, 422, "{password}: {answer}");
        assert_eq!(answer.fields(), ["password"], "{password}: {answer}");
        answer.json()["errors"][0]["detail"].as_str().unwrap().to_owned()
    };
    let short = why("ada@example.org", "kT9#vQ2");
    for password in ["password123", "Password123!", "12345678", "qwertyuiop", "aaaaaaaaaaaa", "iloveyou1"] {
        let detail = why("ada@example.org", password);
        assert_ne!(detail, short, "{password}");
        assert!(detail.contains("guess"), "{password}: {detail}");
    }
    assert_eq!(count(&server, "users"), 0);
}

#[test]
fn a_password_made_of_the_email_is_422_for_its_owner_alone() {
    let server = Server::start();
    let password = "quorvex.blintz@example.org";
    let answer = register(&server, "quorvex.blintz@example.org", password).must(422);
    assert_eq!(answer.fields(), ["password"], "{answer}");
    register(&server, "ada@example.org", password).must(201);
}

#[test]
fn password_min_length_raises_the_lower_bound() {
    let server = Server::start_with(&[("PASSWORD_MIN_LENGTH", "15")]);
    let answer = register(&server, "ada@example.org", "kT9#vQ2xkT9#vQ").must(422);
    assert_eq!(answer.fields(), ["password"], "{answer}");
    register(&server, "ada@example.org", "kT9#vQ2xWb4!mZr").must(201);
}

#[test]
fn closed_registration_is_403_and_login_goes_on() {
    let open = Server::start();
    let user = open.user("ada");
    let closed = Server::beside(&open, &[("REGISTRATION", "closed")]);
    register(&closed, "eve@example.org", PASSWORD).must(403);
    register(&closed, "ada@example.org", PASSWORD).must(403);
    login(&closed, &user.email, &user.password).must(200);
    assert_eq!(count(&open, "users"), 1);
}

// ------------------------------------------------------------------------------------------------------- login

#[test]
fn a_login_is_answered_with_exactly_the_tokens() {
    let server = Server::start();
    let user = server.user("ada");
    let tokens = login(&server, &user.email, &user.password).must(200).json();
    let expected = ["access_token", "expires_in", "refresh_expires_in", "refresh_token", "token_type"];
    assert_eq!(members(&tokens), expected);
    assert_eq!(tokens["token_type"], "bearer");
    assert_eq!(tokens["expires_in"], 900);
    assert_eq!(tokens["refresh_expires_in"], 14 * 24 * 60 * 60);
    let refresh_token = tokens["refresh_token"].as_str().unwrap();
    assert!(refresh_token.starts_with("lkr_") && refresh_token.len() > 40, "{refresh_token}");
}

#[test]
fn the_claims_of_an_access_token_are_exactly_ours() {
    let server = Server::start();
    let user = server.user("ada");
    let (header, claims) = decode(&user.token);
    assert_eq!(members(&header), ["alg", "kid", "typ"]);
    assert_eq!((&header["alg"], &header["typ"]), (&json!("HS256"), &json!("at+jwt")));
    assert_eq!(members(&claims), ["aud", "exp", "iat", "iss", "sid", "sub"]);
    assert_eq!(claims["sub"], json!(user.id));
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("latchkey"), &json!("latchkey")));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 900);
}

#[test]
fn issuer_audience_and_lifetime_come_from_the_environment() {
    let server = Server::start_with(&[
        ("TOKEN_ISSUER", "https://issuer.example"),
        ("TOKEN_AUDIENCE", "tasks"),
        ("ACCESS_TOKEN_SECONDS", "60"),
    ]);
    let user = server.user("ada");
    let claims = decode(&user.token).1;
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("https://issuer.example"), &json!("tasks")));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 60);
    server.request("GET", "/auth/me").bearer(&user.token).send().must(200);
}

#[test]
fn a_token_of_another_issuer_or_audience_is_401() {
    let server = Server::start();
    for variable in ["TOKEN_ISSUER", "TOKEN_AUDIENCE"] {
        let other = Server::beside(&server, &[(variable, "elsewhere")]);
        let user = other.user(&variable.to_lowercase());
        other.request("GET", "/auth/me").bearer(&user.token).send().must(200);
        server.request("GET", "/auth/me").bearer(&user.token).send().must(401);
    }
}

#[test]
fn a_token_is_valid_on_every_instance_with_the_same_secret() {
    let server = Server::start();
    let user = server.user("ada");
    let second = Server::beside(&server, &[]);
    let stranger = Server::beside(&server, &[("JWT_SECRET", &strong_secret())]);
    second.request("GET", "/auth/me").bearer(&user.token).send().must(200);
    stranger.request("GET", "/auth/me").bearer(&user.token).send().must(401);
}

#[test]
fn an_email_logs_in_in_any_case() {
    let server = Server::start();
    register(&server, "Ada@Example.org", PASSWORD).must(201);
    login(&server, "ada@example.org", PASSWORD).must(200);
    login(&server, "ADA@EXAMPLE.ORG", PASSWORD).must(200);
}

#[test]
fn s4_a_refused_login_allows_no_user_enumeration_by_its_answer() {
    let server = Server::start();
    let user = server.user("ada");
    let inactive = server.user("eve");
    deactivate(&server, &inactive);
    let wrong = login(&server, &user.email, "correct horse battery staple 8").must(401);
    assert_eq!(wrong.header("WWW-Authenticate"), Some("Bearer realm=\"latchkey\""));
    for (name, email, password) in [
        ("unknown", "nobody@example.org", PASSWORD),
        ("deactivated", inactive.email.as_str(), PASSWORD),
        ("deactivated, wrong password", inactive.email.as_str(), "wrong"),
        ("malformed e-mail", "no e-mail", PASSWORD),
        ("empty e-mail", "", PASSWORD),
        ("e-mail with blanks", " ada@example.org", PASSWORD),
        ("e-mail too long", &format!("{}@example.org", "l".repeat(300)), PASSWORD),
        ("other dots", "a.da@example.org", PASSWORD),
        ("plus tag", "ada+x@example.org", PASSWORD),
        ("empty password", user.email.as_str(), ""),
        ("short password", user.email.as_str(), "x"),
        ("easy password", user.email.as_str(), "password123"),
        ("72 bytes", user.email.as_str(), &"x".repeat(72)),
    ] {
        let answer = login(&server, email, password);
        assert_eq!(answer.without_request_id(), wrong.without_request_id(), "{name}: {answer}");
    }
}

#[test]
fn s52_a_refused_login_is_logged_with_user_or_digest() {
    let server = Server::start();
    let (user, inactive) = (server.user("ada"), server.user("eve"));
    deactivate(&server, &inactive);
    for (email, password, reason, who) in [
        (&*user.email, "wrong", "wrong_password", format!("user={}", user.id)),
        (&*inactive.email, PASSWORD, "inactive", format!("user={}", inactive.id)),
        ("nobody@example.org", PASSWORD, "unknown_email", "email_digest=".to_owned()),
        ("no e-mail", PASSWORD, "unknown_email", "email_digest=".to_owned()),
    ] {
        let answer = login(&server, email, password).must(401);
        let event = format!("event=login outcome=refused reason={reason} {who}");
        let line = server.wait_for_log(&[&event, answer.request_id()]);
        assert!(line.contains(" address=127.0.0.1 ") && !line.contains(email), "{line}");
    }
}

#[test]
fn a_password_over_72_bytes_or_with_nul_is_422_at_login() {
    let server = Server::start();
    let user = server.user("ada");
    for password in ["x".repeat(73), "ж".repeat(37), format!("{PASSWORD}\0"), "\0".to_owned()] {
        for email in [&user.email, "nobody@example.org", "no e-mail"] {
            let answer = login(&server, email, &password);
            assert_eq!(answer.status, 422, "{email} {password:?}: {answer}");
            assert_eq!(answer.fields(), ["password"], "{email} {password:?}: {answer}");
        }
    }
}

#[test]
fn s2_a_password_is_never_trimmed_cut_folded_or_normalised() {
    let server = Server::start();
    let long = "x9".repeat(20) + &"Qv7#".repeat(8);
    assert_eq!(long.len(), 72);
    for (n, (password, close)) in [
        (" Caf\u{e9} cr\u{e8}me brul\u{e9}e ", "Caf\u{e9} cr\u{e8}me brul\u{e9}e"),
        ("Caf\u{e9} cr\u{e8}me brul\u{e9}e", "Cafe\u{301} cre\u{300}me brule\u{301}e"),
        ("correct horse Battery", "correct horse battery"),
        ("correct horse battery\n", "correct horse battery"),
        (&long, &long[..71]),
    ]
    .into_iter()
    .enumerate()
    {
        let email = format!("u{n}@example.org");
        register(&server, &email, password).must(201);
        let answer = login(&server, &email, close);
        assert_eq!(answer.status, 401, "{close:?} for {password:?}: {answer}");
        login(&server, &email, password).must(200);
    }
}

#[test]
fn each_login_opens_a_session_of_its_own() {
    let server = Server::start();
    let user = server.user("ada");
    let second = server.login(&user.email, &user.password);
    let sid = |token: &str| decode(token).1["sid"].as_str().unwrap().to_owned();
    assert_ne!(sid(&user.token), sid(&second));
    let end = format!("delete from sessions where id = '{}'", sid(&user.token));
    server.sql().batch_execute(&end).unwrap();
    server.request("GET", "/auth/me").bearer(&user.token).send().must(401);
    server.request("GET", "/auth/me").bearer(&second).send().must(200);
}

#[test]
fn a_refused_login_opens_no_session() {
    let server = Server::start();
    let user = server.user("ada");
    let inactive = server.user("eve");
    deactivate(&server, &inactive);
    let before = count(&server, "sessions");
    login(&server, &user.email, "wrong").must(401);
    login(&server, &inactive.email, &inactive.password).must(401);
    assert_eq!(count(&server, "sessions"), before);
}

#[test]
fn s1_a_login_with_a_hash_of_another_cost_renews_it() {
    let server = Server::start();
    let user = server.user("ada");
    let dearer = Server::beside(&server, &[("BCRYPT_COST", "5")]);
    let hash = || -> String { server.sql().query_one("select password_hash from users", &[]).unwrap().get(0) };
    login(&dearer, &user.email, "wrong").must(401);
    assert!(hash().starts_with("$2b$04$"), "a refused login stores nothing: {}", hash());
    login(&dearer, &user.email, &user.password).must(200);
    await_that("the new hash is stored", || hash().starts_with("$2b$05$"));
    login(&server, &user.email, &user.password).must(200);
}

// ---------------------------------------------------------------------------------------------------------- me

#[test]
fn me_is_exactly_the_user_of_the_token() {
    let server = Server::start();
    let (ada, eve) = (server.user("ada"), server.user("eve"));
    for user in [&ada, &eve] {
        let me = server.request("GET", "/auth/me").bearer(&user.token).send().must(200).json();
        assert_eq!(members(&me), ["created_at", "email", "id", "is_active"]);
        let (id, email) = (json!(user.id), json!(user.email));
        assert_eq!((&me["id"], &me["email"], &me["is_active"]), (&id, &email, &Value::Bool(true)));
        assert!(is_time(&me["created_at"]), "{me}");
    }
}

fn deactivate(server: &Server, user: &User) {
    let statement = format!("update users set is_active = false where id = '{}'", user.id);
    server.sql().batch_execute(&statement).unwrap();
}
