//! Opens a snapshot: reads and verifies everything but RAM.
//!
//! Each state has what was read before it, and leads to the next one:
//!
//! ```text
//! header ──▶ ReadL1 ──▶ ReadVmHeader ──▶ ReadRoot ──▶ ReadRegions ──▶ SnapshotReader
//!                            └─ without checksums ──────▲
//! ```

use crate::checksum::crc32c;
use crate::disk::Disk;
use crate::error::ImageError;
use crate::inbox::{Inbox, Lookup};
use crate::layout::{ImageBlock, RamLayout};
use crate::linear::Linear;
use crate::qcow2::header::{HEADER_BYTES, Header, SaveState, SnapshotExtension};
use crate::qcow2::tables::Table;
use crate::reader::{Proof, ReadOptions, Snapshot, SnapshotReader, check};
use crate::root::{ROOT_LIMIT_BYTES, Root};
use crate::size::to_usize;
use crate::types::{GuestOffset, HostOffset};
use crate::vm_state::{VM_HEADER_LIMIT_BYTES, VM_STATE_LIMIT_BYTES, VmHeader};
use migration_stream::PageSize;

/// A snapshot that is being opened.
///
/// [`poll`](Self::poll) says which bytes of the file it needs, and makes a [`SnapshotReader`] when everything
/// but RAM has been verified. Where a closure can read the file, [`SnapshotReader::open_with`] does all of
/// it.
#[derive(Debug)]
pub struct Opener {
    options: ReadOptions,
    inbox: Inbox,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// Nothing has been read: the header comes first.
    #[default]
    Begin,
    L1(ReadL1),
    VmHeader(ReadVmHeader),
    Root(ReadRoot),
    Regions(ReadRegions),
}

/// What a state leads to.
enum Advance {
    To(State),
    /// This part of the file is needed to leave the state.
    Need(State, HostOffset, usize),
    Open(Box<SnapshotReader>),
}

/// Whether the image's checksums count.
#[derive(Debug)]
enum Trust {
    /// They do, and begin at the root that this names.
    Root(SnapshotExtension),
    /// They do not; why.
    Nothing(&'static str),
}

/// The header has been read; its L1 table follows.
#[derive(Debug)]
struct ReadL1 {
    header: Header,
    trust: Trust,
}

/// The virtual disk can be read; the header of the VM state follows.
#[derive(Debug)]
struct ReadVmHeader {
    disk: Disk,
    trust: Trust,
}

/// What verifies everything else follows.
#[derive(Debug)]
struct ReadRoot {
    disk: Disk,
    extension: SnapshotExtension,
    vm_header: VmHeader,
    vm_header_checksum: u32,
}

/// The sections before RAM, other iterables and the device tail follow.
#[derive(Debug)]
struct ReadRegions {
    disk: Disk,
    proof: Proof,
    vm_header: VmHeader,
    /// Those that have been read.
    regions: Vec<Vec<u8>>,
}

/// The value of a lookup, or a return from a state that needs a part of the file first.
macro_rules! ready_in {
    ($state:expr, $lookup:expr) => {
        match $lookup {
            Lookup::Ready(value) => value,
            Lookup::Need(at, length) => return Ok(Advance::Need($state, at, length)),
        }
    };
}

impl Opener {
    /// Opens a file of this many bytes.
    #[must_use]
    pub fn new(file_length: u64, options: ReadOptions) -> Self {
        Self { options, inbox: Inbox::new(file_length), state: State::Begin }
    }

    /// Takes what [`poll`](Self::poll) asked for.
    pub fn supply(&mut self, at: HostOffset, bytes: &[u8]) {
        self.inbox.supply(at, bytes);
    }

