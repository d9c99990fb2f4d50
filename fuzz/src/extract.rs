//! The entry that the `extract` fuzz target and an ordinary test of the switch share.
//!
//! An input is eighteen control bytes and a frame. The control bytes choose how the frame is cut into pieces, its
//! offload state, what the egress port takes, and a template of headers that the frame's bytes are xor-ed onto: zeros leave it
//! well-formed, so that a fuzzer starts behind the length checks. Each piece is an allocation of its own, so that reading
//! past it is seen by the address sanitiser.

#![allow(unsafe_code, reason = "segments of a burst point into pieces that outlive it")]

use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::edit::vlan::{outer_vlan, pop_vlan, push_vlan, set_vlan};
use vsteer_switch::egress::rss::rss_hash;
use vsteer_switch::egress::{Finisher, MAX_SEGMENTS, OffloadCaps};
use vsteer_switch::flow::extract::{Unread, extract, extract_at};
use vsteer_switch::flow::key::{Depth, FlowKey};
use vsteer_switch::packet::{Burst, Checksum, Frame, GsoKind, MAX_FRAME_BYTES, Offload, Packet, Segment};
use vsteer_switch::port::PortId;
use vsteer_switch::wire::layers::{IpVersion, Layers};
use vsteer_switch::wire::vlan::{VlanLimit, VlanTag};
use vsteer_switch::wire::{Extent, Missing};

const CONTROL_BYTES: usize = 18;

/// What one input did, so that a test can tell that its inputs reach everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// Too short for the control bytes.
    NoFrame,
    /// The frame left whole, work left to the port.
    Passed,
    /// The frame left whole, its checksum completed.
    Completed,
    /// The frame left in several segments.
    Segmented,
    /// The frame was refused.
    Refused(DropReason),
}

/// Runs one input.
///
/// # Panics
/// If the switch breaks a promise.
pub(crate) fn run(input: &[u8]) -> Outcome {
    let Some((control, bytes)) = input.split_first_chunk::<CONTROL_BYTES>() else { return Outcome::NoFrame };
    let frame = on_template(control[0], bytes);
    let frame = &frame[..frame.len().min(MAX_FRAME_BYTES)];
    let pieces = cut(frame, control[1], control[2]);
    let segments: Vec<Segment> = pieces
        .iter()
        .map(|piece| {
            let len = u32::try_from(piece.len()).expect("shorter than a frame");
            // SAFETY: `pieces` outlives `burst` (condition 1).
            unsafe { Segment::new(piece.as_ptr(), len) }
        })
        .collect();
    let mut burst = Burst::new();
    let offload = offload(control);
    let in_port = PortId::new(u16::from(control[3])).unwrap_or_default();
    burst.push(in_port, offload, &segments);

    let limit = if control[4] & 0x80 == 0 { VlanLimit::One } else { VlanLimit::Two };
    check_depths(frame, in_port, offload, &segments, limit);
    check_layers(&burst.frame(0));
    let before = bytes_of(&burst.frame(0));
    assert_eq!(before, frame);
    let hash = rss_hash(&burst.frame(0));
    check_edits(&mut burst.packets_mut()[0], control[4]);
    assert_eq!(bytes_of(&burst.frame(0)), before, "a pushed tag that is popped leaves no trace");
    assert_eq!(rss_hash(&burst.frame(0)), hash);
    check_egress(&burst.frame(0), caps(control[5]), u16::from_le_bytes([control[6], control[7]]))
}

/// `bytes` xor-ed onto headers that `choice` selects.
fn on_template(choice: u8, bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for tag in [[0x88, 0xa8, 0, 20], [0x81, 0, 0x60, 10]].iter().take(usize::from(choice >> 3 & 3) % 3) {
        frame.extend(tag);
    }
    let network = frame.len() + 2;
    let len = |skip: usize| {
        u16::try_from(bytes.len().saturating_sub(network + skip)).unwrap_or(u16::MAX).to_be_bytes()
    };
    let ipv4 = |protocol: u8| {
        let [high, low] = len(0);
        vec![0x08, 0, 0x45, 0, high, low, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
    };
    let ipv6 = |next_header: u8| {
        let [high, low] = len(40);
        let mut header = vec![0x86, 0xdd, 0x60, 0, 0, 0, high, low, next_header, 255];
        header.extend([0xfd; 32]);
        header
    };
    let tcp = [0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x99, 0x20, 0, 0, 0, 0, 0];
    match choice & 7 {
        0 => frame.clear(),
        1 => {
            let [high, low] = len(20);
            frame.extend([&ipv4(17)[..], &[0x12, 0x34, 0, 53, high, low, 0, 0]].concat());
        }
        2 => frame.extend([&ipv4(6)[..], &tcp].concat()),
        3 => frame.extend([&ipv6(6)[..], &tcp].concat()),
        4 => frame.extend([&ipv6(60)[..], &[44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 1], &tcp].concat()),
        5 => frame.extend(
            [&ipv6(58)[..], &[135, 0, 0, 0, 0, 0, 0, 0], &[0xfd; 16], &[1, 1, 2, 0, 0, 0, 0, 1]].concat(),
        ),
        6 => frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]),
        _ => frame.extend(ipv4(1)),
    }
    frame.resize(bytes.len(), 0);
    for (to, byte) in frame.iter_mut().zip(bytes) {
        *to ^= byte;
    }
    frame
}

