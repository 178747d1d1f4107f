//! Where the programs of QEMU are: what a variable names, what `PATH` has, what `.ci/qemu` has
//! unpacked below `.prefix`.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

/// The trees of `.prefix` in which programs for images are looked for, in this order: they read
/// what all others wrote.
const TREES: [&str; 4] = ["qemu-10.0", "qemu-11.1", "qemu-7.2", "qemu-5.2"];

/// The first file called `name` in `PATH`.
#[must_use]
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

/// What `.ci/qemu` has unpacked: `name` in the tree of a version, as "qemu-7.2".
#[must_use]
pub fn unpacked(tree: &str, name: &str) -> Option<PathBuf> {
    let prefix = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.prefix");
    Some(prefix.join(tree).join(name)).filter(|path| path.is_file())
}

/// `qemu-img`: what `QEMU_IMG` names, else the one in `PATH`, else one below `.prefix`.
#[must_use]
pub fn qemu_img() -> Option<PathBuf> {
    named("QEMU_IMG").or_else(|| found("qemu-img"))
}

/// `qemu-io`: what `QEMU_IO` names, else the one beside what `QEMU_IMG` names, the one in `PATH`,
/// one below `.prefix`.
#[must_use]
pub fn qemu_io() -> Option<PathBuf> {
    let beside = || Some(named("QEMU_IMG")?.with_file_name("qemu-io")).filter(|path| path.is_file());
    named("QEMU_IO").or_else(beside).or_else(|| found("qemu-io"))
}

/// `qemu-storage-daemon`: the one in `PATH`, else one below `.prefix`.
#[must_use]
pub fn qemu_storage_daemon() -> Option<PathBuf> {
    found("qemu-storage-daemon")
}

/// The emulator of another target than x86-64, as "aarch64": the one in the tree of 7.2, else the
/// one in `PATH`.
#[must_use]
pub fn emulator(target: &str) -> Option<PathBuf> {
    let name = format!("qemu-system-{target}");
    unpacked("qemu-7.2", &name).or_else(|| in_path(&name))
}

fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).as_deref().filter(|path| *path != OsStr::new("")).map(PathBuf::from)
}

fn found(name: &str) -> Option<PathBuf> {
    in_path(name).or_else(|| TREES.iter().find_map(|tree| unpacked(tree, name)))
}
