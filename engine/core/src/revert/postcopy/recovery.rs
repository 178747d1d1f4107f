//! Takes over after a server that died: asks the destination what it has, then lets it go on (ms 7.4).

use crate::failure::{Failure, uuid_text};
use crate::machine::{Header, Lane};
use crate::revert::output::Output;
use migration_stream::{Command, put_command};
use snapshot_image::{RamLayout, Snapshot};

/// A recovery of `uuid` may use this snapshot.
///
/// # Errors
///
/// It is another one, or may be another one: two guests must never mix.
pub fn check_recovery(uuid: &[u8; 16], snapshot: &Snapshot) -> Result<(), Failure> {
    let wanted = uuid_text(uuid);
    Err(Failure::Postcopy(match &snapshot.uuid {
        Some(found) if found == uuid => return Ok(()),
        Some(found) => {
            let found = uuid_text(found);
            format!("--recover={wanted}: the image holds snapshot {found}; two guests must not mix")
        }
        None => format!("--recover={wanted}: the image's snapshot has no UUID, so it may be another one"),
    }))
}

/// Which bitmaps have come.
#[derive(Debug)]
pub(crate) struct Recovery {
    missing: Vec<bool>,
}

impl Recovery {
    /// Asks for the bitmaps of all blocks, if this is the right snapshot.
    pub(crate) fn start(
        uuid: [u8; 16],
        snapshot: &Snapshot,
        layout: &RamLayout,
        out: &mut Vec<u8>,
    ) -> Result<Self, Failure> {
        check_recovery(&uuid, snapshot)?;
        for block in layout.blocks() {
            put_command(out, &Command::RecvBitmap(&block.name));
        }
        Ok(Self { missing: vec![true; layout.blocks().len()] })
    }

    /// The bitmap of this block has come. After the last one the destination may go on.
    pub(crate) fn received(&mut self, block: usize, output: &mut Output) -> Result<(), Failure> {
        if !std::mem::take(&mut self.missing[block]) {
            return Err(Failure::ReturnPath(format!("a second bitmap of block number {block}")));
        }
        if self.may_resume() {
            let mut out = Vec::new();
            put_command(&mut out, &Command::PostcopyResume);
            output.send(Lane::Main, Header::Long(out), None);
        }
        Ok(())
    }

    /// Everything is known.
    pub(crate) fn may_resume(&self) -> bool {
        !self.missing.contains(&true)
    }
}
