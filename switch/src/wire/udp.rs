//! UDP headers.
//!
//! # Source
//! RFC 768.

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IP protocol number.
pub const PROTOCOL: u8 = 17;
/// Where the checksum stands in the header.
pub const CHECKSUM_OFFSET: u16 = 6;

/// A UDP header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Bytes in header and payload.
    pub len: U16,
    /// Checksum, or zero for none.
    pub checksum: U16,
}
