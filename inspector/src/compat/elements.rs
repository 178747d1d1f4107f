//! One field that both sides have: its type, its size, its elements, and the structures in them.

use super::shape::{FieldShape, Nulls, StateShape, Wire};
use super::{How, Judge, Verdict};
use crate::escape::json_text;

/// Types that may have no element, and then nothing nested.
const MAY_BE_EMPTY: [&str; 4] = ["qtailq", "qlist", "gtree", "nullptr"];

pub(super) fn one_field(
    judge: &mut Judge,
    path: &str,
    source: &FieldShape,
    target: &FieldShape,
    same_total: bool,
    how: How<'_>,
) {
    let scalar = source.nested.is_empty() && target.nested.is_empty();
    match (&source.wire, &target.wire) {
        (Some(ours), Some(theirs)) => {
            if scalar {
                on_the_wire(judge, path, ours, theirs, same_total);
            }
            lengths(judge, path, ours, theirs);
        }
        (Some(Wire { type_name, size, .. }), None) => {
            let number = type_name.starts_with("int") || type_name.starts_with("uint");
            if number && source.nested.is_empty() && target.memory_bytes.is_some_and(|bytes| bytes < *size) {
                judge.breaks("field-size", path, format!("{size} bytes, more than the target's field has"));
            }
        }
        (None, None) if source.memory_bytes != target.memory_bytes && source.nested.is_empty() => {
            let bytes = |field: &FieldShape| field.memory_bytes.unwrap_or(0);
            let text = format!("{} bytes in memory, the target's has {}", bytes(source), bytes(target));
            judge.breaks("field-size", path, text);
        }
        _ => {}
    }
    let may_be_empty = |field: &FieldShape| {
        let wire = field.wire.as_ref();
        wire.is_some_and(|wire| MAY_BE_EMPTY.contains(&&wire.type_name[..]))
    };
    let one_is_empty = may_be_empty(source) || may_be_empty(target);
    if source.nested.is_empty() != target.nested.is_empty() && !one_is_empty {
        judge.may_break("field-type", path, "a structure on one side only");
    }
    nested(judge, path, source, target, how);
}

/// Numbers, buffers and the like.
fn on_the_wire(judge: &mut Judge, path: &str, source: &Wire, target: &Wire, same_total: bool) {
    let (type_name, other_type) = (&source.type_name, &target.type_name);
    if type_name != other_type {
        let text = format!("type {}, the target's is {}", quoted(type_name), quoted(other_type));
        if source.size == target.size && differ_in_sign(type_name, other_type) {
            return judge.safe("field-type", path, format!("{text}: the same bytes"));
        }
        let fits = source.size == target.size || same_total;
        let verdict = if fits { Verdict::MayBreak } else { Verdict::Breaks };
        judge.say(verdict, "field-type", path, text);
    } else if source.size != target.size {
        let text = format!("{} bytes, the target's has {}", source.size, target.size);
        // The sizes of buffers and bitmaps may depend on the machine's state, those of numbers do not.
        let fixed = type_name.starts_with("int") || type_name.starts_with("uint") || type_name == "bool";
        let verdict = if fixed && !same_total { Verdict::Breaks } else { Verdict::MayBreak };
        judge.say(verdict, "field-size", path, text);
    }
}

/// Integers of one width, with or without a sign, of which nothing is checked but that they are
/// equal to the target's own: that, too, is a comparison of the same bits
/// (`migration/vmstate-types.c`).
fn differ_in_sign(source: &str, target: &str) -> bool {
    let unsigned = |name: &str| name.strip_prefix('u').unwrap_or(name).to_owned();
    let (name, other) = (unsigned(source), unsigned(target));
    let (base, check) = name.split_once(' ').unwrap_or((&name, ""));
    name == other && ["int8", "int16", "int32", "int64"].contains(&base) && ["", "equal"].contains(&check)
}

/// How many elements there are, and which of them are NULL.
fn lengths(judge: &mut Judge, path: &str, source: &Wire, target: &Wire) {
    if source.count != target.count {
        let text = format!("{} elements, the target's has {}", source.count, target.count);
        judge.may_break("array-length", path, text);
        return;
    }
    let says_so = |nulls: &Nulls| *nulls == Nulls::Marked;
    let may_be_null = |nulls: &Nulls| *nulls != Nulls::None;
    let (ours, theirs) = (&source.nulls, &target.nulls);
    let marked = (says_so(ours) && may_be_null(theirs)) || (says_so(theirs) && may_be_null(ours));
    if ours != theirs && !marked {
        let text = "other elements are NULL pointers: breaks unless they are in the target that loads";
        judge.may_break("null-pointers", path, text);
    }
}

/// The structures: one for each element, or one for all of them.
fn nested(judge: &mut Judge, path: &str, source: &FieldShape, target: &FieldShape, how: How<'_>) {
    let count = source.nested.len().max(target.nested.len());
    // Where elements are NULL, those that are not are not numbered by what is nested.
    let is_numbered = |field: &FieldShape| field.wire.as_ref().is_none_or(|wire| wire.nulls == Nulls::None);
    let is_numbered = is_numbered(source) && is_numbered(target);
    for number in 0..count {
        let of = |field: &'_ FieldShape| field.nested.len().min(number + 1).checked_sub(1);
        let (Some(ours), Some(theirs)) = (of(source), of(target)) else { return };
        let path = if count > 1 && is_numbered { format!("{path}[{number}]") } else { path.to_owned() };
        let how = How { possible: source.wire.is_none(), ..how };
        structure(judge, &path, &source.nested[ours], &target.nested[theirs], how);
    }
}

/// A structure within a structure. Its version is not on the wire: the target reads it as of its own version
/// (`vmstate_load_state()` is given `field->vmsd->version_id`).
fn structure(judge: &mut Judge, path: &str, source: &StateShape, target: &StateShape, how: How<'_>) {
    if source.name != target.name {
        let text = format!("structure {}, the target's is {}", quoted(&source.name), quoted(&target.name));
        judge.may_break("structure-name", path, text);
    }
    let mut inner = Judge::default();
    inner.structure(path, source, target, How { version: target.version, ..how });
    if source.version != target.version {
        let text = format!("structure version {}, the target's is {}", source.version, target.version);
        let is_same = inner.judgements.iter().all(|judgement| judgement.verdict == Verdict::Safe);
        let too_old = target.minimum_version.is_some_and(|minimum| source.version < minimum);
        if is_same {
            let text = format!("{text}; it is not on the wire, and the fields are the same");
            judge.safe("structure-version", path, text);
        } else if source.is_as_long_as(target) {
            let text = format!("{text}, with other fields of as many bytes: what loads may be shifted");
            judge.may_break("structure-version", path, text);
        } else if target.wire_bytes().is_none() {
            // A dump has no byte counts, and fields under conditions: if they are as many bytes, it loads.
            let text = format!("{text}, with other fields; how many bytes they are is not in a dump");
            judge.may_break("structure-version", path, text);
            for unknown in inner.judgements.iter_mut().filter(|judgement| judgement.rule == "field-unknown") {
                unknown.verdict = unknown.verdict.min(Verdict::MayBreak);
            }
        } else if source.version > target.version || too_old {
            judge.breaks("structure-version", path, format!("{text}, with other fields"));
        } else {
            judge.may_break("structure-version", path, format!("{text}, with other fields"));
        }
    }
    judge.judgements.append(&mut inner.judgements);
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", json_text(name.as_bytes()))
}
