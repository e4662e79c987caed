//! JSON without duplicate members.
//!
//! Source: RFC 8259 section 4 (software disagrees on duplicate names), RFC 8725 section 2.4.

use std::collections::{BTreeMap, HashSet};

use serde::de::IgnoredAny;
use serde_json::{Deserializer, Value};

/// The members of an object, for a reader that takes no numbers, lists and objects: each of these is `None`.
pub type PlainMembers = BTreeMap<String, Option<Value>>;

/// The value of a JSON text. `None` if the text is malformed or an object at any depth has two members of one name; also if
/// it is nested over 127 levels or has a number beyond those of 64-bit floating point.
pub fn without_duplicates(text: &[u8]) -> Option<Value> {
    members(text)?;
    serde_json::from_slice(text).ok()
}

/// The members of a JSON object, or `Some(None)` for a JSON text that is no object. `None` if the text is malformed or an
/// object at any depth has two members of one name. No depth and no number is too much: they are only skipped.
pub fn plain_members(text: &[u8]) -> Option<Option<PlainMembers>> {
    let plain = |value: &str| match value.starts_with(['"', 't', 'f', 'n']) {
        true => Deserializer::from_str(value).into_iter().next()?.ok(),
        false => None,
    };
    let members = members(text)?;
    let is_object = text.trim_ascii_start().starts_with(b"{");
    Some(is_object.then(|| members.into_iter().map(|(name, value)| (name, plain(value))).collect()))
}

/// The members of the outermost object, each with the text from its value on; without one, of some object further in.
/// Nothing recurses here, since a thread's stack is small; nor does the library where it keeps no value (`IgnoredAny`).
/// Once the syntax is checked, a string before a colon is the name of a member, and braces outside of strings say of which
/// object.
fn members(text: &[u8]) -> Option<BTreeMap<String, &str>> {
    let mut rest = str::from_utf8(text).ok()?;
    serde_json::from_str::<IgnoredAny>(rest).ok()?;
    let (mut outermost, mut names) = (BTreeMap::new(), HashSet::new());
    // Each object has a number.
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
                if open.len() == 1 {
                    outermost.insert(name.clone(), value.trim_start());
                }
                // S64
                if !names.insert((*open.last()?, name)) {
                    return None;
                }
            }
        }
        rest = from.get(end..)?;
    }
    Some(outermost)
}

#[cfg(test)]
mod tests {
    use super::{Value, plain_members, without_duplicates};

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
            assert_eq!(plain_members(text.as_bytes()).is_some(), is_fine, "{text}");
        }
        // Where some crate turns on the feature `raw_value`, the library reads the text in this member instead.
        let value = without_duplicates(br#"{"$serde_json::private::RawValue":"[]"}"#);
        assert!(value.is_some_and(|value| value.is_object()));
    }

    #[test]
    fn only_the_plain_members_of_the_outermost_object_have_values() {
        let text = r#" {"a" : "b\n" ,"c":true,"d":false, "e":null,"f":-1e999,"g":[{"a":2}],"h":{"a":"x","i":[]}} "#;
        let members = plain_members(text.as_bytes()).flatten().unwrap_or_default();
        let values: Vec<_> = members.values().map(|value| value.as_ref().map(Value::to_string)).collect();
        let expected = [Some(r#""b\n""#), Some("true"), Some("false"), Some("null"), None, None, None];
        assert_eq!(values, expected.map(|text| text.map(str::to_owned)));
        assert_eq!(members.keys().map(String::as_str).collect::<String>(), "acdefgh");
        for text in ["[{\"a\":1}]", "\"{\"", "1e999", "null"] {
            assert_eq!(plain_members(text.as_bytes()), Some(None), "{text}");
        }
    }
}