    /// Goes on until a part of the file is needed, or the snapshot is open. Asked again after that, or after
    /// an error, it begins anew.
    ///
    /// # Errors
    ///
    /// What is wrong with the image.
    pub fn poll(&mut self) -> Result<Lookup<SnapshotReader>, ImageError> {
        loop {
            let inbox = &mut self.inbox;
            let advance = match std::mem::take(&mut self.state) {
                State::Begin => begin(inbox, self.options)?,
                State::L1(state) => state.advance(inbox)?,
                State::VmHeader(state) => state.advance(inbox)?,
                State::Root(state) => state.advance(inbox)?,
                State::Regions(state) => state.advance(inbox)?,
            };
            match advance {
                Advance::To(state) => self.state = state,
                Advance::Need(state, at, length) => {
                    self.state = state;
                    return Ok(Lookup::Need(at, length));
                }
                Advance::Open(reader) => return Ok(Lookup::Ready(*reader)),
            }
        }
    }
}

fn begin(inbox: &mut Inbox, options: ReadOptions) -> Result<Advance, ImageError> {
    let bytes = ready_in!(State::Begin, inbox.take(0, HEADER_BYTES as u64));
    let header = Header::parse(&bytes, inbox.file_length())?;
    let trust = check_trust(&header, options, inbox.file_length())?;
    Ok(Advance::To(State::L1(ReadL1 { header, trust })))
}

/// Decides whether the image's checksums count.
fn check_trust(header: &Header, options: ReadOptions, file_length: u64) -> Result<Trust, ImageError> {
    let doubt = match (header.extension, header.is_untouched()) {
        (Some(extension), _) if extension.state == SaveState::InProgress => {
            return Err(ImageError::Interrupted);
        }
        (Some(extension), true) if header.checksum_fits => {
            let limit = ROOT_LIMIT_BYTES.min(file_length);
            if extension.root_length > limit {
                let found = extension.root_length;
                return Err(ImageError::Limit { what: "snapshot root", found, limit });
            }
            return Ok(Trust::Root(extension));
        }
        (Some(_), true) => "the header's checksum does not fit",
        (Some(_), false) => "the feature bit that says unchanged is not set",
        (None, true) => "the header's extension is missing",
        (None, false) => return Ok(Trust::Nothing("it was saved by a tool that makes no checksums")),
    };
    if !options.allow_unverified {
        return Err(ImageError::Unverifiable(doubt));
    }
    Ok(Trust::Nothing(doubt))
}

impl ReadL1 {
    fn advance(self, inbox: &mut Inbox) -> Result<Advance, ImageError> {
        let at = self.header.l1_offset;
        let bytes = ready_in!(State::L1(self), inbox.take(at, u64::from(self.header.l1_entries) * 8));
        let has_root = matches!(self.trust, Trust::Root(_));
        let disk = Disk::new(&self.header, Table::parse(at, &bytes), has_root);
        Ok(Advance::To(State::VmHeader(ReadVmHeader { disk, trust: self.trust })))
    }
}

impl ReadVmHeader {
    fn advance(mut self, inbox: &mut Inbox) -> Result<Advance, ImageError> {
        let start = self.disk.vm_state_start();
        let lookup = self.disk.read(start, VM_HEADER_LIMIT_BYTES as u64, inbox)?;
        let bytes = ready_in!(State::VmHeader(self), lookup);
        // A VM state that is longer than the file would have holes, which a save does not leave here.
        let area = self.disk.geometry.l1_span_bytes().min(VM_STATE_LIMIT_BYTES).min(inbox.file_length());
        // The image's header says "complete" one flush before this one is written.
        let vm_header = VmHeader::parse(&bytes, area)?.ok_or(match self.trust {
            Trust::Root(_) => ImageError::NoSnapshot(
                "it has no VM-state header: a save was interrupted, or its tables are damaged",
            ),
            Trust::Nothing(_) => ImageError::NoVmState,
        })?;
        let disk = self.disk;
        Ok(Advance::To(match self.trust {
            Trust::Root(extension) => {
                let length = to_usize(vm_header.form.header_bytes());
                let vm_header_checksum = crc32c(&bytes[..length]);
                State::Root(ReadRoot { disk, extension, vm_header, vm_header_checksum })
            }
            Trust::Nothing(why) => {
                State::Regions(ReadRegions { disk, proof: Proof::None(why), vm_header, regions: Vec::new() })
            }
        }))
    }
}

impl ReadRoot {
    fn advance(mut self, inbox: &mut Inbox) -> Result<Advance, ImageError> {
        let extension = self.extension;
        let lookup = self.disk.read(extension.root_offset, extension.root_length, inbox)?;
        let bytes = ready_in!(State::Root(self), lookup);
        check(&bytes, extension.root_checksum, "snapshot root", extension.root_offset)?;
        let root = Root::parse(&bytes)?;
        if root.uuid != extension.uuid {
            return Err(ImageError::NoSnapshot("header and root have different UUIDs"));
        }
        if self.vm_header_checksum != root.vm_header_checksum {
            let (found, expected) = (self.vm_header_checksum, root.vm_header_checksum);
            let at = GuestOffset(self.disk.vm_state_start());
            return Err(ImageError::Checksum { what: "VM-state header", at, found, expected });
        }
        self.disk.set_root(&root, inbox.file_length())?;
        let Self { disk, vm_header, .. } = self;
        let proof = Proof::Root(Box::new(root), extension);
        Ok(Advance::To(State::Regions(ReadRegions { disk, proof, vm_header, regions: Vec::new() })))
    }
}

impl ReadRegions {
    fn advance(mut self, inbox: &mut Inbox) -> Result<Advance, ImageError> {
        let header = self.vm_header;
        let body = self.disk.vm_state_start() + header.form.header_bytes();
        let places = [
            ("preamble", 0, header.third_offset),
            ("region of other iterables", header.third_offset, header.device_offset),
            ("device tail", header.device_offset, header.eof_offset),
        ];
        while let Some(&(what, from, to)) = places.get(self.regions.len()) {
            let lookup = self.disk.read(body + from, to - from, inbox)?;
            let bytes = ready_in!(State::Regions(self), lookup);
            if let Some(root) = self.proof.root() {
                let region = root.regions[self.regions.len()];
                if region.length != to - from {
                    return Err(ImageError::NoSnapshot("VM-state header and root have different lengths"));
                }
                check(&bytes, region.checksum, what, body + from)?;
            }
            self.regions.push(bytes);
        }
        self.open(inbox).map(|reader| Advance::Open(Box::new(reader)))
    }

