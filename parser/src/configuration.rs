//! The file header and the configuration section.

use crate::error::ErrorKind;
use crate::page_size::PageSize;
use crate::prelude::*;
use crate::section::{counted32, str8};
use crate::span::{Parsed, Span, take};
use nom::Parser;
use nom::number::streaming::{be_u8, be_u32};

/// `QEMU_VM_FILE_MAGIC`: `QEVM`.
pub(crate) const QEMU_VM_FILE_MAGIC: u32 = 0x5145_564d;
/// `QEMU_VM_FILE_VERSION`.
pub(crate) const QEMU_VM_FILE_VERSION: u32 = 3;
/// Type byte of the configuration section.
pub(crate) const QEMU_VM_CONFIGURATION: u8 = 0x07;
/// Type byte of a subsection.
pub(crate) const QEMU_VM_SUBSECTION: u8 = 0x05;

const NAME_LIMIT: u32 = 255;
const CAPABILITY_LIMIT: u32 = 64;

/// Parses the file header: magic (be32), version (be32). `qemu_loadvm_state_header` (migration/savevm.c).
///
/// # Errors
///
/// `Magic`, naming some formats that people take for a stream, or `Version`.
pub(crate) fn file_header(input: Span<'_>) -> Parsed<'_, ()> {
    let (at_version, magic) = be_u32.parse(input)?;
    if magic != QEMU_VM_FILE_MAGIC {
        return Err(input.reject(ErrorKind::Magic { found: magic }));
    }
    let (rest, version) = be_u32.parse(at_version)?;
    if version != QEMU_VM_FILE_VERSION {
        return Err(at_version.reject(ErrorKind::Version { found: version }));
    }
    Ok((rest, ()))
}

/// Writes what `file_header` accepts.
pub fn put_file_header(out: &mut Vec<u8>) {
    out.extend_from_slice(&QEMU_VM_FILE_MAGIC.to_be_bytes());
    out.extend_from_slice(&QEMU_VM_FILE_VERSION.to_be_bytes());
}

/// The configuration section: machine type and what both sides must agree on (`vmstate_configuration`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configuration {
    /// Machine type, without NUL.
    pub machine: Vec<u8>,
    /// `configuration/target-page-bits`.
    pub target_page_bits: Option<u32>,
    /// `configuration/capabilities`.
    pub capabilities: Option<Vec<Vec<u8>>>,
    /// `configuration/uuid`.
    pub uuid: Option<[u8; 16]>,
}

impl Configuration {
    /// Whether the stream names this capability.
    #[must_use]
    pub fn has_capability(&self, name: &str) -> bool {
        self.capabilities.iter().flatten().any(|capability| capability == name.as_bytes())
    }
}

