use super::shape::{DeviceShape, FieldShape, Nulls, StateShape, Wire};
use super::*;
use migration_stream::RamBlock;

mod dumps;
mod structures;

fn field(name: &str, type_name: &str, size: u64) -> FieldShape {
    FieldShape {
        name: name.to_owned(),
        wire: Some(Wire { type_name: type_name.to_owned(), size, count: 1, total: size, ..Wire::default() }),
        ..FieldShape::default()
    }
}

fn shape() -> Shape {
    let state = StateShape {
        name: "rtc".to_owned(),
        version: 3,
        minimum_version: None,
        fields: vec![field("a", "uint8", 1), field("b", "uint32", 4)],
        subsections: vec![StateShape { name: "rtc/irq".to_owned(), version: 1, ..StateShape::default() }],
    };
    let block = RamBlock {
        idstr: b"pc.ram".to_vec(),
        used_length: 1 << 20,
        host_page_size: None,
        guest_physical_address: None,
    };
    Shape {
        machine: Some(b"pc-i440fx-7.2".to_vec()),
        has_configuration: true,
        page_size: 4096,
        footers: true,
        blocks: vec![block],
        iterables: vec![(b"ram".to_vec(), 0, 4)],
        devices: vec![DeviceShape {
            idstr: b"rtc".to_vec(),
            instance_id: 0,
            version: 3,
            body: vec![1, 0, 0, 0, 2],
            state: Some(state),
        }],
        ..Shape::default()
    }
}

fn check(change: impl FnOnce(&mut Shape, &mut Shape), expected: &[&str]) {
    let (mut source, mut target) = (shape(), shape());
    change(&mut source, &mut target);
    let found: Vec<_> = judge(&source, &target)
        .iter()
        .map(|judgement| format!("{} {} {}", judgement.verdict.name(), judgement.rule, judgement.path))
        .collect();
    assert_eq!(found, expected);
}

fn state(shape: &mut Shape) -> &mut StateShape {
    shape.devices[0].state.as_mut().unwrap()
}

fn structure(version: u64, fields: &[(&str, u64)]) -> FieldShape {
    let fields: Vec<_> = fields.iter().map(|&(name, size)| field(name, "uint8", size)).collect();
    let total = fields.iter().filter_map(|field| field.wire.as_ref()).map(|wire| wire.total).sum();
    let mut outer = field("esp", "struct", total);
    outer.nested = vec![StateShape { name: "esp".to_owned(), version, fields, ..StateShape::default() }];
    outer
}

#[test]
fn equal_shapes_have_nothing_to_judge() {
    check(|_, _| (), &[]);
}

#[test]
fn machine_and_ram_that_differ_break() {
    check(|source, _| source.machine = Some(b"pc-q35-7.2".to_vec()), &["breaks machine machine"]);
    check(|source, _| source.machine = Some(b"pc".to_vec()), &["may break machine machine"]);
    check(|source, _| source.page_size = 1024, &["breaks page-size machine"]);
    check(|source, _| source.capabilities = vec![b"mapped-ram".to_vec()], &["breaks capability machine"]);
    check(|source, _| source.footers = false, &["breaks footers machine"]);
    for change in [
        |shape: &mut Shape| shape.postcopy = true,
        |shape: &mut Shape| shape.postcopy_advised = true,
        |shape: &mut Shape| shape.compressed = true,
        |shape: &mut Shape| shape.multifd = true,
    ] {
        check(|source, _| change(source), &["may break transport machine"]);
        check(|source, target| [source, target].into_iter().for_each(change), &[]);
    }
    check(|source, _| source.switchover_start = true, &["may break switchover-start machine"]);
    check(|source, _| source.blocks[0].used_length *= 2, &["breaks block-length block pc.ram"]);
    check(
        |source, _| source.blocks[0].idstr = b"mem".to_vec(),
        &["breaks block-missing block mem", "may break block-extra block pc.ram"],
    );
    check(|source, _| source.iterables[0].2 = 5, &["breaks version-newer section ram/0"]);
}

