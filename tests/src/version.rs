//! Which QEMUs the tests run with, and where they are.

use std::{
    env,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::policy::skip_or_fail;

const EMULATOR: &str = "qemu-system-x86_64";

/// A QEMU release that the tests run with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Debian 12's own. Loses a guest if the tool dies in mid background snapshot, has no `mapped-ram`.
    V7_2,
    /// Of Debian 12's backports.
    V10_0,
}

impl Version {
    /// All of them, the oldest first.
    pub const ALL: [Self; 2] = [Self::V7_2, Self::V10_0];

    /// Major and minor number, as `--version` prints them.
    #[must_use]
    pub const fn number(self) -> &'static str {
        match self {
            Self::V7_2 => "7.2",
            Self::V10_0 => "10.0",
        }
    }

    /// Environment variable that names another binary.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::V7_2 => "QEMU_7_2",
            Self::V10_0 => "QEMU_10_0",
        }
    }

    /// The binary of this version: what [`Version::variable`] names, else the one in `PATH`, else the one that
    /// `.ci/qemu` put below `.prefix`. [`None`] where none of them is of this version.
    #[must_use]
    pub fn binary(self) -> Option<Binary> {
        let named = env::var_os(self.variable()).map(PathBuf::from);
        let in_path = env::var_os("PATH")
            .into_iter()
            .flat_map(|path| env::split_paths(&path).map(|folder| folder.join(EMULATOR)).collect::<Vec<_>>());
        let prefix = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.prefix");
        let unpacked = prefix.join(format!("qemu-{}", self.number())).join(EMULATOR);
        named
            .into_iter()
            .chain(in_path)
            .chain([unpacked])
            .find(|path| is_version(path, self.number()))
            .map(|path| Binary { path, version: self })
    }

    /// The binary of this version. Where there is none, the test is to return: this has said why, or failed in CI.
    #[must_use]
    pub fn binary_or_skip(self) -> Option<Binary> {
        let found = self.binary();
        if found.is_none() {
            skip_or_fail(&format!(
                "no QEMU {}: run .ci/qemu, or set {} to a binary",
                self.number(),
                self.variable()
            ));
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

    /// The versioned name of machine `pc` or `q35` that both releases know: a stream of one loads in the other.
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

/// The first program called `name` in `PATH`.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}
