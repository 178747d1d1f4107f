//! What a stream leaves in a destination: its RAM, in a file, and its devices, in memory.

mod ram;
mod timeline;

use crate::error::Error;
use crate::input::{OpenOptions, Opened, open};
use crate::presence::{Arrivals, BlockPresence, Presence};
use crate::walk::{Context, Event, Finding, FirstError, Flow, Item, Progress, Visitor, walk};
use migration_stream::device::{Decoded, State, decode};
use migration_stream::{Configuration, Page, PageContent, RamBlock, Record};
pub(crate) use ram::RamFile;
use std::ops::ControlFlow;
use std::path::Path;
pub(crate) use timeline::Stretch;
use timeline::Timeline;

/// Devices and other sections that are kept.
const SECTIONS_LIMIT: usize = 1 << 16;

/// A device section.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) idstr: Vec<u8>,
    pub(crate) instance_id: u32,
    pub(crate) version_id: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) description: Option<State>,
}

impl Device {
    /// Its fields, where they are known.
    pub(crate) fn decode(&self) -> Option<Decoded<'_>> {
        self.description.as_ref().map(|state| decode(&self.body, state))
    }

    /// What it is called in messages: name and instance.
    pub(crate) fn label(&self) -> String {
        format!("{}/{}", crate::escape::json_text(&self.idstr), self.instance_id)
    }
}

/// START of an iterable: name, instance, version.
pub(crate) type Iterable = (Vec<u8>, u32, u32);

/// Everything that a stream leaves.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) name: String,
    pub(crate) configuration: Option<Configuration>,
    pub(crate) page_size: u32,
    pub(crate) blocks: Vec<RamBlock>,
    pub(crate) iterables: Vec<Iterable>,
    pub(crate) devices: Vec<Device>,
    pub(crate) commands: Vec<&'static str>,
    pub(crate) vmdesc: Option<Vec<u8>>,
    pub(crate) footers: bool,
    pub(crate) ram: Option<RamFile>,
    /// Where each block is, in the order of the list.
    pub(crate) presence: Vec<BlockPresence>,
    pub(crate) multifd: bool,
    pub(crate) postcopy: bool,
    /// Pages came compressed (capability `compress`, up to 8.x).
    pub(crate) compressed: bool,
    pub(crate) timeline: Vec<Stretch>,
}

struct Loader {
    contents: Contents,
    arrivals: Arrivals,
    timeline: Timeline,
    problem: FirstError,
}

/// Loads `path`; `ram` takes its pages, if they are wanted.
///
/// # Errors
///
/// When it cannot be read, or is damaged: what a destination would refuse has no contents.
pub(crate) fn load(
    path: &Path,
    options: &OpenOptions,
    ram: Option<RamFile>,
    progress: Option<Progress>,
) -> Result<Contents, Error> {
    load_opened(open(path, options)?, options, ram, progress)
}

/// As [`load`], of what is open already.
pub(crate) fn load_opened(
    opened: Opened,
    options: &OpenOptions,
    ram: Option<RamFile>,
    progress: Option<Progress>,
) -> Result<Contents, Error> {
    let name = opened.name.clone();
    let contents = Contents { name: name.clone(), ram, ..Contents::default() };
    let mut loader = Loader {
        contents,
        arrivals: Arrivals::default(),
        timeline: Timeline::default(),
        problem: FirstError::default(),
    };
    walk(opened, options, &mut loader, progress)?;
    loader.problem.into_result(&name)?;
    if let Some(ram) = &mut loader.contents.ram {
        ram.flush().map_err(Error::io("writing RAM"))?;
    }
    loader.contents.timeline = loader.timeline.finish();
    loader.contents.presence = loader.arrivals.blocks();
    Ok(loader.contents)
}

/// What is left out would be neither compared nor converted, and no one would know.
fn limited(count: usize, name: &str, offset: u64, what: &str) -> Result<(), Error> {
    if count < SECTIONS_LIMIT {
        return Ok(());
    }
    Err(Error::Usage(format!("{name}: offset {offset:#x}: more than {SECTIONS_LIMIT} {what}")))
}

