//! A packet on its way through the switch: a private head, a borrowed tail, and the offload state that travels along.
//!
//! The **head** is a private copy of the frame's first bytes. All parsing, matching and rewriting happens on it, so a
//! guest that changes its memory under us changes nothing that was decided. The **tail** is the rest, left where it lies
//! (guest memory, a NIC buffer) and copied exactly once, into the egress port's buffer.
//!
//! A worker owns one `Burst` and reuses it for ever: nothing here allocates once it is made. An ingress port fills it,
//! the pipeline reads heads, egress ports read `Frame`s. The source buffers go back to their owner only after every
//! egress port has copied, which is what makes the tail's pointers valid.

#![allow(
    unsafe_code,
    reason = "the tail is read through raw pointers, as its owner may write to it meanwhile"
)]

use std::fmt;

use crate::port::PortId;
use crate::wire::vlan::TAG_LEN;
use crate::wire::{Extent, ethernet, ipv6, udp};

/// Largest number of packets in a burst.
pub const BURST: usize = 32;

/// Free bytes before a fresh head, for what actions put in front. A tunnel's outer headers are the most: VXLAN over IPv6
/// with two outer tags takes 14 + 8 + 40 + 8 + 8 = 78 bytes, and the same with Geneve leaves 50 for its options. A tag
/// that is pushed inside takes 4 of them.
pub const HEADROOM: usize = 128;

const _: () = assert!(
    ethernet::HEADER_LEN + 2 * TAG_LEN + ipv6::HEADER_LEN + size_of::<udp::Header>() + 8 == 78
        && HEADROOM >= 78,
    "VXLAN over IPv6 with two tags"
);

#[allow(clippy::cast_possible_truncation, reason = "a small constant")]
const HEADROOM_U16: u16 = HEADROOM as u16;

/// Bytes of a frame that are copied into its head, if the frame has as many. They hold the headers of nearly every packet:
/// Ethernet, two tags, IPv6 with extension headers, TCP with all its options. A head whose headers are longer is
/// [extended](Burst::extend_head).
pub const HEAD_CAPACITY: usize = 192;

/// Bytes of a head after its first extension; the second one takes the whole frame.
const EXTENDED_BYTES: usize = 2048;

/// Bit of a packet's `start`: the head is extended. No ordinary head starts so far on, so that `head` need not ask.
const EXTENDED: u16 = 0x8000;

/// Longest head, free bytes before it included.
pub const HEAD_MAX: usize = HEADROOM + MAX_FRAME_BYTES;

/// Shortest frame that is switched: an Ethernet header.
pub const MIN_FRAME_BYTES: usize = ethernet::HEADER_LEN;

/// Longest frame that any port can hand in: a 64 KiB GSO frame with its link-layer header and tags.
pub const MAX_FRAME_BYTES: usize = 65_535 + ethernet::HEADER_LEN + 2 * TAG_LEN;

/// How the transport checksum of a frame stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// As it stands in the frame; nobody vouched for it.
    #[default]
    Unknown,
    /// A trusted port verified it.
    Verified,
    /// Only the pseudo-header is summed: the sum from byte `start` to the end goes to `start + offset`.
    Partial {
        /// Where summing starts, in bytes from the start of the frame.
        start: u16,
        /// Where the sum goes, in bytes from `start`.
        offset: u16,
    },
}

/// Which segmentation a frame still needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GsoKind {
    /// None: the frame is as long as it looks.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP, into datagrams of their own; over IPv4 or IPv6, which the virtio-net header leaves to the frame to say.
    Udp,
}

impl GsoKind {
    /// Whether the frame is to be cut into TCP segments.
    #[inline]
    pub fn is_tcp(self) -> bool {
        match self {
            GsoKind::TcpV4 | GsoKind::TcpV6 => true,
            GsoKind::None | GsoKind::Udp => false,
        }
    }
}

/// Work on a frame that was put off to the egress port.
///
/// # Source
/// virtio 1.3 §5.1.6 (`virtio_net_hdr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// The transport checksum.
    pub checksum: Checksum,
    /// The segmentation.
    pub gso: GsoKind,
    /// The TCP stream carries congestion-window-reduced marks, which need ECN-aware segmentation.
    pub gso_ecn: bool,
    /// Payload bytes of each segment, when `gso` is not `None`.
    pub gso_size: u16,
    /// Bytes of headers to repeat in each segment, as the sender said; a hint only.
    pub header_len: u16,
}

