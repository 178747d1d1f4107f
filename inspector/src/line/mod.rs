//! One line of output: what is where, as text and as JSON.

pub(crate) mod fields;

mod lookup;

pub(crate) use lookup::Values;

use crate::escape::{json_text, terminal};
use migration_stream::SectionHeader;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// A value of a line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    /// A count or an id.
    Decimal(u64),
    /// A signed number.
    Signed(i64),
    /// An offset, a length or a set of bits.
    Hex(u64),
    /// A floating-point number.
    Double(f64),
    Bool(bool),
    /// Untrusted bytes that are a name.
    Name(Vec<u8>),
    /// Words of ours.
    Word(&'static str),
    /// Raw bytes, which may be hundreds of megabytes: not copied before they are written.
    Bytes(Cow<'a, [u8]>),
    List(Vec<Value<'a>>),
    Null,
}

impl<'a> Value<'a> {
    /// Raw bytes of an input.
    pub(crate) fn bytes(bytes: &'a [u8]) -> Self {
        Self::Bytes(Cow::Borrowed(bytes))
    }

    /// With bytes of its own.
    pub(crate) fn into_owned(self) -> Value<'static> {
        match self {
            Self::Decimal(number) => Value::Decimal(number),
            Self::Signed(number) => Value::Signed(number),
            Self::Hex(number) => Value::Hex(number),
            Self::Double(number) => Value::Double(number),
            Self::Bool(value) => Value::Bool(value),
            Self::Name(name) => Value::Name(name),
            Self::Word(word) => Value::Word(word),
            Self::Bytes(bytes) => Value::Bytes(Cow::Owned(bytes.into_owned())),
            Self::List(values) => Value::List(values.into_iter().map(Self::into_owned).collect()),
            Self::Null => Value::Null,
        }
    }
    /// Untrusted bytes as a name.
    pub(crate) fn name(bytes: &[u8]) -> Self {
        Self::Name(bytes.to_vec())
    }

    /// What may not be there.
    pub(crate) fn optional(value: Option<Self>) -> Self {
        value.unwrap_or(Self::Null)
    }

    /// As it is written in a line of text.
    pub(crate) fn text(&self, text: &mut String) {
        let mut out = Vec::new();
        // Writing to memory does not fail.
        let _ = self.write_text(&mut out);
        text.push_str(&String::from_utf8_lossy(&out));
    }

    fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Decimal(number) => write!(out, "{number}"),
            Self::Signed(number) => write!(out, "{number}"),
            Self::Hex(number) => write!(out, "{number:#x}"),
            Self::Double(number) => write!(out, "{number}"),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Name(name) => write!(out, "\"{}\"", terminal(name)),
            Self::Word(word) if word.contains(' ') => write!(out, "\"{word}\""),
            Self::Word(word) => write!(out, "{word}"),
            Self::Bytes(bytes) => write_hex(out, bytes),
            Self::List(values) => {
                out.write_all(b"[")?;
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        out.write_all(b" ")?;
                    }
                    value.write_text(out)?;
                }
                out.write_all(b"]")
            }
            Self::Null => write!(out, "-"),
        }
    }

    fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Decimal(number) | Self::Hex(number) => write!(out, "{number}"),
            Self::Signed(number) => write!(out, "{number}"),
            // JSON has no infinity; a text says it.
            Self::Double(number) if number.is_finite() => Ok(serde_json::to_writer(out, number)?),
            Self::Double(number) => write!(out, "\"{number}\""),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Name(name) => Ok(serde_json::to_writer(out, &json_text(name))?),
            Self::Word(word) => Ok(serde_json::to_writer(out, word)?),
            Self::Bytes(bytes) => {
                out.write_all(b"\"")?;
                write_hex(out, bytes)?;
                out.write_all(b"\"")
            }
            Self::List(values) => {
                out.write_all(b"[")?;
                for (at, value) in values.iter().enumerate() {
                    if at > 0 {
                        out.write_all(b",")?;
                    }
                    value.write_json(out)?;
                }
                out.write_all(b"]")
            }
            Self::Null => write!(out, "null"),
        }
    }
}

/// Writes bytes as hex digits, piece by piece: there may be hundreds of millions of them.
fn write_hex(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 4096];
    for piece in bytes.chunks(text.len() / 2) {
        for (byte, digits) in piece.iter().zip(text.chunks_exact_mut(2)) {
            digits[0] = DIGITS[usize::from(byte >> 4)];
            digits[1] = DIGITS[usize::from(byte & 15)];
        }
        out.write_all(&text[..2 * piece.len()])?;
    }
    Ok(())
}

