//! Golden frames before and after, and every header of every golden frame rewritten at random.

use proptest::prelude::*;

use zerocopy::byteorder::big_endian::U32;

use super::crc32c::tests::crc32c;
use super::*;
use crate::flow::extract::extract_at;
use crate::flow::key::Depth;
use crate::packet::{GsoKind, Offload};
use crate::wire::Extent;
use crate::wire::golden::{self, load};

/// RFC 1071, over pieces of which all but the last have an even length.
fn sum(pieces: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for pair in pieces.iter().flat_map(|piece| piece.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum >> 16) + (sum & 0xffff);
    }
    u16::try_from(sum).unwrap()
}

/// Where the transport checksum of a frame stands, and the sum of its pseudo-header; `None` if it has none. Frames
/// with a routing header have no segments left.
fn transport_sum(frame: &[u8]) -> Option<(Layers, usize, u16)> {
    let layers = Layers::locate(frame, Extent::of(frame.len())).ok()?;
    let offset = match (layers.protocol, layers.version) {
        _ if layers.fragment != 0 => return None,
        (6, _) => 16,
        (17, _) => 6,
        (58, IpVersion::V6) | (1, IpVersion::V4) => 2,
        _ => return None,
    };
    let len = u16::try_from(layers.end - layers.transport).unwrap().to_be_bytes();
    let ip = &frame[layers.network..];
    let pseudo = match (layers.protocol, layers.version) {
        (1, _) => 0,
        (protocol, IpVersion::V4) => sum(&[&ip[12..20], &len, &[0, protocol]]),
        (protocol, IpVersion::V6) => sum(&[&ip[8..40], &len, &[0, protocol]]),
    };
    Some((layers, layers.transport + offset, pseudo))
}

