//! Ways to save a guest and to revert it: ours, and what exists.

use snapshot_tests::{Binary, Config, Guest, Outcome, Qemu, Version, Workload, tool::qemu_snapshot};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Channels of multifd: QEMU's own default.
const MULTIFD_CHANNELS: u32 = 2;

/// Where the stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `qemu-snapshot` of a running guest; with `cache.direct=on`, or without.
    Ours { direct: bool },
    /// `qemu-snapshot` of a stopped guest.
    OursStopped,
    /// `cat > FILE`, and a sync.
    Cat,
    /// QEMU's own file with a fixed place for each page (10.0), and a sync, of a stopped guest:
    /// QEMU takes the capability together with background snapshots, but then never writes the
    /// bitmap of pages, and cannot load the file. It uses `direct-io` with multifd only.
    MappedRam { multifd: bool, direct: bool },
}

impl Way {
    /// The ways that this release has.
    pub(crate) fn all(version: Version) -> Vec<Self> {
        let mut ways = vec![Self::Ours { direct: false }, Self::Cat, Self::Ours { direct: true }];
        if version.has_mapped_ram() {
            ways.push(Self::OursStopped);
            for (multifd, direct) in [(false, false), (true, false), (true, true)] {
                ways.push(Self::MappedRam { multifd, direct });
            }
        }
        ways
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours { direct: false } => "qemu-snapshot",
            Self::Ours { direct: true } => "qemu-snapshot, cache.direct=on",
            Self::Cat => "cat",
            Self::OursStopped => "stopped: qemu-snapshot",
            Self::MappedRam { multifd: false, .. } => "stopped: mapped-ram",
            Self::MappedRam { multifd: true, direct: false } => "stopped: mapped-ram, multifd",
            Self::MappedRam { multifd: true, direct: true } => "stopped: mapped-ram, multifd, direct-io",
        }
    }

    /// What follows the file's name on the tool's command line.
    fn options(self) -> &'static str {
        if self == (Self::Ours { direct: true }) { ",cache.direct=on" } else { "" }
    }

    fn stops_guest(self) -> bool {
        matches!(self, Self::MappedRam { .. } | Self::OursStopped)
    }

    /// Has either end do it this way.
    fn set(self, qemu: &mut Qemu, source: bool) {
        let (mapped, multifd, direct) = match self {
            Self::MappedRam { multifd, direct } => (true, multifd, direct),
            _ => (false, false, false),
        };
        let background = source && !self.stops_guest();
        qemu.set_capabilities(&[("background-snapshot", false), ("multifd", multifd)]);
        if qemu.version().has_mapped_ram() {
            qemu.set_capabilities(&[("mapped-ram", mapped)]);
            qemu.set_parameters(
                serde_json::json!({ "direct-io": direct, "multifd-channels": MULTIFD_CHANNELS }),
            );
        }
        qemu.set_capabilities(&[("background-snapshot", background)]);
    }
}

/// A way, and its file.
#[derive(Debug)]
pub(crate) struct Contestant {
    pub(crate) way: Way,
    file: PathBuf,
}

/// One measured save.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Save {
    pub(crate) seconds: f64,
    /// CPU seconds of what QEMU started, per GiB of RAM.
    pub(crate) cpu_per_gib: f64,
    /// Its largest resident set, in MiB.
    pub(crate) peak_mib: f64,
    /// Pages that the guest wrote per second meanwhile.
    pub(crate) guest_writes: f64,
}

impl Contestant {
    /// A contestant with a file of its own in `folder`.
    pub(crate) fn new(way: Way, folder: &Path) -> Self {
        let name: String =
            way.name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let file = std::path::absolute(folder.join(name)).expect("a path");
        Self { way, file }
    }