#[test]
fn devices_and_versions_are_judged_in_the_direction_of_the_load() {
    check(|source, _| source.devices[0].version = 4, &["breaks version-newer device rtc/0"]);
    check(|source, _| source.devices[0].version = 2, &["may break version-older device rtc/0"]);
    check(
        |source, target| {
            source.devices[0].version = 2;
            state(target).minimum_version = Some(2);
        },
        &["safe version-older device rtc/0"],
    );
    check(
        |source, target| {
            source.devices[0].version = 1;
            state(target).minimum_version = Some(2);
        },
        &["breaks minimum-version device rtc/0"],
    );
    check(|_, target| target.devices.clear(), &["breaks section-missing device rtc/0"]);
    check(|source, _| source.devices.clear(), &["may break section-extra device rtc/0"]);
    check(
        |source, _| source.devices[0].instance_id = 1,
        &["breaks section-missing device rtc/1", "may break section-extra device rtc/0"],
    );
    check(|source, _| source.devices[0].state = None, &["may break not-described device rtc/0"]);
}

#[test]
fn isa_vga_is_never_safe() {
    let vga = |idstr: &[u8], expected: &[&str]| {
        check(
            |source, target| {
                for shape in [source, target] {
                    shape.devices[0].idstr = idstr.to_vec();
                    "vga".clone_into(&mut state(shape).name);
                }
            },
            expected,
        );
    };
    vga(b"vga", &["may break isa-vga device vga/0"]);
    // On PCI the state is where it is said to be.
    vga(b"0000:00:02.0/vga", &[]);
}

#[test]
fn fields_are_compared_in_order_by_name_type_and_size() {
    check(
        |source, _| state(source).fields[1] = field("b", "uint64", 8),
        &["breaks field-type device rtc/0: b"],
    );
    check(
        |source, _| state(source).fields[0] = field("a", "bool", 1),
        &["may break field-type device rtc/0: a"],
    );
    check(|source, _| state(source).fields[0] = field("x", "uint8", 1), &["safe field-name device rtc/0: x"]);
    check(
        |source, _| state(source).fields.insert(1, field("x", "uint16", 2)),
        &["may break field-unknown device rtc/0: x"],
    );
    check(|source, _| drop(state(source).fields.remove(1)), &["may break field-missing device rtc/0"]);
    check(
        |source, _| state(source).fields.reverse(),
        &["may break field-missing device rtc/0", "may break field-unknown device rtc/0: a"],
    );
}

#[test]
fn a_dump_has_all_fields_that_there_are() {
    check(
        |source, target| {
            state(source).fields.insert(1, field("x", "uint16", 2));
            state(target).minimum_version = Some(1);
        },
        &["breaks field-unknown device rtc/0: x"],
    );
}

#[test]
fn the_same_bytes_in_other_fields_are_not_called_broken() {
    check(
        |source, target| {
            state(source).fields = vec![field("a", "uint32", 4)];
            state(target).fields = vec![field("a", "uint16", 2), field("b", "uint16", 2)];
        },
        &["may break field-type device rtc/0: a", "may break field-missing device rtc/0"],
    );
}

#[test]
fn only_subsections_that_are_sent_count() {
    check(
        |source, _| state(source).subsections.clear(),
        &["safe subsection-not-sent device rtc/0: subsection rtc/irq"],
    );
    check(
        |_, target| state(target).subsections.clear(),
        &["may break subsection-unknown device rtc/0: subsection rtc/irq"],
    );
    check(
        |_, target| {
            let state = state(target);
            state.subsections.clear();
            state.minimum_version = Some(1);
        },
        &["breaks subsection-unknown device rtc/0: subsection rtc/irq"],
    );
    check(
        |source, _| state(source).subsections[0].version = 2,
        &["breaks subsection-version device rtc/0: subsection rtc/irq"],
    );
}

/// Two fields at the same place, of which the source sends this body.
fn cut(source: &[(&str, &str, u64)], target: &[(&str, &str, u64)], body: &[u8], expected: &[&str]) {
    check(
        |a, b| {
            let fields = |cut: &[(&str, &str, u64)]| {
                let mut at = 0;
                cut.iter()
                    .map(|&(name, type_name, size)| {
                        let mut field = field(name, type_name, size);
                        field.wire.as_mut().unwrap().at = Some(at);
                        at += size;
                        field
                    })
                    .collect::<Vec<_>>()
            };
            state(a).fields = fields(source);
            state(b).fields = fields(target);
            a.devices[0].body = body.to_vec();
        },
        expected,
    );
}

