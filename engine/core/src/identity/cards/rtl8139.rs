//! `vmstate_rtl8139` (hw/net/rtl8139.c): the address registers, what a reset puts there, and the
//! EEPROM, which drivers read first.

use super::{Card, Fields, Place};
use crate::identity::error::Unproved;

/// The EEPROM's first word; a driver that finds another one does not use it.
const EEPROM_MARK: [u8; 2] = [0x81, 0x29];
const EEPROM_BYTES: usize = 128;
/// Offset in bytes of the words that hold the address.
const EEPROM_ADDRESS: usize = 14;

pub(super) fn card(fields: &Fields<'_>) -> Result<Card, Unproved> {
    let registers = Place::Bytes(fields.of("phys", 6)?.offset);
    let after_reset = Place::Bytes(fields.of("conf.macaddr", 6)?.offset);
    let eeprom = fields.of("eeprom.contents", EEPROM_BYTES)?;
    if !eeprom.bytes.starts_with(&EEPROM_MARK) {
        return Err(Unproved::Structure("the EEPROM"));
    }
    let eeprom = Place::Words(eeprom.offset + EEPROM_ADDRESS);
    let mac = fields.mac(&registers, "phys")?;
    fields.mac(&after_reset, "conf.macaddr")?;
    fields.mac(&eeprom, "the EEPROM")?;
    Ok(Card { mac, places: vec![registers, after_reset, eeprom], of_the_destination: false })
}
