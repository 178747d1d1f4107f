//! A multifd channel: pages in packets, on connections of their own.
//!
//! A channel begins with magic (be32), version (be32), UUID (16), channel id (u8), zeros (39). Then packets:
//! magic, version, flags, pages allocated, normal pages, bytes of data (be32 each), packet number (be64),
//! zero pages (be32), 28 zeros, the block's name (256, filled up with NUL), and room for the offsets of 512
//! KiB worth of pages (be64 each), the normal ones first. Data follows if there are normal pages.

use crate::error::{Error, ErrorKind};
use crate::prelude::*;

/// `MULTIFD_MAGIC`.
pub const MULTIFD_MAGIC: u32 = 0x1122_3344;
/// Bytes of the hello that begins a channel.
pub const HELLO_BYTES: usize = 64;
/// RAM of one packet, in bytes.
const PACKET_RAM_BYTES: u32 = 512 << 10;
/// Packet header without the offsets.
const HEADER_BYTES: usize = 320;
/// Packet with the state of a device (10.0): 12 bytes, idstr (256), instance (be32), length (be32).
const DEVICE_STATE_BYTES: usize = 12 + 256 + 4 + 4;
/// The longest data of a packet that is accepted.
const DATA_LIMIT_BYTES: u32 = 16 << 20;
const FLAG_SYNC: u32 = 0x01;
const FLAG_COMPRESSION: u32 = 0x3e;
const FLAG_DEVICE_STATE: u32 = 0x40;

/// What begins a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// UUID of the machine, zeros if it has none.
    pub uuid: [u8; 16],
    /// Number of the channel.
    pub channel: u8,
}

/// How the data of a packet is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Pages back to back.
    None,
    /// One zlib stream for the whole channel.
    Zlib,
    /// One zstd stream for the whole channel.
    Zstd,
    /// QPL, UADK or QATzip: the flag bits.
    Hardware(u8),
}

/// A packet of pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet<'a> {
    /// All channels wait for each other here.
    pub sync: bool,
    /// How its data is packed.
    pub compression: Compression,
    /// Its number, counted over all channels.
    pub number: u64,
    /// The block, empty in a packet without pages.
    pub block: &'a [u8],
    /// Byte offsets of the pages with content.
    pub normal: Vec<u64>,
    /// Byte offsets of zero pages (9.0).
    pub zero: Vec<u64>,
    /// Bytes of data behind the header.
    pub data_bytes: u32,
}

/// A packet with the state of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState<'a> {
    /// Its idstr.
    pub idstr: &'a [u8],
    /// Its instance.
    pub instance_id: u32,
    /// Bytes of data behind the header.
    pub data_bytes: u32,
}

/// What a header says that was taken from a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message<'a> {
    /// The start of the channel.
    Hello(Hello),
    /// Pages.
    Packet(Packet<'a>),
    /// The state of a device.
    DeviceState(DeviceState<'a>),
}

impl Message<'_> {
    /// Bytes of data behind the header.
    #[must_use]
    pub fn data_bytes(&self) -> u32 {
        match self {
            Self::Hello(_) => 0,
            Self::Packet(packet) => packet.data_bytes,
            Self::DeviceState(state) => state.data_bytes,
        }
    }
}

/// Walks a channel, header by header; the data behind each is the caller's to take or to skip.
#[derive(Debug, Clone)]
pub struct Channel {
    page_size: u32,
    greeted: bool,
    offset: u64,
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

impl Channel {
    /// A walk from the start of a channel of a guest with pages of this size.
    #[must_use]
    pub fn new(page_size: u32) -> Self {
        Self { page_size, greeted: false, offset: 0 }
    }

    /// Offset of the next header.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of a packet's header.
    #[must_use]
    pub fn header_bytes(&self) -> usize {
        HEADER_BYTES + 8 * (PACKET_RAM_BYTES / self.page_size) as usize
    }

    fn fail(&self, at: usize, what: &'static str, found: u64, expected: &'static str) -> Error {
        let kind = ErrorKind::Multifd { what, found, expected };
        Error { offset: self.offset + at as u64, path: "multifd channel".to_owned(), kind }
    }

