//! Disk operations by worker threads.

use super::{Finished, Work, io_error, wake};
use snapshot_engine::machine::Piece;
use snapshot_engine::pool::BUFFER_ALIGNMENT_BYTES;
use snapshot_engine::{Buffer, Completed, IoError, IoId};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Enough to keep a disk busy while the machine thinks.
const WORKERS: usize = 4;

type Job = (Arc<File>, IoId, Work);

/// Each worker has a channel of its own; jobs go round.
#[derive(Debug)]
pub(super) struct Threads {
    jobs: Vec<Sender<Job>>,
    next: usize,
    done: Receiver<Finished>,
    workers: Vec<JoinHandle<()>>,
}

impl Threads {
    /// # Errors
    ///
    /// The system starts no more threads.
    pub(super) fn new(signal: &Arc<OwnedFd>) -> io::Result<Self> {
        let (report, done) = channel();
        let mut threads = Self { jobs: Vec::new(), next: 0, done, workers: Vec::new() };
        for _ in 0..WORKERS {
            let (sender, jobs) = channel::<Job>();
            let (report, signal) = (report.clone(), Arc::clone(signal));
            threads.jobs.push(sender);
            let worker = std::thread::Builder::new().name("disk".to_owned()).spawn(move || {
                for (file, id, work) in jobs {
                    // A receiver that is gone wants nothing any more.
                    let _ = report.send(carry_out(&file, id, work));
                    wake(&signal);
                }
            })?;
            threads.workers.push(worker);
        }
        Ok(threads)
    }

    pub(super) fn submit(&mut self, file: &Arc<File>, id: IoId, work: Work) {
        let worker = &self.jobs[self.next];
        self.next = (self.next + 1) % self.jobs.len();
        // A worker ends only when its channel does.
        let _ = worker.send((Arc::clone(file), id, work));
    }

    pub(super) fn finished(&mut self) -> Vec<Finished> {
        self.done.try_iter().collect()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.jobs.clear();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn carry_out(file: &File, id: IoId, work: Work) -> Finished {
    let (buffer, result) = match work {
        Work::Read(name, mut buffer, pieces) => {
            let result = pieces.iter().try_for_each(|piece| read_piece(file, &mut buffer, piece));
            (Some((name, buffer)), result)
        }
        Work::Write(name, buffer, pieces) => {
            let result = pieces
                .iter()
                .try_for_each(|piece| file.write_all_at(&buffer.bytes()[piece.range.clone()], piece.at.0));
            (Some((name, buffer)), result)
        }
        Work::Flush => (None, file.sync_all()),
    };
    let result: Result<Completed, IoError> =
        result.map(|()| Completed::Plain).map_err(|error| io_error(&error));
    Finished { id, buffer, result }
}

/// Reads a piece whole; what lies behind the end of the file is zero.
fn read_piece(file: &File, buffer: &mut Buffer, piece: &Piece) -> io::Result<()> {
    let mut place = &mut buffer.bytes_mut()[piece.range.clone()];
    let mut at = piece.at.0;
    while !place.is_empty() {
        match file.read_at(place, at) {
            Ok(0) => {
                place.fill(0);
                return Ok(());
            }
            Ok(bytes) if bytes < place.len() && bytes % BUFFER_ALIGNMENT_BYTES != 0 => {
                // Only the end of the file cuts a read inside a block, and the rest is no place for
                // `O_DIRECT` to go on.
                place[bytes..].fill(0);
                return Ok(());
            }
            Ok(bytes) => {
                place = &mut place[bytes..];
                at += bytes as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
