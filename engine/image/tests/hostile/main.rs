//! Images that were made to do harm: whatever a structure holds, nothing panics, loops, reads outside the
//! file, or takes more memory than a named limit; and what is wrong is reported. Where a checksum protects a
//! structure, it is forged, so that what is behind it counts.

#[path = "../bed/mod.rs"]
mod bed;
mod container;
mod mutations;
mod snapshot;

use bed::{Content, File, Places, content, inspect, read, write};
use snapshot_image::{Geometry, Inspection, Verification};
use std::sync::LazyLock;

/// The whole program, its tests and their files included, may take no more than this.
#[global_allocator]
static MEMORY: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 512 << 20);

fn small() -> Geometry {
    Geometry::new(64 << 10, 16).unwrap()
}
const SNAPSHOT: &str = "a snapshot";
const RIGHT: &str = "right";

fn sample() -> (Content, File, Places) {
    static SAMPLE: LazyLock<(Content, File, Places)> = LazyLock::new(|| {
        let content = content(b"");
        let file = write(&content, small());
        let places = Places::of(&file);
        (content, file, places)
    });
    SAMPLE.clone()
}

/// What inspecting and reading report of a file, a line for each.
fn said(file: &File, content: &Content, allow_unverified: bool) -> [String; 2] {
    let inspected = match inspect(file) {
        Ok(Inspection::Empty(_)) => "empty".to_owned(),
        Ok(Inspection::Snapshot(..)) => SNAPSHOT.to_owned(),
        Ok(Inspection::Interrupted(..)) => "an interrupted save".to_owned(),
        Ok(Inspection::InterruptedThenWritten(..)) => "an interrupted save, written to since".to_owned(),
        Err(error) => error.to_string(),
    };
    let read = match read(file, allow_unverified) {
        Ok((found, _)) if found != *content => "something else".to_owned(),
        Ok((_, Verification::Verified)) => RIGHT.to_owned(),
        Ok((_, Verification::Unverified(why))) => format!("right, but {why}"),
        Err(error) => error.to_string(),
    };
    [inspected, read]
}

/// What a case writes.
enum Value {
    Be32(u32),
    Be64(u64),
    Bytes(&'static [u8]),
    /// The place itself, as a be64.
    Offset,
    /// The place of this part, as a be64.
    OffsetOf(&'static str),
    /// The be64 that lies at this offset of this part.
    Copy64(&'static str, u64),
    /// What the file has there, plus or minus this.
    Add64(u64),
    Sub32(u32),
}

/// Cases, a test each: the value that is written at an offset of a part (from its end, if that is negative),
/// and what inspecting and reading say then, if that is not the same.
macro_rules! cases {
    ($($name:ident: $part:literal @ $offset:expr, $value:expr => $inspected:expr $(, $read:expr)?;)*) => {$(
        #[test]
        fn $name() {
            check($part, $offset, $value, &[$inspected $(, $read)?]);
        }
    )*};
}
use cases;

/// Changes an image, forges its checksums, and compares what is said.
fn check(part: &str, offset: i64, value: Value, expected: &[&str]) {
    let (content, mut file, places) = sample();
    let part = places.get(part);
    let at = part.at.strict_add_signed(offset) + if offset < 0 { part.length } else { 0 };
    match value {
        Value::Be32(value) => file.put_be32(at, value),
        Value::Be64(value) => file.put_be64(at, value),
        Value::Bytes(bytes) => file.write(at, bytes),
        Value::Offset => file.put_be64(at, at),
        Value::OffsetOf(part) => file.put_be64(at, places.get(part).at),
        Value::Copy64(part, offset) => file.put_be64(at, file.be64(places.get(part).at + offset)),
        Value::Add64(more) => file.put_be64(at, file.be64(at) + more),
        Value::Sub32(less) => file.put_be32(at, file.be32(at) - less),
    }
    places.forge(&mut file);
    assert_eq!(said(&file, &content, false), [expected[0], expected[expected.len() - 1]]);
}

#[test]
fn an_image_that_is_whole_is_read_back_in_both_forms() {
    for (third, geometry) in [(&b""[..], small()), (b"PART of something", Geometry::default())] {
        let content = content(third);
        let file = write(&content, geometry);
        assert_eq!(said(&file, &content, false), [SNAPSHOT, RIGHT]);
        let mut forged = file.clone();
        Places::of(&file).forge(&mut forged);
        assert!(forged == file, "the forger knows every checksum");
    }
}

/// An L1 table of QEMU's largest size, all of it of L2 tables that are holes of the file or one and the same
/// cluster: what costs the forger 32 MiB must not cost us the 256 GiB that it maps.
#[test]
fn tables_without_end_are_not_taken_into_memory() {
    const ENTRIES: u64 = 4 << 20;
    for same in [true, false] {
        let (_, mut file, places) = sample();
        let l1 = 1 << 30;
        let entry = |number: u64| (if same { 0x40000 } else { (2 << 30) + (number << 16) }) | 1 << 63;
        let entries: Vec<u8> = (0..ENTRIES).flat_map(|number| entry(number).to_be_bytes()).collect();
        file.write(l1, &entries);
        file.put_be32(36, u32::try_from(ENTRIES).unwrap());
        file.put_be64(40, l1);
        file.set_length(1 << 40);
        places.forge_header(&mut file);
        let error = inspect(&file).unwrap_err().to_string();
        assert_eq!(error, "set of L2 tables is 67174400 bytes long, the limit is 67108864");
    }
}

#[test]
fn refcount_blocks_without_end_are_not_taken_into_memory() {
    let (_, mut file, places) = sample();
    let table = 1 << 30;
    let entries: Vec<u8> =
        (0..1u64 << 20).flat_map(|number| ((2 << 30) + (number << 16)).to_be_bytes()).collect();
    file.write(table, &entries);
    file.put_be64(48, table);
    file.put_be32(56, 128);
    file.set_length(1 << 40);
    places.forge_header(&mut file);
    let error = inspect(&file).unwrap_err().to_string();
    assert_eq!(error, "set of refcount blocks is 67174400 bytes long, the limit is 67108864");
}
