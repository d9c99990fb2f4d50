//! A mock guest and a mock switch around a real session.
//!
//! [`MockGuest`] is front-end and driver in one: rust-vmm's `Frontend` speaks the protocol, the rings are written by hand,
//! so that the driver can lie. [`Host`] is the switch's side: a port, its server, and a worker that the test plays itself.
//! [`Innocent`] is a second port whose guest behaves, and whose packets must keep moving whatever the first guest does.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(unsafe_code, reason = "memfd_create, and segments of our own memory")]

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;
use vsteer_switch::counters::PortCounters;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::packet::{BURST, Burst, Frame, Offload, Segment};
use vsteer_switch::port::PortId;
use vsteer_vhost::net::features::OffloadOptions;
use vsteer_vhost::net::port::{PortFault, Scratch, VhostOptions, VhostPort};
use vsteer_vhost::session::endpoint::Endpoint;
use vsteer_vhost::session::server::Server;

pub(crate) const CSUM: u64 = 1;
pub(crate) const MRG_RXBUF: u64 = 1 << 15;
pub(crate) const NOTIFY_ON_EMPTY: u64 = 1 << 24;
pub(crate) const LOG_ALL: u64 = 1 << 26;
pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
pub(crate) const VERSION_1: u64 = 1 << 32;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Front-end addresses are guest addresses plus this.
pub(crate) const FRONTEND_BASE: u64 = 0x7000_0000_0000;

/// How long a test waits for what another thread does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

/// SplitMix64: small, seeded, the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low..=high`.
    pub(crate) fn within(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }
}