/// The frame in pieces of the lengths `first`, then a multiple of `rest`, few enough for a burst.
fn cut(frame: &[u8], first: u8, rest: u8) -> Vec<Box<[u8]>> {
    let (front, back) = frame.split_at(frame.len().min(usize::from(first)));
    let len = (usize::from(rest) * 3).max(17);
    std::iter::once(front).chain(back.chunks(len)).map(Box::from).collect()
}

fn offload(control: &[u8; CONTROL_BYTES]) -> Offload {
    let word = |at: usize| u16::from_le_bytes([control[at], control[at + 1]]);
    let checksum = match control[8] % 4 {
        0 => Checksum::Unknown,
        1 => Checksum::Verified,
        // The low byte alone, or most positions would lie beyond the frame.
        2 => Checksum::Partial { start: u16::from(control[9]), offset: u16::from(control[10] & 31) },
        _ => Checksum::Partial { start: word(9), offset: word(11) },
    };
    let gso = match control[13] % 4 {
        0 => GsoKind::None,
        1 => GsoKind::TcpV4,
        2 => GsoKind::TcpV6,
        _ => GsoKind::Udp,
    };
    Offload { checksum, gso, gso_ecn: control[13] & 0x80 != 0, gso_size: word(14), header_len: word(16) }
}

fn caps(bits: u8) -> OffloadCaps {
    OffloadCaps {
        checksum: bits & 1 != 0,
        tso4: bits & 2 != 0,
        tso6: bits & 4 != 0,
        ecn: bits & 8 != 0,
        uso: bits & 16 != 0,
    }
}

fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = frame.head.to_vec();
    bytes.resize(frame.len(), 0);
    frame.tail.copy_to(&mut bytes[frame.head.len()..]);
    bytes
}

/// Depths agree on the words they share and leave the others alone, and a head that is long from the start says the same
/// as one that had to be extended.
fn check_depths(frame: &[u8], in_port: PortId, offload: Offload, segments: &[Segment], limit: VlanLimit) {
    let key_at = |depth| {
        let mut key = FlowKey::default();
        key.words_mut()[..Depth::Transport.words()].fill(u64::MAX);
        let mut burst = Burst::new();
        burst.push(in_port, offload, segments);
        let result = extract_at(&mut burst, 0, limit, depth, &mut key).map(|()| key);
        assert_eq!(bytes_of(&burst.frame(0)), frame);
        result
    };
    let full = key_at(Depth::Transport);
    for depth in [Depth::Link, Depth::Network] {
        let (Ok(key), Ok(full)) = (key_at(depth), full) else {
            assert!(full.is_err(), "less was read, so less can be wrong");
            continue;
        };
        let (filled, deeper) = key.words()[..Depth::Transport.words()].split_at(depth.words());
        assert_eq!(filled, &full.words()[..depth.words()]);
        assert!(deeper.iter().all(|&word| word == u64::MAX));
    }
    let mut whole = Packet::of_bytes(in_port, frame, frame.len());
    whole.offload = offload;
    let mut key = FlowKey::default();
    match (full, extract(&whole, limit, Depth::Transport, &mut key)) {
        (Ok(full), found) => {
            assert_eq!((found, key), (Ok(()), full));
            assert_eq!((full.reserved1, full.reserved2, full.reserved3), (0, 0, 0));
        }
        (Err(DropReason::FrameTooShort), found) => assert_eq!(found, Err(Unread::FrameTooShort)),
        (Err(reason), found) => {
            assert_eq!((reason, found), (DropReason::BadOffload, Err(Unread::BadOffload)));
            assert!(matches!(offload.checksum, Checksum::Partial { .. }));
        }
    }
}

fn check_layers(frame: &Frame<'_>) {
    match Layers::locate(frame.head, frame.extent()) {
        Ok(layers) => {
            assert!(
                layers.network <= layers.transport
                    && layers.transport <= layers.end
                    && layers.end <= frame.len()
            );
            assert!(layers.transport_bytes(frame.head).len() <= frame.head.len());
            assert_eq!(Layers::locate(&bytes_of(frame), frame.extent()), Ok(layers));
        }
        Err(Missing::Beyond) => assert!(!frame.tail.is_empty()),
        Err(Missing::Malformed) => {}
    }
}

