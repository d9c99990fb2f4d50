//! What a worker writes down about its subtables when asked.

use crossbeam_queue::ArrayQueue;
use vsteer_switch::classifier::SubtableStats;

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
