use crate::flow::key::KeyTag;
use crate::packet::{Checksum, GsoKind, HEAD_CAPACITY, MAX_FRAME_BYTES, Offload};
use crate::wire::golden::{self, FD00_1, FD00_2, load};
use crate::wire::layers::Layers;
use crate::wire::vlan::VlanTag;
use crate::wire::{FRAG_ANY, MacAddr};

use zerocopy::byteorder::big_endian::U32;

use super::*;
use crate::port::PortId;

const MAC_1: MacAddr = [2, 0, 0, 0, 0, 1];
const MAC_2: MacAddr = [2, 0, 0, 0, 0, 2];
const WRITTEN_OVER: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// What comes of the key of `frame` at `depth`, filled into one that was full of other things before. How the frame lay in
/// pieces, and whether its head was extended or long from the start, makes no difference.
fn try_key(frame: &[u8], offload: Offload, limit: VlanLimit, depth: Depth) -> Result<FlowKey, DropReason> {
    let mut written_over = FlowKey::default();
    written_over.words_mut()[..Depth::Transport.words()].fill(WRITTEN_OVER);
    let in_pieces = |cuts: &[usize]| {
        let (mut loaded, mut key) = (load(frame, offload, cuts), written_over);
        extract_at(&mut loaded.burst, 0, limit, depth, &mut key).map(|()| key)
    };
    let key = in_pieces(&[50]);
    // A burst has 4096 segments.
    for cuts in [&[17][..], &[500], &[40, 1, 3, 200], &[MAX_FRAME_BYTES]] {
        assert_eq!(in_pieces(cuts), key, "in pieces of {cuts:?}");
    }
    if offload == Offload::NONE {
        let packet = Packet::of_bytes(PortId::new(7).unwrap(), frame, frame.len());
        let mut whole = written_over;
        assert_eq!(extract(&packet, limit, depth, &mut whole).is_ok(), key.is_ok());
        assert!(key.is_err() || key == Ok(whole));
    }
    key
}

