//! JSON without duplicate members.
//!
//! Source: RFC 8259 section 4 (software disagrees on duplicate names), RFC 8725 section 2.4.

use std::hash::{BuildHasher, RandomState};

use serde::de::IgnoredAny;
use serde_json::{Deserializer, Value};

/// The value of a JSON text. `None` if the text is malformed or an object at any depth has two members of one name; also if
/// it is nested over 127 levels or has a number beyond those of 64-bit floating point.
pub fn without_duplicates(text: &[u8]) -> Option<Value> {
    read_members(text, |_, _| ())?;
    serde_json::from_slice(text).ok()
}

/// Whether the JSON text is an object; `None` if it is malformed or an object at any depth has two members of one name. No
/// depth and no number is too much. `member` gets the members of the outermost object, each with its name and the text
/// from its value on, before all of the text is judged; without an outermost object, of some object further in.
///
/// Nothing recurses here, since a thread's stack is small; nor does the library where it keeps no value (`IgnoredAny`).
/// Nothing is kept of a member but eight bytes, since a body may have thousands.
pub fn read_members(text: &[u8], mut member: impl FnMut(String, &str)) -> Option<bool> {
    let mut rest = str::from_utf8(text).ok()?;
    serde_json::from_str::<IgnoredAny>(rest).ok()?;
    let (hasher, mut names) = (RandomState::new(), Vec::new());
    // Each object has a number. Once the syntax is checked, a string before a colon is the name of a member, and braces
    // outside of strings say of which object.
    let (mut open, mut objects) = (Vec::new(), 0);
    while let Some((_, from)) = rest.find(['{', '}', '"']).and_then(|at| rest.split_at_checked(at)) {
        let mut end = 1;
        if from.starts_with('{') {
            open.push(objects);
            objects += 1;
        } else if from.starts_with('}') {
            open.pop();
        } else {
            let mut strings = Deserializer::from_str(from).into_iter::<String>();
            let name = strings.next()?.ok()?;
            end = strings.byte_offset();
            if let Some(value) = from.get(end..)?.trim_start().strip_prefix(':') {
                names.push(hasher.hash_one((open.last()?, &name)));
                if open.len() == 1 {
                    member(name, value.trim_start());
                }
            }
        }
        rest = from.get(end..)?;
    }
    names.sort_unstable();
    // S64: two names never have one hash of 64 bits with a secret key.
    names.is_sorted_by(|one, next| one < next).then(|| text.trim_ascii_start().starts_with(b"{"))
}

/// The string, flag or null that a JSON text begins with; `None` for a number, a list or an object.
pub fn plain_value(text: &str) -> Option<Value> {
    match text.starts_with(['"', 't', 'f', 'n']) {
        true => Deserializer::from_str(text).into_iter().next()?.ok(),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Value, plain_value, read_members, without_duplicates};

    #[test]
    fn s64_duplicate_members_are_an_error_at_any_depth() {
        for (text, is_fine) in [
            (r#"{"a":1,"a":1}"#, false),
            (r#"{"a":1,"\u0061" : 1}"#, false),
            (r#"{"a":{"b":1},"a":1}"#, false),
            (r#"[{"x":{"a":1,"a":1}}]"#, false),
            (r#"{"x":[{}],"y":["}","a\"",{"a":1,"b":"a","a":1}]}"#, false),
            (r#"{"a":{"a":null},"b":[{"a":1.5},{"a":-1}]}"#, true),
            (r#"{"a":"b","b":"a\":","c":["a","a","{"],"":{},"{":"}"}"#, true),
        ] {
            let expected = is_fine.then(|| serde_json::from_str(text).ok()).flatten();
            assert_eq!(without_duplicates(text.as_bytes()), expected, "{text}");
            assert_eq!(read_members(text.as_bytes(), |_, _| ()), is_fine.then(|| text.starts_with('{')), "{text}");
        }
        // Where some crate turns on the feature `raw_value`, the library reads the text in this member instead.
        let value = without_duplicates(br#"{"$serde_json::private::RawValue":"[]"}"#);
        assert!(value.is_some_and(|value| value.is_object()));
    }

    #[test]
    fn only_the_members_of_the_outermost_object_are_read_and_only_plain_ones_have_values() {
        let text = r#" {"a" : "b\n" ,"c":true,"d":false, "e":null,"f":-1e999,"g":[{"a":2}],"h":{"a":"x","i":[]}} "#;
        let (mut names, mut values) = (String::new(), Vec::new());
        let is_object = read_members(text.as_bytes(), |name, value| {
            names.push_str(&name);
            values.push(plain_value(value).as_ref().map(Value::to_string));
        });
        assert_eq!((is_object, &*names), (Some(true), "acdefgh"));
        let expected = [Some(r#""b\n""#), Some("true"), Some("false"), Some("null"), None, None, None];
        assert_eq!(values, expected.map(|text| text.map(str::to_owned)));
        for text in ["[{\"a\":1}]", "\"{\"", "1e999", "null"] {
            assert_eq!(read_members(text.as_bytes(), |_, _| ()), Some(false), "{text}");
        }
    }
}
