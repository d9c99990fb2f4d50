//! The thread that serves a port's front-ends, one connection after the other.
//!
//! A daemon object lives for one connection. When it ends, for whatever reason, every ring is stopped and the guest's
//! memory let go; the endpoint stays and the next front-end starts from nothing. What the guest had put into its rings
//! is still there and goes on where the used index stands.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use parking_lot::Mutex;
use vhost::vhost_user::{Error as ProtocolError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserDaemon};
use vm_memory::GuestMemoryAtomic;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::backend::NetBackend;
use super::endpoint::Endpoint;
use super::{relay, vring};
use crate::memory::{GuestMemory, MemoryFault};
use crate::net::port::{PortFault, VhostPort};

/// How long to wait before connecting again to a front-end that does not listen.
const RECONNECT_MS: i32 = 200;

/// Serves the front-ends of one port; stops and joins its threads when dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

/// How the server is told to stop, whatever it is waiting for.
///
/// # Concurrency
/// The owner sets `requested`, then pokes both things the thread can wait for. The thread sets `connection` first and looks
/// at `requested` afterwards, so one of the two sees the other.
struct Stop {
    requested: AtomicBool,
    event: EventFd,
    connection: Mutex<Option<UnixStream>>,
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop").field("requested", &self.requested).finish_non_exhaustive()
    }
}

impl Stop {
    fn requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
        // The counter cannot overflow by being written once.
        let _ = self.event.write(1);
        if let Some(connection) = &*self.connection.lock() {
            // It may be closed already, which is what is wanted.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Waits for `fd` to be readable, for `timeout_ms` (for ever if negative), or for the request to stop.
    fn wait(&self, fd: Option<i32>, timeout_ms: i32) -> io::Result<()> {
        let epoll = Epoll::new()?;
        for fd in fd.into_iter().chain([self.event.as_raw_fd()]) {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0))?;
        }
        match epoll.wait(timeout_ms, &mut [EpollEvent::default()]) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }
}

impl Server {
    /// Starts to serve `port` at `endpoint`, in a thread named after `name`.
    ///
    /// # Errors
    /// The thread, its event descriptor or its private socket cannot be made.
    pub fn start(name: &str, port: Arc<VhostPort>, endpoint: Endpoint) -> io::Result<Self> {
        let stop = Arc::new(Stop {
            requested: AtomicBool::new(false),
            event: EventFd::new(EFD_NONBLOCK)?,
            connection: Mutex::new(None),
        });
        // Each connection makes its own; this one shows now, to who asks for the port, whether that will work.
        PrivateDoor::new()?;
        let session = Session { name: name.to_owned(), port, stop: Arc::clone(&stop) };
        let thread =
            thread::Builder::new().name(format!("vu-{name}")).spawn(move || session.run(endpoint))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.request();
        if let Some(thread) = self.thread.take() {
            // A panic there was our own bug and is already on stderr; the port is going anyway.
            let _ = thread.join();
        }
    }
}

/// A listening socket that only we can reach: the way by which the daemon is given one connection (see `relay.rs`). It is
/// gone from the file system as soon as that was accepted, so that nothing is left behind by a process that is killed.
struct PrivateDoor {
    listener: UnixListener,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl PrivateDoor {
    fn new() -> io::Result<Self> {
        // Readable by its owner alone.
        let directory = tempfile::Builder::new().prefix("vsteer-").tempdir()?;
        let path = directory.path().join("door");
        Ok(Self { listener: UnixListener::bind(&path)?, path, _directory: directory })
    }

    /// Gives `daemon` a connection and returns its other end.
    fn connect(self, daemon: &mut VhostUserDaemon<Arc<NetBackend>>) -> io::Result<UnixStream> {
        let near = UnixStream::connect(&self.path)?;
        daemon
            .start(&mut Listener::from(self.listener))
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(near)
    }
}

struct Session {
    name: String,
    port: Arc<VhostPort>,
    stop: Arc<Stop>,
}

impl Session {
    fn run(self, endpoint: Endpoint) {
        let result = match endpoint {
            Endpoint::Listen(listener) => self.listen(&listener),
            Endpoint::Connect(path) => self.connect(&path),
            Endpoint::Connected(stream) => self.serve(&stream),
        };
        if let Err(error) = result {
            tracing::error!(port = self.name, %error, "the port's vhost-user socket failed; add the port again");
        }
    }

