//! Processes that have mapped the image rightly, and wrongly in each way.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use serde_json::json;
use snapshot_tests::{beside::utf8, not_run, tool};

use super::{Linear, Peer, has_python, linear};

const STREAM: &str = "qemu-10.0-pc-background";
const MIB: u64 = 1 << 20;

fn with_image(check: impl FnOnce(&Linear)) {
    if has_python() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        check(&linear(STREAM, folder.path()));
    }
}

#[test]
fn a_private_mapping_is_left_out_whatever_the_channel() {
    with_image(|image| {
        let right = || Peer::right(image);
        let said = right().is_reverted(&[]);
        assert!(said.contains("has mapped from the image: block \"pc.ram\" 4 MiB\n"), "{said}");
        // A shell and a wrapper between, which have the writing end of the pipe as well.
        right().with_command("sh -c 'TOOL --revert --mapped IMAGE; exit $?'; exit $?").is_reverted(&[]);
        right().with_command("exec TOOL --revert --mapped=pc.ram --fresh-ram IMAGE").is_reverted(&[]);
        right().with_command("TOOL -r --mapped IMAGE,cache.direct=on").is_reverted(&[]);
        for channel in ["fd", "pair"] {
            let command = "exec TOOL --revert --mapped --uri=fd:FD IMAGE";
            Peer { channel, ..right() }.with_command(command).is_reverted(&[]);
        }
        let command = "exec TOOL --revert --mapped --uri=unix:SOCKET IMAGE";
        Peer { channel: "unix", ..right() }.with_command(command).is_reverted(&[]);
    });
}

#[test]
fn pages_with_copies_are_sent() {
    with_image(|image| {
        let last = image.length / 4096 - 1;
        // A page that is not zero, one that is, the first and the last one.
        let page = |zero: bool| {
            let is_zero = |page: u64| !image.contents.ram.contains_key(&(b"pc.ram".to_vec(), page * 4096));
            (1..last).find(|page| is_zero(*page) == zero).expect("there are both")
        };
        let touched = [0, page(false), page(true), last];
        let said = Peer::right(image).with("touch", json!(touched)).is_reverted(&touched);
        assert!(
            said.contains("block \"pc.ram\" 4 MiB (16 KiB of it copied already, which is sent)"),
            "{said}"
        );
        assert!(said.contains(" zero pages"), "{said}");
    });
}

#[test]
fn each_wrong_mapping_is_refused_by_name() {
    with_image(|image| {
        let right = || Peer::right(image);
        let block = "ram block \"pc.ram\": ";
        right()
            .with("share", json!(true))
            .with("write", json!(false))
            .is_refused(&format!("{block}the image is mapped shared (r-s) at address 0x"));
        right().with("offset", json!(image.base - MIB)).is_refused(&format!("{block}3 MiB of it are mapped"));
        right()
            .with("length", json!(image.length - 4096))
            .is_refused(&format!("{block}3.9 MiB of it are mapped"));
        right().with("write", json!(false)).is_refused(&format!("{block}it is mapped r-p at address 0x"));
        Peer { maps: vec![], ..right() }.is_refused(&format!("{block}the destination maps no file there"));
        let unnamed = Peer { maps: vec![], arguments: vec![], ..right() };
        unnamed.is_refused("has no RAM block mapped from the image");
        Peer { arguments: vec![], ..right() }.is_refused(&format!(
            "{block}no memory-backend-file object on the destination's command line has this id"
        ));
        right()
            .with_command("TOOL --revert --mapped=pc.rom IMAGE")
            .is_refused("ram block \"pc.rom\": no memory-b");
        right()
            .with_command("TOOL --revert --mapped=x IMAGE")
            .is_refused("\"x\": the image has none with this name");
        // Equal bytes in another file.
        let copy = image.path.with_extension("copy");
        fs::copy(&image.path, &copy).expect("a copy");
        right().with("file", json!(utf8(&copy))).is_refused("is mapped, needed: the image, ");
        // One that a balloon could punch holes into; mode 0400 stops only other users.
        fs::set_permissions(&image.path, fs::Permissions::from_mode(0o600)).expect("ours");
        right().with("mode", json!("rw")).is_refused("can be written to: a balloon would punch holes");
        right().with("close", json!(true)).is_refused("it has no descriptor of the image");
    });
}

#[test]
fn a_process_that_is_not_the_destination_proves_nothing() {
    with_image(|image| {
        let right = || Peer::right(image);
        // What reads the pipe has mapped nothing, whatever its parent has.
        let command = "(TOOL --revert --mapped IMAGE; echo $? >IMAGE.status) | cat >/dev/null; exit $(cat IMAGE.status)";
        right().with_command(command).is_refused(" at the other end of the channel has no RAM block mapped");
        Peer { leak: true, ..right() }
            .is_refused("hold the other end of the channel; needed: only the destination");
        right()
            .with_command("TOOL --revert --mapped IMAGE >IMAGE.out")
            .is_refused("the process at the other end of a file cannot be found");
        let fifo = "mkfifo IMAGE.fifo; cat IMAGE.fifo >/dev/null & TOOL --revert --mapped IMAGE >IMAGE.fifo";
        right().with_command(fifo).is_refused("the process at the other end of a named pipe cannot be found");
    });
}

#[test]
fn a_process_that_may_not_be_looked_at_is_refused_with_the_right_that_is_missing() {
    if !rustix::process::geteuid().is_root() {
        return not_run("another user and a PID namespace need root");
    }
    with_image(|image| {
        let folder = image.path.parent().expect("a folder");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("ours");
        fs::set_permissions(&image.path, fs::Permissions::from_mode(0o444)).expect("ours");
        let program = folder.join("tool");
        fs::copy(tool::qemu_snapshot(), &program).expect("a copy");
        let program = utf8(&program);
        let as_other =
            format!("setpriv --reuid=54321 --regid=54321 --clear-groups {program} -r --mapped IMAGE");
        Peer::right(image).with_command(&as_other).is_refused(
            "may be at the other end of the channel, and cannot be looked at: it runs as user 0 and this program as \
             user 54321: the same user is needed, or CAP_SYS_PTRACE: Permission denied",
        );
        let unshare = ["--pid", "--fork", "--mount-proc"];
        if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|status| status.success()) {
            return not_run("no PID namespace can be made");
        }
        let apart = format!("unshare {} {program} -r --mapped IMAGE", unshare.join(" "));
        Peer::right(image).with_command(&apart).is_refused(
            "no process that can be looked at holds the other end of the channel (0 cannot be: the same user is \
             needed, or CAP_SYS_PTRACE, and the same PID namespace)",
        );
    });
}

#[test]
fn a_dense_image_is_refused() {
    with_image(|image| {
        let dense = image.path.with_extension("dense");
        let input = image.path.with_file_name("stream");
        let options = ["--create".as_ref(), dense.as_os_str()];
        assert!(snapshot_tests::image::run_tool(options, Some(&input)).status.success());
        let dense = Linear { path: dense, contents: Default::default(), ..*image };
        Peer::right(&dense).is_refused(
            "in which RAM does not lie in one piece; needed: the linear layout; --create --layout=linear makes such an \
             image",
        );
    });
}
