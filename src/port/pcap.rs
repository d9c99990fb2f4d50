//! A capture file as a port: its packets are played into the switch, and what leaves by the port is recorded in another.
//!
//! Neither makes a worker wait for a disk. A thread reads the capture ahead into a bounded queue, at the rate that was asked
//! for or as fast as the worker takes the packets, and ends with the file: it is played once. Another thread records, see
//! `recorder.rs`. Both begin when a worker takes the port, which is when all ports of a configuration are there.
//!
//! What leaves is recorded as a wire would carry it: checksums are complete and segments are cut. Without `out=` it goes
//! nowhere, and counts as sent.

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use parking_lot::{Mutex, MutexGuard};
use vsteer_switch::counters::PortCounters;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::egress::{Finisher, OffloadCaps};
use vsteer_switch::packet::{Burst, Frame, MAX_FRAME_BYTES, Offload};
use vsteer_switch::port::PortId;
use vsteer_vhost::net::port::Rest;
use vsteer_vhost::net::queue::{KickPoller, same_poller};

use super::batch::{Batch, Sink};
use super::driver::{Identity, Opened};
use super::recorder::{self, Format, Output, OutputError, Recording, Tape, Way};
use super::report::{DriverStatus, Link, News};
use super::rx_area::RxArea;
use super::words::Words;
use crate::config::error::Problem;
use crate::config::words::{parse_number, set_once};
use crate::pcap::{Capture, PcapError};
use crate::socket_file::identity_of;

/// What these ports are called.
pub(super) const WORDS: Words =
    Words { type_name: "pcap", address: "FILE", address_key: "file", options: &["out", "rate"] };

/// Packets that are read ahead.
const AHEAD_PKTS: usize = 512;

const MAX_RATE_PPS: u32 = 100_000_000;

/// What a capture's port has beside what all ports have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcapSpec {
    /// The capture that is played.
    pub file: PathBuf,
    /// Where what leaves is recorded.
    pub out: Option<PathBuf>,
    /// Packets per second; `None` is as fast as they are taken.
    pub rate_pps: Option<u32>,
}

impl PcapSpec {
    /// What no other port may write.
    pub(super) fn exclusive(&self) -> Option<PathBuf> {
        self.out.as_deref().map(identity_of)
    }

    pub(super) fn fmt_options(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.out.as_ref().map_or(Ok(()), |out| write!(f, ",out={}", out.display()))?;
        self.rate_pps.map_or(Ok(()), |rate| write!(f, ",rate={rate}"))
    }
}

/// A capture's port whose words are still being read.
#[derive(Debug, Default)]
pub struct PcapDraft {
    file: Option<PathBuf>,
    out: Option<PathBuf>,
    rate_pps: Option<u32>,
}

impl PcapDraft {
    pub(super) fn set_address(&mut self, path: &str) -> Result<(), Problem> {
        set_once(&mut self.file, parse_path(path)?)
    }

    pub(super) fn set(&mut self, option: &str, text: &str) -> Result<(), Problem> {
        match option {
            "out" => set_once(&mut self.out, parse_path(text)?),
            "rate" => set_once(&mut self.rate_pps, parse_number(text, 1, MAX_RATE_PPS)?),
            _ => Err(Problem::unknown("option", option, WORDS.options.iter().copied())),
        }
    }

    pub(super) fn finish(self) -> Result<PcapSpec, Problem> {
        let file = self.file.ok_or("no capture; use file = \"PATH\"")?;
        if self.out.as_ref() == Some(&file) {
            return Err("out= is the file that is played; name another for what is recorded".into());
        }
        Ok(PcapSpec { file, out: self.out, rate_pps: self.rate_pps })
    }
}

fn parse_path(text: &str) -> Result<PathBuf, Problem> {
    match text {
        "" => Err("the file's path is empty; name a file".into()),
        path => Ok(path.into()),
    }
}

