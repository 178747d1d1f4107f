//! Device sections that come before RAM, and those that no vmdesc describes.

use super::event::{Border, Context, DeviceSection, Event, Item, Visitor};
use super::{Stop, go};
use migration_stream::Record;
use migration_stream::device::{Device, Guess, Walked, walk as walk_devices};

/// How many of the devices that are described `bytes` holds, and the way in which it does.
pub(super) fn early_devices(devices: &[Device], offset: u64, bytes: &[u8]) -> Option<(usize, Walked)> {
    for footers in [true, false] {
        let mut length = Some(0u64);
        for (number, device) in devices.iter().enumerate() {
            let frame = 14 + device.idstr.len() as u64 + if footers { 5 } else { 0 };
            let payload = device.state.payload_bytes();
            length =
                length.zip(payload).and_then(|(sum, payload)| sum.checked_add(frame)?.checked_add(payload));
            if length.is_none_or(|length| length > bytes.len() as u64) {
                break;
            }
            if length == Some(bytes.len() as u64) {
                let walked = walk_devices(bytes, offset, &devices[..=number], footers, Some(0));
                if walked.findings.is_empty() {
                    return Some((number + 1, walked));
                }
            }
        }
    }
    None
}

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
