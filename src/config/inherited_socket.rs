//! A socket that the program which started us left open, as `--fd=N` names it.
#![allow(unsafe_code, reason = "takes ownership of a file descriptor that is known by its number only")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, UnixAddr, getpeername, getsockname, getsockopt,
    sockopt,
};

use super::error::Problem;

/// A connected or listening unix socket that was inherited; closed when its last clone goes.
#[derive(Debug, Clone)]
pub struct InheritedSocket {
    fd: Arc<OwnedFd>,
    number: RawFd,
    listening: bool,
}

impl InheritedSocket {
    /// Takes over descriptor `number`.
    ///
    /// Called while the command line is read, once, and before the process opens anything that stays open.
    pub(crate) fn take(number: RawFd) -> Result<Self, Problem> {
        if number < 3 {
            return Err("descriptors 0 to 2 are the standard streams; pass the socket as 3 or higher".into());
        }
        // SAFETY: the descriptor is only borrowed for the calls below; if it is not open they fail with EBADF and
        // touch nothing.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl(borrowed, FcntlArg::F_GETFD)
            .map_err(|errno| format!("no such open descriptor ({errno}); the parent must leave it open"))?;
        let listening = getsockopt(&borrowed, sockopt::AcceptConn)
            .map_err(|errno| format!("not a socket ({errno}); pass a unix stream socket"))?;
        check_kind(borrowed, listening)?;
        fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
            .map_err(|errno| format!("cannot be marked close-on-exec: {errno}"))?;
        // SAFETY: the descriptor is open (checked above) and nobody in this process owns it: it was opened by our
        // parent, and the command line, which names it once, is read before we open descriptors that stay open.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        Ok(Self { fd: Arc::new(fd), number, listening })
    }

    /// Whether front-ends are to be accepted from it; otherwise it is the connection itself.
    pub fn is_listening(&self) -> bool {
        self.listening
    }

    /// The descriptor's number, for messages.
    pub fn number(&self) -> RawFd {
        self.number
    }
}

/// Makes sure that a socket is one that a front-end can be at the other end of.
fn check_kind(socket: BorrowedFd<'_>, listening: bool) -> Result<(), Problem> {
    let odd =
        |errno| format!("cannot be asked what kind of socket it is: {errno}; pass a unix stream socket");
    if getsockopt(&socket, sockopt::SockType).map_err(odd)? != SockType::Stream {
        return Err("not a stream socket; pass a unix stream socket".into());
    }
    let address = getsockname::<SockaddrStorage>(socket.as_raw_fd()).map_err(odd)?;
    if address.family() != Some(AddressFamily::Unix) {
        return Err("not a unix socket; pass a unix stream socket".into());
    }
    match getpeername::<UnixAddr>(socket.as_raw_fd()) {
        Err(Errno::ENOTCONN) if !listening => {
            Err("neither connected nor listening; connect it, or let it listen, before it is passed".into())
        }
        _ => Ok(()),
    }
}

impl AsFd for InheritedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PartialEq for InheritedSocket {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.fd, &other.fd)
    }
}

impl Eq for InheritedSocket {}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use nix::sys::socket::{SockFlag, socket};

    use super::*;

    #[test]
    fn connections_and_listeners_are_told_apart() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(!InheritedSocket::take(ours.into_raw_fd()).unwrap().is_listening());
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        assert!(InheritedSocket::take(listener.into_raw_fd()).unwrap().is_listening());
    }

    #[test]
    fn what_is_no_open_socket_is_refused() {
        let error = |number| InheritedSocket::take(number).unwrap_err().to_string();
        assert!(error(1).contains("standard streams"));
        assert!(error(900_000).contains("no such open descriptor"));
        let datagrams = std::os::unix::net::UnixDatagram::unbound().unwrap();
        assert!(error(AsRawFd::as_raw_fd(&datagrams)).contains("not a stream socket"));
        let internet = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(error(AsRawFd::as_raw_fd(&internet)).contains("not a unix socket"));
        let (family, kind) = (AddressFamily::Unix, SockType::Stream);
        let idle = socket(family, kind, SockFlag::empty(), None).unwrap();
        assert!(error(AsRawFd::as_raw_fd(&idle)).contains("neither connected nor listening"));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(error(std::os::fd::AsRawFd::as_raw_fd(&file)).contains("not a socket"));
    }
}
