//! Names the bytes of one device section.

use super::elements::{Elements, MARKER_NULL, MARKER_VALID, POINTER_MARKER, Place};
use super::vmdesc::{Array, Field, State};
use crate::prelude::*;
use crate::width::to_usize;
use alloc::collections::BTreeMap;
use core::ops::Range;

/// The most fields of one device that are named; the rest stays bytes. A description can claim more than any
/// device has.
const FIELD_LIMIT: usize = 1 << 18;
/// The longest array of numbers whose elements are listed one by one; longer ones stay bytes.
const LIST_LIMIT: usize = 1 << 16;
/// The longest path that is followed: names are untrusted input, and each field has all those around it.
const PATH_LIMIT_BYTES: usize = 512;
/// The deepest nesting that is followed.
const DEPTH_LIMIT: usize = 64;

/// What a field says.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// `bool`.
    Bool(bool),
    /// Unsigned integers.
    Unsigned(u64),
    /// Signed integers.
    Signed(i64),
    /// `float64`.
    Double(f64),
    /// `timer`: when it fires, in nanoseconds of the guest's clock; none: not armed.
    Timer(Option<u64>),
    /// Text: `str8`.
    Text(Vec<u8>),
    /// An array of the above.
    List(Vec<Value>),
    /// A NULL pointer in an array of pointers.
    NullPointer,
    /// A pointer that is not NULL: its object is the next field.
    Pointer,
    /// Bytes that QEMU writes as zeros and does not read.
    Unused,
    /// A bitmap: be64 words.
    Bitmap,
    /// Bytes that the description calls just that, or that only QEMU's code understands.
    Bytes,
    /// Bytes that could not be decoded; why.
    Undecoded(&'static str),
    /// The header of a subsection: its version.
    Subsection(u32),
    /// A byte between the elements of a queue, or the count of a tree.
    Mark(u64),
}

/// A field of a device with its bytes. Fields stand in the order of the stream and leave no byte out.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedField<'a> {
    /// Where in the device's state, as no other of its fields: `parent_obj/config`, `vq[3].vring.num`,
    /// `ahci/ncq-pio/…`.
    pub path: String,
    /// The type, as QEMU calls it.
    pub type_name: &'a str,
    /// Offset in the body of its first byte.
    pub offset: usize,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// What they say.
    pub value: Value,
}

/// A decoded body.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decoded<'a> {
    /// All its fields.
    pub fields: Vec<DecodedField<'a>>,
    /// How many of its bytes could not be decoded although they were described.
    pub undecoded_bytes: usize,
}

/// Decodes `body` as `state` describes it.
#[must_use]
pub fn decode<'a>(body: &'a [u8], state: &'a State) -> Decoded<'a> {
    let mut decoder = FieldDecoder { body, out: Decoded::default() };
    let end = decoder.state(state, "", 0, body.len(), 0);
    if end < body.len() {
        decoder.undecoded("", "", end, body.len(), "bytes behind the last field that is described");
    }
    number_equal_paths(&mut decoder.out.fields);
    decoder.out
}

/// Gives the second of two fields with one path a path of its own, `PATH#2`, and so on: QEMU's names may look
/// like paths (`channels[0].next_transition_time` of `i8254` is an element's field, and again a field of that
/// name behind the array).
fn number_equal_paths(fields: &mut [DecodedField<'_>]) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for field in fields {
        let Some(times) = seen.get(&field.path).copied() else {
            seen.insert(field.path.clone(), 1);
            continue;
        };
        let free = |number: &usize| !seen.contains_key(&format!("{}#{number}", field.path));
        let number = (times + 1..).find(free).unwrap_or(usize::MAX);
        let path = format!("{}#{number}", field.path);
        seen.insert(core::mem::replace(&mut field.path, path.clone()), number);
        seen.insert(path, 1);
    }
}

struct FieldDecoder<'a> {
    body: &'a [u8],
    out: Decoded<'a>,
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

impl<'a> FieldDecoder<'a> {
    fn push(&mut self, path: &str, type_name: &'a str, from: usize, to: usize, value: Value) {
        let bytes = &self.body[from..to];
        self.out.fields.push(DecodedField { path: path.to_owned(), type_name, offset: from, bytes, value });
    }

    fn is_full(&self) -> bool {
        self.out.fields.len() > FIELD_LIMIT
    }

    fn undecoded(&mut self, path: &str, type_name: &'a str, from: usize, to: usize, why: &'static str) {
        self.out.undecoded_bytes += to - from;
        self.push(path, type_name, from, to, Value::Undecoded(why));
    }

