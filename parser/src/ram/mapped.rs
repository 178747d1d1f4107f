//! The block list of a mapped-ram file (capability mapped-ram, 9.0): each block's pages lie at a fixed place.
//!
//! Each entry is name (str8), length (be64), with capability x-ignore-shared the guest physical address
//! (be64), then version 1 (be32), page size (be64), the bitmap's offset (be64) and the pages' (be64), both in
//! the file. Bitmap and pages follow; the next entry lies behind the block's last page, so that the START
//! section of `ram` spans all RAM. A page whose bit is not set is zero, whatever lies at its place.
//!
//! Of a block that is ignored as shared memory both offsets are 0, and the next entry follows at once
//! (`ram_save_setup`, `mapped_ram_setup_ramblock` and `parse_ramblock_mapped_ram` in migration/ram.c of 11.1;
//! a save of 10.0 with such a block fails with "Bad address").

use super::RAM_SAVE_FLAG_MEM_SIZE;
use super::block::RamBlock;
use crate::error::{Error, ErrorKind, Inside};
use crate::prelude::*;
use crate::section::put_str8;

/// `MAPPED_RAM_HDR_VERSION`.
const VERSION: u32 = 1;
/// Version, page size, offset of the bitmap, offset of the pages.
const HEADER_BYTES: usize = 4 + 8 + 8 + 8;
/// The longest entry: a name of 255 bytes, and an address.
pub const ENTRY_LIMIT_BYTES: usize = 1 + 255 + 8 + 8 + HEADER_BYTES;
/// Pages begin at multiples of this (`MAPPED_RAM_FILE_OFFSET_ALIGNMENT`).
pub const PAGES_ALIGNMENT_BYTES: u64 = 1 << 20;

/// A block of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedBlock {
    /// The block.
    pub block: RamBlock,
    /// Where its pages are in the file; none: it is ignored (capability x-ignore-shared), and no page of it
    /// is.
    pub place: Option<MappedPlace>,
}

/// Where a block's bitmap and its pages lie, as offsets in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedPlace {
    /// The bitmap, one bit per page, least significant bit of the first byte first.
    pub bitmap_offset: u64,
    /// Bytes of the bitmap: whole words of 8 bytes.
    pub bitmap_bytes: u64,
    /// The pages.
    pub pages_offset: u64,
}

impl MappedBlock {
    /// Where the next entry lies, if the one of this block ends at `entry_end`.
    #[must_use]
    pub fn end(&self, entry_end: u64) -> u64 {
        self.place.map_or(entry_end, |place| place.pages_offset + self.block.used_length)
    }
}

/// What the stream says of all entries before the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedList {
    /// Target page size in bytes.
    pub page_size: u32,
    /// Capability x-ignore-shared: entries have an address, and blocks may be elsewhere.
    pub ignore_shared: bool,
}

/// The flag word that begins the list: the sum of all lengths.
///
/// # Errors
///
/// `PageFlags` when it is another record.
pub fn list_total(word: [u8; 8], offset: u64, page_size: u32) -> Result<u64, Error> {
    let word = u64::from_be_bytes(word);
    let mask = u64::from(page_size) - 1;
    if word & mask != RAM_SAVE_FLAG_MEM_SIZE {
        let kind = ErrorKind::PageFlags { flags: word & mask, page_size, page_size_guessed: false };
        return Err(Error { offset, path: "mapped-ram block list".to_owned(), kind });
    }
    Ok(word & !mask)
}

/// The numbers of an entry, behind its name.
struct Fields<'a> {
    bytes: &'a [u8],
    /// Where the numbers of the mapped-ram header begin in it.
    header: usize,
}

