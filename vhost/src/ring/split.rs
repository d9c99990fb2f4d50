//! The split ring: which chains are available, which are given back.
//!
//! A burst goes: [`look_ahead`](SplitRing::look_ahead) looks at what is available, the caller takes chain after chain by
//! [`peek`](SplitRing::peek) and [`stage_used`](SplitRing::stage_used), and [`flush_used`](SplitRing::flush_used) gives
//! them back in the order they came. Nothing is taken for good before it is given back, so a burst that is
//! abandoned half-way (a crash, a fault) leaves the ring as it was, and the next back-end serves those chains again.

use std::sync::Arc;

use vsteer_switch::packet::BURST;

use super::ahead::{Ahead, AvailChain};
use super::chain::{Access, ChainReader};
use super::fault::RingFault;
use super::layout::{RingLayout, RingSetup};
use super::notify::CallState;
use crate::memory::{RegionTable, Span};

/// A split ring under one lock.
///
/// # Invariants
/// 1. `staged` chains were taken from `next_avail` and their used entries written from `next_used` on, but not published.
/// 2. Every chain below `next_avail` was given back: used equals avail between bursts.
#[derive(Debug)]
pub(crate) struct SplitRing {
    layout: RingLayout,
    setup: RingSetup,
    next_avail: u16,
    next_used: u16,
    staged: u16,
    /// The available index when it was last read: entries up to it need no new look at the guest's cache line.
    seen_avail: u16,
    ahead: Ahead,
    access: Access,
    calls: CallState,
    features: RingFeatures,
}

/// What of a ring's behaviour was negotiated.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RingFeatures {
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
    /// The guest wants a call when the ring runs empty, whatever else it wishes (virtio 1.3 §6.3, legacy drivers).
    pub(crate) notify_on_empty: bool,
    /// The guest is migrating: every write is logged.
    pub(crate) logging: bool,
}

impl SplitRing {
    /// A ring whose buffers are used for `access` and which goes on at its used index, with nothing in flight.
    ///
    /// The front-end sends a base of its own (vhost-user SET_VRING_BASE), which is the used index wherever every buffer is
    /// given back in order before a ring stops, as here. Where it is not, it is a front-end's guess: zero after the back-end
    /// died (DPDK's virtio_user), or the available index. The used index lies in guest memory and outlives back-ends: what
    /// is below it was served, and what is above it was not, or the guest never learned that it was. DPDK's vhost library
    /// goes by it too, and so does libvhost-user for devices that serve in order.
    pub(crate) fn new(
        setup: RingSetup,
        memory: Arc<RegionTable>,
        access: Access,
        features: RingFeatures,
    ) -> Result<Self, RingFault> {
        let layout = RingLayout::new(&setup, memory)?;
        let start = layout.used_idx();
        Ok(Self {
            layout,
            setup,
            next_avail: start,
            next_used: start,
            staged: 0,
            seen_avail: start,
            ahead: Ahead::new(),
            access,
            calls: CallState::default(),
            features,
        })
    }

    /// The same ring over a new memory table.
    pub(crate) fn relocate(&mut self, memory: Arc<RegionTable>) -> Result<(), RingFault> {
        self.layout = RingLayout::new(&self.setup, memory)?;
        self.seen_avail = self.next_avail.wrapping_add(self.staged);
        self.ahead.forget();
        Ok(())
    }

    pub(crate) fn set_features(&mut self, features: RingFeatures) {
        self.features = features;
    }

    /// How many chains were taken in all, modulo 2^16: what the front-end stores as the ring's base.
    pub(crate) fn next_avail(&self) -> u16 {
        self.next_avail
    }

    pub(crate) fn layout(&self) -> &RingLayout {
        &self.layout
    }

    pub(crate) fn size(&self) -> u16 {
        self.layout.size()
    }

    /// Looks at available chains beyond those staged until `wanted` (at most [`BURST`]) are ready to be taken, or there are no
    /// more; returns how many are. Nothing is taken yet.
    ///
    /// A head that is no descriptor ends the look; what came before it is served first.
    ///
    /// # Errors
    /// The available index jumped, or the first head is no descriptor.
    #[inline]
    pub(crate) fn look_ahead(&mut self, wanted: usize) -> Result<usize, RingFault> {
        let have = self.ahead.len();
        if have >= wanted {
            return Ok(wanted);
        }
        let start = self.behind_ahead(self.next_avail);
        let missing = wanted.min(BURST) - have;
        let mut ready = usize::from(self.seen_avail.wrapping_sub(start));
        if ready < missing {
            ready = usize::from(self.look()?.wrapping_sub(start));
        }
        let good = self.extend_ahead(ready.min(missing));
        match self.ahead.len() {
            0 if !good => {
                Err(RingFault::DescriptorIndex { index: self.layout.avail_head(start), size: self.size() })
            }
            now => Ok(now),
        }
    }

