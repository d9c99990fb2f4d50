//! Carries a vhost-user connection from one socket to another, descriptors included.
//!
//! The daemon accepts connections and makes them, but cannot be given one. A connection that is there already therefore reaches
//! it through a private socket, and this is the piece between. It looks at no message: what arrives by one `recvmsg`
//! leaves by one `sendmsg`, so that descriptors stay with the bytes they came with.

#![allow(unsafe_code, reason = "receives descriptors")]

use std::net::Shutdown;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Most descriptors in one message: one per memory region of SET_MEM_TABLE, with room to spare.
const MAX_DESCRIPTORS: usize = 32;

/// Relays between `left` and `right` until either ends; then ends both.
pub(super) fn run(left: UnixStream, right: UnixStream) {
    thread::scope(|scope| {
        scope.spawn(|| one_way(&left, &right));
        one_way(&right, &left);
    });
}

fn one_way(from: &UnixStream, to: &UnixStream) {
    while relay_once(from, to).is_some() {}
    // Either may be closed already, which is what is wanted.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Relays what is there; `None` at the end of either side.
fn relay_once(from: &UnixStream, to: &UnixStream) -> Option<()> {
    let mut bytes = [0u8; 4096];
    let mut fds: [RawFd; MAX_DESCRIPTORS] = [-1; MAX_DESCRIPTORS];
    let mut space = [libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
    // SAFETY: the vector points to our buffer, which any bytes may be written to.
    let (mut len, fd_count) = unsafe { from.recv_with_fds(&mut space, &mut fds) }.ok()?;
    let owned: Vec<OwnedFd> = fds[..fd_count]
        .iter()
        // SAFETY: the kernel made these descriptors for us in recvmsg; nobody else knows them.
        .map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect();
    if len == 0 {
        return None;
    }
    let mut sent = to.send_with_fds(&[&bytes[..len]], &fds[..fd_count]).ok()?;
    drop(owned);
    // A short send: the descriptors went with its first byte.
    while sent < len {
        bytes.copy_within(sent..len, 0);
        len -= sent;
        sent = to.send_with_fds(&[&bytes[..len]], &[]).ok()?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn bytes_and_descriptors_cross_and_the_end_is_passed_on() {
        let (mut near, left) = UnixStream::pair().unwrap();
        let (right, mut far) = UnixStream::pair().unwrap();
        let relay = thread::spawn(|| run(left, right));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"inside").unwrap();
        near.send_with_fds(&[&b"hello"[..]], &[file.as_raw_fd()]).unwrap();
        let mut bytes = [0u8; 5];
        let (len, received) = far.recv_with_fd(&mut bytes).unwrap();
        assert_eq!((len, &bytes), (5, b"hello"));
        let mut received: File = received.unwrap();
        received.rewind().unwrap();
        let mut inside = String::new();
        received.read_to_string(&mut inside).unwrap();
        assert_eq!(inside, "inside");
        far.write_all(b"back").unwrap();
        let mut back = [0u8; 4];
        near.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"back");
        drop(near);
        assert_eq!(far.read(&mut bytes).unwrap(), 0);
        relay.join().unwrap();
    }
}
