//! Puts what a stream leaves into another form.

mod mapped;
mod parts;
mod stream;

pub(crate) use mapped::write_mapped;
pub(crate) use parts::{Parts, gather};
pub(crate) use stream::{ZeroPages, write_stream};

use crate::contents::Contents;
use crate::diff::blocks as compare_blocks;
use crate::error::Error;

/// Whether two contents are the same for a destination: machine, RAM, iterables and devices, byte for byte.
///
/// # Errors
///
/// The first thing that is not.
pub(crate) fn same(a: &Contents, b: &Contents) -> Result<(), Error> {
    let differs = |what: String| {
        let text = format!("verification: {what} of {} is not what {} has", b.name, a.name);
        Err(Error::Wrong(text))
    };
    let machine = |contents: &Contents| {
        let configuration = contents.configuration.as_ref();
        configuration.map(|configuration| {
            let names = configuration.capabilities.iter().flatten();
            let names: Vec<_> = names.filter(|name| *name != b"mapped-ram").cloned().collect();
            (configuration.machine.clone(), configuration.uuid, configuration.target_page_bits, names)
        })
    };
    if machine(a) != machine(b) || a.page_size != b.page_size {
        return differs("the machine".to_owned());
    }
    let presence = |contents: &Contents| {
        (0..contents.blocks.len()).map(|block| contents.is_here(block)).collect::<Vec<_>>()
    };
    if presence(a) != presence(b) {
        return differs("where RAM is".to_owned());
    }
    let lengths = |contents: &Contents| {
        let blocks = contents.blocks.iter().map(|block| (block.idstr.clone(), block.used_length));
        blocks.collect::<Vec<_>>()
    };
    if lengths(a) != lengths(b) {
        return differs("the block list".to_owned());
    }
    let mut pages = None;
    compare_blocks(a, b, &mut |line| {
        if ["pages", "block_pages"].contains(&line.kind) {
            pages.get_or_insert(line.text());
        }
        Ok(())
    })?;
    if let Some(pages) = pages {
        return differs(format!("RAM ({pages})"));
    }
    if a.iterables != b.iterables {
        return differs("the list of iterable sections".to_owned());
    }
    if a.devices.len() != b.devices.len() {
        return differs("the list of devices".to_owned());
    }
    for (here, there) in a.devices.iter().zip(&b.devices) {
        let key = |device: &crate::contents::Device| {
            (device.idstr.clone(), device.instance_id, device.version_id, device.body.clone())
        };
        if key(here) != key(there) {
            return differs(format!("device {}", here.label()));
        }
    }
    Ok(())
}
