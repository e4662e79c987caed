//! The lines between the chunks of a body: a size with its extensions, and the trailer fields behind the last.
//!
//! Source: RFC 9112 §7.1.

use super::HttpError;
use super::head::is_token_byte;

/// RFC 9112 §7.1: hexadecimal digits, at least one, without a sign. Then any number of extensions, which are ignored as
/// §7.1.1 says; but what is malformed might be a line end for another program on the way.
pub(super) fn chunk_size(line: &[u8]) -> Result<usize, HttpError> {
    const MALFORMED: HttpError = HttpError::BadRequest("a chunk size or extension is malformed");
    let (digits, mut extensions) = split_while(line, |byte| byte.is_ascii_hexdigit());
    if digits.is_empty() {
        return Err(MALFORMED);
    }
    while !extensions.is_empty() {
        extensions = after_extension(extensions).ok_or(MALFORMED)?;
    }
    // A number that the type has no room for is too large, and not to wrap round (RFC 9112 §7.1).
    Ok(str::from_utf8(digits).map_or(usize::MAX, |digits| usize::from_str_radix(digits, 16).unwrap_or(usize::MAX)))
}

/// What is behind one `BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ]`; `None` where there is none.
fn after_extension(input: &[u8]) -> Option<&[u8]> {
    let (name, rest) = split_while(after_blanks(after_blanks(input).strip_prefix(b";")?), is_token_byte);
    let Some(value) = after_blanks(rest).strip_prefix(b"=").map(after_blanks) else {
        return (!name.is_empty()).then_some(rest);
    };
    let (token, behind) = split_while(value, is_token_byte);
    let behind = if token.is_empty() { after_quoted_string(value)? } else { behind };
    (!name.is_empty()).then_some(behind)
}

/// RFC 9110 §5.6.4: what is behind a quoted string; `None` where there is none.
fn after_quoted_string(input: &[u8]) -> Option<&[u8]> {
    let mut rest = input.strip_prefix(b"\"")?;
    loop {
        match split_while(rest, |byte| !is_control(byte) && !b"\"\\".contains(&byte)).1 {
            [b'"', behind @ ..] => return Some(behind),
            [b'\\', escaped, behind @ ..] if !is_control(*escaped) => rest = behind,
            _ => return None,
        }
    }
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

fn after_blanks(input: &[u8]) -> &[u8] {
    split_while(input, |byte| byte == b' ' || byte == b'\t').1
}

/// The longest beginning of such bytes, and the rest.
fn split_while(input: &[u8], belongs: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let end = input.iter().position(|&byte| !belongs(byte)).unwrap_or(input.len());
    input.split_at_checked(end).unwrap_or_default()
}

/// RFC 9112 §7.1.2: a trailer field looks like a header field. None is kept: what it says comes too late to be heeded
/// (RFC 9110 §6.5.1).
pub(super) fn check_trailer(line: &[u8]) -> Result<(), HttpError> {
    let section = [line, b"\r\n\r\n"].concat();
    let parsed = httparse::parse_headers(&section, &mut [httparse::EMPTY_HEADER]).is_ok_and(|read| read.is_complete());
    parsed.then_some(()).ok_or(HttpError::BadRequest("a trailer field is malformed"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on must fail at once")]
pub(super) mod tests {
    use super::*;

    /// What RFC 9112 §7.1.1 says, written down once more: cut at the semicolons first.
    pub fn are_extensions(text: &str) -> bool {
        const BLANK: [char; 2] = [' ', '\t'];
        let (mut parts, mut is_quoted, mut is_escaped) = (vec![String::new()], false, false);
        for c in text.chars() {
            match c {
                ';' if !is_quoted => parts.push(String::new()),
                _ => parts.last_mut().unwrap().push(c),
            }
            is_quoted ^= c == '"' && !is_escaped;
            is_escaped = is_quoted && c == '\\' && !is_escaped;
        }
        let is_token = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii() && is_token_byte(c as u8));
        let is_part = |part: &String| match part.trim_matches(BLANK).split_once('=') {
            None => is_token(part.trim_matches(BLANK)),
            Some((name, value)) => {
                let value = value.trim_start_matches(BLANK);
                let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                let inner = inner.map(|inner| inner.replace("\\\\", "").replace("\\\"", ""));
                let is_quoted = inner.is_some_and(|inner| !inner.contains('"') && !inner.ends_with('\\'));
                is_token(name.trim_end_matches(BLANK)) && (is_token(value) || is_quoted)
            }
        };
        let is_start = parts[0].trim_matches(BLANK).is_empty();
        text.is_empty() || is_start && !text.ends_with(BLANK) && parts.len() > 1 && parts[1..].iter().all(is_part)
    }
}
