//! How many megaflows there may be, found by measuring what it costs to keep them right.
//!
//! A change of rules, ports or addresses must reach every megaflow, and until it has, packets follow the older decision.
//! So the number of flows that can be translated again within `TARGET` is the number that may be. It depends on the
//! machine, on its load and on the rules, and is measured: each pass that re-translates enough flows says how many would
//! fit. Worse news is believed by half at once, better news in steps of a quarter, so that one bad moment costs little and
//! one good one promises nothing.
//!
//! A table that fills up makes room by itself: from three quarters of the limit on, flows must be used the more often to
//! stay, down to ten times a second at the limit. Above twice the limit, which only a limit that fell can bring about,
//! everything goes, as picking would take longer than deciding anew.
//!
//! # Source
//! Open vSwitch's `flow-limit` adapts as well, by thresholds on the time of a dump whatever the dump had to do.

use std::time::Duration;

/// Longest that a change may take to reach every megaflow.
pub const TARGET: Duration = Duration::from_secs(1);

/// Fewest megaflows that are always allowed: re-translating them takes moments on any machine.
pub const MIN_FLOWS: usize = 4096;

/// Flows of a pass that is worth a measurement; a shorter one measures the scheduler.
const MIN_SAMPLE: usize = 1024;

/// How soon an unused flow goes when there is no room left.
const SHORTEST_IDLE_MS: u64 = 100;

/// The limit, as it adapts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowLimit {
    most: usize,
    now: usize,
}

impl FlowLimit {
    /// Starts at the most there may ever be.
    pub fn new(most: usize) -> Self {
        Self { most, now: most }
    }

    /// The limit.
    pub fn get(&self) -> usize {
        self.now
    }

    /// Takes note that a pass went through `visited` flows, translated `rechecked` of them again, and took so long.
    pub fn measured(&mut self, visited: usize, rechecked: usize, took: Duration) {
        // A pass that translated nothing says only what cannot be done.
        let (sample, may_rise) = if rechecked >= MIN_SAMPLE { (rechecked, true) } else { (visited, false) };
        if sample < MIN_SAMPLE {
            return;
        }
        let fits = sample as u128 * TARGET.as_nanos() / took.as_nanos().max(1);
        let fits = usize::try_from(fits).unwrap_or(usize::MAX);
        if fits < self.now {
            self.now = fits.midpoint(self.now);
        } else if may_rise {
            self.now = fits.min(self.now + self.now / 4);
        }
        self.now = self.now.clamp(MIN_FLOWS.min(self.most), self.most);
    }

    /// How long a flow may go unused when there are `flows`, `max_idle_ms` at most.
    pub fn idle_ms(&self, flows: usize, max_idle_ms: u64) -> u64 {
        let pressure_from = self.now - self.now / 4;
        let shortest = SHORTEST_IDLE_MS.min(max_idle_ms);
        if flows <= pressure_from {
            return max_idle_ms;
        }
        let room = (self.now.saturating_sub(flows)) as u64;
        shortest + (max_idle_ms - shortest) * room / ((self.now - pressure_from) as u64).max(1)
    }

    /// Whether there are so many flows that all must go.
    pub fn is_hopeless(&self, flows: usize) -> bool {
        flows > self.now.saturating_mul(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_goes_where_passes_take_the_target_time() {
        let mut limit = FlowLimit::new(1_000_000);
        for _ in 0..64 {
            // Four microseconds a flow.
            let flows = limit.get();
            limit.measured(flows, flows, Duration::from_micros(4 * flows as u64));
        }
        assert!((249_000..=251_000).contains(&limit.get()), "{}", limit.get());
        for _ in 0..64 {
            let flows = limit.get();
            limit.measured(flows, flows, Duration::from_nanos(100 * flows as u64));
        }
        assert_eq!(limit.get(), 1_000_000);
    }

    #[test]
    fn one_bad_moment_costs_no_more_than_half_and_never_the_floor() {
        let mut limit = FlowLimit::new(100_000);
        limit.measured(100_000, 100_000, Duration::from_secs(3600));
        assert!(limit.get() >= 50_000);
        for _ in 0..64 {
            limit.measured(5_000, 5_000, Duration::from_secs(3600));
        }
        assert_eq!(limit.get(), MIN_FLOWS);
        assert_eq!(FlowLimit::new(10).get(), 10);
    }

    #[test]
    fn passes_that_translate_nothing_never_raise_it_and_tiny_ones_do_not_count() {
        let mut limit = FlowLimit::new(100_000);
        limit.measured(10, 10, Duration::from_secs(9));
        assert_eq!(limit.get(), 100_000);
        limit.measured(50_000, 0, Duration::from_secs(1));
        assert_eq!(limit.get(), 75_000);
        limit.measured(50_000, 0, Duration::from_millis(1));
        assert_eq!(limit.get(), 75_000);
        limit.measured(50_000, 50_000, Duration::from_millis(1));
        assert_eq!(limit.get(), 93_750);
    }

    #[test]
    fn idle_time_shrinks_as_the_table_fills() {
        let limit = FlowLimit::new(1000);
        assert_eq!(limit.idle_ms(750, 10_000), 10_000);
        assert_eq!(limit.idle_ms(875, 10_000), 5_050);
        assert_eq!(limit.idle_ms(1000, 10_000), 100);
        assert_eq!(limit.idle_ms(5000, 10_000), 100);
        assert_eq!(limit.idle_ms(5000, 20), 20);
        assert!(!limit.is_hopeless(2000));
        assert!(limit.is_hopeless(2001));
    }
}
