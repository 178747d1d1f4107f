//! The proof and the verification, in their order.

use super::destination::Destination;
use super::file_system::is_tmpfs;
use super::judge::Wanted;
use super::not_mapped::NotMapped;
use super::options::{Blocks, Verify};
use super::own::Own;
use super::peer::holding;
use super::record;
use super::unpacked;
use super::verify::{DAMAGE_LIMIT, Until, verify};
use crate::block_options::ImageSpec;
use crate::open_snapshot::OpenSnapshot;
use snapshot_engine::{Failure, MappedBlock};
use snapshot_image::{ReadOptions, SnapshotReader, Verification};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// A mapped revert whose mappings are proved.
#[derive(Debug)]
pub(crate) struct MappedRevert {
    /// What the engine leaves out.
    pub(crate) blocks: Vec<MappedBlock>,
    /// What is verified while the guest runs.
    later: Option<Later>,
}

/// Blocks of an image that guests run from and no one has verified.
#[derive(Debug)]
struct Later {
    path: PathBuf,
    /// The image as the command line names it.
    image: OsString,
    own: Own,
    snapshot: OpenSnapshot,
    /// The blocks' numbers.
    numbers: Vec<usize>,
}

impl MappedRevert {
    /// Proves what the process at the other end of `output` has mapped from the image, and verifies
    /// that, if that is to be done before. `inform` is told what was found.
    ///
    /// # Errors
    ///
    /// What could not be proved; what is damaged.
    pub(crate) fn prepare(
        (argument, image): (&OsStr, &File),
        output: BorrowedFd<'_>,
        (blocks, when): (&Blocks, Verify),
        mut inform: impl FnMut(&str),
        warn: impl FnMut(&str),
    ) -> Result<Self, Failure> {
        let path = ImageSpec::parse(argument).map_err(Failure::refused)?.path;
        let (own, mut snapshot) = open(image)?;
        let all = wanted(snapshot.reader()).ok_or(NotMapped::Dense)?;
        let destination = Destination::find(output)?;
        let chosen = destination.choose(&all, blocks, &own)?;
        let mut found = destination.prove(&chosen, &own, false)?;
        let numbers: Vec<_> =
            chosen.iter().filter_map(|block| all.iter().position(|one| one == *block)).collect();
        if when == Verify::Before {
            let verified = verify_before(&path, &own, &mut snapshot, &numbers, warn)?;
            let before = std::mem::replace(&mut found, destination.prove(&chosen, &own, false)?);
            if verified && before.proven != found.proven {
                return Err(NotMapped::Changed(destination.process.to_string()).into());
            }
        }
        destination.is_still_there()?;
        inform(&found.text(&destination.process));
        let image = argument.to_owned();
        let later = (when == Verify::After).then_some(Later { path, image, own, snapshot, numbers });
        Ok(Self { blocks: found.blocks(), later })
    }

    /// Proves what the process at the other end of `output` has mapped from the files of `folder`,
    /// which `unpack` made of the image and verified then.
    ///
    /// # Errors
    ///
    /// What could not be proved.
    pub(crate) fn of_ram_files(
        (folder, image): (&Path, &File),
        output: BorrowedFd<'_>,
        blocks: &Blocks,
        mut inform: impl FnMut(&str),
    ) -> Result<Self, Failure> {
        let (_, snapshot) = open(image)?;
        let destination = Destination::find(output)?;
        let found = unpacked::prove(folder, &snapshot, &destination, blocks)?;
        destination.is_still_there()?;
        inform(&found.text(&destination.process));
        Ok(Self { blocks: found.blocks(), later: None })
    }

    /// Verifies what the guest already runs on, if that is to be done then; `warn` is told of each
    /// damaged page, and who has it mapped.
    ///
    /// A QEMU that has started this program (`exec:`) stands still until it has ended
    /// (`io/channel-command.c`, `qio_channel_command_close`): then `is_child`, and another process
    /// does it.
    ///
    /// # Errors
    ///
    /// The first damage.
    pub(crate) fn finish(self, is_child: bool, mut warn: impl FnMut(&str)) -> Result<(), Failure> {
        let Some(later) = self.later else { return Ok(()) };
        if is_child {
            return later.verify_elsewhere().map_err(|error| {
                Failure::refused(format!(
                    "the image is not verified: no process can be started for it: {error}"
                ))
            });
        }
        verify_running((&later.path, &later.own, later.snapshot), &later.numbers, &mut warn)
    }
}

