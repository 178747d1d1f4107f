use super::operations::{DEPTH, Kind, Operations};
use super::*;
use snapshot_engine::Pool;
use snapshot_image::HostOffset;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const ALL: [Option<Aio>; 3] = [Some(Aio::Threads), Some(Aio::Native), Some(Aio::IoUring)];
const BLOCK: usize = 4096;

/// A queue, or none where this kernel (a sandbox's) refuses it: said aloud.
fn queue(aio: Option<Aio>) -> Option<DiskQueue> {
    DiskQueue::new(aio).inspect_err(|error| eprintln!("skipped {aio:?}: {error}")).ok()
}

/// Past the page cache where the file system can (tmpfs cannot before Linux 6.6).
fn open(path: &Path, direct: bool) -> Arc<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    if direct {
        match options.clone().custom_flags(libc::O_DIRECT).open(path) {
            Ok(file) => return Arc::new(file),
            Err(error) => eprintln!("skipped O_DIRECT: {error}"),
        }
    }
    Arc::new(options.open(path).unwrap())
}

fn piece(at: u64, range: std::ops::Range<usize>) -> Piece {
    Piece { at: HostOffset(at), range }
}

/// Waits, as the event loop does, until `count` operations have finished.
fn wait(queue: &mut DiskQueue, pool: &mut Pool, count: usize) -> Vec<(IoId, Result<Completed, IoError>)> {
    let mut done = Vec::new();
    while done.len() < count {
        let timeout = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(queue.signal(), rustix::event::PollFlags::IN)];
        assert_eq!(
            rustix::event::poll(&mut fds, Some(&timeout)).unwrap(),
            1,
            "{:?} of {count} are done",
            done
        );
        for Finished { id, buffer, result } in queue.finished() {
            if let Some((name, buffer)) = buffer {
                pool.give_back(name, buffer);
            }
            done.push((id, result));
        }
    }
    done
}

/// xorshift64: the same operations for every kind of queue.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

/// Writes and reads at random places, many at once, and compares with a file in memory.
fn random_operations(mut queue: DiskQueue, file: &Arc<File>) -> Vec<u8> {
    const BLOCKS: usize = 256;
    const ROUNDS: u64 = 40;
    let (mut dice, mut pool, mut model) = (Dice(0x5eed), Pool::default(), vec![0u8; BLOCKS * BLOCK]);
    for round in 0..ROUNDS {
        // Operations of one round do not overlap, for they are not ordered.
        let mut places: Vec<usize> = (0..BLOCKS).collect();
        for at in (1..BLOCKS).rev() {
            places.swap(at, dice.below(at + 1));
        }
        let (mut reads, mut count) = (Vec::new(), 0);
        for chunk in places.chunks(1 + dice.below(9)) {
            let buffer = pool.take(chunk.len() * BLOCK).unwrap();
            let pieces: Vec<Piece> = chunk
                .iter()
                .enumerate()
                .map(|(n, block)| piece((block * BLOCK) as u64, n * BLOCK..(n + 1) * BLOCK))
                .collect();
            let id = IoId(round << 32 | count);
            count += 1;
            if dice.below(2) == 0 {
                for Piece { at, range } in &pieces {
                    let value = u8::try_from(dice.below(256)).unwrap();
                    pool.bytes_mut(buffer)[range.clone()].fill(value);
                    let at = usize::try_from(at.0).unwrap();
                    model[at..at + BLOCK].fill(value);
                }
                let lent = pool.lend(buffer);
                queue.submit(file, id, Work::Write(buffer, lent, pieces));
                reads.push((buffer, Vec::new()));
            } else {
                pool.bytes_mut(buffer).fill(0xee);
                let lent = pool.lend(buffer);
                queue.submit(file, id, Work::Read(buffer, lent, pieces.clone()));
                reads.push((buffer, pieces));
            }
        }
        let done = wait(&mut queue, &mut pool, usize::try_from(count).unwrap());
        let mut ids: Vec<IoId> = done.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..count).map(|n| IoId(round << 32 | n)).collect::<Vec<_>>());
        assert!(done.iter().all(|(_, result)| *result == Ok(Completed::Plain)), "{done:?}");
        for (buffer, pieces) in reads {
            for Piece { at, range } in pieces {
                let at = usize::try_from(at.0).unwrap();
                assert_eq!(pool.bytes(buffer)[range], model[at..at + BLOCK], "block {at:#x}");
            }
            pool.release(buffer);
        }
        queue.submit(file, IoId(u64::MAX), Work::Flush);
        assert_eq!(wait(&mut queue, &mut pool, 1), [(IoId(u64::MAX), Ok(Completed::Plain))]);
    }
    model
}

#[test]
fn every_queue_leaves_the_same_file() {
    for direct in [false, true] {
        for aio in ALL {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("image");
            let Some(queue) = queue(aio) else { continue };
            let model = random_operations(queue, &open(&path, direct));
            let mut found = std::fs::read(&path).unwrap();
            found.resize(model.len(), 0);
            assert!(found == model, "{aio:?}, direct {direct}: the file differs from what was written");
        }
    }
}

