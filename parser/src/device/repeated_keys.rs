//! Keys that an object of a vmdesc has more than once.

use crate::json::Json;
use crate::prelude::*;
use alloc::collections::BTreeMap;
use core::fmt::Write as _;

/// More of them than this are not listed.
const MAX_LISTED: usize = 1000;
/// A place says no more than these characters of each key on its way.
const MAX_NAME_CHARS: usize = 64;
/// What the elements of a queue repeat in the object of their field.
const KEYS_OF_A_STATE: [&str; 4] = ["vmsd_name", "version", "fields", "subsections"];

/// A key that is given more than once in one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepeatedKey {
    /// Where the object is, as `devices[2].fields[0]`; empty for the whole vmdesc.
    pub object: String,
    /// The key.
    pub key: String,
}

/// The keys of a vmdesc that are given more than once in one object, in order: at most the first 1000. None
/// if it is no JSON.
///
/// QEMU writes none, but for the elements of a queue, which are not listed (rules of
/// [`Vmdesc`](super::Vmdesc)). Readers differ in which value of such a key they take; the last one counts
/// here.
#[must_use]
pub fn repeated_keys(json: &[u8]) -> Vec<RepeatedKey> {
    let mut search = Search { path: String::new(), found: Vec::new() };
    if let Some(json) = Json::parse(json) {
        search.value(&json, false);
    }
    search.found
}

/// A walk over all objects; nesting is limited by the reader of the JSON.
struct Search {
    path: String,
    found: Vec<RepeatedKey>,
}

impl Search {
    fn value(&mut self, value: &Json, is_field: bool) {
        match value {
            Json::List(values) => self.list(values, false),
            Json::Object(entries) => self.object(entries, is_field),
            Json::Other | Json::Number(_) | Json::Text(_) => {}
        }
    }

    fn list(&mut self, values: &[Json], of_fields: bool) {
        for (index, value) in values.iter().enumerate() {
            self.below(format_args!("[{index}]"), |search| search.value(value, of_fields));
        }
    }

    fn object(&mut self, entries: &[(String, Json)], is_field: bool) {
        let mut queue = is_field && !entries.iter().any(|(key, _)| key == "struct");
        queue &= entries.iter().any(|(key, _)| key == "vmsd_name");
        let mut seen = BTreeMap::<&str, u64>::new();
        for (key, value) in entries {
            let of_element = queue && KEYS_OF_A_STATE.contains(&&key[..]);
            if of_element && key == "vmsd_name" {
                seen.retain(|key, _| !KEYS_OF_A_STATE.contains(key));
            }
            let times = seen.entry(key).or_default();
            *times += 1;
            if *times == 2 && self.found.len() < MAX_LISTED {
                self.found.push(RepeatedKey { object: self.path.clone(), key: key.clone() });
            }
            let dot = if self.path.is_empty() { "" } else { "." };
            let name: String = key.chars().take(MAX_NAME_CHARS).collect();
            self.below(format_args!("{dot}{name}"), |search| match value {
                Json::List(values) => search.list(values, key == "fields"),
                value => search.value(value, false),
            });
        }
    }

    fn below(&mut self, name: core::fmt::Arguments<'_>, look: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        let written = self.path.write_fmt(name);
        debug_assert!(written.is_ok(), "a string takes all that is written");
        look(self);
        self.path.truncate(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str) -> Vec<(String, String)> {
        repeated_keys(json.as_bytes()).into_iter().map(|found| (found.object, found.key)).collect()
    }

    #[test]
    fn a_key_given_twice_is_found_once_with_the_place_of_its_object() {
        let json = r#"{"page_size": 1, "page_size": 2, "page_size": 3, "devices": [
            {"name": "a", "fields": [{"name": "x", "size": 1}, {"size": 1, "name": "y", "size": 2}]},
            {"name": "b", "name": "b", "subsections": [{"fields": [], "fields": []}],
             "fields": [{"struct": {"version": 1, "version": 1}}]}]}"#;
        let expected = [
            ("", "page_size"),
            ("devices[0].fields[1]", "size"),
            ("devices[1]", "name"),
            ("devices[1].subsections[0]", "fields"),
            ("devices[1].fields[0].struct", "version"),
        ];
        assert_eq!(found(json), expected.map(|(object, key)| (object.to_owned(), key.to_owned())));
    }

    #[test]
    fn elements_of_a_queue_repeat_their_keys_and_nothing_else() {
        let field = |rest: &str| format!(r#"{{"fields": [{{"name": "queue", "type": "qtailq", {rest}}}]}}"#);
        let element = r#""vmsd_name": "e", "version": 1, "fields": [{"name": "a"}], "subsections": []"#;
        assert_eq!(found(&field(&format!(r#"{element}, {element}, "size": 14"#))), []);
        let object = "fields[0]".to_owned();
        // Twice within one element.
        let twice = format!(r#"{element}, {element}, "fields": []"#);
        assert_eq!(found(&field(&twice)), [(object.clone(), "fields".to_owned())]);
        // No key of an element.
        let size = format!(r#""size": 1, {element}, {element}, "size": 14"#);
        assert_eq!(found(&field(&size)), [(object.clone(), "size".to_owned())]);
        // Where `struct` has what is nested, and in what is no field, there are no elements.
        let twice = |key: &str| (object.clone(), key.to_owned());
        let structure = format!(r#"{element}, {element}, "struct": {{}}"#);
        assert_eq!(found(&field(&structure)), ["vmsd_name", "version", "fields", "subsections"].map(twice));
        let device = format!(r#"{{{element}, {element}}}"#);
        assert_eq!(found(&device).len(), 4);
    }

    #[test]
    fn what_is_listed_is_limited_and_what_is_no_json_has_none() {
        let objects = vec![r#"{"a": 1, "a": 2}"#; 1500].join(",");
        let listed = found(&format!(r#"{{"{}": [{objects}]}}"#, "k".repeat(1 << 20)));
        assert_eq!(listed.len(), MAX_LISTED);
        assert_eq!(listed[7].0, format!("{}[7]", "k".repeat(MAX_NAME_CHARS)));
        assert_eq!(found(r#"{"a": 1, "a": 2"#), []);
    }
}
