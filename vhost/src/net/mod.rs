//! The virtio network device, from the switch's side.
//!
//! # Source
//! virtio 1.3 §5.1 "Network Device".

/// Which features are offered, and what the negotiated ones mean.
pub mod features;

/// The virtio-net header, to and from [`Offload`](vsteer_switch::packet::Offload).
mod header;

/// Transmitq to burst.
mod dequeue;

/// Frames to receiveq.
mod enqueue;

/// One virtqueue under its lock.
pub mod queue;

/// A guest's port: where guest queues and the switch's receive and transmit meet.
pub mod port;
