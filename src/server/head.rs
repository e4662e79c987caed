//! The head of a request: read and judged.
//!
//! `httparse` cuts the lines into tokens and checks their characters. What it lets pass and two programs may read in
//! two ways is refused here, never repaired.
//!
//! Source: RFC 9112 §2 to §6, §9; RFC 9110 §7, §10.

use std::net::Ipv6Addr;

use super::body::Body;
use super::{Headers, HttpError};

/// The most bytes of a head, its empty line included.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// The most bytes of a request target.
const MAX_TARGET_BYTES: usize = 4 * 1024;
/// The most fields of a head.
const MAX_HEADERS: usize = 64;

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
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Whether the connection stays open after the response.
    pub keep_alive: bool,
}

impl Head {
    /// Takes the head that `input` begins with, and tells whether it is there: not while its end has not come. Where it
    /// is refused, what was understood stands.
    ///
    /// # Errors
    /// What RFC 9112 forbids, and what it allows and leaves open to more than one reading.
    pub(super) fn read(&mut self, input: &mut Vec<u8>) -> Result<bool, HttpError> {
        // S38
        let bytes = input.get(..MAX_HEAD_BYTES).unwrap_or(input);
        let mut words = bytes.trim_ascii_start().split(u8::is_ascii_whitespace).skip(1);
        let (target, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut slots);
        // Refuses the space before a colon (RFC 9112 §5.1), line folding (§5.2), bare CR (§2.2), NUL (RFC 9110 §5.5).
        let outcome = match request.parse(bytes) {
            // RFC 9112 §3: 414, as soon as it is clear.
            _ if target.len() > MAX_TARGET_BYTES => Err(HttpError::TargetTooLong),
            Ok(httparse::Status::Complete(length)) => Ok(length),
            Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_BYTES => return Ok(false),
            Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => Err(HttpError::HeadTooLarge),
            Err(httparse::Error::Version) if version.starts_with(b"HTTP/") => {
                // The library has not come to the fields.
                let fields = bytes.trim_ascii_start().splitn(2, |&b| b == b'\n').nth(1).unwrap_or_default();
                let _ = httparse::parse_headers(fields, request.headers);
                Err(HttpError::VersionNotSupported)
            }
            Err(_) => Err(HttpError::BadRequest("a character stands where it may not")),
        };
        self.method = request.method.unwrap_or_default().to_owned();
        self.target = request.path.unwrap_or_default().to_owned();
        // Where there is a fault, these are the fields before it; the other slots are empty.
        for header in request.headers.iter().filter(|header| !header.name.is_empty()) {
            let value = str::from_utf8(header.value).map_err(|_| HttpError::BadRequest("a field is not UTF-8"))?;
            self.headers.push((header.name.to_ascii_lowercase(), value.to_owned()));
        }
        let length = outcome?;
        // RFC 9112 §2.2 lets a recipient take a lone LF for a line's end. Another on the way may not: refused.
        let mut lines = bytes.get(..length).unwrap_or_default().split_inclusive(|&b| b == b'\n');
        if !lines.all(|line| line.ends_with(b"\r\n")) {
            return Err(HttpError::BadRequest("a line ends in LF without CR"));
        }
        self.interpret_fields(request.version.unwrap_or_default())?;
        self.interpret_target()?;
        input.drain(..length);
        Ok(true)
    }

    fn values(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect()
    }

    /// `version` is HTTP's after the point: 0 or 1.
    fn interpret_fields(&mut self, version: u8) -> Result<(), HttpError> {
        // RFC 9112 §3.2: exactly one Host; HTTP/1.0 may have none.
        match self.values("host").as_slice() {
            [host] if uri_host(host).is_some() => {}
            [] if version == 0 => {}
            _ => return Err(HttpError::BadRequest("there is not exactly one valid Host")),
        }
        // S39, RFC 9112 §6.1, §6.3: one way to find the end of the body. Every other is how requests are smuggled.
        self.body = match (self.values("content-length").as_slice(), self.values("transfer-encoding").as_slice()) {
            ([], []) => Body::default(),
            ([first, others @ ..], []) if others.iter().all(|other| other == first) => Body::with_length(first)?,
            ([], codings) if version == 1 => check_codings(codings).map(|()| Body::chunked())?,
            _ => return Err(HttpError::BadRequest("the length of the body is ambiguous")),
        };
        // RFC 9110 §10.1.1: there is one expectation, and none in HTTP/1.0.
        self.expects_continue = match self.values("expect").as_slice() {
            expectations if expectations.is_empty() || version == 0 => false,
            [expectation] if expectation.eq_ignore_ascii_case("100-continue") => true,
            _ => return Err(HttpError::ExpectationFailed),
        };
        // RFC 9112 §9.3: `close` counts first; then HTTP/1.1 persists, and HTTP/1.0 where it is asked to.
        let options = self.values("connection").join(",").to_ascii_lowercase();
        let has = |option| options.split(',').any(|other| other.trim() == option);
        self.keep_alive = !has("close") && (version == 1 || has("keep-alive"));
        Ok(())
    }

