//! Without QEMU: what happens to a save while its last bytes are still to come, and before.

use super::{
    Attribute, HELD_BYTES, Source, assert_holds, is_snapshot, last_bytes, names, stream,
    up_to_the_last_bytes, wait_until, wait_until_ballast_is_held,
};
use rustix::fs::IFlags;
use snapshot_tests::{
    corpus,
    image::{qemu_img, qemu_img_or_skip, run_tool, text},
    ram::assert_same,
    tool::{qemu_snapshot, snapinspect},
};
use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt, chown},
        net::UnixStream,
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

/// Another stream, for the snapshot that is replaced.
fn old_stream() -> Vec<u8> {
    corpus::stream("qemu-7.2-pc-rounds")
}

fn save_old(image: &Path) {
    let mut source = Source::start(&["--create"], image);
    source.write(&old_stream());
    let (output, failed) = source.end();
    assert!(output.status.success() && !failed, "{}", text(&output));
}

/// What is done to the folder, given the image's path, while RAM is under way; and whether the save goes on.
type Mischief = (&'static str, &'static str, bool, fn(&Path) -> Option<Attribute>);

fn rename_folder(image: &Path) -> Option<Attribute> {
    let folder = image.parent().expect("a folder");
    fs::rename(folder, folder.with_file_name("renamed")).expect("our own folder");
    None
}

fn immutable_folder(image: &Path) -> Option<Attribute> {
    Attribute::set_or_skip(image.parent().expect("a folder"), IFlags::IMMUTABLE)
}

fn append_only_folder(image: &Path) -> Option<Attribute> {
    Attribute::set_or_skip(image.parent().expect("a folder"), IFlags::APPEND)
}

fn immutable_image(image: &Path) -> Option<Attribute> {
    Attribute::set_or_skip(image, IFlags::IMMUTABLE)
}

fn append_only_image(image: &Path) -> Option<Attribute> {
    Attribute::set_or_skip(image, IFlags::APPEND)
}

fn another_file(image: &Path) -> Option<Attribute> {
    let other = image.with_file_name("other");
    fs::write(&other, "another's").expect("our own folder");
    fs::rename(other, image).expect("our own folder");
    None
}

fn remove(image: &Path) -> Option<Attribute> {
    fs::remove_file(image).expect("it is there");
    None
}

/// What forbids the end of a save is an error of the source, while it has bytes to send; what does
/// not is no matter.
#[test]
fn mischief_while_ram_is_under_way_is_seen_by_the_source() {
    let cases: [Mischief; 10] = [
        ("--create", "renamed", true, rename_folder),
        ("--create", "immutable folder", false, immutable_folder),
        ("--create", "append-only folder", true, append_only_folder),
        ("--create", "another file", false, another_file),
        ("--overwrite", "renamed", true, rename_folder),
        ("--overwrite", "immutable folder", false, immutable_folder),
        ("--overwrite", "append-only folder", false, append_only_folder),
        ("--overwrite", "immutable image", false, immutable_image),
        ("--overwrite", "append-only image", false, append_only_image),
        ("--overwrite", "another file", false, another_file),
    ];
    let (old, new) = (old_stream(), stream());
    for (option, what, goes_on, mischief) in
        cases.into_iter().chain([("--overwrite", "removed", true, remove as fn(&Path) -> Option<Attribute>)])
    {
        let what = format!("{option}, {what}");
        let home = tempfile::tempdir().expect("a temporary folder");
        let folder = home.path().join("images");
        fs::create_dir(&folder).expect("our own folder");
        let image = folder.join("vm.qcow2");
        if option == "--overwrite" {
            save_old(&image);
        }
        let mut source = Source::start(&[option], &image);
        source.write(&new[..new.len() / 4]);
        source.wait_taken();
        let attribute = mischief(&image);
        if attribute.is_none() && what.contains("only") | what.contains("immutable") {
            source.kill();
            continue;
        }
        source.write(&new[new.len() / 4..]);
        let (output, failed) = source.end();
        drop(attribute);
        let renamed = home.path().join("renamed");
        let folder = if renamed.exists() { &renamed } else { &folder };
        let image = folder.join("vm.qcow2");
        assert_eq!(output.status.code(), Some(if goes_on { 0 } else { 2 }), "{what}: {}", text(&output));
        assert_eq!(failed, !goes_on, "{what}: {}", text(&output));
        let left = names(folder);
        if goes_on {
            assert_holds(&image, &new);
            assert_eq!(left, ["vm.qcow2"], "{what}");
        } else if what.ends_with("another file") {
            assert_eq!(fs::read(&image).expect("theirs"), b"another's", "{what}");
            assert_eq!(left, ["vm.qcow2"], "{what}");
        } else if option == "--overwrite" {
            assert_holds(&image, &old);
            assert_eq!(left, ["vm.qcow2"], "{what}");
        } else {
            assert!(left.is_empty(), "{what}: {left:?}");
        }
    }
}

