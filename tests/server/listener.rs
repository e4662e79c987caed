//! The bytes that clients send, and when: HTTP/1.1 as the listener reads it (RFC 9112), and its end. Where the program
//! has no handler that does what is needed, the listener is started here with one.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use latchkey::server::{Connection as ServerConnection, HttpError, Listener, RejectedRequest, Settings, Stopper};
use rouille::{Request, Response};
use rustix::process::Signal;
use serde_json::json;

use crate::log::fields;
use crate::peers::Proxy;
use crate::support::{
    Answer, Cut, Database, PATIENCE, Server, at_once, await_that, connect, environment, read_answer, run,
};

const HEALTHZ: &str = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
/// A head to which fields and the empty line are to be added. A refresh with no token's form is 401 without a database.
const REFRESH: &str = "POST /auth/refresh HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
const NO_TOKEN: &str = r#"{"refresh_token":"none"}"#;

/// A connection that is read answer by answer.
struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    fn to(address: SocketAddr) -> Self {
        Self { reader: BufReader::new(connect(address).expect("the server accepts")) }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.reader.get_mut().write_all(bytes.as_ref()).expect("the server reads");
        self
    }

    #[track_caller]
    fn answer_to(&mut self, method: &str) -> Answer {
        read_answer(&mut self.reader, method).expect("a whole answer").expect("an answer before the end")
    }

    #[track_caller]
    fn must(&mut self, status: u16) -> Answer {
        self.answer_to("GET").must(status)
    }

    /// Whether the server has closed, or does so while a test can wait.
    fn is_closed(&mut self) -> bool {
        match self.reader.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// Sends each request with another behind it; the first must get this status, and the second nothing.
#[track_caller]
fn refused(status: u16, requests: &[impl AsRef<[u8]>]) {
    let server = Server::start();
    for request in requests {
        let request = request.as_ref();
        let answers = server.raw(&[request, HEALTHZ.as_bytes()].concat());
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [status], "{}", request.escape_ascii());
        assert_eq!(answers[0].header("Connection"), Some("close"), "{}", answers[0]);
    }
    server.request("GET", "/healthz").send().must(200);
}

/// Each as a request with these fields and a body of five bytes.
fn with_fields<const N: usize>(fields: [&str; N]) -> [String; N] {
    fields.map(|fields| format!("{REFRESH}{fields}\r\n\r\nhello"))
}

/// Each as a request in chunks.
fn in_chunks<const N: usize>(chunks: [&str; N]) -> [String; N] {
    chunks.map(|chunks| format!("{REFRESH}Transfer-Encoding: chunked\r\n\r\n{chunks}"))
}

// ------------------------------------------------------------------------------------------------ what is accepted

#[test]
fn pipelined_requests_are_answered_in_order_and_the_connection_stays() {
    let server = Server::start();
    let mut connection = Connection::to(server.address);
    let requests = ["GET /healthz", "GET /nowhere", "GET /auth/me", "DELETE /healthz", "OPTIONS /healthz"];
    let all: String = requests.map(|line| format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n")).concat();
    connection.send(all.repeat(100));
    for _ in 0..100 {
        for status in [200, 404, 401, 405, 204] {
            connection.must(status);
        }
    }
    connection.send(HEALTHZ).must(200);
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let server = Server::start();
    let mut connection = Connection::to(server.address);
    let length = NO_TOKEN.len();
    for byte in format!("{REFRESH}Content-Length: {length}\r\n\r\n{NO_TOKEN}{HEALTHZ}").as_bytes() {
        connection.send([*byte]);
    }
    connection.must(401);
    connection.must(200);
}

#[test]
fn chunks_with_extensions_and_trailers_are_a_body() {
    let server = Server::start();
    let mut connection = Connection::to(server.address);
    let (first, second) = NO_TOKEN.split_at(10);
    let chunks = format!("A;a=b;c=\"d;e\"\r\n{first}\r\n0{:x} ; f\r\n{second}\r\n", second.len());
    let [request] = in_chunks([&format!("{chunks}000\r\nDigest: x\r\nEmpty:\r\n\r\n")]);
    connection.send(request + HEALTHZ).must(401);
    connection.must(200);
}

#[test]
fn a_trailer_is_not_taken_for_a_header() {
    let server = Server::start();
    let token = server.user("ada").token;
    let trailer = format!("0\r\nAuthorization: Bearer {token}\r\nContent-Length: 5\r\n\r\n");
    let request = format!("GET /auth/me HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{trailer}");
    let mut connection = Connection::to(server.address);
    connection.send(request + HEALTHZ).must(401);
    connection.must(200);
}

#[test]
fn expect_100_continue_is_answered_before_the_body_comes() {
    let server = Server::start();
    let mut connection = Connection::to(server.address);
    connection.send(format!("{REFRESH}Content-Length: {}\r\nExpect: 100-continue\r\n\r\n", NO_TOKEN.len())).must(100);
    connection.send(NO_TOKEN).must(401);
    connection.send(HEALTHZ).must(200);
}

#[test]
fn a_body_too_large_is_413_and_not_100() {
    refused(413, &with_fields(["Content-Length: 65537\r\nExpect: 100-continue"]));
}

#[test]
fn another_expectation_is_417() {
    refused(417, &with_fields(["Expect: 200-ok", "Expect: 100-continue, 200-ok", "Expect:"]));
}

#[test]
fn nothing_but_its_head_answers_a_head_request() {
    let server = Server::start();
    let mut connection = Connection::to(server.address);
    connection.send(HEALTHZ.replace("GET", "HEAD") + HEALTHZ);
    let length = connection.answer_to("HEAD").must(200).header("Content-Length").map(str::to_owned);
    assert_eq!(length, Some(connection.must(200).body.len().to_string()));
}

#[test]
fn a_refused_head_request_gets_no_body() {
    let server = Server::start();
    let mut connection = Connection::to(server.address);
    connection.send("HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n");
    connection.answer_to("HEAD").must(413);
    assert!(connection.is_closed());
}

#[test]
fn a_target_in_absolute_form_is_served_as_its_path() {
    let server = Server::start();
    for target in ["http://a/healthz", "HTTP://b:80/healthz?x", "https://[::1]/healthz"] {
        let mut connection = Connection::to(server.address);
        connection.send(HEALTHZ.replace("/healthz", target) + HEALTHZ).must(200);
        connection.must(200);
    }
}

#[test]
fn options_for_the_whole_server_is_answered() {
    let server = Server::start();
    let mut connection = Connection::to(server.address);
    connection.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned() + HEALTHZ);
    assert_eq!(connection.answer_to("OPTIONS").status, 204);
    connection.must(200);
}

