//! Counters of a port.
//!
//! # Concurrency
//! Each worker has its own `PortCounters` for each port and is the only one to add to it, so adding is a plain load and
//! store. Anybody may read at any time; a reader sees each counter move forward only.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::drop_reason::DropReason;

/// A counter with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the owning thread may call it.
    #[inline]
    pub fn add(&self, count: u64) {
        // Relaxed load and store, not a read-modify-write: the owner is the only writer.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one worker did at one port.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct PortCounters {
    /// Packets taken from the port.
    pub rx_pkts: Counter,
    /// Bytes of those packets, without virtio-net headers.
    pub rx_bytes: Counter,
    /// Packets given to the port; a GSO frame that leaves whole counts once.
    pub tx_pkts: Counter,
    /// Bytes of those packets, without virtio-net headers.
    pub tx_bytes: Counter,
    drops: [Counter; DropReason::COUNT],
}

impl PortCounters {
    /// Counts `pkts` packets dropped for `reason`.
    #[inline]
    pub fn dropped(&self, reason: DropReason, pkts: u64) {
        self.drops[reason.index()].add(pkts);
    }

    /// Packets dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()].get()
    }
}
