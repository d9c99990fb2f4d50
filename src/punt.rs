//! Packets that rules hand out (`controller`): from the workers to whoever listens.
//!
//! A worker copies the packet into a buffer of each listener, which the listener made beforehand, and goes on. It never
//! waits, allocates or frees: a listener that is too slow runs out of buffers and loses packets, which is counted, and a
//! packet nobody listens to is counted too. Listeners look for packets themselves, so that nobody has to be woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_queue::ArrayQueue;
use parking_lot::Mutex;
use vsteer_switch::action::Punt;
use vsteer_switch::counters::Counter;
use vsteer_switch::packet::{Frame, MAX_FRAME_BYTES};
use vsteer_switch::port::PortId;

/// Most listeners at one time: each costs the workers a copy.
pub const MAX_LISTENERS: usize = 8;

/// Packets that wait for one listener at most.
const BUFFERS: usize = 256;

/// What became of the packets that rules handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// Copies that listeners got.
    pub delivered: u64,
    /// Copies that came faster than a listener took them.
    pub lost: u64,
    /// Packets that nobody listened to.
    pub unheard: u64,
}

/// A packet that was handed out.
#[derive(Debug)]
pub struct Punted {
    /// When, on the clock of the pipeline's context.
    pub at_ms: u64,
    /// Where it came in.
    pub in_port: PortId,
    /// Which listener the rule meant.
    pub id: u16,
    /// Bytes that it has.
    pub len: usize,
    /// Bytes of `buffer` that are copies of its first.
    captured: usize,
    buffer: Box<[u8]>,
}

impl Punted {
    fn empty() -> Box<Self> {
        // Zeroed memory costs nothing until it is used: most packets touch one page.
        let buffer = vec![0; MAX_FRAME_BYTES].into_boxed_slice();
        Box::new(Self { at_ms: 0, in_port: PortId::ZERO, id: 0, len: 0, captured: 0, buffer })
    }

    /// The packet's first bytes, as many as the rule asked for.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.captured]
    }

    fn fill(&mut self, at_ms: u64, in_port: PortId, frame: &Frame<'_>, punt: Punt) {
        let most = if punt.max_len == u16::MAX { MAX_FRAME_BYTES } else { usize::from(punt.max_len) };
        let captured = frame.len().min(most).min(self.buffer.len());
        let (head, tail) = self.buffer[..captured].split_at_mut(frame.head.len().min(captured));
        head.copy_from_slice(&frame.head[..head.len()]);
        frame.tail.slice(0, tail.len()).copy_to(tail);
        (self.at_ms, self.in_port, self.id) = (at_ms, in_port, punt.id);
        (self.len, self.captured) = (frame.len(), captured);
    }
}

/// One listener's packets.
///
/// # Invariants
/// 1. There are [`BUFFERS`] buffers in all: in `free`, in `full`, or in the hands of a worker or of the listener for a
///    moment. Each queue has room for all of them, so giving one back never fails.
#[derive(Debug)]
struct Queue {
    /// Only packets for this listener.
    id: Option<u16>,
    free: ArrayQueue<Box<Punted>>,
    full: ArrayQueue<Box<Punted>>,
    /// Packets that found no free buffer.
    lost: AtomicU64,
}

/// What one worker handed out.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counters {
    delivered: Counter,
    lost: Counter,
    unheard: Counter,
}

/// The way from all workers to all listeners.
///
/// # Concurrency
/// Workers load the list of queues, without a lock, and move buffers between the two lock-free queues of each. Control
/// threads replace the list under a lock and keep the old one until no worker uses it.
#[derive(Debug)]
pub struct Punts {
    queues: ArcSwap<Vec<Arc<Queue>>>,
    /// Whether `queues` has any: what a worker looks at when nobody listens.
    is_heard: AtomicBool,
    changing: Mutex<()>,
    /// By worker.
    counters: Box<[Counters]>,
}

