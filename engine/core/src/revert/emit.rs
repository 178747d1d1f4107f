//! Turns slices into RAM sections of the stream.

use super::ring::{Slice, SlicePage};
use super::{FIRMWARE_BLOCK_BYTES, RevertMachine, wrong};
use crate::failure::Failure;
use crate::machine::{Body, Header};
use crate::pool::Pool;
use crate::zero::is_zero;
use migration_stream::{
    SectionId, put_end_of_section, put_page_header, put_section_footer, put_section_part, put_zero_page,
};
use snapshot_image::page_checksum;

/// Header bytes gather up to this much before they are handed out.
const GATHERED_BYTES: usize = 32 << 10;

/// The state that page records carry from one to the next.
#[derive(Debug)]
pub(crate) struct Emitter {
    ram: SectionId,
    footers: bool,
    page_bytes: usize,
    /// The block that CONTINUE means.
    current_block: Option<usize>,
    gathered: Vec<u8>,
    normal_pages: u64,
    zero_pages: u64,
}

impl Emitter {
    pub(crate) fn new(ram: SectionId, footers: bool, page_size: u32) -> Self {
        Self {
            ram,
            footers,
            page_bytes: page_size as usize,
            current_block: None,
            gathered: Vec::new(),
            normal_pages: 0,
            zero_pages: 0,
        }
    }

    /// Normal and zero pages so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.normal_pages, self.zero_pages)
    }

    /// The block's name, if the next record has to give it.
    fn name<'a>(&mut self, block: usize, idstr: &'a [u8]) -> Option<&'a [u8]> {
        (self.current_block.replace(block) != Some(block)).then_some(idstr)
    }
}

impl RevertMachine {
    /// Hands out a slice as one PART section; every page is verified before any of its bytes leave.
    pub(super) fn emit(&mut self, slice: Slice, pool: &mut Pool) -> Result<(), Failure> {
        let Some(mut emitter) = self.emitter.take() else { return Ok(()) };
        let result = self.emit_with(&mut emitter, &slice, pool);
        self.emitter = Some(emitter);
        if let Some(buffer) = slice.buffer {
            self.ring.release_at(self.handed_out_bytes, buffer, pool);
            self.ring.sent(self.sent_bytes, pool);
        }
        self.done_pages += slice.pages;
        result
    }

    fn emit_with(&mut self, emitter: &mut Emitter, slice: &Slice, pool: &Pool) -> Result<(), Failure> {
        let layout = self.reader.layout();
        let block = &layout.blocks()[slice.block];
        let idstr = block.name.clone();
        let send_zeros = !self.config.fresh_ram || block.used_length <= FIRMWARE_BLOCK_BYTES;
        if slice.present.is_empty() && !send_zeros {
            return Ok(());
        }
        let bytes = slice.buffer.map(|buffer| pool.bytes(buffer));
        let first_page = layout.page(layout.guest(slice.block, slice.offset));
        for page in &slice.present {
            if let (Some(expected), Some(bytes)) = (page.checksum, bytes) {
                let start = page.at as usize * emitter.page_bytes;
                let found = page_checksum(&bytes[start..start + emitter.page_bytes]);
                if found != expected {
                    let number = first_page + u64::from(page.at);
                    return Err(wrong(layout.page_error(number, found, expected)));
                }
            }
        }
        put_section_part(&mut emitter.gathered, emitter.ram);
        let mut present = slice.present.iter().peekable();
        for at in 0..slice.pages {
            let offset = slice.offset + at * emitter.page_bytes as u64;
            let page = present.next_if(|page| u64::from(page.at) == at);
            let body = page.and_then(|page| self.body(page, slice, emitter.page_bytes, pool));
            if let Some(body) = body {
                let name = emitter.name(slice.block, &idstr);
                put_page_header(&mut emitter.gathered, name, offset);
                emitter.normal_pages += 1;
                self.hand_out(emitter, Some(body));
            } else if send_zeros {
                let name = emitter.name(slice.block, &idstr);
                put_zero_page(&mut emitter.gathered, name, offset);
                emitter.zero_pages += 1;
                if emitter.gathered.len() >= GATHERED_BYTES {
                    self.hand_out(emitter, None);
                }
            }
        }
        put_end_of_section(&mut emitter.gathered);
        if emitter.footers {
            put_section_footer(&mut emitter.gathered, emitter.ram);
        }
        self.hand_out(emitter, None);
        Ok(())
    }

    /// The page's place in the buffer; none if it turns out to be zero, which only an image without a page index can
    /// leave open.
    fn body(&self, page: &SlicePage, slice: &Slice, page_bytes: usize, pool: &Pool) -> Option<Body> {
        let buffer = slice.buffer?;
        let start = page.at as usize * page_bytes;
        let range = start..start + page_bytes;
        let zero = page.checksum.is_none() && is_zero(&pool.bytes(buffer)[range.clone()]);
        (!zero).then_some(Body { buffer, range })
    }

    fn hand_out(&mut self, emitter: &mut Emitter, body: Option<Body>) {
        let header = Header::from(&emitter.gathered[..]);
        emitter.gathered.clear();
        self.send(header, body);
    }
}
