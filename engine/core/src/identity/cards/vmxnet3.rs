//! `vmstate_vmxnet3` (hw/net/vmxnet3.c). The MAC is not in it: the destination's is the one that it
//! was started with. On PCIe the device's serial number is made of it, which the destination
//! compares with its own when it loads the section (`get_pci_config_device`, hw/pci/pci.c).

use super::{Card, Fields, Place};
use crate::identity::error::Unproved;

/// Bytes of a PCIe function's configuration space.
const CONFIG_BYTES: usize = 4096;
/// Where the list of extended capabilities begins (PCIe base specification, 7.6).
const FIRST_CAPABILITY: usize = 0x100;
/// `PCI_EXT_CAP_ID_DSN`.
const SERIAL_NUMBER: u16 = 3;
/// More than a configuration space has room for.
const CAPABILITY_LIMIT: usize = CONFIG_BYTES / 8;

pub(super) fn card(fields: &Fields<'_>) -> Result<Card, Unproved> {
    let name = "parent_obj.config";
    let config = fields.one(name, |field| field.type_name == "pci config")?;
    let at = serial_number(config.bytes).ok_or(Unproved::NotInStream)?;
    if config.bytes.get(at) != Some(&0xfe) || config.bytes.get(at + 7) != Some(&0xff) {
        return Err(Unproved::Structure("the PCIe serial number"));
    }
    let place = Place::SerialNumber(config.offset + at);
    let mac = fields.mac(&place, "the PCIe serial number")?;
    Ok(Card { mac, places: vec![place], of_the_destination: true })
}

/// Where the serial number is in this configuration space.
fn serial_number(config: &[u8]) -> Option<usize> {
    let mut at = FIRST_CAPABILITY;
    for _ in 0..CAPABILITY_LIMIT {
        let header = u32::from_le_bytes(*config.get(at..)?.first_chunk()?);
        if header & 0xffff == u32::from(SERIAL_NUMBER) {
            return Some(at + 4);
        }
        at = (header >> 20) as usize;
        if at < FIRST_CAPABILITY {
            return None;
        }
    }
    None
}
