//! Pages compressed with zlib (capability compress, up to QEMU 9.0).

use crate::error::ErrorKind;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_COMPUTE_ADLER32, TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// Inflates one zlib stream (RFC 1950) that holds exactly one page.
///
/// # Errors
///
/// When it is damaged, longer or shorter than a page, or followed by other bytes; the page is unspecified then.
pub fn inflate(data: &[u8], page: &mut [u8]) -> Result<(), ErrorKind> {
    let flags =
        TINFL_FLAG_PARSE_ZLIB_HEADER | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF | TINFL_FLAG_COMPUTE_ADLER32;
    let mut decompressor = Box::new(DecompressorOxide::new());
    match decompress(&mut decompressor, data, page, 0, flags) {
        (TINFLStatus::Done, used, filled) if used == data.len() && filled == page.len() => Ok(()),
        (TINFLStatus::Done, used, _) if used < data.len() => {
            Err(ErrorKind::Compressed("bytes behind the zlib stream"))
        }
        (TINFLStatus::Done, ..) => Err(ErrorKind::Compressed("shorter than a page")),
        (TINFLStatus::HasMoreOutput, ..) => Err(ErrorKind::Compressed("longer than a page")),
        _ => Err(ErrorKind::Compressed("damaged zlib stream")),
    }
}

/// The longest zlib stream that a page of `page_size` bytes can have (zlib's `compressBound`).
#[must_use]
pub fn bound(page_size: u32) -> u32 {
    page_size + (page_size >> 12) + (page_size >> 14) + (page_size >> 25) + 13
}
