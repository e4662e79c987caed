//! Heads: a request's is read, a response's is written.
//!
//! The rules are those of RFC 9112 and RFC 9110, in their strictest reading: two programs that read one message must
//! not come to two meanings. So nothing is repaired here; what is ambiguous is refused. `httparse` cuts the lines into
//! tokens and checks the characters; all that it lets pass is refused before or after it.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Headers, Refusal};

/// The most bytes of a head, from the first of the request line to the empty line's last.
pub(super) const MAX_HEAD_BYTES: usize = 8 * 1024;
/// The most bytes of a request target.
const MAX_TARGET_BYTES: usize = 4 * 1024;
/// The most header fields of a request.
const MAX_HEADERS: usize = 64;
/// Room for a response's head, to begin with.
const RESPONSE_HEAD_BYTES: usize = 512;
/// The fields of a response that only this module sets: they are its framing (RFC 9112 §6) or the connection's (§9).
const OWN_FIELDS: [&str; 7] =
    ["Connection", "Content-Length", "Date", "Keep-Alive", "Trailer", "Transfer-Encoding", "Upgrade"];

/// A request's head, understood.
#[derive(Debug)]
pub(super) struct Head {
    pub method: String,
    /// In origin-form (`/path?query`), or `*`.
    pub target: String,
    /// As sent and in order; but `Host` as the target says, where the target was in absolute-form.
    pub headers: Headers,
    pub framing: Framing,
    pub connection: Connection,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// How the body is delimited (RFC 9112 §6.3). A request without a length has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// What becomes of the connection after the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    Close,
    /// It stays open, as is usual in HTTP/1.1.
    Keep,
    /// It stays open because an HTTP/1.0 client asked for it, and is to be told so.
    KeepAndSay,
}

/// A request that is refused, with what was understood of it.
#[derive(Debug)]
pub(super) struct Rejected {
    pub refusal: Refusal,
    pub method: String,
    pub headers: Headers,
}

impl From<Refusal> for Rejected {
    fn from(refusal: Refusal) -> Rejected {
        Rejected { refusal, method: String::new(), headers: Headers::new() }
    }
}

/// Looks for the end of a head in a buffer that grows. Each byte is looked at once.
#[derive(Debug, Default)]
pub(super) struct Search {
    seen: usize,
    line_start: usize,
    past_request_line: bool,
}

impl Search {
    /// The length of the head at the start of `bytes`, or nothing while its end has not come. To be called with the
    /// same bytes and more.
    ///
    /// # Errors
    /// A line that ends in LF alone, an empty first line after the one that is forgiven, and what is too long.
    pub(super) fn head_length(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        // A TLS client's first byte, say, begins no method; no need to wait for the rest.
        if bytes.first().is_some_and(|&b| b != b'\r' && !b.is_ascii_graphic()) {
            return Err(Refusal::BadRequest("the first byte begins no request"));
        }
        while let Some(length) = bytes.iter().skip(self.seen).position(|&b| b == b'\n') {
            let next_line = self.seen + length + 1;
            let is_end = self.line(bytes.get(self.line_start..next_line).unwrap_or_default())?;
            self.seen = next_line;
            self.line_start = next_line;
            if is_end {
                return within_limit(next_line).map(|()| Some(next_line));
            }
        }
        self.seen = bytes.len();
        if !self.past_request_line {
            check_target_length(bytes.get(self.line_start..).unwrap_or_default())?;
        }
        within_limit(bytes.len()).map(|()| None)
    }

    /// Whether this line, given with its LF, is the empty one that ends the head.
    fn line(&mut self, line: &[u8]) -> Result<bool, Refusal> {
        // RFC 9112 §2.2 lets a recipient take a lone LF for a line's end. Another on the way may not: refused.
        let Some(line) = line.strip_suffix(b"\r\n") else {
            return Err(Refusal::BadRequest("a line ends in LF without CR"));
        };
        if self.past_request_line {
            return Ok(line.is_empty());
        }
        // RFC 9112 §2.2: one empty line before the request line is ignored.
        if line.is_empty() && self.line_start == 0 {
            return Ok(false);
        }
        if line.is_empty() {
            return Err(Refusal::BadRequest("there is no request line"));
        }
        check_target_length(line)?;
        self.past_request_line = true;
        Ok(false)
    }
}

fn within_limit(head_bytes: usize) -> Result<(), Refusal> {
    if head_bytes > MAX_HEAD_BYTES {
        return Err(Refusal::HeadTooLarge);
    }
    Ok(())
}

/// RFC 9112 §3: a target longer than the server wishes to parse is answered 414. The line may still be incomplete.
fn check_target_length(request_line: &[u8]) -> Result<(), Refusal> {
    let target = request_line.split(|&b| b == b' ').nth(1);
    if target.is_some_and(|target| target.len() > MAX_TARGET_BYTES) {
        return Err(Refusal::TargetTooLong);
    }
    Ok(())
}

