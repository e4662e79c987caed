//! rouille in and out: who asks, the bearer token, a JSON body, query parameters, replies and problems.
//!
//! Source: RFC 9110, RFC 6750 (bearer), RFC 8259 (JSON), RFC 9457 (problem details).

use std::borrow::Cow;
use std::io::Read;
use std::net::{IpAddr, Ipv6Addr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rouille::{Request, Response};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::error::{ApiError, FieldError, Problem};
use crate::json::without_duplicates;
use crate::listener::Peer;

/// The realm of every challenge (RFC 9110 section 11.5).
const CHALLENGE: &str = "Bearer realm=\"latchkey\"";
/// What may stand in a path segment as it is (RFC 3986 unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// One request on its way through a handler.
pub struct Call<'a> {
    /// As the client sent it.
    pub request: &'a Request,
    /// The decoded path segments that stand for `{…}` in the route, in order.
    pub parameters: Vec<String>,
    /// Who asks.
    pub client: Client<'a>,
}

impl Call<'_> {
    /// The n-th `{…}` of the route.
    pub fn parameter(&self, n: usize) -> &str {
        self.parameters.get(n).map_or("", String::as_str)
    }
}

/// Who asks, as far as the network tells.
pub struct Client<'a> {
    /// The address behind the trusted proxies; IPv4 also where it came mapped into IPv6.
    pub address: IpAddr,
    /// The id of this request, in the answer and in the log.
    pub request_id: Uuid,
    peer: Option<&'a Peer>,
}

impl<'a> Client<'a> {
    /// The client of a request. With `trusted_proxies` = N the address is the N-th from the right over all lines of
    /// `X-Forwarded-For`; fewer or an unreadable one → the socket's, since what stands farther left anybody can write.
    pub fn new(
        socket: IpAddr,
        headers: impl Iterator<Item = (&'a str, &'a str)>,
        trusted_proxies: usize,
        peer: Option<&'a Peer>,
    ) -> Client<'a> {
        let address = match trusted_proxies {
            0 => None,
            n => forwarded_for(headers, n),
        };
        Client { address: address.unwrap_or(socket).to_canonical(), request_id: Uuid::now_v7(), peer }
    }

    /// What is counted as one address: an IPv4 address, or the /64 that one IPv6 customer has.
    pub fn network(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => self.address,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        }
    }

    /// Whether the client has left.
    pub fn is_gone(&self) -> bool {
        self.peer.is_some_and(Peer::is_gone)
    }
}

fn forwarded_for<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>, hops: usize) -> Option<IpAddr> {
    let lines: Vec<&str> =
        headers.filter(|(name, _)| name.eq_ignore_ascii_case("X-Forwarded-For")).map(|(_, value)| value).collect();
    let entry = lines.iter().flat_map(|line| line.split(',')).rev().nth(hops - 1)?;
    entry.trim().parse().ok()
}

/// The bearer token of the one `Authorization` field (RFC 6750 section 2.1; the scheme in any case).
///
/// # Errors
/// [`Problem::Unauthenticated`] where no bearer token came; [`Problem::InvalidToken`] where more than one field came.
pub fn bearer(request: &Request) -> Result<&str, ApiError> {
    let mut fields = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case("Authorization"));
    let (_, value) = fields.next().ok_or(Problem::Unauthenticated)?;
    if fields.next().is_some() {
        return Err(Problem::InvalidToken.because("two_authorization_fields"));
    }
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("Bearer") && !token.trim().is_empty() => Ok(token.trim()),
        _ => Err(Problem::Unauthenticated.into()),
    }
}

