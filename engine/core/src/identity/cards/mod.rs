//! Where the section of each kind of NIC holds its MAC.
//!
//! The names of states and fields are QEMU's (`vmstate_*` in hw/net/). A kind is rewritten only if
//! every place that holds its MAC is known; each place must hold what it has to hold before
//! anything is changed.

mod intel;
mod place;
mod rtl8139;
mod virtio_net;
mod vmxnet3;

use super::error::Unproved;
use super::mac::Mac;
use migration_stream::device::{Decoded, DecodedField, Device, decode};
pub(crate) use place::Place;

/// NICs that QEMU migrates, and that are not rewritten: QEMU's names of their states.
const REFUSED: [&str; 37] = [
    "allwinner-sun8i-emac",
    "aw_emac",
    "cadence_gem",
    "dp8393x",
    "ftgmac100",
    "i82550",
    "i82551",
    "i82557a",
    "i82557b",
    "i82557c",
    "i82558a",
    "i82558b",
    "i82559a",
    "i82559b",
    "i82559c",
    "i82559er",
    "i82562",
    "i82596",
    "i82801",
    "imx.fec",
    "lan9118",
    "milkymist-minimac2",
    "mipsnet",
    "msf2-emac",
    "mv88w8618_eth",
    "ne2000",
    "npcm-gmac",
    "npcm7xx-emc",
    "pcnet",
    "smc91c111",
    "spapr_llan",
    "stellaris_enet",
    "sungem",
    "sunhme",
    "tulip",
    "usb-net",
    "xgmac",
];

/// Names of fields that hold a MAC in one device or another.
const MAC_FIELDS: [&str; 9] =
    ["conf.macaddr", "mac", "mac_addr", "macaddr", "padr", "perm_mac", "permanent_mac", "permaddr", "phys"];

/// A NIC whose section is understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Card {
    /// The address that it answers to.
    pub(crate) mac: Mac,
    /// Every place that holds it, or the one that the guest's driver falls back to.
    pub(crate) places: Vec<Place>,
    /// The destination has to be started with the same address.
    pub(crate) of_the_destination: bool,
}

/// What the section `body` of `device` holds: none if it is no NIC.
pub(crate) fn card(device: &Device, body: &[u8]) -> Option<Result<Card, Unproved>> {
    let vmsd = &device.state.vmsd_name[..];
    // A description can claim another name; the sections' own names are what QEMU loads by.
    let kind = device.idstr.rsplit('/').next().unwrap_or_default();
    let is = |name: &str| vmsd == name || kind == name;
    let read: fn(&Fields<'_>) -> Result<Card, Unproved> = match () {
        () if is("virtio-net") => virtio_net::card,
        () if is("e1000") => intel::e1000,
        () if is("e1000e") => intel::e1000e,
        () if is("igb") => intel::igb,
        () if is("rtl8139") => rtl8139::card,
        () if is("vmxnet3") => vmxnet3::card,
        () => {
            let refused = REFUSED.into_iter().find(|name| is(name));
            if let Some(name) = refused {
                return Some(Err(Unproved::Kind { vmsd: name.to_owned() }));
            }
            let field = mac_field(&decode(body, &device.state))?;
            return Some(Err(Unproved::Unknown { field }));
        }
    };
    let decoded = decode(body, &device.state);
    if vmsd != kind || decoded.undecoded_bytes > 0 {
        return Some(Err(Unproved::Structure("its description")));
    }
    Some(read(&Fields { body, decoded: &decoded }))
}

/// A field that may be the MAC of a device that is not known.
fn mac_field(decoded: &Decoded<'_>) -> Option<String> {
    let may_be = |field: &&DecodedField<'_>| {
        let path = field.path.split(['[', '#']).next().unwrap_or_default();
        let named = |name: &str| {
            path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with(['.', '/']))
        };
        field.bytes.len() == 6 && MAC_FIELDS.iter().any(|name| named(name))
    };
    decoded.fields.iter().find(may_be).map(|field| field.path.clone())
}

/// The fields of one section.
pub(crate) struct Fields<'a> {
    body: &'a [u8],
    decoded: &'a Decoded<'a>,
}

impl<'a> Fields<'a> {
    /// Where the one field is that `is` accepts; `name` is what it is called in messages.
    fn one(
        &self,
        name: &'static str,
        is: impl Fn(&DecodedField<'a>) -> bool,
    ) -> Result<&DecodedField<'a>, Unproved> {
        let mut found = self.decoded.fields.iter().filter(|field| is(field));
        match (found.next(), found.next()) {
            (Some(field), None) => Ok(field),
            _ => Err(Unproved::Field(name)),
        }
    }

    /// The field with this path, which has so many bytes.
    fn of(&self, path: &'static str, bytes: usize) -> Result<&DecodedField<'a>, Unproved> {
        let field = self.one(path, |field| field.path == path)?;
        if field.bytes.len() == bytes { Ok(field) } else { Err(Unproved::Field(path)) }
    }

    /// The MAC in this place.
    fn mac(&self, place: &Place, name: &'static str) -> Result<Mac, Unproved> {
        let found = place.get(self.body).ok_or(Unproved::Field(name))?;
        Mac::new(found).ok_or(Unproved::NoMac { place: name, found })
    }
}