/// Why a capture's port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum PcapPortError {
    /// The capture cannot be opened.
    #[error("capture {path} cannot be opened: {source}; check the path")]
    Unreadable {
        /// The capture.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The capture is a folder, a pipe, a device.
    #[error("capture {0} is no regular file; write what it has into a file first, and play that")]
    NotRegular(String),
    /// A recording writes the file.
    #[error("capture {0} is being recorded at present; play it when that is done")]
    InUse(String),
    /// It is no capture that can be played.
    #[error("capture {path} {source}")]
    NoCapture {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: PcapError,
    },
    /// What leaves cannot be recorded.
    #[error("out={0}")]
    Output(#[from] OutputError),
    /// The system has no threads left.
    #[error("a thread cannot be started: {0}; raise the limit of threads")]
    System(#[from] io::Error),
}

/// A capture's port, as workers see it.
#[derive(Debug)]
pub struct PcapPort {
    id: PortId,
    reel: Arc<Reel>,
    tape: Option<Arc<Tape>>,
    /// Where the packets of a burst lie. Held until the burst has left the switch.
    area: Mutex<RxArea>,
}

/// Finds what would keep [`open`] from succeeding now, and changes nothing.
pub(super) fn check(spec: &PcapSpec) -> Result<(), PcapPortError> {
    let input = Input::open(spec)?;
    Ok(spec.out.as_ref().map_or(Ok(()), |out| Output::check(out, Some(&input.metadata)))?)
}

/// Opens the files and starts the threads that serve them.
pub(super) fn open(spec: &PcapSpec, port: &Identity<'_>) -> Result<Opened<PcapPort>, PcapPortError> {
    let Input { capture, reel, metadata } = Input::open(spec)?;
    let output = spec.out.as_ref().map(|out| Output::open(out, Some(&metadata))).transpose()?;
    let recording = output.map(|output| output.record(port.name, Format::Pcap)).transpose()?;
    let (tape, recording) = recording.unzip();
    let playing = Playing::start(Arc::clone(&reel), capture, spec.rate_pps, port.name)?;
    let driver = PcapPort { id: port.id, reel, tape, area: Mutex::new(RxArea::take()) };
    Ok(Opened { driver, keeper: Some(Box::new(Threads { _playing: playing, _recording: recording })) })
}

/// A capture whose head has been read.
struct Input {
    capture: Capture<Source>,
    reel: Arc<Reel>,
    metadata: Metadata,
}

impl Input {
    fn open(spec: &PcapSpec) -> Result<Self, PcapPortError> {
        let path = || spec.file.display().to_string();
        let unreadable = |source| PcapPortError::Unreadable { path: path(), source };
        // Without waiting, as a pipe would have us wait for its writer.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&spec.file);
        let file = file.map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(PcapPortError::NotRegular(path()));
        }
        if recorder::is_in_use(file.try_lock_shared()) {
            return Err(PcapPortError::InUse(path()));
        }
        let reel = Arc::new(Reel::new(metadata.len()));
        let source = Source { file, reel: Arc::clone(&reel) };
        match Capture::new(source) {
            Ok(capture) => Ok(Self { capture, reel, metadata }),
            Err(source) => Err(PcapPortError::NoCapture { path: path(), source }),
        }
    }
}

/// What serves a port. Dropping it ends the playing, and writes what is still to be recorded.
#[derive(Debug)]
struct Threads {
    _playing: Playing,
    _recording: Option<Recording>,
}

/// A burst that was played: nothing else is played to the same place while it lives.
#[derive(Debug)]
pub struct Received<'a>(
    #[expect(dead_code, reason = "held until the burst has left")] MutexGuard<'a, RxArea>,
);

