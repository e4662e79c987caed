//! Responses: JSON, no content, problems.
//!
//! Source: RFC 9110 section 11.6.1 (challenges), RFC 9457 (problem details).

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rouille::Response;

use crate::error::{ApiError, FieldError, Problem};

/// The realm of every challenge (RFC 9110 section 11.5).
const CHALLENGE: &str = "Bearer realm=\"latchkey\"";
/// What a path segment holds unencoded: RFC 3986, unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A JSON reply.
pub fn json(status: u16, value: &impl serde::Serialize) -> Result<Response, ApiError> {
    let body = serde_json::to_vec(value).map_err(|error| Problem::Internal.with_cause(error.to_string()))?;
    Ok(Response::from_data("application/json", body).with_status_code(status))
}

/// A JSON array of the first items, as many as fit into `max_bytes` but at least one, and how many these are.
pub fn json_page(items: &[impl serde::Serialize], max_bytes: usize) -> Result<(Response, usize), ApiError> {
    let (mut body, mut count) = (vec![b'['], 0);
    for item in items {
        let start = body.len();
        if count > 0 {
            body.push(b',');
        }
        serde_json::to_writer(&mut body, item).map_err(|error| Problem::Internal.with_cause(error.to_string()))?;
        // With the bracket behind.
        if count > 0 && body.len() + 1 > max_bytes {
            body.truncate(start);
            break;
        }
        count += 1;
    }
    body.push(b']');
    Ok((Response::from_data("application/json", body), count))
}

/// 204.
pub fn no_content() -> Response {
    Response::empty_204()
}

/// The members of RFC 9457 section 3.1, and two of ours: `request_id` and `errors`.
#[derive(serde::Serialize)]
struct ProblemDetails<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<&'a Vec<FieldError>>,
}

/// What the client is told of an error: S45, words of the table alone; S44, the challenge of a 401.
pub fn problem(error: &ApiError, request_id: &str) -> Response {
    let spec = error.problem.spec();
    let details = ProblemDetails {
        r#type: format!("/docs#{}", spec.slug),
        title: spec.title,
        status: spec.status,
        detail: spec.detail,
        request_id,
        errors: (error.problem == Problem::Validation).then_some(&error.fields),
    };
    // Strings and numbers alone: serializing them cannot fail.
    let body = serde_json::to_vec(&details).unwrap_or_default();
    let response = Response::from_data("application/problem+json", body).with_status_code(spec.status);
    match spec.status {
        401 if error.problem == Problem::InvalidToken => {
            response.with_additional_header("WWW-Authenticate", format!("{CHALLENGE}, error=\"invalid_token\""))
        }
        401 => response.with_additional_header("WWW-Authenticate", CHALLENGE),
        405 => response.with_additional_header("Allow", error.allow.clone()),
        429 | 503 => response.with_additional_header("Retry-After", error.retry_after_seconds.to_string()),
        _ => response,
    }
}

/// The text percent-encoded as one segment of a path; `.` and `..` too, which clients would resolve otherwise.
pub fn segment(text: &str) -> Cow<'_, str> {
    match text {
        "." => Cow::Borrowed("%2E"),
        ".." => Cow::Borrowed("%2E%2E"),
        _ => utf8_percent_encode(text, SEGMENT).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn dots_and_slashes_in_a_path_segment_are_percent_encoded() {
        assert_eq!((segment("..").as_ref(), segment("a/b").as_ref()), ("%2E%2E", "a%2Fb"));
    }
}
