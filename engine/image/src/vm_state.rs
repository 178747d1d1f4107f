//! The VM-state area: header, leader, third region, device tail.
//!
//! Two forms. `STVM` is the layout of the original `qemu-snapshot` tool, to the byte, so that images pass between the two:
//! magic (be32), page size (be32), PAGE records (be64), then offsets of the RAM section, of the device tail, and of the end
//! (be32 each); 28 bytes. `STV2` is used where that tool's reader could not cope: the same with be64 offsets, and the
//! third region's before the device tail's; 48 bytes. Offsets count from the byte behind the header, which is the first
//! of the stream.

use crate::error::ImageError;

const MAGIC_STVM: u32 = 0x5354_564d;
const MAGIC_STV2: u32 = 0x5354_5632;
/// The original tool's reader has the header and the leader in a buffer of 28 KiB.
const STVM_LEADER_LIMIT_BYTES: u64 = 28_644;

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
    /// Header, configuration, early devices, START sections.
    pub leader: Vec<u8>,
    /// PART and END sections of iterables other than RAM.
    pub third: Vec<u8>,
    /// Where the RAM section's START stands in the leader.
    pub ram_list_offset: u64,
    /// It is the last thing in the leader.
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
    /// End of the leader.
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
                    // The form was chosen because they fit.
                    out.extend_from_slice(&u32::try_from(offset).unwrap_or(u32::MAX).to_be_bytes());
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

    /// Reads a header; `None` if there is none. `area` is the length of the area, which limits what it can claim.
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
        if !page_size.is_power_of_two() || !(1 << 10..=1 << 16).contains(&page_size) {
            let found = u64::from(page_size);
            return Err(ImageError::Value {
                what: "page size",
                found,
                expected: "a power of two, 1 KiB to 64 KiB",
            });
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
