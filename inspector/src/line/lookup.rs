//! The values of a line by their keys, for the texts that are made from lines.

use super::{Line, Value};
use crate::escape::terminal;

/// The values of a line, by their keys.
pub(crate) struct Values<'a>(pub(crate) &'a Line<'a>);

impl Values<'_> {
    pub(crate) fn get(&self, key: &str) -> Option<&Value<'_>> {
        self.0.values.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    pub(crate) fn number(&self, key: &str) -> u64 {
        match self.get(key) {
            Some(Value::Decimal(number) | Value::Hex(number)) => *number,
            _ => 0,
        }
    }

    pub(crate) fn present(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Value::Decimal(number) | Value::Hex(number)) => Some(*number),
            _ => None,
        }
    }

    /// A name, escaped for a terminal.
    pub(crate) fn name(&self, key: &str) -> String {
        match self.get(key) {
            Some(Value::Name(name)) => terminal(name),
            Some(Value::Word(word)) => (*word).to_owned(),
            _ => String::new(),
        }
    }

    pub(crate) fn quoted(&self, key: &str) -> String {
        format!("\"{}\"", self.name(key))
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        matches!(self.get(key), Some(Value::Bool(true)))
    }

    /// On which side of a comparison it is, if on one only.
    pub(crate) fn only(&self) -> Option<String> {
        self.get("only").map(|_| format!("only in {}", self.name("only").to_uppercase()))
    }
}
