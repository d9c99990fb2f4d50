//! IPv4 headers with options; the options themselves are skipped unread.
//!
//! # Source
//! RFC 791 §3.1.

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Extent, FRAG_ANY, FRAG_LATER, Upper};

const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// The fixed part of an IPv4 header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    version_ihl: u8,
    /// Type of service.
    pub tos: u8,
    /// Bytes in the packet, header included.
    pub total_len: U16,
    /// Identification, which fragments of one packet share.
    pub id: U16,
    flags_offset: U16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header checksum.
    pub checksum: U16,
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
}

impl Header {
    /// The header at the start of `bytes`, of a packet that may fill `extent`; `None` if it is cut short, or if its lengths
    /// are wrong. The version is what the Ethernet type says.
    #[inline]
    pub fn parse(bytes: &[u8], extent: Extent) -> Option<&Self> {
        let (header, _) = Self::ref_from_prefix(bytes).ok()?;
        let end = header.end(extent);
        (header.header_len() >= size_of::<Self>() && header.header_len() <= end && end <= extent.len)
            .then_some(header)
    }

    /// Bytes in the packet.
    #[inline]
    fn end(&self, extent: Extent) -> usize {
        match self.total_len.get() {
            0 if extent.is_tcp_gso => extent.len,
            len => usize::from(len),
        }
    }

    /// Bytes in the header, options included: a multiple of four, at most 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl & 0xf) * 4
    }

    /// What lies above the header.
    #[inline]
    pub fn upper(&self, extent: Extent) -> Upper {
        let flags_offset = self.flags_offset.get();
        let fragment = match (flags_offset & OFFSET_MASK, flags_offset & MORE_FRAGMENTS) {
            (0, 0) => 0,
            (0, _) => FRAG_ANY,
            (_, _) => FRAG_ANY | FRAG_LATER,
        };
        Upper {
            protocol: self.protocol,
            fragment,
            is_routed: false,
            offset: self.header_len(),
            end: self.end(extent),
        }
    }
}
