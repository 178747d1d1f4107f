//! How fast a stream is walked: page headers per second, and the pull reader against a bare `read` loop over
//! the same bytes. Ratios of medians, interleaved, in one run on one machine.

#![allow(clippy::disallowed_types, reason = "a benchmark needs the clock; the crate does not")]

use migration_stream::{
    BlockList, Entry, Options, PageSize, RAM_SECTION_VERSION, RamBlock, Record, SectionHeader, SectionId,
    SliceReader, StreamReader, put_end_of_section, put_file_header, put_page_header, put_ram_blocks,
    put_section_footer, put_section_header, put_section_part,
};
use std::hint::black_box;
use std::io::Read;
use std::time::{Duration, Instant};

const PAGES: u64 = 65_536;
/// Pages of a stream that fits a cache: headers of a larger one wait for memory, each in a line of its own.
const CACHED_PAGES: u64 = 128;
const PAGE_BYTES: usize = 4096;
const ROUNDS: usize = 7;

/// A stream of one PART section with so many pages.
fn stream(pages: u64) -> Vec<u8> {
    let ram = SectionId(2);
    let mut out = Vec::new();
    put_file_header(&mut out);
    let header =
        SectionHeader { section_id: ram, idstr: b"ram", instance_id: 0, version_id: RAM_SECTION_VERSION };
    put_section_header(&mut out, false, &header);
    let block = RamBlock {
        idstr: b"pc.ram".to_vec(),
        used_length: pages * PAGE_BYTES as u64,
        host_page_size: None,
        guest_physical_address: None,
    };
    put_ram_blocks(&mut out, &BlockList { blocks: vec![block] });
    put_end_of_section(&mut out);
    put_section_footer(&mut out, ram);
    put_section_part(&mut out, ram);
    for page in 0..pages {
        put_page_header(&mut out, (page == 0).then_some(&b"pc.ram"[..]), page * PAGE_BYTES as u64);
        out.resize(out.len() + PAGE_BYTES, 0x5a);
    }
    put_end_of_section(&mut out);
    put_section_footer(&mut out, ram);
    out
}

fn timed(job: impl FnOnce()) -> Duration {
    let start = Instant::now();
    job();
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn walk_slice(stream: &[u8]) {
    // The page size is given, so that nothing is looked for at the end of the stream.
    let options = Options::default().with_page_size(PageSize::DEFAULT);
    let mut reader = SliceReader::new(stream, options);
    let mut pages = 0;
    // The stream ends after RAM, which is an error that ends the walk as well.
    while let Ok(Some(Entry { record, .. })) = reader.advance() {
        pages += u64::from(matches!(black_box(record), Record::Page(_)));
    }
    assert_eq!(pages, CACHED_PAGES);
}

fn walk_pull(source: impl Read) {
    let mut reader = StreamReader::new(source, Options::default());
    let mut pages = 0;
    while let Ok(Some(Entry { record, .. })) = reader.advance() {
        pages += u64::from(matches!(black_box(record), Record::Page(_)));
    }
    assert_eq!(pages, PAGES);
}

fn bare_read(mut source: impl Read) {
    let mut buffer = vec![0; 256 << 10];
    while source.read(&mut buffer).unwrap_or(0) > 0 {
        black_box(&mut buffer);
    }
}

fn main() {
    let (stream, cached) = (stream(PAGES), stream(CACHED_PAGES));
    let walks = PAGES / CACHED_PAGES;
    let (mut slice, mut pull, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        slice.push(timed(|| (0..walks).for_each(|_| walk_slice(&cached))));
        bare.push(timed(|| bare_read(&stream[..])));
        pull.push(timed(|| walk_pull(&stream[..])));
    }
    let (slice, pull, bare) = (median(slice), median(pull), median(bare));
    #[allow(clippy::cast_precision_loss, reason = "a count of pages is exact in an f64")]
    let pages = PAGES as f64;
    println!("page headers per second, slice reader: {:.1} million (target 20)", pages / slice / 1e6);
    println!("pull reader, of the speed of a bare read loop: {:.2} (target 0.80)", bare / pull);
}
