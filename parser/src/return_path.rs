//! The return path: what the destination reports to the source.

use crate::error::{Error, ErrorKind};
use crate::prelude::*;
use crate::section::{counted16, put_str8};
use crate::width::to_usize;

/// A message (`enum mig_rp_message_type`, migration/migration.h).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReturnPathMessage<'a> {
    /// 1: the destination is done; 0 is success.
    Shut(u32),
    /// 2: answer to PING.
    Pong(u32),
    /// 3 and 4: pages that are needed now; the block is the one of the message before if it is not named.
    RequestPages {
        /// Name of the block.
        block: Option<&'a [u8]>,
        /// Byte offset in the block.
        start: u64,
        /// Bytes.
        length: u32,
    },
    /// 5: the bitmap of the pages of a block that have arrived follows, without a frame.
    ReceivedBitmap(&'a [u8]),
    /// 6: an interrupted postcopy can go on.
    ResumeAck(u32),
    /// 7: the destination agrees to the switchover (8.1).
    SwitchoverAck,
}

/// Takes a message from the start of `input`: type (be16), length (be16), payload. Returns how long it is;
/// `None` while it is not all there. `offset` is where `input` begins.
///
/// # Errors
///
/// `ReturnPath` for an unknown type or a length that it cannot have.
pub fn return_path_message(
    input: &[u8],
    offset: u64,
) -> Result<Option<(usize, ReturnPathMessage<'_>)>, Error> {
    let Some((head, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
    let found = u16::from_be_bytes([head[0], head[1]]);
    let length = u16::from_be_bytes([head[2], head[3]]);
    let wrong =
        || Error { offset, path: "return path".to_owned(), kind: ErrorKind::ReturnPath { found, length } };
    let expected = match found {
        1 | 2 | 6 => length == 4,
        3 => (14..=13 + 255).contains(&length),
        4 => length == 12,
        5 => (2..=256).contains(&length),
        7 => length == 0,
        _ => false,
    };
    if !expected {
        return Err(wrong());
    }
    let Some(payload) = rest.get(..usize::from(length)) else { return Ok(None) };
    let be32 =
        |at: usize| u32::from_be_bytes([payload[at], payload[at + 1], payload[at + 2], payload[at + 3]]);
    let be64 = |at: usize| u64::from(be32(at)) << 32 | u64::from(be32(at + 4));
    let name = |at: usize| {
        let name = &payload[at + 1..];
        if usize::from(payload[at]) == name.len() { Ok(name) } else { Err(wrong()) }
    };
    let message = match found {
        1 => ReturnPathMessage::Shut(be32(0)),
        2 => ReturnPathMessage::Pong(be32(0)),
        3 => ReturnPathMessage::RequestPages { block: Some(name(12)?), start: be64(0), length: be32(8) },
        4 => ReturnPathMessage::RequestPages { block: None, start: be64(0), length: be32(8) },
        5 => ReturnPathMessage::ReceivedBitmap(name(0)?),
        6 => ReturnPathMessage::ResumeAck(be32(0)),
        _ => ReturnPathMessage::SwitchoverAck,
    };
    Ok(Some((4 + payload.len(), message)))
}

/// Writes what `return_path_message` accepts.
pub fn put_return_path_message(out: &mut Vec<u8>, message: &ReturnPathMessage<'_>) {
    let mut payload = Vec::new();
    let number: u16 = match message {
        ReturnPathMessage::Shut(value)
        | ReturnPathMessage::Pong(value)
        | ReturnPathMessage::ResumeAck(value) => {
            payload.extend_from_slice(&value.to_be_bytes());
            match message {
                ReturnPathMessage::Shut(_) => 1,
                ReturnPathMessage::Pong(_) => 2,
                _ => 6,
            }
        }
        ReturnPathMessage::RequestPages { block, start, length } => {
            payload.extend_from_slice(&start.to_be_bytes());
            payload.extend_from_slice(&length.to_be_bytes());
            block.iter().for_each(|name| put_str8(&mut payload, name));
            if block.is_some() { 3 } else { 4 }
        }
        ReturnPathMessage::ReceivedBitmap(name) => {
            put_str8(&mut payload, name);
            5
        }
        ReturnPathMessage::SwitchoverAck => 7,
    };
    out.extend_from_slice(&number.to_be_bytes());
    let (length, payload) = counted16(&payload);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
}

/// What follows [`ReturnPathMessage::ReceivedBitmap`], outside of any frame.
const RECEIVED_BITMAP_END: u64 = 0x0123_4567_89ab_cdef;
/// One bit per page of 16 TiB in pages of 1 KiB.
const RECEIVED_BITMAP_LIMIT_BYTES: u64 = 2 << 30;

/// Takes the bitmap from the start of `input`: its size (be64), the bits, an end mark (be64). Returns how
/// long it is with the bits; `None` while it is not all there.
///
/// # Errors
///
/// `Value` for an end mark that is none, `Limit`.
pub fn received_bitmap(input: &[u8], offset: u64) -> Result<Option<(usize, &[u8])>, Error> {
    let fail = |at: usize, kind| Error {
        offset: offset + at as u64,
        path: "return path > received bitmap".to_owned(),
        kind,
    };
    let Some((size, rest)) = input.split_first_chunk::<8>() else { return Ok(None) };
    let size = u64::from_be_bytes(*size);
    let (what, found) = ("received bitmap size", size);
    if size > RECEIVED_BITMAP_LIMIT_BYTES {
        return Err(fail(0, ErrorKind::Limit { what, found, limit: RECEIVED_BITMAP_LIMIT_BYTES }));
    }
    if !size.is_multiple_of(8) {
        return Err(fail(0, ErrorKind::Value { what, found, expected: "a multiple of 8" }));
    }
    let length = to_usize(size);
    let Some((bits, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    let Some((mark, _)) = rest.split_first_chunk::<8>() else { return Ok(None) };
    let found = u64::from_be_bytes(*mark);
    if found != RECEIVED_BITMAP_END {
        let (what, expected) = ("received bitmap end mark", "0x123456789abcdef");
        return Err(fail(8 + length, ErrorKind::Value { what, found, expected }));
    }
    Ok(Some((8 + length + 8, bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_a_round_trip_and_every_cut_waits() {
        let name = &b"pc.ram"[..];
        for message in [
            ReturnPathMessage::Shut(1),
            ReturnPathMessage::Pong(42),
            ReturnPathMessage::RequestPages { block: Some(name), start: 0x12_3456_7000, length: 4096 },
            ReturnPathMessage::RequestPages { block: None, start: 0x1000, length: 2 << 20 },
            ReturnPathMessage::ReceivedBitmap(name),
            ReturnPathMessage::ResumeAck(1),
            ReturnPathMessage::SwitchoverAck,
        ] {
            let mut bytes = Vec::new();
            put_return_path_message(&mut bytes, &message);
            assert_eq!(return_path_message(&bytes, 0).unwrap(), Some((bytes.len(), message)));
            for cut in 0..bytes.len() {
                assert_eq!(return_path_message(&bytes[..cut], 0).unwrap(), None);
            }
        }
    }

    #[test]
    fn a_received_bitmap_needs_its_end_mark_and_every_cut_waits() {
        let mut bytes = 8u64.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0xff, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&RECEIVED_BITMAP_END.to_be_bytes());
        assert_eq!(received_bitmap(&bytes, 0).unwrap(), Some((24, &bytes[8..16])));
        for cut in 0..bytes.len() {
            assert_eq!(received_bitmap(&bytes[..cut], 0).unwrap(), None);
        }
        bytes[23] ^= 1;
        assert_eq!(
            received_bitmap(&bytes, 0x10).unwrap_err().to_string(),
            "offset 0x20: return path > received bitmap: received bitmap end mark 0x123456789abcdee, expected \
             0x123456789abcdef"
        );
    }

    #[test]
    fn each_type_has_its_lengths_and_no_others() {
        for (number, lengths) in [
            (0u16, 0..0u16),
            (1, 4..5),
            (2, 4..5),
            (3, 14..269),
            (4, 12..13),
            (5, 2..257),
            (6, 4..5),
            (7, 0..1),
            (8, 0..0),
            (0x103, 0..0),
        ] {
            for length in (0..600).chain([u16::MAX]) {
                let head = [number.to_be_bytes(), length.to_be_bytes()].concat();
                let answer = return_path_message(&head, 0);
                assert_eq!(answer.is_ok(), lengths.contains(&length), "type {number}, length {length}");
            }
        }
    }

    #[test]
    fn the_longest_name_survives_a_round_trip() {
        let name = [b'n'; 255];
        for message in [
            ReturnPathMessage::RequestPages { block: Some(&name), start: u64::MAX, length: u32::MAX },
            ReturnPathMessage::ReceivedBitmap(&name),
        ] {
            let mut bytes = Vec::new();
            put_return_path_message(&mut bytes, &message);
            assert_eq!(return_path_message(&bytes, 0).unwrap(), Some((bytes.len(), message)));
        }
    }

    #[test]
    fn the_size_of_a_received_bitmap_has_a_unit_and_a_limit() {
        let size = |size: u64| {
            let bytes = size.to_be_bytes();
            let answer = received_bitmap(&bytes, 0x10);
            answer.map(|found| found.is_some()).map_err(|error| error.to_string())
        };
        assert_eq!(size(2 << 30), Ok(false));
        let place = "offset 0x10: return path > received bitmap: received bitmap size";
        assert_eq!(size((2 << 30) + 8), Err(format!("{place} is 2147483656, the limit is 2147483648")));
        assert_eq!(size(9), Err(format!("{place} 0x9, expected a multiple of 8")));
    }

    #[test]
    fn a_wrong_type_or_length_is_refused() {
        let check = |bytes: &[u8], expected: &str| {
            assert_eq!(return_path_message(bytes, 0x20).unwrap_err().to_string(), expected);
        };
        check(&[0, 0, 0, 0], "offset 0x20: return path: return path message type 0 of length 0");
        check(&[0, 8, 0, 0], "offset 0x20: return path: return path message type 8 of length 0");
        check(&[0, 3, 0xff, 0xff], "offset 0x20: return path: return path message type 3 of length 65535");
        check(
            &[0, 5, 0, 3, 9, b'a', b'b'],
            "offset 0x20: return path: return path message type 5 of length 3",
        );
    }
}