// Data path: called by workers.
impl PcapPort {
    pub(super) fn receive<'a>(&'a self, burst: &mut Burst, counters: &PortCounters) -> Option<Received<'a>> {
        if self.reel.packets.is_empty() {
            return None;
        }
        let mut area = self.area.try_lock()?;
        let (mut offset, mut bytes) = (0, 0);
        for _ in 0..burst.spare_packets().min(burst.spare_segments()) {
            let Some(packet) = self.reel.packets.pop() else { break };
            burst.push(self.id, Offload::default(), &[area.put(offset, &packet)]);
            bytes += packet.len() as u64;
            offset += packet.len().next_multiple_of(64);
            self.reel.give_back(packet);
        }
        counters.rx_pkts.add(burst.len() as u64);
        counters.rx_bytes.add(bytes);
        self.reel.took(burst.len() as u64);
        (!burst.is_empty()).then_some(Received(area))
    }

    pub(super) fn transmit(&self, batch: Batch<'_>, finisher: &mut Finisher) {
        let mut sink = Recorded { tape: self.tape.as_deref(), time_us: recorder::now_us(), batch };
        batch.finish(OffloadCaps::default(), finisher, &mut sink);
        if let Some(tape) = &self.tape {
            tape.flush();
        }
    }

    /// Asks for an end of the worker's sleep when a packet is there.
    pub(super) fn arm(&self) -> Rest {
        self.reel.is_armed.store(true, Ordering::Relaxed);
        // Orders that before the look at the queue; partner: the fence in `Reel::show`.
        fence(Ordering::SeqCst);
        if self.reel.packets.is_empty() { Rest::Long } else { Rest::None }
    }

    pub(super) fn resume(&self) {
        self.reel.is_armed.store(false, Ordering::Relaxed);
    }
}

// Control.
impl PcapPort {
    /// Hands the port to the worker behind `poller`. The first time, the playing and the recording begin.
    pub(super) fn attach(&self, poller: &Arc<dyn KickPoller>) {
        *self.reel.poller.lock() = Some(Arc::clone(poller));
        poller.wake();
        if let Some(tape) = &self.tape {
            tape.begin();
        }
        if !self.reel.has_begun.swap(true, Ordering::SeqCst) {
            self.reel.unpark();
        }
    }

    pub(super) fn detach(&self, poller: &Arc<dyn KickPoller>) {
        let mut current = self.reel.poller.lock();
        match &*current {
            Some(mine) if same_poller(mine, poller) => *current = None,
            Some(other) => other.wake(),
            None => (),
        }
    }

    pub(super) fn status(&self) -> DriverStatus {
        let damage = self.reel.damage.get().map(|damage| format!("the capture {damage}"));
        let fault = damage.or_else(|| self.tape.as_ref()?.fault());
        DriverStatus {
            link: if fault.is_some() { Link::Stopped } else { Link::Up },
            fault,
            activity: Some(self.activity()),
            live_queues: 1,
            ..DriverStatus::default()
        }
    }

    /// The threads log what happens to them.
    pub(super) fn take_news(&self) -> Option<News> {
        None
    }

    fn activity(&self) -> String {
        let mut text = self.reel.progress();
        if let Some(tape) = &self.tape {
            text += &format!("; {} packets recorded", tape.recorded());
        }
        text
    }
}

/// A recording while a batch is sent.
struct Recorded<'a> {
    tape: Option<&'a Tape>,
    time_us: u64,
    batch: Batch<'a>,
}

impl Sink for Recorded<'_> {
    fn send<'f>(&mut self, frames: impl ExactSizeIterator<Item = Frame<'f>>) {
        let counters = self.batch.counters;
        for frame in frames {
            if self.tape.is_none_or(|tape| tape.record(self.time_us, Way::Out, &frame)) {
                counters.tx_pkts.add(1);
                counters.tx_bytes.add(frame.len() as u64);
            } else {
                counters.dropped(DropReason::HostQueueFull, 1);
            }
        }
    }

    /// The thread that writes is told when it sleeps.
    fn show(&mut self) {
        if let Some(tape) = self.tape {
            tape.flush();
        }
    }
}

