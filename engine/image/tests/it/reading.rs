//! How a reader is asked: in any order, for anything, it answers or says what is wrong.

use crate::bed::{Content, File, PAGE, content, write};
use snapshot_image::{
    Geometry, GuestOffset, HostOffset, ImageError, Lookup, Opener, PresentPage, ReadOptions, SnapshotReader,
};
use std::io;

fn image() -> File {
    write(&content(b""), Geometry::new(64 << 10, 16).unwrap())
}

fn open(file: &File) -> SnapshotReader {
    let read = |at, length| Ok::<_, ImageError>(file.read_checked(at, length));
    SnapshotReader::open_with(file.length(), ReadOptions::default(), read).unwrap()
}

#[test]
fn an_opener_that_is_asked_again_begins_anew() {
    let file = image();
    let mut opener = Opener::new(file.length(), ReadOptions::default());
    let first = Lookup::Need(HostOffset(0), 4096);
    for _ in 0..2 {
        let mut needs = Vec::new();
        let reader = loop {
            match opener.poll().unwrap() {
                Lookup::Ready(reader) => break reader,
                Lookup::Need(at, length) => {
                    // Asked again before it has been given what it needs, it needs the same.
                    assert!(matches!(opener.poll(), Ok(Lookup::Need(again, _)) if again == at));
                    needs.push(Lookup::<()>::Need(at, length));
                    opener.supply(at, &file.read_checked(at, length));
                }
            }
        };
        assert_eq!(needs[0], first);
        assert_eq!(reader.layout().blocks(), &content(b"").blocks[..]);
    }
    // Also after an error.
    assert_eq!(opener.poll().map(|lookup| matches!(lookup, Lookup::Need(HostOffset(0), 4096))), Ok(true));
    opener.supply(HostOffset(0), &[0; 4096]);
    assert!(matches!(opener.poll(), Err(ImageError::NotQcow2 { found: 0 })));
    assert_eq!(opener.poll().map(|lookup| matches!(lookup, Lookup::Need(HostOffset(0), 4096))), Ok(true));
}

#[test]
fn there_are_no_pages_behind_ram_and_no_bytes_behind_the_world() {
    let file = image();
    let mut reader = open(&file);
    let read = |at, length| Ok::<_, ImageError>(file.read_checked(at, length));
    let all = reader.ask_with(read, |reader| reader.present(0, u64::MAX)).unwrap();
    let pages: Vec<u64> = content(b"").ram.into_keys().collect();
    assert_eq!(all.iter().map(|page| page.page).collect::<Vec<_>>(), pages);
    for (first, count) in [(u64::MAX, u64::MAX), (pages[pages.len() - 1] + 1, 1 << 60), (1 << 60, 1), (7, 0)]
    {
        assert_eq!(reader.ask_with(read, |reader| reader.present(first, count)), Ok(Vec::new()));
    }
    assert_eq!(reader.layout().locate(u64::MAX), None);
    let error = reader.map(GuestOffset(u64::MAX), 2).unwrap_err();
    assert!(matches!(error, ImageError::Value { what: "guest offset", .. }), "{error}");
}

/// Whoever reads a page verifies it: the reader has its checksum, and never its bytes.
#[test]
fn a_page_is_verified_by_who_reads_it() {
    let file = image();
    let mut reader = open(&file);
    let read = |at, length| Ok::<_, ImageError>(file.read_checked(at, length));
    let pages = reader.ask_with(read, |reader| reader.present(17, 1)).unwrap();
    let mut bytes = content(b"").ram[&17].clone();
    assert_eq!(reader.layout().verify_page(&pages[0], &bytes), Ok(()));
    bytes[4095] ^= 1;
    let error = reader.layout().verify_page(&pages[0], &bytes).unwrap_err();
    assert!(
        matches!(&error, ImageError::Page { block, offset, .. } if block == b"pc.ram" && *offset == 17 * PAGE)
    );
    let unknown = PresentPage { page: 17, checksum: None };
    assert_eq!(reader.layout().verify_page(&unknown, &bytes), Ok(()));
}

/// What lets a program know a snapshot again: any other content has another one.
#[test]
fn a_root_checksum_is_of_everything_in_the_snapshot() {
    let of = |content: &Content| {
        open(&write(content, Geometry::new(64 << 10, 16).unwrap())).snapshot().root_checksum.unwrap()
    };
    let whole = content(b"");
    assert_eq!(of(&whole), of(&whole));
    let mut other_page = content(b"");
    other_page.ram.get_mut(&17).unwrap()[4095] ^= 1;
    let other_tail = Content { tail: [&whole.tail[..], b"x"].concat(), ..content(b"") };
    assert_ne!(of(&other_page), of(&whole));
    assert_ne!(of(&other_tail), of(&whole));
}

#[test]
fn what_reading_fails_with_is_returned_as_it_is() {
    let file = image();
    for healthy in 0.. {
        let mut reads = 0;
        let read = |at, length| {
            reads += 1;
            if reads > healthy {
                return Err(io::Error::from_raw_os_error(5));
            }
            Ok(file.read_checked(at, length))
        };
        match SnapshotReader::open_with(file.length(), ReadOptions::default(), read) {
            Ok(_) => {
                assert!(healthy > 4, "the image was opened with {healthy} reads");
                return;
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(5)),
        }
    }
}

#[test]
fn an_image_error_keeps_its_type_as_an_io_error() {
    let read = |_, length| Ok::<_, io::Error>(vec![0; length]);
    let error = SnapshotReader::open_with(1 << 20, ReadOptions::default(), read).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ImageError>());
    assert_eq!(inner, Some(&ImageError::NotQcow2 { found: 0 }));
}
