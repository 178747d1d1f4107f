//! What is where in a stream, section by section.

use crate::walk::{Event, Item};
use migration_stream::{Record, SectionId};
use serde::Serialize;
use std::collections::BTreeMap;

/// Stretches that are kept apart; more of them are one.
const LIMIT: usize = 4096;

/// A stretch of the stream, for the timeline.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stretch {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) name: String,
    /// What kind of thing it is: RAM, other iterables, devices, vmdesc, framing.
    pub(crate) group: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Timeline {
    names: BTreeMap<SectionId, String>,
    stretches: Vec<Stretch>,
    /// What comes belongs to the last stretch.
    inside: bool,
}

impl Timeline {
    pub(super) fn item(&mut self, item: &Item<'_>) {
        let text = crate::escape::json_text;
        let ram = |name: &str| if name == "ram" { "RAM" } else { "other iterables" };
        let found = match &item.event {
            Event::Record(Record::SectionStart(header)) => {
                let name = text(header.idstr);
                if self.names.len() < LIMIT {
                    self.names.insert(header.section_id, name.clone());
                }
                Some((ram(&name), name))
            }
            Event::Record(Record::SectionPart(id) | Record::SectionEnd(id)) => {
                let name = self.names.get(id).cloned().unwrap_or_default();
                Some((ram(&name), name))
            }
            Event::Device(section) => Some(("devices", text(section.header.idstr))),
            Event::Record(Record::Command(command)) => Some(("framing", command.name().to_owned())),
            Event::Record(Record::VmDescription(_)) => Some(("vmdesc", "vmdesc".to_owned())),
            Event::Record(Record::Eof) => Some(("framing", "end".to_owned())),
            _ if !self.inside => Some(("framing", "header".to_owned())),
            _ => None,
        };
        self.inside = true;
        match (found, self.stretches.last_mut()) {
            (Some((group, name)), last) => {
                if let Some(last) = last.filter(|last| last.name == name) {
                    last.bytes += item.length;
                } else if self.stretches.len() < LIMIT {
                    self.stretches.push(Stretch { offset: item.offset, bytes: item.length, name, group });
                } else if let Some(last) = self.stretches.last_mut() {
                    last.name = "more".to_owned();
                    last.bytes += item.length;
                }
            }
            (None, Some(last)) => last.bytes += item.length,
            (None, None) => {}
        }
    }

    pub(super) fn finish(self) -> Vec<Stretch> {
        self.stretches
    }
}
