use super::shape::{DeviceShape, FieldShape, StateShape};
use super::*;
use migration_stream::RamBlock;

fn field(name: &str, type_name: &str, size: u64) -> FieldShape {
    FieldShape {
        name: name.to_owned(),
        wire: Some((type_name.to_owned(), size, 1)),
        memory_bytes: None,
        conditional: None,
        since: 0,
        nested: Vec::new(),
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
            body_bytes: 5,
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
fn fields_are_compared_in_order_by_name_type_and_size() {
    check(
        |source, _| state(source).fields[1] = field("b", "uint64", 8),
        &["breaks field-type device rtc/0: b"],
    );
    check(
        |source, _| state(source).fields[0] = field("a", "bool", 1),
        &["may break field-type device rtc/0: a"],
    );
    check(
        |source, _| state(source).fields[0] = field("x", "uint8", 1),
        &["may break field-name device rtc/0: x"],
    );
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

#[test]
fn what_a_dump_does_not_say_is_never_safe() {
    check(
        |source, target| {
            source.devices[0].state.as_mut().unwrap().name = "timer".to_owned();
            target.is_dump = true;
        },
        &["may break not-compared machine", "may break not-described device rtc/0"],
    );
}

#[test]
fn every_rule_is_in_the_document() {
    let document = include_str!("../../COMPAT.md");
    let mut rules = 0;
    for source in [include_str!("machine.rs"), include_str!("state.rs")] {
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
