//! Multifd channels: what a packet says of its pages, and in which order packets come.

use super::Report;
use crate::walk::Context;
use migration_stream::ram::multifd::Message;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Multifd {
    /// Number of the last packet with pages, by channel.
    last: BTreeMap<Option<usize>, u64>,
}

const PATH: &str = "multifd channel";

impl Multifd {
    pub(super) fn message(
        &mut self,
        report: &mut Report<'_>,
        offset: u64,
        message: &Message<'_>,
        context: Context<'_>,
    ) {
        let Message::Packet(packet) = message else { return };
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
            let last = self.last.insert(context.channel, packet.number);
            if last.is_some_and(|last| packet.number <= last) {
                let text = format!("packet {} behind a later one", packet.number);
                report.warning("multifd-number", offset, PATH, text);
            }
        }
    }
}
