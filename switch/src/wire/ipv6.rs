//! IPv6 headers and the walk over extension headers.
//!
//! The walk passes hop-by-hop options, routing, destination options, fragment and authentication headers, however many
//! there are. It ends at the first other header and behind the header of a later fragment; the number of the header where
//! it ended becomes the protocol. A chain that does not end before its packet does is malformed, but in a first fragment,
//! where the rest of it may follow in the next one: that is a fragment of which nothing else is known.
//!
//! # Source
//! RFC 8200 §3 and §4, RFC 4302 §2 (the authentication header's odd length unit), RFC 2675 (a length of zero), RFC 6946
//! (fragments that are whole packets), RFC 7112 (chains that are cut).

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Extent, FRAG_ANY, FRAG_LATER, Missing, Upper};

/// Bytes in the fixed header.
pub const HEADER_LEN: usize = 40;
/// Shortest extension header.
const EXTENSION_MIN: usize = 8;

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
const MORE_FRAGMENTS: u16 = 1;

/// Whether the walk passes headers of this number.
#[inline]
fn is_extension(protocol: u8) -> bool {
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
    /// The header at the start of `bytes`, of a packet that may fill `extent`; `None` if it is cut short, or if its length is
    /// wrong. The version is what the Ethernet type says.
    #[inline]
    pub fn parse(bytes: &[u8], extent: Extent) -> Option<&Self> {
        let (header, _) = Self::ref_from_prefix(bytes).ok()?;
        (header.end(extent) <= extent.len).then_some(header)
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

    /// Bytes in the packet.
    ///
    /// A length of zero before hop-by-hop options stands for a length in these options. Such a jumbogram is longer than any
    /// frame here; but Linux takes the whole frame for the packet when those options have no length.
    #[inline]
    fn end(&self, extent: Extent) -> usize {
        match self.payload_len.get() {
            0 if self.next_header == HOP_BY_HOP || extent.is_tcp_gso => extent.len,
            len => HEADER_LEN + usize::from(len),
        }
    }

    /// What lies above the header and its extension headers; `bytes` starts at the header.
    ///
    /// # Errors
    /// An extension header is malformed or lies beyond the head.
    #[inline]
    pub fn upper(&self, bytes: &[u8], extent: Extent) -> Result<Upper, Missing> {
        let upper = Upper {
            protocol: self.next_header,
            fragment: 0,
            is_routed: false,
            offset: HEADER_LEN,
            end: self.end(extent),
        };
        if is_extension(upper.protocol) { pass_extensions(upper, bytes) } else { Ok(upper) }
    }
}

/// Where a chain of extension headers ends that is cut short.
fn cut_short(upper: Upper) -> Result<Upper, Missing> {
    match upper.fragment {
        0 => Err(Missing::Malformed),
        _ => Ok(Upper { protocol: FRAGMENT, offset: upper.end, ..upper }),
    }
}

fn pass_extensions(mut upper: Upper, bytes: &[u8]) -> Result<Upper, Missing> {
    // Bound: each round passes at least eight bytes of the packet.
    while is_extension(upper.protocol) {
        let room = upper.end.saturating_sub(upper.offset);
        if room < EXTENSION_MIN {
            return cut_short(upper);
        }
        let header = bytes.get(upper.offset..).and_then(|rest| rest.first_chunk::<EXTENSION_MIN>());
        let &[next_header, len, third, fourth, ..] = header.ok_or(Missing::Beyond)?;
        let len = match upper.protocol {
            FRAGMENT => FRAGMENT_LEN,
            AUTHENTICATION => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
        if len > room {
            return cut_short(upper);
        }
        upper.offset += len;
        match upper.protocol {
            FRAGMENT => match u16::from_be_bytes([third, fourth]) {
                // The next header is that of the first fragment's start, which may be a further extension header.
                field if field & FRAGMENT_OFFSET_MASK != 0 => {
                    upper.fragment = FRAG_ANY | FRAG_LATER;
                    return Ok(upper);
                }
                field if field & MORE_FRAGMENTS != 0 => upper.fragment = FRAG_ANY,
                // The whole packet, and what its reserved bits are receivers do not look at.
                _ => {}
            },
            // The fourth byte counts the stations that are left (RFC 8200 §4.4).
            ROUTING => upper.is_routed |= fourth > 0,
            _ => {}
        }
        upper.protocol = next_header;
    }
    Ok(upper)
}