#[test]
fn an_empty_line_before_a_request_is_ignored() {
    let server = Server::start();
    let mut connection = Connection::to(server.address);
    connection.send(format!("\r\n{HEALTHZ}\r\n{HEALTHZ}")).must(200);
    connection.must(200);
}

#[test]
fn http_1_0_is_closed_unless_it_asks_otherwise() {
    let server = Server::start();
    let plain = "GET /healthz HTTP/1.0\r\n\r\n";
    let answers = server.raw((plain.to_owned() + plain).as_bytes());
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].header("Connection"), Some("close"));
    let kept = "GET /healthz HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n";
    let answers = server.raw((kept.to_owned() + plain).as_bytes());
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0].header("Connection"), Some("keep-alive"));
}

#[test]
fn nothing_behind_connection_close_is_answered() {
    let server = Server::start();
    for option in ["close", "Close", "keep-alive, close", "x,close\r\nConnection: keep-alive"] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: {option}\r\n\r\n{HEALTHZ}");
        assert_eq!(server.raw(request.as_bytes()).len(), 1, "{option}");
    }
}

#[test]
fn a_head_at_its_limits_is_accepted() {
    let server = Server::start();
    let mut connection = Connection::to(server.address);
    connection.send(HEALTHZ.replace("/healthz", &format!("/healthz?{}", "x".repeat(4096 - 9)))).must(200);
    connection.send(HEALTHZ.replace("Host: a\r\n", &("Host: a\r\n".to_owned() + &"A:\r\n".repeat(63)))).must(200);
    connection
        .send(HEALTHZ.replace("Host: a", &("Host: ".to_owned() + &"a".repeat(8192 - HEALTHZ.len() + 1))))
        .must(200);
}

// ------------------------------------------------------------------------------------------------- what is refused

#[test]
fn s39_smuggling_by_a_length_beside_a_transfer_coding_is_400() {
    // Whole by either: a server that goes by one of them would find no fault.
    let chunks = format!("{:x}\r\n{NO_TOKEN}\r\n0\r\n\r\n", NO_TOKEN.len());
    let (length, coding) = (format!("Content-Length: {}\r\n", chunks.len()), "Transfer-Encoding: chunked\r\n");
    refused(400, &[format!("{REFRESH}{length}{coding}\r\n{chunks}"), format!("{REFRESH}{coding}{length}\r\n{chunks}")]);
}

#[test]
fn two_lengths_are_400() {
    refused(
        400,
        &with_fields([
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5, 5",
            "Content-Length: 5\r\nContent-Length: 05",
        ]),
    );
}

#[test]
fn a_length_that_is_no_plain_number_is_400() {
    refused(
        400,
        &with_fields([
            "Content-Length: +5",
            "Content-Length: -5",
            "Content-Length: 0x5",
            "Content-Length:",
            "Content-Length: 5 5",
        ]),
    );
}

#[test]
fn a_transfer_coding_before_a_final_chunked_is_501() {
    refused(
        501,
        &with_fields([
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: Chunked",
            "Transfer-Encoding: identity;q=1,chunked",
        ]),
    );
}

