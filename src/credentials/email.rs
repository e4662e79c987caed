//! E-mail addresses.
//!
//! Source: HTML Living Standard, "valid e-mail address"; RFC 5321 section 4.5.3.1 (lengths).

use std::fmt;

const EMAIL_MAX_LENGTH: usize = 254;
const LOCAL_PART_MAX_LENGTH: usize = 64;
const LABEL_MAX_LENGTH: usize = 63;

/// An e-mail address in the form that HTML's `input type=email` accepts, in ASCII lower case.
#[derive(Clone, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    /// The address in lower case: at most 254 characters, at most 64 of them before the `@`. Dots and plus tags are kept.
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

#[cfg(test)]
mod tests {
    use super::Email;

    #[test]
    fn an_email_is_kept_in_lower_case_with_its_dots_and_plus_tag() {
        assert_eq!(Email::parse("Ada.B+Tag@Example.COM").map(|e| e.0), Ok("ada.b+tag@example.com".into()));
    }

    #[test]
    fn a_malformed_email_is_refused() {
        for text in ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@-b", "a@b-", "a@b..c", "a@b.", "ä@b", "a@ä", "a@b\n"] {
            assert!(Email::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_debug_form_of_an_email_is_redacted() {
        assert_eq!(format!("{:?}", Email::parse("ada@b")), "Ok(Email(…))");
    }
}
