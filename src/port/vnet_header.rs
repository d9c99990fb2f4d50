//! The virtio-net header that the host kernel puts before each frame, to and from the switch's offload state.
//!
//! TAP (`IFF_VNET_HDR`) and packet sockets (`PACKET_VNET_HDR`) speak it, in the host's byte order. The bytes come
//! from the host's own kernel, which is trusted not to attack us but not to be free of surprises: what does not fit
//! its frame is refused. Headers that a guest wrote never come here; they are checked where guest memory is read.
//!
//! UDP fragmentation is left out: ports never announce it, so the kernel may not use it.
//!
//! Read first: virtio 1.3 §5.1.6, and `virtio_net_hdr_from_skb` and `virtio_net_hdr_to_skb` in Linux.

use std::fmt;

use vsteer_switch::packet::{Checksum, GsoKind, Offload};
use vsteer_switch::wire::ethernet;
pub use vsteer_switch::wire::virtio_net::LEN;
use vsteer_switch::wire::virtio_net::{
    F_DATA_VALID, F_NEEDS_CSUM, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4,
};

/// Which rule a header broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadVnetHeader {
    /// The checksum would start inside the Ethernet header, or end behind the frame.
    ChecksumOutsideFrame {
        /// Where summing starts, in bytes from the start of the frame.
        start: u16,
        /// Where the sum goes, in bytes from `start`.
        offset: u16,
    },
    /// The kind of segmentation is not one that was announced.
    UnknownGso(u8),
    /// Segmentation is asked for without a partial checksum, which each segment needs.
    GsoWithoutChecksum,
    /// Segmentation is asked for, into segments of no bytes.
    GsoSizeZero,
}

impl fmt::Display for BadVnetHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChecksumOutsideFrame { start, offset } => {
                write!(f, "checksum from {start} to {start}+{offset} lies outside the frame")
            }
            Self::UnknownGso(kind) => write!(f, "unknown segmentation type {kind}"),
            Self::GsoWithoutChecksum => f.write_str("segmentation without a partial checksum"),
            Self::GsoSizeZero => f.write_str("segmentation into segments of no bytes"),
        }
    }
}

impl std::error::Error for BadVnetHeader {}

/// Reads the header of a frame of `frame_len` bytes.
///
/// # Errors
/// The rule that the header breaks; the frame should be dropped as [`DropReason::BadOffload`].
///
/// [`DropReason::BadOffload`]: vsteer_switch::drop_reason::DropReason::BadOffload
///
/// # Source
/// virtio 1.3 §5.1.6.
pub fn decode(header: &[u8; LEN], frame_len: usize) -> Result<Offload, BadVnetHeader> {
    let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = *header;
    let checksum = if flags & F_NEEDS_CSUM != 0 {
        let (start, offset) = (u16::from_ne_bytes([s0, s1]), u16::from_ne_bytes([o0, o1]));
        let end = usize::from(start) + usize::from(offset) + size_of::<u16>();
        if usize::from(start) < ethernet::HEADER_LEN || end > frame_len {
            return Err(BadVnetHeader::ChecksumOutsideFrame { start, offset });
        }
        Checksum::Partial { start, offset }
    } else if flags & F_DATA_VALID != 0 {
        Checksum::Verified
    } else {
        Checksum::Unknown
    };
    let gso = match gso_type & !GSO_ECN {
        GSO_NONE => return Ok(Offload { checksum, ..Offload::default() }),
        GSO_TCPV4 => GsoKind::TcpV4,
        GSO_TCPV6 => GsoKind::TcpV6,
        GSO_UDP_L4 if gso_type & GSO_ECN == 0 => GsoKind::Udp,
        _ => return Err(BadVnetHeader::UnknownGso(gso_type)),
    };
    let gso_size = u16::from_ne_bytes([g0, g1]);
    if gso_size == 0 {
        return Err(BadVnetHeader::GsoSizeZero);
    }
    if !matches!(checksum, Checksum::Partial { .. }) {
        return Err(BadVnetHeader::GsoWithoutChecksum);
    }
    // Linux fills this with what happens to be linear in its buffer, so it is not held against the frame.
    let header_len = clamp_to_frame(u16::from_ne_bytes([h0, h1]), frame_len);
    Ok(Offload { checksum, gso, gso_ecn: gso_type & GSO_ECN != 0, gso_size, header_len })
}

/// Writes the header for a frame of `frame_len` bytes.
///
/// # Source
/// virtio 1.3 §5.1.6.
pub fn encode(offload: &Offload, frame_len: usize) -> [u8; LEN] {
    let (flags, start, offset) = match offload.checksum {
        Checksum::Unknown => (0, 0, 0),
        Checksum::Verified => (F_DATA_VALID, 0, 0),
        Checksum::Partial { start, offset } => (F_NEEDS_CSUM, start, offset),
    };
    let ecn = if offload.gso_ecn { GSO_ECN } else { 0 };
    let (gso_type, gso_size, header_len) = match offload.gso {
        GsoKind::None => (GSO_NONE, 0, 0),
        GsoKind::TcpV4 => (GSO_TCPV4 | ecn, offload.gso_size, offload.header_len),
        GsoKind::TcpV6 => (GSO_TCPV6 | ecn, offload.gso_size, offload.header_len),
        GsoKind::Udp => (GSO_UDP_L4, offload.gso_size, offload.header_len),
    };
    // Linux refuses a frame that is shorter than its hint.
    let [h0, h1] = clamp_to_frame(header_len, frame_len).to_ne_bytes();
    let [g0, g1] = gso_size.to_ne_bytes();
    let [s0, s1] = start.to_ne_bytes();
    let [o0, o1] = offset.to_ne_bytes();
    [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, 0, 0]
}

