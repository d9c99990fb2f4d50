//! The log of pages that this back-end wrote, for live migration.
//!
//! While a guest migrates, its front-end shares a bitmap with one bit per 4 KiB page of guest memory; the back-end sets
//! the bit of every page it writes. vm-memory attaches a `Bitmap` to each region; ours can be replaced while workers
//! mark pages, and hands its memory on to the next table, as a front-end may change its memory table while it migrates
//! without sending the log again.
//!
//! # Source
//! vhost-user "Migration", `SET_LOG_BASE`.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use vhost_user_backend::bitmap::{AtomicBitmapMmap, BitmapReplace, MemRegionBitmap, MmapLogReg};
use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};
use vm_memory::mmap::NewBitmap;
use vm_memory::{Address, GuestMemoryRegion};

use crate::sigbus;

const LOG_PAGE_BYTES: u64 = 4096;

/// The shared bitmap as one region uses it.
///
/// # Invariants
/// 1. The bitmap has a bit for every page from `first_page` to `first_page + page_count`.
#[derive(Debug)]
pub struct RegionLog {
    /// Before `memory`, so that it is dropped first. The front-end can truncate the log as it can truncate memory.
    _watch: sigbus::Watch,
    shrank: Arc<AtomicBool>,
    memory: Arc<MmapLogReg>,
    first_page: u64,
    page_count: u64,
}

impl MemRegionBitmap for RegionLog {
    fn new<R: GuestMemoryRegion>(region: &R, memory: Arc<MmapLogReg>) -> io::Result<Self> {
        // The library's own bitmap checks that the log covers the region; it does not say how long the log is.
        AtomicBitmapMmap::new(region, Arc::clone(&memory))?;
        let first_page = region.start_addr().raw_value() / LOG_PAGE_BYTES;
        let page_count = region.len().div_ceil(LOG_PAGE_BYTES);
        let bytes = usize::try_from((first_page + page_count).div_ceil(8)).map_err(io::Error::other)?;
        let shrank = Arc::new(AtomicBool::new(false));
        let watch = sigbus::Watch::new(NonNull::from(&memory[0]).cast(), bytes, Arc::clone(&shrank))
            .ok_or_else(|| io::Error::other("too many memory regions in all ports together"))?;
        Ok(Self { _watch: watch, shrank, memory, first_page, page_count })
    }
}

/// A region's dirty log, absent until the front-end sends one.
///
/// # Concurrency
/// Session threads replace it, workers mark pages; the bits are set with atomic operations on shared memory.
#[derive(Debug, Default, Clone)]
pub struct DirtyLog(Arc<ArcSwapOption<RegionLog>>);

impl DirtyLog {
    /// Marks the pages of `len` bytes at `offset` into the region as written; false if the log was truncated, and marks
    /// were lost.
    pub(crate) fn mark(&self, offset: usize, len: usize) -> bool {
        let Some(log) = &*self.0.load() else { return true };
        let Some(last) = len.checked_sub(1) else { return true };
        let first = offset as u64 / LOG_PAGE_BYTES;
        let last = (offset + last) as u64 / LOG_PAGE_BYTES;
        for page in first..=last.min(log.page_count.saturating_sub(1)) {
            let bit = log.first_page + page;
            // The length of the log was checked for the region, so the index cannot panic (RegionLog invariant 1).
            #[allow(clippy::cast_possible_truncation, reason = "page numbers of mapped memory fit usize")]
            let byte = &log.memory[(bit / 8) as usize];
            byte.fetch_or(1 << (bit % 8), Ordering::Relaxed);
        }
        // Relaxed: the handler ran on this thread if it ran for us.
        !log.shrank.load(Ordering::Relaxed)
    }

    /// The shared bitmap, if the front-end sent one.
    pub(crate) fn memory(&self) -> Option<Arc<MmapLogReg>> {
        self.0.load().as_ref().map(|log| Arc::clone(&log.memory))
    }

    /// Takes over the bitmap of an earlier memory table, unless this region has one or the bitmap does not cover it.
    pub(crate) fn adopt<R: GuestMemoryRegion>(&self, memory: &Arc<MmapLogReg>, region: &R) {
        if self.0.load().is_some() {
            return;
        }
        if let Ok(log) = RegionLog::new(region, Arc::clone(memory)) {
            self.0.store(Some(Arc::new(log)));
        }
    }
}

impl BitmapReplace for DirtyLog {
    type InnerBitmap = RegionLog;

    fn replace(&self, log: RegionLog) {
        self.0.store(Some(Arc::new(log)));
    }
}

impl NewBitmap for DirtyLog {
    fn with_len(_len: usize) -> Self {
        Self::default()
    }
}

impl WithBitmapSlice<'_> for DirtyLog {
    type S = Self;
}

impl BitmapSlice for DirtyLog {}

/// Accesses through vm-memory are the session's reads of ring indices; nothing is written that way, so the slices that it
/// makes need no offsets.
impl Bitmap for DirtyLog {
    fn mark_dirty(&self, offset: usize, len: usize) {
        let _ = self.mark(offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let Some(log) = &*self.0.load() else { return false };
        let bit = log.first_page + offset as u64 / LOG_PAGE_BYTES;
        #[allow(clippy::cast_possible_truncation, reason = "page numbers of mapped memory fit usize")]
        let byte = log.memory[(bit / 8) as usize].load(Ordering::Relaxed);
        byte & (1 << (bit % 8)) != 0
    }

    fn slice_at(&self, _offset: usize) -> Self {
        self.clone()
    }
}
