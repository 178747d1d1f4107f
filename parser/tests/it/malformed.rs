//! Each file of `corpus/malformed` is refused for the reason, at the offset and with the numbers
//! that the text beside it has (line `walk`). The wording of the errors is in one file,
//! `malformed.words`: `UPDATE=1` writes it anew.
//!
//! What the programs do with these files is tested in `tests`, which also makes them.

#![allow(clippy::disallowed_methods, reason = "a test reads files; the crate does not")]

use super::walked;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn texts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/malformed");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut texts: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    texts.sort();
    texts
}

#[test]
fn each_malformed_file_is_refused_as_the_text_beside_it_says_and_in_the_pinned_words() {
    let (mut words, mut refused) = (BTreeSet::new(), 0);
    for path in texts() {
        let text = std::fs::read_to_string(&path).unwrap();
        let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
        // A parser of streams does not read images.
        let (Some(base), Some(expected)) = (line("base: "), line("walk: ")) else { continue };
        let bytes = zstd::decode_all(&std::fs::read(path.with_extension("bin.zst")).unwrap()[..]).unwrap();
        let result = walked::read(base, &bytes);
        assert_eq!(walked::kind(&result), expected, "{}: {result:?}", path.display());
        if let Err(error) = result {
            let (text, _) = walked::split_numbers(&error.kind.to_string());
            words.insert(format!("{}: {text}", walked::kind_name(&error)));
            refused += 1;
        }
    }
    assert!(refused > 200, "{refused} files: the corpus is part of the repository");
    walked::assert_pinned(&words, &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/malformed.words"));
}

#[test]
fn numbers_are_taken_out_of_messages_and_names_are_not() {
    let split = |message| {
        let (words, numbers) = walked::split_numbers(message);
        words + &numbers
    };
    assert_eq!(split("flags 0x1f, at most 12 in vcpu3"), "flags N, at most N in vcpu3 (0x1f 12)");
    assert_eq!(split("no name"), "no name");
}
