//! The lines of a device section: one for each field.

use super::{Line, Value};
use crate::walk::{Border, DeviceSection};
use migration_stream::device::{self, DecodedField};
use std::borrow::Cow;

/// The section's own line.
pub(crate) fn device_line(offset: u64, length: u64, section: &DeviceSection<'_>) -> Line<'static> {
    let border = match section.border {
        Border::Described => "vmdesc",
        Border::NextSection => "next section",
        Border::Footer => "footer",
    };
    let vmsd = section.description.map(|state| Value::Name(state.vmsd_name.clone().into_bytes()));
    super::section(Line::new(offset, length, "device"), &section.header)
        .with("vmsd", vmsd.unwrap_or(Value::Null))
        .with("body_bytes", Value::Decimal(section.body.len() as u64))
        .with("end_by", Value::Word(border))
}

/// The lines of its fields; `at` is the offset of its body.
pub(crate) fn field_lines<'a>(at: u64, fields: &[DecodedField<'a>]) -> impl Iterator<Item = Line<'a>> {
    fields.iter().map(move |field| field_line(at, field))
}

fn field_line<'a>(at: u64, field: &DecodedField<'a>) -> Line<'a> {
    let offset = at + field.offset as u64;
    let (value, why) = value(&field.value, field.bytes, field.type_name);
    Line {
        bytes: Some(Cow::Borrowed(field.bytes)),
        ..Line::new(offset, field.bytes.len() as u64, "field")
            .with("path", Value::Name(field.path.clone().into_bytes()))
            .with("field_type", Value::Name(field.type_name.as_bytes().to_vec()))
            .with("value", value)
            .with("why", why.map_or(Value::Null, Value::Word))
    }
}

pub(crate) fn value<'a>(
    value: &device::Value,
    bytes: &'a [u8],
    type_name: &str,
) -> (Value<'a>, Option<&'static str>) {
    let plain = match value {
        device::Value::Bool(value) => Value::Bool(*value),
        device::Value::Unsigned(number) if type_name.starts_with("uint8") => Value::Decimal(*number),
        device::Value::Unsigned(number) => Value::Hex(*number),
        device::Value::Signed(number) => Value::Signed(*number),
        device::Value::Double(number) => Value::Double(*number),
        device::Value::Timer(at) => at.map_or(Value::Null, Value::Decimal),
        device::Value::Text(text) => Value::Name(text.clone()),
        device::Value::List(values) => {
            let size = bytes.len() / values.len().max(1);
            let elements = bytes.chunks(size.max(1));
            Value::List(
                values.iter().zip(elements).map(|(v, bytes)| self::value(v, bytes, type_name).0).collect(),
            )
        }
        device::Value::NullPointer => Value::Word("nullptr"),
        device::Value::Pointer => Value::Word("pointer"),
        device::Value::Subsection(version) => Value::Decimal((*version).into()),
        device::Value::Mark(number) => Value::Decimal(*number),
        device::Value::Undecoded(why) => return (Value::bytes(bytes), Some(why)),
        // Unused, Bitmap, Bytes.
        _ => Value::bytes(bytes),
    };
    (plain, None)
}
