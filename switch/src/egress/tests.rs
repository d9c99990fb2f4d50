use proptest::prelude::*;

use super::*;
use crate::wire::golden::{self, load};

const NO_LIMIT: usize = usize::MAX;

/// A frame that came out, in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Emitted {
    bytes: Vec<u8>,
    offload: Offload,
}

fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = frame.head.to_vec();
    bytes.resize(frame.len(), 0xa5);
    frame.tail.copy_to(&mut bytes[frame.head.len()..]);
    bytes
}

/// What `finish` makes of a frame that lies in pieces of the lengths `cuts`.
fn finish(
    frame: &[u8],
    offload: Offload,
    cuts: &[usize],
    caps: OffloadCaps,
    max_frame_bytes: usize,
) -> Result<Vec<Emitted>, DropReason> {
    let loaded = load(frame, offload, cuts);
    let mut emitted = Vec::new();
    let frame = loaded.burst.frame(0);
    Finisher::new().finish(&frame, caps, max_frame_bytes, |frame| {
        emitted.push(Emitted { bytes: bytes_of(frame), offload: *frame.offload });
        Ok(())
    })?;
    Ok(emitted)
}

/// The ones' complement sum of RFC 1071 §4.1, two bytes at a time, on top of `sum`.
fn naive_sum(mut sum: u32, bytes: &[u8]) -> u32 {
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum
}

/// Whether the transport checksum of an IP packet with addresses at `addresses` is right, given where its transport
/// header starts.
fn transport_checksum_is_right(
    frame: &[u8],
    addresses: std::ops::Range<usize>,
    protocol: u8,
    start: usize,
) -> bool {
    let len = u32::try_from(frame.len() - start).unwrap();
    let pseudo = naive_sum(naive_sum(len, &frame[addresses]), &[0, protocol]);
    naive_sum(pseudo, &frame[start..]) == 0xffff
}

fn partial(start: u16, offset: u16) -> Offload {
    Offload { checksum: Checksum::Partial { start, offset }, ..Offload::default() }
}

/// Puts the sum of the pseudo-header where the checksum belongs, as a guest's stack does.
fn seed_checksum(
    frame: &mut [u8],
    addresses: std::ops::Range<usize>,
    protocol: u8,
    start: usize,
    offset: usize,
) {
    let len = u32::try_from(frame.len() - start).unwrap();
    let sum = naive_sum(naive_sum(len, &frame[addresses]), &[0, protocol]);
    frame[start + offset..start + offset + 2].copy_from_slice(&u16::try_from(sum).unwrap().to_be_bytes());
}

/// UDP over IPv4 with a partial checksum.
fn udp4_partial(payload: &[u8]) -> Vec<u8> {
    let mut frame = golden::ethernet(&[], 0x0800, &golden::ipv4(17, 0, &[], &golden::udp(payload)));
    seed_checksum(&mut frame, 26..34, 17, 34, 6);
    frame
}

mod pass_through {
    use super::*;

    #[test]
    fn frame_without_work_keeps_its_own_bytes() {
        let frame = golden::udp4();
        let loaded = load(&frame, Offload::default(), &[64]);
        let given = loaded.burst.frame(0);
        let mut count = 0;
        let result = Finisher::new().finish(&given, OffloadCaps::NONE, 64, |frame| {
            count += 1;
            assert!(std::ptr::eq(frame.head, given.head));
            Ok(())
        });
        assert_eq!((result, count), (Ok(()), 1));
    }

    #[test]
    fn work_that_the_port_takes_is_left_to_it() {
        let frame = udp4_partial(&[1, 2, 3]);
        let offload = partial(34, 6);
        let emitted = finish(&frame, offload, &[64], OffloadCaps::ALL, NO_LIMIT);
        assert_eq!(emitted, Ok(vec![Emitted { bytes: frame, offload }]));
        let tcp = Tcp::default();
        let emitted = finish(&tcp.frame(), tcp.offload(), &[700], OffloadCaps::ALL, 1514);
        assert_eq!(emitted, Ok(vec![Emitted { bytes: tcp.frame(), offload: tcp.offload() }]));
    }

    #[test]
    fn too_long_frames_are_refused() {
        let frame = golden::udp4();
        let max = |max| finish(&frame, Offload::default(), &[64], OffloadCaps::ALL, max).map(|all| all.len());
        assert_eq!(max(64), Ok(1));
        assert_eq!(max(63), Err(DropReason::TooLong));
        let tcp = Tcp::default();
        let max =
            |max| finish(&tcp.frame(), tcp.offload(), &[64], OffloadCaps::ALL, max).map(|all| all.len());
        assert_eq!(max(1054), Ok(1), "segments with the shortest headers and 1000 bytes");
        assert_eq!(max(1053), Err(DropReason::TooLong));
    }

