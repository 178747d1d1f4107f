//! Decides, from the mappings and the command line of a process, which RAM blocks it has mapped
//! from the image. Nothing is assumed: what does not follow is refused.

use super::command_line::Backend;
use super::maps::{FileKey, Mapping};
use super::refusal::{Problem, Refusal};
use std::ops::Range;

/// A RAM block, and where it lies in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: Vec<u8>,
    /// Where its first byte is in the file.
    pub base: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl Wanted {
    fn file_range(&self) -> Range<u64> {
        self.base..self.base.saturating_add(self.length)
    }
}

/// A block whose memory is the image's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Its name.
    pub name: Vec<u8>,
    /// Where its first byte is in the file.
    pub base: u64,
    /// Its addresses in the process.
    pub addresses: Range<u64>,
}

/// What is known of a process.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// Its mappings, in the order of their addresses.
    pub mappings: &'a [Mapping],
    /// The objects of its command line.
    pub backends: &'a [Backend],
    /// The image's file, as mappings show it.
    pub image: FileKey,
}

/// Mappings that go on in each other: one range of a file at one range of addresses.
struct Run {
    file: FileKey,
    offset: u64,
    addresses: Range<u64>,
    /// A part of it can be written, as RAM is.
    writable: bool,
}

impl Run {
    fn file_range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.addresses.end - self.addresses.start)
    }

    fn shows(&self, range: &Range<u64>) -> bool {
        let own = self.file_range();
        own.start <= range.start && range.end <= own.end
    }

    /// How many bytes of `range` it shows.
    fn overlap(&self, range: &Range<u64>) -> u64 {
        let own = self.file_range();
        own.end.min(range.end).saturating_sub(own.start.max(range.start))
    }
}

/// The blocks that the process says it has from this image, or has mapped a part of.
#[must_use]
pub fn candidates<'a>(blocks: &'a [Wanted], evidence: &Evidence<'_>) -> Vec<&'a Wanted> {
    let runs = runs(evidence.mappings);
    let is_shown = |block: &Wanted| {
        runs.iter().any(|run| run.file == evidence.image && run.overlap(&block.file_range()) > 0)
    };
    let is_named = |block: &Wanted| {
        named(block, evidence.backends).any(|backend| backend.used && backend.offset == block.base)
    };
    blocks.iter().filter(|block| is_shown(block) || is_named(block)).collect()
}

/// Proves that the memory of the process that is this block is a private mapping of the block's
/// place in the image.
///
/// 1. One object of the command line has the block's name, begins where the block lies, is as long
///    at least, and is memory of the machine.
/// 2. All mappings of the image are private.
/// 3. One mapping shows the block's whole place in the image, no other object begins there, and no
///    other file is mapped, writable, as such an object would be: so the mapping is the object's memory.
///
/// # Errors
///
/// What was found instead.
pub fn prove(block: &Wanted, evidence: &Evidence<'_>) -> Result<Proven, Refusal> {
    let proven = check_object(block, evidence.backends)
        .and_then(|()| check_letters(block, evidence))
        .and_then(|()| find(block, evidence));
    proven.map_err(|problem| Refusal { block: block.name.clone(), problem })
}

/// The objects whose memory has this block's name.
fn named<'a>(block: &'a Wanted, backends: &'a [Backend]) -> impl Iterator<Item = &'a Backend> {
    let path = block.name.strip_prefix(b"/objects/");
    backends.iter().filter(move |backend| backend.id == block.name || path == Some(&backend.id))
}

fn check_object(block: &Wanted, backends: &[Backend]) -> Result<(), Problem> {
    let found: Vec<_> = named(block, backends).collect();
    let &[object] = found.as_slice() else {
        return Err(match found.len() {
            0 => Problem::Unnamed { needed: block.base },
            found => Problem::NamedTwice { found },
        });
    };
    if object.offset != block.base {
        return Err(Problem::Offset { found: object.offset, needed: block.base });
    }
    if object.size < block.length {
        return Err(Problem::Size { found: object.size, needed: block.length });
    }
    if object.used { Ok(()) } else { Err(Problem::Unused) }
}

fn check_letters(block: &Wanted, evidence: &Evidence<'_>) -> Result<(), Problem> {
    let of_image = || evidence.mappings.iter().filter(|mapping| mapping.file == evidence.image);
    // One that is elsewhere in the image, too: what is written there destroys it for all.
    if let Some(shared) = of_image().find(|mapping| !mapping.private) {
        return Err(Problem::Shared { letters: shared.letters(), address: shared.addresses.start });
    }
    let range = block.file_range();
    let is_in_it = |mapping: &&Mapping| {
        let own = mapping.file_range();
        own.start < range.end && range.start < own.end
    };
    match of_image().filter(is_in_it).find(|mapping| !(mapping.readable && mapping.writable)) {
        Some(other) => Err(Problem::Letters { letters: other.letters(), address: other.addresses.start }),
        None => Ok(()),
    }
}

fn find(block: &Wanted, evidence: &Evidence<'_>) -> Result<Proven, Problem> {
    let (base, needed, range) = (block.base, evidence.image, block.file_range());
    if range.end - range.start != block.length {
        return Err(Problem::Nowhere { needed, base });
    }
    let runs = runs(evidence.mappings);
    let is_begin = |offset| evidence.backends.iter().any(|backend| backend.offset == offset);
    let (own, others): (Vec<_>, Vec<_>) = runs
        .iter()
        .filter(|run| run.file == needed || is_begin(run.offset))
        .partition(|run| run.file == needed);
    let other = others.iter().find(|run| run.file.inode != 0 && run.writable && run.shows(&range));
    if let Some(other) = other {
        return Err(Problem::OtherFile { found: other.file, needed, address: other.addresses.start });
    }
    let whole: Vec<_> = own.iter().filter(|run| run.shows(&range)).collect();
    let Some(first) = whole.first() else {
        let longest = own.iter().max_by_key(|run| run.overlap(&range)).filter(|run| run.overlap(&range) > 0);
        return Err(match longest {
            Some(run) => Problem::Part {
                mapped: run.overlap(&range),
                needed: block.length,
                base,
                address: run.addresses.start,
            },
            None => Problem::Nowhere { needed, base },
        });
    };
    let objects = evidence.backends.iter().filter(|backend| backend.offset == base).count();
    if (whole.len(), objects) != (1, 1) {
        return Err(Problem::Ambiguous { mappings: whole.len(), objects, base });
    }
    let start = first.addresses.start + (base - first.offset);
    Ok(Proven { name: block.name.clone(), base, addresses: start..start + block.length })
}

fn runs(mappings: &[Mapping]) -> Vec<Run> {
    let mut found: Vec<Run> = Vec::new();
    let mut before: Option<&Mapping> = None;
    for mapping in mappings {
        match found.last_mut() {
            Some(run) if before.is_some_and(|before| before.is_continued_by(mapping)) => {
                run.addresses.end = mapping.addresses.end;
                run.writable |= mapping.writable;
            }
            _ => found.push(Run {
                file: mapping.file,
                offset: mapping.offset,
                addresses: mapping.addresses.clone(),
                writable: mapping.writable,
            }),
        }
        before = Some(mapping);
    }
    found
}

#[cfg(test)]
mod tests;
