//! Responses as they are sent. What a handler put in a field can end neither the field nor the head, and never changes
//! the framing.
//!
//! Source: RFC 9112 §4, §6; RFC 9110 §5.5, §6.6.1, §8.6.

use std::io::{Read, Write};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use rouille::Response;

use super::head::{Head, is_token_byte};

/// How much a head is expected to have; it may have more.
const HEAD_BYTES: usize = 512;

/// A response to a request with this head, as it is sent. In one piece, for one send: two would wait for each other's
/// acknowledgement or, with `TCP_NODELAY`, cost a quarter of the throughput.
pub(super) fn bytes_of(response: Response, request: &Head) -> Vec<u8> {
    let (mut content, size) = response.data.into_reader_and_size();
    // All at once: this is what a client costs that does not read.
    let mut bytes = Vec::with_capacity(size.unwrap_or_default() + HEAD_BYTES);
    let status = content.read_to_end(&mut bytes).map_or(500, |_| response.status_code);
    // RFC 9110 §5.6.7; fails only before the year 0.
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now()).unwrap_or_default();
    let option = if request.keep_alive { "keep-alive" } else { "close" };
    // RFC 9112 §4: the reason phrase may be empty, and is for nobody.
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let _ = write!(head, "HTTP/1.1 {status} \r\nDate: {date}\r\nConnection: {option}\r\n");
    for (name, value) in response.headers.iter().filter(|(name, value)| may_be_sent(name, value)) {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    // RFC 9110 §15.3.5, §15.4.5: these never have content, and no length says so (§8.6).
    let has_content = !matches!(status, 204 | 304);
    if has_content {
        let _ = write!(head, "Content-Length: {}\r\n", bytes.len());
    }
    head.extend_from_slice(b"\r\n");
    // RFC 9110 §9.3.2: HEAD is answered with GET's length and without its content.
    if !has_content || request.method == "HEAD" {
        bytes.clear();
    }
    bytes.splice(..0, head);
    bytes
}

/// Whether a field of the handler's is one, whatever it was made from, and not the framing or the connection's, which
/// are written here.
fn may_be_sent(name: &str, value: &str) -> bool {
    const OWN: [&str; 6] = ["connection", "content-length", "date", "trailer", "transfer-encoding", "upgrade"];
    // S40, RFC 9110 §5.6.2: a name is a token; §5.5: no CR, LF or NUL, with which a value would end its field or the head.
    let has_control = value.bytes().any(|b| b.is_ascii_control() && b != b'\t');
    !name.is_empty()
        && name.bytes().all(is_token_byte)
        && !has_control
        && !OWN.iter().any(|own| name.eq_ignore_ascii_case(own))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on must fail at once")]
mod tests {
    use super::*;

    fn text_of(response: Response, request: &Head) -> String {
        String::from_utf8(bytes_of(response, request)).unwrap()
    }

    #[test]
    fn s40_no_response_field_ends_its_line_or_changes_the_framing() {
        let fields = ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "a\u{1b}b"].map(|value| ("X-Value", value));
        let names =
            ["X\r\nY", "X: 1\r\nY", "X Y", "X:", "", "Content-Length", "TRANSFER-ENCODING", "connection", "Date"];
        let kept = [("X-Tab", "a\tb"), ("X-Text", "\u{e9}"), ("X-Empty", "")];
        let response = fields
            .into_iter()
            .chain(names.map(|name| (name, "1")))
            .chain(kept)
            .fold(Response::text("hello"), |response, (name, value)| response.with_additional_header(name, value));
        let request = Head { keep_alive: true, ..Head::default() };
        let text = text_of(response, &request);
        let (head, content) = text.split_once("\r\n\r\n").unwrap();
        let mut lines: Vec<_> = head.split("\r\n").filter(|line| !line.starts_with("Date: ")).collect();
        lines.sort_unstable();
        assert_eq!(content, "hello");
        assert_eq!(
            lines,
            [
                "Connection: keep-alive",
                "Content-Length: 5",
                "Content-Type: text/plain; charset=utf-8",
                "HTTP/1.1 200 ",
                "X-Empty: ",
                "X-Tab: a\tb",
                "X-Text: \u{e9}",
            ]
        );
    }

    #[test]
    fn a_response_without_content_has_none() {
        let answer_to = |status, method: &str| {
            let request = Head { method: method.to_owned(), ..Head::default() };
            let response = Response::text("hello").with_status_code(status);
            text_of(response, &request)
        };
        assert!(answer_to(200, "HEAD").ends_with("Content-Length: 5\r\n\r\n"));
        for status in [204, 304] {
            assert!(answer_to(status, "GET").ends_with("\r\n\r\n") && !answer_to(status, "GET").contains("Length"));
        }
        assert!(answer_to(404, "GET").contains("Connection: close\r\n"));
    }
}
