//! Devices: versions, fields, structures, subsections.

use super::shape::{DeviceShape, FieldShape, Shape, StateShape};
use super::{Judge, Verdict};
use crate::escape::json_text;

/// The most judgements: a description can claim more differences than anybody reads.
const JUDGEMENTS_LIMIT: usize = 100_000;

pub(super) fn devices(judge: &mut Judge, source: &Shape, target: &Shape) {
    for device in &source.devices {
        if judge.judgements.len() > JUDGEMENTS_LIMIT {
            judge.may_break("not-compared", "devices", "more differences than are told");
            return;
        }
        let path = format!("device {}", label(device, source));
        let Some(other) = counterpart(device, source, target) else {
            missing(judge, &path, source, target);
            continue;
        };
        self::device(judge, &path, device, other, source.is_dump);
    }
    if source.is_dump {
        return;
    }
    for device in &target.devices {
        // A dump describes every type that there is, in this machine or not.
        if !target.is_dump && counterpart(device, target, source).is_none() {
            let path = format!("device {}", label(device, target));
            judge.may_break("section-extra", &path, "only the target has it: its state is not restored");
        }
    }
}

fn missing(judge: &mut Judge, path: &str, source: &Shape, target: &Shape) {
    if target.is_dump && !source.is_dump {
        let text =
            "-dump-vmstate describes types of the device model only, and none with this description's name";
        judge.may_break("not-described", path, text);
    } else if source.is_dump {
        // It breaks if the machine has one.
        judge.may_break("section-missing", path, "the target does not have it");
    } else {
        judge.breaks("section-missing", path, "the target does not have it");
    }
}

fn label(device: &DeviceShape, shape: &Shape) -> String {
    let name = json_text(&device.idstr);
    if shape.is_dump { name } else { format!("{name}/{}", device.instance_id) }
}

fn counterpart<'a>(device: &DeviceShape, here: &Shape, there: &'a Shape) -> Option<&'a DeviceShape> {
    let mut others = there.devices.iter();
    if here.is_dump == there.is_dump {
        return others.find(|other| other.idstr == device.idstr && other.instance_id == device.instance_id);
    }
    let name = &device.state.as_ref()?.name;
    others.find(|other| other.state.as_ref().is_some_and(|state| state.name == *name))
}

fn device(judge: &mut Judge, path: &str, source: &DeviceShape, target: &DeviceShape, possible: bool) {
    if source.version > target.version {
        let text = format!("version {}, the target knows up to {}", source.version, target.version);
        return judge.breaks("version-newer", path, text);
    }
    let (Some(state), Some(other)) = (&source.state, &target.state) else {
        let text = "no description of its fields";
        let text = if source.body_bytes == target.body_bytes {
            text.to_owned()
        } else {
            format!("{text}; {} bytes, the target sent {}", source.body_bytes, target.body_bytes)
        };
        return judge.may_break("not-described", path, text);
    };
    if let Some(minimum) = other.minimum_version
        && source.version < minimum
    {
        let text = format!("version {}, the target needs {minimum} at least", source.version);
        return judge.breaks("minimum-version", path, text);
    }
    if source.version < target.version {
        let text = format!("version {}, the target's is {}", source.version, target.version);
        if other.minimum_version.is_some() {
            judge.safe("version-older", path, format!("{text}, and it still loads the older one"));
        } else {
            judge.may_break("version-older", path, text);
        }
    }
    if state.name != other.name {
        let text = format!("described as \"{}\", the target's as \"{}\"", state.name, other.name);
        judge.may_break("description-name", path, text);
    }
    self::state(judge, path, state, other, possible);
}

/// Compares two states. `possible`: the source tells what it may send, not what it has sent.
fn state(judge: &mut Judge, path: &str, source: &StateShape, target: &StateShape, possible: bool) {
    fields(judge, path, source, target);
    for subsection in &source.subsections {
        let path = format!("{path}: subsection {}", json_text(subsection.name.as_bytes()));
        let other = target.subsections.iter().find(|other| other.name == subsection.name);
        let Some(other) = other else {
            if target.minimum_version.is_some() && !possible {
                judge.breaks("subsection-unknown", &path, "sent, and the target does not know it");
            } else if possible {
                judge.may_break(
                    "subsection-unknown",
                    &path,
                    "breaks when it is sent: the target does not know it",
                );
            } else {
                let text = "sent, and the target did not send it: whether it knows it is not known";
                judge.may_break("subsection-unknown", &path, text);
            }
            continue;
        };
        if subsection.version > other.version {
            let text = format!("version {}, the target knows up to {}", subsection.version, other.version);
            let verdict = if possible { Verdict::MayBreak } else { Verdict::Breaks };
            judge.say(verdict, "subsection-version", &path, text);
            continue;
        }
        if other.minimum_version.is_some_and(|minimum| subsection.version < minimum) {
            judge.breaks("minimum-version", &path, "its version is older than what the target still loads");
        }
        self::state(judge, &path, subsection, other, possible);
    }
    for subsection in &target.subsections {
        if !source.subsections.iter().any(|other| other.name == subsection.name) {
            let path = format!("{path}: subsection {}", json_text(subsection.name.as_bytes()));
            judge.safe("subsection-not-sent", &path, "the target loads the device without it");
        }
    }
}

