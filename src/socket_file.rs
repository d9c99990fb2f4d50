//! A listening unix socket in the file system, for control and for guests.
//!
//! A process that was killed leaves its socket file behind; one that runs still answers on it. The first is replaced,
//! the second is an error. The file gets its mode and owner before anybody can connect, and goes when the listener is
//! dropped, unless somebody else has put another file in its place by then.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use thiserror::Error;

use crate::config::{MAX_SOCKET_PATH_BYTES, Owner};

/// A listening socket and its file; dropping it removes the file.
#[derive(Debug)]
pub struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    identity: FileIdentity,
    removed: AtomicBool,
}

/// Device and inode of the file.
type FileIdentity = (u64, u64);

/// Why a socket file cannot be had.
#[derive(Debug, Error)]
pub enum SocketFileError {
    /// Another process answers at the path.
    #[error("{path}: another process answers on this socket; stop it, or choose another path")]
    Live {
        /// The path.
        path: PathBuf,
    },
    /// Something that is no socket stands at the path.
    #[error("{path}: exists and is no socket; remove it, or choose another path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The path does not fit a socket address.
    #[error("{path}: longer than {MAX_SOCKET_PATH_BYTES} bytes; choose a shorter path")]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused a step.
    #[error("{path}: cannot {step}: {source}; {hint}")]
    Refused {
        /// The path.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What to try.
        hint: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl SocketFile {
    /// Listens at `path`, with permission bits `perm` and owner `owner` on the file; `None` leaves the bits to the umask.
    ///
    /// # Errors
    /// Another process answers at the path, something else stands there, or the system refuses.
    pub fn listen(path: &Path, perm: Option<u32>, owner: Owner) -> Result<Self, SocketFileError> {
        if path.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
            return Err(SocketFileError::TooLong { path: path.to_owned() });
        }
        let refused =
            |step, hint| move |source| SocketFileError::Refused { path: path.to_owned(), step, hint, source };
        remove_stale(path)?;
        let socket = bind_at(path)
            .map_err(refused("create the socket", "check that its folder exists and is writable"))?;
        let identity =
            identity(path).map_err(refused("look at the socket", "check that its folder stays in place"))?;
        // From here on the file is ours, and goes with `file` on every way out.
        let file = Self {
            listener: socket.into(),
            path: path.to_owned(),
            identity,
            removed: AtomicBool::new(false),
        };
        // The socket does not listen yet: nobody connects before mode and owner are set.
        if owner != Owner::default() {
            chown(path, owner.uid, owner.gid)
                .map_err(refused("change the owner", "run as root, or drop owner="))?;
        }
        if let Some(perm) = perm {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(perm))
                .map_err(refused("change the mode", "drop perm="))?;
        }
        listen(&file.listener, Backlog::MAXCONN)
            .map_err(io::Error::from)
            .map_err(refused("listen", "try another path"))?;
        Ok(file)
    }

    /// The listening socket, blocking.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses connections from now on, and ends calls of `accept` that wait in other threads.
    pub fn close(&self) {
        // Fails only where the socket is shut down already, which is what is wanted.
        let _ = nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }

    /// Removes the file, unless somebody else has put another in its place.
    pub fn remove(&self) {
        // Once only: the inode's number may be given to a later file.
        let first = !self.removed.swap(true, Ordering::Relaxed);
        if first && identity(&self.path).is_ok_and(|found| found == self.identity) {
            // The file may be gone or the folder read-only by now; the next start replaces what is left.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.remove();
    }
}

fn bind_at(path: &Path) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(OsStr::as_bytes(path.as_os_str()))?)?;
    Ok(fd)
}

fn identity(path: &Path) -> io::Result<FileIdentity> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes a socket file that nobody answers on.
fn remove_stale(path: &Path) -> Result<(), SocketFileError> {
    let refused = |step, hint, source| SocketFileError::Refused { path: path.to_owned(), step, hint, source };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused("look at the path", "check its folder", error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketFileError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => (),
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketFileError::Live { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)
            .map_err(|error| refused("remove the stale socket", "remove it by hand", error)),
        // A full backlog (EAGAIN) or a missing right to connect: somebody may be there.
        Err(error) => {
            Err(refused("tell whether another process answers", "stop it, or choose another path", error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen_at(path: &Path) -> Result<SocketFile, SocketFileError> {
        SocketFile::listen(path, Some(0o660), Owner::default())
    }

    #[test]
    fn file_has_its_mode_and_goes_with_the_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let file = listen_at(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        UnixStream::connect(&path).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn stale_file_is_replaced_and_live_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _file = listen_at(&path).unwrap();
        let error = listen_at(&path).unwrap_err();
        assert!(matches!(error, SocketFileError::Live { .. }), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn other_files_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(listen_at(&path).unwrap_err(), SocketFileError::NotASocket { .. }));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_file_put_in_its_place_survives_the_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let file = listen_at(&path).unwrap();
        std::fs::rename(&path, folder.path().join("away")).unwrap();
        std::fs::write(&path, "").unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn missing_folders_and_long_paths_say_what_to_try() {
        let error = listen_at(Path::new("/nonexistent/s")).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/s: cannot create the socket: "), "{error}");
        assert!(error.ends_with("check that its folder exists and is writable"), "{error}");
        let long = PathBuf::from(format!("/{}", "x".repeat(MAX_SOCKET_PATH_BYTES)));
        assert!(matches!(listen_at(&long).unwrap_err(), SocketFileError::TooLong { .. }));
    }

    #[test]
    fn close_ends_a_waiting_accept() {
        let folder = tempfile::tempdir().unwrap();
        let file = listen_at(&folder.path().join("s")).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| file.listener().accept().is_err());
            std::thread::sleep(std::time::Duration::from_millis(20));
            file.close();
            assert!(waiting.join().unwrap());
        });
    }
}
