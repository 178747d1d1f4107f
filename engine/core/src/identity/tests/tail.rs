//! Device tails as QEMU writes them, as far as the NICs in them go.

use crate::identity::Mac;
use migration_stream::{
    Decoder, Options, QEMU_VM_EOF, SectionHeader, SectionId, put_section_footer, put_section_header,
};
use std::fmt::Write;

/// A field of a vmdesc.
#[derive(Debug, Clone)]
pub(super) struct FieldBuilder {
    name: String,
    type_name: &'static str,
    count: Option<usize>,
    pub(super) size: usize,
    subsection: bool,
}

/// A device section and its description.
#[derive(Debug, Clone)]
pub(super) struct DeviceBuilder {
    pub(super) idstr: String,
    pub(super) instance: u32,
    pub(super) vmsd: String,
    pub(super) fields: Vec<FieldBuilder>,
    pub(super) body: Vec<u8>,
}

impl DeviceBuilder {
    pub(super) fn new(place: &str, vmsd: &str) -> Self {
        let idstr = if place.is_empty() { vmsd.to_owned() } else { format!("{place}/{vmsd}") };
        Self { idstr, instance: 0, vmsd: vmsd.to_owned(), fields: Vec::new(), body: Vec::new() }
    }

    pub(super) fn field(mut self, name: &str, type_name: &'static str, bytes: &[u8]) -> Self {
        let unit = match type_name {
            "uint16" => Some(2),
            "uint32" => Some(4),
            _ => None,
        };
        let size = unit.unwrap_or(bytes.len());
        let count = unit.map(|unit| bytes.len() / unit);
        let name = name.to_owned();
        self.fields.push(FieldBuilder { name, type_name, count, size, subsection: false });
        self.body.extend_from_slice(bytes);
        self
    }

    /// What follows is in a subsection of this name.
    fn subsection(mut self, name: &str) -> Self {
        self.body.extend_from_slice(&[5, u8::try_from(name.len()).unwrap()]);
        self.body.extend_from_slice(name.as_bytes());
        self.body.extend_from_slice(&1u32.to_be_bytes());
        let name = name.to_owned();
        self.fields.push(FieldBuilder { name, type_name: "", count: None, size: 0, subsection: true });
        self
    }