/// The members of a JSON object, to be taken out one by one; what is left at the end is unknown.
pub struct Body {
    members: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Body {
    /// The body of a request that needs one.
    ///
    /// # Errors
    /// 415, 400, and 422 where the JSON value is no object.
    pub fn read(request: &Request) -> Result<Body, ApiError> {
        Body::parse(request, read_bytes(request)?)
    }

    /// The body of a request that may come without one.
    ///
    /// # Errors
    /// As [`Body::read`].
    pub fn read_optional(request: &Request) -> Result<Option<Body>, ApiError> {
        let bytes = read_bytes(request)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        Body::parse(request, bytes).map(Some)
    }

    fn parse(request: &Request, bytes: Vec<u8>) -> Result<Body, ApiError> {
        let media_type = request.header("Content-Type").and_then(|value| value.split(';').next()).unwrap_or_default();
        let is_encoded = request.header("Content-Encoding").is_some_and(|c| !c.eq_ignore_ascii_case("identity"));
        if !media_type.trim().eq_ignore_ascii_case("application/json") || is_encoded {
            return Err(Problem::UnsupportedMediaType.into());
        }
        match without_duplicates(&bytes) {
            Some(Value::Object(members)) => Ok(Body { members, errors: Vec::new() }),
            Some(_) => Err(ApiError::field("", "must be a JSON object")),
            None => Err(Problem::InvalidJson.into()),
        }
    }

    /// Whether the body names the member.
    pub fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// The value that `parse` makes of a text that must be there.
    pub fn text<T, E: Into<Cow<'static, str>>>(
        &mut self,
        name: &str,
        parse: impl FnOnce(String) -> Result<T, E>,
    ) -> Option<T> {
        let parsed = match self.members.remove(name) {
            Some(Value::String(text)) => parse(text).map_err(Into::into),
            Some(_) => Err("must be a string".into()),
            None => Err("must be given".into()),
        };
        self.keep(name, parsed)
    }

    /// The flag that must be there.
    pub fn flag(&mut self, name: &str) -> Option<bool> {
        let parsed = match self.members.remove(name) {
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err("must be true or false".into()),
            None => Err("must be given".into()),
        };
        self.keep(name, parsed)
    }

    /// What `parse` makes of a text that may be null; only for a member that the body names.
    pub fn nullable<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(String) -> Result<T, &'static str>,
    ) -> Option<Option<T>> {
        if let Some(Value::Null) = self.members.get(name) {
            self.members.remove(name);
            return Some(None);
        }
        self.text(name, parse).map(Some)
    }

    /// Records a broken rule of the body as a whole.
    pub fn refuse(&mut self, detail: &'static str) {
        self.errors.push(FieldError { field: String::new(), detail: detail.into() });
    }

    /// The value, if every rule held and nothing is left over.
    ///
    /// # Errors
    /// 422 with every broken rule and every unknown member.
    pub fn done<T>(mut self, value: Option<T>) -> Result<T, ApiError> {
        let unknown =
            self.members.keys().map(|name| FieldError { field: name.clone(), detail: "is not known here".into() });
        self.errors.extend(unknown);
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(ApiError::fields(self.errors)),
        }
    }

    fn keep<T>(&mut self, name: &str, parsed: Result<T, Cow<'static, str>>) -> Option<T> {
        parsed.map_err(|detail| self.errors.push(FieldError { field: name.to_owned(), detail })).ok()
    }
}

/// The text, if it holds no NUL, which PostgreSQL cannot store.
///
/// # Errors
/// The rule that is broken.
pub fn without_nul(text: String) -> Result<String, &'static str> {
    if text.contains('\0') { Err("must not contain NUL") } else { Ok(text) }
}

/// The listener has bounded and read the body already.
fn read_bytes(request: &Request) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    let mut body = request.data().ok_or_else(|| Problem::Internal.because("body read twice"))?;
    body.read_to_end(&mut bytes).map_err(|error| Problem::Internal.because(error.to_string()))?;
    Ok(bytes)
}

/// The value that `parse` makes of a query parameter; nothing if it does not come. Unknown parameters are ignored.
///
/// # Errors
/// 422 with the rule, also where the parameter comes twice.
pub fn query<T>(
    request: &Request,
    name: &str,
    rule: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<Option<T>, ApiError> {
    let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8().ok().map(Cow::into_owned);
    let mut values = request.raw_query_string().split('&').filter_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key).as_deref() == Some(name)).then_some(value)
    });
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(ApiError::field(name, "must come once"));
    }
    match decode(value).as_deref().and_then(parse) {
        Some(value) => Ok(Some(value)),
        None => Err(ApiError::field(name, rule)),
    }
}

