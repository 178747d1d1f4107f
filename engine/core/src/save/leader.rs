//! What of a stream is kept as it is: the leader and the third region.

use crate::failure::{Failure, Region as Kept, Unsupported};
use crate::memory::append;
use crate::ram_section::RAM_IDSTR;
use migration_stream::{Decoder, Record, SectionId, put_ram_blocks};
use snapshot_image::VmState;

/// The most bytes of leader, and of third region, that are kept in memory.
const REGION_LIMIT_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Region {
    Leader,
    Third,
    /// RAM records outside its START section: they become pages in the image.
    Ram,
}

/// Collects the bytes of everything that is replayed as it came, region by region.
#[derive(Debug)]
pub(crate) struct Leader {
    /// File header, configuration, early devices, START sections; no commands.
    pub(crate) bytes: Vec<u8>,
    /// PART and END sections of iterables other than `ram`.
    pub(crate) third: Vec<u8>,
    /// Where the RAM section's START is in `bytes`.
    pub(crate) ram_start: Option<u64>,
    /// The RAM section's START is the last thing in `bytes`.
    pub(crate) ram_start_is_last: bool,
    ram_id: Option<SectionId>,
    region: Region,
}

impl Leader {
    pub(crate) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            third: Vec::new(),
            ram_start: None,
            ram_start_is_last: false,
            ram_id: None,
            region: Region::Leader,
        }
    }

    /// Records a record, whose bytes are `raw`.
    pub(crate) fn record(&mut self, record: &Record<'_>, raw: &[u8]) -> Result<(), Failure> {
        match record {
            Record::SectionStart(header) => {
                self.region = Region::Leader;
                self.ram_start_is_last = header.idstr == RAM_IDSTR;
                if self.ram_start_is_last {
                    self.ram_start = Some(self.bytes.len() as u64);
                    self.ram_id = Some(header.section_id);
                }
            }
            Record::SectionPart(id) | Record::SectionEnd(id) => {
                self.region = if Some(*id) == self.ram_id { Region::Ram } else { Region::Third };
            }
            Record::RamBlocks(list) if list.blocks.iter().any(|block| block.host_page_size.is_some()) => {
                // The host page size is there for postcopy only; a precopy destination that was not told
                // of postcopy would not expect it. The image's block table keeps it.
                let mut plain = list.clone();
                plain.blocks.iter_mut().for_each(|block| block.host_page_size = None);
                put_ram_blocks(&mut self.bytes, &plain);
                return Ok(self.check_limits()?);
            }
            Record::Command(_) | Record::Page(_) | Record::RamMultifdFlush => return Ok(()),
            _ => {}
        }
        match self.region {
            Region::Leader => append(&mut self.bytes, raw, Kept::BeforeRam.name())?,
            Region::Third => append(&mut self.third, raw, Kept::Iterables.name())?,
            Region::Ram => {}
        }
        Ok(self.check_limits()?)
    }

    /// What the image keeps of it. `normal_pages` is the number of PAGE records; `decoder` has
    /// walked the stream.
    pub(crate) fn vm_state(&mut self, decoder: &Decoder, normal_pages: u64) -> VmState {
        VmState {
            leader: std::mem::take(&mut self.bytes),
            third: std::mem::take(&mut self.third),
            ram_list_offset: self.ram_start.unwrap_or(0),
            ram_start_is_last: self.ram_start_is_last,
            footers: decoder.has_footers() == Some(true),
            optional_fields: decoder.blocks().iter().any(|block| block.guest_physical_address.is_some()),
            normal_pages,
        }
    }

    /// Bytes that the image keeps of it.
    pub(crate) fn length(&self) -> usize {
        self.bytes.len() + self.third.len()
    }

    fn check_limits(&self) -> Result<(), Unsupported> {
        for (region, bytes) in [(Kept::BeforeRam, &self.bytes), (Kept::Iterables, &self.third)] {
            if bytes.len() as u64 > REGION_LIMIT_BYTES {
                return Err(Unsupported::TooLarge { region, limit_bytes: REGION_LIMIT_BYTES });
            }
        }
        Ok(())
    }
}
