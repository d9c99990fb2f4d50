//! Waiting for a pass that began after the question.
//!
//! Control threads that print totals of rules, or that must know that no flow goes by an older snapshot, ask for a pass and
//! wait for its end. One pass answers all who asked before it began. The revalidator never waits for them, and workers
//! take no part.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// Who asked, and what has been answered.
///
/// # Concurrency
/// Any thread asks and waits; the revalidator takes note before a pass, and says so after it.
#[derive(Debug, Default)]
pub(super) struct Sync {
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Questions so far; the number of the last.
    asked: u64,
    /// Every question up to this number is answered.
    answered: u64,
    is_over: bool,
}

impl Sync {
    /// Asks for a pass; returns the number of the question.
    pub(super) fn ask(&self) -> u64 {
        let mut state = self.state.lock();
        state.asked += 1;
        state.asked
    }

    /// Waits until question `number` is answered; false if that is not so at `deadline`, or will never be.
    pub(super) fn wait(&self, number: u64, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while state.answered < number && !state.is_over {
            if self.answered.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.answered >= number
    }

    /// What a pass that begins now will answer.
    pub(super) fn begin(&self) -> u64 {
        self.state.lock().asked
    }

    /// The pass that was to answer questions up to `number` is over.
    pub(super) fn end(&self, number: u64) {
        self.state.lock().answered = number;
        self.answered.notify_all();
    }

    /// There will be no more passes.
    pub(super) fn close(&self) {
        self.state.lock().is_over = true;
        self.answered.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn question_that_came_during_a_pass_is_for_the_next() {
        let sync = Sync::default();
        let first = sync.ask();
        let pass = sync.begin();
        let second = sync.ask();
        sync.end(pass);
        assert!(sync.wait(first, soon()));
        assert!(!sync.wait(second, Instant::now() + Duration::from_millis(20)));
        sync.end(sync.begin());
        assert!(sync.wait(second, Instant::now()));
    }

    #[test]
    fn all_who_asked_are_answered_at_once_and_none_waits_for_a_thread_that_is_gone() {
        let sync = Sync::default();
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..4)
                .map(|_| {
                    let number = sync.ask();
                    let sync = &sync;
                    scope.spawn(move || sync.wait(number, soon()))
                })
                .collect();
            sync.end(sync.begin());
            assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
            let number = sync.ask();
            let waiter = &sync;
            let waits = scope.spawn(move || waiter.wait(number, soon()));
            sync.close();
            assert!(!waits.join().unwrap());
        });
    }
}