impl Offload {
    /// Nothing is put off.
    pub const NONE: Self =
        Self { checksum: Checksum::Unknown, gso: GsoKind::None, gso_ecn: false, gso_size: 0, header_len: 0 };

    /// Where in the frame the egress port writes the transport checksum, if that is put off.
    #[inline]
    pub fn checksum_position(&self) -> Option<usize> {
        match self.checksum {
            Checksum::Partial { start, offset } => Some(usize::from(start) + usize::from(offset)),
            Checksum::Unknown | Checksum::Verified => None,
        }
    }

    /// Moves the positions in the frame by `delta` bytes, after a tag was pushed (positive) or popped.
    pub fn shift(&mut self, delta: i16) {
        if let Checksum::Partial { start, .. } = &mut self.checksum {
            *start = start.saturating_add_signed(delta);
        }
        if self.gso != GsoKind::None {
            self.header_len = self.header_len.saturating_add_signed(delta);
        }
    }
}

/// A piece of a packet's tail, where it lies.
///
/// # Invariants
/// 1. `ptr..ptr + len` is mapped and readable until the burst that holds the segment is cleared.
///
/// The bytes may change at any time: they are only ever copied out, never borrowed.
#[derive(Clone, Copy)]
pub struct Segment {
    ptr: *const u8,
    len: u32,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:p}+{}", self.ptr, self.len)
    }
}

impl Segment {
    /// A segment of `len` bytes at `ptr`.
    ///
    /// # Safety
    /// 1. `ptr..ptr + len` stays mapped and readable until the burst that takes the segment is cleared.
    pub unsafe fn new(ptr: *const u8, len: u32) -> Self {
        Self { ptr, len }
    }

    /// Where the segment lies.
    pub fn as_ptr(&self) -> *const u8 {
        self.ptr
    }

    /// Bytes in the segment.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the segment has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Which bytes of a burst's segments are the tail of one packet.
#[derive(Debug, Clone, Copy, Default)]
struct TailRange {
    /// Index of the first segment in the burst.
    first: u32,
    /// Bytes of the first segment that are not part of the tail (they are in the head).
    skip: u32,
    /// Bytes in the tail.
    len: u32,
}

/// The tail of one packet: `len` bytes spread over segments.
#[derive(Debug, Clone, Copy)]
pub struct Tail<'a> {
    segments: &'a [Segment],
    skip: usize,
    len: usize,
}

impl<'a> Tail<'a> {
    /// A tail without bytes.
    pub const EMPTY: Tail<'static> = Tail { segments: &[], skip: 0, len: 0 };

    /// Bytes in the tail.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the tail has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part of the tail that starts `offset` bytes in and is at most `len` bytes long.
    #[must_use]
    pub fn slice(&self, offset: usize, len: usize) -> Tail<'a> {
        let mut rest = Tail { segments: self.segments, skip: self.skip, len: self.len };
        rest.advance(offset.min(self.len));
        rest.len = rest.len.min(len);
        rest
    }

    /// Takes the first `len` bytes, or as many as there are, off the front and returns them as a tail of their own.
    #[must_use]
    pub fn split_to(&mut self, len: usize) -> Tail<'a> {
        let front = self.slice(0, len);
        self.advance(front.len);
        front
    }

    /// Takes the next piece that lies in one place, at most `max` bytes, off the front.
    pub fn next_piece(&mut self, max: usize) -> Option<Segment> {
        while self.len > 0 {
            let segment = self.segments.first()?;
            let here = segment.len() - self.skip;
            if here == 0 {
                self.segments = &self.segments[1..];
                self.skip = 0;
                continue;
            }
            let take = here.min(self.len).min(max);
            if take == 0 {
                return None;
            }
            // SAFETY: `skip + take <= segment.len`, so the pointer stays inside the segment (Segment invariant 1).
            let ptr = unsafe { segment.ptr.add(self.skip) };
            self.skip += take;
            self.len -= take;
            // A piece of a segment is no longer than the segment, whose length is a u32.
            #[allow(clippy::cast_possible_truncation, reason = "take <= segment.len, a u32")]
            return Some(Segment { ptr, len: take as u32 });
        }
        None
    }

    fn advance(&mut self, mut bytes: usize) {
        while bytes > 0 {
            match self.next_piece(bytes) {
                Some(piece) => bytes -= piece.len(),
                None => return,
            }
        }
    }

    /// Copies the whole tail to `to`.
    ///
    /// # Panics
    /// If `to` is shorter than the tail.
    pub fn copy_to(&self, to: &mut [u8]) {
        assert!(to.len() >= self.len);
        let mut rest = Tail { segments: self.segments, skip: self.skip, len: self.len };
        let mut at = 0;
        while let Some(piece) = rest.next_piece(usize::MAX) {
            // SAFETY: the source is readable (Segment invariant 1); the pieces add up to at most `self.len`, which `to`
            // holds; `to` is an exclusive borrow of our own memory, so the two do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(piece.ptr, to[at..].as_mut_ptr(), piece.len()) };
            at += piece.len();
        }
    }
}