/// A frame whose every byte depends on `seed` and on its place.
pub(crate) fn frame(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

pub(crate) fn memfd(len: u64) -> File {
    // SAFETY: a constant name and no flags.
    let fd = unsafe { libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create");
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(len).unwrap();
    file
}

pub(crate) fn eventfd() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

/// Whether `event` was signalled since it was last asked.
pub(crate) fn signalled(event: &EventFd) -> bool {
    event.read().is_ok()
}

/// Guest memory, as the guest sees it.
pub(crate) struct Memory {
    map: GuestMemoryMmap<()>,
    files: Vec<File>,
    regions: Vec<(u64, u64)>,
    cursors: Vec<u64>,
}

impl Memory {
    /// Memory of regions `(guest address, length)`.
    pub(crate) fn new(regions: &[(u64, u64)]) -> Self {
        Self::of_files(regions, regions.iter().map(|&(_, len)| memfd(len)).collect())
    }

    fn of_files(regions: &[(u64, u64)], files: Vec<File>) -> Self {
        let ranges: Vec<_> = regions
            .iter()
            .zip(&files)
            .map(|(&(start, len), file)| {
                let offset = FileOffset::new(file.try_clone().unwrap(), 0);
                (GuestAddress(start), len as usize, Some(offset))
            })
            .collect();
        let map = GuestMemoryMmap::from_ranges_with_files(ranges).unwrap();
        Self { map, files, regions: regions.to_vec(), cursors: regions.iter().map(|r| r.0).collect() }
    }

    /// A second mapping of the same memory, for another thread.
    pub(crate) fn view(&self) -> Self {
        let files = self.files.iter().map(|file| file.try_clone().unwrap()).collect();
        Self::of_files(&self.regions, files)
    }

    /// Unused bytes of region `region`.
    pub(crate) fn alloc_in(&mut self, region: usize, len: u64, align: u64) -> u64 {
        let at = self.cursors[region].next_multiple_of(align);
        self.cursors[region] = at + len;
        let (start, size) = self.regions[region];
        assert!(at + len <= start + size, "the mock guest's memory is full");
        at
    }

    pub(crate) fn alloc(&mut self, len: u64, align: u64) -> u64 {
        self.alloc_in(0, len, align)
    }

    /// The same memory, copied into other files.
    pub(crate) fn copied(&self) -> Self {
        let mut copy = Self::new(&self.regions);
        copy.cursors.clone_from(&self.cursors);
        for &(start, len) in &self.regions {
            copy.write(start, &self.read(start, len as usize));
        }
        copy
    }

    pub(crate) fn write(&self, addr: u64, bytes: &[u8]) {
        self.map.write_slice(bytes, GuestAddress(addr)).unwrap();
    }

    pub(crate) fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.map.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    pub(crate) fn store_u16(&self, addr: u64, value: u16) {
        self.map.store(value, GuestAddress(addr), Ordering::SeqCst).unwrap();
    }

    pub(crate) fn load_u16(&self, addr: u64) -> u16 {
        self.map.load(GuestAddress(addr), Ordering::SeqCst).unwrap()
    }

    pub(crate) fn file(&self, region: usize) -> &File {
        &self.files[region]
    }

    /// The memory table as the front-end sends it.
    pub(crate) fn table(&self) -> Vec<VhostUserMemoryRegionInfo> {
        self.regions
            .iter()
            .zip(&self.files)
            .map(|(&(guest_phys_addr, memory_size), file)| VhostUserMemoryRegionInfo {
                guest_phys_addr,
                memory_size,
                userspace_addr: FRONTEND_BASE + guest_phys_addr,
                mmap_offset: 0,
                mmap_handle: file.as_raw_fd(),
            })
            .collect()
    }
}

/// The driver's side of one split ring.
pub(crate) struct DriverQueue {
    pub(crate) index: usize,
    pub(crate) size: u16,
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
    pub(crate) avail_idx: u16,
    pub(crate) used_idx: u16,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
    pub(crate) error: EventFd,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
}

impl DriverQueue {
    pub(crate) fn new(memory: &mut Memory, index: usize, size: u16) -> Self {
        let entries = u64::from(size);
        Self {
            index,
            size,
            desc: memory.alloc(16 * entries, 16),
            avail: memory.alloc(6 + 2 * entries, 2),
            used: memory.alloc(6 + 8 * entries, 4),
            avail_idx: 0,
            used_idx: 0,
            kick: eventfd(),
            call: eventfd(),
            error: eventfd(),
            free: (0..size).rev().collect(),
            chains: HashMap::new(),
        }
    }

    /// Writes descriptor `index`.
    pub(crate) fn describe(&self, memory: &Memory, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        memory.write(self.desc + 16 * u64::from(index), &descriptor(addr, len, flags, next));
    }

    /// Puts `head` into the available ring; the device sees it after [`publish`](Self::publish).
    pub(crate) fn offer(&mut self, memory: &Memory, head: u16) {
        memory.store_u16(self.avail + 4 + 2 * u64::from(self.avail_idx & (self.size - 1)), head);
        self.avail_idx = self.avail_idx.wrapping_add(1);
    }

    pub(crate) fn publish(&self, memory: &Memory) {
        memory.store_u16(self.avail + 2, self.avail_idx);
    }

    /// Offers a chain of `pieces`, one descriptor each.
    pub(crate) fn post(&mut self, memory: &Memory, pieces: &[(u64, u32)], writable: bool) -> u16 {
        let at = self.free.len() - pieces.len();
        let indices = self.free.split_off(at);
        for (i, (&index, &(addr, len))) in indices.iter().zip(pieces).enumerate() {
            let next = indices.get(i + 1);
            let flags = next.map_or(0, |_| NEXT) | if writable { WRITE } else { 0 };
            self.describe(memory, index, addr, len, flags, next.copied().unwrap_or(0));
        }
        let head = indices[0];
        self.chains.insert(head, indices);
        self.offer(memory, head);
        head
    }

    /// Offers a chain of a piece to be read and one to be written.
    pub(crate) fn post_both(&mut self, memory: &Memory, read: (u64, u32), write: (u64, u32)) {
        let at = self.free.len() - 2;
        let indices = self.free.split_off(at);
        self.describe(memory, indices[0], read.0, read.1, NEXT, indices[1]);
        self.describe(memory, indices[1], write.0, write.1, WRITE, 0);
        let head = indices[0];
        self.chains.insert(head, indices);
        self.offer(memory, head);
    }

    /// Offers a chain of `pieces` by an indirect table at `table`.
    pub(crate) fn post_indirect(
        &mut self,
        memory: &Memory,
        table: u64,
        pieces: &[(u64, u32)],
        writable: bool,
    ) -> u16 {
        for (i, &(addr, len)) in pieces.iter().enumerate() {
            let last = i + 1 == pieces.len();
            let flags = if last { 0 } else { NEXT } | if writable { WRITE } else { 0 };
            let next = if last { 0 } else { i as u16 + 1 };
            memory.write(table + 16 * i as u64, &descriptor(addr, len, flags, next));
        }
        let head = self.free.pop().unwrap();
        self.describe(memory, head, table, 16 * pieces.len() as u32, INDIRECT, 0);
        self.chains.insert(head, vec![head]);
        self.offer(memory, head);
        head
    }

    /// Takes what the device has used: heads and lengths, in order.
    pub(crate) fn take_used(&mut self, memory: &Memory) -> Vec<(u16, u32)> {
        let now = memory.load_u16(self.used + 2);
        let mut used = Vec::new();
        while self.used_idx != now {
            let slot = u64::from(self.used_idx & (self.size - 1));
            let entry = memory.read(self.used + 4 + 8 * slot, 8);
            let head = u32::from_le_bytes(entry[..4].try_into().unwrap()) as u16;
            self.free
                .extend(self.chains.remove(&head).expect("the device used a chain that was not offered"));
            used.push((head, u32::from_le_bytes(entry[4..].try_into().unwrap())));
            self.used_idx = self.used_idx.wrapping_add(1);
        }
        used
    }

    /// Chains offered and not used yet.
    pub(crate) fn in_flight(&self) -> usize {
        self.chains.len()
    }

    pub(crate) fn free_descriptors(&self) -> usize {
        self.free.len()
    }

    /// Asks for calls, or not (without EVENT_IDX).
    pub(crate) fn set_no_interrupt(&self, memory: &Memory, no: bool) {
        memory.store_u16(self.avail, u16::from(no));
    }

    /// Asks for a call once used entry `idx` is there (with EVENT_IDX).
    pub(crate) fn set_used_event(&self, memory: &Memory, idx: u16) {
        memory.store_u16(self.avail + 4 + 2 * u64::from(self.size), idx);
    }

    /// Where the device wants the next kick (with EVENT_IDX).
    pub(crate) fn avail_event(&self, memory: &Memory) -> u16 {
        memory.load_u16(self.used + 4 + 8 * u64::from(self.size))
    }

    /// Whether the device wants no kicks (without EVENT_IDX).
    pub(crate) fn no_notify(&self, memory: &Memory) -> bool {
        memory.load_u16(self.used) & 1 != 0
    }

    /// As after a device reset.
    pub(crate) fn reset(&mut self, memory: &Memory) {
        self.avail_idx = 0;
        self.used_idx = 0;
        self.free = (0..self.size).rev().collect();
        self.chains.clear();
        memory.write(self.avail, &vec![0; 6 + 2 * usize::from(self.size)]);
        memory.write(self.used, &vec![0; 6 + 8 * usize::from(self.size)]);
    }
}

pub(crate) fn descriptor(addr: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&addr.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

/// What a mock guest is like.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) features: u64,
    pub(crate) pairs: usize,
    pub(crate) queue_size: u16,
    pub(crate) regions: Vec<(u64, u64)>,
    /// Send the regions by ADD_MEM_REG instead of SET_MEM_TABLE.
    pub(crate) add_regions: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            features: VERSION_1 | MRG_RXBUF | INDIRECT_DESC,
            pairs: 1,
            queue_size: 256,
            regions: vec![(0x10_0000, 16 << 20)],
            add_regions: false,
        }
    }
}

