//! What a vmdesc says of the device sections.
//!
//! # Which vmdescs are read
//!
//! The writer is QEMU (`vmdesc` in `qemu_savevm_state_complete_precopy_non_iterable`, migration/savevm.c;
//! `vmsd_desc_field_start` and `vmsd_desc_field_end`, migration/vmstate.c). A destination does not read it;
//! the only reader in QEMU is scripts/analyze-migration.py. The rules of this reader are:
//!
//! * **A key given twice in one object**: the last value counts, as in that script (Python's `json.loads`).
//!   The exception is what QEMU writes itself: the elements of a queue (`put_qtailq`) repeat `vmsd_name`,
//!   `version`, `fields` and `subsections` in the object of their field, and each `vmsd_name` there begins
//!   another element. [`repeated_keys`](super::repeated_keys) lists the others.
//! * **A key that QEMU always writes and that is missing, or is no value of its kind**: it is no description,
//!   and [`Vmdesc::parse`] is `None`. Those are `devices`, `name` and `instance_id` of a device, and `name`,
//!   `type` and `size` of a field; an `array_len` or `index` that is no number counts as one of them. Where
//!   the end of a section cannot be proved, it is not assumed.
//! * **A key that QEMU writes for some objects only** may be missing: `page_size`, `configuration`;
//!   `vmsd_name` and `version` (handlers of the old style have none); `fields` and `subsections`, which are
//!   empty then; `array_len`, `index`.
//! * **Keys with other names** are passed over.

#[cfg(feature = "vmdesc")]
use crate::json::Json;
use crate::prelude::*;

/// A whole vmdesc.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vmdesc {
    /// Target page size in bytes.
    pub page_size: Option<u64>,
    /// The configuration section (8.2 and later).
    pub configuration: Option<State>,
    /// The FULL sections, in the order of the stream.
    pub devices: Vec<Device>,
}

/// One FULL section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its idstr.
    pub idstr: String,
    /// Its instance.
    pub instance_id: u64,
    /// Its state; a handler of the old style has no name and one field `data`.
    pub state: State,
}

/// The fields of a device, a structure or a subsection (a `VMStateDescription`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Its name; empty for handlers of the old style.
    pub vmsd_name: String,
    /// Its version.
    pub version: u64,
    /// Its fields, in the order of the stream.
    pub fields: Vec<Field>,
    /// The subsections that were sent, behind the fields.
    pub subsections: Vec<State>,
}

/// Whether a field is one of several, as far as it says so itself; [`Elements`](super::Elements) knows the
/// others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Array {
    /// It does not say so.
    Single,
    /// So many elements of one size, of which the first one is described.
    Len(u64),
    /// The element with this index; the others have fields of their own.
    Index(u64),
}

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// Its type, as QEMU calls it.
    pub type_name: String,
    /// Whether it is one of several.
    pub array: Array,
    /// Bytes of one element, nested fields and subsections included.
    pub size: u64,
    /// What is nested in it: one state for a structure, one for each element of a queue.
    pub nested: Vec<State>,
}

impl Field {
    fn may_be_of_pointers(&self) -> bool {
        matches!(self.array, Array::Len(2..)) && ["struct", "nullptr"].contains(&&self.type_name[..])
    }
}

#[cfg(feature = "vmdesc")]
impl Vmdesc {
    /// Reads a vmdesc; `None` if it is no JSON, or describes no devices.
    #[must_use]
    pub fn parse(json: &[u8]) -> Option<Self> {
        let json = Json::parse(json)?;
        let Json::List(devices) = json.get("devices")? else { return None };
        Some(Self {
            page_size: json.get("page_size").and_then(Json::as_u64),
            configuration: json.get("configuration").and_then(state),
            devices: devices.iter().map(device).collect::<Option<_>>()?,
        })
    }
}

#[cfg(feature = "vmdesc")]
fn device(json: &Json) -> Option<Device> {
    Some(Device {
        idstr: json.get("name")?.as_str()?.to_owned(),
        instance_id: json.get("instance_id")?.as_u64()?,
        state: state(json)?,
    })
}

