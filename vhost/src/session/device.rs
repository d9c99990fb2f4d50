//! What a front-end has said of its device, and what follows from it for the port.
//!
//! Front-ends say the same things in different orders, and say some of them again while rings run. So nothing is done
//! when a thing is said but to note it; then each ring is brought to where all that is known puts it: a ring runs once its
//! front-end has sent a kick descriptor (or said that there is none) and addresses, and memory contains them. Where memory
//! does not, the ring waits, the port says so, and the ring goes on when memory comes that does.
//!
//! A ring goes on at its used index, whatever base the front-end sends: see `SplitRing::new`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use vhost::vhost_user::message::{FrontendReq, VhostUserLog, VhostUserMemoryRegion, VhostUserVringAddr};

use super::descriptor;
use super::memory_map::MemoryMap;
use super::message::Refusal;
use crate::dirty_log::LogMemory;
use crate::memory::{FrontendAddr, RegionTable};
use crate::net::control::{self, Wish};
use crate::net::features::{Negotiated, offered};
use crate::net::notifier::{Detour, Errand, Notice, Notifier, Stuck};
use crate::net::port::VhostPort;
use crate::ring::{Access, RingFault, RingPart, RingSetup, SplitRing};
use crate::watchdog;

/// Largest ring (virtio 1.3 §2.7).
const MAX_QUEUE_SIZE: u32 = 32_768;

/// MTUs that networks have, as DPDK's vhost library takes them.
const MTU: std::ops::RangeInclusive<u64> = 68..=65_535;

/// What the front-end said of one ring.
#[derive(Debug, Default)]
struct Ring {
    size: u16,
    /// Where the ring goes on, as the front-end believes, or where it was stopped.
    base: u16,
    /// A base came since the ring was started.
    is_rebased: bool,
    addresses: Option<Addresses>,
    /// The front-end wants the ring started.
    is_kicked: bool,
    /// What the front-end said of its use; if nothing, the features decide.
    is_enabled: Option<bool>,
    /// Where it was last started.
    started: Option<RingSetup>,
    /// No memory contains it, which was reported.
    is_unmapped: bool,
    /// What the session thread writes to, where workers may not.
    call: Option<File>,
    error: Option<File>,
}

/// Where a ring lies in the front-end's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Addresses {
    descriptors: FrontendAddr,
    avail: FrontendAddr,
    used: FrontendAddr,
}

/// The device of one front-end.
pub(super) struct Device {
    port: Arc<VhostPort>,
    detour: Arc<Detour>,
    memory: MemoryMap,
    log: Option<Arc<LogMemory>>,
    /// Memory as the rings have it.
    table: Arc<RegionTable>,
    features: Option<Negotiated>,
    /// Queue pairs in the configuration space, if we keep it: behind them lies the control queue.
    pairs_told: Option<u16>,
    /// One for each queue of the port, and one for a control queue behind them.
    rings: Vec<Ring>,
    control: ControlQueue,
    has_started: bool,
}

/// The control queue, which the session thread serves.
#[derive(Debug, Default)]
struct ControlQueue {
    ring: Option<SplitRing>,
    kick: Option<File>,
}

impl Device {
    /// A device of which nothing is known.
    pub(super) fn new(port: Arc<VhostPort>, detour: Arc<Detour>) -> Self {
        let rings = (0..=2 * port.queue_pairs()).map(|_| Ring::default()).collect();
        Self {
            port,
            detour,
            memory: MemoryMap::default(),
            log: None,
            table: Arc::new(RegionTable::empty()),
            features: None,
            pairs_told: None,
            rings,
            control: ControlQueue::default(),
            has_started: false,
        }
    }

    /// Whether any of its rings ever ran.
    pub(super) fn has_started(&self) -> bool {
        self.has_started
    }

    /// The configuration space has this many queue pairs, and we keep it; `None` if the front-end does.
    pub(super) fn set_pairs_told(&mut self, pairs: Option<u16>) {
        self.pairs_told = pairs;
    }

    pub(super) fn set_features(&mut self, features: u64) -> Result<(), Refusal> {
        let unknown = features & !offered(self.port.options().offloads);
        if unknown != 0 {
            return Err(Refusal::Features { features: unknown });
        }
        let features = Negotiated(features);
        self.features = Some(features);
        self.port.set_negotiated(features);
        if let Some(ring) = &mut self.control.ring {
            ring.set_features(features.ring_features());
        }
        (0..self.rings.len()).for_each(|index| self.apply_enabled(index));
        Ok(())
    }