impl Config {
    pub(crate) fn features(features: u64) -> Self {
        Self { features, ..Self::default() }
    }

    pub(crate) fn header_len(&self) -> usize {
        if self.features & (VERSION_1 | MRG_RXBUF) == 0 { 10 } else { 12 }
    }
}

/// Front-end and driver in one.
pub(crate) struct MockGuest {
    pub(crate) frontend: Frontend,
    pub(crate) memory: Memory,
    pub(crate) queues: Vec<DriverQueue>,
    pub(crate) config: Config,
    scratch: u64,
}

/// Bytes that [`MockGuest::transmit`] and [`MockGuest::receive_buffers`] use for each frame.
pub(crate) const SLOT: u64 = 2048;

impl MockGuest {
    pub(crate) fn connect(path: &Path, config: &Config) -> Self {
        Self::over(Frontend::connect(path, 256).unwrap(), config)
    }

    /// A guest that is up and running behind `frontend`.
    pub(crate) fn over(frontend: Frontend, config: &Config) -> Self {
        let mut guest = Self::negotiated(frontend, config);
        guest.send_memory();
        for index in 0..guest.queues.len() {
            guest.start_queue(index, 0);
            guest.frontend.set_vring_enable(index, true).unwrap();
        }
        guest
    }

    /// A guest whose front-end has negotiated features and sent nothing else.
    pub(crate) fn negotiated(mut frontend: Frontend, config: &Config) -> Self {
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        assert_eq!(config.features & !offered, 0, "the port does not offer what the test needs");
        let protocol = frontend.get_protocol_features().unwrap();
        frontend.set_protocol_features(protocol & wanted_protocol()).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(config.features | PROTOCOL_FEATURES).unwrap();
        Self::silent(frontend, config)
    }

