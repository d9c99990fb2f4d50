//! One queue of a TAP interface: frames from the host into a burst, frames from the switch to the host.
//!
//! First and last stage of a packet's path. One worker receives from a queue; any may transmit to it. Each frame is one
//! system call, which is the price of TAP: there is no call for several. What is saved is everything else: no
//! allocation, no look at an empty queue in most rounds (`poll_pacer.rs`), no copy on our side in either direction, and
//! TCP crosses in frames of up to 64 KiB.
//!
//! Read first: `tun_chr_read_iter` and `tun_get_user` in Linux.

#![allow(unsafe_code, reason = "frames are read and written where they lie, by system calls on raw pointers")]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use parking_lot::Mutex;
use vsteer_switch::counters::PortCounters;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::packet::{BURST, Burst, Frame, MAX_FRAME_BYTES, Offload};
use vsteer_switch::port::PortId;
use vsteer_vhost::net::queue::{KickPoller, same_poller};

use crate::port::poll_pacer::PollPacer;
use crate::port::rx_area::{RxArea, SLOT_BYTES};
use crate::port::vnet_header;

/// Pieces that a frame is written from: header, head, tail pieces, and the rest of the tail if it has more.
///
/// A 64 KiB frame from a Linux guest has a tail of about 18 pieces. The kernel allocates memory of its own above 8.
const MAX_PIECES: usize = 32;

/// What a fill did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RxOutcome {
    /// Packets put into the burst.
    pub pkts: u32,
    /// Bytes of those packets.
    pub bytes: u64,
    /// Frames dropped for [`DropReason::BadOffload`].
    pub bad_offload: u32,
    /// The errno with which the queue has failed for good, told once: the interface was deleted.
    pub failed: Option<i32>,
}

/// What a transmission did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TxOutcome {
    /// Frames that the host took.
    pub pkts: u32,
    /// Bytes of those frames.
    pub bytes: u64,
    /// Frames dropped for [`DropReason::HostQueueFull`].
    pub host_queue_full: u32,
    /// Frames dropped for [`DropReason::HostRefused`].
    pub host_refused: u32,
    /// Frames dropped for [`DropReason::TooLong`].
    pub too_long: u32,
}

impl RxOutcome {
    /// Counts it.
    pub(super) fn count(&self, counters: &PortCounters) {
        if self.pkts > 0 {
            counters.rx_pkts.add(self.pkts.into());
            counters.rx_bytes.add(self.bytes);
        }
        if self.bad_offload > 0 {
            counters.dropped(DropReason::BadOffload, self.bad_offload.into());
        }
    }
}

impl TxOutcome {
    /// Counts it.
    pub(super) fn count(&self, counters: &PortCounters) {
        counters.tx_pkts.add(self.pkts.into());
        counters.tx_bytes.add(self.bytes);
        let drops = [
            (DropReason::HostQueueFull, self.host_queue_full),
            (DropReason::HostRefused, self.host_refused),
            (DropReason::TooLong, self.too_long),
        ];
        for (reason, pkts) in drops {
            if pkts > 0 {
                counters.dropped(reason, pkts.into());
            }
        }
    }
}

/// One queue of an open TAP interface, in both directions.
#[derive(Debug)]
pub struct TapQueue {
    /// From the host.
    pub receiver: TapReceiver,
    /// To the host.
    pub transmitter: TapTransmitter,
}

impl TapQueue {
    /// A queue over a descriptor that was attached to an interface with [`vnet_header::LEN`] bytes of header.
    pub(super) fn new(fd: OwnedFd) -> Self {
        let fd = Arc::new(fd);
        let receiver = TapReceiver {
            fd: Arc::clone(&fd),
            poller: None,
            pacer: PollPacer::default(),
            failed: false,
            area: RxArea::take(),
        };
        Self {
            receiver,
            transmitter: TapTransmitter { fd, rest: Mutex::new(vec![0; MAX_FRAME_BYTES].into()) },
        }
    }
}

/// The receiving side of a queue. Its descriptor is readable while frames wait, which ends the sleep of the worker that
/// polls it.
pub struct TapReceiver {
    fd: Arc<OwnedFd>,
    poller: Option<Arc<dyn KickPoller>>,
    pacer: PollPacer,
    failed: bool,
    /// Where received frames lie until the burst that holds them is cleared.
    area: RxArea,
}

