//! What an input is, in a few facts.

use crate::advice::Advice;
use crate::error::Error;
use crate::escape::json_text;
use crate::image_text::image_text;
use crate::input::{OpenOptions, Opened, open_reader};
use crate::machines::{ImageReadError, open_snapshot};
use crate::presence::{Arrivals, Presence};
use crate::source::FileRange;
use crate::walk::{Context, Event, Finding, Flow, Item, Level, Progress, Visitor, walk};
use migration_stream::{PageContent, PageSize, Record, UNKNOWN_LENGTH};
use serde::Serialize;
use snapshot_image::{ImageError, Verification};
use std::io::{Cursor, Read};
use std::ops::ControlFlow;

/// Blocks and devices that are listed; the rest is counted.
const LISTED: usize = 1 << 14;

/// A RAM block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Block {
    /// Its name, escaped.
    pub(crate) name: String,
    /// Its length in bytes, where it is known.
    pub(crate) bytes: Option<u64>,
    /// Where its content is.
    pub(crate) ram: Presence,
}

/// What only a snapshot image says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Image {
    pub(crate) uuid: Option<String>,
    pub(crate) created_unix_s: Option<u64>,
    /// How RAM lies in the file (`linear`, `dense`), where that is verified.
    pub(crate) layout: Option<String>,
    pub(crate) verified: bool,
    /// Why it cannot be verified.
    pub(crate) unverified_because: Option<String>,
    /// RAM that is not zero, where that is known.
    pub(crate) nonzero_bytes: Option<u64>,
}

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Internal {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) created_unix_s: u64,
    pub(crate) vm_state_bytes: u64,
}

/// What libvirt wrote before the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Libvirt {
    /// Name of the domain, escaped.
    pub(crate) domain: Option<String>,
    pub(crate) was_running: bool,
    pub(crate) complete: bool,
}

/// What was found wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// Everything was checked, as `check` does.
    pub(crate) checked: bool,
    pub(crate) errors: u64,
    pub(crate) warnings: u64,
    pub(crate) notes: u64,
    pub(crate) first_error: Option<String>,
    /// What can be done about that.
    #[serde(skip)]
    pub(crate) advice: Option<Advice>,
}

impl Verdict {
    pub(crate) fn take(&mut self, finding: &Finding) {
        match finding.level {
            Level::Error => {
                self.errors += 1;
                if self.first_error.is_none() {
                    self.first_error = Some(finding.to_string());
                    self.advice.clone_from(&finding.advice);
                }
            }
            Level::Warning => self.warnings += 1,
            Level::Note => self.notes += 1,
        }
    }
}

/// The facts.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Info {
    pub(crate) kind: &'static str,
    /// How it is packed, outermost first.
    pub(crate) packed: Vec<&'static str>,
    /// An image that holds no snapshot: what it is instead.
    pub(crate) no_snapshot: Option<String>,
    /// What can be done about that.
    #[serde(skip)]
    pub(crate) no_snapshot_advice: Option<Advice>,
    /// Bytes of the unpacked stream; of an image, none: it is not read.
    pub(crate) stream_bytes: Option<u64>,
    /// Machine type, escaped.
    pub(crate) machine: Option<String>,
    /// UUID of the VM, where the source sent it.
    pub(crate) vm_uuid: Option<String>,
    /// The oldest QEMU that has this machine type, by its name.
    pub(crate) qemu_at_least: Option<String>,
    pub(crate) page_size: u32,
    pub(crate) ram_bytes: u64,
    pub(crate) blocks: Vec<Block>,
    /// Records of pages with content, in whatever form, and of zero pages; of an image, none: they
    /// are not read.
    pub(crate) normal_pages: Option<u64>,
    pub(crate) zero_pages: Option<u64>,
    /// Names of device sections in their order, escaped; several instances have one entry each.
    pub(crate) devices: Vec<String>,
    pub(crate) vmdesc_bytes: Option<u64>,
    pub(crate) postcopy: bool,
    pub(crate) image: Option<Image>,
    pub(crate) internal_snapshots: Vec<Internal>,
    pub(crate) libvirt: Option<Libvirt>,
    pub(crate) verdict: Verdict,
}