#[test]
fn a_buffer_that_became_shorter_makes_room_for_fields_that_are_zero() {
    let old = [("runstate", "buffer", 5), ("b", "uint8", 1)];
    let new = [("runstate", "buffer", 2), ("has", "uint8", 1), ("unused", "buffer", 2), ("b", "uint8", 1)];
    cut(&old, &new, b"ab\0cd\x01", &["safe field-recut device rtc/0: runstate"]);
    // What the source has there is no text's end, and would be taken for a number.
    cut(&old, &new, b"ab\x01cd\x01", &["may break field-recut device rtc/0: runstate"]);
    // The other way a buffer takes whatever there is.
    cut(&new, &old, b"ab\x01cd\x01", &["safe field-recut device rtc/0: runstate"]);
    // Nothing is known of the bytes.
    cut(&old, &new, b"", &["may break field-recut device rtc/0: runstate"]);
    cut(
        &[("a", "uint8", 1), ("c", "bool", 1), ("d", "uint16", 2)],
        &[("a", "uint8", 1), ("unused", "unused_buffer", 3)],
        b"\x01\x02\x03\x04",
        &["safe field-recut device rtc/0: c"],
    );
}

#[test]
fn numbers_that_are_cut_otherwise_or_buffers_of_another_length_are_not_safe() {
    // Bytes less, bytes more, a number in the middle of another one, and what QEMU checks.
    let check = |source: &[(&str, &str, u64)], target: &[(&str, &str, u64)]| {
        let body = vec![0; 16];
        let (mut a, mut b) = (shape(), shape());
        state(&mut a).fields = source.iter().map(|&(name, kind, size)| field(name, kind, size)).collect();
        state(&mut b).fields = target.iter().map(|&(name, kind, size)| field(name, kind, size)).collect();
        a.devices[0].body = body;
        let worst = judge(&a, &b).iter().map(|judgement| judgement.verdict).max();
        assert!(worst >= Some(Verdict::MayBreak), "{source:?} {target:?}");
    };
    check(&[("a", "buffer", 4)], &[("a", "buffer", 2), ("n", "uint8", 1)]);
    check(&[("a", "buffer", 4)], &[("a", "buffer", 4), ("n", "uint8", 1)]);
    check(&[("a", "uint32", 4)], &[("x", "uint16", 2), ("y", "uint16", 2)]);
    check(&[("a", "uint8", 1), ("b", "uint32", 4)], &[("c", "uint32", 4), ("d", "uint8", 1)]);
    check(&[("a", "buffer", 4)], &[("a", "buffer", 2), ("n", "uint16 equal", 2)]);
    check(&[("a", "bitmap", 16)], &[("a", "bitmap", 8), ("n", "uint64", 8)]);
    check(&[("a", "uint32", 4)], &[]);
    check(&[], &[("a", "uint32", 4)]);
    // A field that went to another place is not one that got another name.
    check(&[("a", "uint8", 1), ("b", "uint8", 1)], &[("b", "uint8", 1), ("a", "uint8", 1)]);
    check(&[("a", "uint8", 1)], &[("x", "uint16", 2)]);
    check(&[("a", "uint8", 1)], &[("x", "bool", 1)]);
}

#[test]
fn integers_that_differ_in_their_sign_are_the_same_bytes() {
    let types = |source: &str, target: &str, expected: &[&str]| {
        check(
            |a, b| {
                state(a).fields[1] = field("b", source, 4);
                state(b).fields[1] = field("b", target, 4);
            },
            expected,
        );
    };
    types("int32", "uint32", &["safe field-type device rtc/0: b"]);
    types("uint32 equal", "int32 equal", &["safe field-type device rtc/0: b"]);
    // These are compared with a sign, and those are not compared.
    types("int32 le", "uint32 le", &["may break field-type device rtc/0: b"]);
    types("int32", "int32 equal", &["may break field-type device rtc/0: b"]);
    types("int32", "timer", &["may break field-type device rtc/0: b"]);
}

#[test]
fn every_rule_is_in_the_document() {
    let document = include_str!("../../COMPAT.md");
    let mut rules = 0;
    let sources = [
        include_str!("machine.rs"),
        include_str!("state.rs"),
        include_str!("fields.rs"),
        include_str!("elements.rs"),
        include_str!("recut.rs"),
    ];
    for source in sources {
        // The first text of each call that makes a judgement.
        for call in ["judge.breaks(", "judge.may_break(", "judge.safe(", "judge.say("] {
            for after in source.split(call).skip(1) {
                let rule = after.split('"').nth(1).expect("a rule's name");
                assert!(document.contains(&format!("`{rule}`")), "{rule}");
                rules += 1;
            }
        }
    }
    assert!(rules > 30, "{rules} calls");
}
