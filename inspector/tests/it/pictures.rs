//! What `map` draws: the words of a PNG, the size of an SVG, and that marks do not need colours.

use crate::common::program;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

fn map(output: &Path, options: &[&str]) {
    let output =
        program().args(["map", "qemu-10.0-pc-rounds.bin.zst", "-o"]).arg(output).args(options).output();
    let output = output.expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_png_says_what_it_shows() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("map.png");
    map(&path, &["--against", "qemu-10.0-pc.bin.zst"]);
    let mut reader =
        png::Decoder::new(BufReader::new(File::open(&path).expect("written"))).read_info().expect("PNG");
    let text = reader.info().utf8_text[0].get_text().expect("text");
    for wanted in [
        "qemu-10.0-pc-rounds.bin.zst",
        "machine pc-i440fx-10.0, pages of 4 KiB, compared with qemu-10.0-pc.bin.zst",
        "changed",
        "pc.ram: 4 MiB",
        "1,024 pages, zero 993 (97.0 %), compressible 4 (0.4 %), not compressible 27 (2.6 %), hot 33, changed 33",
        "a cell is 1 page (4 KiB), a row is 512 KiB",
        "0x00000000",
        "+128 KiB",
    ] {
        assert!(text.lines().any(|line| line == wanted), "no {wanted:?} in:\n{text}");
    }
    assert!(!text.contains("hot: sent"), "the legend shows only what is there:\n{text}");
    let (width, height) = (reader.info().width as usize, reader.info().height as usize);
    let mut pixels = vec![0; reader.output_buffer_size().expect("it fits")];
    reader.next_frame(&mut pixels).expect("PNG");
    let count = |colour: [u8; 3]| pixels.chunks(3).filter(|pixel| *pixel == colour).count();
    assert_eq!(pixels.len(), width * height * 3);
    assert!(count([0x20; 3]) > 1000, "the words are in the picture");
    assert!(
        count([0xd5, 0x5e, 0x00]) > 33 * 20 && count([0, 0, 0]) >= 33 * 4,
        "changed pages, with their marks"
    );
}

/// A block that the other file does not have is not one without changes; and offsets end where the
/// block ends.
#[test]
fn a_block_that_is_not_compared_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("map.svg");
    map(&path, &["--against", "qemu-7.2-pc-numa.bin.zst"]);
    let svg = std::fs::read_to_string(&path).expect("written");
    assert_eq!(svg.matches("not compared: the other file does not have it").count(), 1, "{svg}");
    assert!(svg.contains("changed "), "pc.bios is compared: {svg}");
    for offset in ["+64 KiB", "+128 KiB"] {
        assert_eq!(svg.matches(offset).count(), 1, "pc.rom has 128 KiB, pc.ram is wider: {svg}");
    }
}

/// The picture in the README is one of these, and small.
#[test]
fn the_picture_in_docs_is_what_map_draws() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/map.svg");
    let docs = std::fs::read_to_string(docs).expect("docs/map.svg");
    assert!(docs.len() < 60_000);
    let folder = tempfile::tempdir().expect("a folder");
    for (name, file) in [("after.stream", "rounds"), ("before.stream", "pc")] {
        let from = if file == "pc" { "qemu-10.0-pc" } else { "qemu-10.0-pc-rounds" };
        std::fs::write(folder.path().join(name), crate::common::stream(from)).expect("a file");
    }
    let output = program()
        .current_dir(folder.path())
        .args(["map", "after.stream", "--against", "before.stream", "-o", "map.svg"])
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let drawn = std::fs::read_to_string(folder.path().join("map.svg")).expect("written");
    assert_eq!(drawn, docs, "draw it anew: this test's command, and the file to docs/map.svg");
}
