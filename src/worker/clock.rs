//! Time as a worker sees it: cycles for what is measured, milliseconds for what ages.
//!
//! Asking the kernel for the time costs as much as switching a packet, so a busy worker reads the processor's cycle counter
//! once a round and asks the kernel only when enough cycles have gone by.

#![allow(unsafe_code, reason = "reads the processor's cycle counter")]

use std::sync::LazyLock;
use std::time::Instant;

/// Cycles after which the kernel is asked again: well under a millisecond on any processor.
const CYCLES_PER_LOOK: u64 = 1 << 18;

/// The processor's cycle counter, which ticks at a constant rate; nanoseconds where there is none.
#[inline]
pub fn cycles(start: Instant) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        let _ = start;
        // SAFETY: RDTSC is part of x86-64, and Linux leaves it to user space.
        unsafe { std::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The same counter for those who only take differences.
pub fn counter() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    cycles(*START)
}

/// A worker's clock.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    /// The kernel's time at the last look.
    now: Instant,
    /// The counter at the last look.
    looked_at: u64,
}

impl Clock {
    /// A clock of milliseconds since `start`.
    pub fn new(start: Instant) -> Self {
        Self { start, now: Instant::now(), looked_at: cycles(start) }
    }

    /// The counter.
    #[inline]
    pub fn cycles(&self) -> u64 {
        cycles(self.start)
    }

    /// Takes note that the counter stands at `cycles`; true if the kernel was asked for the time.
    #[inline]
    pub fn pass(&mut self, cycles: u64) -> bool {
        let is_due = cycles.wrapping_sub(self.looked_at) >= CYCLES_PER_LOOK;
        if is_due {
            self.look();
        }
        is_due
    }

    /// Asks the kernel for the time.
    pub fn look(&mut self) -> Instant {
        self.now = Instant::now();
        self.looked_at = self.cycles();
        self.now
    }

    /// The time at the last look.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Milliseconds from the start to the last look.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.now.duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn kernel_is_asked_only_when_enough_cycles_have_passed() {
        let mut clock = Clock::new(Instant::now());
        let cycles = clock.cycles();
        assert!(!clock.pass(cycles));
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(clock.now_ms(), 0);
        assert!(clock.pass(clock.cycles()));
        assert!(clock.now_ms() >= 5);
    }
}
