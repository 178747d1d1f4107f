//! The simulated destination, with real page faults: from a request to its page in place.

use serde_json::Value;
use snapshot_tests::table::{Table, Target, median};
use snapshot_tests::tool::{qemu_snapshot, snapsim};
use std::fs::File;
use std::path::Path;
use std::process::Command;

const RAM: &str = "512M";

fn run(arguments: &[&str]) -> Value {
    let output = Command::new(snapsim()).args(arguments).output().expect("it was built");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "snapsim {arguments:?}: {words}");
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

/// Has the file's pages read from the disk again.
fn cool(image: &Path) {
    let file = File::open(image).expect("the image");
    file.sync_all().expect("the disk takes it");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("any file can be dropped");
}

pub(crate) fn measure(rounds: usize) {
    let folder = tempfile::tempdir_in(".").expect("a folder on the disk that is measured");
    let (image, digest) = (folder.path().join("image"), folder.path().join("digest"));
    let (image, digest) = (image.to_str().expect("UTF-8"), digest.to_str().expect("UTF-8"));
    let tool = qemu_snapshot().display();
    run(&["source", "--ram", RAM, "--digest", digest, &format!("exec:{tool} --create {image}")]);
    // While requests are recorded nothing else is sent: that is a revert without background.
    let off = "--postcopy=0 --no-hot-set --record-hot-set=2";
    let on = "--postcopy=0 --no-hot-set";
    let ways = [(off, false), (on, false), (off, true), (on, true)];
    let mut reports = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for ((options, cold), reports) in ways.iter().zip(&mut reports) {
            if *cold {
                cool(Path::new(image));
            }
            let command = format!("{tool} --revert {options} {image}");
            reports.push(run(&[
                "destination",
                "--json",
                "--exec",
                &command,
                "--digest",
                digest,
                "--workload",
                "random",
                "--threads",
                "1",
            ]));
        }
    }
    let of = |way: usize, key: &str| {
        median(reports[way].iter().map(|report| report["request_us"][key].as_f64().unwrap_or(f64::NAN)))
    };
    let mut table = Table::default();
    Table::head(&format!("snapsim, {RAM}, one thread that touches pages at random, medians of {rounds}"));
    let names =
        ["warm, background off", "warm, background on", "cold, background off", "cold, background on"];
    for (way, name) in names.iter().enumerate() {
        let warm_on = way == 1;
        let limit = |value| if warm_on { Target::AtMost(value) } else { Target::None };
        table.line(&format!("request to page, {name}: p50"), of(way, "p50"), "us", limit(150.0));
        table.line(&format!("request to page, {name}: p99"), of(way, "p99"), "us", limit(1000.0));
        table.line(&format!("request to page, {name}: max"), of(way, "max"), "us", Target::None);
    }
    let ratio = of(1, "p50") / of(0, "p50");
    table.line(
        "request to page, warm: p50 with background, of that without",
        ratio,
        "x",
        Target::AtMost(2.0),
    );
    table.end();
}
