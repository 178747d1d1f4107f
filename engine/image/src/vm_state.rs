//! The VM-state area: header, preamble (sections before RAM), other iterables, device tail.
//!
//! Two forms. `STVM` is the layout of the original `qemu-snapshot` tool, to the byte, so that images pass
//! between the two: magic (be32), page size (be32), PAGE records (be64), then offsets of the RAM section, of
//! the device tail, and of the end (be32 each); 28 bytes. `STV2` is used for what that tool's reader cannot
//! read: the same with be64 offsets, and the other iterables' before the device tail's; 48 bytes. Offsets
//! count from the byte behind the header, which is the first of the stream.

use crate::error::ImageError;
use migration_stream::PageSize;

const MAGIC_STVM: u32 = 0x5354_564d;
const MAGIC_STV2: u32 = 0x5354_5632;
/// The original tool's reader has the header and the preamble in a buffer of 28 KiB.
const STVM_LEADER_LIMIT_BYTES: u64 = 28_644;

/// The longest VM state, in bytes: it is held in memory when it is read.
pub(crate) const VM_STATE_LIMIT_BYTES: u64 = 1 << 30;

/// Which of the two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The original tool's.
    Stvm,
    /// Ours.
    Stv2,
}

/// What a snapshot has beside RAM, and what decides its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmState {
    /// The preamble: file header, configuration, early devices, START sections.
    pub leader: Vec<u8>,
    /// PART and END sections of iterables other than RAM.
    pub third: Vec<u8>,
    /// Byte offset of the RAM section's START in the preamble.
    pub ram_list_offset: u64,
    /// It is the last section of the preamble.
    pub ram_start_is_last: bool,
    /// Sections have footers.
    pub footers: bool,
    /// The block list has fields beside names and lengths.
    pub optional_fields: bool,
    /// PAGE records in the stream, repeats counted.
    pub normal_pages: u64,
}

impl VmState {
    /// The form in which this can be stored.
    #[must_use]
    pub fn form(&self, page_size: u32, tail_bytes: u64) -> Form {
        let fits = self.leader.len() as u64 <= STVM_LEADER_LIMIT_BYTES
            && self.ram_start_is_last
            && (4096..=16384).contains(&page_size)
            && self.footers
            && !self.optional_fields
            && self.third.is_empty()
            && u32::try_from(self.leader.len() as u64 + tail_bytes).is_ok();
        if fits { Form::Stvm } else { Form::Stv2 }
    }
}

/// The header of the VM-state area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VmHeader {
    pub(crate) form: Form,
    pub(crate) page_size: u32,
    pub(crate) normal_pages: u64,
    pub(crate) ram_list_offset: u64,
    /// End of the preamble.
    pub(crate) third_offset: u64,
    pub(crate) device_offset: u64,
    pub(crate) eof_offset: u64,
}

/// The longer of the two headers, in bytes.
pub(crate) const VM_HEADER_LIMIT_BYTES: usize = 48;

impl Form {
    /// Bytes of this form's header.
    pub(crate) fn header_bytes(self) -> u64 {
        match self {
            Form::Stvm => 28,
            Form::Stv2 => 48,
        }
    }
}

