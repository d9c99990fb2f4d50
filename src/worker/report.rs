//! What a worker reports: what it has done, and when asked, what it writes down about its subtables.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use vsteer_switch::classifier::SubtableStats;

use super::WorkerHandle;

/// What a worker has done since the start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorkerReport {
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    /// Rounds over its queues.
    pub rounds: u64,
    /// Share of its time spent in rounds that found packets, 0 to 1.
    pub busy: f64,
    /// Cycles in such rounds.
    pub busy_cycles: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Packets that the exact-match cache decided.
    pub exact_hits: u64,
    /// Packets that the classifier decided.
    pub classifier_hits: u64,
    /// Packets that went to the slow path.
    pub upcalls: u64,
    /// Megaflows installed now.
    pub flows: u64,
}

impl WorkerReport {
    /// That of `worker` now.
    pub fn of(worker: &WorkerHandle) -> Self {
        let shared = &worker.shared;
        // Relaxed: each number stands alone.
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let busy_cycles = get(&shared.busy_cycles);
        Self {
            cpu: worker.cpu,
            rounds: get(&shared.rounds),
            busy: busy_cycles as f64 / get(&shared.total_cycles).max(1) as f64,
            busy_cycles,
            sleeps: get(&shared.sleeps),
            exact_hits: get(&shared.pipeline.exact_hits),
            classifier_hits: get(&shared.pipeline.classifier_hits),
            upcalls: get(&shared.pipeline.upcalls),
            flows: get(&shared.pipeline.flows),
        }
    }
}

/// A sheet that travels to a worker empty and comes back written.
///
/// # Concurrency
/// The asking thread makes it, memory and all; the worker fills it between two bursts, without allocating; the asking
/// thread reads and frees it. Neither waits for the other.
#[derive(Debug)]
pub struct Report {
    empty: ArrayQueue<Vec<SubtableStats>>,
    written: ArrayQueue<Vec<SubtableStats>>,
}

impl Report {
    /// A sheet for at most `count` subtables.
    pub fn with_room_for(count: usize) -> Self {
        let report = Self { empty: ArrayQueue::new(1), written: ArrayQueue::new(1) };
        let is_queued = report.empty.push(Vec::with_capacity(count)).is_ok();
        debug_assert!(is_queued, "the queue is new");
        report
    }

    /// Writes down as many as there is room for; only the first call does.
    pub fn write(&self, subtables: impl Iterator<Item = SubtableStats>) {
        if let Some(mut sheet) = self.empty.pop() {
            sheet.extend(subtables.take(sheet.capacity()));
            let is_queued = self.written.push(sheet).is_ok();
            debug_assert!(is_queued, "there is one sheet");
        }
    }

    /// Whether the worker has written.
    pub fn is_written(&self) -> bool {
        !self.written.is_empty()
    }

    /// What it wrote, once.
    pub fn take(&self) -> Vec<SubtableStats> {
        self.written.pop().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vsteer_switch::port::PortId;

    use super::*;

    #[test]
    fn sheet_takes_what_it_has_room_for_and_is_read_once() {
        let stats = |hits| SubtableStats { port: PortId::ZERO, mask: Arc::default(), flows: 1, hits };
        let report = Report::with_room_for(2);
        assert!(!report.is_written());
        report.write((0..9).map(stats));
        report.write([stats(99)].into_iter());
        assert!(report.is_written());
        assert_eq!(report.take().iter().map(|stats| stats.hits).collect::<Vec<_>>(), [0, 1]);
        assert!(report.take().is_empty());
    }
}
