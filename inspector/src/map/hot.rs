//! Pages that a guest needs first: from a hot set that `qemu-snapshot --record-hot-set` wrote, or
//! from a recorded return path.

use crate::error::Error;
use crate::escape::terminal;
use crate::input::{Kind, OpenOptions, open};
use crate::walk::{Context, Event, Finding, FirstError, Flow, Item, Visitor, walk};
use migration_stream::RamBlock;
use migration_stream::return_path::ReturnPathMessage;
use snapshot_engine::{HOT_SET_LIMIT_BYTES, HotSet};
use std::fs::File;
use std::io::Read;
use std::ops::{ControlFlow, Range};
use std::path::Path;

/// Ranges that are kept.
const RANGES_LIMIT: usize = 1 << 20;

/// A block, by its place in the list or by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Block {
    Number(u32),
    Name(Vec<u8>),
}

/// The pages.
#[derive(Debug, Default)]
pub(crate) struct Hot {
    ranges: Vec<(Block, Range<u64>)>,
    /// The block that was named last.
    last: Option<Vec<u8>>,
    problem: FirstError,
}

impl Hot {
    /// Reads the file.
    pub(crate) fn read(path: &Path, options: &OpenOptions) -> Result<Self, Error> {
        let name = terminal(path.as_os_str().as_encoded_bytes());
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(Error::io(&name))?;
        file.take(HOT_SET_LIMIT_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(Error::io(&name))?;
        if bytes.len() <= HOT_SET_LIMIT_BYTES
            && let Ok(hot) = HotSet::parse(&bytes)
        {
            let ranges = hot
                .ranges()
                .map(|(block, offset, length)| (Block::Number(block), offset..offset.saturating_add(length)));
            return Ok(Self { ranges: ranges.collect(), ..Self::default() });
        }
        let opened = open(path, options)?;
        if opened.kind != Kind::ReturnPath {
            let why = format!("a {}; expected a hot set or a recorded return path", opened.kind.name());
            return Err(Error::Input { what: name, why });
        }
        let mut hot = Self::default();
        walk(opened, options, &mut hot, None)?;
        std::mem::take(&mut hot.problem).into_result(&name)?;
        Ok(hot)
    }

    /// The ranges of one block, in bytes.
    pub(crate) fn of(&self, number: usize, block: &RamBlock) -> Vec<Range<u64>> {
        let is = |wanted: &Block| match wanted {
            Block::Number(wanted) => usize::try_from(*wanted) == Ok(number),
            Block::Name(name) => *name == block.idstr,
        };
        self.ranges.iter().filter(|(block, _)| is(block)).map(|(_, range)| range.clone()).collect()
    }
}

impl Visitor for Hot {
    fn item(&mut self, item: &Item<'_>, _: Context<'_>) -> Flow {
        if let Event::ReturnPath(ReturnPathMessage::RequestPages { block, start, length }) = &item.event {
            if let Some(name) = block {
                self.last = Some(name.to_vec());
            }
            if let Some(name) = &self.last
                && self.ranges.len() < RANGES_LIMIT
            {
                let range = *start..start.saturating_add(u64::from(*length));
                self.ranges.push((Block::Name(name.clone()), range));
            }
        }
        ControlFlow::Continue(())
    }

    fn finding(&mut self, finding: Finding) -> Flow {
        self.problem.take(finding)
    }
}