    #[test]
    fn checksum_positions_beyond_the_frame_are_refused() {
        let frame = golden::udp4();
        let at = |start, offset| {
            let all = finish(&frame, partial(start, offset), &[64], OffloadCaps::ALL, NO_LIMIT);
            all.map(|all| all.len())
        };
        assert_eq!(at(34, 28), Ok(1));
        assert_eq!(at(34, 29), Err(DropReason::BadOffload));
        assert_eq!(at(u16::MAX, u16::MAX), Err(DropReason::BadOffload));
    }

    #[test]
    fn what_the_emitter_says_is_returned_and_ends_the_work() {
        let tcp = Tcp::default();
        let (bytes, mut count) = (tcp.frame(), 0);
        let loaded = load(&bytes, tcp.offload(), &[700]);
        let result = Finisher::new().finish(&loaded.burst.frame(0), OffloadCaps::NONE, NO_LIMIT, |_| {
            count += 1;
            if count == 2 { Err(DropReason::NoGuestBuffer) } else { Ok(()) }
        });
        assert_eq!((result, count), (Err(DropReason::NoGuestBuffer), 2));
    }
}

mod completion {
    use super::*;

    #[test]
    fn checksum_is_computed_over_head_and_tail_of_any_length() {
        for len in [0, 1, 2, 149, 150, 151, 152, 1471, 1472, 9000] {
            let payload: Vec<u8> = (0..len).map(|i: usize| u8::try_from(i * 7 % 251).unwrap()).collect();
            let frame = udp4_partial(&payload);
            for cuts in [&[usize::MAX][..], &[3], &[13, 200, 7]] {
                let emitted = finish(&frame, partial(34, 6), cuts, OffloadCaps::NONE, NO_LIMIT).unwrap();
                let [Emitted { bytes, offload }] = emitted.as_slice() else { panic!("{emitted:?}") };
                assert!(transport_checksum_is_right(bytes, 26..34, 17, 34), "{len} bytes");
                assert_eq!(*offload, Offload::default());
                let mut expected = frame.clone();
                expected[40..42].copy_from_slice(&bytes[40..42]);
                assert_eq!(*bytes, expected, "nothing but the checksum changes");
            }
        }
    }

    #[test]
    fn known_datagram_has_the_known_checksum() {
        // 0a00+0001+0a00+0002 + 0011+000c (pseudo-header) + 04d2+0035+000c+0000 + dead+beef = 1b6cf, folded b6d0.
        let frame = udp4_partial(&[0xde, 0xad, 0xbe, 0xef]);
        let emitted = finish(&frame, partial(34, 6), &[64], OffloadCaps::NONE, NO_LIMIT).unwrap();
        assert_eq!(emitted[0].bytes[40..42], [0x49, 0x2f]);
    }

    #[test]
    fn zero_is_sent_as_ffff() {
        // The payload word that makes the sum of everything else 0xffff.
        let frame = udp4_partial(&[0, 0]);
        let rest = naive_sum(0, &frame[34..]);
        let [high, low] = (!u16::try_from(rest).unwrap()).to_be_bytes();
        let mut frame = frame;
        frame[42..44].copy_from_slice(&[high, low]);
        let emitted = finish(&frame, partial(34, 6), &[64], OffloadCaps::NONE, NO_LIMIT).unwrap();
        assert_eq!(emitted[0].bytes[40..42], [0xff, 0xff]);
    }

    #[test]
    fn field_may_lie_beyond_the_head() {
        let frame = udp4_partial(&[0x55; 400]);
        let at = |start| {
            finish(&frame, partial(start, 6), &[64], OffloadCaps::NONE, NO_LIMIT).map(|all| all.len())
        };
        assert_eq!(at(184), Ok(1), "ends with the head");
        assert_eq!(at(185), Ok(1));
        assert_eq!(at(434), Ok(1), "ends with the frame");
        assert_eq!(at(435), Err(DropReason::BadOffload));
    }

    #[test]
    fn tag_pushed_on_the_way_moves_the_sum_along() {
        let frame = udp4_partial(&[0x55; 301]);
        let mut loaded = load(&frame, partial(34, 6), &[64]);
        let tag = crate::wire::vlan::VlanTag { tpid: 0x8100.into(), tci: 10.into() };
        crate::edit::vlan::push_vlan(&mut loaded.burst.packets_mut()[0], tag).unwrap();
        let mut finished = Vec::new();
        let emit = |frame: &Frame<'_>| {
            finished = bytes_of(frame);
            Ok(())
        };
        assert_eq!(Finisher::new().finish(&loaded.burst.frame(0), OffloadCaps::NONE, NO_LIMIT, emit), Ok(()));
        assert!(transport_checksum_is_right(&finished, 30..38, 17, 38));
    }

    proptest! {
        #[test]
        fn sum_from_any_start_goes_to_any_field(
            frame in prop::collection::vec(any::<u8>(), 2..600),
            start in 0_u16..200,
            offset in 0_u16..200,
            cuts in prop::collection::vec(1_usize..300, 1..6),
        ) {
            let (begin, field) = (usize::from(start), usize::from(start + offset));
            let result = finish(&frame, partial(start, offset), &cuts, OffloadCaps::NONE, NO_LIMIT);
            if field + 2 > frame.len() {
                prop_assert_eq!(result, Err(DropReason::BadOffload));
            } else {
                let sum = !u16::try_from(naive_sum(0, &frame[begin..])).unwrap();
                let mut expected = frame.clone();
                expected[field..field + 2].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
                prop_assert_eq!(&result.unwrap()[0].bytes, &expected);
            }
        }
    }
}

