//! The commit protocol, step by step: what an image is where the machine dies before, between or within them.

use crate::bed::{
    Content, File, IDENTITY, content, content_of, inspect, read, save, steps, steps_in, vm_state,
};
use snapshot_image::{
    Geometry, ImageError, Inspection, Layout, PageIndex, RamLayout, Reserved, SnapshotWriter, Step,
    Verification,
};
use std::sync::Arc;

fn small() -> Geometry {
    Geometry::new(64 << 10, 16).unwrap()
}

/// The writes between two flushes, which reach the disk in any order.
fn groups(steps: &[Step]) -> Vec<&[Step]> {
    let groups: Vec<&[Step]> = steps.split(|step| *step == Step::Flush).collect();
    assert_eq!(groups.last(), Some(&&[][..]), "the last step is a flush");
    groups[..groups.len() - 1].to_vec()
}

fn carried_out<'a>(steps: impl IntoIterator<Item = &'a Step>) -> File {
    let mut file = File::default();
    file.carry_out(steps.into_iter().cloned());
    file
}

/// Contents in both forms, whose tails fit at once or not, in both layouts.
fn cases() -> impl Iterator<Item = (Content, Vec<Step>)> {
    [(&b""[..], 16 << 10), (b"PART of something", 16 << 10), (b"", 1), (b"PART of something", 4096)]
        .into_iter()
        .flat_map(|(third, capacity)| {
            let content = content(third);
            [Layout::Dense, Layout::Linear].map(|layout| {
                let steps = steps_in(layout, &content, small(), capacity);
                (content.clone(), steps)
            })
        })
}

#[test]
fn what_was_written_is_read_back() {
    for (content, steps) in cases() {
        let file = carried_out(&steps);
        assert!(matches!(inspect(&file), Ok(Inspection::Snapshot(..))));
        let (found, verification) = read(&file, false).unwrap();
        assert!(found == content);
        assert_eq!(verification, Verification::Verified);
    }
}

#[test]
fn nothing_is_a_snapshot_before_the_last_write_and_nothing_is_free_space_after_the_first() {
    for (_, steps) in cases() {
        let end = steps.len() - 2;
        assert!(matches!(steps[end..], [Step::Write { .. }, Step::Flush]));
        for cut in 0..=end {
            let file = carried_out(&steps[..cut]);
            assert!(read(&file, true).is_err(), "{cut} of {} steps", steps.len());
            assert!(!matches!(inspect(&file), Ok(Inspection::Empty(_))), "{cut} of {} steps", steps.len());
        }
    }
}

#[test]
fn a_write_that_is_lost_before_its_flush_leaves_no_snapshot() {
    for (_, steps) in cases() {
        let groups = groups(&steps);
        // Begin, reserve, seal, commit; a tail that grew has one of its own.
        assert!((4..=5).contains(&groups.len()), "{} flushes", groups.len());
        for number in 0..groups.len() {
            let before = groups[..number].iter().copied().flatten();
            for lost in 0..groups[number].len() {
                let (head, tail) = groups[number].split_at(lost);
                let file = carried_out(before.clone().chain(head).chain(&tail[1..]));
                assert!(read(&file, true).is_err(), "flush {number} without write {lost}");
            }
        }
    }
}

#[test]
fn from_the_reserve_on_nothing_needs_new_space() {
    for (content, steps) in cases() {
        let groups = groups(&steps);
        let (before, after) = groups.split_at(groups.len() - 2);
        let length = carried_out(before.iter().copied().flatten()).length();
        let mut rewritten = 0;
        for step in after.iter().copied().flatten() {
            match step {
                Step::Write { at, bytes } => {
                    assert!(at.0 + bytes.len() as u64 <= length);
                    rewritten += bytes.len() as u64;
                }
                Step::Ballast(0) => assert_eq!(rewritten, 0, "given back before the first write"),
                _ => panic!("{step:?}"),
            }
        }
        // On a copy-on-write file system they need the space that was held last.
        let mut held = before.iter().copied().flatten().filter_map(|step| match step {
            Step::Ballast(bytes) => Some(*bytes),
            _ => None,
        });
        let held = held.next_back().unwrap();
        assert!(held >= rewritten, "{held} bytes held, {rewritten} written again");
        // What is reserved for the tail is written with zeros, so that the file system has it.
        let places = |steps: &[&[Step]]| -> Vec<u64> {
            let sectors = |step: &Step| match step {
                Step::Write { at, bytes } => (at.0..at.0 + bytes.len() as u64).step_by(4096).collect(),
                _ => Vec::new(),
            };
            steps.iter().copied().flatten().flat_map(sectors).collect()
        };
        let written = places(before);
        assert!(places(after).iter().all(|at| written.contains(at)), "{} of tail", content.tail.len());
    }
}