impl VmHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let magic = if self.form == Form::Stvm { MAGIC_STVM } else { MAGIC_STV2 };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&self.page_size.to_be_bytes());
        out.extend_from_slice(&self.normal_pages.to_be_bytes());
        match self.form {
            Form::Stvm => {
                for offset in [self.ram_list_offset, self.device_offset, self.eof_offset] {
                    let offset = u32::try_from(offset).expect("a VM state has 1 GiB at most");
                    out.extend_from_slice(&offset.to_be_bytes());
                }
            }
            Form::Stv2 => {
                for offset in [self.ram_list_offset, self.third_offset, self.device_offset, self.eof_offset] {
                    out.extend_from_slice(&offset.to_be_bytes());
                }
            }
        }
        out
    }

    /// Reads a header; `None` if there is none. `area` is the length of the area, which limits what it can
    /// claim.
    pub(crate) fn parse(bytes: &[u8], area: u64) -> Result<Option<Self>, ImageError> {
        let be32 = |at: usize| {
            u64::from(u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
        };
        let be64 = |at: usize| be32(at) << 32 | be32(at + 4);
        if bytes.len() < VM_HEADER_LIMIT_BYTES {
            return Ok(None);
        }
        let form = match u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) {
            MAGIC_STVM => Form::Stvm,
            MAGIC_STV2 => Form::Stv2,
            _ => return Ok(None),
        };
        let page_size = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let [ram_list_offset, third_offset, device_offset, eof_offset] = match form {
            Form::Stvm => [be32(16), be32(20), be32(20), be32(24)],
            Form::Stv2 => [be64(16), be64(24), be64(32), be64(40)],
        };
        if PageSize::new(page_size.into()).is_none() {
            let found = u64::from(page_size);
            return Err(ImageError::Value { what: "page size", found, expected: PageSize::EXPECTED });
        }
        let ordered =
            ram_list_offset < third_offset && third_offset <= device_offset && device_offset <= eof_offset;
        if !ordered || eof_offset > area {
            let expected = "offsets in order, inside the VM-state area";
            return Err(ImageError::Value { what: "header's eof offset", found: eof_offset, expected });
        }
        let normal_pages = be64(8);
        Ok(Some(Self {
            form,
            page_size,
            normal_pages,
            ram_list_offset,
            third_offset,
            device_offset,
            eof_offset,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_form_is_for_what_the_original_tool_can_read() {
        let plain = VmState {
            leader: vec![0; 28_644],
            third: Vec::new(),
            ram_list_offset: 20,
            ram_start_is_last: true,
            footers: true,
            optional_fields: false,
            normal_pages: 1,
        };
        let room = u64::from(u32::MAX) - 28_644;
        for page_size in [4096, 8192, 16384] {
            assert_eq!(plain.form(page_size, room), Form::Stvm);
        }
        assert_eq!(plain.form(4096, room + 1), Form::Stv2);
        assert_eq!(plain.form(2048, 0), Form::Stv2);
        assert_eq!(plain.form(32768, 0), Form::Stv2);
        for change in [
            |vm: &mut VmState| vm.leader.push(0),
            |vm: &mut VmState| vm.third.push(0),
            |vm: &mut VmState| vm.ram_start_is_last = false,
            |vm: &mut VmState| vm.footers = false,
            |vm: &mut VmState| vm.optional_fields = true,
        ] {
            let mut other = plain.clone();
            change(&mut other);
            assert_eq!(other.form(4096, 0), Form::Stv2);
        }
    }

    const STVM: VmHeader = VmHeader {
        form: Form::Stvm,
        page_size: 4096,
        normal_pages: 0x0102_0304_0506_0708,
        ram_list_offset: 0x11,
        third_offset: 0x2233,
        device_offset: 0x2233,
        eof_offset: 0x8877_6655,
    };
    const STV2: VmHeader =
        VmHeader { form: Form::Stv2, device_offset: 0x22_3344, eof_offset: 1 << 40, ..STVM };

    /// The header as it is read back from an area that ends where it says.
    fn read(header: &VmHeader) -> Result<Option<VmHeader>, String> {
        let mut bytes = header.encode();
        assert_eq!(bytes.len() as u64, header.form.header_bytes());
        bytes.resize(VM_HEADER_LIMIT_BYTES, 0);
        VmHeader::parse(&bytes, header.eof_offset).map_err(|error| error.to_string())
    }

    #[test]
    fn a_header_survives_a_round_trip() {
        for header in [STVM, STV2] {
            assert_eq!(read(&header), Ok(Some(header)));
        }
        // No part of the stream but the leader has to be there.
        let least = VmHeader { ram_list_offset: 0, third_offset: 1, device_offset: 1, eof_offset: 1, ..STV2 };
        assert_eq!(read(&least), Ok(Some(least)));
        for page_size in [1024, 65536] {
            let header = VmHeader { page_size, ..STV2 };
            assert_eq!(read(&header), Ok(Some(header)));
        }
    }

    #[test]
    fn what_is_short_or_has_another_magic_is_no_header() {
        let bytes = STV2.encode();
        assert_eq!(VmHeader::parse(&bytes[..47], 1 << 40).unwrap(), None);
        let mut other = bytes.clone();
        other[3] ^= 1;
        assert_eq!(VmHeader::parse(&other, 1 << 40).unwrap(), None);
    }

    #[test]
    fn impossible_fields_are_refused() {
        for (page_size, text) in [(512, "0x200"), (131_072, "0x20000"), (4095, "0xfff"), (0, "0x0")] {
            let expected = format!("snapshot page size {text}, expected a power of two, 1 KiB to 64 KiB");
            assert_eq!(read(&VmHeader { page_size, ..STV2 }), Err(expected));
        }
        for header in [
            VmHeader { ram_list_offset: STV2.third_offset, ..STV2 },
            VmHeader { third_offset: STV2.device_offset + 1, ..STV2 },
            VmHeader { device_offset: STV2.eof_offset + 1, ..STV2 },
        ] {
            let error = read(&header).unwrap_err();
            assert_eq!(
                error,
                "snapshot header's eof offset 0x10000000000, expected offsets in order, inside the VM-state area"
            );
        }
        assert!(VmHeader::parse(&STV2.encode(), STV2.eof_offset - 1).is_err());
        assert!(VmHeader::parse(&STV2.encode(), STV2.eof_offset + 1).is_ok());
    }
}
