//! A listening unix socket in the file system, for control and for guests.
//!
//! A process that was killed leaves its socket file behind; one that runs still has its socket bound to it. The first is
//! replaced, the second is an error, and whatever else stands at the path stays. The file gets its mode and owner before
//! anybody can connect, and goes when the listener is dropped, unless somebody else has put another file in its place by then.
//!
//! # Several processes at one path
//! Looking whether a socket is stale, removing it and binding another are three steps, and a second process that takes them
//! at the same time could remove the first one's new socket. So whoever takes them holds a lock on a file beside the socket
//! meanwhile, which nobody can make or hold who may not write to the folder. (A lock on the folder itself anybody who may
//! read it could hold, and a link or a rename replaces either nothing or anything.) The file is there for a moment only. The
//! kernel gives the lock back if its holder is killed, and a lock file without a holder stops nobody.
//!
//! Whether a socket is stale is asked without disturbing its owner: connecting to it with a socket of another type fails with
//! EPROTOTYPE if it is some process's, whether it listens yet or not, and with ECONNREFUSED if it is nobody's any more.
//!
//! Whoever ends removes its file while it still has the socket. Nobody takes the file for a stale one before it is gone, so
//! that needs no lock.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, fchown};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use nix::unistd::{AccessFlags, geteuid};
use thiserror::Error;

use crate::config::owner::{MAX_SOCKET_PATH_BYTES, Owner};