/// What an egress port is given: a frame in pieces, and the work still to do on it.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The first bytes, private.
    pub head: &'a [u8],
    /// The rest, where it lies.
    pub tail: Tail<'a>,
    /// Work put off to the egress port.
    pub offload: &'a Offload,
}

impl Frame<'_> {
    /// Bytes in the frame.
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Whether the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much of it there is, for those who look for headers.
    pub fn extent(&self) -> Extent {
        Extent { len: self.len(), is_tcp_gso: self.offload.gso.is_tcp() }
    }
}

/// One packet of a burst.
///
/// Layout: a cache line of what is known about it, then the buffer of its head, so that a fresh head starts with a cache
/// line and the frames that are most sensitive to cost, of 64 bytes, lie in one.
///
/// # Invariants
/// 1. `start + head_len <= HEADROOM + HEAD_CAPACITY`; or `start` has the bit `EXTENDED`, and what its other bits say and `head_len` are
///    together at most `extended.len()`.
#[repr(C, align(64))]
pub struct Packet {
    /// The port it came in by.
    pub in_port: PortId,
    start: u16,
    head_len: u32,
    /// Work put off to the egress port.
    pub offload: Offload,
    tail: TailRange,
    /// Where the head lies once it is extended: [`HEAD_MAX`] bytes, or none if they were never needed.
    extended: Box<[u8]>,
    buf: Buffer,
}

/// The headroom and the head.
#[repr(align(64))]
struct Buffer([u8; HEADROOM + HEAD_CAPACITY]);

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet")
            .field("in_port", &self.in_port)
            .field("head", &self.head())
            .field("tail_len", &self.tail.len)
            .field("offload", &self.offload)
            .finish()
    }
}

const _: () = assert!(
    (std::mem::offset_of!(Packet, buf) + HEADROOM).is_multiple_of(64)
        && std::mem::offset_of!(Packet, buf) == 64,
    "the layout that Packet promises"
);

impl Packet {
    fn new() -> Self {
        Self {
            in_port: PortId::ZERO,
            start: HEADROOM_U16,
            head_len: 0,
            offload: Offload::NONE,
            tail: TailRange { first: 0, skip: 0, len: 0 },
            extended: Box::default(),
            buf: Buffer([0; HEADROOM + HEAD_CAPACITY]),
        }
    }

    /// A packet of `len` bytes for those who only look at headers: `bytes`, which are its first ones, are its head, and the
    /// rest is nowhere to be found.
    ///
    /// # Panics
    /// If there are more than [`MAX_FRAME_BYTES`], or less than `bytes`.
    pub fn of_bytes(in_port: PortId, bytes: &[u8], len: usize) -> Self {
        assert!(bytes.len() <= len && len <= MAX_FRAME_BYTES);
        let mut packet = Self { in_port, ..Self::new() };
        #[allow(clippy::cast_possible_truncation, reason = "at most MAX_FRAME_BYTES")]
        {
            packet.head_len = bytes.len() as u32;
            packet.tail.len = (len - bytes.len()) as u32;
        }
        if bytes.len() > HEAD_CAPACITY {
            packet.extended = vec![0; HEADROOM + bytes.len()].into();
            packet.start |= EXTENDED;
        }
        packet.head_mut().copy_from_slice(bytes);
        packet
    }