impl Punts {
    /// Nobody listens yet to `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self {
            queues: ArcSwap::default(),
            is_heard: AtomicBool::new(false),
            changing: Mutex::default(),
            counters: (0..workers).map(|_| Counters::default()).collect(),
        }
    }

    /// Hands a packet out; called by worker `worker`.
    pub fn hand_out(&self, worker: usize, at_ms: u64, in_port: PortId, frame: &Frame<'_>, punt: Punt) {
        let counters = &self.counters[worker];
        let mut is_heard = false;
        // Relaxed: a listener that has just come may miss the packets of this moment.
        if self.is_heard.load(Ordering::Relaxed) {
            for queue in self.queues.load().iter().filter(|queue| queue.id.is_none_or(|id| id == punt.id)) {
                is_heard = true;
                let Some(mut punted) = queue.free.pop() else {
                    queue.lost.fetch_add(1, Ordering::Relaxed);
                    counters.lost.add(1);
                    continue;
                };
                punted.fill(at_ms, in_port, frame, punt);
                let is_queued = queue.full.push(punted).is_ok();
                debug_assert!(is_queued, "Queue invariant 1");
                counters.delivered.add(1);
            }
        }
        if !is_heard {
            counters.unheard.add(1);
        }
    }

    /// What became of all packets so far.
    pub fn report(&self) -> Report {
        let mut sum = Report::default();
        for worker in &self.counters {
            sum.delivered += worker.delivered.get();
            sum.lost += worker.lost.get();
            sum.unheard += worker.unheard.get();
        }
        sum
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Queue>>)) {
        let _changing = self.changing.lock();
        let mut queues = Vec::clone(&self.queues.load());
        change(&mut queues);
        self.is_heard.store(!queues.is_empty(), Ordering::Relaxed);
        let old = self.queues.swap(Arc::new(queues));
        // A worker uses the list for the time of one copy; it must not be the one to free it.
        while Arc::strong_count(&old) > 1 {
            thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Who listens; leaves when dropped.
#[derive(Debug)]
pub struct Listener {
    punts: Arc<Punts>,
    queue: Arc<Queue>,
    /// Of `queue.lost`, what was told.
    lost_told: u64,
}

impl Listener {
    /// Listens to all packets from now on, or to those for `id`; `None` if there are [`MAX_LISTENERS`] already.
    pub fn new(punts: &Arc<Punts>, id: Option<u16>) -> Option<Self> {
        let queue = Arc::new(Queue {
            id,
            free: ArrayQueue::new(BUFFERS),
            full: ArrayQueue::new(BUFFERS),
            lost: AtomicU64::new(0),
        });
        for _ in 0..BUFFERS {
            let is_queued = queue.free.push(Punted::empty()).is_ok();
            debug_assert!(is_queued, "Queue invariant 1");
        }
        let mut has_room = false;
        punts.change(|queues| {
            has_room = queues.len() < MAX_LISTENERS;
            if has_room {
                queues.push(Arc::clone(&queue));
            }
        });
        has_room.then(|| Self { punts: Arc::clone(punts), queue, lost_told: 0 })
    }

    /// Lets `read` see the next packet, if there is one.
    pub fn next<T>(&mut self, read: impl FnOnce(&Punted) -> T) -> Option<T> {
        let punted = self.queue.full.pop()?;
        let result = read(&punted);
        let is_queued = self.queue.free.push(punted).is_ok();
        debug_assert!(is_queued, "Queue invariant 1");
        Some(result)
    }

    /// Packets lost since this was last asked.
    pub fn lost(&mut self) -> u64 {
        let lost = self.queue.lost.load(Ordering::Relaxed);
        lost - std::mem::replace(&mut self.lost_told, lost)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.punts.change(|queues| queues.retain(|queue| !Arc::ptr_eq(queue, &self.queue)));
    }
}

#[cfg(test)]
mod tests {
    use vsteer_switch::packet::{Offload, Tail};

    use super::*;

    const WHOLE: Punt = Punt { max_len: u16::MAX, id: 1 };

    fn frame(bytes: &[u8]) -> Frame<'_> {
        Frame { head: bytes, tail: Tail::EMPTY, offload: &Offload::NONE }
    }

    #[test]
    fn every_listener_gets_what_it_asked_for() {
        let punts = Arc::new(Punts::new(2));
        punts.hand_out(0, 1, PortId::ZERO, &frame(&[1; 60]), WHOLE);
        let mut all = Listener::new(&punts, None).unwrap();
        let mut other = Listener::new(&punts, Some(2)).unwrap();
        punts.hand_out(0, 5, PortId::ZERO, &frame(&[7; 60]), WHOLE);
        punts.hand_out(1, 6, PortId::ZERO, &frame(&[8; 60]), Punt { max_len: 20, id: 2 });
        let read = |punted: &Punted| (punted.at_ms, punted.id, punted.len, punted.bytes().to_vec());
        assert_eq!(all.next(read), Some((5, 1, 60, vec![7; 60])));
        assert_eq!(all.next(read), Some((6, 2, 60, vec![8; 20])));
        assert_eq!(all.next(read), None);
        assert_eq!(other.next(read), Some((6, 2, 60, vec![8; 20])));
        assert_eq!(other.next(read), None);
        assert_eq!(punts.report(), Report { delivered: 3, lost: 0, unheard: 1 });
    }

    #[test]
    fn slow_listener_loses_packets_which_are_counted_and_hold_nobody_up() {
        let punts = Arc::new(Punts::new(1));
        let mut slow = Listener::new(&punts, None).unwrap();
        for at_ms in 0..BUFFERS as u64 + 10 {
            punts.hand_out(0, at_ms, PortId::ZERO, &frame(&[0; 60]), WHOLE);
        }
        assert_eq!((slow.lost(), slow.lost()), (10, 0));
        for at_ms in 0..BUFFERS as u64 {
            assert_eq!(slow.next(|punted| punted.at_ms), Some(at_ms));
        }
        assert_eq!(slow.next(|_| ()), None);
        punts.hand_out(0, 999, PortId::ZERO, &frame(&[0; 60]), WHOLE);
        assert_eq!(slow.next(|punted| punted.at_ms), Some(999), "buffers come back");
    }

    #[test]
    fn listener_that_left_is_heard_of_no_more_and_makes_room() {
        let punts = Arc::new(Punts::new(1));
        let mut listeners: Vec<_> = (0..MAX_LISTENERS).filter_map(|_| Listener::new(&punts, None)).collect();
        assert_eq!(listeners.len(), MAX_LISTENERS);
        assert!(Listener::new(&punts, None).is_none());
        listeners.clear();
        punts.hand_out(0, 0, PortId::ZERO, &frame(&[0; 60]), WHOLE);
        assert_eq!(punts.report().unheard, 1);
        assert!(Listener::new(&punts, None).is_some());
    }
}