/// Pushes tags, sets one, and pops them all again.
fn check_edits(packet: &mut Packet, count: u8) {
    let offload = packet.offload;
    let tag = |tpid: u16, tci: u16| VlanTag { tpid: tpid.into(), tci: tci.into() };
    let mut pushed = Vec::new();
    for index in 0..u16::from(count % 20) {
        match push_vlan(packet, tag(0x8100, index)) {
            Ok(()) => pushed.push(index),
            Err(reason) => {
                assert!(matches!(reason, DropReason::FrameTooShort | DropReason::HeadersTooLong));
                break;
            }
        }
    }
    if let Some(index) = pushed.last_mut() {
        assert_eq!(set_vlan(packet, tag(0x88a8, 100)), Some(tag(0x8100, *index)));
        assert_eq!(outer_vlan(packet), Some(tag(0x88a8, 100)));
        assert_eq!(set_vlan(packet, tag(0x8100, *index)), Some(tag(0x88a8, 100)));
    }
    while let Some(index) = pushed.pop() {
        assert_eq!(pop_vlan(packet), Some(tag(0x8100, index)));
    }
    let high = |position: u16| position > u16::MAX - 80;
    let start = if let Checksum::Partial { start, .. } = offload.checksum { start } else { 0 };
    if high(start) || high(offload.header_len) {
        // Too high to move on, and nonsense before and after.
        packet.offload = offload;
    }
    assert_eq!(packet.offload, offload);
}

fn naive_sum(mut sum: u32, bytes: &[u8]) -> u32 {
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum
}

fn check_egress(frame: &Frame<'_>, caps: OffloadCaps, max_frame_bytes: u16) -> Outcome {
    let (original, offload) = (bytes_of(frame), *frame.offload);
    let max_frame_bytes =
        if max_frame_bytes.is_multiple_of(2) { usize::MAX } else { usize::from(max_frame_bytes) };
    let mut emitted = Vec::new();
    let result = Finisher::new().finish(frame, caps, max_frame_bytes, |frame| {
        emitted.push((bytes_of(frame), *frame.offload));
        Ok(())
    });
    assert_eq!(bytes_of(frame), original, "the frame itself is never written");
    if let Err(reason) = result {
        assert!(emitted.is_empty(), "{reason:?} was found before anything left");
        assert!(matches!(reason, DropReason::BadOffload | DropReason::TooLong));
        return Outcome::Refused(reason);
    }
    assert!((1..=MAX_SEGMENTS).contains(&emitted.len()));
    let whole = emitted.len() == 1;
    for (bytes, now) in &emitted {
        assert!(caps.checksum || !matches!(now.checksum, Checksum::Partial { .. }));
        match now.gso {
            GsoKind::None => assert!(bytes.len() <= max_frame_bytes),
            GsoKind::TcpV4 => assert!(caps.tso4 && caps.checksum),
            GsoKind::TcpV6 => assert!(caps.tso6 && caps.checksum),
            GsoKind::Udp => assert!(caps.uso && caps.checksum),
        }
    }
    if whole && emitted[0].1 == offload {
        assert_eq!(emitted[0].0, original);
        return Outcome::Passed;
    }
    if offload.gso == GsoKind::None {
        let Checksum::Partial { start, .. } = offload.checksum else {
            panic!("nothing to complete: {offload:?}")
        };
        let sum = naive_sum(0, &original[usize::from(start)..]);
        assert_eq!(emitted[0].0.len(), original.len());
        let differing = emitted[0].0.iter().zip(&original).filter(|(now, then)| now != then).count();
        assert!(differing <= 2 && sum <= 0xffff);
        return Outcome::Completed;
    }
    check_segments(&original, &emitted, &offload);
    if whole { Outcome::Passed } else { Outcome::Segmented }
}

/// The segments carry the payload once and in order, each under a right checksum or with the order to compute it.
fn check_segments(original: &[u8], emitted: &[(Vec<u8>, Offload)], whole: &Offload) {
    let (gso_size, is_tcp_gso) = (usize::from(whole.gso_size), whole.gso.is_tcp());
    let extent = Extent { is_tcp_gso, ..Extent::of(original.len()) };
    let layers = Layers::locate(original, extent).expect("only IP is segmented");
    let tcp_len = || usize::from(original[layers.transport + 12] >> 4) * 4;
    let headers = layers.transport + if is_tcp_gso { tcp_len() } else { 8 };
    let mut payload = Vec::<u8>::new();
    for (index, (bytes, offload)) in emitted.iter().enumerate() {
        let here = Layers::locate(bytes, Extent::of(bytes.len())).expect("segments are well-formed");
        assert_eq!((here.transport, here.end), (layers.transport, bytes.len()));
        assert!(bytes.len() == headers + gso_size || index + 1 == emitted.len());
        if !matches!(offload.checksum, Checksum::Partial { .. }) {
            let network = &bytes[layers.network..];
            let addresses = if here.version == IpVersion::V4 { &network[12..20] } else { &network[8..40] };
            let len = u32::try_from(bytes.len() - layers.transport).expect("shorter than a frame");
            let pseudo = naive_sum(naive_sum(len, addresses), &[0, layers.protocol]);
            assert_eq!(naive_sum(pseudo, &bytes[layers.transport..]), 0xffff);
        }
        payload.extend(&bytes[headers..]);
    }
    assert_eq!(payload, original[headers..]);
}
