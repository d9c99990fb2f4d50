//! Hand-made frames for tests, one per protocol and odd case, and bursts made of them.
//!
//! Addresses: 02:00:00:00:00:01 with 10.0.0.1 and fd00::1 sends to 02:00:00:00:00:02 with 10.0.0.2 and fd00::2.

#![allow(unsafe_code, reason = "segments of a burst point into frames that the burst's owner holds")]

use crate::packet::{Burst, Offload, Segment};
use crate::port::PortId;

/// A burst together with the memory that its segments point to.
pub(crate) struct Loaded {
    pub(crate) burst: Burst,
    _pieces: Vec<Box<[u8]>>,
}

/// A burst with one packet that came in by port 7, whose source lay in pieces of the lengths `cuts` (repeated as needed),
/// each in an allocation of its own.
pub(crate) fn load(frame: &[u8], offload: Offload, cuts: &[usize]) -> Loaded {
    let mut pieces: Vec<Box<[u8]>> = Vec::new();
    let mut rest = frame;
    for cut in cuts.iter().copied().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(cut.clamp(1, rest.len()));
        pieces.push(piece.into());
        rest = after;
    }
    let segments: Vec<Segment> = pieces
        .iter()
        .map(|piece| {
            // SAFETY: the pieces are kept beside the burst, in `Loaded`, and not moved out of their boxes (condition 1).
            unsafe { Segment::new(piece.as_ptr(), u32::try_from(piece.len()).unwrap()) }
        })
        .collect();
    let mut burst = Burst::new();
    burst.push(PortId::new(7).unwrap(), offload, &segments);
    Loaded { burst, _pieces: pieces }
}

pub(crate) fn ethernet(tags: &[[u8; 4]], eth_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame.extend(tags.as_flattened());
    frame.extend(eth_type.to_be_bytes());
    frame.extend(payload);
    frame
}

pub(crate) const TAG_10: [u8; 4] = [0x81, 0x00, 0x60, 0x0a];
pub(crate) const TAG_S_20: [u8; 4] = [0x88, 0xa8, 0x00, 0x14];

fn len16(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap().to_be_bytes()
}

