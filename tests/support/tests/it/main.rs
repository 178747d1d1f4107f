//! What holds for the repository as a whole.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Files with one of these endings, without what is built or downloaded.
fn files(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(folder).expect("a folder of the repository").map(|entry| entry.expect("readable"))
        {
            let name = entry.file_name().into_string().expect("names are text");
            let kind = entry.file_type().expect("readable");
            if kind.is_dir() && !matches!(name.as_str(), "target" | ".git" | ".prefix" | "artifacts") {
                folders.push(entry.path());
            } else if kind.is_file() && name.ends_with(ending) {
                found.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn the_pure_crates_are_held_to_the_same_lints() {
    let parser = read("parser/clippy.toml");
    assert!(parser.contains("disallowed-types"));
    for other in ["engine/image", "engine/core"] {
        assert_eq!(
            read(&format!("{other}/clippy.toml")),
            parser,
            "{other}/clippy.toml and parser/clippy.toml differ"
        );
    }
}

/// The texts between backquotes in a document that is no program.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn tests_and_findings_that_the_quirks_name_exist() {
    let quirks = read("docs/qemu-quirks.md");
    let tests: Vec<String> =
        files(".rs").iter().map(|path| fs::read_to_string(path).expect("text")).collect();
    let mut named = 0;
    for word in quoted(&quirks) {
        let is_test = word.len() > 24
            && word.chars().all(|letter| letter.is_ascii_lowercase() || "_0123456789".contains(letter));
        if is_test && !word.starts_with("postcopy_ram") {
            let function = format!("fn {word}(");
            assert!(tests.iter().any(|text| text.contains(&function)), "no test {word}");
            named += 1;
        } else if word.starts_with("findings/") || word.starts_with("tests/") {
            assert!(root().join(word).exists(), "no {word}");
            named += 1;
        }
    }
    assert!(named > 20, "{named}");
}

#[test]
fn files_that_the_documents_name_exist() {
    const FOLDERS: [&str; 8] =
        ["parser/", "engine/", "inspector/", "simulator/", "tests/", "fuzz/", "corpus/", "docs/"];
    let mut named = 0;
    let is_of_the_project = |path: &PathBuf| {
        ["ARCHITECTURE.md", "CONTRIBUTING.md", "RELEASING.md"].iter().any(|name| path.ends_with(name))
    };
    let decisions = root().join("docs/decisions");
    for path in files(".md").iter().filter(|path| is_of_the_project(path) || path.starts_with(&decisions)) {
        let text = fs::read_to_string(path).expect("text");
        for word in quoted(&text).filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder))) {
            // Not a pattern, and no name to be filled in.
            if word.contains(char::is_uppercase) && !word.ends_with(".md") || word.contains(['*', ' ']) {
                continue;
            }
            assert!(root().join(word).exists(), "{}: no {word}", path.display());
            named += 1;
        }
    }
    assert!(named > 40, "{named}");
}

#[test]
fn links_between_documents_lead_to_files() {
    let mut links = 0;
    for path in files(".md") {
        let text = fs::read_to_string(&path).expect("text");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link)) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.contains(char::is_whitespace) {
                continue;
            }
            let file = path.parent().expect("in a folder").join(target);
            assert!(file.exists(), "{}: {link}", path.display());
            links += 1;
        }
    }
    assert!(links > 20, "{links}");
}
