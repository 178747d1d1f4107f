//! A user who may have no more threads (`RLIMIT_NPROC`): io_uring has no worker for a write then,
//! and gives it back.

use migration_stream::{
    BlockList, Configuration, RamBlock, SectionHeader, SectionId, put_configuration, put_file_header,
    put_ram_blocks, put_section_end, put_section_footer, put_section_header, put_section_part,
};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// A guest with one page and one device.
fn stream() -> Vec<u8> {
    let mut out = Vec::new();
    put_file_header(&mut out);
    put_configuration(&mut out, &Configuration { machine: b"pc".to_vec(), ..Configuration::default() });
    let ram = SectionHeader { section_id: SectionId(1), idstr: b"ram", instance_id: 0, version_id: 4 };
    put_section_header(&mut out, false, &ram);
    let block = RamBlock {
        idstr: b"pc.ram".to_vec(),
        used_length: 4096,
        host_page_size: None,
        guest_physical_address: None,
    };
    put_ram_blocks(&mut out, &BlockList { blocks: vec![block] });
    migration_stream::ram::put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(1));
    put_section_part(&mut out, SectionId(1));
    migration_stream::ram::put_page_header(&mut out, Some(b"pc.ram"), 0);
    out.extend_from_slice(&[0x5a; 4096]);
    migration_stream::ram::put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(1));
    put_section_end(&mut out, SectionId(1));
    migration_stream::ram::put_end_of_section(&mut out);
    put_section_footer(&mut out, SectionId(1));
    let device = SectionHeader { section_id: SectionId(2), idstr: b"d", instance_id: 0, version_id: 1 };
    put_section_header(&mut out, true, &device);
    out.push(7);
    put_section_footer(&mut out, SectionId(2));
    let json = r#"{"page_size": 4096, "devices": [{"name": "d", "instance_id": 0, "vmsd_name": "d", "version": 1, "fields": [{"name": "x", "type": "uint8", "size": 1}]}]}"#;
    out.extend_from_slice(&[0, 6]);
    out.extend_from_slice(&u32::try_from(json.len()).expect("short").to_be_bytes());
    out.extend_from_slice(json.as_bytes());
    out
}

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
