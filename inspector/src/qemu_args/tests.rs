use super::*;
use crate::contents::{Contents, Device};
use crate::extract::{Board, Memory};
use migration_stream::{Configuration, RamBlock};
use std::path::Path;

const MIB: u64 = 1 << 20;

fn contents(machine: &str, blocks: &[(&str, u64)]) -> Contents {
    let configuration = Configuration { machine: machine.as_bytes().to_vec(), ..Default::default() };
    let blocks = blocks.iter().map(|(name, mib)| RamBlock {
        idstr: name.as_bytes().to_vec(),
        used_length: mib * MIB,
        host_page_size: None,
        guest_physical_address: None,
    });
    let name = "vm.qcow2".to_owned();
    Contents { name, configuration: Some(configuration), blocks: blocks.collect(), ..Contents::default() }
}

fn memory(board: Board, main: &[usize], others: &[usize], slots: &[bool]) -> Memory {
    Memory {
        board,
        main: main.to_vec(),
        others: others.to_vec(),
        slots: slots.to_vec(),
        most_bytes: Some(2048 * MIB),
    }
}

/// The script without its comments, its lines joined; blocks lie one after the other from 2 MiB on.
fn line(contents: &Contents, memory: &Memory, wishes: &Wishes) -> Result<String, String> {
    let mut base = 0;
    let bases = contents.blocks.iter().map(|block| {
        base += 2 * MIB;
        let at = base;
        base += block.used_length;
        Some(at)
    });
    let bases: Vec<_> = bases.collect();
    let plan = Plan::of(contents, memory, &bases, wishes).map_err(|error| error.to_string())?;
    let text = String::from_utf8(script(&plan, Path::new("/vm/1.qcow2"))).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    Ok(lines.join("\n").replace(" \\\n ", ""))
}

const BEGIN: &str = "exec 9</vm/1.qcow2 && qemu-snapshot lock 9 && exec";
const FROM: &str = "mem-path=/proc/self/fd/9";
const HOW: &str = "share=off,readonly=on,rom=off";

#[test]
fn each_machine_has_its_emulator_and_its_own_name_for_main_ram() {
    for (machine, block, board, emulator) in [
        ("pc-i440fx-10.0", "pc.ram", Board::I440fx, "x86_64"),
        ("pc-q35-9.2", "pc.ram", Board::Q35, "x86_64"),
        ("microvm", "microvm.ram", Board::Microvm, "x86_64"),
        ("virt-10.0", "mach-virt.ram", Board::ArmVirt, "aarch64"),
        ("pseries-10.0", "ppc_spapr.ram", Board::Pseries, "ppc64"),
        ("s390-ccw-virtio-10.0", "s390.ram", Board::S390, "s390x"),
        ("virt", "riscv_virt_board.ram", Board::RiscvVirt, "riscv64"),
        ("pc-q35-9.2", "mine", Board::Q35, "x86_64"),
    ] {
        let found =
            line(&contents(machine, &[(block, 64)]), &memory(board, &[0], &[], &[]), &Wishes::default());
        let wanted = format!(
            "{BEGIN} \"${{QEMU:-qemu-system-{emulator}}}\" -machine {machine},memory-backend={block} -m 64M -object \
             memory-backend-file,id={block},size=67108864,{FROM},offset=2097152,{HOW} \"$@\""
        );
        assert_eq!(found.as_deref(), Ok(&wanted[..]));
    }
}

#[test]
fn nodes_have_a_backend_each_in_their_order() {
    let mut contents = contents("pc-q35-10.0", &[("ram-node1", 96), ("ram-node0", 32), ("pc.bios", 1)]);
    let cpu =
        Device { idstr: b"cpu".to_vec(), instance_id: 0, version_id: 1, body: Vec::new(), description: None };
    contents.devices = vec![cpu.clone(), Device { instance_id: 1, ..cpu }];
    let found = line(&contents, &memory(Board::Q35, &[1, 0], &[], &[]), &Wishes::default()).unwrap();
    let wanted = format!(
        "-machine pc-q35-10.0 -m 128M -smp 2 \
         -object memory-backend-file,id=ram-node0,size=33554432,{FROM},offset=104857600,{HOW} \
         -object memory-backend-file,id=ram-node1,size=100663296,{FROM},offset=2097152,{HOW} \
         -numa node,memdev=ram-node0 -numa node,memdev=ram-node1 \"$@\""
    );
    assert!(found.ends_with(&wanted), "{found}");
}

#[test]
fn a_dimm_in_the_first_slot_is_plugged_and_others_need_their_addresses() {
    let blocks = [("pc.ram", 64), ("more", 128), ("second", 128)];
    let one = memory(Board::I440fx, &[0], &[1], &[true, false]);
    let pc = contents("pc-i440fx-10.0", &blocks);
    let found = line(&pc, &one, &Wishes::default()).unwrap();
    assert!(found.contains(" -m size=64M,slots=2,maxmem=2048M "), "{found}");
    assert!(found.ends_with("-device pc-dimm,id=more-dimm,memdev=more,slot=0 \"$@\""), "{found}");
    for (others, slots) in [(&[1, 2][..], &[true, true][..]), (&[1], &[false, true]), (&[1, 2], &[true])] {
        let unknown = line(&pc, &memory(Board::I440fx, &[0], others, slots), &Wishes::default()).unwrap_err();
        assert!(unknown.contains("--dimm NAME=ADDRESS") && unknown.contains("more"), "{unknown}");
    }
    let two = memory(Board::I440fx, &[0], &[1, 2], &[true, false, true]);
    let wishes = |dimms: &[(&str, u64)]| {
        let dimms = dimms.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
        Wishes { dimms, ..Wishes::default() }
    };
    let found = line(&pc, &two, &wishes(&[("second", 1 << 32), ("more", (1 << 32) + (1 << 27))])).unwrap();
    let second = "-device pc-dimm,id=second-dimm,memdev=second,slot=0,addr=0x100000000";
    let more = "-device pc-dimm,id=more-dimm,memdev=more,slot=2,addr=0x108000000";
    assert!(found.ends_with(&format!("{second} {more} \"$@\"")), "{found}");
    for (dimms, wanted) in [
        (&[("more", 0)][..], "--dimm is given 1 times, and 2 memory slots are occupied"),
        (&[("more", 0), ("more", 1)], "block \"more\" is something else, or is given twice"),
        (&[("more", 0), ("pc.ram", 1)], "block \"pc.ram\" is something else, or is given twice"),
        (&[("more", 0), ("none", 1)], "no block \"none\""),
    ] {
        let text = line(&pc, &two, &wishes(dimms)).unwrap_err();
        assert!(text.contains(wanted), "{text}");
    }
}