impl fmt::Debug for TapReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapReceiver")
            .field("fd", &self.fd)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl TapReceiver {
    /// Hands the queue to the worker behind `poller`, whoever had it.
    pub fn set_poller(&mut self, poller: Arc<dyn KickPoller>) {
        if let Some(old) = &self.poller {
            old.forget(self.fd.as_fd());
        }
        poller.watch(self.fd.as_fd());
        poller.wake();
        self.poller = Some(poller);
    }

    /// The worker behind `poller` lets go of the queue; if another has it by now, that one keeps it and is woken.
    pub fn release_poller(&mut self, poller: &Arc<dyn KickPoller>) {
        match &self.poller {
            Some(current) if same_poller(current, poller) => {
                current.forget(self.fd.as_fd());
                self.poller = None;
            }
            Some(other) => other.wake(),
            None => {}
        }
    }

    /// Reads frames into the burst until it is full or no frame waits. After an empty read the next few calls return
    /// at once.
    ///
    /// Packets that an earlier fill of this queue put into a burst must be gone by now: their tails lie where frames
    /// are read to. A worker clears the burst between two fills.
    pub fn fill(&mut self, in_port: PortId, burst: &mut Burst) -> RxOutcome {
        let mut outcome = RxOutcome::default();
        if self.failed || !self.pacer.is_due() {
            return outcome;
        }
        let mut found_any = false;
        let mut offset = 0;
        // The bound is on reads, so that a host which sends nothing but bad frames cannot keep us here.
        for _ in 0..BURST.min(burst.spare_packets()).min(burst.spare_segments()) {
            let read_len = match self.read_frame(offset) {
                Ok(len) => len,
                Err(error) => {
                    outcome.failed = self.note_read_error(&error);
                    break;
                }
            };
            found_any = true;
            let Some((frame_len, offload)) = self.read_header(offset, read_len) else {
                outcome.bad_offload += 1;
                continue;
            };
            let frame = self.area.segment(offset + vnet_header::LEN, frame_len);
            burst.push(in_port, offload, &[frame]);
            outcome.pkts += 1;
            outcome.bytes += frame_len as u64;
            offset += read_len.next_multiple_of(64);
        }
        if found_any {
            self.pacer.resume();
        } else {
            self.pacer.found_nothing();
        }
        outcome
    }

    /// Makes the next fill look at the queue, after the worker was told that frames wait.
    pub fn resume(&mut self) {
        self.pacer.resume();
    }

    /// Reads one frame, with its header before it, to `offset` in the area.
    fn read_frame(&mut self, offset: usize) -> io::Result<usize> {
        let to = self.area.slot(offset);
        // SAFETY: SLOT_BYTES bytes are writable at `to`, as `slot` says; nothing borrows them.
        let result = unsafe { libc::read(self.fd.as_raw_fd(), to.cast(), SLOT_BYTES) };
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    /// The length and offload state of a frame that was read to `offset`, or `None` if its header does not fit it.
    fn read_header(&self, offset: usize, read_len: usize) -> Option<(usize, Offload)> {
        let frame_len = read_len.checked_sub(vnet_header::LEN)?;
        let offload = vnet_header::decode(&self.area.vnet_header(offset), frame_len).ok()?;
        Some((frame_len, offload))
    }

    /// Sorts a read's error into "nothing there" and "failed for good", which it returns.
    fn note_read_error(&mut self, error: &io::Error) -> Option<i32> {
        match error.raw_os_error() {
            None | Some(libc::EAGAIN | libc::EINTR) => None,
            errno => {
                self.failed = true;
                errno
            }
        }
    }
}

/// The transmitting side of a queue.
///
/// # Concurrency
/// Any worker may transmit at any time: the kernel takes each frame whole. `rest` is only locked for a frame that lies in
/// more pieces than one write takes, which no ordinary guest makes.
#[derive(Debug)]
pub struct TapTransmitter {
    fd: Arc<OwnedFd>,
    /// Where the rest of such a frame is gathered.
    rest: Mutex<Box<[u8]>>,
}

impl TapTransmitter {
    /// Writes the frames to the host, which owns a copy of each when this returns.
    ///
    /// A host that refuses one frame for a reason that holds for all gets no more of this call's frames; they count
    /// as dropped for the same reason.
    pub fn transmit<'f>(&self, mut frames: impl ExactSizeIterator<Item = Frame<'f>>) -> TxOutcome {
        let mut outcome = TxOutcome::default();
        while let Some(frame) = frames.next() {
            if frame.len() > MAX_FRAME_BYTES {
                outcome.too_long += 1;
                continue;
            }
            let Err(error) = self.write_frame(&frame) else {
                outcome.pkts += 1;
                outcome.bytes += frame.len() as u64;
                continue;
            };
            #[allow(clippy::cast_possible_truncation, reason = "a call has a few bursts of frames at most")]
            let this_and_later = (1 + frames.len()) as u32;
            match error.raw_os_error() {
                Some(libc::EAGAIN) => {
                    outcome.host_queue_full += this_and_later;
                    return outcome;
                }
                // The interface is down, or deleted.
                Some(libc::EIO | libc::ENETDOWN | libc::EBADFD) => {
                    outcome.host_refused += this_and_later;
                    return outcome;
                }
                _ => outcome.host_refused += 1,
            }
        }
        outcome
    }

    /// Writes one frame of at most [`MAX_FRAME_BYTES`] bytes from where it lies.
    fn write_frame(&self, frame: &Frame<'_>) -> io::Result<()> {
        let header = vnet_header::encode(frame.offload, frame.len());
        let mut pieces = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; MAX_PIECES];
        pieces[0] = piece(header.as_ptr(), header.len());
        pieces[1] = piece(frame.head.as_ptr(), frame.head.len());
        let mut count: u8 = 2;
        let mut tail = frame.tail;
        // The last place stays free for what is left of the tail.
        for place in &mut pieces[2..MAX_PIECES - 1] {
            let Some(segment) = tail.next_piece(usize::MAX) else { break };
            *place = piece(segment.as_ptr(), segment.len());
            count += 1;
        }
        let mut rest = None;
        if !tail.is_empty() {
            let gathered = rest.insert(self.rest.lock());
            tail.copy_to(gathered);
            pieces[usize::from(count)] = piece(gathered.as_ptr(), tail.len());
            count += 1;
        }
        // SAFETY: the first `count` pieces are readable: header and rest are ours, the head is borrowed by
        // `frame`, and the tail's segments stay readable until their burst is cleared (Segment invariant 1), which
        // `frame` borrows. The kernel only reads them, and takes bytes that change meanwhile as they come.
        let result = unsafe { libc::writev(self.fd.as_raw_fd(), pieces.as_ptr(), count.into()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// A piece of a frame to write.
fn piece(start: *const u8, len: usize) -> libc::iovec {
    libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len }
}
