//! Guest memory as this process sees it.
//!
//! A `RegionTable` is an immutable snapshot of a front-end's memory table. Each ring holds one, and with it the
//! mappings, so that a new table never pulls memory from under a burst: the session thread swaps the ring's table under
//! the ring's lock, and the old mappings go when the last snapshot does.
//!
//! The guest writes to this memory at any time. No reference to it is ever made: reads and writes go through raw copies
//! in this file and in `ring/layout.rs`.

#![allow(unsafe_code, reason = "guest memory is read and written through raw pointers")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use vsteer_switch::packet::Segment;

use crate::dirty_log::LogMemory;
use crate::mapping::{FileFault, Mapping};
use crate::sigbus;

/// A guest-physical address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestAddr(pub u64);

/// An address in the front-end's own address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrontendAddr(pub u64);

/// Why a memory table cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryFault {
    /// The file behind a region cannot be used.
    #[error("memory region at guest address {start:#x} {fault}")]
    File {
        /// Guest-physical start of the region.
        start: u64,
        /// What is wrong with it.
        fault: FileFault,
    },
    /// A region has no bytes, or wraps around the address space.
    #[error("memory region at guest address {start:#x} with {len} bytes is empty or wraps around")]
    BadRegion {
        /// Guest-physical start of the region.
        start: u64,
        /// Bytes in the region.
        len: u64,
    },
    /// Two regions have guest addresses in common.
    #[error("memory region at guest address {start:#x} overlaps the one at {other:#x}")]
    Overlap {
        /// Guest-physical start of the region.
        start: u64,
        /// Guest-physical start of the region that was there before.
        other: u64,
    },
    /// A region that was never sent shall be removed.
    #[error("memory region at guest address {start:#x} with {len} bytes is not there to be removed")]
    Unknown {
        /// Guest-physical start of the region.
        start: u64,
        /// Bytes in the region.
        len: u64,
    },
    /// More regions than a front-end may have.
    #[error("more than {MAX_REGIONS} memory regions")]
    TooManySlots,
    /// All ports together map more regions than this process can watch.
    #[error("too many memory regions in all ports together; give the guests fewer, larger memory back-ends")]
    TooManyRegions,
}

/// Most regions of one front-end: what KVM and the kernel's vhost take.
pub const MAX_REGIONS: usize = 509;

/// A region as its front-end described it, and its memory.
///
/// # Invariants
/// 1. `mapping` has `len` bytes; `start + len` and `frontend + len` do not overflow.
#[derive(Debug)]
pub(crate) struct SharedRegion {
    pub(crate) start: GuestAddr,
    pub(crate) len: u64,
    pub(crate) frontend: FrontendAddr,
    /// Where in its file it starts.
    pub(crate) offset: u64,
    pub(crate) mapping: Mapping,
}

/// One region of guest memory in a table.
///
/// # Invariants
/// 1. `host..host + len` is mapped readable and writable for as long as the table that holds the region.
/// 2. `start + len` does not overflow.
#[derive(Debug)]
struct Region {
    start: u64,
    len: u64,
    host: NonNull<u8>,
    _watch: sigbus::Watch,
    /// After the watch, so that it is dropped later.
    _shared: Arc<SharedRegion>,
}

impl Region {
    fn new(shared: Arc<SharedRegion>, shrank: &Arc<AtomicBool>) -> Result<Self, MemoryFault> {
        let watch = shared.mapping.watch(Arc::clone(shrank)).ok_or(MemoryFault::TooManyRegions)?;
        Ok(Self {
            start: shared.start.0,
            len: shared.len,
            host: shared.mapping.host(),
            _watch: watch,
            _shared: shared,
        })
    }
}

/// A contiguous piece of guest memory that a ring may write to.
///
/// # Invariants
/// 1. `host..host + len` lies inside one region of the table that the ring holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    host: NonNull<u8>,
    len: u32,
    region: u16,
}

// SAFETY: the bytes are in memory that any thread may read and write through raw copies (see the head of the file), and
// the ring that keeps the span holds the table that keeps them mapped.
unsafe impl Send for Span {}

impl Span {
    /// Bytes in the span.
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// The span as a packet's tail sees it.
    pub(crate) fn segment(&self) -> Segment {
        // SAFETY: 1. the bytes are mapped while the ring's table is (Span invariant 1); the burst that takes the segment is
        // cleared before the ring's lock is let go, and only under that lock does the table change.
        unsafe { Segment::new(self.host.as_ptr(), self.len) }
    }

    /// The part that starts `offset` bytes in.
    ///
    /// # Panics
    /// If `offset` is beyond the span.
    #[inline]
    pub(crate) fn skip(&self, offset: usize) -> Span {
        assert!(offset <= self.len());
        // SAFETY: the offset stays inside the span, hence inside the region.
        let host = unsafe { self.host.add(offset) };
        #[allow(clippy::cast_possible_truncation, reason = "offset <= len, a u32")]
        Span { host, len: self.len - offset as u32, region: self.region }
    }