/// How long to wait for another process that starts or ends at the same path. It takes a few system calls.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// One form for all the ways to write a socket's path: whole, and its folder without symbolic links.
pub fn identity_of(path: &Path) -> PathBuf {
    match (std::fs::canonicalize(folder_of(path)), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
    }
}

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
    /// Another process has a socket at the path.
    #[error(
        "{}: this socket is in use (`ss -xap src {}` shows by which process); stop that one, or choose another path",
        path.display(), path.display()
    )]
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
    /// The path is empty.
    #[error("the socket's path is empty; name one")]
    Empty,
    /// The path does not fit a socket address.
    #[error("{path}: longer than {MAX_SOCKET_PATH_BYTES} bytes; choose a shorter path")]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Another process starts or ends at the path, and does not come to an end with it.
    #[error("{path}: another process holds {}; stop it, or choose another path", lock.display())]
    Locked {
        /// The path.
        path: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },
    /// The operating system refused a step.
    #[error("{path}: cannot {step}: {source}; {hint}")]
    Refused {
        /// The path.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// What to try.
        hint: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl SocketFileError {
    pub(crate) fn refused(
        path: &Path,
        step: &'static str,
        hint: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Refused { path: path.to_owned(), step, hint: hint.into(), source: source.into() }
    }
}

impl SocketFile {
    /// Listens at `path`, with permission bits `perm` and owner `owner` on the file; `None` leaves the bits to the umask.
    ///
    /// # Errors
    /// Another process has a socket at the path, something else stands there, or the system refuses.
    pub fn listen(path: &Path, perm: Option<u32>, owner: Owner) -> Result<Self, SocketFileError> {
        Self::reserve(path, perm, owner)?.listen()
    }

    /// As [`listen`](Self::listen), up to the point where something changes that others see.
    ///
    /// # Errors
    /// As for `listen`.
    pub fn reserve(path: &Path, perm: Option<u32>, owner: Owner) -> Result<Reserved, SocketFileError> {
        check_path(path)?;
        check_folder(path, owner)?;
        let lock = Lock::take(path)?;
        look_and_check(path)?;
        Ok(Reserved { path: path.to_owned(), perm, owner, _lock: lock })
    }

    fn set_up(&self, perm: Option<u32>, owner: Owner) -> Result<(), SocketFileError> {
        let path = &self.path;
        if owner != Owner::default() {
            chown(path, owner.uid, owner.gid).map_err(|error| owner_refused(path, owner, error))?;
        }
        if let Some(perm) = perm {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(perm)).map_err(|error| {
                let hint = format!("drop perm={perm:04o}");
                SocketFileError::refused(path, "change the mode", hint, error)
            })?;
        }
        Ok(())
    }

    /// Finds what would keep [`listen`](Self::listen) from succeeding now, and changes nothing.
    ///
    /// # Errors
    /// As for `listen`.
    pub fn check(path: &Path, owner: Owner) -> Result<(), SocketFileError> {
        check_path(path)?;
        look_and_check(path)?;
        check_folder(path, owner)
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

/// A path at which nobody else can listen meanwhile, and nothing has changed yet. Others who start there wait a few seconds.
#[derive(Debug)]
pub struct Reserved {
    path: PathBuf,
    perm: Option<u32>,
    owner: Owner,
    _lock: Lock,
}

impl Reserved {
    /// Listens.
    ///
    /// # Errors
    /// As for [`SocketFile::listen`].
    pub fn listen(self) -> Result<SocketFile, SocketFileError> {
        let path = &self.path;
        let refused = |error: io::Error| {
            SocketFileError::refused(path, "create the socket", folder_hint(path, &error), error)
        };
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|errno| refused(errno.into()))?;
        let address = UnixAddr::new(path.as_os_str().as_bytes()).map_err(|errno| refused(errno.into()))?;
        if look(path)? == Found::Stale {
            std::fs::remove_file(path).map_err(|error| stale_stays(path, error))?;
        }
        match bind(socket.as_raw_fd(), &address) {
            Ok(()) => (),
            // Made since we looked, by somebody who takes no lock.
            Err(Errno::EADDRINUSE) => return Err(SocketFileError::Live { path: path.clone() }),
            Err(errno) => return Err(refused(errno.into())),
        }
        let identity = identity(path).map_err(|error| {
            let hint = "check that its folder stays in place";
            SocketFileError::refused(path, "look at the socket", hint, error)
        })?;
        // From here on the file is ours, and goes with `file` on every way out.
        let file = SocketFile {
            listener: socket.into(),
            path: path.clone(),
            identity,
            removed: AtomicBool::new(false),
        };
        // The socket does not listen yet: nobody connects before mode and owner are set.
        file.set_up(self.perm, self.owner)?;
        listen(&file.listener, Backlog::MAXCONN)
            .map_err(|errno| SocketFileError::refused(path, "listen", "try another path", errno))?;
        Ok(file)
    }
}

/// The right to replace the socket at a path; see the head of this file.
#[derive(Debug)]
struct Lock {
    file: PathBuf,
    _held: File,
}

impl Lock {
    fn take(path: &Path) -> Result<Self, SocketFileError> {
        let file = lock_file(path);
        let refused = |error: io::Error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied if file.exists() => {
                    format!("remove it: it is left over from another user's start{}", as_whom())
                }
                _ => folder_hint(path, &error),
            };
            SocketFileError::refused(&file, "lock", hint, error)
        };
        let deadline = Instant::now() + LOCK_PATIENCE;
        while Instant::now() < deadline {
            let held = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(&file)
                .map_err(refused)?;
            match held.try_lock() {
                Ok(()) => (),
                Err(TryLockError::WouldBlock) => {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                }
                Err(TryLockError::Error(error)) => return Err(refused(error)),
            }
            // Its last holder may have removed it before we had the lock; then it is nobody's lock any more.
            let ours = held.metadata().map_err(refused)?;
            if identity(&file).is_ok_and(|found| found == (ours.dev(), ours.ino())) {
                return Ok(Self { file, _held: held });
            }
        }
        Err(SocketFileError::Locked { path: path.to_owned(), lock: file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the lock is given back. A file that stays stops nobody.
        let _ = std::fs::remove_file(&self.file);
    }
}

/// The lock file of the socket `path`: beside it, hidden, and called so that it is nobody else's.
fn lock_file(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".vsteer-lock");
    folder_of(path).join(name)
}

fn identity(path: &Path) -> io::Result<FileIdentity> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

