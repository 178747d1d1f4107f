//! Device sections that no vmdesc describes.

use super::event::{Border, Context, DeviceSection, Event, Item, Visitor};
use super::{Stop, go};
use migration_stream::Record;
use migration_stream::device::Guess;

/// A part that was cut without a description.
pub(super) fn guessed(
    visitor: &mut dyn Visitor,
    context: Context<'_>,
    base: u64,
    bytes: &[u8],
    part: Guess<'_>,
    packaged: bool,
) -> Result<(), Stop> {
    let place = |range: &std::ops::Range<usize>| (base + range.start as u64, range.len() as u64);
    let why = "no vmdesc describes it";
    let (place, event, footer) = match part {
        Guess::Device { header, head, body, footer } => {
            let section = DeviceSection {
                header,
                header_bytes: head.len(),
                body: &bytes[body.clone()],
                description: None,
                border: Border::Footer,
            };
            let id = header.section_id;
            (place(&(head.start..body.end)), Event::Device(section), Some((footer, id)))
        }
        Guess::Command(command, range) => (place(&range), Event::Record(Record::Command(command)), None),
        Guess::Eof(range) => (place(&range), Event::Record(Record::Eof), None),
        Guess::Opaque(range) => (place(&range), Event::Opaque(&bytes[range.clone()], why), None),
    };
    let (offset, length) = place;
    go(visitor.item(&Item { offset, length, packaged, event }, context))?;
    if let Some((footer, id)) = footer {
        let (offset, length) = (base + footer.start as u64, footer.len() as u64);
        let event = Event::Record(Record::Footer(id));
        go(visitor.item(&Item { offset, length, packaged, event }, context))?;
    }
    Ok(())
}
