//! Bodies: of a known length, or in chunks.
//!
//! A body is taken from the bytes as they come, cut anywhere, and no more than the limit is ever held. Nothing is
//! repaired: a chunk is size, CRLF, content, CRLF to the letter, since two programs that read one message must not
//! find its end in two places.
//!
//! Source: RFC 9112 §6 (body), §7.1 (chunks).

use super::HttpError;
use super::chunk::{check_trailer, chunk_size};

/// The most bytes of a body; and, counted apart, of all that stands between its chunks.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// The most bytes of a line between chunks: a size with its extensions, or a trailer field.
const MAX_LINE_BYTES: usize = 4 * 1024;

/// A body that is being received. The default is that of a request which has none.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub content: Vec<u8>,
    is_chunked: bool,
    next: Next,
    bytes_between_chunks: usize,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Nothing,
    /// Content, of which so many bytes are to come; none only where the length is 0.
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
    pub(super) fn with_length(value: &str) -> Result<Body, HttpError> {
        // S38, RFC 9110 §8.6: digits only: no sign, no blank, no list.
        let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
        match value.parse() {
            _ if !is_number => Err(HttpError::BadRequest("Content-Length is not a number")),
            Ok(length) if length <= MAX_BODY_BYTES => Ok(Body { next: Next::Content(length), ..Body::default() }),
            // A number that the type has no room for included (RFC 9112 §6.3).
            _ => Err(HttpError::BodyTooLarge),
        }
    }

    /// A body in chunks.
    pub(super) fn chunked() -> Body {
        Body { is_chunked: true, next: Next::ChunkSize, ..Body::default() }
    }

    /// Takes what `input` holds of the body, and tells whether that is all of it. What is left is to be offered again
    /// with more behind it, or belongs to the next request.
    ///
    /// # Errors
    /// Malformed chunks, and too much of anything.
    pub(super) fn read(&mut self, input: &mut Vec<u8>) -> Result<bool, HttpError> {
        let mut rest = &**input;
        while let Some(behind) = self.step(rest)? {
            rest = behind;
        }
        input.drain(..input.len() - rest.len());
        Ok(self.next == Next::Nothing)
    }

    /// Takes one line or some content and gives what is behind it, or nothing where it can take nothing.
    fn step<'a>(&mut self, input: &'a [u8]) -> Result<Option<&'a [u8]>, HttpError> {
        match self.next {
            Next::Nothing => return Ok(None),
            Next::Content(left) => return Ok(self.take_content(input, left)),
            Next::ChunkEnd | Next::ChunkSize | Next::Trailer => {}
        }
        let end = input.iter().position(|&b| b == b'\n').unwrap_or(input.len());
        if end > MAX_LINE_BYTES || end + self.bytes_between_chunks > MAX_BODY_BYTES {
            return Err(HttpError::BodyTooLarge);
        }
        let Some((line, behind)) = input.split_at_checked(end + 1) else { return Ok(None) };
        // S39, RFC 9112 §7.1: CRLF only; a lone LF, which §2.2 lets pass in a head, would end the chunk for some.
        let line = line.strip_suffix(b"\r\n").ok_or(HttpError::BadRequest("a line between chunks has no CRLF"))?;
        self.bytes_between_chunks += end + 1;
        self.next = match self.next {
            Next::ChunkSize => match chunk_size(line)? {
                0 => Next::Trailer,
                // S38
                size if size > MAX_BODY_BYTES - self.content.len() => return Err(HttpError::BodyTooLarge),
                size => Next::Content(size),
            },
            Next::ChunkEnd if line.is_empty() => Next::ChunkSize,
            Next::ChunkEnd => return Err(HttpError::BadRequest("a chunk is longer than its size")),
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on must fail at once")]
pub(super) mod tests {
    use super::super::chunk::tests::are_extensions;
    use super::*;

    const TOO_LARGE: HttpError = HttpError::BodyTooLarge;

    /// Marsaglia's xorshift64: the same mutations in every run.
    pub struct Random(pub u64);

    impl Random {
        pub fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 % bound as u64) as usize
        }

        /// One of the samples, with up to four bytes or pieces put in, taken out or changed.
        pub fn mutated(&mut self, samples: &[&[u8]], pieces: &[&[u8]]) -> Vec<u8> {
            let mut bytes = samples[self.below(samples.len())].to_vec();
            for _ in 0..self.below(5) {
                let at = self.below(bytes.len() + 1);
                let end = (at + self.below(4)).min(bytes.len());
                let piece = match self.below(4) {
                    0 => vec![self.below(256) as u8],
                    1 => bytes[at..end].to_vec(),
                    2 => Vec::new(),
                    _ => pieces[self.below(pieces.len())].to_vec(),
                };
                let end = if self.below(2) == 0 { at } else { end };
                bytes.splice(at..end, piece);
            }
            bytes
        }
    }

    /// The content and what is left of the input; nothing while the body is incomplete.
    type Outcome = Result<Option<(Vec<u8>, Vec<u8>)>, HttpError>;

    fn read_in_pieces<'a>(mut body: Body, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut input = Vec::new();
        let mut is_complete = false;
        for piece in pieces {
            input.extend_from_slice(piece);
            is_complete = is_complete || body.read(&mut input)?;
        }
        Ok(is_complete.then_some((body.content, input)))
    }

    fn read(body: Body, input: &[u8]) -> Outcome {
        read_in_pieces(body, [input])
    }

    fn done(content: &str, rest: &str) -> Outcome {
        Ok(Some((content.into(), rest.into())))
    }

    const ACCEPTED: [(&[u8], &str, &str); 9] = [
        (b"5\r\nhello\r\n0\r\n\r\nGET", "hello", "GET"),
        (b"0\r\n\r\n", "", ""),
        (b"000\r\n\r\n", "", ""),
        (b"2\r\nab\r\n00A\r\n0123456789\r\n0\r\n\r\n", "ab0123456789", ""),
        (b"1;a=b;c=\"d;e\"\r\nx\r\n0;last\r\n\r\n", "x", ""),
        (b"1 \t; a\r\nx\r\n0\r\n\r\n", "x", ""),
        (b"1;a\t= \"\\\"; \xff\" ;b;c = d\r\nx\r\n0\r\n\r\n", "x", ""),
        (b"1\r\n\n\r\n0\r\nDigest: abc\r\nB:\r\n\r\nrest", "\n", "rest"),
        (b"4\r\n\r\n\r\n\r\n0\r\n\r\n\r\n", "\r\n\r\n", "\r\n"),
    ];

    const REFUSED: [&[u8]; 37] = [
        b"\r\n",
        b"g\r\n",
        b"+1\r\nx\r\n",
        b"-1\r\n",
        b"0x1\r\nx\r\n",
        b" 1\r\nx\r\n",
        b"1 \r\nx\r\n",
        b"1 a\r\nx\r\n",
        b"1\nx\r\n",
        b"1\r\nx\n",
        b"1\r\nxy\r\n",
        b"1\r\nx0\r\n",
        b"1\r\nx\r\n\r\n",
        b"1;a\nb\r\nx\r\n",
        b"1;a\rb\r\nx\r\n",
        b"1;\0\r\nx\r\n",
        b"2;\r\nab\r\n",
        b"1;;a\r\nx\r\n",
        b"1; \r\nx\r\n",
        b"1;a;\r\nx\r\n",
        b"1;a \r\nx\r\n",
        b"1;a=\r\nx\r\n",
        b"1;=a\r\nx\r\n",
        b"1;a b\r\nx\r\n",
        b"1;a=b c\r\nx\r\n",
        b"1;a=\"b\r\nx\r\n",
        b"1;a=\"b\"c\r\nx\r\n",
        b"1\r\r\nx\r\n",
        b"0\r\n\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\n A: b\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\n: b\r\n\r\n",
        b"0\r\nA: b\rc\r\n\r\n",
        b"0\r\nA: \0\r\n\r\n",
        b"0\r\nA: b\x7f\r\n\r\n",
    ];

    #[test]
    fn chunks_are_put_together_and_nothing_behind_them_is_taken() {
        for (input, content, rest) in ACCEPTED {
            assert_eq!(read(Body::chunked(), input), done(content, rest), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn a_body_is_the_same_wherever_it_is_cut() {
        for (input, content, rest) in ACCEPTED {
            assert_eq!(read_in_pieces(Body::chunked(), input.chunks(1)), done(content, rest));
            for cut in 0..=input.len() {
                let (head, tail) = input.split_at(cut);
                assert_eq!(read_in_pieces(Body::chunked(), [head, tail]), done(content, rest));
                let is_complete = cut + rest.len() >= input.len();
                assert_eq!(read(Body::chunked(), head).unwrap().is_some(), is_complete);
            }
        }
    }

    #[test]
    fn malformed_chunks_are_refused_wherever_they_are_cut() {
        for input in REFUSED {
            let refused = |outcome| matches!(outcome, Err(HttpError::BadRequest(_)));
            assert!(refused(read(Body::chunked(), input)), "{}", input.escape_ascii());
            assert!(refused(read_in_pieces(Body::chunked(), input.chunks(1))), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn a_length_is_a_plain_number_up_to_the_limit() {
        for value in ["", "+1", "-1", "1 ", "0x1", "1,1", "1_0", "\u{661}"] {
            assert!(matches!(Body::with_length(value), Err(HttpError::BadRequest(_))), "{value:?}");
        }
        for value in ["65537", "70368744177664", "18446744073709551616", &"9".repeat(99)] {
            assert_eq!(Body::with_length(value).unwrap_err(), TOO_LARGE, "{value:?}");
        }
        assert_eq!(read(Body::with_length("0").unwrap(), b"GET"), done("", "GET"));
        assert_eq!(read(Body::with_length("003").unwrap(), b"abcGET"), done("abc", "GET"));
        let content = vec![b'x'; MAX_BODY_BYTES];
        assert_eq!(read(Body::with_length("65536").unwrap(), &content), Ok(Some((content, Vec::new()))));
    }

    #[test]
    fn chunks_and_what_is_between_them_have_limits() {
        let long = "x".repeat(MAX_LINE_BYTES);
        let content = "1000\r\n".to_owned() + &long + "\r\n";
        let read = |text: String| read(Body::chunked(), text.as_bytes());
        assert_eq!(read(content.repeat(16) + "0\r\n\r\n"), done(&long.repeat(16), ""));
        assert_eq!(read(content.repeat(16) + "1\r\n"), Err(TOO_LARGE));
        assert_eq!(read("10001\r\n".into()), Err(TOO_LARGE));
        assert_eq!(read("ffffffffffffffffffff\r\n".into()), Err(TOO_LARGE));
        assert_eq!(read("1\r\nx\r\n".repeat(14_000)), Err(TOO_LARGE));
        assert_eq!(read("0\r\n".to_owned() + &"A: b\r\n".repeat(11_000)), Err(TOO_LARGE));
        assert_eq!(read("1;".to_owned() + &long + "\r\n"), Err(TOO_LARGE));
        assert_eq!(read("1;".to_owned() + &long), Err(TOO_LARGE));
        assert_eq!(read(long + "x"), Err(TOO_LARGE));
    }

    /// What RFC 9112 §7.1 says, written down once more: over the whole input, and without the limits.
    fn expected(mut rest: &[u8]) -> Outcome {
        const BAD: Outcome = Err(HttpError::BadRequest(""));
        let mut content = Vec::new();
        let (mut is_size, mut is_trailer) = (true, false);
        while let Some(end) = rest.iter().position(|&b| b == b'\n') {
            let line = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest = &rest[end + 1..];
            let Some(line) = line.strip_suffix('\r') else { return BAD };
            if line.contains(|c: char| c.is_ascii_control() && c != '\t') {
                return BAD;
            }
            if is_trailer {
                let is_name = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
                match line.split_once(':') {
                    None if line.is_empty() => return Ok(Some((content, rest.to_vec()))),
                    Some((name, _)) if !name.is_empty() && name.chars().all(is_name) => {}
                    _ => return BAD,
                }
            } else if !is_size {
                is_size = true;
                if !line.is_empty() {
                    return BAD;
                }
            } else {
                let (size, extension) =
                    line.split_at(line.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(line.len()));
                let digits = size.trim_start_matches('0');
                let length = if digits.is_empty() { 0 } else { u128::from_str_radix(digits, 16).unwrap_or(u128::MAX) };
                if !are_extensions(extension) || size.is_empty() {
                    return BAD;
                }
                if length > 65_536 - content.len() as u128 {
                    return Err(TOO_LARGE);
                }
                is_trailer = length == 0;
                is_size = false;
                let taken = rest.len().min(length as usize);
                content.extend_from_slice(&rest[..taken]);
                rest = &rest[taken..];
            }
        }
        Ok(None)
    }

    #[test]
    fn a_hundred_thousand_mutated_bodies_are_read_by_the_letter() {
        let samples: Vec<_> = ACCEPTED.iter().map(|(input, ..)| *input).chain(REFUSED).collect();
        let pieces: [&[u8]; 13] =
            [b"\r\n", b"\n", b"\r", b"0", b"1", b";", b" ", b"\0", b"A: b", b"ffffffffffffffff", b"\"", b"\\", b"="];
        let mut random = Random(0x1A7C_4E11);
        for _ in 0..100_000 {
            let input = random.mutated(&samples, &pieces);
            let outcome = read(Body::chunked(), &input);
            let (head, tail) = input.split_at(random.below(input.len() + 1));
            assert_eq!(read_in_pieces(Body::chunked(), [head, tail]), outcome, "{}", input.escape_ascii());
            let size = 1 + random.below(3);
            assert_eq!(read_in_pieces(Body::chunked(), input.chunks(size)), outcome, "{}", input.escape_ascii());
            let without_words = outcome.map_err(|refusal| match refusal {
                HttpError::BadRequest(_) => HttpError::BadRequest(""),
                other => other,
            });
            assert_eq!(without_words, expected(&input), "{}", input.escape_ascii());
        }
    }
}