/// Fields have no names on the wire: their order and sizes are everything.
fn fields(judge: &mut Judge, path: &str, source: &StateShape, target: &StateShape) {
    // The same bytes may be cut into fields in another way: a buffer gets shorter, and what follows is new.
    let total = |state: &StateShape| {
        state.fields.iter().try_fold(0u64, |sum, field| {
            let (_, size, count) = field.wire.as_ref()?;
            sum.checked_add(size.checked_mul(*count)?)
        })
    };
    let same_total = total(source).is_some() && total(source) == total(target);
    let mut at = 0;
    for field in &source.fields {
        let field_path = format!("{path}: {}", json_text(field.name.as_bytes()));
        let found = target.fields[at..].iter().position(|other| other.name == field.name);
        let Some(distance) = found else {
            // What a stream does not have may be conditional; a dump has everything.
            let complete = target.minimum_version.is_some();
            renamed_or_unknown(judge, &field_path, field, target.fields.get(at), complete);
            // A field in the place of another is that one by another name.
            if target.fields.get(at).is_some_and(|other| same_bytes(field, other)) {
                at += 1;
            }
            continue;
        };
        for skipped in &target.fields[at..at + distance] {
            not_sent(judge, path, source, target, skipped);
        }
        one_field(judge, &field_path, field, &target.fields[at + distance], same_total);
        at += distance + 1;
        // Fields of one name behind each other, all of them conditional, stand for each other.
        if target.fields[at - 1].conditional == Some(true) {
            let others = target.fields[at..].iter();
            at += others
                .take_while(|other| other.name == field.name && other.conditional == Some(true))
                .count();
        }
    }
    for skipped in &target.fields[at..] {
        not_sent(judge, path, source, target, skipped);
    }
}

fn same_bytes(source: &FieldShape, target: &FieldShape) -> bool {
    match (&source.wire, &target.wire) {
        (Some(source), Some(target)) => source == target,
        _ => source.memory_bytes.is_some() && source.memory_bytes == target.memory_bytes,
    }
}

fn renamed_or_unknown(
    judge: &mut Judge,
    path: &str,
    source: &FieldShape,
    target: Option<&FieldShape>,
    complete: bool,
) {
    match target {
        Some(other) if same_bytes(source, other) => {
            let text = format!("the target has \"{}\" in its place, of the same size", other.name);
            judge.may_break("field-name", path, text);
        }
        _ if source.conditional == Some(true) => {
            judge.may_break("field-unknown", path, "breaks when it is sent: the target does not read it");
        }
        _ if complete => {
            judge.breaks("field-unknown", path, "sent, and the target does not read it at this place");
        }
        _ => {
            let text = "sent, and the target did not send it: unless it reads it all the same, what follows is shifted";
            judge.may_break("field-unknown", path, text);
        }
    }
}

/// A field that only the target has.
fn not_sent(judge: &mut Judge, path: &str, source: &StateShape, target: &StateShape, field: &FieldShape) {
    let name = &field.name;
    if field.since > source.version && target.minimum_version.is_some() {
        let text =
            format!("\"{name}\" is there since version {}, which the target does not ask for", field.since);
        return judge.safe("field-newer", path, text);
    }
    match field.conditional {
        Some(true) => {
            let text = format!("\"{name}\" is read under a condition that the description does not tell");
            judge.may_break("field-conditional", path, text);
        }
        _ => {
            let text = format!(
                "\"{name}\" was not sent: unless it is empty or conditional, what follows is shifted"
            );
            judge.may_break("field-missing", path, text);
        }
    }
}

/// Fields of the same name.
fn one_field(judge: &mut Judge, path: &str, source: &FieldShape, target: &FieldShape, same_total: bool) {
    match (&source.wire, &target.wire) {
        (Some((type_name, size, count)), Some((other_type, other_size, other_count))) => {
            let scalar = source.nested.is_empty() && target.nested.is_empty();
            if scalar && type_name != other_type {
                let text = format!("type {}, the target's is {}", quoted(type_name), quoted(other_type));
                let fits = size == other_size || same_total;
                let verdict = if fits { Verdict::MayBreak } else { Verdict::Breaks };
                judge.say(verdict, "field-type", path, text);
            } else if scalar && size != other_size {
                let text = format!("{size} bytes, the target's has {other_size}");
                // The sizes of buffers and bitmaps may depend on the machine's state, those of numbers do not.
                let fixed =
                    type_name.starts_with("int") || type_name.starts_with("uint") || type_name == "bool";
                let verdict = if fixed && !same_total { Verdict::Breaks } else { Verdict::MayBreak };
                judge.say(verdict, "field-size", path, text);
            }
            if count != other_count {
                let text = format!("{count} elements, the target's has {other_count}");
                judge.may_break("array-length", path, text);
            }
        }
        (Some((type_name, size, _)), None) => {
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
    if source.nested.is_empty() != target.nested.is_empty() {
        judge.may_break("field-type", path, "a structure on one side only");
    }
    let possible = source.wire.is_none();
    for (number, state) in source.nested.iter().enumerate() {
        // Of a dump, and of an array of equal elements, one description is for all.
        let Some(other) = target.nested.get(number).or(target.nested.last()) else { break };
        let path = if source.nested.len() > 1 { format!("{path}[{number}]") } else { path.to_owned() };
        if state.name != other.name {
            let text = format!("structure {}, the target's is {}", quoted(&state.name), quoted(&other.name));
            judge.may_break("structure-name", &path, text);
        }
        if state.version != other.version {
            let text = format!("structure version {}, the target's is {}", state.version, other.version);
            judge.may_break("structure-version", &path, text);
        }
        self::state(judge, &path, state, other, possible);
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", json_text(name.as_bytes()))
}
