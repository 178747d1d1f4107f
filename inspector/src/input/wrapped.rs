//! Inputs that are packed with gzip or zstd.

use crate::error::Error;
use std::io::{self, Read};

/// zstd windows up to 128 MiB: what `zstd -d` takes without being asked to.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// How an input is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapper {
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Wrapper {
    /// The wrapper that these first bytes belong to.
    #[must_use]
    pub fn detect(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
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
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::new(packed).map_err(Error::io(name))?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(Error::io(name))?;
                Box::new(decoder)
            }
        };
        Ok(Box::new(Capped { unpacked, left: limit, limit }))
    }
}

/// Fails instead of giving more than its limit: a few KiB can unpack to anything.
struct Capped {
    unpacked: Box<dyn Read>,
    left: u64,
    limit: u64,
}

impl Read for Capped {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.unpacked.read(out)? as u64;
        if bytes > self.left {
            let text = format!("unpacks to more than {} bytes (--max-unpacked)", self.limit);
            return Err(io::Error::other(text));
        }
        self.left -= bytes;
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let packed = zstd::encode_all(&[0; 100_000][..], 3).unwrap();
        assert_eq!(Wrapper::detect(&packed), Some(Wrapper::Zstd));
        assert_eq!(unpacked(Wrapper::Zstd, packed.clone(), 100_000).unwrap().len(), 100_000);
        assert_eq!(
            unpacked(Wrapper::Zstd, packed, 99_999).unwrap_err(),
            "unpacks to more than 99999 bytes (--max-unpacked)"
        );
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