#[test]
fn a_path_without_a_file_name_and_a_second_save_are_refused() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let image = home.path().join("vm.qcow2");
    let mut first = Source::start(&["--create"], &image);
    let bytes = stream();
    first.write(&bytes[..bytes.len() / 4]);
    first.wait_taken();
    for (path, wanted) in [
        (home.path().join("new/"), "names a directory"),
        (image.clone(), "another save with this name is running"),
    ] {
        let mut second = Source::start(&["--create"], &path);
        second.write(&bytes);
        let (output, _) = second.end();
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(wanted), "{}", text(&output));
    }
    first.write(&bytes[bytes.len() / 4..]);
    let (output, failed) = first.end();
    assert!(output.status.success() && !failed, "{}", text(&output));
    assert_holds(&image, &bytes);
    assert_eq!(names(home.path()), ["vm.qcow2"]);
}

#[test]
fn a_new_image_needs_no_name_any_more_when_the_last_byte_comes() {
    for mischief in [rename_folder as fn(&Path) -> Option<Attribute>, immutable_folder] {
        let home = tempfile::tempdir().expect("a temporary folder");
        let folder = home.path().join("images");
        fs::create_dir(&folder).expect("our own folder");
        let mut source = up_to_the_last_bytes(&["--create"], &folder.join("vm.qcow2"));
        let attribute = mischief(&folder.join("vm.qcow2"));
        source.write(&last_bytes());
        let (output, failed) = source.end();
        drop(attribute);
        assert!(output.status.success() && !failed, "{}", text(&output));
        let renamed = home.path().join("renamed");
        assert_holds(&if renamed.exists() { renamed } else { folder }.join("vm.qcow2"), &stream());
    }
}

