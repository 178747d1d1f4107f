//! Inputs that are packed.

use super::lzop::LzopReader;
use crate::error::Error;
use crate::size::to_usize;
use crate::source::UnpackLimit;
use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use std::io::{self, Read};

/// zstd windows up to 128 MiB: what `zstd -d` takes without being asked to.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
/// What an xz decoder may take: twice the dictionary of `xz -9`, and what is around it.
const XZ_MEMORY_LIMIT_BYTES: u64 = 132 << 20;

/// How an input is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapper {
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// lzop.
    Lzop,
    /// zstd.
    Zstd,
}

impl Wrapper {
    /// The wrapper that these first bytes belong to.
    #[must_use]
    pub fn detect(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Some(Self::Gzip),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Self::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            [0x89, b'L', b'Z', b'O', 0, ..] => Some(Self::Lzop),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Lzop => "lzop",
            Self::Zstd => "zstd",
        }
    }

    /// Unpacks `packed`, up to `limit` bytes.
    pub(super) fn unpack(
        self,
        name: &str,
        packed: Box<dyn Read>,
        limit: u64,
    ) -> Result<Box<dyn Read>, Error> {
        let unpacked: Box<dyn Read> = match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Bzip2 => Box::new(MultiBzDecoder::new(packed)),
            Self::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY_LIMIT_BYTES, CONCATENATED);
                let stream = stream.map_err(|error| Error::io(name)(error.into()))?;
                Box::new(XzDecoder::new_stream(packed, stream))
            }
            Self::Lzop => Box::new(LzopReader::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::new(packed).map_err(Error::io(name))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(Error::io(name))?;
                Box::new(decoder)
            }
        };
        Ok(Box::new(Capped { unpacked, wrapper: self, left: limit, limit }))
    }
}

/// Fails instead of giving more than its limit: a few KiB can unpack to anything.
struct Capped {
    unpacked: Box<dyn Read>,
    wrapper: Wrapper,
    left: u64,
    limit: u64,
}

impl Read for Capped {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.unpacked.read(out).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ if error.get_ref().is_some_and(|cause| cause.is::<UnpackLimit>()) => error,
            kind => io::Error::new(kind, format!("cannot unpack {}: {error}", self.wrapper.name())),
        });
        let bytes = read? as u64;
        if bytes > self.left {
            return Err(io::Error::other(UnpackLimit { bytes: self.limit }));
        }
        self.left -= bytes;
        Ok(to_usize(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use liblzma::stream::{Check, Filters, LzmaOptions};
    use std::io::Write;

    fn unpacked(wrapper: Wrapper, packed: Vec<u8>, limit: u64) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let mut reader = wrapper
            .unpack("x", Box::new(io::Cursor::new(packed)), limit)
            .map_err(|error| error.to_string())?;
        reader.read_to_end(&mut out).map_err(|error| error.to_string())?;
        Ok(out)
    }

    #[test]
    fn output_beyond_the_limit_is_refused() {
        let zeros = [0; 100_000];
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&zeros).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&zeros).unwrap();
        for (wrapper, packed) in [
            (Wrapper::Zstd, zstd::encode_all(&zeros[..], 3).unwrap()),
            (Wrapper::Gzip, gzip.finish().unwrap()),
            (Wrapper::Bzip2, bzip2.finish().unwrap()),
            (Wrapper::Xz, liblzma::encode_all(&zeros[..], 0).unwrap()),
        ] {
            assert_eq!(Wrapper::detect(&packed), Some(wrapper));
            assert_eq!(unpacked(wrapper, packed.clone(), 100_000).unwrap().len(), 100_000);
            // Two, one behind the other, are one.
            let twice = packed.repeat(2);
            assert_eq!(unpacked(wrapper, twice, 200_000).unwrap().len(), 200_000, "{wrapper:?}");
            assert_eq!(unpacked(wrapper, packed, 99_999).unwrap_err(), "unpacks to more than 99999 bytes");
        }
    }

    #[test]
    fn a_dictionary_beyond_the_limit_is_refused() {
        let packed = |bytes: u32| {
            let mut options = LzmaOptions::new_preset(0).unwrap();
            let mut filters = Filters::new();
            filters.lzma2(options.dict_size(bytes));
            let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
            let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
            encoder.write_all(b"a few bytes").unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(unpacked(Wrapper::Xz, packed(128 << 20), 100).unwrap(), b"a few bytes");
        let error = unpacked(Wrapper::Xz, packed(192 << 20), 100).unwrap_err();
        assert!(error.contains("memory"), "{error}");
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        io::copy(&mut io::repeat(7).take(1 << 20), &mut encoder).unwrap();
        let error = unpacked(Wrapper::Zstd, encoder.finish().unwrap(), u64::MAX).unwrap_err();
        assert!(error.contains("too much memory") || error.contains("window"), "{error}");
    }
}
