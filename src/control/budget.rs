//! Memory that requests may take, all clients together.
//!
//! A budget is dealt out in the order in which it was asked for: who needs much is not overtaken for ever by those who need
//! little. Small requests do not ask at all, see `server.rs`. Whoever holds a share of one budget may wait for a share of
//! another only in one order, lines before work, so nobody waits in a circle.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// A share came back, or somebody stopped waiting or is to stop.
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

    /// Takes `bytes`, waiting for them no longer than `patience`, and not once `is_out` is set (see [`look`](Self::look));
    /// `None` if they were not to be had, which is so at once for more than there are in all.
    pub(super) fn take(&self, bytes: usize, patience: Duration, is_out: &AtomicBool) -> Option<Share<'_>> {
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
            if state.is_over || is_out.load(Ordering::SeqCst) {
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

    /// Has those who wait look whether they are to stop.
    pub(super) fn look(&self) {
        // Whoever is about to wait has looked before this, or waits and is told.
        let _state = self.state.lock();
        self.changed.notify_all();
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

    static THERE: AtomicBool = AtomicBool::new(false);

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
        let first = budget.take(6, Duration::ZERO, &THERE).unwrap();
        assert!(budget.take(5, Duration::from_millis(10), &THERE).is_none());
        let second = budget.take(4, Duration::ZERO, &THERE).unwrap();
        drop(first);
        assert!(budget.take(6, Duration::ZERO, &THERE).is_some());
        drop(second);
        assert!(budget.take(10, Duration::ZERO, &THERE).is_some());
        assert!(budget.take(11, LONG, &THERE).is_none(), "at once: it will never be there");
    }

    #[test]
    fn large_share_is_not_overtaken_by_small_ones() {
        let budget = Budget::new(10);
        let held = budget.take(5, Duration::ZERO, &THERE).unwrap();
        thread::scope(|scope| {
            let large = scope.spawn(|| budget.take(10, LONG, &THERE).is_some());
            waiting(&budget, 1);
            let small = scope.spawn(|| budget.take(1, LONG, &THERE).is_some());
            waiting(&budget, 2);
            assert_eq!(budget.state.lock().free, 5, "the small one waits behind the large one");
            drop(held);
            assert!(large.join().unwrap() && small.join().unwrap());
        });
    }

    #[test]
    fn who_is_turned_out_waits_no_longer() {
        let budget = Budget::new(10);
        let _held = budget.take(10, Duration::ZERO, &THERE).unwrap();
        let is_out = AtomicBool::new(false);
        thread::scope(|scope| {
            let begun = Instant::now();
            let turned_out = scope.spawn(|| budget.take(1, LONG, &is_out).is_none());
            waiting(&budget, 1);
            is_out.store(true, Ordering::SeqCst);
            budget.look();
            assert!(turned_out.join().unwrap());
            assert!(begun.elapsed() < LONG);
        });
        waiting(&budget, 0);
    }

    #[test]
    fn who_gives_up_or_is_sent_away_is_in_nobodys_way() {
        let budget = Budget::new(10);
        let held = budget.take(9, Duration::ZERO, &THERE).unwrap();
        thread::scope(|scope| {
            let impatient = scope.spawn(|| budget.take(10, Duration::from_millis(50), &THERE).is_none());
            assert!(impatient.join().unwrap());
            assert!(budget.take(1, LONG, &THERE).is_some());
            let late = scope.spawn(|| budget.take(10, LONG, &THERE).is_none());
            waiting(&budget, 1);
            budget.close();
            assert!(late.join().unwrap());
        });
        drop(held);
        assert!(budget.take(1, LONG, &THERE).is_none());
    }
}
