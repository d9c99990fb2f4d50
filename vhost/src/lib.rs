//! Guest memory and virtqueues, turned into bursts of packets and back.
//!
//! This crate is the vhost-user back-end: everything that a guest or its front-end wrote is handled here and nowhere else.
//! What leaves it is an owned copy or a checked type. Modules are listed in the order in which a packet from a guest
//! meets them; `session` is the control plane beside that path.

/// Guest memory as this process sees it: address translation, and writes into guest buffers.
pub mod memory;

/// A file of the front-end's in our address space: which files are taken.
pub mod mapping;

/// Survival of guest memory that shrinks after it was mapped.
mod sigbus;

/// Ends a write that would never end.
mod watchdog;

/// The log of pages that this back-end wrote, for live migration.
mod dirty_log;

/// Virtqueues: the split ring, descriptor chains, notifications.
pub mod ring;

/// The network device: headers, dequeue, enqueue, and the port that joins them.
pub mod net;

/// The vhost-user protocol: sockets, connections, and what they do to the rings.
pub mod session;
