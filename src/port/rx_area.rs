//! Memory that a host-side queue reads frames into, and where their tails then lie.
//!
//! Packets of a burst point into this memory until the burst is cleared, while a queue may be closed at any time. So
//! that no order of the two can leave a packet pointing at unmapped memory, an area is never given back to the
//! allocator: a closed queue leaves it for the next queue. A process holds as many areas as it ever had queues open
//! at one time.
//!
//! Opening and closing queues takes a lock, reading frames does not.

#![allow(unsafe_code, reason = "frames are read through raw pointers, as packets point at the same bytes")]

use std::ptr::NonNull;

use parking_lot::Mutex;
use vsteer_switch::packet::{BURST, MAX_FRAME_BYTES, Segment};

use super::vnet_header;

/// Bytes of an area that one frame can need: the longest with its header, rounded up to whole cache lines.
pub const SLOT_BYTES: usize = (vnet_header::LEN + MAX_FRAME_BYTES).next_multiple_of(64);

/// Bytes of an area: a burst of the longest frames.
const AREA_BYTES: usize = BURST * SLOT_BYTES;

/// Areas of closed queues.
static SPARE: Mutex<Vec<Memory>> = Mutex::new(Vec::new());

/// The bytes of an area.
///
/// # Invariants
/// 1. The `AREA_BYTES` bytes from here on are allocated, zeroed at first, and never freed.
/// 2. No reference to them exists: they are read and written through raw pointers alone.
#[derive(Debug)]
struct Memory(NonNull<u8>);

// SAFETY: the bytes belong to no thread, and nothing borrows them (invariants 1 and 2).
unsafe impl Send for Memory {}

/// Room for a burst of the longest frames, each with its header.
///
/// Frames are laid one behind the other, each at the start of a cache line: a burst of ordinary frames touches a few
/// dozen KiB at the front, which stay in the cache, and only a burst of the longest GSO frames reaches the far end.
#[derive(Debug)]
pub struct RxArea {
    memory: Memory,
}

impl RxArea {
    /// An area that no other queue has.
    pub fn take() -> Self {
        let spare = SPARE.lock().pop();
        let memory = spare.unwrap_or_else(|| {
            Memory(NonNull::from(Box::leak(vec![0_u8; AREA_BYTES].into_boxed_slice())).cast())
        });
        Self { memory }
    }

    /// Where a frame that begins `offset` bytes into the area is read to; [`SLOT_BYTES`] bytes are writable there.
    ///
    /// # Panics
    /// If the area has fewer bytes left.
    pub fn slot(&mut self, offset: usize) -> *mut u8 {
        assert!(offset <= AREA_BYTES - SLOT_BYTES);
        // SAFETY: `offset` lies inside the area, which is one allocation (Memory invariant 1).
        unsafe { self.memory.0.as_ptr().add(offset) }
    }

    /// The virtio-net header at `offset`.
    ///
    /// # Panics
    /// If the area ends before it.
    pub fn vnet_header(&self, offset: usize) -> [u8; vnet_header::LEN] {
        assert!(offset <= AREA_BYTES - vnet_header::LEN);
        // SAFETY: `offset` lies inside the area, which is one allocation (Memory invariant 1).
        let at = unsafe { self.memory.0.as_ptr().add(offset) };
        // SAFETY: as many bytes are readable there, by the assertion above and Memory invariant 1; an array of bytes
        // needs no alignment and takes any value.
        unsafe { at.cast::<[u8; vnet_header::LEN]>().read() }
    }

    /// Copies `frame` to `offset`, as packets point at it.
    ///
    /// # Panics
    /// If it is longer than [`SLOT_BYTES`], or the area ends before it.
    pub fn put(&mut self, offset: usize, frame: &[u8]) -> Segment {
        assert!(frame.len() <= SLOT_BYTES);
        let to = self.slot(offset);
        // SAFETY: SLOT_BYTES bytes are writable at `to`, as `slot` says, and `frame` has no more; nothing else refers to
        // them (Memory invariant 2), so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(frame.as_ptr(), to, frame.len()) };
        self.segment(offset, frame.len())
    }

    /// The `len` bytes at `offset`, as packets point at them.
    ///
    /// # Panics
    /// If the area ends before them.
    pub fn segment(&self, offset: usize, len: usize) -> Segment {
        assert!(len <= SLOT_BYTES && offset <= AREA_BYTES - len);
        // SAFETY: `offset` lies inside the area, which is one allocation (Memory invariant 1).
        let at = unsafe { self.memory.0.as_ptr().add(offset) };
        #[allow(clippy::cast_possible_truncation, reason = "len <= SLOT_BYTES")]
        let len = len as u32;
        // SAFETY: `len` bytes are readable there, by the assertion above, and stay so for ever (Memory invariant 1).
        unsafe { Segment::new(at, len) }
    }
}

impl Drop for RxArea {
    fn drop(&mut self) {
        SPARE.lock().push(Memory(self.memory.0));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn areas_in_use_are_distinct() {
        let mut areas: Vec<RxArea> = (0..4).map(|_| RxArea::take()).collect();
        let starts: HashSet<_> = areas.iter_mut().map(|area| area.slot(0)).collect();
        assert_eq!(starts.len(), 4);
    }

    #[test]
    fn closed_queues_leave_their_areas_to_the_next() {
        let starts: HashSet<_> = (0..100).map(|_| RxArea::take().slot(0)).collect();
        assert!(starts.len() < 50, "{} areas for one queue at a time", starts.len());
    }

    #[test]
    #[should_panic(expected = "offset <= AREA_BYTES - SLOT_BYTES")]
    fn slot_past_the_end_is_refused() {
        RxArea::take().slot(AREA_BYTES - SLOT_BYTES + 1);
    }

    #[test]
    fn burst_of_longest_frames_fits() {
        let mut area = RxArea::take();
        let last = area.slot((BURST - 1) * SLOT_BYTES);
        assert!(!last.is_null());
        assert_eq!(
            area.segment((BURST - 1) * SLOT_BYTES + vnet_header::LEN, MAX_FRAME_BYTES).len(),
            MAX_FRAME_BYTES
        );
    }
}
