//! A stream in parts, from which one of another form can be put together: RAM apart, everything
//! else as it stood.

use crate::contents::RamFile;
use crate::error::Error;
use crate::input::{OpenOptions, Opened};
use crate::presence::BlockPresence;
use crate::walk::{Context, Event, Finding, FirstError, Flow, Item, Progress, Visitor, walk};
use migration_stream::{Command, Configuration, RamBlock, Record, SectionId, put_section_header};
use std::ops::ControlFlow;

/// Other iterables are kept in memory, up to that much.
const OTHERS_LIMIT_BYTES: usize = 256 << 20;

/// The parts.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) configuration: Option<Configuration>,
    pub(crate) page_size: u32,
    pub(crate) footers: bool,
    /// Device sections before RAM.
    pub(crate) early: Vec<u8>,
    /// Id of the `ram` section.
    pub(crate) ram_id: Option<SectionId>,
    pub(crate) blocks: Vec<RamBlock>,
    /// START sections of other iterables.
    pub(crate) others_start: Vec<u8>,
    /// Their PART and END sections.
    pub(crate) others: Vec<u8>,
    /// Device sections, EOF, vmdesc.
    pub(crate) tail: Vec<u8>,
    pub(crate) ram: Option<RamFile>,
    /// Where each block is.
    pub(crate) presence: Vec<BlockPresence>,
}

/// Where a record belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Device,
    Ram,
    OtherStart,
    Other,
}

#[derive(Default)]
struct Gatherer {
    parts: Parts,
    place: Place,
    problem: FirstError,
    name: String,
    /// Its multifd channels are there.
    joined: bool,
}

/// Takes a stream apart whose blocks are where `presence` says.
///
/// # Errors
///
/// When it cannot be read, is damaged, or cannot have another form.
pub(crate) fn gather(
    opened: Opened,
    presence: &[BlockPresence],
    options: &OpenOptions,
    progress: Option<Progress>,
) -> Result<Parts, Error> {
    let name = opened.name.clone();
    let joined = !opened.channels.is_empty();
    let mut gatherer = Gatherer { name: name.clone(), joined, ..Gatherer::default() };
    gatherer.parts.ram = Some(RamFile::temporary()?);
    gatherer.parts.presence = presence.to_vec();
    walk(opened, options, &mut gatherer, progress)?;
    gatherer.problem.into_result(&name)?;
    let mut parts = gatherer.parts;
    if parts.blocks.is_empty() || parts.tail.is_empty() {
        return Err(Error::Input { what: name, why: "no RAM, or no devices: nothing to convert".to_owned() });
    }
    if let Some(ram) = &mut parts.ram {
        ram.flush().map_err(Error::io("writing RAM"))?;
    }
    Ok(parts)
}

impl Gatherer {
    fn buffer(&mut self) -> Option<&mut Vec<u8>> {
        Some(match self.place {
            Place::Ram => return None,
            Place::OtherStart => &mut self.parts.others_start,
            Place::Other => &mut self.parts.others,
            Place::Device if self.parts.ram_id.is_none() => &mut self.parts.early,
            Place::Device => &mut self.parts.tail,
        })
    }

    fn record(&mut self, item: &Item<'_>, record: &Record<'_>, context: Context<'_>) -> Result<(), Error> {
        let refuse = |why: &str| Err(Error::Usage(format!("offset {:#x}: {why}", item.offset)));
        match record {
            Record::FileHeader => return Ok(()),
            Record::Configuration(configuration) => {
                self.parts.configuration = Some(configuration.clone());
                return Ok(());
            }
            Record::Command(Command::PostcopyListen | Command::Packaged(_)) => {
                return refuse("a stream that went over to postcopy has no other form");
            }
            // What commands say is about the channel, and a destination without postcopy refuses them.
            Record::Command(_) => return Ok(()),
            Record::RamMultifdFlush if !self.joined => {
                return refuse("RAM travels on multifd channels, which are not here");
            }
            Record::SectionStart(header) if header.idstr == b"ram" => {
                self.place = Place::Ram;
                self.parts.ram_id = Some(header.section_id);
            }
            Record::SectionStart(_) => self.place = Place::OtherStart,
            Record::SectionPart(id) | Record::SectionEnd(id) => {
                self.place = if self.parts.ram_id == Some(*id) { Place::Ram } else { Place::Other };
            }
            Record::Eof | Record::VmDescription(_) => self.place = Place::Device,
            _ => {}
        }
        if let Some(ram) = &mut self.parts.ram {
            ram.take(&self.name, item.offset, record, context)?;
        }
        if let Some(buffer) = self.buffer() {
            record.put(buffer, context.blocks);
            if buffer.len() > OTHERS_LIMIT_BYTES {
                return refuse("iterables other than RAM of more than 256 MiB");
            }
        }
        if let Record::Footer(_) = record {
            self.parts.footers = true;
            self.place = Place::Device;
        }
        Ok(())
    }
}

