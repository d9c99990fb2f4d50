//! Spaces out the polls of a queue whose poll is a system call.
//!
//! Looking at an empty ring in shared memory costs a worker a few nanoseconds, an empty read of a TAP descriptor 260
//! (in a VM on AMD EPYC at 2.45 GHz). A worker that polled both in each round would spend most of an idle round, and
//! a good part of a busy one, on asking the kernel for packets that are not there. So an empty read makes the next
//! polls be skipped: one, then two, four, up to [`PollPacer::MAX_SKIPPED`]. The first packet ends the pause.
//!
//! The bound is a trade: the system call's cost is shared by that many rounds, 8 ns each, and the first packet after
//! a pause waits for at most that many. Twice the bound would save little more and double the wait. Too small a pause
//! is merely slow; there is no wrong one, as a skipped poll leaves packets in the kernel's queue.
//!
//! A pause counts polls and not time, so it needs no clock, and it shrinks by itself when the worker has nothing else
//! to do. What it leaves out: sleeping. A worker that waits in epoll on the descriptor is woken by the kernel
//! whatever the pause is; it calls [`PollPacer::resume`] then.

/// Decides which polls of a queue are worth a system call.
#[derive(Debug, Default)]
pub(super) struct PollPacer {
    /// Polls still to skip.
    to_skip: u32,
    /// Polls to skip after the next empty read.
    pause: u32,
}

impl PollPacer {
    /// Polls that are skipped at most between two empty reads.
    pub(super) const MAX_SKIPPED: u32 = 32;

    /// Whether this poll should read; if not, it was counted as skipped.
    #[inline]
    pub(super) fn is_due(&mut self) -> bool {
        match self.to_skip.checked_sub(1) {
            Some(left) => {
                self.to_skip = left;
                false
            }
            None => true,
        }
    }

    /// Notes that a read found nothing: the next polls are skipped.
    #[inline]
    pub(super) fn found_nothing(&mut self) {
        self.pause = (self.pause * 2).clamp(1, Self::MAX_SKIPPED);
        self.to_skip = self.pause;
    }

    /// Ends the pause, because a packet was read or one is known to wait: the next poll is due.
    #[inline]
    pub(super) fn resume(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls until one is due, and says how many were skipped before it.
    fn skipped(pacer: &mut PollPacer) -> u32 {
        (0..).find(|_| pacer.is_due()).unwrap()
    }

    #[test]
    fn pause_doubles_up_to_its_bound() {
        let mut pacer = PollPacer::default();
        assert_eq!(skipped(&mut pacer), 0);
        for expected in [1, 2, 4, 8, 16, 32, 32, 32] {
            pacer.found_nothing();
            assert_eq!(skipped(&mut pacer), expected);
            assert_eq!(skipped(&mut pacer), 0, "a poll stays due until its read is known");
        }
    }

    #[test]
    fn packet_ends_the_pause() {
        let mut pacer = PollPacer::default();
        for _ in 0..9 {
            pacer.found_nothing();
        }
        pacer.resume();
        assert!(pacer.is_due());
        pacer.found_nothing();
        assert_eq!(skipped(&mut pacer), 1, "the next pause starts short again");
    }
}
