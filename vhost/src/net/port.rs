//! A guest's port: where guest queues and the switch's receive and transmit meet.
//!
//! `rx` and `tx` are the switch's here as everywhere: it receives from the guest's **transmitq** and transmits into the
//! guest's **receiveq**. Queue pair `n` is receiveq `2n` and transmitq `2n + 1` (virtio 1.3 §5.1.2).
//!
//! Workers call `VhostPort::receive` and `VhostPort::transmit`; session threads start and stop the rings.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use vsteer_switch::counters::PortCounters;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::packet::{BURST, Burst, Frame};
use vsteer_switch::port::PortId;

use super::features::{Negotiated, OffloadOptions};
use super::queue::{KickPoller, Notifier, Queue, QueueState};
use super::{dequeue, enqueue};
use crate::memory::{MemoryFault, RegionTable};
use crate::ring::{Access, RingFault, RingSetup, SplitRing};

/// Most queue pairs that a port can offer.
pub const MAX_QUEUE_PAIRS: u16 = 128;

/// What an operator may choose for a guest's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VhostOptions {
    /// Queue pairs offered, `1..=MAX_QUEUE_PAIRS`.
    pub queue_pairs: u16,
    /// Offloads offered.
    pub offloads: OffloadOptions,
}

/// Why a port stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortFault {
    /// The guest broke a rule of a ring.
    #[error("virtqueue {queue}: {fault}")]
    Ring {
        /// Number of the virtqueue.
        queue: usize,
        /// The rule.
        fault: RingFault,
    },
    /// The front-end's memory table cannot be used.
    #[error("{0}")]
    Memory(#[from] MemoryFault),
    /// The front-end broke the protocol.
    #[error("vhost-user: {0}")]
    Protocol(String),
}

/// How a port stands, for its operator.
#[derive(Debug, Clone, Default)]
pub struct PortStatus {
    /// A front-end is connected.
    pub connected: bool,
    /// How often a front-end connected.
    pub connections: u64,
    /// The last thing that stopped the port; gone when the guest starts it anew.
    pub fault: Option<PortFault>,
    /// Memory regions of the front-end.
    pub memory_regions: usize,
    /// Queue pairs that carry traffic both ways.
    pub live_pairs: u16,
    /// What was negotiated.
    pub negotiated: Negotiated,
}

#[derive(Debug, Default)]
struct Link {
    connected: bool,
    connections: u64,
    fault: Option<PortFault>,
    unreported: bool,
    memory: Option<Arc<RegionTable>>,
}

#[derive(Debug, Default)]
struct QueuePair {
    receiveq: Queue,
    transmitq: Queue,
}

/// Words of a set of queue pairs.
const PAIR_WORDS: usize = MAX_QUEUE_PAIRS as usize / 64;

/// A set of queue pairs, one bit each.
pub type PairSet = [u64; PAIR_WORDS];

/// Which queue pairs are live in one direction, as workers see it without taking a lock.
#[derive(Debug, Default)]
struct LivePairs([AtomicU64; PAIR_WORDS]);

impl LivePairs {
    fn set(&self, pair: usize, live: bool) {
        let word = &self.0[pair / 64];
        // Relaxed: the queue's lock is what protects the ring; a stale bit only costs a look or a drop.
        if live {
            word.fetch_or(1 << (pair % 64), Ordering::Relaxed);
        } else {
            word.fetch_and(!(1 << (pair % 64)), Ordering::Relaxed);
        }
    }

    #[inline]
    fn get(&self) -> PairSet {
        [self.0[0].load(Ordering::Relaxed), self.0[1].load(Ordering::Relaxed)]
    }

    /// Number of live pairs.
    #[inline]
    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }

    /// The live pair that `hash` falls on.
    #[inline]
    fn pick(&self, hash: u32) -> Option<usize> {
        let words = self.get();
        if words == [1, 0] {
            return Some(0);
        }
        let live = words[0].count_ones() + words[1].count_ones();
        let mut nth = hash.checked_rem(live)?;
        // Bound: at most `live` rounds, which is at most MAX_QUEUE_PAIRS.
        for (base, mut word) in [(0, words[0]), (64, words[1])] {
            while word != 0 {
                if nth == 0 {
                    return Some(base + word.trailing_zeros() as usize);
                }
                nth -= 1;
                word &= word - 1;
            }
        }
        None
    }
}

