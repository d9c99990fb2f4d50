//! Faults on purpose, at any port and in both directions: packets that are dropped, corrupted or delayed at random.
//!
//! A wrapper, for tests and for trying how guests and applications bear a bad network: another driver moves the packets. Each
//! packet is copied here, its fate is drawn, and it goes on from this memory, so the driver has its buffers back at once.
//! The draws come from a generator with a seed, which `port show` tells: the same seed, the same packets in the same queues and
//! one worker give the same fates.
//!
//! What is corrupted has one bit flipped, after the work that was put off was done on it: a receiver finds its checksum wrong,
//! as it would after a bad cable. Delayed packets are overtaken by those that are not.
//!
//! Ports without faults have no wrapper, and pay nothing for this.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use vsteer_switch::counters::PortCounters;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::egress::{Finisher, OffloadCaps};
use vsteer_switch::packet::{BURST, Burst, Frame, MAX_FRAME_BYTES, Offload, Tail};
use vsteer_switch::port::PortId;
use vsteer_vhost::net::port::Rest;
use vsteer_vhost::net::queue::{KickPoller, same_poller};

use super::batch::Batch;
use super::driver::{self, Driver, Identity, Opened, Scratch};
use super::queue_set::QueueSet;
use super::recorder::copy_frame;
use super::report::DriverStatus;
use super::rx_area::RxArea;
use crate::config::error::Problem;
use crate::config::words::{parse_number, set_once};

/// Packets that are held back at most, in each direction of a queue; one more is dropped.
const MAX_HELD_PKTS: usize = 1024;

const MAX_DELAY_MS: u32 = 10_000;

/// A probability, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millionths(u32);

impl Millionths {
    /// Certainty.
    const ONE: u32 = 1_000_000;

    /// Reads `1%`, `0.05%`.
    fn parse(text: &str) -> Result<Self, Problem> {
        let read = || {
            let (whole, part) =
                text.strip_suffix('%')?.split_once('.').unwrap_or((text.strip_suffix('%')?, ""));
            let is_number = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
            if whole.is_empty() || whole.len() > 3 || part.len() > 4 || !is_number(whole) || !is_number(part)
            {
                return None;
            }
            let millionths: u32 = format!("{whole}{part:0<4}").parse().ok()?;
            (1..=Self::ONE).contains(&millionths).then_some(Self(millionths))
        };
        read().ok_or_else(|| {
            format!("{text:?} is no probability; use one from 0.0001% to 100%, such as 1% or 0.05%").into()
        })
    }
}

impl fmt::Display for Millionths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 10_000, format!("{:04}", self.0 % 10_000));
        match part.trim_end_matches('0') {
            "" => write!(f, "{whole}%"),
            part => write!(f, "{whole}.{part}%"),
        }
    }
}

/// What goes wrong, and how often: `drop:1%+corrupt:0.1%+delay:5%:20ms+seed:7`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FaultSpec {
    /// How many packets vanish.
    drop: Millionths,
    /// Of the others, how many have a bit flipped.
    corrupt: Millionths,
    /// Of those, how many wait.
    delay: Millionths,
    /// How long.
    delay_ms: u32,
    /// Where the draws begin; `None` is somewhere else each time.
    seed: Option<u64>,
}

impl FaultSpec {
    /// Reads the value of `fault=`.
    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        let (mut drop, mut corrupt, mut delay, mut seed) = (None, None, None, None);
        for word in text.split('+') {
            let (name, value) = word.split_once(':').ok_or_else(|| {
                format!(
                    "no \":\" in {word:?}; write drop:1%+corrupt:0.1%+delay:5%:20ms+seed:7, or some of it"
                )
            })?;
            match name {
                "drop" => set_once(&mut drop, Millionths::parse(value)?),
                "corrupt" => set_once(&mut corrupt, Millionths::parse(value)?),
                "delay" => set_once(&mut delay, parse_delay(value)?),
                "seed" => set_once(&mut seed, parse_number(value, 0, u64::MAX)?),
                _ => Err(Problem::unknown("fault", name, ["drop", "corrupt", "delay", "seed"].into_iter())),
            }?;
        }
        if drop.is_none() && corrupt.is_none() && delay.is_none() {
            return Err("no fault; name one of drop, corrupt and delay".into());
        }
        let (delay, delay_ms) = delay.unwrap_or_default();
        let (drop, corrupt) = (drop.unwrap_or_default(), corrupt.unwrap_or_default());
        Ok(Self { drop, corrupt, delay, delay_ms, seed })
    }
}

