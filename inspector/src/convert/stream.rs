//! Writes a migration stream: every page once, in order.

use super::Parts;
use crate::error::Error;
use crate::stat::is_zero;
use migration_stream::ram::{put_page_header, put_zero_page};
use migration_stream::{BlockList, SectionId, put_ram_blocks, put_section_part};
use std::io::Write;

/// What is written at once.
const PIECE_BYTES: usize = 1 << 20;

/// Writes the stream to `out`, which has this name.
pub(crate) fn write_stream(parts: &Parts, out: &mut dyn Write, name: &str) -> Result<(), Error> {
    let mut buffer = parts.leader(false);
    put_ram_blocks(&mut buffer, &BlockList { blocks: parts.blocks.clone() });
    parts.end_of_section(&mut buffer);
    buffer.extend_from_slice(&parts.others_start);
    put_section_part(&mut buffer, parts.ram_id.unwrap_or(SectionId(0)));
    let Some(ram) = &parts.ram else { return Ok(()) };
    let mut page = vec![0; parts.page_size as usize];
    for (number, block) in parts.blocks.iter().enumerate() {
        let mut offset = 0;
        while parts.is_here(number) && offset < block.used_length {
            let idstr = (offset == 0).then_some(&block.idstr[..]);
            let holds = ram.holds(number, offset / u64::from(parts.page_size));
            if holds {
                ram.read(number, offset, &mut page).map_err(Error::io("reading RAM"))?;
            }
            if holds && !is_zero(&page) {
                put_page_header(&mut buffer, idstr, offset);
                buffer.extend_from_slice(&page);
            } else {
                put_zero_page(&mut buffer, idstr, offset);
            }
            if buffer.len() >= PIECE_BYTES {
                out.write_all(&buffer).map_err(Error::io(name))?;
                buffer.clear();
            }
            offset += u64::from(parts.page_size);
        }
    }
    parts.end_of_section(&mut buffer);
    buffer.extend_from_slice(&parts.behind_ram());
    out.write_all(&buffer).map_err(Error::io(name))
}
