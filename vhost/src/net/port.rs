//! A guest's port: where guest queues and the switch's receive and transmit meet.
//!
//! `rx` and `tx` are the switch's here as everywhere: it receives from the guest's **transmitq** and transmits into the
//! guest's **receiveq**. Queue pair `n` is receiveq `2n` and transmitq `2n + 1` (virtio 1.3 §5.1.2).
//!
//! Workers call `VhostPort::receive` and `VhostPort::transmit`; session threads start and stop the rings.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use vsteer_switch::counters::PortCounters;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::packet::{BURST, Burst, Frame};
use vsteer_switch::port::PortId;

use super::announcement::Announcement;
use super::features::{Negotiated, OffloadOptions};
use super::notifier::{Notice, Notifier};
use super::queue::{KickPoller, Queue, QueueState};
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
    /// The front-end made us wait for it.
    #[error(
        "virtqueue {queue}: its {descriptor} descriptor makes whoever writes to it wait: the front-end took O_NONBLOCK \
         off it and filled it; fix the front-end, or start it anew"
    )]
    Stuck {
        /// Number of the virtqueue.
        queue: usize,
        /// Which of its descriptors.
        descriptor: &'static str,
    },
    /// The front-end went after it was told how many queue pairs there are.
    #[error(
        "the front-end left when it was told that the port has {pairs} queue pairs; it may want more: start it with \
         queues={pairs} at most, or add the port with queues=N"
    )]
    FewPairs {
        /// Queue pairs that the port has.
        pairs: usize,
    },
}

/// How long a worker may sleep for the sake of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rest {
    /// Not at all: there is work, or the queue is busy.
    None,
    /// For a moment: the guest cannot tell us of its next packet.
    Short,
    /// Until the guest tells us of its next packet.
    Long,
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

/// The most that a receiveq may go without a buffer before its packets go to others that have some.
const STARVED: Duration = Duration::from_millis(50);

/// Queue pairs that are something in one direction, as workers see it without taking a lock.
#[derive(Debug, Default)]
struct Pairs([AtomicU64; PAIR_WORDS]);

impl Pairs {
    fn set(&self, pair: usize, is_in: bool) {
        let word = &self.0[pair / 64];
        // Relaxed: the queue's lock is what protects the ring; a stale bit only costs a look or a drop.
        if is_in {
            word.fetch_or(1 << (pair % 64), Ordering::Relaxed);
        } else {
            word.fetch_and(!(1 << (pair % 64)), Ordering::Relaxed);
        }
    }

    #[inline]
    fn get(&self) -> PairSet {
        [self.0[0].load(Ordering::Relaxed), self.0[1].load(Ordering::Relaxed)]
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.get() == [0; PAIR_WORDS]
    }

