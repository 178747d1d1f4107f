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
