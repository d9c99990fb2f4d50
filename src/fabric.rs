//! What all threads share: ports, addresses, new megaflows, time, and the revalidator's alarm.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::megaflow::Megaflow;
use vsteer_switch::pipeline::Events;

use crate::punt::Punts;
use crate::topology::Published;

/// What the workers, the revalidator and the control threads share.
///
/// # Concurrency
/// Each member says how it is shared; nothing here is locked by a worker on the packet path.
#[derive(Debug)]
pub struct Fabric {
    /// Ports, assignments and rules.
    pub topology: Published,
    /// Learned addresses.
    pub fdb: Fdb,
    /// Megaflows that were installed and are not yet with the revalidator.
    pub new_flows: SegQueue<Arc<Megaflow>>,
    /// The start of the clock of all times in milliseconds.
    pub start: Instant,
    /// Wakes the revalidator.
    pub changes: Alarm,
    /// Packets on their way to whoever listens.
    pub punts: Arc<Punts>,
}

impl Fabric {
    /// Milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Events for Fabric {
    fn flow_installed(&self, flow: Arc<Megaflow>) {
        self.new_flows.push(flow);
    }

    fn fdb_changed(&self) {
        self.changes.ring();
    }
}

/// Wakes the revalidator before its time.
///
/// # Concurrency
/// Any thread may ring, at the cost of an atomic exchange, and of one system call for the first ring that finds the
/// revalidator asleep.
#[derive(Debug, Default)]
pub struct Alarm {
    rung: AtomicBool,
    /// Someone rang who does not wait for a pause to end.
    is_urgent: AtomicBool,
    sleeper: OnceLock<Thread>,
}

impl Alarm {
    /// Wakes the revalidator.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst)
            && let Some(sleeper) = self.sleeper.get()
        {
            sleeper.unpark();
        }
    }

    /// Wakes the revalidator even from its pause: for the operator's changes and questions. What guests do wakes it by
    /// [`ring`](Self::ring), or they could keep it busy for ever.
    pub fn ring_now(&self) {
        self.is_urgent.store(true, Ordering::SeqCst);
        self.rung.store(true, Ordering::SeqCst);
        if let Some(sleeper) = self.sleeper.get() {
            sleeper.unpark();
        }
    }

    /// Lets `pause` go by, or less if someone has rung who does not wait for it.
    pub fn pause(&self, pause: Duration) {
        let end = Instant::now() + pause;
        // Bound: the end; another ring's wake-up only has it look again.
        while !self.is_urgent.swap(false, Ordering::SeqCst) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }

    /// Sleeps until the next ring, `timeout` at most.
    pub fn sleep(&self, timeout: Duration) {
        let _ = self.sleeper.set(thread::current());
        if !self.rung.load(Ordering::SeqCst) {
            thread::park_timeout(timeout);
        }
        // An exchange, not a store: it takes over what the last ring before it announced, and a later one stays.
        self.rung.swap(false, Ordering::SeqCst);
    }
}
