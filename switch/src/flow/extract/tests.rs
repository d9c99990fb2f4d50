use crate::flow::key::KeyTag;
use crate::packet::{HEAD_CAPACITY, Offload};
use crate::wire::golden::{self, FD00_1, FD00_2, load};
use crate::wire::layers::Layers;
use crate::wire::vlan::VlanTag;
use crate::wire::{FRAG_ANY, MacAddr};

use zerocopy::byteorder::big_endian::U32;

use super::*;

const MAC_1: MacAddr = [2, 0, 0, 0, 0, 1];
const MAC_2: MacAddr = [2, 0, 0, 0, 0, 2];
const WRITTEN_OVER: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// The key of `frame` at `depth`, in a key that was full of other things before.
fn key_at(frame: &[u8], depth: Depth) -> FlowKey {
    let loaded = load(frame, Offload::default(), &[50]);
    let mut key = FlowKey::default();
    key.words_mut()[..Depth::Transport.words()].fill(WRITTEN_OVER);
    extract(&loaded.burst.packets()[0], depth, &mut key);
    key
}

fn key(frame: &[u8]) -> FlowKey {
    key_at(frame, Depth::Transport)
}

fn v4(last: [u8; 4]) -> [u8; 16] {
    let mut address = [0; 16];
    address[12..].copy_from_slice(&last);
    address
}

fn link_key(eth_type: u16) -> FlowKey {
    FlowKey { in_port: 7, eth_dst: MAC_2, eth_src: MAC_1, eth_type: U16::new(eth_type), ..FlowKey::default() }
}

fn ipv4_key(ip_proto: u8) -> FlowKey {
    FlowKey {
        ip_proto,
        ip_tos: 0xb9,
        ip_ttl: 64,
        ip_src: v4([10, 0, 0, 1]),
        ip_dst: v4([10, 0, 0, 2]),
        ..link_key(0x0800)
    }
}

fn ipv6_key(ip_proto: u8) -> FlowKey {
    FlowKey {
        ip_proto,
        ip_tos: 0xb9,
        ip_ttl: 64,
        ipv6_label: U32::new(0xabcde),
        ip_src: FD00_1,
        ip_dst: FD00_2,
        ..link_key(0x86dd)
    }
}

fn with_ports(key: FlowKey, src: u16, dst: u16) -> FlowKey {
    FlowKey { tp_src: U16::new(src), tp_dst: U16::new(dst), ..key }
}

fn tag(tpid: u16, tci: u16) -> KeyTag {
    KeyTag::of_frame(VlanTag { tpid: U16::new(tpid), tci: U16::new(tci) })
}

#[test]
fn udp_over_ipv4() {
    assert_eq!(key(&golden::udp4()), with_ports(ipv4_key(17), 1234, 53));
    assert_eq!(golden::udp4().len(), 64);
}

#[test]
fn tcp_over_ipv4_with_two_tags() {
    let expected = FlowKey {
        vlan: [tag(0x88a8, 0x0014), tag(0x8100, 0x600a)],
        tcp_flags: U16::new(0x118),
        ..with_ports(ipv4_key(6), 0x1234, 80)
    };
    assert_eq!(key(&golden::tcp4_tagged()), expected);
}

#[test]
fn tcp_over_ipv6() {
    let expected = FlowKey { tcp_flags: U16::new(2), ..with_ports(ipv6_key(6), 0x1234, 80) };
    assert_eq!(key(&golden::tcp6()), expected);
}

#[test]
fn ipv4_options_are_skipped() {
    assert_eq!(key(&golden::udp4_options()), with_ports(ipv4_key(17), 1234, 53));
}

