//! Every wait of the program has an end: the list is in `engine/drive/src/wait.rs`.

use super::bed::{begin_of_ram, end, end_of_stream, said, save, tool};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own child");
}

/// A file that is no image.
fn no_image(folder: &Path) -> std::path::PathBuf {
    let image = folder.join("image");
    std::fs::write(&image, [0; 4096]).expect("a small file");
    image
}

/// A listener that takes no connection any more, and what fills it.
fn full_listener(path: &Path) -> (UnixListener, Vec<OwnedFd>) {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let listener = UnixListener::bind(path).expect("a socket");
    // A second call makes the backlog smaller.
    rustix::net::listen(&listener, 0).expect("a listening socket");
    let address = SocketAddrUnix::new(path).expect("a short path");
    let mut waiting = Vec::new();
    loop {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket");
        match connect(&socket, &address) {
            Ok(()) => waiting.push(socket),
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                return (listener, waiting);
            }
        }
    }
}

#[test]
fn fifo_as_hot_set_is_left_aside() {
    let folder = tempfile::tempdir().unwrap();
    let image = no_image(folder.path());
    let fifo = folder.path().join("image.hot-set");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let output = end(tool().args(["--revert", "--postcopy=0"]).arg(&image).spawn().unwrap());
    assert!(said(&output).contains("image.hot-set: not a regular file"), "{}", said(&output));
    assert_ne!(output.status.code(), Some(0));
}

