//! Streams whose RAM is elsewhere: in a shared memory file that the destination has as well.

use std::{fs, time::Duration};

use serde_json::json;
use snapshot_tests::{Guest, Outcome, Qemu, Ram, Version};

use crate::{keep::keep, stopped::Stopped};

/// How RAM is left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// The capability `x-ignore-shared` (since 4.0).
    IgnoreShared,
    /// Migration mode `cpr-reboot` with that capability (since 8.2).
    Reboot,
    /// Migration mode `cpr-exec` (since 10.2): QEMU starts itself anew.
    Exec,
}

/// Takes the streams of one QEMU that are wanted; false where that QEMU is not there.
pub(crate) fn take(version: Version, guest: &Guest, wanted: &dyn Fn(&str) -> bool) -> bool {
    for (what, since, how) in [
        ("ignore-shared", Version::V5_2, How::IgnoreShared),
        ("cpr-reboot", Version::V10_0, How::Reboot),
        ("cpr-exec", Version::V11_1, How::Exec),
    ] {
        let name = format!("elsewhere/qemu-{}-pc-{what}", version.number());
        if version < since || !wanted(&name) {
            continue;
        }
        let Some(binary) = version.binary() else { return false };
        // From 8.2 on RAM without a file of a name is sent all the same.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ram = Ram::SharedFile(folder.path().join("ram"));
        let stopped = Stopped { machine: "pc", ram, more: how.arguments() };
        let mut source = stopped.start(&binary, guest);
        let bytes = how.saved(&mut source);
        keep(&name, &bytes, &stopped.described(version, how.described()));
    }
    true
}

impl How {
    const fn arguments(self) -> &'static [&'static str] {
        match self {
            // All other RAM has to be shared, too.
            Self::Exec => &["-machine", "aux-ram-share=on"],
            _ => &[],
        }
    }

    const fn described(self) -> &'static str {
        match self {
            Self::IgnoreShared => "capabilities: x-ignore-shared; to a pipe",
            Self::Reboot => "capabilities: x-ignore-shared; mode cpr-reboot; to a pipe",
            Self::Exec => "mode cpr-exec; to a pipe",
        }
    }

    fn saved(self, source: &mut Qemu) -> Vec<u8> {
        let file = source.home().join("stream");
        if self != Self::Exec {
            source.set_capabilities(&[("x-ignore-shared", true)]);
        }
        match self {
            Self::IgnoreShared => {}
            Self::Reboot => source.set_parameters(json!({ "mode": "cpr-reboot" })),
            // In the place of a new QEMU, a program that ends: the stream is whole by then.
            Self::Exec => {
                source.set_parameters(json!({ "mode": "cpr-exec", "cpr-exec-command": ["/bin/true"] }));
            }
        }
        source.start_save(&format!("exec:cat > {}", file.display()));
        if self == Self::Exec {
            source.wait_exit(Duration::from_secs(60)).expect("it starts another program");
        } else {
            assert_eq!(source.wait_save(Duration::from_secs(60)), Outcome::Completed);
        }
        fs::read(file).expect("just written")
    }
}
