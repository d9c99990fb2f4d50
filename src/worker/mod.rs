//! A worker: polls its queues, switches what it finds, transmits, and sleeps when there is nothing.
//!
//! One thread each, run to completion: a burst that was received has left the switch before the next is looked for. A
//! worker owns its pipeline and caches; what it shares with others is listed at `Shared`. Modules in the order in which
//! a round meets them.

/// Where packets leave: the pipeline's view of the ports.
mod egress;

/// Time as a worker sees it.
pub mod clock;

/// When a worker that found nothing stops looking.
pub mod idle;

/// Whose turn it is.
pub mod turns;

/// What ends a worker's sleep.
pub mod waker;

/// What a worker writes down about its subtables.
pub mod report;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use vsteer_switch::megaflow::Megaflow;
use vsteer_switch::packet::Burst;
use vsteer_switch::pipeline::{Context, Pipeline, PipelineConfig, PipelineStats};
use vsteer_switch::port::PortId;

use self::clock::Clock;
use self::egress::Egress;
use self::idle::{Idle, Next};
use self::report::Report;
use self::turns::Turns;
use self::waker::Waker;
use crate::assignment::RxPort;
use crate::config::{FlowCacheConfig, PollMode};
use crate::fabric::Fabric;
use crate::notify::Vital;
use crate::port::Port;
use crate::port::driver::{KickPoller, Rest, Scratch};
use crate::port::queue_set::QueueSet;
use crate::punt::Punts;
use crate::topology::Topology;

/// Longest sleep: how soon a worker looks around although nothing woke it.
const MAX_SLEEP_MS: i32 = 1000;

/// Longest sleep while a port cannot end it.
const SHORT_SLEEP_MS: i32 = 1;

/// How often the pipeline ranks and purges.
const TICK: Duration = Duration::from_secs(1);

/// Messages that a worker takes from its inbox in one round, so that packets never wait for long.
const INBOX_BATCH: usize = 8;

/// What other threads send to a worker.
#[derive(Debug)]
pub enum Message {
    /// The megaflow is over.
    Remove(Arc<Megaflow>),
    /// The port is gone; its number may come back as another port.
    ForgetPort(PortId),
    /// Somebody wants to see the subtables.
    Report(Arc<Report>),
}

/// What a worker shares with the other threads.
///
/// # Concurrency
/// The worker writes `seen_epoch` and the counters, anybody reads them; anybody may push to `inbox` and wake.
#[derive(Debug)]
pub struct Shared {
    /// Which snapshot of the topology the worker uses: what only older ones contain, it has let go.
    pub seen_epoch: AtomicU64,
    /// Messages, taken between bursts.
    pub inbox: SegQueue<Message>,
    /// Ends the worker's sleep.
    pub waker: Arc<Waker>,
    /// The pipeline's counters.
    pub pipeline: Arc<PipelineStats>,
    /// Most megaflows that the worker installs.
    pub flow_limit: Arc<AtomicUsize>,
    /// Rounds over all queues.
    pub rounds: AtomicU64,
    /// Rounds that found packets.
    pub busy_rounds: AtomicU64,
    /// Cycles spent in rounds that found packets.
    pub busy_cycles: AtomicU64,
    /// Cycles since the worker started, as of its last round.
    pub total_cycles: AtomicU64,
    /// Sleeps.
    pub sleeps: AtomicU64,
    stop: AtomicBool,
}

/// A running worker; stops and joins its thread when dropped.
#[derive(Debug)]
pub struct WorkerHandle {
    /// What it shares.
    pub shared: Arc<Shared>,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    /// Starts worker `index`, pinned to `cpu` if given, with `bounds` for its flow cache; it holds `vital`.
    ///
    /// # Errors
    /// The thread or its descriptors cannot be made.
    pub fn start(
        index: u16,
        cpu: Option<usize>,
        mode: PollMode,
        bounds: FlowCacheConfig,
        fabric: Arc<Fabric>,
        vital: Vital,
    ) -> io::Result<Self> {
        let limits = PipelineConfig {
            worker: index,
            max_flows: bounds.max_flows,
            // One guest's traffic never takes the room of all others.
            max_flows_per_port: bounds.max_flows.div_ceil(2),
            max_masks_per_port: bounds.max_masks_per_port,
            upcalls_per_s: bounds.upcalls_per_s,
            // What a tenth of a second allows, at once.
            upcall_burst_pkts: bounds.upcalls_per_s.div_ceil(10),
            ..PipelineConfig::default()
        };
        let mut pipeline = Pipeline::new(limits);
        pipeline.time_with(clock::counter);
        let shared = Arc::new(Shared {
            seen_epoch: AtomicU64::new(0),
            inbox: SegQueue::new(),
            waker: Arc::new(Waker::new()?),
            pipeline: Arc::clone(pipeline.stats()),
            flow_limit: Arc::clone(pipeline.flow_limit()),
            rounds: AtomicU64::new(0),
            busy_rounds: AtomicU64::new(0),
            busy_cycles: AtomicU64::new(0),
            total_cycles: AtomicU64::new(0),
            sleeps: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let _vital = vital;
            if let Some(cpu) = cpu
                && let Err(error) = crate::config::pin_to(cpu)
            {
                tracing::error!(worker = index, cpu, %error, "cannot be pinned; it runs where the scheduler puts it");
            }
            Worker::new(usize::from(index), pipeline, Idle::new(mode), for_thread, fabric).run();
        })?;
        Ok(Self { shared, cpu, thread: Some(thread) })
    }