impl Visitor for Gatherer {
    fn item(&mut self, item: &Item<'_>, context: Context<'_>) -> Flow {
        self.parts.page_size = context.page_size;
        if let Some(new @ [_, ..]) = context.blocks.get(self.parts.blocks.len()..) {
            self.parts.blocks.extend_from_slice(new);
        }
        let result = match &item.event {
            Event::Record(record) => self.record(item, record, context),
            Event::Device(section) => {
                self.place = Place::Device;
                if let Some(buffer) = self.buffer() {
                    put_section_header(buffer, true, &section.header);
                    buffer.extend_from_slice(section.body);
                }
                Ok(())
            }
            Event::Opaque(bytes, _) => {
                // Without footers nothing else says that a RAM section has ended.
                self.place = Place::Device;
                if let Some(buffer) = self.buffer() {
                    buffer.extend_from_slice(bytes);
                }
                Ok(())
            }
            Event::MultifdPages(pages) if self.joined => match &mut self.parts.ram {
                Some(ram) => ram.take_packet(&self.name, item.offset, pages, context),
                None => Ok(()),
            },
            Event::Multifd(_) if self.joined => Ok(()),
            Event::Multifd(_) | Event::ReturnPath(_) => {
                Err(Error::Usage("a channel beside the main stream has no other form".to_owned()))
            }
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

impl Parts {
    /// Bytes of all blocks.
    pub(super) fn ram_bytes(&self) -> u64 {
        self.blocks.iter().map(|block| block.used_length).sum()
    }

    /// Whether the pages of a block are among the parts.
    pub(super) fn is_here(&self, block: usize) -> bool {
        self.presence.get(block).is_none_or(|block| block.presence.is_here())
    }

    /// Header, configuration and what is before the `ram` section, with or without capability mapped-ram.
    pub(super) fn leader(&self, mapped: bool) -> Vec<u8> {
        let mut out = Vec::new();
        migration_stream::put_file_header(&mut out);
        if let Some(configuration) = &self.configuration {
            let mut configuration = configuration.clone();
            let mut names = configuration.capabilities.take().unwrap_or_default();
            names.retain(|name| name != b"mapped-ram");
            if mapped {
                names.push(b"mapped-ram".to_vec());
            }
            configuration.capabilities = (!names.is_empty()).then_some(names);
            migration_stream::put_configuration(&mut out, &configuration);
        }
        out.extend_from_slice(&self.early);
        let header = migration_stream::SectionHeader {
            section_id: self.ram_id.unwrap_or(SectionId(0)),
            idstr: b"ram",
            instance_id: 0,
            version_id: migration_stream::ram::RAM_SECTION_VERSION,
        };
        put_section_header(&mut out, false, &header);
        out
    }

    /// The end of a RAM body, and its footer if the stream has any.
    pub(super) fn end_of_section(&self, out: &mut Vec<u8>) {
        migration_stream::ram::put_end_of_section(out);
        if self.footers {
            migration_stream::put_section_footer(out, self.ram_id.unwrap_or(SectionId(0)));
        }
    }

    /// The END of RAM, the other iterables, and everything behind them.
    pub(super) fn behind_ram(&self) -> Vec<u8> {
        let mut out = Vec::new();
        migration_stream::put_section_end(&mut out, self.ram_id.unwrap_or(SectionId(0)));
        self.end_of_section(&mut out);
        out.extend_from_slice(&self.others);
        out.extend_from_slice(&self.tail);
        out
    }
}