impl Contents {
    /// Whether a capability is in the configuration section.
    pub(crate) fn has_capability(&self, name: &str) -> bool {
        self.configuration.as_ref().is_some_and(|configuration| configuration.has_capability(name))
    }

    /// Where the RAM of a block is.
    pub(crate) fn presence(&self, block: usize) -> BlockPresence {
        self.presence.get(block).copied().unwrap_or_default()
    }

    /// Whether a block can be shown, compared and written.
    pub(crate) fn is_here(&self, block: usize) -> bool {
        self.presence(block).presence.is_here()
    }

    /// Refuses a block that is not in the input; says what to remark if some of its pages are not.
    ///
    /// # Errors
    ///
    /// Why it is not, and where it is.
    pub(crate) fn require(&self, block: usize) -> Result<Option<String>, Error> {
        let (presence, Some(listed)) = (self.presence(block), self.blocks.get(block)) else {
            return Ok(None);
        };
        if presence.presence.is_here() {
            Ok(presence.remark(&self.name, listed))
        } else {
            Err(presence.refusal(&self.name, listed))
        }
    }

    /// Names of the blocks that are not in the input for this reason.
    pub(crate) fn absent(&self) -> impl Iterator<Item = (&RamBlock, Presence)> {
        let presence = (0..).map(|block| self.presence(block).presence);
        self.blocks.iter().zip(presence).filter(|(_, presence)| !presence.is_here())
    }
}

impl Loader {
    fn record(&mut self, item: &Item<'_>, record: &Record<'_>, context: Context<'_>) -> Result<(), Error> {
        let contents = &mut self.contents;
        match record {
            Record::Configuration(configuration) => contents.configuration = Some(configuration.clone()),
            Record::SectionStart(header) => {
                limited(contents.iterables.len(), &contents.name, item.offset, "iterable sections")?;
                let iterable = (header.idstr.to_vec(), header.instance_id, header.version_id);
                contents.iterables.push(iterable);
            }
            Record::Command(command) => {
                contents.postcopy |= matches!(command, migration_stream::Command::PostcopyListen);
                let name = command.name();
                if !contents.commands.contains(&name) {
                    contents.commands.push(name);
                }
            }
            Record::RamMultifdFlush => contents.multifd = true,
            Record::Footer(_) => contents.footers = true,
            Record::VmDescription(json) => contents.vmdesc = Some(json.to_vec()),
            record => {
                contents.compressed |=
                    matches!(record, Record::Page(Page { content: PageContent::Zlib(_), .. }));
                if let Some(ram) = &mut contents.ram {
                    ram.take(&contents.name, item.offset, record, context)?;
                }
            }
        }
        Ok(())
    }
}

impl Visitor for Loader {
    fn item(&mut self, item: &Item<'_>, context: Context<'_>) -> Flow {
        if context.channel.is_none() {
            self.timeline.item(item);
        }
        self.arrivals.item(item, context);
        let contents = &mut self.contents;
        contents.page_size = context.page_size;
        if let Some(new @ [_, ..]) = context.blocks.get(contents.blocks.len()..) {
            contents.blocks.extend_from_slice(new);
        }
        let result = match &item.event {
            Event::Record(record) => self.record(item, record, context),
            Event::Device(section) => {
                let room = limited(contents.devices.len(), &contents.name, item.offset, "device sections");
                room.map(|()| {
                    contents.devices.push(Device {
                        idstr: section.header.idstr.to_vec(),
                        instance_id: section.header.instance_id,
                        version_id: section.header.version_id,
                        body: section.body.to_vec(),
                        description: section.description.cloned(),
                    });
                })
            }
            Event::Multifd(_) => {
                contents.multifd = true;
                Ok(())
            }
            Event::MultifdPages(pages) => match &mut contents.ram {
                Some(ram) => ram.take_packet(&contents.name, item.offset, pages, context),
                None => Ok(()),
            },
            _ => Ok(()),
        };
        match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn finding(&mut self, finding: Finding) -> Flow {
        self.problem.take(finding)
    }
}
