//! Machine, RAM and iterables.

use super::{Judge, Shape};
use crate::escape::json_text;
use migration_stream::RamBlock;
use std::collections::HashMap;

pub(super) fn machine(judge: &mut Judge, source: &Shape, target: &Shape) {
    name(judge, source, target);
    if source.is_dump || target.is_dump {
        let text = "-dump-vmstate says nothing of RAM blocks, page size, capabilities and iterable sections";
        judge.may_break("not-compared", "machine", text);
        return;
    }
    if source.has_configuration != target.has_configuration {
        let side = if source.has_configuration { "source" } else { "target" };
        judge.breaks("configuration", "machine", format!("only the {side} has a configuration section"));
    }
    if source.page_size != target.page_size {
        let text = format!("target page size {}, the target's is {}", source.page_size, target.page_size);
        judge.breaks("page-size", "machine", text);
    }
    let sorted = |shape: &Shape| {
        let mut names = shape.capabilities.clone();
        names.sort();
        names
    };
    if sorted(source) != sorted(target) {
        let list = |shape: &Shape| {
            let names: Vec<_> = sorted(shape).iter().map(|name| json_text(name)).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let text = format!("capabilities {}, the target's are {}", list(source), list(target));
        judge.breaks("capability", "machine", text);
    }
    match (source.uuid, target.uuid) {
        (Some(source), Some(target)) if source != target => {
            let (source, target) = (snapshot_engine::uuid_text(&source), snapshot_engine::uuid_text(&target));
            judge.breaks("uuid", "machine", format!("UUID {source}, the target's is {target}"));
        }
        (Some(_), None) => {
            judge.may_break("uuid", "machine", "the source's UUID is validated; the target's is not known");
        }
        _ => {}
    }
    if source.footers != target.footers {
        let side = if source.footers { "source" } else { "target" };
        judge.breaks("footers", "machine", format!("only the {side} has section footers"));
    }
    if source.switchover_start && !target.switchover_start {
        let text = "the source sends SWITCHOVER_START, which QEMU before 10.0 refuses; the target does not";
        judge.may_break("switchover-start", "machine", text);
    }
    for (used, what) in [
        (source.postcopy && !target.postcopy, "went over to postcopy"),
        (source.postcopy_advised && !target.postcopy_advised, "was made with postcopy-ram (it has ADVISE)"),
        (source.compressed && !target.compressed, "has compressed pages"),
        (source.multifd && !target.multifd, "has RAM on multifd channels"),
    ] {
        if used {
            let text = format!("the source {what}: the target needs the capability");
            judge.may_break("transport", "machine", text);
        }
    }
}

fn name(judge: &mut Judge, source: &Shape, target: &Shape) {
    let (Some(ours), Some(theirs)) = (&source.machine, &target.machine) else {
        if source.has_configuration == target.has_configuration && !target.is_dump {
            let text = "no configuration section: machine types are not compared by QEMU either";
            judge.may_break("machine", "machine", text);
        }
        return;
    };
    let text = format!("machine type {}, the target's is {}", json_text(ours), json_text(theirs));
    if ours == theirs {
        return;
    }
    // QEMU compares as many bytes as the stream has.
    if theirs.starts_with(ours) {
        judge.may_break("machine", "machine", format!("{text}: a prefix, which QEMU accepts"));
    } else {
        judge.breaks("machine", "machine", text);
    }
}

pub(super) fn blocks(judge: &mut Judge, source: &Shape, target: &Shape) {
    if source.is_dump || target.is_dump {
        return;
    }
    for (shape, side) in [(source, "source"), (target, "target")] {
        if shape.blocks.is_empty() {
            judge.may_break("not-compared", "RAM", format!("the {side} has no block list"));
            return;
        }
    }
    let (ours, theirs) = (by_name(source), by_name(target));
    for block in &source.blocks {
        let path = format!("block {}", json_text(&block.idstr));
        match theirs.get(&block.idstr[..]) {
            None => judge.breaks("block-missing", &path, "the target does not have it"),
            Some(other) => same_block(judge, &path, block, other),
        }
    }
    for (name, presence) in &source.absent {
        let text =
            format!("its RAM is not in the source, and loading does not restore it: {}", presence.reason());
        judge.may_break("block-elsewhere", &format!("block {}", json_text(name)), text);
    }
    for block in &target.blocks {
        if !ours.contains_key(&block.idstr[..]) {
            let path = format!("block {}", json_text(&block.idstr));
            judge.may_break("block-extra", &path, "only the target has it: its content is not restored");
        }
    }
}

fn by_name(shape: &Shape) -> HashMap<&[u8], &RamBlock> {
    shape.blocks.iter().map(|block| (&block.idstr[..], block)).collect()
}

fn same_block(judge: &mut Judge, path: &str, source: &RamBlock, target: &RamBlock) {
    if source.used_length != target.used_length {
        let text = format!("{:#x} bytes, the target's has {:#x}", source.used_length, target.used_length);
        // The firmware's tables are resizable; whether they can get as large is the target's business.
        if source.idstr.starts_with(b"/rom@") {
            judge.may_break("block-length", path, format!("{text}: it can be resized up to its maximum"));
        } else {
            judge.breaks("block-length", path, text);
        }
    }
    if source.host_page_size != target.host_page_size {
        let text = "host pages of another size: loaded in precopy, refused in postcopy";
        judge.may_break("block-page-size", path, text);
    }
}

pub(super) fn iterables(judge: &mut Judge, source: &Shape, target: &Shape) {
    if source.is_dump || target.is_dump {
        return;
    }
    let theirs: HashMap<_, _> = target
        .iterables
        .iter()
        .rev()
        .map(|(idstr, instance, version)| ((idstr, instance), version))
        .collect();
    for (idstr, instance, version) in &source.iterables {
        let path = format!("section {}/{instance}", json_text(idstr));
        let other = theirs.get(&(idstr, instance)).copied();
        match other {
            None => judge.may_break("section-missing", &path, "an iterable that the target did not send"),
            Some(other) if version > other => {
                judge.breaks("version-newer", &path, format!("version {version}, the target has {other}"));
            }
            Some(other) if version < other => {
                let text = format!("version {version}, the target has {other}");
                judge.may_break("version-older", &path, text);
            }
            Some(_) => {}
        }
    }
}
