//! The binaries of this build.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Where cargo put the running test program's build: `target/debug`, say.
///
/// # Panics
///
/// If the running program does not lie where cargo puts test programs.
#[must_use]
pub fn build_folder() -> PathBuf {
    let program = env::current_exe().expect("a running program has a path");
    let folder = program.parent().expect("a file lies in a folder");
    // Tests are in deps, benches too; an example is in examples, a program in the folder itself.
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder.parent().expect("cargo's layout").to_owned()
    } else {
        folder.to_owned()
    }
}

/// Path of the `qemu-snapshot` binary, built by this call if it is missing or older than its
/// sources: cargo builds the programs of other packages only where asked to.
///
/// # Panics
///
/// If it does not build.
#[must_use]
pub fn qemu_snapshot() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("qemu-snapshot"))
}

/// Path of the `snapinspect` binary, as [`qemu_snapshot`].
///
/// # Panics
///
/// If it does not build.
#[must_use]
pub fn snapinspect() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("snapinspect"))
}

/// Path of the `snapsim` binary, as [`qemu_snapshot`].
///
/// # Panics
///
/// If it does not build.
#[must_use]
pub fn snapsim() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("snapsim"))
}

/// With the features that the whole workspace needs, as cargo builds the tests: what they depend on
/// is not built twice. Features of what only tests need count if there is a target that may use it:
/// a small benchmark.
fn build(binary: &str) -> PathBuf {
    let folder = build_folder();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--workspace", "--bench", "walk", "--bin", binary]);
    cargo.arg("--target-dir").arg(folder.parent().expect("a profile's folder lies in the target folder"));
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = cargo.output().expect("cargo runs the tests, so it is there");
    assert!(output.status.success(), "{cargo:?}: {}", String::from_utf8_lossy(&output.stderr));
    folder.join(binary)
}

/// Where a save puts its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `--create`: there is none.
    New,
    /// `--overwrite`: it replaces one.
    Old,
    /// An image that was made beforehand.
    Prepared,
}

impl Target {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::New, Self::Old, Self::Prepared];

    /// The arguments of the tool.
    #[must_use]
    pub const fn option(self) -> &'static [&'static str] {
        match self {
            Self::New => &["--create"],
            Self::Old => &["--overwrite"],
            Self::Prepared => &[],
        }
    }
}
