//! When a worker that found nothing stops looking and sleeps.
//!
//! A sleep costs its wake-up: a system call by the guest and the kernel's switch to us, some microseconds. Looking costs
//! the core. So a worker looks on for as long as a wake-up is likely to come meanwhile, and learns how long that is: a
//! sleep that ended sooner than it would have looked at most was not worth it, and doubles the time; a long sleep halves
//! it. Under load it never sleeps; with idle guests it looks for a few microseconds a second.

use std::time::{Duration, Instant};

use crate::config::PollMode;

/// Longest time to look before sleeping.
const MAX_LOOK: Duration = Duration::from_micros(50);

/// Shortest time to look before sleeping.
const MIN_LOOK: Duration = Duration::from_micros(2);

/// What to do after a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Look again.
    Look,
    /// Ask for kicks and sleep.
    Sleep,
}

/// How one worker waits.
#[derive(Debug)]
pub struct Idle {
    mode: PollMode,
    look: Duration,
    /// When the first of the rounds that found nothing ended.
    since: Option<Instant>,
}

impl Idle {
    /// A worker that has just found something.
    pub fn new(mode: PollMode) -> Self {
        Self { mode, look: MAX_LOOK, since: None }
    }

    /// What to do after a round that ended at `now` and `found` something or not.
    pub fn after_round(&mut self, found: bool, now: Instant) -> Next {
        if found || self.mode == PollMode::Busy {
            self.since = None;
            return Next::Look;
        }
        let since = *self.since.get_or_insert(now);
        let look = match self.mode {
            PollMode::Interrupt => Duration::ZERO,
            PollMode::Adaptive | PollMode::Busy => self.look,
        };
        if now.duration_since(since) >= look { Next::Sleep } else { Next::Look }
    }

    /// Learns from a sleep of length `slept`.
    pub fn after_sleep(&mut self, slept: Duration) {
        self.since = None;
        self.look = if slept < MAX_LOOK { self.look * 2 } else { self.look / 2 }.clamp(MIN_LOOK, MAX_LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adaptive_looks_longer_after_short_sleeps_and_shorter_after_long_ones() {
        let mut idle = Idle::new(PollMode::Adaptive);
        let start = Instant::now();
        assert_eq!(idle.after_round(true, start), Next::Look);
        assert_eq!(idle.after_round(false, start), Next::Look);
        assert_eq!(idle.after_round(false, start + MAX_LOOK), Next::Sleep);
        for _ in 0..10 {
            idle.after_sleep(Duration::from_secs(1));
        }
        assert_eq!(idle.after_round(false, start), Next::Look);
        assert_eq!(idle.after_round(false, start + MIN_LOOK), Next::Sleep);
        idle.after_sleep(MIN_LOOK);
        assert_eq!(idle.after_round(false, start), Next::Look);
        assert_eq!(idle.after_round(false, start + MIN_LOOK), Next::Look);
        assert_eq!(idle.after_round(false, start + 2 * MIN_LOOK), Next::Sleep);
    }

    #[test]
    fn busy_never_sleeps_and_interrupt_never_looks_twice() {
        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        let mut busy = Idle::new(PollMode::Busy);
        assert_eq!(busy.after_round(false, now), Next::Look);
        assert_eq!(busy.after_round(false, later), Next::Look);
        let mut interrupt = Idle::new(PollMode::Interrupt);
        assert_eq!(interrupt.after_round(false, now), Next::Sleep);
    }
}
