//! Front-end and poll-mode driver of one vhost-user port with one queue pair.
//!
//! rust-vmm's `Frontend` speaks the protocol; the rings are ours. Buffer `n` belongs to descriptor `n` for good, and a
//! frame takes one descriptor, its header included, so that nothing is ever chained. The driver polls and asks for no
//! calls; it kicks when the switch wants that.
//!
//! # Invariants
//! 1. The mapping is `MEMORY` bytes long and stays until the driver is dropped.
//! 2. Descriptors, rings and buffers lie at the offsets that `Place` gives, all within the mapping and aligned.
//! 3. A buffer is written only while the switch does not own its descriptor.

#![allow(unsafe_code, reason = "memory shared with the switch")]

use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::failure::{Context, Failure, Result};

const MRG_RXBUF: u64 = 1 << 15;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;

/// Descriptors of each ring.
pub const QUEUE_SIZE: u16 = 256;

/// Length of the virtio-net header with VERSION_1.
const HEADER: usize = 12;
/// Bytes of a buffer.
const BUFFER_LEN: u32 = 2048;
const BUFFER: usize = BUFFER_LEN as usize;
/// Bytes that one queue takes: its three parts in the first page each, then its buffers.
const QUEUE_BYTES: usize = 3 * 8192 + QUEUE_SIZE as usize * BUFFER;
const MEMORY: usize = (2 * QUEUE_BYTES).next_multiple_of(2 << 20);

/// Where the guest's memory begins, in its own addresses and in the front-end's.
const GUEST_BASE: u64 = 0;
const FRONTEND_BASE: u64 = 0x7000_0000_0000;

const WRITE: u16 = 2;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// Offsets of one queue's parts in the mapping.
#[derive(Debug, Clone, Copy)]
struct Place {
    descriptors: usize,
    avail: usize,
    used: usize,
    buffers: usize,
}

impl Place {
    const fn of(queue: usize) -> Self {
        let start = queue * QUEUE_BYTES;
        Place { descriptors: start, avail: start + 8192, used: start + 2 * 8192, buffers: start + 3 * 8192 }
    }
}

/// Memory shared with the switch.
#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    file: File,
}

impl Memory {
    fn new() -> Result<Self> {
        // SAFETY: the name is a constant; no other pointers.
        let fd = unsafe { libc::memfd_create(c"load".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len(MEMORY as u64)?;
        // SAFETY: a new mapping at an address of the kernel's choice, of a file as long as the mapping.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                MEMORY,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| Failure::new("mmap returned null"))?;
        Ok(Memory { start, file })
    }

    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < MEMORY, "invariant 2");
        // SAFETY: the offset is within the mapping (invariant 1).
        unsafe { self.start.as_ptr().add(offset) }
    }

    fn store<T>(&self, offset: usize, value: T) {
        // SAFETY: within the mapping and aligned (invariant 2); the switch reads it only after an index is published.
        unsafe { self.at(offset).cast::<T>().write_volatile(value) };
    }

    fn load<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: within the mapping and aligned (invariant 2); T is an integer, so any bits will do.
        unsafe { self.at(offset).cast::<T>().read_volatile() }
    }

    /// An index or flags that both sides touch at any time.
    fn shared(&self, offset: usize) -> &AtomicU16 {
        // SAFETY: within the mapping and aligned (invariant 2); both sides access it atomically.
        unsafe { AtomicU16::from_ptr(self.at(offset).cast()) }
    }

    /// The buffer at `offset`, which is the driver's by now (invariant 3).
    #[allow(clippy::mut_from_ref, reason = "invariant 3 makes the driver the only one to touch it")]
    fn buffer(&self, offset: usize) -> &mut [u8] {
        assert!(offset + BUFFER <= MEMORY, "invariant 2");
        // SAFETY: within the mapping, and nobody else writes it: invariants 2 and 3. The switch under test is trusted to
        // keep to the rings' rules, as a device is.
        unsafe { slice::from_raw_parts_mut(self.at(offset), BUFFER) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that was made; nothing borrowed from it outlives the driver.
        unsafe { libc::munmap(self.start.as_ptr().cast(), MEMORY) };
    }
}