    fn listen(&self, listener: &UnixListener) -> io::Result<()> {
        // A front-end that goes before it is accepted must not leave us waiting.
        listener.set_nonblocking(true)?;
        while !self.stop.requested() {
            self.stop.wait(Some(listener.as_raw_fd()), -1)?;
            match listener.accept().and_then(|(front_end, _)| self.serve(&front_end)) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => self.pause(&error)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn connect(&self, path: &Path) -> io::Result<()> {
        while !self.stop.requested() {
            // A front-end that does not listen yet is no fault.
            if let Ok(front_end) = try_connect(path)
                && let Err(error) = self.serve(&front_end)
            {
                self.pause(&error)?;
            }
            self.stop.wait(None, RECONNECT_MS)?;
        }
        Ok(())
    }

    /// Waits before the next try after one for which this process lacked descriptors, memory or threads: the next
    /// front-end waits in the backlog, and we must not spin.
    fn pause(&self, error: &io::Error) -> io::Result<()> {
        tracing::warn!(
            port = self.name,
            %error,
            "a front-end cannot be served; raise the limits of open files and threads"
        );
        self.stop.wait(None, RECONNECT_MS)
    }

    /// Serves one connection from its start to its end.
    ///
    /// # Errors
    /// This process lacks what it takes; what the front-end does wrong is the port's fault and no error here.
    fn serve(&self, front_end: &UnixStream) -> io::Result<()> {
        front_end.set_nonblocking(false)?;
        *self.stop.connection.lock() = Some(front_end.try_clone()?);
        if self.stop.requested() {
            self.stop.request();
        }
        let result = self.converse(front_end);
        // Closes our copy of the connection, which would keep the front-end waiting.
        *self.stop.connection.lock() = None;
        result
    }

    fn converse(&self, front_end: &UnixStream) -> io::Result<()> {
        let backend = Arc::new(NetBackend::new(Arc::clone(&self.port)));
        let memory = GuestMemoryAtomic::new(GuestMemory::new());
        let mut daemon = vring::collect(&self.port, || {
            VhostUserDaemon::new(format!("vu-{}", self.name), Arc::clone(&backend), memory)
        })
        .map_err(|error| io::Error::other(error.to_string()))?;
        let near = PrivateDoor::new()?.connect(&mut daemon)?;

        self.port.connected();
        tracing::info!(port = self.name, "front-end connected");
        let relayed = relay::run(front_end, &near, format!("vu-{}", self.name));
        let end = daemon.wait();
        let fault = end.err().and_then(|error| fault_of(&error, backend.memory_fault.lock().take()));
        match &fault {
            None => tracing::info!(port = self.name, "front-end disconnected"),
            Some(_) => tracing::warn!(port = self.name, "front-end cut off"),
        }
        self.port.disconnected(fault);
        relayed
    }
}

/// Connects without waiting: a front-end that listens but accepts nobody must not keep us from stopping.
fn try_connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

/// What the end of a connection says of the front-end; `None` if it simply went.
fn fault_of(error: &DaemonError, memory: Option<MemoryFault>) -> Option<PortFault> {
    if let Some(fault) = memory {
        return Some(PortFault::Memory(fault));
    }
    match error {
        DaemonError::HandleRequest(ProtocolError::Disconnected | ProtocolError::SocketBroken(_)) => None,
        DaemonError::HandleRequest(error) => Some(PortFault::Protocol(error.to_string())),
        DaemonError::WaitDaemon(_) => Some(PortFault::Protocol("the session thread failed".into())),
        other => Some(PortFault::Protocol(other.to_string())),
    }
}
