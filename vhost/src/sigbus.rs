//! Survival of guest memory that shrinks after it was mapped.
//!
//! A front-end can truncate the file behind a region at any time. The next access raises SIGBUS, which by default ends
//! the process and with it every other guest's network. Here each mapped region is watched: the handler puts anonymous
//! memory in place of the whole region, so that the access ends harmlessly, and sets the table's flag, which the ring
//! finds at the end of its burst and stops for.
//!
//! The handler runs on the thread that faulted and may only use what is safe in a signal handler: atomics and `mmap`.
//! A SIGBUS from anywhere else gets the default action.

#![allow(unsafe_code, reason = "a signal handler, and the mapping it replaces")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Once};

use parking_lot::Mutex;

/// Regions that can be watched at once, over all ports.
const SLOTS: usize = 8192;

/// One watched region.
///
/// # Concurrency
/// Written under [`ALLOCATOR`]; read by the handler on any thread, as a sequence lock: `sequence` is odd while the slot
/// changes, and a reader that saw it change ignores the slot. The region that faulted is stable meanwhile, as its table
/// is held by the ring that touches it.
struct Slot {
    sequence: AtomicU32,
    start: AtomicUsize,
    len: AtomicUsize,
    shrank: AtomicPtr<AtomicBool>,
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        sequence: AtomicU32::new(0),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        shrank: AtomicPtr::new(std::ptr::null_mut()),
    }
}; SLOTS];

/// Number of slots that were ever used: the handler looks no further.
static HIGH_WATER: AtomicUsize = AtomicUsize::new(0);

/// Free slots below [`HIGH_WATER`].
static ALLOCATOR: Mutex<Vec<usize>> = Mutex::new(Vec::new());

static INSTALL: Once = Once::new();

impl Slot {
    fn set(&self, start: usize, len: usize, shrank: *mut AtomicBool) {
        self.sequence.fetch_add(1, Ordering::Relaxed);
        // Release fence: the odd sequence is seen before the fields; partner: the acquire fence in `covers`.
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.shrank.store(shrank, Ordering::Relaxed);
        // Release: the fields are seen before the even sequence; partner: the acquire load in `covers`.
        self.sequence.fetch_add(1, Ordering::Release);
    }

    /// The slot's region and flag, if `addr` lies in it.
    fn covers(&self, addr: usize) -> Option<(usize, usize, *mut AtomicBool)> {
        let before = self.sequence.load(Ordering::Acquire);
        let (start, len) = (self.start.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        let shrank = self.shrank.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let steady = before.is_multiple_of(2) && before == self.sequence.load(Ordering::Relaxed);
        (steady && addr.wrapping_sub(start) < len).then_some((start, len, shrank))
    }
}

/// Keeps a region watched for as long as it lives.
#[derive(Debug)]
pub(crate) struct Watch {
    slot: usize,
    _shrank: Arc<AtomicBool>,
}

impl Watch {
    /// Watches `len` bytes at `start`, a page-aligned shared mapping; `shrank` is set when part of it is gone. `None` when
    /// every slot is taken.
    pub(crate) fn new(start: NonNull<u8>, len: usize, shrank: Arc<AtomicBool>) -> Option<Self> {
        INSTALL.call_once(install);
        let mut free = ALLOCATOR.lock();
        let slot = match free.pop() {
            Some(slot) => slot,
            None => {
                let slot = HIGH_WATER.load(Ordering::Relaxed);
                if slot == SLOTS {
                    return None;
                }
                // Release: the handler sees the slot only once it is in the table; partner: the load in `handle`.
                HIGH_WATER.store(slot + 1, Ordering::Release);
                slot
            }
        };
        TABLE[slot].set(start.as_ptr() as usize, len, Arc::as_ptr(&shrank).cast_mut());
        Some(Self { slot, _shrank: shrank })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut free = ALLOCATOR.lock();
        TABLE[self.slot].set(0, 0, std::ptr::null_mut());
        free.push(self.slot);
    }
}

fn install() {
    // SAFETY: an all-zero sigaction is a valid value (no flags, empty mask, default action).
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
    // SAFETY: the action is complete and the handler does only what a handler may.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    // PANICS: sigaction fails only for a bad signal number or address, and both are constants here.
    assert_eq!(result, 0, "sigaction(SIGBUS)");
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo for SA_SIGINFO handlers.
    let info = unsafe { &*info };
    // SAFETY: for SIGBUS the address member of the union is the one that is set.
    let addr = unsafe { info.si_addr() } as usize;
    if !replace_regions_at(addr) {
        // SAFETY: resetting to the default action is allowed in a handler; the access faults again and the process ends
        // as it would have without us.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Puts anonymous memory in place of every watched region that covers `addr`; false if there is none.
fn replace_regions_at(addr: usize) -> bool {
    let used = HIGH_WATER.load(Ordering::Acquire);
    let mut replaced = false;
    for (start, len, shrank) in TABLE[..used].iter().filter_map(|slot| slot.covers(addr)) {
        // The same mapping can be in two tables at once; once is enough, but each table's flag must be set.
        if !replaced {
            // SAFETY: the range is a whole mapping of ours (Watch::new); MAP_FIXED replaces it by memory of the same
            // length, so every pointer into it stays valid.
            let result = unsafe {
                libc::mmap(
                    start as *mut libc::c_void,
                    len,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if result == libc::MAP_FAILED {
                return false;
            }
        }
        replaced = true;
        // SAFETY: the flag is kept by the watch, which the faulting ring's table holds.
        unsafe { &*shrank }.store(true, Ordering::Relaxed);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use std::os::fd::FromRawFd;

    use super::*;

    #[test]
    fn access_beyond_a_truncated_file_sets_the_flag_and_reads_zero() {
        let len = 8 * 4096;
        // SAFETY: a constant name and no flags.
        let fd = unsafe { libc::memfd_create(c"shrinks".as_ptr(), 0) };
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let file = unsafe { std::fs::File::from_raw_fd(fd) };
        file.set_len(len as u64).unwrap();
        // SAFETY: a fresh shared mapping of a file we own.
        let ptr = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, fd, 0)
        };
        assert_ne!(ptr, libc::MAP_FAILED);
        let start = NonNull::new(ptr.cast::<u8>()).unwrap();
        let shrank = Arc::new(AtomicBool::new(false));
        let watch = Watch::new(start, len, Arc::clone(&shrank)).unwrap();
        // SAFETY: inside the mapping.
        let last = unsafe { start.as_ptr().add(len - 1) };
        // SAFETY: inside the mapping, which nobody else uses.
        unsafe { last.write_volatile(7) };
        assert!(!shrank.load(Ordering::Relaxed));
        file.set_len(4096).unwrap();
        // SAFETY: inside the mapping; the page behind it is gone, which is what the handler is for.
        assert_eq!(unsafe { last.read_volatile() }, 0);
        assert!(shrank.load(Ordering::Relaxed));
        drop(watch);
        // SAFETY: the mapping is ours and no longer used.
        unsafe { libc::munmap(ptr, len) };
    }
}