/// A TCP frame to be segmented. Positions are worked out here, apart from the code under test.
#[derive(Debug, Clone)]
struct Tcp {
    v6: bool,
    tags: usize,
    /// IPv4 options or IPv6 extension headers, in units of eight bytes.
    network_extra: usize,
    /// TCP options in words.
    options: usize,
    flags: u16,
    payload_len: usize,
    gso_size: u16,
}

impl Default for Tcp {
    fn default() -> Self {
        Tcp {
            v6: false,
            tags: 0,
            network_extra: 0,
            options: 3,
            flags: 0x199,
            payload_len: 2500,
            gso_size: 1000,
        }
    }
}

impl Tcp {
    fn network(&self) -> usize {
        14 + 4 * self.tags
    }

    fn transport(&self) -> usize {
        self.network() + if self.v6 { 40 } else { 20 } + 8 * self.network_extra
    }

    fn headers(&self) -> usize {
        self.transport() + 20 + 4 * self.options
    }

    fn addresses(&self) -> std::ops::Range<usize> {
        let network = self.network();
        if self.v6 { network + 8..network + 40 } else { network + 12..network + 20 }
    }

    fn payload(&self) -> Vec<u8> {
        (0..self.payload_len).map(|i| u8::try_from((i ^ i >> 8) & 0xff).unwrap()).collect()
    }

