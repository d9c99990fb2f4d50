//! The packets of a burst that a pass is about: all of them at first, then those that go through the switch again, what is
//! left to do with them being the same.
//!
//! A pass numbers its packets by itself, from 0 on in the burst's order; a *slot* is such a number, a *position* is a
//! packet's place in the burst. For the first pass they are the same, which the compiler sees: passes are generic.

use std::sync::Arc;

use crate::flow::key::FlowKey;
use crate::packet::{BURST, Burst, Packet};
use crate::recirculation::Recirculation;

/// The packets that a pass is about, all of which came in by one port.
pub(super) trait Selection {
    /// How many they are, [`BURST`] at most.
    fn len(&self) -> usize;

    /// The packets of the burst from a slot on.
    fn packets<'b>(&self, burst: &'b Burst, slot: usize) -> impl Iterator<Item = &'b Packet>;

    /// Where the packet of a slot is in the burst.
    fn position(&self, slot: usize) -> usize;

    /// What they came back for.
    fn resumes(&self) -> Option<&Arc<Recirculation>>;

    /// Fills what the switch knows about a packet of the selection into its key, whose header words were filled. Where no
    /// megaflow looks at more than port and pass, no more need be filled.
    fn fill_metadata(&self, key: &mut FlowKey, has_more: bool);
}

/// All packets of a burst, on their first pass.
#[derive(Debug)]
pub(super) struct Whole(pub(super) usize);

impl Selection for Whole {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0
    }

    #[inline(always)]
    fn packets<'b>(&self, burst: &'b Burst, slot: usize) -> impl Iterator<Item = &'b Packet> {
        burst.packets()[slot..].iter()
    }

    #[inline(always)]
    fn position(&self, slot: usize) -> usize {
        slot
    }

    #[inline(always)]
    fn resumes(&self) -> Option<&Arc<Recirculation>> {
        None
    }

    #[inline(always)]
    fn fill_metadata(&self, key: &mut FlowKey, has_more: bool) {
        // The pass was written with the port.
        if has_more {
            key.set_metadata(0);
        }
    }
}

/// Packets that came back.
#[derive(Debug)]
pub(super) struct Returned {
    resumes: Arc<Recirculation>,
    positions: [u8; BURST],
    len: usize,
}

impl Returned {
    /// The packets whose positions have their bits set.
    pub(super) fn new(resumes: Arc<Recirculation>, mut bits: u32) -> Self {
        let (mut positions, mut len) = ([0; BURST], 0);
        while bits != 0 {
            #[allow(clippy::cast_possible_truncation, reason = "a burst has 32 packets")]
            {
                positions[len] = bits.trailing_zeros() as u8;
            }
            bits &= bits - 1;
            len += 1;
        }
        Self { resumes, positions, len }
    }
}

impl Selection for Returned {
    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn packets<'b>(&self, burst: &'b Burst, slot: usize) -> impl Iterator<Item = &'b Packet> {
        self.positions[slot..self.len].iter().map(|&at| &burst.packets()[usize::from(at)])
    }

    #[inline]
    fn position(&self, slot: usize) -> usize {
        usize::from(self.positions[slot])
    }

    #[inline]
    fn resumes(&self) -> Option<&Arc<Recirculation>> {
        Some(&self.resumes)
    }

    #[inline]
    fn fill_metadata(&self, key: &mut FlowKey, _: bool) {
        key.set_metadata(self.resumes.id());
    }
}
