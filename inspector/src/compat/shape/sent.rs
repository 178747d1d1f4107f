//! The shape of a device section: what was sent, by its bytes and what the vmdesc says of them.

use super::{FieldShape, Nulls, StateShape, Wire, plain};
use migration_stream::device::{Array, Elements, Field, Place, State};

/// Types of an element that is NULL: up to 10.0, and from 11.1 on.
const NULL_TYPES: [&str; 2] = ["nullptr", "ptr-marker"];

/// The shape of a section with this body.
pub(super) fn state(body: &[u8], state: &State) -> StateShape {
    // Before 10.0 arrays with NULL pointers have other lengths than described: then no place of a
    // field is known.
    let known = state.payload_bytes() == Some(body.len() as u64);
    Sent { body: if known { body } else { &[] }, at: 0 }.state(state)
}

/// Goes over a body.
struct Sent<'a> {
    body: &'a [u8],
    at: u64,
}

impl Sent<'_> {
    fn bytes(&self, length: u64) -> Option<&[u8]> {
        let end = self.at.checked_add(length)?;
        self.body.get(usize::try_from(self.at).ok()?..usize::try_from(end).ok()?)
    }

    fn state(&mut self, state: &State) -> StateShape {
        let mut fields: Vec<FieldShape> = Vec::new();
        let mut elements = Elements::new(&state.fields);
        let mut last_name = None;
        for field in &state.fields {
            let place = elements.place(self.bytes(1).map(|bytes| bytes[0]));
            let sent = self.field(field, place);
            let goes_on = last_name.replace(&field.name) == Some(&field.name);
            match fields.last_mut() {
                Some(last) if goes_on && joins(last, &sent) => join(last, sent, place),
                _ => fields.push(sent),
            }
        }
        let mut subsections = Vec::new();
        for subsection in &state.subsections {
            // Mark, length and text of the name, version.
            self.at = self.at.saturating_add(2 + subsection.vmsd_name.len() as u64 + 4);
            subsections.push(self.state(subsection));
        }
        StateShape {
            name: state.vmsd_name.clone(),
            version: state.version,
            minimum_version: None,
            fields,
            subsections,
        }
    }

    fn field(&mut self, field: &Field, place: Place) -> FieldShape {
        let count = match field.array {
            Array::Len(count) => count,
            Array::Single | Array::Index(_) => 1,
        };
        let total = field.total_bytes().unwrap_or(u64::MAX);
        let start = self.at;
        let is_null = NULL_TYPES.contains(&&field.type_name[..]);
        let wire = Wire {
            type_name: if is_null { NULL_TYPES[0] } else { &field.type_name }.to_owned(),
            size: field.size,
            count,
            total,
            nulls: if is_null { self.nulls(count, place) } else { Nulls::None },
            at: self.bytes(total).map(|_| start),
        };
        // What is nested begins where the field does; queues have marks in between, and their bytes
        // are not looked at.
        let nested = field.nested.iter().map(|state| self.state(state)).collect();
        self.at = start.saturating_add(total);
        FieldShape { name: plain(&field.name).to_owned(), wire: Some(wire), nested, ..FieldShape::default() }
    }

    fn nulls(&self, count: u64, place: Place) -> Nulls {
        if self.bytes(1) == Some(b"1") {
            return Nulls::Marked;
        }
        let first = match place {
            Place::Alone => 0,
            Place::Element(index) => index,
        };
        Nulls::range(first..first.saturating_add(count))
    }
}

/// Whether what follows under the same name is of the same array: all elements have one type, or are NULL.
fn joins(last: &FieldShape, sent: &FieldShape) -> bool {
    let (Some(last), Some(sent)) = (&last.wire, &sent.wire) else { return false };
    last.type_name == sent.type_name || [last, sent].iter().any(|wire| wire.type_name == NULL_TYPES[0])
}

/// Adds elements to an array.
fn join(last: &mut FieldShape, sent: FieldShape, place: Place) {
    let (Some(wire), Some(more)) = (&mut last.wire, sent.wire) else { return };
    if wire.type_name == NULL_TYPES[0] {
        wire.type_name = more.type_name;
        wire.size = more.size;
    }
    let first = match place {
        Place::Alone => wire.count,
        Place::Element(index) => index,
    };
    wire.count = first.saturating_add(more.count).max(wire.count);
    wire.total = wire.total.saturating_add(more.total);
    wire.at = wire.at.filter(|_| more.at.is_some());
    wire.nulls = match (std::mem::take(&mut wire.nulls), more.nulls) {
        (Nulls::Marked, _) | (_, Nulls::Marked) => Nulls::Marked,
        (Nulls::None, nulls) | (nulls, Nulls::None) => nulls,
        (Nulls::At(mut all), Nulls::At(more)) => {
            for range in more {
                match all.last_mut() {
                    Some(last) if last.end == range.start => last.end = range.end,
                    _ => all.push(range),
                }
            }
            Nulls::At(all)
        }
    };
    last.nested.extend(sent.nested);
}