#[test]
fn read_behind_the_end_gives_zeros() {
    for direct in [false, true] {
        for aio in ALL {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("image");
            std::fs::write(&path, vec![7; BLOCK + 100]).unwrap();
            let (Some(mut queue), mut pool) = (queue(aio), Pool::default()) else { continue };
            let buffer = pool.take(4 * BLOCK).unwrap();
            pool.bytes_mut(buffer).fill(0xee);
            let lent = pool.lend(buffer);
            // One piece is cut by the end, one lies behind it, and the buffer's last block is not asked for.
            let pieces = vec![piece(0, 0..2 * BLOCK), piece(1 << 20, 2 * BLOCK..3 * BLOCK)];
            queue.submit(&open(&path, direct), IoId(1), Work::Read(buffer, lent, pieces));
            assert_eq!(wait(&mut queue, &mut pool, 1), [(IoId(1), Ok(Completed::Plain))], "{aio:?}");
            let mut expected = vec![7; BLOCK + 100];
            expected.resize(3 * BLOCK, 0);
            expected.resize(4 * BLOCK, 0xee);
            assert!(pool.bytes(buffer) == expected, "{aio:?}, direct {direct}");
        }
    }
}

#[test]
fn failed_write_says_why_and_gives_the_buffer_back() {
    for aio in ALL {
        let Some(mut queue) = queue(aio) else { continue };
        let mut pool = Pool::default();
        // Always full: full(4).
        let full = Arc::new(File::options().write(true).open("/dev/full").unwrap());
        let buffer = pool.take(2 * BLOCK).unwrap();
        let lent = pool.lend(buffer);
        let pieces = vec![piece(0, 0..BLOCK), piece(BLOCK as u64, BLOCK..2 * BLOCK)];
        queue.submit(&full, IoId(3), Work::Write(buffer, lent, pieces));
        let done = wait(&mut queue, &mut pool, 1);
        // Linux AIO does not work on this device at all, and says so when it is asked to.
        let expected = match aio {
            Some(Aio::Native) => libc::EINVAL,
            _ => libc::ENOSPC,
        };
        assert_eq!(done, [(IoId(3), Err(IoError::from_raw_os_error(expected)))], "{aio:?}");
        pool.release(buffer);
    }
}

#[test]
fn operation_without_pieces_is_done_at_once() {
    for aio in ALL {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut queue) = queue(aio) else { continue };
        let mut pool = Pool::default();
        let buffer = pool.take(BLOCK).unwrap();
        let lent = pool.lend(buffer);
        let file = open(&folder.path().join("image"), false);
        queue.submit(&file, IoId(4), Work::Write(buffer, lent, vec![piece(0, 0..0)]));
        assert_eq!(wait(&mut queue, &mut pool, 1), [(IoId(4), Ok(Completed::Plain))], "{aio:?}");
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}

#[test]
fn queue_dropped_with_operations_under_way_waits_for_them() {
    for aio in ALL {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let file = open(&path, true);
        file.set_len(64 << 20).unwrap();
        for _ in 0..20 {
            let Some(mut queue) = queue(aio) else { continue };
            let mut pool = Pool::default();
            for n in 0..u64::from(DEPTH) * 2 {
                let buffer = pool.take(64 << 10).unwrap();
                let lent = pool.lend(buffer);
                let pieces = vec![piece(n << 16, 0..64 << 10)];
                queue.submit(&file, IoId(n), Work::Read(buffer, lent, pieces));
            }
            drop(queue);
            // Memory that the kernel still wrote to would be reused here.
            let fresh: Vec<Vec<u8>> = (0..64).map(|_| vec![0x5a; 64 << 10]).collect();
            assert!(fresh.iter().flatten().all(|byte| *byte == 0x5a));
        }
    }
}

#[test]
fn default_queue_is_one_that_this_system_has() {
    assert!(DiskQueue::new(None).is_ok());
}

/// Operations without a kernel: the test answers.
struct Answered {
    operations: Operations,
    pool: Pool,
    buffer: BufferId,
}

fn begun(work: fn(BufferId, Buffer, Vec<Piece>) -> Work, blocks: usize) -> Answered {
    let (mut operations, mut pool) = (Operations::default(), Pool::default());
    let buffer = pool.take(blocks * BLOCK).unwrap();
    pool.bytes_mut(buffer).fill(0xee);
    let lent = pool.lend(buffer);
    let file = Arc::new(File::open("/dev/null").unwrap());
    assert!(operations.begin(&file, IoId(9), work(buffer, lent, vec![piece(0x10000, 0..blocks * BLOCK)])));
    Answered { operations, pool, buffer }
}

impl Answered {
    /// Answers the next request, which must be for these bytes at this place.
    fn answer(&mut self, at: u64, length: usize, answer: i64) {
        let call = self.operations.next_call().expect("a request");
        assert_eq!((call.at, call.length as usize), (at, length));
        self.operations.answered(call.name, answer);
    }

