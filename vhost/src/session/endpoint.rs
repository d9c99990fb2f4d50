//! Where a port's front-ends come from.

use std::fmt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

/// Where a port's front-ends come from. Socket files, their owners and modes are the caller's.
#[derive(Debug)]
pub enum Endpoint {
    /// We listen; front-ends come and go.
    Listen(UnixListener),
    /// The front-end listens; we connect, and again whenever it went.
    Connect(PathBuf),
    /// The connection is there already: one front-end, once.
    Connected {
        /// The connection.
        stream: UnixStream,
        /// Is told when the front-end has gone, unless the port goes first.
        gone: Gone,
    },
}

/// Somebody who is told once that a front-end has gone for good.
pub struct Gone(Box<dyn FnOnce() + Send>);

impl Gone {
    /// Calls `tell`, on the session thread.
    pub fn new(tell: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(tell))
    }

    pub(super) fn call(self) {
        (self.0)();
    }
}

impl fmt::Debug for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gone").finish_non_exhaustive()
    }
}