    /// Everything but RAM has been read.
    fn open(self, inbox: &mut Inbox) -> Result<SnapshotReader, ImageError> {
        let Self { mut disk, mut proof, vm_header, regions } = self;
        let mut regions = regions.into_iter();
        let mut next = || regions.next().unwrap_or_default();
        let (leader, third, tail) = (next(), next(), next());
        let layout = match &mut proof {
            Proof::Root(root, _) => layout_of_root(root, vm_header.page_size)?,
            Proof::None(_) => layout_of_leader(&leader, vm_header.page_size)?,
        };
        if layout.total_bytes() > disk.size {
            return Err(ImageError::NoSnapshot("its RAM does not fit into its virtual disk"));
        }
        if let Proof::Root(_, SnapshotExtension { ram_at: ram_at @ 1.., .. }) = proof {
            disk.set_linear(Linear::new(&layout, disk.geometry, ram_at)?, inbox.file_length())?;
        }
        let root = proof.root();
        let snapshot = Snapshot {
            uuid: root.map(|root| root.uuid),
            root_checksum: proof.root_checksum(),
            created_unix_s: root.map(|root| root.created_unix_s),
            nonzero_pages: root.map(|root| root.nonzero_pages),
            normal_pages: vm_header.normal_pages,
            verification: proof.verification(),
            leader,
            third,
            tail,
        };
        let fresh = Inbox::new(inbox.file_length());
        Ok(SnapshotReader::new(std::mem::replace(inbox, fresh), disk, proof, snapshot, layout))
    }
}

/// Takes the blocks out of the root: there can be many.
fn layout_of_root(root: &mut Root, page_size: u32) -> Result<RamLayout, ImageError> {
    if root.page_size != page_size {
        return Err(ImageError::NoSnapshot("VM-state header and root have different page sizes"));
    }
    let (blocks, starts): (Vec<_>, Vec<_>) = std::mem::take(&mut root.blocks).into_iter().unzip();
    let layout = RamLayout::new(blocks, page_size)?;
    let same = starts.iter().enumerate().all(|(at, start)| layout.guest(at, 0).0 == *start);
    if same {
        Ok(layout)
    } else {
        Err(ImageError::NoSnapshot("its root has other places for its RAM blocks"))
    }
}

fn layout_of_leader(leader: &[u8], page_size: u32) -> Result<RamLayout, ImageError> {
    let options = migration_stream::Options::default().with_page_size(PageSize::new(page_size.into()));
    let mut decoder = migration_stream::Decoder::new(options);
    let mut rest = leader;
    while decoder.blocks().is_empty() {
        match decoder.step(rest).map_err(ImageError::Leader)? {
            migration_stream::Step::Record { len, .. } => rest = &rest[len..],
            migration_stream::Step::Incomplete { .. } => {
                return Err(ImageError::NoSnapshot("its preamble has no block list"));
            }
        }
    }
    let blocks = decoder.blocks().iter().map(|block| ImageBlock {
        name: block.idstr.clone(),
        used_length: block.used_length,
        host_page_size: block.host_page_size,
    });
    RamLayout::new(blocks.collect(), page_size)
}

impl SnapshotReader {
    /// Opens the snapshot in a file of `file_length` bytes, which `read` reads: `length` bytes at an offset,
    /// zeros behind the end of the file.
    ///
    /// # Errors
    ///
    /// What is wrong with the image, or what `read` returns.
    pub fn open_with<E: From<ImageError>>(
        file_length: u64,
        options: ReadOptions,
        mut read: impl FnMut(HostOffset, usize) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let mut opener = Opener::new(file_length, options);
        loop {
            match opener.poll()? {
                Lookup::Ready(reader) => return Ok(reader),
                Lookup::Need(at, length) => opener.supply(at, &read(at, length)?),
            }
        }
    }
}
