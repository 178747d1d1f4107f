//! Which QEMUs the tests run with, and where they are.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use test_support::{
    in_part, not_run,
    programs::{in_path, unpacked},
};

const EMULATOR: &str = "qemu-system-x86_64";
/// Which versions [`Version::each`] is about: `all`, or numbers between commas.
const CHOSEN: &str = "QEMU_VERSIONS";

/// A QEMU release that the tests run with. The order is theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Of Debian 11. Has no background snapshots, no `readonly` memory; its newest machine types are 5.2.
    V5_2,
    /// Debian 12's own. Loses a guest if the tool dies in mid background snapshot, has no `mapped-ram`.
    V7_2,
    /// Of Ubuntu 24.04.
    V8_2,
    /// Of Debian 12's backports, and Debian 13.
    V10_0,
    /// The newest. Has no machine types older than 5.2.
    V11_1,
}

impl Version {
    /// All of them, the oldest first.
    pub const ALL: [Self; 5] = [Self::V5_2, Self::V7_2, Self::V8_2, Self::V10_0, Self::V11_1];
    /// Those that tests run with unless `QEMU_VERSIONS` says otherwise.
    pub const USUAL: [Self; 3] = [Self::V7_2, Self::V10_0, Self::V11_1];

    /// Major and minor number, as `--version` prints them.
    #[must_use]
    pub const fn number(self) -> &'static str {
        match self {
            Self::V5_2 => "5.2",
            Self::V7_2 => "7.2",
            Self::V8_2 => "8.2",
            Self::V10_0 => "10.0",
            Self::V11_1 => "11.1",
        }
    }

    /// Environment variable that names another binary.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::V5_2 => "QEMU_5_2",
            Self::V7_2 => "QEMU_7_2",
            Self::V8_2 => "QEMU_8_2",
            Self::V10_0 => "QEMU_10_0",
            Self::V11_1 => "QEMU_11_1",
        }
    }

    /// Has the capability `background-snapshot` (since 6.0).
    #[must_use]
    pub fn has_background_snapshot(self) -> bool {
        self >= Self::V7_2
    }

    /// Has the capability `mapped-ram` (since 9.0).
    #[must_use]
    pub fn has_mapped_ram(self) -> bool {
        self >= Self::V10_0
    }

    /// Maps a part of a file privately without having it open for writing: `offset=` (since 8.1)
    /// with `readonly=on,rom=off` (since 8.2).
    #[must_use]
    pub fn maps_read_only(self) -> bool {
        self >= Self::V8_2
    }

    /// Has the capability `postcopy-preempt` (since 7.1).
    #[must_use]
    pub fn has_preempt(self) -> bool {
        self >= Self::V7_2
    }

    /// The versions that tests run with: [`Version::USUAL`], all where `QEMU_VERSIONS=all`, else
    /// those that it names.
    ///
    /// # Panics
    ///
    /// If `QEMU_VERSIONS` names another one.
    #[must_use]
    pub fn chosen() -> Vec<Self> {
        let Ok(chosen) = env::var(CHOSEN) else { return Self::USUAL.to_vec() };
        if chosen == "all" {
            return Self::ALL.to_vec();
        }
        let number = |number: &str| {
            let known = Self::ALL.into_iter().find(|version| version.number() == number);
            known.unwrap_or_else(|| panic!("{CHOSEN}: {number} is none of {:?}", Self::ALL.map(Self::number)))
        };
        chosen.split(',').map(number).collect()
    }

    /// The binaries of [`Version::chosen`]. Says which ones are missing, or fails in CI; where all
    /// are, the test is not run.
    #[must_use]
    pub fn each() -> Vec<Binary> {
        Self::each_that(|_| true)
    }

    /// The binaries of [`Version::chosen`] that have what a test needs, as [`Version::each`].
    #[must_use]
    pub fn each_that(has: impl Fn(Self) -> bool) -> Vec<Binary> {
        let wanted: Vec<Self> = Self::chosen().into_iter().filter(|&version| has(version)).collect();
        let found: Vec<_> = wanted.iter().filter_map(|version| version.binary()).collect();
        let numbers: Vec<_> = wanted.iter().map(|version| version.number()).collect();
        if found.is_empty() && !wanted.is_empty() {
            not_run(&format!("no QEMU {}: run .ci/qemu", numbers.join(", ")));
        } else {
            for version in &wanted {
                if !found.iter().any(|binary| binary.version == *version) {
                    in_part(&format!("without QEMU {}", version.number()));
                }
            }
        }
        found
    }

    /// The binary of this version: what [`Version::variable`] names, else the one in `PATH`, else
    /// the one that `.ci/qemu` put below `.prefix`. [`None`] where none of them is of this version.
    #[must_use]
    pub fn binary(self) -> Option<Binary> {
        let named = env::var_os(self.variable()).map(PathBuf::from);
        let found = named
            .into_iter()
            .chain(in_path(EMULATOR))
            .find(|path| is_version(path, self.number()))
            .or_else(|| self.unpacked());
        found.map(|path| Binary { path, version: self })
    }

    /// The one below `.prefix`: of this version, or what its suite has since moved on to, as
    /// `.ci/qemu` has noted.
    fn unpacked(self) -> Option<PathBuf> {
        let tree = format!("qemu-{}", self.number());
        let path = unpacked(&tree, EMULATOR)?;
        (is_version(&path, self.number()) || unpacked(&tree, "moved-on").is_some()).then_some(path)
    }

    /// The binary of this version. Where there is none, the test is to return: this has said why,
    /// or failed in CI.
    #[must_use]
    pub fn binary_or_skip(self) -> Option<Binary> {
        let found = self.binary();
        if found.is_none() {
            not_run(&format!("no QEMU {}: run .ci/qemu", self.number()));
        }
        found
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU {}", self.number())
    }
}

/// A QEMU system emulator that was found and answered `--version`.
#[derive(Clone, Debug)]
pub struct Binary {
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
}

impl Binary {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which release it is.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The versioned name of machine `pc` or `q35` that releases from 7.2 on know: a stream of one
    /// loads in the others.
    #[must_use]
    pub fn common_machine(kind: &str) -> String {
        match kind {
            "pc" => "pc-i440fx-7.2".to_owned(),
            other => format!("pc-{other}-7.2"),
        }
    }
}

/// Runs `program` with `arguments` and gives its stdout if it could be run and succeeded.
pub(crate) fn output_of(program: &Path, arguments: &[OsString]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_version(path: &Path, number: &str) -> bool {
    output_of(path, &["--version".into()])
        .is_some_and(|text| text.starts_with(&format!("QEMU emulator version {number}.")))
}
