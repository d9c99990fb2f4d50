//! Where a split ring's three parts lie, and the only code that touches them.
//!
//! Everything above this file works on values that were read once into locals. Read this after virtio 1.3 §2.7.

#![allow(unsafe_code, reason = "ring parts lie in guest memory and are accessed through raw pointers")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::fault::{RingFault, RingPart};
use crate::memory::{CACHE_LINE, GuestAddr, RegionTable, Span, prefetch, prefetch_to_write};

/// Bytes of a descriptor.
pub(crate) const DESCRIPTOR_BYTES: u32 = 16;

/// A descriptor as the guest wrote it, read once. Little-endian on the wire, and on every machine this runs on.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Descriptor {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Descriptor {
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;

    pub(crate) fn has_next(&self) -> bool {
        self.flags & Self::NEXT != 0
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.flags & Self::WRITE != 0
    }

    pub(crate) fn is_indirect(&self) -> bool {
        self.flags & Self::INDIRECT != 0
    }
}

/// Where a ring lies in guest memory, from what the front-end said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RingSetup {
    pub(crate) size: u16,
    pub(crate) descriptors: GuestAddr,
    pub(crate) avail: GuestAddr,
    pub(crate) used: GuestAddr,
}

/// The three parts of a split ring in this process.
///
/// # Invariants
/// 1. `size` is a power of two, at most 32 768.
/// 2. `descriptors` points to `16 * size` bytes, `avail` to `6 + 2 * size`, `used` to `6 + 8 * size`, each inside one
///    region of `memory`, which keeps it mapped.
/// 3. `descriptors` is aligned to 16, `avail` to 2, `used` to 4.
#[derive(Debug)]
pub(crate) struct RingLayout {
    size: u16,
    descriptors: NonNull<Descriptor>,
    avail: NonNull<u16>,
    used: NonNull<u16>,
    used_span: Span,
    memory: Arc<RegionTable>,
}

// SAFETY: the pointers are to memory that any thread may access through this file; the ring's lock orders our threads.
unsafe impl Send for RingLayout {}

const LEGACY_QUEUE_MAX: u16 = 1 << 15;

impl RingLayout {
    pub(crate) fn new(setup: &RingSetup, memory: Arc<RegionTable>) -> Result<Self, RingFault> {
        let size = setup.size;
        if !size.is_power_of_two() || size > LEGACY_QUEUE_MAX {
            return Err(RingFault::BadQueueSize { size });
        }
        let entries = u32::from(size);
        let used_bytes = 6 + 8 * entries;
        let descriptors =
            place(&memory, RingPart::Descriptors, setup.descriptors, DESCRIPTOR_BYTES * entries, 16)?;
        let avail = place(&memory, RingPart::Avail, setup.avail, 6 + 2 * entries, 2)?;
        let used = place(&memory, RingPart::Used, setup.used, used_bytes, 4)?;
        let used_span = memory
            .span(setup.used, used_bytes)
            .ok_or(RingFault::RingOutsideMemory { part: RingPart::Used, addr: setup.used.0 })?;
        Ok(Self {
            size,
            descriptors: descriptors.cast(),
            avail: avail.cast(),
            used: used.cast(),
            used_span,
            memory,
        })
    }

    /// Descriptors in the ring.
    #[inline]
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// The memory that the ring's addresses refer to.
    #[inline]
    pub(crate) fn memory(&self) -> &RegionTable {
        &self.memory
    }

    /// The available index. Acquire: entries and descriptors below it are visible; partner: the driver's barrier before
    /// it moves the index (virtio 1.3 §2.7.13.3).
    #[inline]
    pub(crate) fn avail_idx(&self) -> u16 {
        self.avail_cell(1).load(Ordering::Acquire)
    }

    /// Whether the guest asked not to be called (without EVENT_IDX).
    pub(crate) fn avail_no_interrupt(&self) -> bool {
        self.avail_cell(0).load(Ordering::Relaxed) & 1 != 0
    }

    /// The used index at which the guest wants the next call (with EVENT_IDX).
    pub(crate) fn used_event(&self) -> u16 {
        self.avail_cell(2 + usize::from(self.size)).load(Ordering::Relaxed)
    }

    /// The head of the chain that was made available as number `position`.
    #[inline]
    pub(crate) fn avail_head(&self, position: u16) -> u16 {
        self.avail_cell(2 + usize::from(position & (self.size - 1))).load(Ordering::Relaxed)
    }

    /// Descriptor `index`, or `None` beyond the table.
    #[inline]
    pub(crate) fn descriptor(&self, index: u16) -> Option<Descriptor> {
        if index >= self.size {
            return None;
        }
        // SAFETY: `index < size`, so the pointer is inside the table (invariant 2).
        let at = unsafe { self.descriptors.add(usize::from(index)) };
        // SAFETY: the descriptor is mapped and aligned (invariants 2 and 3); any bit pattern is a descriptor; volatile,
        // as the guest may write to it meanwhile.
        Some(unsafe { at.read_volatile() })
    }

    /// Asks the processor to fetch descriptor `index`.
    #[inline]
    pub(crate) fn prefetch_descriptor(&self, index: u16) {
        prefetch(self.descriptors.as_ptr().wrapping_add(usize::from(index & (self.size - 1))).cast());
    }