/// Parses the configuration section, its type byte included: name length (be32), name, then subsections:
/// `05`, name (str8), version 1 (be32), payload. The list ends where no `05` follows.
///
/// # Errors
///
/// `Limit`, `ConfigurationSubsection` for unknown or repeated ones and ones out of order, `Value`.
pub(crate) fn configuration(input: Span<'_>) -> Parsed<'_, Configuration> {
    let (at_length, _) = be_u8.parse(input)?;
    let (rest, length) = be_u32.parse(at_length)?;
    if length > NAME_LIMIT {
        let (found, limit) = (u64::from(length), u64::from(NAME_LIMIT));
        return Err(at_length.reject(ErrorKind::Limit { what: "machine name length", found, limit }));
    }
    let (mut rest, machine) = take(rest, length as usize)?;
    let mut configuration = Configuration { machine: machine.to_vec(), ..Configuration::default() };
    let mut last = 0;
    loop {
        let (at_name, mark) = be_u8.parse(rest)?;
        if mark != QEMU_VM_SUBSECTION {
            return Ok((rest, configuration));
        }
        let (at_version, name) = str8(at_name)?;
        let (payload, version) = be_u32.parse(at_version)?;
        if version != 1 {
            let found = u64::from(version);
            return Err(at_version.reject(ErrorKind::Value {
                what: "subsection version",
                found,
                expected: "1",
            }));
        }
        let order = match name {
            b"configuration/target-page-bits" => 1,
            b"configuration/capabilities" => 2,
            b"configuration/uuid" => 3,
            _ => 0,
        };
        if order <= last {
            return Err(at_name.reject(ErrorKind::ConfigurationSubsection { name: name.to_vec() }));
        }
        last = order;
        rest = match order {
            1 => {
                let (rest, bits) = be_u32.parse(payload)?;
                if PageSize::from_bits(bits).is_none() {
                    let found = u64::from(bits);
                    return Err(payload.reject(ErrorKind::Value {
                        what: "target page bits",
                        found,
                        expected: "10 to 16",
                    }));
                }
                configuration.target_page_bits = Some(bits);
                rest
            }
            2 => {
                let (mut rest, count) = be_u32.parse(payload)?;
                if count > CAPABILITY_LIMIT {
                    let (found, limit) = (u64::from(count), u64::from(CAPABILITY_LIMIT));
                    return Err(payload.reject(ErrorKind::Limit { what: "capability count", found, limit }));
                }
                let mut names = Vec::new();
                for _ in 0..count {
                    let (after, name) = str8(rest)?;
                    names.push(name.to_vec());
                    rest = after;
                }
                configuration.capabilities = Some(names);
                rest
            }
            _ => {
                let (rest, uuid) = take(payload, 16)?;
                configuration.uuid = uuid.try_into().ok();
                rest
            }
        };
    }
}

/// Writes what `configuration` accepts.
pub fn put_configuration(out: &mut Vec<u8>, configuration: &Configuration) {
    let subsection = |out: &mut Vec<u8>, name: &[u8], payload: &[u8]| {
        out.push(QEMU_VM_SUBSECTION);
        crate::section::put_str8(out, name);
        out.extend_from_slice(&1u32.to_be_bytes());
        out.extend_from_slice(payload);
    };
    out.push(QEMU_VM_CONFIGURATION);
    let (length, machine) = counted32(&configuration.machine);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(machine);
    if let Some(bits) = configuration.target_page_bits {
        subsection(out, b"configuration/target-page-bits", &bits.to_be_bytes());
    }
    if let Some(names) = &configuration.capabilities {
        let (count, names) = counted32(names);
        let mut payload = count.to_be_bytes().to_vec();
        names.iter().for_each(|name| crate::section::put_str8(&mut payload, name));
        subsection(out, b"configuration/capabilities", &payload);
    }
    if let Some(uuid) = &configuration.uuid {
        subsection(out, b"configuration/uuid", uuid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::Reject;

    /// What is read of a configuration section with a byte behind it, or what is wrong and where.
    fn said(written: &Configuration) -> Result<Configuration, String> {
        let mut bytes = Vec::new();
        put_configuration(&mut bytes, written);
        bytes.push(QEMU_VM_CONFIGURATION);
        match configuration(Span::new(&bytes, 8)) {
            Ok((rest, read)) => {
                assert_eq!(rest.bytes.len(), 1);
                Ok(read)
            }
            Err(nom::Err::Error(Reject { offset, kind }) | nom::Err::Failure(Reject { offset, kind })) => {
                Err(format!("{offset:#x}: {kind}"))
            }
            Err(nom::Err::Incomplete(_)) => Err("more".to_owned()),
        }
    }

    #[test]
    fn a_configuration_is_read_up_to_its_limits() {
        let machine = |length| Configuration { machine: vec![b'm'; length], ..Default::default() };
        assert_eq!(said(&machine(255)), Ok(machine(255)));
        assert_eq!(said(&machine(256)), Err("0x9: machine name length is 256, the limit is 255".to_owned()));
        let capabilities =
            |count| Configuration { capabilities: Some(vec![b"c".to_vec(); count]), ..Default::default() };
        assert_eq!(said(&capabilities(64)), Ok(capabilities(64)));
        assert_eq!(said(&capabilities(65)), Err("0x2d: capability count is 65, the limit is 64".to_owned()));
        let bits = |bits| Configuration { target_page_bits: Some(bits), ..Default::default() };
        for right in [10, 16] {
            assert_eq!(said(&bits(right)), Ok(bits(right)));
        }
        for wrong in [9, 17] {
            let expected = format!("0x31: target page bits {wrong:#x}, expected 10 to 16");
            assert_eq!(said(&bits(wrong)), Err(expected));
        }
    }

    #[test]
    fn every_subsection_survives_a_round_trip() {
        let whole = Configuration {
            machine: b"pc".to_vec(),
            target_page_bits: Some(13),
            capabilities: Some(vec![b"x-ignore-shared".to_vec(), b"xbzrle".to_vec()]),
            uuid: Some(*b"0123456789abcdef"),
        };
        assert_eq!(said(&whole), Ok(whole.clone()));
        assert!(whole.has_capability("xbzrle"));
        assert!(!whole.has_capability("xbzrl"));
        assert!(!Configuration::default().has_capability("xbzrle"));
    }
}
