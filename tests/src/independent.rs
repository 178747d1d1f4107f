//! imago, a QCOW2 reader that knows nothing of us, looks at the RAM in an image.

use std::path::Path;

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};

use crate::ram::Contents;

/// RAM blocks lie at multiples of this in the virtual disk, in the order of the stream's list.
const BLOCK_ALIGNMENT_BYTES: u64 = 1 << 20;
/// Read at once; a multiple of every page size.
const PIECE_BYTES: u64 = 1 << 20;

/// Panics unless every page of every block in `image` is what `contents` says, zero pages included.
///
/// # Panics
///
/// That is its job: with the first page that differs.
pub(crate) fn assert_reads(image: &Path, contents: &Contents) {
    let shown = image.display();
    let opened = Qcow2::<File>::builder_path(image).open(PermissiveImplicitOpenGate::default());
    let disk = FormatAccess::new(opened.unwrap_or_else(|error| panic!("imago opens {shown}: {error}")));
    let zeros = vec![0; contents.page_bytes];
    let mut start = 0u64;
    for (name, length) in &contents.blocks {
        start = start.next_multiple_of(BLOCK_ALIGNMENT_BYTES);
        for piece in (0..*length).step_by(1 << 20) {
            let bytes = usize::try_from(PIECE_BYTES.min(length - piece)).expect("a piece is small");
            let mut found = vec![0; bytes];
            let read = disk.read(&mut found[..], start + piece);
            read.unwrap_or_else(|error| panic!("imago reads {shown} at {:#x}: {error}", start + piece));
            for (offset, page) in
                (piece..).step_by(contents.page_bytes).zip(found.chunks(contents.page_bytes))
            {
                let expected = contents.ram.get(&(name.clone(), offset)).unwrap_or(&zeros);
                let block = name.escape_ascii();
                assert!(page == expected, "{shown}: ram block \"{block}\" offset {offset:#x} read by imago");
            }
        }
        start += length;
    }
}
