//! Generated VMs, and the streams that they send.
//!
//! A [`Vm`] is decided by its configuration and seed: which pages are zero, what the others hold,
//! what changes between the rounds of a live migration. So a test knows what a destination must
//! have in the end without keeping it.

mod config;

pub use config::{Style, VmConfig};

use crate::rng::{Rng, mix};
use crate::size::at_most_u32;
use migration_stream::{
    BlockList, ChunkKind, Command, Configuration, DirtyBitmapChunk, PostcopyAdvise, RAM_SECTION_VERSION,
    RamBlock, Record, SectionHeader, SectionId, put_command, put_compressed_page, put_configuration,
    put_dirty_bitmap_chunk, put_end_of_section, put_file_header, put_page_header, put_ram_blocks,
    put_section_end, put_section_footer, put_section_header, put_section_part, put_xbzrle_page,
    put_zero_page, xbzrle,
};
use miniz_oxide::deflate::compress_to_vec_zlib;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// A generated VM.
#[derive(Debug)]
pub struct Vm {
    config: VmConfig,
    /// Generation of the pages that changed: the others are at 0.
    changed: BTreeMap<(usize, u64), u64>,
    /// Device sections, EOF, vmdesc.
    tail: Vec<u8>,
    devices_bytes: usize,
    early: Vec<u8>,
}

const RAM: SectionId = SectionId(2);
const BITMAP: SectionId = SectionId(3);
const FIRST_DEVICE: u32 = 10;

impl Vm {
    /// The VM of this configuration, before it sends anything.
    #[must_use]
    pub fn new(config: VmConfig) -> Self {
        let mut vm =
            Self { changed: BTreeMap::new(), tail: Vec::new(), devices_bytes: 0, early: Vec::new(), config };
        vm.make_devices();
        vm
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &VmConfig {
        &self.config
    }

    /// Device sections, EOF and vmdesc, as they are sent.
    #[must_use]
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// The device sections of the tail alone.
    #[must_use]
    pub fn devices(&self) -> &[u8] {
        &self.tail[..self.devices_bytes]
    }

    /// Pages of a block.
    #[must_use]
    pub fn pages(&self, block: usize) -> u64 {
        self.config.blocks[block].1 / u64::from(self.config.page_size)
    }

    /// The page's content after everything that has been sent so far; `None` is zero.
    #[must_use]
    pub fn page(&self, block: usize, page: u64) -> Option<Vec<u8>> {
        let generation = self.changed.get(&(block, page)).copied().unwrap_or(0);
        self.content(block, page, generation)
    }

    fn content(&self, block: usize, page: u64, generation: u64) -> Option<Vec<u8>> {
        let key = mix(self.config.seed
            ^ mix(page ^ (block as u64) << 48)
            ^ generation.wrapping_mul(0x5851_f42d_4c95_7f2d));
        if key % 100 >= self.config.nonzero_percent {
            return None;
        }
        let mut content = Vec::with_capacity(self.config.page_size as usize);
        let mut word = key | 1;
        while content.len() < self.config.page_size as usize {
            // Half of the pages compress well.
            word = if key & 0x100 == 0 { word } else { mix(word) };
            content.extend_from_slice(&word.to_le_bytes());
        }
        Some(content)
    }

    /// Sends everything: the whole stream.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn send(&mut self, out: &mut impl Write) -> io::Result<()> {
        let mut rng = Rng::new(self.config.seed ^ 0x5eed);
        let mut bytes = Vec::new();
        self.put_start(&mut bytes);
        out.write_all(&bytes)?;
        match self.config.style {
            Style::Background => self.send_in_any_order(out)?,
            Style::Live { rounds } => self.send_rounds(out, rounds, &mut rng)?,
        }
        out.write_all(&self.tail)
    }

    fn footer(&self, out: &mut Vec<u8>, id: SectionId) {
        if self.config.footers {
            put_section_footer(out, id);
        }
    }

