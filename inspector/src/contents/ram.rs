//! RAM in a file: every page at its place, whatever the order in which pages come; zero pages take no room.

use crate::error::Error;
use crate::pages::{PageSet, is_zero};
use crate::walk::{Context, PacketPages};
use migration_stream::{ErrorKind, Page, PageContent, RamBlock, Record, UNKNOWN_LENGTH};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Pages that follow each other are written together, up to that much.
const WRITE_BYTES: usize = 1 << 20;
/// Room for a block whose length is not known.
const UNKNOWN_ROOM_BYTES: u64 = 1 << 40;
/// Blocks begin at multiples of that in the file.
const ALIGNMENT_BYTES: u64 = 64 << 10;

/// The file.
#[derive(Debug)]
pub(crate) struct RamFile {
    file: File,
    /// Only this block is kept.
    only: Option<Vec<u8>>,
    places: Vec<Option<(u64, u64)>>,
    next: u64,
    page_size: u32,
    written: PageSet,
    /// Pages that came, and those that came again, where anybody wants to know.
    watched: Option<Box<(PageSet, PageSet)>>,
    /// What is still to be written, and where.
    pending: (u64, Vec<u8>),
    page: Vec<u8>,
}

impl RamFile {
    /// RAM in `file`, which is empty.
    fn new(file: File) -> Self {
        Self {
            file,
            only: None,
            places: Vec::new(),
            next: 0,
            page_size: 0,
            written: PageSet::default(),
            watched: None,
            pending: (0, Vec::new()),
            page: Vec::new(),
        }
    }

    /// RAM in a file without a name.
    pub(crate) fn temporary() -> Result<Self, crate::Error> {
        let file = tempfile::tempfile().map_err(crate::Error::io("temporary file"))?;
        Ok(Self::new(file))
    }

    /// Keeps this block only.
    pub(crate) fn only(self, block: &[u8]) -> Self {
        Self { only: Some(block.to_vec()), ..self }
    }

    /// Remembers which pages come more than once.
    pub(crate) fn watching(self) -> Self {
        Self { watched: Some(Box::default()), ..self }
    }

    /// The first page from `page` on that came more than once.
    pub(crate) fn next_again(&self, block: usize, page: u64) -> Option<u64> {
        self.watched.as_ref().and_then(|watched| watched.1.next(block, page))
    }

