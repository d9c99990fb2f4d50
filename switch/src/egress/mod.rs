//! Work that a frame still needs when its egress port lacks the offload for it.
//!
//! Checksum and segmentation state travels with a packet as metadata, so that between two guests neither is ever done.
//! An egress port passes each frame through `Finisher::finish` before it copies: most frames come out as they went in,
//! after a few compares; the others come out as one or more finished frames, which the port transmits one by one.
//!
//! The frame may be on its way to several ports, so its head is never written: new headers go to the finisher's scratch
//! buffer. Payload is read once to be summed and then copied by the port from where it lies. Its owner may change it
//! between the two; the receiver then sees a wrong checksum on the data of a sender who asked for it.
//!
//! Offload state comes from a guest and is checked here before anything acts on it. Left out on purpose: segmentation
//! inside tunnels, and fragmentation.

use crate::drop_reason::DropReason;
use crate::packet::{Checksum, Frame, GsoKind, HEAD_MAX, Offload, Tail};
use crate::wire::ethernet;
use crate::wire::{ipv4, tcp, udp};

/// The internet checksum.
pub mod checksum;

/// Choice of a receive queue by flow.
pub mod rss;

mod segment;

#[cfg(test)]
mod tests;

pub use segment::MAX_SEGMENTS;

use checksum::Sum;

/// Bytes of a tail that are copied out at a time to be summed: even, and small enough to stay in the first-level cache.
const BOUNCE_BYTES: usize = 2048;
/// Headers of the smallest TCP frame.
const TCP_HEADERS_MIN: usize = ethernet::HEADER_LEN + size_of::<ipv4::Header>() + size_of::<tcp::Header>();
/// Headers of the smallest UDP frame.
const UDP_HEADERS_MIN: usize = ethernet::HEADER_LEN + size_of::<ipv4::Header>() + size_of::<udp::Header>();

/// The offloads that an egress port takes, as negotiated with what is behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OffloadCaps {
    /// Frames whose transport checksum is partial.
    pub checksum: bool,
    /// TCP over IPv4 to be segmented; worth nothing without `checksum`.
    pub tso4: bool,
    /// TCP over IPv6 to be segmented; worth nothing without `checksum`.
    pub tso6: bool,
    /// UDP over IPv4 and IPv6 to be segmented; worth nothing without `checksum`.
    pub uso: bool,
    /// TCP frames to be segmented may carry congestion-window-reduced marks.
    pub ecn: bool,
}

impl OffloadCaps {
    /// Every offload.
    pub const ALL: Self = Self { checksum: true, tso4: true, tso6: true, uso: true, ecn: true };
    /// No offload.
    pub const NONE: Self = Self { checksum: false, tso4: false, tso6: false, uso: false, ecn: false };

    /// Whether a port with these offloads and no frame longer than `max_frame_bytes` takes `frame` as it is.
    #[inline]
    pub fn takes(self, frame: &Frame<'_>, max_frame_bytes: usize) -> bool {
        self.missing(frame.offload) == Missing::Nothing && check(frame, max_frame_bytes).is_ok()
    }

    /// What is left for software to do on a frame with this offload state.
    #[inline]
    fn missing(self, offload: &Offload) -> Missing {
        let segments = match offload.gso {
            GsoKind::None => {
                let partial = matches!(offload.checksum, Checksum::Partial { .. });
                return if partial && !self.checksum { Missing::Checksum } else { Missing::Nothing };
            }
            GsoKind::TcpV4 => self.tso4 && (self.ecn || !offload.gso_ecn),
            GsoKind::TcpV6 => self.tso6 && (self.ecn || !offload.gso_ecn),
            GsoKind::Udp => self.uso,
        };
        if segments && self.checksum { Missing::Nothing } else { Missing::Segmentation }
    }
}

/// What an egress port leaves to software.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Nothing,
    Checksum,
    Segmentation,
}

/// Finishes frames in software; a worker owns one and uses it for every egress port.
///
/// # Concurrency
/// Owned by one worker. What is in the buffers means nothing between two calls.
pub struct Finisher {
    /// Headers, and the payload that shares the head with them, of the frame being finished: [`HEAD_MAX`] bytes.
    head: Box<[u8]>,
    /// The head of a frame whose headers do not end within its own, as long.
    longer_head: Box<[u8]>,
    /// Where tail bytes are copied to be summed: they may change under us, so no reference to them is ever made.
    bounce: [u8; BOUNCE_BYTES],
}

impl std::fmt::Debug for Finisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finisher").finish_non_exhaustive()
    }
}

impl Default for Finisher {
    fn default() -> Self {
        Self::new()
    }
}

