//! What kind of thing a descriptor is by which a front-end tells us or is told.
//!
//! The kernel's own tables answer that. Asking the file itself (fstat, poll) could make a front-end's own file system wait
//! for as long as it likes.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::net::notifier::{Detour, Errand, Notifier};
use crate::watchdog;

/// Kinds of descriptors, by what can be done with them safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An event counter.
    Event,
    /// A pipe: workers may wait for it to be readable, but not write to it.
    Pipe,
    /// Anything else.
    Other,
}

fn kind(fd: BorrowedFd<'_>) -> Kind {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    if link.is_ok_and(|link| link.as_os_str() == "anon_inode:[eventfd]") {
        Kind::Event
    } else if fcntl(fd, FcntlArg::F_GETPIPE_SZ).is_ok() {
        Kind::Pipe
    } else {
        Kind::Other
    }
}

/// The descriptor as a worker may wait for it; `None` if it is of no kind that can be waited for.
pub(super) fn to_wait_for(fd: OwnedFd) -> Option<File> {
    match kind(fd.as_fd()) {
        Kind::Event | Kind::Pipe => Some(File::from(fd)),
        Kind::Other => None,
    }
}

/// How to tell the front-end by `fd`: a notifier, and the file that the session thread writes to if that is how.
///
/// A regular file is no descriptor to tell anybody by: nothing is written to it.
pub(super) fn to_tell_by(
    fd: OwnedFd,
    errand: Errand,
    detour: &Arc<Detour>,
    is_distrusted: bool,
) -> Option<(Notifier, Option<File>)> {
    let is_event = kind(fd.as_fd()) == Kind::Event;
    let file = File::from(fd);
    if !is_event && file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return None;
    }
    // A counter that is full need not be waited for: the other side was told. A front-end can take the flag off again.
    if let Ok(flags) = fcntl(&file, FcntlArg::F_GETFL) {
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        let _ = fcntl(&file, FcntlArg::F_SETFL(flags));
    }
    if is_event && !is_distrusted && watchdog::start() {
        return Some((Notifier::Event(file), None));
    }
    Some((Notifier::Detour { errand, detour: Arc::clone(detour) }, Some(file)))
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::EventFd;

    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(kind(EventFd::new().unwrap().as_fd()), Kind::Event);
        let (reader, writer) = std::io::pipe().unwrap();
        assert_eq!(kind(reader.as_fd()), Kind::Pipe);
        assert_eq!(kind(writer.as_fd()), Kind::Pipe);
        assert_eq!(kind(File::open("/dev/null").unwrap().as_fd()), Kind::Other);
        assert_eq!(kind(tempfile::tempfile().unwrap().as_fd()), Kind::Other);
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(kind(socket.as_fd()), Kind::Other);
    }
}
