//! A disk whose reads, writes or flushes fail when a test wants it: what device-mapper's `error`
//! and `flakey` do, for kernels that have none.
//!
//! A file that this program serves by FUSE, a loop device on it, and ext4 on that. So whoever uses
//! a file there meets the kernel's own block device and file system with an I/O error below them:
//! in io_uring, in write-back, in fsync, in the journal.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use test_support::not_run;

/// What the kernel may remember of the file: its length never changes.
const MEMORY: Duration = Duration::from_secs(3600);
const BLOCK_BYTES: u32 = 4096;

/// What of a disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Reads.
    Reads,
    /// Writes, and flushes after them.
    Writes,
    /// Flushes only: the disk cannot say that anything is durable.
    Flushes,
}

/// From when on, and for how long.
#[derive(Debug, Default)]
struct Trouble {
    failing: Option<Failing>,
    /// Bytes (flushes: calls) that still go well.
    good: u64,
    /// Errors from then on, before all is well again.
    errors: u64,
    /// Bytes (and calls) of each kind so far: reads, writes, flushes.
    seen: [u64; 3],
    /// Errors so far.
    given: u64,
}

impl Trouble {
    /// Whether an operation fails now.
    fn strikes(&mut self, kind: Failing, amount: u64) -> bool {
        self.seen[kind as usize] += amount;
        let concerned = match self.failing {
            Some(Failing::Writes) => kind != Failing::Reads,
            failing => failing == Some(kind),
        };
        if !concerned {
            return false;
        }
        if self.good >= amount {
            self.good -= amount;
            return false;
        }
        self.good = 0;
        if self.errors == 0 {
            self.failing = None;
            return false;
        }
        self.errors -= 1;
        self.given += 1;
        true
    }
}

/// The file below the loop device.
struct Served {
    file: File,
    length: u64,
    trouble: Arc<Mutex<Trouble>>,
}

impl Served {
    fn strikes(&self, kind: Failing, amount: u64) -> bool {
        locked(&self.trouble).strikes(kind, amount)
    }
}

fn locked(trouble: &Mutex<Trouble>) -> MutexGuard<'_, Trouble> {
    trouble.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Filesystem for Served {
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let time = SystemTime::UNIX_EPOCH;
        let attributes = FileAttr {
            ino,
            size: self.length,
            blocks: self.length / 512,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        };
        reply.attr(&MEMORY, &attributes);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // Nothing is kept in a cache above us: each operation of the device comes down here.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if self.strikes(Failing::Reads, size.into()) {
            return reply.error(Errno::EIO);
        }
        let mut bytes = vec![0; size as usize];
        match self.file.read_exact_at(&mut bytes, offset) {
            Ok(()) => reply.data(&bytes),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.strikes(Failing::Writes, data.len() as u64) {
            return reply.error(Errno::EIO);
        }
        match (self.file.write_all_at(data, offset), u32::try_from(data.len())) {
            (Ok(()), Ok(written)) => reply.written(written),
            (Err(error), _) => reply.error(error.into()),
            (_, Err(_)) => reply.error(Errno::EINVAL),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if self.strikes(Failing::Flushes, 1) { reply.error(Errno::EIO) } else { reply.ok() }
    }
}

/// An ext4 file system on a device that fails on demand; gone when dropped.
pub struct FailingDisk {
    trouble: Arc<Mutex<Trouble>>,
    /// The loop device.
    device: PathBuf,
    mounted: bool,
    session: Option<BackgroundSession>,
    folder: tempfile::TempDir,
}

impl std::fmt::Debug for FailingDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FailingDisk").field("device", &self.device).finish_non_exhaustive()
    }
}