    /// Copies `from` to a fresh head, behind the `at` bytes that are there; returns the length of `from`.
    ///
    /// # Panics
    /// If it does not fit.
    #[inline]
    fn copy_in(&mut self, at: u32, from: Segment) -> u32 {
        let to = &mut self.buf.0[HEADROOM + at as usize..][..from.len()];
        // SAFETY: the segment is readable (Segment invariant 1), and `to` is as long; `to` is our own memory, borrowed
        // exclusively, and no segment lies in it. Bytes need no alignment.
        unsafe { std::ptr::copy_nonoverlapping(from.ptr, to.as_mut_ptr(), from.len()) };
        from.len
    }

    /// The head.
    #[inline]
    pub fn head(&self) -> &[u8] {
        match self.ordinary_head() {
            Some(head) => head,
            None => extended_head(&self.extended, self.start.into(), self.head_len as usize),
        }
    }

    /// The head, unless it is extended.
    #[inline]
    pub(crate) fn ordinary_head(&self) -> Option<&[u8]> {
        self.buf.0.get(usize::from(self.start)..)?.get(..self.head_len as usize)
    }

    /// The head, to rewrite it.
    #[inline]
    pub fn head_mut(&mut self) -> &mut [u8] {
        let (start, len) = (usize::from(self.start), self.head_len as usize);
        match self.buf.0.get_mut(start..).and_then(|bytes| bytes.get_mut(..len)) {
            Some(head) => head,
            None => extended_head_mut(&mut self.extended, start, len),
        }
    }

    /// Bytes in the packet, head and tail.
    #[inline]
    pub fn len(&self) -> usize {
        self.head_len as usize + self.tail.len as usize
    }

    /// Whether the packet has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much of it there is, for those who look for headers.
    #[inline]
    pub fn extent(&self) -> Extent {
        Extent { len: self.len(), is_tcp_gso: self.offload.gso.is_tcp() }
    }

    /// Whether all of the packet lies in its head.
    #[inline]
    pub fn is_all_head(&self) -> bool {
        self.tail.len == 0
    }

    /// Grows the head by `N` bytes at the front and returns them, or `None` without as much headroom.
    pub fn push_front<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        let start = (self.start & !EXTENDED).checked_sub(u16::try_from(N).ok()?)?;
        self.start = start | self.start & EXTENDED;
        self.head_len += u32::try_from(N).ok()?;
        self.head_mut().first_chunk_mut()
    }

    /// Takes `bytes` bytes off the front of the head; false, and nothing done, if the head is shorter.
    pub fn pull_front(&mut self, bytes: u8) -> bool {
        let fits = u32::from(bytes) <= self.head_len;
        if fits {
            self.start += u16::from(bytes);
            self.head_len -= u32::from(bytes);
        }
        fits
    }

    fn reserve_long_head(&mut self) {
        if self.extended.is_empty() {
            self.extended = vec![0; HEAD_MAX].into();
        }
    }

    /// Becomes another packet, whose tail is `tail` of this one's burst.
    fn copy_from(&mut self, other: &Packet, tail: TailRange) {
        (self.in_port, self.start, self.head_len) = (other.in_port, other.start, other.head_len);
        (self.offload, self.tail) = (other.offload, tail);
        if other.start & EXTENDED != 0 {
            self.reserve_long_head();
        }
        self.head_mut().copy_from_slice(other.head());
    }

    /// Moves the next bytes of `tail`, which is this packet's, to the end of its head, so that the head has `len` bytes or is
    /// the whole packet.
    fn extend_head(&mut self, tail: &mut Tail<'_>, len: usize) {
        let (at, head_len) = (usize::from(self.start & !EXTENDED), self.head_len as usize);
        if self.start & EXTENDED == 0 {
            self.reserve_long_head();
            self.extended[at..][..head_len].copy_from_slice(&self.buf.0[at..][..head_len]);
            self.start |= EXTENDED;
        }
        let room = &mut self.extended[at + head_len..];
        let more = tail.split_to(len.saturating_sub(head_len).min(room.len()));
        more.copy_to(&mut room[..more.len()]);
        #[allow(clippy::cast_possible_truncation, reason = "at most HEAD_MAX")]
        {
            self.head_len += more.len() as u32;
        }
    }
}

/// The head of a packet with this `start` and length, which is extended.
#[cold]
fn extended_head(extended: &[u8], start: usize, len: usize) -> &[u8] {
    &extended[start & !usize::from(EXTENDED)..][..len]
}

#[cold]
fn extended_head_mut(extended: &mut [u8], start: usize, len: usize) -> &mut [u8] {
    &mut extended[start & !usize::from(EXTENDED)..][..len]
}