/// A guest's port.
///
/// # Concurrency
/// Each queue has its own lock (see `queue.rs`); `negotiated`, `broken` and the sets of live pairs are written by session
/// threads (`broken` by any worker) and read by workers; `link` is for session and control threads, and for a worker that
/// finds a fault.
#[derive(Debug)]
pub struct VhostPort {
    id: PortId,
    options: VhostOptions,
    pairs: Box<[QueuePair]>,
    negotiated: AtomicU64,
    /// Queues whose ring broke and was neither stopped nor started since: the port stands still until there is none.
    broken: AtomicU32,
    live_receiveqs: LivePairs,
    started_transmitqs: LivePairs,
    link: Mutex<Link>,
}

/// A worker's space to receive and transmit in, for any port.
#[derive(Debug)]
pub struct Scratch {
    dequeue: dequeue::Scratch,
    enqueue: enqueue::Scratch,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { dequeue: dequeue::Scratch::new(), enqueue: enqueue::Scratch::new() }
    }
}

// Data path: called by workers.
impl VhostPort {
    /// The port's number.
    pub fn id(&self) -> PortId {
        self.id
    }

    /// Queue pairs offered.
    pub fn queue_pairs(&self) -> usize {
        self.pairs.len()
    }

    /// What the guest negotiated.
    #[inline]
    pub fn negotiated(&self) -> Negotiated {
        Negotiated(self.negotiated.load(Ordering::Relaxed))
    }

    /// How many receiveqs the guest uses. With several, a flow hash decides between them: see
    /// [`transmit`](Self::transmit).
    #[inline]
    pub fn live_receiveqs(&self) -> u32 {
        self.live_receiveqs.count()
    }

    #[inline]
    fn is_broken(&self) -> bool {
        // Relaxed: the queues' locks protect the rings; a burst that passes meanwhile only meets the fault again.
        self.broken.load(Ordering::Relaxed) != 0
    }

    /// The pairs whose transmitq is started: the only ones worth a [`receive`](Self::receive).
    #[inline]
    pub fn started_transmitqs(&self) -> PairSet {
        self.started_transmitqs.get()
    }

