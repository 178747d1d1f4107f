//! Captures the corpus anew: small streams of real QEMUs, with no firmware in them. Run by
//! `corpus/capture`.
//!
//! The guest is the machine's whole firmware, ACPI tables are off and there is no device with an
//! option ROM, so every page in a stream is the guest's own or zero.

mod bare;
mod captures;
mod dumps;
mod elsewhere;
mod keep;
mod libvirt;
mod loads;
mod multifd;

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use captures::{BOTH, CAPTURES, Capture, FEW_PAGES, FEWEST_PAGES, How};
use keep::keep;
use serde_json::json;
use snapshot_tests::{
    Binary, Boot, Config, Guest, Outcome, Qemu, Recorder, Version, corpus, image::qemu_img_or_skip,
};

const MEMORY_MIB: u32 = 4;

const USAGE: &str = "usage: corpus/capture [NAME | --missing | --loads]

NAME        only what has NAME in its name
--missing   only what is not there
--loads     what each QEMU does with streams of the others, in corpus/LOADS";

/// Ends the program: something that a capture needs is not there.
fn missing_program(what: &str) -> ! {
    eprintln!("error: {what}");
    std::process::exit(2);
}

fn main() {
    let only = std::env::args().nth(1);
    let is_option = |text: &str| text.starts_with('-') && !["--missing", "--loads"].contains(&text);
    if let Some(option) = only.as_deref().filter(|text| is_option(text)) {
        println!("{USAGE}");
        std::process::exit(if ["-h", "--help"].contains(&option) { 0 } else { 2 });
    }
    let guest =
        Guest::built_or_skip().unwrap_or_else(|| missing_program("the guest is built by gcc and binutils"));
    if qemu_img_or_skip().is_none() {
        missing_program("disks are made by qemu-img: run .ci/qemu, or set QEMU_IMG");
    }
    if only.as_deref() == Some("--loads") {
        return loads::take(guest);
    }
    let missing = only.as_deref() == Some("--missing");
    // A path below the corpus, without `.bin.zst` or `.json.zst`.
    let wanted_file = |path: &str| match &only {
        Some(_) if missing => {
            !["bin", "json"].iter().any(|end| corpus::root().join(format!("{path}.{end}.zst")).exists())
        }
        Some(part) => path.contains(part.as_str()),
        None => true,
    };
    let wanted = |name: &str| wanted_file(&format!("valid/{name}"));
    for capture in CAPTURES {
        for &version in capture.versions {
            let name = format!("qemu-{}-{}", version.number(), capture.name);
            if !wanted(&name) {
                continue;
            }
            let binary = version
                .binary()
                .unwrap_or_else(|| missing_program(&format!("{version} is not here: run .ci/qemu")));
            let folder = tempfile::tempdir().expect("a temporary folder");
            for (suffix, bytes) in capture.take(&binary, guest, folder.path()) {
                keep(&format!("valid/{name}{suffix}"), &bytes, &capture.described(version));
            }
        }
    }
    for machine in bare::MACHINES {
        let name = format!("qemu-7.2-{}", machine.name);
        if !wanted(&name) {
            continue;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        match machine.take(folder.path()) {
            Some(bytes) => keep(&format!("valid/{name}"), &bytes, &machine.described()),
            None => println!("{name}: not taken: this architecture's QEMU is not installed"),
        }
    }
    for &version in BOTH {
        multifd::take(version, guest, &wanted_file);
    }
    dumps::take(&wanted_file);
    elsewhere::take(guest, &wanted_file);
    libvirt::take(guest, &wanted_file);
}

impl Capture {
    fn config(&self) -> Config {
        Config {
            machine: format!("{},acpi=off", self.machine),
            memory_mib: MEMORY_MIB,
            boot: Boot::Firmware,
            workload: self.workload,
            more: self.more.iter().map(|&word| word.to_owned()).collect(),
            ..Config::default()
        }
    }

    /// What the manifest says behind a stream's name.
    fn described(&self, version: Version) -> String {
        let how = match self.how {
            How::Pipe => "to a pipe",
            How::Rounds => "to a pipe, several rounds",
            How::Socket => "over a socket",
            How::Postcopy => "over a socket, switched to postcopy",
        };
        let machine = format!("-machine {},acpi=off -m {MEMORY_MIB}M", self.machine);
        let capabilities = match self.capabilities {
            [] => "none".to_owned(),
            some => some.join(" "),
        };
        format!(
            "{version}; {machine} {}; guest: {}; capabilities: {capabilities}; {how}",
            self.more.join(" "),
            self.workload.command_line()
        )
    }

    /// The streams, each with the end of its name.
    fn take(&self, binary: &Binary, guest: &Guest, folder: &Path) -> Vec<(&'static str, Vec<u8>)> {
        let mut source = Qemu::start(binary, guest, self.config());
        source.console().wait_ready();
        source.console().wait_passes(2);
        let on: Vec<_> = self.capabilities.iter().map(|&name| (name, true)).collect();
        source.set_capabilities(&on);
        if self.capabilities.contains(&"dirty-bitmaps") {
            for (name, granularity) in [("bitmap0", 65_536), ("bitmap1", 4_194_304)] {
                let bitmap =
                    json!({ "node": "disk0", "name": name, "granularity": granularity, "persistent": false });
                source.execute("block-dirty-bitmap-add", bitmap);
            }
        }
        match self.how {
            How::Pipe | How::Rounds => {
                let file = folder.join("stream");
                let uri = format!("exec:cat > {}", file.display());
                if matches!(self.how, How::Rounds) {
                    in_rounds(&mut source, &uri);
                } else {
                    source.set_fast();
                    source.start_save(&uri);
                }
                assert_eq!(source.wait_save(Duration::from_secs(60)), Outcome::Completed);
                vec![("", fs::read(&file).expect("just written"))]
            }
            How::Socket | How::Postcopy => self.over_socket(source, binary, guest, folder),
        }
    }

    fn over_socket(
        &self,
        mut source: Qemu,
        binary: &Binary,
        guest: &Guest,
        folder: &Path,
    ) -> Vec<(&'static str, Vec<u8>)> {
        let mut destination = Qemu::start(binary, guest, self.config().incoming());
        let on: Vec<_> = self.capabilities.iter().map(|&name| (name, true)).collect();
        destination.set_capabilities(&on);
        let (near, far) = (folder.join("near"), folder.join("far"));
        destination.execute("migrate-incoming", json!({ "uri": format!("unix:{}", far.display()) }));
        let recorder = Recorder::start(&near, far);
        if matches!(self.how, How::Postcopy) {
            source.set_parameters(json!({ "max-bandwidth": 200_000, "downtime-limit": 1 }));
        }
        source.start_save(&format!("unix:{}", near.display()));
        if matches!(self.how, How::Postcopy) {
            wait_rounds(&mut source, 2);
            source.execute("migrate-start-postcopy", json!({}));
            source.set_fast();
        }
        assert_eq!(source.wait_save(Duration::from_secs(60)), Outcome::Completed);
        destination.console().wait_passes(2);
        drop((source, destination));
        let recording = recorder.finish();
        vec![("", recording.forward), (".rp", recording.back)]
    }
}

/// Saves so slowly that the guest dirties pages that were sent already, until three rounds have begun.
fn in_rounds(source: &mut Qemu, uri: &str) {
    source.set_parameters(json!({ "max-bandwidth": 1_000_000, "downtime-limit": 1 }));
    source.start_save(uri);
    wait_rounds(source, 4);
    source.set_fast();
}

fn wait_rounds(source: &mut Qemu, rounds: u64) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let info = source.execute("query-migrate", json!({}));
        if info["ram"]["dirty-sync-count"].as_u64().is_some_and(|count| count >= rounds) {
            return;
        }
        assert!(Instant::now() < end && info["status"] != "failed", "no {rounds} rounds: {info}");
        thread::sleep(Duration::from_millis(5));
    }
}
