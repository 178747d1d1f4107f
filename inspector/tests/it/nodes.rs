//! Streams of further releases; and cores of guests with several NUMA nodes, of streams that were
//! captured together with QEMU's own `dump-guest-memory`.

use crate::common::{all, corpus, run, run_with, stdout, unpacked};

#[test]
fn streams_of_further_releases_are_clean_and_every_byte_is_accounted_for() {
    let mut files = 0;
    for entry in std::fs::read_dir(corpus().join("../releases")).expect("part of the corpus") {
        let path = entry.expect("a readable folder").path();
        // What is expected of a stream lies beside it.
        if path.extension().is_none_or(|extension| extension != "zst") {
            continue;
        }
        let file = path.to_str().expect("a plain name");
        // Beside it is what is expected of it elsewhere.
        if !file.ends_with(".zst") {
            continue;
        }
        let check = run(&["check", file]);
        assert_eq!(check.status.code(), Some(0), "{file}: {}", all(&check));
        let coverage = run(&["dump", "--coverage", file]);
        let text = stdout(&coverage);
        let whole = text.contains("skipped_bytes=0 complete=true") && text.contains(" opaque_bytes=0 ");
        assert!(coverage.status.success() && whole, "{file}: {}", all(&coverage));
        files += 1;
    }
    assert!(files >= 14, "{files} files");
}

/// Where memory lies in an ELF core: physical address and contents.
fn segments(core: &[u8]) -> Vec<(u64, &[u8])> {
    let number = |at: usize| u64::from_le_bytes(core[at..at + 8].try_into().expect("eight bytes"));
    let place = |at: usize| usize::try_from(number(at)).expect("a small file");
    let (table, count) = (place(32), usize::from(core[56]));
    let headers = (0..count).map(|index| table + 56 * index);
    // PT_LOAD: offset at 8, physical address at 24, length in the file at 32.
    let loads = headers.filter(|&at| core[at..at + 4] == [1, 0, 0, 0]);
    loads.map(|at| (number(at + 24), &core[place(at + 8)..][..place(at + 32)])).collect()
}

fn page<'a>(segments: &[(u64, &'a [u8])], address: u64) -> Option<&'a [u8]> {
    segments.iter().find_map(|(start, bytes)| {
        let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
        bytes.get(offset..offset + 4096)
    })
}

#[test]
fn every_page_is_where_dump_guest_memory_has_it() {
    for name in ["qemu-10.0-pc-numa", "qemu-10.0-q35-numa", "qemu-11.1-pc-numa", "qemu-11.1-q35-numa"] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("core");
        let file = file.to_str().expect("a plain name");
        let stream = unpacked(&format!("cores/{name}.stream"));
        let output = run_with(&["extract", "--core", "-o", file, "-"], &stream);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", all(&output));
        let (core, theirs) = (std::fs::read(file).expect("a core"), unpacked(&format!("cores/{name}.elf")));
        let (ours, theirs) = (segments(&core), segments(&theirs));
        let (mut pages, mut not_zero) = (0, 0);
        for (start, bytes) in &theirs {
            for (address, expected) in (*start..).step_by(4096).zip(bytes.chunks(4096)) {
                assert!(page(&ours, address) == Some(expected), "{name}: {address:#x} is another page");
                pages += 1;
                not_zero += u32::from(expected.iter().any(|&byte| byte != 0));
            }
        }
        assert!(pages > 1000 && not_zero > 10, "{name}: {pages} pages, {not_zero} of them not zero");
    }
}
