//! Devices: versions, and subsections.

use super::fields::fields;
use super::shape::{DeviceShape, Shape, StateShape};
use super::{How, Judge, Verdict};
use crate::escape::json_text;
use std::collections::HashSet;

/// The most judgements: a description can claim more differences than anybody reads.
const JUDGEMENTS_LIMIT: usize = 100_000;

/// `vga_isa_class_initfn()` of hw/display/vga-isa.c gives the device `vmstate_vga_common`, which
/// describes a `VGACommonState`, and the migration code reads and writes it at the start of the
/// device (`ISAVGAState`), which is something else. Only this device has a section of that name
/// without the path of a bus. Seen with 7.2 and 10.0; 11.1 has no such section.
const ISA_VGA: &str = "isa-vga: QEMU loads it over other fields of the device, and may crash";

pub(super) fn devices(judge: &mut Judge, source: &Shape, target: &Shape) {
    for device in &source.devices {
        if judge.judgements.len() > JUDGEMENTS_LIMIT {
            judge.may_break("not-compared", "devices", "more differences than are listed");
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
        let text = "-dump-vmstate describes types of the device model only, and this is none of them";
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
    // A dump has no instances. Some of its types have descriptions of one name, and some
    // descriptions (of what is no device of the device model) have the name of another one: what
    // has no field in common is none of them.
    let state = device.state.as_ref()?;
    let names: HashSet<&str> = state.fields.iter().map(|field| &field.name[..]).collect();
    let in_common = |other: &DeviceShape| {
        let theirs = &other.state.as_ref().filter(|other| other.name == state.name)?.fields;
        let count = theirs.iter().filter(|field| names.contains(&field.name[..])).count();
        (count > 0 || names.is_empty() || theirs.is_empty()).then_some(count)
    };
    let found = others.filter_map(|other| Some((in_common(other)?, other)));
    found.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, other)| other)
}

fn device(judge: &mut Judge, path: &str, source: &DeviceShape, target: &DeviceShape, possible: bool) {
    if source.version > target.version {
        let text = format!("version {}, the target knows up to {}", source.version, target.version);
        return judge.breaks("version-newer", path, text);
    }
    let (Some(state), Some(other)) = (&source.state, &target.state) else {
        let text = "no description of its fields";
        let (ours, theirs) = (source.body.len(), target.body.len());
        let text = if ours == theirs {
            text.to_owned()
        } else {
            format!("{text}; {ours} bytes, the target sent {theirs}")
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
    if source.idstr == b"vga" && state.name == "vga" {
        judge.may_break("isa-vga", path, ISA_VGA);
    }
    let how = How { possible, version: state.version, body: &source.body };
    self::state(judge, path, state, other, how);
}

/// Compares two states.
pub(super) fn state(judge: &mut Judge, path: &str, source: &StateShape, target: &StateShape, how: How<'_>) {
    let possible = how.possible;
    fields(judge, path, source, target, how);
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
        // The version of a subsection is on the wire.
        self::state(judge, &path, subsection, other, How { version: subsection.version, ..how });
    }
    // A dump has those, too, that are hardly ever sent.
    let were_sent = target.minimum_version.is_none();
    for subsection in target.subsections.iter().filter(|_| were_sent) {
        if !source.subsections.iter().any(|other| other.name == subsection.name) {
            let path = format!("{path}: subsection {}", json_text(subsection.name.as_bytes()));
            judge.safe("subsection-not-sent", &path, "the target loads the device without it");
        }
    }
}
