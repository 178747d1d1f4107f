//! Any body of a `dirty-bitmap` section: both readers agree in any chunking, and what parses
//! encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use migration_stream::{
    ChunkKind, Entry, Options, PageSize, Record, SectionHeader, SectionId, SliceReader, StreamReader,
    put_file_header, put_section_header,
};
use std::io::Read;

struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let length = self.1.min(out.len());
        self.0.read(&mut out[..length])
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, body) = input;
    let mut stream = Vec::new();
    put_file_header(&mut stream);
    let header =
        SectionHeader { section_id: SectionId(3), idstr: b"dirty-bitmap", instance_id: 0, version_id: 1 };
    put_section_header(&mut stream, false, &header);
    stream.extend_from_slice(body);
    let options = Options::default().with_page_size(PageSize::DEFAULT);
    let mut slice = SliceReader::new(&stream, options.clone());
    let mut pull = StreamReader::new(Dribble(&stream, usize::from(piece) + 1), options);
    let mut encoded = Vec::new();
    loop {
        match (slice.advance(), pull.advance()) {
            (
                Ok(Some(Entry { offset: at, record, .. })),
                Ok(Some(Entry { offset: pulled_at, record: pulled, .. })),
            ) => {
                assert_eq!((at, &record), (pulled_at, &pulled));
                if let Record::DirtyBitmap(chunk) = &record
                    && let ChunkKind::Bits { first_sector, sectors, .. } = chunk.kind
                {
                    assert!(first_sector.checked_add(u64::from(sectors)).is_some());
                }
                record.put(&mut encoded, &[]);
                assert!(stream.starts_with(&encoded), "{record:?}");
            }
            (Ok(None), Ok(None)) => return,
            (Err(error), Err(pulled)) => {
                assert_eq!(error.to_string(), pulled.to_string());
                return;
            }
            (slice, pull) => panic!("the readers disagree: {slice:?} and {pull:?}"),
        }
    }
});
