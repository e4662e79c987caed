//! Bodies: of a known length, or in chunks (RFC 9112 §7.1).
//!
//! A body is taken from the bytes as they come, cut anywhere, and never more than the limit of it is held. As in the
//! head, nothing is repaired: a chunk is `size CRLF content CRLF` to the letter.

use super::Refusal;
use super::head::{Framing, has_control, is_token};

/// The most bytes of a body, and, counted apart, the most bytes of everything between a body's chunks.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// The most bytes of one line between chunks: a size with its extensions, or a trailer field.
const MAX_LINE_BYTES: usize = 4 * 1024;

/// A body that is being received.
#[derive(Debug)]
pub(super) struct Body {
    content: Vec<u8>,
    overhead: usize,
    expected: Expected,
    chunked: bool,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    ChunkSize,
    /// So many bytes of content, at least one.
    Content(usize),
    /// The line end behind a chunk's content.
    ChunkEnd,
    Trailer,
    Nothing,
}

impl Body {
    /// A body of which nothing has come.
    ///
    /// # Errors
    /// A length that is too large, so that the client can be told before it sends the body.
    pub(super) fn new(framing: Framing) -> Result<Body, Refusal> {
        let expected = match framing {
            Framing::Chunked => Expected::ChunkSize,
            Framing::Length(0) => Expected::Nothing,
            Framing::Length(length) => match usize::try_from(length) {
                Ok(length) if length <= MAX_BODY_BYTES => Expected::Content(length),
                _ => return Err(Refusal::BodyTooLarge),
            },
        };
        Ok(Body { content: Vec::new(), overhead: 0, expected, chunked: framing == Framing::Chunked })
    }

    /// Takes what `input` holds of the body, and gives back how many bytes that was. The rest is to be offered again
    /// with more behind it, or, where the body is complete, belongs to the next request.
    ///
    /// # Errors
    /// Malformed chunks, and too many bytes of content or of what stands between.
    pub(super) fn read(&mut self, input: &[u8]) -> Result<usize, Refusal> {
        let mut rest = input;
        while let Some(behind) = self.step(rest)? {
            rest = behind;
        }
        Ok(input.len() - rest.len())
    }

    /// Whether all of the body has come.
    pub(super) fn is_complete(&self) -> bool {
        self.expected == Expected::Nothing
    }

    /// The content that has come.
    pub(super) fn into_content(self) -> Vec<u8> {
        self.content
    }

    /// Takes one line or one piece of content, and gives what is behind it; nothing, if more has to come first or
    /// the body is complete.
    fn step<'a>(&mut self, input: &'a [u8]) -> Result<Option<&'a [u8]>, Refusal> {
        match self.expected {
            Expected::Nothing => return Ok(None),
            Expected::Content(left) => return Ok(self.take_content(input, left)),
            Expected::ChunkSize | Expected::ChunkEnd | Expected::Trailer => {}
        }
        let Some((line, behind)) = split_line(input)? else {
            return Ok(None);
        };
        self.overhead += input.len() - behind.len();
        if self.overhead > MAX_BODY_BYTES {
            return Err(Refusal::BodyTooLarge);
        }
        self.expected = match self.expected {
            Expected::ChunkSize => self.after_size(parse_chunk_size(line)?)?,
            Expected::ChunkEnd if line.is_empty() => Expected::ChunkSize,
            Expected::ChunkEnd => {
                return Err(Refusal::BadRequest("a chunk is longer than its size"));
            }
            _ if line.is_empty() => Expected::Nothing,
            _ => check_trailer(line).map(|()| Expected::Trailer)?,
        };
        Ok(Some(behind))
    }

    fn take_content<'a>(&mut self, input: &'a [u8], left: usize) -> Option<&'a [u8]> {
        let (piece, behind) = input.split_at_checked(left).unwrap_or((input, &[]));
        if piece.is_empty() {
            return None;
        }
        self.content.reserve(left);
        self.content.extend_from_slice(piece);
        self.expected = match left - piece.len() {
            0 if self.chunked => Expected::ChunkEnd,
            0 => Expected::Nothing,
            left => Expected::Content(left),
        };
        Some(behind)
    }

    fn after_size(&self, size: usize) -> Result<Expected, Refusal> {
        match size {
            0 => Ok(Expected::Trailer),
            size if size <= MAX_BODY_BYTES - self.content.len() => Ok(Expected::Content(size)),
            _ => Err(Refusal::BodyTooLarge),
        }
    }
}

/// A line and what is behind it.
type Split<'a> = (&'a [u8], &'a [u8]);

/// The first line of `input` without its CRLF, and what is behind; nothing, while its end has not come.
fn split_line(input: &[u8]) -> Result<Option<Split<'_>>, Refusal> {
    let Some(end) = input.iter().position(|&b| b == b'\n') else {
        if input.len() > MAX_LINE_BYTES {
            return Err(Refusal::BadRequest("a line between chunks does not end"));
        }
        return Ok(None);
    };
    let (line, behind) = input.split_at_checked(end + 1).unwrap_or_default();
    // RFC 9112 §7.1 has CRLF only; the leave of §2.2 to take a lone LF is for heads.
    match line.strip_suffix(b"\r\n") {
        Some(line) if line.len() <= MAX_LINE_BYTES => Ok(Some((line, behind))),
        Some(_) => Err(Refusal::BadRequest("a line between chunks is too long")),
        None => Err(Refusal::BadRequest("a line between chunks ends in LF without CR")),
    }
}

/// RFC 9112 §7.1: at least one hexadecimal digit, no sign, no `0x`; then nothing, or extensions (§7.1.1), which are
/// ignored.
fn parse_chunk_size(line: &[u8]) -> Result<usize, Refusal> {
    const MALFORMED: Refusal = Refusal::BadRequest("a chunk size is malformed");
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at_checked(digits).ok_or(MALFORMED)?;
    let has_extensions = extensions.trim_ascii_start().starts_with(b";");
    if digits.is_empty() || !(extensions.is_empty() || has_extensions) || has_control(extensions) {
        return Err(MALFORMED);
    }
    let digits = str::from_utf8(digits).map_err(|_| MALFORMED)?;
    // What does not fit into the type is a number all the same, and too large (RFC 9112 §7.1).
    Ok(usize::from_str_radix(digits, 16).unwrap_or(usize::MAX))
}

/// RFC 9112 §7.1.2: a trailer field has the form of a header field. None is kept: what it says comes too late to be
/// heeded here (RFC 9110 §6.5.1).
fn check_trailer(line: &[u8]) -> Result<(), Refusal> {
    let name_end = line.iter().position(|&b| b == b':').unwrap_or(0);
    let (name, value) = line.split_at_checked(name_end).unwrap_or_default();
    if !is_token(name) || has_control(value) {
        return Err(Refusal::BadRequest("a trailer field is malformed"));
    }
    Ok(())
}