/// The head that `bytes` hold, which is all of it and nothing else.
///
/// # Errors
/// Whatever RFC 9112 calls an error, and whatever it leaves to recipients, so that two of them may differ.
pub(super) fn parse(bytes: &[u8]) -> Result<Head, Rejected> {
    let (mut head, version) = tokenize(bytes)?;
    match head.interpret(version) {
        Ok(()) => Ok(head),
        Err(refusal) => Err(head.rejected(refusal)),
    }
}

/// The head as it was sent, not yet interpreted, and the minor version of HTTP/1.
fn tokenize(bytes: &[u8]) -> Result<(Head, u8), Refusal> {
    let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut slots);
    // Refuses a space before the colon (RFC 9112 §5.1), obs-fold (§5.2), a bare CR (§2.2), NUL (RFC 9110 §5.5).
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(Refusal::BadRequest("the head ends where it should not")),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(httparse::Error::Version) => return Err(unknown_version(bytes)),
        Err(_) => return Err(Refusal::BadRequest("a character where it may not be")),
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Refusal::BadRequest("the request line is incomplete"));
    };
    let mut headers = Headers::with_capacity(request.headers.len());
    for header in request.headers {
        let value = str::from_utf8(header.value).map_err(|_| Refusal::BadRequest("a field value is not UTF-8"))?;
        headers.push((header.name.to_owned(), value.to_owned()));
    }
    let head = Head {
        method: method.to_owned(),
        target: target.to_owned(),
        headers,
        framing: Framing::Length(0),
        connection: Connection::Close,
        expects_continue: false,
    };
    Ok((head, version))
}

/// RFC 9110 §15.6.6: 505 is for a version that is well-formed; anything else is malformed.
fn unknown_version(bytes: &[u8]) -> Refusal {
    let line = bytes.trim_ascii_start().split(|&b| b == b'\r').next();
    match line.and_then(|line| line.last_chunk()) {
        Some([b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Refusal::VersionNotSupported
        }
        _ => Refusal::BadRequest("the version is malformed"),
    }
}

impl Head {
    /// This head as that of a request which is refused.
    pub(super) fn rejected(self, refusal: Refusal) -> Rejected {
        Rejected { refusal, method: self.method, headers: self.headers }
    }

    fn interpret(&mut self, version: u8) -> Result<(), Refusal> {
        self.check_host(version)?;
        self.interpret_target()?;
        self.framing = self.framing(version)?;
        self.connection = self.connection(version);
        self.expects_continue = self.expects_continue(version)?;
        Ok(())
    }

    /// The values of all fields with this name, in order.
    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// RFC 9112 §3.2: exactly one valid `Host` in HTTP/1.1; a second one never.
    fn check_host(&self, version: u8) -> Result<(), Refusal> {
        let mut hosts = self.values("host");
        match (hosts.next(), hosts.next()) {
            (_, Some(_)) => Err(Refusal::BadRequest("there are two Host fields")),
            (None, None) if version > 0 => Err(Refusal::BadRequest("there is no Host field")),
            (Some(host), None) if !host.bytes().all(is_authority_byte) => {
                Err(Refusal::BadRequest("the Host field is malformed"))
            }
            _ => Ok(()),
        }
    }

    /// RFC 9112 §3.2: the four forms of a target. Authority-form belongs to CONNECT, which an origin server has not.
    fn interpret_target(&mut self) -> Result<(), Refusal> {
        // RFC 3986 §2: a URI is of visible ASCII characters. A fragment is never sent (RFC 9112 §3.2).
        if !self.target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return Err(Refusal::BadRequest("the target is not a URI"));
        }
        if self.target.starts_with('/') || (self.target == "*" && self.method == "OPTIONS") {
            return Ok(());
        }
        self.interpret_absolute_form()
    }

    /// RFC 9112 §3.2.2: the host of an absolute-form target takes the place of the `Host` field.
    fn interpret_absolute_form(&mut self) -> Result<(), Refusal> {
        const MALFORMED: Refusal = Refusal::BadRequest("the target has no form that is served");
        let (scheme, rest) = self.target.split_once("://").ok_or(MALFORMED)?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(MALFORMED);
        }
        let path_start = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(path_start).ok_or(MALFORMED)?;
        // RFC 9110 §4.2.1: no empty host; §4.2.4: no user information.
        if authority.is_empty() || !authority.bytes().all(is_authority_byte) {
            return Err(MALFORMED);
        }
        for (name, value) in &mut self.headers {
            if name.eq_ignore_ascii_case("host") {
                authority.clone_into(value);
            }
        }
        let root = if path.starts_with('/') { "" } else { "/" };
        self.target = format!("{root}{path}");
        Ok(())
    }

    /// RFC 9112 §6.3, where each way to be smuggled through ends in a refusal.
    fn framing(&self, version: u8) -> Result<Framing, Refusal> {
        let mut length = None;
        for value in self.values("content-length") {
            let value = parse_length(value)?;
            if length.is_some_and(|other| other != value) {
                return Err(Refusal::BadRequest("two values of Content-Length"));
            }
            length = Some(value);
        }
        let mut codings = self.values("transfer-encoding");
        let Some(coding) = codings.next() else {
            return Ok(Framing::Length(length.unwrap_or(0)));
        };
        if length.is_some() {
            return Err(Refusal::BadRequest("Content-Length and Transfer-Encoding"));
        }
        // RFC 9112 §6.1: HTTP/1.0 has no transfer codings; the framing is faulty.
        if version == 0 {
            return Err(Refusal::BadRequest("Transfer-Encoding in HTTP/1.0"));
        }
        // RFC 9112 §6.1: 501 for a coding that is not understood.
        if !coding.eq_ignore_ascii_case("chunked") || codings.next().is_some() {
            return Err(Refusal::NotImplemented);
        }
        Ok(Framing::Chunked)
    }

    /// RFC 9112 §9.3: `close` wins; HTTP/1.1 persists; HTTP/1.0 does so where asked to.
    fn connection(&self, version: u8) -> Connection {
        let has = |option| {
            self.values("connection")
                .flat_map(|value| value.split(','))
                .any(|other| other.trim().eq_ignore_ascii_case(option))
        };
        match version {
            _ if has("close") => Connection::Close,
            0 if has("keep-alive") => Connection::KeepAndSay,
            0 => Connection::Close,
            _ => Connection::Keep,
        }
    }

    /// RFC 9110 §10.1.1: `100-continue` is the one expectation there is, and HTTP/1.0 has none.
    fn expects_continue(&self, version: u8) -> Result<bool, Refusal> {
        let mut expects = false;
        for value in self.values("expect").filter(|_| version > 0) {
            if !value.eq_ignore_ascii_case("100-continue") {
                return Err(Refusal::ExpectationFailed);
            }
            expects = true;
        }
        Ok(expects)
    }
}

