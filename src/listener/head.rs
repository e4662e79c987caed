//! Heads: a request's is read, a response's is written.
//!
//! `httparse` cuts the lines into tokens and checks their characters. What it lets pass and two programs may read in
//! two ways is refused here, never repaired.
//!
//! Source: RFC 9112 §2 to §6, §9; RFC 9110 §7, §10.

use std::fmt::Write;
use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

use rouille::Response;

use super::body::Body;
use super::{Headers, Refusal};

/// The most bytes of a head, its empty line included.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// The most bytes of a request target.
const MAX_TARGET_BYTES: usize = 4 * 1024;
/// The most fields of a head.
const MAX_HEADERS: usize = 64;
/// Fields that only this module writes: they are a response's framing (RFC 9112 §6) or the connection's (§9).
const OWN_FIELDS: [&str; 6] = ["connection", "content-length", "date", "trailer", "transfer-encoding", "upgrade"];

/// A request's head.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub method: String,
    /// In origin-form, `/path?query`, or `*`.
    pub target: String,
    /// In order, the names in lower case.
    pub headers: Headers,
    /// The body that is to follow.
    pub body: Body,
    pub connection: Connection,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// What becomes of the connection after the response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Connection {
    #[default]
    Close,
    KeepAlive,
}

impl Head {
    /// Reads the head that `bytes` begin with, and gives its length; nothing, while its end has not come. Where it is
    /// refused, what was understood stands.
    ///
    /// # Errors
    /// What RFC 9112 forbids, and what it allows and leaves open to more than one reading.
    pub(super) fn parse(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        let bytes = bytes.get(..MAX_HEAD_BYTES).unwrap_or(bytes);
        // RFC 9112 §3: 414, as soon as it is clear.
        if bytes.split(|&b| b == b' ').nth(1).is_some_and(|target| target.len() > MAX_TARGET_BYTES) {
            return Err(Refusal::TargetTooLong);
        }
        let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut slots);
        // Refuses the space before a colon (RFC 9112 §5.1), line folding (§5.2), bare CR (§2.2), NUL (RFC 9110 §5.5).
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_BYTES => return Ok(None),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
            Err(httparse::Error::Version) => return Err(Refusal::VersionNotSupported),
            Err(_) => return Err(Refusal::BadRequest("a character stands where it may not")),
        };
        // RFC 9112 §2.2 lets a recipient take a lone LF for a line's end. Another on the way may not: refused.
        let mut lines = bytes.get(..length).unwrap_or_default().split_inclusive(|&b| b == b'\n');
        if !lines.all(|line| line.ends_with(b"\r\n")) {
            return Err(Refusal::BadRequest("a line ends in LF without CR"));
        }
        self.method = request.method.unwrap_or_default().to_owned();
        self.target = request.path.unwrap_or_default().to_owned();
        for header in request.headers {
            let value = str::from_utf8(header.value).map_err(|_| Refusal::BadRequest("a field is not UTF-8"))?;
            self.headers.push((header.name.to_ascii_lowercase(), value.to_owned()));
        }
        self.interpret_fields(request.version.unwrap_or_default())?;
        self.interpret_target()?;
        Ok(Some(length))
    }

    fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect()
    }

    /// `version` is HTTP's after the point: 0 or 1.
    fn interpret_fields(&mut self, version: u8) -> Result<(), Refusal> {
        // RFC 9112 §3.2: exactly one Host; HTTP/1.0 may have none.
        match self.values("host").as_slice() {
            [host] if host.bytes().all(is_authority_byte) => {}
            [] if version == 0 => {}
            _ => return Err(Refusal::BadRequest("there is not exactly one valid Host")),
        }
        // RFC 9112 §6.1, §6.3: one way to find the end of the body. Every other is how requests are smuggled.
        self.body = match (self.values("content-length").as_slice(), self.values("transfer-encoding").as_slice()) {
            ([], []) => Body::default(),
            ([first, others @ ..], []) if others.iter().all(|other| other == first) => Body::with_length(first)?,
            ([], [coding]) if version == 1 && coding.eq_ignore_ascii_case("chunked") => Body::chunked(),
            ([], _) if version == 1 => return Err(Refusal::NotImplemented),
            _ => return Err(Refusal::BadRequest("the length of the body is ambiguous")),
        };
        // RFC 9110 §10.1.1: there is one expectation, and none in HTTP/1.0.
        self.expects_continue = match self.values("expect").as_slice() {
            [] => false,
            _ if version == 0 => false,
            [expectation] if expectation.eq_ignore_ascii_case("100-continue") => true,
            _ => return Err(Refusal::ExpectationFailed),
        };
        // RFC 9112 §9.3: `close` counts first; then HTTP/1.1 persists, and HTTP/1.0 where it is asked to.
        let options = self.values("connection").join(",").to_ascii_lowercase();
        let has = |option| options.split(',').any(|other| other.trim() == option);
        if !has("close") && (version == 1 || has("keep-alive")) {
            self.connection = Connection::KeepAlive;
        }
        Ok(())
    }

    /// Brings the target to one of the forms that are handed over, or refuses it (RFC 9112 §3.2).
    fn interpret_target(&mut self) -> Result<(), Refusal> {
        const MALFORMED: Refusal = Refusal::BadRequest("the target is malformed");
        // RFC 3986 §2: visible ASCII. A fragment is never sent (RFC 9112 §3.2).
        if self.target.bytes().any(|b| !b.is_ascii_graphic() || b == b'#') {
            return Err(MALFORMED);
        }
        if self.target.starts_with('/') || self.target == "*" && self.method == "OPTIONS" {
            return Ok(());
        }
        // Absolute-form, then: authority-form is for CONNECT, which is for proxies.
        let (scheme, rest) = self.target.split_once("://").ok_or(MALFORMED)?;
        let path_start = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(path_start).ok_or(MALFORMED)?;
        // RFC 9110 §4.2.1: no empty host; §4.2.4: no user name.
        let is_authority = !authority.is_empty() && authority.bytes().all(is_authority_byte);
        if !is_authority || !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
            return Err(MALFORMED);
        }
        // RFC 9112 §3.2.2: what Host says is to be replaced.
        for (_, value) in self.headers.iter_mut().filter(|(name, _)| name == "host") {
            authority.clone_into(value);
        }
        self.target = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(())
    }
}

