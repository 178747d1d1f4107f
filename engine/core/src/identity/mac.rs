//! MAC addresses.

use std::fmt;
use std::str::FromStr;

/// The MAC address of one NIC: unicast, and not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac([u8; 6]);

/// Bit of the first byte: a group of NICs (IEEE 802, "I/G").
const GROUP: u8 = 0x01;
/// Bit of the first byte: assigned by whoever runs the network, not by a manufacturer ("U/L").
const LOCAL: u8 = 0x02;
/// The bits of a MAC that a random one chooses: all but those two.
pub(crate) const FREE_BITS: u32 = 46;

impl Mac {
    /// The address with these bytes, if one NIC can have it.
    #[must_use]
    pub fn new(bytes: [u8; 6]) -> Option<Self> {
        (bytes[0] & GROUP == 0 && bytes != [0; 6]).then_some(Self(bytes))
    }

    /// Its bytes, in the order of the wire.
    #[must_use]
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// The locally administered address with these 46 bits: the upper six are in its first byte.
    pub(crate) fn local(bits: u64) -> Self {
        let [_, _, first, rest @ ..] = bits.to_be_bytes();
        let [a, b, c, d, e] = rest;
        Self([first << 2 | LOCAL, a, b, c, d, e])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = String;

    /// Reads `52:54:00:12:34:56`, in any case.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected six bytes in hex, as in 52:54:00:12:34:56".to_owned();
        let mut bytes = [0; 6];
        let mut groups = text.split(':');
        for byte in &mut bytes {
            let group = groups.next().filter(|group| group.len() == 2).ok_or_else(expected)?;
            if !group.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(expected());
            }
            *byte = u8::from_str_radix(group, 16).map_err(|_| expected())?;
        }
        if groups.next().is_some() {
            return Err(expected());
        }
        Self::new(bytes).ok_or_else(|| "expected the address of one NIC: unicast, and not zero".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mac: Mac = "52:54:00:Ab:cD:0f".parse().unwrap();
        assert_eq!(mac.bytes(), [0x52, 0x54, 0, 0xab, 0xcd, 0x0f]);
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:0f");
    }

    #[test]
    fn what_no_nic_can_have_is_refused() {
        for text in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:0f:00",
            "52:54:00:ab:cd:0f ",
            "52-54-00-ab-cd-0f",
            "+2:54:00:ab:cd:0f",
            "2:54:00:ab:cd:0f",
            "525400abcd0f",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_46_free_bits_are_all_in_the_address() {
        assert_eq!(Mac::local(0).to_string(), "02:00:00:00:00:00");
        assert_eq!(Mac::local((1 << FREE_BITS) - 1).to_string(), "fe:ff:ff:ff:ff:ff");
        assert_eq!(Mac::local(1 << 40).to_string(), "06:00:00:00:00:00");
        assert_eq!(Mac::local(1).to_string(), "02:00:00:00:00:01");
    }
}
