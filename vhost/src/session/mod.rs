//! The vhost-user protocol. The rust-vmm daemon speaks it; what it is told ends up in the rings of a
//! [`VhostPort`](crate::net::port::VhostPort).

/// The daemon's view of a ring: forwards every change to the port.
mod vring;

/// The daemon's view of a device: features, memory.
mod backend;

/// Where a port's front-ends come from.
pub mod endpoint;

/// Between a front-end's socket and the daemon.
mod relay;

/// The thread that serves a port's front-ends, one connection after the other.
pub mod server;
