//! What RAM a stream leaves at its end, told by a model that has nothing in common with the engine:
//! the last record of a page decides.

use std::collections::BTreeMap;

use migration_stream::{Entry, Options, Page, Record, SliceReader};

/// Pages that are not zero, by name of the RAM block and byte offset in it.
pub type Ram = BTreeMap<(Vec<u8>, u64), Vec<u8>>;

/// A stream, taken apart.
#[derive(Debug, Default)]
pub struct Contents {
    /// Target page size.
    pub page_bytes: usize,
    /// Names and lengths of the RAM blocks, in the order of the stream's list.
    pub blocks: Vec<(Vec<u8>, u64)>,
    /// RAM at the end of the stream.
    pub ram: Ram,
    /// Page records of any kind.
    pub page_records: u64,
    /// Pages that became zero after they had not been.
    pub zero_after_normal: u64,
    /// Pages that got other contents than zero after they had been sent as zero.
    pub normal_after_zero: u64,
    /// Idstr and body of each device section, in order.
    pub devices: Vec<(Vec<u8>, Vec<u8>)>,
    /// `dirty-bitmap` records, as text.
    pub dirty_bitmaps: Vec<String>,
    /// The vmdesc; empty where there is none.
    pub vmdesc: Vec<u8>,
}

/// Takes `stream` apart.
///
/// # Panics
///
/// If it is not a whole and right stream.
#[must_use]
pub fn contents(stream: &[u8]) -> Contents {
    let mut reader = SliceReader::new(stream, Options::default());
    let mut contents = Contents::default();
    let mut sent_as_zero = std::collections::BTreeSet::new();
    while let Some(Entry { record, .. }) = reader.advance().unwrap_or_else(|error| panic!("{error}")) {
        let page_bytes = usize::from(reader.decoder().page_size());
        let key = |block: usize, offset| (reader.decoder().blocks()[block].idstr.clone(), offset);
        let page = match record {
            Record::Page(Page { block, offset, content, .. }) => {
                let key = key(block, offset);
                let mut page = contents.ram.get(&key).cloned().unwrap_or_else(|| vec![0; page_bytes]);
                content.apply(&mut page).expect("a right delta or zlib stream");
                (key, page)
            }
            Record::Full(header, body) => {
                contents.devices.push((header.idstr.to_vec(), body.to_vec()));
                continue;
            }
            Record::DirtyBitmap(chunk) => {
                contents.dirty_bitmaps.push(format!("{chunk:?}"));
                continue;
            }
            Record::VmDescription(json) => {
                contents.vmdesc = json.to_vec();
                continue;
            }
            _ => continue,
        };
        contents.page_records += 1;
        let (key, bytes) = page;
        if bytes.iter().all(|&byte| byte == 0) {
            contents.zero_after_normal += u64::from(contents.ram.remove(&key).is_some());
            sent_as_zero.insert(key);
        } else {
            contents.normal_after_zero += u64::from(sent_as_zero.remove(&key));
            contents.ram.insert(key, bytes);
        }
    }
    let decoder = reader.decoder();
    contents.page_bytes = usize::from(decoder.page_size());
    contents.blocks = decoder.blocks().iter().map(|block| (block.idstr.clone(), block.used_length)).collect();
    contents
}

/// Panics unless `reverted` leaves the same RAM, devices, dirty bitmaps and vmdesc as `saved`.
///
/// # Panics
///
/// That is its job: with the first page or section that differs.
pub fn assert_same(saved: &[u8], reverted: &[u8]) {
    let (saved, reverted) = (contents(saved), contents(reverted));
    for (key, page) in &saved.ram {
        let block = String::from_utf8_lossy(&key.0);
        let found = reverted.ram.get(key);
        assert!(found == Some(page), "ram block \"{block}\" offset {:#x}: other contents", key.1);
    }
    let more = reverted.ram.keys().find(|key| !saved.ram.contains_key(*key));
    assert_eq!(more, None, "not zero after the revert");
    assert_eq!(reverted.zero_after_normal + reverted.normal_after_zero, 0, "a page sent twice");
    assert_eq!(
        saved.devices.iter().map(|device| &device.0).collect::<Vec<_>>(),
        reverted.devices.iter().map(|device| &device.0).collect::<Vec<_>>()
    );
    assert!(saved.devices == reverted.devices, "the body of a device section differs");
    assert_eq!(saved.dirty_bitmaps, reverted.dirty_bitmaps);
    assert!(saved.vmdesc == reverted.vmdesc, "the vmdesc differs");
}