    fn describe(&self, json: &mut String) {
        let (idstr, instance, vmsd) = (json_text(&self.idstr), self.instance, json_text(&self.vmsd));
        let _ = write!(
            json,
            r#"{{"name": {idstr}, "instance_id": {instance}, "vmsd_name": {vmsd}, "version": 1, "fields": ["#
        );
        let mut first = true;
        let mut is_sub = false;
        for field in &self.fields {
            let name = json_text(&field.name);
            if field.subsection {
                let _ =
                    write!(json, r#"], "subsections": [{{"vmsd_name": {name}, "version": 1, "fields": ["#);
                (first, is_sub) = (true, true);
                continue;
            }
            let count = field.count.map_or(String::new(), |count| format!(r#""array_len": {count}, "#));
            let comma = if first { "" } else { ", " };
            let _ = write!(
                json,
                r#"{comma}{{"name": {name}, {count}"type": "{}", "size": {}}}"#,
                field.type_name, field.size
            );
            first = false;
        }
        json.push_str(if is_sub { "]}]}" } else { "]}" });
    }
}

fn json_text(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// A whole tail.
pub(super) struct Made {
    pub(super) tail: Vec<u8>,
    pub(super) decoder: Decoder,
    pub(super) eof: usize,
}

impl Made {
    pub(super) fn of(devices: &[DeviceBuilder]) -> Self {
        let mut tail = Vec::new();
        let mut json = r#"{"page_size": 4096, "devices": ["#.to_owned();
        for (number, device) in devices.iter().enumerate() {
            let section_id = SectionId(u32::try_from(number).unwrap());
            let (idstr, instance_id) = (device.idstr.as_bytes(), device.instance);
            put_section_header(
                &mut tail,
                true,
                &SectionHeader { section_id, idstr, instance_id, version_id: 1 },
            );
            tail.extend_from_slice(&device.body);
            put_section_footer(&mut tail, section_id);
            if number > 0 {
                json.push_str(", ");
            }
            device.describe(&mut json);
        }
        json.push_str("]}");
        let eof = tail.len();
        tail.extend_from_slice(&[QEMU_VM_EOF, 6]);
        tail.extend_from_slice(&u32::try_from(json.len()).unwrap().to_be_bytes());
        tail.extend_from_slice(json.as_bytes());
        Self { tail, decoder: Decoder::new(Options::default()), eof }
    }
}

/// Something else that a machine has.
pub(super) fn filler(seed: u8) -> DeviceBuilder {
    let bytes: Vec<u8> = (0..48).map(|byte: u8| byte.wrapping_mul(seed)).collect();
    let device = DeviceBuilder::new("", if seed.is_multiple_of(2) { "timer" } else { "i8259" });
    DeviceBuilder { instance: u32::from(seed), ..device }.field("data", "buffer", &bytes)
}

/// The words of an EEPROM that begins with the address, of this length in words.
fn eeprom(mac: Mac, words: usize) -> Vec<u8> {
    let mut bytes = swapped(mac);
    bytes.extend((6..126).map(|at| u8::try_from(at).unwrap().wrapping_mul(29)));
    let sum = bytes.chunks(2).map(|word| u16::from_be_bytes([word[0], word[1]])).fold(0, u16::wrapping_add);
    bytes.extend_from_slice(&0xbaba_u16.wrapping_sub(sum).to_be_bytes());
    bytes.resize(2 * words, 0xab);
    bytes
}

/// Each word with its bytes the other way round.
fn swapped(mac: Mac) -> Vec<u8> {
    mac.bytes().chunks(2).flat_map(|word| [word[1], word[0]]).collect()
}

/// RAL and RAH, which is valid.
fn registers(mac: Mac) -> [u8; 8] {
    let [a, b, c, d, e, f] = mac.bytes();
    [d, c, b, a, 0x80, 3, f, e]
}

fn all_registers(mac: Mac, more: &[usize]) -> Vec<u8> {
    let mut bytes = vec![0; 0x20000];
    bytes[0x5400..0x5408].copy_from_slice(&registers(mac));
    for number in more {
        bytes[0x5404 + 8 * number] = 0x80;
    }
    bytes
}

pub(super) fn rtl8139(place: &str, mac: Mac) -> DeviceBuilder {
    let mut contents = vec![0x81, 0x29, 0x10, 0xec, 0x81, 0x39, 0, 0, 0, 0, 0, 0, 0, 0];
    contents.extend(swapped(mac));
    contents.resize(128, 0);
    DeviceBuilder::new(place, "rtl8139")
        .field("parent_obj.config", "pci config", &[0xec; 256])
        .field("phys", "buffer", &mac.bytes())
        .field("mult", "buffer", &[0; 8])
        .field("conf.macaddr", "buffer", &mac.bytes())
        .field("eeprom.contents", "uint16", &contents)
}

pub(super) fn e1000(place: &str, mac: Mac, full: bool) -> DeviceBuilder {
    let mut ra = registers(mac).to_vec();
    ra.resize(128, 0);
    let device = DeviceBuilder::new(place, "e1000")
        .field("eeprom_data", "uint16", &eeprom(mac, 64))
        .field("mac_reg[CTRL]", "uint32", &[0; 4])
        .field("mac_reg[0]", "uint32", &ra)
        .field("mac_reg[1]", "uint32", &[0; 512]);
    if !full {
        return device;
    }
    device.subsection("e1000/full_mac_state").field("mac_reg", "uint32", &all_registers(mac, &[1]))
}

pub(super) fn e1000e(place: &str, mac: Mac) -> DeviceBuilder {
    with_permanent(place, "e1000e", mac, 64, &[1])
}

/// `more` are receive addresses that are valid, too.
pub(super) fn igb(place: &str, mac: Mac, more: &[usize]) -> DeviceBuilder {
    with_permanent(place, "igb", mac, 1024, more)
}

fn with_permanent(place: &str, vmsd: &str, mac: Mac, words: usize, more: &[usize]) -> DeviceBuilder {
    DeviceBuilder::new(place, vmsd)
        .field("core.eeprom", "uint16", &eeprom(mac, words))
        .field("core.mac", "uint32", &all_registers(mac, more))
        .field("core.permanent_mac", "buffer", &mac.bytes())
}

pub(super) fn vmxnet3(place: &str, mac: Mac, express: bool) -> DeviceBuilder {
    let mut config = vec![0; if express { 4096 } else { 256 }];
    if express {
        let [a, b, c, d, e, f] = mac.bytes();
        config[0x100..0x104].copy_from_slice(&[1, 0, 1, 0x15]);
        config[0x150..0x15c].copy_from_slice(&[3, 0, 1, 0, 0xfe, d, e, f, a, b, c, 0xff]);
    }
    DeviceBuilder::new(place, "vmxnet3")
        .field("parent_obj.config", "pci config", &config)
        .field("temp_mac", "uint32", &[0; 4])
}

/// `config` is the length of the PCI configuration space, 0 that of a device without one; `read` says
/// that the guest has read the address.
pub(super) fn virtio_net(place: &str, mac: Mac, config: usize, vectors: usize, read: bool) -> DeviceBuilder {
    let mut out = Vec::new();
    let be32 = |out: &mut Vec<u8>, number: u32| out.extend_from_slice(&number.to_be_bytes());
    if config > 0 {
        let mut space = vec![0; config];
        space[..4].copy_from_slice(&[0xf4, 0x1a, 0, 0x10]);
        space[0x34] = 0x98;
        let size = u8::try_from(vectors.saturating_sub(1)).unwrap();
        space[0x84..0x86].copy_from_slice(&[9, 0]);
        space[0x98..0x9c].copy_from_slice(&[0x11, 0x84, size, 0x80]);
        if vectors == 0 {
            space[0x34] = 0x84;
        }
        be32(&mut out, 2);
        out.extend(space);
        out.extend([0; 16]);
        if vectors > 0 {
            out.resize(out.len() + 16 * vectors + vectors.div_ceil(8) + 2, 0xff);
        }
    } else {
        [0, 0, 12].into_iter().for_each(|number| be32(&mut out, number));
    }
    out.extend([15, 0, 0, 1, 0, 0x10, 0, 0x20]);
    be32(&mut out, 12);
    out.extend(if read { mac.bytes() } else { [0; 6] });
    out.extend([1, 0, 1, 0, 0xdc, 5]);
    be32(&mut out, 3);
    for queue in 0..3_u8 {
        be32(&mut out, 256);
        if config == 0 {
            be32(&mut out, 4096);
        }
        out.extend([0, 0, 0, 0, 7, queue, 0, 0, 0, queue]);
        if vectors > 0 {
            out.extend([0, queue]);
        }
    }
    out.extend(mac.bytes());
    out.extend([0, 0, 0, 0, 0, 0, 0, 12, 0, 1, 0, 0]);
    be32(&mut out, 2);
    out.extend([0x33, 0x33, 0, 0, 0, 1, 1, 0, 0x5e, 0, 0, 1]);
    out.extend([0; 512 + 11]);
    out.extend([0, 0, 0, 0, 0, 0, 0, 7, 5, 22]);
    out.extend_from_slice(b"virtio/64bit_features\0");
    be32(&mut out, 1);
    be32(&mut out, 1);
    DeviceBuilder::new(place, "virtio-net").field("virtio", "virtio", &out)
}