#[test]
fn first_fragment_has_ports_and_later_ones_do_not() {
    let first = FlowKey { ip_frag: FRAG_ANY, ..with_ports(ipv4_key(17), 1234, 53) };
    let later = FlowKey { ip_frag: FRAG_ANY | FRAG_LATER, ..ipv4_key(17) };
    assert_eq!(key(&golden::fragment4(0x2000)), first);
    assert_eq!(key(&golden::fragment4(0x2001)), later);
    assert_eq!(key(&golden::fragment4(0x0001)), later, "the last fragment");
    let first = FlowKey { ip_frag: FRAG_ANY, ..with_ports(ipv6_key(17), 1234, 53) };
    let later = FlowKey { ip_frag: FRAG_ANY | FRAG_LATER, ..ipv6_key(44) };
    assert_eq!(key(&golden::fragment6(0x0001)), first);
    assert_eq!(key(&golden::fragment6(0x0009)), later);
    assert_eq!(key(&golden::fragment6(0x0008)), later, "the last fragment");
    let atomic = with_ports(ipv6_key(17), 1234, 53);
    assert_eq!(key(&golden::fragment6(0x0000)), atomic, "a fragment header without fragmentation");
}

#[test]
fn ipv6_extension_headers_are_passed_up_to_the_bound() {
    let expected = with_ports(ipv6_key(17), 1234, 53);
    assert_eq!(key(&golden::udp6_extensions()), expected);
    assert_eq!(key(&golden::udp6_many_extensions(ipv6::MAX_EXTENSIONS)), expected);
    // With one more, the walk ends at what it passed last, which names UDP only behind the ninth.
    assert_eq!(key(&golden::udp6_many_extensions(ipv6::MAX_EXTENSIONS + 1)), ipv6_key(60));
}

#[test]
fn extension_header_beyond_the_head_ends_the_walk() {
    // Hop-by-hop options of 256 bytes, longer than the head, then UDP.
    let mut payload = vec![17, 31];
    payload.resize(256, 0);
    payload.extend(golden::udp(&[0; 8]));
    let frame = golden::ethernet(&[], 0x86dd, &golden::ipv6(0, 64, &payload));
    assert!(frame.len() > HEAD_CAPACITY);
    assert_eq!(key(&frame), ipv6_key(0));
}

#[test]
fn upper_header_cut_by_the_end_of_the_head_counts_as_absent() {
    // 14 + 40 + 136 = 190: two bytes of the UDP header are in the head.
    let mut payload = vec![17, 16];
    payload.resize(136, 0);
    payload.extend(golden::udp(&[0; 8]));
    let frame = golden::ethernet(&[], 0x86dd, &golden::ipv6(0, 64, &payload));
    assert_eq!(key(&frame), ipv6_key(17));
}

#[test]
fn arp_request() {
    let expected = FlowKey {
        ip_proto: 1,
        ip_src: v4([10, 0, 0, 1]),
        ip_dst: v4([10, 0, 0, 2]),
        hw_src: MAC_1,
        hw_dst: [0xde, 0xad, 0, 0, 0, 9],
        ..link_key(0x0806)
    };
    assert_eq!(key(&golden::arp()), expected);
    let mut reverse = golden::arp();
    reverse[12..14].copy_from_slice(&[0x80, 0x35]);
    assert_eq!(key(&reverse), FlowKey { eth_type: U16::new(0x8035), ..expected });
    let mut large_operation = golden::arp();
    large_operation[20] = 1;
    assert_eq!(key(&large_operation), FlowKey { ip_proto: 0, ..expected });
    for odd_byte in [15, 16, 18, 19] {
        let mut other_protocol = golden::arp();
        other_protocol[odd_byte] ^= 2;
        assert_eq!(key(&other_protocol), link_key(0x0806), "byte {odd_byte}");
    }
}

#[test]
fn sctp_and_icmp() {
    assert_eq!(key(&golden::sctp4()), with_ports(ipv4_key(132), 3000, 3001));
    let icmp = FlowKey { vlan: [tag(0x8100, 0x600a), KeyTag::default()], ..ipv4_key(1) };
    assert_eq!(key(&golden::icmp4()), with_ports(icmp, 11, 1));
}