    /// Decodes a state between `at` and `end`; returns where it ended.
    fn state(&mut self, state: &'a State, path: &str, mut at: usize, end: usize, depth: usize) -> usize {
        let mut elements = Elements::new(&state.fields);
        for field in &state.fields {
            let path = join(path, &field.name);
            let place = elements.place(self.body[..end].get(at).copied());
            let fits = field.total_bytes().is_some_and(|total| total <= (end - at) as u64);
            if !fits || depth > DEPTH_LIMIT || path.len() > PATH_LIMIT_BYTES || self.is_full() {
                let why = if fits {
                    "nested deeper, or more, than is followed"
                } else {
                    "described longer than the section is"
                };
                self.undecoded(&path, &field.type_name, at, end, why);
                return end;
            }
            at = self.field(field, place, &path, at, depth);
        }
        for subsection in &state.subsections {
            let path = join(path, &subsection.vmsd_name);
            let name = subsection.vmsd_name.as_bytes();
            let body = at + 2 + name.len() + 4;
            let header = self.body.get(at..body.min(end)).unwrap_or_default();
            if header.len() != 2 + name.len() + 4
                || header[0] != crate::configuration::QEMU_VM_SUBSECTION
                || usize::from(header[1]) != name.len()
                || &header[2..2 + name.len()] != name
            {
                self.undecoded(&path, "subsection", at, end, "no subsection where one is described");
                return end;
            }
            let version = u32::from_be_bytes([
                header[body - at - 4],
                header[body - at - 3],
                header[body - at - 2],
                header[body - at - 1],
            ]);
            self.push(&path, "subsection", at, body, Value::Subsection(version));
            at = self.state(subsection, &path, body, end, depth + 1);
        }
        at
    }

    /// Decodes a field whose bytes are all there.
    fn field(&mut self, field: &'a Field, place: Place, path: &str, at: usize, depth: usize) -> usize {
        let size = to_usize(field.size);
        if size == 0 {
            return at;
        }
        let Array::Len(count) = field.array else {
            let path = match place {
                Place::Alone => path.to_owned(),
                Place::Element(index) => format!("{path}[{index}]"),
            };
            self.element(field, &path, at, at + size, depth);
            return at + size;
        };
        let (count, end) = (to_usize(count), at + size * to_usize(count));
        let is_list = field.nested.is_empty() && is_scalar(&field.type_name);
        match place {
            _ if count == 0 => {}
            Place::Alone if is_list && count <= LIST_LIMIT => {
                let elements = self.body[at..end].chunks(size).map(|bytes| value(&field.type_name, bytes));
                let list = Value::List(elements.collect());
                self.push(path, &field.type_name, at, end, list);
            }
            Place::Alone if is_list => self.push(path, &field.type_name, at, end, Value::Bytes),
            Place::Alone => self.elements(field, 0, path, at..end, depth),
            Place::Element(first) => self.elements(field, first, path, at..end, depth),
        }
        end
    }

    /// Decodes elements of one size, of which the first has the index `first`.
    fn elements(&mut self, field: &'a Field, first: u64, path: &str, range: Range<usize>, depth: usize) {
        let size = to_usize(field.size);
        for (number, from) in range.clone().step_by(size).enumerate() {
            let number = first.saturating_add(number as u64);
            if self.is_full() {
                self.undecoded(path, &field.type_name, from, range.end, "more elements than are followed");
                break;
            }
            self.element(field, &format!("{path}[{number}]"), from, from + size, depth);
        }
    }

    fn element(&mut self, field: &'a Field, path: &str, at: usize, end: usize, depth: usize) {
        let reached = match &field.type_name[..] {
            "qtailq" | "qlist" => self.queue(field, path, at, end, depth),
            "gtree" => self.tree(field, path, at, end, depth),
            _ if !field.nested.is_empty() => {
                field.nested.iter().fold(at, |at, state| self.state(state, path, at, end, depth + 1))
            }
            type_name => {
                let value = value(type_name, &self.body[at..end]);
                self.push(path, type_name, at, end, value);
                end
            }
        };
        if reached < end {
            let why = "bytes behind the last nested field that is described";
            self.undecoded(path, &field.type_name, reached, end, why);
        }
    }

    /// A byte that says whether an element follows; where it is, if it is what is expected.
    fn mark(&mut self, path: &str, at: usize, end: usize, expected: u8) -> Option<usize> {
        let found = *self.body.get(at).filter(|_| at < end)?;
        (found == expected).then(|| {
            self.push(path, "mark", at, at + 1, Value::Mark(u64::from(found)));
            at + 1
        })
    }

