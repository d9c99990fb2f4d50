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

/// The state of the switch that decisions rest on.
pub mod state;

/// The way of a burst through the tables below, pass by pass.
pub mod pipeline;

/// First table: exact match on the bits that matter at the ingress port.
mod flow_cache;

/// A guess at where the second table has a packet's megaflow.
mod signature_index;

/// Second table: tuple space search among the megaflows.
pub mod classifier;

/// The megaflows of a worker, by index.
pub mod flow_table;

/// One decision for all packets that agree in the bits that were looked at.
pub mod megaflow;

/// Rules: what the operator wants done with which packets.
pub mod rule;

/// The decision itself: a VLAN-aware learning switch.
pub mod slow_path;

/// What `NORMAL` goes by: port configuration, VLANs, mirrors, learned addresses.
pub mod bridge;

/// Verdicts and actions.
pub mod action;

/// What is left to do with a packet that goes through the switch again.
pub mod recirculation;

/// Edits of packet heads: VLAN tags, header fields, checksums.
pub mod edit;

/// Work that an egress port lacks the offload for: checksums, segmentation, choice of a receive queue.
pub mod egress;

/// Checking megaflows after something changed.
pub mod revalidate;

/// The hash of the flow tables.
mod hash;

/// Asking for cache lines ahead of use.
mod prefetch;

/// What an operator probably meant: the known word that a wrong one is a slip of.
pub mod nearest;
