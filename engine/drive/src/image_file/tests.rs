use super::*;
use crate::new_file::NEW_IMAGE_MODE;
use rustix::fs::{CWD, Mode};
use snapshot_engine::error_text;
use std::ffi::{OsStr, OsString};
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

fn spec(path: &Path) -> ImageSpec {
    ImageSpec { path: path.to_owned(), direct: false, aio: None }
}

fn files(folder: &Path) -> Vec<OsString> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn write(image: &ImageFile, bytes: &[u8]) {
    std::os::unix::fs::FileExt::write_all_at(&**image.file.as_ref().unwrap(), bytes, 0).unwrap();
}

#[test]
fn only_regular_files_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mknodat(CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, kind) in [
        (folder.path(), "a directory"),
        (&fifo, "a named pipe"),
        (&socket, "a socket"),
        (Path::new("/dev/null"), "a character device"),
    ] {
        let expected = format!("{}: {kind}; images are regular files only", path.display());
        assert_eq!(error_text(&ImageFile::open_for_save(&spec(path), true).unwrap_err()), expected);
        assert_eq!(error_text(&ImageFile::open_for_revert(&spec(path)).unwrap_err()), expected);
    }
}

#[test]
fn missing_image_is_created_only_where_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new\x1b.qcow2");
    let error = error_text(&ImageFile::open_for_save(&spec(&path), false).unwrap_err());
    assert!(error.contains("\\u{1b}.qcow2: No such file or directory (os error 2); --create"), "{error}");
    assert!(ImageFile::open_for_save(&spec(&path), true).unwrap().file.is_none());
    assert_eq!(files(folder.path()), [""; 0], "nothing is there before the machine wants it");
}

#[test]
fn new_image_is_private_and_has_no_name_until_it_is_given_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.qcow2");
    let mut image = ImageFile::open_for_save(&spec(&path), true).unwrap();
    image.create_temporary().unwrap();
    write(&image, b"content");
    assert_eq!(files(folder.path()), [""; 0], "a kill would leave something");
    image.link().unwrap();
    assert_eq!(files(folder.path()), ["new.qcow2"]);
    drop(image);
    assert_eq!(std::fs::read(&path).unwrap(), b"content");
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, NEW_IMAGE_MODE);
}

#[test]
fn new_image_loses_its_name_if_the_save_fails() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.qcow2");
    let mut image = ImageFile::open_for_save(&spec(&path), true).unwrap();
    image.create_temporary().unwrap();
    image.link().unwrap();
    image.unlink().unwrap();
    assert_eq!(files(folder.path()), [""; 0]);
    // What lies there by now is another program's.
    image.create_temporary().unwrap();
    image.replaced = None;
    image.link().unwrap();
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    std::fs::write(&path, b"another's").unwrap();
    assert_eq!(image.unlink().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    drop(image);
    assert_eq!(std::fs::read(&path).unwrap(), b"another's");
}

