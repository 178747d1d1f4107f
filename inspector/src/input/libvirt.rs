//! The header of a libvirt save image (`virsh save`).
//!
//! In the byte order of the host that wrote it: magic (16 bytes), version (u32), length of the data
//! behind the header (u32), whether the guest ran (u32), how the stream is packed (u32), where the
//! cookie begins (u32), 56 unused bytes. The data is the domain's XML with a NUL, the cookie, and
//! padding; then the stream.

use crate::error::Error;

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 92;
/// The longest XML and cookie that are accepted.
const DATA_LIMIT_BYTES: u32 = 64 << 20;

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibvirtHeader {
    /// Its version.
    pub version: u32,
    /// Bytes between the header and the stream.
    pub data_bytes: u32,
    /// The guest ran when it was saved.
    pub was_running: bool,
    /// How the stream is packed.
    pub format: u32,
    /// The save was completed.
    pub complete: bool,
    /// It was written on a host of the other byte order.
    pub swapped: bool,
}

impl LibvirtHeader {
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        let wrong = |why: String| Error::Input { what: name.to_owned(), why };
        let Some(fields) = bytes.get(16..HEADER_BYTES) else {
            return Err(wrong("libvirt save image: cut off inside its header".to_owned()));
        };
        let raw = |at: usize| [fields[at], fields[at + 1], fields[at + 2], fields[at + 3]];
        let swapped = matches!(u32::from_be_bytes(raw(0)), 1..=3);
        let word = |at| if swapped { u32::from_be_bytes(raw(at)) } else { u32::from_le_bytes(raw(at)) };
        let version = word(0);
        if !matches!(version, 1..=3) {
            return Err(wrong(format!("libvirt save image version {version}, expected 1 to 3")));
        }
        let data_bytes = word(4);
        if data_bytes > DATA_LIMIT_BYTES {
            let limit = DATA_LIMIT_BYTES;
            return Err(wrong(format!(
                "libvirt save image: {data_bytes} bytes of XML, at most {limit} can be"
            )));
        }
        // Version 1 has no field for it; the stream was never packed then.
        let format = if version == 1 { 0 } else { word(12) };
        let complete = bytes.starts_with(b"LibvirtQemudSave");
        Ok(Self { version, data_bytes, was_running: word(8) != 0, format, complete, swapped })
    }

    /// Why the stream behind the XML cannot be read here, if so.
    pub(super) fn unread(&self) -> Option<String> {
        let known = self.format <= 6;
        (!known).then(|| format!("libvirt save image packed in an unknown way ({})", self.format))
    }

    /// Name of the stream's packing.
    #[must_use]
    pub fn format_name(&self) -> &'static str {
        match self.format {
            0 => "raw",
            1 => "gzip",
            2 => "bzip2",
            3 => "xz",
            4 => "lzop",
            5 => "zstd",
            6 => "sparse",
            _ => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(fields: [u32; 5]) -> Vec<u8> {
        let mut bytes = b"LibvirtQemudSave".to_vec();
        fields.iter().for_each(|field| bytes.extend_from_slice(&field.to_le_bytes()));
        bytes.resize(HEADER_BYTES, 0);
        bytes
    }

    #[test]
    fn both_byte_orders_are_read() {
        let mut bytes = header([2, 100, 1, 5, 0]);
        let parsed = LibvirtHeader::parse("x", &bytes).unwrap();
        assert_eq!((parsed.data_bytes, parsed.was_running, parsed.format_name()), (100, true, "zstd"));
        for field in bytes[16..36].chunks_mut(4) {
            field.reverse();
        }
        assert_eq!(LibvirtHeader::parse("x", &bytes).unwrap(), LibvirtHeader { swapped: true, ..parsed });
    }

    #[test]
    fn a_length_that_no_domain_has_is_refused() {
        let error = LibvirtHeader::parse("x", &header([2, 0xffff_ffff, 0, 0, 0])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "x: libvirt save image: 4294967295 bytes of XML, at most 67108864 can be"
        );
        let error = LibvirtHeader::parse("x", &header([9, 0, 0, 0, 0])).unwrap_err();
        assert_eq!(error.to_string(), "x: libvirt save image version 9, expected 1 to 3");
    }
}
