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

/// How the other side is told of used buffers and broken rings.
pub(crate) mod notifier;

/// The frame by which the switch learns that a guest is at another port now.
pub(crate) mod announcement;

/// What a guest's driver asks of its device by the control queue.
pub(crate) mod control;

/// One virtqueue under its lock.
pub mod queue;

/// A guest's port: where guest queues and the switch's receive and transmit meet.
pub mod port;