fn parse_delay(text: &str) -> Result<(Millionths, u32), Problem> {
    let Some((probability, time)) = text.split_once(':') else {
        return Err("no time; write it behind the probability, as in delay:5%:20ms".into());
    };
    let Some(time) = time.strip_suffix("ms") else {
        return Err(format!("{time:?} is no time; use milliseconds, such as 20ms").into());
    };
    Ok((Millionths::parse(probability)?, parse_number(time, 1, MAX_DELAY_MS)?))
}

impl fmt::Display for FaultSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { drop, corrupt, delay, delay_ms, seed } = self;
        let never = Millionths::default();
        let words = [
            (*drop != never).then(|| format!("drop:{drop}")),
            (*corrupt != never).then(|| format!("corrupt:{corrupt}")),
            (*delay != never).then(|| format!("delay:{delay}:{delay_ms}ms")),
            seed.map(|seed| format!("seed:{seed}")),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join("+"))
    }
}

/// Sebastiano Vigna's splitmix64.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        // The upper half of a product: nothing is more likely than anything else by more than one in 2^44.
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// Whether what happens with this probability happens.
    fn happens(&mut self, probability: Millionths) -> bool {
        probability.0 > 0 && self.below(Millionths::ONE.into()) < u64::from(probability.0)
    }
}

/// A driver whose packets meet with faults.
///
/// # Concurrency
/// A lane of the receiving side belongs to the worker that has the queue, and is held until the burst has left. Any worker
/// may transmit; it holds that lane meanwhile, and within it the locks of the driver. Nobody takes a receiving lane while it
/// holds the transmitting one.
pub struct Fault {
    id: PortId,
    /// What moves the packets.
    pub(super) inner: Driver,
    spec: FaultSpec,
    seed: u64,
    rx: Box<[Mutex<Lane>]>,
    tx: Mutex<Transmitting>,
    /// Packets in all lanes: while there are any, the worker does not sleep.
    held: AtomicUsize,
    dropped: AtomicU64,
    corrupted: AtomicU64,
    delayed: AtomicU64,
    /// The worker of the first queue, which also sends what was delayed on its way out.
    poller: Mutex<Option<Arc<dyn KickPoller>>>,
    /// It sleeps, or is about to.
    is_armed: AtomicBool,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault").field("inner", &self.inner).field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// One direction of one queue.
#[derive(Debug)]
struct Lane {
    random: Random,
    /// Packets that go on at the next opportunity.
    ready: VecDeque<Held>,
    /// Packets that wait, the first to go first, and until when.
    late: VecDeque<(Instant, Held)>,
    /// Buffers for the next packets.
    spare: Vec<Vec<u8>>,
    /// Where packets lie while they are in a burst.
    area: RxArea,
}

/// A packet that was taken off its burst.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    offload: Offload,
}

/// The transmitting side.
#[derive(Debug)]
struct Transmitting {
    lane: Lane,
    burst: Burst,
    /// Of the last batch: what those that are sent later go by.
    worker: usize,
    max_frame_bytes: usize,
}

/// A burst that was received: the lane takes no other while it lives.
#[derive(Debug)]
pub struct Received<'a>(#[expect(dead_code, reason = "held until the burst has left")] MutexGuard<'a, Lane>);