    /// A guest whose front-end says nothing by itself.
    pub(crate) fn silent(frontend: Frontend, config: &Config) -> Self {
        let mut memory = Memory::new(&config.regions);
        let queues =
            (0..2 * config.pairs).map(|i| DriverQueue::new(&mut memory, i, config.queue_size)).collect();
        let scratch = memory.alloc(0, 4096);
        Self { frontend, memory, queues, config: config.clone(), scratch }
    }

    /// The front-end's connection, to say more by it.
    pub(crate) fn stream(&self) -> UnixStream {
        // SAFETY: duplicates a descriptor that the front-end keeps open.
        let copy = unsafe { libc::dup(self.frontend.as_raw_fd()) };
        assert!(copy >= 0, "dup");
        // SAFETY: the copy was just made and belongs to nobody else.
        let stream = unsafe { UnixStream::from_raw_fd(copy) };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub(crate) fn send_memory(&mut self) {
        let table = self.memory.table();
        if self.config.add_regions {
            for region in &table {
                self.frontend.add_mem_region(region).unwrap();
            }
        } else {
            self.frontend.set_mem_table(&table).unwrap();
        }
    }

    pub(crate) fn start_queue(&mut self, index: usize, base: u16) {
        let queue = &self.queues[index];
        self.frontend.set_vring_num(index, queue.size).unwrap();
        self.frontend.set_vring_base(index, base).unwrap();
        self.frontend.set_vring_addr(index, &self.addresses(index)).unwrap();
        self.frontend.set_vring_err(index, &queue.error).unwrap();
        self.frontend.set_vring_call(index, &queue.call).unwrap();
        self.frontend.set_vring_kick(index, &queue.kick).unwrap();
    }

    pub(crate) fn addresses(&self, index: usize) -> VringConfigData {
        let queue = &self.queues[index];
        VringConfigData {
            queue_max_size: queue.size,
            queue_size: queue.size,
            flags: 0,
            desc_table_addr: FRONTEND_BASE + queue.desc,
            used_ring_addr: FRONTEND_BASE + queue.used,
            avail_ring_addr: FRONTEND_BASE + queue.avail,
            log_addr: None,
        }
    }

    pub(crate) fn receiveq(&mut self, pair: usize) -> (&Memory, &mut DriverQueue) {
        (&self.memory, &mut self.queues[2 * pair])
    }

    pub(crate) fn transmitq(&mut self, pair: usize) -> (&Memory, &mut DriverQueue) {
        (&self.memory, &mut self.queues[2 * pair + 1])
    }

    /// Where slot `slot` of the guest's packet memory lies: `SLOT` bytes, the same ones every time.
    pub(crate) fn slot(&self, slot: usize) -> u64 {
        self.scratch + SLOT * slot as u64
    }

    /// Offers `frames` (at most [`SLOT`] bytes with header), header and frame in one descriptor.
    pub(crate) fn transmit(&mut self, pair: usize, frames: &[Vec<u8>]) {
        let header = self.config.header_len();
        for (i, frame) in frames.iter().enumerate() {
            let at = self.slot(i);
            let (memory, queue) = self.transmitq(pair);
            memory.write(at, &vec![0; header]);
            memory.write(at + header as u64, frame);
            queue.post(memory, &[(at, (header + frame.len()) as u32)], false);
        }
        let (memory, queue) = self.transmitq(pair);
        queue.publish(memory);
    }

    /// Offers `count` receive buffers of `len` bytes; buffer `i` is slot `1024 + i`.
    pub(crate) fn receive_buffers(&mut self, pair: usize, count: usize, len: u32) -> Vec<u16> {
        let heads = (0..count)
            .map(|i| {
                let at = self.slot(1024 + i);
                let (memory, queue) = self.receiveq(pair);
                queue.post(memory, &[(at, len)], true)
            })
            .collect();
        let (memory, queue) = self.receiveq(pair);
        queue.publish(memory);
        heads
    }
}

pub(crate) fn wanted_protocol() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::RESET_DEVICE
}