impl Fields<'_> {
    fn be64(&self, at: usize) -> u64 {
        self.bytes[at..at + 8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn version(&self) -> u64 {
        self.be64(self.header) >> 32
    }
}

/// Takes an entry from the start of `bytes`, which lie at `offset` in the file and hold
/// [`ENTRY_LIMIT_BYTES`], or all that is left. `remaining` is what is left of the list's sum. Returns how
/// long the entry is, too.
///
/// # Errors
///
/// `MappedBlock`, `EmptyName`, `Truncated`.
pub fn entry(
    bytes: &[u8],
    offset: u64,
    remaining: u64,
    list: MappedList,
) -> Result<(usize, MappedBlock), Error> {
    let fail = |at: usize, kind| Error {
        offset: offset + at as u64,
        path: "mapped-ram block list".to_owned(),
        kind,
    };
    let cut = || fail(bytes.len(), ErrorKind::Truncated { inside: Inside::MappedBlockList });
    let length = usize::from(*bytes.first().ok_or_else(cut)?);
    if length == 0 {
        return Err(fail(0, ErrorKind::EmptyName { what: "ram block name" }));
    }
    let name = bytes.get(1..=length).ok_or_else(cut)?;
    let header = if list.ignore_shared { 16 } else { 8 };
    let bytes = bytes.get(1 + length..1 + length + header + HEADER_BYTES).ok_or_else(cut)?;
    let fields = Fields { bytes, header };
    let wrong = |at: usize, what, found, expected| {
        fail(1 + length + at, ErrorKind::MappedBlock { name: name.to_vec(), what, found, expected })
    };
    let page = u64::from(list.page_size);
    let used_length = fields.be64(0);
    if used_length == 0 || used_length > remaining || !used_length.is_multiple_of(page) {
        return Err(wrong(0, "used length", used_length, "pages, no more than is left of the list's sum"));
    }
    if fields.version() != u64::from(VERSION) {
        return Err(wrong(header, "version", fields.version(), "1"));
    }
    if fields.be64(header + 4) != page {
        return Err(wrong(header + 4, "page size", fields.be64(header + 4), "the target page size"));
    }
    let end = 1 + length + bytes.len();
    let (bitmap_offset, pages_offset) = (fields.be64(header + 12), fields.be64(header + 20));
    let place = if list.ignore_shared && bitmap_offset == 0 && pages_offset == 0 {
        None
    } else {
        let bitmap_bytes = (used_length / page).div_ceil(64) * 8;
        let place = MappedPlace { bitmap_offset, bitmap_bytes, pages_offset };
        let fits = place.fits(offset + end as u64, used_length, page);
        Some(fits.map_err(|(at, what, found, expected)| wrong(header + at, what, found, expected))?)
    };
    let guest_physical_address = list.ignore_shared.then(|| fields.be64(8));
    let block = RamBlock { idstr: name.to_vec(), used_length, host_page_size: None, guest_physical_address };
    Ok((end, MappedBlock { block, place }))
}

/// A field that is wrong: where it lies in the header, what it is, its value, what it can be.
type Misplaced = (usize, &'static str, u64, &'static str);

impl MappedPlace {
    /// Whether bitmap and pages lie behind the entry, which ends at `end`, in order and not too far away.
    fn fits(self, end: u64, used_length: u64, page: u64) -> Result<Self, Misplaced> {
        let Self { bitmap_offset, bitmap_bytes, pages_offset } = self;
        if bitmap_offset < end || bitmap_offset - end > PAGES_ALIGNMENT_BYTES {
            return Err((12, "bitmap offset", bitmap_offset, "the offset behind this header"));
        }
        let bitmap_end = bitmap_offset.checked_add(bitmap_bytes);
        let fits = bitmap_end
            .is_some_and(|end| end <= pages_offset && pages_offset - end <= 64 * PAGES_ALIGNMENT_BYTES)
            && pages_offset.is_multiple_of(page)
            && pages_offset.checked_add(used_length).is_some();
        if !fits {
            let expected = "a multiple of the page size behind the bitmap";
            return Err((20, "pages offset", pages_offset, expected));
        }
        Ok(self)
    }
}

/// The entry of a block that is written at `offset`, with its bitmap and its pages behind it.
#[must_use]
pub fn place(block: &RamBlock, offset: u64, page_size: u32) -> MappedBlock {
    let address = block.guest_physical_address.map_or(0, |_| 8);
    let entry = 1 + block.idstr.len() as u64 + 8 + address + HEADER_BYTES as u64;
    let bitmap_offset = offset + entry;
    let bitmap_bytes = (block.used_length / u64::from(page_size)).div_ceil(64) * 8;
    let pages_offset = (bitmap_offset + bitmap_bytes).next_multiple_of(PAGES_ALIGNMENT_BYTES);
    let place = MappedPlace { bitmap_offset, bitmap_bytes, pages_offset };
    MappedBlock { block: block.clone(), place: Some(place) }
}

/// Writes what [`entry`] accepts. Either all blocks of a list have an address, or none.
pub fn put_entry(out: &mut Vec<u8>, entry: &MappedBlock, page_size: u32) {
    put_str8(out, &entry.block.idstr);
    out.extend_from_slice(&entry.block.used_length.to_be_bytes());
    if let Some(address) = entry.block.guest_physical_address {
        out.extend_from_slice(&address.to_be_bytes());
    }
    out.extend_from_slice(&VERSION.to_be_bytes());
    let (bitmap, pages) = entry.place.map_or((0, 0), |place| (place.bitmap_offset, place.pages_offset));
    for value in [u64::from(page_size), bitmap, pages] {
        out.extend_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: MappedList = MappedList { page_size: 4096, ignore_shared: false };
    const SHARED: MappedList = MappedList { ignore_shared: true, ..PLAIN };

    fn at(placed: &MappedBlock) -> MappedPlace {
        placed.place.expect("it is in the file")
    }

    fn block() -> RamBlock {
        RamBlock {
            idstr: b"pc.ram".to_vec(),
            used_length: 16 << 20,
            host_page_size: None,
            guest_physical_address: None,
        }
    }

    #[test]
    fn an_entry_survives_a_round_trip_and_every_cut_is_an_error() {
        let placed = place(&block(), 0x63, 4096);
        assert_eq!((at(&placed).bitmap_offset, at(&placed).pages_offset), (0x8e, 0x10_0000));
        let mut bytes = Vec::new();
        put_entry(&mut bytes, &placed, 4096);
        assert_eq!(entry(&bytes, 0x63, 16 << 20, PLAIN).unwrap(), (bytes.len(), placed));
        for cut in 0..bytes.len() {
            assert!(entry(&bytes[..cut], 0x63, 16 << 20, PLAIN).is_err());
        }
    }

    #[test]
    fn fields_that_do_not_fit_are_refused_with_their_place() {
        let check = |change: fn(&mut MappedPlace), remaining: u64, expected: &str| {
            let mut placed = place(&block(), 0, 4096);
            placed.place.iter_mut().for_each(change);
            let mut bytes = Vec::new();
            put_entry(&mut bytes, &placed, 4096);
            assert_eq!(entry(&bytes, 0, remaining, PLAIN).unwrap_err().to_string(), expected);
        };
        let all = 16 << 20;
        check(
            |placed| placed.pages_offset = 1,
            all,
            "offset 0x23: mapped-ram block list: mapped-ram block \"pc.ram\": pages offset 0x1, expected a multiple of \
             the page size behind the bitmap",
        );
        check(
            |placed| placed.bitmap_offset = 0,
            all,
            "offset 0x1b: mapped-ram block list: mapped-ram block \"pc.ram\": bitmap offset 0x0, expected the offset \
             behind this header",
        );
        check(
            |_| (),
            4096,
            "offset 0x7: mapped-ram block list: mapped-ram block \"pc.ram\": used length 0x1000000, expected pages, no \
             more than is left of the list's sum",
        );
    }

    #[test]
    fn the_list_begins_with_the_sum_of_all_lengths() {
        let total = |word: u64, page_size| {
            list_total(word.to_be_bytes(), 0x20, page_size).map_err(|error| error.to_string())
        };
        assert_eq!(total(0x1_2345_6000 | RAM_SAVE_FLAG_MEM_SIZE, 4096), Ok(0x1_2345_6000));
        assert_eq!(total(0x1_2345_0000 | RAM_SAVE_FLAG_MEM_SIZE, 65536), Ok(0x1_2345_0000));
        for word in [0x1000, 0x1000 | 8, 0x1000 | RAM_SAVE_FLAG_MEM_SIZE | 0x800] {
            let error = total(word, 4096).unwrap_err();
            let flags = word & 0xfff;
            assert_eq!(error, format!("offset 0x20: mapped-ram block list: page flags {flags:#x} unknown"));
        }
    }

    #[test]
    fn the_next_entry_is_behind_the_last_page() {
        let block = RamBlock {
            idstr: b"a".to_vec(),
            used_length: 0x3000,
            host_page_size: None,
            guest_physical_address: None,
        };
        let place = MappedPlace { bitmap_offset: 0x100, bitmap_bytes: 8, pages_offset: 0x10_0000 };
        let entry = MappedBlock { block, place: Some(place) };
        assert_eq!(entry.end(0x100), 0x10_3000);
        assert_eq!(MappedBlock { place: None, ..entry }.end(0x100), 0x100);
    }

    /// What is said of an entry at the start of the file that names these places.
    fn said(used_length: u64, bitmap_offset: u64, pages_offset: u64) -> Result<u64, String> {
        let block = RamBlock { used_length, ..block() };
        let place = Some(MappedPlace { bitmap_offset, bitmap_bytes: 0, pages_offset });
        let written = MappedBlock { block, place };
        let mut bytes = Vec::new();
        put_entry(&mut bytes, &written, 4096);
        entry(&bytes, 0, 16 << 20, PLAIN)
            .map(|(_, read)| at(&read).bitmap_bytes)
            .map_err(|error| error.to_string().split("\"pc.ram\": ").nth(1).unwrap().to_owned())
    }

    #[test]
    fn a_length_is_a_number_of_pages_that_the_sum_still_has() {
        for (used_length, bitmap_bytes) in [(4096, 8), (64 << 12, 8), (65 << 12, 16), (16 << 20, 512)] {
            assert_eq!(said(used_length, 0x2b, 1 << 20), Ok(bitmap_bytes));
        }
        for wrong in [0, 0x1800, (16 << 20) + 4096] {
            let expected =
                format!("used length {wrong:#x}, expected pages, no more than is left of the list's sum");
            assert_eq!(said(wrong, 0x2b, 1 << 20), Err(expected));
        }
    }

    #[test]
    fn the_bitmap_begins_behind_the_header_by_a_mebibyte_at_most() {
        // A name of six bytes with its length, and 36 bytes of numbers.
        let end = 7 + 36;
        for right in [end, end + (1 << 20)] {
            assert_eq!(said(4096, right, 2 << 20), Ok(8), "{right:#x}");
        }
        for wrong in [end - 1, end + (1 << 20) + 1] {
            let expected = format!("bitmap offset {wrong:#x}, expected the offset behind this header");
            assert_eq!(said(4096, wrong, 2 << 20), Err(expected));
        }
    }

    #[test]
    fn the_pages_begin_behind_the_bitmap_by_64_mebibytes_at_most() {
        // The bitmap ends at a page.
        let bitmap = 0x1000 - 8;
        for right in [0x1000, 0x2000, 0x1000 + (64 << 20)] {
            assert_eq!(said(4096, bitmap, right), Ok(8), "{right:#x}");
        }
        for wrong in [0, 0x1800, 0x2000 + (64 << 20), u64::MAX - 4095] {
            let expected =
                format!("pages offset {wrong:#x}, expected a multiple of the page size behind the bitmap");
            assert_eq!(said(4096, bitmap, wrong), Err(expected));
        }
    }

    #[test]
    fn pages_that_would_end_behind_any_file_are_refused() {
        let offset = u64::MAX - 0xffff;
        let block = RamBlock { used_length: 0x2000, ..block() };
        let read = |pages_offset: u64| {
            let place = Some(MappedPlace { bitmap_offset: offset + 43, bitmap_bytes: 8, pages_offset });
            let written = MappedBlock { block: block.clone(), place };
            let mut bytes = Vec::new();
            put_entry(&mut bytes, &written, 4096);
            entry(&bytes, offset, 0x2000, PLAIN).is_ok()
        };
        assert!(read(u64::MAX - 0x2fff));
        assert!(!read(u64::MAX - 0x1fff));
        assert!(!read(u64::MAX - 0xfff));
    }

    #[test]
    fn version_and_page_size_are_the_ones_that_are_known() {
        let mut bytes = Vec::new();
        put_entry(&mut bytes, &place(&block(), 0, 4096), 4096);
        let said = |bytes: &[u8], page_size| {
            entry(bytes, 0, 16 << 20, MappedList { page_size, ..PLAIN }).unwrap_err().to_string()
        };
        assert_eq!(
            said(&bytes, 8192),
            "offset 0x13: mapped-ram block list: mapped-ram block \"pc.ram\": page size 0x1000, expected the target \
             page size"
        );
        bytes[18] = 2;
        assert_eq!(
            said(&bytes, 4096),
            "offset 0xf: mapped-ram block list: mapped-ram block \"pc.ram\": version 0x2, expected 1"
        );
        let nameless = entry(&[0; 300], 0x20, 16 << 20, PLAIN).unwrap_err().to_string();
        assert_eq!(nameless, "offset 0x20: mapped-ram block list: ram block name of length 0");
        let cut = entry(&bytes[..20], 0x20, 16 << 20, PLAIN).unwrap_err().to_string();
        assert_eq!(
            cut,
            "offset 0x34: mapped-ram block list: truncated: the stream ends inside the mapped-ram block list"
        );
    }

    #[test]
    fn a_block_is_placed_behind_what_lies_before_it() {
        let placed = at(&place(&block(), 0x2f_fe00, 4096));
        assert_eq!((placed.bitmap_offset, placed.bitmap_bytes), (0x2f_fe2b, 512));
        // The bitmap ends behind the third mebibyte.
        assert_eq!(placed.pages_offset, 0x40_0000);
        assert_eq!(at(&place(&block(), 0x2f_fd00, 4096)).pages_offset, 0x30_0000);
    }

    #[test]
    fn with_ignore_shared_an_entry_has_an_address_and_may_have_no_pages() {
        let with_address = RamBlock { guest_physical_address: Some(0x1_0000_0000), ..block() };
        let placed = place(&with_address, 0x63, 4096);
        assert_eq!(at(&placed).bitmap_offset, 0x96);
        let ignored = MappedBlock { place: None, ..placed.clone() };
        for written in [placed, ignored] {
            let mut bytes = Vec::new();
            put_entry(&mut bytes, &written, 4096);
            assert_eq!(entry(&bytes, 0x63, 16 << 20, SHARED).unwrap(), (bytes.len(), written));
            for cut in 0..bytes.len() {
                assert!(entry(&bytes[..cut], 0x63, 16 << 20, SHARED).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn only_both_offsets_of_0_say_that_a_block_is_elsewhere_and_only_with_the_capability() {
        let with_address = RamBlock { guest_physical_address: Some(0), ..block() };
        let said = |bitmap_offset, pages_offset, list| {
            let place = Some(MappedPlace { bitmap_offset, bitmap_bytes: 512, pages_offset });
            let block = if list == SHARED { with_address.clone() } else { block() };
            let mut bytes = Vec::new();
            put_entry(&mut bytes, &MappedBlock { block, place }, 4096);
            entry(&bytes, 0, 16 << 20, list)
                .map(|(_, read)| read.place)
                .map_err(|error| error.to_string().split("\"pc.ram\": ").nth(1).unwrap().to_owned())
        };
        assert_eq!(said(0, 0, SHARED), Ok(None));
        let bitmap = Err("bitmap offset 0x0, expected the offset behind this header".to_owned());
        assert_eq!(said(0, 0, PLAIN), bitmap);
        assert_eq!(said(0, 1 << 20, SHARED), bitmap);
        let pages = "pages offset 0x0, expected a multiple of the page size behind the bitmap".to_owned();
        assert_eq!(said(0x33, 0, SHARED), Err(pages));
    }
}
