//! Each user's own tasks.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Answer, Endpoint, Request, Server, User, at_once, decode, is_time, members, protected};

const NIL: &str = "00000000-0000-0000-0000-000000000000";

fn id(task: &Value) -> &str {
    task["id"].as_str().expect("an id")
}

fn item(user: &User, task: &Value) -> String {
    format!("/api/{}/tasks/{}", user.id, id(task))
}

fn ask(server: &Server, user: &User, method: &str, path: &str) -> Request {
    server.request(method, path).bearer(&user.token)
}

fn get(server: &Server, user: &User, path: &str) -> Answer {
    ask(server, user, "GET", path).send()
}

fn create(server: &Server, user: &User, body: &Value) -> Answer {
    ask(server, user, "POST", "/api/me/tasks").json(body).send()
}

/// Every row of tasks, whole: what an effect would change.
fn rows(server: &Server) -> Vec<String> {
    let rows = server.sql().query("select t::text from tasks t order by id", &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The path of the next page.
fn next(answer: &Answer) -> Option<String> {
    let link = answer.header("Link")?;
    let (uri, parameters) = link.strip_prefix('<').and_then(|rest| rest.split_once('>')).unwrap();
    assert_eq!(parameters, "; rel=\"next\"", "{answer}");
    let odd = |c: char| !c.is_ascii_graphic() || "<>\"{}|\\^`".contains(c);
    assert!(uri.starts_with("/api/") && !uri.contains(odd), "{answer}");
    Some(uri.to_owned())
}

/// The titles of each page, from this path to the end.
fn pages(server: &Server, user: &User, path: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut path = Some(path.to_owned());
    while let Some(here) = path {
        let answer = get(server, user, &here).must(200);
        let page = answer.json();
        let titles = page.as_array().unwrap().iter().map(|task| task["title"].as_str().unwrap().to_owned());
        pages.push(titles.collect());
        assert!(pages.len() < 50, "the pages never end");
        path = next(&answer);
    }
    pages
}

fn numbered(server: &Server, user: &User, count: usize) -> Vec<Value> {
    (0..count).map(|n| server.task(user, &n.to_string())).collect()
}

// ------------------------------------------------------------------------------------------------- who may act

/// What makes a token's bearer nobody, as SQL; `{user}` is the user, `{session}` the token's session, `{other}` another user.
const ENDINGS: &[(&str, &str)] = &[
    ("the session is gone", "delete from sessions where id = '{session}'"),
    ("the session has ended", "update sessions set ended_at = now() where id = '{session}'"),
    ("the session is of another epoch", "update sessions set session_epoch = session_epoch + 1 where id = '{session}'"),
    ("the session is another user's", "update sessions set user_id = '{other}' where id = '{session}'"),
    (
        "the session had no refresh for 14 days",
        "update sessions set created_at = now() - interval '20 days',
             refreshed_at = now() - interval '14 days 1 minute' where id = '{session}'",
    ),
    (
        "the session is 30 days old",
        "update sessions set created_at = now() - interval '30 days 1 minute' where id = '{session}'",
    ),
    ("the user is of another epoch", "update users set session_epoch = session_epoch + 1 where id = '{user}'"),
    ("the user is inactive", "update users set is_active = false where id = '{user}'"),
    (
        "the user is gone",
        "delete from tasks where user_id = '{user}'; delete from sessions where user_id = '{user}';
         delete from users where id = '{user}'",
    ),
];

#[test]
fn a_caller_whose_session_or_user_ended_is_401_everywhere_and_without_effect() {
    let server = Server::start();
    let other = server.user("other");
    for (n, (ending, statement)) in ENDINGS.iter().enumerate() {
        let user = server.user(&format!("u{n}"));
        server.login(&user.email, &user.password); // another session, which must not count
        let task = server.task(&user, "kept");
        let session = decode(&user.token).1["sid"].as_str().unwrap().to_owned();
        let statement = statement.replace("{user}", &user.id).replace("{session}", &session);
        server.sql().batch_execute(&statement.replace("{other}", &other.id)).unwrap();
        let before = rows(&server);
        for endpoint in protected() {
            for path in ["me", &user.id] {
                let answer = endpoint.request(&server, path, id(&task)).bearer(&user.token).send();
                assert_eq!(answer.status, 401, "{ending}, {}: {answer}", endpoint.name);
                let challenge = answer.header("WWW-Authenticate").unwrap();
                assert!(challenge.contains("error=\"invalid_token\""), "{ending}: {answer}");
                assert_eq!(rows(&server), before, "{ending}, {} had an effect", endpoint.name);
            }
        }
    }
}

#[test]
fn a_session_within_its_limits_acts_everywhere() {
    let server = Server::start();
    let user = server.user("ada");
    let young = "update sessions set created_at = now() - interval '29 days 23 hours', \
                 refreshed_at = now() - interval '13 days 23 hours'";
    server.sql().batch_execute(young).unwrap();
    let task = server.task(&user, "one");
    for endpoint in protected() {
        let answer = endpoint.request(&server, "me", id(&task)).bearer(&user.token).send();
        assert!(answer.status < 300, "{}: {answer}", endpoint.name);
    }
}

#[test]
fn s28_another_users_path_is_403_everywhere_without_effect() {
    let server = Server::start();
    let (ada, eve) = (server.user("ada"), server.user("eve"));
    let task = server.task(&ada, "kept");
    let before = rows(&server);
    for endpoint in protected().iter().filter(|endpoint| endpoint.name != "me") {
        let answer = endpoint.request(&server, &ada.id, id(&task)).bearer(&eve.token).send();
        assert_eq!(answer.status, 403, "{}: {answer}", endpoint.name);
        assert_eq!(answer.json()["detail"], "Access denied: user ID mismatch", "{}", endpoint.name);
        assert_eq!(rows(&server), before, "{} had an effect", endpoint.name);
    }
}

#[test]
fn s28_the_403_of_a_path_asks_no_database() {
    let (server, gate) = Server::behind_gate(&[]);
    let user = server.user("ada");
    gate.refuse();
    get(&server, &user, "/api/someone/tasks").must(403);
    get(&server, &user, "/api/me/tasks").must(503);
}

#[test]
fn me_stands_for_the_own_id_everywhere() {
    let server = Server::start();
    let user = server.user("ada");
    for path in ["me", &user.id] {
        let task = server.task(&user, "one");
        for endpoint in protected() {
            let answer = endpoint.request(&server, path, id(&task)).bearer(&user.token).send();
            assert!(answer.status < 300, "{path}, {}: {answer}", endpoint.name);
        }
    }
}

#[test]
fn s30_idor_foreign_absent_and_malformed_ids_are_one_404() {
    let server = Server::start();
    let (ada, eve) = (server.user("ada"), server.user("eve"));
    let theirs = server.task(&ada, "kept");
    let own = server.task(&eve, "own");
    let before = rows(&server);
    let long = "0".repeat(300);
    let other_forms = [
        id(&own).to_uppercase(),
        id(&own).replace('-', ""),
        format!("%7B{}%7D", id(&own)),
        format!("urn:uuid:{}", id(&own)),
        format!("{}%20", id(&own)),
        format!("{}%00", id(&own)),
    ];
    let others = [NIL, "x", "0", "-1", "%00", "%2F", "..", "%2E%2E", "'", "me", "null", &long, &eve.id];
    for endpoint in protected().iter().filter(|endpoint| endpoint.names_a_task()) {
        let ask = |task: &str| endpoint.request(&server, "me", task).bearer(&eve.token).send();
        let none = ask(&uuid::Uuid::now_v7().to_string()).must(404);
        let ids = others.into_iter().chain(other_forms.iter().map(String::as_str));
        for task in ids.chain([id(&theirs)]) {
            let answer = ask(task);
            assert_eq!(answer.without_request_id(), none.without_request_id(), "{} {task}", endpoint.name);
            assert_eq!(rows(&server), before, "{} {task} had an effect", endpoint.name);
        }
    }
}

#[test]
fn a_list_never_holds_tasks_of_another_user() {
    let server = Server::start();
    let (ada, eve) = (server.user("ada"), server.user("eve"));
    let theirs: Vec<_> = (0..3)
        .map(|_| {
            server.task(&eve, "own");
            server.task(&ada, "kept")
        })
        .collect();
    for query in ["", "?limit=1", "?limit=3", "?completed=false", &format!("?after={NIL}")] {
        let titles = pages(&server, &eve, &format!("/api/me/tasks{query}")).concat();
        assert_eq!(titles, ["own"; 3], "{query}");
    }
    let after = get(&server, &eve, &format!("/api/me/tasks?after={}", id(&theirs[0]))).must(200);
    assert_eq!(after.json().as_array().unwrap().len(), 2, "{after}");
    assert!(after.json().as_array().unwrap().iter().all(|task| task["user_id"] == json!(eve.id)), "{after}");
    let newcomer = server.user("newcomer");
    assert_eq!(get(&server, &newcomer, "/api/me/tasks").must(200).json(), json!([]));
}

// ------------------------------------------------------------------------------------------------------ create

#[test]
fn s31_a_reply_holds_exactly_the_members_of_a_task() {
    let server = Server::start();
    let user = server.user("ada");
    let task = create(&server, &user, &json!({"title": "one", "description": "two"})).must(201).json();
    let expected = ["completed", "created_at", "description", "id", "title", "updated_at", "user_id"];
    assert_eq!(members(&task), expected);
    assert_eq!((&task["title"], &task["description"]), (&json!("one"), &json!("two")));
    assert_eq!((&task["user_id"], &task["completed"]), (&json!(user.id), &json!(false)));
    assert!(is_time(&task["created_at"]) && task["updated_at"] == task["created_at"], "{task}");
}

#[test]
fn the_location_of_a_created_task_leads_to_the_same_task() {
    let server = Server::start();
    let user = server.user("ada");
    for path in ["me", &user.id] {
        let request = ask(&server, &user, "POST", &format!("/api/{path}/tasks"));
        let answer = request.json(&json!({"title": "one"})).send().must(201);
        let location = answer.header("Location").expect("a Location");
        assert_eq!(get(&server, &user, location).must(200).json(), answer.json());
    }
}

#[test]
fn a_task_without_a_description_or_with_null_has_null() {
    let server = Server::start();
    let user = server.user("ada");
    for body in [json!({"title": "one"}), json!({"title": "one", "description": null})] {
        let task = create(&server, &user, &body).must(201).json();
        assert_eq!(task["description"], Value::Null, "{body}");
        assert_eq!(get(&server, &user, &item(&user, &task)).must(200).json(), task);
    }
}

/// Texts that a task takes as they are, by name.
fn good_texts(most: usize) -> Vec<(&'static str, String)> {
    vec![
        ("one character", "a".to_owned()),
        ("the most characters", "a".repeat(most)),
        ("the most characters of four bytes", "🦀".repeat(most)),
        ("blanks around it", "  a  ".to_owned()),
        ("quotes and a comment", "'; drop table tasks; -- \"\\".to_owned()),
        ("markup", "<script>alert(1)</script>&amp;".to_owned()),
        ("control characters", "a\u{1}\u{7f}\t\r\nb".to_owned()),
        ("right to left, combining, joined", "אבג e\u{301} 👩‍👩‍👧".to_owned()),
        ("beyond the end", "\u{10ffff}\u{fffe}".to_owned()),
    ]
}

#[test]
fn a_title_of_1_to_255_characters_is_kept_as_it_is() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "old");
    for (name, title) in good_texts(255) {
        let body = json!({"title": title});
        let created = create(&server, &user, &body);
        assert_eq!(created.status, 201, "{name}: {created}");
        let created = created.json();
        assert_eq!(created["title"], title, "{name}");
        let stored = get(&server, &user, &item(&user, &created)).must(200).json();
        assert_eq!(stored["title"], title, "{name}");
        for method in ["PUT", "PATCH"] {
            let changed = ask(&server, &user, method, &item(&user, &task)).json(&body).send();
            assert_eq!(changed.status, 200, "{name}, {method}: {changed}");
            assert_eq!(changed.json()["title"], title, "{name}, {method}");
        }
    }
}

