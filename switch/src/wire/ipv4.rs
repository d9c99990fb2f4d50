//! IPv4 headers with options; the options themselves are skipped unread.
//!
//! # Source
//! RFC 791 §3.1.

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{FRAG_ANY, FRAG_LATER, Upper};

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
    /// The header at the start of `bytes`, of a packet that may be up to `available` bytes long; `None` if it is cut
    /// short, or if its version or lengths are wrong.
    #[inline]
    pub fn parse(bytes: &[u8], available: usize) -> Option<&Self> {
        let (header, _) = Self::ref_from_prefix(bytes).ok()?;
        let total_len = usize::from(header.total_len.get());
        (header.version_ihl >> 4 == 4
            && header.header_len() >= size_of::<Self>()
            && header.header_len() <= total_len
            && total_len <= available)
            .then_some(header)
    }

    /// Bytes in the header, options included: a multiple of four, at most 60.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl & 0xf) * 4
    }

    /// What lies above the header.
    #[inline]
    pub fn upper(&self) -> Upper {
        let flags_offset = self.flags_offset.get();
        let fragment = match (flags_offset & OFFSET_MASK, flags_offset & MORE_FRAGMENTS) {
            (0, 0) => 0,
            (0, _) => FRAG_ANY,
            (_, _) => FRAG_ANY | FRAG_LATER,
        };
        Upper {
            protocol: self.protocol,
            fragment,
            offset: self.header_len(),
            end: usize::from(self.total_len.get()),
        }
    }
}