    /// Fills `burst` from the transmitq of `pair`; `None` if there was nothing, or the queue is not live.
    ///
    /// The burst's tails lie in guest memory. The caller clears the burst before it lets go of what this returns.
    #[inline]
    pub fn receive<'a>(
        &'a self,
        pair: usize,
        burst: &mut Burst,
        scratch: &mut Scratch,
        counters: &PortCounters,
    ) -> Option<Received<'a>> {
        if self.is_broken() {
            return None;
        }
        let mut state = self.pairs[pair].transmitq.0.try_lock()?;
        let enabled = state.enabled;
        let ring = state.ring.as_mut()?;
        let result = if enabled {
            dequeue::dequeue(ring, self.negotiated(), self.id, burst, &mut scratch.dequeue, counters)
        } else {
            // A started but disabled transmitq is drained and discarded (vhost-user "Ring states").
            dequeue::discard(ring, counters)
        };
        let received = Received { port: self, queue: 2 * pair + 1, state, fault: result.err() };
        if burst.is_empty() {
            received.complete();
            return None;
        }
        Some(received)
    }

    /// Looks at what the transmitq of `pair` holds and asks the processor for it, so that a
    /// [`receive`](Self::receive) a little later finds it in the cache.
    #[inline]
    pub fn look_ahead(&self, pair: usize) {
        if self.is_broken() {
            return;
        }
        if let Some(ring) =
            self.pairs[pair].transmitq.0.try_lock().as_mut().and_then(|state| state.live_ring())
        {
            // A fault is met again by whoever receives.
            let _ = ring.look_ahead(BURST);
        }
    }

    /// The queue to transmit into, locked: the `hash`th of the live receiveqs, counted round and round. Packets whose hashes
    /// are equal [modulo their number](Self::live_receiveqs) go together.
    ///
    /// # Errors
    /// Why nothing can be transmitted.
    #[inline]
    pub fn transmit(&self, hash: u32) -> Result<Transmitter<'_>, DropReason> {
        if self.is_broken() {
            return Err(DropReason::RingBroken);
        }
        let pair = self.live_receiveqs.pick(hash).ok_or(DropReason::NotConnected)?;
        let mut state = self.pairs[pair].receiveq.0.lock();
        if state.live_ring().is_none() {
            return Err(DropReason::NotConnected);
        }
        Ok(Transmitter { port: self, queue: 2 * pair, state })
    }

    /// Tells the guest that `pair` is polled: it need not kick.
    pub fn suppress_kicks(&self, pair: usize) {
        let queues = &self.pairs[pair];
        if let Some(ring) = queues.transmitq.0.try_lock().as_mut().and_then(|state| state.ring.as_mut()) {
            ring.suppress_kicks();
        }
    }

    /// Asks the guest to kick for the next packet of `pair`; true if the queue has work already, or is busy, and the caller
    /// must not sleep.
    pub fn request_kick(&self, pair: usize) -> bool {
        if self.is_broken() {
            return false;
        }
        let Some(mut state) = self.pairs[pair].transmitq.0.try_lock() else { return true };
        let can_be_kicked = state.can_be_kicked();
        match state.ring.as_mut().map(SplitRing::request_kick) {
            None => false,
            Some(Ok(pending)) => pending || !can_be_kicked,
            Some(Err(fault)) => {
                self.breaks(2 * pair + 1, fault, &mut state);
                false
            }
        }
    }

    /// Stops the port: its guest broke a rule. The session stays, so that the guest can reset the device.
    fn breaks(&self, queue: usize, fault: RingFault, state: &mut QueueState) {
        self.set_broken(state, true);
        // Memory that is gone reads as zero, and a ring of zeroes breaks other rules as well.
        let shrank = state.ring.as_ref().is_some_and(|ring| ring.layout().memory().shrank());
        let fault = if shrank { RingFault::MemoryShrank } else { fault };
        let mut link = self.link.lock();
        link.fault = Some(PortFault::Ring { queue, fault });
        link.unreported = true;
        if let Some(error) = &state.error {
            error.notify();
        }
    }

    /// Notes whether the ring of a queue is broken. Under the queue's lock, so each queue counts once.
    fn set_broken(&self, state: &mut QueueState, broken: bool) {
        match (state.broken, broken) {
            (false, true) => self.broken.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.broken.fetch_sub(1, Ordering::Relaxed),
            (false, false) | (true, true) => return,
        };
        state.broken = broken;
    }
}

/// A burst that was received from a guest: holds its ring until the burst has left the switch.
#[derive(Debug)]
#[must_use = "the guest gets its buffers back by `complete`"]
pub struct Received<'a> {
    port: &'a VhostPort,
    queue: usize,
    state: MutexGuard<'a, QueueState>,
    fault: Option<RingFault>,
}

impl Received<'_> {
    /// Gives the guest its buffers back. The burst has been cleared.
    #[inline]
    pub fn complete(mut self) {
        let Some(ring) = &mut self.state.ring else { return };
        if ring.layout().memory().shrank() {
            self.fault = Some(RingFault::MemoryShrank);
        } else if ring.flush_used()
            && ring.needs_call()
            && let Some(call) = &self.state.call
        {
            call.notify();
        }
        if let Some(fault) = self.fault {
            self.port.breaks(self.queue, fault, &mut self.state);
        }
    }
}

/// A guest's receiveq, locked to transmit into.
#[derive(Debug)]
#[must_use = "the guest sees the frames by `finish`"]
pub struct Transmitter<'a> {
    port: &'a VhostPort,
    queue: usize,
    state: MutexGuard<'a, QueueState>,
}

