//! What a generated VM is like.

use crate::rng::Rng;

/// How RAM is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Each page once, in any order; no END section.
    Background,
    /// All pages in order, then rounds of pages that changed; END section.
    Live {
        /// Rounds after the first.
        rounds: u32,
    },
}

/// What a generated VM is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmConfig {
    /// Decides everything that is not said here.
    pub seed: u64,
    /// Target page size in bytes.
    pub page_size: u32,
    /// Names and lengths (bytes, multiples of the page size) of the RAM blocks.
    pub blocks: Vec<(Vec<u8>, u64)>,
    /// Of 100 pages, how many are not zero at first.
    pub nonzero_percent: u64,
    /// How RAM is sent.
    pub style: Style,
    /// `send-section-footer`.
    pub footers: bool,
    /// `send-configuration`.
    pub configuration: bool,
    /// The configuration has the page size.
    pub page_size_told: bool,
    /// The vmdesc is not suppressed.
    pub vmdesc: bool,
    /// Device sections before RAM.
    pub early_devices: bool,
    /// Capability x-ignore-shared, without a block that it leaves out: the block list has
    /// addresses. QEMU does not have it together with postcopy, so not with `commands`.
    pub ignore_shared: bool,
    /// A dirty bitmap goes along.
    pub dirty_bitmap: bool,
    /// OPEN_RETURN_PATH, PING, POSTCOPY_ADVISE at the start, SWITCHOVER_START before the end.
    pub commands: bool,
    /// Changed pages may come as XBZRLE deltas, and non-zero ones as zlib streams.
    pub compressed: bool,
    /// Number of device sections.
    pub devices: usize,
    /// The longest buffer field of a device, in bytes.
    pub device_bytes: usize,
}

impl VmConfig {
    /// A small VM of any kind.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let page_size = 1024u32 << rng.below(7);
        let names: [&[u8]; 6] = [
            b"pc.ram",
            b"/rom@etc/acpi/tables",
            b"0000:00:02.0/vga.vram",
            b"pc.bios",
            b"\xff\x1b[2J",
            b"a\0b",
        ];
        let count = 1 + rng.index(names.len());
        let block = |name: &&[u8]| (name.to_vec(), u64::from(page_size) * (1 + rng.below(80)));
        let blocks = names[..count].iter().map(block).collect();
        let footers = rng.chance(85);
        let vmdesc = rng.chance(85);
        let mut config = Self {
            seed,
            page_size,
            blocks,
            nonzero_percent: rng.below(101),
            style: if rng.chance(50) {
                Style::Background
            } else {
                Style::Live { rounds: 1 + (seed % 4) as u32 }
            },
            footers,
            configuration: rng.chance(80),
            page_size_told: rng.chance(50),
            vmdesc,
            early_devices: vmdesc && rng.chance(25),
            ignore_shared: false,
            dirty_bitmap: rng.chance(25),
            commands: rng.chance(30),
            compressed: rng.chance(40),
            devices: 1 + rng.index(6),
            device_bytes: 1 + rng.index(5000),
        };
        // Not drawn, so that the seeds before it stay what they were.
        config.ignore_shared = config.configuration && !config.commands && (seed >> 3) % 4 == 1;
        config
    }

    /// Major version of the machine type, which is in the configuration.
    #[must_use]
    pub fn machine_version(&self) -> u32 {
        if self.seed.is_multiple_of(2) { 1 } else { 10 }
    }

    /// One block of this many bytes, as a background snapshot sends it.
    #[must_use]
    pub fn background(seed: u64, ram_bytes: u64, nonzero_percent: u64) -> Self {
        Self {
            seed,
            page_size: 4096,
            blocks: vec![(b"pc.ram".to_vec(), ram_bytes)],
            nonzero_percent,
            style: Style::Background,
            footers: true,
            configuration: true,
            page_size_told: false,
            vmdesc: true,
            early_devices: false,
            ignore_shared: false,
            dirty_bitmap: false,
            commands: false,
            compressed: false,
            devices: 20,
            device_bytes: 8000,
        }
    }
}
