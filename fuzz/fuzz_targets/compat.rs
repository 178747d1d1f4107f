//! A machine is compatible with itself; what is called safe has every block, device and byte at the
//! same place; and whatever the two inputs are, streams or `-dump-vmstate` files, there is a
//! verdict or an error.
#![no_main]

#[path = "examine/input.rs"]
mod input;

use arbitrary::{Arbitrary, Unstructured};
use input::{open, options};
use libfuzzer_sys::fuzz_target;
use migration_stream::{
    BlockList, Configuration, RAM_SECTION_VERSION, RamBlock, SectionHeader, SectionId, put_configuration,
    put_end_of_section, put_file_header, put_ram_blocks, put_section_end, put_section_footer,
    put_section_header, put_str8, put_zero_page,
};
use snapinspect::compat::{Shape, Verdict, judge};
use std::collections::BTreeMap;

/// Name and type, by number.
type Field = (u8, u8);

#[derive(Debug, Arbitrary, Clone, PartialEq)]
struct State {
    version: u8,
    fields: Vec<Field>,
    /// A structure behind the fields.
    structure: Option<Vec<Field>>,
    subsections: BTreeMap<u8, Vec<Field>>,
}

#[derive(Debug, Arbitrary, Clone, PartialEq)]
struct Machine {
    name: bool,
    footers: bool,
    pages: u8,
    devices: BTreeMap<u8, State>,
}

/// A machine, and what is different in the one that is to load it.
#[derive(Debug, Arbitrary)]
struct Pair {
    source: Machine,
    target: Option<Machine>,
    versions: Vec<(u8, u8)>,
    fields: Vec<(u8, u8, Field)>,
    missing: Vec<u8>,
}

const TYPES: [(&str, usize); 6] =
    [("uint8", 1), ("uint16", 2), ("int16", 2), ("uint32", 4), ("buffer", 3), ("bool", 1)];

fn type_of(field: Field) -> (&'static str, usize) {
    TYPES[usize::from(field.1) % TYPES.len()]
}

fn bytes_of(fields: &[Field]) -> usize {
    fields.iter().map(|&field| type_of(field).1).sum()
}

impl State {
    fn field_bytes(&self) -> usize {
        bytes_of(&self.fields) + self.structure.as_deref().map_or(0, bytes_of)
    }

