//! The main thread while RAM is loaded into memory that is not in use yet: precopy, and postcopy up
//! to its package.

use super::DestinationConfig;
use super::listen::out_of_order;
use super::return_path::ReturnPath;
use super::shared::{Shared, lock};
use crate::real::backend::Mapped;
use crate::real::bitmaps::Bitmaps;
use crate::real::devices::sections_checksum;
use crate::real::error::{Error, at};
use crate::real::memory::{GuestMemory, TARGET_PAGE_BYTES, is_zero};
use crate::real::stream::{End, Flow, Leader, RecordStream};
use crate::size::to_usize;
use background_snapshot::Mapping;
use migration_stream::protocol::Incoming;
use migration_stream::{
    BlockList, Command, DiscardRange, Error as StreamError, ErrorKind, PostcopyAdvise, RamBlock, Record,
    name_text,
};
use std::sync::{Arc, Mutex};

/// How precopy ended.
#[derive(Debug)]
pub(super) enum Loaded {
    /// With the devices: the guest may run.
    Everything,
    /// With a package.
    Package(Vec<u8>),
}

/// What the main thread knows.
#[derive(Debug)]
pub(super) struct Loader<'a> {
    config: &'a DestinationConfig,
    pub(super) incoming: Arc<Mutex<Incoming>>,
    pub(super) back: Arc<Mutex<ReturnPath>>,
    pub(super) bitmaps: Arc<Mutex<Bitmaps>>,
    /// Blocks that are there before the stream.
    pub(super) mapped: Vec<Mapped>,
    pub(super) shared: Option<Arc<Shared>>,
    pub(super) leader: Leader,
    pub(super) advice: Option<PostcopyAdvise>,
    /// Checksum of the device sections, and their names where they can be told apart.
    pub(super) devices: Option<(u64, Vec<String>)>,
    pub(super) page_records: u64,
}

impl<'a> Loader<'a> {
    pub(super) fn new(config: &'a DestinationConfig, back: ReturnPath, bitmaps: Bitmaps) -> Self {
        Self {
            config,
            incoming: Arc::default(),
            back: Arc::new(Mutex::new(back)),
            bitmaps: Arc::new(Mutex::new(bitmaps)),
            mapped: Vec::new(),
            shared: None,
            leader: Leader::default(),
            advice: None,
            devices: None,
            page_records: 0,
        }
    }

