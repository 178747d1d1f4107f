//! What people write on command lines, and read in messages.

use migration_stream::PageSize;
use std::error::Error;

/// Writes an error and what caused it in one line:
/// `write to the image: No space left on device (os error 28)`.
#[must_use]
pub fn error_text(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Writes a UUID in the usual form: 8-4-4-4-12 hex digits.
#[must_use]
pub fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Reads what [`uuid_text`] writes, in any case.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    if lengths != [8, 4, 4, 4, 12] || !text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&groups.concat(), 16).ok().map(u128::to_be_bytes)
}

/// Reads a number of bytes as QEMU's tools take it: a decimal number, or one of KiB, MiB, GiB or
/// TiB with a suffix K, M, G or T in any case.
///
/// # Errors
///
/// What is expected instead; also if it does not fit into 64 bits.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let (digits, shift) = units
        .into_iter()
        .find_map(|(unit, shift)| {
            text.strip_suffix([unit, unit.to_ascii_lowercase()]).map(|digits| (digits, shift))
        })
        .unwrap_or((text, 0));
    // A sign would be taken, too.
    let number = digits.parse::<u64>().ok().filter(|_| !digits.starts_with('+'));
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "expected a number of bytes, as in 4096, 64K, 512M or 2G".to_owned())
}

/// Writes a number of bytes for people: whole MiB from 10 MiB on, tenths of a MiB below, KiB below 1 MiB.
///
/// GiB do not appear: two sizes in one sentence have one unit, so that they can be compared.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} bytes"),
        0x400..0x10_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        0x10_0000..0xa0_0000 if !bytes.is_multiple_of(1 << 20) => {
            let tenths = bytes / ((1 << 20) / 10);
            format!("{}.{} MiB", tenths / 10, tenths % 10)
        }
        _ => format!("{} MiB", (bytes >> 20) + u64::from(bytes % (1 << 20) >= 1 << 19)),
    }
}

/// Reads a target page size: what [`parse_bytes`] reads, 1 to 64 KiB.
///
/// # Errors
///
/// What is expected instead.
pub fn parse_page_size(text: &str) -> Result<PageSize, String> {
    parse_bytes(text)
        .ok()
        .and_then(PageSize::new)
        .ok_or_else(|| "expected a power of two, 1024 to 65536".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_survive_a_round_trip() {
        let uuid: [u8; 16] = std::array::from_fn(|at| 0x11 * u8::try_from(at).unwrap());
        assert_eq!(parse_uuid(&uuid_text(&uuid)), Some(uuid));
        assert_eq!(parse_uuid(&uuid_text(&uuid).to_uppercase()), Some(uuid));
        for wrong in ["", "1", "+1111111-1111-1111-1111-111111111111", "11111111111111111111111111111111"] {
            assert_eq!(parse_uuid(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_written_in_one_unit() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1 KiB"),
            (1025, "2 KiB"),
            (1 << 20, "1 MiB"),
            (3 << 19, "1.5 MiB"),
            ((10 << 20) - 1, "10.0 MiB"),
            ((665 << 20) + (1 << 19), "666 MiB"),
            (1 << 30, "1024 MiB"),
            (u64::MAX, "17592186044416 MiB"),
        ] {
            assert_eq!(size_text(bytes), text);
        }
    }

    #[test]
    fn sizes_are_numbers_with_suffixes() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("64K", 65536), ("112m", 112 << 20), ("2g", 2 << 30), ("1T", 1 << 40)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes));
        }
        for wrong in
            ["", "G", "+1K", "-1", "1.5G", "1 K", "1KiB", "0x10", "99999999999G", "18446744073709551616"]
        {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_page_size("64K").map(PageSize::bytes), Ok(65536));
        for wrong in ["512", "3K", "128K", "4G"] {
            assert!(parse_page_size(wrong).is_err(), "{wrong}");
        }
    }
}