    /// Copies `bytes` to the start of the span.
    ///
    /// # Panics
    /// If the span is shorter.
    #[inline]
    pub(crate) fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len());
        // SAFETY: the destination is mapped and long enough (Span invariant 1, assertion); the source is our own memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.host.as_ptr(), bytes.len()) }
    }

    /// Copies the bytes of `from` to the start of the span.
    ///
    /// # Panics
    /// If the span is shorter.
    #[inline]
    pub(crate) fn write_segment(&self, from: Segment) {
        assert!(from.len() <= self.len());
        // SAFETY: the destination is mapped and long enough (Span invariant 1, assertion), the source is readable (Segment
        // invariant 1). A guest can make the two overlap only by giving one page to two queues of its own; `copy` allows it.
        unsafe { std::ptr::copy(from.as_ptr(), self.host.as_ptr(), from.len()) }
    }

    /// Copies the first bytes of the span to `to`.
    ///
    /// # Panics
    /// If the span is shorter.
    #[inline]
    pub(crate) fn read(&self, to: &mut [u8]) {
        assert!(to.len() <= self.len());
        // SAFETY: the source is mapped and long enough (Span invariant 1, assertion); the destination is our own memory.
        unsafe { std::ptr::copy_nonoverlapping(self.host.as_ptr(), to.as_mut_ptr(), to.len()) }
    }

    /// The first `len` bytes of the span, or all of it if it is shorter.
    #[inline]
    pub(crate) fn truncate(&self, len: usize) -> Span {
        #[allow(clippy::cast_possible_truncation, reason = "the minimum is at most self.len, a u32")]
        Span { len: self.len().min(len) as u32, ..*self }
    }

    /// Asks the processor to fetch what a small frame takes: the line of its virtio-net header and the one behind it.
    #[inline]
    pub(crate) fn prefetch_to_read(&self) {
        prefetch(self.host.as_ptr());
        if self.len() > CACHE_LINE {
            prefetch(self.host.as_ptr().wrapping_add(CACHE_LINE));
        }
    }

    /// The same for a frame that is written behind a header: the frame's line arrives as our own, so that the stores need
    /// not wait for the guest's copy to go. So does the header's, unless it is left alone: see
    /// [`NetHeader::write_if_new`](crate::net::header::NetHeader::write_if_new).
    #[inline]
    pub(crate) fn prefetch_to_write(&self) {
        let in_line = self.host.as_ptr() as usize % CACHE_LINE;
        if in_line + LONGEST_HEADER >= CACHE_LINE {
            prefetch(self.host.as_ptr());
        } else {
            prefetch_to_write(self.host.as_ptr());
        }
        if self.len() > CACHE_LINE {
            prefetch_to_write(self.host.as_ptr().wrapping_add(CACHE_LINE));
        }
    }

    /// Whether the first `len` bytes end where a cache line ends.
    #[inline]
    pub(crate) fn ends_line(&self, len: usize) -> bool {
        (self.host.as_ptr() as usize).wrapping_add(len).is_multiple_of(CACHE_LINE)
    }

    /// The `N` bytes from `offset` on. The guest may write to them meanwhile: go by what this returned, and do not ask again.
    ///
    /// # Panics
    /// If the span ends before them.
    #[inline]
    pub(crate) fn load<const N: usize>(&self, offset: usize) -> [u8; N] {
        assert!(offset + N <= self.len());
        // SAFETY: the bytes are inside the span by the assertion.
        let at = unsafe { self.host.add(offset) };
        // SAFETY: they are mapped (Span invariant 1), and an array of bytes needs no alignment.
        unsafe { at.cast::<[u8; N]>().read() }
    }

    /// Writes `bytes` from `offset` on.
    ///
    /// # Panics
    /// If the span ends before them.
    #[inline]
    pub(crate) fn store<const N: usize>(&self, offset: usize, bytes: [u8; N]) {
        assert!(offset + N <= self.len());
        // SAFETY: the bytes are inside the span by the assertion.
        let at = unsafe { self.host.add(offset) };
        // SAFETY: they are mapped (Span invariant 1), and an array of bytes needs no alignment.
        unsafe { at.cast::<[u8; N]>().write(bytes) }
    }
}

/// Bytes of the longest virtio-net header: a buffer that starts closer to its line's end has the header's line to itself.
const LONGEST_HEADER: usize = 12;

/// Bytes of a cache line.
pub(crate) const CACHE_LINE: usize = 64;