    pub(super) fn config(&self) -> &'a DestinationConfig {
        self.config
    }

    /// Loads until the guest may run, or the package comes.
    pub(super) fn load(&mut self, stream: &mut RecordStream) -> Result<Loaded, Error> {
        let mut package = None;
        let end = stream.each(|at, record| {
            self.config.faults.event()?;
            if let Record::Command(Command::Packaged(bytes)) = record {
                self.command(&Command::Packaged(bytes), at)?;
                package = Some(bytes.to_vec());
                return Ok(Flow::Leave);
            }
            self.record(at, record).map(|()| Flow::Go)
        })?;
        match end {
            End::Left => Ok(Loaded::Package(package.unwrap_or_default())),
            End::DeviceTail => {
                let (sections, names) = stream.tail()?;
                self.devices = Some((sections_checksum(&sections), names));
                let at = stream.offset() + sections.len() as u64;
                lock(&self.incoming).end_of_stream(false).map_err(out_of_order(at))?;
                Ok(Loaded::Everything)
            }
            End::Broken | End::Input => Err(stream.ended(lock(&self.incoming).state())),
        }
    }

    /// What has been loaded; there is nothing before the block list.
    pub(super) fn shared(&self, at: u64) -> Result<&Arc<Shared>, Error> {
        let missing = || Error::Refused { offset: at, text: "no RAM section before this".to_owned() };
        self.shared.as_ref().ok_or_else(missing)
    }

    fn record(&mut self, at: u64, record: &Record<'_>) -> Result<(), Error> {
        match record {
            Record::SectionStart(header) => {
                let (id, version) = (header.section_id, header.version_id);
                if matches!(header.idstr, b"ram" | b"dirty-bitmap") {
                    self.leader.sections.push((id, header.idstr.to_vec(), version));
                }
            }
            Record::Footer(_) => self.leader.footers = true,
            Record::RamBlocks(list) => self.blocks(list)?,
            Record::Page(page) => self.page(at, page.block, page.offset, |ram| page.content.apply(ram))?,
            Record::RamMultifdFlush => {
                let text = "MULTIFD_FLUSH: RAM travels on channels of multifd, which are not here".to_owned();
                return Err(Error::Refused { offset: at, text });
            }
            Record::DirtyBitmap(chunk) => {
                lock(&self.bitmaps).chunk(chunk).map_err(|text| Error::Refused { offset: at, text })?;
            }
            Record::Command(command) => self.command(command, at)?,
            // Opaque, as devices are.
            _ => {}
        }
        Ok(())
    }

    fn blocks(&mut self, list: &BlockList) -> Result<(), Error> {
        let mut memory = GuestMemory::new();
        for block in &list.blocks {
            let host_page = to_usize(block.host_page_size.unwrap_or(0));
            let host_page = host_page.max(self.config.host_page);
            if let Some(mapping) = self.mapping_of(block)? {
                memory.add_mapping(&block.idstr, mapping, host_page);
                continue;
            }
            let added = memory.add(&block.idstr, block.used_length, self.config.memory, host_page);
            added.map_err(at("memory of a RAM block"))?;
        }
        self.leader.blocks =
            list.blocks.iter().map(|block| (block.idstr.clone(), block.used_length)).collect();
        let (incoming, back) = (Arc::clone(&self.incoming), Arc::clone(&self.back));
        let DestinationConfig { refuse_duplicates, preempt, .. } = *self.config;
        self.shared = Some(Arc::new(Shared::new(memory, incoming, back, refuse_duplicates, preempt)));
        Ok(())
    }

    /// The block's memory, if it was mapped before.
    fn mapping_of(&mut self, block: &RamBlock) -> Result<Option<Mapping>, Error> {
        let mut mapped = self.mapped.iter_mut().filter(|mapped| mapped.id == block.idstr);
        let Some(mapping) = mapped.find_map(|mapped| mapped.mapping.take()) else { return Ok(None) };
        let (found, expected) = (mapping.length() as u64, block.used_length);
        if found != expected {
            let name = name_text(&block.idstr);
            return Err(Error::Wrong(format!("block \"{name}\": {expected} bytes, mapped are {found}")));
        }
        Ok(Some(mapping))
    }

    /// A page into memory that is not watched.
    fn page(
        &mut self,
        at: u64,
        block: usize,
        offset: u64,
        change: impl FnOnce(&mut [u8]) -> Result<(), ErrorKind>,
    ) -> Result<(), Error> {
        lock(&self.incoming).page(true).map_err(out_of_order(at))?;
        self.page_records += 1;
        let shared = self.shared(at)?;
        let memory = &shared.memory;
        let offset = to_usize(offset);
        let page = memory.page_at(block, offset);
        let mut data = [0; TARGET_PAGE_BYTES];
        // Reading also maps a page where none was: a zero page that has arrived must not be missing later.
        memory.read_page(page, &mut data);
        let was_zero = is_zero(&data);
        let wrong = |kind| {
            let path = format!("page {offset:#x} of block \"{}\"", name_text(&memory.blocks()[block].name));
            StreamError { offset: at, path, kind }
        };
        change(&mut data).map_err(wrong)?;
        if !(was_zero && is_zero(&data)) {
            memory.blocks()[block].mapping.write(offset, &data);
        }
        shared.received.set(page);
        Ok(())
    }

    pub(super) fn command(&mut self, command: &Command<'_>, at: u64) -> Result<(), Error> {
        let refuse = |text: String| Error::Refused { offset: at, text };
        if let Command::PostcopyListen | Command::PostcopyRun | Command::EnableColo = command {
            let text = match command {
                Command::EnableColo => "ENABLE_COLO is not supported".to_owned(),
                // QEMU would have two readers on one channel.
                _ => format!("LISTEN or RUN outside of a package in state {}", lock(&self.incoming).state()),
            };
            return Err(refuse(text));
        }
        lock(&self.incoming).command(command, false).map_err(out_of_order(at))?;
        match command {
            Command::OpenReturnPath => lock(&self.back).open().map_err(refuse),
            Command::Ping(value) => lock(&self.back).pong(*value),
            Command::PostcopyAdvise(advice) => {
                self.advice = *advice;
                if !self.mapped.is_empty() {
                    // Pages that are discarded would be the file's again; QEMU 10.0 refuses such memory, too.
                    return Err(refuse("RAM is mapped from a file, so pages cannot be missing".to_owned()));
                }
                match advice {
                    Some(advice) if advice.target_page_size != TARGET_PAGE_BYTES as u64 => {
                        let found = advice.target_page_size;
                        Err(refuse(format!("target page size {found}, expected {TARGET_PAGE_BYTES}")))
                    }
                    _ => Ok(()),
                }
            }
            Command::PostcopyRamDiscard { block, ranges } => {
                let shared = self.shared(at)?;
                ranges.iter().try_for_each(|range| self.discard(shared, block, *range).map_err(refuse))
            }
            _ => Ok(()),
        }
    }

    fn discard(&self, shared: &Shared, name: &[u8], range: DiscardRange) -> Result<(), String> {
        let DiscardRange { start, length } = range;
        let text = |what: &str| {
            format!("discard of {length} bytes at {start:#x} of block \"{}\": {what}", name_text(name))
        };
        let number = shared.memory.find(name).ok_or_else(|| text("unknown block"))?;
        let block = &shared.memory.blocks()[number];
        let page = block.host_page as u64;
        if !start.is_multiple_of(page) || !length.is_multiple_of(page) {
            return Err(text(&format!("not made of whole host pages of {page} bytes")));
        }
        let used = block.mapping.length() as u64;
        if start.checked_add(length).is_none_or(|end| end > used) {
            return Err(text(&format!("the block has {used} bytes")));
        }
        let (start, length) = (usize::try_from(start), usize::try_from(length));
        let (Ok(start), Ok(length)) = (start, length) else { return Err(text("beyond the address space")) };
        block.mapping.discard(start, length).map_err(|error| text(&error.to_string()))?;
        let first = shared.memory.page_at(number, start);
        (first..first + (length / TARGET_PAGE_BYTES) as u64).for_each(|page| shared.received.clear(page));
        Ok(())
    }
}
