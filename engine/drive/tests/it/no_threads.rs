//! A user who may have no more threads (`RLIMIT_NPROC`): io_uring has no worker for a write then,
//! and gives it back.

use crate::bed::stream;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn a_save_and_a_revert_need_no_other_thread() {
    if !rustix::process::geteuid().is_root() {
        return test_support::not_run("not root: another user is needed");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("ours");
    std::fs::copy(env!("CARGO_BIN_EXE_qemu-snapshot"), folder.path().join("tool")).expect("a copy");
    std::fs::write(folder.path().join("stream"), stream()).expect("a file");
    // The limit counts what the user has already: a user that no one else is.
    let run = |job: &str| {
        let script = format!("ulimit -u 1; exec ./tool {job}");
        let mut program = Command::new("setpriv");
        program.args(["--reuid=54321", "--regid=54321", "--clear-groups", "bash", "-c", &script]);
        program.current_dir(folder.path()).output().expect("util-linux and bash")
    };
    for way in ["", ",file.aio=io_uring", ",file.aio=io_uring,cache.direct=on"] {
        for job in [format!("--create image{way} <stream"), format!("--revert image{way} >out")] {
            let output = run(&job);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{job}: {said}");
        }
        let reverted = std::fs::read(folder.path().join("out")).expect("written");
        assert!(reverted.windows(4096).any(|page| page == [0x5a; 4096]), "{way}: the page came back");
        std::fs::remove_file(folder.path().join("image")).expect("written");
    }
}
