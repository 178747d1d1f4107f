//! virtio-net (hw/virtio/virtio.c, `virtio_save`; hw/net/virtio-net.c, `vmstate_virtio_net_device`).
//!
//! The vmdesc has one opaque field for all of it, so its structure is walked here. By transport:
//!
//! * PCI (hw/virtio/virtio-pci.c, `virtio_pci_save_config`): version (be32, 2), configuration space
//!   (256 bytes, or 4096 of a PCIe function), state of the interrupt lines (16 bytes); with MSI-X
//!   its table (16 bytes a vector), a pending bit for each vector, and the configuration's vector
//!   (be16);
//! * MMIO (hw/virtio/virtio-mmio.c, `virtio_mmio_save_config`): three registers (be32);
//!
//! then status and ISR (u8), the selected queue (be16), features (be32), the copy of the
//! configuration with its length (be32), which begins with the MAC once the guest has read it, the
//! number of queues (be32), and for each queue its size (be32), with MMIO its alignment (be32), its
//! address (be64), last index (be16), and with MSI-X its vector (be16); then the MAC, and behind it
//! counters (be32, be32), status (be16), two switches (u8), the other addresses that the guest
//! filters by (be32 of them), and 512 bytes of VLANs; at last a few switches and the subsections.

use super::{Card, Fields, Place};
use crate::identity::error::Unproved;
use crate::identity::mac::Mac;

/// virtio's vendor id at the beginning of a configuration space.
const VENDOR: [u8; 2] = [0xf4, 0x1a];
/// `PCI_CAP_ID_MSIX`.
const MSIX: u8 = 0x11;
/// Queues that a device can have (`VIRTIO_QUEUE_MAX`).
const QUEUE_LIMIT: u32 = 1024;
/// Entries that a queue can have (`VIRTQUEUE_MAX_SIZE` is 1024; the specification allows this).
const QUEUE_SIZE_LIMIT: u32 = 1 << 15;
/// The longest configuration of a virtio device.
const CONFIG_LIMIT: usize = 256;
/// `MAC_TABLE_ENTRIES`.
const FILTER_LIMIT: usize = 64;
const VLAN_BYTES: usize = 512;
/// The switches behind the VLANs: `has_vnet_hdr` (be32) and seven of a byte.
const SWITCH_BYTES: usize = 11;
/// What may follow them: numbers of queue pairs (be16, be16), offloads (be64), and a counter (be32)
/// for each of the other pairs.
const PAIR_BYTES: usize = 4 + 8 + 4 * QUEUE_LIMIT as usize / 2;

pub(super) fn card(fields: &Fields<'_>) -> Result<Card, Unproved> {
    let field = fields.one("virtio", |field| field.path == "virtio")?;
    let (found, unknown) = match field.bytes {
        [0, 0, 0, 2, VENDOR_LOW, VENDOR_HIGH, ..] => {
            let [legacy, express] = [256, 4096].map(|config| parse(field.bytes, Transport::Pci { config }));
            // No bytes are both, but it would be wrong to choose.
            let found = match (legacy, express) {
                (Some(found), None) | (None, Some(found)) => Some(found),
                _ => None,
            };
            (found, Unproved::Structure("its state"))
        }
        bytes => (parse(bytes, Transport::Mmio), Unproved::Transport),
    };
    let Found { config, mac } = found.ok_or(unknown)?;
    let own = Place::Bytes(field.offset + mac);
    let copy = Place::Bytes(field.offset + config);
    let mac = fields.mac(&own, "mac")?;
    let mut places = vec![own];
    match copy.get(fields.body) {
        // The guest has not read it.
        Some([0, 0, 0, 0, 0, 0]) => {}
        Some(found) if Mac::new(found).is_some() => places.push(copy),
        found => {
            let place = "the copy of the configuration";
            return Err(Unproved::NoMac { place, found: found.unwrap_or_default() });
        }
    }
    Ok(Card { mac, places, of_the_destination: false })
}

const VENDOR_LOW: u8 = VENDOR[0];
const VENDOR_HIGH: u8 = VENDOR[1];

#[derive(Debug, Clone, Copy)]
enum Transport {
    /// With so many bytes of configuration space.
    Pci {
        config: usize,
    },
    Mmio,
}

/// Where the two addresses are.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// The device's configuration, which begins with one.
    config: usize,
    mac: usize,
}

/// None where the bytes are not what [the module](self) describes.
fn parse(bytes: &[u8], transport: Transport) -> Option<Found> {
    let mut at = Cursor { bytes, at: 0 };
    let (has_vectors, has_alignment) = match transport {
        Transport::Pci { config } => (at.pci(config)?, false),
        Transport::Mmio => {
            at.skip(12)?;
            (false, true)
        }
    };
    at.skip(1 + 1 + 2 + 4)?;
    let length = at.be32()? as usize;
    if !(6..=CONFIG_LIMIT).contains(&length) {
        return None;
    }
    let config = at.skip(length)?;
    let queues = at.be32()?;
    if !(2..=QUEUE_LIMIT).contains(&queues) {
        return None;
    }
    for _ in 0..queues {
        if !(1..=QUEUE_SIZE_LIMIT).contains(&at.be32()?) {
            return None;
        }
        at.skip(if has_alignment { 4 } else { 0 } + 8 + 2 + if has_vectors { 2 } else { 0 })?;
    }
    let mac = at.skip(6)?;
    at.skip(4 + 4 + 2 + 1 + 1)?;
    let filters = at.be32()? as usize;
    if filters > FILTER_LIMIT {
        return None;
    }
    at.skip(filters * 6 + VLAN_BYTES + SWITCH_BYTES)?;
    ends_well(&bytes[at.at..]).then_some(Found { config, mac })
}

/// The subsections, each of which is named after virtio, follow at once or behind what a device with
/// several queue pairs has; or there are none.
fn ends_well(rest: &[u8]) -> bool {
    let is_subsection = |at: usize| matches!(&rest[at..], [5, length, name @ ..] if usize::from(*length) > 7 && name.starts_with(b"virtio"));
    (0..rest.len().min(PAIR_BYTES + 1)).any(is_subsection) || rest.len() <= PAIR_BYTES
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(taken)
    }

    /// Where the bytes are that are passed over.
    fn skip(&mut self, length: usize) -> Option<usize> {
        let at = self.at;
        self.take(length).map(|_| at)
    }

    fn be32(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// What virtio-pci sends before the rest; whether there are MSI-X vectors.
    fn pci(&mut self, config_bytes: usize) -> Option<bool> {
        self.skip(4)?;
        let config = self.take(config_bytes)?;
        self.skip(16)?;
        let Some(vectors) = msix_vectors(config)? else { return Some(false) };
        self.skip(vectors * 16 + vectors.div_ceil(8) + 2)?;
        Some(true)
    }
}

/// How many MSI-X vectors the function has; none of it if its list of capabilities makes no sense.
fn msix_vectors(config: &[u8]) -> Option<Option<usize>> {
    let mut at = usize::from(*config.get(0x34)?);
    // As many as there is room for.
    for _ in 0..48 {
        if at == 0 {
            return Some(None);
        }
        let &[id, next, low, high] = config.get(at..at + 4)?.first_chunk()?;
        if id == MSIX {
            return Some(Some(usize::from(u16::from_le_bytes([low, high]) & 0x7ff) + 1));
        }
        at = usize::from(next);
    }
    None
}