#[cfg(feature = "vmdesc")]
fn state(json: &Json) -> Option<State> {
    let list = |key| json.get(key).map_or(&[][..], Json::list);
    Some(State {
        vmsd_name: json.get("vmsd_name").and_then(Json::as_str).unwrap_or_default().to_owned(),
        version: json.get("version").and_then(Json::as_u64).unwrap_or(0),
        fields: list("fields").iter().map(field).collect::<Option<_>>()?,
        subsections: list("subsections").iter().map(state).collect::<Option<_>>()?,
    })
}

#[cfg(feature = "vmdesc")]
fn field(json: &Json) -> Option<Field> {
    let Json::Object(entries) = json else { return None };
    let number = |key| json.get(key).map(|value| value.as_u64().ok_or(()));
    let array = match (number("array_len"), number("index")) {
        (Some(count), _) => Array::Len(count.ok()?),
        (None, Some(index)) => Array::Index(index.ok()?),
        (None, None) => Array::Single,
    };
    Some(Field {
        name: json.get("name")?.as_str()?.to_owned(),
        type_name: json.get("type")?.as_str()?.to_owned(),
        array,
        size: json.get("size")?.as_u64()?,
        nested: nested(json, entries)?,
    })
}

#[cfg(feature = "vmdesc")]
/// What is nested in a field: under `struct`, or (types `tmp`, `vstruct`, queues and trees) straight in the
/// field's object, where each element of a queue writes the same keys again.
fn nested(json: &Json, entries: &[(String, Json)]) -> Option<Vec<State>> {
    if let Some(inner) = json.get("struct") {
        return Some(vec![state(inner)?]);
    }
    let mut states: Vec<Vec<(String, Json)>> = Vec::new();
    for (key, value) in entries {
        if key == "vmsd_name" {
            states.push(Vec::new());
        }
        if let Some(last) = states.last_mut()
            && ["vmsd_name", "version", "fields", "subsections"].contains(&&key[..])
        {
            last.push((key.clone(), value.clone()));
        }
    }
    states.into_iter().map(|entries| state(&Json::Object(entries))).collect()
}

impl Field {
    /// Bytes of all its elements.
    #[must_use]
    pub fn total_bytes(&self) -> Option<u64> {
        match self.array {
            Array::Len(count) => self.size.checked_mul(count),
            Array::Single | Array::Index(_) => Some(self.size),
        }
    }
}

impl State {
    /// Bytes of the fields and of the subsections, whose headers are mark, name (str8) and version (be32);
    /// `None` where the description does not add up.
    #[must_use]
    pub fn payload_bytes(&self) -> Option<u64> {
        let mut sum = 0u64;
        for field in &self.fields {
            sum = sum.checked_add(field.total_bytes()?)?;
        }
        for subsection in &self.subsections {
            let header = 1 + 1 + subsection.vmsd_name.len() as u64 + 4;
            sum = sum.checked_add(header)?.checked_add(subsection.payload_bytes()?)?;
        }
        Some(sum)
    }

    /// Whether its length may differ from what is described although nothing is wrong: before 10.0 QEMU
    /// describes an array of pointers by its first element, and where some of the pointers are NULL the
    /// others have another size.
    #[must_use]
    pub fn may_be_inexact(&self) -> bool {
        self.payload_bytes().is_some()
            && (self.fields.iter().any(Field::may_be_of_pointers)
                || self.subsections.iter().any(Self::may_be_inexact))
    }
}

#[cfg(all(test, feature = "vmdesc"))]
mod tests {
    use super::*;

