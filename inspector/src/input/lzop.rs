//! The container of `lzop`, around blocks of LZO1X: what libvirt writes with `save_image_format = "lzop"`.
//!
//! Numbers are big-endian. A header: magic (9 bytes), version, version of the library, version that
//! is needed (u16 each), method, level (u8 each), flags, mode, time, its upper half (u32 each), a
//! name behind its length (u8), a checksum (u32). Then blocks: length (u32; 0 ends the file),
//! length as packed (u32), checksums as the flags have it (u32 each), bytes; packed unless both
//! lengths are one. Another file may follow.

use std::io::{self, Read};

const MAGIC: [u8; 9] = *b"\x89LZO\0\r\n\x1a\n";
/// The first version with a level, an upper half of the time, and a version that is needed.
const LONG_HEADER: u16 = 0x0940;
/// `lzop` makes blocks of 256 KiB.
const BLOCK_LIMIT_BYTES: u32 = 16 << 20;

/// Checksums of a block: of its content, and of its packed form.
const ADLER32: u32 = 1;
const ADLER32_PACKED: u32 = 2;
const EXTRA_FIELD: u32 = 0x40;
const CRC32: u32 = 0x100;
const CRC32_PACKED: u32 = 0x200;
const FILTER: u32 = 0x800;

/// Unpacks what `lzop` packed; checksums are verified.
pub(super) struct LzopReader<R> {
    packed: R,
    /// What the header of this file says; none between two files.
    flags: Option<u32>,
    block: Vec<u8>,
    /// Bytes of the block that were given.
    given: usize,
    buffer: Vec<u8>,
}

