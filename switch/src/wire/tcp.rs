//! TCP headers.
//!
//! # Source
//! RFC 9293 §3.1, RFC 3168 §6.1 (the congestion-window-reduced flag).

use zerocopy::byteorder::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// IP protocol number.
pub const PROTOCOL: u8 = 6;
/// Where the checksum stands in the header.
pub const CHECKSUM_OFFSET: u16 = 16;

/// Flag: the sender has no more data.
pub const FIN: u16 = 0x001;
/// Flag: hand the data to the application.
pub const PSH: u16 = 0x008;
/// Flag: the sender has reduced its congestion window.
pub const CWR: u16 = 0x080;

/// The fixed part of a TCP header.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Sequence number of the first payload byte.
    pub sequence: U32,
    /// Acknowledgement number.
    pub acknowledgement: U32,
    /// Data offset (4 bits), flags (12 bits).
    pub offset_flags: U16,
    /// Window.
    pub window: U16,
    /// Checksum over pseudo-header, header and payload.
    pub checksum: U16,
    /// Urgent pointer.
    pub urgent: U16,
}

impl Header {
    /// The header at the start of `bytes`, of a segment of `len` bytes; `None` if it is cut short, or if its length is wrong.
    /// The options need not lie in `bytes`.
    #[inline]
    pub fn parse(bytes: &[u8], len: usize) -> Option<&Self> {
        let (header, _) = Self::ref_from_prefix(bytes).ok()?;
        (header.header_len() >= size_of::<Self>() && header.header_len() <= len).then_some(header)
    }

    /// Bytes in the header, options included; below 20 if the header is malformed.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.offset_flags.get() >> 12) * 4
    }

    /// The flags, 12 bits.
    #[inline]
    pub fn flags(&self) -> u16 {
        self.offset_flags.get() & 0xfff
    }
}