    /// Its description, and room for its bytes.
    fn put(&self, name: &str, body: &mut Vec<u8>) -> String {
        let list = |fields: &[Field]| {
            let fields = fields.iter().map(|&field| {
                let (name, (type_name, size)) = (field.0 % 8, type_of(field));
                format!(r#"{{"name": "f{name}", "type": "{type_name}", "size": {size}}}"#)
            });
            fields.collect::<Vec<_>>()
        };
        body.resize(body.len() + self.field_bytes(), 0);
        let mut fields = list(&self.fields);
        if let Some(inner) = &self.structure {
            let (size, inner) = (bytes_of(inner), list(inner).join(", "));
            let inner = format!(r#"{{"vmsd_name": "inner", "version": 1, "fields": [{inner}]}}"#);
            fields.push(format!(r#"{{"name": "s", "type": "struct", "struct": {inner}, "size": {size}}}"#));
        }
        let mut subsections = Vec::new();
        for (number, inner) in &self.subsections {
            let name = format!("{name}/{number}");
            body.push(5);
            put_str8(body, name.as_bytes());
            body.extend_from_slice(&1u32.to_be_bytes());
            body.resize(body.len() + bytes_of(inner), 0);
            let inner = list(inner).join(", ");
            subsections.push(format!(r#"{{"vmsd_name": "{name}", "version": 1, "fields": [{inner}]}}"#));
        }
        let (version, fields, subsections) = (self.version, fields.join(", "), subsections.join(", "));
        format!(
            r#""vmsd_name": "{name}", "version": {version}, "fields": [{fields}], "subsections": [{subsections}]"#
        )
    }
}

impl Machine {
    fn stream(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_file_header(&mut out);
        let machine = if self.name { b"pc-q35-9.1".to_vec() } else { b"pc-q35-9.2".to_vec() };
        put_configuration(&mut out, &Configuration { machine, ..Configuration::default() });
        let footer = |out: &mut Vec<u8>, id| {
            if self.footers {
                put_section_footer(out, id);
            }
        };
        let ram = SectionId(1);
        let header =
            SectionHeader { section_id: ram, idstr: b"ram", instance_id: 0, version_id: RAM_SECTION_VERSION };
        put_section_header(&mut out, false, &header);
        let block = RamBlock {
            idstr: b"pc.ram".to_vec(),
            used_length: (u64::from(self.pages) + 1) << 12,
            host_page_size: None,
            guest_physical_address: None,
        };
        put_ram_blocks(&mut out, &BlockList { blocks: vec![block] });
        for end in [false, true] {
            if end {
                put_section_end(&mut out, ram);
                // Without any page it would be a stream whose RAM is elsewhere.
                for page in 0..=u64::from(self.pages) {
                    put_zero_page(&mut out, (page == 0).then_some(b"pc.ram"), page << 12);
                }
            }
            put_end_of_section(&mut out);
            footer(&mut out, ram);
        }
        let mut devices = Vec::new();
        for (number, state) in &self.devices {
            let (id, name) = (SectionId(10 + u32::from(*number)), format!("d{number}"));
            let version_id = u32::from(state.version);
            let header = SectionHeader { section_id: id, idstr: name.as_bytes(), instance_id: 0, version_id };
            put_section_header(&mut out, true, &header);
            let state = state.put(&name, &mut out);
            footer(&mut out, id);
            devices.push(format!(r#"{{"name": "{name}", "instance_id": 0, {state}}}"#));
        }
        let json = format!(r#"{{"page_size": 4096, "devices": [{}]}}"#, devices.join(", "));
        out.extend_from_slice(&[0, 6]);
        out.extend_from_slice(&u32::try_from(json.len()).expect("short").to_be_bytes());
        out.extend_from_slice(json.as_bytes());
        out
    }

    fn shape(&self) -> Shape {
        let options = options(None);
        let opened = open(&self.stream(), &options).expect("a stream");
        Shape::of_opened(opened, &options).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// What a target has to have for a source to load.
fn loads(source: &Machine, target: &Machine) -> bool {
    let devices = source.devices.iter().all(|(number, state)| {
        target.devices.get(number).is_some_and(|other| {
            let subsections = state.subsections.iter().all(|(number, fields)| {
                other.subsections.get(number).is_some_and(|others| bytes_of(fields) == bytes_of(others))
            });
            state.version == other.version && state.field_bytes() == other.field_bytes() && subsections
        })
    });
    devices && (source.name, source.footers, source.pages) == (target.name, target.footers, target.pages)
}

fn pair(pair: &Pair) {
    let target = pair.target.clone().unwrap_or_else(|| {
        let mut target = pair.source.clone();
        for (number, version) in &pair.versions {
            target.devices.entry(*number).and_modify(|state| state.version = *version);
        }
        for (number, at, field) in &pair.fields {
            target.devices.entry(*number).and_modify(|state| {
                let at = usize::from(*at) % (state.fields.len() + 1);
                if field.0 & 128 == 0 { state.fields.insert(at, *field) } else { state.fields.truncate(at) }
            });
        }
        pair.missing.iter().for_each(|number| drop(target.devices.remove(number)));
        target
    });
    let (source, other) = (pair.source.shape(), target.shape());
    assert_eq!(judge(&source, &source), [], "{:?}", pair.source);
    let judgements = judge(&source, &other);
    if judgements.iter().all(|judgement| judgement.verdict == Verdict::Safe) {
        assert!(loads(&pair.source, &target), "called safe: {:?} and {target:?}", pair.source);
    }
}

/// A stream, or what `-dump-vmstate` writes.
fn shape(bytes: &[u8]) -> Option<Shape> {
    if bytes.first() == Some(&b'{') {
        return Shape::of_dump("input", bytes).ok();
    }
    let options = options(None);
    Shape::of_opened(open(bytes, &options).ok()?, &options).ok()
}

// How long the first one is (be24), 0: made by structure; then both. The second one is the first
// when it is empty.
fuzz_target!(|input: &[u8]| {
    let Some((&[a, b, c], rest)) = input.split_first_chunk() else { return };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if length == 0 {
        if let Ok(made) = Pair::arbitrary(&mut Unstructured::new(rest)) {
            pair(&made);
        }
        return;
    }
    let (source, target) = rest.split_at(length.min(rest.len()));
    let Some(source) = shape(source) else { return };
    let target = if target.is_empty() { Some(source.clone()) } else { shape(target) };
    let Some(target) = target else { return };
    for judgement in judge(&source, &target) {
        assert!(!judgement.path.contains(['\x1b', '\n']), "not escaped: {judgement:?}");
    }
});
