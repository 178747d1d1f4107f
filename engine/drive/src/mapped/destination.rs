//! The process that loads the stream, and what it shows of itself.

use super::command_line::{COMMAND_LINE_LIMIT_BYTES, parse_command_line};
use super::copied::copied;
use super::descriptors::{self, DescriptorError};
use super::judge::{Evidence, Proven, Wanted, candidates, prove};
use super::maps::{MAPS_LIMIT_BYTES, parse_maps};
use super::not_mapped::NotMapped;
use super::options::Blocks;
use super::own::Own;
use super::peer::{End, find};
use super::process::{Process, missing_right};
use super::refusal::{Problem, Refusal};
use snapshot_engine::{MappedBlock, size_text};
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

/// The process that loads the stream.
pub(super) struct Destination {
    pub(super) process: Process,
    end: End,
}

/// What was proved, and which pages of it are copies.
#[derive(Default)]
pub(super) struct Found {
    pub(super) proven: Vec<Proven>,
    copied: Vec<Vec<Range<u64>>>,
}

impl Found {
    /// Puts together what was found of blocks in several files.
    pub(super) fn add(&mut self, more: Self) {
        self.proven.extend(more.proven);
        self.copied.extend(more.copied);
    }

    pub(super) fn blocks(&self) -> Vec<MappedBlock> {
        let blocks = self.proven.iter().zip(&self.copied);
        blocks
            .map(|(block, copied)| MappedBlock { name: block.name.clone(), copied: copied.clone() })
            .collect()
    }

    pub(super) fn text(&self, process: &Process) -> String {
        let of = |(block, copied): (&Proven, &Vec<Range<u64>>)| {
            let length = block.addresses.end - block.addresses.start;
            let copies: u64 = copied.iter().map(|range| range.end - range.start).sum();
            let sent = match copies {
                0 => String::new(),
                copies => format!(" ({} of it copied already, which is sent)", size_text(copies)),
            };
            format!("block \"{}\" {}{sent}", block.name.escape_ascii(), size_text(length))
        };
        let blocks: Vec<_> = self.proven.iter().zip(&self.copied).map(of).collect();
        format!("{process} has mapped from the image: {}", blocks.join(", "))
    }
}

impl Destination {
    pub(super) fn find(output: BorrowedFd<'_>) -> Result<Self, NotMapped> {
        let end = End::across(output).map_err(NotMapped::Peer)?;
        let process = find(&end, output).map_err(NotMapped::Peer)?;
        Ok(Self { process, end })
    }

    fn hidden(&self, source: io::Error) -> NotMapped {
        let process = self.process.to_string();
        match source.kind() {
            io::ErrorKind::PermissionDenied => {
                NotMapped::Hidden { process, right: missing_right(&self.process), source }
            }
            _ => NotMapped::Gone(process),
        }
    }

    /// Asks `look` with what the process shows.
    pub(super) fn with_evidence<T>(
        &self,
        own: &Own,
        look: impl FnOnce(&Evidence<'_>) -> T,
    ) -> Result<T, NotMapped> {
        let read = |name, limit| self.process.read(name, limit).map_err(|error| self.hidden(error));
        let process = || self.process.to_string();
        let mappings = parse_maps(&read("maps", MAPS_LIMIT_BYTES)?)
            .map_err(|source| NotMapped::Maps { process: process(), source })?;
        let backends = parse_command_line(&read("cmdline", COMMAND_LINE_LIMIT_BYTES)?)
            .map_err(|source| NotMapped::CommandLine { process: process(), source })?;
        Ok(look(&Evidence { mappings: &mappings, backends: &backends, image: own.key }))
    }

    /// The blocks that are to be left out, in the order of RAM.
    pub(super) fn choose<'a>(
        &self,
        all: &'a [Wanted],
        blocks: &Blocks,
        own: &Own,
    ) -> Result<Vec<&'a Wanted>, NotMapped> {
        let names = match blocks {
            Blocks::Mapped => {
                let found = self.with_evidence(own, |evidence| candidates(all, evidence))?;
                let process = || self.process.to_string();
                return if found.is_empty() {
                    Err(NotMapped::Nothing { process: process() })
                } else {
                    Ok(found)
                };
            }
            Blocks::Named(names) => names,
        };
        if let Some(unknown) = names.iter().find(|name| all.iter().all(|block| block.name != **name)) {
            let refusal = Refusal { block: unknown.clone(), problem: Problem::Unknown };
            return Err(NotMapped::Block { process: self.process.to_string(), refusal });
        }
        Ok(all.iter().filter(|block| names.contains(&block.name)).collect())
    }

    pub(super) fn prove(&self, chosen: &[&Wanted], own: &Own, is_own: bool) -> Result<Found, NotMapped> {
        let proven = self.with_evidence(own, |evidence| {
            chosen.iter().map(|block| prove(block, evidence)).collect::<Result<Vec<_>, _>>()
        })?;
        let process = || self.process.to_string();
        let proven = proven.map_err(|refusal| NotMapped::Block { process: process(), refusal })?;
        descriptors::check(&self.process, &own.status, own.file_system, is_own).map_err(
            |source| match source {
                DescriptorError::Io(error) => self.hidden(error),
                source => NotMapped::Descriptors { process: process(), source },
            },
        )?;
        let copies = proven.iter().map(|block| copied(&self.process, &block.addresses));
        let copied = copies.collect::<io::Result<Vec<_>>>().map_err(|error| self.hidden(error))?;
        Ok(Found { proven, copied })
    }

    /// The process has the other end of the channel as before.
    pub(super) fn is_still_there(&self) -> Result<(), NotMapped> {
        match self.end.is_held_by(&self.process) {
            Ok(true) => Ok(()),
            _ => Err(NotMapped::Gone(self.process.to_string())),
        }
    }
}