#[test]
fn request_smuggling_by_a_last_coding_other_than_chunked_is_400() {
    refused(
        400,
        &with_fields([
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: chunked, gzip",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: \"chunked\"",
            "Transfer-Encoding: chunked;q=1",
            "Transfer-Encoding: , chunked",
            "Transfer-Encoding:",
        ]),
    );
}

#[test]
fn a_transfer_coding_in_http_1_0_is_400() {
    let whole = format!("{:x}\r\n{NO_TOKEN}\r\n0\r\n\r\n", NO_TOKEN.len());
    let [chunked] = in_chunks([&whole]);
    let old = [chunked.clone(), chunked.replace("chunked", "gzip, chunked")];
    refused(400, &old.map(|request| request.replace("HTTP/1.1", "HTTP/1.0")));
}

#[test]
fn a_space_before_the_colon_is_400() {
    refused(400, &with_fields(["Transfer-Encoding : chunked", "Content-Length : 5", "Content-Length\t: 5"]));
}

#[test]
fn s39_smuggling_by_a_line_that_ends_in_lf_alone_is_400() {
    refused(
        400,
        &[
            HEALTHZ.replace("HTTP/1.1\r\n", "HTTP/1.1\n"),
            HEALTHZ.replace("a\r\n", "a\n"),
            HEALTHZ.replace("\r\n\r\n", "\r\n\n"),
            HEALTHZ.replace("\r\n", "\n"),
            HEALTHZ.replace("GET", "\nGET"),
        ],
    );
}

#[test]
fn a_cr_alone_is_400() {
    refused(400, &with_fields(["X: a\rContent-Length: 5", "X: a\r\rb", "X\r: a", "\rX: a"]));
}

#[test]
fn a_control_character_in_a_field_is_400() {
    refused(400, &with_fields(["X: a\0b", "X: \x01", "X: \x7f", "X\0: a", "Transfer-Encoding: \x0bchunked"]));
}

#[test]
fn a_folded_line_is_400() {
    refused(400, &with_fields(["X: a\r\n b", "Content-Length: 5\r\n\t5", "X:\r\n "]));
}

#[test]
fn a_field_without_a_proper_name_is_400() {
    refused(400, &with_fields([": a", "X", "X y: a", "X(: a", "\u{e9}: a"]));
}