#[test]
fn any_other_title_is_422() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "old");
    let before = rows(&server);
    for title in [
        String::new(),
        " ".to_owned(),
        " \t\r\n ".to_owned(),
        "\u{a0}\u{2003}\u{3000}\u{2028}\u{85}".to_owned(),
        " ".repeat(255),
        "a".repeat(256),
        "é".repeat(256),
        "🦀".repeat(256),
        format!("{}a", " ".repeat(255)),
        "a\0".to_owned(),
    ] {
        for (method, path) in
            [("POST", "/api/me/tasks".to_owned()), ("PUT", item(&user, &task)), ("PATCH", item(&user, &task))]
        {
            let answer = ask(&server, &user, method, &path).json(&json!({"title": title})).send();
            assert_eq!(answer.status, 422, "{method} {title:?}: {answer}");
            assert_eq!(answer.fields(), ["title"], "{method} {title:?}: {answer}");
        }
    }
    assert_eq!(rows(&server), before);
}

#[test]
fn a_description_of_at_most_2000_characters_is_kept_as_it_is() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "old");
    let mut texts = good_texts(2_000);
    texts.extend([("empty", String::new()), ("blank", " \n".to_owned())]);
    for (name, text) in texts {
        let created = create(&server, &user, &json!({"title": "a", "description": text}));
        assert_eq!(created.status, 201, "{name}: {created}");
        let stored = get(&server, &user, &item(&user, &created.json())).must(200).json();
        assert_eq!(stored["description"], text, "{name}");
        for method in ["PUT", "PATCH"] {
            let request = ask(&server, &user, method, &item(&user, &task));
            let changed = request.json(&json!({"description": text})).send();
            assert_eq!(changed.status, 200, "{name}, {method}: {changed}");
            assert_eq!(changed.json()["description"], text, "{name}, {method}");
        }
    }
}