    /// How many.
    #[inline]
    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }

    /// The one of them that `hash` falls on.
    #[inline]
    fn pick(&self, hash: u32) -> Option<usize> {
        let words = self.get();
        if words == [1, 0] {
            return Some(0);
        }
        let count = words[0].count_ones() + words[1].count_ones();
        let mut nth = hash.checked_rem(count)?;
        // Bound: at most `count` rounds, which is at most MAX_QUEUE_PAIRS.
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
/// Each queue has its own lock (see `queue.rs`); `negotiated`, `broken` and the sets of pairs are written by session threads
/// (`broken`, and which receiveqs take frames, by any worker) and read by workers; `link` is for session and control
/// threads, and for a worker that finds a fault.
#[derive(Debug)]
pub struct VhostPort {
    id: PortId,
    options: VhostOptions,
    pairs: Box<[QueuePair]>,
    negotiated: AtomicU64,
    /// Queues whose ring broke and was neither stopped nor started since: the port stands still until there is none.
    broken: AtomicU32,
    live_receiveqs: Pairs,
    /// Of these, those into which the guest posts buffers, and the others. A guest need not use every receiveq that is
    /// enabled, and what is sent to one without buffers is lost.
    taking_receiveqs: Pairs,
    idle_receiveqs: Pairs,
    /// Which idle receiveq to look at next.
    next_look: AtomicUsize,
    started_transmitqs: Pairs,
    /// A front-end of this port made us wait once: none is written to by workers any more.
    is_distrusted: AtomicBool,
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
        match self.taking_receiveqs.count() {
            0 => self.live_receiveqs.count(),
            taking => taking,
        }
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
        let QueueState { ring, enabled, announcement, .. } = &mut *state;
        let ring = ring.as_mut()?;
        if *enabled
            && announcement.is_some()
            && let Some(announcement) = announcement.take()
        {
            announcement.enter(self.id, burst, counters);
        }
        let result = if *enabled {
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

    /// The queue to transmit into, locked: the `hash`th of the receiveqs that the guest uses, counted round and round. Packets
    /// whose hashes are equal [modulo their number](Self::live_receiveqs) go together.
    ///
    /// # Errors
    /// Why nothing can be transmitted.
    #[inline]
    pub fn transmit(&self, hash: u32) -> Result<Transmitter<'_>, DropReason> {
        if self.is_broken() {
            return Err(DropReason::RingBroken);
        }
        if !self.idle_receiveqs.is_empty() {
            self.look_at_idle_receiveqs();
        }
        let pair = self.taking_receiveqs.pick(hash).or_else(|| self.live_receiveqs.pick(hash));
        let pair = pair.ok_or(DropReason::NotConnected)?;
        let mut state = self.pairs[pair].receiveq.0.lock();
        if state.live_ring().is_none() {
            return Err(DropReason::NotConnected);
        }
        Ok(Transmitter { port: self, queue: 2 * pair, state })
    }

    /// Looks whether the guest has begun to post buffers into receiveqs where it had posted none: into one, another each time,
    /// while others take frames; otherwise into each, until one takes them, since the packet is lost in any other.
    #[cold]
    fn look_at_idle_receiveqs(&self) {
        let [low, high] = self.idle_receiveqs.get();
        let idle = u128::from(low) | u128::from(high) << 64;
        // Bound: at most MAX_QUEUE_PAIRS, and one while any receiveq takes frames.
        let looks = if self.taking_receiveqs.is_empty() { idle.count_ones() } else { 1 };
        for _ in 0..looks {
            // Relaxed: any of them will do.
            let first = self.next_look.load(Ordering::Relaxed) % usize::from(MAX_QUEUE_PAIRS);
            #[allow(clippy::cast_possible_truncation, reason = "below 128")]
            let nth = idle.rotate_right(first as u32).trailing_zeros() as usize;
            let pair = (first + nth) % usize::from(MAX_QUEUE_PAIRS);
            self.next_look.store(pair + 1, Ordering::Relaxed);
            let Some(queues) = self.pairs.get(pair) else { return };
            let Some(mut state) = queues.receiveq.0.try_lock() else { continue };
            // A fault is met again by whoever transmits.
            if state.live_ring().is_some_and(|ring| ring.has_available().unwrap_or(true)) {
                self.set_taking(pair, true, &mut state);
                return;
            }
        }
    }

    /// Notes whether the guest posts buffers into the receiveq of `pair`.
    #[cold]
    fn set_taking(&self, pair: usize, is_taking: bool, state: &mut QueueState) {
        state.is_taking = is_taking;
        state.starved_since = None;
        self.refresh_receiveq(pair, state);
    }

    fn refresh_receiveq(&self, pair: usize, state: &mut QueueState) {
        let is_live = state.live_ring().is_some();
        self.live_receiveqs.set(pair, is_live);
        self.taking_receiveqs.set(pair, is_live && state.is_taking);
        self.idle_receiveqs.set(pair, is_live && !state.is_taking);
    }

    /// Tells the guest that `pair` is polled: it need not kick.
    pub fn suppress_kicks(&self, pair: usize) {
        let queues = &self.pairs[pair];
        if let Some(ring) = queues.transmitq.0.try_lock().as_mut().and_then(|state| state.ring.as_mut()) {
            ring.suppress_kicks();
        }
    }

    /// Asks the guest to kick for the next packet of `pair`, and says how long the caller may sleep.
    pub fn request_kick(&self, pair: usize) -> Rest {
        if self.is_broken() {
            return Rest::Long;
        }
        let Some(mut state) = self.pairs[pair].transmitq.0.try_lock() else { return Rest::None };
        let has_announcement = state.enabled && state.announcement.is_some();
        let can_be_kicked = state.can_be_kicked();
        match state.ring.as_mut().map(SplitRing::request_kick) {
            None => Rest::Long,
            Some(Ok(has_work)) if has_work || has_announcement => Rest::None,
            Some(Ok(_)) if can_be_kicked => Rest::Long,
            Some(Ok(_)) => Rest::Short,
            Some(Err(fault)) => {
                self.breaks(2 * pair + 1, fault, &mut state);
                Rest::Long
            }
        }
    }

    /// Stops the port: its guest broke a rule. The session stays, so that the guest can reset the device.
    #[cold]
    fn breaks(&self, queue: usize, fault: RingFault, state: &mut QueueState) {
        // Memory that is gone reads as zero, and a ring of zeroes breaks other rules as well.
        let shrank = state.ring.as_ref().is_some_and(|ring| ring.layout().memory().shrank());
        let fault = if shrank { RingFault::MemoryShrank } else { fault };
        self.stops(PortFault::Ring { queue, fault }, state);
        if let Some(error) = &state.error
            && error.notify().is_err()
        {
            self.stuck(queue, Notice::Error, state);
        }
    }

    /// Stops the port because a descriptor of `queue` made us wait, and lets go of the descriptor. The front-ends of this port
    /// have had their one wait: from now on their descriptors are written to on a detour.
    #[cold]
    fn stuck(&self, queue: usize, notice: Notice, state: &mut QueueState) {
        let descriptor = match notice {
            Notice::Call => {
                state.call = None;
                "call"
            }
            Notice::Error => {
                state.error = None;
                "error"
            }
        };
        self.is_distrusted.store(true, Ordering::Relaxed);
        self.stops(PortFault::Stuck { queue, descriptor }, state);
    }

    fn stops(&self, fault: PortFault, state: &mut QueueState) {
        self.set_broken(state, true);
        let mut link = self.link.lock();
        link.fault = Some(fault);
        link.unreported = true;
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
        let QueueState { ring: Some(ring), call, .. } = &mut *self.state else { return };
        if ring.layout().memory().shrank() {
            self.fault = Some(RingFault::MemoryShrank);
        } else if ring.flush_used()
            && ring.needs_call()
            && let Some(call) = call
            && call.notify().is_err()
        {
            self.port.stuck(self.queue, Notice::Call, &mut self.state);
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
        let QueueState { ring: Some(ring), call, starved_since, .. } = &mut *self.state else { return };
        if ring.layout().memory().shrank() {
            return self.port.breaks(self.queue, RingFault::MemoryShrank, &mut self.state);
        }
        if !ring.flush_used() {
            return self.starved();
        }
        if starved_since.is_some() {
            *starved_since = None;
        }
        if ring.needs_call()
            && let Some(call) = call
            && call.notify().is_err()
        {
            return self.port.stuck(self.queue, Notice::Call, &mut self.state);
        }
        ring.look_further();
    }

    /// Nothing of the batch was sent. A guest that posts no buffers for a while has left this queue: until it comes back, its
    /// packets go to its other queues.
    #[cold]
    fn starved(&mut self) {
        let is_empty = self.state.live_ring().is_some_and(|ring| !ring.has_available().unwrap_or(true));
        if !is_empty || !self.state.is_taking {
            return;
        }
        let now = Instant::now();
        if now.duration_since(*self.state.starved_since.get_or_insert(now)) >= STARVED {
            self.port.set_taking(self.queue / 2, false, &mut self.state);
        }
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
            live_receiveqs: Pairs::default(),
            taking_receiveqs: Pairs::default(),
            idle_receiveqs: Pairs::default(),
            next_look: AtomicUsize::new(0),
            started_transmitqs: Pairs::default(),
            is_distrusted: AtomicBool::new(false),
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
            self.set_kick(queue, None);
            self.set_call(queue, None);
            self.set_error(queue, None);
            self.queue(queue).0.lock().announcement = None;
        }
        self.negotiated.store(0, Ordering::Relaxed);
        let memory = {
            let mut link = self.link.lock();
            link.connected = false;
            if fault.is_some() {
                link.fault = fault;
                link.unreported = false;
            }
            link.memory.take()
        };
        // The last to hold it unmaps it, which takes a while, and nobody shall wait for that.
        drop(memory);
    }

    /// Notes what is wrong with the front-end, which stays connected.
    pub(crate) fn complain(&self, fault: PortFault) {
        self.link.lock().fault = Some(fault);
    }

    /// Whether a front-end of this port made us wait once.
    pub(crate) fn is_distrusted(&self) -> bool {
        self.is_distrusted.load(Ordering::Relaxed)
    }

    fn queue(&self, queue: usize) -> &Queue {
        let pair = &self.pairs[queue / 2];
        if queue.is_multiple_of(2) { &pair.receiveq } else { &pair.transmitq }
    }

    /// Recomputes what workers see of the queue.
    fn refresh(&self, queue: usize, state: &mut QueueState) {
        if queue.is_multiple_of(2) {
            self.refresh_receiveq(queue / 2, state);
        } else {
            self.started_transmitqs.set(queue / 2, state.ring.is_some());
        }
        state.wake();
    }

    /// Starts the ring of `queue`, whatever ran there before, and returns where it goes on: at the used index, which lies in
    /// guest memory and tells what was served, whoever served it.
    pub(crate) fn start_ring(&self, queue: usize, setup: RingSetup) -> Option<u16> {
        let memory = self.link.lock().memory.clone();
        let features = self.negotiated().ring_features();
        let access = if queue.is_multiple_of(2) { Access::Write } else { Access::Read };
        let ring = memory
            .ok_or(RingFault::RingOutsideMemory {
                part: crate::ring::RingPart::Descriptors,
                addr: setup.descriptors.0,
            })
            .and_then(|memory| SplitRing::new(setup, memory, access, features));
        let mut state = self.queue(queue).0.lock();
        let start = match ring {
            Ok(mut ring) => {
                // A kick is a system call for the guest: nobody wants one until the worker asks, before it sleeps.
                ring.suppress_kicks();
                state.is_taking = ring.has_available().unwrap_or(true);
                state.starved_since = None;
                let start = ring.next_avail();
                state.ring = Some(ring);
                self.set_broken(&mut state, false);
                if !self.is_broken() {
                    self.link.lock().fault = None;
                }
                // A back-end that died may have used buffers and not called: call once for whatever there is.
                self.call_once(queue, &mut state);
                Some(start)
            }
            Err(fault) => {
                state.ring = None;
                self.breaks(queue, fault, &mut state);
                None
            }
        };
        self.refresh(queue, &mut state);
        start
    }

    fn call_once(&self, queue: usize, state: &mut QueueState) {
        if let (Some(call), true) = (&state.call, state.ring.is_some())
            && call.notify().is_err()
        {
            self.stuck(queue, Notice::Call, state);
        }
    }

    /// The session thread found that a descriptor of `queue` makes it wait.
    pub(crate) fn give_up(&self, queue: usize, notice: Notice) {
        self.stuck(queue, notice, &mut self.queue(queue).0.lock());
    }

    /// Stops the ring of `queue`, after the burst under way; returns where another back-end goes on.
    pub(crate) fn stop_ring(&self, queue: usize) -> Option<u16> {
        let ring = {
            let mut state = self.queue(queue).0.lock();
            let ring = state.ring.take();
            self.set_broken(&mut state, false);
            self.refresh(queue, &mut state);
            ring
        };
        ring.map(|ring| ring.next_avail())
    }

    /// Stops the ring of `queue` because of `fault`, until it is started anew.
    pub(crate) fn break_ring(&self, queue: usize, fault: RingFault) {
        let ring = {
            let mut state = self.queue(queue).0.lock();
            let ring = state.ring.take();
            self.breaks(queue, fault, &mut state);
            self.refresh(queue, &mut state);
            ring
        };
        drop(ring);
    }

    /// Whether the ring of `queue` is started, be it broken or not.
    pub(crate) fn has_ring(&self, queue: usize) -> bool {
        self.queue(queue).0.lock().ring.is_some()
    }

    pub(crate) fn set_enabled(&self, queue: usize, enabled: bool) {
        let mut state = self.queue(queue).0.lock();
        state.enabled = enabled;
        self.refresh(queue, &mut state);
    }

    /// Waits for `kick` from now on.
    pub(crate) fn set_kick(&self, queue: usize, kick: Option<File>) {
        let old = self.queue(queue).0.lock().set_kick(kick);
        drop(old);
    }

    pub(crate) fn set_call(&self, queue: usize, call: Option<Notifier>) {
        let old = {
            let mut state = self.queue(queue).0.lock();
            let old = std::mem::replace(&mut state.call, call);
            self.call_once(queue, &mut state);
            old
        };
        drop(old);
    }

    pub(crate) fn set_error(&self, queue: usize, error: Option<Notifier>) {
        let old = std::mem::replace(&mut self.queue(queue).0.lock().error, error);
        drop(old);
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
        // Kept until every ring has let go of it: the last to hold it unmaps it, and no worker shall wait for that.
        let old = self.link.lock().memory.replace(Arc::clone(&memory));
        for queue in 0..2 * self.pairs.len() {
            let mut state = self.queue(queue).0.lock();
            let Some(ring) = &mut state.ring else { continue };
            if let Err(fault) = ring.relocate(Arc::clone(&memory)) {
                let ring = state.ring.take();
                self.breaks(queue, fault, &mut state);
                self.refresh(queue, &mut state);
                drop(state);
                drop(ring);
            }
        }
        drop(old);
    }

    /// Ends the sleep of the worker that polls `queue`.
    pub(crate) fn wake(&self, queue: usize) {
        self.queue(queue).0.lock().wake();
    }

    /// Has the switch told where the guest with the address `mac` is, with the next burst of its first transmitq.
    pub(crate) fn announce(&self, mac: [u8; 6]) {
        let mut state = self.queue(1).0.lock();
        state.announcement = Some(Announcement::new(mac));
        state.wake();
    }
}
