//! Writes a migration stream: pages in order, each of them once.

use super::Parts;
use crate::error::Error;
use crate::pages::is_zero;
use crate::progress::Meter;
use migration_stream::ram::{put_page_header, put_zero_page};
use migration_stream::{BlockList, SectionId, put_ram_blocks, put_section_part};
use std::io::Write;

/// What is written at once.
const PIECE_BYTES: usize = 1 << 20;

/// What a stream has of zero pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ZeroPages {
    /// A record for each, as a destination needs them whose memory may hold something else.
    Sent,
    /// A record for the first page of each block alone: in an image that the stream is saved to, a
    /// page that did not arrive is zero. A block without any page would be one that x-ignore-shared
    /// leaves elsewhere.
    LeftOut,
}

/// Writes the stream to `out`, which has this name.
pub(crate) fn write_stream(
    parts: &Parts,
    zeros: ZeroPages,
    out: &mut dyn Write,
    name: &str,
) -> Result<(), Error> {
    let mut buffer = parts.leader(false);
    put_ram_blocks(&mut buffer, &BlockList { blocks: parts.blocks.clone() });
    parts.end_of_section(&mut buffer);
    buffer.extend_from_slice(&parts.others_start);
    put_section_part(&mut buffer, parts.ram_id.unwrap_or(SectionId(0)));
    let Some(ram) = &parts.ram else { return Ok(()) };
    let mut page = vec![0; parts.page_size as usize];
    let (mut meter, total) = (Meter::new("writing"), parts.ram_bytes());
    let mut before = 0;
    meter.at(0, Some(total));
    for (number, block) in parts.blocks.iter().enumerate() {
        let mut offset = 0;
        let mut idstr = Some(&block.idstr[..]);
        while parts.is_here(number) && offset < block.used_length {
            if zeros == ZeroPages::LeftOut && offset > 0 {
                let next = ram.next_data(number, offset).map_err(Error::io("reading RAM"))?;
                let Some(next) = next else { break };
                offset = next;
            }
            let holds = ram.holds(number, offset / u64::from(parts.page_size));
            if holds {
                ram.read(number, offset, &mut page).map_err(Error::io("reading RAM"))?;
            }
            if holds && !is_zero(&page) {
                put_page_header(&mut buffer, idstr.take(), offset);
                buffer.extend_from_slice(&page);
            } else if zeros == ZeroPages::Sent || offset == 0 {
                put_zero_page(&mut buffer, idstr.take(), offset);
            }
            if buffer.len() >= PIECE_BYTES {
                out.write_all(&buffer).map_err(Error::io(name))?;
                buffer.clear();
                meter.at(before + offset, Some(total));
            }
            offset += u64::from(parts.page_size);
        }
        before += block.used_length;
    }
    parts.end_of_section(&mut buffer);
    buffer.extend_from_slice(&parts.behind_ram());
    out.write_all(&buffer).map_err(Error::io(name))
}
