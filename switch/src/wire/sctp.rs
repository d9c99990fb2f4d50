//! SCTP common headers. Their CRC32c covers the whole packet; `edit/crc32c.rs` keeps it right when ports are rewritten.
//!
//! # Source
//! RFC 9260 §3.1.

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// IP protocol number.
pub const PROTOCOL: u8 = 132;

/// An SCTP common header.
#[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Verification tag.
    pub verification_tag: U32,
    /// CRC32c of the packet.
    pub crc: U32,
}
