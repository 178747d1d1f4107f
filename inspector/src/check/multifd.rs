//! Multifd channels: the data of each packet unpacks to its pages.

use super::Report;
use crate::unpack::ChannelUnpacker;
use crate::walk::Context;
use migration_stream::ram::multifd::{Compression, Message};

#[derive(Default)]
pub(super) struct Multifd {
    unpacker: ChannelUnpacker,
    compression: Option<Compression>,
    pages: usize,
    last: Option<u64>,
    failed: bool,
}

const PATH: &str = "multifd channel";

impl Multifd {
    pub(super) fn message(&mut self, report: &mut Report<'_>, offset: u64, message: &Message<'_>) {
        let Message::Packet(packet) = message else {
            self.compression = None;
            return;
        };
        self.compression = Some(packet.compression);
        self.pages = packet.normal.len();
        let has_pages = !packet.normal.is_empty() || !packet.zero.is_empty();
        if has_pages && packet.block.is_empty() {
            report.error("multifd-block", offset, PATH, "pages of a block without a name");
        }
        let mut offsets: Vec<_> = packet.normal.iter().chain(&packet.zero).collect();
        offsets.sort_unstable();
        if offsets.windows(2).any(|pair| pair[0] == pair[1]) {
            report.warning("multifd-page-twice", offset, PATH, "a page comes twice in one packet");
        }
        if has_pages {
            if self.last.is_some_and(|last| packet.number <= last) {
                let text = format!("packet {} behind a later one", packet.number);
                report.warning("multifd-number", offset, PATH, text);
            }
            self.last = Some(packet.number);
        }
    }

    pub(super) fn data(&mut self, report: &mut Report<'_>, offset: u64, data: &[u8], context: Context<'_>) {
        let Some(compression) = self.compression else { return };
        if self.failed {
            return;
        }
        let expected = self.pages * context.page_size as usize;
        match self.unpacker.packet(compression, data, expected) {
            Ok(Some(_)) => {}
            Ok(None) => {
                let text = "packed by hardware (QPL, UADK or QATzip): not unpacked";
                report.note("multifd-hardware", offset, text);
            }
            Err(text) => {
                self.failed = true;
                report.error("multifd-data", offset, PATH, text);
            }
        }
    }
}
