//! Packets on their way out of a burst, gathered per egress port.
//!
//! Sending takes the lock of a guest's queue and a barrier, so packets for one port leave together. They leave in order of
//! arrival: a batch is handed over when it is full, when the burst ends, or when the head that its packets share is
//! about to change.

use super::Transmit;
use crate::packet::{BURST, Burst};
use crate::port::{MAX_PORTS, PortId};

/// Packets on their way to one egress port.
#[derive(Debug)]
struct Batch {
    port: PortId,
    len: usize,
    indices: [u8; BURST],
}

/// The batches of a burst, one for each egress port, in the order in which the ports were first named.
#[derive(Debug)]
pub(super) struct Batches {
    active: Vec<Batch>,
    /// Where a port's batch is in `active`, [`NO_BATCH`] if it has none.
    of_port: Box<[u16; MAX_PORTS]>,
    /// Bit set: the packet at this position is in a batch.
    held: u32,
    /// Copies that were handed out instead.
    pub(super) punts: u64,
}

const NO_BATCH: u16 = u16::MAX;

impl Batches {
    pub(super) fn new() -> Self {
        Self { active: Vec::with_capacity(64), of_port: Box::new([NO_BATCH; MAX_PORTS]), held: 0, punts: 0 }
    }

    /// Whether the packet at `at` is in a batch.
    #[inline]
    pub(super) fn holds(&self, at: usize) -> bool {
        self.held >> at & 1 == 1
    }

    #[inline]
    pub(super) fn push(&mut self, port: PortId, at: usize, burst: &Burst, out: &mut impl Transmit) {
        let mut index = usize::from(self.of_port[port.index()]);
        if self.active.get(index).is_some_and(|batch| batch.len == BURST) {
            self.flush(burst, out);
            index = usize::from(NO_BATCH);
        }
        if index == usize::from(NO_BATCH) {
            index = self.active.len();
            self.active.push(Batch { port, len: 0, indices: [0; BURST] });
            #[allow(clippy::cast_possible_truncation, reason = "no more batches than ports")]
            {
                self.of_port[port.index()] = index as u16;
            }
        }
        let batch = &mut self.active[index];
        #[allow(clippy::cast_possible_truncation, reason = "a burst has 32 packets")]
        {
            batch.indices[batch.len] = at as u8;
        }
        batch.len += 1;
        self.held |= 1 << at;
    }

    /// Hands every batch to its port.
    pub(super) fn flush(&mut self, burst: &Burst, out: &mut impl Transmit) {
        for batch in self.active.drain(..) {
            self.of_port[batch.port.index()] = NO_BATCH;
            out.transmit(batch.port, burst, &batch.indices[..batch.len]);
        }
        self.held = 0;
    }
}