    /// Whether a page came more than once.
    pub(crate) fn came_again(&self, block: usize, page: u64) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.1.contains(block, page))
    }

    fn learn(&mut self, blocks: &[RamBlock], page_size: u32) {
        self.page_size = page_size;
        for block in &blocks[self.places.len().min(blocks.len())..] {
            let wanted = self.only.as_ref().is_none_or(|only| *only == block.idstr);
            let length =
                if block.used_length == UNKNOWN_LENGTH { UNKNOWN_ROOM_BYTES } else { block.used_length };
            self.places.push(wanted.then_some((self.next, length)));
            if wanted {
                self.next = self.next.saturating_add(length).next_multiple_of(ALIGNMENT_BYTES);
            }
        }
    }

    /// Where a block begins in the file, and its length.
    fn place(&self, block: usize) -> Option<(u64, u64)> {
        self.places.get(block).copied().flatten()
    }

    /// The first place in a block, from `at` on, that may hold anything but zeros: `at`, or the
    /// start of a page behind it. What lies between takes no time, whatever its length: RAM of a
    /// stream that has few pages costs what these do.
    ///
    /// # Errors
    ///
    /// The operating system's.
    pub(crate) fn next_data(&self, block: usize, at: u64) -> io::Result<Option<u64>> {
        let Some((place, length)) = self.place(block).filter(|(_, length)| at < *length) else {
            return Ok(None);
        };
        let page_size = u64::from(self.page_size.max(1));
        let next = if self.written.is_incomplete() {
            // More pages came than are noted: the file itself knows where it has holes.
            match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(place + at)) {
                Ok(found) => found.saturating_sub(place) / page_size * page_size,
                Err(rustix::io::Errno::NXIO) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        } else {
            match self.written.next(block, at / page_size) {
                Some(page) => page * page_size,
                None => return Ok(None),
            }
        };
        Ok(Some(next.max(at)).filter(|&next| next < length))
    }

    /// Whether a page may be other than zero.
    pub(crate) fn holds(&self, block: usize, page: u64) -> bool {
        self.written.is_incomplete() || self.written.contains(block, page)
    }

    /// Takes what is at `offset` of the input `name`, if it is a page.
    pub(crate) fn take(
        &mut self,
        name: &str,
        offset: u64,
        record: &Record<'_>,
        context: Context<'_>,
    ) -> Result<(), Error> {
        self.record(record, context).map_err(Error::io("writing RAM"))?.map_err(|kind| {
            let path = "section \"ram\" > page record".to_owned();
            let error = migration_stream::Error { offset, path, kind };
            Error::Wrong(format!("{name}: {error}"))
        })
    }

    /// Takes the pages of a multifd packet.
    pub(crate) fn take_packet(
        &mut self,
        name: &str,
        offset: u64,
        pages: &PacketPages<'_>,
        context: Context<'_>,
    ) -> Result<(), Error> {
        // What is wrong with them stops the walk by itself; what is only not understood does not.
        if pages.unpacked.is_none() {
            let text = "pages on a multifd channel that nothing here can unpack";
            return Err(Error::Usage(format!("{name}: {text}")));
        }
        pages.records(context.page_size).try_for_each(|record| self.take(name, offset, &record, context))
    }

    /// Takes a record, if it is a page.
    fn record(&mut self, record: &Record<'_>, context: Context<'_>) -> io::Result<Result<(), ErrorKind>> {
        if self.places.len() < context.blocks.len() || self.page_size != context.page_size {
            self.learn(context.blocks, context.page_size);
        }
        let &Record::Page(Page { block, offset, content, .. }) = record else { return Ok(Ok(())) };
        let page_size = self.page_size as usize;
        let Some((place, length)) = self.place(block) else { return Ok(Ok(())) };
        if offset.saturating_add(page_size as u64) > length {
            return Err(io::Error::other(format!("page {offset:#x} lies behind all room for its block")));
        }
        if let Some(watched) = &mut self.watched {
            let number = offset / u64::from(self.page_size);
            if !watched.0.insert(block, number) {
                watched.1.insert(block, number);
            }
        }
        let mut page = std::mem::take(&mut self.page);
        page.resize(page_size, 0);
        if let PageContent::Xbzrle(_) = content {
            self.flush()?;
            self.read(block, offset, &mut page)?;
        }
        let outcome = content.apply(&mut page);
        if outcome.is_ok() {
            self.put(block, offset, place + offset, &page)?;
        }
        self.page = page;
        Ok(outcome)
    }

    fn put(&mut self, block: usize, offset: u64, at: u64, page: &[u8]) -> io::Result<()> {
        let number = offset / u64::from(self.page_size);
        // A zero page over something else has to be written; where nothing is, nothing is needed.
        if is_zero(page) && !self.holds(block, number) {
            return Ok(());
        }
        self.written.insert(block, number);
        let (start, bytes) = &self.pending;
        if start + bytes.len() as u64 != at || bytes.len() >= WRITE_BYTES {
            self.flush()?;
            self.pending.0 = at;
        }
        self.pending.1.extend_from_slice(page);
        Ok(())
    }

    /// Writes what is pending.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.pending.1, self.pending.0)?;
        self.pending.1.clear();
        Ok(())
    }

    /// Reads; what is not there is zero.
    pub(crate) fn read(&self, block: usize, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let Some((place, _)) = self.place(block) else {
            out.fill(0);
            return Ok(());
        };
        let mut at = place + offset;
        while !out.is_empty() {
            match self.file.read_at(out, at) {
                Ok(0) => {
                    out.fill(0);
                    return Ok(());
                }
                Ok(bytes) => {
                    at += bytes as u64;
                    out = &mut out[bytes..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use migration_stream::xbzrle;

    fn block(name: &[u8]) -> RamBlock {
        RamBlock {
            idstr: name.to_vec(),
            used_length: 8192,
            host_page_size: None,
            guest_physical_address: None,
        }
    }

    #[test]
    fn data_is_found_by_the_set_of_pages_and_where_that_is_full_by_the_file() {
        let length = 1 << 40;
        let block = RamBlock { used_length: length, ..block(b"a") };
        let blocks = [block.clone(), RamBlock { idstr: b"b".to_vec(), ..block }];
        let context = Context { blocks: &blocks, page_size: 4096, configuration: None, channel: None };
        let mut ram = RamFile::temporary().unwrap();
        let pages = [3 * 4096, 1 << 30, length - 4096];
        for offset in pages {
            let record = raw(1, offset, &[7; 4096]);
            ram.record(&record, context).unwrap().unwrap();
        }
        ram.flush().unwrap();
        let found = |ram: &RamFile, block| {
            let (mut found, mut at) = (Vec::new(), 0);
            while let Some(next) = ram.next_data(block, at).unwrap() {
                found.push(next);
                at = next + 4096;
            }
            found
        };
        assert_eq!((found(&ram, 1), found(&ram, 0)), (pages.to_vec(), Vec::new()));
        assert_eq!(ram.next_data(1, (1 << 30) + 100).unwrap(), Some((1 << 30) + 100));
        for chunk in 0.. {
            if ram.written.is_incomplete() {
                break;
            }
            ram.written.insert(2, chunk << 15);
        }
        // What the file has may be more: its blocks are larger than pages.
        let by_file = found(&ram, 1);
        assert!(pages.iter().all(|page| by_file.contains(page)) && by_file.len() < 100, "{}", by_file.len());
        assert!(found(&ram, 0).is_empty());
    }

    fn raw(block: usize, offset: u64, data: &[u8]) -> Record<'_> {
        Record::Page(Page { block, offset, named: true, content: PageContent::Raw(data) })
    }

    #[test]
    fn the_last_record_of_a_page_wins_whatever_its_kind() {
        let blocks = [block(b"a"), block(b"b")];
        let context = Context { blocks: &blocks, page_size: 4096, configuration: None, channel: None };
        let mut ram = RamFile::temporary().unwrap();
        let mut put = |record| ram.record(&record, context).unwrap().unwrap();
        put(raw(1, 4096, &[7; 4096]));
        put(raw(0, 0, &[1; 4096]));
        put(Record::Page(Page { block: 0, offset: 0, named: false, content: PageContent::Zero }));
        let mut old = [7; 4096];
        old[9] = 8;
        let delta = xbzrle::encode(&[7; 4096], &old);
        let content = PageContent::Xbzrle(&delta);
        put(Record::Page(Page { block: 1, offset: 4096, named: true, content }));
        ram.flush().unwrap();
        let mut page = [9; 4096];
        ram.read(0, 0, &mut page).unwrap();
        assert_eq!(page, [0; 4096]);
        ram.read(1, 4096, &mut page).unwrap();
        assert_eq!(page, old);
        assert!(!ram.holds(1, 0) && ram.holds(1, 1));
    }
}
