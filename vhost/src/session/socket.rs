//! Bytes and descriptors from and to a front-end's socket, without ever waiting for it.

#![allow(unsafe_code, reason = "receives descriptors by recvmsg")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};

/// Most descriptors in one piece of a message: the kernel's own limit (SCM_MAX_FD).
const MAX_DESCRIPTORS: usize = 253;

/// Room for them, and for the header before them.
const CONTROL_BYTES: usize = {
    #[allow(clippy::cast_possible_truncation, reason = "a kilobyte")]
    // SAFETY: a calculation.
    unsafe {
        libc::CMSG_SPACE((MAX_DESCRIPTORS * size_of::<RawFd>()) as u32) as usize
    }
};

/// The kernel's words are aligned to eight bytes.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// What came of trying to receive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// This many bytes, more than none.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The other side has gone.
    End,
    /// There is something for which there is no room: descriptors that the process cannot have, or the system's memory. It
    /// can be received later.
    NoRoom,
    /// Descriptors were lost: the last room for them went while they were received.
    Lost,
}

/// Receives what is there, up to the length of `bytes`, and the descriptors that come with it.
///
/// Where there is no room for descriptors, the kernel hands over the bytes and drops the descriptors. So it is tried out
/// first, by looking at what is there without taking it, and what would not fit is left where it is. A look shows
/// descriptors of what comes next as well, so they are closed and taken in earnest afterwards.
///
/// # Errors
/// The socket broke.
pub(super) fn receive(
    from: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<Received> {
    let mut looked_at = Vec::new();
    match receive_once(from, bytes, &mut looked_at, libc::MSG_PEEK)? {
        Received::Bytes(_) => {}
        Received::Lost => return Ok(Received::NoRoom),
        other => return Ok(other),
    }
    drop(looked_at);
    receive_once(from, bytes, descriptors, 0)
}

fn receive_once(
    from: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
    flags: libc::c_int,
) -> io::Result<Received> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut space = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zeroes is a valid value of this structure of numbers and pointers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut space;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES;
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let len = loop {
        // SAFETY: the message's pointers are to `bytes` and `control`, with their lengths.
        match unsafe { libc::recvmsg(from.as_raw_fd(), &raw mut message, flags) } {
            len @ 0.. => break len.unsigned_abs(),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error if error.kind() == io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                error if is_shortage(&error) => return Ok(Received::NoRoom),
                error => return Err(error),
            },
        }
    };
    descriptors.append(&mut descriptors_of(&message));
    Ok(match len {
        _ if message.msg_flags & libc::MSG_CTRUNC != 0 => Received::Lost,
        0 => Received::End,
        len => Received::Bytes(len),
    })
}

/// Whether the system lacks memory at present.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS))
}

/// The descriptors in a message that recvmsg filled in.
fn descriptors_of(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: the kernel wrote the control part and its length.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    // Bound: the control part has CONTROL_BYTES.
    // SAFETY: the pointer is null, or to a whole header inside the control part, which is aligned.
    while let Some(header) = unsafe { next.as_ref() } {
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: a calculation.
            let before = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (header.cmsg_len - before) / size_of::<RawFd>();
            // SAFETY: the data follow the header.
            let data = unsafe { libc::CMSG_DATA(next) }.cast::<RawFd>();
            for index in 0..count {
                // SAFETY: `count` descriptors lie there.
                let at = unsafe { data.add(index) };
                // SAFETY: as above; whatever their alignment.
                let fd = unsafe { at.read_unaligned() };
                // SAFETY: the kernel made the descriptor for us, and nobody else knows it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        // SAFETY: as for the first.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    descriptors
}

/// Sends as much of `bytes` as goes without waiting; returns how much that is.
///
/// # Errors
/// The other side has gone, or the socket broke.
pub(super) fn send_some(to: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    // Bound: each round sends at least one byte, or ends it.
    while sent < bytes.len() {
        match send(to.as_raw_fd(), &bytes[sent..], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(more) => sent += more,
            Err(Errno::EINTR) => {}
            // The system may lack memory for it at present.
            Err(Errno::EAGAIN | Errno::ENOMEM | Errno::ENOBUFS) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use vmm_sys_util::sock_ctrl_msg::ScmSocket;

    use super::*;

    #[test]
    fn descriptors_come_with_the_bytes_they_were_sent_with() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"inside").unwrap();
        near.send_with_fds(&[&b"one"[..]], &[]).unwrap();
        near.send_with_fds(&[&b"twothree"[..]], &[file.as_raw_fd(), file.as_raw_fd()]).unwrap();
        let (mut bytes, mut descriptors) = ([0; 3], Vec::new());
        assert_eq!(receive(far.as_fd(), &mut bytes, &mut descriptors).unwrap(), Received::Bytes(3));
        assert_eq!((&bytes, descriptors.len()), (b"one", 0));
        assert_eq!(receive(far.as_fd(), &mut bytes, &mut descriptors).unwrap(), Received::Bytes(3));
        assert_eq!((&bytes, descriptors.len()), (b"two", 2));
        let mut bytes = [0; 8];
        assert_eq!(receive(far.as_fd(), &mut bytes, &mut descriptors).unwrap(), Received::Bytes(5));
        assert_eq!((&bytes[..5], descriptors.len()), (&b"three"[..], 2));
        assert_eq!(receive(far.as_fd(), &mut bytes, &mut descriptors).unwrap(), Received::Nothing);
        let mut inside = String::new();
        let mut file = File::from(descriptors.pop().unwrap());
        file.rewind().unwrap();
        file.read_to_string(&mut inside).unwrap();
        assert_eq!(inside, "inside");
        drop(near);
        assert_eq!(receive(far.as_fd(), &mut bytes, &mut descriptors).unwrap(), Received::End);
    }

    #[test]
    fn sending_stops_where_it_would_wait() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let bytes = vec![7; 1 << 20];
        let sent = send_some(near.as_fd(), &bytes).unwrap();
        assert!(sent > 0 && sent < bytes.len(), "{sent}");
        assert_eq!(send_some(near.as_fd(), &bytes[sent..]).unwrap(), 0);
        far.read_exact(&mut vec![0; sent]).unwrap();
        assert!(send_some(near.as_fd(), &bytes[sent..]).unwrap() > 0);
        drop(far);
        assert!(send_some(near.as_fd(), &bytes).is_err());
    }
}