/// `bytes`, but no more than the frame has.
fn clamp_to_frame(bytes: u16, frame_len: usize) -> u16 {
    u16::try_from(frame_len).map_or(bytes, |frame_len| bytes.min(frame_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flags, segmentation type, header length, segment size, checksum start and offset, as a header.
    fn header(flags: u8, gso_type: u8, words: [u16; 4]) -> [u8; LEN] {
        let mut bytes = [0xa5; LEN];
        bytes[0] = flags;
        bytes[1] = gso_type;
        for (to, word) in bytes[2..10].chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn plain_frame_has_no_offload() {
        assert_eq!(decode(&header(0, 0, [0; 4]), 60), Ok(Offload::default()));
        assert_eq!(encode(&Offload::default(), 60), [0; LEN]);
    }

    #[test]
    fn verified_checksum_goes_both_ways() {
        let offload = Offload { checksum: Checksum::Verified, ..Offload::default() };
        assert_eq!(decode(&header(F_DATA_VALID, 0, [0; 4]), 60), Ok(offload));
        assert_eq!(encode(&offload, 60)[0], F_DATA_VALID);
    }

    #[test]
    fn segmentation_goes_both_ways() {
        for (kind, gso) in [(GSO_TCPV4, GsoKind::TcpV4), (GSO_TCPV6, GsoKind::TcpV6)] {
            for (bit, gso_ecn) in [(0, false), (GSO_ECN, true)] {
                let bytes = header(F_NEEDS_CSUM, kind | bit, [66, 1448, 34, 16]);
                let offload = Offload {
                    checksum: Checksum::Partial { start: 34, offset: 16 },
                    gso,
                    gso_ecn,
                    gso_size: 1448,
                    header_len: 66,
                };
                assert_eq!(decode(&bytes, 9000), Ok(offload));
                assert_eq!(encode(&offload, 9000)[..10], bytes[..10]);
            }
        }
    }

    #[test]
    fn udp_segmentation_goes_both_ways() {
        let bytes = header(F_NEEDS_CSUM, GSO_UDP_L4, [42, 1200, 34, 6]);
        let offload = Offload {
            checksum: Checksum::Partial { start: 34, offset: 6 },
            gso: GsoKind::Udp,
            gso_ecn: false,
            gso_size: 1200,
            header_len: 42,
        };
        assert_eq!(decode(&bytes, 9000), Ok(offload));
        assert_eq!(encode(&offload, 9000)[..10], bytes[..10]);
        let marked = Offload { gso_ecn: true, ..offload };
        assert_eq!(encode(&marked, 9000)[..10], bytes[..10], "congestion-window-reduced marks are TCP's");
        let no_size = header(F_NEEDS_CSUM, GSO_UDP_L4, [42, 0, 34, 6]);
        assert_eq!(decode(&no_size, 9000), Err(BadVnetHeader::GsoSizeZero));
        let no_checksum = header(0, GSO_UDP_L4, [42, 1200, 34, 6]);
        assert_eq!(decode(&no_checksum, 9000), Err(BadVnetHeader::GsoWithoutChecksum));
    }

    #[test]
    fn checksum_must_lie_inside_the_frame() {
        let at = |start, offset| decode(&header(F_NEEDS_CSUM, 0, [0, 0, start, offset]), 60);
        assert!(at(14, 44).is_ok(), "the last two bytes");
        for (start, offset) in [(14, 45), (13, 16), (0, 0), (59, 0), (u16::MAX, u16::MAX)] {
            assert_eq!(at(start, offset), Err(BadVnetHeader::ChecksumOutsideFrame { start, offset }));
        }
    }

    #[test]
    fn segmentation_that_was_not_announced_is_refused() {
        for kind in [2, 3, 6, 0x7f] {
            let bytes = header(F_NEEDS_CSUM, kind, [42, 1448, 34, 6]);
            assert_eq!(decode(&bytes, 9000), Err(BadVnetHeader::UnknownGso(kind)));
        }
        let marked = header(F_NEEDS_CSUM, GSO_UDP_L4 | GSO_ECN, [42, 1448, 34, 6]);
        assert_eq!(decode(&marked, 9000), Err(BadVnetHeader::UnknownGso(GSO_UDP_L4 | GSO_ECN)));
    }

    #[test]
    fn segmentation_needs_a_size_and_a_partial_checksum() {
        let no_size = header(F_NEEDS_CSUM, GSO_TCPV4, [66, 0, 34, 16]);
        assert_eq!(decode(&no_size, 9000), Err(BadVnetHeader::GsoSizeZero));
        let no_checksum = header(F_DATA_VALID, GSO_TCPV4, [66, 1448, 34, 16]);
        assert_eq!(decode(&no_checksum, 9000), Err(BadVnetHeader::GsoWithoutChecksum));
    }

    #[test]
    fn header_length_never_exceeds_the_frame() {
        let bytes = header(F_NEEDS_CSUM, GSO_TCPV4, [u16::MAX, 1448, 34, 16]);
        let offload = decode(&bytes, 2000).unwrap();
        assert_eq!(offload.header_len, 2000);
        assert_eq!(encode(&offload, 1900)[2..4], 1900_u16.to_ne_bytes());
        assert_eq!(decode(&bytes, 65_557).unwrap().header_len, u16::MAX);
    }
}
