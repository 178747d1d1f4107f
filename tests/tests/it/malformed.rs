//! What the toolkit does with each file in `corpus/malformed/`, and that these files are what the
//! recipes make.
//!
//! `NAME.txt` beside each file has exit statuses, kinds of errors, offsets and numbers. The wording
//! of messages is in `malformed.words` (the parser's in `parser/tests/it/malformed.words`).
//! `UPDATE=1` writes all of it anew: look at the difference before you commit it.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use snapshot_tests::{
    corpus,
    malformed::{self, Malformed, Said},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/malformed")
}

fn file_name(name: &str) -> String {
    format!("{name}.bin.zst")
}

fn write(file: &Malformed, said: &Said) {
    let packed = zstd::encode_all(&file.bytes[..], 19).expect("in memory");
    fs::write(folder().join(file_name(&file.name)), packed).expect("corpus/malformed");
    fs::write(folder().join(format!("{}.txt", file.name)), &said.reasons).expect("corpus/malformed");
}

#[test]
fn every_malformed_file_is_refused_as_the_text_beside_it_says_and_in_the_pinned_words() {
    let update = env::var_os("UPDATE").is_some();
    if update {
        let _ = fs::remove_dir_all(folder());
        fs::create_dir(folder()).expect("corpus/");
    }
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let stream = scratch.path().join("stream");
    fs::write(&stream, corpus::stream("qemu-10.0-pc")).expect("a small file");
    let files = malformed::all();
    let (mut wrong, mut words) = (Vec::new(), BTreeSet::new());
    for file in &files {
        let said = malformed::said(file, &stream, scratch.path());
        words.extend(said.words.iter().cloned());
        if update {
            write(file, &said);
            continue;
        }
        let packed = fs::read(folder().join(file_name(&file.name))).expect("UPDATE=1 makes it");
        assert!(zstd::decode_all(&packed[..]).expect("packed") == file.bytes, "{}: other bytes", file.name);
        let expected =
            fs::read_to_string(folder().join(format!("{}.txt", file.name))).expect("UPDATE=1 makes it");
        if said.reasons != expected {
            wrong.push(format!("{}:\n--- expected\n{expected}--- found\n{}", file.name, said.reasons));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    nothing_is_missing_and_nothing_too_many(&files);
    let pinned = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/malformed.words");
    malformed::assert_pinned(&words, &pinned);
}

fn nothing_is_missing_and_nothing_too_many(files: &[Malformed]) {
    let made: BTreeSet<String> =
        files.iter().flat_map(|file| [file_name(&file.name), format!("{}.txt", file.name)]).collect();
    assert_eq!(made.len(), 2 * files.len(), "two recipes of one name");
    let there: BTreeSet<String> = fs::read_dir(folder())
        .expect("corpus/malformed")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("our own names"))
        .collect();
    let differ: Vec<&String> = there.symmetric_difference(&made).collect();
    assert!(differ.is_empty(), "{differ:?}");
    let contents: BTreeSet<&[u8]> = files.iter().map(|file| &file.bytes[..]).collect();
    assert_eq!(contents.len(), files.len(), "two files of one content");
    assert!(files.len() >= 150, "{} files", files.len());
}
