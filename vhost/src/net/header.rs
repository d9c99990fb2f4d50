//! The virtio-net header, to and from the offload state of a packet.
//!
//! # Source
//! virtio 1.3 §5.1.6 (`struct virtio_net_hdr`), §5.1.6.2.

use vsteer_switch::packet::{Checksum, GsoKind, Offload};

use super::features::Negotiated;

/// Bytes of the longest header; without mergeable buffers and VERSION_1 the last two are absent.
pub(crate) const HEADER_BYTES: usize = 12;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// A header asks for something that was not negotiated or does not fit its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadHeader;

/// What the guest wrote before a frame of `frame_len` bytes.
#[inline]
pub(crate) fn parse(
    bytes: &[u8; HEADER_BYTES],
    frame_len: usize,
    negotiated: Negotiated,
) -> Result<Offload, BadHeader> {
    // The common case: nothing is asked for.
    if bytes[0] & NEEDS_CSUM == 0 && bytes[1] == GSO_NONE {
        return Ok(Offload::default());
    }
    let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let (header_len, gso_size, start, offset) = (word(2), word(4), word(6), word(8));
    let fits = usize::from(start) + usize::from(offset) + 2 <= frame_len;
    if bytes[0] & NEEDS_CSUM == 0 || !negotiated.guest_sends_partial() || !fits {
        return Err(BadHeader);
    }
    let gso = match bytes[1] & !GSO_ECN {
        GSO_NONE => GsoKind::None,
        GSO_TCPV4 if negotiated.guest_sends_tso4() => GsoKind::TcpV4,
        GSO_TCPV6 if negotiated.guest_sends_tso6() => GsoKind::TcpV6,
        _ => return Err(BadHeader),
    };
    if gso != GsoKind::None && gso_size == 0 {
        return Err(BadHeader);
    }
    Ok(Offload {
        checksum: Checksum::Partial { start, offset },
        gso,
        gso_ecn: bytes[1] & GSO_ECN != 0,
        gso_size,
        header_len,
    })
}

/// What the guest is told of a frame that takes `buffers` receive buffers.
#[inline]
pub(crate) fn build(offload: &Offload, buffers: u16, negotiated: Negotiated) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[10..12].copy_from_slice(&buffers.to_le_bytes());
    let mut put = |at: usize, value: u16| bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    match offload.checksum {
        Checksum::Unknown => {}
        Checksum::Verified => {
            if negotiated.guest_takes_partial() {
                bytes[0] = DATA_VALID;
            }
        }
        Checksum::Partial { start, offset } => {
            put(6, start);
            put(8, offset);
            if offload.gso != GsoKind::None {
                put(2, offload.header_len);
                put(4, offload.gso_size);
            }
            bytes[0] = NEEDS_CSUM;
            bytes[1] = match offload.gso {
                GsoKind::None => GSO_NONE,
                GsoKind::TcpV4 => GSO_TCPV4,
                GsoKind::TcpV6 => GSO_TCPV6,
            };
            if offload.gso_ecn && offload.gso != GsoKind::None {
                bytes[1] |= GSO_ECN;
            }
        }
    }
    bytes
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
        let bytes = build(&offload, 3, ALL);
        assert_eq!(bytes, [1, 0x81, 66, 0, 0xa8, 5, 34, 0, 16, 0, 3, 0]);
        assert_eq!(parse(&bytes, 3000, ALL), Ok(offload));
    }

    #[test]
    fn checksum_beyond_the_frame_is_refused() {
        let bytes = [1, 0, 0, 0, 0, 0, 60, 0, 16, 0, 0, 0];
        assert_eq!(parse(&bytes, 77, ALL), Err(BadHeader));
        assert!(parse(&bytes, 78, ALL).is_ok());
    }

    #[test]
    fn offload_that_was_not_negotiated_is_refused() {
        let bytes = [1, 1, 0, 0, 1, 0, 34, 0, 16, 0, 0, 0];
        assert_eq!(parse(&bytes, 1000, Negotiated(0)), Err(BadHeader));
        assert_eq!(parse(&bytes, 1000, Negotiated(1)), Err(BadHeader), "TSO without HOST_TSO4");
        assert!(parse(&bytes, 1000, ALL).is_ok());
    }

    #[test]
    fn gso_without_size_or_checksum_is_refused() {
        assert_eq!(parse(&[1, 1, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0], 1000, ALL), Err(BadHeader));
        assert_eq!(parse(&[0, 1, 0, 0, 1, 0, 34, 0, 16, 0, 0, 0], 1000, ALL), Err(BadHeader));
    }
}