impl Transmitter<'_> {
    /// Copies `frames` into the guest's buffers, in order, and counts each, sent or dropped. They ask for no offload that
    /// the guest has not negotiated.
    #[inline]
    pub fn send<'f>(
        &mut self,
        frames: impl ExactSizeIterator<Item = Frame<'f>>,
        scratch: &mut Scratch,
        counters: &PortCounters,
    ) {
        let negotiated = self.port.negotiated();
        let Some(ring) = self.state.live_ring() else {
            return counters.dropped(DropReason::RingBroken, frames.len() as u64);
        };
        if let Err(fault) = enqueue::enqueue(ring, negotiated, frames, &mut scratch.enqueue, counters) {
            self.port.breaks(self.queue, fault, &mut self.state);
        }
    }

    /// Shows the guest what was sent, and calls it if it wants that.
    #[inline]
    pub fn finish(mut self) {
        self.show();
    }

    /// The same in the middle, when there is much to come: the guest can give buffers back meanwhile.
    #[inline]
    pub fn show(&mut self) {
        let QueueState { ring: Some(ring), call, .. } = &mut *self.state else { return };
        if ring.layout().memory().shrank() {
            return self.port.breaks(self.queue, RingFault::MemoryShrank, &mut self.state);
        }
        if !ring.flush_used() {
            return;
        }
        if ring.needs_call()
            && let Some(call) = call
        {
            call.notify();
        }
        ring.look_further();
    }
}

// Control: called by session and control threads.
impl VhostPort {
    /// A port that waits for its guest.
    pub fn new(id: PortId, options: VhostOptions) -> Self {
        let pairs =
            (0..options.queue_pairs.clamp(1, MAX_QUEUE_PAIRS)).map(|_| QueuePair::default()).collect();
        Self {
            id,
            options,
            pairs,
            negotiated: AtomicU64::new(0),
            broken: AtomicU32::new(0),
            live_receiveqs: LivePairs::default(),
            started_transmitqs: LivePairs::default(),
            link: Mutex::default(),
        }
    }

    /// What the operator chose.
    pub fn options(&self) -> VhostOptions {
        self.options
    }

    /// How the port stands.
    pub fn status(&self) -> PortStatus {
        let live_pairs = self.pairs.iter().filter(|pair| {
            pair.receiveq.0.lock().live_ring().is_some() && pair.transmitq.0.lock().live_ring().is_some()
        });
        let live_pairs = u16::try_from(live_pairs.count()).unwrap_or(u16::MAX);
        let link = self.link.lock();
        PortStatus {
            connected: link.connected,
            connections: link.connections,
            fault: link.fault.clone(),
            memory_regions: link.memory.as_ref().map_or(0, |memory| memory.len()),
            live_pairs,
            negotiated: self.negotiated(),
        }
    }

    /// The fault that stopped the port, once: for the log.
    pub fn take_unreported_fault(&self) -> Option<PortFault> {
        let mut link = self.link.lock();
        std::mem::take(&mut link.unreported).then(|| link.fault.clone()).flatten()
    }

    /// Hands `pair` to the worker behind `poller`, whoever had it.
    pub fn set_poller(&self, pair: usize, poller: Arc<dyn KickPoller>) {
        self.pairs[pair].transmitq.0.lock().set_poller(poller);
    }

    /// The worker behind `poller` lets go of `pair`.
    ///
    /// Workers take over a new assignment each in its own time. So another may have the pair already: it keeps it, and is
    /// woken, since the one that goes may have told the guest meanwhile that it need not kick.
    pub fn release_poller(&self, pair: usize, poller: &Arc<dyn KickPoller>) {
        self.pairs[pair].transmitq.0.lock().release_poller(poller);
    }

    pub(crate) fn connected(&self) {
        let mut link = self.link.lock();
        link.connected = true;
        link.connections += 1;
    }

    /// Stops every ring and forgets the front-end; `fault` says why it went, unless it simply did.
    pub(crate) fn disconnected(&self, fault: Option<PortFault>) {
        for queue in 0..2 * self.pairs.len() {
            self.stop_ring(queue);
            self.set_enabled(queue, false);
            let mut state = self.queue(queue).0.lock();
            state.set_kick(None);
            state.call = None;
            state.error = None;
        }
        self.negotiated.store(0, Ordering::Relaxed);
        let mut link = self.link.lock();
        link.connected = false;
        link.memory = None;
        if fault.is_some() {
            link.fault = fault;
            link.unreported = true;
        }
    }

    fn queue(&self, queue: usize) -> &Queue {
        let pair = &self.pairs[queue / 2];
        if queue.is_multiple_of(2) { &pair.receiveq } else { &pair.transmitq }
    }