impl FailingDisk {
    /// A sound and empty one of so many bytes, mounted. Where this needs more than the test has,
    /// the test is to return: this has said why, or failed in CI.
    ///
    /// # Panics
    ///
    /// If there is no temporary folder, or what works elsewhere does not here.
    #[must_use]
    pub fn mounted_or_skip(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [file, mounted] = ["file", "mounted"].map(|name| folder.path().join(name));
        File::create(&file).expect("a temporary file");
        fs::create_dir(&mounted).expect("a temporary folder");
        let content = tempfile::tempfile().expect("a temporary file");
        content.set_len(bytes).expect("a sparse file");
        let trouble = Arc::new(Mutex::new(Trouble::default()));
        let served = Served { file: content, length: bytes, trouble: Arc::clone(&trouble) };
        let session = match fuser::spawn_mount(served, &file, &Config::default()) {
            Ok(session) => session,
            Err(error) => {
                not_run(&format!("a failing disk needs FUSE and the right to mount: {error}"));
                return None;
            }
        };
        let mut disk =
            Self { trouble, device: PathBuf::new(), mounted: false, session: Some(session), folder };
        let found = Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&file).output();
        let Some(found) = found.ok().filter(|found| found.status.success()) else {
            not_run("a failing disk needs a loop device, and the right to use it");
            return None;
        };
        disk.device = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
        disk.make();
        disk.mount();
        Some(disk)
    }

    /// Path of a file on it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("mounted").join(name)
    }

    /// The file system's own folder.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// From now on: after so many bytes (flushes: so many calls) that go well, so many operations
    /// fail. Then all is well again; [`u64::MAX`] is never.
    pub fn fail(&self, failing: Failing, good: u64, errors: u64) {
        *locked(&self.trouble) = Trouble { failing: Some(failing), good, errors, ..Trouble::default() };
    }

    /// All is well from now on. How many operations failed.
    pub fn mend(&self) -> u64 {
        let mut trouble = locked(&self.trouble);
        trouble.failing = None;
        trouble.given
    }

    /// Bytes (flushes: calls) that came since the last [`FailingDisk::fail`].
    #[must_use]
    pub fn seen(&self, kind: Failing) -> u64 {
        locked(&self.trouble).seen[kind as usize]
    }

    /// Takes the file system away and brings it back, as after a crash: what is there afterwards is
    /// what is on the disk.
    ///
    /// # Panics
    ///
    /// If a program still has a file open there.
    pub fn remount(&mut self) {
        self.unmount();
        self.mount();
    }

    /// Makes a new and empty file system, whatever happened to the old one.
    ///
    /// # Panics
    ///
    /// As [`FailingDisk::remount`].
    pub fn format(&mut self) {
        self.unmount();
        self.make();
        self.mount();
    }

    fn make(&self) {
        let mut make = Command::new("mkfs.ext4");
        // Nothing is left to be written later, by the kernel's own wish.
        make.args([
            "-q",
            "-F",
            "-N",
            "64",
            "-J",
            "size=4",
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
        ]);
        run(make.arg(&self.device));
    }

    fn mount(&mut self) {
        run(Command::new("mount").args(["-t", "ext4"]).arg(&self.device).arg(self.root()));
        self.mounted = true;
    }

    fn unmount(&mut self) {
        let end = Instant::now() + Duration::from_secs(30);
        // A program that has just ended may still hold it for a moment.
        while !Command::new("umount").arg(self.root()).output().is_ok_and(|output| output.status.success()) {
            assert!(Instant::now() < end, "{} is in use", self.root().display());
            thread::sleep(Duration::from_millis(20));
        }
        self.mounted = false;
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open does not keep the folder; the device is let go with
        // the last of them.
        if self.mounted {
            let _ = Command::new("umount").arg("--lazy").arg(self.root()).output();
        }
        if self.device != Path::new("") {
            let _ = Command::new("losetup").arg("--detach").arg(&self.device).output();
        }
        let file = self.folder.path().join("file");
        let _ = Command::new("umount").arg("--lazy").arg(&file).output();
        if let Some(session) = self.session.take() {
            // Ends when the loop device has let go of the file: not worth waiting for.
            drop(session);
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