/// Puts the faults of `spec` around `opened`.
pub(super) fn wrap(opened: Opened<Driver>, spec: &FaultSpec, port: &Identity<'_>) -> Opened<Driver> {
    let seed = spec.seed.unwrap_or_else(|| RandomState::new().hash_one(port.name) >> 32);
    tracing::warn!(port = port.name, faults = %spec, seed, "faults are made on purpose at this port");
    let mut seeds = Random(seed);
    opened.map(|inner| {
        let fault = Fault {
            id: port.id,
            spec: spec.clone(),
            seed,
            tx: Mutex::new(Transmitting {
                lane: Lane::new(seeds.next()),
                burst: Burst::new(),
                worker: 0,
                max_frame_bytes: MAX_FRAME_BYTES,
            }),
            rx: (0..inner.queues()).map(|_| Mutex::new(Lane::new(seeds.next()))).collect(),
            inner,
            held: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            corrupted: AtomicU64::new(0),
            delayed: AtomicU64::new(0),
            poller: Mutex::default(),
            is_armed: AtomicBool::new(false),
        };
        Driver::Fault(Box::new(fault))
    })
}

impl Lane {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            ready: VecDeque::new(),
            late: VecDeque::new(),
            spare: Vec::new(),
            area: RxArea::take(),
        }
    }

    fn held(&self) -> usize {
        self.ready.len() + self.late.len()
    }

    /// Moves what has waited long enough to what is ready.
    fn ripen(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let now = Instant::now();
        while self.late.front().is_some_and(|(due, _)| *due <= now) {
            self.ready.extend(self.late.pop_front().map(|(_, held)| held));
        }
    }

    /// Puts what is ready into `burst`, as far as it has room, and returns whether it put anything.
    fn fill(&mut self, in_port: PortId, burst: &mut Burst) -> bool {
        let mut offset = 0;
        for _ in 0..burst.spare_packets().min(burst.spare_segments()) {
            let Some(Held { bytes, offload }) = self.ready.pop_front() else { break };
            burst.push(in_port, offload, &[self.area.put(offset, &bytes)]);
            offset += bytes.len().next_multiple_of(64);
            self.spare.push(bytes);
        }
        !burst.is_empty()
    }
}

impl Fault {
    /// Draws the fate of `frame`, and keeps a copy if it goes on.
    fn draw(&self, lane: &mut Lane, frame: &Frame<'_>, finisher: &mut Finisher) -> Fate {
        if lane.random.happens(self.spec.drop) || lane.held() >= MAX_HELD_PKTS {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return Fate::Dropped;
        }
        // No burst takes it from here; tags that were pushed can have made it that long.
        if frame.len() > MAX_FRAME_BYTES {
            return Fate::Refused(DropReason::TooLong);
        }
        let mut bytes = lane.spare.pop().unwrap_or_default();
        copy_frame(frame, &mut bytes);
        let held = Held { bytes, offload: *frame.offload };
        if lane.random.happens(self.spec.corrupt) {
            self.corrupted.fetch_add(1, Ordering::Relaxed);
            return self.corrupt(lane, held, finisher);
        }
        if lane.random.happens(self.spec.delay) {
            self.delayed.fetch_add(1, Ordering::Relaxed);
            let due = Instant::now() + Duration::from_millis(self.spec.delay_ms.into());
            lane.late.push_back((due, held));
            return Fate::Goes;
        }
        lane.ready.push_back(held);
        Fate::Goes
    }

