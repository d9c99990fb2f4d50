//! Extraction of flow keys from packet heads: the first thing a worker does with every packet.
//!
//! `extract` fills the leading words of a `FlowKey` to the `Depth` that the ingress port's rules need, each of
//! them whether the packet has the field or not, and leaves deeper words as they are. The words of a shallow key equal
//! those of a deeper one of the same packet, or caches of different depths would disagree on a flow.
//!
//! Headers are read as `wire` finds them, on the private head alone. A malformed network header leaves
//! all network and transport fields zero but keeps the Ethernet type: the frame is then still switched, as a router
//! downstream, not a switch, must refuse it. Of an IPv6 packet whose extension headers are malformed the addresses are kept,
//! and a malformed transport header leaves its fields zero. Reading a field that is not there as zero is right as long as
//! it is the same zero for each packet of a flow; padding behind the IP packet must never be read, and is not.
//!
//! Headers that lie beyond the head are not absent. `extract` then says that it needs a longer head, which `extract_at`
//! gives it out of the packet's tail. However long the headers of a packet are, its key is read from private bytes.
//!
//! A key also stands for what leaves the switch. A sender that has its checksum completed by the egress port chooses where
//! the sum is written, and with the payload which number that is; a position within a header that was read would change
//! this header after all rules were asked. Such a packet is refused.
//!
//! # Source
//! Open vSwitch's `miniflow_extract` (lib/flow.c), whose reading of odd packets rules are written for. README lists where
//! this one differs.

use std::ops::Range;

use zerocopy::FromBytes;
use zerocopy::byteorder::big_endian::U16;

use super::key::{Depth, FlowKey, KeyTag};
use crate::drop_reason::DropReason;
use crate::packet::{Burst, Packet};
use crate::wire::ethernet::{self, Link};
use crate::wire::layers::IpVersion;
use crate::wire::vlan::VlanLimit;
use crate::wire::{
    Extent, FRAG_LATER, Missing, Transport, Upper, arp, icmp, ipv4, ipv6, ndp, sctp, tcp, udp,
};

#[cfg(test)]
mod tests;

/// Why a key could not be filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// The frame is shorter than an Ethernet header. The key has nothing but the ingress port.
    FrameTooShort,
    /// A header lies beyond the head, and the packet is longer than its head.
    HeadTooShort,
    /// The egress port would write the checksum of the packet into a header that was read.
    BadOffload,
}

impl Unread {
    /// Why the packet is dropped if nothing can be done about it.
    fn into_reason(self) -> DropReason {
        match self {
            Unread::FrameTooShort => DropReason::FrameTooShort,
            Unread::BadOffload => DropReason::BadOffload,
            Unread::HeadTooShort => {
                debug_assert!(false, "nothing lies beyond a whole packet");
                DropReason::HeadersTooLong
            }
        }
    }
}

/// Fills the words of `key` that `depth` promises from the head of the packet at `at`, which is made longer as needed;
/// deeper words are left as they are.
///
/// # Errors
/// The packet is to be dropped for this reason.
#[inline]
pub fn extract_at(
    burst: &mut Burst,
    at: usize,
    limit: VlanLimit,
    depth: Depth,
    key: &mut FlowKey,
) -> Result<(), DropReason> {
    match extract(&burst.packets()[at], limit, depth, key) {
        Ok(()) => Ok(()),
        Err(unread) => {
            make_readable(burst, at, limit, depth, unread)?;
            extract(&burst.packets()[at], limit, depth, key).map_err(Unread::into_reason)
        }
    }
}

/// Extends the head of the packet at `at`, of which `extract` said `unread`, until it can be read to `depth`.
///
/// # Errors
/// The packet is to be dropped for this reason.
#[cold]
pub(crate) fn make_readable(
    burst: &mut Burst,
    at: usize,
    limit: VlanLimit,
    depth: Depth,
    mut unread: Unread,
) -> Result<(), DropReason> {
    // Bound: a head is extended twice at most, then it is the whole packet.
    while unread == Unread::HeadTooShort && burst.extend_head(at) {
        match extract(&burst.packets()[at], limit, depth, &mut FlowKey::default()) {
            Ok(()) => return Ok(()),
            Err(again) => unread = again,
        }
    }
    Err(unread.into_reason())
}

/// Fills the words of `key` that `depth` promises from the packet's head; deeper words are left as they are.
///
/// # Errors
/// The packet is to be dropped, or its head must be extended first. What stands in the key then means nothing.
// Inlined, as the compiler would not do by itself: it is called in several places, but one of them for every packet. What
// is rare leaves by `extract_rare` and does not come back, so that nothing need be kept for it.
#[inline(always)]
pub fn extract(packet: &Packet, limit: VlanLimit, depth: Depth, key: &mut FlowKey) -> Result<(), Unread> {
    let Some(head) = packet.ordinary_head() else { return extract_rare(packet, limit, depth, key) };
    let (Some(link), Some(addresses)) = (Link::parse_ordinary(head, limit), head.first_chunk()) else {
        return extract_rare(packet, limit, depth, key);
    };
    if packet.offload.checksum_position().is_some() {
        return extract_rare(packet, limit, depth, key);
    }
    key.set_link(packet.in_port, addresses, link.eth_type, link.tags.map(KeyTag::of_frame));
    match depth {
        Depth::Link => Ok(()),
        Depth::Network | Depth::Transport => extract_deep(packet, head, link.len, link.eth_type, depth, key),
    }
}

