//! The revalidator: keeps megaflows right, rules counted, and what is unused from staying.
//!
//! One thread beside the packet path. Workers hand it each megaflow they install. In passes over all of them
//! (`vsteer_switch::revalidate::registry`) it adds their packets to their rules, keeps the source addresses of active
//! flows fresh, ends flows that are idle or, after a change of rules, ports, VLANs or learned addresses, wrong. A flow that
//! is over is killed at once (workers see that at its next packet) and its owner is told to take it out. It then takes
//! out the rules whose time is over. No worker ever waits for it.
//!
//! A pass begins at once when something rings the alarm, else after half a second. It is followed by a pause four times as
//! long as the pass was, within bounds: a storm of addresses that guests make costs a fifth of a core, and a single change
//! is never late. What the operator changes or asks does not wait for a pause to end.

/// Waiting for a pass.
mod sync;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vsteer_switch::revalidate::limit::FlowLimit;
use vsteer_switch::revalidate::registry::{Outcome, Pass, Recheck, Registry};
use vsteer_switch::rule::edit::{Edit, EditError};
use vsteer_switch::state::Seen;

use self::sync::Sync;
use crate::config::FlowCacheConfig;
use crate::fabric::Fabric;
use crate::notify::Vital;
use crate::port::report::News;
use crate::topology::Topology;
use crate::worker::{Message, Shared};

/// How often flows are aged, at least.
const PERIOD: Duration = Duration::from_millis(500);

/// A learned address that sent nothing for this long is forgotten (IEEE 802.1D).
const ADDRESS_AGE_MS: u64 = 300_000;

/// How often addresses are refreshed and aged.
const ADDRESS_PERIOD_MS: u64 = 1000;

/// How many times as long as a pass the pause after it is.
const PAUSE_PASSES: u32 = 4;

/// Bounds of the pause.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(400));

/// Flows that one pass ends because they are more exact than needed: each costs an upcall, so few at a time.
const TOO_EXACT_PER_PASS: u64 = 1000;

/// What the revalidator has done.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Passes so far.
    pub passes: u64,
    /// How long the last one took.
    pub last_pass: Duration,
    /// How long the longest one took.
    pub longest_pass: Duration,
    /// What the last one did.
    pub last: Outcome,
    /// What all of them did.
    pub total: Outcome,
    /// Megaflows in all workers.
    pub flows: usize,
    /// Megaflows that may be, in all workers.
    pub flow_limit: usize,
    /// How long a megaflow may go unused at present.
    pub idle_ms: u64,
    /// Rules that were taken out because their time was over.
    pub rules_expired: u64,
}

/// The running revalidator; stops and joins its thread when dropped.
#[derive(Debug)]
pub struct Revalidator {
    fabric: Arc<Fabric>,
    /// Every megaflow.
    pub flows: Arc<Registry>,
    report: Arc<Mutex<Report>>,
    sync: Arc<Sync>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Revalidator {
    /// Starts the thread, which holds `vital`; `workers` are told of flows that are over, by index.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(
        fabric: Arc<Fabric>,
        workers: Vec<Weak<Shared>>,
        config: FlowCacheConfig,
        vital: Vital,
    ) -> std::io::Result<Self> {
        let flows = Arc::<Registry>::default();
        let report = Arc::<Mutex<Report>>::default();
        let sync = Arc::<Sync>::default();
        let stop = Arc::new(AtomicBool::new(false));
        let state = State {
            limit: FlowLimit::new(config.max_flows.saturating_mul(workers.len())),
            config,
            fabric: Arc::clone(&fabric),
            workers,
            flows: Arc::clone(&flows),
            report: Arc::clone(&report),
            checked: Seen::default(),
            refreshed_ms: 0,
        };
        let (answers, stopping) = (Arc::clone(&sync), Arc::clone(&stop));
        let thread = thread::Builder::new().name("revalidator".into()).spawn(move || {
            let _vital = vital;
            let _closing = Closing(&answers);
            state.run(&stopping, &answers);
        })?;
        Ok(Self { fabric, flows, report, sync, stop, thread: Some(thread) })
    }

    /// Waits, until `deadline` at most, for the end of a pass that begins after this call; says whether there was one.
    ///
    /// Then the rules' counters have all that was counted before the call, no flow goes by what was published before it,
    /// and nothing of an older snapshot is used here.
    pub fn sync(&self, deadline: Instant) -> bool {
        let number = self.sync.ask();
        self.fabric.changes.ring_now();
        self.sync.wait(number, deadline)
    }

    /// What it has done so far.
    pub fn report(&self) -> Report {
        Report { flows: self.flows.live(), ..self.report.lock().clone() }
    }
}

impl Drop for Revalidator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.fabric.changes.ring_now();
        if let Some(thread) = self.thread.take() {
            // A panic there was our own bug, is on stderr already, and ends the process.
            let _ = thread.join();
        }
    }
}

/// Ends all waiting when the thread ends, however it does.
struct Closing<'a>(&'a Sync);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct State {
    config: FlowCacheConfig,
    fabric: Arc<Fabric>,
    workers: Vec<Weak<Shared>>,
    flows: Arc<Registry>,
    report: Arc<Mutex<Report>>,
    limit: FlowLimit,
    /// The state that all flows were last checked against.
    checked: Seen,
    /// When addresses were last refreshed from flows.
    refreshed_ms: u64,
}