    /// Sends a message, which is read at once.
    pub fn send(&self, message: Message) {
        self.shared.inbox.push(message);
        self.shared.waker.wake();
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.waker.wake();
        if let Some(thread) = self.thread.take() {
            // A panic there was our own bug, is on stderr already, and ends the process.
            let _ = thread.join();
        }
    }
}

/// Adds to a counter of which this worker is the only writer.
#[inline]
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
}

/// The thread's own state.
struct Worker {
    index: usize,
    shared: Arc<Shared>,
    fabric: Arc<Fabric>,
    topology: Arc<Topology>,
    /// `shared.waker`, as queues know it.
    poller: Arc<dyn KickPoller>,
    pipeline: Pipeline,
    burst: Burst,
    scratch: Scratch,
    turns: Turns,
    idle: Idle,
    clock: Clock,
    first_cycle: u64,
    next_tick: Instant,
}

impl Worker {
    fn new(index: usize, pipeline: Pipeline, idle: Idle, shared: Arc<Shared>, fabric: Arc<Fabric>) -> Self {
        let topology = fabric.topology.load();
        let clock = Clock::new(fabric.start);
        let mut burst = Burst::new();
        burst.reserve_long_heads();
        Self {
            index,
            poller: Arc::clone(&shared.waker) as Arc<dyn KickPoller>,
            shared,
            topology,
            fabric,
            pipeline,
            burst,
            scratch: Scratch::default(),
            turns: Turns::default(),
            idle,
            first_cycle: clock::counter(),
            clock,
            next_tick: Instant::now() + TICK,
        }
    }

    fn run(mut self) {
        self.take_queues();
        self.adopt_topology();
        let mut begin = clock::counter();
        while !self.shared.stop.load(Ordering::Relaxed) {
            // 1. What control threads changed.
            let is_new = self.fabric.topology.epoch() != self.topology.epoch;
            if is_new {
                self.adopt_topology();
            }
            // The time that these took is not charged to any port.
            let has_read = self.read_inbox();
            let served = if is_new || has_read { clock::counter() } else { begin };

            // 2. Packets.
            let (found, end) = self.poll_queues(self.clock.now_ms(), served);

            // 3. Time.
            add(&self.shared.rounds, 1);
            if found {
                add(&self.shared.busy_rounds, 1);
                add(&self.shared.busy_cycles, end.wrapping_sub(begin));
            }
            begin = end;
            if self.clock.pass(end) {
                self.tick();
                begin = clock::counter();
            }

            // 4. Sleep, if it is time for it.
            if found {
                self.idle.found();
            } else if self.idle.found_nothing(&mut self.clock) == Next::Sleep {
                self.sleep();
                begin = clock::counter();
            } else {
                std::hint::spin_loop();
            }
        }
        self.release_queues();
    }

    /// What is due when the clock has moved, most of it about once a second.
    fn tick(&mut self) {
        let total = clock::counter().wrapping_sub(self.first_cycle);
        self.shared.total_cycles.store(total, Ordering::Relaxed);
        if self.clock.now() >= self.next_tick {
            self.pipeline.tick();
            self.next_tick = self.clock.now() + TICK;
        }
    }

    /// Receives one burst from each queue that has packets, and switches it. `begin` is the cycle counter at the start. Returns
    /// whether any port had packets or waits for its turn, and the cycle counter at the end.
    fn poll_queues(&mut self, now_ms: u64, mut begin: u64) -> (bool, u64) {
        let Self { index, fabric, topology, pipeline, burst, scratch, turns, .. } = self;
        let context = Context { now_ms, state: topology.state(&fabric.fdb), events: &**fabric };
        let mut round =
            Round { index: *index, topology, context, punts: &fabric.punts, pipeline, burst, scratch };
        let (mut any, mut is_fresh) = (false, false);
        for (nth, RxPort { port, queues }) in topology.assignments[*index].iter().enumerate() {
            let most = turns.packets(nth);
            if most == 0 {
                // It has used up its share and waits: there is something to do.
                any = true;
                continue;
            }
            round.burst.set_limit(most);
            let packets = round.serve(nth, port, *queues);
            is_fresh = packets > 0;
            if is_fresh {
                any = true;
                let end = clock::counter();
                turns.took(nth, packets, end.wrapping_sub(begin), round.pipeline.take_search_cycles());
                begin = end;
            }
        }
        turns.end_round();
        // The end of the last turn is that of the round, if no ring was looked at after it.
        (any, if is_fresh { begin } else { clock::counter() })
    }

