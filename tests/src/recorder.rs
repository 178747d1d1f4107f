//! A man in the middle of a migration over sockets.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
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

/// Copies until the end of `from`, closes `to`, and returns what was copied. A peer that
/// has gone is an end too.
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

/// How long a source that has said its last word may take to close its connections.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// What one connection sent so far, and whether it has ended.
#[derive(Debug, Default)]
struct Sent {
    bytes: Vec<u8>,
    ended: bool,
}

/// Passes on what all connections of a source send, to a destination if there is one, and keeps it:
/// for migrations with more than one channel.
#[derive(Debug)]
pub struct ChannelRecorder {
    all: Arc<Mutex<Vec<Arc<Mutex<Sent>>>>>,
}

impl ChannelRecorder {
    /// Listens on `near` for the source; every connection of its gets one to `far`, where a destination is.
    ///
    /// # Panics
    ///
    /// If `near` cannot be listened on.
    #[must_use]
    pub fn start(near: &Path, far: Option<PathBuf>) -> Self {
        let listener = UnixListener::bind(near).expect("a new socket");
        let all = Arc::new(Mutex::new(Vec::new()));
        let recorder = Self { all: Arc::clone(&all) };
        thread::spawn(move || {
            for source in listener.incoming() {
                let source = source.expect("accepts");
                let sent = Arc::new(Mutex::new(Sent::default()));
                all.lock().expect("not poisoned").push(Arc::clone(&sent));
                let destination =
                    far.as_ref().map(|far| UnixStream::connect(far).expect("the destination listens"));
                if let Some(destination) = &destination {
                    let from = destination.try_clone().expect("a socket");
                    let to = source.try_clone().expect("a socket");
                    thread::spawn(move || pass_on(from, to));
                }
                thread::spawn(move || keep(source, destination, &sent));
            }
        });
        recorder
    }

    /// What was sent, connection by connection, in the order in which they were opened. To be asked
    /// for when the source has completed, and waits for it to close what it has opened.
    ///
    /// # Panics
    ///
    /// If it does not within ten seconds.
    #[must_use]
    pub fn sent(&self) -> Vec<Vec<u8>> {
        let end = Instant::now() + CLOSE_PATIENCE;
        loop {
            let all = self.all.lock().expect("not poisoned");
            if all.iter().all(|sent| sent.lock().expect("not poisoned").ended) {
                return all.iter().map(|sent| sent.lock().expect("not poisoned").bytes.clone()).collect();
            }
            drop(all);
            assert!(Instant::now() < end, "a connection that is not closed");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// As [`pass_on`], for an end that may be missing; what has arrived can be seen at any time.
fn keep(mut from: UnixStream, mut to: Option<UnixStream>, sent: &Mutex<Sent>) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        sent.lock().expect("not poisoned").bytes.extend_from_slice(&piece[..length]);
        if let Some(to) = &mut to
            && to.write_all(&piece[..length]).is_err()
        {
            break;
        }
    }
    if let Some(to) = to {
        // Fails if the peer has gone already.
        let _ = to.shutdown(Shutdown::Write);
    }
    sent.lock().expect("not poisoned").ended = true;
}
