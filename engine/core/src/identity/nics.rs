//! The NICs in a device tail.

use super::cards::{Card, card};
use super::error::{IdentityError, Unproved};
use migration_stream::Decoder;
use migration_stream::device::Vmdesc;
use migration_stream::device_tail::{OnError, Piece, Trailer, Walker, early, end};
use std::collections::BTreeMap;
use std::ops::Range;

/// A NIC of the snapshot.
#[derive(Debug)]
pub(crate) struct Nic {
    /// Its section's name in printable characters, with the instance where several have that name.
    pub(crate) device: String,
    /// Where its state is in the tail.
    pub(crate) body: Range<usize>,
    /// Its addresses, or why they are not known.
    pub(crate) card: Result<Card, Unproved>,
}

/// All NICs, in the order of the stream.
///
/// # Errors
///
/// Why they cannot be found.
pub(crate) fn nics(tail: &[u8], decoder: &Decoder) -> Result<Vec<Nic>, IdentityError> {
    let (eof, trailer) = end(tail, 0, decoder).map_err(IdentityError::Sections)?;
    let Trailer::Vmdesc(json) = trailer else { return Err(IdentityError::NoVmdesc) };
    let vmdesc = Vmdesc::parse(&tail[json]).ok_or(IdentityError::NoVmdesc)?;
    let footers = decoder.has_footers() != Some(false);
    let (first, before) = match decoder.early_devices() {
        None => (0, 0),
        Some((offset, bytes)) => {
            let found = early(&vmdesc.devices, offset, bytes, Some(footers));
            (found.map_err(IdentityError::Sections)?.0, bytes.len())
        }
    };
    let mut found = Vec::new();
    if before > 0 {
        // None of QEMU's NICs is sent early.
        for device in &vmdesc.devices[..first] {
            let is_nic = card(device, &[]).is_some();
            found.extend(is_nic.then_some((device, 0..0, Err(Unproved::Early))));
        }
    }
    let walker = Walker { devices: &vmdesc.devices, first, footers, on_error: OnError::Stop };
    let mut walked = walker.walk(&tail[..eof], 0);
    if !walked.findings.is_empty() {
        return Err(IdentityError::Sections(walked.findings.swap_remove(0)));
    }
    for piece in walked.pieces {
        let Piece::Device { device, body, by_anchor, .. } = piece else { continue };
        let device = &vmdesc.devices[device];
        if let Some(card) = card(device, &tail[body.clone()]) {
            let card = if by_anchor { Err(Unproved::Cut) } else { card };
            found.push((device, body, card));
        }
    }
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    for (device, ..) in &found {
        *named.entry(&device.idstr).or_default() += 1;
    }
    let name = |idstr: &str, instance: u64| {
        let text = printable(idstr);
        if named.get(idstr).is_some_and(|&times| times > 1) { format!("{text}/{instance}") } else { text }
    };
    let nic = |(device, body, card): (&migration_stream::device::Device, _, _)| Nic {
        device: name(&device.idstr, device.instance_id),
        body,
        card,
    };
    Ok(found.into_iter().map(nic).collect())
}

/// A name without control characters, spaces and quotes: it goes into messages, and into a shell's
/// variables.
fn printable(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '`' | '$');
    let escape = |c: char| if is_plain(c) { c.to_string() } else { format!("\\u{{{:x}}}", u32::from(c)) };
    name.chars().map(escape).collect()
}