    /// Does the work that was put off on a packet, and flips a bit of what comes of it.
    fn corrupt(&self, lane: &mut Lane, held: Held, finisher: &mut Finisher) -> Fate {
        let Held { bytes, offload } = held;
        let first = lane.ready.len();
        let Lane { ready, spare, .. } = lane;
        let frame = Frame { head: &bytes, tail: Tail::EMPTY, offload: &offload };
        let done = finisher.finish(&frame, OffloadCaps::NONE, MAX_FRAME_BYTES, |finished| {
            let mut bytes = spare.pop().unwrap_or_default();
            copy_frame(finished, &mut bytes);
            ready.push_back(Held { bytes, offload: *finished.offload });
            Ok(())
        });
        lane.spare.push(bytes);
        if let Err(reason) = done {
            return Fate::Refused(reason);
        }
        let made = (lane.ready.len() - first) as u64;
        #[allow(clippy::cast_possible_truncation, reason = "below the length of a queue")]
        let chosen = first + lane.random.below(made.max(1)) as usize;
        if let Some(Held { bytes, .. }) = lane.ready.get_mut(chosen)
            && !bytes.is_empty()
        {
            let bit = lane.random.below(8 * bytes.len() as u64);
            #[allow(clippy::cast_possible_truncation, reason = "below the length of a frame")]
            {
                bytes[bit as usize / 8] ^= 1 << (bit % 8);
            }
        }
        Fate::Goes
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It goes on, now or later.
    Goes,
    /// It vanishes.
    Dropped,
    /// It is too long, or it was to be corrupted and the work that was put off cannot be done on it.
    Refused(DropReason),
}

impl Fate {
    fn count(self, counters: &PortCounters, dropped: DropReason) {
        match self {
            Fate::Goes => (),
            Fate::Dropped => counters.dropped(dropped, 1),
            Fate::Refused(reason) => counters.dropped(reason, 1),
        }
    }
}

// Data path: called by workers.
impl Fault {
    /// What is held is sent whether or not anything new can come.
    #[cold]
    pub(super) fn live_queues(&self, assigned: QueueSet) -> QueueSet {
        if self.held.load(Ordering::Relaxed) > 0 { assigned } else { self.inner.live_queues(assigned) }
    }

