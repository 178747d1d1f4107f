use super::*;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

const UUID: [u8; 16] = [7; 16];

fn own() -> [u32; 1] {
    [rustix::process::geteuid().as_raw()]
}

/// A folder with the file of one block and a manifest that fits it.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pc.ram");
    fs::write(&path, [0; 4096]).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let stamp = FileStamp::of(File::open(&path).unwrap()).unwrap();
    write(
        folder.path(),
        &encode(&UUID, 9, &[Entry { name: b"pc.ram".to_vec(), file: "pc.ram".to_owned(), stamp }]),
    );
    folder
}

fn write(folder: &Path, text: &str) {
    let path = folder.join(MANIFEST);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
}

fn check(folder: &Path, wanted: &str) {
    let error = snapshot_engine::error_text(&RamFiles::open(folder, &own()).unwrap_err());
    assert!(error.starts_with(&folder.display().to_string()), "{error}");
    assert!(error.contains(wanted), "expected {wanted:?} in {error:?}");
}

#[test]
fn what_is_written_is_read() {
    let folder = folder();
    let found = RamFiles::open(folder.path(), &own()).unwrap();
    assert_eq!((found.uuid, found.root_checksum, found.blocks.len()), (UUID, 9, 1));
    let block = found.block(b"pc.ram").unwrap();
    assert_eq!(block.path, folder.path().join("pc.ram"));
    assert_eq!(FileStamp::of(&block.file).unwrap(), block.stamp);
    assert!(found.block(b"pc.bios").is_none());
}

#[test]
fn a_file_that_was_changed_is_refused() {
    type Change = fn(&Path);
    let changes: [Change; 5] = [
        |path| fs::write(path, [1; 4096]).unwrap(),
        |path| fs::OpenOptions::new().append(true).open(path).unwrap().set_len(8192).unwrap(),
        |path| fs::hard_link(path, path.with_extension("more")).unwrap(),
        |path| {
            fs::copy(path, path.with_extension("copy")).unwrap();
            fs::rename(path.with_extension("copy"), path).unwrap();
        },
        // Back at its place, with its old time of modification: the change time cannot be set.
        |path| {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            fs::write(path, [1; 4096]).unwrap();
            File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
        },
    ];
    for change in changes {
        let folder = folder();
        // The clock of change times has ticks of some milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        change(&folder.path().join("pc.ram"));
        check(folder.path(), "pc.ram: changed since it was made: device");
    }
}

#[test]
fn what_others_may_write_is_not_trusted() {
    for (name, mode) in [("", 0o770), ("", 0o1777), (MANIFEST, 0o620), (MANIFEST, 0o602), ("pc.ram", 0o660)] {
        let folder = folder();
        fs::set_permissions(folder.path().join(name), Permissions::from_mode(mode)).unwrap();
        check(folder.path(), &format!("others than its owner may write to it (mode {mode:04o})"));
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
    }
    let folder = folder();
    if own() == [0] {
        for name in ["", MANIFEST, "pc.ram"] {
            let path = folder.path().join(name);
            std::os::unix::fs::chown(&path, Some(77), None).unwrap();
            check(folder.path(), "it belongs to user 77, who could change it");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
    }
}

#[test]
fn what_is_no_manifest_is_an_error() {
    let folder = folder();
    let whole = fs::read_to_string(folder.path().join(MANIFEST)).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(whole.contains(from), "{from} is not in {whole}");
        whole.replacen(from, to, 1)
    };
    let block = |field: &str| changed(&format!("\"{field}\""), "\"other\"");
    for (text, wanted) in [
        (String::new(), "no JSON: EOF"),
        ("[]".to_owned(), "version null, expected 1"),
        (changed("\"version\": 1", "\"version\": 2"), "version 2, expected 1"),
        (changed("07070707-", "07070707"), "no UUID"),
        (changed("\"root_checksum\": 9", "\"root_checksum\": -9"), "no root checksum"),
        (changed("\"root_checksum\": 9", "\"root_checksum\": 4294967296"), "no root checksum"),
        (block("blocks"), "no list of blocks"),
        (block("name"), "a block without name"),
        (block("file"), "a block without file"),
        (block("inode"), "a block without inode"),
        (block("ctime_s"), "a block without ctime_s"),
        (changed("\"file\": \"pc.ram\"", "\"file\": \"../pc.ram\""), "is no name in this folder"),
        (changed("\"file\": \"pc.ram\"", "\"file\": \"\""), "is no name in this folder"),
        (changed("\"name\": \"pc.ram\"", "\"name\": \"%zz\""), "a block with a malformed name"),
        ("[".repeat(1000), "no JSON: recursion limit"),
    ] {
        write(folder.path(), &text);
        check(folder.path(), wanted);
    }
    let entry = || {
        let file = File::open(folder.path().join("pc.ram")).unwrap();
        Entry { name: b"a".to_vec(), file: "pc.ram".to_owned(), stamp: FileStamp::of(file).unwrap() }
    };
    write(folder.path(), &encode(&UUID, 9, &[entry(), entry()]));
    check(folder.path(), "two blocks with one name or file");
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let folder = folder();
    let path = folder.path().join("pc.ram");
    fs::remove_file(&path).unwrap();
    check(folder.path(), "pc.ram: No such file or directory");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    check(folder.path(), "pc.ram: not a regular file");
    let manifest = folder.path().join(MANIFEST);
    fs::rename(&manifest, folder.path().join("other")).unwrap();
    check(folder.path(), "manifest.json: No such file or directory");
    std::os::unix::fs::symlink("other", &manifest).unwrap();
    check(folder.path(), "manifest.json: Too many levels of symbolic links");
    check(&folder.path().join("nowhere"), "nowhere: No such file or directory");
}
