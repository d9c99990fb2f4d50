//! Transmitq to burst: takes what the guest has made available, checks it, and copies the heads.
//!
//! Runs on the worker that polls the queue, under the ring's lock. The tails stay in guest memory; the chains are staged as
//! used but not published, so the guest leaves the buffers alone until the burst has left the switch.

use vsteer_switch::counters::PortCounters;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::packet::{BURST, Burst, MAX_FRAME_BYTES, MIN_FRAME_BYTES, Offload, Segment};
use vsteer_switch::port::PortId;

use super::features::Negotiated;
use super::header::{self, HEADER_BYTES, NetHeader};
use crate::ring::{Access, AvailChain, RingFault, SplitRing};

/// Longest chain of pieces that one frame may have.
const MAX_SEGMENTS: usize = 1024;

/// Where dequeue works: reused for every burst.
#[derive(Debug)]
pub(crate) struct Scratch {
    pieces: Vec<Segment>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self { pieces: Vec::with_capacity(MAX_SEGMENTS + 1) }
    }
}

/// Fills `burst` from the ring and counts what it took at the port.
///
/// A fault ends the burst early: what came before it is in `burst` and staged, and the caller stops the ring after it has
/// served that.
#[inline]
pub(crate) fn dequeue(
    ring: &mut SplitRing,
    negotiated: Negotiated,
    in_port: PortId,
    burst: &mut Burst,
    scratch: &mut Scratch,
    counters: &PortCounters,
) -> Result<(), RingFault> {
    // 1. Chains: those that were looked at before, and what came since.
    let count = ring.look_ahead(burst.spare_packets())?;

    // 2. Copy heads, remember tails.
    let header_len = negotiated.header_len();
    let (mut pkts, mut bytes) = (0, 0);
    let mut result = Ok(());
    for _ in 0..count {
        let Some(chain) = ring.peek() else { break };
        if burst.spare_segments() < MAX_SEGMENTS {
            break;
        }
        let taken = match &chain.single {
            Some(span) if span.len() >= header_len => {
                let frame = span.skip(header_len);
                let header = NetHeader::read(span, header_len);
                check(header, frame.len(), 1, negotiated).map(|offload| {
                    // A call of its own: it is inlined, and here it knows that there is one piece.
                    burst.push(in_port, offload, &[frame.segment()]);
                    frame.len()
                })
            }
            _ => {
                let pieces = &mut scratch.pieces;
                match gather(ring, &chain, header_len, pieces) {
                    Ok((header, frame_len)) => {
                        check(header, frame_len, pieces.len(), negotiated).map(|offload| {
                            burst.push(in_port, offload, pieces);
                            frame_len
                        })
                    }
                    Err(fault) => {
                        result = Err(fault);
                        break;
                    }
                }
            }
        };
        match taken {
            Ok(frame_len) => {
                pkts += 1;
                bytes += frame_len as u64;
            }
            Err(reason) => counters.dropped(reason, 1),
        }
        ring.stage_used(chain.head, 0);
    }
    if pkts > 0 {
        counters.rx_pkts.add(pkts);
        counters.rx_bytes.add(bytes);
    }
    result
}

/// Takes everything available and counts it as dropped: the queue is disabled.
pub(crate) fn discard(ring: &mut SplitRing, counters: &PortCounters) -> Result<(), RingFault> {
    // Bound: one look at the available index, which is at most the ring's size ahead.
    for _ in 0..usize::from(ring.size()).div_ceil(BURST) {
        let count = ring.look_ahead(BURST)?;
        while let Some(chain) = ring.peek() {
            ring.stage_used(chain.head, 0);
        }
        counters.dropped(DropReason::QueueDisabled, count as u64);
        if count < BURST {
            break;
        }
    }
    Ok(())
}

fn check(
    header: NetHeader,
    frame_len: usize,
    pieces: usize,
    negotiated: Negotiated,
) -> Result<Offload, DropReason> {
    if frame_len < MIN_FRAME_BYTES {
        return Err(DropReason::FrameTooShort);
    }
    if frame_len > MAX_FRAME_BYTES || pieces > MAX_SEGMENTS {
        return Err(DropReason::TooLong);
    }
    header::parse(header, frame_len, negotiated).map_err(|_| DropReason::BadOffload)
}

/// Walks a chain of any shape: takes a header of `header_len` bytes off its front and fills `pieces` with the rest, up to one
/// more than [`MAX_SEGMENTS`]; returns the header and the length of the frame.
fn gather(
    ring: &SplitRing,
    chain: &AvailChain,
    header_len: usize,
    pieces: &mut Vec<Segment>,
) -> Result<(NetHeader, usize), RingFault> {
    let mut bytes = [0; HEADER_BYTES];
    let header = &mut bytes[..header_len];
    let (mut filled, mut frame_len) = (0, 0);
    pieces.clear();
    ring.walk(chain).for_each(Access::Read, |span| {
        let take = span.len().min(header.len() - filled);
        span.truncate(take).read(&mut header[filled..filled + take]);
        filled += take;
        let rest = span.skip(take);
        if rest.len() > 0 {
            frame_len += rest.len();
            pieces.push(rest.segment());
        }
        pieces.len() <= MAX_SEGMENTS && frame_len <= MAX_FRAME_BYTES
    })?;
    if filled < header.len() {
        #[allow(clippy::cast_possible_truncation, reason = "both are at most HEADER_BYTES")]
        return Err(RingFault::HeaderMissing { len: filled as u32, header: header.len() as u16 });
    }
    Ok((NetHeader::of_bytes(&bytes), frame_len))
}