/// A shell's `>`, `>>` or `cp` on the file of a save whose name is there already. No lock keeps them
/// away, and QEMU says completed: the exit status says that nothing was saved.
#[test]
fn what_another_program_does_to_the_file_is_noticed_before_it_is_sealed() {
    let cut = |image: &Path| fs::OpenOptions::new().write(true).truncate(true).open(image).map(drop);
    let appended = |image: &Path| {
        use std::io::Write;
        fs::OpenOptions::new().append(true).open(image).and_then(|mut file| file.write_all(b"more"))
    };
    type Done = fn(&Path) -> std::io::Result<()>;
    let cases: [(&str, Done, &str); 5] = [
        ("cut", cut, "another program has changed the file"),
        ("written over", |image| fs::write(image, "another's"), "another program has changed the file"),
        ("appended to", appended, "another program has changed the file"),
        ("removed", |image| fs::remove_file(image), "another program has removed or replaced the file"),
        (
            "replaced",
            |image| another_file(image).map_or(Ok(()), |_| Ok(())),
            "has removed or replaced the file",
        ),
    ];
    for (what, mischief, wanted) in cases {
        let home = tempfile::tempdir().expect("a temporary folder");
        let image = home.path().join("vm.qcow2");
        let mut source = up_to_the_last_bytes(&["--create"], &image);
        mischief(&image).expect("our own file");
        source.write(&last_bytes());
        let (output, _) = source.end();
        assert_eq!(output.status.code(), Some(2), "{what}: {}", text(&output));
        assert!(text(&output).contains(wanted), "{what}: {}", text(&output));
        let left = if what == "replaced" { vec!["vm.qcow2"] } else { Vec::new() };
        assert_eq!(names(home.path()), left, "{what}");
        if what == "replaced" {
            assert_eq!(fs::read(&image).expect("theirs"), b"another's", "{what}");
        }
    }
    // An image made beforehand stays; it holds no snapshot.
    let Some(program) = qemu_img_or_skip() else { return };
    let home = tempfile::tempdir().expect("a temporary folder");
    let image = home.path().join("vm.qcow2");
    qemu_img(&program, ["create", "-q", "-f", "qcow2", image.to_str().expect("a UTF-8 path"), "64M"]);
    let bytes = stream();
    let mut source = Source::start(&[], &image);
    source.write(&bytes[..bytes.len() - HELD_BYTES]);
    source.wait_taken();
    wait_until_ballast_is_held(&image);
    cut(&image).expect("our own file");
    source.write(&last_bytes());
    let (output, _) = source.end();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("another program has changed the file"), "{}", text(&output));
    assert!(!is_snapshot(&image));
}

/// Killed before its last bytes, a new image is an interrupted save for every program, and no
/// obstacle for the next save.
#[test]
fn a_killed_save_leaves_nothing_that_the_next_one_does_not_replace_or_remove() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let image = home.path().join("vm.qcow2");
    let bytes = stream();
    // Before the device sections it has no name at all.
    let mut source = Source::start(&["--create"], &image);
    source.write(&bytes[..bytes.len() / 4]);
    source.wait_taken();
    source.kill();
    assert!(names(home.path()).is_empty(), "{:?}", names(home.path()));

    up_to_the_last_bytes(&["--create"], &image).kill();
    let reverted = run_tool(["--revert".as_ref(), image.as_os_str()], None);
    assert_eq!(reverted.status.code(), Some(1), "{}", text(&reverted));
    assert!(text(&reverted).contains("a save was interrupted"), "{}", text(&reverted));
    let checked = Command::new(snapinspect()).arg("check").arg(&image).output().expect("it was built");
    assert_eq!(checked.status.code(), Some(1));
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(said.contains("an interrupted save of qemu-snapshot"), "{said}");
    let save = |option: &str| {
        let mut source = Source::start(&[option], &image);
        source.write(&bytes);
        let (output, failed) = source.end();
        assert!(output.status.success() && !failed, "{}", text(&output));
        assert_holds(&image, &bytes);
        assert_eq!(names(home.path()), ["vm.qcow2"]);
        text(&output)
    };
    save("--create");

    up_to_the_last_bytes(&["--overwrite"], &image).kill();
    assert_holds(&image, &bytes);
    let hidden = names(home.path()).into_iter().find(|name| name != "vm.qcow2").expect("a hidden file");
    let kept = home.path().join(".vm.qcow2.0123456789abcdef.tmp");
    fs::write(&kept, "no image").expect("our own folder");
    let mut source = Source::start(&["--overwrite"], &image);
    source.write(&bytes);
    let (output, _) = source.end();
    let said = text(&output);
    assert!(said.contains(&format!("removed {}", hidden.to_string_lossy())), "{said}");
    assert!(said.contains(".vm.qcow2.0123456789abcdef.tmp: a save that was killed left it"), "{said}");
    assert_eq!(fs::read(&kept).expect("it stays"), b"no image");
    fs::remove_file(kept).expect("our own file");
    save("--overwrite");
}

#[test]
fn a_stream_that_is_wrong_at_its_end_leaves_no_name() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let image = home.path().join("vm.qcow2");
    let source = up_to_the_last_bytes(&["--create"], &image);
    assert!(image.exists() && !is_snapshot(&image));
    let (output, _) = source.end();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(names(home.path()).is_empty(), "{:?}", names(home.path()));
}

