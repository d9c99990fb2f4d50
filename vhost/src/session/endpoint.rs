//! Where a port's front-ends come from.

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
    Connected(UnixStream),
}