/// RFC 9110 §8.6: digits and nothing else: no sign, no list, no blank. Too large for the type is too large to take.
fn parse_length(value: &str) -> Result<u64, Refusal> {
    if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Refusal::BadRequest("Content-Length is not a number"));
    }
    Ok(value.parse().unwrap_or(u64::MAX))
}

/// RFC 3986 §3.2: what a host and a port are made of.
fn is_authority_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(&byte)
}

/// A response's bytes, head and body. `method` is the request's; `connection` is what becomes of the connection.
///
/// A field that could end its line (RFC 9110 §5.5), or that only this module may set, is left out.
pub(super) fn response(
    status: u16,
    fields: &[(Cow<'static, str>, Cow<'static, str>)],
    body: &[u8],
    method: &str,
    connection: Connection,
) -> Vec<u8> {
    let reason = reason(status);
    let date = http_date(SystemTime::now());
    let mut head = String::with_capacity(RESPONSE_HEAD_BYTES + body.len());
    let _ = write!(head, "HTTP/1.1 {status} {reason}\r\nDate: {date}\r\n");
    for (name, value) in fields.iter().filter(|(name, value)| may_be_sent(name, value)) {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    // RFC 9110 §8.6 and §15.4.5: no length where there can be no content.
    let has_no_content = matches!(status, 204 | 304);
    if !has_no_content {
        let _ = write!(head, "Content-Length: {}\r\n", body.len());
    }
    match connection {
        Connection::Close => head.push_str("Connection: close\r\n"),
        Connection::KeepAndSay => head.push_str("Connection: keep-alive\r\n"),
        Connection::Keep => {}
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    // RFC 9110 §9.3.2: the response to HEAD has the length and not the content.
    if !has_no_content && method != "HEAD" {
        bytes.extend_from_slice(body);
    }
    bytes
}

/// Whether a handler's field can be written as it is.
fn may_be_sent(name: &str, value: &str) -> bool {
    is_token(name.as_bytes())
        && !has_control(value.as_bytes())
        && !OWN_FIELDS.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// RFC 9110 §5.6.2: what a field's name is made of.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    let is_token_byte = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(is_token_byte)
}

/// RFC 9110 §5.5: no field's value holds a control character, CR, LF and NUL among them, but the tabulator.
pub(super) fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().any(|b| b.is_ascii_control() && *b != b'\t')
}

/// The usual words for a status; no program reads them (RFC 9112 §4).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

/// A time as RFC 9110 §5.6.7 writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(time: SystemTime) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let days = seconds / 86_400;
    let (year, month, day) = civil_date(days);
    let weekday = WEEKDAYS.get((days % 7) as usize).unwrap_or(&"");
    let month = MONTHS.get(month as usize - 1).unwrap_or(&"");
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

/// Year, month and day of the month, both from 1, of a day counted from 1970-01-01.
///
/// Years are taken to begin in March, so that the leap day is a year's last; `era` is 400 such years.
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month < 3);
    (year, month, day)
}
