//! Frames to receiveq: copies each frame into the buffers the guest has made available.
//!
//! Runs on any worker, under the ring's lock. A frame is placed whole or not at all: a frame that finds too few buffers
//! leaves the ring as it was. The guest sees a batch when the caller flushes it.

use vsteer_switch::counters::PortCounters;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::packet::{BURST, Frame};

use super::features::Negotiated;
use super::header;
use crate::memory::Span;
use crate::ring::{Access, AvailChain, RingFault, SplitRing};

/// Most pieces of guest memory that one frame may be spread over.
const MAX_PIECES: usize = 1024;

/// Where enqueue works: reused for every batch.
#[derive(Debug)]
pub(crate) struct Scratch {
    pieces: Vec<Span>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { pieces: Vec::with_capacity(MAX_PIECES) }
    }
}

/// Places as many of `frames` as fit and counts each at the port, sent or dropped.
///
/// The frames ask for no offload that the guest has not negotiated. Nothing is published yet.
#[inline]
pub(crate) fn enqueue<'f>(
    ring: &mut SplitRing,
    negotiated: Negotiated,
    mut frames: impl ExactSizeIterator<Item = Frame<'f>>,
    scratch: &mut Scratch,
    counters: &PortCounters,
) -> Result<(), RingFault> {
    let header_len = negotiated.header_len();
    let (mut pkts, mut bytes) = (0, 0);
    let mut result = ring.look_ahead(frames.len()).map(|_| ());
    while result.is_ok()
        && let Some(frame) = frames.next()
    {
        let total = header_len + frame.len();
        // 1. The common case: the next chain is one buffer, and the frame fits it.
        if let Some(AvailChain { head, single: Some(span), .. }) = ring.peek()
            && span.len() >= total
        {
            header::build(frame.offload, 1, negotiated).write_if_new(&span, header_len);
            let at = span.skip(header_len);
            at.write(frame.head);
            if !frame.tail.is_empty() {
                write_tail(at.skip(frame.head.len()), &frame);
            }
            ring.log_write(&span, total);
            #[allow(clippy::cast_possible_truncation, reason = "frames are shorter than 128 KiB")]
            ring.stage_used(head, total as u32);
            pkts += 1;
            bytes += frame.len() as u64;
            continue;
        }
        // 2. Any other shape: several buffers, chains, regions.
        match place(ring, negotiated, &frame, scratch) {
            Ok(Ok(())) => {
                pkts += 1;
                bytes += frame.len() as u64;
            }
            Ok(Err(reason)) => counters.dropped(reason, 1),
            Err(fault) => {
                counters.dropped(DropReason::RingBroken, 1);
                result = Err(fault);
            }
        }
    }
    counters.dropped(DropReason::RingBroken, frames.len() as u64);
    counters.tx_pkts.add(pkts);
    counters.tx_bytes.add(bytes);
    result
}

#[inline]
fn write_tail(mut at: Span, frame: &Frame<'_>) {
    let mut tail = frame.tail;
    while let Some(piece) = tail.next_piece(usize::MAX) {
        at.write_segment(piece);
        at = at.skip(piece.len());
    }
}

/// Places one frame in as many chains as it takes.
fn place(
    ring: &mut SplitRing,
    negotiated: Negotiated,
    frame: &Frame<'_>,
    scratch: &mut Scratch,
) -> Result<Result<(), DropReason>, RingFault> {
    let mut buffers = 0;
    let outcome = collect(ring, negotiated, frame, scratch, &mut buffers);
    if let Ok(Ok(())) = outcome {
        scatter(ring, negotiated, frame, buffers, &scratch.pieces);
    } else {
        ring.unstage(buffers);
    }
    outcome
}

/// Stages chains until they hold the frame, and remembers their pieces; `buffers` counts what was staged, also when the
/// frame cannot be placed.
fn collect(
    ring: &mut SplitRing,
    negotiated: Negotiated,
    frame: &Frame<'_>,
    scratch: &mut Scratch,
    buffers: &mut u16,
) -> Result<Result<(), DropReason>, RingFault> {
    let mut missing = negotiated.header_len() + frame.len();
    scratch.pieces.clear();
    // Bound: each round stages a chain, and a ring cannot give more than it holds.
    loop {
        if ring.peek().is_none() {
            ring.look_ahead(BURST)?;
        }
        let Some(chain) = ring.peek() else { return Ok(Err(DropReason::NoGuestBuffer)) };
        let before = missing;
        let pieces = &mut scratch.pieces;
        ring.walk(&chain).for_each(Access::Write, |span| {
            let piece = span.truncate(missing);
            missing -= piece.len();
            pieces.push(piece);
            missing > 0 && pieces.len() < MAX_PIECES
        })?;
        #[allow(clippy::cast_possible_truncation, reason = "frames are shorter than 128 KiB")]
        ring.stage_used(chain.head, (before - missing) as u32);
        *buffers += 1;
        if missing == 0 {
            return Ok(Ok(()));
        }
        if !negotiated.mergeable() || scratch.pieces.len() == MAX_PIECES {
            return Ok(Err(DropReason::GuestBufferTooSmall));
        }
    }
}

/// Copies header, head and tail over `pieces`, which together have exactly their length.
fn scatter(ring: &SplitRing, negotiated: Negotiated, frame: &Frame<'_>, buffers: u16, pieces: &[Span]) {
    for piece in pieces {
        ring.log_write(piece, piece.len());
    }
    let header = header::build(frame.offload, buffers, negotiated);
    let mut to = Cursor { pieces, at: 0 };
    to.write(&header.bytes()[..negotiated.header_len()]);
    to.write(frame.head);
    let mut tail = frame.tail;
    while let Some(room) = to.room() {
        let Some(piece) = tail.next_piece(room.len()) else { break };
        room.write_segment(piece);
        to.advance(piece.len());
    }
}

/// A position in a list of pieces.
struct Cursor<'a> {
    pieces: &'a [Span],
    at: usize,
}

impl Cursor<'_> {
    /// What is left of the piece at the position.
    fn room(&mut self) -> Option<Span> {
        while let Some(piece) = self.pieces.first() {
            if self.at < piece.len() {
                return Some(piece.skip(self.at));
            }
            self.pieces = &self.pieces[1..];
            self.at = 0;
        }
        None
    }

    fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }

    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(room) = self.room() else { return };
            let (now, later) = bytes.split_at(room.len().min(bytes.len()));
            room.write(now);
            self.advance(now.len());
            bytes = later;
        }
    }
}
