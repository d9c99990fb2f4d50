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
use crate::control::flow_text::mask_text;
use crate::control::protocol::{CacheInfo, SubtableInfo, TierInfo, WorkerCache};
use crate::worker::report::Report;
use crate::worker::{Message, WorkerHandle};

/// Longest wait for a worker to write its subtables down.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The ways in which packets are decided, and the counters of each: packets decided, packets looked up, cycles spent.
const TIERS: [(&str, &str, &str); 4] = [
    ("run of equal keys", "repeats", "key_cycles"),
    ("exact match", "exact_hits", "exact_match_cycles"),
    ("classifier", "classifier_hits", "classifier_cycles"),
    ("slow path", "upcalls", "slow_path_cycles"),
];

impl Appliance {
    pub(super) fn show_caches(&self) -> CacheInfo {
        // All are asked before the first is waited for.
        let reports: Vec<_> = self.workers.iter().map(ask).collect();
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let workers = self.workers.iter().zip(reports).enumerate().map(|(index, (worker, report))| {
            let counters: Vec<_> =
                worker.shared.pipeline.snapshot().map(|(name, count)| (name.to_owned(), count)).collect();
            let is_done = soon(deadline, || report.is_written());
            let subtables = is_done.then(|| report.take().iter().map(subtable_info).collect());
            WorkerCache { worker: index, tiers: tiers(&counters), counters, subtables }
        });
        CacheInfo { workers: workers.collect() }
    }
}

fn ask(worker: &WorkerHandle) -> Arc<Report> {
    let expected = worker.shared.pipeline.subtables.load(Ordering::Relaxed);
    // Masks that come meanwhile have room, too.
    let report = Arc::new(Report::with_room_for(usize::try_from(expected).unwrap_or(0) * 2 + 64));
    worker.send(Message::Report(Arc::clone(&report)));
    report
}

fn subtable_info(stats: &SubtableStats) -> SubtableInfo {
    SubtableInfo { mask: mask_text(&stats.mask), flows: stats.flows as u64, hits: stats.hits }
}

fn tiers(counters: &[(String, u64)]) -> Vec<TierInfo> {
    let get = |wanted: &str| counters.iter().find(|(name, _)| name == wanted).map(|&(_, count)| count);
    let total = get("packets").unwrap_or(0).max(1) as f64;
    let tiers = TIERS.iter().map(|&(name, hits, cycles)| {
        let packets = get(hits).unwrap_or(0);
        let cycles = get(cycles).filter(|_| packets > 0);
        TierInfo {
            name: name.to_owned(),
            packets,
            share: packets as f64 / total,
            cycles_per_packet: cycles.map(|cycles| cycles as f64 / packets as f64),
        }
    });
    tiers.collect()
}