#[test]
fn any_other_description_is_422() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "old");
    let before = rows(&server);
    for text in ["a".repeat(2_001), "é".repeat(2_001), "🦀".repeat(2_001), "a\0b".to_owned()] {
        for (method, path) in
            [("POST", "/api/me/tasks".to_owned()), ("PUT", item(&user, &task)), ("PATCH", item(&user, &task))]
        {
            let body = json!({"title": "a", "description": text});
            let answer = ask(&server, &user, method, &path).json(&body).send();
            assert_eq!(answer.status, 422, "{method} {}: {answer}", text.len());
            assert_eq!(answer.fields(), ["description"], "{method} {}: {answer}", text.len());
        }
    }
    assert_eq!(rows(&server), before);
}

// ------------------------------------------------------------------------------------------------ get and list

#[test]
fn a_task_reads_as_it_was_created() {
    let server = Server::start();
    let user = server.user("ada");
    let (one, two) = (server.task(&user, "one"), server.task(&user, "two"));
    assert_eq!(get(&server, &user, &item(&user, &one)).must(200).json(), one);
    assert_eq!(get(&server, &user, &item(&user, &two)).must(200).json(), two);
}

#[test]
fn a_list_holds_whole_tasks_oldest_first() {
    let server = Server::start();
    let user = server.user("ada");
    let tasks = numbered(&server, &user, 5);
    let answer = get(&server, &user, "/api/me/tasks").must(200);
    assert_eq!(answer.json(), Value::Array(tasks));
    assert_eq!(answer.header("Link"), None);
}