/// A line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Line<'a> {
    /// Where in the unpacked input; none for what is about the whole of it.
    pub(crate) offset: Option<u64>,
    /// Bytes.
    pub(crate) length: u64,
    /// What it is.
    pub(crate) kind: &'static str,
    /// Everything else, in order.
    pub(crate) values: Vec<(&'static str, Value<'a>)>,
    /// Its bytes, where they are to be shown.
    pub(crate) bytes: Option<Cow<'a, [u8]>>,
}

impl<'a> Line<'a> {
    /// With bytes of its own.
    pub(crate) fn into_owned(self) -> Line<'static> {
        let values = self.values.into_iter().map(|(key, value)| (key, value.into_owned()));
        Line {
            offset: self.offset,
            length: self.length,
            kind: self.kind,
            values: values.collect(),
            bytes: self.bytes.map(|bytes| Cow::Owned(bytes.into_owned())),
        }
    }

    pub(crate) fn new(offset: u64, length: u64, kind: &'static str) -> Self {
        Self { offset: Some(offset), length, kind, values: Vec::new(), bytes: None }
    }

    pub(crate) fn with(mut self, key: &'static str, value: Value<'a>) -> Self {
        self.values.push((key, value));
        self
    }

    /// Says on which multifd channel beside the main stream it is.
    pub(crate) fn on_channel(self, channel: Option<usize>) -> Self {
        match channel {
            Some(number) => self.with("on_channel", Value::Decimal(number as u64)),
            None => self,
        }
    }

    /// The line as text.
    pub(crate) fn text(&self) -> String {
        let mut out = Vec::new();
        // Writing to memory does not fail.
        let _ = self.write_text(&mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Writes the line as text, without its end.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub(crate) fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        match self.offset {
            Some(offset) => write!(out, "{offset:#010x} {}", self.kind)?,
            None => write!(out, "-          {}", self.kind)?,
        }
        for (key, value) in &self.values {
            write!(out, " {key}=")?;
            value.write_text(out)?;
        }
        if let Some(bytes) = &self.bytes {
            out.write_all(b" hex=")?;
            write_hex(out, bytes)?;
        }
        Ok(())
    }

    /// Writes the line as a JSON object, its keys in order, without the end of the line.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub(crate) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let own = [
            ("offset", self.offset.map_or(Value::Null, Value::Decimal)),
            ("length", Value::Decimal(self.length)),
            ("type", Value::Word(self.kind)),
        ];
        let entries = own.iter().map(|(key, value)| (*key, value));
        let mut entries: BTreeMap<&str, Option<&Value<'_>>> = entries
            .chain(self.values.iter().map(|(key, value)| (*key, value)))
            .map(|(key, value)| (key, Some(value)))
            .collect();
        if self.bytes.is_some() {
            entries.insert("hex", None);
        }
        for (at, (key, value)) in entries.into_iter().enumerate() {
            out.write_all(if at == 0 { b"{" } else { b"," })?;
            write!(out, "\"{key}\":")?;
            match (value, &self.bytes) {
                (Some(value), _) => value.write_json(out)?,
                (None, Some(bytes)) => {
                    out.write_all(b"\"")?;
                    write_hex(out, bytes)?;
                    out.write_all(b"\"")?;
                }
                (None, None) => {}
            }
        }
        out.write_all(b"}")
    }
}

/// Header fields of START and FULL.
pub(crate) fn section<'a>(line: Line<'a>, header: &SectionHeader<'_>) -> Line<'a> {
    line.with("id", Value::Decimal(header.section_id.0.into()))
        .with("name", Value::Name(header.idstr.to_vec()))
        .with("instance", Value::Decimal(header.instance_id.into()))
        .with("version", Value::Decimal(header.version_id.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_json_is_what_a_json_library_writes() {
        let bytes: Vec<u8> = (0..5000u32).map(|at| at.to_le_bytes()[0]).collect();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let line = Line {
            bytes: Some(Cow::Borrowed(&bytes)),
            ..Line::new(0x10, 3, "field")
                .with("value", Value::bytes(&bytes))
                .with("path", Value::name(b"a\"b\\c\xff"))
                .with("list", Value::List(vec![Value::Hex(16), Value::Null, Value::Double(f64::NAN)]))
                .with("half", Value::Double(0.5))
                .with("large", Value::Double(1e300))
                .with("signed", Value::Signed(-1))
                .with("why", Value::Word("no reason"))
                .with("yes", Value::Bool(true))
        };
        let mut written = Vec::new();
        line.write_json(&mut written).unwrap();
        let expected = serde_json::json!({
            "offset": 16, "length": 3, "type": "field", "value": hex, "path": json_text(b"a\"b\\c\xff"), "hex": hex,
            "list": [16, null, "NaN"], "half": 0.5, "large": 1e300, "signed": -1, "why": "no reason", "yes": true,
        });
        assert_eq!(String::from_utf8(written).unwrap(), expected.to_string());
    }
}
