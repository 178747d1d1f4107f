//! Unpacks the data of multifd packets: one zlib or zstd stream per channel, flushed after each packet.

use crate::size::to_usize;
use flate2::{Decompress, FlushDecompress};
use migration_stream::ram::multifd::Compression;
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

/// Why the pages of a packet cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// They are more bytes than the packet has pages for, or fewer.
    #[error("unpacks to {found} bytes or more, expected {expected}")]
    Length {
        /// Bytes that were unpacked.
        found: usize,
        /// Bytes of all pages.
        expected: usize,
    },
    /// They are malformed for zlib.
    #[error("zlib")]
    Zlib(#[source] flate2::DecompressError),
    /// They are malformed for zstd.
    #[error("zstd")]
    Zstd(#[source] std::io::Error),
}

/// zstd windows up to 8 MiB: QEMU asks for no more at any level.
const WINDOW_LOG_MAX: u32 = 27;

/// The state of a channel's packing.
#[derive(Default)]
pub(crate) struct ChannelUnpacker {
    zlib: Option<Decompress>,
    zstd: Option<Decoder<'static>>,
    out: Vec<u8>,
}

impl ChannelUnpacker {
    /// The pages of a packet, `expected` bytes of them; `None` where nothing here can unpack them.
    pub(crate) fn packet<'a>(
        &'a mut self,
        compression: Compression,
        data: &'a [u8],
        expected: usize,
    ) -> Result<Option<&'a [u8]>, UnpackError> {
        // One byte of room more than there should be shows what is too long.
        self.out.resize(expected + 1, 0);
        let length = match compression {
            Compression::None => return Ok(Some(data)),
            Compression::Zlib => self.zlib(data)?,
            Compression::Zstd => self.zstd(data)?,
            // QPL, UADK and QATzip.
            _ => return Ok(None),
        };
        if length == expected {
            Ok(Some(&self.out[..length]))
        } else {
            Err(UnpackError::Length { found: length, expected })
        }
    }

    fn zlib(&mut self, data: &[u8]) -> Result<usize, UnpackError> {
        let state = self.zlib.get_or_insert_with(|| Decompress::new(true));
        let (before_in, before_out) = (state.total_in(), state.total_out());
        loop {
            let taken = to_usize(state.total_in() - before_in);
            let given = to_usize(state.total_out() - before_out);
            if taken >= data.len() || given >= self.out.len() {
                return Ok(given);
            }
            state
                .decompress(&data[taken..], &mut self.out[given..], FlushDecompress::Sync)
                .map_err(UnpackError::Zlib)?;
            let progress =
                state.total_in() - before_in > taken as u64 || state.total_out() - before_out > given as u64;
            if !progress {
                return Ok(given);
            }
        }
    }

    fn zstd(&mut self, data: &[u8]) -> Result<usize, UnpackError> {
        let state = match &mut self.zstd {
            Some(state) => state,
            none => {
                let mut decoder = Decoder::new().map_err(UnpackError::Zstd)?;
                let window = zstd::zstd_safe::DParameter::WindowLogMax(WINDOW_LOG_MAX);
                decoder.set_parameter(window).map_err(UnpackError::Zstd)?;
                none.insert(decoder)
            }
        };
        let mut input = InBuffer::around(data);
        let mut output = OutBuffer::around(&mut self.out[..]);
        loop {
            let (before_in, before_out) = (input.pos(), output.pos());
            state.run(&mut input, &mut output).map_err(UnpackError::Zstd)?;
            let stalled = input.pos() == before_in && output.pos() == before_out;
            if stalled || output.pos() == output.capacity() {
                return Ok(output.pos());
            }
        }
    }
}