/// The segments of a path, split as sent and then decoded once; nothing if one is not UTF-8.
pub fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/')?;
    path.split('/').map(|segment| percent_decode_str(segment).decode_utf8().ok().map(Cow::into_owned)).collect()
}

/// The text as one segment of a path; `.` and `..` too, which a client would otherwise resolve away.
pub fn segment(text: &str) -> Cow<'_, str> {
    match text {
        "." => Cow::Borrowed("%2E"),
        ".." => Cow::Borrowed("%2E%2E"),
        _ => utf8_percent_encode(text, SEGMENT).into(),
    }
}

/// A JSON reply.
pub fn json(status: u16, value: &impl serde::Serialize) -> Result<Response, ApiError> {
    let body = serde_json::to_vec(value).map_err(|error| Problem::Internal.because(error.to_string()))?;
    Ok(Response::from_data("application/json", body).with_status_code(status))
}

/// 204.
pub fn no_content() -> Response {
    Response::empty_204()
}

/// RFC 9457 section 3.1, and what of ours goes with it.
#[derive(serde::Serialize)]
struct ProblemDetails<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'static str,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a Vec<FieldError>>,
}

/// What the client is told of an error.
pub fn problem(error: &ApiError, request_id: Uuid) -> Response {
    let words = error.problem.words();
    let details = ProblemDetails {
        r#type: format!("/docs#{}", words.slug),
        title: words.title,
        status: words.status,
        detail: words.detail,
        request_id: request_id.to_string(),
        errors: (error.problem == Problem::Validation).then_some(&error.fields),
    };
    // Strings and numbers alone: there is nothing in it that could fail.
    let body = serde_json::to_vec(&details).unwrap_or_default();
    let response = Response::from_data("application/problem+json", body).with_status_code(words.status);
    match words.status {
        401 if error.problem == Problem::InvalidToken => {
            response.with_additional_header("WWW-Authenticate", format!("{CHALLENGE}, error=\"invalid_token\""))
        }
        401 => response.with_additional_header("WWW-Authenticate", CHALLENGE),
        405 => response.with_additional_header("Allow", error.allow.clone()),
        429 | 503 => response.with_additional_header("Retry-After", error.retry_after_seconds.to_string()),
        _ => response,
    }
}

#[cfg(test)]
mod tests {
    use super::{Client, segment, segments};

    fn address_behind(lines: &[&str], trusted_proxies: usize) -> String {
        let headers = lines.iter().map(|line| ("x-forwarded-for", *line));
        Client::new([10, 0, 0, 9].into(), headers, trusted_proxies, None).address.to_string()
    }

    #[test]
    fn only_what_trusted_proxies_appended_is_believed() {
        let lines = ["1.1.1.1, 2.2.2.2", "3.3.3.3"];
        for (proxies, expected) in [(0, "10.0.0.9"), (1, "3.3.3.3"), (2, "2.2.2.2"), (3, "1.1.1.1"), (4, "10.0.0.9")] {
            assert_eq!(address_behind(&lines, proxies), expected, "{proxies} proxies");
        }
        assert_eq!(address_behind(&["1.1.1.1, unknown"], 1), "10.0.0.9");
    }

    #[test]
    fn an_ipv6_customer_is_one_network_and_a_mapped_address_is_ipv4() {
        let client = |text: &str| Client::new(text.parse().unwrap_or([0; 16].into()), std::iter::empty(), 0, None);
        assert_eq!(client("2001:db8:1:2:3:4:5:6").network().to_string(), "2001:db8:1:2::");
        assert_eq!(client("::ffff:1.2.3.4").network().to_string(), "1.2.3.4");
    }

    #[test]
    fn a_segment_is_decoded_once_and_after_the_split() {
        assert_eq!(segments("/a%2Fb/%2525"), Some(vec!["a/b".into(), "%25".into()]));
        assert_eq!(segments("/%ff"), None);
        assert_eq!((segment("..").as_ref(), segment("a/b").as_ref()), ("%2E%2E", "a%2Fb"));
    }
}