    fn frame(&self) -> Vec<u8> {
        let segment = golden::tcp(self.flags, &vec![1; 4 * self.options], &self.payload());
        let tags = &[golden::TAG_S_20, golden::TAG_10][2 - self.tags..];
        let mut frame = if self.v6 {
            let mut payload = Vec::new();
            for index in 1..=self.network_extra {
                payload.extend([if index == self.network_extra { 6 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
            }
            payload.extend(segment);
            let next_header = if self.network_extra == 0 { 6 } else { 60 };
            golden::ethernet(tags, 0x86dd, &golden::ipv6(next_header, 64, &payload))
        } else {
            let options = vec![1; 8 * self.network_extra];
            golden::ethernet(tags, 0x0800, &golden::ipv4(6, 0x4000, &options, &segment))
        };
        seed_checksum(&mut frame, self.addresses(), 6, self.transport(), 16);
        frame
    }

    fn offload(&self) -> Offload {
        Offload {
            checksum: Checksum::Partial { start: u16::try_from(self.transport()).unwrap(), offset: 16 },
            gso: if self.v6 { GsoKind::TcpV6 } else { GsoKind::TcpV4 },
            gso_ecn: false,
            gso_size: self.gso_size,
            // Wrong on purpose: it is a hint, and a guest's.
            header_len: 1,
        }
    }

    /// Checks every field of every segment, and that the payloads make up the original one.
    fn check(&self, emitted: &[Emitted], caps: OffloadCaps) {
        let original = self.frame();
        let (network, transport, headers) = (self.network(), self.transport(), self.headers());
        let gso_size = usize::from(self.gso_size);
        assert_eq!(emitted.len(), self.payload_len.div_ceil(gso_size).max(1));
        let mut payload = Vec::<u8>::new();
        for (index, Emitted { bytes, offload }) in emitted.iter().enumerate() {
            let (first, last) = (index == 0, index + 1 == emitted.len());
            let mut bytes = bytes.clone();
            // 1. The checksum, or the order to compute it, which is then obeyed the naive way.
            if caps.checksum {
                let start = u16::try_from(transport).unwrap();
                assert_eq!(*offload, partial(start, 16));
                let sum = !u16::try_from(naive_sum(0, &bytes[transport..])).unwrap();
                bytes[transport + 16..transport + 18].copy_from_slice(&sum.to_be_bytes());
            } else {
                assert_eq!(*offload, Offload::default());
            }
            assert!(transport_checksum_is_right(&bytes, self.addresses(), 6, transport), "segment {index}");
            // 2. The headers: the original's but for the fields that vary.
            let mut expected = original[..headers].to_vec();
            let mut put = |at: usize, value: &[u8]| expected[at..at + value.len()].copy_from_slice(value);
            let index16 = u16::try_from(index).unwrap();
            let ip_len = |skip: usize| u16::try_from(bytes.len() - network - skip).unwrap().to_be_bytes();
            if self.v6 {
                put(network + 4, &ip_len(40));
            } else {
                put(network + 2, &ip_len(0));
                put(network + 4, &0xfffe_u16.wrapping_add(index16).to_be_bytes());
                put(network + 10, &bytes[network + 10..network + 12]);
                assert_eq!(
                    naive_sum(0, &bytes[network..transport]),
                    0xffff,
                    "IPv4 header of segment {index}"
                );
            }
            let sequence = 0xffff_fff0_u32.wrapping_add(u32::try_from(payload.len()).unwrap());
            put(transport + 4, &sequence.to_be_bytes());
            let mut flags = self.flags;
            flags &= if last { 0xfff } else { 0xfff & !0x009 };
            flags &= if first { 0xfff } else { 0xfff & !0x080 };
            let words = u16::try_from(5 + self.options).unwrap();
            put(transport + 12, &(words << 12 | flags).to_be_bytes());
            put(transport + 16, &bytes[transport + 16..transport + 18]);
            assert_eq!(bytes[..headers], expected, "segment {index}");
            // 3. The payload.
            assert!(last || bytes.len() == headers + gso_size);
            payload.extend(&bytes[headers..]);
        }
        assert!(payload == self.payload());
    }
}

mod segmentation {
    use super::*;

    const CHECKSUM_ONLY: OffloadCaps = OffloadCaps { checksum: true, ..OffloadCaps::NONE };

    fn reason(frame: &[u8], offload: Offload) -> Option<DropReason> {
        finish(frame, offload, &[500], OffloadCaps::NONE, NO_LIMIT).err()
    }

    #[test]
    fn frame_is_cut_into_segments_with_their_own_headers() {
        for v6 in [false, true] {
            let tcp = Tcp { v6, ..Tcp::default() };
            for caps in [OffloadCaps::NONE, CHECKSUM_ONLY] {
                let emitted =
                    finish(&tcp.frame(), tcp.offload(), &[300], caps, tcp.headers() + 1000).unwrap();
                assert_eq!(emitted.len(), 3);
                tcp.check(&emitted, caps);
            }
        }
    }

    #[test]
    fn port_segments_only_what_it_said_it_can() {
        let count = |tcp: &Tcp, offload, caps| {
            finish(&tcp.frame(), offload, &[300], caps, NO_LIMIT).map(|emitted| emitted.len())
        };
        let (v4, v6) = (Tcp::default(), Tcp { v6: true, ..Tcp::default() });
        let no_tso4 = OffloadCaps { tso4: false, ..OffloadCaps::ALL };
        assert_eq!(count(&v4, v4.offload(), no_tso4), Ok(3));
        assert_eq!(count(&v6, v6.offload(), no_tso4), Ok(1));
        let no_tso6 = OffloadCaps { tso6: false, ..OffloadCaps::ALL };
        assert_eq!(count(&v4, v4.offload(), no_tso6), Ok(1));
        assert_eq!(count(&v6, v6.offload(), no_tso6), Ok(3));
        let no_ecn = OffloadCaps { ecn: false, ..OffloadCaps::ALL };
        assert_eq!(count(&v4, v4.offload(), no_ecn), Ok(1));
        assert_eq!(count(&v4, Offload { gso_ecn: true, ..v4.offload() }, no_ecn), Ok(3));
        let no_checksum = OffloadCaps { checksum: false, ..OffloadCaps::ALL };
        assert_eq!(count(&v4, v4.offload(), no_checksum), Ok(3));
    }

    #[test]
    fn segments_shorter_than_the_payload_in_the_head_are_cut_right() {
        let tcp = Tcp { gso_size: 17, payload_len: 301, ..Tcp::default() };
        let emitted = finish(&tcp.frame(), tcp.offload(), &[300], OffloadCaps::NONE, NO_LIMIT).unwrap();
        tcp.check(&emitted, OffloadCaps::NONE);
    }

    #[test]
    fn frame_without_payload_is_one_segment() {
        let tcp = Tcp { payload_len: 0, ..Tcp::default() };
        let emitted = finish(&tcp.frame(), tcp.offload(), &[300], OffloadCaps::NONE, NO_LIMIT).unwrap();
        tcp.check(&emitted, OffloadCaps::NONE);
    }

    #[test]
    fn segments_longer_than_the_port_takes_are_refused() {
        let tcp = Tcp::default();
        let max =
            |max| finish(&tcp.frame(), tcp.offload(), &[64], OffloadCaps::NONE, max).map(|all| all.len());
        assert_eq!(max(tcp.headers() + 1000), Ok(3));
        assert_eq!(max(tcp.headers() + 999), Err(DropReason::TooLong));
    }

    #[test]
    fn number_of_segments_is_bounded() {
        let tcp = |payload_len| Tcp { gso_size: 7, payload_len, ..Tcp::default() };
        let most = tcp(7 * MAX_SEGMENTS);
        let emitted = finish(&most.frame(), most.offload(), &[4096], OffloadCaps::NONE, NO_LIMIT).unwrap();
        most.check(&emitted, OffloadCaps::NONE);
        let more = tcp(7 * MAX_SEGMENTS + 1);
        assert_eq!(reason(&more.frame(), more.offload()), Some(DropReason::BadOffload));
    }

    /// Linux cuts to as few as 8 bytes, for a peer whose segments take 48 with all options.
    #[test]
    fn longest_frame_is_cut_to_the_shortest_segments_that_linux_makes() {
        for v6 in [false, true] {
            for gso_size in [76, 64, 36, 8] {
                let headers = Tcp { v6, ..Tcp::default() };
                let payload_len = 65_535 - (headers.headers() - headers.network());
                let tcp = Tcp { gso_size, payload_len, ..headers };
                let emitted =
                    finish(&tcp.frame(), tcp.offload(), &[300, 4096], OffloadCaps::NONE, NO_LIMIT).unwrap();
                assert_eq!(emitted.len(), payload_len.div_ceil(gso_size.into()));
                tcp.check(&emitted, OffloadCaps::NONE);
            }
        }
    }

    #[test]
    fn offload_that_does_not_fit_the_frame_is_refused() {
        let tcp = Tcp::default();
        let (frame, offload) = (tcp.frame(), tcp.offload());
        let bad = Some(DropReason::BadOffload);
        assert_eq!(reason(&frame, offload), None);
        assert_eq!(reason(&frame, Offload { gso_size: 0, ..offload }), bad);
        assert_eq!(reason(&frame, Offload { gso: GsoKind::TcpV6, ..offload }), bad, "other IP version");
        assert_eq!(reason(&frame, Offload { checksum: Checksum::Unknown, ..offload }), bad);
        assert_eq!(reason(&frame, Offload { checksum: Checksum::Verified, ..offload }), None);
        for (start, offset) in [(33, 16), (35, 16), (34, 6), (u16::MAX, 16)] {
            assert_eq!(reason(&frame, Offload { checksum: partial(start, offset).checksum, ..offload }), bad);
        }
        let spoil = |at: usize, value: u8| {
            let mut frame = tcp.frame();
            frame[at] = value;
            reason(&frame, offload)
        };
        assert_eq!(spoil(17, frame[17] - 1), bad, "IP packet shorter than the frame");
        assert_eq!(spoil(17, frame[17] + 1), bad, "IP packet longer than the frame");
        assert_eq!(spoil(20, 0x20), bad, "fragment");
        assert_eq!(spoil(23, 17), bad, "not TCP");
        assert_eq!(spoil(46, 0x40), bad, "TCP header shorter than 20");
        let refused_port = Offload { gso_size: 0, ..offload };
        let passed = finish(&frame, refused_port, &[500], OffloadCaps::ALL, NO_LIMIT);
        assert_eq!(passed.err(), bad, "nothing to segment to");
    }

    #[test]
    fn headers_beyond_the_frame_are_refused_and_those_beyond_the_head_are_not() {
        let short = Tcp { payload_len: 0, options: 0, ..Tcp::default() };
        let mut frame = short.frame();
        frame[46] = 0xf0;
        assert_eq!(
            reason(&frame, short.offload()),
            Some(DropReason::BadOffload),
            "TCP options beyond the frame"
        );
        // 22 + 40 + 64 + 60 = 186 bytes fit the head; others end beyond it, or beyond one of 2 KiB.
        for network_extra in [8, 9, 10, 15, 16, 17, 30, 240, 250, 260, 2000] {
            let long = Tcp { v6: true, tags: 2, network_extra, options: 10, ..Tcp::default() };
            let emitted = finish(&long.frame(), long.offload(), &[500], OffloadCaps::NONE, NO_LIMIT).unwrap();
            long.check(&emitted, OffloadCaps::NONE);
        }
    }

    #[test]
    fn tags_beyond_those_that_are_read_are_no_hindrance() {
        let tcp = Tcp { tags: 2, ..Tcp::default() };
        let mut loaded = load(&tcp.frame(), tcp.offload(), &[500]);
        let tag = crate::wire::vlan::VlanTag { tpid: 0x88a8.into(), tci: 10.into() };
        crate::edit::vlan::push_vlan(&mut loaded.burst.packets_mut()[0], tag).unwrap();
        let mut count = 0;
        let emit = |frame: &Frame<'_>| {
            count += 1;
            assert_eq!(frame.head[12..14], [0x88, 0xa8]);
            Ok(())
        };
        assert_eq!(Finisher::new().finish(&loaded.burst.frame(0), OffloadCaps::NONE, NO_LIMIT, emit), Ok(()));
        assert_eq!(count, 3);
    }

    /// Linux sends no such frames through virtio-net, but takes them.
    #[test]
    fn frame_without_a_length_is_cut_into_segments_that_have_one() {
        for v6 in [false, true] {
            let tcp = Tcp { v6, ..Tcp::default() };
            let mut frame = tcp.frame();
            frame[if v6 { 18 } else { 16 }..][..2].fill(0);
            let emitted = finish(&frame, tcp.offload(), &[300], OffloadCaps::NONE, NO_LIMIT).unwrap();
            tcp.check(&emitted, OffloadCaps::NONE);
        }
    }

    fn any_tcp() -> impl Strategy<Value = Tcp> {
        (any::<bool>(), 0_usize..3, 0_usize..4, 0_usize..11, 0_u16..0x1000, 0_usize..20_000, 40_u16..4000)
            .prop_map(|(v6, tags, network_extra, options, flags, payload_len, gso_size)| Tcp {
                v6,
                tags,
                network_extra,
                options,
                flags,
                payload_len,
                gso_size,
            })
    }

    proptest! {
        #[test]
        fn segments_carry_the_payload_once_under_right_headers(
            tcp in any_tcp(),
            cuts in prop::collection::vec(100_usize..3000, 1..8),
            checksum in any::<bool>(),
        ) {
            let caps = OffloadCaps { checksum, ..OffloadCaps::NONE };
            let emitted = finish(&tcp.frame(), tcp.offload(), &cuts, caps, NO_LIMIT);
            tcp.check(&emitted.unwrap(), caps);
        }
    }
}

/// A UDP datagram to be segmented. Positions are worked out here, apart from the code under test.
#[derive(Debug, Clone)]
struct Udp {
    v6: bool,
    tags: usize,
    /// IPv4 options or IPv6 extension headers, in units of eight bytes.
    network_extra: usize,
    payload: Vec<u8>,
    gso_size: u16,
}

impl Default for Udp {
    fn default() -> Self {
        Udp { v6: false, tags: 0, network_extra: 0, payload: Udp::payload(2500), gso_size: 1000 }
    }
}

impl Udp {
    fn payload(len: usize) -> Vec<u8> {
        (0..len).map(|i| u8::try_from((i ^ i >> 8) & 0xff).unwrap()).collect()
    }

    fn network(&self) -> usize {
        14 + 4 * self.tags
    }

    fn transport(&self) -> usize {
        self.network() + if self.v6 { 40 } else { 20 } + 8 * self.network_extra
    }

    fn headers(&self) -> usize {
        self.transport() + 8
    }

    fn addresses(&self) -> std::ops::Range<usize> {
        let network = self.network();
        if self.v6 { network + 8..network + 40 } else { network + 12..network + 20 }
    }

    fn frame(&self) -> Vec<u8> {
        let datagram = golden::udp(&self.payload);
        let tags = &[golden::TAG_S_20, golden::TAG_10][2 - self.tags..];
        let mut frame = if self.v6 {
            let mut payload = Vec::new();
            for index in 1..=self.network_extra {
                payload.extend([if index == self.network_extra { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
            }
            payload.extend(datagram);
            let next_header = if self.network_extra == 0 { 17 } else { 60 };
            golden::ethernet(tags, 0x86dd, &golden::ipv6(next_header, 64, &payload))
        } else {
            let options = vec![1; 8 * self.network_extra];
            golden::ethernet(tags, 0x0800, &golden::ipv4(17, 0x4000, &options, &datagram))
        };
        seed_checksum(&mut frame, self.addresses(), 17, self.transport(), 6);
        frame
    }

    fn offload(&self) -> Offload {
        // The header's length is wrong on purpose: it is a hint, and a guest's.
        let partial = partial(u16::try_from(self.transport()).unwrap(), 6);
        Offload { gso: GsoKind::Udp, gso_size: self.gso_size, header_len: 1, ..partial }
    }

    /// Checks every field of every datagram, and that the payloads make up the original one.
    fn check(&self, emitted: &[Emitted], caps: OffloadCaps) {
        let original = self.frame();
        let (network, transport, headers) = (self.network(), self.transport(), self.headers());
        let gso_size = usize::from(self.gso_size);
        assert_eq!(emitted.len(), self.payload.len().div_ceil(gso_size));
        let mut payload = Vec::<u8>::new();
        for (index, Emitted { bytes, offload }) in emitted.iter().enumerate() {
            let mut bytes = bytes.clone();
            // 1. The checksum, or the order to compute it, which is then obeyed the naive way.
            if caps.checksum {
                assert_eq!(*offload, partial(u16::try_from(transport).unwrap(), 6));
                let sum = !u16::try_from(naive_sum(0, &bytes[transport..])).unwrap();
                bytes[transport + 6..transport + 8].copy_from_slice(&sum.to_be_bytes());
            } else {
                assert_eq!(*offload, Offload::default());
                assert_ne!(bytes[transport + 6..transport + 8], [0, 0], "no checksum");
            }
            assert!(transport_checksum_is_right(&bytes, self.addresses(), 17, transport), "datagram {index}");
            // 2. The headers: the original's but for the fields that vary.
            let mut expected = original[..headers].to_vec();
            let mut put = |at: usize, value: &[u8]| expected[at..at + value.len()].copy_from_slice(value);
            let len_from = |at: usize| u16::try_from(bytes.len() - at).unwrap().to_be_bytes();
            if self.v6 {
                put(network + 4, &len_from(network + 40));
            } else {
                put(network + 2, &len_from(network));
                let index = u16::try_from(index).unwrap();
                put(network + 4, &0xfffe_u16.wrapping_add(index).to_be_bytes());
                put(network + 10, &bytes[network + 10..network + 12]);
                assert_eq!(naive_sum(0, &bytes[network..transport]), 0xffff, "IPv4 header {index}");
            }
            put(transport + 4, &len_from(transport));
            put(transport + 6, &bytes[transport + 6..transport + 8]);
            assert_eq!(bytes[..headers], expected, "datagram {index}");
            // 3. The payload.
            assert!(bytes.len() == headers + gso_size || index + 1 == emitted.len());
            payload.extend(&bytes[headers..]);
        }
        assert!(payload == self.payload);
    }
}

mod udp_segmentation {
    use super::*;

    const CHECKSUM_ONLY: OffloadCaps = OffloadCaps { checksum: true, ..OffloadCaps::NONE };

    fn cut(udp: &Udp, caps: OffloadCaps) -> Vec<Emitted> {
        finish(&udp.frame(), udp.offload(), &[300], caps, NO_LIMIT).unwrap()
    }

    fn reason(frame: &[u8], offload: Offload) -> Option<DropReason> {
        finish(frame, offload, &[500], OffloadCaps::NONE, NO_LIMIT).err()
    }

    #[test]
    fn datagram_is_cut_into_datagrams_with_their_own_headers() {
        // A short last one, none that is short, odd sizes, a last one of one byte, and all of it in the head.
        let sizes = [(2500, 1000), (3000, 1000), (2501, 999), (2001, 1000), (90, 17)];
        for (v6, tags, (payload_len, gso_size)) in [false, true]
            .into_iter()
            .flat_map(|v6| (0..3).flat_map(move |tags| sizes.map(|size| (v6, tags, size))))
        {
            let udp = Udp { v6, tags, payload: Udp::payload(payload_len), gso_size, ..Udp::default() };
            for caps in [OffloadCaps::NONE, CHECKSUM_ONLY] {
                udp.check(&cut(&udp, caps), caps);
            }
        }
    }

    #[test]
    fn port_segments_only_what_it_said_it_can() {
        for v6 in [false, true] {
            let udp = Udp { v6, ..Udp::default() };
            let whole = vec![Emitted { bytes: udp.frame(), offload: udp.offload() }];
            assert_eq!(cut(&udp, OffloadCaps::ALL), whole);
            for caps in [
                OffloadCaps { uso: false, ..OffloadCaps::ALL },
                OffloadCaps { checksum: false, ..OffloadCaps::ALL },
            ] {
                udp.check(&cut(&udp, caps), caps);
            }
        }
    }

    #[test]
    fn datagrams_longer_than_the_port_takes_are_refused() {
        let udp = Udp::default();
        for caps in [OffloadCaps::NONE, OffloadCaps::ALL] {
            let max = |max| finish(&udp.frame(), udp.offload(), &[64], caps, max).map(|all| all.len());
            assert!(max(udp.headers() + 1000).is_ok());
            assert_eq!(max(udp.headers() + 999), Err(DropReason::TooLong));
        }
    }

    #[test]
    fn size_beyond_the_payload_leaves_one_datagram() {
        for gso_size in [2500, 2501, u16::MAX] {
            let udp = Udp { gso_size, ..Udp::default() };
            udp.check(&cut(&udp, OffloadCaps::NONE), OffloadCaps::NONE);
        }
    }

    #[test]
    fn computed_checksum_of_zero_is_sent_as_its_equal() {
        for v6 in [false, true] {
            let mut udp = Udp { v6, ..Udp::default() };
            let field = udp.transport() + 6..udp.transport() + 8;
            // What would be the checksum takes the place of zeroes in the payload, so that all of it sums to 0xffff.
            udp.payload[..2].fill(0);
            let checksum = cut(&udp, OffloadCaps::NONE)[0].bytes[field.clone()].to_vec();
            udp.payload[..2].copy_from_slice(&checksum);
            let emitted = cut(&udp, OffloadCaps::NONE);
            assert_eq!(emitted[0].bytes[field], [0xff, 0xff]);
            udp.check(&emitted, OffloadCaps::NONE);
        }
    }

    #[test]
    fn number_of_datagrams_is_bounded() {
        let udp = |len| Udp { gso_size: 3, payload: Udp::payload(len), ..Udp::default() };
        let most = udp(3 * MAX_SEGMENTS);
        most.check(&cut(&most, OffloadCaps::NONE), OffloadCaps::NONE);
        let more = udp(3 * MAX_SEGMENTS + 1);
        assert_eq!(reason(&more.frame(), more.offload()), Some(DropReason::BadOffload));
    }

    #[test]
    fn offload_that_does_not_fit_the_frame_is_refused() {
        let bad = Some(DropReason::BadOffload);
        for v6 in [false, true] {
            let udp = Udp { v6, ..Udp::default() };
            let (frame, offload) = (udp.frame(), udp.offload());
            assert_eq!(reason(&frame, offload), None);
            let nothing = Offload { gso_size: 0, ..offload };
            assert_eq!(reason(&frame, nothing), bad);
            let passed = finish(&frame, nothing, &[500], OffloadCaps::ALL, NO_LIMIT);
            assert_eq!(passed.err(), bad, "nothing to segment to");
            for gso in [GsoKind::TcpV4, GsoKind::TcpV6] {
                assert_eq!(reason(&frame, Offload { gso, ..offload }), bad, "not TCP");
            }
            assert_eq!(reason(&frame, Offload { checksum: Checksum::Unknown, ..offload }), bad);
            let start = u16::try_from(udp.transport()).unwrap();
            for (start, offset) in [(start - 1, 6), (start + 1, 6), (start, 16), (u16::MAX, 6)] {
                let checksum = Checksum::Partial { start, offset };
                assert_eq!(reason(&frame, Offload { checksum, ..offload }), bad);
            }
            let spoil = |at: usize, by: u8| {
                let mut frame = udp.frame();
                frame[at] = frame[at].wrapping_add(by);
                reason(&frame, offload)
            };
            assert_eq!(spoil(udp.transport() + 5, 1), bad, "longer than the IP packet");
            assert_eq!(spoil(udp.transport() + 5, 0xff), bad, "shorter than the IP packet");
            let length = udp.network() + if v6 { 5 } else { 3 };
            assert_eq!((spoil(length, 1), spoil(length, 0xff)), (bad, bad), "IP length");
            assert_eq!(spoil(udp.network() + if v6 { 6 } else { 9 }, 1), bad, "not UDP");
            let empty = Udp { payload: Vec::new(), ..udp };
            assert_eq!(reason(&empty.frame(), empty.offload()), bad, "nothing to cut");
        }
        let udp = Udp::default();
        let mut fragment = udp.frame();
        fragment[20] = 0x20;
        assert_eq!(reason(&fragment, udp.offload()), bad, "fragment");
    }

    #[test]
    fn headers_cut_short_are_refused_and_those_beyond_the_head_are_not() {
        let udp = Udp::default();
        for len in 34..42 {
            let mut frame = udp.frame()[..len].to_vec();
            frame[16..18].copy_from_slice(&u16::try_from(len - 14).unwrap().to_be_bytes());
            assert_eq!(reason(&frame, udp.offload()), Some(DropReason::BadOffload), "{len} bytes");
        }
        for network_extra in [8, 15, 16, 17, 30, 250, 2000] {
            let long = Udp { v6: true, tags: 2, network_extra, ..Udp::default() };
            long.check(&cut(&long, OffloadCaps::NONE), OffloadCaps::NONE);
        }
    }

    fn any_udp() -> impl Strategy<Value = Udp> {
        (any::<bool>(), 0_usize..3, 0_usize..4, 1_usize..20_000, 10_u16..4000).prop_map(
            |(v6, tags, network_extra, payload_len, gso_size)| Udp {
                v6,
                tags,
                network_extra,
                payload: Udp::payload(payload_len),
                gso_size,
            },
        )
    }

    proptest! {
        #[test]
        fn datagrams_carry_the_payload_once_under_right_headers(
            udp in any_udp(),
            cuts in prop::collection::vec(100_usize..3000, 1..8),
            checksum in any::<bool>(),
        ) {
            let caps = OffloadCaps { checksum, ..OffloadCaps::NONE };
            let emitted = finish(&udp.frame(), udp.offload(), &cuts, caps, NO_LIMIT);
            udp.check(&emitted.unwrap(), caps);
        }
    }
}