    fn put_start(&self, out: &mut Vec<u8>) {
        let config = &self.config;
        put_file_header(out);
        if config.configuration {
            let told = config.page_size_told.then(|| config.page_size.trailing_zeros());
            let machine = format!("pc-q35-{}.0", self.config.machine_version()).into_bytes();
            let uuid = config.seed.is_multiple_of(2).then_some([0x5a; 16]);
            let capabilities = config.ignore_shared.then(|| vec![b"x-ignore-shared".to_vec()]);
            put_configuration(out, &Configuration { machine, target_page_bits: told, capabilities, uuid });
        }
        if config.commands {
            let page_size = u64::from(config.page_size);
            put_command(out, &Command::OpenReturnPath);
            put_command(out, &Command::Ping(1));
            let advise =
                PostcopyAdvise { page_size_summary: 4096.max(page_size), target_page_size: page_size };
            put_command(out, &Command::PostcopyAdvise(Some(advise)));
        }
        out.extend_from_slice(&self.early);
        let header =
            |id, idstr, version_id| SectionHeader { section_id: id, idstr, instance_id: 0, version_id };
        put_section_header(out, false, &header(RAM, b"ram", RAM_SECTION_VERSION));
        let mut address = 0;
        let block = |(name, length): &(Vec<u8>, u64)| {
            let guest_physical_address = config.ignore_shared.then_some(address);
            address += length;
            RamBlock {
                idstr: name.clone(),
                used_length: *length,
                host_page_size: None,
                guest_physical_address,
            }
        };
        put_ram_blocks(out, &BlockList { blocks: config.blocks.iter().map(block).collect() });
        put_end_of_section(out);
        self.footer(out, RAM);
        if config.dirty_bitmap {
            put_section_header(out, false, &header(BITMAP, b"dirty-bitmap", 1));
            let kind = ChunkKind::Start { granularity: 65536, flags: 1 };
            self.put_bitmap(out, &[DirtyBitmapChunk { node: Some(b"disk0"), bitmap: Some(b"backup"), kind }]);
        }
    }

