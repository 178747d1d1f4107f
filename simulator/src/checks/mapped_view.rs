use super::{Invariant, Violation};
use crate::disk::SimFile;
use crate::generate::Vm;
use crate::size::to_usize;
use snapshot_image::{HostOffset, ImageError, Layout, ReadOptions, SnapshotReader};

/// What a guest sees that is mapped from a linear image is what was saved, over the whole length of
/// each block, zero pages included, and the file is as long as that. Returns the image's layout; a
/// dense one is not mapped.
///
/// # Errors
///
/// The page that differs, or why the image cannot be opened.
pub fn mapped_view(image: &SimFile, vm: &Vm) -> Result<Layout, Violation> {
    let wrong = |text: String| Violation { invariant: Invariant::WrongPage, text };
    let read = |HostOffset(at), length| {
        let mut bytes = vec![0; length];
        image.read(at, &mut bytes);
        Ok::<_, ImageError>(bytes)
    };
    let reader = SnapshotReader::open_with(image.length(), ReadOptions::default(), read);
    let reader = reader.map_err(|error| wrong(format!("to be mapped: {error}")))?;
    let page_bytes = u64::from(vm.config().page_size);
    let mut found = vec![0; to_usize(page_bytes.next_multiple_of(4096))];
    let zeros = vec![0; to_usize(page_bytes)];
    for (number, (_, length)) in vm.config().blocks.iter().enumerate() {
        let Some(HostOffset(base)) = reader.linear_base(number) else { return Ok(Layout::Dense) };
        if !base.is_multiple_of(2 << 20) || base + length > image.length() {
            return Err(wrong(format!("block {number} at {base:#x}, the file has {} bytes", image.length())));
        }
        for page in 0..vm.pages(number) {
            // A file is read in sectors.
            let at = base + page * page_bytes;
            image.read(at - at % 4096, &mut found);
            let bytes = &found[to_usize(at % 4096)..][..to_usize(page_bytes)];
            if bytes != vm.page(number, page).as_deref().unwrap_or(&zeros) {
                return Err(wrong(format!(
                    "page {page} of block {number} at {at:#x} of the file, if mapped"
                )));
            }
        }
    }
    Ok(Layout::Linear)
}