/// After the probe only the exchange can find it: QEMU would say completed, and only the exit
/// status says that nothing was saved.
#[test]
fn another_file_at_the_name_is_put_back_after_the_exchange() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let image = home.path().join("vm.qcow2");
    save_old(&image);
    let mut source = up_to_the_last_bytes(&["--overwrite"], &image);
    another_file(&image);
    source.write(&last_bytes());
    let (output, _) = source.end();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("another file lies there"), "{}", text(&output));
    assert_eq!(names(home.path()), ["vm.qcow2"]);
    assert_eq!(fs::read(&image).expect("theirs"), b"another's");
}

/// However many there are: the exit status says whether there is an image.
#[test]
fn too_few_descriptors_are_found_before_there_is_an_image() {
    let bytes = stream();
    let (mut failures, mut done) = (0, 0);
    for limit in 8..20 {
        let home = tempfile::tempdir().expect("a temporary folder");
        let image = home.path().join("vm.qcow2");
        let mut tool = Command::new("sh");
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        tool.args(["-c", &script]).arg(qemu_snapshot()).args(["--create"]).arg(&image);
        tool.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let mut source = Source { tool: tool.spawn().expect("a shell"), failed: false };
        source.write(&bytes);
        let (output, failed) = source.end();
        if output.status.success() {
            assert!(!failed, "{limit}: {}", text(&output));
            done += 1;
            assert_holds(&image, &bytes);
            assert_eq!(names(home.path()), ["vm.qcow2"], "{limit}");
        } else {
            failures += 1;
            assert!(names(home.path()).is_empty(), "{limit}: {}", text(&output));
        }
    }
    assert!(failures > 0 && done > 0, "{failures} failed, {done} done");
}

/// One that may be written to and passed through, but not read: no listing, no sync of its own, no lock.
#[test]
fn a_directory_with_mode_0333_is_good_enough() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let folder = home.path().join("images");
    fs::create_dir(&folder).expect("our own folder");
    let image = folder.join("vm.qcow2");
    let input = home.path().join("stream");
    fs::write(&input, stream()).expect("a small file");
    // Root reads everything.
    let user = rustix::process::geteuid().is_root().then_some(65534);
    if user.is_some() {
        chown(&folder, user, user).expect("we are root");
        fs::set_permissions(home.path(), Permissions::from_mode(0o755)).expect("our own folder");
    }
    fs::set_permissions(&folder, Permissions::from_mode(0o333)).expect("our own folder");
    for option in ["--create", "--overwrite"] {
        let mut tool = Command::new(qemu_snapshot());
        tool.arg(option).arg(&image).stdin(fs::File::open(&input).expect("just written"));
        if let Some(user) = user {
            tool.uid(user).gid(user);
        }
        let output = tool.output().expect("the tool was built");
        assert!(output.status.success(), "{option}: {}", text(&output));
    }
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("our own folder");
    assert_eq!(names(&folder), ["vm.qcow2"]);
    let reverted = run_tool(["--revert".as_ref(), image.as_os_str()], None);
    assert_same(&stream(), &reverted.stdout);
}

/// After `kill -9` the name of the socket stays, and no process listens there.
#[test]
fn a_stale_socket_is_no_obstacle() {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (image, socket) = (home.path().join("vm.qcow2"), home.path().join("socket"));
    let uri = format!("--uri=unix:{}", socket.display());
    let source = Source::start(&["--create", &uri], &image);
    wait_until("it listens", || socket.exists());
    source.kill();
    assert!(socket.exists());
    let tool = Source::start(&["--create", &uri], &image);
    wait_until("it listens", || UnixStream::connect(&socket).is_ok());
    let (output, _) = tool.end();
    // The connection that was seen to be possible was taken for the source, and ended.
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("truncated"), "{}", text(&output));
    assert!(!socket.exists());
}
