//! Chains that were looked at but not taken: the next burst of a ring, on its way into the cache.
//!
//! Looking at a chain reads its head and first descriptor and asks the processor for the buffer's first lines. The data
//! path takes the chains later, while other work has filled the time that the lines need to arrive: a worker looks at
//! the queue it will serve next before it switches the burst of the present one, and at the receive buffers of the next
//! batch when it has shown the guest the present one. Where guest and worker are far apart (two sockets, two core
//! complexes), that wait is the largest part of a small packet's cost.
//!
//! # Invariants
//! 1. `chains[first..end]` are the ring's next available chains beyond what is staged, in order, and were valid when they
//!    were looked at. Each was read once; what is used of it is what was read then.
//! 2. Spans are those of the ring's present memory table: whoever changes that forgets what was looked at.

use vsteer_switch::packet::BURST;

use super::chain::Access;
use super::layout::{Descriptor, RingLayout};
use crate::memory::{GuestAddr, Span};

/// A chain that is available: its head and the head's descriptor, read once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AvailChain {
    pub(crate) head: u16,
    pub(crate) first: Descriptor,
    /// The one piece of memory of a chain that has only one, of the wanted kind; the common case.
    pub(crate) single: Option<Span>,
}

impl AvailChain {
    /// Notes where the chain's first buffer lies and asks for its first lines.
    #[inline]
    fn locate(&mut self, layout: &RingLayout, access: Access) {
        let first = &self.first;
        let span = layout.memory().span(GuestAddr(first.addr), first.len);
        if let Some(span) = &span {
            match access {
                Access::Read => span.prefetch_to_read(),
                Access::Write => span.prefetch_to_write(),
            }
        }
        let alone = !first.has_next() && !first.is_indirect();
        let fits = first.is_writable() == (access == Access::Write);
        self.single = span.filter(|span| alone && fits && span.len() == first.len as usize && first.len > 0);
    }
}

/// What was looked at.
#[derive(Debug)]
pub(super) struct Ahead {
    chains: Box<[AvailChain; BURST]>,
    first: usize,
    end: usize,
}

impl Ahead {
    pub(super) fn new() -> Self {
        Self { chains: Box::new([AvailChain::default(); BURST]), first: 0, end: 0 }
    }

    /// Chains that were looked at.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.end - self.first
    }

    pub(super) fn forget(&mut self) {
        (self.first, self.end) = (0, 0);
    }

    /// The next of them.
    #[inline]
    pub(super) fn peek(&self) -> Option<AvailChain> {
        self.chains[..self.end].get(self.first).copied()
    }

    /// The next of them was taken.
    #[inline]
    pub(super) fn advance(&mut self) {
        debug_assert!(self.first < self.end);
        self.first += 1;
    }

    /// Looks at `count` more chains, from number `position` on; false if one of them has a head that is no descriptor, and
    /// it and those behind it are left out. There is room: `len() + count` is at most [`BURST`].
    #[inline]
    pub(super) fn extend(
        &mut self,
        layout: &RingLayout,
        mut position: u16,
        count: usize,
        access: Access,
    ) -> bool {
        if self.first > 0 {
            self.chains.copy_within(self.first..self.end, 0);
            (self.first, self.end) = (0, self.end - self.first);
        }
        let new = &mut self.chains[self.end..self.end + count];
        for chain in &mut *new {
            chain.head = layout.avail_head(position);
            layout.prefetch_descriptor(chain.head);
            position = position.wrapping_add(1);
        }
        for chain in new {
            let Some(first) = layout.descriptor(chain.head) else { return false };
            chain.first = first;
            chain.locate(layout, access);
            self.end += 1;
        }
        true
    }
}