#[test]
fn a_field_that_is_not_utf_8_is_400() {
    refused(400, &[b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: \xff\r\n\r\n"]);
}

#[test]
fn anything_but_one_valid_host_is_400() {
    let fields = ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nhost: b\r\n"].map(str::to_owned);
    let hosts = ["a/b", "a@b", "a b", "[::1", "[::1]x", "::1", "[a]", "a:b", "a:80:80", "a%2"];
    let all = fields.into_iter().chain(hosts.map(|host| format!("Host: {host}\r\n")));
    refused(400, &all.map(|fields| HEALTHZ.replace("Host: a\r\n", &fields)).collect::<Vec<_>>());
}

#[test]
fn a_host_may_be_a_name_or_an_address_with_or_without_a_port() {
    let server = Server::start();
    let mut connection = Connection::to(server.address);
    for host in ["", "a.example", "a:", "127.0.0.1:8080", "[::1]", "[2001:db8::1]:443", "a%C3%A9"] {
        connection.send(HEALTHZ.replace("Host: a", &format!("Host: {host}"))).must(200);
    }
}

#[test]
fn a_malformed_request_line_is_400() {
    let lines = [
        "GET  /healthz HTTP/1.1",
        "GET /healthz  HTTP/1.1",
        "GET /healthz",
        " GET /healthz HTTP/1.1",
        "GET\t/healthz HTTP/1.1",
        "G{T /healthz HTTP/1.1",
        "GET /healthz HTTP/1.1 ",
        "GET /healthz http/1.1",
        "\u{16}\u{3}\u{1}",
    ];
    refused(400, &lines.map(|line| HEALTHZ.replace("GET /healthz HTTP/1.1", line)));
}

#[test]
fn a_target_that_is_none_of_ours_is_400() {
    let targets = [
        "healthz",
        "*",
        "a:80",
        "http:///healthz",
        "http://:80/healthz",
        "http://[::1/healthz",
        "ftp://a/healthz",
        "http://me@a/healthz",
        "/healthz#a",
        "/h\u{e9}",
    ];
    refused(400, &targets.map(|target| HEALTHZ.replace("/healthz", target)));
}

#[test]
fn another_version_is_505() {
    let versions = ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2", "HTTP/3"];
    refused(505, &versions.map(|version| HEALTHZ.replace("HTTP/1.1", version)));
    refused(505, &["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]);
}

#[test]
fn a_target_over_4_kib_is_414() {
    refused(414, &[HEALTHZ.replace("/healthz", &format!("/{}", "x".repeat(4096)))]);
}

#[test]
fn s38_a_head_over_8_kib_is_431() {
    refused(431, &with_fields([&format!("X: {}", "x".repeat(8192))]));
}

#[test]
fn s38_more_than_64_fields_are_431() {
    refused(431, &with_fields([&"A: b\r\n".repeat(63)]));
}

#[test]
fn a_malformed_chunk_size_is_400() {
    refused(
        400,
        &in_chunks([
            "\r\n",
            "g\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "-5\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\r\nhello\r\n0\r\n\r\n",
        ]),
    );
}

#[test]
fn s39_smuggling_by_a_chunk_that_ends_elsewhere_is_400() {
    refused(
        400,
        &in_chunks([
            "5\r\nhello!\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "6\r\nhello\r\n0\r\n\r\n",
        ]),
    );
}

#[test]
fn request_smuggling_by_a_malformed_chunk_extension_is_400() {
    let extensions =
        [";", "; ", ";;a", ";a;", ";a ", ";a=", ";=a", ";a b", ";a=b c", ";a=\"b", ";a=\"b\"c", ";a=\"\\\"", ";("];
    refused(
        400,
        &in_chunks(extensions.map(|text| format!("5{text}\r\nhello\r\n0\r\n\r\n")).each_ref().map(String::as_str)),
    );
    refused(400, &in_chunks(extensions.map(|text| format!("0{text}\r\n\r\n")).each_ref().map(String::as_str)));
}

#[test]
fn a_line_end_within_a_chunk_extension_is_400() {
    refused(
        400,
        &in_chunks([
            "5;a\nhello\r\n0\r\n\r\n",
            "5;a\rb\r\nhello\r\n0\r\n\r\n",
            "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
            "0;a\n\r\n\r\n",
        ]),
    );
}

#[test]
fn a_malformed_trailer_is_400() {
    refused(
        400,
        &in_chunks([
            "0\r\nX : a\r\n\r\n",
            "0\r\n a\r\n\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\nX: a\n\r\n",
            "0\r\nX: a\rb\r\n\r\n",
            "0\r\n\n",
        ]),
    );
}

#[test]
fn a_chunk_size_or_extension_without_end_is_413() {
    let long = "0".repeat(5000);
    refused(413, &in_chunks([&long, &format!("5;{long}"), &format!("5;{long}\r\nhello\r\n0\r\n\r\n")]));
}

#[test]
fn s38_chunks_of_more_than_64_kib_are_413() {
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    refused(413, &in_chunks(["10001\r\n", "fffffffffffffffff\r\n", &(chunk.repeat(2) + "1\r\nx\r\n0\r\n\r\n")]));
}

#[test]
fn more_than_64_kib_between_chunks_are_413() {
    refused(
        413,
        &in_chunks([
            &("1\r\nx\r\n".repeat(14_000) + "0\r\n\r\n"),
            &("0\r\n".to_owned() + &"A: b\r\n".repeat(11_000) + "\r\n"),
        ]),
    );
}

#[test]
fn a_length_of_2_to_the_46_is_413_and_nothing_else_happens() {
    let lengths = ["70368744177664", "18446744073709551615", "18446744073709551616", "99999999999999999999999999"];
    refused(413, &lengths.map(|length| format!("{REFRESH}Content-Length: {length}\r\n\r\n")));
}

#[test]
fn a_client_that_sends_3_mb_can_read_its_413() {
    let server = Server::start();
    let mut connection = Connection::to(server.address);
    connection.send(format!("{REFRESH}Content-Length: 3000000\r\n\r\n"));
    thread::sleep(Duration::from_millis(200));
    connection.send(vec![b'x'; 3_000_000]).must(413);
    assert!(connection.is_closed());
}

#[test]
fn s40_no_header_of_an_answer_can_be_made_by_a_request() {
    let server = Server::start();
    for target in ["/%0d%0aX-Evil:%201", "/api/me/tasks?after=%0d%0aX-Evil:%201", "/x\u{20}X-Evil:1"] {
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: a\r\nOrigin: x\r\nX-Request-Id: a%0d%0aX-Evil: 1\r\n\r\n");
        let mut connection = Connection::to(server.address);
        assert_eq!(connection.send(request).answer_to("GET").header("X-Evil"), None);
    }
}

// ------------------------------------------------------------------------------------------------------------ time

#[test]
fn a_request_that_takes_over_10_s_is_408_however_it_comes() {
    let server = Server::start();
    let requests =
        [HEALTHZ.to_owned(), format!("{REFRESH}Content-Length: 65536\r\n\r\n"), in_chunks([""]).concat() + "5;"];
    let took = at_once(requests.len(), |number| {
        let mut connection = Connection::to(server.address);
        let (last, all_but_one) = requests[number].as_bytes().split_last().unwrap();
        let start = Instant::now();
        connection.send(all_but_one);
        if number > 0 {
            connection.send([*last]);
        }
        // One byte now and then is no reason to wait longer.
        for _ in 0..9 {
            thread::sleep(Duration::from_secs(1));
            if number > 0 {
                connection.send("x");
            }
        }
        let answer = connection.must(408);
        assert!(connection.is_closed());
        let line = fields(&server.wait_for_log(&["method=", answer.request_id()]));
        assert!(line["ms"].parse::<f64>().is_ok_and(|ms| (9_500.0..12_000.0).contains(&ms)), "{line:?}");
        assert_eq!(line["route"], if number > 0 { "/auth/refresh" } else { "-" }, "{line:?}");
        start.elapsed().as_secs_f64()
    });
    assert!(took.iter().all(|seconds| (9.5..12.0).contains(seconds)), "{took:?}");
}

#[test]
fn a_handler_that_the_database_holds_up_is_503_with_one_log_line() {
    let (server, gate) = Server::behind_gate(&[]);
    let user = server.user("ada");
    gate.cut("insert into tasks", Cut::SilentBeforeTheAnswer);
    let body = json!({"title": "one"}).to_string();
    let mut connection = Connection::to(server.address);
    let head = REFRESH.replace("/auth/refresh", "/api/me/tasks");
    let authorization = format!("Authorization: Bearer {}", user.token);
    let request = format!("{head}{authorization}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answer = connection.send(request).must(503);
    assert_eq!(answer.json()["type"], "/docs#handler-timeout", "{answer}");
    gate.open();
    // Until the handler is back, the server only ends its own side of the connection.
    await_that("the handler is back", || connection.reader.get_mut().write_all(b"x").is_err());
    let later = server.request("GET", "/healthz").send().must(200);
    server.wait_for_log(&[later.request_id()]);
    let log = server.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(answer.request_id())).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = fields(lines[0]);
    let expected = [("status", "503"), ("route", "/api/{user_id}/tasks"), ("user", &user.id), ("db_ms", "-")];
    for (name, value) in expected {
        assert_eq!(line.get(name).map(String::as_str), Some(value), "{lines:?}");
    }
    assert!(line["ms"].parse::<f64>().is_ok_and(|ms| (9_000.0..10_000.0).contains(&ms)), "{lines:?}");
    assert_eq!(server.sql().query("select 1 from tasks", &[]).unwrap().len(), 1, "the database had done it");
}

#[test]
fn lingering_after_a_refusal_ends_after_2_s_even_while_bytes_come() {
    let server = Server::start();
    let mut stream = connect(server.address).unwrap();
    stream.write_all(format!("{REFRESH}Content-Length: 3000000\r\n\r\n").as_bytes()).unwrap();
    let start = Instant::now();
    let bytes = vec![b'x'; 1 << 20];
    while stream.write_all(&bytes).is_ok() {
        assert!(start.elapsed() < PATIENCE, "the server reads on without end");
    }
    assert!((1.5..5.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
}

#[test]
fn a_client_that_leaves_in_the_middle_gets_no_effect() {
    let server = Server::start();
    let body = json!({"email": "ada@example.org", "password": crate::support::PASSWORD}).to_string();
    let head = REFRESH.replace("refresh", "register");
    for request in
        [format!("{head}Content-Length: {}\r\n\r\n{body}", body.len() + 1), head.clone() + "Content-Length: 0\r\n"]
    {
        let connection = connect(server.address).unwrap();
        (&connection).write_all(request.as_bytes()).unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&connection).read(&mut [0]).unwrap_or(0), 0);
    }
    assert_eq!(server.sql().query("select 1 from users", &[]).unwrap().len(), 0);
}

// ------------------------------------------------------------------------------------------------------------ room

/// A connection from this address of the machine to itself.
fn connect_from(source: [u8; 4], address: SocketAddr) -> Connection {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::from(source), 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Connection { reader: BufReader::new(stream) }
}

#[test]
fn s41_a_newcomer_takes_the_place_of_the_longest_waiting() {
    let server = Server::start_with(&[("MAX_CONNECTIONS", "8")]);
    let mut old: Vec<_> = (10..18).map(|last| connect_from([127, 0, 0, last], server.address)).collect();
    for connection in &mut old {
        connection.send(HEALTHZ).must(200);
        // The answer comes a moment before its connection waits again.
        thread::sleep(Duration::from_millis(50));
    }
    Connection::to(server.address).send(HEALTHZ).must(200);
    assert!(old[0].is_closed());
    old[1].send(HEALTHZ).must(200);
}

#[test]
fn s41_an_address_over_a_quarter_of_the_cap_loses_first() {
    let server = Server::start_with(&[("MAX_CONNECTIONS", "16")]);
    let mut quiet: Vec<_> = (2..6).map(|last| connect_from([127, 0, 0, last], server.address)).collect();
    for connection in &mut quiet {
        connection.send(HEALTHZ).must(200);
    }
    let crowd: Vec<_> = (0..100).map(|_| connect_from([127, 0, 0, 9], server.address)).collect();
    for connection in &mut quiet {
        connection.send(HEALTHZ).must(200);
    }
    drop(crowd);
}

#[test]
fn behind_a_proxy_the_address_does_not_count() {
    let server = Server::start_with(&[("MAX_CONNECTIONS", "16"), ("TRUSTED_PROXIES", "1")]);
    let mut quiet = connect_from([127, 0, 0, 2], server.address);
    quiet.send(HEALTHZ).must(200);
    let crowd: Vec<_> = (0..100).map(|_| connect_from([127, 0, 0, 9], server.address)).collect();
    assert!(quiet.is_closed());
    drop(crowd);
}

#[test]
fn max_connections_raises_the_soft_limit_of_open_files() {
    let (database, proxy) = (Database::create(), Proxy::start());
    let server = Server::on(&database, &proxy.url(&database.name, "postgres"), &[("ULIMIT", "-Sn 64")]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("896"), "{line}");
}

#[test]
fn max_connections_over_the_hard_limit_of_open_files_is_exit_1() {
    let mut variables = environment("postgres:///none?host=/none");
    variables.extend([("ULIMIT".into(), "-n 256".into()), ("MAX_CONNECTIONS".into(), "200".into())]);
    let finished = run(&["serve"], &variables);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("MAX_CONNECTIONS: 200") && finished.stderr.contains("256"), "{finished:?}");
    assert_eq!((finished.stderr.lines().count(), finished.stdout.as_str()), (1, ""), "{finished:?}");
}

#[test]
fn too_few_threads_at_start_are_one_line_and_exit_1() {
    for limit in [1, 2, 8, 20] {
        let mut variables = environment("postgres:///none?host=/none");
        variables.insert("ULIMIT".into(), format!("-u {limit}"));
        let finished = run(&["serve"], &variables);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        let lines: Vec<_> = finished.stderr.lines().filter(|line| line.starts_with("latchkey: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains("thread"), "{finished:?}");
        assert!(!finished.stderr.contains("panic") && finished.stdout.is_empty(), "{finished:?}");
    }
}

// ------------------------------------------------------------------------------- handlers that the program has not

/// A listener in this process.
struct Local {
    address: SocketAddr,
    stopper: Stopper,
    running: JoinHandle<std::io::Result<()>>,
}

impl Local {
    /// `/sleep/N` takes N ms and tells whether it was answered meanwhile, `/long/N` answers N bytes, `/panic` panics,
    /// `/gone` tells when the client has gone. Each leaves 7 as its note.
    fn start(max_connections: usize) -> (Self, mpsc::Receiver<bool>) {
        let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let (address, stopper) = (listener.local_address(), listener.stopper());
        let (sender, receiver) = mpsc::channel();
        let handle = move |request: &Request, connection: &ServerConnection| {
            let url = request.raw_url();
            connection.leave_note("7".to_owned());
            if let Some(millis) = url.strip_prefix("/sleep/").and_then(|millis| millis.parse().ok()) {
                thread::sleep(Duration::from_millis(millis));
                let is_answered = connection.is_answered();
                assert_eq!(connection.claim_answer(), !is_answered);
                let _ = sender.send(is_answered);
            }
            if let Some(length) = url.strip_prefix("/long/").and_then(|length| length.parse().ok()) {
                return Response::from_data("text/plain", long(length));
            }
            if url == "/gone" {
                let start = Instant::now();
                while !connection.is_gone() && start.elapsed() < PATIENCE {
                    thread::sleep(Duration::from_millis(5));
                }
                let _ = sender.send(connection.is_gone());
            }
            assert!(url != "/panic", "as it was asked to");
            Response::text(url)
        };
        let reject = |rejected: &RejectedRequest<'_>| {
            let RejectedRequest { error, method, target, began, notes, .. } = rejected;
            let seconds = began.map(|began| began.elapsed().as_secs());
            assert!(*error != HttpError::NotImplemented, "as it was asked to");
            Response::text(format!("{method} {target} {notes:?} {seconds:?} {error:?}")).with_status_code(503)
        };
        let settings = Settings { max_connections, evict_by_address: true };
        (
            Self {
                address,
                stopper,
                running: thread::spawn(move || listener.run(settings, Box::new(handle), Box::new(reject))),
            },
            receiver,
        )
    }

    /// Sends a request; what comes back as text until the server closes, or as far as it comes in time.
    fn text(&self, request: &str) -> String {
        let stream = connect(self.address).unwrap();
        (&stream).write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        let _ = (&stream).read_to_string(&mut text);
        text
    }
}

/// Bytes of which no two pieces of a send are alike.
fn long(length: usize) -> Vec<u8> {
    (0..length).map(|number| (number / 251 + number) as u8).collect()
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn get_and_close(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

#[test]
fn a_hundred_handlers_that_wait_and_slow_clients_hold_up_nobody() {
    let (local, _) = Local::start(256);
    let send = |text: &str| {
        let mut stream = connect(local.address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let _streams: Vec<_> = (0..50).flat_map(|_| [send(&get("/sleep/4000")), send("GET / HTTP/1.1\r\n")]).collect();
    let start = Instant::now();
    assert!(local.text(&get_and_close("/quick")).ends_with("/quick"));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn a_client_that_reads_slowly_gets_all_of_a_long_answer() {
    let (local, _) = Local::start(8);
    let mut stream = connect(local.address).unwrap();
    stream.write_all((get("/long/3000000") + &get_and_close("/after")).as_bytes()).unwrap();
    let mut bytes = Vec::new();
    let mut piece = vec![0; 100_000];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        bytes.extend_from_slice(&piece[..count]);
        thread::sleep(Duration::from_millis(20));
    }
    let start = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    assert!(bytes[start..start + 3_000_000] == long(3_000_000), "the answer is not as it was made");
    assert!(bytes.ends_with(b"/after"));
}

#[test]
fn a_client_that_does_not_read_for_10_s_is_closed() {
    let (local, _) = Local::start(8);
    let mut stream = connect(local.address).unwrap();
    let start = Instant::now();
    stream.write_all(get("/long/5000000").as_bytes()).unwrap();
    // The client can still write while the server waits for it to read.
    while stream.write_all(b"x").is_ok() && start.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(50));
    }
    assert!((9.5..12.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    assert!(bytes.len() < 5_000_000);
}

#[test]
fn s46_a_panic_in_a_handler_is_answered_and_ends_nothing_else() {
    let (local, _) = Local::start(8);
    let text = local.text(&(get("/panic") + &get("/panic") + &get_and_close("/after")));
    assert_eq!(text.matches("HandlerPanicked").count(), 2, "{text}");
    assert!(text.ends_with("/after"), "{text}");
}

#[test]
fn a_panic_in_the_words_of_a_refusal_is_a_500_and_nothing_else() {
    let (local, _) = Local::start(8);
    for _ in 0..20 {
        let text = local.text("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x, chunked\r\n\r\n");
        assert!(text.starts_with("HTTP/1.1 500"), "{text}");
    }
    assert!(local.text(&get_and_close("/after")).ends_with("/after"));
}

#[test]
fn where_every_connection_is_busy_another_is_refused_at_once() {
    let (local, _) = Local::start(2);
    thread::scope(|scope| {
        let busy = [(); 2].map(|()| scope.spawn(|| local.text(&get_and_close("/sleep/1500"))));
        thread::sleep(Duration::from_millis(500));
        let start = Instant::now();
        assert!(local.text(&get("/")).ends_with("TooManyConnections"));
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        for text in busy.map(|thread| thread.join().unwrap()) {
            assert!(text.ends_with("/sleep/1500"), "a running request was hit: {text}");
        }
    });
}

#[test]
fn a_handler_can_tell_that_its_client_has_gone() {
    let (local, gone) = Local::start(8);
    for linger in [None, Some(Duration::ZERO)] {
        let stream = connect(local.address).unwrap();
        (&stream).write_all(get("/gone").as_bytes()).unwrap();
        assert!(gone.recv_timeout(Duration::from_millis(200)).is_err(), "it has not gone yet");
        socket2::SockRef::from(&stream).set_linger(linger).unwrap();
        drop(stream);
        assert!(gone.recv_timeout(Duration::from_secs(1)).unwrap());
    }
}

#[test]
fn a_handler_over_9_s_is_answered_503_in_its_place_with_its_notes() {
    let (local, answered) = Local::start(8);
    thread::scope(|scope| {
        let short = scope.spawn(|| local.text(&(get("/sleep/8500") + &get_and_close("/after"))));
        let start = Instant::now();
        let text = local.text(&(get("/sleep/11000") + &get("/after")));
        assert!((9.0..10.0).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
        assert!(
            text.starts_with("HTTP/1.1 503") && text.ends_with("GET /sleep/11000 [\"7\"] Some(9) HandlerTimeout"),
            "{text}"
        );
        assert_eq!(text.matches("Connection: close").count(), 1, "{text}");
        assert!(short.join().unwrap().ends_with("/after"), "a handler under 9 s was hit");
    });
    assert!(!answered.recv_timeout(PATIENCE).unwrap(), "its own answer was sent");
    assert!(answered.recv_timeout(PATIENCE).unwrap(), "it can tell that it was answered");
}

#[test]
fn handlers_that_never_return_shut_nobody_out() {
    let (local, _) = Local::start(8);
    let ask = |millis: u32| {
        let stream = connect(local.address).unwrap();
        (&stream).write_all(get(&format!("/sleep/{millis}")).as_bytes()).unwrap();
        stream
    };
    let stuck: Vec<_> = (0..8).map(|_| ask(60_000)).collect();
    for mut stream in stuck {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("HandlerTimeout"), "{text}");
    }
    assert!(local.text(&get_and_close("/after")).ends_with("/after"));
}

#[test]
fn a_request_of_2_5_s_is_answered_after_the_stop() {
    let (local, _) = Local::start(8);
    thread::scope(|scope| {
        let text = scope.spawn(|| local.text(&get("/sleep/2500")));
        thread::sleep(Duration::from_millis(300));
        local.stopper.stop();
        let text = text.join().unwrap();
        assert!(text.ends_with("/sleep/2500") && text.contains("Connection: close"), "{text}");
    });
    local.running.join().unwrap().unwrap();
}

#[test]
fn s42_a_handler_that_never_returns_cannot_hold_up_the_stop() {
    let (local, _) = Local::start(8);
    thread::scope(|scope| {
        let text = scope.spawn(|| local.text(&get("/sleep/15000")));
        thread::sleep(Duration::from_millis(300));
        let start = Instant::now();
        local.stopper.stop();
        let text = text.join().unwrap();
        assert!(text.ends_with("HandlerTimeout") && start.elapsed() > Duration::from_secs(8), "{text}");
        await_that("the listener returns", || local.running.is_finished());
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    });
}

// ------------------------------------------------------------------------------------------------------------ stop

/// Asks without pause until nobody accepts any more; how many requests were sent and how many were answered.
fn ask_until_the_end(address: SocketAddr) -> io::Result<(u32, u32)> {
    let (mut sent, mut answered) = (0, 0);
    while let Ok(stream) = connect(address) {
        let mut reader = BufReader::new(&stream);
        loop {
            (&stream).write_all(HEALTHZ.as_bytes())?;
            sent += 1;
            let Some(answer) = read_answer(&mut reader, "GET")? else { break };
            answered += 1;
            if answer.must(200).header("Connection") == Some("close") {
                break;
            }
        }
    }
    Ok((sent, answered))
}

#[track_caller]
fn a_stop_under_load_loses_nothing(clients: usize) {
    let mut server = Server::start();
    let address = server.address;
    let clients: Vec<_> = (0..clients).map(|_| thread::spawn(move || ask_until_the_end(address))).collect();
    thread::sleep(Duration::from_millis(700));
    let start = Instant::now();
    assert_eq!(server.stop().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    for client in clients {
        let (sent, answered) = client.join().unwrap().expect("no reset in the middle of a request");
        assert!(answered > 0 && sent == answered, "{sent} sent, {answered} answered");
    }
}

#[test]
fn s42_a_stop_loses_no_request_of_32_busy_clients() {
    a_stop_under_load_loses_nothing(32);
}

#[test]
fn a_stop_loses_no_request_of_200_busy_clients() {
    a_stop_under_load_loses_nothing(200);
}

#[test]
fn a_request_whose_body_is_still_coming_at_the_stop_is_answered() {
    let mut server = Server::start();
    let mut connection = Connection::to(server.address);
    let (first, second) = NO_TOKEN.split_at(10);
    connection.send(format!("{REFRESH}Content-Length: {}\r\n\r\n{first}", NO_TOKEN.len()));
    thread::sleep(Duration::from_millis(200));
    server.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(2500));
    let answer = connection.send(second).must(401);
    assert_eq!(answer.header("Connection"), Some("close"));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn what_has_been_received_at_the_stop_is_answered_before_the_close() {
    let (local, _) = Local::start(8);
    thread::scope(|scope| {
        let text = scope.spawn(|| local.text(&(get("/sleep/600") + &get("/second") + &get("/third"))));
        thread::sleep(Duration::from_millis(300));
        local.stopper.stop();
        let text = text.join().unwrap();
        assert!(text.contains("/second") && text.ends_with("/third"), "{text}");
        assert_eq!(text.matches("Connection: close").count(), 1, "{text}");
    });
}

#[test]
fn a_connection_that_rests_has_a_second_to_ask_after_the_stop() {
    let mut server = Server::start();
    let mut connections = [Connection::to(server.address), Connection::to(server.address)];
    for connection in &mut connections {
        connection.send(HEALTHZ).must(200);
    }
    server.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(500));
    let [asks, rests] = &mut connections;
    assert_eq!(asks.send(HEALTHZ).must(200).header("Connection"), Some("close"));
    assert!(connect(server.address).is_err(), "no connection is accepted any more");
    assert!(rests.is_closed());
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn s42_a_request_not_complete_9_s_after_the_stop_is_503() {
    let mut server = Server::start();
    let mut connection = Connection::to(server.address);
    server.signal(Signal::TERM);
    let start = Instant::now();
    thread::sleep(Duration::from_millis(500));
    connection.send(format!("{REFRESH}Content-Length: 1\r\n\r\n")).must(503);
    assert!(start.elapsed() > Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!(server.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
