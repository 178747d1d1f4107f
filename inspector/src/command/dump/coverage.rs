//! Proves that pieces leave no byte out, and says how many were understood.

use crate::walk::{Context, DeviceSection, Event, Finding, Flow, Item, Level, Visitor};
use migration_stream::device::decode;
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// What became of the bytes.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    start: u64,
    /// Where the next piece has to begin.
    next: Option<u64>,
    pub(super) pieces: u64,
    pub(super) fields: u64,
    /// Bytes that are shown as bytes, by the reason.
    pub(super) opaque: BTreeMap<&'static str, u64>,
    pub(super) skipped_bytes: u64,
    /// The first place where a piece does not begin where the one before ends.
    pub(super) gap: Option<(u64, u64)>,
}

impl Coverage {
    /// The end of the last piece.
    pub(super) fn end(&self) -> u64 {
        self.next.unwrap_or(self.start)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.end() - self.start
    }

    fn device(&mut self, section: &DeviceSection<'_>) {
        let Some(state) = section.description else {
            *self.opaque.entry("a device that no vmdesc describes").or_default() += section.body.len() as u64;
            return;
        };
        let decoded = decode(section.body, state);
        self.fields += decoded.fields.len() as u64;
        for field in &decoded.fields {
            if let migration_stream::device::Value::Undecoded(why) = field.value {
                *self.opaque.entry(why).or_default() += field.bytes.len() as u64;
            }
        }
    }
}

impl Coverage {
    fn item(&mut self, item: &Item<'_>) {
        let expected = self.end();
        if item.offset != expected && self.gap.is_none() {
            self.gap = Some((expected, item.offset));
        }
        self.next = Some(item.offset + item.length);
        self.pieces += 1;
        match &item.event {
            Event::Device(section) => self.device(section),
            Event::Opaque(bytes, why) => *self.opaque.entry(why).or_default() += bytes.len() as u64,
            Event::Skipped => self.skipped_bytes += item.length,
            _ => {}
        }
    }
}

/// A stream and its multifd channels, each with offsets of its own.
#[derive(Debug)]
pub(super) struct Coverages {
    pub(super) main: Coverage,
    pub(super) channels: Vec<Coverage>,
    pub(super) errors: Vec<Finding>,
}

impl Coverages {
    /// Of a stream that begins at `start`, with so many channels.
    pub(super) fn new(start: u64, channels: usize) -> Self {
        let channels = std::iter::repeat_with(Coverage::default).take(channels).collect();
        Self { main: Coverage { start, ..Coverage::default() }, channels, errors: Vec::new() }
    }
}

impl Visitor for Coverages {
    fn item(&mut self, item: &Item<'_>, context: Context<'_>) -> Flow {
        match context.channel {
            None => self.main.item(item),
            Some(number) => self.channels[number].item(item),
        }
        ControlFlow::Continue(())
    }

    fn finding(&mut self, finding: Finding) -> Flow {
        if finding.level == Level::Error {
            self.errors.push(finding);
        }
        ControlFlow::Continue(())
    }
}
