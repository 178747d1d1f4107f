//! QEMU's own `scripts/analyze-migration.py`.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use test_support::{not_run, programs::in_path};

/// A command that runs it: what `ANALYZE_MIGRATION` names, or what `.ci/analyzer` put below
/// `.prefix`. Where there is none, the test is to return: this has said why, or failed in CI.
#[must_use]
pub fn analyzer_or_skip() -> Option<Command> {
    let named = env::var_os("ANALYZE_MIGRATION").map(PathBuf::from);
    let script = named
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.prefix/analyze-migration.py"));
    let python = in_path("python3").filter(|_| script.is_file());
    if python.is_none() {
        not_run("no analyze-migration.py: run .ci/analyzer, or set ANALYZE_MIGRATION to it");
    }
    let mut command = Command::new(python?);
    command.arg(script);
    Some(command)
}
