//! Pages compressed with zlib (capability compress, up to QEMU 9.0).

use crate::error::ErrorKind;
#[cfg(feature = "compress")]
use crate::prelude::*;
#[cfg(feature = "compress")]
use miniz_oxide::inflate::TINFLStatus;
#[cfg(feature = "compress")]
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_COMPUTE_ADLER32, TINFL_FLAG_PARSE_ZLIB_HEADER, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF,
};
#[cfg(feature = "compress")]
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// Inflates one zlib stream (RFC 1950) that holds exactly one page.
///
/// # Errors
///
/// When it is damaged, longer or shorter than a page, or followed by other bytes; the page is unspecified
/// then.
#[cfg(feature = "compress")]
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

/// Inflates nothing: the crate was built without feature `compress`.
///
/// # Errors
///
/// Always.
#[cfg(not(feature = "compress"))]
pub fn inflate(_: &[u8], _: &mut [u8]) -> Result<(), ErrorKind> {
    Err(ErrorKind::Compressed("this program cannot unpack zlib"))
}

/// The longest zlib stream that a page of `page_size` bytes can have (zlib's `compressBound`).
#[must_use]
pub fn bound(page_size: u32) -> u32 {
    page_size + (page_size >> 12) + (page_size >> 14) + (page_size >> 25) + 13
}

#[cfg(all(test, feature = "compress"))]
mod tests {
    use super::*;
    use miniz_oxide::deflate::compress_to_vec_zlib;

    fn page() -> Vec<u8> {
        (0..4096u32).map(|at| (at * at / 7).to_le_bytes()[0]).collect()
    }

    fn inflated(data: &[u8], bytes: usize) -> Result<Vec<u8>, String> {
        let mut out = vec![0xee; bytes];
        inflate(data, &mut out).map(|()| out).map_err(|kind| kind.to_string())
    }

    #[test]
    fn one_zlib_stream_is_one_page() {
        let whole = compress_to_vec_zlib(&page(), 6);
        assert_eq!(inflated(&whole, 4096), Ok(page()));
        let refused = |data: &[u8], bytes: usize, why: &str| {
            let error = inflated(data, bytes).unwrap_err();
            assert!(error.contains(why), "{error}");
        };
        refused(&[&whole[..], &[0]].concat(), 4096, "bytes behind the zlib stream");
        refused(&whole, 4097, "shorter than a page");
        refused(&whole, 4095, "longer than a page");
        // Header, data, checksum; each byte of it counts, and so does each that is missing.
        for at in [0, 1, whole.len() - 4, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            refused(&damaged, 4096, "damaged zlib stream");
        }
        for cut in [0, 1, 2, whole.len() / 2, whole.len() - 1] {
            refused(&whole[..cut], 4096, "damaged zlib stream");
        }
    }

    #[test]
    fn the_bound_is_that_of_zlib() {
        for (page_size, expected) in
            [(1024, 1037), (4096, 4110), (16384, 16384 + 4 + 1 + 13), (1 << 25, 33_564_686)]
        {
            assert_eq!(bound(page_size), expected);
        }
    }
}
