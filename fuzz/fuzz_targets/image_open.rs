//! A real image with changes anywhere, its checksums forged or not: no panic, no endless loop, no
//! read outside the file; and what is called verified is what was saved, unless a forger was at
//! work.
#![no_main]

#[path = "../../engine/image/tests/bed/mod.rs"]
mod bed;

use arbitrary::Arbitrary;
use bed::{Content, File, Places};
use libfuzzer_sys::fuzz_target;
use snapshot_image::{Geometry, Inspection, Verification};
use std::sync::LazyLock;

#[derive(Debug, Arbitrary)]
enum Change {
    /// A byte of a part.
    Byte(u8, u32, u8),
    /// A field of a part, at a multiple of four.
    Field32(u8, u16, u32),
    Field64(u8, u16, u64),
    /// An entry that points at a cluster.
    Cluster(u8, u16, u8, u8),
    /// One part over another.
    Copy(u8, u8),
    Truncate(u32),
}

#[derive(Debug, Arbitrary)]
struct Input {
    /// Bit 0: the second form; bit 1: linear.
    form: u8,
    changes: Vec<Change>,
    forge: bool,
    allow_unverified: bool,
}

type Sample = (Content, File, Places);

static SAMPLES: LazyLock<[[Sample; 2]; 2]> =
    LazyLock::new(|| [samples(bed::write), samples(bed::write_linear)]);

fn samples(write: fn(&Content, Geometry) -> File) -> [Sample; 2] {
    [&b""[..], b"PART of something"].map(|third| {
        let content = bed::content(third);
        let file = write(&content, Geometry::new(64 << 10, 16).unwrap());
        let places = Places::of(&file);
        (content, file, places)
    })
}

fn apply(change: &Change, file: &mut File, places: &Places) {
    let part = |number: u8| &places.parts[usize::from(number) % places.parts.len()];
    let field = |number: u8, at: u16| {
        let part = part(number);
        part.at + u64::from(at) * 4 % part.length.next_multiple_of(4)
    };
    match *change {
        Change::Byte(number, at, value) => {
            let part = part(number);
            file.write(part.at + u64::from(at) % part.length, &[value]);
        }
        Change::Field32(number, at, value) => file.put_be32(field(number, at), value),
        Change::Field64(number, at, value) => file.put_be64(field(number, at), value),
        Change::Cluster(number, at, cluster, flags) => {
            let flags = u64::from(flags & 7) << 61 | u64::from(flags >> 7);
            file.put_be64(field(number, at), u64::from(cluster) << 16 | flags);
        }
        Change::Copy(from, to) => {
            let bytes = file.read_part(part(from));
            file.write(part(to).at, &bytes);
        }
        Change::Truncate(at) => file.set_length(u64::from(at) % (file.length() + 1)),
    }
}

fuzz_target!(|input: Input| {
    let (content, file, places) = &SAMPLES[usize::from(input.form >> 1 & 1)][usize::from(input.form & 1)];
    let mut file = file.clone();
    input.changes.iter().take(16).for_each(|change| apply(change, &mut file, places));
    if input.forge {
        places.forge(&mut file);
    }
    let inspected = bed::inspect(&file);
    if let Ok((found, Verification::Verified)) = bed::read(&file, input.allow_unverified)
        && !input.forge
    {
        assert!(found == *content, "something else, verified");
        assert!(!matches!(inspected, Ok(Inspection::Empty(_))), "a snapshot, taken for free space");
    }
});
