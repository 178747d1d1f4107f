//! One place in a section that holds a MAC, and the forms that it has there.

use crate::identity::mac::Mac;

/// A place in a section's body; numbers are offsets of bytes there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Six bytes in the order of the wire.
    Bytes(usize),
    /// Three words of 16 bits, each sent with its upper byte first, which hold the bytes of the
    /// address with the lower byte first: an EEPROM's.
    Words(usize),
    /// The same at the beginning of an EEPROM of 64 words, the last of which makes the sum of all
    /// what it has to be.
    SummedWords(usize),
    /// Receive address registers of Intel NICs, RAL and RAH: two words of 32 bits, each sent with
    /// its upper byte first, which hold the bytes of the address with the lowest byte first. The
    /// upper 16 bits of RAH are something else.
    Registers(usize),
    /// PCIe's device serial number as VMware's NICs have it: 0xfe, the last three bytes, the first
    /// three, 0xff.
    SerialNumber(usize),
}

/// Words before an EEPROM's checksum.
pub(crate) const SUMMED_WORDS: usize = 63;

impl Place {
    /// Where each of the six bytes is.
    fn offsets(&self) -> [usize; 6] {
        match *self {
            Self::Bytes(at) => [0, 1, 2, 3, 4, 5].map(|byte| at + byte),
            Self::Words(at) | Self::SummedWords(at) => [1, 0, 3, 2, 5, 4].map(|byte| at + byte),
            Self::Registers(at) => [3, 2, 1, 0, 7, 6].map(|byte| at + byte),
            Self::SerialNumber(at) => [4, 5, 6, 1, 2, 3].map(|byte| at + byte),
        }
    }

    /// Every byte that [`put`](Self::put) may change.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> Vec<usize> {
        let mut bytes = self.offsets().to_vec();
        if let Self::SummedWords(at) = *self {
            bytes.extend([0, 1].map(|byte| at + 2 * SUMMED_WORDS + byte));
        }
        bytes
    }

    /// The six bytes; none if they are not all in `body`.
    pub(crate) fn get(&self, body: &[u8]) -> Option<[u8; 6]> {
        let mut found = [0; 6];
        for (byte, at) in found.iter_mut().zip(self.offsets()) {
            *byte = *body.get(at)?;
        }
        Some(found)
    }

    /// Writes the address; nothing if the place is not in `body`.
    pub(crate) fn put(&self, body: &mut [u8], mac: Mac) {
        let before = self.sum(body);
        for (byte, at) in mac.bytes().into_iter().zip(self.offsets()) {
            if let Some(place) = body.get_mut(at) {
                *place = byte;
            }
        }
        if let (Self::SummedWords(at), Some(before), Some(after)) = (self, before, self.sum(body))
            && let Some(place) = body[at + 2 * SUMMED_WORDS..].first_chunk_mut()
        {
            let checksum = u16::from_be_bytes(*place);
            *place = checksum.wrapping_add(before).wrapping_sub(after).to_be_bytes();
        }
    }

    /// The sum of the words before the checksum.
    fn sum(&self, body: &[u8]) -> Option<u16> {
        let Self::SummedWords(at) = *self else { return None };
        let words = body.get(at..at + 2 * (SUMMED_WORDS + 1))?;
        Some(sum(&words[..2 * SUMMED_WORDS]))
    }
}

/// The sum of words of 16 bits that were sent with their upper byte first.
pub(crate) fn sum(words: &[u8]) -> u16 {
    let words = words.chunks_exact(2).map(|word| u16::from(word[0]) << 8 | u16::from(word[1]));
    words.fold(0, u16::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac(last: u8) -> Mac {
        Mac::new([0x52, 0x54, 0, 0xaa, 0xbb, last]).unwrap()
    }

    #[test]
    fn each_form_is_read_as_it_was_written() {
        let cases: [(Place, &[u8]); 4] = [
            (Place::Bytes(1), &[9, 0x52, 0x54, 0, 0xaa, 0xbb, 0xcc, 9]),
            (Place::Words(1), &[9, 0x54, 0x52, 0xaa, 0, 0xcc, 0xbb, 9]),
            // RAL 0xaa005452, RAH with its valid bit 0x8000ccbb.
            (Place::Registers(1), &[9, 0xaa, 0, 0x54, 0x52, 0x80, 0, 0xcc, 0xbb, 9]),
            (Place::SerialNumber(1), &[9, 0xfe, 0xaa, 0xbb, 0xcc, 0x52, 0x54, 0, 0xff, 9]),
        ];
        for (place, bytes) in cases {
            assert_eq!(place.get(bytes), Some(mac(0xcc).bytes()), "{place:?}");
            let mut changed = bytes.to_vec();
            place.put(&mut changed, mac(0xdd));
            let differ: Vec<_> = (0..bytes.len()).filter(|&at| changed[at] != bytes[at]).collect();
            assert_eq!(differ.len(), 1, "{place:?}");
            assert_eq!(place.get(&changed), Some(mac(0xdd).bytes()));
            assert_eq!(place.get(&bytes[..4]), None);
        }
    }

    #[test]
    fn an_eeprom_keeps_its_sum() {
        let place = Place::SummedWords(2);
        let mut body: Vec<u8> = (0..132).map(|byte: u8| byte.wrapping_mul(7)).collect();
        let whole = |body: &[u8]| sum(&body[2..130]);
        let before = whole(&body);
        for last in 0..=255 {
            place.put(&mut body, mac(last));
            assert_eq!(place.get(&body), Some(mac(last).bytes()));
            assert_eq!(whole(&body), before);
        }
        let unchanged = body.clone();
        place.put(&mut body, mac(255));
        assert_eq!(body, unchanged);
    }
}