/// RFC 3986 §3.2: what a host and a port are made of.
fn is_authority_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(&byte)
}

/// A response as it is sent, with its content unless `method`, the request's, is HEAD. In one piece, for one send: two
/// would wait for an acknowledgement between them or, with `TCP_NODELAY`, cost a quarter of the throughput.
pub(super) fn response(response: Response, method: &str, connection: Connection) -> Vec<u8> {
    let mut content = Vec::new();
    let is_read = response.data.into_reader_and_size().0.read_to_end(&mut content).is_ok();
    let status = if is_read { response.status_code } else { 500 };
    // RFC 9112 §4: the reason phrase may be empty, and is for nobody.
    let mut head = format!("HTTP/1.1 {status} \r\nDate: {}\r\n", http_date(SystemTime::now()));
    for (name, value) in response.headers.iter().filter(|(name, value)| may_be_sent(name, value)) {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    // RFC 9110 §15.3.5, §15.4.5: these never have content, and no length says so (§8.6).
    let has_content = !matches!(status, 204 | 304);
    if has_content {
        let _ = write!(head, "Content-Length: {}\r\n", content.len());
    }
    head.push_str(match connection {
        Connection::Close => "Connection: close\r\n\r\n",
        Connection::KeepAlive => "Connection: keep-alive\r\n\r\n",
    });
    let mut bytes = head.into_bytes();
    // RFC 9110 §9.3.2: HEAD is answered with GET's length and without its content.
    if has_content && method != "HEAD" {
        bytes.extend_from_slice(&content);
    }
    bytes
}

/// Whether a handler's field is a field, whatever it was made of, and the handler's to write.
fn may_be_sent(name: &str, value: &str) -> bool {
    // RFC 9110 §5.6.2: a token; §5.5: no CR, LF or NUL, with which a value would end its field or the head.
    let is_token = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    let has_control = value.bytes().any(|b| b.is_ascii_control() && b != b'\t');
    !name.is_empty() && is_token && !has_control && !OWN_FIELDS.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// A time as RFC 9110 §5.6.7 writes it: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let weekday = DAYS.iter().cycle().nth((seconds / 86_400 % 7) as usize).copied().unwrap_or_default();
    // Howard Hinnant's `civil_from_days`: years begin in March, so that a leap day is the last of its year.
    let days = seconds / 86_400 + 719_468;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = days / 146_097 * 400 + year_of_era + u64::from(month > 9);
    let month = MONTHS.get(month as usize).copied().unwrap_or_default();
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}
