//! A hash of a frame's flow, to pick one of several receive queues.
//!
//! Packets of one flow must go to one queue, or the guest sees them out of order; the hash therefore looks only at what
//! all of them share. Both directions of a flow give the same hash, so a guest that steers by the queue it received on
//! keeps a connection on one processor. Fragments hash by address alone, as later ones have no ports.
//!
//! The hash need not withstand an attacker: one who finds collisions fills a queue of the guest it sends to, which it may
//! do anyway.

use zerocopy::FromBytes;

use crate::packet::Frame;
use crate::wire::ethernet::{ADDRESSES_LEN, behind_all_tags};
use crate::wire::layers::{IpVersion, Layers};
use crate::wire::{Missing, ipv4, ipv6, sctp, tcp, udp};

/// Odd multipliers with evenly spread bits: the fractional parts of the golden ratio and of the square root of three.
const MIX: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b];

/// The flow hash of `frame`: over addresses and ports, over addresses alone for fragments and other protocols, over
/// Ethernet addresses for frames that are not IP.
///
/// To pick one of `n` queues take `(hash * n) >> 32` in 64 bits: the high bits are the best mixed.
pub fn rss_hash(frame: &Frame<'_>) -> u32 {
    let head = frame.head;
    let sum = match Layers::locate(head, frame.extent()) {
        Ok(layers) => {
            let ports = ports(head, &layers).unwrap_or_default();
            ip_hash(head, layers.version, layers.network, ports)
        }
        // Only IPv6 and stacks of tags are so long. The headers may be in the head of the next packet of the flow, for which the ports count
        // then, but a flow with such headers has no speed to lose.
        Err(Missing::Beyond) => {
            let network = behind_all_tags(head, head.len()).map_or(head.len(), |(_, len)| len);
            ip_hash(head, IpVersion::V6, network, [0, 0])
        }
        Err(Missing::Malformed) => link_hash(head),
    };
    // The top half of the product: each of its bits depends on all bits below.
    #[allow(clippy::cast_possible_truncation, reason = "the high 32 bits")]
    {
        ((sum ^ sum >> 32).wrapping_mul(MIX[0]) >> 32) as u32
    }
}

/// Mixes one end of a flow; the hashes of both ends are added, so that their order does not count.
fn end_hash(high: u64, low: u64) -> u64 {
    let mixed = (high ^ MIX[0]).wrapping_mul(MIX[1]).rotate_left(29) ^ low;
    let mixed = mixed.wrapping_mul(MIX[0]);
    (mixed ^ mixed >> 32).wrapping_mul(MIX[1])
}

fn ip_hash(head: &[u8], version: IpVersion, network: usize, [src_port, dst_port]: [u64; 2]) -> u64 {
    let network = head.get(network..).unwrap_or_default();
    let ends = match version {
        IpVersion::V4 => ipv4::Header::ref_from_prefix(network).ok().map(|(ip, _)| {
            let end = |address: [u8; 4], port| end_hash(port, u64::from(u32::from_ne_bytes(address)));
            (end(ip.src, src_port), end(ip.dst, dst_port))
        }),
        IpVersion::V6 => ipv6::Header::ref_from_prefix(network).ok().map(|(ip, _)| {
            let end = |address: [u8; 16], port: u64| {
                let [high, low]: [u64; 2] = zerocopy::transmute!(address);
                end_hash(high ^ port.rotate_left(48), low)
            };
            (end(ip.src, src_port), end(ip.dst, dst_port))
        }),
    };
    ends.map_or(0, |(src, dst)| src.wrapping_add(dst))
}

/// Source and destination port of a packet that has them.
fn ports(head: &[u8], layers: &Layers) -> Option<[u64; 2]> {
    let has_ports = matches!(layers.protocol, tcp::PROTOCOL | udp::PROTOCOL | sctp::PROTOCOL);
    if !has_ports || layers.fragment != 0 {
        return None;
    }
    let &[s0, s1, d0, d1] = layers.transport_bytes(head).first_chunk()?;
    Some([u64::from(u16::from_be_bytes([s0, s1])), u64::from(u16::from_be_bytes([d0, d1]))])
}

fn link_hash(head: &[u8]) -> u64 {
    let Some(&[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]) = head.first_chunk::<ADDRESSES_LEN>() else {
        return 0;
    };
    let end = |address| end_hash(0, u64::from_be_bytes(address));
    end([0, 0, d0, d1, d2, d3, d4, d5]).wrapping_add(end([0, 0, s0, s1, s2, s3, s4, s5]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::packet::{Offload, Tail};
    use crate::wire::golden;

    fn hash(head: &[u8]) -> u32 {
        rss_hash(&Frame { head, tail: Tail::EMPTY, offload: &Offload::NONE })
    }

    fn udp_frame(src: [u8; 4], dst: [u8; 4], src_port: u16, dst_port: u16) -> Vec<u8> {
        let mut frame = golden::udp4();
        frame[26..30].copy_from_slice(&src);
        frame[30..34].copy_from_slice(&dst);
        frame[34..36].copy_from_slice(&src_port.to_be_bytes());
        frame[36..38].copy_from_slice(&dst_port.to_be_bytes());
        frame
    }

    #[test]
    fn both_directions_of_a_flow_hash_alike() {
        let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        assert_eq!(hash(&udp_frame(a, b, 1000, 53)), hash(&udp_frame(b, a, 53, 1000)));
        assert_ne!(hash(&udp_frame(a, b, 1000, 53)), hash(&udp_frame(a, b, 53, 1000)));
        assert_ne!(hash(&udp_frame(a, b, 1000, 53)), hash(&udp_frame(a, b, 1001, 53)));
    }

    #[test]
    fn all_fragments_of_a_packet_hash_alike() {
        for (first, later) in [
            (golden::fragment4(0x2000), golden::fragment4(0x0001)),
            (golden::fragment6(0x0001), golden::fragment6(0x0008)),
        ] {
            assert_eq!(hash(&first), hash(&later));
        }
    }

    #[test]
    fn sequential_ports_spread_over_queues() {
        for queues in [2_usize, 3, 4, 8] {
            let mut counts = vec![0_usize; queues];
            let mut seen = HashSet::new();
            for port in 0..4096_u16 {
                let hash = hash(&udp_frame([10, 0, 0, 1], [10, 0, 0, 2], 32768 + port, 5201));
                seen.insert(hash);
                counts[(hash as usize * queues) >> 32] += 1;
            }
            assert!(seen.len() > 4090, "{} different hashes", seen.len());
            let even = 4096 / queues;
            assert!(counts.iter().all(|count| (even * 8 / 10..even * 12 / 10).contains(count)), "{counts:?}");
        }
    }

    #[test]
    fn frames_without_ip_hash_by_ethernet_address() {
        let mut other = golden::arp();
        assert_ne!(hash(&golden::arp()), 0);
        other[11] ^= 1;
        assert_ne!(hash(&other), hash(&golden::arp()));
        assert_eq!(hash(&[]), hash(&[1, 2, 3]));
    }
}