    /// Takes over the newest snapshot.
    fn adopt_topology(&mut self) {
        let topology = self.fabric.topology.load();
        // A change of rules alone leaves the queues where they are.
        if !Arc::ptr_eq(&topology.assignments, &self.topology.assignments) {
            self.release_queues();
            self.topology = topology;
            self.take_queues();
        } else {
            self.topology = topology;
        }
        // Release: the old snapshot is no longer used; partner: the control thread that retires what it alone held.
        self.shared.seen_epoch.store(self.topology.epoch, Ordering::Release);
    }

    /// Takes the queues of the snapshot in use.
    fn take_queues(&mut self) {
        self.turns = Turns::new(self.topology.assignments[self.index].len());
        for RxPort { port, queues } in &self.topology.assignments[self.index] {
            queues.iter().for_each(|queue| port.driver.attach(queue, &self.poller));
        }
    }

    /// Lets go of the queues of the snapshot in use, but for those that another worker has taken over already.
    fn release_queues(&self) {
        for RxPort { port, queues } in &self.topology.assignments[self.index] {
            queues.iter().for_each(|queue| port.driver.detach(queue, &self.poller));
        }
    }

    /// Takes messages from other threads; false if there was none.
    fn read_inbox(&mut self) -> bool {
        // A look is cheaper than a pop, and nearly always enough.
        if self.shared.inbox.is_empty() {
            return false;
        }
        // Bound: INBOX_BATCH.
        for _ in 0..INBOX_BATCH {
            match self.shared.inbox.pop() {
                None => break,
                Some(Message::Remove(flow)) => {
                    self.pipeline.remove(&flow);
                }
                Some(Message::ForgetPort(port)) => self.pipeline.forget_port(port),
                Some(Message::Report(report)) => report.write(self.pipeline.subtables()),
            }
        }
        true
    }

    /// Asks all queues for kicks and sleeps, unless one has work already.
    fn sleep(&mut self) {
        let topology = Arc::clone(&self.topology);
        let assigned = &topology.assignments[self.index];
        let mut rest = Rest::Long;
        for RxPort { port, queues } in assigned {
            // Every port is asked, whatever the one before it said.
            rest = rest.min(port.driver.arm(*queues));
        }
        if rest != Rest::None && self.shared.inbox.is_empty() {
            add(&self.shared.sleeps, 1);
            let asleep = self.clock.look();
            self.shared.waker.sleep(if rest == Rest::Short { SHORT_SLEEP_MS } else { MAX_SLEEP_MS });
            self.idle.after_sleep(self.clock.look() - asleep);
            self.tick();
        }
        for RxPort { port, queues } in assigned {
            port.driver.resume(*queues);
        }
    }
}

/// What one round over the queues works with.
struct Round<'a> {
    index: usize,
    topology: &'a Topology,
    context: Context<'a>,
    punts: &'a Punts,
    pipeline: &'a mut Pipeline,
    burst: &'a mut Burst,
    scratch: &'a mut Scratch,
}

impl Round<'_> {
    /// Receives a burst from each of a port's queues, and switches it; returns how many packets there were.
    #[inline]
    fn serve(&mut self, nth: usize, port: &Port, queues: QueueSet) -> usize {
        let mut packets = 0;
        for queue in port.driver.live_queues(queues).iter() {
            let received = port.receive(queue, self.burst, self.index, self.scratch);
            let Some(received) = received else { continue };
            packets += self.burst.len();
            look_at_next(&self.topology.assignments[self.index], nth, queue);
            self.switch();
            received.complete();
        }
        packets
    }

    /// Switches the burst and clears it.
    #[inline]
    fn switch(&mut self) {
        let Self { index, topology, context, punts, pipeline, burst, scratch } = self;
        let mut egress = Egress { topology, worker: *index, now_ms: context.now_ms, punts, scratch };
        pipeline.process(burst, context, &mut egress);
        burst.clear();
    }
}

/// Has the queue that comes after this one looked at, so that its packets arrive while this one's are switched.
#[inline]
fn look_at_next(assigned: &[RxPort], nth: usize, queue: usize) {
    let RxPort { port, queues } = &assigned[nth];
    let own_next = port.driver.queues_to_look_ahead(*queues).iter().find(|&next| next > queue);
    if let Some(next) = own_next {
        return port.driver.look_ahead(next);
    }
    let after = if nth + 1 == assigned.len() { 0 } else { nth + 1 };
    let RxPort { port, queues } = &assigned[after];
    if let Some(next) = port.driver.queues_to_look_ahead(*queues).iter().next() {
        port.driver.look_ahead(next);
    }
}