#[test]
fn following_the_links_gives_each_task_once_and_in_order() {
    let server = Server::start();
    let user = server.user("ada");
    let titles: Vec<_> =
        numbered(&server, &user, 7).iter().map(|task| task["title"].as_str().unwrap().to_owned()).collect();
    for path in ["me", &user.id] {
        for (limit, lengths) in [(1, vec![1; 7]), (3, vec![3, 3, 1]), (6, vec![6, 1]), (7, vec![7]), (100, vec![7])] {
            let pages = pages(&server, &user, &format!("/api/{path}/tasks?limit={limit}"));
            assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), lengths, "limit {limit}");
            assert_eq!(pages.concat(), titles, "limit {limit}");
        }
    }
}

#[test]
fn a_page_ends_at_128_kib_and_leads_to_the_rest() {
    let server = Server::start();
    let user = server.user("ada");
    let large = "\u{1}".repeat(2000); // six bytes each in JSON
    let titles: Vec<String> = (0..30).map(|n| n.to_string()).collect();
    for title in &titles {
        create(&server, &user, &json!({"title": title, "description": large})).must(201);
    }
    let first = get(&server, &user, "/api/me/tasks?limit=100").must(200);
    let count = first.json().as_array().unwrap().len();
    assert!((5..30).contains(&count) && first.body.len() <= 128 * 1024, "{count} tasks, {} bytes", first.body.len());
    assert!(first.body.len() + first.body.len() / count > 128 * 1024, "one more would fit");
    let pages = pages(&server, &user, "/api/me/tasks?limit=100");
    assert_eq!((pages[0].len(), pages.concat()), (count, titles));
    let last = get(&server, &user, "/api/me/tasks?limit=2").must(200);
    assert_eq!(last.json().as_array().unwrap().len(), 2);
}

