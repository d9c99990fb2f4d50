//! The revalidator: ages megaflows and addresses, and ends megaflows that a change has made wrong.
//!
//! One thread beside the packet path. Workers hand it each megaflow they install; it reads the flows' counters, keeps the
//! source addresses of active flows fresh, and translates flows again when ports, VLANs or learned addresses have
//! changed. A flow that is over is killed at once (workers see that at its next packet) and its owner is told to take
//! it out. No worker ever waits for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use vsteer_switch::megaflow::{Megaflow, Seen};
use vsteer_switch::revalidate::{refresh_source, still_valid};
use vsteer_switch::slow_path::SwitchState;

use crate::fabric::Fabric;
use crate::notify::Vital;
use crate::port::Driver;
use crate::topology::Topology;
use crate::worker::{Message, Shared};

/// How often flows and addresses are aged.
const PERIOD: Duration = Duration::from_millis(500);

/// A megaflow without packets for this long is removed, as in Open vSwitch.
const FLOW_IDLE_MS: u64 = 10_000;

/// A learned address that sent nothing for this long is forgotten (IEEE 802.1D).
const ADDRESS_AGE_MS: u64 = 300_000;

/// Pause after a round, so that a storm of changes costs a part of a core at most.
const BREATH: Duration = Duration::from_millis(1);

/// Every megaflow there is, as the revalidator and the control socket see them.
///
/// # Concurrency
/// The revalidator holds the lock while it goes through the list; control threads while they print it; workers never.
pub type FlowList = Mutex<Vec<Arc<Megaflow>>>;

/// The running revalidator; stops and joins its thread when dropped.
#[derive(Debug)]
pub struct Revalidator {
    fabric: Arc<Fabric>,
    stop: Arc<AtomicBool>,
    /// Every megaflow.
    pub flows: Arc<FlowList>,
    thread: Option<JoinHandle<()>>,
}

impl Revalidator {
    /// Starts the thread, which holds `vital`; `workers` are told of flows that are over, by index.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(fabric: Arc<Fabric>, workers: Vec<Weak<Shared>>, vital: Vital) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flows = Arc::<FlowList>::default();
        let state = State {
            fabric: Arc::clone(&fabric),
            workers,
            flows: Arc::clone(&flows),
            checked: Seen::default(),
            refreshed_ms: 0,
        };
        let stopping = Arc::clone(&stop);
        let thread = thread::Builder::new().name("revalidator".into()).spawn(move || {
            let _vital = vital;
            state.run(&stopping);
        })?;
        Ok(Self { fabric, stop, flows, thread: Some(thread) })
    }
}

impl Drop for Revalidator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.fabric.changes.ring();
        if let Some(thread) = self.thread.take() {
            // A panic there was our own bug, is on stderr already, and ends the process.
            let _ = thread.join();
        }
    }
}

struct State {
    fabric: Arc<Fabric>,
    workers: Vec<Weak<Shared>>,
    flows: Arc<FlowList>,
    /// The state that all flows were last checked against.
    checked: Seen,
    /// When addresses were last refreshed from flows.
    refreshed_ms: u64,
}

impl State {
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::SeqCst) {
            self.fabric.changes.sleep(PERIOD);
            let now_ms = self.fabric.now_ms();
            let topology = self.go_through_flows(now_ms);
            if now_ms.saturating_sub(self.refreshed_ms) >= 1000 {
                self.refreshed_ms = now_ms;
                self.fabric.fdb.expire(now_ms, ADDRESS_AGE_MS, |entry| {
                    tracing::debug!(?entry, "address forgotten");
                });
                report_faults(&topology);
            }
            drop(topology);
            thread::sleep(BREATH);
        }
    }

    /// Takes over new flows, ends those that are wrong or idle, and refreshes the addresses of the others. Returns the
    /// snapshot of the ports that it went by.
    fn go_through_flows(&mut self, now_ms: u64) -> Arc<Topology> {
        let fabric = &*self.fabric;
        let mut flows = self.flows.lock();
        // Under the lock: whoever published a snapshot and then takes the lock knows that no older one is used any more.
        let topology = fabric.topology.load();
        let switch = SwitchState { config: &topology.switch, fdb: &fabric.fdb, rules: &topology.rules };
        // Read before the flows are checked: a change that comes meanwhile is found in the next round.
        let state = switch.generations();
        let known = flows.len();
        while let Some(flow) = fabric.new_flows.pop() {
            flows.push(flow);
        }
        let changed = state != self.checked;
        let refresh_since = self.refreshed_ms;
        let mut nth = 0;
        flows.retain(|flow| {
            let unchecked = nth >= known && flow.seen() != state;
            nth += 1;
            let idle = now_ms.saturating_sub(flow.stats().last_used_ms) > FLOW_IDLE_MS;
            let wrong = (changed || unchecked) && !still_valid(flow, &switch);
            if flow.is_alive() && !idle && !wrong {
                refresh_source(flow, refresh_since, &topology.switch, &fabric.fdb);
                return true;
            }
            flow.kill();
            if let Some(worker) = self.workers.get(usize::from(flow.worker())).and_then(Weak::upgrade) {
                worker.inbox.push(Message::Remove(Arc::clone(flow)));
            }
            false
        });
        self.checked = state;
        topology
    }
}

/// Logs what stopped a guest's port, once.
fn report_faults(topology: &Topology) {
    for port in topology.ports.iter().flatten() {
        if let Driver::VhostUser(guest) = &port.driver
            && let Some(fault) = guest.take_unreported_fault()
        {
            tracing::warn!(
                port = port.spec().name,
                %fault,
                "the guest's port is stopped until its driver or front-end starts anew"
            );
        }
    }
}