    fn put_bitmap(&self, out: &mut Vec<u8>, chunks: &[DirtyBitmapChunk<'_>]) {
        chunks.iter().for_each(|chunk| put_dirty_bitmap_chunk(out, chunk));
        let end = DirtyBitmapChunk { node: None, bitmap: None, kind: ChunkKind::EndOfSection };
        put_dirty_bitmap_chunk(out, &end);
        self.footer(out, BITMAP);
    }

    /// Every page once: runs of 16, which follow each other in an order of the seed's.
    fn send_in_any_order(&mut self, out: &mut impl Write) -> io::Result<()> {
        let mut sender = Sender::default();
        for block in 0..self.config.blocks.len() {
            let pages = self.pages(block);
            let runs = pages.div_ceil(16);
            let step = (1 + self.config.seed % 7..)
                .find(|step| greatest_common_divisor(*step, runs) == 1)
                .unwrap_or(1);
            for turn in 0..runs {
                let first = turn * step % runs * 16;
                for page in first..(first + 16).min(pages) {
                    let content = self.page(block, page);
                    sender.put_page(self, block, page, content.as_deref());
                    sender.flush_if_full(self, out)?;
                }
            }
        }
        sender.flush(self, out)
    }

    /// All pages in order, then rounds of changes; pages become zero and come back.
    fn send_rounds(&mut self, out: &mut impl Write, rounds: u32, rng: &mut Rng) -> io::Result<()> {
        let mut sender = Sender::default();
        for block in 0..self.config.blocks.len() {
            for page in 0..self.pages(block) {
                let content = self.page(block, page);
                sender.put_page(self, block, page, content.as_deref());
                sender.flush_if_full(self, out)?;
            }
        }
        for round in 1..=rounds {
            let block = rng.index(self.config.blocks.len());
            let pages = self.pages(block);
            for _ in 0..1 + pages / 8 {
                let page = rng.below(pages);
                let before = self.page(block, page);
                self.changed.insert((block, page), u64::from(round));
                let after = self.page(block, page);
                match (before, &after) {
                    (Some(before), Some(after)) if self.config.compressed && rng.chance(50) => {
                        sender.put_delta(self, block, page, &before, after);
                    }
                    _ => sender.put_page(self, block, page, after.as_deref()),
                }
                sender.flush_if_full(self, out)?;
            }
        }
        sender.flush(self, out)?;
        let mut bytes = Vec::new();
        if self.config.commands {
            put_command(&mut bytes, &Command::SwitchoverStart);
        }
        put_section_end(&mut bytes, RAM);
        put_end_of_section(&mut bytes);
        self.footer(&mut bytes, RAM);
        if self.config.dirty_bitmap {
            put_section_end(&mut bytes, BITMAP);
            let kind = ChunkKind::Bits { first_sector: 0, sectors: 131_072, bits: Some(&[0x81; 128]) };
            let bits = DirtyBitmapChunk { node: None, bitmap: Some(b"backup"), kind };
            let complete =
                DirtyBitmapChunk { node: None, bitmap: Some(b"backup"), kind: ChunkKind::Complete };
            self.put_bitmap(&mut bytes, &[bits, complete]);
        }
        out.write_all(&bytes)
    }

    /// Device sections with a description that fits; the first ones may have to come before RAM.
    fn make_devices(&mut self) {
        let config = &self.config;
        let mut rng = Rng::new(config.seed ^ 0xdef1ce);
        let mut described = Vec::new();
        let (mut early, mut tail) = (Vec::new(), Vec::new());
        for number in (0_u32..).take(config.devices) {
            let name = format!("{:04x}:00:{number:02x}.0/device", config.seed & 0xffff);
            let id = SectionId(FIRST_DEVICE + number * 7);
            let instance_id = at_most_u32(rng.below(3));
            let buffer: Vec<u8> =
                (0..rng.index(config.device_bytes) + 1).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
            let mut body = rng.next_u64().to_be_bytes().to_vec();
            body.extend_from_slice(&buffer);
            (0..4).for_each(|_| body.extend_from_slice(&rng.next_u64().to_be_bytes()[..2]));
            let mut device = serde_json::json!({
                "name": name, "instance_id": instance_id, "vmsd_name": "device", "version": 3,
                "fields": [
                    {"name": "counter", "type": "uint64", "size": 8},
                    {"name": "buffer", "type": "buffer", "size": buffer.len()},
                    {"name": "registers", "array_len": 4, "type": "uint16", "size": 2},
                ],
            });
            if rng.chance(50) {
                let subsection = b"device/extra";
                body.push(0x05);
                body.push(12);
                body.extend_from_slice(subsection);
                body.extend_from_slice(&1u32.to_be_bytes());
                body.extend_from_slice(&rng.next_u64().to_be_bytes());
                device["subsections"] = serde_json::json!([
                    {"vmsd_name": "device/extra", "version": 1, "fields": [{"name": "x", "type": "uint64", "size": 8}]},
                ]);
            }
            described.push(device);
            let header = SectionHeader { section_id: id, idstr: name.as_bytes(), instance_id, version_id: 3 };
            let out = if config.early_devices && number == 0 && config.devices > 1 {
                &mut early
            } else {
                &mut tail
            };
            put_section_header(out, true, &header);
            out.extend_from_slice(&body);
            if config.footers {
                put_section_footer(out, id);
            }
        }
        self.devices_bytes = tail.len();
        Record::Eof.put(&mut tail, &[]);
        if config.vmdesc {
            let json = serde_json::json!({"page_size": config.page_size, "devices": described}).to_string();
            Record::VmDescription(json.as_bytes()).put(&mut tail, &[]);
        }
        (self.early, self.tail) = (early, tail);
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Bytes gathered before they are sent as one PART section.
const SECTION_BYTES: usize = 256 << 10;

/// Gathers page records into PART sections.
#[derive(Debug, Default)]
struct Sender {
    bytes: Vec<u8>,
    block: Option<usize>,
}

impl Sender {
    fn name<'a>(&mut self, vm: &'a Vm, block: usize) -> Option<&'a [u8]> {
        if self.bytes.is_empty() {
            put_section_part(&mut self.bytes, RAM);
        }
        (self.block.replace(block) != Some(block)).then(|| &vm.config.blocks[block].0[..])
    }

    fn put_page(&mut self, vm: &Vm, block: usize, page: u64, content: Option<&[u8]>) {
        let offset = page * u64::from(vm.config.page_size);
        let name = self.name(vm, block);
        match content {
            None => put_zero_page(&mut self.bytes, name, offset),
            Some(content) => {
                let zlib = (vm.config.compressed && page.is_multiple_of(3))
                    .then(|| compress_to_vec_zlib(content, 1));
                // A page that does not become shorter is sent as it is.
                if let Some(zlib) = zlib.filter(|zlib| zlib.len() < content.len()) {
                    return put_compressed_page(&mut self.bytes, name, offset, &zlib);
                }
                put_page_header(&mut self.bytes, name, offset);
                self.bytes.extend_from_slice(content);
            }
        }
    }

    fn put_delta(&mut self, vm: &Vm, block: usize, page: u64, before: &[u8], after: &[u8]) {
        let delta = xbzrle::encode(before, after);
        if delta.len() > before.len() {
            return self.put_page(vm, block, page, Some(after));
        }
        let name = self.name(vm, block);
        put_xbzrle_page(&mut self.bytes, name, page * u64::from(vm.config.page_size), &delta);
    }

    fn flush_if_full(&mut self, vm: &Vm, out: &mut impl Write) -> io::Result<()> {
        if self.bytes.len() < SECTION_BYTES {
            return Ok(());
        }
        self.flush(vm, out)
    }

    fn flush(&mut self, vm: &Vm, out: &mut impl Write) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        put_end_of_section(&mut self.bytes);
        vm.footer(&mut self.bytes, RAM);
        out.write_all(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }
}