/// The same for any packet: one whose head is extended or short, that has a length for a type or more tags than are read, or
/// whose checksum is put off.
#[inline(never)]
fn extract_rare(packet: &Packet, limit: VlanLimit, depth: Depth, key: &mut FlowKey) -> Result<(), Unread> {
    let head = packet.head();
    let parsed = Link::parse(head, packet.len(), limit);
    let addresses = match (parsed, head.first_chunk()) {
        (Err(Missing::Malformed), _) | (_, None) => &[0; ethernet::ADDRESSES_LEN],
        (Ok(_) | Err(Missing::Beyond), Some(addresses)) => addresses,
    };
    let link = parsed.map_err(|missing| {
        key.set_link(packet.in_port, addresses, 0, [KeyTag::default(); 2]);
        match missing {
            Missing::Malformed => Unread::FrameTooShort,
            Missing::Beyond => Unread::HeadTooShort,
        }
    })?;
    key.set_link(packet.in_port, addresses, link.eth_type, link.tags.map(KeyTag::of_frame));
    if packet.offload.checksum_position().is_some_and(|position| position < link.len) {
        return Err(Unread::BadOffload);
    }
    if depth == Depth::Link {
        return Ok(());
    }
    // Behind a link layer of ordinary length they always are.
    if !Extent::of(packet.len() - link.len).is_network_in(&head[link.len..]) {
        return Err(Unread::HeadTooShort);
    }
    extract_deep(packet, head, link.len, link.eth_type, depth, key)
}

/// Fills the words from 4 to what `depth` promises.
/// `head` is the packet's, and its network header is `link_len` bytes on.
#[inline(never)]
fn extract_deep(
    packet: &Packet,
    head: &[u8],
    link_len: usize,
    eth_type: u16,
    depth: Depth,
    key: &mut FlowKey,
) -> Result<(), Unread> {
    // Ranges of known lengths, which need no call.
    const NETWORK: Range<usize> = Depth::Link.words()..Depth::Network.words();
    const TRANSPORT: Range<usize> = Depth::Network.words()..Depth::Transport.words();
    key.words_mut()[NETWORK].fill(0);
    if depth == Depth::Transport {
        key.words_mut()[TRANSPORT].fill(0);
    }
    let bytes = &head[link_len..];
    let extent = packet.extent();
    let extent = Extent { len: extent.len - link_len, ..extent };
    let sum = Sum(packet.offload.checksum_position().map_or(usize::MAX, |position| position - link_len));
    match eth_type {
        ethernet::TYPE_IPV4 => extract_ipv4(bytes, extent, depth, sum, key),
        ethernet::TYPE_IPV6 => extract_ipv6(bytes, extent, depth, sum, key),
        ethernet::TYPE_ARP | ethernet::TYPE_RARP => {
            extract_arp(bytes, depth, key);
            sum.spares(size_of::<arp::Packet>(), None)
        }
        _ => Ok(()),
    }
}

/// Where the egress port will write a checksum, from the start of the network header; beyond everything if it will not.
#[derive(Clone, Copy)]
struct Sum(usize);

impl Sum {
    /// Whether a key stays right that rests on the bytes up to `end`, but for a checksum at `field`, when two bytes change. No
    /// header starts with a checksum's second byte.
    #[inline(always)]
    fn spares(self, end: usize, field: Option<usize>) -> Result<(), Unread> {
        if self.0 < end && Some(self.0) != field { Err(Unread::BadOffload) } else { Ok(()) }
    }

    /// The same for a header that is malformed: nobody knows what it is once some of it changes.
    #[inline(always)]
    fn spares_malformed(self) -> Result<(), Unread> {
        self.spares(usize::MAX, None)
    }
}

#[inline(always)]
fn extract_ipv4(
    bytes: &[u8],
    extent: Extent,
    depth: Depth,
    sum: Sum,
    key: &mut FlowKey,
) -> Result<(), Unread> {
    let Some(header) = ipv4::Header::parse(bytes, extent) else { return sum.spares_malformed() };
    let upper = header.upper(extent);
    key.set_ip(upper.protocol, header.tos, header.ttl, upper.fragment, 0);
    key.set_ipv4_addresses(header.src, header.dst);
    extract_upper(bytes, &upper, IpVersion::V4, depth, sum, key)
}

