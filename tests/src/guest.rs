//! The guest in `guest/`, built when a test first needs it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use test_support::{not_run, programs::in_path};

/// Firmware images are a multiple of 64 KiB; the guest's is one.
const FIRMWARE_BYTES: u64 = 64 << 10;

/// Freestanding 32-bit code that needs no C library and no 32-bit support package; no instruction
/// whose registers the entry code would have to enable.
const FLAGS: [&str; 15] = [
    "-m32",
    "-std=c11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-pic",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-mno-sse",
    "-mno-mmx",
    "-nostdlib",
    "-static",
    "-Wl,--build-id=none",
];

/// The built guest.
#[derive(Debug)]
pub struct Guest {
    /// ELF image for `-kernel`, by the multiboot protocol.
    pub kernel: PathBuf,
    /// 64 KiB image for `-bios`: the guest as a machine's whole firmware.
    pub firmware: PathBuf,
}

impl Guest {
    /// The guest, built once in a process with `gcc` and `binutils`. Where they are missing, the
    /// test is to return: this has said why, or failed in CI.
    ///
    /// # Panics
    ///
    /// If it does not compile.
    #[must_use]
    pub fn built_or_skip() -> Option<&'static Self> {
        static BUILT: OnceLock<Option<Guest>> = OnceLock::new();
        let built = BUILT.get_or_init(|| {
            let tools = ["gcc", "ld", "objcopy"];
            tools.iter().all(|tool| in_path(tool).is_some()).then(build)
        });
        if built.is_none() {
            not_run("no gcc or binutils to build the guest with");
        }
        built.as_ref()
    }
}

/// How hard the guest works. The defaults are those of `guest/guest.c`, where each option is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Pages rewritten per 64 verified ones; 0 is an idle guest, which only verifies.
    pub rewrite: u32,
    /// Percent of the pages that are written at all; the rest stays zero.
    pub used_percent: u32,
    /// Rewrites stay within this many pages; 0: in all used ones.
    pub dirty_pages: u32,
    /// Page writes between two progress lines.
    pub interval: u32,
    /// MiB of memory to look at; 0: all.
    pub limit_mib: u32,
}

impl Workload {
    /// A guest that writes little else than its console after its start.
    ///
    /// For live precopy: with software emulation QEMU loses dirty pages of a guest that writes,
    /// whatever takes the stream. Of saves through `cat` 14 of 14 came back with stale pages from
    /// 7.2; from 10.0 one of fifteen on a busy machine, where the stream alone, loaded through
    /// `cat`, showed the same page.
    pub const IDLE: Self = Self { rewrite: 0, ..Self::STEADY };
    /// About as many pages rewritten as verified in a fourth of the time.
    pub const STEADY: Self =
        Self { rewrite: 16, used_percent: 100, dirty_pages: 0, interval: 4096, limit_mib: 0 };
    /// A guest that writes far more than it verifies.
    pub const BUSY: Self = Self { rewrite: 256, ..Self::STEADY };

    /// The guest's command line.
    #[must_use]
    pub fn command_line(&self) -> String {
        format!(
            "rewrite={} used={} dirty={} interval={} limit={}",
            self.rewrite, self.used_percent, self.dirty_pages, self.interval, self.limit_mib
        )
    }
}

impl Default for Workload {
    fn default() -> Self {
        Self::STEADY
    }
}

/// Builds both images in a folder of their own and moves them to the build's folder, so that test
/// programs that run at the same time never see half a file.
fn build() -> Guest {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest");
    let home = crate::tool::build_folder().join("guest");
    fs::create_dir_all(&home).expect("the build folder can be written");
    let work = tempfile::tempdir_in(&home).expect("the build folder can be written");
    let at = |name: &str| work.path().join(name);
    let link = |script: &str| format!("-Wl,-T,{}", sources.join(script).display());

    let mut kernel = Command::new("gcc");
    kernel.args(FLAGS).arg(link("guest.ld")).arg("-o").arg(at("guest.elf"));
    run(kernel.args(["boot.S", "machine.c", "guest.c"].map(|name| sources.join(name))));
    run(Command::new("objcopy").args(["-O", "binary"]).arg(at("guest.elf")).arg(at("guest.flat")));
    let mut firmware = Command::new("gcc");
    firmware.args(FLAGS).arg(link("firmware.ld")).arg("-o").arg(at("guest.firmware"));
    // The assembler finds guest.flat there.
    firmware.arg(format!("-Wa,-I,{}", work.path().display()));
    run(firmware.arg(sources.join("firmware.S")));
    let image = fs::OpenOptions::new().write(true).open(at("guest.firmware")).expect("just linked");
    image.set_len(FIRMWARE_BYTES).expect("64 KiB fit");

    let moved = |name: &str| {
        fs::rename(at(name), home.join(name)).expect("within one folder");
        home.join(name)
    };
    Guest { kernel: moved("guest.elf"), firmware: moved("guest.firmware") }
}

fn run(command: &mut Command) {
    let output = command.output().expect("found in PATH before");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
