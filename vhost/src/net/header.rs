//! The virtio-net header, to and from the offload state of a packet.
//!
//! # Source
//! virtio 1.3 §5.1.6 (`struct virtio_net_hdr`), §5.1.6.2.

use vsteer_switch::packet::{Checksum, GsoKind, Offload};
use vsteer_switch::wire::virtio_net::{
    self, F_DATA_VALID as DATA_VALID, F_NEEDS_CSUM as NEEDS_CSUM, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6,
    GSO_UDP_L4,
};

use super::features::Negotiated;
use crate::memory::Span;

/// Bytes of the longest header; without mergeable buffers and VERSION_1 the last two are absent.
pub(crate) const HEADER_BYTES: usize = virtio_net::LEN;

/// A header asks for something that was not negotiated or does not fit its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadHeader;

/// A virtio-net header as the two little-endian numbers that its bytes make.
///
/// It is read, compared and written as such: bytes that are stored one by one and loaded as a whole a moment later hold
/// the processor up until the last store is done, which on every packet is as dear as copying a small frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NetHeader {
    /// From the lowest bits: flags (8 bits), GSO type (8), header length (16), GSO size (16), checksum start (16).
    low: u64,
    /// From the lowest bits: checksum offset (16), number of buffers (16).
    high: u32,
}

impl NetHeader {
    /// What the bytes of a header say. Of the short one, the caller leaves the last two zero.
    pub(crate) fn of_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11] = *bytes;
        let low = u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
        Self { low, high: u32::from_le_bytes([b8, b9, b10, b11]) }
    }

    /// The bytes of the header.
    pub(crate) fn bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.low.to_le_bytes());
        bytes[8..].copy_from_slice(&self.high.to_le_bytes());
        bytes
    }

    /// The header of `len` bytes, 10 or [`HEADER_BYTES`], at the start of `span`.
    ///
    /// # Panics
    /// If the span is shorter.
    #[inline]
    pub(crate) fn read(span: &Span, len: usize) -> Self {
        let low = u64::from_le_bytes(span.load(0));
        let high = if len == HEADER_BYTES {
            u32::from_le_bytes(span.load(8))
        } else {
            u16::from_le_bytes(span.load(8)).into()
        };
        Self { low, high }
    }

    /// Writes the first `len` bytes, 10 or [`HEADER_BYTES`], to the start of `span`, unless they are there already and nothing
    /// else is written to their cache line.
    ///
    /// The headers that a poll-mode driver sees and sends are nearly always the same few bytes in a line of their own. Left
    /// unwritten, that line stays in both caches, and half of the lines that a small frame moves between the processors do
    /// not move.
    ///
    /// # Panics
    /// If the span is shorter.
    #[inline]
    pub(crate) fn write_if_new(self, span: &Span, len: usize) {
        if len != HEADER_BYTES {
            return span.write(&self.bytes()[..len]);
        }
        if span.ends_line(HEADER_BYTES) && Self::read(span, len) == self {
            return;
        }
        span.store(0, self.low.to_le_bytes());
        span.store(8, self.high.to_le_bytes());
    }
}

/// What the guest wrote before a frame of `frame_len` bytes.
#[inline]
pub(crate) fn parse(
    header: NetHeader,
    frame_len: usize,
    negotiated: Negotiated,
) -> Result<Offload, BadHeader> {
    // The common case: nothing is asked for.
    if header.low & u64::from_le_bytes([NEEDS_CSUM, 0xff, 0, 0, 0, 0, 0, 0]) == 0 {
        return Ok(Offload::default());
    }
    parse_offload(header, frame_len, negotiated)
}

fn parse_offload(header: NetHeader, frame_len: usize, negotiated: Negotiated) -> Result<Offload, BadHeader> {
    let bytes = header.bytes();
    let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let (header_len, gso_size, start, offset) = (word(2), word(4), word(6), word(8));
    let fits = usize::from(start) + usize::from(offset) + 2 <= frame_len;
    if bytes[0] & NEEDS_CSUM == 0 || !negotiated.guest_sends_partial() || !fits {
        return Err(BadHeader);
    }
    let gso_ecn = bytes[1] & GSO_ECN != 0;
    let gso = match bytes[1] & !GSO_ECN {
        GSO_NONE => GsoKind::None,
        GSO_TCPV4 if negotiated.guest_sends_tso4() => GsoKind::TcpV4,
        GSO_TCPV6 if negotiated.guest_sends_tso6() => GsoKind::TcpV6,
        // Such marks are TCP's; Linux refuses them here too.
        GSO_UDP_L4 if negotiated.guest_sends_uso() && !gso_ecn => GsoKind::Udp,
        _ => return Err(BadHeader),
    };
    if gso != GsoKind::None && gso_size == 0 {
        return Err(BadHeader);
    }
    Ok(Offload { checksum: Checksum::Partial { start, offset }, gso, gso_ecn, gso_size, header_len })
}