#[inline(always)]
fn extract_ipv6(
    bytes: &[u8],
    extent: Extent,
    depth: Depth,
    sum: Sum,
    key: &mut FlowKey,
) -> Result<(), Unread> {
    let Some(header) = ipv6::Header::parse(bytes, extent) else { return sum.spares_malformed() };
    (key.ip_src, key.ip_dst) = (header.src, header.dst);
    let upper = match header.upper(bytes, extent) {
        Ok(upper) => upper,
        Err(Missing::Malformed) => return sum.spares_malformed(),
        Err(Missing::Beyond) => return Err(Unread::HeadTooShort),
    };
    let (tos, label) = (header.traffic_class(), header.flow_label());
    key.set_ip(upper.protocol, tos, header.hop_limit, upper.fragment, label);
    extract_upper(bytes, &upper, IpVersion::V6, depth, sum, key)
}

/// Fills what lies above an IP header if `depth` says so. At any depth the head must hold what edits of the IP header
/// change above it.
#[inline(always)]
fn extract_upper(
    bytes: &[u8],
    upper: &Upper,
    version: IpVersion,
    depth: Depth,
    sum: Sum,
    key: &mut FlowKey,
) -> Result<(), Unread> {
    if !upper.is_in(bytes) {
        return Err(Unread::HeadTooShort);
    }
    if depth < Depth::Transport || upper.fragment & FRAG_LATER != 0 {
        return sum.spares(upper.offset, None);
    }
    extract_transport(bytes, upper, version, key)?;
    if sum.0 < upper.end { spares_transport(bytes, upper, version, sum) } else { Ok(()) }
}

/// Whether the transport header, and what it stands behind, stays as it was read.
fn spares_transport(packet: &[u8], upper: &Upper, version: IpVersion, sum: Sum) -> Result<(), Unread> {
    let Some(header) = Transport::of(upper.protocol, version) else { return sum.spares(upper.offset, None) };
    let is_neighbour = (upper.protocol, version) == (icmp::PROTOCOL_V6, IpVersion::V6)
        && icmp::Header::ref_from_prefix(upper.payload(packet))
            .is_ok_and(|(header, _)| ndp::is_neighbour(header));
    // Any byte of a neighbour message may be an option.
    let end = if is_neighbour { upper.end } else { upper.offset + header.len };
    sum.spares(end, Some(upper.offset + header.checksum))
}

fn extract_arp(bytes: &[u8], depth: Depth, key: &mut FlowKey) {
    let Some(packet) = arp::Packet::parse(bytes) else { return };
    key.ip_proto = u8::try_from(packet.operation.get()).unwrap_or(0);
    key.set_ipv4_addresses(packet.spa, packet.tpa);
    if depth == Depth::Transport {
        key.hw_src = packet.sha;
        key.hw_dst = packet.tha;
    }
}

/// Fills words 9 to 13, which are zero, from the payload of an IP packet.
#[inline(always)]
fn extract_transport(
    packet: &[u8],
    upper: &Upper,
    version: IpVersion,
    key: &mut FlowKey,
) -> Result<(), Unread> {
    let bytes = upper.payload(packet);
    match (upper.protocol, version) {
        (tcp::PROTOCOL, _) => {
            let Some(header) = tcp::Header::parse(bytes, upper.end - upper.offset) else { return Ok(()) };
            key.set_ports(header.src_port, header.dst_port, header.flags());
        }
        (udp::PROTOCOL, _) => {
            let Ok((header, _)) = udp::Header::ref_from_prefix(bytes) else { return Ok(()) };
            key.set_ports(header.src_port, header.dst_port, 0);
        }
        (sctp::PROTOCOL, _) => {
            let Ok((header, _)) = sctp::Header::ref_from_prefix(bytes) else { return Ok(()) };
            key.set_ports(header.src_port, header.dst_port, 0);
        }
        (icmp::PROTOCOL_V4, IpVersion::V4) | (icmp::PROTOCOL_V6, IpVersion::V6) => {
            return extract_icmp(bytes, upper, version, key);
        }
        _ => {}
    }
    Ok(())
}

fn extract_icmp(bytes: &[u8], upper: &Upper, version: IpVersion, key: &mut FlowKey) -> Result<(), Unread> {
    let Ok((header, _)) = icmp::Header::ref_from_prefix(bytes) else { return Ok(()) };
    key.set_ports(U16::new(header.kind.into()), U16::new(header.code.into()), 0);
    if version == IpVersion::V6 && ndp::is_neighbour(header) {
        if bytes.len() < upper.end - upper.offset {
            return Err(Unread::HeadTooShort);
        }
        let Some(neighbour) = ndp::Neighbour::parse(bytes) else { return Ok(()) };
        key.nd_target = neighbour.target;
        key.hw_src = neighbour.source_mac;
        key.hw_dst = neighbour.target_mac;
    }
    Ok(())
}