#[test]
fn a_page_has_50_tasks_where_nothing_else_is_asked() {
    let server = Server::start();
    let user = server.user("ada");
    numbered(&server, &user, 51);
    let pages = pages(&server, &user, "/api/me/tasks");
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [50, 1]);
}

#[test]
fn completed_selects_and_the_links_keep_it() {
    let server = Server::start();
    let user = server.user("ada");
    for (n, task) in numbered(&server, &user, 7).iter().enumerate() {
        let done = json!({"completed": n % 2 == 1});
        ask(&server, &user, "PATCH", &item(&user, task)).json(&done).send().must(200);
    }
    let even = pages(&server, &user, "/api/me/tasks?completed=false&limit=2");
    assert_eq!(even, [vec!["0", "2"], vec!["4", "6"]]);
    let odd = pages(&server, &user, "/api/me/tasks?limit=2&completed=true");
    assert_eq!(odd, [vec!["1", "3"], vec!["5"]]);
}

#[test]
fn after_gives_what_follows_a_task_even_one_that_is_gone() {
    let server = Server::start();
    let user = server.user("ada");
    let tasks = numbered(&server, &user, 4);
    let after = |task: &Value| pages(&server, &user, &format!("/api/me/tasks?after={}", id(task))).concat();
    assert_eq!(after(&tasks[1]), ["2", "3"]);
    assert!(after(&tasks[3]).is_empty());
    ask(&server, &user, "DELETE", &item(&user, &tasks[1])).send().must(204);
    assert_eq!(after(&tasks[1]), ["2", "3"]);
}

#[test]
fn a_query_value_may_be_percent_encoded() {
    let server = Server::start();
    let user = server.user("ada");
    let tasks = numbered(&server, &user, 3);
    let after = id(&tasks[0]).replace('-', "%2d");
    let path = format!("/api/me/tasks?%6cimit=%31&after={after}&completed=fals%65");
    assert_eq!(pages(&server, &user, &path).concat(), ["1", "2"]);
}