fn check_path(path: &Path) -> Result<(), SocketFileError> {
    match path.as_os_str().len() {
        0 => Err(SocketFileError::Empty),
        1..=MAX_SOCKET_PATH_BYTES => Ok(()),
        _ => Err(SocketFileError::TooLong { path: path.to_owned() }),
    }
}

/// What stands at a path and may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// A socket that no process has any more.
    Stale,
}

/// Looks at a path; whatever may not be replaced is an error.
fn look(path: &Path) -> Result<Found, SocketFileError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => {
            let hint = folder_hint(path, &error);
            return Err(SocketFileError::refused(path, "look at the path", hint, error));
        }
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketFileError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => (),
    }
    let asked = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    let errno = asked.err().and_then(|error| error.raw_os_error()).map(Errno::from_raw);
    match errno {
        None | Some(Errno::EPROTOTYPE) => Err(SocketFileError::Live { path: path.to_owned() }),
        Some(Errno::ECONNREFUSED) => Ok(Found::Stale),
        Some(Errno::ENOENT) => Ok(Found::Nothing),
        Some(errno) => {
            let hint =
                format!("stop it if there is one, remove the file, or choose another path{}", as_whom());
            Err(SocketFileError::refused(path, "tell whether another process has this socket", hint, errno))
        }
    }
}

/// Makes sure that a socket can come to a path, as far as what stands there is concerned.
fn look_and_check(path: &Path) -> Result<(), SocketFileError> {
    match look(path)? {
        Found::Nothing => Ok(()),
        Found::Stale => check_removal(path),
    }
}

fn stale_stays(path: &Path, error: io::Error) -> SocketFileError {
    let hint = format!("remove it by hand, or run as its owner{}", as_whom());
    SocketFileError::refused(path, "remove the stale socket", hint, error)
}

/// Makes sure that the file at `path` may be removed, in a folder that may be written: in one that many share (mode 1777)
/// only its owner may.
fn check_removal(path: &Path) -> Result<(), SocketFileError> {
    let refused = |error| stale_stays(path, error);
    let folder = std::fs::metadata(folder_of(path)).map_err(refused)?;
    let file = std::fs::symlink_metadata(path).map_err(refused)?;
    let us = geteuid().as_raw();
    let is_ours = us == 0 || [folder.uid(), file.uid()].contains(&us);
    match is_ours || folder.mode() & libc::S_ISVTX == 0 {
        true => Ok(()),
        false => Err(refused(Errno::EPERM.into())),
    }
}

/// Makes sure that a socket can be made at `path` and given to `owner`, by means of a file without a name.
fn check_folder(path: &Path, owner: Owner) -> Result<(), SocketFileError> {
    let folder = folder_of(path);
    let refused = |error: io::Error| {
        SocketFileError::refused(path, "create the socket", folder_hint(path, &error), error)
    };
    // Follows links, as opening the socket does.
    if !std::fs::metadata(folder).map_err(refused)?.is_dir() {
        return Err(refused(Errno::ENOTDIR.into()));
    }
    nix::unistd::eaccess(folder, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|errno| refused(errno.into()))?;
    let unnamed = OpenOptions::new().write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(folder);
    match unnamed {
        Ok(file) if owner != Owner::default() => {
            fchown(&file, owner.uid, owner.gid).map_err(|error| owner_refused(path, owner, error))
        }
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EROFS)) => {
            Err(refused(error))
        }
        // Not every file system has files without a name.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn owner_refused(path: &Path, owner: Owner, error: io::Error) -> SocketFileError {
    let hint = format!("run as root, or drop owner={owner}{}", as_whom());
    SocketFileError::refused(path, "change the owner", hint, error)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What to try when `error` came of making a file beside `path`.