    fn queue(&mut self, field: &'a Field, path: &str, at: usize, end: usize, depth: usize) -> usize {
        let mut at = at;
        for (number, state) in field.nested.iter().enumerate() {
            let path = format!("{path}[{number}]");
            let Some(body) = self.mark(&path, at, end, 1) else { return at };
            at = self.state(state, &path, body, end, depth + 1);
        }
        self.mark(path, at, end, 0).unwrap_or(at)
    }

    fn tree(&mut self, field: &'a Field, path: &str, at: usize, end: usize, depth: usize) -> usize {
        let Some(count) = self.body.get(at..at + 4).filter(|_| at + 4 <= end) else { return at };
        let count = u32::from_be_bytes([count[0], count[1], count[2], count[3]]) as usize;
        self.push(path, "count", at, at + 4, Value::Mark(count as u64));
        // A key that is a number is not described; one that is a structure is, before its value.
        let per_node = field.nested.len().checked_div(count).unwrap_or(0);
        if count * per_node != field.nested.len() {
            return at + 4;
        }
        let mut at = at + 4;
        for (number, states) in field.nested.chunks(per_node.max(1)).enumerate() {
            let path = format!("{path}[{number}]");
            let Some(mut body) = self.mark(&path, at, end, 1) else { return at };
            if per_node == 1 {
                let Some(key) = self.body.get(body..body + 8).filter(|_| body + 8 <= end) else {
                    return body;
                };
                let value = value("uint64", key);
                self.push(&join(&path, "key"), "uint64", body, body + 8, value);
                body += 8;
            }
            at = body;
            for (part, state) in states.iter().enumerate() {
                let path = if part + 1 < per_node { join(&path, "key") } else { path.clone() };
                at = self.state(state, &path, at, end, depth + 1);
            }
        }
        self.mark(&join(path, "end"), at, end, 0).unwrap_or(at)
    }
}

/// The number type that a type's name begins with: `int32 le` is be32 with a check, as are `… equal`.
fn base(type_name: &str) -> &str {
    type_name.split(' ').next().unwrap_or_default()
}

fn is_scalar(type_name: &str) -> bool {
    matches!(
        base(type_name),
        "bool"
            | "int8"
            | "uint8"
            | "int16"
            | "uint16"
            | "int32"
            | "uint32"
            | "int64"
            | "uint64"
            | "float64"
            | "CPU_Double_U"
            | "timer"
            | "nullptr"
            | POINTER_MARKER
    )
}

fn value(type_name: &str, bytes: &[u8]) -> Value {
    let number = |length: usize| {
        (bytes.len() == length)
            .then(|| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte)))
            .ok_or(Value::Undecoded("its size is not the one of its type"))
    };
    let unsigned = |length| number(length).map_or_else(|wrong| wrong, Value::Unsigned);
    let signed = |length: usize| {
        number(length).map_or_else(
            |wrong| wrong,
            |number| {
                let shift = 64 - 8 * length;
                Value::Signed((number << shift).cast_signed() >> shift)
            },
        )
    };
    match base(type_name) {
        "bool" => match bytes {
            [byte] => Value::Bool(*byte != 0),
            _ => Value::Undecoded("its size is not the one of its type"),
        },
        "uint8" => unsigned(1),
        "uint16" => unsigned(2),
        "uint32" => unsigned(4),
        "uint64" => unsigned(8),
        "int8" => signed(1),
        "int16" => signed(2),
        "int32" => signed(4),
        "int64" => signed(8),
        "float64" | "CPU_Double_U" => {
            number(8).map_or_else(|wrong| wrong, |bits| Value::Double(f64::from_bits(bits)))
        }
        "timer" => number(8).map_or_else(|wrong| wrong, |at| Value::Timer((at != u64::MAX).then_some(at))),
        "capability" | "str" => match bytes.split_first() {
            Some((&length, text)) if usize::from(length) == text.len() => Value::Text(text.to_vec()),
            _ => Value::Undecoded("its length is not the one that it says"),
        },
        "nullptr" => Value::NullPointer,
        POINTER_MARKER => match bytes {
            [MARKER_NULL] => Value::NullPointer,
            [MARKER_VALID] => Value::Pointer,
            _ => Value::Undecoded("neither the marker of NULL nor that of an object"),
        },
        "unused_buffer" => Value::Unused,
        "bitmap" if bytes.len().is_multiple_of(8) => Value::Bitmap,
        _ => Value::Bytes,
    }
}

#[cfg(all(test, feature = "vmdesc"))]
mod tests;
