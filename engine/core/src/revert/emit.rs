//! Turns pages into records of the stream.

use super::output::Output;
use super::ring::{Slice, SlicePage};
use super::{FIRMWARE_BLOCK_BYTES, wrong};
use crate::failure::Failure;
use crate::machine::{Body, Header, Lane};
use crate::pool::{BufferId, Pool};
use crate::size::to_usize;
use crate::zero::is_zero;
use migration_stream::{
    SectionId, put_end_of_section, put_page_header, put_section_footer, put_section_part, put_zero_page,
};
use snapshot_image::{PresentPage, RamLayout};

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

    /// The block's name, if the next record of the main channel has to give it. The preempt
    /// channel's records stand for themselves.
    fn name<'a>(&mut self, lane: Lane, block: usize, idstr: &'a [u8]) -> Option<&'a [u8]> {
        let named = lane == Lane::Preempt || self.current_block.replace(block) != Some(block);
        named.then_some(idstr)
    }

    /// Begins a PART section; the preempt channel has none.
    pub(crate) fn begin(&mut self, lane: Lane) {
        if lane == Lane::Main {
            put_section_part(&mut self.gathered, self.ram);
        }
    }

    /// A page: with its content, or as zero.
    pub(crate) fn page(
        &mut self,
        lane: Lane,
        block: (usize, &[u8]),
        offset: u64,
        body: Option<Body>,
        output: &mut Output,
    ) {
        let name = self.name(lane, block.0, block.1);
        if body.is_some() {
            put_page_header(&mut self.gathered, name, offset);
            self.normal_pages += 1;
            self.hand_out(lane, body, output);
        } else {
            put_zero_page(&mut self.gathered, name, offset);
            self.zero_pages += 1;
            if self.gathered.len() >= GATHERED_BYTES {
                self.hand_out(lane, None, output);
            }
        }
    }

    /// Ends the section, and hands out what has gathered.
    pub(crate) fn end(&mut self, lane: Lane, output: &mut Output) {
        if lane == Lane::Main {
            put_end_of_section(&mut self.gathered);
            if self.footers {
                put_section_footer(&mut self.gathered, self.ram);
            }
        }
        self.hand_out(lane, None, output);
    }

    fn hand_out(&mut self, lane: Lane, body: Option<Body>, output: &mut Output) {
        let header = Header::from(&self.gathered[..]);
        self.gathered.clear();
        output.send(lane, header, body);
    }

    /// Sends a slice as one PART section; every page is verified before any of its bytes leave.
    pub(crate) fn slice(
        &mut self,
        slice: &Slice,
        layout: &RamLayout,
        fresh_ram: bool,
        output: &mut Output,
        pool: &Pool,
    ) -> Result<(), Failure> {
        let block = &layout.blocks()[slice.block];
        let send_zeros = !fresh_ram || block.used_length <= FIRMWARE_BLOCK_BYTES;
        if slice.present.is_empty() && !send_zeros {
            return Ok(());
        }
        let first_page = layout.page(layout.guest(slice.block, slice.offset));
        if let Some(buffer) = slice.buffer {
            for page in &slice.present {
                verify(page, first_page, buffer, layout, pool)?;
            }
        }
        self.begin(Lane::Main);
        let mut present = slice.present.iter().peekable();
        for at in 0..slice.pages {
            let offset = slice.offset + at * self.page_bytes as u64;
            let page = present.next_if(|page| page.at == at);
            let body = page.zip(slice.buffer).and_then(|(page, buffer)| self.body(page, buffer, pool));
            if body.is_some() || send_zeros {
                self.page(Lane::Main, (slice.block, &block.name), offset, body, output);
            }
        }
        self.end(Lane::Main, output);
        Ok(())
    }

    /// The page's place in the buffer; none if it turns out to be zero, which only an image without
    /// a page index can leave open.
    pub(crate) fn body(&self, page: &SlicePage, buffer: BufferId, pool: &Pool) -> Option<Body> {
        let start = to_usize(page.at) * self.page_bytes;
        let range = start..start + self.page_bytes;
        let zero = page.checksum.is_none() && is_zero(&pool.bytes(buffer)[range.clone()]);
        (!zero).then_some(Body { buffer, range })
    }
}

/// The page is what was saved, as far as that is known. `first_page` is the number of the buffer's
/// first page.
pub(crate) fn verify(
    page: &SlicePage,
    first_page: u64,
    buffer: BufferId,
    layout: &RamLayout,
    pool: &Pool,
) -> Result<(), Failure> {
    let page_bytes = layout.page_size() as usize;
    let start = to_usize(page.at) * page_bytes;
    let present = PresentPage { page: first_page + page.at, checksum: page.checksum };
    layout.verify_page(&present, &pool.bytes(buffer)[start..start + page_bytes]).map_err(wrong)
}
