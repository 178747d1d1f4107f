//! Intel's NICs (hw/net/e1000.c, e1000e.c, igb.c): EEPROM, receive address registers, and for those
//! after e1000 the address that a reset puts back.

use super::place::{SUMMED_WORDS, sum};
use super::{Card, Fields, Place};
use crate::identity::error::Unproved;

/// Offset in bytes of the first receive address (RAL and RAH) in the registers, which are words of
/// 32 bits (`RA` in hw/net/e1000_regs.h).
const RECEIVE_ADDRESSES: usize = 0x5400;
/// Registers of the receive addresses that are numbered on from 16 (`RA2` in `igb_regs.h`).
const MORE_RECEIVE_ADDRESSES: usize = 0x54e0;
/// Receive addresses of each of the two.
const ADDRESSES: usize = 16;
/// Bytes of RAL and RAH.
const ADDRESS_BYTES: usize = 8;
/// All registers: 128 KiB of them.
const REGISTER_BYTES: usize = 0x8000 * 4;
/// `EEPROM_SUM` of the words up to the checksum.
const EEPROM_SUM: u16 = 0xbaba;

const EEPROM: &str = "the EEPROM";
const RA: &str = "the first receive address";

/// `vmstate_e1000`: the registers that are sent one by one have the receive addresses among them;
/// the subsection has all registers.
pub(super) fn e1000(fields: &Fields<'_>) -> Result<Card, Unproved> {
    let eeprom = eeprom(fields, "eeprom_data", 64)?;
    // The first of the three arrays of registers; QEMU numbers fields of one name.
    let ra = fields.of("mac_reg[0]", ADDRESSES * ADDRESS_BYTES)?;
    let ra = Place::Registers(ra.offset);
    let mac = fields.mac(&ra, RA)?;
    let mut places = vec![eeprom, ra];
    let full = "e1000/full_mac_state.mac_reg";
    if fields.decoded.fields.iter().any(|field| field.path.starts_with("e1000/full_mac_state")) {
        let all = Place::Registers(fields.of(full, REGISTER_BYTES)?.offset + RECEIVE_ADDRESSES);
        if fields.mac(&all, RA)? != mac {
            return Err(Unproved::Copies(RA));
        }
        places.push(all);
    }
    Ok(Card { mac, places, of_the_destination: false })
}

/// `e1000e_vmstate`.
pub(super) fn e1000e(fields: &Fields<'_>) -> Result<Card, Unproved> {
    with_permanent(fields, 64)
}

/// `igb_vmstate`. Further receive addresses can be those of virtual functions, which are NICs of
/// their own.
pub(super) fn igb(fields: &Fields<'_>) -> Result<Card, Unproved> {
    let registers = fields.of("core.mac", REGISTER_BYTES)?;
    let first = (1..ADDRESSES).map(|number| RECEIVE_ADDRESSES + number * ADDRESS_BYTES);
    let more = (0..ADDRESSES / 2).map(|number| MORE_RECEIVE_ADDRESSES + number * ADDRESS_BYTES);
    // RAH's upper bit: the address is valid.
    if first.chain(more).any(|at| registers.bytes[at + 4] & 0x80 != 0) {
        return Err(Unproved::Structure(
            "the list of receive addresses, of which the first alone is the NIC's,",
        ));
    }
    with_permanent(fields, 1024)
}

fn with_permanent(fields: &Fields<'_>, eeprom_words: usize) -> Result<Card, Unproved> {
    let eeprom = eeprom(fields, "core.eeprom", eeprom_words)?;
    let ra = Place::Registers(fields.of("core.mac", REGISTER_BYTES)?.offset + RECEIVE_ADDRESSES);
    let permanent = Place::Bytes(fields.of("core.permanent_mac", 6)?.offset);
    let mac = fields.mac(&ra, RA)?;
    fields.mac(&permanent, "core.permanent_mac")?;
    Ok(Card { mac, places: vec![eeprom, ra, permanent], of_the_destination: false })
}

/// The EEPROM, whose first three words are the address, and whose checksum a driver verifies.
fn eeprom(fields: &Fields<'_>, path: &'static str, words: usize) -> Result<Place, Unproved> {
    let field = fields.of(path, 2 * words)?;
    if sum(&field.bytes[..2 * (SUMMED_WORDS + 1)]) != EEPROM_SUM {
        return Err(Unproved::Checksum(EEPROM));
    }
    let place = Place::SummedWords(field.offset);
    fields.mac(&place, EEPROM)?;
    Ok(place)
}