    /// The ring that a message is about.
    pub(super) fn ring_index(&self, request: FrontendReq, queue: u32) -> Result<usize, Refusal> {
        let pairs = self.port.queue_pairs();
        let index = queue as usize;
        if index < 2 * pairs || self.is_control(index) {
            Ok(index)
        } else {
            Err(Refusal::Queue { request, queue, pairs })
        }
    }

    /// Whether the ring is the control queue: it lies behind as many pairs as the driver knows of.
    fn is_control(&self, index: usize) -> bool {
        let (Some(features), Some(pairs)) = (self.features, self.pairs_told) else { return false };
        let pairs = if features.multiqueue() { pairs } else { 1 };
        features.control_queue() && index == 2 * usize::from(pairs)
    }

    // Memory.

    pub(super) fn set_memory(&mut self, table: Vec<(VhostUserMemoryRegion, OwnedFd)>) -> Result<(), Refusal> {
        self.memory.replace(table)?;
        self.publish()
    }

    pub(super) fn add_memory(
        &mut self,
        region: &VhostUserMemoryRegion,
        file: OwnedFd,
    ) -> Result<(), Refusal> {
        self.memory.add(region, file)?;
        self.publish()
    }

    pub(super) fn remove_memory(&mut self, region: &VhostUserMemoryRegion) -> Result<(), Refusal> {
        let is_in_use = self.rings.iter().any(|ring| ring.started.is_some());
        self.memory.remove(region, Instant::now(), is_in_use)?;
        self.publish()
    }

