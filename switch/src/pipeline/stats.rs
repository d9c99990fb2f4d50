//! What a pipeline counts, and how it times its passes.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! pipeline_stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of a pipeline.
        ///
        /// Each packet is in exactly one of `repeats`, `exact_hits`, `classifier_hits`, `upcalls`, `upcalls_over_budget` and
        /// `unreadable`; one that goes through the switch again is in one of them each time, and once more in
        /// `recirculated`.
        ///
        /// # Concurrency
        /// Written by the worker alone (a load and a store, relaxed), read by anyone at any time.
        #[derive(Debug, Default)]
        pub struct PipelineStats {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl PipelineStats {
            /// Every counter with its name, as it stands now.
            pub fn snapshot(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*].into_iter()
            }
        }
    };
}

pipeline_stats! {
    /// Bursts processed.
    bursts,
    /// Packets in them.
    packets,
    /// Further passes of packets, and passes of copies, that went through the switch again.
    recirculated,
    /// Packets that shared the fate of the one before them without a lookup.
    repeats,
    /// Packets that the exact-match cache knew.
    exact_hits,
    /// Packets that the classifier knew.
    classifier_hits,
    /// Of these, packets that the signature index led to their subtable.
    signature_hits,
    /// Subtables searched, once for each that a burst's packets were looked up in.
    subtables_searched,
    /// Packets that were translated by the slow path.
    upcalls,
    /// Packets dropped because their port's budget of upcalls was used up.
    upcalls_over_budget,
    /// Packets dropped because they have no key: too short, or with an offload that would change their headers later.
    unreadable,
    /// Copies handed to whoever listens.
    punts,
    /// Megaflows installed.
    flows_installed,
    /// Translations that could not be installed because there were too many megaflows, in all or of the port, or too many
    /// masks of the port.
    flow_table_full,
    /// Cycles that the slow path took.
    upcall_cycles,
    /// Packets of the bursts whose passes were timed: one burst in 32.
    timed_packets,
    /// Cycles that making the keys of these packets took.
    timed_keys_cycles,
    /// Lookups of these packets in the exact-match cache, one for each run.
    timed_exact_lookups,
    /// Cycles of these lookups.
    timed_exact_cycles,
    /// Lookups of these packets in the classifier, the signature index included.
    timed_classifier_lookups,
    /// Cycles of these lookups.
    timed_classifier_cycles,
    /// Cycles that counting these packets, their actions and their transmission took.
    timed_actions_cycles,
    /// Entries of the exact-match cache at present.
    exact_match_entries,
    /// Megaflows at present.
    flows,
    /// Masks at present.
    subtables,
}

/// Adds to a counter of which this worker is the only writer.
#[inline]
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

/// Times the passes of a burst.
pub(super) struct Stopwatch {
    pub(super) now: fn() -> u64,
    pub(super) lap: u64,
    pub(super) runs: bool,
}

impl Stopwatch {
    /// The cycles since the last lap go to `counter`.
    #[inline]
    pub(super) fn lap(&mut self, counter: &AtomicU64) {
        if self.runs {
            let now = (self.now)();
            add(counter, now.wrapping_sub(self.lap));
            self.lap = now;
        }
    }
}

/// One burst in this many is timed: reading the counter six times in each would cost a packet some cycles.
pub(super) const TIMED_ONE_IN: u64 = 32;
