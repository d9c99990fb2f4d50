//! Stands between a front-end's socket and the daemon, and carries messages from one to the other, descriptors included.
//!
//! There are two reasons for it. The daemon accepts and makes connections, but cannot be given one that is there already.
//! And it takes SET_VRING_ENABLE only after SET_FEATURES, while QEMU enables its first rings before: the relay tells the
//! daemon, right after SET_PROTOCOL_FEATURES, what that message implies anyway, that the front-end knows
//! VHOST_USER_F_PROTOCOL_FEATURES, unless the front-end has sent SET_FEATURES itself by then. All else passes as it came: a message that is cut off or oversized arrives at the
//! daemon cut off or oversized, and the daemon names what is wrong with it.

#![allow(unsafe_code, reason = "receives descriptors")]

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread;

use vhost::vhost_user::message::VhostUserVirtioFeatures;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// Bytes of a message header: request, flags and size, 32 bits each in the machine's byte order.
const HEADER_BYTES: usize = 12;

/// Longest body that the daemon takes.
const MAX_BODY_BYTES: usize = 4096;

/// Most descriptors in one message: the kernel's own limit (SCM_MAX_FD), so that a message with too many reaches the daemon,
/// which names what is wrong with it.
const MAX_DESCRIPTORS: usize = 253;

const SET_FEATURES: u32 = 2;
const SET_PROTOCOL_FEATURES: u32 = 16;

/// Header flags: version 1, no reply wanted.
const PLAIN: u32 = 1;

/// Carries messages between `front_end` and `daemon` until either ends; then ends both. The thread for the daemon's answers
/// gets the name `thread_name`.
///
/// # Errors
/// That thread cannot be made; both are ended.
pub(super) fn run(front_end: &UnixStream, daemon: &UnixStream, thread_name: String) -> io::Result<()> {
    thread::scope(|scope| {
        let answers = || until_the_end(front_end, daemon, || pass_bytes(daemon, front_end));
        let spawned = thread::Builder::new().name(thread_name).spawn_scoped(scope, answers);
        let mut has_features = false;
        until_the_end(front_end, daemon, || match &spawned {
            Ok(_) => pass_message(front_end, daemon, &mut has_features),
            Err(_) => Err(io::ErrorKind::Other.into()),
        });
        spawned.map(drop)
    })
}

fn until_the_end(left: &UnixStream, right: &UnixStream, mut step: impl FnMut() -> io::Result<()>) {
    while step().is_ok() {}
    // Either may be closed already, which is what is wanted.
    let _ = left.shutdown(Shutdown::Both);
    let _ = right.shutdown(Shutdown::Both);
}

/// Passes one message of the front-end on; `has_features` notes whether it was SET_FEATURES, in this message or before.
fn pass_message(from: &UnixStream, to: &UnixStream, has_features: &mut bool) -> io::Result<()> {
    let mut message = [0; HEADER_BYTES + MAX_BODY_BYTES];
    let mut descriptors = Vec::new();
    let mut len = fill(from, &mut message[..HEADER_BYTES], &mut descriptors)?;
    if len == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let word =
        |at: usize| u32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]);
    let (request, size) = (word(0), word(8) as usize);
    if len == HEADER_BYTES && size <= MAX_BODY_BYTES {
        len += fill(from, &mut message[HEADER_BYTES..HEADER_BYTES + size], &mut descriptors)?;
    }
    send(to, &message[..len], &descriptors)?;
    *has_features |= request == SET_FEATURES;
    if request == SET_PROTOCOL_FEATURES && !*has_features {
        send(to, &early_features(), &[])?;
    }
    Ok(())
}

/// SET_FEATURES with nothing but VHOST_USER_F_PROTOCOL_FEATURES; the front-end's own comes later and replaces it.
fn early_features() -> [u8; HEADER_BYTES + 8] {
    let mut message = [0; HEADER_BYTES + 8];
    message[0..4].copy_from_slice(&SET_FEATURES.to_ne_bytes());
    message[4..8].copy_from_slice(&PLAIN.to_ne_bytes());
    message[8..12].copy_from_slice(&8u32.to_ne_bytes());
    message[12..].copy_from_slice(&VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits().to_ne_bytes());
    message
}

/// Passes on whatever the daemon answers.
fn pass_bytes(from: &UnixStream, to: &UnixStream) -> io::Result<()> {
    let mut bytes = [0; MAX_BODY_BYTES];
    let mut descriptors = Vec::new();
    match receive(from, &mut bytes, &mut descriptors)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        len => send(to, &bytes[..len], &descriptors),
    }
}