    /// Looks at the chains of a later burst without asking the guest for more than it was known to have made available. What
    /// is wrong with one of them is found when it is looked at again.
    #[inline]
    pub(crate) fn look_further(&mut self) {
        let known = usize::from(self.seen_avail.wrapping_sub(self.behind_ahead(self.next_avail)));
        self.extend_ahead(known.min(BURST - self.ahead.len()));
    }

    /// Looks at `count` more chains, which are available; false if one was left out.
    #[inline]
    fn extend_ahead(&mut self, count: usize) -> bool {
        #[allow(clippy::cast_possible_truncation, reason = "a burst has 32 packets")]
        self.layout.prefetch_used(self.behind_ahead(self.next_used), count as u16);
        let start = self.behind_ahead(self.next_avail);
        self.ahead.extend(&self.layout, start, count, self.access)
    }

    /// The number behind what is staged and what was looked at, counted from `next`.
    #[inline]
    fn behind_ahead(&self, next: u16) -> u16 {
        #[allow(clippy::cast_possible_truncation, reason = "a burst has 32 packets")]
        next.wrapping_add(self.staged).wrapping_add(self.ahead.len() as u16)
    }

    /// The next chain that was looked at.
    #[inline]
    pub(crate) fn peek(&self) -> Option<AvailChain> {
        self.ahead.peek()
    }

    /// Reads the available index afresh.
    fn look(&mut self) -> Result<u16, RingFault> {
        let avail = self.layout.avail_idx();
        // Behind what is staged is as wrong as beyond the ring: the guest took back what it had made available.
        if !(self.staged..=self.size()).contains(&avail.wrapping_sub(self.next_avail)) {
            return Err(RingFault::AvailIndexJump { from: self.next_avail, to: avail, size: self.size() });
        }
        self.seen_avail = avail;
        Ok(avail)
    }

    /// Whether chains are available, by a fresh look.
    pub(crate) fn has_available(&mut self) -> Result<bool, RingFault> {
        Ok(self.look()? != self.next_avail.wrapping_add(self.staged))
    }

    /// Starts to walk a chain.
    #[inline]
    pub(crate) fn walk(&self, chain: &AvailChain) -> ChainReader<'_> {
        ChainReader::new(&self.layout, chain.first, self.features.indirect)
    }

    /// Takes the chain that [`peek`](Self::peek) showed, whose head is `head`, and writes its used entry without publishing
    /// it.
    #[inline]
    pub(crate) fn stage_used(&mut self, head: u16, len: u32) {
        self.ahead.advance();
        self.layout.write_used(self.next_used.wrapping_add(self.staged), head, len);
        self.staged += 1;
    }

    /// Takes back the last `count` staged chains, as if they had not been taken.
    pub(crate) fn unstage(&mut self, count: u16) {
        debug_assert!(count <= self.staged);
        self.staged -= count;
        self.ahead.forget();
    }

    /// Publishes every staged chain; true if there were any.
    #[inline]
    pub(crate) fn flush_used(&mut self) -> bool {
        if self.staged == 0 {
            return false;
        }
        if self.features.logging {
            self.layout.log_used(self.next_used, self.staged);
        }
        self.next_avail = self.next_avail.wrapping_add(self.staged);
        self.next_used = self.next_used.wrapping_add(self.staged);
        self.staged = 0;
        self.layout.publish_used(self.next_used);
        true
    }

    /// Records that `len` bytes were written at the start of `span`, if anybody wants to know.
    #[inline]
    pub(crate) fn log_write(&self, span: &Span, len: usize) {
        if self.features.logging {
            self.layout.memory().log_write(span, len);
        }
    }

    /// Whether the guest wants a call for what was published since the last question.
    pub(crate) fn needs_call(&mut self) -> bool {
        let wanted = self.calls.needed(&self.layout, self.features.event_idx, self.next_used);
        wanted || self.features.notify_on_empty && self.layout.avail_idx() == self.next_avail
    }

    /// Tells the guest that the ring is being polled, so that it need not kick.
    pub(crate) fn suppress_kicks(&mut self) {
        if !self.features.event_idx {
            self.layout.set_used_no_notify(true);
            self.log_kick_wish();
        }
        // With EVENT_IDX the event index simply stays where it is: the guest kicks once when it passes it.
    }

    /// Asks the guest to kick for the next chain; true if chains are available already, and then nothing was promised.
    ///
    /// # Errors
    /// The available index jumped.
    pub(crate) fn request_kick(&mut self) -> Result<bool, RingFault> {
        super::notify::request_kick(&self.layout, self.features.event_idx, self.next_avail);
        self.log_kick_wish();
        self.has_available()
    }

    fn log_kick_wish(&self) {
        if self.features.logging {
            self.layout.log_kick_wish(self.features.event_idx);
        }
    }
}