/// The switch's side: a port, its server, and one worker.
pub(crate) struct Host {
    pub(crate) port: Arc<VhostPort>,
    pub(crate) path: PathBuf,
    pub(crate) counters: PortCounters,
    pub(crate) server: Option<Server>,
    /// Connections that [`wait_disconnected`](Self::wait_disconnected) has seen the end of.
    ended: Cell<u64>,
    worker: Worker,
    _dir: TempDir,
}

pub(crate) struct Worker {
    burst: Burst,
    source: Burst,
    scratch: Scratch,
}

impl Default for Worker {
    fn default() -> Self {
        Self { burst: Burst::new(), source: Burst::new(), scratch: Scratch::default() }
    }
}

impl Worker {
    /// Receives one burst from `pair`, copied out.
    pub(crate) fn receive(&mut self, port: &VhostPort, pair: usize, counters: &PortCounters) -> Vec<Vec<u8>> {
        let Some(received) = port.receive(pair, &mut self.burst, &mut self.scratch, counters) else {
            return Vec::new();
        };
        let frames = (0..self.burst.len()).map(|i| bytes_of(&self.burst.frame(i))).collect();
        self.burst.clear();
        received.complete();
        frames
    }

    /// Moves one burst from `from` to `to`, tails straight from guest to guest; returns how many packets were received.
    pub(crate) fn forward(
        &mut self,
        (from, from_counters): (&VhostPort, &PortCounters),
        (to, to_counters): (&VhostPort, &PortCounters),
    ) -> usize {
        let Some(received) = from.receive(0, &mut self.burst, &mut self.scratch, from_counters) else {
            return 0;
        };
        let count = self.burst.len();
        let frames: Vec<Frame<'_>> = (0..count).map(|i| self.burst.frame(i)).collect();
        match to.transmit(0) {
            Ok(mut transmitter) => {
                transmitter.send(frames.iter().copied(), &mut self.scratch, to_counters);
                transmitter.finish();
            }
            Err(reason) => to_counters.dropped(reason, count as u64),
        }
        drop(frames);
        self.burst.clear();
        received.complete();
        count
    }

    /// Transmits up to [`BURST`] frames with flow hash `hash`; a port that takes nothing counts them too.
    pub(crate) fn send(&mut self, port: &VhostPort, hash: u32, frames: &[Vec<u8>], counters: &PortCounters) {
        for frame in frames {
            // Uneven pieces, so that tails have several segments.
            let pieces: Vec<Segment> = frame
                .chunks(1000)
                // SAFETY: the bytes are borrowed for longer than the burst is filled.
                .map(|piece| unsafe { Segment::new(piece.as_ptr(), piece.len() as u32) })
                .collect();
            self.source.push(PortId::ZERO, Offload::default(), &pieces);
        }
        let burst = &self.source;
        let frames: Vec<Frame<'_>> = (0..burst.len()).map(|i| burst.frame(i)).collect();
        match port.transmit(hash) {
            Ok(mut transmitter) => {
                transmitter.send(frames.iter().copied(), &mut self.scratch, counters);
                transmitter.finish();
            }
            Err(reason) => counters.dropped(reason, frames.len() as u64),
        }
        drop(frames);
        self.source.clear();
    }
}

pub(crate) fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = frame.head.to_vec();
    bytes.resize(frame.len(), 0);
    frame.tail.copy_to(&mut bytes[frame.head.len()..]);
    bytes
}

pub(crate) fn all_drops(counters: &PortCounters) -> u64 {
    DropReason::ALL.iter().map(|&reason| counters.drops(reason)).sum()
}