/// The facts about an input.
///
/// An image is not read: its snapshot says what it holds. Anything else is read to its end, without
/// a look at the pages.
///
/// # Errors
///
/// It cannot be read. What is wrong with it is in the verdict.
pub(crate) fn info(opened: Opened, options: &OpenOptions, progress: Option<Progress>) -> Result<Info, Error> {
    let mut info = Info {
        kind: opened.kind.name(),
        packed: opened.wrappers.iter().map(|wrapper| wrapper.name()).collect(),
        libvirt: opened.libvirt.as_ref().map(|(header, xml)| Libvirt {
            domain: domain_name(xml),
            was_running: header.was_running,
            complete: header.complete,
        }),
        internal_snapshots: opened
            .snapshots
            .iter()
            .map(|snapshot| Internal {
                id: json_text(&snapshot.id),
                name: json_text(&snapshot.name),
                created_unix_s: snapshot.date_s.into(),
                vm_state_bytes: snapshot.vm_state_bytes,
            })
            .collect(),
        ..Info::default()
    };
    match opened.image.clone().filter(|_| opened.snapshots.is_empty()) {
        Some(file) => of_image(&mut info, &opened.name, &file, options)?,
        None => {
            let arrivals = Arrivals::default();
            let mut facts = Facts { info: &mut info, only_sections: false, arrivals };
            walk(opened, options, &mut facts, progress)?;
            let found = facts.arrivals.blocks();
            info.blocks.iter_mut().zip(found).for_each(|(block, found)| block.ram = found.presence);
        }
    }
    info.qemu_at_least = info.machine.as_deref().and_then(qemu_of_machine);
    Ok(info)
}

/// An image: its sections without RAM are a short stream.
fn of_image(info: &mut Info, name: &str, file: &FileRange, options: &OpenOptions) -> Result<(), Error> {
    let lenient = OpenOptions { allow_unverified: true, ..options.clone() };
    let reader = match open_snapshot(file, lenient.reading()) {
        Ok(reader) => reader,
        Err(ImageReadError::Image(
            error @ (ImageError::Interrupted
            | ImageError::NoVmState
            | ImageError::NoSnapshot(_)
            | ImageError::Foreign(_)),
        )) => {
            info.no_snapshot = Some(image_text(&error));
            info.no_snapshot_advice = Advice::of_image(&error);
            return Ok(());
        }
        Err(ImageReadError::Image(error)) => {
            let finding = Finding::new(Level::Error, None, "image", image_text(&error));
            info.verdict.take(&finding.advised(Advice::of_image(&error)));
            return Ok(());
        }
        Err(error) => return Err(error.of_file(name)),
    };
    let (snapshot, layout) = (reader.snapshot(), reader.layout());
    let reason = match &snapshot.verification {
        Verification::Verified => None,
        Verification::Unverified(why) => Some((*why).to_owned()),
    };
    info.image = Some(Image {
        uuid: snapshot.uuid.as_ref().map(snapshot_engine::uuid_text),
        created_unix_s: snapshot.created_unix_s,
        layout: crate::linear::layout(&reader).map(|layout| layout.to_string()),
        verified: reason.is_none(),
        unverified_because: reason,
        nonzero_bytes: snapshot.nonzero_pages.map(|pages| pages * u64::from(layout.page_size())),
    });
    let sections = Cursor::new(snapshot.leader.clone()).chain(Cursor::new(snapshot.tail.clone()));
    let options =
        OpenOptions { page_size: PageSize::new(layout.page_size().into()), ..options.without_channels() };
    let opened = open_reader(name, sections, &options)?;
    walk(opened, &options, &mut Facts { info, only_sections: true, arrivals: Arrivals::default() }, None)
}

