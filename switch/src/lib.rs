//! The switch: packets, flow keys, caches, the slow path and actions. No I/O, no threads, no clock:
//! ports and time are passed in. Modules are listed in the order in which a packet meets them.

/// Port identifiers.
pub mod port;

/// Why a packet was dropped: one counter per reason.
pub mod drop_reason;

/// Counters of a port.
pub mod counters;

/// A packet: private head, borrowed tail, offload state.
pub mod packet;

/// Header layouts of the protocols that the switch reads.
pub mod wire;

/// Flow keys, masks and their extraction from packet heads.
pub mod flow;

/// Edits of packet heads: VLAN tags.
pub mod edit;

/// Work that an egress port lacks the offload for: checksums, segmentation, choice of a receive queue.
pub mod egress;
