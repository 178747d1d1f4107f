//! Opens a fuzzer's input as the inspector does.

use snapinspect::input::{OpenOptions, Opened, open_reader};
use std::io::Cursor;

/// What a fuzzer's input may unpack to.
const UNPACKED_LIMIT_BYTES: u64 = 1 << 20;

/// How these targets open what comes.
pub fn options(page_size: Option<migration_stream::PageSize>) -> OpenOptions {
    OpenOptions {
        page_size,
        max_ram_bytes: 1 << 40,
        max_unpacked_bytes: UNPACKED_LIMIT_BYTES,
        ..OpenOptions::default()
    }
}

/// Opens bytes as they would come through a pipe.
pub fn open(bytes: &[u8], options: &OpenOptions) -> Result<Opened, snapinspect::Error> {
    open_reader("input", Cursor::new(bytes.to_vec()), options)
}
