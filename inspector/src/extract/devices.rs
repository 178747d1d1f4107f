//! Where devices have their memory, as far as their own sections say it.

use super::placement::Place;
use crate::contents::{Contents, Device};
use migration_stream::RamBlock;
use migration_stream::device::Value;
use std::collections::HashMap;

/// Sections of display devices whose first BAR begins with their memory (`pci_std_vga_realize`,
/// `pci_cirrus_vga_realize`), and what that block is called.
const DISPLAYS: [&[u8]; 2] = [b"vga", b"cirrus_vga"];
const DISPLAY_MEMORY: &[u8] = b"vga.vram";
/// PCI configuration space: the command register, its bit that has the device answer to memory
/// addresses, the first BAR.
const COMMAND: usize = 4;
const MEMORY_ENABLED: u8 = 2;
const FIRST_BAR: usize = 0x10;
/// The lowest bits of a BAR: 0 is memory with an address of 32 bits, 4 one of 64; 8 is prefetchable memory.
const BAR_KIND: u32 = 7;
const BAR_64_BITS: u32 = 4;
const BAR_FLAGS: u64 = 0xf;

/// By the path of a device (`0000:00:02.0`).
#[derive(Debug, Default)]
pub(super) struct Devices<'a> {
    /// Address and length of a virtio-mem device's memory; none where they are not known.
    virtio_mem: HashMap<&'a [u8], Option<(u64, u64)>>,
    displays: HashMap<&'a [u8], u64>,
}

impl<'a> Devices<'a> {
    /// Looks at all devices once.
    pub(super) fn of(contents: &'a Contents) -> Self {
        let mut found = Self::default();
        for section in &contents.devices {
            let Some((path, name)) = split_path(&section.idstr) else { continue };
            if name.starts_with(b"virtio-mem") {
                let memory = found.virtio_mem.entry(path).or_default();
                *memory = memory.or_else(|| address_and_length(section));
            } else if DISPLAYS.contains(&name)
                && let Some(address) = first_bar(section)
            {
                found.displays.insert(path, address);
            }
        }
        found
    }

    /// Where a block lies that belongs to a device; none: it belongs to no device.
    pub(super) fn place(&self, block: &RamBlock) -> Option<Place> {
        let (path, name) = split_path(&block.idstr)?;
        let display = self.displays.get(path).filter(|_| name == DISPLAY_MEMORY);
        let address = display.copied().or(block.guest_physical_address).filter(|&address| address > 0);
        Some(match self.virtio_mem.get(path) {
            Some(Some((address, bytes))) if *bytes == block.used_length => Place::At(*address),
            Some(_) => Place::Unknown,
            None => address.map_or(Place::LeftOut, Place::At),
        })
    }
}

/// A device's path and the name behind it.
fn split_path(idstr: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = idstr.iter().rposition(|&byte| byte == b'/').filter(|_| !idstr.starts_with(b"/"))?;
    Some((&idstr[..at], &idstr[at + 1..]))
}

/// A virtio-mem device has both among its fields (`vmstate_virtio_mem_sanity_checks`).
fn address_and_length(section: &Device) -> Option<(u64, u64)> {
    let decoded = section.decode()?;
    let number = |end: &str| {
        let field = decoded.fields.iter().find(|field| field.path.ends_with(end))?;
        if let Value::Unsigned(number) = field.value { Some(number) } else { None }
    };
    Some((number("tmp.addr")?, number("tmp.region_size")?))
}

/// The bytes of a PCI device's configuration space.
pub(super) fn pci_configuration(section: &Device) -> Option<Vec<u8>> {
    let decoded = section.decode()?;
    let field = decoded.fields.iter().find(|field| field.type_name == "pci config")?;
    Some(field.bytes.to_vec())
}

/// The address of memory behind the first BAR.
fn first_bar(section: &Device) -> Option<u64> {
    let configuration = pci_configuration(section)?;
    let word = |at: usize| Some(u32::from_le_bytes(configuration.get(at..at + 4)?.try_into().ok()?));
    if configuration.get(COMMAND)? & MEMORY_ENABLED == 0 {
        return None;
    }
    let low = word(FIRST_BAR)?;
    let address = match low & BAR_KIND {
        0 => u64::from(low),
        BAR_64_BITS => u64::from(low) | u64::from(word(FIRST_BAR + 4)?) << 32,
        _ => return None,
    };
    Some(address & !BAR_FLAGS)
}