pub(crate) fn ipv4(protocol: u8, flags_offset: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut packet = vec![0x40 | u8::try_from(header_len / 4).unwrap(), 0xb9];
    packet.extend(len16(header_len + payload.len()));
    packet.extend([0xff, 0xfe]);
    packet.extend(flags_offset.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(options);
    packet.extend(payload);
    packet
}

pub(crate) const FD00_1: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(crate) const FD00_2: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

pub(crate) fn ipv6(next_header: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    // Traffic class 0xb9, flow label 0xabcde.
    let mut packet = vec![0x6b, 0x9a, 0xbc, 0xde];
    packet.extend(len16(payload.len()));
    packet.extend([next_header, hop_limit]);
    packet.extend(FD00_1);
    packet.extend(FD00_2);
    packet.extend(payload);
    packet
}

/// Ports 0x1234 to 80, sequence 0xfffffff0, the given 12 flag bits; `options` in whole words.
pub(crate) fn tcp(flags: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = u16::try_from(5 + options.len() / 4).unwrap();
    let mut segment = vec![0x12, 0x34, 0, 80, 0xff, 0xff, 0xff, 0xf0, 1, 2, 3, 4];
    segment.extend((words << 12 | flags).to_be_bytes());
    segment.extend([0x20, 0x00, 0, 0, 0, 0]);
    segment.extend(options);
    segment.extend(payload);
    segment
}

pub(crate) fn udp(payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x04, 0xd2, 0, 53];
    datagram.extend(len16(8 + payload.len()));
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// UDP over IPv4, 64 bytes.
pub(crate) fn udp4() -> Vec<u8> {
    ethernet(&[], 0x0800, &ipv4(17, 0x4000, &[], &udp(&[0x55; 22])))
}

/// TCP over IPv4 with a timestamp option and two tags.
pub(crate) fn tcp4_tagged() -> Vec<u8> {
    let options = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    ethernet(&[TAG_S_20, TAG_10], 0x0800, &ipv4(6, 0x4000, &[], &tcp(0x118, &options, &[0x55; 9])))
}

/// TCP over IPv6.
pub(crate) fn tcp6() -> Vec<u8> {
    ethernet(&[], 0x86dd, &ipv6(6, 64, &tcp(0x002, &[], &[])))
}

/// UDP over IPv4 with options, behind which the ports lie.
pub(crate) fn udp4_options() -> Vec<u8> {
    ethernet(&[], 0x0800, &ipv4(17, 0, &[0x94, 4, 0, 0, 1, 1, 1, 0], &udp(&[0x55; 4])))
}

/// A UDP fragment over IPv4.
pub(crate) fn fragment4(flags_offset: u16) -> Vec<u8> {
    ethernet(&[], 0x0800, &ipv4(17, flags_offset, &[], &udp(&[0x55; 16])))
}

/// A UDP fragment over IPv6.
pub(crate) fn fragment6(offset_flags: u16) -> Vec<u8> {
    let mut payload = vec![17, 0];
    payload.extend(offset_flags.to_be_bytes());
    payload.extend([0, 0, 0, 9]);
    payload.extend(udp(&[0x55; 16]));
    ethernet(&[], 0x86dd, &ipv6(44, 64, &payload))
}

/// UDP over IPv6 behind hop-by-hop options, routing, an authentication header (which counts its length otherwise) and
/// destination options.
pub(crate) fn udp6_extensions() -> Vec<u8> {
    let mut payload = vec![43, 0, 1, 4, 0, 0, 0, 0];
    payload.extend([51, 0, 4, 0, 0, 0, 0, 0]);
    payload.extend([60, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
    payload.extend([0xaa; 12]);
    payload.extend([17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    payload.extend(udp(&[0x55; 5]));
    ethernet(&[], 0x86dd, &ipv6(0, 64, &payload))
}

/// UDP over IPv6 behind `count` empty destination options headers.
pub(crate) fn udp6_many_extensions(count: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    for index in 1..=count {
        payload.extend([if index == count { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
    }
    payload.extend(udp(&[0x55; 5]));
    ethernet(&[], 0x86dd, &ipv6(60, 64, &payload))
}

/// An ARP request.
pub(crate) fn arp() -> Vec<u8> {
    let request =
        [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0xde, 0xad, 0, 0, 0, 9, 10, 0, 0, 2];
    // Padded to the shortest frame, as on the wire.
    let mut frame = ethernet(&[], 0x0806, &request);
    frame.resize(60, 0xee);
    frame
}

/// An SCTP packet over IPv4.
pub(crate) fn sctp4() -> Vec<u8> {
    let packet = [0x0b, 0xb8, 0x0b, 0xb9, 1, 2, 3, 4, 5, 6, 7, 8];
    ethernet(&[], 0x0800, &ipv4(132, 0, &[], &packet))
}

/// An ICMP time exceeded message.
pub(crate) fn icmp4() -> Vec<u8> {
    ethernet(&[TAG_10], 0x0800, &ipv4(1, 0, &[], &[11, 1, 0, 0, 0, 0, 0, 0, 0x45]))
}

/// The ND message of `kind` about fd00::2 with `options`, in a frame.
pub(crate) fn neighbour(kind: u8, code: u8, hop_limit: u8, options: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend(FD00_2);
    message.extend(options);
    ethernet(&[], 0x86dd, &ipv6(58, hop_limit, &message))
}

pub(crate) const OPTION_SOURCE: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 1];
pub(crate) const OPTION_TARGET: [u8; 8] = [2, 1, 2, 0, 0, 0, 0, 2];

/// Every frame above, by name.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("udp4", udp4()),
        ("tcp4_tagged", tcp4_tagged()),
        ("tcp6", tcp6()),
        ("udp4_options", udp4_options()),
        ("first fragment4", fragment4(0x2000)),
        ("later fragment4", fragment4(0x0001)),
        ("first fragment6", fragment6(0x0001)),
        ("later fragment6", fragment6(0x0008)),
        ("udp6_extensions", udp6_extensions()),
        ("udp6_many_extensions", udp6_many_extensions(9)),
        ("udp6 beyond the head", udp6_many_extensions(30)),
        ("arp", arp()),
        ("sctp4", sctp4()),
        ("icmp4", icmp4()),
        ("solicitation", neighbour(135, 0, 255, &OPTION_SOURCE)),
        ("advertisement", neighbour(136, 0, 255, &OPTION_TARGET)),
        ("802.3", ethernet(&[], 3, &[0x42, 0x42, 3])),
        ("three tags", ethernet(&[TAG_S_20, TAG_10, TAG_10], 0x0800, &ipv4(17, 0, &[], &udp(&[])))),
    ]
}
