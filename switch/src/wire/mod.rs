//! Header layouts of the protocols that the switch reads, one protocol per file.
//!
//! Key extraction, tag edits and egress segmentation all read headers through here, on the private head of a packet, so
//! that they agree on where a header starts and on what is malformed. The bytes come from a guest: every function takes
//! a slice of any length and content, and none of them panics. Nothing is verified that does not decide where the next
//! header lies; checksums are left to the receiver.
//!
//! What counts as malformed decides what rules see, and a guest chooses its bytes so that a rule does not see what the
//! receiver acts on. The question at each check is therefore what receivers do, not what senders should: a header is
//! malformed if no receiver would read it. Where receivers differ, Open vSwitch's reading counts, as long as rules for it
//! can be written that hold.
//!
//! Only the head is read, which may be shorter than the packet: a header that lies beyond it is not absent, but
//! `Missing::Beyond` the head, which the caller then makes longer.

use std::mem::offset_of;

/// Ethernet and its VLAN tags.
pub mod ethernet;

/// VLAN tags.
pub mod vlan;

/// The virtio-net header.
pub mod virtio_net;

/// ARP for IPv4 over Ethernet.
pub mod arp;

/// IPv4.
pub mod ipv4;

/// IPv6 and its extension headers.
pub mod ipv6;

/// TCP.
pub mod tcp;

/// UDP.
pub mod udp;

/// SCTP.
pub mod sctp;

/// ICMP and ICMPv6.
pub mod icmp;

/// IPv6 neighbour discovery.
pub mod ndp;

/// Where the layers of a frame lie.
pub mod layers;

#[cfg(test)]
pub(crate) mod golden;

/// A 48-bit Ethernet address.
pub type MacAddr = [u8; 6];

/// Fragment flag: the packet is a fragment.
pub const FRAG_ANY: u8 = 1;
/// Fragment flag: the packet is a fragment other than the first, so it has no transport header.
pub const FRAG_LATER: u8 = 2;

/// How much of a frame there is from a network header on, of which the head may hold less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes in the frame from the header on.
    pub len: usize,
    /// The frame is to be cut into TCP segments. Receivers then take a length of zero in the header for all there is, as
    /// Linux does since lengths of more than 16 bits exist (BIG TCP).
    pub is_tcp_gso: bool,
}

impl Extent {
    /// That many bytes, none of which is to be segmented.
    pub fn of(len: usize) -> Self {
        Self { len, is_tcp_gso: false }
    }

    /// Whether `bytes`, which are its first ones, hold the fixed part of every network header that the switch reads, or all
    /// there is.
    pub fn is_network_in(self, bytes: &[u8]) -> bool {
        bytes.len() >= self.len.min(ipv6::HEADER_LEN)
    }
}

/// Why a header cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// It is malformed or cut short by the end of its packet.
    Malformed,
    /// It does not lie whole in the head, but the packet is longer than its head.
    Beyond,
}

/// What lies above an IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper {
    /// IP protocol of the bytes at `offset`; of later fragments over IPv6 the fragment header's own number.
    pub protocol: u8,
    /// [`FRAG_ANY`] and [`FRAG_LATER`].
    pub fragment: u8,
    /// An IPv6 routing header names further stations, so that the destination is not the last one.
    pub is_routed: bool,
    /// Where the bytes lie, from the start of the IP header; may lie beyond the head.
    pub offset: usize,
    /// Where the IP packet ends, from the start of its header; padding of the frame follows.
    pub end: usize,
}

impl Upper {
    /// The bytes above the IP header, as far as they lie in `bytes`, which starts at the IP header.
    #[inline]
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.offset..self.end.min(bytes.len())).unwrap_or_default()
    }

    /// Whether `bytes`, which start at the IP header, hold the longest transport header that the switch reads, or all of the
    /// packet.
    #[inline]
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        bytes.len() >= self.end.min(self.offset + LONGEST_TRANSPORT)
    }
}

/// Bytes of the longest fixed part of a transport header that the switch reads.
pub const LONGEST_TRANSPORT: usize = size_of::<tcp::Header>();

/// The fixed part of a transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// Bytes in it. A packet with fewer does not have the header.
    pub len: usize,
    /// Where its checksum stands.
    pub checksum: usize,
}

impl Transport {
    /// The header of this IP protocol, if it is one that the switch reads.
    pub fn of(protocol: u8, version: layers::IpVersion) -> Option<Self> {
        use layers::IpVersion::{V4, V6};
        let (len, checksum) = match (protocol, version) {
            (tcp::PROTOCOL, _) => (size_of::<tcp::Header>(), offset_of!(tcp::Header, checksum)),
            (udp::PROTOCOL, _) => (size_of::<udp::Header>(), offset_of!(udp::Header, checksum)),
            (sctp::PROTOCOL, _) => (size_of::<sctp::Header>(), offset_of!(sctp::Header, crc)),
            (icmp::PROTOCOL_V4, V4) | (icmp::PROTOCOL_V6, V6) => {
                (size_of::<icmp::Header>(), offset_of!(icmp::Header, checksum))
            }
            _ => return None,
        };
        Some(Self { len, checksum })
    }
}
