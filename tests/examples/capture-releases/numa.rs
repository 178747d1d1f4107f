//! A stopped guest with RAM in several nodes: its stream, and what QEMU's own `dump-guest-memory`
//! says is where.

use std::{fs, time::Duration};

use serde_json::json;
use snapshot_tests::{Guest, Outcome, Ram, TWO_UNEQUAL_NODES, Version};

use crate::{keep::keep, stopped::Stopped};

/// RAM of 4 MiB in two nodes.
const TWO_NODES: &[&str] = &[
    "-object",
    "memory-backend-ram,id=ram-node0,size=2M",
    "-object",
    "memory-backend-ram,id=ram-node1,size=2M",
    "-numa",
    "node,memdev=ram-node0",
    "-numa",
    "node,memdev=ram-node1",
];

/// Takes the files of one QEMU that are wanted; false where that QEMU is not there.
pub(crate) fn take(version: Version, guest: &Guest, wanted: &dyn Fn(&str) -> bool) -> bool {
    for (what, machine, more) in [("pc-numa", "pc", TWO_NODES), ("q35-numa", "q35", TWO_UNEQUAL_NODES)] {
        let name = |form: &str| format!("cores/qemu-{}-{what}.{form}", version.number());
        if version < Version::V10_0 || !["stream", "elf"].iter().any(|form| wanted(&name(form))) {
            continue;
        }
        let Some(binary) = version.binary() else { return false };
        let stopped = Stopped { machine, ram: Ram::Private, more };
        let mut source = stopped.start(&binary, guest);
        let [elf, stream] = ["elf", "stream"].map(|form| source.home().join(form));
        let protocol = format!("file:{}", elf.display());
        source.execute("dump-guest-memory", json!({ "paging": false, "protocol": protocol }));
        source.start_save(&format!("exec:cat > {}", stream.display()));
        assert_eq!(source.wait_save(Duration::from_secs(60)), Outcome::Completed);
        for (form, file, how) in [("stream", &stream, "to a pipe"), ("elf", &elf, "its dump-guest-memory")] {
            keep(&name(form), &fs::read(file).expect("just written"), &stopped.described(version, how));
        }
    }
    true
}
