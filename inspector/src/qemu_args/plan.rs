//! What is mapped, and from where.

use super::version::Version;
use crate::contents::Contents;
use crate::error::Error;
use crate::escape::terminal;
use crate::extract::{Board, Memory, find_block, listed};
use snapshot_engine::ram_file_name;
use std::path::PathBuf;

/// The most bytes that the id of an object has here.
const ID_LIMIT_BYTES: usize = 128;
const OBJECTS: &str = "/objects/";

/// What the user wants.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// For this QEMU.
    pub(crate) version: Option<Version>,
    /// From these files, and not from the image.
    pub(crate) ram_files: Option<PathBuf>,
    /// Hot-plugged DIMMs and their addresses, as QEMU's query-memory-devices reports them.
    pub(crate) dimms: Vec<(String, u64)>,
}

/// Where a block's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// From this offset of the image on.
    Image(u64),
    /// In this file, from its start on.
    File(PathBuf),
}

/// A hot-plugged DIMM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dimm {
    pub(crate) slot: usize,
    /// Its address; none: the first one.
    pub(crate) address: Option<u64>,
}

/// What a block is to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// All of main RAM.
    Main,
    /// Main RAM of a NUMA node.
    Node,
    /// Hot-plugged memory.
    Dimm(Dimm),
}

/// A memory backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    /// Its id, which is the block's name, or the end of it.
    pub(crate) id: String,
    pub(crate) bytes: u64,
    pub(crate) source: Source,
    /// Whether the block's name is the path of the object, if the machine type would have it otherwise.
    pub(crate) canonical_path: Option<bool>,
    pub(crate) role: Role,
}

/// How a QEMU is started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) emulator: &'static str,
    pub(crate) machine: String,
    /// Bytes of main RAM.
    pub(crate) main_bytes: u64,
    /// Memory slots and `maxmem`, where there are slots.
    pub(crate) slots: Option<(usize, u64)>,
    /// Processors, if there is more than one.
    pub(crate) processors: Option<usize>,
    pub(crate) backends: Vec<Backend>,
    /// Blocks that may come from a memory backend as well, and are not mapped.
    pub(crate) left_out: Vec<String>,
    pub(crate) version: Option<Version>,
}

impl Plan {
    /// How a QEMU is started for the snapshot with these contents; `bases` are the places of its
    /// blocks in the image, where it has such.
    ///
    /// # Errors
    ///
    /// What the file does not say, or what cannot be.
    pub(crate) fn of(
        contents: &Contents,
        memory: &Memory,
        bases: &[Option<u64>],
        wishes: &Wishes,
    ) -> Result<Self, Error> {
        let refuse = |why: String| Error::Usage(format!("{}: {why}", contents.name));
        let configuration = contents.configuration.as_ref();
        let machine = configuration.map_or(&[][..], |configuration| &configuration.machine);
        let machine = word(machine).ok_or_else(|| unknown_machine(contents))?;
        let type_version = Version::of_machine(&machine);
        if let (Some(wanted), Some(of_type)) = (wishes.version, type_version)
            && wanted < of_type
        {
            return Err(refuse(format!(
                "QEMU {wanted} has no machine {machine}, which came with QEMU {of_type}"
            )));
        }
        let by_path = type_version.is_some_and(|version| version < Version::PLAIN_NAMES);
        let backend = |block: usize, role: Role| {
            let listed = &contents.blocks[block];
            let name = terminal(&listed.idstr);
            let text = std::str::from_utf8(&listed.idstr).unwrap_or_default();
            let (id, is_path) = text.strip_prefix(OBJECTS).map_or((text, false), |id| (id, true));
            let id =
                word(id.as_bytes()).filter(|id| id.starts_with(|first: char| first.is_ascii_alphabetic()));
            let id =
                id.ok_or_else(|| refuse(format!("no memory backend can have the name of block \"{name}\"")))?;
            let source = match (&wishes.ram_files, bases.get(block).copied().flatten()) {
                (Some(folder), _) => Source::File(folder.join(ram_file_name(&listed.idstr, block))),
                (None, Some(base)) => Source::Image(base),
                (None, None) => {
                    return Err(refuse(format!("block \"{name}\" has no place of its own in the image")));
                }
            };
            let canonical_path = (is_path != by_path).then_some(is_path);
            Ok(Backend { id, bytes: listed.used_length, source, canonical_path, role })
        };
        let role = || if memory.main.len() == 1 { Role::Main } else { Role::Node };
        let mut backends =
            memory.main.iter().map(|&block| backend(block, role())).collect::<Result<Vec<_>, _>>()?;
        let main_bytes = backends.iter().map(|backend| backend.bytes).sum();
        let dimms = dimms(contents, memory, wishes)?;
        let left_out = memory.others.iter().filter(|block| !dimms.iter().any(|(dimm, _)| dimm == *block));
        let left_out = left_out.map(|&block| terminal(&contents.blocks[block].idstr)).collect();
        for (block, dimm) in dimms {
            backends.push(backend(block, Role::Dimm(dimm))?);
        }
        let all_bytes = backends.iter().map(|backend| backend.bytes).sum();
        let most = memory.most_bytes.filter(|&most| most >= all_bytes).unwrap_or(all_bytes);
        Ok(Self {
            emulator: emulator(memory.board),
            machine,
            main_bytes,
            slots: (!memory.slots.is_empty()).then_some((memory.slots.len(), most)),
            processors: processors(contents),
            backends,
            left_out,
            version: wishes.version,
        })
    }
}