/// Up to [`BURST`] packets and the segments of their tails.
///
/// # Concurrency
/// Owned by one worker. The raw pointers in it are only valid between the fill and the clear, during which the worker
/// holds the source ring, so a burst is never sent while it is filled.
#[derive(Debug)]
pub struct Burst {
    packets: Box<[Packet]>,
    count: usize,
    /// Packets that it may hold at present, at most [`BURST`].
    limit: usize,
    segments: Vec<Segment>,
}

// SAFETY: the pointers are only dereferenced through frames of packets in the burst; the owner clears the burst before it
// lets go of the memory they point to, on whichever thread it runs (Segment invariant 1).
unsafe impl Send for Burst {}

impl Default for Burst {
    fn default() -> Self {
        Self::new()
    }
}

impl Burst {
    /// Segments that a burst holds: enough for 32 GSO frames of ordinary size, or several of the longest chains.
    pub const SEGMENTS: usize = 4096;

    /// An empty burst.
    pub fn new() -> Self {
        Self {
            packets: (0..BURST).map(|_| Packet::new()).collect(),
            count: 0,
            limit: BURST,
            segments: Vec::with_capacity(Self::SEGMENTS),
        }
    }

    /// Allocates what long heads need, which otherwise happens when the first one comes. It is 2 MiB of zeros, which the
    /// system gives us page by page as they are first written to.
    pub fn reserve_long_heads(&mut self) {
        self.packets.iter_mut().for_each(Packet::reserve_long_head);
    }

    /// Forgets the packets and their segments.
    pub fn clear(&mut self) {
        self.count = 0;
        self.segments.clear();
    }

