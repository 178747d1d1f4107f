//! One line of output: what stands where, as text and as JSON.

pub(crate) mod fields;

use crate::escape::{json_text, terminal};
use migration_stream::SectionHeader;
use serde_json::{Map, Value as Json, json};
use std::fmt::Write;

/// A value of a line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A count or an id.
    Decimal(u64),
    /// A signed number.
    Signed(i64),
    /// An offset, a length or a set of bits.
    Hex(u64),
    /// A floating-point number.
    Double(f64),
    Bool(bool),
    /// Bytes of a stranger that are a name.
    Name(Vec<u8>),
    /// Words of ours.
    Word(&'static str),
    /// Raw bytes.
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Null,
}

impl Value {
    /// Bytes of a stranger as a name.
    pub(crate) fn name(bytes: &[u8]) -> Self {
        Self::Name(bytes.to_vec())
    }

    /// What may not be there.
    pub(crate) fn optional(value: Option<Self>) -> Self {
        value.unwrap_or(Self::Null)
    }

    pub(crate) fn text(&self, out: &mut String) {
        let _ = match self {
            Self::Decimal(number) => write!(out, "{number}"),
            Self::Signed(number) => write!(out, "{number}"),
            Self::Hex(number) => write!(out, "{number:#x}"),
            Self::Double(number) => write!(out, "{number}"),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Name(name) => write!(out, "\"{}\"", terminal(name)),
            Self::Word(word) if word.contains(' ') => write!(out, "\"{word}\""),
            Self::Word(word) => write!(out, "{word}"),
            Self::Bytes(bytes) => {
                bytes.iter().for_each(|byte| {
                    let _ = write!(out, "{byte:02x}");
                });
                Ok(())
            }
            Self::List(values) => {
                out.push('[');
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        out.push(' ');
                    }
                    value.text(out);
                }
                out.push(']');
                Ok(())
            }
            Self::Null => write!(out, "-"),
        };
    }

    pub(crate) fn json(&self) -> Json {
        match self {
            Self::Decimal(number) | Self::Hex(number) => json!(number),
            Self::Signed(number) => json!(number),
            // JSON has no infinity; a text says it.
            Self::Double(number) if number.is_finite() => json!(number),
            Self::Double(number) => json!(number.to_string()),
            Self::Bool(value) => json!(value),
            Self::Name(name) => json!(json_text(name)),
            Self::Word(word) => json!(word),
            Self::Bytes(bytes) => {
                let mut text = String::new();
                bytes.iter().for_each(|byte| {
                    let _ = write!(text, "{byte:02x}");
                });
                json!(text)
            }
            Self::List(values) => Json::Array(values.iter().map(Self::json).collect()),
            Self::Null => Json::Null,
        }
    }
}

/// A line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line {
    /// Where in the unpacked input; none for what is about the whole of it.
    pub(crate) offset: Option<u64>,
    /// Bytes.
    pub(crate) length: u64,
    /// What it is.
    pub(crate) kind: &'static str,
    /// Everything else, in order.
    pub(crate) values: Vec<(&'static str, Value)>,
    /// Its bytes, where they are to be shown.
    pub(crate) bytes: Option<Vec<u8>>,
}

impl Line {
    pub(crate) fn new(offset: u64, length: u64, kind: &'static str) -> Self {
        Self { offset: Some(offset), length, kind, values: Vec::new(), bytes: None }
    }

    pub(crate) fn with(mut self, key: &'static str, value: Value) -> Self {
        self.values.push((key, value));
        self
    }

    /// Says on which multifd channel beside the main stream it stands.
    pub(crate) fn on_channel(self, channel: Option<usize>) -> Self {
        match channel {
            Some(number) => self.with("on_channel", Value::Decimal(number as u64)),
            None => self,
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut out = match self.offset {
            Some(offset) => format!("{offset:#010x} {}", self.kind),
            None => format!("-          {}", self.kind),
        };
        for (key, value) in &self.values {
            let _ = write!(out, " {key}=");
            value.text(&mut out);
        }
        if let Some(bytes) = &self.bytes {
            out.push_str(" hex=");
            Value::Bytes(bytes.clone()).text(&mut out);
        }
        out
    }

    pub(crate) fn json(&self) -> String {
        let mut object = Map::new();
        object.insert("offset".to_owned(), json!(self.offset));
        object.insert("length".to_owned(), json!(self.length));
        object.insert("type".to_owned(), json!(self.kind));
        for (key, value) in &self.values {
            object.insert((*key).to_owned(), value.json());
        }
        if let Some(bytes) = &self.bytes {
            object.insert("hex".to_owned(), Value::Bytes(bytes.clone()).json());
        }
        Json::Object(object).to_string()
    }
}

/// Header fields of START and FULL.
pub(crate) fn section(line: Line, header: &SectionHeader<'_>) -> Line {
    line.with("id", Value::Decimal(header.section_id.0.into()))
        .with("name", Value::Name(header.idstr.to_vec()))
        .with("instance", Value::Decimal(header.instance_id.into()))
        .with("version", Value::Decimal(header.version_id.into()))
}
