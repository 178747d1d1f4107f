//! Which sections there are, and whether they agree with the vmdesc.

use super::Report;
use super::postcopy::Postcopy;
use crate::escape::terminal;
use crate::walk::{Context, DeviceSection};
use migration_stream::device::{RepeatedKey, Vmdesc, decode, repeated_keys};
use migration_stream::{Record, SectionId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Sections {
    /// Iterables by their id: their names, and whether END came.
    iterables: BTreeMap<SectionId, (Vec<u8>, bool)>,
    /// Devices by name and instance.
    devices: BTreeSet<(Vec<u8>, u32)>,
    ids: BTreeSet<SectionId>,
}

impl Sections {
    pub(super) fn record(&mut self, report: &mut Report<'_>, offset: u64, record: &Record<'_>) {
        match record {
            Record::Configuration(configuration) => {
                name(report, offset, "configuration", &configuration.machine);
            }
            Record::SectionStart(header) => {
                name(report, offset, "section header", header.idstr);
                self.ids.insert(header.section_id);
                self.iterables.insert(header.section_id, (header.idstr.to_vec(), false));
            }
            Record::SectionEnd(id) => {
                if let Some((_, ended)) = self.iterables.get_mut(id) {
                    *ended = true;
                }
            }
            _ => {}
        }
    }

    pub(super) fn device(&mut self, report: &mut Report<'_>, offset: u64, section: &DeviceSection<'_>) {
        let header = &section.header;
        let path = format!("section {} \"{}\"", header.section_id.0, terminal(header.idstr));
        name(report, offset, &path, header.idstr);
        if !self.devices.insert((header.idstr.to_vec(), header.instance_id)) {
            let text = format!("instance {} comes twice", header.instance_id);
            report.error("device-twice", offset, &path, text);
        }
        if !self.ids.insert(header.section_id) {
            report.warning("section-id-twice", offset, &path, "another section has this id");
        }
        let Some(state) = section.description else { return };
        if !state.vmsd_name.is_empty() && state.version != u64::from(header.version_id) {
            let text = format!("version {}, the vmdesc says {}", header.version_id, state.version);
            report.error("device-version", offset, &path, text);
        }
        let decoded = decode(section.body, state);
        if decoded.undecoded_bytes > 0 {
            let text = format!("{} bytes are not what the vmdesc describes", decoded.undecoded_bytes);
            // Before 10.0 arrays with NULL pointers are described wrongly by QEMU itself.
            if section.border == crate::walk::Border::NextSection {
                report.note("undecoded", offset, format!("{path}: {text}"));
            } else {
                report.warning("undecoded", offset, &path, text);
            }
        }
    }

    pub(super) fn finish(&self, report: &mut Report<'_>, postcopy: &Postcopy) {
        for (id, (name, ended)) in &self.iterables {
            if !ended && !postcopy.was_used() {
                let name = terminal(name);
                let text =
                    format!("section {} \"{name}\" has no END, as in a background snapshot (no fault)", id.0);
                report.note("no-end", None, text);
            }
        }
    }
}

fn name(report: &mut Report<'_>, offset: u64, path: &str, name: &[u8]) {
    if !name.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        report.warning("name", offset, path, "a name with characters that cannot be printed");
    }
}

pub(super) fn vmdesc(report: &mut Report<'_>, offset: u64, json: &[u8], context: Context<'_>) {
    let Some(description) = Vmdesc::parse(json) else { return };
    if let Some(page_size) = description.page_size
        && page_size != u64::from(context.page_size)
    {
        let text = format!("page size {page_size}, but RAM was read with {}", context.page_size);
        report.error("vmdesc-page-size", offset, "vmdesc", text);
    }
    for RepeatedKey { object, key } in repeated_keys(json) {
        let key = terminal(key.as_bytes());
        let place =
            if object.is_empty() { String::new() } else { format!(" in {}", terminal(object.as_bytes())) };
        let text =
            format!("key \"{key}\" is given twice{place}: QEMU writes each once; the last one counts here");
        report.warning("vmdesc-key-twice", offset, "vmdesc", text);
    }
}
