//! What `-dump-vmstate` says of all devices of a QEMU: which type of machine is asked makes no difference.

use std::{fs, path::Path, process::Command};

use snapshot_tests::{Version, corpus};

use crate::keep::LEVEL;

/// The QEMUs whose devices are described.
const VERSIONS: [Version; 3] = [Version::V7_2, Version::V10_0, Version::V11_1];

/// Takes those that are wanted, by their paths below the corpus, without `.bin.zst`.
pub(crate) fn take(wanted: &dyn Fn(&str) -> bool) {
    for version in VERSIONS {
        let path = format!("dumps/qemu-{}-pc", version.number());
        if !wanted(&path) {
            continue;
        }
        let binary = version.binary().expect("QEMU is needed: .ci/qemu");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let json = folder.path().join("json");
        let status = Command::new(binary.path())
            .args(["-machine", "pc", "-nodefaults", "-display", "none", "-dump-vmstate"])
            .arg(&json)
            .status();
        assert!(status.is_ok_and(|status| status.success()), "{version} writes a dump");
        keep(&path, &json);
    }
}

fn keep(path: &str, json: &Path) {
    let packed = zstd::encode_all(fs::read(json).expect("just written").as_slice(), LEVEL);
    let file = corpus::root().join(format!("{path}.json.zst"));
    fs::write(&file, packed.expect("memory is enough")).expect("the corpus can be written");
    println!("{}", file.display());
}
