//! ARP packets that resolve IPv4 addresses to Ethernet addresses; others count as absent. Reverse ARP has the same packets
//! under another Ethernet type.
//!
//! # Source
//! RFC 826, RFC 903.

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::MacAddr;
use super::ethernet::TYPE_IPV4;

const HARDWARE_ETHERNET: u16 = 1;
/// Linux takes this hardware type at Ethernet interfaces as well, since RFC 1042 networks use it.
const HARDWARE_IEEE_802: u16 = 6;

/// An ARP packet.
#[derive(Debug, Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Packet {
    hardware_type: U16,
    protocol_type: U16,
    hardware_len: u8,
    protocol_len: u8,
    /// Operation: 1 request, 2 reply.
    pub operation: U16,
    /// Sender hardware address.
    pub sha: MacAddr,
    /// Sender protocol address.
    pub spa: [u8; 4],
    /// Target hardware address.
    pub tha: MacAddr,
    /// Target protocol address.
    pub tpa: [u8; 4],
}

impl Packet {
    /// The packet at the start of `bytes`, if it is whole and maps IPv4 to Ethernet.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<&Self> {
        let (packet, _) = Self::ref_from_prefix(bytes).ok()?;
        (matches!(packet.hardware_type.get(), HARDWARE_ETHERNET | HARDWARE_IEEE_802)
            && packet.protocol_type.get() == TYPE_IPV4
            && packet.hardware_len == 6
            && packet.protocol_len == 4)
            .then_some(packet)
    }
}
