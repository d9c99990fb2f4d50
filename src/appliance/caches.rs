//! How the workers' caches do.
//!
//! Counters are read as they stand. What only the worker may look into, its subtables, it writes down when asked, between
//! two bursts and into memory that the asking thread brought; nobody waits for it longer than `ANSWER_TIMEOUT`, and it
//! waits for nobody.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use vsteer_switch::classifier::SubtableStats;

use super::{Appliance, soon};
use crate::worker::report::Report;
use crate::worker::{Message, WorkerHandle};

/// Longest wait for a worker to write its subtables down.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The caches of one worker.
#[derive(Debug, Clone)]
pub struct CacheReport {
    /// Every counter of its pipeline by name, since the start.
    pub counters: Vec<(&'static str, u64)>,
    /// The ways in which packets are decided, fastest first, and what follows the decision.
    pub tiers: Vec<TierReport>,
    /// Subtables of its classifier, in the order in which they are searched; `None` if the worker did not answer in time.
    pub subtables: Option<Vec<SubtableStats>>,
}

/// One way in which packets are decided.
#[derive(Debug, Clone, PartialEq)]
pub struct TierReport {
    /// Its name.
    pub name: &'static str,
    /// Packets decided there.
    pub packets: u64,
    /// Their share of all packets, 0 to 1.
    pub share: f64,
    /// Cycles spent there for each packet that came that far, as far as they were measured.
    pub cycles_per_packet: Option<f64>,
}

/// A way in which packets are decided, by the names of its counters.
struct Tier {
    name: &'static str,
    /// Packets that it decided.
    packets: &'static str,
    /// Cycles that were measured there.
    cycles: &'static str,
    /// What these cycles were spent on, one by one.
    measured: &'static str,
}

/// Fastest first, and what follows the decision.
const TIERS: [Tier; 5] = [
    Tier {
        name: "keys; run of equal keys",
        packets: "repeats",
        cycles: "timed_keys_cycles",
        measured: "timed_packets",
    },
    Tier {
        name: "exact match",
        packets: "exact_hits",
        cycles: "timed_exact_cycles",
        measured: "timed_exact_lookups",
    },
    Tier {
        name: "classifier",
        packets: "classifier_hits",
        cycles: "timed_classifier_cycles",
        measured: "timed_classifier_lookups",
    },
    Tier { name: "slow path", packets: "upcalls", cycles: "upcall_cycles", measured: "upcalls" },
    Tier {
        name: "actions and transmission",
        packets: "packets",
        cycles: "timed_actions_cycles",
        measured: "timed_packets",
    },
];

impl Appliance {
    /// The caches of each worker.
    pub fn caches(&self) -> Vec<CacheReport> {
        // All are asked before the first is waited for.
        let reports: Vec<_> = self.workers.iter().map(ask).collect();
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let caches = self.workers.iter().zip(reports).map(|(worker, report)| {
            let counters: Vec<_> = worker.shared.pipeline.snapshot().collect();
            let is_done = soon(deadline, || report.is_written());
            let subtables = is_done.then(|| report.take());
            CacheReport { tiers: tiers(&counters), counters, subtables }
        });
        caches.collect()
    }
}

fn ask(worker: &WorkerHandle) -> Arc<Report> {
    let expected = worker.shared.pipeline.subtables.load(Ordering::Relaxed);
    // Masks that come meanwhile have room, too.
    let report = Arc::new(Report::with_room_for(usize::try_from(expected).unwrap_or(0) * 2 + 64));
    worker.send(Message::Report(Arc::clone(&report)));
    report
}

fn tiers(counters: &[(&str, u64)]) -> Vec<TierReport> {
    let get = |wanted: &str| counters.iter().find(|&&(name, _)| name == wanted).map(|&(_, count)| count);
    let total = get("packets").unwrap_or(0).max(1) as f64;
    let tiers = TIERS.iter().map(|tier| {
        let packets = get(tier.packets).unwrap_or(0);
        let measured = get(tier.measured).filter(|&measured| measured > 0);
        TierReport {
            name: tier.name,
            packets,
            share: packets as f64 / total,
            cycles_per_packet: get(tier.cycles)
                .zip(measured)
                .map(|(cycles, measured)| cycles as f64 / measured as f64),
        }
    });
    tiers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_are_those_of_the_packets_that_were_measured() {
        let counters = [
            ("packets", 1000),
            ("exact_hits", 750),
            ("timed_exact_lookups", 10),
            ("timed_exact_cycles", 600),
            ("upcalls", 0),
            ("upcall_cycles", 0),
        ];
        let tiers = tiers(&counters);
        let exact = &tiers[1];
        assert_eq!((exact.packets, exact.share, exact.cycles_per_packet), (750, 0.75, Some(60.0)));
        assert_eq!(tiers[3].cycles_per_packet, None, "nothing was measured");
        assert_eq!(tiers[0].cycles_per_packet, None, "not counted");
    }
}