    #[cold]
    pub(super) fn receive<'a>(
        &'a self,
        queue: usize,
        burst: &mut Burst,
        scratch: &mut Scratch,
        counters: &PortCounters,
    ) -> Option<driver::Received<'a>> {
        self.send_late(scratch, counters);
        let mut lane = self.rx[queue].try_lock()?;
        let before = lane.held();
        if let Some(received) = self.inner.receive(queue, burst, scratch, counters) {
            for index in 0..burst.len() {
                let fate = self.draw(&mut lane, &burst.frame(index), &mut scratch.finisher);
                fate.count(counters, DropReason::InjectedRx);
            }
            burst.clear();
            received.complete();
        }
        lane.ripen();
        let has_any = lane.fill(self.id, burst);
        self.holds(before, lane.held());
        has_any.then(|| driver::Received::Fault(Received(lane)))
    }

    #[cold]
    pub(super) fn transmit(&self, batch: Batch<'_>, scratch: &mut Scratch) {
        let mut transmitting = self.tx.lock();
        (transmitting.worker, transmitting.max_frame_bytes) = (batch.worker, batch.max_frame_bytes);
        let before = transmitting.lane.held();
        for frame in batch.frames() {
            let fate = self.draw(&mut transmitting.lane, &frame, &mut scratch.finisher);
            fate.count(batch.counters, DropReason::InjectedTx);
        }
        self.send(&mut transmitting, before, scratch, batch.counters);
        drop(transmitting);
        self.wake();
    }

    /// Sends what was delayed and is due.
    fn send_late(&self, scratch: &mut Scratch, counters: &PortCounters) {
        if self.held.load(Ordering::Relaxed) > 0
            && let Some(mut transmitting) = self.tx.try_lock()
        {
            let before = transmitting.lane.held();
            self.send(&mut transmitting, before, scratch, counters);
        }
    }

    /// Sends what is ready, of a lane that had `before` packets.
    fn send(
        &self,
        transmitting: &mut Transmitting,
        before: usize,
        scratch: &mut Scratch,
        counters: &PortCounters,
    ) {
        let Transmitting { lane, burst, worker, max_frame_bytes } = transmitting;
        lane.ripen();
        let all: [u8; BURST] = std::array::from_fn(|index| u8::try_from(index).unwrap_or(0));
        // Bound: each round takes packets off what is ready, which only grows before.
        while lane.fill(self.id, burst) {
            let indices = &all[..burst.len()];
            let batch =
                Batch { burst, indices, worker: *worker, counters, max_frame_bytes: *max_frame_bytes };
            self.inner.transmit(batch, scratch);
            burst.clear();
        }
        self.holds(before, lane.held());
    }

    /// Notes that a lane that had `before` packets has `now`.
    fn holds(&self, before: usize, now: usize) {
        if now >= before {
            self.held.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.held.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// Ends the sleep of the worker that sends what was delayed, if there is any.
    fn wake(&self) {
        // Orders what was noted in `holds` before the look at the sleeper; partner: the fence in `arm`.
        fence(Ordering::SeqCst);
        if self.held.load(Ordering::Relaxed) > 0
            && self.is_armed.swap(false, Ordering::Relaxed)
            && let Some(poller) = &*self.poller.lock()
        {
            poller.wake();
        }
    }

    /// A packet that is held cannot end a sleep, so sleeps are short meanwhile.
    pub(super) fn arm(&self, assigned: QueueSet) -> Rest {
        self.is_armed.store(true, Ordering::Relaxed);
        // Orders that before the look at what is held; partner: the fence in `wake`.
        fence(Ordering::SeqCst);
        let rest = if self.held.load(Ordering::Relaxed) > 0 { Rest::Short } else { Rest::Long };
        // The driver is asked in any case.
        self.inner.arm(assigned).min(rest)
    }

    pub(super) fn resume(&self, assigned: QueueSet) {
        self.is_armed.store(false, Ordering::Relaxed);
        self.inner.resume(assigned);
    }
}

// Control.
impl Fault {
    pub(super) fn attach(&self, queue: usize, poller: &Arc<dyn KickPoller>) {
        if queue == 0 {
            *self.poller.lock() = Some(Arc::clone(poller));
        }
        self.inner.attach(queue, poller);
    }

    pub(super) fn detach(&self, queue: usize, poller: &Arc<dyn KickPoller>) {
        let mut mine = self.poller.lock();
        if queue == 0 && mine.as_ref().is_some_and(|mine| same_poller(mine, poller)) {
            *mine = None;
        }
        drop(mine);
        self.inner.detach(queue, poller);
    }

    pub(super) fn status(&self) -> DriverStatus {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let text = format!(
            "faults: {} dropped, {} corrupted, {} delayed, seed {}",
            count(&self.dropped),
            count(&self.corrupted),
            count(&self.delayed),
            self.seed
        );
        self.inner.status().with_activity(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_read_exactly_and_written_as_they_are_read() {
        for (text, millionths) in [("1%", 10_000), ("0.0001%", 1), ("100%", 1_000_000), ("12.5%", 125_000)] {
            let read = Millionths::parse(text).unwrap();
            assert_eq!((read.0, read.to_string().as_str()), (millionths, text));
        }
        for text in [
            "",
            "%",
            "1",
            "0%",
            "0.00%",
            "100.0001%",
            "1000%",
            "-1%",
            "+1%",
            "1.00001%",
            "1.-1%",
            "a%",
            ".5%",
        ] {
            assert!(Millionths::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_happens_with_a_probability_happens_about_as_often() {
        let mut random = Random(1);
        let count = (0..100_000).filter(|_| random.happens(Millionths(10_000))).count();
        // A thousand, give or take five standard deviations; the seed is fixed.
        assert!((840..1160).contains(&count), "{count}");
        assert!((0..1000).all(|_| random.happens(Millionths(Millionths::ONE))));
        assert!(!(0..1000).any(|_| random.happens(Millionths::default())));
    }

    #[test]
    fn same_seed_draws_the_same() {
        let draws = |seed| {
            let mut random = Random(seed);
            [random.next(), random.next(), random.below(100)]
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }
}