    /// Takes a header from the start of `input`; returns its length, and `None` while it is not all there.
    /// The data that it announces follows.
    ///
    /// # Errors
    ///
    /// `Multifd`.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Result<Option<(usize, Message<'a>)>, Error> {
        if input.len() < HELLO_BYTES {
            return Ok(None);
        }
        for (at, what, expected_value, expected) in
            [(0, "magic", MULTIFD_MAGIC, "0x11223344"), (4, "version", 1, "1")]
        {
            if be32(input, at) != expected_value {
                return Err(self.fail(at, what, u64::from(be32(input, at)), expected));
            }
        }
        if !self.greeted {
            self.greeted = true;
            let mut uuid = [0; 16];
            uuid.copy_from_slice(&input[8..24]);
            self.offset += HELLO_BYTES as u64;
            return Ok(Some((HELLO_BYTES, Message::Hello(Hello { uuid, channel: input[24] }))));
        }
        if be32(input, 8) & FLAG_DEVICE_STATE != 0 {
            return self.device_state(input);
        }
        let length = self.header_bytes();
        let Some(header) = input.get(..length) else { return Ok(None) };
        let packet = self.packet(header)?;
        self.offset += (length + packet.data_bytes as usize) as u64;
        Ok(Some((length, Message::Packet(packet))))
    }

    fn packet<'a>(&self, header: &'a [u8]) -> Result<Packet<'a>, Error> {
        let flags = be32(header, 8);
        let most = PACKET_RAM_BYTES / self.page_size;
        let (allocated, normal, zero) = (be32(header, 12), be32(header, 16), be32(header, 32));
        if allocated > most {
            return Err(self.fail(
                12,
                "pages allocated",
                u64::from(allocated),
                "no more than 512 KiB of them",
            ));
        }
        if flags & !(FLAG_SYNC | FLAG_COMPRESSION) != 0 {
            return Err(self.fail(8, "flags", u64::from(flags), "SYNC and a compression"));
        }
        if normal > most || zero > most - normal {
            return Err(self.fail(
                16,
                "page count",
                u64::from(normal) + u64::from(zero),
                "what fits a packet",
            ));
        }
        let name = &header[64..320];
        let Some(end) = name.iter().position(|&byte| byte == 0) else {
            return Err(self.fail(64, "block name length", 256, "a NUL at its end"));
        };
        let compression = match flags & FLAG_COMPRESSION {
            0 => Compression::None,
            0x02 => Compression::Zlib,
            0x04 => Compression::Zstd,
            other => Compression::Hardware(other.to_le_bytes()[0]),
        };
        // Without pages the length is what was there before, and no data follows (7.2).
        let data_bytes = if normal > 0 { be32(header, 20) } else { 0 };
        let exact = normal * self.page_size;
        if compression == Compression::None && data_bytes != exact {
            return Err(self.fail(20, "data length", u64::from(data_bytes), "one page for each normal one"));
        }
        if data_bytes > DATA_LIMIT_BYTES {
            return Err(self.fail(20, "data length", u64::from(data_bytes), "at most 16 MiB"));
        }
        let offset = |index: u32| be64(header, HEADER_BYTES + 8 * index as usize);
        let offsets = |range: core::ops::Range<u32>| range.map(offset).collect::<Vec<_>>();
        let (normal, zero) = (offsets(0..normal), offsets(normal..normal + zero));
        let mask = u64::from(self.page_size) - 1;
        if let Some(&wrong) = normal.iter().chain(&zero).find(|&&offset| offset & mask != 0) {
            return Err(self.fail(HEADER_BYTES, "page offset", wrong, "a multiple of the page size"));
        }
        let has_pages = !normal.is_empty() || !zero.is_empty();
        Ok(Packet {
            sync: flags & FLAG_SYNC != 0,
            compression,
            number: be64(header, 24),
            block: if has_pages { &name[..end] } else { &[] },
            normal,
            zero,
            data_bytes,
        })
    }

    fn device_state<'a>(&mut self, input: &'a [u8]) -> Result<Option<(usize, Message<'a>)>, Error> {
        let Some(header) = input.get(..DEVICE_STATE_BYTES) else { return Ok(None) };
        let name = &header[12..268];
        let Some(end) = name.iter().position(|&byte| byte == 0) else {
            return Err(self.fail(12, "idstr length", 256, "a NUL at its end"));
        };
        let (instance_id, data_bytes) = (be32(header, 268), be32(header, 272));
        if data_bytes > DATA_LIMIT_BYTES {
            return Err(self.fail(272, "data length", u64::from(data_bytes), "at most 16 MiB"));
        }
        self.offset += (DEVICE_STATE_BYTES + data_bytes as usize) as u64;
        let message = Message::DeviceState(DeviceState { idstr: &name[..end], instance_id, data_bytes });
        Ok(Some((DEVICE_STATE_BYTES, message)))
    }
}

#[cfg(test)]
mod tests;
