//! Time as a worker sees it: cycles for what is measured, milliseconds for what ages.
//!
//! Asking the kernel for the time costs as much as switching a packet, so a busy worker reads the processor's cycle counter
//! after each turn and asks the kernel only when enough cycles have gone by.

#![allow(unsafe_code, reason = "reads the processor's cycle counter")]

use std::time::Instant;

/// Cycles after which the kernel is asked again: well under a millisecond on any processor.
const CYCLES_PER_LOOK: u64 = 1 << 18;

/// The processor's cycle counter, which ticks at a constant rate. Reading it costs tens of cycles.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn counter() -> u64 {
    // SAFETY: RDTSC is part of x86-64, and Linux leaves it to user space.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Nanoseconds, where there is no cycle counter to read.
#[cfg(not(target_arch = "x86_64"))]
pub fn counter() -> u64 {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
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
        Self { start, now: Instant::now(), looked_at: counter() }
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
        self.looked_at = counter();
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
        assert!(!clock.pass(clock.looked_at));
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(clock.now_ms(), 0);
        assert!(clock.pass(counter()));
        assert!(clock.now_ms() >= 5);
    }
}