/// Asks the processor to fetch the cache line at `ptr`.
#[inline]
pub(crate) fn prefetch(ptr: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint and touches no memory; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(ptr.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ptr;
}

/// Asks the processor to fetch the cache line at `ptr` and to take it away from whoever else has it.
#[inline]
pub(crate) fn prefetch_to_write(ptr: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // The intrinsic makes a plain prefetch of it unless the whole program is compiled for processors that surely have the
    // instruction; those that do not have it take it for a no-op.
    // SAFETY: a prefetch is a hint that touches no memory and changes no register.
    unsafe {
        std::arch::asm!("prefetchw byte ptr [{}]", in(reg) ptr, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = ptr;
}

/// A snapshot of a front-end's memory table.
///
/// # Concurrency
/// Immutable but for `shrank`, which the SIGBUS handler sets and rings read once per burst, and `log`, which is replaced
/// whole. The raw pointers in it point to shared mappings that the regions keep.
#[derive(Debug)]
pub struct RegionTable {
    /// Sorted by `start`, without overlap.
    regions: Box<[Region]>,
    shrank: Arc<AtomicBool>,
    log: ArcSwapOption<LogMemory>,
}

// SAFETY: the pointers are to memory that any thread may read and write through raw copies (see the head of the file).
unsafe impl Send for RegionTable {}
// SAFETY: as above; nothing in the table is written but an atomic.
unsafe impl Sync for RegionTable {}

impl RegionTable {
    /// A snapshot of `regions`, which do not overlap. What is written to them is marked in `log`.
    ///
    /// # Errors
    /// More regions than can be watched.
    pub(crate) fn new(
        regions: impl IntoIterator<Item = Arc<SharedRegion>>,
        log: Option<Arc<LogMemory>>,
    ) -> Result<Self, MemoryFault> {
        let shrank = Arc::new(AtomicBool::new(false));
        let mut regions =
            regions.into_iter().map(|region| Region::new(region, &shrank)).collect::<Result<Vec<_>, _>>()?;
        regions.sort_by_key(|region| region.start);
        Ok(Self { regions: regions.into_boxed_slice(), shrank, log: ArcSwapOption::new(log) })
    }

    /// No memory.
    pub(crate) fn empty() -> Self {
        Self { regions: Box::default(), shrank: Arc::default(), log: ArcSwapOption::empty() }
    }

    /// Number of regions.
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Whether there is no memory.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Whether the file behind a region, or behind its dirty log, was found too short while it was in use.
    #[inline]
    pub(crate) fn shrank(&self) -> bool {
        // Relaxed: the flag stands alone, and the handler ran on the thread that touched the memory.
        self.shrank.load(Ordering::Relaxed)
    }

    /// The longest piece of `addr..addr + len` that starts at `addr` and lies in one region, or `None` if `addr` is in no
    /// region. A buffer that runs from one region into the next takes several calls.
    #[inline]
    pub(crate) fn span(&self, addr: GuestAddr, len: u32) -> Option<Span> {
        let index = match &*self.regions {
            [only] if addr.0 >= only.start => 0,
            regions => regions.partition_point(|region| region.start <= addr.0).checked_sub(1)?,
        };
        let region = &self.regions[index];
        let offset = addr.0 - region.start;
        let rest = region.len.checked_sub(offset).filter(|&rest| rest > 0)?;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "offset < len, which fitted usize when the region was mapped"
        )]
        // SAFETY: `offset < region.len`, so the result is inside the mapping (Region invariant 1).
        let host = unsafe { region.host.add(offset as usize) };
        let len = u32::try_from(rest).map_or(len, |rest| rest.min(len));
        #[allow(clippy::cast_possible_truncation, reason = "the protocol allows 509 regions")]
        Some(Span { host, len, region: index as u16 })
    }

    /// Where `addr..addr + len` lies, if all of it lies in one region.
    pub(crate) fn whole(&self, addr: GuestAddr, len: u32) -> Option<NonNull<u8>> {
        self.span(addr, len).filter(|span| span.len == len).map(|span| span.host)
    }

    /// Marks the first `len` bytes of `span` as written, for live migration.
    pub(crate) fn log_write(&self, span: &Span, len: usize) {
        let Some(log) = &*self.log.load() else { return };
        let region = &self.regions[usize::from(span.region)];
        let offset = span.host.as_ptr() as usize - region.host.as_ptr() as usize;
        if !log.mark(GuestAddr(region.start + offset as u64), len) {
            self.shrank.store(true, Ordering::Relaxed);
        }
    }

    /// Marks in `log` from now on.
    pub(crate) fn set_log(&self, log: Arc<LogMemory>) {
        self.log.store(Some(log));
    }

    /// The guest address behind the last region: how far a log must reach.
    pub(crate) fn end(&self) -> GuestAddr {
        GuestAddr(self.regions.last().map_or(0, |region| region.start + region.len))
    }
}
