//! Fields: they have no names on the wire, their order and sizes are everything.

use super::elements::one_field;
use super::recut::recut;
use super::shape::{FieldShape, StateShape};
use super::{How, Judge};
use crate::escape::json_text;
use std::collections::HashMap;

/// One step of going over the fields of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A field of the source, and the one that the target reads there; whether that has another name.
    Both { source: usize, target: usize, renamed: bool },
    /// The source sends it, and the target has no such field.
    OnlySource(usize),
    /// The target has it, and the source does not send it.
    OnlyTarget(usize),
}

/// Positions of fields by their names.
fn by_name(fields: &[FieldShape]) -> HashMap<&str, Vec<usize>> {
    let mut found: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, field) in fields.iter().enumerate() {
        found.entry(&field.name).or_default().push(at);
    }
    found
}

/// How many fields of one name there are in a row.
fn row(fields: &[FieldShape]) -> usize {
    fields.iter().take_while(|field| field.name == fields[0].name).count()
}

/// Whether the target reads it in any case.
fn is_read(field: &FieldShape, how: How<'_>) -> bool {
    field.conditional != Some(true) && field.since <= how.version
}

fn steps(source: &[FieldShape], target: &[FieldShape], how: How<'_>) -> Vec<Step> {
    let (in_source, in_target) = (by_name(source), by_name(target));
    let mut steps = Vec::new();
    let mut at = 0;
    for (number, field) in source.iter().enumerate() {
        let found = in_target
            .get(&field.name[..])
            .and_then(|positions| positions.get(positions.partition_point(|&position| position < at)))
            .copied();
        let Some(found) = found else {
            let renamed = target
                .get(at)
                .is_some_and(|other| same_bytes(field, other) && !in_source.contains_key(&other.name[..]));
            if renamed {
                steps.push(Step::Both { source: number, target: at, renamed });
                at += 1;
            } else {
                steps.push(Step::OnlySource(number));
            }
            continue;
        };
        steps.extend((at..found).map(Step::OnlyTarget));
        // Fields of one name in a row, of which only some are sent: for each version, or each
        // condition, another one.
        let (ours, theirs) = (row(&source[number..]), row(&target[found..]));
        let choice = found..=found + theirs.saturating_sub(ours);
        let read = choice.clone().find(|&other| is_read(&target[other], how)).unwrap_or(found);
        steps.push(Step::Both { source: number, target: read, renamed: false });
        at = read + 1;
        if ours == 1 {
            let others = (at..found + theirs).filter(|&other| is_read(&target[other], how));
            steps.extend(others.map(Step::OnlyTarget));
            at = found + theirs;
        }
    }
    steps.extend((at..target.len()).map(Step::OnlyTarget));
    steps
}

/// Whether a field is read in the same way on both sides.
fn same_bytes(source: &FieldShape, target: &FieldShape) -> bool {
    match (&source.wire, &target.wire) {
        (Some(source), Some(target)) => source.is_same(target),
        (None, None) => source.memory_bytes.is_some() && source.memory_bytes == target.memory_bytes,
        _ => false,
    }
}

/// Compares the fields of two states.
pub(super) fn fields(judge: &mut Judge, path: &str, source: &StateShape, target: &StateShape, how: How<'_>) {
    let both = Both { path, source, target, how, same_total: source.is_as_long_as(target) };
    let steps = steps(&source.fields, &target.fields, how);
    // What lies between two fields that are the same on both sides is one difference.
    let is_same = |step: &Step| match *step {
        Step::Both { source: ours, target: theirs, .. } => {
            let (ours, theirs) = (&source.fields[ours], &target.fields[theirs]);
            // Of a dump it is not known; then a buffer of another size is another one.
            let known = ours.wire.is_some() == theirs.wire.is_some();
            if known { same_bytes(ours, theirs) } else { !is_cut_otherwise(ours, theirs) }
        }
        Step::OnlySource(_) | Step::OnlyTarget(_) => false,
    };
    for part in steps.chunk_by(|before, after| !is_same(before) && !is_same(after)) {
        both.judge(judge, part);
    }
}

struct Both<'a> {
    path: &'a str,
    source: &'a StateShape,
    target: &'a StateShape,
    how: How<'a>,
    same_total: bool,
}

