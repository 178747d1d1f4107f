//! What the user says of the places of blocks, where the file does not say it.

use super::affinity::Affinity;
use super::find_block;
use crate::contents::Contents;
use crate::error::Error;
use crate::escape::terminal;

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At this physical address.
    At(u64),
    /// Nowhere, or not in memory that a core needs.
    LeftOut,
    /// It is memory of the guest, at an address that is not known.
    Unknown,
}

/// Options of a core about the places of blocks.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    nodes: Vec<String>,
    places: Vec<(usize, Place)>,
}

impl Placement {
    /// `nodes` are the blocks of main RAM in their order, `places` the addresses of others; none: left out.
    pub(crate) fn new(
        contents: &Contents,
        nodes: &[String],
        places: &[(String, Option<u64>)],
    ) -> Result<Self, Error> {
        let mut placement = Self { nodes: nodes.to_vec(), places: Vec::new() };
        for (name, address) in places {
            let block = find_block(contents, name)?;
            if placement.places.iter().any(|(placed, _)| *placed == block) {
                let name = terminal(name.as_bytes());
                return Err(Error::Usage(format!("two addresses are given for block \"{name}\"")));
            }
            placement.places.push((block, address.map_or(Place::LeftOut, Place::At)));
        }
        Ok(placement)
    }

    /// What was said of a block.
    pub(super) fn place(&self, number: usize) -> Option<Place> {
        self.places.iter().find(|(block, _)| *block == number).map(|(_, place)| *place)
    }

    /// The blocks of main RAM, if they were given. They have the sizes that the machine's own tables have.
    pub(super) fn nodes(
        &self,
        contents: &Contents,
        affinity: Option<&Affinity>,
    ) -> Result<Option<Vec<usize>>, Error> {
        if self.nodes.is_empty() {
            return Ok(None);
        }
        let mut nodes = Vec::new();
        for name in &self.nodes {
            let block = find_block(contents, name)?;
            if nodes.contains(&block) || self.place(block).is_some() {
                let name = terminal(name.as_bytes());
                return Err(Error::Usage(format!("main RAM: block \"{name}\" is given twice")));
            }
            nodes.push(block);
        }
        let sizes: Vec<_> = nodes.iter().map(|&block| contents.blocks[block].used_length).collect();
        match affinity {
            Some(affinity) if affinity.nodes != sizes => Err(Error::Usage(format!(
                "{}: the given blocks of main RAM have {sizes:?} bytes, the nodes in the ACPI tables {:?} bytes",
                contents.name, affinity.nodes
            ))),
            _ => Ok(Some(nodes)),
        }
    }
}
