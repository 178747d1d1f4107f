//! Bytes that both sides have, and cut into fields in another way.
//!
//! QEMU makes room for new fields in buffers that were longer than what is in them, so that older
//! QEMUs go on loading them: of the 100 bytes of `globalstate`'s `runstate` up to 8.2 the text
//! takes 32 at most; from 9.0 on the two bytes behind these are `has_vm_was_suspended` and
//! `vm_was_suspended`, and the rest is `unused` (`migration/global_state.c`).

use super::Judge;
use super::shape::{FieldShape, Wire};
use crate::escape::json_text;

/// Names that are listed; of more the number is.
const NAMED: usize = 4;

/// Judges fields that lie together on either side, if they are the same bytes, cut differently;
/// `body` is what the source sent.
pub(super) fn recut(
    judge: &mut Judge,
    path: &str,
    source: &[&FieldShape],
    target: &[&FieldShape],
    body: &[u8],
) -> bool {
    let (Some(ours), Some(theirs)) = (places(source), places(target)) else { return false };
    let total = |places: &[Place<'_>]| places.last().map(|place| place.end);
    if total(&ours) != total(&theirs) {
        return false;
    }
    let Some(new_are_zero) = new_fields_are_zero(&ours, &theirs, body) else { return false };
    let path = format!("{path}: {}", json_text(source[0].name.as_bytes()));
    let text = format!(
        "{} bytes that are {}; the target reads them as {}",
        total(&ours).unwrap_or(0),
        names(source),
        names(target)
    );
    if new_are_zero {
        judge.safe("field-recut", &path, text);
    } else {
        judge.may_break("field-recut", &path, format!("{text}, and what is new to the source is not zero"));
    }
    true
}

/// A field by its first byte, and the one behind it.
struct Place<'a> {
    start: u64,
    end: u64,
    wire: &'a Wire,
}

/// The places of fields of which a destination reads so many bytes, whatever they are; none if one
/// is another kind.
fn places<'a>(fields: &[&'a FieldShape]) -> Option<Vec<Place<'a>>> {
    let mut start = 0u64;
    fields
        .iter()
        .map(|field| {
            let wire = field.wire.as_ref().filter(|wire| wire.is_plain() && field.nested.is_empty())?;
            let place = Place { start, end: start.checked_add(wire.total)?, wire };
            start = place.end;
            Some(place)
        })
        .collect()
}

/// Each field of the target has to be one of the source's, or be a buffer, or lie in buffers.
/// Whether the bytes of the last kind are zero, as QEMU writes what it does not use; none if one is
/// something else.
fn new_fields_are_zero(source: &[Place<'_>], target: &[Place<'_>], body: &[u8]) -> Option<bool> {
    let mut zero = true;
    let mut from = 0;
    for place in target.iter().filter(|place| place.start < place.end) {
        from += source[from..].iter().take_while(|other| other.end <= place.start).count();
        let over = || source[from..].iter().take_while(|other| other.start < place.end);
        let is_same = over().count() == 1
            && over().all(|other| {
                (other.start, other.end) == (place.start, place.end) && other.wire.is_same(place.wire)
            });
        if is_same || place.wire.is_buffer() {
            continue;
        }
        if !over().all(|other| other.wire.is_buffer()) {
            return None;
        }
        zero &= over().all(|other| {
            let start = place.start.max(other.start) - other.start;
            let end = place.end.min(other.end) - other.start;
            bytes(body, other.wire, start, end).is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0))
        });
    }
    Some(zero)
}

/// Bytes of a field of the source.
fn bytes<'a>(body: &'a [u8], wire: &Wire, start: u64, end: u64) -> Option<&'a [u8]> {
    let at = |offset: u64| usize::try_from(wire.at?.checked_add(offset)?).ok();
    body.get(at(start)?..at(end)?)
}

fn names(fields: &[&FieldShape]) -> String {
    let mut names: Vec<_> =
        fields.iter().take(NAMED).map(|field| format!("\"{}\"", json_text(field.name.as_bytes()))).collect();
    if let more @ 1.. = fields.len().saturating_sub(NAMED) {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}