fn key_at(frame: &[u8], depth: Depth) -> FlowKey {
    try_key(frame, Offload::NONE, VlanLimit::Two, depth).unwrap()
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

/// Destination options of `len` bytes before `next`, of which the first names `next`.
fn options_before(next_header: u8, len: usize, next: &[u8]) -> Vec<u8> {
    let mut payload = vec![next_header, u8::try_from(len / 8 - 1).unwrap()];
    payload.resize(len, 0);
    payload.extend(next);
    payload
}

#[test]
fn ipv6_extension_headers_are_passed_however_many_there_are() {
    let expected = with_ports(ipv6_key(17), 1234, 53);
    assert_eq!(key(&golden::udp6_extensions()), expected);
    // Nine are more than were once looked at; 17 end in the head, 18 do not; 250 and 8000 do not end in an extended head.
    for count in [1, 8, 9, 16, 17, 18, 100, 250, 251, 1000, 8000] {
        assert_eq!(key(&golden::udp6_many_extensions(count)), expected, "{count} headers");
    }
}

#[test]
fn upper_headers_are_found_wherever_the_head_ends() {
    // Ethernet, IPv6 and the options end at each place around the end of the head, and of the extended one.
    for end in (120..220).chain(1960..2100) {
        let len = (end - 54) / 8 * 8;
        let udp = golden::udp(&[0x55; 40]);
        let frame =
            golden::ethernet(&[], 0x86dd, &golden::ipv6(60, 64, &options_before(17, len.min(2048), &udp)));
        assert_eq!(key(&frame), with_ports(ipv6_key(17), 1234, 53), "{len} bytes of options");
        let tagged = golden::ethernet(
            &[golden::TAG_10],
            0x86dd,
            &golden::ipv6(60, 64, &options_before(6, len.min(2048), &golden::tcp(0x12, &[1; 40], &[0; 30]))),
        );
        let tcp = FlowKey {
            vlan: [tag(0x8100, 0x600a), KeyTag::default()],
            tcp_flags: U16::new(0x12),
            ..with_ports(ipv6_key(6), 0x1234, 80)
        };
        assert_eq!(key(&tagged), tcp, "{len} bytes of options");
    }
}

#[test]
fn options_longer_than_the_head_are_passed() {
    for (protocol, upper, expected) in [
        (
            6,
            golden::tcp(0x002, &[], &[]),
            FlowKey { tcp_flags: U16::new(2), ..with_ports(ipv6_key(6), 0x1234, 80) },
        ),
        (17, golden::udp(&[]), with_ports(ipv6_key(17), 1234, 53)),
        (132, vec![0x0b, 0xb8, 0x0b, 0xb9, 1, 2, 3, 4, 5, 6, 7, 8], with_ports(ipv6_key(132), 3000, 3001)),
        (58, vec![128, 0, 0, 0, 0, 0, 0, 0], with_ports(ipv6_key(58), 128, 0)),
        (47, vec![0; 4], ipv6_key(47)),
        (59, vec![0; 4], ipv6_key(59)),
    ] {
        for len in [168, 256, 2048] {
            let frame =
                golden::ethernet(&[], 0x86dd, &golden::ipv6(0, 64, &options_before(protocol, len, &upper)));
            assert_eq!(key(&frame), expected, "protocol {protocol} behind {len} bytes");
            assert_eq!(key_at(&frame, Depth::Network).ip_proto, protocol);
        }
    }
}

#[test]
fn headers_that_open_vswitch_does_not_pass_are_protocols() {
    // ESP, no next header, mobility, HIP, Shim6, experimental.
    for protocol in [50, 59, 135, 139, 140, 253, 254] {
        let frame = golden::ethernet(
            &[],
            0x86dd,
            &golden::ipv6(protocol, 64, &options_before(6, 8, &golden::tcp(0, &[], &[]))),
        );
        assert_eq!(key(&frame), ipv6_key(protocol));
    }
}

#[test]
fn ipv6_packet_with_a_malformed_chain_has_its_addresses_only() {
    let addresses = FlowKey { ip_src: FD00_1, ip_dst: FD00_2, ..link_key(0x86dd) };
    let udp = golden::udp(&[0x55; 40]);
    for (name, payload) in [
        ("nothing where a header should be", vec![]),
        ("header cut short", vec![17, 0, 1, 4, 0, 0, 0]),
        ("header longer than the packet", [&[17, 7][..], &[0; 6], &udp].concat()),
        (
            "second header longer than the packet",
            [&[60, 0, 0, 0, 0, 0, 0, 0, 17, 7][..], &[0; 6], &udp].concat(),
        ),
    ] {
        assert_eq!(key(&golden::ethernet(&[], 0x86dd, &golden::ipv6(60, 64, &payload))), addresses, "{name}");
        // With padding behind the packet as well.
        let mut padded = golden::ethernet(&[], 0x86dd, &golden::ipv6(60, 64, &payload));
        padded.resize(400, 0);
        assert_eq!(key(&padded), addresses, "{name}, padded");
    }
    // Beyond the head it is no different.
    let long = options_before(60, 256, &[17, 40, 0, 0, 0, 0, 0, 0]);
    assert_eq!(key(&golden::ethernet(&[], 0x86dd, &golden::ipv6(60, 64, &long))), addresses);
    // An authentication header counts in units of four: this one has twelve bytes, of which eight are there.
    assert_eq!(
        key(&golden::ethernet(&[], 0x86dd, &golden::ipv6(51, 64, &[17, 1, 0, 0, 0, 0, 0, 0]))),
        addresses
    );
}

#[test]
fn fragment_headers_may_follow_each_other() {
    let header = |next: u8, field: u16| [&[next, 0][..], &field.to_be_bytes(), &[0, 0, 0, 9]].concat();
    let fragment = |headers: &[Vec<u8>]| {
        let payload = [&headers.concat()[..], &golden::udp(&[0x55; 16])].concat();
        key(&golden::ethernet(&[], 0x86dd, &golden::ipv6(44, 64, &payload)))
    };
    let first = FlowKey { ip_frag: FRAG_ANY, ..with_ports(ipv6_key(17), 1234, 53) };
    let later = FlowKey { ip_frag: FRAG_ANY | FRAG_LATER, ..ipv6_key(44) };
    assert_eq!(fragment(&[header(44, 1), header(17, 0)]), first);
    assert_eq!(fragment(&[header(44, 0), header(17, 1)]), first);
    assert_eq!(fragment(&[header(44, 1), header(17, 8)]), later);
    assert_eq!(fragment(&[header(44, 8), header(17, 0)]), later);
    let whole = with_ports(ipv6_key(17), 1234, 53);
    for reserved in [0, 2, 4, 6] {
        assert_eq!(fragment(&[header(17, reserved)]), whole, "receivers take it for a whole packet");
        assert_eq!(fragment(&[header(17, reserved | 1)]), first);
    }
    // Destination options of the fragmentable part, however long.
    let payload = [header(60, 1), options_before(17, 256, &golden::udp(&[0x55; 16]))].concat();
    assert_eq!(key(&golden::ethernet(&[], 0x86dd, &golden::ipv6(44, 64, &payload))), first);
}

#[test]
fn upper_header_cut_by_the_end_of_the_head_is_read() {
    // 14 + 40 + 136 = 190: two bytes of the UDP header are in the head.
    let frame =
        golden::ethernet(&[], 0x86dd, &golden::ipv6(0, 64, &options_before(17, 136, &golden::udp(&[0; 8]))));
    assert!(frame.len() > HEAD_CAPACITY);
    assert_eq!(key(&frame), with_ports(ipv6_key(17), 1234, 53));
}

/// Linux takes the whole frame for the packet if the length is zero and hop-by-hop options follow, whether or not they
/// hold the length of a jumbogram.
#[test]
fn length_of_zero_before_hop_by_hop_options_is_all_there_is() {
    let zero_len = |next_header: u8| {
        let tcp = golden::tcp(0x002, &[], &[]);
        let mut frame =
            golden::ethernet(&[], 0x86dd, &golden::ipv6(next_header, 64, &options_before(6, 8, &tcp)));
        frame[18..20].fill(0);
        frame
    };
    let tcp = FlowKey { tcp_flags: U16::new(2), ..with_ports(ipv6_key(6), 0x1234, 80) };
    assert_eq!(key(&zero_len(0)), tcp);
    let addresses = FlowKey { ip_src: FD00_1, ip_dst: FD00_2, ..link_key(0x86dd) };
    assert_eq!(key(&zero_len(60)), addresses, "destination options of a packet without payload");
    assert_eq!(key(&zero_len(59)), ipv6_key(59));
    let mut bare = zero_len(0);
    bare.truncate(54);
    assert_eq!(key(&bare), addresses, "no options either");
}

/// Linux takes a length of zero for all there is in frames to be segmented (BIG TCP).
#[test]
fn length_of_zero_in_a_frame_to_be_segmented_is_all_there_is() {
    let tcp = golden::tcp(0x010, &[], &[0x55; 3000]);
    for (frame, at, gso, expected) in [
        (golden::ethernet(&[], 0x0800, &golden::ipv4(6, 0, &[], &tcp)), 16, GsoKind::TcpV4, ipv4_key(6)),
        (golden::ethernet(&[], 0x86dd, &golden::ipv6(6, 64, &tcp)), 18, GsoKind::TcpV6, ipv6_key(6)),
    ] {
        let mut zero = frame.clone();
        zero[at..at + 2].fill(0);
        let offload = Offload { gso, gso_size: 1000, ..Offload::NONE };
        let tcp = FlowKey { tcp_flags: U16::new(0x10), ..with_ports(expected, 0x1234, 80) };
        let try_key = |frame: &[u8], offload| try_key(frame, offload, VlanLimit::One, Depth::Transport);
        assert_eq!(try_key(&zero, offload), Ok(tcp));
        assert_eq!(try_key(&frame, offload), Ok(tcp), "the length as it should be");
        assert_ne!(try_key(&zero, Offload::NONE), Ok(tcp), "receivers discard it as a packet of its own");
    }
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
    for odd_byte in [14, 15, 16, 17, 18, 19] {
        let mut other_protocol = golden::arp();
        other_protocol[odd_byte] ^= 2;
        assert_eq!(key(&other_protocol), link_key(0x0806), "byte {odd_byte}");
    }
    assert_eq!(key(&golden::arp()[..41]), link_key(0x0806), "cut short");
    assert_eq!(key(&golden::arp()[..42]), expected, "without padding");
    let mut reverse = golden::arp();
    reverse[12..14].copy_from_slice(&[0x80, 0x35]);
    assert_eq!(key(&reverse), FlowKey { eth_type: U16::new(0x8035), ..expected });
    // Linux answers these, too.
    let mut ieee_802 = golden::arp();
    ieee_802[15] = 6;
    assert_eq!(key(&ieee_802), expected, "hardware type of RFC 1042 networks");
}

/// An LLC header with the SNAP of this organization, then the type and payload of `frame`, which has no tags.
fn snap(tags: &[[u8; 4]], organization: [u8; 3], frame: &[u8]) -> Vec<u8> {
    let payload = [&[0xaa, 0xaa, 0x03][..], &organization, &frame[12..]].concat();
    golden::ethernet(tags, u16::try_from(payload.len()).unwrap().min(0x05ff), &payload)
}

#[test]
fn ethernet_type_behind_snap_is_the_ethernet_type() {
    for (name, frame) in golden::all().into_iter().filter(|(_, frame)| frame[12] != 0x81 && frame[12] != 0x88)
    {
        if frame[12] < 6 {
            continue;
        }
        assert_eq!(key(&snap(&[], [0; 3], &frame)), key(&frame), "{name}");
        let tagged =
            golden::ethernet(&[golden::TAG_10], u16::from_be_bytes([frame[12], frame[13]]), &frame[14..]);
        assert_eq!(key(&snap(&[golden::TAG_10], [0; 3], &frame)), key(&tagged), "{name} behind a tag");
    }
}

#[test]
fn other_llc_headers_have_no_ethernet_type() {
    let udp = golden::udp4();
    assert_eq!(key(&snap(&[], [0; 3], &udp)).tp_dst, U16::new(53));
    for organization in [[0, 0, 0xf8], [0, 0, 1], [1, 0, 0], [0, 0x80, 0xc2]] {
        assert_eq!(key(&snap(&[], organization, &udp)), link_key(0x05ff), "{organization:?}");
    }
    for at in 14..17 {
        let mut other = snap(&[], [0; 3], &udp);
        other[at] ^= 1;
        assert_eq!(key(&other), link_key(0x05ff), "byte {at}");
    }
    assert_eq!(key(&snap(&[], [0; 3], &udp)[..21]), link_key(0x05ff), "cut short");
    assert_eq!(key(&snap(&[], [0; 3], &udp)[..22]), link_key(0x0800), "nothing behind it");
    let mut length = snap(&[], [0; 3], &udp);
    length[20..22].copy_from_slice(&[0x05, 0xff]);
    assert_eq!(key(&length), link_key(0x05ff), "a length behind it");
    // A tag is read where tags stand, before the length.
    let mut tag = snap(&[], [0; 3], &udp);
    tag[20..22].copy_from_slice(&[0x81, 0]);
    assert_eq!(key(&tag), link_key(0x8100));
    // The length itself is not believed: receivers differ about it.
    let mut short = snap(&[], [0; 3], &udp);
    short[12..14].fill(0);
    assert_eq!(key(&short), key(&udp));
}

#[test]
fn types_around_the_smallest_are_lengths_up_to_it() {
    let payload = &golden::udp4()[14..];
    for eth_type in [0, 1, 0x05db, 0x05dc, 0x05dd, 0x05fe, 0x05ff] {
        assert_eq!(key(&golden::ethernet(&[], eth_type, payload)), link_key(0x05ff));
    }
    for eth_type in [0x0600, 0x0601, 0x0801, 0x9100, 0x9200, 0x8847, 0x8864, 0xffff] {
        assert_eq!(key(&golden::ethernet(&[golden::TAG_10][..0], eth_type, payload)), link_key(eth_type));
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
fn neighbour_discovery_is_read_as_receivers_would() {
    let fields = |frame: &[u8]| {
        let key = key(frame);
        assert!(key.tp_src.get() >= 133);
        (key.nd_target, key.hw_src, key.hw_dst)
    };
    let none = ([0; 16], [0; 6], [0; 6]);
    let (source, target) = (golden::OPTION_SOURCE, golden::OPTION_TARGET);
    let solicitation = |options: &[u8]| fields(&golden::neighbour(135, 0, 255, options));
    let both = (FD00_2, MAC_1, MAC_2);
    assert_eq!(solicitation(&[source, target].concat()), both);
    assert_eq!(fields(&golden::neighbour(135, 1, 255, &source)), none, "has a code");
    assert_eq!(fields(&golden::neighbour(134, 0, 255, &source)), none, "is a router's");
    // Receivers discard these, to Open vSwitch they are what they claim.
    assert_eq!(fields(&golden::neighbour(135, 0, 254, &source)), (FD00_2, MAC_1, [0; 6]), "was routed");
    assert_eq!(solicitation(&[1, 0, 2, 0, 0, 0, 0, 1]), (FD00_2, [0; 6], [0; 6]), "option of length zero");
    assert_eq!(solicitation(&[1, 2, 2, 0, 0, 0, 0, 1]), (FD00_2, [0; 6], [0; 6]), "option too long");
    assert_eq!(solicitation(&source[..7]), (FD00_2, [0; 6], [0; 6]), "option cut short");
    assert_eq!(
        solicitation(&[&source[..], &[2, 9, 0, 0, 0, 0, 0, 0]].concat()),
        (FD00_2, MAC_1, [0; 6]),
        "malformed option behind a good one"
    );
    let long = [&[1, 2, 9, 9, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0][..], &source].concat();
    assert_eq!(solicitation(&long), (FD00_2, MAC_1, [0; 6]), "the address of another kind of link is none");
    // Receivers take the first of two.
    let other = [1, 1, 2, 0, 0, 0, 0, 9];
    assert_eq!(solicitation(&[source, other].concat()), (FD00_2, MAC_1, [0; 6]));
    assert_eq!(solicitation(&[source, source, target].concat()), both);
    // However many options come before the one that counts, and wherever the head ends.
    for count in [1, 8, 9, 12, 13, 14, 15, 16, 100, 300, 4000] {
        let nonces = [14, 1, 0, 0, 0, 0, 0, 0].repeat(count);
        assert_eq!(solicitation(&[&nonces[..], &source, &target].concat()), both, "behind {count}");
        assert_eq!(solicitation(&[&source[..], &nonces, &target].concat()), both, "around {count}");
    }
}

#[test]
fn neighbour_discovery_cut_short_has_no_fields() {
    let whole = golden::neighbour(136, 0, 255, &golden::OPTION_TARGET);
    for len in 0..24 {
        let frame = golden::ethernet(&[], 0x86dd, &golden::ipv6(58, 255, &whole[54..54 + len]));
        let kind = if len < 8 { 0 } else { 136 };
        let expected = FlowKey { ip_ttl: 255, ..with_ports(ipv6_key(58), kind, 0) };
        assert_eq!(key(&frame), expected, "{len} bytes");
    }
}

#[test]
fn lengths_of_802_3_are_one_ethernet_type() {
    assert_eq!(key(&golden::ethernet(&[], 3, &[0x42, 0x42, 3])), link_key(0x05ff));
    assert_eq!(key(&golden::ethernet(&[], 0x05ff, &[0; 50])), link_key(0x05ff));
    assert_eq!(key(&golden::ethernet(&[], 0x0600, &[0; 50])), link_key(0x0600));
}

#[test]
fn tags_beyond_the_limit_are_payload() {
    let one = |frame: &[u8]| try_key(frame, Offload::NONE, VlanLimit::One, Depth::Transport).unwrap();
    let (s_20, c_10) = (golden::TAG_S_20, golden::TAG_10);
    let outer = |tpid, tci| [tag(tpid, tci), KeyTag::default()];
    assert_eq!(one(&golden::tcp4_tagged()), FlowKey { vlan: outer(0x88a8, 20), ..link_key(0x8100) });
    let reversed = golden::ethernet(&[c_10, s_20], 0x0800, &golden::udp4()[14..]);
    assert_eq!(one(&reversed), FlowKey { vlan: outer(0x8100, 0x600a), ..link_key(0x88a8) });
    let single = golden::ethernet(&[c_10], 0x0800, &golden::udp4()[14..]);
    assert_eq!(one(&single), key(&single));
    assert_eq!(one(&single[..17]), link_key(0x8100), "cut short");
    // The drop-eligible bit is no part of a key.
    let eligible = golden::ethernet(&[[0x81, 0, 0x70, 0x0a]], 0x0800, &golden::udp4()[14..]);
    assert_eq!(one(&eligible), one(&single));
}

/// Linux takes off any number of tags of VLAN 0, so a frame may not hide behind them what it carries.
#[test]
fn tags_of_vlan_0_beyond_the_limit_are_passed_over() {
    let at = |frame: &[u8], limit| try_key(frame, Offload::NONE, limit, Depth::Transport).unwrap();
    let (priority, drop_eligible, in_10) = ([0x81, 0, 0xe0, 0], [0x88, 0xa8, 0x10, 0], golden::TAG_10);
    let arp = golden::arp();
    let tagged = |tags: &[[u8; 4]]| golden::ethernet(tags, 0x0806, &arp[14..]);
    for limit in [VlanLimit::One, VlanLimit::Two] {
        let read = usize::from(limit.tags());
        for outer in [priority, in_10] {
            let tags = vec![outer; read];
            let expected = at(&tagged(&tags), limit);
            assert_eq!(expected.ip_proto, 1);
            for count in [1, 2, 3, 40, 41, 42, 50, 500, 600, 10_000] {
                let more = [&tags[..], &vec![priority; count - 1], &[drop_eligible]].concat();
                assert_eq!(at(&tagged(&more), limit), expected, "{count} more than {limit:?}");
            }
            // Before SNAP, and behind it.
            let more = [&tags[..], &[priority; 2]].concat();
            assert_eq!(at(&snap(&more, [0; 3], &arp), limit), expected);
            let inside = golden::ethernet(&[priority; 2], 0x0806, &arp[14..]);
            assert_eq!(at(&snap(&more, [0; 3], &inside), limit), expected);
            // One that has a VLAN is payload.
            let hidden = [&tags[..], &[priority, in_10, priority]].concat();
            assert_eq!(at(&tagged(&hidden), limit), FlowKey { vlan: expected.vlan, ..link_key(0x8100) });
        }
    }
    // Cut short, it is no tag.
    let frame = tagged(&[in_10, priority, priority]);
    let one_tag = [tag(0x8100, 0x600a), KeyTag::default()];
    for (len, eth_type) in [(18, 0x8100), (21, 0x8100), (22, 0x8100), (25, 0x8100), (26, 0x0806)] {
        let expected = FlowKey { vlan: one_tag, ..link_key(eth_type) };
        assert_eq!(at(&frame[..len], VlanLimit::One), expected, "{len} bytes");
    }
    // Edits find the headers where extraction does.
    let layers = |frame: &[u8]| Layers::locate(frame, Extent::of(frame.len())).unwrap();
    let ip = golden::ethernet(&[in_10, priority, priority], 0x0800, &golden::udp4()[14..]);
    assert_eq!(layers(&ip).network, 26);
    assert_eq!(layers(&snap(&[in_10, priority], [0; 3], &golden::udp4())).network, 30);
}

/// The rest of the chain may come with the next fragment (RFC 7112): rules must see that it is one.
#[test]
fn first_fragment_that_cuts_the_chain_is_a_fragment() {
    let expected = FlowKey { ip_frag: FRAG_ANY, ..ipv6_key(44) };
    let header = |next: u8| [next, 0, 0, 1, 0, 0, 0, 9];
    for rest in [&[][..], &[6, 0, 1, 4], &[6, 1, 1, 4, 0, 0, 0, 0], &[60, 0, 1, 4, 0, 0, 0, 0]] {
        let payload = [&header(60)[..], rest].concat();
        let mut frame = golden::ethernet(&[], 0x86dd, &golden::ipv6(44, 64, &payload));
        assert_eq!(key(&frame), expected, "{rest:?}");
        frame.resize(300, 0xee);
        assert_eq!(key(&frame), expected, "{rest:?}, padded");
    }
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
        ("header shorter than 20", spoil(v4(), 14, 0x44)),
        ("header longer than the packet", spoil(spoil(v4(), 14, 0x4f), 17, 59)),
        ("total length shorter than the header", spoil(v4(), 17, 19)),
        ("total length longer than the frame", spoil(v4(), 17, 51)),
    ] {
        assert_eq!(key(&frame), link_key(0x0800), "{name}");
    }
    for len in 0..20 {
        assert_eq!(key(&v4()[..14 + len]), link_key(0x0800), "cut short");
    }
    for len in 0..40 {
        assert_eq!(key(&golden::tcp6()[..14 + len]), link_key(0x86dd), "cut short");
    }
    // The Ethernet type says what the packet is, as in Open vSwitch.
    assert_eq!(key(&spoil(v4(), 14, 0x65)), key(&v4()), "version");
    assert_eq!(key(&spoil(golden::tcp6(), 14, 0x4b)), key(&golden::tcp6()), "version");
    assert_eq!(key(&spoil(golden::tcp6(), 19, 21)), link_key(0x86dd), "payload longer than the frame");
}

#[test]
fn malformed_transport_header_has_no_fields() {
    let v4 = |protocol: u8, payload: &[u8]| {
        let mut frame = golden::ethernet(&[], 0x0800, &golden::ipv4(protocol, 0, &[], payload));
        frame.extend([0xee; 30]);
        frame
    };
    let v6 = |protocol: u8, payload: &[u8]| {
        let mut frame = golden::ethernet(&[], 0x86dd, &golden::ipv6(protocol, 64, payload));
        frame.extend([0xee; 30]);
        frame
    };
    let upper = [
        (6, golden::tcp(0x12, &[], &[]), 20),
        (17, golden::udp(&[]), 8),
        (132, vec![0x0b, 0xb8, 0x0b, 0xb9, 1, 2, 3, 4, 5, 6, 7, 8], 12),
    ];
    for (protocol, header, least) in upper {
        for len in 0..=header.len() {
            let has_ports = key(&v4(protocol, &header[..len])).tp_dst != U16::ZERO;
            assert_eq!(has_ports, len >= least, "protocol {protocol}, {len} bytes");
            assert_eq!(key(&v6(protocol, &header[..len])).tp_dst != U16::ZERO, has_ports);
            if !has_ports {
                assert_eq!(key(&v4(protocol, &header[..len])), ipv4_key(protocol));
                assert_eq!(key(&v6(protocol, &header[..len])), ipv6_key(protocol));
            }
        }
    }
    let ping = [8, 3, 0, 0, 0, 1, 0, 1];
    for len in 0..=8 {
        let expected = if len < 8 { ipv4_key(1) } else { with_ports(ipv4_key(1), 8, 3) };
        assert_eq!(key(&v4(1, &ping[..len])), expected, "{len} bytes of ICMP");
        let expected = if len < 8 { ipv6_key(58) } else { with_ports(ipv6_key(58), 8, 3) };
        assert_eq!(key(&v6(58, &ping[..len])), expected, "{len} bytes of ICMPv6");
    }
    // TCP says itself how long its header is.
    let segment = golden::tcp(0x12, &[1; 8], &[0x55; 4]);
    for words in 0..16_u8 {
        let mut odd = segment.clone();
        odd[12] = words << 4;
        let expected = if (5..=8).contains(&words) {
            FlowKey { tcp_flags: U16::new(0x12), ..with_ports(ipv4_key(6), 0x1234, 80) }
        } else {
            ipv4_key(6)
        };
        assert_eq!(key(&v4(6, &odd)), expected, "data offset {words}");
        assert_eq!(key(&v6(6, &odd)).tp_src, expected.tp_src, "data offset {words}");
    }
    // Options beyond the head are there all the same.
    let tcp = options_before(6, 112, &golden::tcp(0x12, &[1; 40], &[]));
    let frame = golden::ethernet(&[], 0x86dd, &golden::ipv6(60, 64, &tcp));
    assert_eq!(key(&frame).tp_dst, U16::new(80));
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
fn frame_shorter_than_ethernet_has_no_key() {
    for len in 0..14 {
        for depth in [Depth::Link, Depth::Transport] {
            let key = try_key(&golden::udp4()[..len], Offload::NONE, VlanLimit::One, depth);
            assert_eq!(key, Err(DropReason::FrameTooShort));
        }
    }
}

/// Which positions of the checksum are refused at each depth, for a frame as long as it needs.
fn refused(frame: &[u8], depth: Depth) -> Vec<usize> {
    let mut frame = frame.to_vec();
    frame.resize(300.max(frame.len()), 0xee);
    let is_refused = |&position: &usize| {
        let position = u16::try_from(position).unwrap();
        let (start, offset) = (position / 2, position - position / 2);
        let offload = Offload { checksum: Checksum::Partial { start, offset }, ..Offload::NONE };
        match try_key(&frame, offload, VlanLimit::Two, depth) {
            Ok(_) => false,
            Err(reason) => {
                assert_eq!(reason, DropReason::BadOffload);
                true
            }
        }
    };
    (0..frame.len() - 1).filter(is_refused).collect()
}

#[test]
fn checksum_that_would_be_written_over_a_header_that_was_read_is_refused() {
    let all_but = |end: usize, checksum: usize| (0..end).filter(|&at| at != checksum).collect::<Vec<_>>();
    let up_to = |end: usize| (0..end).collect::<Vec<_>>();
    // The link layer is always read, the network layer and the ports if rules ask for them.
    let udp = golden::udp4();
    assert_eq!(refused(&udp, Depth::Link), up_to(14));
    assert_eq!(refused(&udp, Depth::Network), up_to(34));
    assert_eq!(refused(&udp, Depth::Transport), all_but(42, 40));
    let tcp = golden::tcp4_tagged();
    assert_eq!(refused(&tcp, Depth::Link), up_to(22));
    assert_eq!(refused(&tcp, Depth::Transport), all_but(62, 58));
    assert_eq!(refused(&golden::tcp6(), Depth::Transport), all_but(74, 70));
    assert_eq!(refused(&golden::udp6_extensions(), Depth::Network), up_to(110));
    assert_eq!(refused(&golden::udp6_extensions(), Depth::Transport), all_but(118, 116));
    assert_eq!(refused(&golden::icmp4(), Depth::Transport), all_but(46, 40));
    assert_eq!(refused(&golden::sctp4(), Depth::Transport), all_but(46, 42));
    assert_eq!(refused(&golden::arp(), Depth::Network), up_to(42));
    assert_eq!(refused(&golden::arp(), Depth::Transport), up_to(42));
    let other = golden::ethernet(&[], 0x88cc, &[0; 50]);
    assert_eq!(refused(&other, Depth::Transport), up_to(14));
    assert_eq!(refused(&snap(&[], [0; 3], &other), Depth::Link), up_to(22));
    // All of a neighbour message may be options.
    let neighbour = golden::neighbour(135, 0, 255, &golden::OPTION_SOURCE);
    assert_eq!(refused(&neighbour, Depth::Transport), all_but(neighbour.len(), 56));
    let later = golden::fragment4(1);
    assert_eq!(refused(&later, Depth::Transport), up_to(34), "a later fragment has no ports");
    // A malformed header could become a good one.
    let mut malformed = golden::udp4();
    malformed[17] = 19;
    assert_eq!(refused(&malformed, Depth::Link), up_to(14));
    assert_eq!(refused(&malformed, Depth::Network), up_to(299));
    let chain = golden::ethernet(&[], 0x86dd, &golden::ipv6(60, 64, &[17, 9, 0, 0, 0, 0, 0, 0]));
    assert_eq!(refused(&chain, Depth::Network), up_to(299));
    let mut short_offset = golden::tcp6();
    short_offset[66] = 0x40;
    assert_eq!(refused(&short_offset, Depth::Transport), all_but(74, 70));
    // The checksum of a tunnel's inner packet.
    let tunnel = golden::ethernet(&[], 0x0800, &golden::ipv4(17, 0, &[], &golden::udp(&[0; 100])));
    let checksum = Checksum::Partial { start: 34 + 8 + 8 + 34, offset: 16 };
    let offload = Offload { checksum, ..Offload::NONE };
    assert!(try_key(&tunnel, offload, VlanLimit::One, Depth::Transport).is_ok());
}

#[test]
fn depths_agree_and_leave_deeper_words_alone_at_every_length() {
    let long = golden::udp6_many_extensions(300);
    for (name, frame) in golden::all().into_iter().chain([("long", long)]) {
        for len in (14..=frame.len()).filter(|len| *len < 250 || len % 97 == 0) {
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
    let layers = Layers::locate(&frame, Extent::of(frame.len())).unwrap();
    assert_eq!((layers.network, layers.transport, layers.end), (22, 42, frame.len()));
    assert_eq!(layers.protocol, 6);
    let frame = golden::udp6_extensions();
    let layers = Layers::locate(&frame, Extent::of(frame.len() + 100)).unwrap();
    assert_eq!((layers.network, layers.transport, layers.end), (14, 14 + 40 + 56, frame.len()));
    assert_eq!(layers.transport_bytes(&frame)[..2], [0x04, 0xd2]);
    assert_eq!(Layers::locate(&golden::arp(), Extent::of(60)), Err(Missing::Malformed));
    for (name, frame) in golden::all() {
        for len in 0..=frame.len() {
            let head = &frame[..len];
            if let Ok(layers) = Layers::locate(head, Extent::of(frame.len())) {
                assert!(layers.network <= layers.transport && layers.transport <= layers.end, "{name}");
                assert!(layers.end <= frame.len() && layers.transport_bytes(head).len() <= len, "{name}");
            }
        }
    }
}
