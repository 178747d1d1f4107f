//! The device tail: from the first device section to the end of the stream.

use crate::failure::{Failure, Region, Unsupported};
use crate::memory::append;
use migration_stream::Decoder;
use migration_stream::device_tail::{Trailer, cut, expected_end};

/// Space reserved for the tail before a byte of it is read: as much as an ordinary machine needs.
pub(crate) const FIRST_CAPACITY_BYTES: u64 = 512 << 10;
/// What one read of the tail brings at the most: no more is read than space has been reserved for.
pub(crate) const TAIL_READ_BYTES: usize = 64 << 10;
/// The most that a tail may have.
const LIMIT_BYTES: u64 = 256 << 20;

/// Collects the tail, and knows when it is whole.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) bytes: Vec<u8>,
    /// Where it starts in the stream.
    offset: u64,
    /// Space that the image has reserved for it.
    pub(crate) capacity: u64,
    no_vmdesc: bool,
    /// Bytes that do not tell where it ends.
    searched: usize,
    expected_end: Option<u64>,
}

impl Tail {
    pub(crate) fn new(no_vmdesc: bool, offset: u64) -> Self {
        Self {
            bytes: Vec::new(),
            offset,
            capacity: FIRST_CAPACITY_BYTES,
            no_vmdesc,
            searched: 0,
            expected_end: None,
        }
    }

    /// Appends what has arrived.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        append(&mut self.bytes, bytes, Region::Devices.name())?;
        if self.bytes.len() as u64 > LIMIT_BYTES {
            return Err(Unsupported::TooLarge { region: Region::Devices, limit_bytes: LIMIT_BYTES }.into());
        }
        Ok(())
    }

    /// The capacity that has to be reserved before more may be read, if it is not there yet.
    pub(crate) fn missing_capacity(&self) -> Option<u64> {
        let needed = (self.bytes.len() + TAIL_READ_BYTES) as u64;
        (needed > self.capacity).then(|| needed.next_multiple_of(FIRST_CAPACITY_BYTES) * 2)
    }

    /// What has come looks like the whole of it. A source that waits for an answer never closes its
    /// side, so there the content has to tell.
    pub(crate) fn looks_whole(&mut self) -> bool {
        if self.expected_end.is_none() {
            self.expected_end = expected_end(&self.bytes, self.searched);
            self.searched = self.bytes.len();
        }
        self.expected_end == Some(self.bytes.len() as u64)
    }

    /// Verifies the tail from its first to its last byte.
    pub(crate) fn verify(&self, decoder: &Decoder) -> Result<(), Failure> {
        let tail = cut(&self.bytes, self.offset, decoder)?;
        if matches!(tail.trailer, Trailer::NoVmdesc) && !self.no_vmdesc {
            return Err(Unsupported::NoVmdesc.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_space_was_reserved_for() {
        let mut tail = Tail::new(false, 0);
        tail.push(&vec![0; (512 - 64) << 10]).unwrap();
        assert_eq!(tail.missing_capacity(), None);
        tail.push(&[0]).unwrap();
        assert_eq!(tail.missing_capacity(), Some(2 << 20));
        tail.capacity = 2 << 20;
        assert_eq!(tail.missing_capacity(), None);
    }

    #[test]
    fn it_has_a_limit() {
        // Memory that no one touches.
        let mut tail = Tail { bytes: vec![0; 256 << 20], ..Tail::new(false, 0) };
        tail.push(&[]).unwrap();
        let error = tail.push(&[0]).unwrap_err();
        assert_eq!(error.to_string(), "device sections: more than 268435456 bytes");
    }

    #[test]
    fn it_looks_whole_when_the_vmdesc_is() {
        let mut whole = vec![0x7e, 0, 0, 0, 4, 0, 6, 0, 0, 0, 12];
        whole.extend_from_slice(br#"{"devices":1"#);
        for cut in 0..=whole.len() {
            let mut tail = Tail::new(false, 0);
            tail.push(&whole[..cut]).unwrap();
            assert_eq!(tail.looks_whole(), cut == whole.len(), "{cut} bytes");
        }
        let mut tail = Tail::new(false, 0);
        for (at, byte) in whole.iter().enumerate() {
            tail.push(&[*byte]).unwrap();
            assert_eq!(tail.looks_whole(), at + 1 == whole.len(), "byte {at}");
        }
    }
}