#[test]
fn full_backlog_is_waited_for_until_timeout_or_signal() {
    let folder = tempfile::tempdir().unwrap();
    let (image, path) = (no_image(folder.path()), folder.path().join("socket"));
    let uri = format!("--uri=unix:{}", path.display());
    let (listener, waiting) = full_listener(&path);
    let revert = |more: &[&str]| tool().args(["--revert", &uri]).args(more).arg(&image).spawn().unwrap();
    let output = end(revert(&["--timeout=1"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("backlog is full (--timeout)"), "{}", said(&output));

    let child = revert(&[]);
    std::thread::sleep(Duration::from_millis(300));
    interrupt(&child);
    let output = end(child);
    use std::os::unix::process::ExitStatusExt;
    // On a busy machine it may not have come so far: then the signal has its default action.
    let by_default = output.status.signal() == Some(libc::SIGTERM);
    assert!(by_default || output.status.code() == Some(2), "{:?}", output.status);
    assert!(by_default || said(&output).contains("interrupted by a signal before"), "{}", said(&output));

    // As soon as there is room, it connects.
    let child = revert(&[]);
    std::thread::sleep(Duration::from_millis(100));
    let before = waiting.len();
    drop(waiting);
    let refused = (0..=before).any(|_| {
        let mut bytes = Vec::new();
        let (mut peer, _) = listener.accept().unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        peer.read_to_end(&mut bytes).unwrap();
        bytes == b"X"
    });
    assert!(refused, "it never connected");
    assert_ne!(end(child).status.code(), Some(0), "it is no image");
}

/// Starts the tool where these system calls fail with this error.
fn spawn_filtered(calls: &[i64], error: i32, command: &mut Command) -> Child {
    let rules = calls.iter().map(|&call| (call, Vec::new())).collect();
    let (allow, refuse) = (SeccompAction::Allow, SeccompAction::Errno(error.unsigned_abs()));
    let arch = std::env::consts::ARCH.try_into().expect("a known processor");
    let filter = SeccompFilter::new(rules, allow, refuse, arch).expect("a filter");
    let program: BpfProgram = filter.try_into().expect("a program");
    std::thread::scope(|scope| {
        // A filter is inherited, and stays with its thread.
        let thread = scope.spawn(|| {
            apply_filter(&program).expect("seccomp");
            command.spawn().expect("it starts")
        });
        thread.join().expect("no panic")
    })
}

/// The ring can be made, but not used: threads do the work. Saying so by `file.aio` is an error.
#[test]
fn io_uring_that_cannot_be_entered_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("input");
    std::fs::write(&input, b"QEVM\0\0\0\x03").unwrap();
    for error in [libc::EPERM, libc::EAGAIN] {
        for (option, wanted) in [("", "truncated"), (",file.aio=io_uring", "file.aio: ")] {
            let image = format!("{}{option}", folder.path().join("image").display());
            let mut command = tool();
            command.args(["--create", &image]).stdin(File::open(&input).unwrap());
            let output = end(spawn_filtered(&[libc::SYS_io_uring_enter], error, &mut command));
            assert!(said(&output).contains(wanted), "{error}{option}: {}", said(&output));
        }
        let image = no_image(folder.path());
        let output =
            end(spawn_filtered(&[libc::SYS_io_uring_enter], error, tool().arg("--revert").arg(&image)));
        assert!(said(&output).contains("not a qcow2 image"), "{error}: {}", said(&output));
        std::fs::remove_file(&image).unwrap();
    }
}

/// A pipe that no one reads takes so much, and then nothing more.
#[test]
fn stderr_that_no_one_reads_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (_reader, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
    (&writer).write_all(&[b'.'; 4096]).unwrap();
    let input = folder.path().join("input");
    std::fs::write(&input, b"QEVM\0\0\0\x03").unwrap();
    let mut command = tool();
    command.args(["--create", "--trace=*", "--progress=json"]).arg(folder.path().join("image"));
    let child = command.stdin(File::open(&input).unwrap()).stderr(writer).spawn().unwrap();
    assert_eq!(end(child).status.code(), Some(1), "the stream is cut off");
}

/// The one byte that makes QEMU refuse does not fit, and never will.
#[test]
fn signal_ends_a_refusal_that_no_one_takes() {
    let folder = tempfile::tempdir().unwrap();
    let (_reader, writer) = std::io::pipe().unwrap();
    // The tool asks for a larger pipe; an ordinary user's limit is no more than this.
    rustix::pipe::fcntl_setpipe_size(&writer, 1 << 20).unwrap();
    (&writer).write_all(&vec![b'.'; 1 << 20]).unwrap();
    let missing = folder.path().join("missing");
    let child = tool().arg("--revert").arg(&missing).stdout(writer).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    interrupt(&child);
    let output = end(child);
    assert_ne!(output.status.code(), Some(0), "{}", said(&output));
}

/// One that loads takes or says something all the time. Without `--timeout` it has 60 s, which a
/// release build waits out.
#[test]
fn a_silent_destination_is_given_up_without_a_timeout() {
    const WAITED: (u64, u64) = if cfg!(debug_assertions) { (1, 30) } else { (60, 120) };
    let folder = tempfile::tempdir().unwrap();
    let (image, path) = (folder.path().join("image"), folder.path().join("socket"));
    let mut stream = begin_of_ram(2048);
    for page in 0..2048 {
        migration_stream::put_page_header(&mut stream, Some(b"pc.ram"), page * 4096);
        stream.extend_from_slice(&[0x5a; 4096]);
    }
    end_of_stream(&mut stream);
    save(&stream, &image);
    let listener = UnixListener::bind(&path).expect("a socket");
    let uri = format!("--uri=unix:{}", path.display());
    let revert = |mode: &[&str]| {
        let mut command = tool();
        command.env("QEMU_SNAPSHOT_LOADING_TIMEOUT_MS", "1000").arg(&uri).arg("--revert").args(mode);
        (Instant::now(), command.arg(&image).spawn().unwrap(), listener.accept().unwrap())
    };
    // Beside each other: 60 s once.
    let started = [&[][..], &["--postcopy=0"]].map(revert);
    for (start, mut child, _connection) in started {
        while child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(WAITED.1), "no end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().unwrap();
        assert!(start.elapsed() >= Duration::from_secs(WAITED.0), "{:?}", start.elapsed());
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains("multifd"), "{}", said(&output));
    }
}
