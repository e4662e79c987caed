//! What a handler reads of a request: the client, the bearer token, a JSON body, query parameters.
//!
//! Source: RFC 9110, RFC 6750 (bearer), RFC 8259 (JSON).

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use rouille::Request;
use serde_json::Value;

use crate::database::TimeBudget;
use crate::error::{ApiError, FieldError, Problem};
use crate::json::{plain_value, read_members};
use crate::server::{Connection, network};

/// The most errors that an answer names. A body can hold thousands, and a client may never read the answer.
const MAX_ERRORS: usize = 20;
/// The most characters of an unknown member's name that an answer repeats.
const NAME_MAX_LENGTH: usize = 100;

/// One request on its way through a handler.
pub struct RequestContext<'a> {
    /// As the client sent it.
    pub request: &'a Request,
    /// The path as the route table has it.
    pub route: &'static str,
    /// The decoded path segments that stand for `{…}` in the route, in order.
    pub parameters: Vec<Cow<'a, str>>,
    /// Who sent it.
    pub client: ClientInfo<'a>,
    /// For its statements.
    pub budget: &'a TimeBudget<'a>,
    /// For the log: the subject of its token, once that is verified.
    pub user: OnceCell<String>,
}

impl RequestContext<'_> {
    /// The n-th `{…}` of the route.
    pub fn parameter(&self, n: usize) -> &str {
        self.parameters.get(n).map_or("", AsRef::as_ref)
    }

    /// Keeps the subject of the verified token for the log, also for the line of an answer in the handler's place.
    pub fn set_user(&self, subject: &str) {
        let _ = self.user.set(subject.to_owned());
        self.client.connection.leave_note(subject.to_owned());
    }
}

/// Who sent a request, as far as the network tells.
pub struct ClientInfo<'a> {
    /// The address behind the trusted proxies; IPv4 also where it came mapped into IPv6.
    pub address: IpAddr,
    /// The id of this request, in the answer and in the log.
    pub request_id: String,
    /// What it was sent on.
    pub connection: &'a Connection,
}

impl ClientInfo<'_> {
    /// The address as it is counted by limits: see [`network`].
    pub fn network(&self) -> IpAddr {
        network(self.address)
    }

    /// Whether the server has answered in place of the handler, which then must begin nothing more.
    pub fn is_answered(&self) -> bool {
        self.connection.is_answered()
    }

    /// Whether the client has left.
    pub fn is_gone(&self) -> bool {
        self.connection.is_gone()
    }
}

/// The bearer token of the one `Authorization` field (RFC 6750 section 2.1; the scheme in any case).
///
/// # Errors
/// [`Problem::Unauthenticated`] where no bearer token came; [`Problem::InvalidToken`] where more than one field came.
pub fn bearer(request: &Request) -> Result<&str, ApiError> {
    let mut fields = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case("Authorization"));
    let (_, value) = fields.next().ok_or(Problem::Unauthenticated)?;
    // S16
    if fields.next().is_some() {
        return Err(Problem::InvalidToken.with_cause("two_authorization_fields"));
    }
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("Bearer") && !token.trim().is_empty() => Ok(token.trim()),
        _ => Err(Problem::Unauthenticated.into()),
    }
}

/// The members of a JSON object that an operation knows, and the names of some others.
pub struct Body {
    /// A number, a list or an object is `None`: no operation takes one.
    members: BTreeMap<String, Option<Value>>,
    unknown: Vec<String>,
    errors: Vec<FieldError>,
}

impl Body {
    /// The body of a request that needs one. The operation reads `known` members and no others.
    ///
    /// # Errors
    /// 415, 400, and 422 where the JSON value is no object.
    pub fn read(request: &Request, known: &[&str]) -> Result<Body, ApiError> {
        match read_bytes(request)? {
            nothing if nothing.is_empty() => Err(Problem::InvalidJson.into()),
            bytes => Body::parse(request, &bytes, known),
        }
    }

    /// The body of a request that may come without one.
    ///
    /// # Errors
    /// As [`Body::read`].
    pub fn read_optional(request: &Request, known: &[&str]) -> Result<Option<Body>, ApiError> {
        let bytes = read_bytes(request)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        Body::parse(request, &bytes, known).map(Some)
    }

