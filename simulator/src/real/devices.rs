//! Device state, as far as a VM without devices has one: generated sections with a description that
//! fits them.

use crate::generate::{Vm, VmConfig};
use crc_fast::{CrcAlgorithm, checksum};
use migration_stream::QEMU_VM_EOF;

/// The device sections of a moment.
#[derive(Debug, Clone)]
pub(super) struct Devices {
    /// Sections, EOF, vmdesc.
    pub(super) tail: Vec<u8>,
    /// Bytes of the sections.
    sections: usize,
}

impl Devices {
    /// The state of `count` devices; it differs from moment to moment.
    pub(super) fn at(seed: u64, moment: u64, count: usize) -> Self {
        let config = VmConfig {
            devices: count.max(1),
            ..VmConfig::background(seed ^ moment.rotate_left(20), 4096, 0)
        };
        let tail = Vm::new(config).tail().to_vec();
        // EOF, 0x06, the JSON's length, the JSON; which has no control bytes, so the last match is the one.
        let eof = tail.windows(7).rposition(|window| window[..2] == [QEMU_VM_EOF, 0x06] && window[6] == b'{');
        Self { sections: eof.unwrap_or(tail.len()), tail }
    }

    /// The sections alone, as they go into a package.
    pub(super) fn sections(&self) -> &[u8] {
        &self.tail[..self.sections]
    }

    /// Checksum of the sections.
    pub(super) fn checksum(&self) -> u64 {
        sections_checksum(self.sections())
    }
}

/// The checksum of device sections, headers and footers included.
pub(super) fn sections_checksum(bytes: &[u8]) -> u64 {
    checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_end_before_the_end_mark_and_change_with_the_moment() {
        let devices = Devices::at(1, 2, 5);
        let sections = devices.sections();
        assert_eq!(sections[0], 0x04);
        assert_eq!(devices.tail[sections.len()..][..2], [0x00, 0x06]);
        assert_eq!(sections[sections.len() - 5], 0x7e);
        assert_ne!(devices.checksum(), Devices::at(1, 3, 5).checksum());
    }
}