impl Finisher {
    /// A finisher, meant to live as long as its worker; of its 130 KiB only as much is touched as heads are long.
    pub fn new() -> Self {
        let buffer = || vec![0; HEAD_MAX].into();
        Self { head: buffer(), longer_head: buffer(), bounce: [0; BOUNCE_BYTES] }
    }

    /// Hands `frame` to `emit` in a form that a port with `caps` takes, as one frame or several.
    ///
    /// No frame is longer than `max_frame_bytes`, where a frame that the port itself segments counts by the length of its
    /// segments, taken with the shortest headers. An error from `emit` ends the work and is returned; what was emitted
    /// before it stays sent.
    ///
    /// # Errors
    /// `BadOffload` if the offload state does not fit the frame, or asks for more than [`MAX_SEGMENTS`]; `TooLong`; or what
    /// `emit` returned.
    #[inline]
    pub fn finish(
        &mut self,
        frame: &Frame<'_>,
        caps: OffloadCaps,
        max_frame_bytes: usize,
        mut emit: impl FnMut(&Frame<'_>) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        match caps.missing(frame.offload) {
            Missing::Nothing => {
                check(frame, max_frame_bytes)?;
                emit(frame)
            }
            Missing::Checksum => {
                check(frame, max_frame_bytes)?;
                let offload = Offload { checksum: Checksum::Unknown, ..*frame.offload };
                let (head, tail) = self.complete_checksum(frame)?;
                emit(&Frame { head, tail, offload: &offload })
            }
            Missing::Segmentation => self.segment(frame, caps, max_frame_bytes, &mut emit),
        }
    }

    /// A scratch copy of the frame's head, or of more if the checksum stands behind it, with its partial checksum completed;
    /// and the tail that follows.
    fn complete_checksum<'a>(&'a mut self, frame: &Frame<'a>) -> Result<(&'a [u8], Tail<'a>), DropReason> {
        let Checksum::Partial { start, offset } = frame.offload.checksum else {
            return Err(DropReason::BadOffload);
        };
        let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
        let mut tail = frame.tail;
        let head = copy_head(frame.head, &mut tail, field + 2, &mut self.head)?;
        // `check` has found that the frame is long enough for the field.
        if head.len() < field + 2 {
            return Err(DropReason::BadOffload);
        }
        // `start <= field`, which lies in the head.
        let mut sum = Sum::new();
        sum.add(&head[start..]);
        sum.add_tail(tail, &mut self.bounce);
        head[field..field + 2].copy_from_slice(&never_zero(sum.checksum()).to_be_bytes());
        Ok((head, tail))
    }
}

/// A computed zero as its equal 0xffff, as zero says "no checksum" in UDP (RFC 768).
fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Copies `head` and as much of the front of `tail`, which it takes off, as it lacks in `len` bytes; returns the copy in `to`.
///
/// # Errors
/// `TooLong` if `to` is too short, which no frame of a burst is.
fn copy_head<'a>(
    head: &[u8],
    tail: &mut Tail<'_>,
    len: usize,
    to: &'a mut [u8],
) -> Result<&'a mut [u8], DropReason> {
    let more = tail.split_to(len.saturating_sub(head.len()));
    let copy = to.get_mut(..head.len() + more.len()).ok_or(DropReason::TooLong)?;
    let (front, back) = copy.split_at_mut(head.len());
    front.copy_from_slice(head);
    more.copy_to(back);
    Ok(copy)
}

/// Checks what the port behind would otherwise be told unchecked: the length and the positions of the checksum.
#[inline]
fn check(frame: &Frame<'_>, max_frame_bytes: usize) -> Result<(), DropReason> {
    let of_segments = |headers_len| match frame.offload.gso_size {
        0 => Err(DropReason::BadOffload),
        gso_size => Ok(frame.len().min(headers_len + usize::from(gso_size))),
    };
    let len = match frame.offload.gso {
        GsoKind::None => frame.len(),
        GsoKind::TcpV4 | GsoKind::TcpV6 => of_segments(TCP_HEADERS_MIN)?,
        GsoKind::Udp => of_segments(UDP_HEADERS_MIN)?,
    };
    if len > max_frame_bytes {
        return Err(DropReason::TooLong);
    }
    match frame.offload.checksum {
        Checksum::Partial { start, offset } if usize::from(start) + usize::from(offset) + 2 > frame.len() => {
            Err(DropReason::BadOffload)
        }
        Checksum::Unknown | Checksum::Verified | Checksum::Partial { .. } => Ok(()),
    }
}

impl Sum {
    /// Adds the bytes of a tail by way of `bounce`.
    fn add_tail(&mut self, mut tail: Tail<'_>, bounce: &mut [u8; BOUNCE_BYTES]) {
        while !tail.is_empty() {
            let piece = tail.split_to(BOUNCE_BYTES);
            let copy = &mut bounce[..piece.len()];
            piece.copy_to(copy);
            self.add(copy);
        }
    }
}
