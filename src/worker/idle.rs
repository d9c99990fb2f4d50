//! When a worker that found nothing stops looking and sleeps.
//!
//! A sleep costs its wake-up: a system call by the guest and the kernel's switch to us, some microseconds. Looking costs
//! the core. So a worker looks on for as long as a wake-up is likely to come meanwhile, and learns how long that is: a
//! sleep that ended sooner than it would have looked at most was not worth it, and doubles the time; a long sleep halves
//! it. Under load it never sleeps; with idle guests it looks for a few microseconds a second.

use std::time::{Duration, Instant};

use super::clock::Clock;
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

    /// The round found packets.
    #[inline]
    pub fn found(&mut self) {
        self.since = None;
    }

    /// The round found nothing: what to do.
    pub fn found_nothing(&mut self, clock: &mut Clock) -> Next {
        match self.mode {
            PollMode::Busy => Next::Look,
            PollMode::Interrupt => Next::Sleep,
            PollMode::Adaptive => self.adapt(clock.look()),
        }
    }

    /// Whether `now` is late enough to sleep.
    fn adapt(&mut self, now: Instant) -> Next {
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) >= self.look { Next::Sleep } else { Next::Look }
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
        assert_eq!(idle.adapt(start), Next::Look);
        assert_eq!(idle.adapt(start + MAX_LOOK), Next::Sleep);
        idle.found();
        assert_eq!(idle.adapt(start + MAX_LOOK), Next::Look);
        for _ in 0..10 {
            idle.after_sleep(Duration::from_secs(1));
        }
        assert_eq!(idle.adapt(start), Next::Look);
        assert_eq!(idle.adapt(start + MIN_LOOK), Next::Sleep);
        idle.after_sleep(MIN_LOOK);
        assert_eq!(idle.adapt(start), Next::Look);
        assert_eq!(idle.adapt(start + MIN_LOOK), Next::Look);
        assert_eq!(idle.adapt(start + 2 * MIN_LOOK), Next::Sleep);
    }

    #[test]
    fn busy_never_sleeps_and_interrupt_never_looks_twice() {
        let mut clock = Clock::new(Instant::now());
        assert_eq!(Idle::new(PollMode::Busy).found_nothing(&mut clock), Next::Look);
        assert_eq!(Idle::new(PollMode::Interrupt).found_nothing(&mut clock), Next::Sleep);
    }
}
