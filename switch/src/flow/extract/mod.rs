//! Extraction of flow keys from packet heads: the first thing a worker does with every packet.
//!
//! `extract` fills the leading words of a `FlowKey` to the `Depth` that the ingress port's rules need, each of
//! them whether the packet has the field or not, and leaves deeper words as they are. The words of a shallow key equal
//! those of a deeper one of the same packet, or caches of different depths would disagree on a flow.
//!
//! Headers are read as `wire` finds them, on the private head alone. A malformed network header leaves
//! all network and transport fields zero but keeps the Ethernet type: the frame is then still switched, as a router
//! downstream, not a switch, must refuse it. Reading a field that is not there as zero is right as long as it is the
//! same zero for each packet of a flow; padding behind the IP packet must never be read, and is not.

use zerocopy::FromBytes;
use zerocopy::byteorder::big_endian::U16;

use super::key::{Depth, FlowKey, KeyTag};
use crate::packet::Packet;
use crate::wire::ethernet::{self, Link};
use crate::wire::{FRAG_LATER, Upper, arp, icmp, ipv4, ipv6, ndp, sctp, tcp, udp};

#[cfg(test)]
mod tests;

/// Stands in keys for every 802.3 length.
const ETH_TYPE_LENGTH: u16 = 0x05ff;
/// Smallest Ethernet type; smaller values are lengths.
const ETH_TYPE_MIN: u16 = 0x0600;

/// Fills the words of `key` that `depth` promises from the packet's head; deeper words are left as they are.
///
/// A head shorter than an Ethernet header gives a key with nothing but the ingress port.
#[inline]
pub fn extract(packet: &Packet, depth: Depth, key: &mut FlowKey) {
    let link = extract_link(packet, key);
    if depth > Depth::Link {
        extract_deep(packet, link, depth, key);
    }
}

/// Fills words 0 to 3, for which it runs straight through: one bounds check and at most two branches on tags.
#[inline]
fn extract_link(packet: &Packet, key: &mut FlowKey) -> Option<Link> {
    let head = packet.head();
    // A head that parses has both addresses; asking for them again costs nothing as the compiler sees the first check.
    let (Some(link), Some(addresses)) = (Link::parse(head), head.first_chunk()) else {
        key.set_link(packet.in_port, &[0; ethernet::ADDRESSES_LEN], 0, [KeyTag::default(); 2]);
        return None;
    };
    let eth_type = if link.eth_type < ETH_TYPE_MIN { ETH_TYPE_LENGTH } else { link.eth_type };
    key.set_link(packet.in_port, addresses, eth_type, link.tags.map(KeyTag::of_frame));
    Some(link)
}

/// Fills the words from 4 to what `depth` promises.
fn extract_deep(packet: &Packet, link: Option<Link>, depth: Depth, key: &mut FlowKey) {
    key.words_mut()[Depth::Link.words()..depth.words()].fill(0);
    let Some(link) = link else { return };
    let bytes = &packet.head()[link.len..];
    let available = packet.len() - link.len;
    let upper = match link.eth_type {
        ethernet::TYPE_IPV4 => extract_ipv4(bytes, available, key),
        ethernet::TYPE_IPV6 => extract_ipv6(bytes, available, key),
        ethernet::TYPE_ARP | ethernet::TYPE_RARP => {
            extract_arp(bytes, depth, key);
            None
        }
        _ => None,
    };
    if let Some(upper) = upper
        && depth == Depth::Transport
        && upper.fragment & FRAG_LATER == 0
    {
        extract_transport(link.eth_type, upper.protocol, upper.payload(bytes), key);
    }
}

fn extract_ipv4(bytes: &[u8], available: usize, key: &mut FlowKey) -> Option<Upper> {
    let header = ipv4::Header::parse(bytes, available)?;
    let upper = header.upper();
    key.set_ip(upper.protocol, header.tos, header.ttl, upper.fragment, 0);
    key.set_ipv4_addresses(header.src, header.dst);
    Some(upper)
}

fn extract_ipv6(bytes: &[u8], available: usize, key: &mut FlowKey) -> Option<Upper> {
    let header = ipv6::Header::parse(bytes, available)?;
    let upper = header.upper(bytes);
    let (tos, label) = (header.traffic_class(), header.flow_label());
    key.set_ip(upper.protocol, tos, header.hop_limit, upper.fragment, label);
    (key.ip_src, key.ip_dst) = (header.src, header.dst);
    Some(upper)
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
fn extract_transport(eth_type: u16, protocol: u8, bytes: &[u8], key: &mut FlowKey) {
    match (protocol, eth_type) {
        (tcp::PROTOCOL, _) => {
            let Ok((header, _)) = tcp::Header::ref_from_prefix(bytes) else { return };
            key.set_ports(header.src_port, header.dst_port, header.flags());
        }
        (udp::PROTOCOL, _) => {
            let Ok((header, _)) = udp::Header::ref_from_prefix(bytes) else { return };
            key.set_ports(header.src_port, header.dst_port, 0);
        }
        (sctp::PROTOCOL, _) => {
            let Ok((header, _)) = sctp::Header::ref_from_prefix(bytes) else { return };
            key.set_ports(header.src_port, header.dst_port, 0);
        }
        (icmp::PROTOCOL_V4, ethernet::TYPE_IPV4) => extract_icmp(bytes, key),
        (icmp::PROTOCOL_V6, ethernet::TYPE_IPV6) => {
            extract_icmp(bytes, key);
            let Some(neighbour) = ndp::Neighbour::parse(bytes, key.ip_ttl) else { return };
            key.nd_target = neighbour.target;
            key.hw_src = neighbour.source_mac;
            key.hw_dst = neighbour.target_mac;
        }
        _ => {}
    }
}

fn extract_icmp(bytes: &[u8], key: &mut FlowKey) {
    let Ok((header, _)) = icmp::Header::ref_from_prefix(bytes) else { return };
    key.set_ports(U16::new(header.kind.into()), U16::new(header.code.into()), 0);
}
