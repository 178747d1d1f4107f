//! Valid files with marks at the places that recipes change.

use std::collections::BTreeMap;

use migration_stream::{SectionHeader, SectionId, put_section_footer, put_section_header};

/// A valid file.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    marks: BTreeMap<&'static str, usize>,
}

impl Base {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, bytes: Vec::new(), marks: BTreeMap::new() }
    }

    /// The next byte has this name.
    pub(super) fn mark(&mut self, name: &'static str) -> &mut Self {
        self.marks.insert(name, self.bytes.len());
        self
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(super) fn put_with(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        put(&mut self.bytes);
        self
    }

    /// The only device, the end mark, and the vmdesc that describes this device.
    pub(super) fn timer_and_end(&mut self) -> &mut Self {
        let json = concat!(
            r#"{"page_size": 4096, "devices": [{"name": "timer", "instance_id": 0, "vmsd_name": "timer", "#,
            r#""version": 2, "fields": [{"name": "ticks", "array_len": 2, "type": "int64", "size": 8}]}]}"#
        );
        self.section(true, 10, b"timer", 2).put(&[0x11; 16]).footer(10).mark("eof").put(&[0, 6]).mark("json");
        self.put(&u32::try_from(json.len()).expect("short").to_be_bytes()).put(json.as_bytes())
    }

    pub(super) fn section(&mut self, full: bool, id: u32, idstr: &[u8], version_id: u32) -> &mut Self {
        let header = SectionHeader { section_id: SectionId(id), idstr, instance_id: 0, version_id };
        self.put_with(|out| put_section_header(out, full, &header))
    }

    pub(super) fn footer(&mut self, id: u32) -> &mut Self {
        self.put_with(|out| put_section_footer(out, SectionId(id)))
    }

    pub(super) fn at(&self, mark: &str) -> usize {
        *self.marks.get(mark).unwrap_or_else(|| panic!("{} has no place {mark}", self.name))
    }
}
