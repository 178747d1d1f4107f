//! The examples do what they say, with a stream of the corpus.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test reads files; the crate does not"
)]

#[path = "../../examples/count_pages.rs"]
mod count_pages;
#[path = "../../examples/list_sections.rs"]
mod list_sections;

use std::path::Path;

fn stream() -> impl std::io::Read {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/valid/qemu-7.2-pc.bin.zst");
    zstd::Decoder::new(std::fs::File::open(path).unwrap()).unwrap()
}

#[test]
fn pages_are_counted_by_block() {
    let blocks = count_pages::count_pages(stream()).unwrap();
    let bios = &blocks["pc.bios"];
    assert_eq!(bios.zero + bios.normal, 16);
    assert!(blocks["pc.ram"].zero > blocks["pc.ram"].normal, "{blocks:?}");
    assert!(count_pages::count_pages(&b"QEVM"[..]).is_err());
}

#[test]
fn sections_are_listed_with_their_names() {
    let lines = list_sections::list_sections(stream()).unwrap();
    assert_eq!(lines[0], "0x00000008 configuration: machine pc-i440fx-7.2");
    assert!(lines[1].ends_with(" iterable ram, version 4"), "{}", lines[1]);
    assert!(lines.iter().any(|line| line.contains(" device timer, instance 0: ")), "{lines:#?}");
}
