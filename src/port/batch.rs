//! Frames on their way out by one port, and the work that the port leaves to software.
//!
//! A batch arrives with the offload state of each packet. What the port does not take is finished on the way
//! (`vsteer_switch::egress`); the rest goes as it is.

use vsteer_switch::counters::PortCounters;
use vsteer_switch::egress::{Finisher, OffloadCaps};
use vsteer_switch::packet::{Burst, Frame};

/// Frames of a burst that leave by one port.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Where the frames are.
    pub burst: &'a Burst,
    /// Which they are, in order.
    pub indices: &'a [u8],
    /// Who sends them.
    pub worker: usize,
    /// Where that worker counts what becomes of them.
    pub counters: &'a PortCounters,
    /// Longest frame that may leave by the port, not counting offloads.
    pub max_frame_bytes: usize,
}

/// What takes frames that need no more work, and counts them, sent or dropped.
pub(super) trait Sink {
    /// Takes `frames`, in order.
    fn send<'f>(&mut self, frames: impl ExactSizeIterator<Item = Frame<'f>>);
}

impl<'a> Batch<'a> {
    /// The same batch with only the frames at `indices`.
    pub(super) fn with(self, indices: &'a [u8]) -> Self {
        Self { indices, ..self }
    }

    /// Its frames.
    pub(super) fn frames(self) -> impl ExactSizeIterator<Item = Frame<'a>> {
        self.indices.iter().map(move |&index| self.burst.frame(usize::from(index)))
    }

    /// Hands the frames to `sink` in a form that `caps` cover, and counts those of which there is none.
    #[inline]
    pub(super) fn finish(self, caps: OffloadCaps, finisher: &mut Finisher, sink: &mut impl Sink) {
        let Self { burst, counters, max_frame_bytes, .. } = self;
        let takes = |&index: &u8| caps.takes(&burst.frame(usize::from(index)), max_frame_bytes);
        let mut left = self.indices;
        // Frames leave in order: first those that go as they are, then one that software finishes, and so on.
        // Bound: each round takes at least one frame off `left`, or it is the last.
        loop {
            let whole = left.iter().take_while(|index| takes(index)).count();
            let (now, later) = left.split_at(whole);
            if !now.is_empty() {
                sink.send(self.with(now).frames());
            }
            let Some((&index, later)) = later.split_first() else { break };
            let result =
                finisher.finish(&burst.frame(usize::from(index)), caps, max_frame_bytes, |finished| {
                    sink.send(std::iter::once(*finished));
                    Ok(())
                });
            if let Err(reason) = result {
                counters.dropped(reason, 1);
            }
            left = later;
        }
    }
}
