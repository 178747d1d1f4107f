//! Unpacks the data of multifd packets: one zlib or zstd stream per channel, flushed after each packet.

use flate2::{Decompress, FlushDecompress};
use migration_stream::ram::multifd::Compression;
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

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
    ) -> Result<Option<&'a [u8]>, String> {
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
            Err(format!("unpacks to {length} bytes or more, expected {expected}"))
        }
    }

    fn zlib(&mut self, data: &[u8]) -> Result<usize, String> {
        let state = self.zlib.get_or_insert_with(|| Decompress::new(true));
        let (before_in, before_out) = (state.total_in(), state.total_out());
        loop {
            let taken = usize::try_from(state.total_in() - before_in).unwrap_or(usize::MAX);
            let given = usize::try_from(state.total_out() - before_out).unwrap_or(usize::MAX);
            if taken >= data.len() || given >= self.out.len() {
                return Ok(given);
            }
            state
                .decompress(&data[taken..], &mut self.out[given..], FlushDecompress::Sync)
                .map_err(|error| format!("zlib: {error}"))?;
            let progress =
                state.total_in() - before_in > taken as u64 || state.total_out() - before_out > given as u64;
            if !progress {
                return Ok(given);
            }
        }
    }

    fn zstd(&mut self, data: &[u8]) -> Result<usize, String> {
        let wrong = |error: std::io::Error| format!("zstd: {error}");
        let state = match &mut self.zstd {
            Some(state) => state,
            none => {
                let mut decoder = Decoder::new().map_err(wrong)?;
                let window = zstd::zstd_safe::DParameter::WindowLogMax(WINDOW_LOG_MAX);
                decoder.set_parameter(window).map_err(wrong)?;
                none.insert(decoder)
            }
        };
        let mut input = InBuffer::around(data);
        let mut output = OutBuffer::around(&mut self.out[..]);
        loop {
            let (before_in, before_out) = (input.pos(), output.pos());
            state.run(&mut input, &mut output).map_err(wrong)?;
            let stalled = input.pos() == before_in && output.pos() == before_out;
            if stalled || output.pos() == output.capacity() {
                return Ok(output.pos());
            }
        }
    }
}