fn damaged(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

impl<R: Read> LzopReader<R> {
    pub(super) fn new(packed: R) -> Self {
        Self { packed, flags: None, block: Vec::new(), given: 0, buffer: Vec::new() }
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.packed.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn number(&mut self) -> io::Result<u32> {
        self.bytes().map(u32::from_be_bytes)
    }

    /// The flags of the next file; none at the end.
    fn header(&mut self) -> io::Result<Option<u32>> {
        let mut magic = Vec::with_capacity(MAGIC.len());
        self.packed.by_ref().take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        if magic.is_empty() {
            return Ok(None);
        }
        if magic != MAGIC {
            return Err(damaged("something else behind the end of a file"));
        }
        let [version, _library] =
            [self.bytes().map(u16::from_be_bytes)?, self.bytes().map(u16::from_be_bytes)?];
        let long = version >= LONG_HEADER;
        if long {
            self.bytes::<2>()?;
        }
        let [method] = self.bytes()?;
        if !(1..=3).contains(&method) {
            return Err(damaged(format_args!("method {method}, expected 1 to 3 (LZO1X)")));
        }
        if long {
            self.bytes::<1>()?;
        }
        let flags = self.number()?;
        if flags & FILTER != 0 {
            return Err(damaged("a filter, which is not supported"));
        }
        self.bytes::<8>()?;
        if long {
            self.bytes::<4>()?;
        }
        let [name] = self.bytes()?;
        let rest = u64::from(name) + 4;
        self.pass(rest)?;
        if flags & EXTRA_FIELD != 0 {
            let length = self.number()?;
            self.pass(u64::from(length) + 4)?;
        }
        Ok(Some(flags))
    }

    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        let passed = io::copy(&mut self.packed.by_ref().take(bytes), &mut io::sink())?;
        if passed == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// The checksums that `flags` promise of these two.
    fn sums(&mut self, flags: u32, kinds: [u32; 2]) -> io::Result<[Option<u32>; 2]> {
        let mut sums = [None; 2];
        for (sum, kind) in sums.iter_mut().zip(kinds) {
            *sum = (flags & kind != 0).then(|| self.number()).transpose()?;
        }
        Ok(sums)
    }

    /// Unpacks the next block; false at the end of the file.
    fn next_block(&mut self, flags: u32) -> io::Result<bool> {
        let length = self.number()?;
        if length == 0 {
            return Ok(false);
        }
        let packed = self.number()?;
        if length > BLOCK_LIMIT_BYTES || packed > length {
            let limit = BLOCK_LIMIT_BYTES;
            return Err(damaged(format_args!(
                "a block of {length} bytes in {packed}, at most {limit} can be"
            )));
        }
        let content_sums = self.sums(flags, [ADLER32, CRC32])?;
        let plain = packed == length;
        let packed_sums = if plain { [None; 2] } else { self.sums(flags, [ADLER32_PACKED, CRC32_PACKED])? };
        self.block.resize(length as usize, 0);
        // Nothing of it is given before it was verified.
        self.given = self.block.len();
        if plain {
            self.packed.read_exact(&mut self.block)?;
        } else {
            self.buffer.resize(packed as usize, 0);
            self.packed.read_exact(&mut self.buffer)?;
            verify(&self.buffer, packed_sums)?;
            let found = lzokay::decompress::decompress(&self.buffer, &mut self.block).map_err(damaged)?;
            if found != self.block.len() {
                return Err(damaged(format_args!("a block of {found} bytes, expected {length}")));
            }
        }
        verify(&self.block, content_sums)?;
        self.given = 0;
        Ok(true)
    }
}

/// Compares with an Adler-32 and a CRC-32, where there are some.
fn verify(bytes: &[u8], expected: [Option<u32>; 2]) -> io::Result<()> {
    for (expected, sum) in expected.into_iter().zip([adler2::adler32_slice as fn(&[u8]) -> u32, crc32]) {
        if expected.is_some_and(|expected| expected != sum(bytes)) {
            return Err(damaged("the checksum of a block does not fit"));
        }
    }
    Ok(())
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

impl<R: Read> Read for LzopReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.given == self.block.len() {
            match self.flags {
                Some(flags) => {
                    if !self.next_block(flags)? {
                        self.flags = None;
                    }
                }
                None => match self.header()? {
                    Some(flags) => self.flags = Some(flags),
                    None => return Ok(0),
                },
            }
        }
        let bytes = out.len().min(self.block.len() - self.given);
        out[..bytes].copy_from_slice(&self.block[self.given..][..bytes]);
        self.given += bytes;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: u32 = ADLER32 | ADLER32_PACKED | CRC32;
    /// 512 zeros.
    const PACKED: [u8; 10] = [0x12, 0, 0x20, 0, 0xdf, 0, 0, 0x11, 0, 0];

    fn file(version: u16, flags: u32, blocks: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&version.to_be_bytes());
        file.extend_from_slice(&[0x20, 0xa0]);
        let long = version >= LONG_HEADER;
        file.extend_from_slice(if long { &[0x09, 0x40, 1, 5][..] } else { &[1] });
        file.extend_from_slice(&flags.to_be_bytes());
        file.extend_from_slice(&[0; 12][..if long { 12 } else { 8 }]);
        file.extend_from_slice(b"\x04name\0\0\0\0");
        if flags & EXTRA_FIELD != 0 {
            file.extend_from_slice(b"\0\0\0\x03abc\0\0\0\0");
        }
        for (content, packed) in blocks {
            let mut number =
                |number: usize| file.extend_from_slice(&u32::try_from(number).unwrap().to_be_bytes());
            number(content.len());
            number(packed.len());
            number(adler2::adler32_slice(content) as usize);
            number(crc32(content) as usize);
            if packed.len() < content.len() {
                number(adler2::adler32_slice(packed) as usize);
            }
            file.extend_from_slice(packed);
        }
        file.extend_from_slice(&[0; 4]);
        file
    }

    fn unpacked(packed: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        LzopReader::new(packed).read_to_end(&mut out).map_err(|error| error.to_string())?;
        Ok(out)
    }

    #[test]
    fn packed_and_plain_blocks_of_several_files_are_read() {
        let first = file(0x1040, FLAGS, &[(&[0; 512], &PACKED), (b"plain", b"plain")]);
        let second = file(0x0900, FLAGS | EXTRA_FIELD, &[(b"more", b"more")]);
        let expected = [&[0; 512][..], b"plainmore"].concat();
        assert_eq!(unpacked(&[&first[..], &second].concat()).unwrap(), expected);
        assert_eq!(unpacked(&file(0x1040, FLAGS, &[])).unwrap(), b"");
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let whole = file(0x1040, FLAGS | EXTRA_FIELD, &[(&[0; 512], &PACKED), (b"plain", b"plain")]);
        for length in 1..whole.len() {
            assert!(unpacked(&whole[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn every_changed_byte_of_a_block_is_noticed() {
        let whole = file(0x1040, FLAGS, &[(&[0; 512], &PACKED), (b"plain", b"plain")]);
        let start = file(0x1040, FLAGS, &[]).len() - 4;
        for at in start..whole.len() - 4 {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(unpacked(&changed).is_err(), "{at}");
        }
    }

    #[test]
    fn what_it_cannot_be_is_refused() {
        let block = |length: u32, packed: u32| {
            let mut bytes = file(0x1040, 0, &[]);
            bytes.truncate(bytes.len() - 4);
            [bytes, length.to_be_bytes().to_vec(), packed.to_be_bytes().to_vec()].concat()
        };
        let mut method = file(0x1040, 0, &[]);
        method[15] = 9;
        for (packed, expected) in [
            (block(u32::MAX, 1), "a block of 4294967295 bytes in 1, at most 16777216 can be"),
            (block(5, 6), "a block of 5 bytes in 6, at most 16777216 can be"),
            (method, "method 9, expected 1 to 3 (LZO1X)"),
            (file(0x1040, FILTER, &[]), "a filter, which is not supported"),
            ([file(0x1040, 0, &[]), b"x".to_vec()].concat(), "something else behind the end of a file"),
            (file(0x1040, FLAGS, &[(&[0; 511], &PACKED)]), "output overrun"),
            (file(0x1040, FLAGS, &[(&[0; 513], &PACKED)]), "a block of 512 bytes, expected 513"),
        ] {
            assert_eq!(unpacked(&packed).unwrap_err(), expected);
        }
    }
}
