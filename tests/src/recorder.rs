//! A man in the middle of a migration over sockets.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

/// Passes on what the two ends of one channel say, and keeps it.
#[derive(Debug)]
pub struct Recorder {
    both: JoinHandle<io::Result<Recording>>,
}

/// What the two ends of a channel said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// From source to destination: the migration stream.
    pub forward: Vec<u8>,
    /// From destination to source: the return path.
    pub back: Vec<u8>,
}

impl Recorder {
    /// Listens on `near` for the source, and connects to the destination that listens on `far` when it comes.
    ///
    /// # Panics
    ///
    /// If `near` cannot be listened on.
    #[must_use]
    pub fn start(near: &Path, far: PathBuf) -> Self {
        let listener = UnixListener::bind(near).expect("a new socket in a temporary folder");
        let both = thread::spawn(move || {
            let (source, _) = listener.accept()?;
            let destination = UnixStream::connect(far)?;
            let (source_out, destination_in) = (source.try_clone()?, destination.try_clone()?);
            let back = thread::spawn(move || pass_on(destination_in, source_out));
            let forward = pass_on(source, destination)?;
            let back = back.join().expect("passing on does not panic")?;
            Ok(Recording { forward, back })
        });
        Self { both }
    }

    /// Everything, once both ends have closed.
    ///
    /// # Panics
    ///
    /// If a socket failed.
    #[must_use]
    pub fn finish(self) -> Recording {
        self.both.join().expect("recording does not panic").expect("sockets work")
    }
}

/// Copies until the end of `from`, tells `to` of the end, and gives what was copied. A peer that has gone is an end too.
fn pass_on(mut from: UnixStream, mut to: UnixStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let length = match from.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        all.extend_from_slice(&piece[..length]);
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    // Fails if the peer has gone already.
    let _ = to.shutdown(Shutdown::Write);
    Ok(all)
}
