//! What the toolkit says of each file in `corpus/malformed/`, to the letter; and that these files are what the recipes make.
//!
//! `UPDATE=1` writes both anew: look at the difference before you commit it.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use snapshot_tests::{
    corpus,
    malformed::{self, Malformed},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus/malformed")
}

fn file_name(name: &str) -> String {
    format!("{name}.bin.zst")
}

fn write(file: &Malformed, said: &str) {
    let packed = zstd::encode_all(&file.bytes[..], 19).expect("in memory");
    fs::write(folder().join(file_name(&file.name)), packed).expect("corpus/malformed");
    fs::write(folder().join(format!("{}.txt", file.name)), said).expect("corpus/malformed");
}

#[test]
fn every_malformed_file_is_refused_in_the_words_beside_it() {
    let update = env::var_os("UPDATE").is_some();
    if update {
        let _ = fs::remove_dir_all(folder());
        fs::create_dir(folder()).expect("corpus/");
    }
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let stream = scratch.path().join("stream");
    fs::write(&stream, corpus::stream("qemu-10.0-pc")).expect("a small file");
    let files = malformed::all();
    let mut wrong = Vec::new();
    for file in &files {
        let said = malformed::said(file, &stream, scratch.path());
        if update {
            write(file, &said);
            continue;
        }
        let packed = fs::read(folder().join(file_name(&file.name))).expect("UPDATE=1 makes it");
        assert!(zstd::decode_all(&packed[..]).expect("packed") == file.bytes, "{}: other bytes", file.name);
        let expected =
            fs::read_to_string(folder().join(format!("{}.txt", file.name))).expect("UPDATE=1 makes it");
        if said != expected {
            wrong.push(format!("{}:\n--- expected\n{expected}--- said\n{said}", file.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    nothing_is_missing_and_nothing_too_many(&files);
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