/// What has been read of the capture, and how far the playing is.
///
/// # Concurrency
/// The thread puts packets into one queue and takes buffers from the other; the worker that has the port does the reverse.
/// Control threads read the rest.
struct Reel {
    packets: ArrayQueue<Vec<u8>>,
    /// Buffers for the next ones. Both queues have room for all buffers there are.
    spare: ArrayQueue<Vec<u8>>,
    /// The worker that has the port.
    poller: Mutex<Option<Arc<dyn KickPoller>>>,
    thread: OnceLock<Thread>,
    /// The worker sleeps, or is about to.
    is_armed: AtomicBool,
    /// The thread waits for buffers.
    is_ahead: AtomicBool,
    has_begun: AtomicBool,
    is_ending: AtomicBool,
    /// The thread has come to the end of the file.
    is_read: AtomicBool,
    /// Why the capture cannot be read any further.
    damage: OnceLock<String>,
    file_bytes: u64,
    read_bytes: AtomicU64,
    /// Packets that the worker took; it alone adds to them.
    played: AtomicU64,
    /// Of those that were read, how many the capture has no more than the beginning of.
    cut_short: AtomicU64,
    /// Packets that are longer than any port's, and were left out.
    too_long: AtomicU64,
}

impl fmt::Debug for Reel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reel").field("damage", &self.damage).finish_non_exhaustive()
    }
}

impl Reel {
    fn new(file_bytes: u64) -> Self {
        let spare = ArrayQueue::new(AHEAD_PKTS);
        for _ in 0..AHEAD_PKTS {
            // It has room for all.
            let _ = spare.push(Vec::new());
        }
        Self {
            packets: ArrayQueue::new(AHEAD_PKTS),
            spare,
            poller: Mutex::default(),
            thread: OnceLock::new(),
            is_armed: AtomicBool::new(false),
            is_ahead: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            is_read: AtomicBool::new(false),
            damage: OnceLock::new(),
            file_bytes,
            read_bytes: AtomicU64::new(0),
            played: AtomicU64::new(0),
            cut_short: AtomicU64::new(0),
            too_long: AtomicU64::new(0),
        }
    }

    /// By the worker: the buffer of a packet that it took.
    fn give_back(&self, packet: Vec<u8>) {
        // It has room for all.
        let _ = self.spare.push(packet);
    }

    /// By the worker: it took `pkts` packets.
    fn took(&self, pkts: u64) {
        self.played.store(self.played.load(Ordering::Relaxed) + pkts, Ordering::Relaxed);
        // Orders the return of the buffers before the look at the thread; partner: the fence in `wait_for_room`.
        fence(Ordering::SeqCst);
        // Not for each burst: the thread then reads half a queue at once.
        if self.is_ahead.load(Ordering::Relaxed) && self.packets.len() <= AHEAD_PKTS / 2 {
            self.unpark();
        }
    }

    /// By the thread: `packet` is the next.
    fn show(&self, packet: Vec<u8>) {
        // It has room for all.
        let _ = self.packets.push(packet);
        // Orders the push before the look at the sleeper; partner: the fence in `arm`.
        fence(Ordering::SeqCst);
        if self.is_armed.load(Ordering::Relaxed)
            && self.is_armed.swap(false, Ordering::Relaxed)
            && let Some(poller) = &*self.poller.lock()
        {
            poller.wake();
        }
    }

    /// By the thread: a buffer for the next packet; `None` when the port is closed.
    fn wait_for_room(&self) -> Option<Vec<u8>> {
        while !self.is_ending.load(Ordering::SeqCst) {
            if let Some(buffer) = self.spare.pop() {
                return Some(buffer);
            }
            self.is_ahead.store(true, Ordering::Relaxed);
            // Orders that before the look at the buffers; partner: the fence in `took`.
            fence(Ordering::SeqCst);
            if self.spare.is_empty() {
                thread::park_timeout(Duration::from_millis(100));
            }
            self.is_ahead.store(false, Ordering::Relaxed);
        }
        None
    }

    /// By the thread: waits until `due`; false when the port is closed.
    fn wait_until(&self, due: Instant) -> bool {
        while !self.is_ending.load(Ordering::SeqCst) {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::park_timeout(left);
        }
        false
    }

