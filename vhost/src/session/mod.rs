//! The vhost-user protocol: how front-ends connect, what they say, and what it does to the rings of a
//! [`VhostPort`](crate::net::port::VhostPort). Modules in the order in which a message meets them.
//!
//! # Why the protocol is spoken here
//! Message layouts, codes and feature bits are those of the crate `vhost`. Its request handler and the daemon of
//! `vhost-user-backend` are not used, as they are made for a back-end that owns one well-behaved front-end:
//! - They refuse by order and form what DPDK's vhost library and libvhost-user take, and the deployed front-ends send it:
//!   SET_VRING_ENABLE before SET_FEATURES (virtio_user after a reconnect), a memory table with room to spare and calls
//!   before kicks (user-mode Linux), a second SET_OWNER, addresses before memory, any body of another length, and every
//!   message that they do not know, whether or not the front-end asked to be told (SEND_RARP, NET_SET_MTU, SET_STATUS).
//!   An error ends the session, except where REPLY_ACK was negotiated.
//! - A file of memory must have a length, which a character device has not. Rings keep the guest addresses that they were
//!   given when regions are removed and added, so a ring may silently go on in memory that is gone.
//! - GET_QUEUE_NUM is answered with the number of queues, by which they also check queue numbers; QEMU and DPDK mean pairs.
//! - One thread waits for one front-end: in accept, in the middle of a message, and in an answer that nobody reads. So a
//!   silent connection keeps the real front-end out, and stopping a port needs tricks.
//! - Descriptors for which the process has no room are lost, and the session with them.
//! - A base that differs from the used index is believed, where a ring that goes on must go by the used index.
//!
//! An earlier version stood before the daemon as a relay that kept from it what it would refuse. To do so for every message
//! it would have had to understand all of them, and to keep a second copy of the daemon's state.
//!
//! That well-behaved front-ends find no difference is tested against the daemon itself (`tests/daemon.rs`).

/// Where a port's front-ends come from.
pub mod endpoint;

/// The thread that serves a port's front-ends.
pub mod server;

/// Bytes and descriptors from and to a socket.
mod socket;

/// One front-end's socket: messages in, answers out.
mod connection;

/// What a message looks like.
mod message;

/// What each message means, and what it is answered.
mod protocol;

/// What a front-end has said of its device, and what follows from it for the port.
mod device;

/// The memory regions that a front-end shares, as it changes them.
mod memory_map;

/// What kind of thing a descriptor is.
mod descriptor;
