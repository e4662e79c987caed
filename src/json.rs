//! JSON without duplicate members.
//!
//! Source: RFC 8259 section 4 (software disagrees on duplicate names), RFC 8725 section 2.4.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The value of a JSON text; `None` if the text is malformed or an object at any depth has two members of one name.
pub fn without_duplicates(text: &[u8]) -> Option<Value> {
    serde_json::from_slice::<WithoutDuplicates>(text).ok().map(|parsed| parsed.0)
}

struct WithoutDuplicates(Value);

impl<'de> Deserialize<'de> for WithoutDuplicates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(WithoutDuplicates)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, WithoutDuplicates(value))) = access.next_entry::<String, _>()? {
            // S64
            if members.insert(name, value).is_some() {
                return Err(Error::custom("duplicate member"));
            }
        }
        Ok(Value::Object(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(WithoutDuplicates(item)) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(flag.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
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
            let expected = is_fine.then(|| serde_json::from_str(text).ok()).flatten();
            assert_eq!(without_duplicates(text.as_bytes()), expected, "{text}");
        }
    }
}
