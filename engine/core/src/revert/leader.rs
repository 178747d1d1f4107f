//! Understands the leader: what the RAM section is called by, and how its records look.

use super::emit::Emitter;
use crate::failure::Failure;
use crate::identity::{self, Assigned, IdentityConfig};
use migration_stream::{Decoder, Options, PageSize, Record, SectionId, Step, device_tail};
use snapshot_image::{Snapshot, SnapshotReader};

/// A leader that was walked.
#[derive(Debug)]
pub(crate) struct Leader {
    ram: SectionId,
    decoder: Decoder,
}

impl Leader {
    /// Walks the leader of the open image.
    pub(crate) fn walk(reader: &SnapshotReader, options: &Options) -> Result<Self, Failure> {
        let page_size = PageSize::new(reader.layout().page_size().into());
        let mut decoder = Decoder::new(options.clone().with_page_size(page_size));
        let mut rest = &reader.snapshot().leader[..];
        let mut ram = SectionId(0);
        while !rest.is_empty() {
            match decoder.step(rest)? {
                Step::Record { len, record } => {
                    if let Record::SectionStart(header) = record
                        && header.idstr == crate::ram_section::RAM_IDSTR
                    {
                        ram = header.section_id;
                    }
                    rest = &rest[len..];
                }
                Step::Incomplete { .. } => break,
            }
        }
        if decoder.has_footers().is_none() {
            // No section has ended before what follows the leader; that tells whether there are footers.
            decoder.step(&reader.snapshot().tail)?;
        }
        Ok(Self { ram, decoder })
    }

    /// Writes RAM sections that go on where the leader ends.
    pub(crate) fn emitter(&self) -> Emitter {
        Emitter::new(self.ram, self.decoder.has_footers().unwrap_or(false), self.decoder.page_size().bytes())
    }

    /// The device sections of `tail` alone, without end mark and vmdesc.
    pub(crate) fn devices<'a>(&self, tail: &'a [u8]) -> Result<&'a [u8], Failure> {
        let (eof, _) = device_tail::end(tail, 0, &self.decoder)?;
        Ok(&tail[..eof])
    }

    /// The device tail of a clone, and what is new in it.
    pub(crate) fn clone_tail(
        &self,
        snapshot: &Snapshot,
        identity: &IdentityConfig,
    ) -> Result<(Vec<u8>, Vec<Assigned>), Failure> {
        let mut tail = snapshot.tail.clone();
        let assigned = identity::rewrite(&mut tail, &self.decoder, identity)?;
        Ok((tail, assigned))
    }

    /// Name of the machine type, where the leader tells it.
    pub(crate) fn machine(&self) -> Option<&[u8]> {
        self.decoder.configuration().map(|configuration| &configuration.machine[..])
    }
}