impl Later {
    fn verify_elsewhere(&self) -> io::Result<()> {
        let numbers: Vec<_> = self.numbers.iter().map(usize::to_string).collect();
        let mut program = Command::new("/proc/self/exe");
        program.arg(format!("--verify-running={}", numbers.join(","))).arg("--").arg(&self.image);
        program.stdin(self.own.file.try_clone()?).stdout(Stdio::null());
        program.spawn().map(drop)
    }
}

/// Verifies these blocks of the image that is open on stdin, of which guests run; `warn` is told of
/// each damaged page, and who has the image mapped.
///
/// # Errors
///
/// The first damage; the image cannot be read.
pub fn verify_mapped(path: &Path, numbers: &[usize], mut warn: impl FnMut(&str)) -> Result<(), Failure> {
    let file = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(Failure::refused)?);
    let (own, snapshot) = open(&file)?;
    verify_running((path, &own, snapshot), numbers, &mut warn)
}

fn verify_running(
    (path, own, mut snapshot): (&Path, &Own, OpenSnapshot),
    numbers: &[usize],
    warn: &mut impl FnMut(&str),
) -> Result<(), Failure> {
    let state = record::state(&own.file, snapshot.reader().snapshot()).map_err(Failure::refused)?;
    let damage = verify(&own.file, &mut snapshot, numbers, Until::End)?;
    let Some(first) = damage.first() else {
        keep_record(path, own, (&state, numbers), warn);
        return Ok(());
    };
    for error in &damage {
        warn(&format!("damaged: {error}"));
    }
    if damage.len() >= DAMAGE_LIMIT {
        warn("there may be more damage; only the first is named");
    }
    for process in holding(|process| own.is_mapped_by(process)) {
        warn(&format!("{process} has the image mapped: its guest sees the damage"));
    }
    Err(Failure::WrongImage(first.clone()))
}

/// Opens the snapshot in the file that `image` is open on; its checksums count.
fn open(image: &File) -> Result<(Own, OpenSnapshot), Failure> {
    let own = Own::of(image).map_err(NotMapped::Own)?;
    let snapshot = OpenSnapshot::of_file(Arc::clone(&own.file), ReadOptions { allow_unverified: true })?;
    match snapshot.reader().snapshot().verification {
        Verification::Verified => Ok((own, snapshot)),
        Verification::Unverified(why) => Err(NotMapped::Unverified(why).into()),
    }
}

/// Each block, if the image is linear.
fn wanted(reader: &SnapshotReader) -> Option<Vec<Wanted>> {
    let blocks = reader.layout().blocks().iter().enumerate();
    blocks
        .map(|(number, block)| {
            let base = reader.linear_base(number)?.0;
            Some(Wanted { name: block.name.clone(), base, length: block.used_length })
        })
        .collect()
}

/// Verifies those of the blocks of which no record says that they were. Whether there were any.
fn verify_before(
    path: &Path,
    own: &Own,
    snapshot: &mut OpenSnapshot,
    numbers: &[usize],
    mut warn: impl FnMut(&str),
) -> Result<bool, Failure> {
    let state = record::state(&own.file, snapshot.reader().snapshot()).map_err(Failure::refused)?;
    let mut known = Vec::new();
    if !is_tmpfs(own.file_system) {
        known = record::verified(path, &state).unwrap_or_else(|error| {
            warn(&format!("the record of an earlier verification is not believed: {error}"));
            Vec::new()
        });
    }
    let open: Vec<_> = numbers.iter().copied().filter(|number| !known.contains(number)).collect();
    if open.is_empty() {
        return Ok(false);
    }
    if let Some(error) = verify(&own.file, snapshot, &open, Until::Damage)?.into_iter().next() {
        return Err(Failure::WrongImage(error));
    }
    if record::state(&own.file, snapshot.reader().snapshot()).map_err(Failure::refused)? != state {
        return Err(NotMapped::ImageChanged.into());
    }
    known.extend(open);
    keep_record(path, own, (&state, &known), warn);
    Ok(true)
}

/// Spares the next revert the verification, where that can be known then.
fn keep_record(path: &Path, own: &Own, (state, numbers): (&[u8], &[usize]), mut warn: impl FnMut(&str)) {
    let is_settled = !is_tmpfs(own.file_system) && record::is_settled(&own.file).unwrap_or(false);
    if is_settled && let Err(error) = record::store(path, state, numbers) {
        warn(&format!("the record that the image is verified cannot be kept: {error}"));
    }
}
