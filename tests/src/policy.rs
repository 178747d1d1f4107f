//! What a test does without a thing that it needs.

use std::io::Write;

/// Says loudly that the running test is skipped for `reason`; where `CI=true`, fails it instead.
///
/// The message goes to the process's own stderr, past the test harness's capture, so that it is seen although the test
/// passes.
///
/// # Panics
///
/// In CI: there everything has to be installed, and a skipped test would look like a passed one.
pub fn skip_or_fail(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("?");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "needed in CI, but missing: {reason}");
    // A closed stderr leaves nobody to tell.
    let _ = std::io::stderr().write_all(format!("SKIPPED: {test}: {reason}\n").as_bytes());
}