fn reserved(tail_capacity: u64) -> Reserved {
    let content = content(b"");
    let layout = RamLayout::new(content.blocks, 4096).unwrap();
    let (writer, _) = SnapshotWriter::create(small(), layout.total_bytes(), IDENTITY).unwrap();
    let vm = vm_state(content.leader, Vec::new(), 0);
    writer.reserve(vm, &layout, &Arc::new(PageIndex::new()), tail_capacity).unwrap().0
}

/// A save that cannot remove what it sealed takes the seal back, whatever of it has reached the disk.
#[test]
fn what_is_unsealed_is_an_interrupted_save() {
    let content = content(b"");
    let layout = RamLayout::new(content.blocks.clone(), 4096).unwrap();
    let (writer, mut steps) = SnapshotWriter::create(small(), layout.total_bytes(), IDENTITY).unwrap();
    let vm = vm_state(content.leader, Vec::new(), 0);
    let (reserved, more) = writer.reserve(vm, &layout, &Arc::new(PageIndex::new()), 16 << 10).unwrap();
    steps.extend(more);
    let (sealed, seal) = reserved.seal(&content.tail).unwrap();
    let unseal = sealed.unseal();
    for done in 0..=seal.len() {
        let file = carried_out(steps.iter().chain(&seal[..done]).chain(&unseal));
        assert!(matches!(inspect(&file), Ok(Inspection::Interrupted(..))), "{:?}", inspect(&file));
        assert_eq!(read(&file, true).unwrap_err(), ImageError::Interrupted);
    }
    assert!(read(&carried_out(steps.iter().chain(&seal)), false).is_ok());
}

#[test]
fn a_tail_fits_what_was_reserved_for_it() {
    assert!(reserved(9000).seal(&[1; 9000]).is_ok());
    let error = reserved(9000).seal(&[1; 9001]).unwrap_err().to_string();
    assert_eq!(error, "device tail is 9001 bytes long, the limit is 9000");
}

/// The extension lies half an L1 entry's span behind the start of the VM state.
#[test]
fn leader_and_tail_end_before_the_extension() {
    let error = reserved(1).grow_tail(256 << 20).unwrap_err().to_string();
    assert!(
        error.starts_with("VM state is 26843") && error.ends_with(" bytes long, the limit is 268435456"),
        "{error}"
    );
}

/// An image of 4 MiB without a snapshot, as `qemu-img` makes it: no header extension of ours.
fn empty() -> File {
    let (_, begin) = SnapshotWriter::create(small(), 4 << 20, IDENTITY).unwrap();
    let mut file = carried_out(&begin);
    file.write(312, &[0; 4096 - 312]);
    file
}

#[test]
fn an_image_made_beforehand_is_used_if_it_is_large_enough() {
    let container = |file: &File| match inspect(file) {
        Ok(Inspection::Empty(container)) => container,
        other => panic!("{other:?}"),
    };
    let mut file = empty();
    let error = SnapshotWriter::reuse(container(&file), (4 << 20) + 1, IDENTITY).unwrap_err();
    assert!(matches!(error, ImageError::TooSmall { found: 0x40_0000, needed: 0x50_0000 }), "{error}");
    let content = content(b"");
    let writer = SnapshotWriter::reuse(container(&file), 4 << 20, IDENTITY).unwrap();
    let before = file.length();
    let steps = save(writer, &content, 1);
    // What was there is not written over but for tables: new clusters are taken at the end.
    let inside =
        |step: &&Step| matches!(step, Step::Write { at, bytes } if at.0 < before && bytes.len() < 1 << 16);
    assert!(steps.iter().filter(inside).all(|step| matches!(step, Step::Write { at, .. } if at.0 == 0)));
    file.carry_out(steps);
    let (found, verification) = read(&file, false).unwrap();
    assert!(found == content && verification == Verification::Verified);
}

/// Leaves have the checksums of 8192 pages, index pages those of 4096 leaves: 128 GiB of RAM.
#[test]
fn ram_of_several_index_pages_is_read_back() {
    let far = 4098 * 8192;
    for nonzero in [&[(0, 0), (0, 5), (0, far), (0, far + 63)][..], &[(0, far + 1)]] {
        let content = content_of(b"", &[(b"pc.ram", far + 64)], nonzero);
        let file = carried_out(&steps(&content, small(), 16 << 10));
        let (found, verification) = read(&file, false).unwrap();
        assert!(found == content && verification == Verification::Verified);
    }
}