/// Fills `bytes`, or as many as come before the end.
fn fill(from: &UnixStream, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match receive(from, &mut bytes[filled..], descriptors)? {
            0 => break,
            len => filled += len,
        }
    }
    Ok(filled)
}

/// Waits for bytes, and takes the descriptors that come with them; 0 at the end.
fn receive(from: &UnixStream, bytes: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut fds: [RawFd; MAX_DESCRIPTORS] = [-1; MAX_DESCRIPTORS];
    let mut space = [libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
    loop {
        // SAFETY: the vector points to `bytes`, which any bytes may be written to.
        match unsafe { from.recv_with_fds(&mut space, &mut fds) } {
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(error.into()),
            Ok((len, fd_count)) => {
                // SAFETY: the kernel made these descriptors for us in recvmsg; nobody else knows them.
                descriptors.extend(fds[..fd_count].iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                return if descriptors.len() > MAX_DESCRIPTORS {
                    Err(io::ErrorKind::InvalidData.into())
                } else {
                    Ok(len)
                };
            }
        }
    }
}

/// Sends all of `bytes`, the descriptors with the first of them.
fn send(to: &UnixStream, mut bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let mut fds: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    while !bytes.is_empty() {
        let sent = to.send_with_fds(&[bytes], &fds).map_err(io::Error::from)?;
        bytes = &bytes[sent..];
        fds.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    use super::*;

    fn message(request: u32, body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(body.len()).unwrap();
        [&request.to_ne_bytes(), &PLAIN.to_ne_bytes(), &size.to_ne_bytes(), body].concat()
    }

    fn with_relay(test: impl FnOnce(UnixStream, UnixStream)) {
        let (near, left) = UnixStream::pair().unwrap();
        let (right, far) = UnixStream::pair().unwrap();
        let relay = thread::spawn(move || run(&left, &right, "answers".into()));
        test(near, far);
        relay.join().unwrap().unwrap();
    }

    #[test]
    fn messages_and_descriptors_cross_and_the_end_is_passed_on() {
        with_relay(|near, mut far| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"inside").unwrap();
            let sent = message(5, b"body");
            near.send_with_fds(&[&sent[..]], &[file.as_raw_fd()]).unwrap();
            let mut got = vec![0; sent.len()];
            let (len, received) = far.recv_with_fd(&mut got).unwrap();
            assert_eq!((len, got), (sent.len(), sent));
            let mut received: File = received.unwrap();
            received.rewind().unwrap();
            let mut inside = String::new();
            received.read_to_string(&mut inside).unwrap();
            assert_eq!(inside, "inside");
            far.write_all(b"back").unwrap();
            let mut back = [0; 4];
            (&near).read_exact(&mut back).unwrap();
            assert_eq!(&back, b"back");
            drop(near);
            assert_eq!(far.read(&mut back).unwrap(), 0);
        });
    }

    #[test]
    fn protocol_features_are_followed_by_the_feature_that_they_imply() {
        with_relay(|mut near, mut far| {
            let sent = message(SET_PROTOCOL_FEATURES, &[1; 8]);
            near.write_all(&sent).unwrap();
            let mut got = vec![0; sent.len()];
            far.read_exact(&mut got).unwrap();
            assert_eq!(got, sent);
            far.read_exact(&mut got).unwrap();
            assert_eq!(got, message(SET_FEATURES, &(1u64 << 30).to_ne_bytes()));
        });
    }

    #[test]
    fn features_that_the_front_end_sent_before_stand() {
        with_relay(|mut near, mut far| {
            let sent = [message(SET_FEATURES, &[3; 8]), message(SET_PROTOCOL_FEATURES, &[1; 8])].concat();
            near.write_all(&sent).unwrap();
            drop(near);
            let mut got = Vec::new();
            far.read_to_end(&mut got).unwrap();
            assert_eq!(got, sent);
        });
    }

    #[test]
    fn message_that_is_cut_off_arrives_cut_off() {
        for keep in [3, HEADER_BYTES, HEADER_BYTES + 2] {
            with_relay(|mut near, mut far| {
                near.write_all(&message(5, b"body")[..keep]).unwrap();
                drop(near);
                let mut got = Vec::new();
                far.read_to_end(&mut got).unwrap();
                assert_eq!(got, message(5, b"body")[..keep]);
            });
        }
    }
}