#[test]
fn a_bad_query_value_is_422_and_named() {
    let server = Server::start();
    let user = server.user("ada");
    for (field, values) in [
        (
            "limit",
            &[
                "",
                "0",
                "101",
                "-1",
                "x",
                "1.5",
                "1e1",
                "0x10",
                "99999999999999999999",
                "%31%30%31",
                "%ff",
                "%D9%A1",
                "1%00",
                "10%20",
            ][..],
        ),
        ("completed", &["", "yes", "1", "TRUE", "True", "null", "true,false", "%00", "%ff"]),
        ("after", &["", "x", "0", "%00", "%ff", "'"]),
    ] {
        for value in values {
            let answer = get(&server, &user, &format!("/api/me/tasks?{field}={value}"));
            assert_eq!(answer.status, 422, "{field}={value}: {answer}");
            assert_eq!(answer.fields(), [field], "{field}={value}: {answer}");
        }
        get(&server, &user, &format!("/api/me/tasks?{field}")).must(422);
    }
}

#[test]
fn the_smallest_and_the_largest_limit_are_accepted() {
    let server = Server::start();
    let user = server.user("ada");
    for limit in [1, 100] {
        get(&server, &user, &format!("/api/me/tasks?limit={limit}")).must(200);
    }
}

// ------------------------------------------------------------------------------------------------------ change

#[test]
fn put_and_patch_change_what_is_there_and_keep_what_is_absent() {
    let server = Server::start();
    let user = server.user("ada");
    for method in ["PUT", "PATCH"] {
        let body = json!({"title": "one", "description": "two"});
        let mut expected = create(&server, &user, &body).must(201).json();
        let path = item(&user, &expected);
        for change in [
            json!({"title": "three"}),
            json!({"completed": true}),
            json!({"description": "four"}),
            json!({"description": null}),
            json!({"description": ""}),
            json!({"title": "five", "description": "six", "completed": false}),
            json!({"title": "five"}),
        ] {
            let answer = ask(&server, &user, method, &path).json(&change).send();
            assert_eq!(answer.status, 200, "{method} {change}: {answer}");
            let task = answer.json();
            for (name, value) in change.as_object().unwrap() {
                expected[name] = value.clone();
            }
            assert!(is_time(&task["updated_at"]), "{task}");
            expected["updated_at"] = task["updated_at"].clone();
            assert_eq!(task, expected, "{method} {change}");
            assert_eq!(get(&server, &user, &path).must(200).json(), expected, "{method} {change}");
        }
    }
}

#[test]
fn a_change_moves_updated_at_and_touches_no_other_task() {
    let server = Server::start();
    let user = server.user("ada");
    for (method, suffix, body) in [
        ("PUT", "", json!({"title": "b"})),
        ("PATCH", "", json!({"description": "b"})),
        ("PATCH", "/complete", json!({"completed": true})),
    ] {
        let (task, other) = (server.task(&user, "a"), server.task(&user, "a"));
        let path = format!("{}{suffix}", item(&user, &task));
        let changed = ask(&server, &user, method, &path).json(&body).send().must(200).json();
        assert!(changed["updated_at"].as_str() > task["updated_at"].as_str(), "{method}{suffix}");
        assert_eq!(changed["created_at"], task["created_at"], "{method}{suffix}");
        assert_eq!(get(&server, &user, &item(&user, &other)).must(200).json(), other);
    }
}

#[test]
fn a_change_of_nothing_is_422() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one");
    for method in ["PUT", "PATCH"] {
        ask(&server, &user, method, &item(&user, &task)).json(&json!({})).send().must(422);
    }
    assert_eq!(get(&server, &user, &item(&user, &task)).must(200).json(), task);
}

#[test]
fn a_change_with_one_bad_member_changes_nothing() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one");
    for body in [
        json!({"title": "two", "completed": "yes"}),
        json!({"title": "", "completed": true}),
        json!({"title": "two", "id": NIL}),
    ] {
        for method in ["PUT", "PATCH"] {
            ask(&server, &user, method, &item(&user, &task)).json(&body).send().must(422);
        }
    }
    assert_eq!(get(&server, &user, &item(&user, &task)).must(200).json(), task);
}

// ---------------------------------------------------------------------------------------------------- complete

