//! The log of pages that this back-end wrote, for live migration.
//!
//! While a guest migrates, its front-end shares a bitmap with one bit per 4 KiB page of guest memory; the back-end sets
//! the bit of every page it writes. The bitmap belongs to the memory table in use; the session hands it on to the next
//! one, as a front-end may change its memory table while it migrates without sending the log again.
//!
//! # Source
//! vhost-user "Migration", `SET_LOG_BASE`.

#![allow(unsafe_code, reason = "the bitmap is shared memory")]

use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::mapping::{FileFault, Mapping};
use crate::memory::GuestAddr;
use crate::sigbus;

const LOG_PAGE_BYTES: u64 = 4096;

/// Why a log cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LogFault {
    /// The file behind it cannot be used.
    #[error("the dirty log {0}")]
    File(#[from] FileFault),
    /// It has too few bits for the guest's memory.
    #[error("a dirty log of {len} bytes does not reach to the end of memory at guest address {end:#x}")]
    TooSmall { len: u64, end: u64 },
    /// The process watches as many mappings as it can.
    #[error("too many memory regions in all ports together; give the guests fewer, larger memory back-ends")]
    TooManyRegions,
}

/// The shared bitmap.
///
/// # Invariants
/// 1. `mapping` has `len` bytes.
///
/// # Concurrency
/// Workers set bits, the front-end reads and clears them, all by atomic operations on shared memory.
#[derive(Debug)]
pub(crate) struct LogMemory {
    /// Before `mapping`, so that it is dropped first. The front-end can truncate the log as it can truncate memory.
    _watch: sigbus::Watch,
    shrank: Arc<AtomicBool>,
    mapping: Mapping,
    len: u64,
}

impl LogMemory {
    /// Maps the log: `len` bytes of `file` from `offset` on.
    pub(crate) fn new(file: File, offset: u64, len: u64) -> Result<Self, LogFault> {
        let mapping = Mapping::new(file, offset, len)?;
        let shrank = Arc::new(AtomicBool::new(false));
        let watch = mapping.watch(Arc::clone(&shrank)).ok_or(LogFault::TooManyRegions)?;
        Ok(Self { _watch: watch, shrank, mapping, len })
    }

    /// Says so if the log is too small for memory that ends at `end`.
    pub(crate) fn check_reach(&self, end: GuestAddr) -> Result<(), LogFault> {
        if end.0.div_ceil(LOG_PAGE_BYTES).div_ceil(8) <= self.len {
            Ok(())
        } else {
            Err(LogFault::TooSmall { len: self.len, end: end.0 })
        }
    }

    /// Marks the pages of `len` bytes at `addr` as written; false if the log was truncated, and marks were lost. Pages beyond
    /// the log are new ones, which the front-end copies whole.
    pub(crate) fn mark(&self, addr: GuestAddr, len: usize) -> bool {
        let Some(last) = len.checked_sub(1) else { return true };
        // Bound: the pages of a buffer, or of a ring.
        for page in addr.0 / LOG_PAGE_BYTES..=(addr.0 + last as u64) / LOG_PAGE_BYTES {
            if let Some(byte) = self.byte(page / 8) {
                byte.fetch_or(1 << (page % 8), Ordering::Relaxed);
            }
        }
        // Relaxed: the handler ran on this thread if it ran for us.
        !self.shrank.load(Ordering::Relaxed)
    }

    fn byte(&self, index: u64) -> Option<&AtomicU8> {
        if index >= self.len {
            return None;
        }
        let host: NonNull<u8> = self.mapping.host();
        // SAFETY: `index < len`, so the pointer stays inside the mapping (invariant 1).
        let at = unsafe { host.add(usize::try_from(index).ok()?) };
        // SAFETY: the byte is mapped for as long as `self`, and everybody who writes to it does so atomically: we here, and
        // other processes outside of Rust.
        Some(unsafe { AtomicU8::from_ptr(at.as_ptr()) })
    }
}
