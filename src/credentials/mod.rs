//! E-mail and password as types that cannot be wrong: each is made by one function that applies its whole rule.
//!
//! A password is never trimmed, cut or normalised, and its Debug prints nothing.
//! Source: HTML Living Standard, "valid e-mail address"; NIST SP 800-63B-4 section 3.1.1; ASVS 5.0 V6.2.

pub mod hasher;

use std::borrow::Cow;
use std::fmt;

use zxcvbn::feedback::Warning;
use zxcvbn::{Score, zxcvbn};

/// bcrypt reads 72 bytes and ignores the rest, so that longer passwords would be equal to their beginning.
pub const PASSWORD_MAX_BYTES: usize = 72;
const EMAIL_MAX_LENGTH: usize = 254;
const LOCAL_PART_MAX_LENGTH: usize = 64;
const LABEL_MAX_LENGTH: usize = 63;

/// An e-mail address in the form that HTML's `input type=email` accepts, in ASCII lower case.
#[derive(Clone, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// The address in lower case; at most 254 characters, of these at most 64 before the `@`. Nothing is folded.
    ///
    /// # Errors
    /// The rule that is broken, as a sentence for a person.
    pub fn parse(text: &str) -> Result<Email, &'static str> {
        const RULE: &str = "must be an e-mail address such as name@example.com";
        if text.len() > EMAIL_MAX_LENGTH {
            return Err("must be at most 254 characters long");
        }
        let (local, domain) = text.split_once('@').ok_or(RULE)?;
        if local.len() > LOCAL_PART_MAX_LENGTH {
            return Err("must have at most 64 characters before the @");
        }
        let local_is_valid = !local.is_empty()
            && local.bytes().all(|b| b.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&b));
        if !local_is_valid || !domain.split('.').all(is_label) {
            return Err(RULE);
        }
        Ok(Email(text.to_ascii_lowercase()))
    }

    /// The address as it is stored and compared.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Email(…)")
    }
}

fn is_label(label: &str) -> bool {
    (1..=LABEL_MAX_LENGTH).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A password of at most 72 bytes without NUL.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// A password to compare with a stored hash. Only what bcrypt cannot tell apart is refused: more than 72 bytes, and
    /// NUL, which some implementations take for the end.
    ///
    /// # Errors
    /// The rule that is broken, as a sentence for a person.
    pub fn presented(text: String) -> Result<Password, &'static str> {
        if text.len() > PASSWORD_MAX_BYTES {
            return Err("must be at most 72 bytes long");
        }
        if text.contains('\0') {
            return Err("must not contain NUL");
        }
        Ok(Password(text))
    }

    /// A password to be stored: as [`Password::presented`], with at least `min_length` characters. Whether it is easy to
    /// guess is asked apart, since that costs far more.
    ///
    /// # Errors
    /// The rule that is broken, as a sentence for a person.
    pub fn chosen(text: String, min_length: usize) -> Result<Password, Cow<'static, str>> {
        let password = Password::presented(text)?;
        if password.0.chars().count() < min_length {
            return Err(format!("must be at least {min_length} characters long").into());
        }
        Ok(password)
    }

    /// Why the password is easy to guess for somebody who knows the e-mail; nothing if it is not. Takes about as long as
    /// a hash where somebody means it to: an honest password a millisecond, one made of substitutions some hundred.
    pub fn weakness(&self, email: &str) -> Option<&'static str> {
        let known: Vec<&str> =
            std::iter::once(email).chain(email.split(['@', '.', '+', '-', '_'])).filter(|w| w.len() > 2).collect();
        let estimate = zxcvbn(&self.0, &known);
        (estimate.score() < Score::Two).then(|| why_guessable(estimate.feedback().and_then(|f| f.warning())))
    }

    /// The bytes for bcrypt; not to be logged or stored.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

fn why_guessable(warning: Option<Warning>) -> &'static str {
    match warning {
        Some(Warning::StraightRowsOfKeysAreEasyToGuess | Warning::ShortKeyboardPatternsAreEasyToGuess) => {
            "is too easy to guess: it follows the keys of a keyboard"
        }
        Some(
            Warning::RepeatsLikeAaaAreEasyToGuess
            | Warning::RepeatsLikeAbcAbcAreOnlySlightlyHarderToGuess
            | Warning::SequencesLikeAbcAreEasyToGuess,
        ) => "is too easy to guess: it is a repetition or a sequence",
        Some(Warning::RecentYearsAreEasyToGuess | Warning::DatesAreOftenEasyToGuess) => {
            "is too easy to guess: it is a date"
        }
        _ => "is too easy to guess: it is a common password, a name or the e-mail; take several unrelated words",
    }
}

#[cfg(test)]
mod tests {
    use super::{Email, Password};

    #[test]
    fn an_email_is_kept_in_lower_case_and_otherwise_as_it_came() {
        assert_eq!(Email::parse("Ada+Tag@Example.COM").map(|e| e.0), Ok("ada+tag@example.com".into()));
    }

    #[test]
    fn what_html_refuses_is_no_email() {
        for text in ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@-b", "a@b-", "a@b..c", "a@b.", "ä@b", "a@ä", "a@b\n"] {
            assert!(Email::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn debug_shows_neither_email_nor_password() {
        let shown = format!("{:?} {:?}", Email::parse("ada@b"), Password::presented("hunter2".into()));
        assert!(!shown.contains("ada") && !shown.contains("hunter2"));
    }

    #[test]
    fn a_password_made_of_the_email_is_refused() {
        let weakness = |text: &str| Password::presented(text.into()).map(|p| p.weakness("lovelace1815@example.com"));
        assert!(matches!(weakness("lovelace1815"), Ok(Some(_))));
        assert!(matches!(weakness("lovelace1815 orbit candle"), Ok(None)));
    }
}