impl Both<'_> {
    fn path(&self, field: &FieldShape) -> String {
        format!("{}: {}", self.path, json_text(field.name.as_bytes()))
    }

    /// Judges fields that lie together.
    fn judge(&self, judge: &mut Judge, steps: &[Step]) {
        let ours: Vec<_> = steps.iter().filter_map(|step| self.of_source(step)).collect();
        let theirs: Vec<_> = steps.iter().filter_map(|step| self.of_target(step)).collect();
        if steps.len() > 1 && recut(judge, self.path, &ours, &theirs, self.how.body) {
            return;
        }
        // Of a dump, where it is not known what is on the wire, another field may be the same bytes
        // by another name.
        let may_be_renamed = steps.iter().any(|step| match step {
            Step::OnlyTarget(_) => true,
            Step::OnlySource(_) => false,
            Step::Both { source, target, .. } => {
                is_cut_otherwise(&self.source.fields[*source], &self.target.fields[*target])
            }
        });
        for step in steps {
            match *step {
                Step::Both { source, target, renamed } => {
                    let (field, other) = (&self.source.fields[source], &self.target.fields[target]);
                    if renamed {
                        self.renamed(judge, field, other);
                    }
                    one_field(judge, &self.path(field), field, other, self.same_total, self.how);
                }
                Step::OnlySource(number) => self.unknown(judge, &self.source.fields[number], may_be_renamed),
                Step::OnlyTarget(number) => self.not_sent(judge, &self.target.fields[number]),
            }
        }
    }

    fn of_source(&self, step: &Step) -> Option<&FieldShape> {
        match step {
            Step::Both { source, .. } | Step::OnlySource(source) => self.source.fields.get(*source),
            Step::OnlyTarget(_) => None,
        }
    }

    fn of_target(&self, step: &Step) -> Option<&FieldShape> {
        match step {
            Step::Both { target, .. } | Step::OnlyTarget(target) => self.target.fields.get(*target),
            Step::OnlySource(_) => None,
        }
    }

    /// A field of another name in the same place, neither of which the other side has anywhere
    /// else. QEMU reads the same bytes in the same way (`vmstate_load_state()` does not know what
    /// the source called them).
    fn renamed(&self, judge: &mut Judge, field: &FieldShape, other: &FieldShape) {
        let name = json_text(other.name.as_bytes());
        let path = self.path(field);
        let moved = self.target.fields.iter().any(|other| other.name == field.name);
        if moved || field.wire.is_none() {
            let text = format!("the target has \"{name}\" in its place, of the same size");
            judge.may_break("field-name", &path, text);
        } else {
            judge.safe(
                "field-name",
                &path,
                format!("the target reads it as \"{name}\", of the same type and size"),
            );
        }
    }

    /// A field that only the source has.
    fn unknown(&self, judge: &mut Judge, field: &FieldShape, may_be_renamed: bool) {
        let path = self.path(field);
        // What a stream does not have may be conditional; a dump has everything.
        let complete = self.target.minimum_version.is_some();
        if field.conditional == Some(true) {
            judge.may_break("field-unknown", &path, "breaks when it is sent: the target does not read it");
        } else if complete && may_be_renamed {
            let text = "sent, and the target has no field of this name: unless another one is the same bytes, what follows \
                is shifted";
            judge.may_break("field-unknown", &path, text);
        } else if complete {
            judge.breaks("field-unknown", &path, "sent, and the target does not read it at this place");
        } else {
            let text = "sent, and the target did not send it: unless it reads it all the same, what follows is shifted";
            judge.may_break("field-unknown", &path, text);
        }
    }

    /// A field that only the target has.
    fn not_sent(&self, judge: &mut Judge, field: &FieldShape) {
        let (path, name) = (self.path, json_text(field.name.as_bytes()));
        if field.since > self.how.version && self.target.minimum_version.is_some() {
            let text = format!(
                "\"{name}\" is there since version {}, which the target does not ask for",
                field.since
            );
            return judge.safe("field-newer", path, text);
        }
        if field.conditional == Some(true) {
            let text = format!("\"{name}\" is read under a condition that the description does not state");
            judge.may_break("field-conditional", path, text);
        } else if self.target.minimum_version.is_some() && !field.nested.is_empty() && !field.is_fixed_array {
            // A dump does not tell arrays of as many elements as another field says from single structures.
            let text = format!(
                "\"{name}\" was not sent: unless it is an array without elements, what follows is shifted"
            );
            judge.may_break("field-empty", path, text);
        } else {
            let text = format!(
                "\"{name}\" was not sent: unless it is empty or conditional, what follows is shifted"
            );
            judge.may_break("field-missing", path, text);
        }
    }
}

/// Whether a buffer has another size in the memory of the target (a dump) than on the wire.
fn is_cut_otherwise(source: &FieldShape, target: &FieldShape) -> bool {
    let Some(wire) = &source.wire else { return false };
    wire.is_buffer() && target.memory_bytes.is_some_and(|bytes| bytes != wire.size)
}
