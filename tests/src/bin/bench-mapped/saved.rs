//! A guest in a linear image, and the ways to start it again.

use serde_json::json;
use snapshot_image::{HostOffset, ReadOptions, SnapshotReader};
use snapshot_tests::tool::qemu_snapshot;
use snapshot_tests::{Binary, Config, Guest, Outcome, Qemu, Ram, ToImage, Workload};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// How a clone is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the image itself.
    Mapped,
    /// `--postcopy=0`.
    Postcopy,
}

/// A saved guest.
pub(crate) struct Saved {
    config: Config,
    pub(crate) image: PathBuf,
    base: u64,
    /// Pages that the guest wrote in its last second before the save began.
    pub(crate) writes_per_second: f64,
}

/// A clone that runs, and what its start took.
pub(crate) struct Started {
    pub(crate) qemu: Qemu,
    /// From `migrate-incoming` until the guest was seen running, in ms.
    pub(crate) running: f64,
    times: PathBuf,
}

impl Started {
    /// CPU time of what QEMU started, in ms, when that has ended.
    pub(crate) fn tool_cpu(&self) -> f64 {
        let end = Instant::now() + Duration::from_secs(20);
        while Instant::now() < end {
            let text = fs::read_to_string(&self.times).unwrap_or_default();
            let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
            if let [user, system] = numbers[..] {
                return (user + system) * 1e3;
            }
            thread::sleep(Duration::from_millis(10));
        }
        f64::NAN
    }

    /// Pages that the guest writes in its first second, counted from its first report on: that is
    /// when it is known how many it had written before it was saved.
    pub(crate) fn first_second(&self) -> f64 {
        let end = Instant::now() + Duration::from_secs(1);
        while self.qemu.console().writes() == 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        writes_until(&self.qemu, end)
    }
}

/// Pages that the guest writes per second from now until `end`.
fn writes_until(qemu: &Qemu, end: Instant) -> f64 {
    let (before, start) = (qemu.console().writes(), Instant::now());
    thread::sleep(end.saturating_duration_since(start));
    f64::from(qemu.console().writes().wrapping_sub(before)) / start.elapsed().as_secs_f64()
}

impl Saved {
    /// Saves a guest with so much memory, all of it in use.
    pub(crate) fn new(binary: &Binary, guest: &Guest, folder: &Path, memory_mib: u32) -> Self {
        // Its progress is counted in small steps.
        let workload = Workload { interval: 1024, ..Workload::STEADY };
        let config = Config { memory_mib, workload, ..Config::default() };
        let image = folder.join(format!("{memory_mib}.qcow2"));
        let mut source = Qemu::start(binary, guest, config.clone());
        source.console().wait_ready();
        source.console().wait_writes(1024);
        let writes_per_second = writes_until(&source, Instant::now() + Duration::from_secs(1));
        source.set_fast();
        assert!(source.background_snapshot_or_skip(), "needs write protection by userfaultfd");
        let save = ToImage { options: "--create --layout=linear", image: &image, stream: None };
        assert_eq!(source.save_image(&save), Outcome::Completed, "{}", source.stderr());
        let base = base(&image).expect("it was just saved");
        Self { config, image, base, writes_per_second }
    }

    /// Starts a clone.
    pub(crate) fn start(&self, binary: &Binary, guest: &Guest, way: Way, options: &str) -> Started {
        let ram = match way {
            Way::Mapped => Ram::Mapped { file: self.image.clone(), offset: self.base },
            Way::Postcopy => Ram::Private,
        };
        let mut qemu = Qemu::start(binary, guest, Config { ram, ..self.config.incoming() });
        qemu.set_capabilities(&[("postcopy-ram", way == Way::Postcopy)]);
        let times = qemu.home().join("times");
        let mode = if way == Way::Mapped { "--mapped" } else { "--postcopy=0" };
        let (tool, image) = (qemu_snapshot().display(), self.image.display());
        let command = format!("{tool} --revert {mode} {options} {image}");
        let uri = format!("exec:/usr/bin/time -o {} -f '%U %S' {command}", times.display());
        let start = Instant::now();
        qemu.execute("migrate-incoming", json!({ "uri": uri }));
        while qemu.run_state() != "running" {
            assert!(start.elapsed() < Duration::from_secs(120), "never running: {}", qemu.stderr());
            thread::sleep(Duration::from_millis(1));
        }
        Started { qemu, running: start.elapsed().as_secs_f64() * 1e3, times }
    }

    /// Removes the record that the image was verified.
    pub(crate) fn forget(&self) {
        let own = self.image.file_name().expect("a file");
        let folder = self.image.parent().expect("a file lies in a folder");
        for entry in fs::read_dir(folder).expect("our own").flatten() {
            let name = entry.file_name();
            if name != own && name.as_encoded_bytes().starts_with(own.as_encoded_bytes()) {
                fs::remove_file(entry.path()).expect("our own");
            }
        }
    }

    /// Has the image's pages read from the disk again.
    pub(crate) fn cool(&self) {
        let file = File::open(&self.image).expect("the image");
        file.sync_all().expect("the disk takes it");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a hint");
    }

    /// Milliseconds of one sequential read through the page cache.
    pub(crate) fn read_once(&self) -> f64 {
        let mut file = File::open(&self.image).expect("the image");
        let mut buffer = vec![0; 1 << 20];
        let start = Instant::now();
        while file.read(&mut buffer).expect("the disk works") > 0 {}
        start.elapsed().as_secs_f64() * 1e3
    }
}

/// Where the guest's RAM begins in the file.
fn base(image: &Path) -> io::Result<u64> {
    let file = File::open(image)?;
    let read = |HostOffset(at), length| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at).map(|()| bytes)
    };
    let reader = SnapshotReader::open_with(file.metadata()?.len(), ReadOptions::default(), read)?;
    let ram = reader.layout().blocks().iter().position(|block| block.name == b"pc.ram");
    let base = ram.and_then(|block| reader.linear_base(block));
    base.map(|HostOffset(base)| base).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