    /// Brings the target to one of the forms that are handed over, or refuses it (RFC 9112 §3.2).
    fn interpret_target(&mut self) -> Result<(), HttpError> {
        const MALFORMED: HttpError = HttpError::BadRequest("the target is malformed");
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
        let has_host = uri_host(authority).is_some_and(|host| !host.is_empty());
        if !has_host || !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) {
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

/// RFC 9112 §6.1, §6.3: `chunked` alone is understood. Where it is not the last coding, or is applied twice, nobody knows
/// where the body ends.
fn check_codings(lines: &[&str]) -> Result<(), HttpError> {
    let list = lines.join(",").to_ascii_lowercase();
    let codings: Vec<_> = list.split(',').map(|coding| coding.trim_matches([' ', '\t'])).collect();
    match codings.as_slice() {
        ["chunked"] => Ok(()),
        [others @ .., "chunked"] if !others.iter().any(|other| ["", "chunked"].contains(other)) => {
            Err(HttpError::NotImplemented)
        }
        _ => Err(HttpError::BadRequest("the transfer codings do not end in one chunked")),
    }
}

/// The host of a `uri-host [ ":" port ]`; `None` where it is malformed. The host may be empty. IPvFuture is
/// refused: no address uses it.
///
/// Source: RFC 9110 §7.2, RFC 3986 §3.2.2.
fn uri_host(authority: &str) -> Option<&str> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(&byte);
    let is_escaped = |piece: &str| piece.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    let is_host = match host.strip_prefix('[') {
        Some(literal) => literal.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
        None => host.bytes().all(is_name_byte) && host.split('%').skip(1).all(is_escaped),
    };
    (is_host && port.bytes().all(|byte| byte.is_ascii_digit())).then_some(host)
}

/// RFC 9110 §5.6.2: what a token is made of.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on must fail at once")]
mod tests {
    use super::*;

    /// The head and what is left of the input; nothing while the head is incomplete.
    fn read_in_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<(Head, Vec<u8>)>, HttpError> {
        let (mut head, mut input, mut is_read) = (Head::default(), Vec::new(), false);
        for piece in pieces {
            input.extend_from_slice(piece);
            is_read = is_read || head.read(&mut input)?;
        }
        Ok(is_read.then_some((head, input)))
    }

    fn read(input: &[u8]) -> Result<Option<(Head, Vec<u8>)>, HttpError> {
        read_in_pieces([input])
    }

    const ACCEPTED: [&[u8]; 11] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"\r\n\r\nPOST /a?b=%20 HTTP/1.1\r\nHOST:a:80\r\ncontent-length: 5\r\nContent-Length:5 \r\n\r\nhello",
        b"PATCH http://b:1/c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nExpect: 100-Continue\r\n\r\n0\r\n\r\n",
        b"HEAD HTTPS://[::1]?q HTTP/1.1\r\nhost:\t\r\nConnection: a, Close\r\n\r\nGET",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\nX: \xc3\xa9\r\n\r\n",
        b"DELETE /\\|{} HTTP/1.0\r\nConnection: Keep-Alive\r\nExpect: x\r\n\r\n",
        b"M / HTTP/1.1\r\nHost: a\r\nEmpty:\r\nTab: a\tb\r\n\r\n",
        b"GET http://b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /h HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n",
        b"GET // HTTP/1.1\r\nHost: %20\r\n\r\n\r\n",
    ];

