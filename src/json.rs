//! JSON without duplicate members.
//!
//! Source: RFC 8259 section 4 (software disagrees on duplicate names), RFC 8725 section 2.4.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// The value of a JSON text; `None` if the text is malformed or an object at any depth has two members of one name.
pub fn without_duplicates(text: &[u8]) -> Option<Value> {
    serde_json::from_slice::<WithoutDuplicates>(text).ok()?;
    serde_json::from_slice(text).ok()
}

struct WithoutDuplicates;

impl<'de> Deserialize<'de> for WithoutDuplicates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WithoutDuplicates)
    }
}

impl<'de> Visitor<'de> for WithoutDuplicates {
    type Value = WithoutDuplicates;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self, A::Error> {
        let mut names = HashSet::new();
        while let Some((name, _)) = access.next_entry::<String, WithoutDuplicates>()? {
            // S64
            if !names.insert(name) {
                return Err(serde::de::Error::custom("duplicate member"));
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self, A::Error> {
        while access.next_element::<WithoutDuplicates>()?.is_some() {}
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::without_duplicates;

    #[test]
    fn s64_duplicate_members_are_an_error_at_any_depth() {
        for (text, is_fine) in [
            (r#"{"a":1,"a":1}"#, false),
            (r#"[{"x":{"a":1,"a":1}}]"#, false),
            (r#"{"a":{"a":null},"b":[{"a":1.5},{"a":-1}]}"#, true),
        ] {
            assert_eq!(without_duplicates(text.as_bytes()).is_some(), is_fine, "{text}");
        }
    }
}
