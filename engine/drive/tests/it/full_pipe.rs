//! The binary behind a source that writes faster than it reads: what is in the pipe is written, as
//! far as the source knows.

use super::bed::begin_of_ram;
use migration_stream::put_zero_page;
use std::io::{PipeWriter, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PAGES: u64 = 600_000;

/// Bytes of a write and time for a page, as QEMU writes: each page by itself in a background
/// snapshot, else what its buffer takes; and three to ten times as fast as it finds out that a page
/// is zero.
const WRITERS: [(usize, Duration); 2] = [(9, Duration::ZERO), (32 << 10, Duration::from_nanos(300))];

/// A guest all of whose pages are zero, up to its last page: nothing takes fewer bytes of a pipe.
fn stream() -> Vec<u8> {
    let mut out = begin_of_ram(PAGES);
    for page in 0..PAGES {
        put_zero_page(&mut out, (page == 0).then_some(b"pc.ram"), page * 4096);
    }
    out
}

/// Writes so much at once, in no less than the time that so many zero pages take.
fn write_in(mut pipe: &PipeWriter, stream: &[u8], chunk: usize, page_time: Duration) {
    let mut next = Instant::now();
    for bytes in stream.chunks(chunk) {
        while Instant::now() < next {
            std::hint::spin_loop();
        }
        pipe.write_all(bytes).expect("it reads on");
        // Who waited for room does not catch up.
        next = Instant::now() + page_time * u32::try_from(bytes.len() / 9).expect("few");
    }
}

#[test]
fn pipe_of_a_fast_source_is_wide_first_and_one_page_at_the_end() {
    let stream = stream();
    let folder = tempfile::tempdir().unwrap();
    for (chunk, page_time) in WRITERS {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut tool = Command::new(env!("CARGO_BIN_EXE_qemu-snapshot"))
            .arg("--create")
            .arg(folder.path().join("image"))
            .stdin(reader)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let size = || rustix::pipe::fcntl_getpipe_size(&writer).unwrap();
        let (first, rest) = stream.split_at(stream.len() / 3);
        write_in(&writer, first, chunk, page_time);
        assert!(size() > 64 << 10, "{chunk} bytes at once");
        write_in(&writer, rest, chunk, page_time);
        assert_eq!(size(), 4096, "{chunk} bytes at once");
        drop(writer);
        assert_eq!(tool.wait().unwrap().code(), Some(1), "cut off");
    }
}