    /// Recomputes whether the queue can be transmitted into.
    fn refresh(&self, queue: usize, state: &mut QueueState) {
        if queue.is_multiple_of(2) {
            self.live_receiveqs.set(queue / 2, state.live_ring().is_some());
        } else {
            self.started_transmitqs.set(queue / 2, state.ring.is_some());
        }
        state.wake();
    }

    /// Starts the ring of `queue`; `next_avail` is where the front-end says it goes on.
    pub(crate) fn start_ring(&self, queue: usize, setup: RingSetup, next_avail: u16) {
        let memory = self.link.lock().memory.clone();
        let features = self.negotiated().ring_features();
        let access = if queue.is_multiple_of(2) { Access::Write } else { Access::Read };
        let mut state = self.queue(queue).0.lock();
        let ring = memory
            .ok_or(RingFault::RingOutsideMemory {
                part: crate::ring::RingPart::Descriptors,
                addr: setup.descriptors.0,
            })
            .and_then(|memory| SplitRing::new(setup, memory, access, features, next_avail));
        match ring {
            Ok(mut ring) => {
                // A kick is a system call for the guest: nobody wants one until the worker asks, before it sleeps.
                ring.suppress_kicks();
                state.ring = Some(ring);
                self.set_broken(&mut state, false);
                if !self.is_broken() {
                    self.link.lock().fault = None;
                }
                // A back-end that died may have used buffers and not called: call once for whatever there is.
                if let Some(call) = &state.call {
                    call.notify();
                }
            }
            Err(fault) => {
                state.ring = None;
                self.breaks(queue, fault, &mut state);
            }
        }
        self.refresh(queue, &mut state);
    }

    /// Stops the ring of `queue`, after the burst under way; returns where another back-end goes on.
    pub(crate) fn stop_ring(&self, queue: usize) -> Option<u16> {
        let mut state = self.queue(queue).0.lock();
        let ring = state.ring.take();
        self.set_broken(&mut state, false);
        self.refresh(queue, &mut state);
        ring.map(|ring| ring.next_avail())
    }

    /// Moves a running ring to new addresses.
    pub(crate) fn move_ring(&self, queue: usize, setup: RingSetup) {
        let memory = self.link.lock().memory.clone();
        let mut state = self.queue(queue).0.lock();
        let (Some(ring), Some(memory)) = (&mut state.ring, memory) else { return };
        if ring.setup() != setup
            && let Err(fault) = ring.relocate(setup, memory)
        {
            state.ring = None;
            self.breaks(queue, fault, &mut state);
        }
        self.refresh(queue, &mut state);
    }

    pub(crate) fn set_enabled(&self, queue: usize, enabled: bool) {
        let mut state = self.queue(queue).0.lock();
        state.enabled = enabled;
        self.refresh(queue, &mut state);
    }

    pub(crate) fn set_kick(&self, queue: usize, kick: Option<File>) {
        self.queue(queue).0.lock().set_kick(kick);
    }

    pub(crate) fn set_call(&self, queue: usize, call: Option<File>) {
        let mut state = self.queue(queue).0.lock();
        state.call = call.and_then(Notifier::new);
        if let (Some(call), true) = (&state.call, state.ring.is_some()) {
            call.notify();
        }
    }

    pub(crate) fn set_error(&self, queue: usize, error: Option<File>) {
        self.queue(queue).0.lock().error = error.and_then(Notifier::new);
    }

    pub(crate) fn set_negotiated(&self, features: Negotiated) {
        self.negotiated.store(features.0, Ordering::Relaxed);
        for queue in 0..2 * self.pairs.len() {
            if let Some(ring) = &mut self.queue(queue).0.lock().ring {
                ring.set_features(features.ring_features());
            }
        }
    }

    /// Gives every running ring the new memory table. When this returns no worker uses the old one.
    pub(crate) fn set_memory(&self, memory: Arc<RegionTable>) {
        if let Some(old) = self.link.lock().memory.replace(Arc::clone(&memory)) {
            memory.adopt_log(&old);
        }
        for queue in 0..2 * self.pairs.len() {
            let mut state = self.queue(queue).0.lock();
            let Some(ring) = &mut state.ring else { continue };
            if let Err(fault) = ring.relocate(ring.setup(), Arc::clone(&memory)) {
                state.ring = None;
                self.breaks(queue, fault, &mut state);
                self.refresh(queue, &mut state);
            }
        }
    }
}