    /// Descriptor `index` of an indirect table that starts at `table`, or `None` outside guest memory.
    pub(crate) fn indirect_descriptor(&self, table: GuestAddr, index: u16) -> Option<Descriptor> {
        let addr = table.0.checked_add(u64::from(index) * u64::from(DESCRIPTOR_BYTES))?;
        let at = self.memory.whole(GuestAddr(addr), DESCRIPTOR_BYTES)?;
        // SAFETY: sixteen bytes are mapped at `at`, which need not be aligned; any bit pattern is a descriptor.
        Some(unsafe { at.cast::<Descriptor>().read_unaligned() })
    }

    /// Writes used entry number `position`: chain `head` with `len` bytes written to it. Not seen by the guest until
    /// [`publish_used`](Self::publish_used).
    #[inline]
    pub(crate) fn write_used(&self, position: u16, head: u16, len: u32) {
        let entry = u64::from(head) | u64::from(len) << 32;
        let offset = 4 + 8 * usize::from(position & (self.size - 1));
        // SAFETY: the masked position is below `size`, so the entry is inside the used ring (invariant 2).
        let at = unsafe { self.used.cast::<u8>().add(offset) };
        // SAFETY: eight bytes are mapped at `at`; the ring is only aligned to 4.
        unsafe { at.cast::<u64>().write_unaligned(entry) };
    }

    /// Asks the processor for the lines of `count` used entries from number `first` on, as our own: the guest has read them
    /// since they were last written, and a store that waits for its line holds up every store behind it.
    #[inline]
    pub(crate) fn prefetch_used(&self, first: u16, count: u16) {
        #[allow(clippy::cast_possible_truncation, reason = "a small constant")]
        const ENTRIES_PER_LINE: u16 = (CACHE_LINE / 8) as u16;
        // Entries are not aligned to lines: the last one may lie in one line more.
        let mut offset = 0;
        while offset < count {
            prefetch_to_write(self.used_entry(first.wrapping_add(offset)));
            offset += ENTRIES_PER_LINE;
        }
        prefetch_to_write(self.used_entry(first.wrapping_add(count.saturating_sub(1))));
    }

    /// Where used entry number `position` lies.
    #[inline]
    fn used_entry(&self, position: u16) -> *mut u8 {
        self.used.as_ptr().cast::<u8>().wrapping_add(4 + 8 * usize::from(position & (self.size - 1)))
    }

    /// Shows the guest every used entry below `idx`. Release: entries and buffers are visible before it; partner: the
    /// driver's barrier after it read the index (virtio 1.3 §2.7.14).
    #[inline]
    pub(crate) fn publish_used(&self, idx: u16) {
        self.used_cell(1).store(idx, Ordering::Release);
    }

    /// The used index as it stands, which after a restart is how far the guest was served.
    pub(crate) fn used_idx(&self) -> u16 {
        self.used_cell(1).load(Ordering::Relaxed)
    }

    /// Asks the guest to kick, or not to (without EVENT_IDX).
    pub(crate) fn set_used_no_notify(&self, no_notify: bool) {
        self.used_cell(0).store(u16::from(no_notify), Ordering::Relaxed);
    }

    /// Asks the guest to kick when it makes chain number `idx` available (with EVENT_IDX).
    pub(crate) fn set_avail_event(&self, idx: u16) {
        self.used_cell(2 + 4 * usize::from(self.size)).store(idx, Ordering::Relaxed);
    }

    /// Marks used entries `first..first + count` and the used index as written, for live migration.
    pub(crate) fn log_used(&self, first: u16, count: u16) {
        self.memory.log_write(&self.used_span, 4);
        for position in 0..count {
            let slot = usize::from(first.wrapping_add(position) & (self.size - 1));
            self.memory.log_write(&self.used_span.skip(4 + 8 * slot), 8);
        }
    }

    /// Marks the place of a wish for kicks as written, for live migration.
    pub(crate) fn log_kick_wish(&self, event_idx: bool) {
        let offset = if event_idx { 4 + 8 * usize::from(self.size) } else { 0 };
        self.memory.log_write(&self.used_span.skip(offset), 2);
    }

    #[inline]
    fn avail_cell(&self, word: usize) -> &AtomicU16 {
        debug_assert!(word < 3 + usize::from(self.size));
        // SAFETY: `word < 3 + size`, and the available ring has as many 16-bit words (invariant 2).
        let at = unsafe { self.avail.add(word) };
        // SAFETY: mapped and aligned (invariants 2, 3), accessed only atomically by us; other writers are outside Rust.
        unsafe { AtomicU16::from_ptr(at.as_ptr()) }
    }

    #[inline]
    fn used_cell(&self, word: usize) -> &AtomicU16 {
        debug_assert!(word < 3 + 4 * usize::from(self.size));
        // SAFETY: `word < 3 + 4 * size`, and the used ring has as many 16-bit words (invariant 2).
        let at = unsafe { self.used.add(word) };
        // SAFETY: mapped and aligned (invariants 2, 3), accessed only atomically by us; other writers are outside Rust.
        unsafe { AtomicU16::from_ptr(at.as_ptr()) }
    }
}

fn place(
    memory: &RegionTable,
    part: RingPart,
    addr: GuestAddr,
    len: u32,
    alignment: usize,
) -> Result<NonNull<u8>, RingFault> {
    let host = memory.whole(addr, len).ok_or(RingFault::RingOutsideMemory { part, addr: addr.0 })?;
    if (host.as_ptr() as usize).is_multiple_of(alignment) {
        Ok(host)
    } else {
        Err(RingFault::RingMisaligned { part, addr: addr.0 })
    }
}
