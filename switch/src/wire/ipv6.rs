//! IPv6 headers and the walk over extension headers.
//!
//! The walk passes hop-by-hop options, routing, destination options, fragment and authentication headers, at most
//! `MAX_EXTENSIONS` of them. It ends at the first other header, at one that does not lie whole in the head, and behind
//! the header of a later fragment; the number of the header where it ended becomes the protocol. Ending too early is
//! merely less exact: such a packet has no transport fields, it is never matched on wrong ones.
//!
//! # Source
//! RFC 8200 §3 and §4, RFC 4302 §2 (the authentication header's odd length unit), RFC 6946 (atomic fragments).

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FRAG_ANY, FRAG_LATER, Upper};

/// Bytes in the fixed header.
pub const HEADER_LEN: usize = 40;
/// Most extension headers that are passed. Real packets carry one or two.
pub const MAX_EXTENSIONS: usize = 8;

/// Hop-by-hop options header.
pub const HOP_BY_HOP: u8 = 0;
/// Routing header.
pub const ROUTING: u8 = 43;
/// Fragment header.
pub const FRAGMENT: u8 = 44;
/// Authentication header.
pub const AUTHENTICATION: u8 = 51;
/// Destination options header.
pub const DESTINATION: u8 = 60;

const FRAGMENT_LEN: usize = 8;
const FRAGMENT_OFFSET_MASK: u16 = 0xfff8;
const FRAGMENT_MORE: u16 = 1;

/// Whether the walk passes headers of this number.
#[inline]
pub fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

/// The fixed IPv6 header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    version_class_label: U32,
    /// Bytes after this header.
    pub payload_len: U16,
    /// Number of the header that follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
}

impl Header {
    /// The header at the start of `bytes`, of a packet that may be up to `available` bytes long; `None` if it is cut
    /// short, or if its version or length is wrong.
    #[inline]
    pub fn parse(bytes: &[u8], available: usize) -> Option<&Self> {
        let (header, _) = Self::ref_from_prefix(bytes).ok()?;
        (header.version_class_label.get() >> 28 == 6 && header.end() <= available).then_some(header)
    }

    /// Traffic class.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        let [high, low, ..] = self.version_class_label.to_bytes();
        high << 4 | low >> 4
    }

    /// Flow label, 20 bits.
    #[inline]
    pub fn flow_label(&self) -> u32 {
        self.version_class_label.get() & 0xf_ffff
    }

    fn end(&self) -> usize {
        HEADER_LEN + usize::from(self.payload_len.get())
    }

    /// What lies above the header and its extension headers; `bytes` starts at the header.
    #[inline]
    pub fn upper(&self, bytes: &[u8]) -> Upper {
        let upper = Upper { protocol: self.next_header, fragment: 0, offset: HEADER_LEN, end: self.end() };
        if is_extension(upper.protocol) { pass_extensions(upper, bytes) } else { upper }
    }
}

/// Whether a routing header says that the destination is a way station: `bytes` starts at a well-formed fixed header. What
/// lies beyond the head is not seen.
///
/// # Source
/// RFC 8200 §4.4 and §8.1.
pub fn has_segments_left(bytes: &[u8]) -> bool {
    let Some((header, _)) = Header::ref_from_prefix(bytes).ok() else { return false };
    let (mut protocol, mut at) = (header.next_header, HEADER_LEN);
    for _ in 0..MAX_EXTENSIONS {
        let Some(&[next_header, len, _, segments_left, ..]) = bytes.get(at..) else { return false };
        at += match protocol {
            ROUTING if segments_left > 0 => return true,
            HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(len) + 1) * 8,
            AUTHENTICATION => (usize::from(len) + 2) * 4,
            FRAGMENT => FRAGMENT_LEN,
            _ => return false,
        };
        protocol = next_header;
    }
    false
}

fn pass_extensions(mut upper: Upper, bytes: &[u8]) -> Upper {
    for _ in 0..MAX_EXTENSIONS {
        let rest = upper.payload(bytes);
        let &[next_header, len, offset_high, offset_low, ..] = rest else { break };
        let len = match upper.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => (usize::from(len) + 1) * 8,
            AUTHENTICATION => (usize::from(len) + 2) * 4,
            FRAGMENT => FRAGMENT_LEN,
            _ => break,
        };
        if len > rest.len() {
            break;
        }
        if upper.protocol == FRAGMENT {
            let field = u16::from_be_bytes([offset_high, offset_low]);
            if field & FRAGMENT_OFFSET_MASK != 0 {
                // The next header is that of the first fragment's start, which may be a further extension header.
                upper.fragment = FRAG_ANY | FRAG_LATER;
                upper.offset += len;
                break;
            }
            if field & FRAGMENT_MORE != 0 {
                upper.fragment = FRAG_ANY;
            }
        }
        upper.protocol = next_header;
        upper.offset += len;
    }
    upper
}