/// The machine is not known by its type, or by what it has.
pub(crate) fn unknown_machine(contents: &Contents) -> Error {
    let machine = contents.configuration.as_ref().map(|configuration| terminal(&configuration.machine));
    let why = match machine {
        Some(machine) => format!("how a machine {machine} has its memory is not known"),
        None => "the snapshot does not say which machine it is of".to_owned(),
    };
    Error::Wrong(format!("{}: {why}", contents.name))
}

/// A name that is the same for QEMU and for a shell: that of a machine type, or an object's id
/// (`id_wellformed`).
fn word(name: &[u8]) -> Option<String> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let fits = !name.is_empty() && name.len() <= ID_LIMIT_BYTES && name.iter().all(is_plain);
    fits.then(|| String::from_utf8_lossy(name).into_owned())
}

const fn emulator(board: Board) -> &'static str {
    match board {
        Board::I440fx | Board::Q35 | Board::Microvm => "qemu-system-x86_64",
        Board::ArmVirt => "qemu-system-aarch64",
        Board::S390 => "qemu-system-s390x",
        Board::Pseries => "qemu-system-ppc64",
        Board::RiscvVirt => "qemu-system-riscv64",
    }
}

/// How many processors have a section, if it is more than one.
fn processors(contents: &Contents) -> Option<usize> {
    let count = |name: &[u8]| contents.devices.iter().filter(|device| device.idstr == name).count();
    Some(count(b"cpu").max(count(b"cpu_common"))).filter(|&count| count > 1)
}

/// The blocks that are hot-plugged DIMMs.
///
/// A stream says which slots are occupied, and not by what, nor at which address. One DIMM in the
/// first slot is at the first address; of any other the user says it.
fn dimms(contents: &Contents, memory: &Memory, wishes: &Wishes) -> Result<Vec<(usize, Dimm)>, Error> {
    let refuse = |why: String| Error::Usage(format!("{}: {why}", contents.name));
    let occupied: Vec<usize> = (0..memory.slots.len()).filter(|&slot| memory.slots[slot]).collect();
    if wishes.dimms.is_empty() {
        return match (&occupied[..], &memory.others[..]) {
            ([], _) => Ok(Vec::new()),
            (&[0], &[block]) => Ok(vec![(block, Dimm { slot: 0, address: None })]),
            _ => {
                let names: Vec<String> =
                    memory.others.iter().map(|&block| terminal(&contents.blocks[block].idstr)).collect();
                Err(refuse(format!(
                    "{} memory slots are occupied; which of the blocks are hot-plugged memory, and at which \
                     addresses, is not in the file: {}; give each in the order of slots, as QEMU's \
                     query-memory-devices reports it: --dimm NAME=ADDRESS",
                    occupied.len(),
                    listed(&names)
                )))
            }
        };
    }
    if wishes.dimms.len() != occupied.len() {
        let (given, found) = (wishes.dimms.len(), occupied.len());
        return Err(refuse(format!("--dimm is given {given} times, and {found} memory slots are occupied")));
    }
    let mut dimms: Vec<(usize, Dimm)> = Vec::new();
    for ((name, address), slot) in wishes.dimms.iter().zip(occupied) {
        let block = find_block(contents, name)?;
        let shown = terminal(name.as_bytes());
        if !memory.others.contains(&block) || dimms.iter().any(|(dimm, _)| *dimm == block) {
            return Err(refuse(format!("--dimm: block \"{shown}\" is something else, or is given twice")));
        }
        dimms.push((block, Dimm { slot, address: Some(*address) }));
    }
    Ok(dimms)
}
