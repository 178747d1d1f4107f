//! The same proof against files that `unpack` made: for QEMU that maps a file only from its start,
//! and opens it to be written (before 8.2).
//!
//! The files' manifest says which snapshot they are of, and how to see that they are as they were
//! when each page was verified. As the guest's balloon may punch holes into them, they have to be
//! this guest's own.

use super::destination::{Destination, Found};
use super::judge::{Wanted, candidates};
use super::not_mapped::NotMapped;
use super::options::Blocks;
use super::own::Own;
use super::peer::holding;
use super::refusal::{Problem, Refusal};
use crate::open_snapshot::OpenSnapshot;
use crate::unpack::{FileStamp, RamFile, RamFiles, RamFilesError};
use snapshot_engine::Failure;
use std::path::Path;

/// Proves what the destination has mapped from the files of `folder`.
pub(super) fn prove(
    folder: &Path,
    snapshot: &OpenSnapshot,
    destination: &Destination,
    blocks: &Blocks,
) -> Result<Found, Failure> {
    let mut owners = vec![rustix::process::geteuid().as_raw()];
    owners.extend(destination.process.status("Uid:"));
    let files = RamFiles::open(folder, &owners).map_err(NotMapped::RamFiles)?;
    let of = snapshot.reader().snapshot();
    if of.uuid != Some(files.uuid) || of.root_checksum != Some(files.root_checksum) {
        return Err(NotMapped::OtherSnapshot(folder.to_owned()).into());
    }
    let process = || destination.process.to_string();
    if let Blocks::Named(names) = blocks
        && let Some(unknown) = names.iter().find(|name| files.block(name).is_none())
    {
        let refusal = Refusal { block: unknown.clone(), problem: Problem::Unknown };
        return Err(NotMapped::Block { process: process(), refusal }.into());
    }
    let mut found = Found::default();
    for block in snapshot.reader().layout().blocks() {
        let Some(file) = files.block(&block.name) else { continue };
        let wanted = Wanted { name: block.name.clone(), base: 0, length: block.used_length };
        found.add(prove_block(&wanted, file, destination, blocks)?);
    }
    if found.proven.is_empty() {
        return Err(NotMapped::Nothing { process: process() }.into());
    }
    Ok(found)
}

/// Of a block that is not mapped, nothing.
fn prove_block(
    wanted: &Wanted,
    file: &RamFile,
    destination: &Destination,
    blocks: &Blocks,
) -> Result<Found, Failure> {
    let own = Own::of(&file.file).map_err(NotMapped::Own)?;
    let is_chosen = match blocks {
        Blocks::Named(names) => names.contains(&wanted.name),
        Blocks::Mapped => destination
            .with_evidence(&own, |evidence| !candidates(std::slice::from_ref(wanted), evidence).is_empty())?,
    };
    if !is_chosen {
        return Ok(Found::default());
    }
    let found = destination.prove(&[wanted], &own, true)?;
    let others = holding(|process| process.pid != destination.process.pid && own.is_mapped_by(process));
    if !others.is_empty() {
        return Err(NotMapped::NotAlone { path: file.path.clone(), others }.into());
    }
    // Up to here it is as it was when each page was verified.
    let now = FileStamp::of(&file.file).map_err(Failure::refused)?;
    if now != file.stamp {
        let (path, expected) = (file.path.clone(), file.stamp);
        return Err(NotMapped::RamFiles(RamFilesError::Changed { path, found: now, expected }).into());
    }
    Ok(found)
}