    fn end(mut self) -> (Result<Completed, IoError>, Vec<u8>) {
        let [finished] = <[Finished; 1]>::try_from(self.operations.finished()).expect("it has finished");
        let (name, buffer) = finished.buffer.expect("the buffer comes back");
        self.pool.give_back(name, buffer);
        (finished.result, self.pool.bytes(self.buffer).to_vec())
    }
}

#[test]
fn short_answers_are_asked_again_for_the_rest() {
    for work in [Work::Read, Work::Write] {
        let mut operation = begun(work, 4);
        operation.answer(0x10000, 4 * BLOCK, 4096);
        operation.answer(0x11000, 3 * BLOCK, i64::from(-libc::EINTR));
        operation.answer(0x11000, 3 * BLOCK, i64::from(-libc::EAGAIN));
        operation.answer(0x11000, 3 * BLOCK, 8192);
        assert!(operation.operations.finished().is_empty());
        operation.answer(0x13000, BLOCK, 4096);
        assert_eq!(operation.end().0, Ok(Completed::Plain));
    }
}

#[test]
fn read_that_ends_inside_a_block_is_the_end_of_the_file() {
    let mut operation = begun(Work::Read, 2);
    operation.answer(0x10000, 2 * BLOCK, 100);
    let (result, bytes) = operation.end();
    assert_eq!(result, Ok(Completed::Plain));
    assert!(bytes[..100].iter().all(|byte| *byte == 0xee) && bytes[100..].iter().all(|byte| *byte == 0));
}

#[test]
fn write_that_makes_no_progress_is_an_error() {
    let mut operation = begun(Work::Write, 2);
    operation.answer(0x10000, 2 * BLOCK, 4096);
    operation.answer(0x11000, BLOCK, 0);
    assert_eq!(operation.end().0, Err(IoError::new("the file takes no more bytes")));
}

#[test]
fn error_of_one_piece_waits_for_the_others() {
    let (mut operations, mut pool) = (Operations::default(), Pool::default());
    let buffer = pool.take(2 * BLOCK).unwrap();
    let lent = pool.lend(buffer);
    let file = Arc::new(File::open("/dev/null").unwrap());
    let pieces = vec![piece(0, 0..BLOCK), piece(0x1000, BLOCK..2 * BLOCK)];
    operations.begin(&file, IoId(1), Work::Write(buffer, lent, pieces));
    let (first, second) = (operations.next_call().unwrap(), operations.next_call().unwrap());
    operations.answered(first.name, i64::from(-libc::ENOSPC));
    assert!(operations.finished().is_empty(), "the kernel still has a piece");
    operations.answered(second.name, 4096);
    let finished = operations.finished();
    assert_eq!(finished[0].result, Err(IoError::from_raw_os_error(28)));
}

#[test]
fn depth_is_bounded_and_order_is_kept_by_putting_back() {
    let (mut operations, mut pool) = (Operations::default(), Pool::default());
    let blocks = DEPTH as usize + 10;
    let buffer = pool.take(blocks * BLOCK).unwrap();
    let lent = pool.lend(buffer);
    let file = Arc::new(File::open("/dev/null").unwrap());
    let pieces = (0..blocks).map(|n| piece((n * BLOCK) as u64, n * BLOCK..(n + 1) * BLOCK)).collect();
    operations.begin(&file, IoId(1), Work::Read(buffer, lent, pieces));
    let calls: Vec<_> = std::iter::from_fn(|| operations.next_call()).collect();
    assert_eq!(calls.len(), DEPTH as usize);
    assert!(calls.iter().all(|call| call.kind == Kind::Read));
    for call in calls[1..].iter().rev() {
        operations.put_back(call.name);
    }
    assert_eq!(operations.in_kernel(), 1);
    assert_eq!(operations.next_call().unwrap().at, BLOCK as u64);
}

#[test]
fn short_write_at_a_file_size_limit_is_reported() {
    // A file that may not grow: sealed memory (memfd_create(2)) answers EPERM for what lies behind its end.
    let memory = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    let file = Arc::new(File::from(memory));
    file.set_len(BLOCK as u64).unwrap();
    rustix::fs::fcntl_add_seals(&*file, rustix::fs::SealFlags::GROW).unwrap();
    for aio in ALL {
        let Some(mut queue) = queue(aio) else { continue };
        let mut pool = Pool::default();
        let buffer = pool.take(2 * BLOCK).unwrap();
        pool.bytes_mut(buffer).fill(1);
        let lent = pool.lend(buffer);
        queue.submit(&file, IoId(1), Work::Write(buffer, lent, vec![piece(0, 0..2 * BLOCK)]));
        let done = wait(&mut queue, &mut pool, 1);
        assert_eq!(done[0].1, Err(IoError::from_raw_os_error(1)), "{aio:?}");
    }
    let mut first = [0];
    file.read_exact_at(&mut first, 0).unwrap();
}
