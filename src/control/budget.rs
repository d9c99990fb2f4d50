//! Memory that requests may take, all clients together.
//!
//! A budget is dealt out in the order in which it was asked for: who needs much is not overtaken for ever by those who need
//! little. Small requests do not ask at all, see `server.rs`. Whoever holds a share of one budget may wait for a share of
//! another only in one order, lines before work, so nobody waits in a circle.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// So many bytes, for whoever comes first.
///
/// # Concurrency
/// Any thread takes a share, waits for it, and gives it back by dropping it.
#[derive(Debug)]
pub(super) struct Budget {
    total: usize,
    state: Mutex<State>,
    /// A share came back, or somebody stopped waiting.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Those who wait, first come first.
    waiting: VecDeque<u64>,
    next_ticket: u64,
    is_over: bool,
}

/// Part of a budget, which comes back when this is dropped.
#[derive(Debug)]
pub(super) struct Share<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl Budget {
    /// A budget of `total` bytes.
    pub(super) fn new(total: usize) -> Self {
        let state = State { free: total, waiting: VecDeque::new(), next_ticket: 0, is_over: false };
        Self { total, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// All of it.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Takes `bytes`, waiting for them no longer than `patience`; `None` if they were not to be had, which is so at once for
    /// more than there are in all.
    pub(super) fn take(&self, bytes: usize, patience: Duration) -> Option<Share<'_>> {
        if bytes > self.total {
            return None;
        }
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(ticket);
        // Bound: the deadline.
        let is_granted = loop {
            if state.is_over {
                break false;
            }
            if state.waiting.front() == Some(&ticket) && state.free >= bytes {
                state.free -= bytes;
                break true;
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break false;
            }
        };
        state.waiting.retain(|&other| other != ticket);
        drop(state);
        // The next in line may have room now.
        self.changed.notify_all();
        is_granted.then(|| Share { budget: self, bytes })
    }

    /// Ends all waiting, now and later.
    pub(super) fn close(&self) {
        self.state.lock().is_over = true;
        self.changed.notify_all();
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.budget.state.lock().free += self.bytes;
        self.budget.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn waiting(budget: &Budget, count: usize) {
        let begun = Instant::now();
        while budget.state.lock().waiting.len() != count {
            assert!(begun.elapsed() < LONG, "{:?}", budget.state.lock());
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn shares_are_never_more_than_the_whole_and_come_back() {
        let budget = Budget::new(10);
        let first = budget.take(6, Duration::ZERO).unwrap();
        assert!(budget.take(5, Duration::from_millis(10)).is_none());
        let second = budget.take(4, Duration::ZERO).unwrap();
        drop(first);
        assert!(budget.take(6, Duration::ZERO).is_some());
        drop(second);
        assert!(budget.take(10, Duration::ZERO).is_some());
        assert!(budget.take(11, LONG).is_none(), "at once: it will never be there");
    }

    #[test]
    fn large_share_is_not_overtaken_by_small_ones() {
        let budget = Budget::new(10);
        let held = budget.take(5, Duration::ZERO).unwrap();
        thread::scope(|scope| {
            let large = scope.spawn(|| budget.take(10, LONG).is_some());
            waiting(&budget, 1);
            let small = scope.spawn(|| budget.take(1, LONG).is_some());
            waiting(&budget, 2);
            assert_eq!(budget.state.lock().free, 5, "the small one waits behind the large one");
            drop(held);
            assert!(large.join().unwrap() && small.join().unwrap());
        });
    }

    #[test]
    fn who_gives_up_or_is_sent_away_is_in_nobodys_way() {
        let budget = Budget::new(10);
        let held = budget.take(9, Duration::ZERO).unwrap();
        thread::scope(|scope| {
            let impatient = scope.spawn(|| budget.take(10, Duration::from_millis(50)).is_none());
            assert!(impatient.join().unwrap());
            assert!(budget.take(1, LONG).is_some());
            let late = scope.spawn(|| budget.take(10, LONG).is_none());
            waiting(&budget, 1);
            budget.close();
            assert!(late.join().unwrap());
        });
        drop(held);
        assert!(budget.take(1, LONG).is_none());
    }
}