pub(crate) fn new_port(pairs: u16) -> Arc<VhostPort> {
    let options = VhostOptions { queue_pairs: pairs, offloads: OffloadOptions::default() };
    Arc::new(VhostPort::new(PortId::new(1).unwrap(), options))
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with_pairs(1)
    }

    pub(crate) fn with_pairs(pairs: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guest.sock");
        let endpoint = Endpoint::Listen(UnixListener::bind(&path).unwrap());
        Self::at(dir, path, new_port(pairs), endpoint)
    }

    pub(crate) fn at(dir: TempDir, path: PathBuf, port: Arc<VhostPort>, endpoint: Endpoint) -> Self {
        let server = Server::start("test", Arc::clone(&port), endpoint).unwrap();
        Self {
            port,
            path,
            counters: PortCounters::default(),
            server: Some(server),
            ended: Cell::new(0),
            worker: Worker::default(),
            _dir: dir,
        }
    }

    pub(crate) fn receive(&mut self, pair: usize) -> Vec<Vec<u8>> {
        self.worker.receive(&self.port, pair, &self.counters)
    }

    pub(crate) fn send(&mut self, frames: &[Vec<u8>]) {
        self.send_hashed(0, frames);
    }

    pub(crate) fn send_hashed(&mut self, hash: u32, frames: &[Vec<u8>]) {
        for burst in frames.chunks(BURST) {
            self.worker.send(&self.port, hash, burst, &self.counters);
        }
    }

    pub(crate) fn fault(&self) -> Option<PortFault> {
        self.port.status().fault
    }

    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.counters.drops(reason)
    }

    /// Waits for a session to begin, unless it has, and to end.
    pub(crate) fn wait_disconnected(&self) {
        wait_until("the session ends", || {
            let status = self.port.status();
            let ended = status.connections > self.ended.get() && !status.connected;
            if ended {
                self.ended.set(status.connections);
            }
            ended
        });
    }
}

/// Moves frames both ways and checks every byte and every counter.
pub(crate) fn exercise(host: &mut Host, guest: &mut MockGuest, seed: u64) {
    let frames: Vec<_> = (0..32).map(|i| frame(60 + 41 * i, seed + i as u64)).collect();
    let count = frames.len() as u64;
    let before = (host.counters.rx_pkts.get(), host.counters.tx_pkts.get(), all_drops(&host.counters));

    guest.transmit(0, &frames);
    assert_eq!(host.receive(0), frames, "guest to switch");
    let (memory, queue) = guest.transmitq(0);
    assert_eq!(queue.take_used(memory).len(), frames.len());

    let header = guest.config.header_len();
    guest.receive_buffers(0, frames.len(), SLOT as u32);
    host.send(&frames);
    let (memory, queue) = guest.receiveq(0);
    let used = queue.take_used(memory);
    assert_eq!(used.len(), frames.len());
    for (i, (frame, (_, len))) in frames.iter().zip(used).enumerate() {
        assert_eq!(len as usize, header + frame.len());
        assert_eq!(
            &guest.memory.read(guest.slot(1024 + i), len as usize)[header..],
            frame,
            "switch to guest"
        );
    }
    let after = (host.counters.rx_pkts.get(), host.counters.tx_pkts.get(), all_drops(&host.counters));
    assert_eq!(after, (before.0 + count, before.1 + count, before.2), "counters");
}

/// A port and a guest that behave, moving packets on a thread of their own until told to stop.
pub(crate) struct Innocent {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Innocent {
    pub(crate) fn start() -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, counting) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = thread::spawn(move || {
            let mut host = Host::new();
            let mut guest = MockGuest::connect(&host.path, &Config::default());
            while !stopping.load(Ordering::Relaxed) {
                let round = counting.fetch_add(1, Ordering::Relaxed);
                exercise(&mut host, &mut guest, round);
            }
            assert_eq!(host.fault(), None);
        });
        let innocent = Self { stop, rounds, thread };
        innocent.moves();
        innocent
    }

    /// Waits for packets that are moved from now on.
    pub(crate) fn moves(&self) {
        let start = self.rounds.load(Ordering::Relaxed);
        wait_until("the innocent port moves packets", || {
            assert!(!self.thread.is_finished(), "the innocent port lost packets");
            self.rounds.load(Ordering::Relaxed) >= start + 2
        });
    }

    /// Ends the traffic; panics if a packet was lost or changed.
    pub(crate) fn finish(self) {
        self.moves();
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the innocent port lost packets");
    }
}