    /// Packets in the burst.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no packet in the burst.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Lets it hold no more than `limit` packets from now on, [`BURST`] at most.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(BURST);
    }

    /// Packets that still fit.
    pub fn spare_packets(&self) -> usize {
        self.limit.saturating_sub(self.count)
    }

    /// Segments that still fit.
    pub fn spare_segments(&self) -> usize {
        Self::SEGMENTS - self.segments.len()
    }

    /// The packets.
    #[inline]
    pub fn packets(&self) -> &[Packet] {
        &self.packets[..self.count]
    }

    /// The packets, to rewrite them.
    #[inline]
    pub fn packets_mut(&mut self) -> &mut [Packet] {
        &mut self.packets[..self.count]
    }

    /// The packet at `index` as an egress port takes it.
    // Inlined, or the frame would be passed through memory: see `push`.
    #[inline(always)]
    pub fn frame(&self, index: usize) -> Frame<'_> {
        let packet = &self.packets()[index];
        let TailRange { first, skip, len } = packet.tail;
        let tail = if len == 0 {
            Tail::EMPTY
        } else {
            Tail { segments: &self.segments[first as usize..], skip: skip as usize, len: len as usize }
        };
        Frame { head: packet.head(), tail, offload: &packet.offload }
    }

    /// The segments that the tail of the packet at `index` lies in.
    fn tail_segments(&self, index: usize) -> &[Segment] {
        let TailRange { first, skip, len } = self.packets()[index].tail;
        let segments = &self.segments[first as usize..];
        let mut left = if len == 0 { 0 } else { skip as usize + len as usize };
        let count = segments.iter().take_while(|segment| {
            let is_in = left > 0;
            left = left.saturating_sub(segment.len());
            is_in
        });
        &segments[..count.count()]
    }

    /// Whether a copy of the packet at `index` of another burst fits.
    pub(crate) fn has_room_for_copy(&self, from: &Burst, index: usize) -> bool {
        self.spare_packets() > 0 && from.tail_segments(index).len() <= self.spare_segments()
    }

    /// Appends a copy of the packet at `index` of another burst: its head is copied, its tail is not.
    ///
    /// # Panics
    /// If it does not fit.
    ///
    /// # Safety
    /// 1. This burst is cleared before the one is that a port filled, which the packet or what it is a copy of lies in.
    pub(crate) unsafe fn push_copy(&mut self, from: &Burst, index: usize) {
        assert!(self.has_room_for_copy(from, index));
        let original = &from.packets()[index];
        #[allow(clippy::cast_possible_truncation, reason = "bounded by SEGMENTS")]
        let tail = TailRange { first: self.segments.len() as u32, ..original.tail };
        // Segment invariant 1 holds here, too, as the memory stays until the port's burst is cleared (condition 1).
        self.segments.extend_from_slice(from.tail_segments(index));
        self.packets[self.count].copy_from(original, tail);
        self.count += 1;
    }

    /// Moves more of the tail of the packet at `index` to its head: 2 KiB at first, then all of it. False if there is no more.
    ///
    /// Dear, and done for few packets: those whose headers do not end within the first [`HEAD_CAPACITY`] bytes.
    #[cold]
    pub fn extend_head(&mut self, index: usize) -> bool {
        let packet = &mut self.packets[..self.count][index];
        let TailRange { first, skip, len } = packet.tail;
        if len == 0 {
            return false;
        }
        let mut tail =
            Tail { segments: &self.segments[first as usize..], skip: skip as usize, len: len as usize };
        let wanted = if packet.start & EXTENDED == 0 { EXTENDED_BYTES } else { usize::MAX };
        packet.extend_head(&mut tail, wanted);
        #[allow(clippy::cast_possible_truncation, reason = "no more than there was before")]
        {
            packet.tail = TailRange {
                first: (self.segments.len() - tail.segments.len()) as u32,
                skip: tail.skip as u32,
                len: tail.len as u32,
            };
        }
        packet.tail.len < len
    }

    /// Appends a packet made of `segments`: copies its head and keeps the rest as its tail.
    ///
    /// The caller has checked that the burst has room for a packet and for the segments, and that the frame is no longer
    /// than [`MAX_FRAME_BYTES`].
    ///
    /// # Panics
    /// If the burst has no room.
    // Inlined, or `offload` would be passed through memory: written field by field, and read back as a whole at once.
    #[inline(always)]
    pub fn push(&mut self, in_port: PortId, offload: Offload, segments: &[Segment]) {
        assert!(self.count < BURST && segments.len() <= self.spare_segments());
        let packet = &mut self.packets[self.count];
        packet.in_port = in_port;
        packet.offload = offload;
        match segments {
            // The common case: one piece that is all head.
            [whole] if whole.len() <= HEAD_CAPACITY => {
                packet.start = HEADROOM_U16;
                packet.tail = TailRange::default();
                packet.head_len = packet.copy_in(0, *whole);
            }
            _ => Self::split(packet, segments, &mut self.segments),
        }
        self.count += 1;
    }

    /// Copies as much of `from` as the head takes, and keeps the rest in `segments`.
    fn split(packet: &mut Packet, from: &[Segment], segments: &mut Vec<Segment>) {
        packet.start = HEADROOM_U16;
        packet.head_len = 0;
        let (mut rest, mut skip) = (from, 0);
        while let Some(segment) = rest.first() {
            let take = segment.len().min(HEAD_CAPACITY - packet.head_len as usize);
            #[allow(clippy::cast_possible_truncation, reason = "at most HEAD_CAPACITY")]
            let piece = Segment { ptr: segment.ptr, len: take as u32 };
            packet.head_len += packet.copy_in(packet.head_len, piece);
            if take < segment.len() {
                skip = take;
                break;
            }
            rest = &rest[1..];
        }
        let len: usize = rest.iter().map(Segment::len).sum::<usize>() - skip;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "bounded by HEAD_CAPACITY, SEGMENTS and MAX_FRAME_BYTES"
        )]
        {
            packet.tail = TailRange { first: segments.len() as u32, skip: skip as u32, len: len as u32 };
        }
        segments.extend_from_slice(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::golden::load;

    fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
        let mut bytes = frame.head.to_vec();
        bytes.resize(frame.len(), 0xa5);
        frame.tail.copy_to(&mut bytes[frame.head.len()..]);
        bytes
    }

    fn counting(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from((at ^ at >> 8) & 0xff).unwrap()).collect()
    }

    #[test]
    fn extending_moves_bytes_from_the_tail_to_the_head() {
        for len in [1, 191, 192, 193, 2047, 2048, 2049, 9000, MAX_FRAME_BYTES] {
            for cuts in [&[MAX_FRAME_BYTES][..], &[100, 17], &[192, 1856, 1]] {
                if cuts.contains(&1) && len > 4000 {
                    continue;
                }
                let frame = counting(len);
                let mut loaded = load(&frame, Offload::NONE, cuts);
                let mut lens = vec![loaded.burst.frame(0).head.len()];
                while loaded.burst.extend_head(0) {
                    lens.push(loaded.burst.frame(0).head.len());
                    assert!(bytes_of(&loaded.burst.frame(0)) == frame);
                }
                let mut wanted: Vec<usize> = [192, 2048, MAX_FRAME_BYTES].map(|most| most.min(len)).to_vec();
                wanted.dedup();
                assert_eq!(lens, wanted, "{len} bytes in pieces of {cuts:?}");
                assert!(loaded.burst.packets()[0].is_all_head());
            }
        }
    }

    #[test]
    fn extended_head_grows_and_shrinks_at_the_front_like_any_other() {
        let frame = counting(3000);
        let mut loaded = load(&frame, Offload::NONE, &[700]);
        loaded.burst.packets_mut()[0].push_front::<4>().unwrap().copy_from_slice(&[9; 4]);
        assert!(loaded.burst.extend_head(0));
        let packet = &mut loaded.burst.packets_mut()[0];
        assert_eq!(packet.head().len(), 2048);
        packet.push_front::<4>().unwrap().copy_from_slice(&[8; 4]);
        assert_eq!((packet.len(), &packet.head()[..10]), (3008, &[8, 8, 8, 8, 9, 9, 9, 9, 0, 1][..]));
        assert!(packet.pull_front(8));
        assert!(loaded.burst.extend_head(0));
        assert!(loaded.burst.frame(0).head == frame);
        let packet = &mut loaded.burst.packets_mut()[0];
        for _ in 0..HEADROOM / 4 {
            assert!(packet.push_front::<4>().is_some());
        }
        assert!(packet.push_front::<4>().is_none());
        assert!(packet.head()[HEADROOM..] == frame);
        assert!(!loaded.burst.extend_head(0));
    }

    #[test]
    fn copy_of_a_packet_is_the_packet_and_changes_by_itself() {
        for len in [1, 192, 193, 2049, 9000] {
            let frame = counting(len);
            let mut loaded = load(&frame, Offload { gso_size: 7, ..Offload::NONE }, &[100, 17]);
            let mut copies = Burst::new();
            for extend in [false, true] {
                if extend {
                    loaded.burst.extend_head(0);
                }
                // SAFETY: the copies are cleared below, before the burst is (condition 1).
                unsafe { copies.push_copy(&loaded.burst, 0) };
                // SAFETY: the same.
                unsafe { copies.push_copy(&loaded.burst, 0) };
                copies.packets_mut()[1].push_front::<4>().unwrap().copy_from_slice(&[9; 4]);
                assert!(bytes_of(&copies.frame(0)) == frame, "{len} bytes");
                assert!(bytes_of(&copies.frame(1)) == [&[9; 4][..], &frame].concat());
                assert!(bytes_of(&loaded.burst.frame(0)) == frame);
                assert_eq!(copies.packets()[0].offload.gso_size, 7);
                while copies.extend_head(0) {}
                assert!(copies.packets()[0].head() == frame);
                copies.clear();
            }
        }
    }

    #[test]
    fn next_packet_in_the_place_of_an_extended_one_has_an_ordinary_head() {
        let long = counting(5000);
        let mut loaded = load(&long, Offload::NONE, &[5000]);
        while loaded.burst.extend_head(0) {}
        loaded.burst.clear();
        let short = counting(60);
        // SAFETY: the frame is shorter than a head, so it is copied now and no segment is kept.
        let segment = unsafe { Segment::new(short.as_ptr(), 60) };
        loaded.burst.push(PortId::ZERO, Offload::NONE, &[segment]);
        assert_eq!(loaded.burst.packets()[0].head(), short);
        assert!(!loaded.burst.extend_head(0));
    }

    /// Whatever the guest writes to its memory once the head was extended, the head stays.
    #[test]
    fn extended_head_is_private() {
        let mut frame = counting(1000);
        let before = frame.clone();
        let memory = frame.as_mut_ptr();
        // SAFETY: the frame outlives the burst's packets, which are not used after it (condition 1).
        let segment = unsafe { Segment::new(memory, 1000) };
        let mut burst = Burst::new();
        burst.push(PortId::ZERO, Offload::NONE, &[segment]);
        assert!(burst.extend_head(0));
        // SAFETY: the bytes are the frame's, and nobody borrows them.
        unsafe { std::ptr::write_bytes(memory, 0xee, 1000) };
        assert!(burst.packets()[0].head() == before);
    }
}