#[test]
fn icmp_of_the_other_ip_version_has_no_fields() {
    let v6_in_v4 = golden::ethernet(&[], 0x0800, &golden::ipv4(58, 0, &[], &[128, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(key(&v6_in_v4), ipv4_key(58));
    let v4_in_v6 = golden::ethernet(&[], 0x86dd, &golden::ipv6(1, 64, &[8, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(key(&v4_in_v6), ipv6_key(1));
}

#[test]
fn neighbour_discovery_has_target_and_link_layer_addresses() {
    let plain = |kind| FlowKey { ip_ttl: 255, ..with_ports(ipv6_key(58), kind, 0) };
    let solicitation = FlowKey { nd_target: FD00_2, hw_src: MAC_1, ..plain(135) };
    let advertisement = FlowKey { nd_target: FD00_2, hw_dst: MAC_2, ..plain(136) };
    assert_eq!(key(&golden::neighbour(135, 0, 255, &golden::OPTION_SOURCE)), solicitation);
    assert_eq!(key(&golden::neighbour(136, 0, 255, &golden::OPTION_TARGET)), advertisement);
    let bare = FlowKey { nd_target: FD00_2, ..plain(135) };
    assert_eq!(key(&golden::neighbour(135, 0, 255, &[])), bare);
    // An unknown option (nonce) before the one that counts.
    let nonce_first = [[14, 1, 0, 0, 0, 0, 0, 0], golden::OPTION_SOURCE].concat();
    assert_eq!(key(&golden::neighbour(135, 0, 255, &nonce_first)), solicitation);
}

#[test]
fn neighbour_discovery_that_receivers_discard_has_no_fields() {
    let discarded = |frame: &[u8]| {
        let key = key(frame);
        (key.nd_target, key.hw_src, key.hw_dst) == ([0; 16], [0; 6], [0; 6]) && key.tp_src.get() >= 133
    };
    let source = golden::OPTION_SOURCE;
    assert!(discarded(&golden::neighbour(135, 0, 254, &source)), "was routed");
    assert!(discarded(&golden::neighbour(135, 1, 255, &source)), "has a code");
    assert!(discarded(&golden::neighbour(134, 0, 255, &source)), "is a router's");
    assert!(discarded(&golden::neighbour(135, 0, 255, &[1, 0, 2, 0, 0, 0, 0, 1])), "option of length zero");
    assert!(discarded(&golden::neighbour(135, 0, 255, &[1, 2, 2, 0, 0, 0, 0, 1])), "option too long");
    assert!(discarded(&golden::neighbour(135, 0, 255, &source[..7])), "option cut short");
    assert!(discarded(&golden::neighbour(135, 0, 255, &[source, source].concat())), "option twice");
    let too_many = [[14, 1, 0, 0, 0, 0, 0, 0]; ndp::MAX_OPTIONS + 1].concat();
    assert!(discarded(&golden::neighbour(135, 0, 255, &too_many)), "too many options");
    assert!(!discarded(&golden::neighbour(135, 0, 255, &too_many[8..])), "as many options as allowed");
}

#[test]
fn lengths_of_802_3_are_one_ethernet_type() {
    assert_eq!(key(&golden::ethernet(&[], 3, &[0x42, 0x42, 3])), link_key(0x05ff));
    assert_eq!(key(&golden::ethernet(&[], 0x05ff, &[0; 50])), link_key(0x05ff));
    assert_eq!(key(&golden::ethernet(&[], 0x0600, &[0; 50])), link_key(0x0600));
}

#[test]
fn tag_that_is_third_or_cut_short_stays_the_ethernet_type() {
    let (s_20, c_10) = (golden::TAG_S_20, golden::TAG_10);
    let three = golden::ethernet(&[s_20, c_10, c_10], 0x0800, &golden::ipv4(17, 0, &[], &golden::udp(&[])));
    let two_tags = [tag(0x88a8, 0x0014), tag(0x8100, 0x600a)];
    assert_eq!(key(&three), FlowKey { vlan: two_tags, ..link_key(0x8100) });
    let tagged = golden::ethernet(&[s_20, c_10], 0x0800, &[]);
    assert_eq!(key(&tagged[..17]), link_key(0x88a8));
    let one_tag = [tag(0x88a8, 0x0014), KeyTag::default()];
    assert_eq!(key(&tagged[..21]), FlowKey { vlan: one_tag, ..link_key(0x8100) });
    assert_eq!(key(&tagged), FlowKey { vlan: two_tags, ..link_key(0x0800) });
}

#[test]
fn malformed_network_header_keeps_only_the_ethernet_type() {
    let spoil = |mut frame: Vec<u8>, at: usize, value: u8| {
        frame[at] = value;
        frame
    };
    let v4 = golden::udp4;
    for (name, frame) in [
        ("version", spoil(v4(), 14, 0x65)),
        ("header shorter than 20", spoil(v4(), 14, 0x44)),
        ("header longer than the packet", spoil(spoil(v4(), 14, 0x4f), 17, 59)),
        ("total length shorter than the header", spoil(v4(), 17, 19)),
        ("total length longer than the frame", spoil(v4(), 17, 51)),
    ] {
        assert_eq!(key(&frame), link_key(0x0800), "{name}");
    }
    assert_eq!(key(&spoil(golden::tcp6(), 14, 0x4b)), link_key(0x86dd), "version");
    assert_eq!(key(&spoil(golden::tcp6(), 19, 21)), link_key(0x86dd), "payload longer than the frame");
}

#[test]
fn padding_is_not_read_as_a_transport_header() {
    let mut frame = golden::ethernet(&[], 0x0800, &golden::ipv4(17, 0, &[], &[0, 1, 0]));
    frame.resize(60, 0xee);
    assert_eq!(key(&frame), ipv4_key(17));
    let mut frame = golden::ethernet(&[], 0x86dd, &golden::ipv6(6, 64, &[0; 19]));
    frame.resize(120, 0xee);
    assert_eq!(key(&frame), ipv6_key(6));
}

#[test]
fn frame_shorter_than_ethernet_has_only_its_port() {
    assert_eq!(key(&golden::udp4()[..13]), FlowKey { in_port: 7, ..FlowKey::default() });
    assert_eq!(key(&[]), FlowKey { in_port: 7, ..FlowKey::default() });
}

#[test]
fn depths_agree_and_leave_deeper_words_alone_at_every_length() {
    for (name, frame) in golden::all() {
        for len in 0..=frame.len() {
            let full = key_at(&frame[..len], Depth::Transport);
            assert!((full.reserved1, full.reserved2, full.reserved3) == (0, 0, 0));
            for depth in [Depth::Link, Depth::Network] {
                let key = key_at(&frame[..len], depth);
                let (filled, deeper) = key.words()[..Depth::Transport.words()].split_at(depth.words());
                assert_eq!(filled, &full.words()[..depth.words()], "{name} cut to {len}, {depth:?}");
                assert!(deeper.iter().all(|&word| word == WRITTEN_OVER), "{name} cut to {len}, {depth:?}");
            }
        }
    }
}

#[test]
fn layers_lie_where_extraction_found_them() {
    let frame = golden::tcp4_tagged();
    let layers = Layers::locate(&frame, frame.len()).unwrap();
    assert_eq!((layers.network, layers.transport, layers.end), (22, 42, frame.len()));
    assert_eq!(layers.protocol, 6);
    let frame = golden::udp6_extensions();
    let layers = Layers::locate(&frame, frame.len() + 100).unwrap();
    assert_eq!((layers.network, layers.transport, layers.end), (14, 14 + 40 + 56, frame.len()));
    assert_eq!(layers.transport_bytes(&frame)[..2], [0x04, 0xd2]);
    assert_eq!(Layers::locate(&golden::arp(), 60), None);
    for (name, frame) in golden::all() {
        for len in 0..=frame.len() {
            let head = &frame[..len];
            if let Some(layers) = Layers::locate(head, frame.len()) {
                assert!(layers.network <= layers.transport && layers.transport <= layers.end, "{name}");
                assert!(layers.end <= frame.len() && layers.transport_bytes(head).len() <= len, "{name}");
            }
        }
    }
}
