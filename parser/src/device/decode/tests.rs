use super::*;
use crate::device::Vmdesc;

fn state(fields: &str) -> State {
    let json = format!(
        r#"{{"devices": [{{"name": "d", "instance_id": 0, "vmsd_name": "d", "version": 1, {fields}}}]}}"#
    );
    Vmdesc::parse(json.as_bytes()).unwrap().devices.remove(0).state
}

fn lines(body: &[u8], fields: &str) -> Vec<String> {
    let state = state(fields);
    let decoded = decode(body, &state);
    let mut at = 0;
    for field in &decoded.fields {
        assert_eq!(field.offset, at, "{field:?} leaves bytes out");
        at += field.bytes.len();
    }
    assert_eq!(at, body.len(), "not every byte is accounted for");
    decoded.fields.iter().map(|field| format!("{} {:?}", field.path, field.value)).collect()
}

#[test]
fn numbers_arrays_structures_and_subsections_are_named() {
    let mut body =
        vec![1, 0xff, 0xfe, 0, 0, 0, 7, 0, 1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    body.extend_from_slice(b"\x05\x03d/s\0\0\0\x02\x09");
    let fields = r#""fields": [
        {"name": "b", "type": "bool", "size": 1}, {"name": "i", "type": "int16", "size": 2},
        {"name": "s", "type": "struct", "struct": {"vmsd_name": "t", "version": 1, "fields": [
            {"name": "u", "type": "uint32 equal", "size": 4}]}, "size": 4},
        {"name": "a", "array_len": 2, "type": "uint16", "size": 2},
        {"name": "t", "type": "timer", "size": 8}],
        "subsections": [{"vmsd_name": "d/s", "version": 2, "fields": [
            {"name": "x", "index": 3, "type": "uint8", "size": 1}]}]"#;
    assert_eq!(
        lines(&body, fields),
        [
            "b Bool(true)",
            "i Signed(-2)",
            "s.u Unsigned(7)",
            "a List([Unsigned(1), Unsigned(2)])",
            "t Timer(None)",
            "d/s Subsection(2)",
            "d/s.x[3] Unsigned(9)",
        ]
    );
}

