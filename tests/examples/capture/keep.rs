//! Puts what was captured into the corpus.

use std::fs;

use snapshot_tests::corpus;

/// Level of packing: small files matter, time does not.
pub(crate) const LEVEL: i32 = 19;

/// Packs a file into the corpus, with a line in the manifest. `path` is the one below the corpus,
/// without `.bin.zst`; the manifest leaves `valid/` out.
pub(crate) fn keep(path: &str, bytes: &[u8], described: &str) {
    let packed = zstd::encode_all(bytes, LEVEL).expect("memory is enough");
    let file = corpus::root().join(format!("{path}.bin.zst"));
    fs::create_dir_all(file.parent().expect("a folder")).expect("the corpus can be written");
    fs::write(&file, &packed).expect("the corpus can be written");
    println!("{path}: {} bytes, packed {}", bytes.len(), packed.len());
    let name = format!("{}.bin", path.strip_prefix("valid/").unwrap_or(path));
    let line = format!("{}  {name}  {described}", corpus::sha256(bytes));
    let manifest_path = corpus::root().join("MANIFEST");
    let manifest = fs::read_to_string(&manifest_path).unwrap_or_default();
    let mut manifest: Vec<String> = manifest.lines().map(str::to_owned).collect();
    match manifest.iter_mut().find(|old| old.split_whitespace().nth(1) == Some(&name)) {
        Some(old) => *old = line,
        None => manifest.push(line),
    }
    fs::write(&manifest_path, manifest.join("\n") + "\n").expect("the corpus can be written");
}