impl MockGuest {
    /// Stops the queue and returns where it would go on.
    pub(crate) fn frontend_base(&self, index: usize) -> u32 {
        self.frontend.get_vring_base(index).unwrap()
    }
}

/// vhost-user request codes (vhost-user "Front-end message types").
pub(crate) mod code {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const RESET_OWNER: u32 = 4;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_LOG_BASE: u32 = 6;
    pub(crate) const SET_LOG_FD: u32 = 7;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const SET_VRING_ERR: u32 = 14;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const GET_QUEUE_NUM: u32 = 17;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const SEND_RARP: u32 = 19;
    pub(crate) const NET_SET_MTU: u32 = 20;
    pub(crate) const IOTLB_MSG: u32 = 22;
    pub(crate) const SET_VRING_ENDIAN: u32 = 23;
    pub(crate) const SET_BACKEND_REQ_FD: u32 = 21;
    pub(crate) const GET_CONFIG: u32 = 24;
    pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(crate) const ADD_MEM_REG: u32 = 37;
    pub(crate) const REM_MEM_REG: u32 = 38;
}

/// A message of the protocol: header and body.
pub(crate) fn message(code: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12 + body.len());
    for word in [code, 1, body.len() as u32] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn words64(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn words32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The body of SET_MEM_TABLE for regions `(guest address, length, front-end address, offset in the file)`.
pub(crate) fn memory_table(regions: &[[u64; 4]]) -> Vec<u8> {
    let mut body = words32(&[regions.len() as u32, 0]);
    for region in regions {
        body.extend(words64(region));
    }
    body
}

/// A front-end that says whatever the test wants.
pub(crate) struct RawFrontend(pub(crate) UnixStream);

impl RawFrontend {
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Sends bytes and descriptors; the other side may have hung up.
    pub(crate) fn send_bytes(&self, bytes: &[u8], fds: &[RawFd]) {
        let _ = self.0.send_with_fds(&[bytes], fds);
    }

    pub(crate) fn send(&self, code: u32, body: &[u8], fds: &[RawFd]) {
        self.send_bytes(&message(code, body), fds);
    }

    /// Reads the answer to a message and returns its body.
    pub(crate) fn answer(&self, code: u32) -> Vec<u8> {
        let mut header = [0; 12];
        (&self.0).read_exact(&mut header).unwrap();
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4)), (code, 5), "an answer to the message");
        let mut body = vec![0; word(8) as usize];
        (&self.0).read_exact(&mut body).unwrap();
        body
    }

    /// Sends a message and waits to be told that it was served.
    pub(crate) fn acknowledged(&self, code: u32, body: &[u8], fds: &[RawFd]) {
        let mut bytes = message(code, body);
        bytes[4] |= 8;
        self.send_bytes(&bytes, fds);
        assert_eq!(self.answer(code), [0; 8]);
    }

    /// Asks for the features and waits for the answer: every message before it was served.
    pub(crate) fn sync(&mut self) -> bool {
        self.send(code::GET_FEATURES, &[], &[]);
        self.0.read_exact(&mut [0; 20]).is_ok()
    }

    /// Negotiates, and sends a memory table of one region at `start`.
    pub(crate) fn negotiate(&self) {
        self.send(code::SET_OWNER, &[], &[]);
        self.send(code::SET_PROTOCOL_FEATURES, &words64(&[wanted_protocol().bits()]), &[]);
        self.send(code::SET_FEATURES, &words64(&[VERSION_1 | MRG_RXBUF | PROTOCOL_FEATURES]), &[]);
    }
}

/// The next front-end at the same endpoint is well-behaved, and is served.
pub(crate) fn serves_the_next(host: &mut Host) {
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    assert_eq!(host.fault(), None, "the fault of the last guest is gone");
    exercise(host, &mut guest, 1);
    drop(guest);
    host.wait_disconnected();
}

/// Any descriptor, dressed as an event descriptor: the frontend does not look at it.
pub(crate) fn event_of(fd: RawFd) -> EventFd {
    // SAFETY: duplicates a descriptor of the caller's.
    let copy = unsafe { libc::dup(fd) };
    assert!(copy >= 0, "dup");
    // SAFETY: the copy was just made and belongs to nobody else.
    unsafe { EventFd::from_raw_fd(copy) }
}
