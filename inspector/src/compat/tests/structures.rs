//! Structures in structures, and arrays of them.

use super::*;

#[test]
fn a_structure_of_another_version_breaks_if_its_fields_are_other_ones() {
    let versions = |source: FieldShape, target: FieldShape, expected: &[&str]| {
        check(
            |a, b| {
                state(a).fields = vec![source.clone()];
                state(b).fields = vec![target.clone()];
            },
            expected,
        );
    };
    let (seven, eight) = (structure(7, &[("lun", 1)]), structure(8, &[("lun", 1), ("asc_mode", 1)]));
    let esp = |verdict: &str| format!("{verdict} structure-version device rtc/0: esp");
    versions(
        eight.clone(),
        seven.clone(),
        &[&esp("breaks"), "may break field-unknown device rtc/0: esp: asc_mode"],
    );
    versions(seven, eight, &[&esp("may break"), "may break field-missing device rtc/0: esp"]);
    // The version alone is nothing that the target sees.
    versions(structure(8, &[("lun", 1)]), structure(7, &[("lun", 1)]), &[&esp("safe")]);
    versions(structure(7, &[("lun", 1)]), structure(8, &[("lun", 1)]), &[&esp("safe")]);
    // A dump does not say how many bytes the target reads: it loads if they are as many (esp of 10.0 in 7.2).
    let mut dumped = structure(6, &[("ti", 1), ("lun", 1)]);
    dumped.wire = None;
    for field in &mut dumped.nested[0].fields {
        (field.wire, field.memory_bytes) = (None, Some(1));
    }
    let against_the_dump = |source: &FieldShape, expected: &str| {
        let (mut a, mut b) = (shape(), shape());
        state(&mut a).fields = vec![source.clone()];
        state(&mut b).fields = vec![dumped.clone()];
        b.is_dump = true;
        let judgements = judge(&a, &b);
        let found = judgements.iter().find(|judgement| judgement.rule == "structure-version");
        assert_eq!(found.map(|judgement| judgement.verdict.name()), Some(expected), "{judgements:?}");
        assert!(judgements.iter().all(|judgement| judgement.verdict < Verdict::Breaks), "{judgements:?}");
    };
    against_the_dump(&structure(7, &[("lun", 1), ("drq", 1)]), "may break");
    versions(
        structure(7, &[("lun", 1), ("drq", 1)]),
        structure(6, &[("ti", 1), ("lun", 1)]),
        &[
            &esp("may break"),
            "may break field-missing device rtc/0: esp",
            "may break field-unknown device rtc/0: esp: drq",
        ],
    );
}

#[test]
fn the_version_of_a_structure_is_the_targets_and_not_on_the_wire() {
    // A field that is there since version 2: the target reads it, whatever the source's version is.
    check(
        |source, target| {
            state(source).fields = vec![structure(1, &[("a", 1)])];
            let mut newer = structure(2, &[("a", 1), ("b", 1)]);
            newer.nested[0].minimum_version = Some(1);
            newer.nested[0].fields[1].since = 2;
            state(target).fields = vec![newer];
        },
        &["may break structure-version device rtc/0: esp", "may break field-missing device rtc/0: esp"],
    );
    // Of a device the version is on the wire.
    check(
        |source, target| {
            source.devices[0].version = 2;
            state(source).version = 2;
            state(target).minimum_version = Some(1);
            let mut newer = field("c", "uint8", 1);
            newer.since = 3;
            state(target).fields.push(newer);
        },
        &["safe version-older device rtc/0", "safe field-newer device rtc/0"],
    );
    // Below the minimum.
    check(
        |source, target| {
            state(source).fields = vec![structure(1, &[("a", 1)])];
            let mut newer = structure(3, &[("a", 1), ("b", 1)]);
            newer.nested[0].minimum_version = Some(2);
            state(target).fields = vec![newer];
        },
        &["breaks structure-version device rtc/0: esp", "may break field-missing device rtc/0: esp"],
    );
}

#[test]
fn all_elements_are_compared_and_those_that_are_null() {
    let array = |versions: &[u64], nulls: Nulls| {
        let mut array = structure(1, &[("a", 1)]);
        let wire = array.wire.as_mut().unwrap();
        (wire.count, wire.nulls) = (3, nulls);
        array.nested = versions.iter().map(|&size| structure(1, &[("a", size)]).nested.remove(0)).collect();
        array
    };
    let arrays = |source: FieldShape, target: FieldShape, expected: &[&str]| {
        check(
            |a, b| {
                state(a).fields = vec![source.clone()];
                state(b).fields = vec![target.clone()];
            },
            expected,
        );
    };
    // One description for all, against one for each.
    arrays(
        array(&[1], Nulls::None),
        array(&[1, 1, 2], Nulls::None),
        &["breaks field-size device rtc/0: esp[2]: a"],
    );
    let null = |at: u64| Nulls::range(at..at + 1);
    arrays(array(&[1, 1], null(1)), array(&[1, 1], null(1)), &[]);
    arrays(array(&[1, 1], null(1)), array(&[1, 1], null(2)), &["may break null-pointers device rtc/0: esp"]);
    arrays(
        array(&[1, 1], null(1)),
        array(&[1, 1, 1], Nulls::None),
        &["may break null-pointers device rtc/0: esp"],
    );
    // Where each element says so itself, the target follows that.
    let mut empty = array(&[], Nulls::range(0..3));
    empty.wire.as_mut().unwrap().type_name = "nullptr".to_owned();
    arrays(array(&[1, 1], Nulls::Marked), empty, &[]);
    arrays(
        array(&[1, 1], Nulls::Marked),
        array(&[1, 1], Nulls::None),
        &["may break null-pointers device rtc/0: esp"],
    );
}