/// The frame with every checksum made right from scratch.
fn sealed(mut frame: Vec<u8>) -> Vec<u8> {
    if let Ok(layers) = Layers::locate(&frame, Extent::of(frame.len())) {
        if layers.version == IpVersion::V4 {
            let header_len = usize::from(frame[layers.network] & 0xf) * 4;
            frame[layers.network + 10..layers.network + 12].fill(0);
            let checksum = !sum(&[&frame[layers.network..][..header_len]]);
            frame[layers.network + 10..layers.network + 12].copy_from_slice(&checksum.to_be_bytes());
        }
        if (layers.protocol, layers.fragment) == (132, 0) {
            frame[layers.transport + 8..layers.transport + 12].fill(0);
            let crc = crc32c(&frame[layers.transport..layers.end]);
            frame[layers.transport + 8..layers.transport + 12].copy_from_slice(&crc.to_le_bytes());
        }
    }
    if let Some((layers, at, pseudo)) = transport_sum(&frame) {
        frame[at..at + 2].fill(0);
        let checksum = !sum(&[&pseudo.to_be_bytes(), &frame[layers.transport..layers.end]]);
        let checksum = if checksum == 0 && layers.protocol == 17 { 0xffff } else { checksum };
        frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    frame
}

fn key_of(burst: &mut Burst) -> FlowKey {
    let mut key = FlowKey::default();
    extract_at(burst, 0, VlanLimit::Two, Depth::Transport, &mut key).unwrap();
    key
}

/// All of the packet, which may still have a tail.
fn bytes_of(burst: &Burst) -> Vec<u8> {
    let frame = burst.frame(0);
    let mut bytes = frame.head.to_vec();
    bytes.resize(frame.len(), 0xa5);
    frame.tail.copy_to(&mut bytes[frame.head.len()..]);
    bytes
}

/// The bits of `wanted` that can be rewritten in a packet with this key without making it another kind of packet.
fn possible(key: &FlowKey, wanted: &FlowKey) -> FlowKey {
    let none = FlowKey::default();
    let (ip, v4) = (matches!(key.eth_type.get(), 0x800 | 0x86dd), key.eth_type.get() == 0x800);
    let arp = key.eth_type.get() == 0x806;
    let tag = |nth: usize| {
        let is_there = key.vlan[nth].is_present();
        if is_there {
            KeyTag { tpid: U16::ZERO, tci: wanted.vlan[nth].tci & U16::new(!VLAN_PRESENT) }
        } else {
            none.vlan[0]
        }
    };
    let low = |address: [u8; 16]| {
        let mut low = [0; 16];
        low[12..].copy_from_slice(&address[12..]);
        low
    };
    let address = |address| {
        if ip && !v4 {
            address
        } else if ip || arp {
            low(address)
        } else {
            [0; 16]
        }
    };
    let has_ports = ip && matches!(key.ip_proto, 6 | 17 | 132) && key.ip_frag == 0 && key.tp_src != U16::ZERO;
    let neighbour = key.nd_target != none.nd_target;
    FlowKey {
        eth_dst: wanted.eth_dst,
        eth_src: wanted.eth_src,
        vlan: [tag(0), tag(1)],
        ip_proto: if arp { wanted.ip_proto } else { 0 },
        ip_tos: if ip { wanted.ip_tos } else { 0 },
        ip_ttl: if ip { wanted.ip_ttl } else { 0 },
        ipv6_label: if ip && !v4 { wanted.ipv6_label & U32::new(0xf_ffff) } else { none.ipv6_label },
        ip_src: address(wanted.ip_src),
        ip_dst: address(wanted.ip_dst),
        tp_src: if has_ports { wanted.tp_src } else { U16::ZERO },
        tp_dst: if has_ports { wanted.tp_dst } else { U16::ZERO },
        nd_target: if neighbour { wanted.nd_target } else { none.nd_target },
        hw_src: if arp || neighbour && key.hw_src != none.hw_src { wanted.hw_src } else { none.hw_src },
        hw_dst: if arp || neighbour && key.hw_dst != none.hw_dst { wanted.hw_dst } else { none.hw_dst },
        ..none
    }
}

fn any_key() -> impl Strategy<Value = FlowKey> {
    prop::array::uniform23(prop_oneof![any::<u64>(), Just(0), Just(u64::MAX)]).prop_map(|words| {
        let mut key = FlowKey::default();
        key.words_mut().copy_from_slice(&words);
        key
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The key of the rewritten packet is the old one with the bits overwritten, and every checksum is what it would be if
    /// worked out anew, whether it was complete or partial.
    #[test]
    fn rewritten_frame_has_the_new_fields_and_right_checksums(
        which in 0..golden::all().len(),
        mask in any_key(),
        value in any_key(),
        is_partial in any::<bool>(),
        cut in 150_usize..400,
    ) {
        let (name, frame) = golden::all().swap_remove(which);
        let mut frame = sealed(frame);
        let mut offload = Offload::default();
        if is_partial && let Some((layers, at, pseudo)) = transport_sum(&frame) && layers.protocol != 1 {
            frame[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
            let (start, offset) = (layers.transport, at - layers.transport);
            offload.checksum =
                Checksum::Partial { start: start.try_into().unwrap(), offset: offset.try_into().unwrap() };
        }
        let mut loaded = load(&frame, offload, &[cut]);
        let before = key_of(&mut loaded.burst);
        let mask = possible(&before, &mask);
        let rewrite = Rewrite::new(&mask, &value);
        prop_assert_eq!(rewrite.mask(), &mask);
        prop_assert_eq!(rewrite.apply(&mut loaded.burst, 0), Ok(()), "{}", name);
        let mut wanted = before;
        let rows = wanted.words_mut().iter_mut().zip(mask.words()).zip(value.words());
        rows.for_each(|((word, mask), value)| *word = *word & !mask | value & mask);
        let after = key_of(&mut loaded.burst);
        // An address that became zero reads as absent, and so does a port; only then may keys tell less.
        prop_assert_eq!(after, wanted, "{}", name);
        prop_assert_eq!(loaded.burst.packets()[0].offload, offload);
        let mut bytes = bytes_of(&loaded.burst);
        if let Checksum::Partial { .. } = offload.checksum {
            let (_, at, pseudo) = transport_sum(&bytes).unwrap();
            prop_assert!(
                [pseudo, 0, 0xffff].contains(&u16::from_be_bytes([bytes[at], bytes[at + 1]])),
                "{}: the pseudo-header's sum", name
            );
            let checksum = sealed(bytes.clone());
            bytes[at..at + 2].copy_from_slice(&checksum[at..at + 2]);
        }
        prop_assert_eq!(&sealed(bytes.clone()), &bytes, "{}", name);
    }
}

fn rewrite(change: impl FnOnce(&mut FlowKey, &mut FlowKey)) -> Rewrite {
    let (mut mask, mut value) = (FlowKey::default(), FlowKey::default());
    change(&mut mask, &mut value);
    Rewrite::new(&mask, &value)
}

fn to_10_9_8_7() -> Rewrite {
    rewrite(|mask, value| {
        mask.ip_dst[12..].fill(0xff);
        value.ip_dst[12..].copy_from_slice(&[10, 9, 8, 7]);
    })
}

fn to_port_443() -> Rewrite {
    rewrite(|mask, value| {
        mask.tp_dst = U16::MAX_VALUE;
        value.tp_dst = 443.into();
    })
}

#[test]
fn golden_router_hop_changes_addresses_ttl_and_checksum_alone() {
    let frame = sealed(golden::udp4());
    assert_eq!(frame[22..26], [64, 17, 0x26, 0x01]);
    let hop = rewrite(|mask, value| {
        (mask.eth_dst, mask.eth_src, mask.ip_ttl) = ([0xff; 6], [0xff; 6], 0xff);
        (value.eth_dst, value.eth_src, value.ip_ttl) = ([2, 0, 0, 0, 9, 9], [2, 0, 0, 0, 8, 8], 63);
    });
    let mut loaded = load(&frame, Offload::default(), &[64]);
    assert_eq!(hop.apply(&mut loaded.burst, 0), Ok(()));
    let mut wanted = frame;
    wanted[..12].copy_from_slice(&[2, 0, 0, 0, 9, 9, 2, 0, 0, 0, 8, 8]);
    wanted[22..26].copy_from_slice(&[63, 17, 0x27, 0x01]);
    assert_eq!(bytes_of(&loaded.burst), wanted);
}

#[test]
fn udp_without_a_checksum_keeps_none() {
    let frame = golden::udp4();
    let mut loaded = load(&frame, Offload::default(), &[64]);
    assert_eq!(to_10_9_8_7().apply(&mut loaded.burst, 0), Ok(()));
    assert_eq!(to_port_443().apply(&mut loaded.burst, 0), Ok(()));
    assert_eq!(
        bytes_of(&loaded.burst)[36..42],
        [443_u16.to_be_bytes()[0], 443_u16.to_be_bytes()[1], 0, 30, 0, 0]
    );
}

#[test]
fn damaged_checksum_stays_damaged() {
    for mut frame in [sealed(golden::tcp6()), sealed(golden::sctp4())] {
        let last = frame.len() - 1;
        frame[last] ^= 0x40;
        let damage =
            |frame: &[u8]| frame.iter().zip(sealed(frame.to_vec())).map(|(a, b)| a ^ b).collect::<Vec<_>>();
        let mut loaded = load(&frame, Offload::default(), &[500]);
        assert_eq!(to_port_443().apply(&mut loaded.burst, 0), Ok(()));
        assert_ne!(sealed(bytes_of(&loaded.burst)), bytes_of(&loaded.burst));
        if frame[23] == 132 {
            assert_eq!(
                damage(&bytes_of(&loaded.burst)),
                damage(&frame),
                "a CRC is off by the very same bits"
            );
        }
    }
}

#[test]
fn sum_of_a_frame_to_be_segmented_follows_addresses_and_not_ports() {
    let payload = vec![0x5a; 3000];
    let frame =
        golden::ethernet(&[], 0x0800, &golden::ipv4(6, 0x4000, &[], &golden::tcp(0x018, &[], &payload)));
    let (_, at, pseudo) = transport_sum(&frame).unwrap();
    let mut frame = sealed(frame);
    frame[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    let offload = Offload {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso: GsoKind::TcpV4,
        gso_ecn: false,
        gso_size: 1448,
        header_len: 54,
    };
    let mut loaded = load(&frame, offload, &[4096]);
    assert_eq!(to_port_443().apply(&mut loaded.burst, 0), Ok(()));
    assert_eq!(bytes_of(&loaded.burst)[at..at + 2], pseudo.to_be_bytes());
    assert_eq!(to_10_9_8_7().apply(&mut loaded.burst, 0), Ok(()));
    let mut whole = frame.clone();
    whole[..bytes_of(&loaded.burst).len()].copy_from_slice(&bytes_of(&loaded.burst));
    let (.., pseudo) = transport_sum(&whole).unwrap();
    assert_eq!(bytes_of(&loaded.burst)[at..at + 2], pseudo.to_be_bytes());
    assert_eq!(loaded.burst.packets()[0].offload, offload);
}

#[test]
fn fragments_change_as_far_as_they_have_headers() {
    let mut first = golden::fragment4(0x2000);
    first[40..42].copy_from_slice(&[0x12, 0x34]);
    let mut loaded = load(&first, Offload::default(), &[500]);
    assert_eq!(to_10_9_8_7().apply(&mut loaded.burst, 0), Ok(()));
    // 10.0.0.2 became 10.9.8.7: the sum grew by 0x0009 + 0x0805.
    assert_eq!(bytes_of(&loaded.burst)[40..42], (!(!0x1234_u16 + 0x0009 + 0x0805)).to_be_bytes());
    let later = golden::fragment4(0x0001);
    let mut loaded = load(&later, Offload::default(), &[500]);
    assert_eq!(to_10_9_8_7().apply(&mut loaded.burst, 0), Ok(()));
    assert_eq!(bytes_of(&loaded.burst)[34..], later[34..]);
    assert_eq!(to_port_443().apply(&mut loaded.burst, 0), Err(DropReason::CannotRewrite));
    let sctp = golden::ethernet(&[], 0x0800, &golden::ipv4(132, 0x2000, &[], &[1; 20]));
    let mut loaded = load(&sctp, Offload::default(), &[500]);
    assert_eq!(to_port_443().apply(&mut loaded.burst, 0), Err(DropReason::CannotRewrite));
}

#[test]
fn destination_of_a_routed_packet_is_not_what_its_checksum_covers() {
    for (segments_left, is_covered) in [(0, true), (1, false)] {
        let mut payload = vec![17, 2, 4, segments_left, 0, 0, 0, 0];
        payload.extend([0xfd; 16]);
        payload.extend(golden::udp(&[0x55; 4]));
        let mut frame = golden::ethernet(&[], 0x86dd, &golden::ipv6(43, 64, &payload));
        let at = 14 + 40 + 24 + 6;
        frame[at..at + 2].copy_from_slice(&[0x12, 0x34]);
        let change = rewrite(|mask, value| (mask.ip_dst[15], value.ip_dst[15]) = (0xff, 0x77));
        let mut loaded = load(&frame, Offload::default(), &[500]);
        assert_eq!(change.apply(&mut loaded.burst, 0), Ok(()));
        assert_eq!(bytes_of(&loaded.burst)[14 + 39], 0x77);
        assert_eq!(bytes_of(&loaded.burst)[at..at + 2] != [0x12, 0x34], is_covered);
    }
}

#[test]
fn rules_may_push_more_tags_than_keys_hold() {
    let mut loaded = load(&sealed(golden::tcp4_tagged()), Offload::default(), &[500]);
    let tag = crate::wire::vlan::VlanTag { tpid: 0x8100.into(), tci: 7.into() };
    assert_eq!(crate::edit::vlan::push_vlan(&mut loaded.burst.packets_mut()[0], tag), Ok(()));
    assert_eq!(to_port_443().apply(&mut loaded.burst, 0), Ok(()));
    assert!(crate::edit::vlan::pop_vlan(&mut loaded.burst.packets_mut()[0]).is_some());
    assert_eq!(key_of(&mut loaded.burst).tp_dst.get(), 443);
    assert_eq!(sealed(bytes_of(&loaded.burst)), bytes_of(&loaded.burst));
}

#[test]
fn icmp_message_of_zeros_has_the_checksum_ffff() {
    let mut frame = golden::ethernet(&[], 0x0800, &golden::ipv4(1, 0, &[], &[0, 1, 0xff, 0xfe, 0, 0, 0, 0]));
    frame = sealed(frame);
    let mut loaded = load(&frame, Offload::default(), &[500]);
    assert_eq!(rewrite(|mask, _| mask.tp_dst = U16::MAX_VALUE).apply(&mut loaded.burst, 0), Ok(()));
    assert_eq!(bytes_of(&loaded.burst)[34..42], [0, 0, 0xff, 0xff, 0, 0, 0, 0]);
}

#[test]
fn arp_reply_is_made_of_a_request() {
    let reply = rewrite(|mask, value| {
        (mask.ip_proto, value.ip_proto) = (0xff, 2);
        (mask.hw_src, value.hw_src) = ([0xff; 6], [2, 0, 0, 0, 0, 2]);
        (mask.hw_dst, value.hw_dst) = ([0xff; 6], [2, 0, 0, 0, 0, 1]);
        mask.ip_src[12..].fill(0xff);
        mask.ip_dst[12..].fill(0xff);
        value.ip_src[12..].copy_from_slice(&[10, 0, 0, 2]);
        value.ip_dst[12..].copy_from_slice(&[10, 0, 0, 1]);
    });
    let mut reverse = golden::arp();
    reverse[12..14].copy_from_slice(&[0x80, 0x35]);
    for frame in [golden::arp(), reverse] {
        let mut loaded = load(&frame, Offload::default(), &[500]);
        assert_eq!(reply.apply(&mut loaded.burst, 0), Ok(()));
        let mut wanted = frame.clone();
        wanted[20..42].copy_from_slice(&[0, 2, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
        assert_eq!(bytes_of(&loaded.burst), wanted);
    }
}

#[test]
fn headers_that_are_malformed_are_refused() {
    let udp = golden::udp4();
    let mut wrong_length = udp.clone();
    wrong_length[14] = 0x44;
    let short_transport = golden::ethernet(&[], 0x0800, &golden::ipv4(6, 0, &[], &[1, 2, 3, 4]));
    let chain = golden::ethernet(&[], 0x86dd, &golden::ipv6(60, 64, &[17, 9, 0, 0, 0, 0, 0, 0]));
    let no_ip = golden::ethernet(&[], 0x88b5, &[0x42; 40]);
    for (name, frame) in [
        ("header length", &wrong_length[..]),
        ("cut", &udp[..30]),
        ("transport", &short_transport),
        ("extensions", &chain),
        ("no IP", &no_ip),
        ("runt", &udp[..10]),
    ] {
        let mut loaded = load(frame, Offload::default(), &[500]);
        assert_eq!(to_port_443().apply(&mut loaded.burst, 0), Err(DropReason::CannotRewrite), "{name}");
        let mut loaded = load(frame, Offload::default(), &[500]);
        let addresses = rewrite(|mask, _| mask.ip_dst = [0xff; 16]);
        assert_eq!(addresses.apply(&mut loaded.burst, 0), Err(DropReason::CannotRewrite), "{name}");
    }
    let tag = rewrite(|mask, _| mask.vlan[1].tci = U16::MAX_VALUE);
    let mut loaded = load(&golden::icmp4(), Offload::default(), &[500]);
    assert_eq!(tag.apply(&mut loaded.burst, 0), Err(DropReason::CannotRewrite), "one tag alone");
}

/// The rewrite is found to need a longer head before anything changed that a checksum covers, so that the checksum is
/// brought up to date once.
#[test]
fn headers_beyond_the_head_are_rewritten() {
    for count in [16, 17, 18, 30, 250, 2000] {
        let frame = sealed(golden::udp6_many_extensions(count));
        let change = rewrite(|mask, value| {
            (mask.eth_src, value.eth_src) = ([0xff; 6], [2, 0, 0, 0, 0, 7]);
            (mask.ip_src, value.ip_src) = ([0xff; 16], [0x20; 16]);
            (mask.tp_dst, value.tp_dst) = (U16::MAX_VALUE, U16::new(443));
        });
        let mut loaded = load(&frame, Offload::default(), &[100]);
        let before = key_of(&mut loaded.burst);
        let mut loaded = load(&frame, Offload::default(), &[100]);
        let tag = crate::wire::vlan::VlanTag { tpid: 0x8100.into(), tci: 7.into() };
        assert_eq!(crate::edit::vlan::push_vlan(&mut loaded.burst.packets_mut()[0], tag), Ok(()));
        assert_eq!(change.apply(&mut loaded.burst, 0), Ok(()));
        assert!(crate::edit::vlan::pop_vlan(&mut loaded.burst.packets_mut()[0]).is_some());
        let bytes = bytes_of(&loaded.burst);
        assert_eq!(sealed(bytes.clone()), bytes, "{count} extension headers");
        let wanted =
            FlowKey { eth_src: [2, 0, 0, 0, 0, 7], ip_src: [0x20; 16], tp_dst: U16::new(443), ..before };
        assert_eq!(key_of(&mut loaded.burst), wanted);
        assert_eq!(bytes.len(), frame.len());
    }
}

#[test]
fn only_the_option_that_counts_is_rewritten() {
    let options = [golden::OPTION_SOURCE, [1, 1, 2, 0, 0, 0, 0, 9], golden::OPTION_TARGET].concat();
    let frame = sealed(golden::neighbour(135, 0, 255, &options));
    let change = rewrite(|mask, value| (mask.hw_src, value.hw_src) = ([0xff; 6], [6; 6]));
    let mut loaded = load(&frame, Offload::default(), &[500]);
    assert_eq!(change.apply(&mut loaded.burst, 0), Ok(()));
    let mut wanted = frame.clone();
    wanted[80..86].fill(6);
    assert_eq!(bytes_of(&loaded.burst), sealed(wanted));
}