    fn parse(request: &Request, bytes: &[u8], known: &[&str]) -> Result<Body, ApiError> {
        let values =
            |name| request.headers().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        let is_json = |value: &str| {
            value.split(';').next().is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"))
        };
        // Of two fields one reader takes the first and another the last: each must say the same.
        let is_plain_json = values("Content-Type").all(is_json) && values("Content-Type").next().is_some();
        if !is_plain_json || !values("Content-Encoding").all(|coding| coding.eq_ignore_ascii_case("identity")) {
            return Err(Problem::UnsupportedMediaType.into());
        }
        let (mut members, mut unknown) = (BTreeMap::new(), Vec::new());
        let is_object = read_members(bytes, |name, value| {
            if known.contains(&&*name) {
                members.insert(name, plain_value(value));
            } else if unknown.len() < MAX_ERRORS {
                unknown.push(cut(name));
            }
        });
        match is_object {
            Some(true) => Ok(Body { members, unknown, errors: Vec::new() }),
            Some(false) => Err(ApiError::field("", "must be a JSON object")),
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
            Some(Some(Value::String(text))) => parse(text).map_err(Into::into),
            Some(_) => Err("must be a string".into()),
            None => Err("must be given".into()),
        };
        self.keep(name, parsed)
    }

    /// The flag that must be there.
    pub fn flag(&mut self, name: &str) -> Option<bool> {
        let parsed = match self.members.remove(name) {
            Some(Some(Value::Bool(flag))) => Ok(flag),
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
        if let Some(Some(Value::Null)) = self.members.get(name) {
            self.members.remove(name);
            return Some(None);
        }
        self.text(name, parse).map(Some)
    }

    /// Records a broken rule of the body as a whole.
    pub fn refuse(&mut self, detail: &'static str) {
        self.errors.push(FieldError { field: String::new(), detail: detail.into() });
    }

    /// S31: the value, if every rule holds and there is no unknown member.
    ///
    /// # Errors
    /// 422 with the broken rules and the unknown members, at most 20.
    pub fn done<T>(mut self, value: Option<T>) -> Result<T, ApiError> {
        let unknown = self.unknown.into_iter().map(|field| FieldError { field, detail: "is not known here".into() });
        self.errors.extend(unknown.take(MAX_ERRORS.saturating_sub(self.errors.len())));
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(ApiError::fields(self.errors)),
        }
    }

    fn keep<T>(&mut self, name: &str, parsed: Result<T, Cow<'static, str>>) -> Option<T> {
        parsed.map_err(|detail| self.errors.push(FieldError { field: name.to_owned(), detail })).ok()
    }
}

/// A name as the client wrote it, for an answer that stays short.
fn cut(name: String) -> String {
    match name.char_indices().nth(NAME_MAX_LENGTH) {
        Some((end, _)) => format!("{}…", name.get(..end).unwrap_or_default()),
        None => name,
    }
}

/// The text, if it holds no NUL, which PostgreSQL cannot store.
///
/// # Errors
/// The rule that is broken.
pub fn without_nul(text: String) -> Result<String, &'static str> {
    if text.contains('\0') { Err("must not contain NUL") } else { Ok(text) }
}

/// The server has limited and read the body already.
fn read_bytes(request: &Request) -> Result<Vec<u8>, ApiError> {
    let length = request.header("Content-Length").and_then(|length| length.parse().ok());
    let mut bytes = Vec::with_capacity(length.unwrap_or_default());
    let mut body = request.data().ok_or_else(|| Problem::Internal.with_cause("body read twice"))?;
    body.read_to_end(&mut bytes).map_err(|error| Problem::Internal.with_cause(error.to_string()))?;
    Ok(bytes)
}

/// The value that `parse` makes of a query parameter; `None` without the parameter. Unknown parameters are ignored.
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

/// The segments of a path, split as sent and then decoded once; `None` if one is not UTF-8.
pub fn segments(path: &str) -> Option<Vec<Cow<'_, str>>> {
    let path = path.strip_prefix('/')?;
    path.split('/').map(|segment| percent_decode_str(segment).decode_utf8().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{network, segments};

    #[test]
    fn an_ipv6_customer_is_one_network_and_a_mapped_address_is_ipv4() {
        for (address, expected) in
            [("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"), ("::ffff:1.2.3.4", "1.2.3.4"), ("1.2.3.4", "1.2.3.4")]
        {
            assert_eq!(address.parse::<IpAddr>().map(|address| network(address).to_string()), Ok(expected.to_owned()));
        }
    }

    #[test]
    fn a_segment_is_decoded_once_and_after_the_split() {
        assert_eq!(segments("/a%2Fb/%2525"), Some(vec!["a/b".into(), "%25".into()]));
        assert_eq!(segments("/%ff"), None);
    }
}
