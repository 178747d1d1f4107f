//! JSON as QEMU writes it: keys may be given twice in one object, and their order says what belongs together.

use crate::prelude::*;
use core::fmt;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value whose objects keep all their keys, in order. Nesting is limited by the reader (128 levels).
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    /// `null`, `true`, `false`, and numbers that are no unsigned integers: nothing that a description uses.
    Other,
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// The last value of this key.
    pub(crate) fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Self::Object(entries) => entries.iter().rfind(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    pub(crate) fn as_u64(&self) -> Option<u64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(crate) fn list(&self) -> &[Json] {
        if let Self::List(values) = self { values } else { &[] }
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }
    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Other)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Other)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Other)
    }
    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number))
    }
    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = values.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            object.push(entry);
        }
        Ok(Json::Object(object))
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_keys_that_are_given_twice() {
        let json = Json::parse(br#"{"a": 1, "b": [true, -2, "x"], "a": 3}"#).unwrap();
        let Json::Object(entries) = &json else { panic!("{json:?}") };
        assert_eq!(entries.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), ["a", "b", "a"]);
        assert_eq!(json.get("a").and_then(Json::as_u64), Some(3));
        assert_eq!(json.get("b").map(Json::list).map(<[Json]>::len), Some(3));
    }

    #[test]
    fn a_value_is_nothing_but_what_it_is() {
        for text in ["null", "true", "-1", "1.5", "1e400", "{}"] {
            let json = Json::parse(text.as_bytes());
            let Some(json) = json else { continue };
            assert_eq!((json.as_u64(), json.as_str(), json.list()), (None, None, &[][..]), "{text}");
            assert_eq!(json.get("a"), None, "{text}");
        }
        let number = Json::parse(b"7").unwrap();
        assert_eq!((number.as_u64(), number.as_str(), number.list()), (Some(7), None, &[][..]));
        let text = Json::parse(br#""a""#).unwrap();
        assert_eq!((text.as_u64(), text.as_str(), text.get("a")), (None, Some("a"), None));
    }

    #[test]
    fn nesting_without_bound_is_refused() {
        assert_eq!(Json::parse("[".repeat(100_000).as_bytes()), None);
    }
}
