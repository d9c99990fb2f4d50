//! Header layouts of the protocols that the switch reads, one protocol per file.
//!
//! Key extraction, tag edits and egress segmentation all read headers through here, on the private head of a packet, so
//! that they agree on where a header starts and on what is malformed. The bytes come from a guest: every function takes
//! a slice of any length and content, and none of them panics. Nothing is verified that does not decide where the next
//! header lies; checksums are left to the receiver.
//!
//! Only the head is read. A header that starts in the head but ends beyond it counts as absent.

/// Ethernet and its VLAN tags.
pub mod ethernet;

/// VLAN tags.
pub mod vlan;

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

/// What lies above an IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upper {
    /// IP protocol of the bytes at `offset`; for IPv6 the number of the header at which the walk ended.
    pub protocol: u8,
    /// [`FRAG_ANY`] and [`FRAG_LATER`].
    pub fragment: u8,
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
}