    #[test]
    fn what_describes_no_devices_is_none() {
        for json in [
            "{",
            "3",
            "{}",
            r#"{"devices": 3}"#,
            r#"{"devices": [3]}"#,
            r#"{"devices": [{"name": 3, "instance_id": 0}]}"#,
            r#"{"devices": [{"name": "a", "instance_id": -1}]}"#,
            r#"{"devices": [{"name": "a", "instance_id": 0, "fields": [3]}]}"#,
            r#"{"devices": [{"name": "a", "instance_id": 0, "fields": [{"name": "x", "type": "uint8"}]}]}"#,
            r#"{"devices": [{"name": "a", "instance_id": 0, "fields": [{"name": "x", "type": "uint8", "size": 1, "index": "y"}]}]}"#,
        ] {
            assert_eq!(Vmdesc::parse(json.as_bytes()), None, "{json}");
        }
        assert_eq!(Vmdesc::parse(br#"{"devices": []}"#).map(|found| found.devices.len()), Some(0));
    }

    #[test]
    fn elements_of_a_queue_are_kept_apart_though_their_keys_are_the_same() {
        let json =
            br#"{"devices": [{"name": "q", "instance_id": 0, "vmsd_name": "q", "version": 1, "fields": [
            {"name": "queue", "type": "qtailq", "vmsd_name": "e", "version": 1,
             "fields": [{"name": "a", "type": "uint8", "size": 1}],
             "vmsd_name": "e", "version": 1, "fields": [{"name": "a", "type": "uint8", "size": 1}],
             "subsections": [{"vmsd_name": "e/s", "version": 2, "fields": []}], "size": 14}]}]}"#;
        let description = Vmdesc::parse(json).unwrap();
        let field = &description.devices[0].state.fields[0];
        assert_eq!(field.nested.len(), 2);
        assert_eq!(field.nested[1].subsections[0].vmsd_name, "e/s");
        assert!(field.nested[0].subsections.is_empty());
        assert_eq!(description.devices[0].state.payload_bytes(), Some(14));
    }

    #[test]
    fn a_size_that_is_no_size_is_refused_and_a_sum_that_overflows_has_no_payload() {
        let text = |size: &str, count: &str| {
            format!(
                r#"{{"devices": [{{"name": "d", "instance_id": 0, "fields": [
                {{"name": "a", "array_len": {count}, "type": "uint8", "size": {size}}}]}}]}}"#
            )
        };
        assert_eq!(Vmdesc::parse(text("-1", "1").as_bytes()), None);
        assert_eq!(Vmdesc::parse(text("1.5", "1").as_bytes()), None);
        let huge = Vmdesc::parse(text("18446744073709551615", "3").as_bytes()).unwrap();
        assert_eq!(huge.devices[0].state.payload_bytes(), None);
    }

    #[test]
    fn a_subsection_has_a_header_before_its_fields() {
        let json = br#"{"devices": [{"name": "d", "instance_id": 0,
            "fields": [{"name": "a", "array_len": 3, "type": "uint16", "size": 2}],
            "subsections": [{"vmsd_name": "d/sub", "version": 1,
                "fields": [{"name": "b", "type": "uint8", "size": 1}]}]}]}"#;
        let description = Vmdesc::parse(json).unwrap();
        // Three numbers; mark, length, name, version; a byte.
        assert_eq!(description.devices[0].state.payload_bytes(), Some(6 + 1 + 1 + 5 + 4 + 1));
    }

    #[test]
    fn arrays_of_pointers_may_have_another_length() {
        let may = |fields: &str, subsections: &str| {
            let json = format!(
                r#"{{"devices": [{{"name": "d", "instance_id": 0, "fields": [{fields}], "subsections": [{subsections}]}}]}}"#
            );
            Vmdesc::parse(json.as_bytes()).unwrap().devices[0].state.may_be_inexact()
        };
        let array = |type_name: &str, length: u64, size: u64| {
            format!(r#"{{"name": "a", "array_len": {length}, "type": "{type_name}", "size": {size}}}"#)
        };
        assert!(may(&array("struct", 2, 4), ""));
        assert!(may(&array("nullptr", 2, 1), ""));
        assert!(!may(&array("struct", 1, 4), ""));
        assert!(!may(&array("uint8", 2, 1), ""));
        assert!(!may(r#"{"name": "a", "type": "struct", "size": 4}"#, ""));
        // A sum that overflows is wrong, not inexact.
        assert!(!may(&array("struct", 2, u64::MAX), ""));
        let inside =
            format!(r#"{{"vmsd_name": "d/s", "version": 1, "fields": [{}]}}"#, array("struct", 2, 4));
        assert!(may(&array("uint8", 2, 1), &inside));
        assert!(!may("", ""));
    }
}