#[test]
fn a_queue_has_a_mark_before_each_element_and_one_at_its_end() {
    let element = r#""vmsd_name": "e", "version": 1, "fields": [{"name": "a", "type": "uint8", "size": 1}]"#;
    let fields = format!(r#""fields": [{{"name": "q", "type": "qtailq", {element}, {element}, "size": 5}}]"#);
    assert_eq!(
        lines(&[1, 7, 1, 8, 0], &fields),
        ["q[0] Mark(1)", "q[0].a Unsigned(7)", "q[1] Mark(1)", "q[1].a Unsigned(8)", "q Mark(0)"]
    );
}

#[test]
fn a_tree_has_a_count_and_keys_that_may_be_numbers() {
    let element = r#""vmsd_name": "e", "version": 1, "fields": [{"name": "a", "type": "uint8", "size": 1}]"#;
    let fields = format!(r#""fields": [{{"name": "t", "type": "gtree", {element}, "size": 15}}]"#);
    assert_eq!(
        lines(&[0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 5, 8, 0], &fields),
        ["t Mark(1)", "t[0] Mark(1)", "t[0].key Unsigned(5)", "t[0].a Unsigned(8)", "t.end Mark(0)"]
    );
}

#[test]
fn descriptions_that_claim_too_much_stay_bytes() {
    let many = r#""fields": [{"name": "a", "array_len": 300000, "type": "buffer", "size": 1}]"#;
    let found = lines(&vec![0; 300_000], many);
    assert_eq!(found.len(), FIELD_LIMIT + 2);
    assert_eq!(found.last().unwrap(), "a Undecoded(\"more elements than are followed\")");
    let long = r#""fields": [{"name": "a", "array_len": 100000, "type": "uint8", "size": 1}]"#;
    assert_eq!(lines(&vec![0; 100_000], long), ["a Bytes"]);
    let name = "x".repeat(PATH_LIMIT_BYTES + 1);
    let named = format!(r#""fields": [{{"name": "{name}", "type": "uint8", "size": 1}}]"#);
    assert!(lines(&[0], &named)[0].contains("nested deeper"));
}

#[test]
fn what_does_not_fit_its_description_stays_bytes_with_the_reason() {
    assert_eq!(
        lines(&[1, 2], r#""fields": [{"name": "a", "type": "uint32", "size": 4}]"#),
        [r#"a Undecoded("described longer than the section is")"#]
    );
    assert_eq!(
        lines(&[1, 2], r#""fields": [{"name": "a", "type": "uint8", "size": 1}]"#),
        ["a Unsigned(1)", r#" Undecoded("bytes behind the last field that is described")"#]
    );
    assert_eq!(
        lines(&[1, 2], r#""fields": [{"name": "a", "type": "uint32", "size": 2}]"#),
        [r#"a Undecoded("its size is not the one of its type")"#]
    );
}

#[test]
fn a_queue_or_a_tree_that_is_not_as_described_ends_where_it_ends() {
    let element = r#""vmsd_name": "e", "version": 1, "fields": [{"name": "a", "type": "uint8", "size": 1}]"#;
    let behind =
        |name: &str| format!("{name} Undecoded(\"bytes behind the last nested field that is described\")");
    let queue = |size: u32| {
        format!(r#""fields": [{{"name": "q", "type": "qlist", {element}, {element}, "size": {size}}}]"#)
    };
    // No second element; no mark at the end; nothing there for either.
    assert_eq!(
        lines(&[1, 7, 0, 9], &queue(4)),
        ["q[0] Mark(1)".to_owned(), "q[0].a Unsigned(7)".to_owned(), behind("q")]
    );
    assert_eq!(lines(&[1, 7, 1, 8, 1], &queue(5))[4], behind("q"));
    assert_eq!(lines(&[1, 7], &queue(2)), ["q[0] Mark(1)", "q[0].a Unsigned(7)"]);

    let tree = |elements: &str, size: usize| {
        format!(r#""fields": [{{"name": "t", "type": "gtree", {elements}, "size": {size}}}]"#)
    };
    let said = |elements: &str, body: &[u8]| lines(body, &tree(elements, body.len()));
    let two = format!("{element}, {element}");
    assert_eq!(said(element, &[0, 0, 1]), [behind("t")]);
    // As many nodes as are described, or not.
    assert_eq!(said(element, &[0, 0, 0, 2, 1]), ["t Mark(2)".to_owned(), behind("t#2")]);
    assert_eq!(said(element, &[0, 0, 0, 0, 0]), ["t Mark(0)".to_owned(), behind("t#2")]);
    assert_eq!(said(element, &[0, 0, 0, 1, 0]), ["t Mark(1)".to_owned(), behind("t#2")]);
    // A key that is cut, and one that is a structure.
    let cut = said(element, &[0, 0, 0, 1, 1, 0, 0]);
    assert_eq!(cut, ["t Mark(1)".to_owned(), "t[0] Mark(1)".to_owned(), behind("t#2")]);
    assert_eq!(
        said(&two, &[0, 0, 0, 1, 1, 5, 8, 0]),
        ["t Mark(1)", "t[0] Mark(1)", "t[0].key.a Unsigned(5)", "t[0].a Unsigned(8)", "t.end Mark(0)"]
    );
}

#[test]
fn texts_and_bitmaps_are_told_from_other_bytes() {
    let text = |body: &[u8]| {
        lines(body, &format!(r#""fields": [{{"name": "s", "type": "str", "size": {}}}]"#, body.len()))
    };
    assert_eq!(text(b"\x02ab"), ["s Text([97, 98])"]);
    assert_eq!(text(b"\x03ab"), [r#"s Undecoded("its length is not the one that it says")"#]);
    let bitmap = |body: &[u8]| {
        lines(body, &format!(r#""fields": [{{"name": "b", "type": "bitmap", "size": {}}}]"#, body.len()))
    };
    assert_eq!(bitmap(&[0; 16]), ["b Bitmap"]);
    assert_eq!(bitmap(&[0; 15]), ["b Bytes"]);
}

#[test]
fn a_subsection_that_is_not_there_is_told() {
    let fields = r#""subsections": [{"vmsd_name": "d/s", "version": 2, "fields": []}]"#;
    for body in [
        &b"\x05\x03d/s\0\0\0"[..],
        b"\x06\x03d/s\0\0\0\x02",
        b"\x05\x04d/s\0\0\0\x02",
        b"\x05\x03d/t\0\0\0\x02",
    ] {
        assert_eq!(lines(body, fields), [r#"d/s Undecoded("no subsection where one is described")"#]);
    }
}

/// JSON does not nest so deep; one that another program has made can.
#[test]
fn nesting_is_followed_so_far_and_no_further() {
    let mut inner = state(r#""fields": [{"name": "x", "type": "uint8", "size": 1}]"#);
    for _ in 0..2 * DEPTH_LIMIT {
        let mut field = inner.fields[0].clone();
        field.name = "n".to_owned();
        field.type_name = "struct".to_owned();
        field.nested = vec![inner.clone()];
        inner.fields = vec![field];
    }
    let decoded = decode(&[1], &inner);
    let last = decoded.fields.last().unwrap();
    assert_eq!(last.value, Value::Undecoded("nested deeper, or more, than is followed"));
    assert_eq!((last.path.matches('n').count(), decoded.undecoded_bytes), (DEPTH_LIMIT + 2, 1));
}

#[test]
fn structures_without_end_stay_bytes() {
    let fields = r#""fields": [{"name": "a", "array_len": 100000, "type": "struct", "size": 3, "struct": {"fields": [
        {"name": "x", "type": "uint8", "size": 1}, {"name": "y", "type": "uint8", "size": 1},
        {"name": "z", "type": "uint8", "size": 1}]}}]"#;
    let found = lines(&vec![0; 300_000], fields);
    assert_eq!(found.len(), FIELD_LIMIT + 3);
    assert!(found[FIELD_LIMIT + 1].ends_with(r#".z Undecoded("nested deeper, or more, than is followed")"#));
}

#[test]
fn an_array_of_nothing_takes_no_time() {
    let fields =
        r#""fields": [{"name": "a", "array_len": 18446744073709551615, "type": "uint8", "size": 0}]"#;
    assert!(lines(&[], fields).is_empty());
}

#[test]
fn each_type_says_what_it_is() {
    let check = |type_name: &str, bytes: &[u8], expected: &str| {
        let size = bytes.len();
        let fields = format!(r#""fields": [{{"name": "a", "type": "{type_name}", "size": {size}}}]"#);
        assert_eq!(lines(bytes, &fields), [format!("a {expected}")], "{type_name}");
    };
    let eight = [0x80, 1, 2, 3, 4, 5, 6, 7];
    check("bool", &[0], "Bool(false)");
    check("uint8", &eight[..1], "Unsigned(128)");
    check("uint16", &eight[..2], "Unsigned(32769)");
    check("uint32 equal", &eight[..4], "Unsigned(2147549699)");
    check("uint64", &eight, "Unsigned(9223655723807081991)");
    check("int8", &eight[..1], "Signed(-128)");
    check("int16", &eight[..2], "Signed(-32767)");
    check("int32 le", &eight[..4], "Signed(-2147417597)");
    check("int64", &eight, "Signed(-9223088349902469625)");
    check("float64", &[0x3f, 0xf8, 0, 0, 0, 0, 0, 0], "Double(1.5)");
    check("CPU_Double_U", &[0xc0, 0, 0, 0, 0, 0, 0, 0], "Double(-2.0)");
    check("timer", &[0, 0, 0, 0, 0, 0, 1, 2], "Timer(Some(258))");
    check("capability", &[2, b'a', b'b'], "Text([97, 98])");
    check("str", &[0], "Text([])");
    check("str", &[2, b'a'], r#"Undecoded("its length is not the one that it says")"#);
    check("nullptr", b"0", "NullPointer");
    check("unused_buffer", &[0; 3], "Unused");
    check("bitmap", &eight, "Bitmap");
    check("bitmap", &eight[1..], "Bytes");
    check("buffer", &eight, "Bytes");
    for type_name in ["bool", "uint8", "int16", "uint32", "int64", "float64", "timer"] {
        check(type_name, &[1; 3], r#"Undecoded("its size is not the one of its type")"#);
    }
}

#[test]
fn what_is_behind_nested_fields_is_told_and_counted() {
    let fields = r#""fields": [{"name": "s", "type": "struct", "struct": {"vmsd_name": "t", "version": 1,
        "fields": [{"name": "u", "type": "uint8", "size": 1}]}, "size": 4}]"#;
    let behind = r#"s Undecoded("bytes behind the last nested field that is described")"#;
    assert_eq!(lines(&[7, 1, 2, 3], fields), ["s.u Unsigned(7)", behind]);
    let state = state(fields);
    assert_eq!(decode(&[7, 1, 2, 3], &state).undecoded_bytes, 3);
    assert_eq!(decode(&[7, 1, 2, 3, 4, 5], &state).undecoded_bytes, 5);
}

#[test]
fn limits_are_reached_before_they_are_passed() {
    let numbers = |count: usize| {
        let fields =
            format!(r#""fields": [{{"name": "a", "array_len": {count}, "type": "uint16", "size": 2}}]"#);
        decode(&vec![0; count * 2], &state(&fields)).fields.remove(0).value
    };
    assert!(matches!(numbers(LIST_LIMIT), Value::List(list) if list.len() == LIST_LIMIT));
    assert_eq!(numbers(LIST_LIMIT + 1), Value::Bytes);
    let name = "x".repeat(PATH_LIMIT_BYTES);
    let named = format!(r#""fields": [{{"name": "{name}", "type": "uint8", "size": 1}}]"#);
    assert_eq!(lines(&[9], &named), [format!("{name} Unsigned(9)")]);
}

#[test]
fn another_subsection_than_the_described_one_stays_bytes() {
    let fields = r#""fields": [{"name": "b", "type": "uint8", "size": 1}],
        "subsections": [{"vmsd_name": "d/s", "version": 2, "fields": [
            {"name": "x", "type": "uint8", "size": 1}]}]"#;
    let body = *b"\x2a\x05\x03d/s\0\x01\x02\x03\x09";
    let whole = ["b Unsigned(42)", "d/s Subsection(66051)", "d/s.x Unsigned(9)"];
    assert_eq!(lines(&body, fields), whole);
    let other = ["b Unsigned(42)", r#"d/s Undecoded("no subsection where one is described")"#];
    for at in [1, 2, 3, 5] {
        let mut body = body;
        body[at] ^= 1;
        assert_eq!(lines(&body, fields), other, "byte {at}");
    }
    for cut in 2..body.len() - 2 {
        assert_eq!(lines(&body[..cut], fields), other, "cut at {cut}");
    }
}

const ELEMENT: &str =
    r#""vmsd_name": "e", "version": 1, "fields": [{"name": "a", "type": "uint8", "size": 1}]"#;

#[test]
fn a_queue_that_ends_early_or_late_stays_bytes_from_there() {
    let fields = |size: usize| {
        format!(r#""fields": [{{"name": "q", "type": "qlist", {ELEMENT}, {ELEMENT}, "size": {size}}}]"#)
    };
    let behind = r#"q Undecoded("bytes behind the last nested field that is described")"#;
    let first = ["q[0] Mark(1)", "q[0].a Unsigned(7)"];
    assert_eq!(lines(&[1, 7, 0], &fields(3))[..2], first);
    assert_eq!(lines(&[1, 7, 0], &fields(3))[2..], [behind]);
    assert_eq!(lines(&[1, 7, 2, 8, 0], &fields(5))[2..], [behind]);
    assert_eq!(lines(&[1, 7, 1, 8, 1], &fields(5))[4..], [behind]);
    // The mark of the next field is none of the queue.
    let next = format!(
        r#""fields": [{{"name": "q", "type": "qlist", {ELEMENT}, "size": 2}},
            {{"name": "b", "type": "uint8", "size": 1}}]"#
    );
    assert_eq!(lines(&[1, 7, 0], &next)[2..], ["b Unsigned(0)"]);
}

#[test]
fn the_keys_of_a_tree_may_be_structures_and_its_count_has_to_fit() {
    let fields = |size: usize, nested: &[&str]| {
        let nested = nested.join(", ");
        format!(r#""fields": [{{"name": "t", "type": "gtree", {nested}, "size": {size}}}]"#)
    };
    let two = [ELEMENT, ELEMENT, ELEMENT, ELEMENT];
    let body = [0, 0, 0, 2, 1, 10, 11, 1, 12, 13, 0];
    assert_eq!(
        lines(&body, &fields(11, &two)),
        [
            "t Mark(2)",
            "t[0] Mark(1)",
            "t[0].key.a Unsigned(10)",
            "t[0].a Unsigned(11)",
            "t[1] Mark(1)",
            "t[1].key.a Unsigned(12)",
            "t[1].a Unsigned(13)",
            "t.end Mark(0)",
        ]
    );
    let behind = r#"t Undecoded("bytes behind the last nested field that is described")"#;
    let second = behind.replacen('t', "t#2", 1);
    let second = &second[..];
    let three = [0, 0, 0, 3, 1, 10, 11, 1, 12, 13, 0];
    assert_eq!(lines(&three, &fields(11, &two)), ["t Mark(3)", second]);
    // Neither the count nor a key may reach into what follows.
    let next = |size: usize| {
        format!(
            r#""fields": [{{"name": "t", "type": "gtree", {ELEMENT}, "size": {size}}},
            {{"name": "b", "type": "buffer", "size": {}}}]"#,
            15 - size
        )
    };
    let one = [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 5, 8, 0];
    assert_eq!(lines(&one, &next(3)), [behind, "b Bytes"]);
    assert_eq!(lines(&one, &next(12)), ["t Mark(1)", "t[0] Mark(1)", second, "b Bytes"]);
    assert_eq!(lines(&one, &next(14)).len(), 5);
    let unmarked = [0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 5, 8, 0];
    assert_eq!(lines(&unmarked, &fields(15, &[ELEMENT])), ["t Mark(1)", second]);
}

#[test]
fn a_field_may_end_with_the_body_and_not_behind_it() {
    let fields = r#""fields": [{"name": "a", "type": "uint8", "size": 1}, {"name": "b", "type": "uint16", "size": 2}]"#;
    assert_eq!(lines(&[1, 0, 2], fields), ["a Unsigned(1)", "b Unsigned(2)"]);
    assert_eq!(
        lines(&[1, 0], fields),
        ["a Unsigned(1)", r#"b Undecoded("described longer than the section is")"#]
    );
}

/// How deep what `wrap` puts around a byte is followed: the byte's value at the deepest place that is, and
/// one deeper.
fn followed(wrap: impl Fn(State, Vec<u8>) -> (State, Vec<u8>)) -> [bool; 2] {
    [DEPTH_LIMIT, DEPTH_LIMIT + 1].map(|depth| {
        let innermost = state(r#""fields": [{"name": "x", "type": "uint8", "size": 1}]"#);
        let (outer, body) = (0..depth).fold((innermost, vec![9]), |(state, body), _| wrap(state, body));
        decode(&body, &outer).fields.iter().any(|field| field.value == Value::Unsigned(9))
    })
}

#[test]
fn subsections_queues_and_trees_are_followed_as_deep_as_structures() {
    let subsection = |mut inner: State, body: Vec<u8>| {
        inner.vmsd_name = "s".to_owned();
        let outer = State { subsections: vec![inner], ..State::default() };
        (outer, [&b"\x05\x01s\0\0\0\x01"[..], &body].concat())
    };
    assert_eq!(followed(subsection), [true, false]);
    let field = |type_name: &str, body: &[u8], nested: Vec<State>| Field {
        name: "n".to_owned(),
        type_name: type_name.to_owned(),
        array: Array::Single,
        size: body.len() as u64,
        nested,
    };
    let queue = |inner: State, body: Vec<u8>| {
        let body = [&[1][..], &body, &[0]].concat();
        (State { fields: vec![field("qtailq", &body, vec![inner])], ..State::default() }, body)
    };
    assert_eq!(followed(queue), [true, false]);
    let tree = |inner: State, body: Vec<u8>| {
        let body = [&[0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 5][..], &body, &[0]].concat();
        (State { fields: vec![field("gtree", &body, vec![inner])], ..State::default() }, body)
    };
    assert_eq!(followed(tree), [true, false]);
}

#[test]
fn elements_without_an_index_have_names_of_their_own_at_every_depth() {
    let drive = r#"{"name": "drives", "type": "struct", "struct": {"vmsd_name": "fdrive", "version": 1, "fields": [
        {"name": "head", "type": "uint8", "size": 1}, {"name": "head", "type": "uint8", "size": 1}],
        "subsections": [{"vmsd_name": "fdrive/x", "version": 1, "fields": [{"name": "x", "type": "uint8", "size": 1}]}]},
        "size": 17}"#;
    let fields = format!(r#""fields": [{drive}, {drive}, {{"name": "last", "type": "uint8", "size": 1}}]"#);
    let element = b"\x01\x02\x05\x08fdrive/x\0\0\0\x01\x03";
    let paths: Vec<String> = lines(&[&element[..], element, &[9]].concat(), &fields)
        .into_iter()
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(
        paths,
        [
            "drives[0].head[0]",
            "drives[0].head[1]",
            "drives[0].fdrive/x",
            "drives[0].fdrive/x.x",
            "drives[1].head[0]",
            "drives[1].head[1]",
            "drives[1].fdrive/x",
            "drives[1].fdrive/x.x",
            "last",
        ]
    );
}

#[test]
fn runs_of_an_array_of_pointers_go_on_counting() {
    let object = r#"{"name": "p", "array_len": 2, "type": "struct", "struct": {"vmsd_name": "o", "version": 1,
        "fields": [{"name": "a", "type": "uint8", "size": 1}]}, "size": 1}"#;
    let null = r#"{"name": "p", "array_len": 2, "type": "nullptr", "size": 1}"#;
    assert_eq!(
        lines(b"00\x01\x0200", &format!(r#""fields": [{null}, {object}, {null}]"#)),
        [
            "p[0] NullPointer",
            "p[1] NullPointer",
            "p[2].a Unsigned(1)",
            "p[3].a Unsigned(2)",
            "p[4] NullPointer",
            "p[5] NullPointer",
        ]
    );
    // Of one kind they are one list, as all arrays of numbers are.
    assert_eq!(lines(b"00", &format!(r#""fields": [{null}]"#)), ["p List([NullPointer, NullPointer])"]);
}

#[test]
fn a_marker_and_its_object_are_one_element() {
    let marker = r#"{"name": "sq", "type": "ptr-marker", "size": 1}"#;
    let object = r#"{"name": "sq", "type": "struct", "struct": {"vmsd_name": "q", "version": 1,
        "fields": [{"name": "head", "type": "uint8", "size": 1}]}, "size": 1}"#;
    let fields = format!(r#""fields": [{marker}, {object}, {marker}, {marker}, {object}]"#);
    assert_eq!(
        lines(b"1\x0701\x08", &fields),
        [
            "sq[0] Pointer",
            "sq[0].head Unsigned(7)",
            "sq[1] NullPointer",
            "sq[2] Pointer",
            "sq[2].head Unsigned(8)"
        ]
    );
    assert_eq!(
        lines(b"x", &format!(r#""fields": [{marker}]"#)),
        [r#"sq Undecoded("neither the marker of NULL nor that of an object")"#]
    );
}

#[test]
fn an_index_at_the_end_of_all_indices_does_not_overflow() {
    let fields = r#""fields": [{"name": "a", "index": 18446744073709551615, "type": "uint8", "size": 1},
        {"name": "a", "array_len": 2, "type": "uint8", "size": 1}]"#;
    let last = format!("a[{}]", u64::MAX);
    let expected =
        [("", 1), ("#2", 2), ("#3", 3)].map(|(end, number)| format!("{last}{end} Unsigned({number})"));
    assert_eq!(lines(&[1, 2, 3], fields), expected);
}

#[test]
fn a_name_that_looks_like_the_path_of_an_element_gets_another_path() {
    let fields = r#""fields": [
        {"name": "a", "array_len": 2, "type": "struct", "size": 1, "struct": {"vmsd_name": "e", "version": 1,
            "fields": [{"name": "x", "type": "uint8", "size": 1}]}},
        {"name": "a[1].x", "type": "uint8", "size": 1}, {"name": "a[1].x#2", "type": "uint8", "size": 1},
        {"name": "b", "type": "uint8", "size": 1}, {"name": "a[1].x", "type": "uint8", "size": 1}]"#;
    let paths: Vec<String> = lines(&[0; 6], fields)
        .iter()
        .map(|line| line.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(paths, ["a[0].x", "a[1].x", "a[1].x#2", "a[1].x#2#2", "b", "a[1].x#3"]);
}