#[test]
fn file_that_does_not_replace_goes_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.qcow2");
    std::fs::write(&path, b"old").unwrap();
    let mut image = ImageFile::open_for_save(&spec(&path), false).unwrap();
    image.create_temporary().unwrap();
    write(&image, b"half");
    assert_eq!(files(folder.path()), ["old.qcow2"]);
    image.probe_replace().unwrap();
    assert_eq!(files(folder.path()).len(), 2, "ready to change places");
    drop(image);
    assert_eq!(files(folder.path()), ["old.qcow2"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[test]
fn file_that_appeared_meanwhile_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.qcow2");
    let mut image = ImageFile::open_for_save(&spec(&path), true).unwrap();
    image.create_temporary().unwrap();
    std::fs::write(&path, b"another's").unwrap();
    assert_eq!(image.link().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    drop(image);
    assert_eq!(files(folder.path()), ["new.qcow2"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"another's");
}

/// Before the probe it is found there, and after it by what the exchange brings out.
#[test]
fn only_the_image_that_was_inspected_is_replaced() {
    for probed in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.qcow2");
        std::fs::write(&path, b"old").unwrap();
        let mut image = ImageFile::open_for_save(&spec(&path), false).unwrap();
        image.create_temporary().unwrap();
        write(&image, b"new");
        if probed {
            image.probe_replace().unwrap();
        }
        std::fs::rename(&path, folder.path().join("aside")).unwrap();
        std::fs::write(&path, b"another's").unwrap();
        let result = if probed { image.replace() } else { image.probe_replace() };
        let error = error_text(&result.unwrap_err());
        assert!(error.contains("another file lies there"), "{error}");
        drop(image);
        assert_eq!(files(folder.path()), ["aside", "old.qcow2"]);
        assert_eq!(std::fs::read(&path).unwrap(), b"another's");
    }
}

#[test]
fn image_that_was_removed_meanwhile_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.qcow2");
    std::fs::write(&path, b"old").unwrap();
    let mut image = ImageFile::open_for_save(&spec(&path), false).unwrap();
    image.create_temporary().unwrap();
    write(&image, b"new");
    image.probe_replace().unwrap();
    std::fs::remove_file(&path).unwrap();
    image.replace().unwrap();
    drop(image);
    assert_eq!(files(folder.path()), ["old.qcow2"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}

#[test]
fn directory_may_be_renamed_while_a_save_runs() {
    let folder = tempfile::tempdir().unwrap();
    for (old, name) in [(false, "create"), (true, "overwrite")] {
        let before = folder.path().join(name);
        std::fs::create_dir(&before).unwrap();
        let path = before.join("vm.qcow2");
        if old {
            std::fs::write(&path, b"old").unwrap();
        }
        let mut image = ImageFile::open_for_save(&spec(&path), true).unwrap();
        image.create_temporary().unwrap();
        write(&image, b"new");
        let after = folder.path().join(format!("{name}-renamed"));
        std::fs::rename(&before, &after).unwrap();
        if old {
            image.probe_replace().unwrap();
            image.replace().unwrap();
        } else {
            image.link().unwrap();
        }
        drop(image);
        assert_eq!(files(&after), ["vm.qcow2"]);
        assert_eq!(std::fs::read(after.join("vm.qcow2")).unwrap(), b"new");
    }
}

#[test]
fn replaced_image_keeps_symlink_mode_owner_and_attributes() {
    let folder = tempfile::tempdir().unwrap();
    let (images, link) = (folder.path().join("images"), folder.path().join("link.qcow2"));
    std::fs::create_dir(&images).unwrap();
    let path = images.join("old.qcow2");
    std::fs::write(&path, b"old").unwrap();
    symlink("images/old.qcow2", &link).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    // Only root gives files away, and some file systems have no attributes: then these two are not looked at.
    let _ = std::os::unix::fs::chown(&path, Some(1234), Some(2345));
    let old = std::fs::metadata(&path).unwrap();
    let attribute = c"user.snapshot.test";
    let flags = rustix::fs::XattrFlags::empty();
    let has_attributes = rustix::fs::setxattr(&path, attribute, b"kept", flags).is_ok();

    let mut image = ImageFile::open_for_save(&spec(&link), false).unwrap();
    image.create_temporary().unwrap();
    write(&image, b"new");
    image.probe_replace().unwrap();
    image.replace().unwrap();
    drop(image);

    assert!(link.is_symlink());
    assert_eq!(files(&images), ["old.qcow2"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    let new = std::fs::metadata(&path).unwrap();
    assert_ne!(new.ino(), old.ino());
    assert_eq!((new.mode(), new.uid(), new.gid()), (old.mode(), old.uid(), old.gid()));
    if has_attributes {
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(&path, attribute, &mut value).unwrap();
        assert_eq!(&value[..length], b"kept");
    }
}

#[test]
fn symlink_to_nothing_is_refused_before_the_save() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link.qcow2");
    symlink("nothing", &link).unwrap();
    let error = error_text(&ImageFile::open_for_save(&spec(&link), true).unwrap_err());
    assert!(error.contains("link.qcow2: a symbolic link to what is not there"), "{error}");
}

#[test]
fn longest_name_can_be_created() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(OsStr::new(&"n".repeat(255)));
    let mut image = ImageFile::open_for_save(&spec(&path), true).unwrap();
    image.create_temporary().unwrap();
    image.link().unwrap();
    drop(image);
    assert!(path.exists());
    let mut image = ImageFile::open_for_save(&spec(&path), true).unwrap();
    image.create_temporary().unwrap();
    image.probe_replace().unwrap();
    image.replace().unwrap();
    drop(image);
    assert_eq!(files(folder.path()).len(), 1);
}

#[test]
fn image_is_locked_also_while_it_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.qcow2");
    std::fs::write(&path, b"old").unwrap();
    let mut image = ImageFile::open_for_save(&spec(&path), false).unwrap();
    image.create_temporary().unwrap();
    let error = error_text(&ImageFile::open_for_save(&spec(&path), false).unwrap_err());
    assert!(error.contains("another save with this name is running"), "{error}");
    let other = folder.path().join("hard-link.qcow2");
    std::fs::hard_link(&path, &other).unwrap();
    let error = error_text(&ImageFile::open_for_save(&spec(&other), false).unwrap_err());
    assert!(error.contains("cannot lock the image: another process uses it"), "{error}");
    image.probe_replace().unwrap();
    image.replace().unwrap();
    assert!(ImageFile::open_for_revert(&spec(&path)).is_err(), "the new one is locked too");
    // As an io_uring request may: the locks must go before the file does.
    let _lingering = image.file.clone();
    drop(image);
    let _one = ImageFile::open_for_revert(&spec(&path)).unwrap();
    let _other = ImageFile::open_for_revert(&spec(&path)).unwrap();
    assert!(ImageFile::open_for_save(&spec(&path), false).is_err(), "reverts are under way");
}