/// The name of the domain in its XML.
fn domain_name(xml: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(xml).ok()?;
    let name = text.split_once("<name>")?.1.split_once("</name>")?.0;
    Some(json_text(name.as_bytes()))
}

/// A versioned machine type, as `pc-q35-7.2`, came with the QEMU of this number.
fn qemu_of_machine(machine: &str) -> Option<String> {
    let (family, version) = machine.rsplit_once('-')?;
    let known = ["pc", "pc-i440fx", "pc-q35", "virt", "pseries", "s390-ccw-virtio"];
    let (major, minor) = version.split_once('.')?;
    let number =
        |text: &str| !text.is_empty() && text.len() < 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    (known.contains(&family) && number(major) && number(minor)).then(|| version.to_owned())
}

/// Gathers facts from a walk.
struct Facts<'a> {
    info: &'a mut Info,
    /// The stream is an image's sections: what is said about its RAM does not count.
    only_sections: bool,
    arrivals: Arrivals,
}

impl Facts<'_> {
    fn record(&mut self, record: &Record<'_>) {
        let info = &mut *self.info;
        match record {
            Record::Configuration(configuration) => {
                info.machine = Some(json_text(&configuration.machine));
                info.vm_uuid = configuration.uuid.as_ref().map(snapshot_engine::uuid_text);
            }
            Record::Page(page) => {
                let zero = page.content == PageContent::Zero;
                *if zero { &mut info.zero_pages } else { &mut info.normal_pages }.get_or_insert(0) += 1;
            }
            Record::Command(command) => {
                info.postcopy |= matches!(command, migration_stream::Command::PostcopyListen);
            }
            Record::VmDescription(json) => info.vmdesc_bytes = Some(json.len() as u64),
            _ => {}
        }
    }
}

impl Visitor for Facts<'_> {
    fn item(&mut self, item: &Item<'_>, context: Context<'_>) -> Flow {
        self.arrivals.item(item, context);
        let info = &mut *self.info;
        info.page_size = context.page_size;
        if !self.only_sections {
            *info.stream_bytes.get_or_insert(0) += item.length;
        }
        for block in context.blocks.get(info.blocks.len()..).unwrap_or_default() {
            let bytes = (block.used_length != UNKNOWN_LENGTH).then_some(block.used_length);
            info.ram_bytes = info.ram_bytes.saturating_add(bytes.unwrap_or(0));
            info.blocks.push(Block { name: json_text(&block.idstr), bytes, ram: Presence::Here });
        }
        match &item.event {
            Event::Record(record) => self.record(record),
            Event::Device(section) if info.devices.len() < LISTED => {
                info.devices.push(json_text(section.header.idstr));
            }
            Event::MultifdPages(pages) => {
                *info.normal_pages.get_or_insert(0) += pages.normal.len() as u64;
                *info.zero_pages.get_or_insert(0) += pages.zero.len() as u64;
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn finding(&mut self, finding: Finding) -> Flow {
        if !self.only_sections || finding.level == Level::Error {
            self.info.verdict.take(&finding);
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_type_says_which_qemu_is_needed() {
        for (machine, qemu) in [
            ("pc-i440fx-10.0", Some("10.0")),
            ("pc-q35-7.2", Some("7.2")),
            ("virt-8.2", Some("8.2")),
            ("microvm", None),
            ("pc-q35-rhel9.2.0", None),
            ("x-.", None),
            ("snapsim-1.0", None),
        ] {
            assert_eq!(qemu_of_machine(machine).as_deref(), qemu, "{machine}");
        }
    }

    #[test]
    fn a_domain_is_named_by_its_xml() {
        assert_eq!(domain_name(b"<domain>\n <name>vm\x1b1</name></domain>").as_deref(), Some("vm\\x1b1"));
        assert_eq!(domain_name(b"<domain/>"), None);
    }
}
