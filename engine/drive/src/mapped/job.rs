//! The proof and the verification, in their order.

use super::command_line::{COMMAND_LINE_LIMIT_BYTES, CommandLineError, parse_command_line};
use super::copied::copied;
use super::descriptors::{self, DescriptorError};
use super::file_system::is_tmpfs;
use super::judge::{Evidence, Proven, Wanted, candidates, prove};
use super::maps::{MAPS_LIMIT_BYTES, MapsError, parse_maps};
use super::options::{Blocks, Verify};
use super::own::{Own, OwnError};
use super::peer::{End, PeerError, find, holding};
use super::process::{Process, missing_right};
use super::record;
use super::refusal::{Problem, Refusal};
use super::verify::{DAMAGE_LIMIT, Until, verify};
use crate::block_options::ImageSpec;
use crate::open_snapshot::OpenSnapshot;
use snapshot_engine::{Failure, MappedBlock, size_text};
use snapshot_image::{ReadOptions, SnapshotReader, Verification};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// Why nothing is left out of the stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotMapped {
    /// No block of the image can be mapped.
    #[error(
        "the image has the dense layout, in which RAM does not lie in one piece; needed: the linear layout"
    )]
    Dense,
    /// What is mapped could be anything.
    #[error("the image's checksums do not count ({0}), so what is mapped from it proves nothing")]
    Unverified(&'static str),
    #[error(transparent)]
    Own(OwnError),
    #[error(transparent)]
    Peer(PeerError),
    /// The destination may not be looked at.
    #[error("the mappings of {process} cannot be looked at: {right}")]
    Hidden {
        process: String,
        right: String,
        #[source]
        source: io::Error,
    },
    #[error("{process}: its list of mappings is not as the kernel writes it")]
    Maps {
        process: String,
        #[source]
        source: MapsError,
    },
    #[error("{process}: its command line")]
    CommandLine {
        process: String,
        #[source]
        source: CommandLineError,
    },
    #[error("{process} at the other end of the channel has no RAM block mapped from the image")]
    Nothing { process: String },
    #[error("{process}: {refusal}")]
    Block { process: String, refusal: Refusal },
    #[error("{process}")]
    Descriptors {
        process: String,
        #[source]
        source: DescriptorError,
    },
    #[error("{0} has ended, or has closed the channel, while its mappings were looked at")]
    Gone(String),
    #[error("the mappings of {0} have changed while the image was verified")]
    Changed(String),
    #[error("the image was changed while it was verified")]
    ImageChanged,
}

impl From<NotMapped> for Failure {
    fn from(error: NotMapped) -> Self {
        Self::refused(error)
    }
}

/// A mapped revert whose mappings are proved.
#[derive(Debug)]
pub(crate) struct MappedRevert {
    path: PathBuf,
    /// The image as the command line names it.
    image: OsString,
    own: Own,
    snapshot: OpenSnapshot,
    /// Numbers of the blocks that are left out.
    numbers: Vec<usize>,
    /// What the engine leaves out.
    pub(crate) blocks: Vec<MappedBlock>,
    verify_later: bool,
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
        let mut found = destination.prove(&chosen, &own)?;
        let numbers: Vec<_> =
            chosen.iter().filter_map(|block| all.iter().position(|one| one == *block)).collect();
        if when == Verify::Before {
            let verified = verify_before(&path, &own, &mut snapshot, &numbers, warn)?;
            let before = std::mem::replace(&mut found, destination.prove(&chosen, &own)?);
            if verified && before.proven != found.proven {
                return Err(NotMapped::Changed(destination.process.to_string()).into());
            }
        }
        destination.is_still_there()?;
        inform(&found.text(&destination.process));
        let blocks = found.blocks();
        let verify_later = when == Verify::After;
        Ok(Self { path, image: argument.to_owned(), own, snapshot, numbers, blocks, verify_later })
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
        if !self.verify_later {
            return Ok(());
        }
        if is_child {
            return self.finish_elsewhere().map_err(|error| {
                Failure::refused(format!(
                    "the image is not verified: no process can be started for it: {error}"
                ))
            });
        }
        verify_running((&self.path, &self.own, self.snapshot), &self.numbers, &mut warn)
    }

    fn finish_elsewhere(&self) -> io::Result<()> {
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
    for process in holding(|process| has_mapped(process, own)) {
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

fn has_mapped(process: &Process, own: &Own) -> bool {
    let text = process.read("maps", MAPS_LIMIT_BYTES).unwrap_or_default();
    parse_maps(&text).is_ok_and(|mappings| mappings.iter().any(|mapping| mapping.file == own.key))
}

/// The process that loads the stream.
struct Destination {
    process: Process,
    end: End,
}

/// What was proved, and which pages of it are copies.
struct Found {
    proven: Vec<Proven>,
    copied: Vec<Vec<Range<u64>>>,
}

impl Found {
    fn blocks(&self) -> Vec<MappedBlock> {
        let blocks = self.proven.iter().zip(&self.copied);
        blocks
            .map(|(block, copied)| MappedBlock { name: block.name.clone(), copied: copied.clone() })
            .collect()
    }

    fn text(&self, process: &Process) -> String {
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
    fn find(output: BorrowedFd<'_>) -> Result<Self, NotMapped> {
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
    fn with_evidence<T>(&self, own: &Own, look: impl FnOnce(&Evidence<'_>) -> T) -> Result<T, NotMapped> {
        let read = |name, limit| self.process.read(name, limit).map_err(|error| self.hidden(error));
        let process = || self.process.to_string();
        let mappings = parse_maps(&read("maps", MAPS_LIMIT_BYTES)?)
            .map_err(|source| NotMapped::Maps { process: process(), source })?;
        let backends = parse_command_line(&read("cmdline", COMMAND_LINE_LIMIT_BYTES)?)
            .map_err(|source| NotMapped::CommandLine { process: process(), source })?;
        Ok(look(&Evidence { mappings: &mappings, backends: &backends, image: own.key }))
    }

    /// The blocks that are to be left out, in the order of RAM.
    fn choose<'a>(
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

    fn prove(&self, chosen: &[&Wanted], own: &Own) -> Result<Found, NotMapped> {
        let proven = self.with_evidence(own, |evidence| {
            chosen.iter().map(|block| prove(block, evidence)).collect::<Result<Vec<_>, _>>()
        })?;
        let process = || self.process.to_string();
        let proven = proven.map_err(|refusal| NotMapped::Block { process: process(), refusal })?;
        descriptors::check(&self.process, &own.status, own.file_system).map_err(|source| match source {
            DescriptorError::Io(error) => self.hidden(error),
            source => NotMapped::Descriptors { process: process(), source },
        })?;
        let copies = proven.iter().map(|block| copied(&self.process, &block.addresses));
        let copied = copies.collect::<io::Result<Vec<_>>>().map_err(|error| self.hidden(error))?;
        Ok(Found { proven, copied })
    }

    /// The process has the other end of the channel as before.
    fn is_still_there(&self) -> Result<(), NotMapped> {
        match self.end.is_held_by(&self.process) {
            Ok(true) => Ok(()),
            _ => Err(NotMapped::Gone(self.process.to_string())),
        }
    }
}
