//! Frames on their way out by one port, and the work that the port leaves to software.
//!
//! A batch arrives with the offload state of each packet. What the port does not take is finished on the way
//! (`vsteer_switch::egress`); the rest goes as it is.

use vsteer_switch::counters::PortCounters;
use vsteer_switch::egress::{Finisher, OffloadCaps};
use vsteer_switch::packet::{BURST, Burst, Frame};

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

    /// Shows the other side what was sent so far: a frame that is cut into thousands of segments would otherwise fill its
    /// buffers without its knowledge, and the rest would find none.
    fn show(&mut self);
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
            let mut count = 0;
            let result =
                finisher.finish(&burst.frame(usize::from(index)), caps, max_frame_bytes, |finished| {
                    sink.send(std::iter::once(*finished));
                    count += 1;
                    if count % BURST == 0 {
                        sink.show();
                    }
                    Ok(())
                });
            if let Err(reason) = result {
                counters.dropped(reason, 1);
            }
            left = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use vsteer_switch::packet::{Checksum, GsoKind, Offload, Segment};
    use vsteer_switch::port::PortId;

    use super::*;

    /// Frames sent since the last look, and each such count.
    #[derive(Default)]
    struct Looks {
        since: usize,
        shown: Vec<usize>,
    }

    impl Sink for Looks {
        fn send<'f>(&mut self, frames: impl ExactSizeIterator<Item = Frame<'f>>) {
            self.since += frames.count();
        }

        fn show(&mut self) {
            self.shown.push(std::mem::take(&mut self.since));
        }
    }

    /// TCP over IPv4 without options, with 64 bytes a segment.
    fn long_frame(payload_len: u16) -> (Vec<u8>, Offload) {
        let mut bytes = vec![0; 54 + usize::from(payload_len)];
        bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
        bytes[16..18].copy_from_slice(&(40 + payload_len).to_be_bytes());
        (bytes[22], bytes[23], bytes[46]) = (64, 6, 0x50);
        let checksum = Checksum::Partial { start: 34, offset: 16 };
        (bytes, Offload { checksum, gso: GsoKind::TcpV4, gso_size: 64, ..Offload::NONE })
    }

    #[test]
    fn segments_of_a_long_frame_are_shown_as_they_come() {
        let (bytes, offload) = long_frame(64_000);
        let mut burst = Burst::new();
        let len = u32::try_from(bytes.len()).unwrap();
        // SAFETY: the frame outlives the burst's use of it.
        #[allow(unsafe_code, reason = "segments are made of raw pointers")]
        let segment = unsafe { Segment::new(bytes.as_ptr(), len) };
        burst.push(PortId::ZERO, offload, &[segment]);
        let counters = PortCounters::default();
        let batch =
            Batch { burst: &burst, indices: &[0], worker: 0, counters: &counters, max_frame_bytes: 1514 };
        let mut looks = Looks::default();
        batch.finish(OffloadCaps::NONE, &mut Finisher::new(), &mut looks);
        assert_eq!(looks.shown, [BURST; 31], "1000 segments");
        assert_eq!(looks.since, 8, "what is left is shown when the batch ends");
    }
}