/// Types up to 3.1 have the path of the object in the block's name, those from 4.0 on do not.
#[test]
fn a_block_gets_the_name_that_it_has_in_the_image() {
    for (machine, block, property) in [
        ("pc-i440fx-3.1", "pc.ram", Some("off")),
        ("pc-i440fx-3.1", "/objects/mine", None),
        ("pc-i440fx-4.0", "pc.ram", None),
        ("pc-i440fx-4.0", "/objects/mine", Some("on")),
        ("microvm", "microvm.ram", None),
    ] {
        let contents = contents(machine, &[(block, 64)]);
        let found = line(&contents, &memory(Board::I440fx, &[0], &[], &[]), &Wishes::default()).unwrap();
        let name = "x-use-canonical-path-for-ramblock-id=";
        match property {
            Some(value) => assert!(found.contains(&format!("rom=off,{name}{value} ")), "{found}"),
            None => assert!(!found.contains(name), "{found}"),
        }
        let id = block.trim_start_matches("/objects/");
        assert!(
            found.contains(&format!(",id={id},")) && found.contains(&format!("memory-backend={id} ")),
            "{found}"
        );
    }
}

#[test]
fn old_versions_are_given_files_of_their_own() {
    let contents = contents("pc-i440fx-7.2", &[("pc.ram", 64)]);
    let memory = memory(Board::I440fx, &[0], &[], &[]);
    let wishes =
        Wishes { version: "7.2".parse().ok(), ram_files: Some("/run/a, b'c".into()), ..Wishes::default() };
    let found = line(&contents, &memory, &wishes).unwrap();
    let wanted = r#"exec "${QEMU:-qemu-system-x86_64}" -machine pc-i440fx-7.2,memory-backend=pc.ram -m 64M -object 'memory-backend-file,id=pc.ram,size=67108864,mem-path=/run/a,, b'\''c/pc.ram,share=off' "$@""#;
    assert_eq!(found, wanted);
    let older = Wishes { version: "5.2".parse().ok(), ..wishes };
    let text = line(&contents, &memory, &older).unwrap_err();
    assert_eq!(text, "vm.qcow2: QEMU 5.2 has no machine pc-i440fx-7.2, which came with QEMU 7.2");
}

/// No name of a file gets into a script unless it is a word of QEMU's.
#[test]
fn names_that_are_no_words_are_refused() {
    let memory = memory(Board::I440fx, &[0], &[], &[]);
    for machine in ["", "pc\nrm -rf /", "pc,x=y", "pc'", "$(reboot)"] {
        let text = line(&contents(machine, &[("pc.ram", 64)]), &memory, &Wishes::default()).unwrap_err();
        assert!(text.contains("has its memory is not known") && !text.contains('\n'), "{text}");
    }
    for block in ["", "0ram", "a b", "a,b", "/objects/", "/objects/a/b", "ram\u{e4}", &"r".repeat(129)] {
        let text =
            line(&contents("pc-i440fx-10.0", &[(block, 64)]), &memory, &Wishes::default()).unwrap_err();
        assert!(text.contains("no memory backend can have the name of block"), "{text}");
    }
    let unknown = Contents { name: "vm.qcow2".to_owned(), ..Contents::default() };
    assert_eq!(
        unknown_machine(&unknown).to_string(),
        "vm.qcow2: the snapshot does not say which machine it is of"
    );
    assert_eq!(unknown_machine(&unknown).exit_status(), 1);
}

/// Each comment is one line, whatever the file is called.
#[test]
fn a_name_of_a_file_stays_in_its_place() {
    let contents = contents("pc-i440fx-10.0", &[("pc.ram", 64), ("more", 1)]);
    let memory = memory(Board::I440fx, &[0], &[1], &[]);
    let path = Path::new("/vm/a\nreboot '$(b)\x1b,.qcow2");
    for ram_files in [None, Some("/run/a\nreboot".into())] {
        let is_image = ram_files.is_none();
        let wishes = Wishes { ram_files, ..Wishes::default() };
        let plan = Plan::of(&contents, &memory, &[Some(2 * MIB), None], &wishes).unwrap();
        assert_eq!(plan.left_out, ["more"]);
        let text = String::from_utf8(script(&plan, path)).unwrap();
        let comments: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(comments.iter().all(|line| !line.contains('\x1b')), "{text}");
        let rest = &text[comments.iter().map(|line| line.len() + 1).sum()..];
        let begin =
            if is_image { "exec 9<'/vm/a\nreboot '\\''$(b)\x1b,.qcow2' && " } else { "exec \"${QEMU:" };
        assert!(rest.starts_with(begin), "{text}");
    }
}