    /// Saves the guest of `source`, and makes it durable. The guest runs again after it.
    pub(crate) fn save(&self, source: &mut Qemu, gib: f64) -> Save {
        // QEMU 10.0 says "completed" a moment before it can migrate again.
        std::thread::sleep(Duration::from_millis(500));
        self.way.set(source, true);
        if self.way.stops_guest() {
            source.execute("stop", serde_json::json!({}));
        }
        let times = source.home().join("times");
        let _ = fs::remove_file(&times);
        let uri = self.save_uri(&times);
        let before = source.console().writes();
        let start = Instant::now();
        assert_eq!(source.save(&uri), Outcome::Completed, "{}: {}", self.way.name(), source.stderr());
        if matches!(self.way, Way::MappedRam { .. }) {
            self.open().sync_all().expect("a file can be synced");
        }
        let seconds = start.elapsed().as_secs_f64();
        let writes = source.console().writes().wrapping_sub(before);
        if self.way.stops_guest() {
            source.execute("cont", serde_json::json!({}));
        }
        let (cpu_per_gib, peak_mib) = report(&times, gib);
        Save { seconds, cpu_per_gib, peak_mib, guest_writes: f64::from(writes) / seconds }
    }

    /// Seconds until a new QEMU has loaded what was saved.
    pub(crate) fn revert(&self, binary: &Binary, guest: &Guest, mib: u32) -> f64 {
        let config = Config { memory_mib: mib, ..Config::default() };
        let mut destination = Qemu::start(binary, guest, config.incoming());
        self.way.set(&mut destination, false);
        let uri = self.revert_uri();
        let start = Instant::now();
        let outcome = destination.revert(&uri);
        let seconds = start.elapsed().as_secs_f64();
        assert_eq!(outcome, Outcome::Completed, "{}: {}", self.way.name(), destination.stderr());
        if self.way.stops_guest() {
            destination.execute("cont", serde_json::json!({}));
        }
        destination.console().wait_passes(1);
        seconds
    }

    /// Drops the file from the page cache (`posix_fadvise`, which needs it to be clean).
    pub(crate) fn cool(&self) {
        let file = self.open();
        file.sync_all().expect("a file can be synced");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("a hint");
    }

    /// Bytes that the file takes on the disk.
    pub(crate) fn file_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        self.open().metadata().expect("the file that was just written").blocks() * 512
    }

    fn open(&self) -> File {
        File::open(&self.file).expect("the file that was just written")
    }

    fn save_uri(&self, times: &Path) -> String {
        let (file, tool) = (self.file.display(), qemu_snapshot().display());
        let command = match self.way {
            Way::Ours { .. } | Way::OursStopped => {
                format!("{tool} --create --overwrite {file}{}", self.way.options())
            }
            Way::Cat => format!("sh -c 'cat > {file} && sync {file}'"),
            Way::MappedRam { .. } => return format!("file:{file}"),
        };
        // Reports CPU time and memory of what QEMU starts.
        format!("exec:/usr/bin/time -o {} -f '%U %S %M' {command}", times.display())
    }

    fn revert_uri(&self) -> String {
        let (file, tool) = (self.file.display(), qemu_snapshot().display());
        match self.way {
            Way::Ours { .. } | Way::OursStopped => {
                format!("exec:{tool} --revert {file}{}", self.way.options())
            }
            Way::Cat => format!("exec:cat {file}"),
            Way::MappedRam { .. } => format!("file:{file}"),
        }
    }
}

/// CPU time in seconds per GiB and memory in MiB, as `time` wrote them. It does when the tool has
/// ended, a moment after QEMU has said that it is done.
fn report(path: &Path, gib: f64) -> (f64, f64) {
    let end = Instant::now() + Duration::from_secs(5);
    while let Ok(text) = fs::read_to_string(path) {
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if let [user, system, kib] = numbers[..] {
            return ((user + system) / gib, kib / 1024.0);
        }
        if Instant::now() > end {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    (f64::NAN, f64::NAN)
}

/// A guest that rewrites its memory steadily, ready to be saved.
pub(crate) fn started(binary: &Binary, guest: &Guest, mib: u32) -> Qemu {
    let config = Config { memory_mib: mib, workload: Workload::default(), ..Config::default() };
    let mut source = Qemu::start(binary, guest, config);
    source.console().wait_ready();
    source.set_parameters(serde_json::json!({ "max-bandwidth": 64_u64 << 30 }));
    source
}