// SAFETY: the mapping belongs to the driver alone, wherever it goes.
unsafe impl Send for Memory {}

#[derive(Debug)]
struct Queue {
    place: Place,
    avail_idx: u16,
    used_idx: u16,
    kick: EventFd,
    call: EventFd,
}

impl Queue {
    fn new(index: usize) -> Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK).context("eventfd");
        Ok(Queue { place: Place::of(index), avail_idx: 0, used_idx: 0, kick: event()?, call: event()? })
    }

    fn buffer_at(&self, index: u16) -> usize {
        self.place.buffers + usize::from(index) * BUFFER
    }

    fn describe(&self, memory: &Memory, index: u16, len: u32, flags: u16) {
        let at = self.place.descriptors + 16 * usize::from(index);
        memory.store(at, GUEST_BASE + self.buffer_at(index) as u64);
        memory.store(at + 8, len);
        memory.store(at + 12, flags);
        memory.store(at + 14, 0_u16);
    }

    fn offer(&mut self, memory: &Memory, index: u16) {
        let slot = usize::from(self.avail_idx & (QUEUE_SIZE - 1));
        memory.store(self.place.avail + 4 + 2 * slot, index);
        self.avail_idx = self.avail_idx.wrapping_add(1);
    }

    fn publish(&self, memory: &Memory) {
        // Partner: the switch's acquire load of the index. The order with its flags needs more than release.
        memory.shared(self.place.avail + 2).store(self.avail_idx, Ordering::SeqCst);
        if memory.shared(self.place.used).load(Ordering::SeqCst) & NO_NOTIFY == 0 {
            // Fails only when the counter is full, and then the switch has more kicks than it needs.
            let _ = self.kick.write(1);
        }
    }

    /// The next used descriptor and its length.
    fn take_used(&mut self, memory: &Memory) -> Option<(u16, u32)> {
        // Partner: the switch's release store of the index.
        if memory.shared(self.place.used + 2).load(Ordering::Acquire) == self.used_idx {
            return None;
        }
        let at = self.place.used + 4 + 8 * usize::from(self.used_idx & (QUEUE_SIZE - 1));
        self.used_idx = self.used_idx.wrapping_add(1);
        let index: u32 = memory.load(at);
        assert!(index < u32::from(QUEUE_SIZE), "the switch used descriptor {index}");
        Some((u16::try_from(index).unwrap_or_default(), memory.load(at + 4)))
    }
}

/// One port's front-end and driver.
pub struct Driver {
    // Before the memory, so that the connection ends while the switch can still reach it.
    frontend: Frontend,
    receiveq: Queue,
    transmitq: Queue,
    free: Vec<u16>,
    memory: Memory,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("receiveq", &self.receiveq)
            .field("transmitq", &self.transmitq)
            .field("free", &self.free.len())
            .finish_non_exhaustive()
    }
}

impl Driver {
    /// Connects to a switch that listens at `socket`.
    pub fn connect(socket: &Path) -> Result<Self> {
        Driver::over(Frontend::connect(socket, 2).context(socket.display())?)
    }

    /// Waits for a switch to connect to `listener`.
    pub fn accept(listener: &UnixListener) -> Result<Self> {
        let (stream, _) = listener.accept().context("nobody connects")?;
        Driver::over(Frontend::from_stream(stream, 2))
    }