/// What the guest is told of a frame that takes `buffers` receive buffers.
#[inline]
pub(crate) fn build(offload: &Offload, buffers: u16, negotiated: Negotiated) -> NetHeader {
    let high = u32::from(buffers) << 16;
    match offload.checksum {
        Checksum::Unknown => NetHeader { low: 0, high },
        Checksum::Verified => {
            let flags = if negotiated.guest_takes_partial() { DATA_VALID } else { 0 };
            NetHeader { low: flags.into(), high }
        }
        Checksum::Partial { start, offset } => {
            let low = u64::from(NEEDS_CSUM) | u64::from(start) << 48 | low_of_gso(offload);
            NetHeader { low, high: high | u32::from(offset) }
        }
    }
}

/// What the lower number of a header says of segmentation.
fn low_of_gso(offload: &Offload) -> u64 {
    let kind = match offload.gso {
        GsoKind::None => return 0,
        GsoKind::TcpV4 => GSO_TCPV4,
        GsoKind::TcpV6 => GSO_TCPV6,
        GsoKind::Udp => GSO_UDP_L4,
    };
    let kind = if offload.gso_ecn && offload.gso.is_tcp() { kind | GSO_ECN } else { kind };
    u64::from(kind) << 8 | u64::from(offload.header_len) << 16 | u64::from(offload.gso_size) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Negotiated = Negotiated(u64::MAX);

    #[test]
    fn header_of_a_gso_frame_survives_the_round_trip() {
        let offload = Offload {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            gso: GsoKind::TcpV4,
            gso_ecn: true,
            gso_size: 1448,
            header_len: 66,
        };
        let header = build(&offload, 3, ALL);
        assert_eq!(header.bytes(), [1, 0x81, 66, 0, 0xa8, 5, 34, 0, 16, 0, 3, 0]);
        assert_eq!(NetHeader::of_bytes(&header.bytes()), header);
        assert_eq!(parse(header, 3000, ALL), Ok(offload));
    }

    #[test]
    fn header_of_datagrams_to_be_cut_survives_the_round_trip() {
        let offload = Offload {
            checksum: Checksum::Partial { start: 34, offset: 6 },
            gso: GsoKind::Udp,
            gso_ecn: false,
            gso_size: 1200,
            header_len: 42,
        };
        let header = build(&offload, 1, ALL);
        assert_eq!(header.bytes(), [1, 5, 42, 0, 0xb0, 4, 34, 0, 6, 0, 1, 0]);
        assert_eq!(parse(header, 3000, ALL), Ok(offload));
        let larger_than_the_payload = parse(header, 42, ALL);
        assert_eq!(larger_than_the_payload, Ok(offload), "one datagram is what comes of it");
        let marked = build(&Offload { gso_ecn: true, ..offload }, 1, ALL);
        assert_eq!(marked, header, "congestion-window-reduced marks are TCP's");
    }

    #[test]
    fn datagrams_to_be_cut_that_make_no_sense_are_refused() {
        let parse_bytes = |bytes, features| parse(NetHeader::of_bytes(&bytes), 3000, Negotiated(features));
        const CSUM: u64 = 1;
        const HOST_USO: u64 = 1 << 56;
        let good = [1, 5, 42, 0, 0xb0, 4, 34, 0, 6, 0, 0, 0];
        assert!(parse_bytes(good, CSUM | HOST_USO).is_ok());
        assert_eq!(parse_bytes(good, !HOST_USO), Err(BadHeader), "not negotiated");
        assert_eq!(parse_bytes(good, HOST_USO), Err(BadHeader), "no checksum negotiated");
        for (at, value) in [(0, 0), (1, 0x85), (1, 6)] {
            let mut bad = good;
            bad[at] = value;
            assert_eq!(parse_bytes(bad, u64::MAX), Err(BadHeader), "byte {at} is {value}");
        }
        let no_size = [1, 5, 42, 0, 0, 0, 34, 0, 6, 0, 0, 0];
        assert_eq!(parse_bytes(no_size, u64::MAX), Err(BadHeader));
    }

    #[test]
    fn checksum_beyond_the_frame_is_refused() {
        let header = NetHeader::of_bytes(&[1, 0, 0, 0, 0, 0, 60, 0, 16, 0, 0, 0]);
        assert_eq!(parse(header, 77, ALL), Err(BadHeader));
        assert!(parse(header, 78, ALL).is_ok());
    }

    #[test]
    fn offload_that_was_not_negotiated_is_refused() {
        let header = NetHeader::of_bytes(&[1, 1, 0, 0, 1, 0, 34, 0, 16, 0, 0, 0]);
        assert_eq!(parse(header, 1000, Negotiated(0)), Err(BadHeader));
        assert_eq!(parse(header, 1000, Negotiated(1)), Err(BadHeader), "TSO without HOST_TSO4");
        assert!(parse(header, 1000, ALL).is_ok());
    }

    #[test]
    fn gso_without_size_or_checksum_is_refused() {
        for bytes in [[1, 1, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0], [0, 1, 0, 0, 1, 0, 34, 0, 16, 0, 0, 0]] {
            assert_eq!(parse(NetHeader::of_bytes(&bytes), 1000, ALL), Err(BadHeader));
        }
    }
}
