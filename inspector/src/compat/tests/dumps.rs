//! What is known of a file that `-dump-vmstate` writes, and what is not.

use super::*;

#[test]
fn fields_of_one_name_stand_for_each_other_in_a_dump() {
    let dump = |conditional: bool, since: u64| FieldShape {
        wire: None,
        memory_bytes: Some(4),
        conditional: Some(conditional),
        since,
        ..field("b", "", 4)
    };
    let check = |others: &[(bool, u64)], expected: &[&str]| {
        check(
            |_, target| {
                let state = state(target);
                state.minimum_version = Some(1);
                state.fields.pop();
                state.fields.extend(others.iter().map(|&(conditional, since)| dump(conditional, since)));
            },
            expected,
        );
    };
    check(&[(true, 0), (false, 2)], &[]);
    check(&[(true, 0), (true, 0)], &[]);
    check(&[(false, 4), (false, 2)], &[]);
    check(&[(false, 0), (false, 2)], &["may break field-missing device rtc/0"]);
}

#[test]
fn of_a_dump_it_is_not_known_what_is_on_the_wire() {
    let of_dump = |name: &str, bytes: u64| FieldShape {
        wire: None,
        memory_bytes: Some(bytes),
        conditional: Some(false),
        ..field(name, "", bytes)
    };
    let check = |source: &[(&str, &str, u64)], target: &[(&str, u64)], expected: &[&str]| {
        check(
            |a, b| {
                state(a).fields = source.iter().map(|&(name, kind, size)| field(name, kind, size)).collect();
                let state = state(b);
                state.minimum_version = Some(1);
                state.fields = target.iter().map(|&(name, size)| of_dump(name, size)).collect();
            },
            expected,
        );
    };
    // Another name, or another cut, of the same bytes is possible.
    check(
        &[("num_timers", "uint8", 1)],
        &[("num_timers_save", 1)],
        &["may break field-unknown device rtc/0: num_timers", "may break field-missing device rtc/0"],
    );
    check(
        &[("runstate", "buffer", 2), ("new", "uint8", 1)],
        &[("runstate", 3)],
        &["may break field-unknown device rtc/0: new"],
    );
    // Here nothing is left that could be it.
    check(
        &[("a", "uint8", 1), ("new", "uint8", 1)],
        &[("a", 1)],
        &["breaks field-unknown device rtc/0: new"],
    );
}

#[test]
fn an_array_without_elements_is_nowhere_in_a_stream() {
    let array = |fixed: bool, conditional: bool| {
        let mut array = structure(1, &[("a", 1)]);
        array.wire = None;
        array.is_fixed_array = fixed;
        array.conditional = Some(conditional);
        array
    };
    let check = |field: FieldShape, expected: &[&str]| {
        check(
            |_, target| {
                state(target).minimum_version = Some(1);
                state(target).fields.push(field);
            },
            expected,
        );
    };
    check(array(false, false), &["may break field-empty device rtc/0"]);
    check(array(true, false), &["may break field-missing device rtc/0"]);
    check(array(false, true), &["may break field-conditional device rtc/0"]);
}

#[test]
fn a_description_of_the_same_name_and_of_nothing_else_is_another_one() {
    check(
        |_, target| {
            target.is_dump = true;
            let of_another = vec![field("dev", "struct", 8), field("vga", "struct", 8)];
            state(target).minimum_version = Some(1);
            state(target).fields = of_another;
        },
        &["may break not-compared machine", "may break not-described device rtc/0"],
    );
    // Of two types the one with more in common.
    check(
        |_, target| {
            target.is_dump = true;
            state(target).minimum_version = Some(1);
            let mut other = target.devices[0].clone();
            other.state.as_mut().unwrap().fields.pop();
            target.devices.insert(0, other);
        },
        &["may break not-compared machine"],
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