    fn over(mut frontend: Frontend) -> Result<Self> {
        let memory = Memory::new()?;
        frontend.set_owner().context("SET_OWNER")?;
        let offered = frontend.get_features().context("GET_FEATURES")?;
        let protocol = frontend.get_protocol_features().context("GET_PROTOCOL_FEATURES")?;
        let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        frontend.set_protocol_features(protocol & wanted).context("SET_PROTOCOL_FEATURES")?;
        if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        let features = VERSION_1 | MRG_RXBUF | PROTOCOL_FEATURES;
        crate::ensure!(offered & features == features, "the switch offers only {offered:#x}");
        frontend.set_features(features).context("SET_FEATURES")?;
        let region = VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST_BASE,
            memory_size: MEMORY as u64,
            userspace_addr: FRONTEND_BASE,
            mmap_offset: 0,
            mmap_handle: memory.file.as_raw_fd(),
        };
        frontend.set_mem_table(&[region]).context("SET_MEM_TABLE")?;
        let queues = (Queue::new(0)?, Queue::new(1)?);
        let free = (0..QUEUE_SIZE).rev().collect();
        let mut driver = Driver { frontend, receiveq: queues.0, transmitq: queues.1, free, memory };
        driver.fill_receiveq();
        driver.start()?;
        Ok(driver)
    }

    fn fill_receiveq(&mut self) {
        let Driver { receiveq, transmitq, memory, .. } = self;
        for queue in [&*receiveq, transmitq] {
            memory.shared(queue.place.avail).store(NO_INTERRUPT, Ordering::SeqCst);
        }
        for index in 0..QUEUE_SIZE {
            receiveq.describe(memory, index, BUFFER_LEN, WRITE);
            receiveq.offer(memory, index);
        }
        memory.shared(receiveq.place.avail + 2).store(receiveq.avail_idx, Ordering::SeqCst);
    }

    fn start(&mut self) -> Result<()> {
        for (index, queue) in [&self.receiveq, &self.transmitq].into_iter().enumerate() {
            let address = |offset: usize| FRONTEND_BASE + offset as u64;
            let addresses = VringConfigData {
                queue_max_size: QUEUE_SIZE,
                queue_size: QUEUE_SIZE,
                flags: 0,
                desc_table_addr: address(queue.place.descriptors),
                used_ring_addr: address(queue.place.used),
                avail_ring_addr: address(queue.place.avail),
                log_addr: None,
            };
            self.frontend.set_vring_num(index, QUEUE_SIZE).context("SET_VRING_NUM")?;
            self.frontend.set_vring_base(index, 0).context("SET_VRING_BASE")?;
            self.frontend.set_vring_addr(index, &addresses).context("SET_VRING_ADDR")?;
            self.frontend.set_vring_call(index, &queue.call).context("SET_VRING_CALL")?;
            self.frontend.set_vring_kick(index, &queue.kick).context("SET_VRING_KICK")?;
        }
        for index in 0..2 {
            self.frontend.set_vring_enable(index, true).context("SET_VRING_ENABLE")?;
        }
        Ok(())
    }

    /// Sends up to `count` frames, as many as there are free descriptors; `fill` writes each and says how long it is.
    /// Returns how many were sent.
    pub fn send(&mut self, count: usize, mut fill: impl FnMut(&mut [u8]) -> usize) -> usize {
        let Driver { transmitq, memory, free, .. } = self;
        while let Some((index, _)) = transmitq.take_used(memory) {
            free.push(index);
        }
        let count = count.min(free.len());
        for _ in 0..count {
            let Some(index) = free.pop() else { break };
            let buffer = memory.buffer(transmitq.buffer_at(index));
            buffer[..HEADER].fill(0);
            let len = fill(&mut buffer[HEADER..]);
            transmitq.describe(memory, index, u32::try_from(HEADER + len).unwrap_or_default(), 0);
            transmitq.offer(memory, index);
        }
        if count > 0 {
            transmitq.publish(memory);
        }
        count
    }

    /// Frames that the switch has not taken over yet.
    pub fn unsent(&mut self) -> usize {
        while let Some((index, _)) = self.transmitq.take_used(&self.memory) {
            self.free.push(index);
        }
        usize::from(QUEUE_SIZE) - self.free.len()
    }

    /// Shows every frame that has come in to `take`; returns how many there were.
    pub fn receive(&mut self, mut take: impl FnMut(&[u8])) -> usize {
        let Driver { receiveq, memory, .. } = self;
        let mut count = 0;
        // At most one ring, so that whoever sends gets its turn.
        while count < usize::from(QUEUE_SIZE)
            && let Some((index, len)) = receiveq.take_used(memory)
        {
            let len = usize::try_from(len).unwrap_or_default().min(BUFFER);
            take(memory.buffer(receiveq.buffer_at(index)).get(HEADER..len).unwrap_or_default());
            receiveq.offer(memory, index);
            count += 1;
        }
        if count > 0 {
            receiveq.publish(memory);
        }
        count
    }
}
