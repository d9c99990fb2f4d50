//! Where a front-end comes from: a socket we listen on, one we connect to, or one we were started with.

#![allow(unsafe_code, reason = "takes over an inherited descriptor")]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Owner and mode of a socket file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SocketAccess {
    /// User id, if it is to change.
    pub user: Option<u32>,
    /// Group id, if it is to change.
    pub group: Option<u32>,
    /// Permission bits, if they are to differ from what the umask leaves.
    pub mode: Option<u32>,
}

/// Where a port's front-ends come from.
#[derive(Debug)]
pub enum Endpoint {
    /// We listen; front-ends come and go.
    Listen(BoundSocket),
    /// The front-end listens; we connect, and again whenever it went.
    Connect(PathBuf),
    /// We were started with a listening socket.
    InheritedListener(UnixListener),
    /// We were started with a connected socket: one front-end, once.
    InheritedStream(UnixStream),
}

/// Why an endpoint cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Another process serves the socket.
    #[error("{}: another process listens on this socket; stop it, or choose another path", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The path is taken by something that is no socket.
    #[error("{}: exists and is not a socket; remove it, or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The socket file cannot be made.
    #[error("{}: cannot {action}: {error}; check that the directory exists and is writable", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// The inherited descriptor is no unix stream socket.
    #[error("file descriptor {fd} is not a unix stream socket; pass the number of an inherited one")]
    BadDescriptor {
        /// The number.
        fd: RawFd,
    },
}

/// A listening socket whose file is removed with it.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl BoundSocket {
    /// Listens at `path`. A socket file that nobody serves any more is replaced.
    ///
    /// # Errors
    /// The path is in use, or the file cannot be made.
    pub fn bind(path: &Path, access: SocketAccess) -> Result<Self, EndpointError> {
        let fail = |action| move |error| EndpointError::Io { path: path.to_owned(), action, error };
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(fail("listen"))?;
        let bound = Self { listener, path: path.to_owned() };
        if access.user.is_some() || access.group.is_some() {
            chown(path, access.user, access.group).map_err(fail("change the owner"))?;
        }
        if let Some(mode) = access.mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(fail("change the mode"))?;
        }
        Ok(bound)
    }

    pub(super) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // It may be gone already; nothing else can be done about it here.
        let _ = fs::remove_file(&self.path);
    }
}

fn remove_stale(path: &Path) -> Result<(), EndpointError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(EndpointError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| EndpointError::Io {
                path: path.to_owned(),
                action: "replace the stale socket",
                error,
            })
        }
        Err(error) => {
            Err(EndpointError::Io { path: path.to_owned(), action: "find out who serves the socket", error })
        }
        Ok(_) => Err(EndpointError::InUse { path: path.to_owned() }),
    }
}

impl Endpoint {
    /// The endpoint behind descriptor number `fd`, inherited from the process that started us and used by nobody else.
    ///
    /// # Errors
    /// The descriptor is no unix stream socket.
    pub fn inherited(fd: RawFd) -> Result<Self, EndpointError> {
        let listens = socket_option(fd, libc::SO_ACCEPTCONN).ok_or(EndpointError::BadDescriptor { fd })?;
        let is_unix = socket_option(fd, libc::SO_DOMAIN) == Some(libc::AF_UNIX);
        let is_stream = socket_option(fd, libc::SO_TYPE) == Some(libc::SOCK_STREAM);
        if !is_unix || !is_stream || fd <= 2 {
            return Err(EndpointError::BadDescriptor { fd });
        }
        // SAFETY: the descriptor is open (the options were read from it), and the process that started us gave it to us for
        // this use alone.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(if listens != 0 {
            Endpoint::InheritedListener(owned.into())
        } else {
            Endpoint::InheritedStream(owned.into())
        })
    }

    pub(super) fn listener_fd(&self) -> Option<RawFd> {
        match self {
            Endpoint::Listen(bound) => Some(bound.listener().as_raw_fd()),
            Endpoint::InheritedListener(listener) => Some(listener.as_raw_fd()),
            Endpoint::Connect(_) | Endpoint::InheritedStream(_) => None,
        }
    }
}

fn socket_option(fd: RawFd, option: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    #[allow(clippy::cast_possible_truncation, reason = "four")]
    let mut len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: value and len are ours and as long as said; a bad descriptor is an error return.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut len) };
    (result == 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_socket_is_replaced_and_a_live_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dropped listener leaves its file behind");
        let bound =
            BoundSocket::bind(&path, SocketAccess { mode: Some(0o600), ..Default::default() }).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(
            BoundSocket::bind(&path, SocketAccess::default()),
            Err(EndpointError::InUse { .. })
        ));
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            BoundSocket::bind(&path, SocketAccess::default()),
            Err(EndpointError::NotASocket { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn descriptor_that_is_no_socket_is_refused() {
        let file = fs::File::open("/dev/null").unwrap();
        assert!(matches!(Endpoint::inherited(file.as_raw_fd()), Err(EndpointError::BadDescriptor { .. })));
        assert!(matches!(Endpoint::inherited(-1), Err(EndpointError::BadDescriptor { .. })));
    }
}