#[test]
fn complete_without_a_body_toggles() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one");
    let path = format!("{}/complete", item(&user, &task));
    for expected in [true, false, true] {
        let toggled = ask(&server, &user, "PATCH", &path).send().must(200).json();
        assert_eq!(toggled["completed"], expected);
        assert_eq!(get(&server, &user, &item(&user, &task)).must(200).json(), toggled);
    }
    let typed = ask(&server, &user, "PATCH", &path).json_bytes("").send().must(200).json();
    assert_eq!(typed["completed"], false, "an empty body is none, whatever its type");
}

#[test]
fn complete_with_a_value_sets_it() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one");
    let path = format!("{}/complete", item(&user, &task));
    for value in [true, true, false, false] {
        let set = ask(&server, &user, "PATCH", &path).json(&json!({"completed": value}));
        assert_eq!(set.send().must(200).json()["completed"], value);
        assert_eq!(get(&server, &user, &item(&user, &task)).must(200).json()["completed"], value);
    }
}

#[test]
fn a_bad_body_of_complete_is_refused_and_does_not_toggle() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one");
    let path = format!("{}/complete", item(&user, &task));
    for (kind, body, status) in [
        ("application/json", "{", 400),
        ("application/json", " ", 400),
        ("application/json", "{}", 422),
        ("application/json", "null", 422),
        ("application/json", "true", 422),
        ("application/json", r#"{"completed":"true"}"#, 422),
        ("application/json", r#"{"completed":true,"title":"x"}"#, 422),
        ("text/plain", r#"{"completed":true}"#, 415),
    ] {
        let request = ask(&server, &user, "PATCH", &path).header("Content-Type", kind);
        let answer = request.body(body).send();
        assert_eq!(answer.status, status, "{kind} {body}: {answer}");
    }
    assert_eq!(get(&server, &user, &item(&user, &task)).must(200).json(), task);
}

#[test]
fn concurrent_toggles_each_count() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one");
    let path = format!("{}/complete", item(&user, &task));
    let seen = at_once(21, |_| ask(&server, &user, "PATCH", &path).send().must(200).json()["completed"] == true);
    assert_eq!(seen.iter().filter(|completed| **completed).count(), 11);
    assert_eq!(get(&server, &user, &item(&user, &task)).must(200).json()["completed"], true);
}

// ------------------------------------------------------------------------------------------------------ delete

#[test]
fn a_deleted_task_is_gone_and_the_others_stay() {
    let server = Server::start();
    let user = server.user("ada");
    let (task, other) = (server.task(&user, "one"), server.task(&user, "two"));
    let answer = ask(&server, &user, "DELETE", &item(&user, &task)).send().must(204);
    assert!(answer.body.is_empty(), "{answer}");
    for endpoint in protected().iter().filter(|endpoint: &&Endpoint| endpoint.names_a_task()) {
        endpoint.request(&server, "me", id(&task)).bearer(&user.token).send().must(404);
    }
    assert_eq!(get(&server, &user, "/api/me/tasks").must(200).json(), json!([other]));
}

#[test]
fn of_concurrent_deletes_one_is_204_and_the_others_404() {
    let server = Server::start();
    let user = server.user("ada");
    let task = server.task(&user, "one");
    let path = item(&user, &task);
    let mut statuses = at_once(10, |_| ask(&server, &user, "DELETE", &path).send().status);
    statuses.sort_unstable();
    assert_eq!(statuses, [vec![204], vec![404; 9]].concat());
}

#[test]
fn task_ids_are_never_given_twice() {
    let server = Server::start();
    let second = Server::beside(&server, &[]);
    let user = server.user("ada");
    let ids = at_once(8, |n| {
        let server = if n % 2 == 0 { &server } else { &second };
        (0..10).map(|_| id(&server.task(&user, "one")).to_owned()).collect::<Vec<_>>()
    });
    assert_eq!(ids.concat().into_iter().collect::<BTreeSet<_>>().len(), 80);
}
