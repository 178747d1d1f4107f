//! `--mac-hook` runs once, when the guest runs, and says how it ended.

use super::bench::{Clones, NICS, wait_until};
use serde_json::json;
use snapshot_tests::beside::{self, utf8};
use snapshot_tests::{Outcome, Qemu, Version, with_each_qemu, with_each_qemu_that};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// QEMU 10.0, or those that `QEMU_VERSIONS` names.
fn is_wanted(version: Version) -> bool {
    version == Version::V10_0 || std::env::var_os("QEMU_VERSIONS").is_some()
}

/// A program for a hook: records what it is told, and whether QEMU's monitor is free; ends with `status`.
fn hook(folder: &Path, status: u8) -> PathBuf {
    let path = folder.join(format!("hook{status}"));
    let record = folder.join("record");
    let script = format!(
        "#!/bin/sh\nprintf '%s|%s|%s|%s\\n' \"$MACS\" \"$MAC_DEVICE\" \"$OLD_MAC\" \"$NEW_MAC\" >>{}\n\
         ls -l /proc/self/fd >{}.fds\necho said\nexit {status}\n",
        record.display(),
        record.display(),
    );
    fs::write(&path, script).expect("room");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("ours");
    path
}

fn record(folder: &Path) -> String {
    fs::read_to_string(folder.join("record")).unwrap_or_default()
}

/// With `exec:` QEMU waits for the tool before it runs the guest: the hook must not be waited for.
#[test]
fn a_hook_behind_exec_runs_when_the_tool_has_ended_and_reports_itself() {
    with_each_qemu(|binary, guest| {
        let clones = Clones::saved(binary, guest, &NICS[..2]);
        let image = clones.image();
        for (options, status) in [("", 0), ("--postcopy=0", 0), ("", 3)] {
            let mut destination = Qemu::start(binary, guest, clones.config.incoming());
            destination.set_capabilities(&[("postcopy-ram", !options.is_empty())]);
            let home = destination.home().to_owned();
            // It ends only when the guest's state is told, which needs QEMU's main loop.
            let hook = hook(&home, status);
            let go = home.join("go");
            let command =
                format!("while ! test -e {}; do sleep 0.05; done; {}", go.display(), hook.display());
            let script = home.join("hook.sh");
            fs::write(&script, command).expect("room");
            let uri = format!(
                "exec:{} --revert {options} --mac {}={} --mac {}={} --mac-hook 'sh {}' {}",
                snapshot_tests::tool::qemu_snapshot().display(),
                NICS[0].device,
                NICS[0].new,
                NICS[1].device,
                NICS[1].new,
                script.display(),
                image.display(),
            );
            assert_eq!(destination.revert(&uri), Outcome::Completed, "{}", destination.stderr());
            // In postcopy QEMU starts the guest, however it was saved.
            let state = if options.is_empty() { "paused" } else { "running" };
            assert_eq!(destination.run_state(), state);
            assert_eq!(record(&home), "");
            let said = destination.stderr();
            assert!(said.contains("the guest's drivers use their old MACs"), "{said}");
            fs::write(&go, "").expect("room");
            let end = match status {
                0 => "qemu-snapshot: --mac-hook has ended: exit status 0".to_owned(),
                status => format!("qemu-snapshot: error: --mac-hook: exit status {status}; "),
            };
            wait_until(|| destination.stderr().contains(&end));
            let line = |nic: usize, kind: &str| {
                let (device, _) = NICS[nic].device.split_once('/').unwrap_or((NICS[nic].device, ""));
                format!("{device}/{kind} {} {}", NICS[nic].old, NICS[nic].new)
            };
            let expected = format!(
                "{}\n{}|{}|{}|{}\n",
                line(0, "virtio-net"),
                line(1, "e1000"),
                NICS[0].device,
                NICS[0].old,
                NICS[0].new
            );
            assert_eq!(record(&home), expected, "once");
        }
    });
}

/// Over a socket the tool waits for the hook, whose end is then its own.
#[test]
fn a_hook_beside_a_socket_is_waited_for() {
    with_each_qemu_that(is_wanted, |binary, guest| {
        let clones = Clones::saved(binary, guest, &NICS[..1]);
        let image = clones.image();
        for (options, status) in [("", 0), ("", 3), ("--postcopy=0", 0), ("--postcopy=0", 3)] {
            let mut destination = Qemu::start(binary, guest, clones.config.incoming());
            destination.set_capabilities(&[("postcopy-ram", !options.is_empty())]);
            let home = destination.home().to_owned();
            let (socket, said) = (home.join("socket"), home.join("said"));
            let uri = format!("unix:{}", socket.display());
            destination.execute("migrate-incoming", json!({ "uri": uri }));
            beside::wait_for(&socket);
            let hook = hook(&home, status);
            let mut arguments =
                vec!["--revert", "--new-identity", "--mac-hook", utf8(&hook), "--uri", &uri, utf8(&image)];
            arguments.extend((!options.is_empty()).then_some(options));
            let mut tool = beside::start(&arguments, Stdio::null(), &said);
            let ended = tool.wait().expect("our own child");
            let words = fs::read_to_string(&said).expect("text");
            assert_eq!(ended.code(), Some(if status == 0 { 0 } else { 2 }), "{words}");
            assert_eq!(record(&home).lines().count(), 1, "once: {words}");
            assert_eq!(words.contains("--mac-hook has ended: exit status 0"), status == 0, "{words}");
            assert_eq!(words.contains("--mac-hook ended with exit status: 3"), status == 3, "{words}");
            // It has neither the image, whose lock would live on, nor the socket.
            let open = fs::read_to_string(home.join("record.fds")).expect("the hook ran");
            assert!(!open.contains("vm.qcow2") && !open.contains("socket:"), "{open}");
            assert!(words.contains("said"), "{words}");
            destination.wait_migration("completed");
        }
    });
}
