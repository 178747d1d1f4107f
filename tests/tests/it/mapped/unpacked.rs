//! Guests whose RAM is mapped from files that `unpack` made: QEMU before 8.2 needs them.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use serde_json::json;
use snapshot_tests::{
    Config, Outcome, Qemu, Ram, ToImage, Version, Workload,
    beside::utf8,
    exec_uri,
    image::{run_tool, text},
    with_each_qemu_that,
};

use super::{Linear, Peer, has_python, linear};

fn unpack(image: &Path, folder: &Path) {
    let arguments = ["unpack".as_ref(), image.as_os_str(), "--ram-files".as_ref(), folder.as_os_str()];
    let output = run_tool(arguments, None);
    assert!(output.status.success(), "{}", text(&output));
}

/// A destination that has mapped `pc.ram` of the files in `folder`, and can write to it.
fn peer<'a>(image: &'a Linear, folder: &Path) -> Peer<'a> {
    let file = folder.join("pc.ram");
    let object = format!("memory-backend-file,id=pc.ram,size={},mem-path={}", image.length, file.display());
    let arguments = ["-object", &object, "-machine", "pc,memory-backend=pc.ram"];
    Peer {
        maps: vec![json!({"file": utf8(&file), "offset": 0, "length": image.length, "mode": "rw"})],
        arguments: arguments.map(str::to_owned).to_vec(),
        command: format!("TOOL --revert --mapped --ram-files={} IMAGE", folder.display()),
        ..Peer::right(image)
    }
}

#[test]
fn files_of_a_guest_of_its_own_are_left_out_and_others_refused() {
    if !has_python() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = linear("qemu-10.0-pc-background", folder.path());
    let files = folder.path().join("ram");
    unpack(&image.path, &files);
    peer(&image, &files).is_reverted(&[]);
    peer(&image, &files).with("touch", json!([0, 7])).is_reverted(&[0, 7]);
    peer(&image, &files).with("share", json!(true)).is_refused("the image is mapped shared (rws)");
    peer(&image, &files).with("offset", json!(4096)).is_refused("of it are mapped from the image");

    // Another guest would see what the balloon of this one does.
    let copy = Linear { path: image.path.clone(), contents: Default::default(), ..image };
    let other = peer(&copy, &files)
        .with_command("echo >IMAGE.started; while [ ! -e IMAGE.end ]; do sleep 0.05; done");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| other.run());
        snapshot_tests::beside::wait_for(&folder.path().join("image.started"));
        peer(&image, &files).is_refused("(python3) as well; needed: files that are this guest's own");
        fs::write(folder.path().join("image.end"), "").expect("ours");
        assert_eq!(waiting.join().expect("it ends").0.status.code(), Some(0));
    });

    let second = tempfile::tempdir().expect("a temporary folder");
    let others = linear("qemu-10.0-pc-background", second.path());
    peer(&others, &files).is_refused("holds the RAM of another snapshot");
    File::options()
        .write(true)
        .open(files.join("pc.ram"))
        .expect("ours")
        .write_all_at(b"x", 77)
        .expect("ours");
    peer(&image, &files).is_refused("pc.ram: changed since it was made");
}

/// As [`super::guests`], with each QEMU that cannot map a part of a file.
#[test]
fn guests_of_older_qemus_run_from_files_of_their_own() {
    with_each_qemu_that(
        |version| version < Version::V8_2,
        |binary, guest| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let (image, files) = (folder.path().join("vm.qcow2"), folder.path().join("ram"));
            let config = Config { workload: Workload::IDLE, ..Config::of_mib(48) };
            let mut source = Qemu::start(binary, guest, config.clone());
            source.console().wait_ready();
            source.console().wait_passes(1);
            source.set_fast();
            let passes = source.console().passes();
            let save = ToImage { options: "--create --layout=linear", image: &image, stream: None };
            assert_eq!(source.save_image(&save), Outcome::Completed, "{}", source.stderr());
            drop(source);
            unpack(&image, &files);
            let mapped = Config { ram: Ram::PrivateFile(files.join("pc.ram")), ..config.incoming() };
            let mut clone = Qemu::start(binary, guest, mapped);
            let options = format!("--revert --mapped --ram-files={}", files.display());
            assert_eq!(clone.revert(&exec_uri(&options, &image)), Outcome::Completed, "{}", clone.stderr());
            assert!(clone.stderr().contains("block \"pc.ram\" 48 MiB\n"), "{}", clone.stderr());
            clone.console().wait_passes(3);
            assert!(clone.console().passes() >= passes + 3, "goes on from the saved moment");
            assert!(fs::metadata(files.join("pc.ram")).is_ok_and(|file| file.len() == 48 << 20));
            clone.quit();
        },
    );
}
