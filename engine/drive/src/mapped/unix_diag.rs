//! Asks the kernel which socket is at the other end of a unix socket (sock_diag(7), `UDIAG_SHOW_PEER`).

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use std::io;
use std::os::fd::AsFd;

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` of `linux/netlink.h`.
const REQUEST: u16 = 1;
/// `NLMSG_ERROR` of `linux/netlink.h`.
const ERROR: u16 = 2;
/// `UDIAG_SHOW_PEER` of `linux/unix_diag.h`.
const SHOW_PEER: u32 = 4;
/// `UNIX_DIAG_PEER` of `linux/unix_diag.h`.
const PEER: u16 = 2;
/// `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// `struct unix_diag_msg`.
const MESSAGE_BYTES: usize = 16;

/// The inode of the peer of the unix socket with this inode; `None` if it has none any more.
///
/// # Errors
///
/// The operating system's: `ENOENT` where the socket belongs to another network namespace, or the
/// kernel has no `unix_diag`.
pub(super) fn peer_inode(inode: u32) -> io::Result<Option<u32>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    rustix::net::send(&socket, &request(inode), SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (length, _) = rustix::net::recv(socket.as_fd(), &mut answer[..], RecvFlags::empty())?;
    peer_of(&answer[..length], inode)
}

fn request(inode: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |word: &[u8]| bytes.extend_from_slice(word);
    // struct nlmsghdr: length, type, flags, sequence, port.
    put(&40_u32.to_ne_bytes());
    put(&BY_FAMILY.to_ne_bytes());
    put(&REQUEST.to_ne_bytes());
    put(&[0; 8]);
    // struct unix_diag_req: family, protocol, padding; states, inode, what to show, any cookie.
    put(&[1, 0, 0, 0]);
    put(&u32::MAX.to_ne_bytes());
    put(&inode.to_ne_bytes());
    put(&SHOW_PEER.to_ne_bytes());
    put(&[0xff; 8]);
    bytes
}

fn peer_of(answer: &[u8], inode: u32) -> io::Result<Option<u32>> {
    let short = || io::Error::new(io::ErrorKind::InvalidData, "sock_diag: the answer is cut off");
    let half = |at: usize| answer.get(at..at + 2).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let word = |at: usize| {
        answer.get(at..at + 4).map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    if half(4).ok_or_else(short)? == ERROR {
        let number = word(HEADER_BYTES).ok_or_else(short)?.cast_signed();
        return Err(io::Error::from_raw_os_error(number.saturating_neg()));
    }
    if word(HEADER_BYTES + 4).ok_or_else(short)? != inode {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "sock_diag: an answer about another socket"));
    }
    let mut at = HEADER_BYTES + MESSAGE_BYTES;
    while let (Some(length), Some(kind)) = (half(at), half(at + 2)) {
        if kind == PEER {
            return word(at + 4).map(|peer| Some(peer).filter(|peer| *peer != 0)).ok_or_else(short);
        }
        at += usize::from(length).max(4).next_multiple_of(4);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn inode(socket: &UnixStream) -> u32 {
        u32::try_from(rustix::fs::fstat(socket).unwrap().st_ino).unwrap()
    }

    #[test]
    fn ends_of_a_pair_are_each_others_peers() {
        let (one, other) = UnixStream::pair().unwrap();
        assert_eq!(peer_inode(inode(&one)).unwrap(), Some(inode(&other)));
        assert_eq!(peer_inode(inode(&other)).unwrap(), Some(inode(&one)));
        let alone = inode(&one);
        drop(other);
        assert_eq!(peer_inode(alone).unwrap(), None);
    }

    #[test]
    fn no_answer_is_taken_for_one() {
        assert!(peer_of(&[], 1).is_err());
        let mut answer = request(7);
        assert!(peer_of(&answer, 7).is_err(), "a request is no answer");
        answer[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-2_i32).to_ne_bytes());
        assert_eq!(peer_of(&answer, 7).unwrap_err().kind(), io::ErrorKind::NotFound);
        answer[16..20].copy_from_slice(&i32::MIN.to_ne_bytes());
        assert!(peer_of(&answer, 7).is_err());
    }
}