    fn unpark(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// How far the playing is, in words.
    fn progress(&self) -> String {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Whether all is read comes first: what is read later can only be played later.
        let is_done = self.is_read.load(Ordering::Acquire) && self.packets.is_empty();
        let played = read(&self.played);
        let mut text = if is_done {
            format!("finished: {played} packets played")
        } else {
            let percent = (read(&self.read_bytes) * 100).checked_div(self.file_bytes).unwrap_or(100).min(100);
            format!("playing: {played} packets so far, {percent} % of the file read")
        };
        for (count, what) in [
            (read(&self.cut_short), "cut short by the capture"),
            (read(&self.too_long), "left out, longer than any port takes"),
        ] {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        text
    }
}

/// The capture's file, which counts what is read of it.
#[derive(Debug)]
struct Source {
    file: File,
    reel: Arc<Reel>,
}

impl Read for Source {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(to)?;
        self.reel.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The thread that reads the capture; dropping this ends it.
#[derive(Debug)]
struct Playing {
    reel: Arc<Reel>,
    thread: Option<JoinHandle<()>>,
}

impl Playing {
    fn start(
        reel: Arc<Reel>,
        capture: Capture<Source>,
        rate_pps: Option<u32>,
        port: &str,
    ) -> io::Result<Self> {
        let thread = {
            let (reel, port) = (Arc::clone(&reel), port.to_owned());
            let thread = thread::Builder::new().name(format!("play-{port}"));
            thread.spawn(move || play(&reel, capture, rate_pps, &port))?
        };
        // The thread that was just started is the first to be told.
        let _ = reel.thread.set(thread.thread().clone());
        Ok(Self { reel, thread: Some(thread) })
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.reel.is_ending.store(true, Ordering::SeqCst);
        self.reel.unpark();
        let Some(thread) = self.thread.take() else { return };
        // One read of a disk at most; a disk that does not answer keeps nobody waiting.
        let deadline = Instant::now() + Duration::from_secs(2);
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            // A panic there was our own bug, and is in the log already.
            let _ = thread.join();
        }
    }
}

/// The thread: reads `capture` into the reel.
fn play(reel: &Reel, mut capture: Capture<Source>, rate_pps: Option<u32>, port: &str) {
    while !reel.has_begun.load(Ordering::SeqCst) {
        if reel.is_ending.load(Ordering::SeqCst) {
            return;
        }
        thread::park_timeout(Duration::from_secs(1));
    }
    let begun = Instant::now();
    let mut shown = 0;
    // Bound: each round takes a packet off the file.
    while let Some(mut packet) = reel.wait_for_room() {
        let stamp = match capture.next(&mut packet) {
            Ok(Some(stamp)) => stamp,
            Ok(None) => {
                // Release: all packets are in the queue; partner: the acquire in `progress`.
                reel.is_read.store(true, Ordering::Release);
                tracing::info!(port, packets = shown, "the capture is at its end");
                return;
            }
            Err(error) => {
                tracing::warn!(port, packets = shown, "the capture {error}; what came before was played");
                let _ = reel.damage.set(error.to_string());
                return;
            }
        };
        if packet.len() > MAX_FRAME_BYTES {
            reel.too_long.fetch_add(1, Ordering::Relaxed);
            reel.give_back(packet);
            continue;
        }
        if packet.len() < stamp.len as usize {
            reel.cut_short.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(rate) = rate_pps
            && !reel.wait_until(begun + due(shown, rate))
        {
            return;
        }
        reel.show(packet);
        shown += 1;
    }
}

/// When packet `nth`, from 0, is due at `rate_pps` packets per second.
fn due(nth: u64, rate_pps: u32) -> Duration {
    let rate = u64::from(rate_pps);
    Duration::from_secs(nth / rate) + Duration::from_nanos(nth % rate * 1_000_000_000 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_due_at_the_rate_without_drift() {
        assert_eq!(due(0, 3), Duration::ZERO);
        assert_eq!(due(1, 3), Duration::from_nanos(333_333_333));
        assert_eq!(due(3_000_000_000, 3), Duration::from_secs(1_000_000_000));
        assert_eq!(due(1, MAX_RATE_PPS), Duration::from_nanos(10));
    }
}
