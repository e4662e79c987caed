//! Passwords: which are accepted, and which are too easy to guess. A password is never trimmed, cut or normalised.
//!
//! Source: NIST SP 800-63B-4 section 3.1.1; OWASP ASVS 5.0 V6.2.

use std::borrow::Cow;
use std::fmt;

use zxcvbn::feedback::Warning;
use zxcvbn::{Score, zxcvbn};

/// bcrypt ignores what follows the 72nd byte, so that a longer password would equal its beginning.
const PASSWORD_MAX_BYTES: usize = 72;

/// A password of at most 72 bytes without NUL.
#[derive(Clone)]
pub struct Password(String);

impl Password {
    /// A password to compare with a stored hash. Refuses only what bcrypt cannot tell apart: more than 72 bytes, and NUL,
    /// at which some implementations end the password.
    ///
    /// # Errors
    /// The rule that is broken, as a sentence for a person.
    pub fn presented(text: String) -> Result<Password, &'static str> {
        // S2
        if text.len() > PASSWORD_MAX_BYTES {
            return Err("must be at most 72 bytes long");
        }
        if text.contains('\0') {
            return Err("must not contain NUL");
        }
        Ok(Password(text))
    }

    /// A password to store: as [`Password::presented`], with at least `min_length` characters. Does not ask
    /// [`Password::weakness`], which takes far longer.
    ///
    /// # Errors
    /// The rule that is broken, as a sentence for a person.
    pub fn chosen(text: String, min_length: usize) -> Result<Password, Cow<'static, str>> {
        let password = Password::presented(text)?;
        // S2
        if password.0.chars().count() < min_length {
            return Err(format!("must be at least {min_length} characters long").into());
        }
        Ok(password)
    }

    /// Why the password is easy to guess for somebody who knows the e-mail; `None` if it is not. Takes about 1 ms for an
    /// ordinary password and as long as a hash for one that is made for it, so that it belongs in the hash queue.
    pub fn weakness(&self, email: &str) -> Option<&'static str> {
        let known: Vec<&str> =
            std::iter::once(email).chain(email.split(['@', '.', '+', '-', '_'])).filter(|w| w.len() > 2).collect();
        let estimate = zxcvbn(&self.0, &known);
        // S3
        (estimate.score() < Score::Two).then(|| why_guessable(estimate.feedback().and_then(|f| f.warning())))
    }

    /// The text for bcrypt. Must not be logged or stored.
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
    use super::Password;

    #[test]
    fn a_password_made_of_the_email_is_weak() {
        let weakness = |text: &str| Password::presented(text.into()).map(|p| p.weakness("lovelace1815@example.com"));
        assert!(matches!(weakness("lovelace1815"), Ok(Some(_))));
        assert!(matches!(weakness("lovelace1815 orbit candle"), Ok(None)));
    }

    #[test]
    fn the_debug_form_of_a_password_is_redacted() {
        assert_eq!(format!("{:?}", Password::presented("hunter2".into())), "Ok(Password(…))");
    }
}
