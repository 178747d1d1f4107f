//! What an image is beside the stream that it reverts to.

use crate::advice::Advice;
use crate::error::Error;
use crate::image_text::image_text;
use crate::input::OpenOptions;
use crate::linear;
use crate::machines::{ImageReadError, open_snapshot as open, read_part};
use crate::size::to_usize;
use crate::source::{FileRange, RandomAccess};
use crate::walk::{Finding, Level};
use snapshot_image::{ImageError, Layout, SnapshotReader, Verification};

/// A value that an image has.
pub(super) enum Fact {
    Number(u64),
    Text(String),
}

/// Lines for `dump`: kind, keys and values.
pub(super) type Facts = (&'static str, Vec<(&'static str, Fact)>);

/// Findings about pages that are reported one by one.
const MAX_REPORTED: u64 = 20;
/// Pages that are looked up at once.
const BATCH_PAGES: u64 = 8192;

/// What an image says of itself; nothing of a damaged one, as the walk says what is wrong.
///
/// # Errors
///
/// The file, whose name is `name`, could not be read.
pub(super) fn lines(name: &str, file: &FileRange, options: &OpenOptions) -> Result<Vec<Facts>, Error> {
    let reader = match open(file, options.reading()) {
        Ok(reader) => reader,
        Err(ImageReadError::Image(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.of_file(name)),
    };
    let (snapshot, layout) = (reader.snapshot(), reader.layout());
    let verified = match &snapshot.verification {
        Verification::Verified => "yes".to_owned(),
        Verification::Unverified(why) => format!("no: {why}"),
    };
    let uuid = snapshot.uuid.map_or_else(|| "-".to_owned(), |uuid| snapshot_engine::uuid_text(&uuid));
    let mut lines = vec![(
        "image",
        vec![
            ("file_bytes", Fact::Number(file.size_bytes())),
            ("uuid", Fact::Text(uuid)),
            ("created", Fact::Number(snapshot.created_unix_s.unwrap_or(0))),
            ("verified", Fact::Text(verified)),
            ("page_size", Fact::Number(layout.page_size().into())),
            ("normal_pages", Fact::Number(snapshot.normal_pages)),
            ("leader_bytes", Fact::Number(snapshot.leader.len() as u64)),
            ("third_bytes", Fact::Number(snapshot.third.len() as u64)),
            ("tail_bytes", Fact::Number(snapshot.tail.len() as u64)),
        ],
    )];
    for (number, block) in layout.blocks().iter().enumerate() {
        let mut facts = vec![
            ("name", Fact::Text(crate::escape::json_text(&block.name))),
            ("bytes", Fact::Number(block.used_length)),
            ("guest_offset", Fact::Number(layout.guest(number, 0).0)),
        ];
        facts.extend(reader.linear_base(number).map(|base| ("file_offset", Fact::Number(base.0))));
        lines.push(("image_block", facts));
    }
    Ok(lines)
}

/// Verifies the container, its tables, every checksum and every page, and goes on behind pages that
/// are damaged. Returns the image's layout, where it is known.
///
/// # Errors
///
/// The file, whose name is `name`, could not be read.
pub(super) fn check(
    name: &str,
    file: &FileRange,
    options: &OpenOptions,
    found: &mut dyn FnMut(Finding),
) -> Result<Option<Layout>, Error> {
    let mut layout = None;
    match verify(file, options, &mut layout, found) {
        Err(ImageReadError::Image(error)) => {
            found(wrong(&error));
        }
        done => done.map_err(|error| error.of_file(name))?,
    }
    Ok(layout)
}

fn wrong(error: &ImageError) -> Finding {
    Finding::new(Level::Error, None, "image", image_text(error)).advised(Advice::of_image(error))
}

fn verify(
    file: &FileRange,
    options: &OpenOptions,
    layout: &mut Option<Layout>,
    found: &mut dyn FnMut(Finding),
) -> Result<(), ImageReadError> {
    let mut reader = open(file, options.reading())?;
    *layout = linear::layout(&reader);
    if let Verification::Unverified(why) = reader.snapshot().verification.clone() {
        let level = if options.allow_unverified { Level::Note } else { Level::Warning };
        found(Finding::new(level, None, "image", format!("nothing can be verified: {why}")));
    }
    let damaged = pages(&mut reader, file, found);
    judge(damaged, "are damaged", found)?;
    let not_zero = linear::check_zeros(&mut reader, file, MAX_REPORTED, found);
    judge(not_zero, "are zero, and have other bytes in their places", found)?;
    reader.ask_with(|at, length| read_part(file, at, length), SnapshotReader::finish)
}

/// Says how many pages are wrong if not all are listed, or why none could be looked at.
fn judge(
    pages: Result<u64, ImageReadError>,
    are: &str,
    found: &mut dyn FnMut(Finding),
) -> Result<(), ImageReadError> {
    match pages {
        Ok(0..=MAX_REPORTED) => {}
        Ok(pages) => {
            let text = format!("{pages} pages {are}; the first {MAX_REPORTED} are listed");
            found(Finding::new(Level::Error, None, "image", text));
        }
        Err(ImageReadError::Image(error)) => found(wrong(&error)),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Reads every page that is there; returns how many are damaged.
fn pages(
    reader: &mut SnapshotReader,
    file: &FileRange,
    found: &mut dyn FnMut(Finding),
) -> Result<u64, ImageReadError> {
    let page_size = reader.layout().page_size();
    let total = reader.layout().total_bytes() / u64::from(page_size);
    let mut damaged = 0;
    let mut page = vec![0; page_size as usize];
    let mut first = 0;
    let mut meter = crate::progress::Meter::new("verifying pages");
    while first < total {
        meter.at(first * u64::from(page_size), Some(total * u64::from(page_size)));
        let count = BATCH_PAGES.min(total - first);
        let read = |at, length| read_part(file, at, length);
        for present in reader.ask_with(read, |reader| reader.present(first, count))? {
            let guest = snapshot_image::GuestOffset(present.page * u64::from(page_size));
            let extents = reader.ask_with(read, |reader| reader.map(guest, page_size.into()))?;
            let mut at = 0;
            for extent in extents {
                let length = to_usize(extent.length);
                let piece = &mut page[at..at + length];
                match extent.host {
                    Some(host) => file.read_at(host.0, piece).map_err(ImageReadError::at(host.0))?,
                    None => piece.fill(0),
                }
                at += length;
            }
            if let Err(error) = reader.layout().verify_page(&present, &page) {
                damaged += 1;
                if damaged <= MAX_REPORTED {
                    found(wrong(&error));
                }
            }
        }
        first += count;
    }
    Ok(damaged)
}