fn folder_hint(path: &Path, error: &io::Error) -> String {
    let folder = folder_of(path).display();
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => format!("make the folder {folder}, or choose another path"),
        Some(Errno::ENOTDIR) => format!("{folder} is no folder; choose another path"),
        Some(Errno::EACCES | Errno::EPERM) => {
            format!("the folder {folder} must be writable{}, or choose another path", as_whom())
        }
        Some(Errno::EROFS) => format!("{folder} lies on a read-only file system; choose another path"),
        Some(Errno::ENOSPC | Errno::EDQUOT) => format!("make room in {folder}, or choose another path"),
        Some(Errno::EMFILE | Errno::ENFILE) => "raise the limit of open files".to_owned(),
        _ => format!("look at the folder {folder}, or choose another path"),
    }
}

/// Whose rights count, for hints.
fn as_whom() -> String {
    format!(" (vsteer runs as user {})", geteuid())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

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
    fn socket_that_is_bound_and_does_not_listen_yet_is_somebodys_and_is_not_disturbed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let theirs = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(theirs.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        let is_live = || {
            assert!(matches!(listen_at(&path).unwrap_err(), SocketFileError::Live { .. }));
            let checked = SocketFile::check(&path, Owner::default());
            assert!(matches!(checked, Err(SocketFileError::Live { .. })));
        };
        is_live();
        listen(&theirs, Backlog::MAXCONN).unwrap();
        is_live();
        let theirs = UnixListener::from(theirs);
        theirs.set_nonblocking(true).unwrap();
        assert_eq!(theirs.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "nobody connected");
        let _ = nix::sys::socket::shutdown(theirs.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        is_live();
    }

    #[test]
    fn reserved_path_changes_nothing_and_keeps_others_waiting_until_it_listens_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let before = identity(&path).unwrap();
        for listens in [false, true] {
            let reserved = SocketFile::reserve(&path, None, Owner::default()).unwrap();
            assert_eq!(identity(&path).unwrap(), before);
            thread::scope(|scope| {
                let other = scope.spawn(|| SocketFile::reserve(&path, None, Owner::default()));
                thread::sleep(Duration::from_millis(50));
                assert!(!other.is_finished());
                let file = listens.then(|| reserved.listen().unwrap());
                assert_eq!(other.join().unwrap().is_err(), listens);
                drop(file);
            });
        }
    }

    #[test]
    fn symbolic_links_are_no_sockets() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("s"), folder.path().join("t"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(matches!(listen_at(&path).unwrap_err(), SocketFileError::NotASocket { .. }));
        drop(UnixListener::bind(&target).unwrap());
        assert!(matches!(listen_at(&path).unwrap_err(), SocketFileError::NotASocket { .. }));
        assert!(path.is_symlink() && target.exists());
    }

    #[test]
    fn checking_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let names = || std::fs::read_dir(folder.path()).unwrap().count();
        SocketFile::check(&path, Owner { uid: Some(0), gid: None }).unwrap();
        assert_eq!(names(), 0);
        drop(UnixListener::bind(&path).unwrap());
        let before = identity(&path).unwrap();
        SocketFile::check(&path, Owner::default()).unwrap();
        assert_eq!((identity(&path).unwrap(), names()), (before, 1));
    }

    #[test]
    fn lock_file_without_a_holder_stops_nobody_and_is_gone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        std::fs::write(lock_file(&path), "").unwrap();
        let file = listen_at(&path).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(file);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// Threads stand for processes: the lock belongs to the open file, not to the process.
    #[test]
    fn of_many_that_start_at_once_exactly_one_has_the_socket() {
        for round in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("s");
            if round % 2 == 0 {
                drop(UnixListener::bind(&path).unwrap());
            }
            let barrier = std::sync::Barrier::new(8);
            let start = || {
                barrier.wait();
                listen_at(&path)
            };
            let started: Vec<_> = thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let (have, refused): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
            assert_eq!(have.len(), 1, "{refused:?}");
            assert!(
                refused.iter().all(|error| matches!(error, Err(SocketFileError::Live { .. }))),
                "{refused:?}"
            );
            UnixStream::connect(&path).unwrap();
        }
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
        assert!(error.ends_with("make the folder /nonexistent, or choose another path"), "{error}");
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