impl State {
    fn run(mut self, stop: &AtomicBool, sync: &Sync) {
        while !stop.load(Ordering::SeqCst) {
            let idle = Duration::from_millis(self.limit.idle_ms(self.flows.live(), self.config.max_idle_ms));
            self.fabric.changes.sleep(PERIOD.min(idle));
            let questions = sync.begin();
            let began = Instant::now();
            let topology = self.fabric.topology.load();
            self.pass(&topology);
            let took = began.elapsed();
            self.expire_rules(&topology);
            drop(topology);
            sync.end(questions);
            self.fabric.changes.pause((PAUSE_PASSES * took).clamp(PAUSE.0, PAUSE.1));
        }
    }

    /// Takes over new flows, goes through all of them, and ages addresses when it is time for that.
    fn pass(&mut self, topology: &Topology) {
        let began = Instant::now();
        let fabric = &*self.fabric;
        let now_ms = fabric.now_ms();
        // Bound: what was there at the start. Workers may install faster than this takes over.
        for _ in 0..fabric.new_flows.len() {
            let Some(flow) = fabric.new_flows.pop() else { break };
            self.flows.adopt(flow);
        }
        // Read before the flows are checked: a change that comes meanwhile is found in the next pass.
        let state = topology.state(&fabric.fdb);
        let seen = state.generations();
        let is_address_time = now_ms.saturating_sub(self.refreshed_ms) >= ADDRESS_PERIOD_MS;
        let count = self.flows.live();
        let idle_ms = self.limit.idle_ms(count, self.config.max_idle_ms);
        let pass = Pass {
            now_ms,
            idle_ms,
            is_flush: self.limit.is_hopeless(count),
            recheck: if seen == self.checked { Recheck::New } else { Recheck::All },
            refresh_since_ms: is_address_time.then_some(self.refreshed_ms),
            too_exact_limit: TOO_EXACT_PER_PASS,
            state,
        };
        let workers = &self.workers;
        let outcome = self.flows.pass(&pass, |flow| {
            // A worker that is gone has let go of its flows.
            if let Some(worker) = workers.get(usize::from(flow.worker())).and_then(Weak::upgrade) {
                worker.inbox.push(Message::Remove(Arc::clone(flow)));
            }
        });
        self.checked = seen;
        if is_address_time {
            self.refreshed_ms = now_ms;
            fabric.fdb.expire(now_ms, ADDRESS_AGE_MS, |entry| {
                tracing::debug!(?entry, "address forgotten");
            });
            report_news(topology);
        }
        self.conclude(&outcome, began.elapsed(), idle_ms);
    }

    /// Adapts the limit to what a pass took, and tells what there is to tell.
    fn conclude(&mut self, outcome: &Outcome, took: Duration, idle_ms: u64) {
        let count = |flows| usize::try_from(flows).unwrap_or(usize::MAX);
        self.limit.measured(count(outcome.visited), count(outcome.rechecked), took);
        let per_worker = self.limit.get() / self.workers.len().max(1);
        for worker in self.workers.iter().filter_map(Weak::upgrade) {
            worker.flow_limit.store(per_worker, Ordering::Relaxed);
        }
        if outcome.ended_flushed > 0 {
            tracing::warn!(
                flows = outcome.ended_flushed,
                limit = self.limit.get(),
                "too many flows, all are dropped"
            );
        }
        let mut report = self.report.lock();
        report.passes += 1;
        report.last_pass = took;
        report.longest_pass = report.longest_pass.max(took);
        report.last = *outcome;
        report.total.add(outcome);
        report.flow_limit = self.limit.get();
        report.idle_ms = idle_ms;
    }

    /// Takes out the rules whose time is over; their counters are up to date. The flows that they made are found in the
    /// next pass, which the alarm calls for.
    fn expire_rules(&mut self, topology: &Topology) {
        let now_ms = self.fabric.now_ms();
        if topology.rules.expired(now_ms).is_empty() {
            return self.fabric.topology.free_replaced();
        }
        let mut expired = 0;
        let update = self.fabric.topology.update(|current| {
            let rules = &current.rules;
            let edits: Vec<_> =
                rules.expired(now_ms).into_iter().map(|(rule, _)| Edit::Remove(rule)).collect();
            let edited = rules.edit(&edits, now_ms)?;
            expired = edited.removed.len() as u64;
            Ok::<_, EditError>(edited.has_changed().then(|| current.with_rules(edited.set)))
        });
        if let Err(error) = update {
            tracing::error!(%error, "rules whose time is over cannot be taken out");
        }
        self.report.lock().rules_expired += expired;
        self.fabric.changes.ring_now();
    }
}

/// Logs what happened to ports, once.
fn report_news(topology: &Topology) {
    for port in topology.ports.iter().flatten() {
        let Some(news) = port.driver.take_news() else { continue };
        let port = &port.spec().name;
        match news {
            News::Stopped(fault) => tracing::warn!(port, fault, "the port is stopped"),
            News::Finished(what) => tracing::info!(port, what, "the port is done"),
        }
    }
}