    const MALFORMED: [&[u8]; 45] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: me@a\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\n",
        b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\rHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7f\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\xc3\xa9: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET / http/1.1\r\nHost: a\r\n\r\n",
        b"GET /\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://me@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://b/ HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n",
    ];

    const REFUSED: [(&[u8], HttpError); 5] = [
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", HttpError::VersionNotSupported),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HttpError::VersionNotSupported),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", HttpError::NotImplemented),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\nExpect: 100-continue\r\n\r\n",
            HttpError::BodyTooLarge,
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: a\r\n\r\n", HttpError::ExpectationFailed),
    ];

    #[test]
    fn what_is_malformed_or_ambiguous_is_refused_wherever_it_is_cut() {
        let malformed = MALFORMED.map(|input| (input, HttpError::BadRequest("")));
        for (input, expected) in malformed.into_iter().chain(REFUSED) {
            for size in [input.len(), 1, 7] {
                let refusal = match read_in_pieces(input.chunks(size)).unwrap_err() {
                    HttpError::BadRequest(_) => HttpError::BadRequest(""),
                    other => other,
                };
                assert_eq!(refusal, expected, "{}", input.escape_ascii());
            }
        }
    }

    #[test]
    fn a_head_is_the_same_wherever_it_is_cut() {
        for input in ACCEPTED {
            let whole = format!("{:?}", read(input));
            assert!(whole.starts_with("Ok(Some("), "{whole}");
            assert_eq!(format!("{:?}", read_in_pieces(input.chunks(1))), whole);
            let rest = read(input).unwrap().unwrap().1;
            for cut in 0..=input.len() {
                let (before, behind) = input.split_at(cut);
                assert_eq!(format!("{:?}", read_in_pieces([before, behind])), whole);
                assert_eq!(read(before).unwrap().is_some(), cut + rest.len() >= input.len());
            }
        }
    }

    #[test]
    fn a_head_says_what_its_fields_say() {
        let summary = |input: &&[u8]| {
            let (head, rest) = read(input).unwrap().unwrap();
            let host = head.values("host").join(" ");
            let Head { method, target, expects_continue, keep_alive, .. } = head;
            (format!("{method} {target} {host}"), expects_continue, keep_alive, rest.len())
        };
        let expected = [
            ("GET / a", false, true, 0),
            ("GET / ", false, false, 0),
            ("POST /a?b=%20 a:80", false, true, 5),
            ("PATCH /c b:1", true, true, 5),
            ("HEAD /?q [::1]", false, false, 3),
            ("OPTIONS * a", false, true, 0),
            ("DELETE /\\|{} ", false, true, 0),
            ("M / a", false, true, 0),
            ("GET / b", false, true, 0),
            ("GET /h a", false, true, 0),
            ("GET // %20", false, true, 2),
        ];
        for (input, (line, expects_continue, keep_alive, rest)) in ACCEPTED.iter().zip(expected) {
            assert_eq!(summary(input), (line.to_owned(), expects_continue, keep_alive, rest));
        }
    }

    #[test]
    fn a_body_in_chunks_ends_in_one_chunked_coding() {
        let check = |lines: &[&str]| check_codings(lines).map_err(|error| error == HttpError::NotImplemented);
        for lines in [&["chunked"][..], &["Chunked"]] {
            assert_eq!(check(lines), Ok(()), "{lines:?}");
        }
        for lines in [&["gzip, chunked"][..], &["gzip", "chunked"], &["a;q=1,b \t, CHUNKED"]] {
            assert_eq!(check(lines), Err(true), "{lines:?}");
        }
        for line in
            ["", "gzip", "identity", "chunked, gzip", "chunked, chunked", ", chunked", "chunked,", "chunked;q=1"]
        {
            assert_eq!(check(&[line]), Err(false), "{line:?}");
        }
        assert_eq!(check(&["chunked", "chunked"]), Err(false));
        assert_eq!(check(&["chunked", "identity"]), Err(false));
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for (authority, host) in [
            ("", ""),
            (":80", ""),
            ("a-b.example:", "a-b.example"),
            ("127.0.0.1:8080", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[::ffff:1.2.3.4]:80", "[::ffff:1.2.3.4]"),
            ("a%2fb%C3!$&'()*+,;=~_", "a%2fb%C3!$&'()*+,;=~_"),
        ] {
            assert_eq!(uri_host(authority), Some(host), "{authority}");
        }
        let malformed = "[::1 ::1 [::1]a [::1]:a [::1]80 [] [a] [::1%25eth0] [[::1]] [1.2.3.4] a] a:b a:-1 a:80:80 a% \
                         a%2 a%2g %%41 me@a a/b a\\b \u{e9}";
        for authority in malformed.split(' ').chain(["a b", "a:8 0"]) {
            assert_eq!(uri_host(authority), None, "{authority}");
        }
    }

    #[test]
    fn a_head_has_limits() {
        let head = |target: usize, value: usize, fields: usize| {
            let line = format!("GET /{} HTTP/1.1\r\nHost: {}\r\n", "t".repeat(target), "h".repeat(value));
            let bytes = line + &"A:\r\n".repeat(fields) + "\r\n";
            let whole = read(bytes.as_bytes()).map(|read| read.is_some());
            assert_eq!(read_in_pieces(bytes.as_bytes().chunks(7)).map(|read| read.is_some()), whole);
            whole
        };
        assert_eq!(head(4095, 1, 0), Ok(true));
        assert_eq!(head(4096, 1, 0), Err(HttpError::TargetTooLong));
        assert_eq!(head(90_000, 1, 0), Err(HttpError::TargetTooLong));
        assert_eq!(head(0, 8192 - 26, 0), Ok(true));
        assert_eq!(head(0, 8193 - 26, 0), Err(HttpError::HeadTooLarge));
        assert_eq!(head(0, 90_000, 0), Err(HttpError::HeadTooLarge));
        assert_eq!(head(0, 1, 63), Ok(true));
        assert_eq!(head(0, 1, 64), Err(HttpError::HeadTooLarge));
    }
}
