//! Responses as they are sent. What a handler put in a field can end neither the field nor the head, and never changes
//! the framing.
//!
//! Source: RFC 9112 §4, §6; RFC 9110 §5.5, §6.6.1, §8.6.

use std::io::{Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use rouille::Response;

use super::head::{Head, is_token_byte};

/// A response as it is sent, to a request with this head. In one piece, for one send: two would wait for each other's
/// acknowledgement or, with `TCP_NODELAY`, cost a quarter of the throughput.
pub(super) fn written(response: Response, request: &Head) -> Vec<u8> {
    let mut content = Vec::new();
    let status = response.data.into_reader_and_size().0.read_to_end(&mut content).map_or(500, |_| response.status_code);
    let (date, option) = (http_date(SystemTime::now()), if request.keep_alive { "keep-alive" } else { "close" });
    // RFC 9112 §4: the reason phrase may be empty, and is for nobody.
    let mut bytes = format!("HTTP/1.1 {status} \r\nDate: {date}\r\nConnection: {option}\r\n").into_bytes();
    for (name, value) in response.headers.iter().filter(|(name, value)| may_be_sent(name, value)) {
        let _ = write!(bytes, "{name}: {value}\r\n");
    }
    // RFC 9110 §15.3.5, §15.4.5: these never have content, and no length says so (§8.6).
    let has_content = !matches!(status, 204 | 304);
    if has_content {
        let _ = write!(bytes, "Content-Length: {}\r\n", content.len());
    }
    bytes.extend_from_slice(b"\r\n");
    // RFC 9110 §9.3.2: HEAD is answered with GET's length and without its content.
    if has_content && request.method != "HEAD" {
        bytes.extend_from_slice(&content);
    }
    bytes
}

/// Whether a field of the handler's is one, whatever it was made from, and not the framing or the connection's, which
/// are written here.
fn may_be_sent(name: &str, value: &str) -> bool {
    const OWN: [&str; 6] = ["connection", "content-length", "date", "trailer", "transfer-encoding", "upgrade"];
    // RFC 9110 §5.6.2: a name is a token; §5.5: no CR, LF or NUL, with which a value would end its field or the head.
    let has_control = value.bytes().any(|b| b.is_ascii_control() && b != b'\t');
    !name.is_empty()
        && name.bytes().all(is_token_byte)
        && !has_control
        && !OWN.contains(&name.to_ascii_lowercase().as_str())
}

/// A time as RFC 9110 §5.6.7 writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Wed", "Thu", "Fri", "Sat", "Sun", "Mon", "Tue"];
    const MONTHS: [&str; 12] = ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // Howard Hinnant's `civil_from_days`: years begin in March, so that a leap day is the last of its year.
    let days = seconds / 86_400 + 719_468;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = days / 146_097 * 400 + year_of_era + u64::from(month > 9);
    let (weekday, month) = (DAYS.get((days % 7) as usize).unwrap_or(&""), MONTHS.get(month as usize).unwrap_or(&""));
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on must fail at once")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_field_of_a_response_cannot_end_its_line_or_change_the_framing() {
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
        let text = String::from_utf8(written(response, &request)).unwrap();
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
        let text_of = |status, method: &str| {
            let request = Head { method: method.to_owned(), ..Head::default() };
            let response = Response::text("hello").with_status_code(status);
            String::from_utf8(written(response, &request)).unwrap()
        };
        assert!(text_of(200, "HEAD").ends_with("Content-Length: 5\r\n\r\n"));
        for status in [204, 304] {
            assert!(text_of(status, "GET").ends_with("\r\n\r\n") && !text_of(status, "GET").contains("Length"));
        }
        assert!(text_of(404, "GET").contains("Connection: close\r\n"));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let date = |seconds| http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(951_782_399), "Mon, 28 Feb 2000 23:59:59 GMT");
        assert_eq!(date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(date(951_868_800), "Wed, 01 Mar 2000 00:00:00 GMT");
        assert_eq!(date(1_704_067_199), "Sun, 31 Dec 2023 23:59:59 GMT");
        assert_eq!(date(4_107_542_400), "Mon, 01 Mar 2100 00:00:00 GMT");
    }
}
