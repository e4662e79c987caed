//! Bodies: of a known length, or in chunks.
//!
//! A body is taken from the bytes as they come, cut anywhere, and no more than the limit is ever held. Nothing is
//! repaired: a chunk is size, CRLF, content, CRLF to the letter, since two programs that read one message must not
//! find its end in two places.
//!
//! Source: RFC 9112 §6 (body), §7.1 (chunks).

use super::Refusal;

/// The most bytes of a body; and, counted apart, of all that stands between its chunks.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// The most bytes of a line between chunks: a size with its extensions, or a trailer field.
const MAX_LINE_BYTES: usize = 4 * 1024;

/// A body that is being received. The default is that of a request which has none.
#[derive(Debug, Default)]
pub(super) struct Body {
    content: Vec<u8>,
    is_chunked: bool,
    next: Next,
    bytes_between_chunks: usize,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Nothing,
    /// Content, of which so many bytes are to come.
    Content(usize),
    ChunkEnd,
    ChunkSize,
    Trailer,
}

impl Body {
    /// A body whose length a `Content-Length` field gives.
    ///
    /// # Errors
    /// A value that is no length, and a length that is too large, before any of it is sent.
    pub(super) fn with_length(value: &str) -> Result<Body, Refusal> {
        // RFC 9110 §8.6: digits only: no sign, no blank, no list.
        if value.is_empty() || !value.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Refusal::BadRequest("Content-Length is not a number"));
        }
        let next = match value.parse() {
            Ok(0) => Next::Nothing,
            Ok(length) if length <= MAX_BODY_BYTES => Next::Content(length),
            // A number that the type has no room for included (RFC 9112 §6.3).
            _ => return Err(Refusal::BodyTooLarge),
        };
        Ok(Body { next, ..Body::default() })
    }

    /// A body in chunks.
    pub(super) fn chunked() -> Body {
        Body { is_chunked: true, next: Next::ChunkSize, ..Body::default() }
    }

    /// Whether all of the body has come.
    pub(super) fn is_complete(&self) -> bool {
        self.next == Next::Nothing
    }

    /// What the body holds.
    pub(super) fn into_content(self) -> Vec<u8> {
        self.content
    }

    /// Takes what `input` holds of the body, and gives the number of bytes taken. The others are to be offered again,
    /// with more behind them; or, once the body is complete, belong to the next request.
    ///
    /// # Errors
    /// Malformed chunks, and too much of anything.
    pub(super) fn read(&mut self, input: &[u8]) -> Result<usize, Refusal> {
        let mut rest = input;
        while let Some(behind) = self.step(rest)? {
            rest = behind;
        }
        Ok(input.len() - rest.len())
    }

    /// Takes one line or some content and gives what is behind it, or nothing where it can take nothing.
    fn step<'a>(&mut self, input: &'a [u8]) -> Result<Option<&'a [u8]>, Refusal> {
        if let Next::Content(left) = self.next {
            return Ok(self.take_content(input, left));
        }
        let line_end = input.iter().position(|&b| b == b'\n');
        if self.is_complete() || line_end.is_none() && input.len() <= MAX_LINE_BYTES {
            return Ok(None);
        }
        let (line, behind) = input.split_at_checked(line_end.map_or(0, |end| end + 1)).unwrap_or_default();
        // RFC 9112 §7.1 has CRLF only; a lone LF, which §2.2 lets pass in a head, would end the chunk for some.
        let line = line.strip_suffix(b"\r\n").ok_or(Refusal::BadRequest("a line between chunks has no CRLF"))?;
        self.bytes_between_chunks += line.len() + 2;
        if line.len() > MAX_LINE_BYTES || self.bytes_between_chunks > MAX_BODY_BYTES {
            return Err(Refusal::BodyTooLarge);
        }
        self.next = match self.next {
            Next::ChunkSize => match chunk_size(line)? {
                0 => Next::Trailer,
                size if size > MAX_BODY_BYTES - self.content.len() => return Err(Refusal::BodyTooLarge),
                size => Next::Content(size),
            },
            Next::ChunkEnd if line.is_empty() => Next::ChunkSize,
            Next::ChunkEnd => return Err(Refusal::BadRequest("a chunk is longer than its size")),
            _ if line.is_empty() => Next::Nothing,
            _ => check_trailer(line).map(|()| Next::Trailer)?,
        };
        Ok(Some(behind))
    }

    fn take_content<'a>(&mut self, input: &'a [u8], left: usize) -> Option<&'a [u8]> {
        let (piece, behind) = input.split_at_checked(left).unwrap_or((input, &[]));
        self.content.reserve(left);
        self.content.extend_from_slice(piece);
        self.next = match left - piece.len() {
            0 if self.is_chunked => Next::ChunkEnd,
            0 => Next::Nothing,
            left => Next::Content(left),
        };
        (!piece.is_empty()).then_some(behind)
    }
}

/// RFC 9112 §7.1: hexadecimal digits, at least one, without a sign. Then nothing, or extensions, which §7.1.1 has us
/// ignore.
fn chunk_size(line: &[u8]) -> Result<usize, Refusal> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at_checked(digits).unwrap_or_default();
    let is_extension = extensions.trim_ascii_start().starts_with(b";");
    let has_control = extensions.iter().any(|b| b.is_ascii_control() && *b != b'\t');
    if digits.is_empty() || has_control || !extensions.is_empty() && !is_extension {
        return Err(Refusal::BadRequest("a chunk size is malformed"));
    }
    // A number that the type has no room for is too large, and not to wrap round (RFC 9112 §7.1).
    Ok(str::from_utf8(digits).map_or(usize::MAX, |digits| usize::from_str_radix(digits, 16).unwrap_or(usize::MAX)))
}

/// RFC 9112 §7.1.2: a trailer field looks like a header field. None is kept: what it says comes too late to be heeded
/// (RFC 9110 §6.5.1).
fn check_trailer(line: &[u8]) -> Result<(), Refusal> {
    let mut slot = [httparse::EMPTY_HEADER];
    match httparse::parse_headers(&[line, b"\r\n\r\n"].concat(), &mut slot) {
        Ok(httparse::Status::Complete(_)) => Ok(()),
        _ => Err(Refusal::BadRequest("a trailer field is malformed")),
    }
}