    /// When [`expire_memory`](Self::expire_memory) is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.memory.until()
    }

    /// Lets go of memory that was removed and is still in use.
    pub(super) fn expire_memory(&mut self) -> Result<(), Refusal> {
        if self.memory.expire() { self.publish() } else { Ok(()) }
    }

    /// Gives rings the memory that there is now. When this returns nobody uses any other.
    fn publish(&mut self) -> Result<(), Refusal> {
        let table = Arc::new(self.memory.table(self.log.clone())?);
        // Rings that lie elsewhere now, or nowhere, stop before memory goes.
        for index in 0..self.rings.len() {
            let Some(started) = self.rings[index].started else { continue };
            match self.setup(index) {
                Some(Ok(setup)) if setup == started => {}
                Some(Err(_)) => self.settle(index),
                Some(Ok(_)) | None => self.halt(index),
            }
        }
        // Kept until the rings have let go of it.
        let _old = std::mem::replace(&mut self.table, Arc::clone(&table));
        self.port.set_memory(Arc::clone(&table));
        if let Some(ring) = &mut self.control.ring
            && let Err(fault) = ring.relocate(table)
        {
            self.control.ring = None;
            tracing::warn!(%fault, "the control queue is stopped");
        }
        (0..self.rings.len()).for_each(|index| self.settle(index));
        Ok(())
    }

    pub(super) fn set_log(&mut self, log: &VhostUserLog, file: OwnedFd) -> Result<(), Refusal> {
        let memory = Arc::new(LogMemory::new(File::from(file), log.mmap_offset, log.mmap_size)?);
        memory.check_reach(self.table.end())?;
        self.table.set_log(Arc::clone(&memory));
        self.log = Some(memory);
        Ok(())
    }

    // Rings.

    pub(super) fn set_ring_size(&mut self, index: usize, size: u32) -> Result<(), Refusal> {
        let fits = u16::try_from(size).ok().filter(|_| (1..=MAX_QUEUE_SIZE).contains(&size));
        self.rings[index].size = fits.ok_or(Refusal::QueueSize { queue: index, size })?;
        // A ring that runs keeps its size until it is started anew.
        if self.rings[index].started.is_none() {
            self.settle(index);
        }
        Ok(())
    }

    pub(super) fn set_ring_addresses(&mut self, index: usize, addresses: &VhostUserVringAddr) {
        let addresses = Addresses {
            descriptors: FrontendAddr(addresses.descriptor),
            avail: FrontendAddr(addresses.available),
            used: FrontendAddr(addresses.used),
        };
        let ring = &mut self.rings[index];
        // QEMU says the same addresses again when it begins to log.
        if ring.addresses.replace(addresses) != Some(addresses) {
            self.settle(index);
        }
    }

    pub(super) fn set_ring_base(&mut self, index: usize, base: u16) {
        let ring = &mut self.rings[index];
        ring.base = base;
        ring.is_rebased = true;
    }

    /// Stops the ring and says where it goes on.
    pub(super) fn stop_ring(&mut self, index: usize) -> u16 {
        let next = if self.is_control(index) {
            self.control.kick = None;
            self.control.ring.take().map(|ring| ring.next_avail())
        } else {
            let next = self.port.stop_ring(index);
            self.port.set_kick(index, None);
            self.port.set_call(index, None);
            next
        };
        let ring = &mut self.rings[index];
        (ring.is_kicked, ring.started, ring.is_unmapped, ring.call) = (false, None, false, None);
        ring.base = next.unwrap_or(ring.base);
        ring.base
    }

    /// Stops the ring, which the front-end wants started, until it is known where it lies.
    fn halt(&mut self, index: usize) {
        self.rings[index].started = None;
        if self.is_control(index) {
            self.control.ring = None;
        } else {
            self.port.stop_ring(index);
        }
    }

    /// Stops and disables every ring; `forget_features` as well, if that is wanted.
    pub(super) fn reset(&mut self, forget_features: bool) {
        for index in 0..self.rings.len() {
            if index < 2 * self.port.queue_pairs() || self.is_control(index) {
                self.stop_ring(index);
            }
            self.rings[index].is_enabled = None;
        }
        if forget_features {
            self.features = None;
            self.port.set_negotiated(Negotiated::default());
        }
        (0..self.rings.len()).for_each(|index| self.apply_enabled(index));
    }

    /// Starts the ring as soon as all is known; the guest kicks by `kick`, or not at all.
    pub(super) fn set_kick(&mut self, index: usize, kick: Option<OwnedFd>) {
        let was_sent = kick.is_some();
        let kick = kick.and_then(descriptor::to_wait_for);
        if was_sent && kick.is_none() {
            tracing::warn!(
                virtqueue = index,
                "its kick descriptor is neither an eventfd nor a pipe; the queue is polled once a millisecond"
            );
        }
        if self.is_control(index) {
            self.control.kick = kick;
        } else {
            self.port.set_kick(index, kick);
        }
        let ring = &mut self.rings[index];
        ring.is_kicked = true;
        if std::mem::take(&mut ring.is_rebased) {
            // The driver may have begun anew at the same place.
            ring.started = None;
        }
        self.settle(index);
        if self.is_control(index) {
            self.serve_control();
        }
    }

    pub(super) fn set_call(&mut self, index: usize, call: Option<OwnedFd>) {
        if self.is_control(index) {
            self.rings[index].call = call.map(File::from);
            return;
        }
        let (notifier, file) = self.way_to_tell(index, Notice::Call, call);
        self.rings[index].call = file;
        self.port.set_call(index, notifier);
    }

    pub(super) fn set_error(&mut self, index: usize, error: Option<OwnedFd>) {
        if self.is_control(index) {
            return;
        }
        let (notifier, file) = self.way_to_tell(index, Notice::Error, error);
        self.rings[index].error = file;
        self.port.set_error(index, notifier);
    }

    fn way_to_tell(
        &self,
        index: usize,
        notice: Notice,
        fd: Option<OwnedFd>,
    ) -> (Option<Notifier>, Option<File>) {
        let errand = Errand::new(index, notice);
        let way =
            fd.and_then(|fd| descriptor::to_tell_by(fd, errand, &self.detour, self.port.is_distrusted()));
        way.map_or((None, None), |(notifier, file)| (Some(notifier), file))
    }

    /// Writes to a descriptor that workers may not write to. This may wait; nobody else does. A descriptor that has it wait
    /// for long is given up, if the wait can be ended.
    pub(super) fn run(&mut self, errand: Errand) {
        let (index, notice) = errand.parts();
        let Some(ring) = self.rings.get_mut(index) else { return };
        let file = match notice {
            Notice::Call => &mut ring.call,
            Notice::Error => &mut ring.error,
        };
        if file.as_ref().is_some_and(|file| write_one(file).is_err()) {
            *file = None;
            self.port.give_up(index, notice);
        }
    }

    pub(super) fn set_enabled(&mut self, index: usize, is_enabled: bool) {
        self.rings[index].is_enabled = Some(is_enabled);
        self.apply_enabled(index);
    }

    fn apply_enabled(&self, index: usize) {
        if index >= 2 * self.port.queue_pairs() {
            return;
        }
        let by_features = self.features.is_some_and(|features| !features.rings_start_disabled());
        self.port.set_enabled(index, self.rings[index].is_enabled.unwrap_or(by_features));
    }

    /// Where the ring lies in guest memory; `None` if the front-end does not want it started, or has not said where it lies.
    fn setup(&self, index: usize) -> Option<Result<RingSetup, RingFault>> {
        let ring = &self.rings[index];
        let addresses = ring.addresses.filter(|_| ring.is_kicked && ring.size > 0)?;
        let place = |part, addr: FrontendAddr| {
            self.memory.translate(addr).ok_or(RingFault::RingUnmapped { part, addr: addr.0 })
        };
        let setup = || {
            Ok(RingSetup {
                size: ring.size,
                descriptors: place(RingPart::Descriptors, addresses.descriptors)?,
                avail: place(RingPart::Avail, addresses.avail)?,
                used: place(RingPart::Used, addresses.used)?,
            })
        };
        Some(setup())
    }

    /// Brings the ring to where all that is known puts it.
    fn settle(&mut self, index: usize) {
        let Some(setup) = self.setup(index) else { return };
        let is_control = self.is_control(index);
        if index >= 2 * self.port.queue_pairs() && !is_control {
            return;
        }
        match setup {
            Err(fault) => {
                let ring = &mut self.rings[index];
                ring.started = None;
                if !std::mem::replace(&mut ring.is_unmapped, true) {
                    if is_control {
                        self.control.ring = None;
                    } else {
                        self.port.break_ring(index, fault);
                    }
                }
            }
            Ok(setup) => {
                let is_running =
                    if is_control { self.control.ring.is_some() } else { self.port.has_ring(index) };
                if self.rings[index].started == Some(setup) && is_running {
                    return;
                }
                self.start(index, setup);
            }
        }
    }

    fn start(&mut self, index: usize, setup: RingSetup) {
        let start = if self.is_control(index) {
            let features = self.features.unwrap_or_default().ring_features();
            // Commands are read; the ring has no other use for its access.
            self.control.ring = SplitRing::new(setup, Arc::clone(&self.table), Access::Read, features).ok();
            self.control.ring.as_ref().map(SplitRing::next_avail)
        } else {
            self.port.start_ring(index, setup)
        };
        let ring = &mut self.rings[index];
        (ring.started, ring.is_unmapped) = (Some(setup), false);
        self.has_started |= start.is_some();
        if let Some(start) = start.filter(|&start| start != ring.base) {
            tracing::debug!(virtqueue = index, start, base = ring.base, "goes on at its used index");
        }
    }

    // The control queue.

    /// What tells of the next command.
    pub(super) fn control_kick(&self) -> Option<BorrowedFd<'_>> {
        self.control.kick.as_ref().filter(|_| self.control.ring.is_some()).map(AsFd::as_fd)
    }

    /// Answers what the driver asks by its control queue.
    pub(super) fn serve_control(&mut self) {
        let Some(mut ring) = self.control.ring.take() else { return };
        if let Some(mut kick) = self.control.kick.as_ref() {
            // It was seen readable; whatever is in it, the ring tells what there is to do.
            let _ = unless_stuck(|| kick.read(&mut [0; 8]).map(drop));
        }
        let index = self.control_index();
        match control::answer(&mut ring, |wish| self.grant(wish)) {
            Ok(wants_call) => {
                self.control.ring = Some(ring);
                if let (true, Some(call)) = (wants_call, self.rings[index].call.as_ref()) {
                    // One that has us wait is waited for again, which nobody notices but its guest.
                    let _ = write_one(call);
                }
            }
            Err(fault) => tracing::warn!(%fault, "the control queue is stopped"),
        }
    }

    fn control_index(&self) -> usize {
        (0..self.rings.len()).find(|&index| self.is_control(index)).unwrap_or(self.rings.len() - 1)
    }

    fn grant(&mut self, wish: Wish) -> bool {
        let Wish::Pairs(pairs) = wish else { return wish == Wish::Granted };
        let known = self.pairs_told.map_or(0, usize::from).min(self.port.queue_pairs());
        let pairs = usize::from(pairs);
        if pairs == 0 || pairs > known {
            return false;
        }
        (0..2 * known).for_each(|index| self.set_enabled(index, index < 2 * pairs));
        true
    }

    /// Whether an MTU is one.
    pub(super) fn check_mtu(mtu: u64) -> Result<(), Refusal> {
        if MTU.contains(&mtu) { Ok(()) } else { Err(Refusal::Mtu { mtu }) }
    }

    /// Has the switch told where the guest is.
    pub(super) fn announce(&self, mac: [u8; 6]) {
        self.port.announce(mac);
    }

    /// The guest's next packet was announced by a message instead of its kick descriptor.
    pub(super) fn kick(&mut self, index: usize) {
        if self.is_control(index) {
            self.serve_control();
        } else {
            self.port.wake(index);
        }
    }
}

/// Adds one to the counter behind `file`. Full: the other side was told. Closed: nobody listens.
///
/// # Errors
/// It had to be interrupted.
fn write_one(mut file: &File) -> Result<(), Stuck> {
    unless_stuck(|| file.write(&1u64.to_ne_bytes()).map(drop))
}

fn unless_stuck(call: impl FnOnce() -> std::io::Result<()>) -> Result<(), Stuck> {
    // Without a watchdog it waits for as long as its front-end likes.
    let result = if watchdog::start() { watchdog::watched(call) } else { call() };
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Err(Stuck),
        _ => Ok(()),
    }
}
