//! The end of a file whose blocks are to be freed without anyone waiting for it.

use io_uring::IoUring;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Closes a file that has no name any more, and lets the kernel free its blocks when we are gone.
///
/// That takes seconds where the file system reports each extent to the disk (ext4 with `discard`: 1.7
/// s per GiB), and QEMU waits for the end of what `exec:` started with its guest standing still. A
/// file that is registered with a ring goes with the ring, which the kernel takes apart behind the
/// back of whoever closes it (io_uring_register(2)); without io_uring it is closed here and now.
pub(crate) fn close_behind(file: Arc<File>) {
    if let Ok(ring) = IoUring::new(1) {
        let _ = ring.submitter().register_files(&[file.as_raw_fd()]);
        drop(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// A socket with bytes that no one reads, whose close(2) waits for them (socket(7), SO_LINGER): a
    /// file that takes long to close.
    fn lingering(seconds: u64) -> (std::net::TcpListener, File) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // Until it stays full: at first what is written goes over to the other end, bit by bit.
        socket.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        while std::io::Write::write(&mut socket, &[0; 65536]).is_ok() {}
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::from_secs(seconds))).unwrap();
        (listener, File::from(std::os::fd::OwnedFd::from(socket)))
    }

    #[test]
    fn no_one_waits_for_what_is_closed_behind() {
        if let Err(error) = IoUring::new(1) {
            return test_support::not_run(&format!("no io_uring: {error}"));
        }
        let time_of = |close: fn(File)| {
            let (_listener, file) = lingering(2);
            let start = Instant::now();
            close(file);
            start.elapsed()
        };
        // The kernel counts in ticks, the first of which has begun.
        assert!(
            time_of(drop) > Duration::from_millis(1900),
            "nothing lingers, so that this test sees nothing"
        );
        let behind = time_of(|file| close_behind(Arc::new(file)));
        assert!(behind < Duration::from_secs(1), "it took {behind:?}");
    }
}
