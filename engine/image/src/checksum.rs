//! The checksum of everything in an image.

/// CRC-32C (RFC 3720) of pages, tables, and each structure of ours.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_the_standard_check_string_is_right() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
