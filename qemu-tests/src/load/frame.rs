//! Frames of 64 bytes whose payload says which one it is and when it left.

use std::time::Instant;

/// Length of every frame, without FCS.
pub const LEN: usize = 64;

const IP: usize = 14;
const UDP: usize = 34;
const PAYLOAD: usize = 42;
const MAGIC: u16 = 0x7673;

/// Headers of a UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Udp {
    /// Destination and source hardware addresses.
    pub macs: [[u8; 6]; 2],
    /// Source and destination addresses.
    pub ips: [u32; 2],
    /// Source and destination ports.
    pub ports: [u16; 2],
}

impl Udp {
    /// From host `from` to host `to`, each with addresses of its own.
    pub fn between(from: u8, to: u8) -> Self {
        Udp {
            macs: [[2, 0, 0, 0, 0, to], [2, 0, 0, 0, 0, from]],
            ips: [0x0a00_0000 | u32::from(from), 0x0a00_0000 | u32::from(to)],
            ports: [1000, 1001],
        }
    }
}

/// What a frame says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which traffic it is of.
    pub stream: u32,
    /// Counts from 0, by sender.
    pub sequence: u64,
    /// Nanoseconds from the clock's start to when it was sent.
    pub sent_ns: u64,
}

/// Writes a frame of [`LEN`] bytes.
pub fn write(buffer: &mut [u8], udp: &Udp, stamp: Stamp) -> usize {
    let frame = &mut buffer[..LEN];
    frame[..6].copy_from_slice(&udp.macs[0]);
    frame[6..12].copy_from_slice(&udp.macs[1]);
    // Type, version and length of the header, TOS, total length 50, no identification, DF, TTL 64, UDP.
    frame[12..26].copy_from_slice(&[8, 0, 0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    frame[26..30].copy_from_slice(&udp.ips[0].to_be_bytes());
    frame[30..34].copy_from_slice(&udp.ips[1].to_be_bytes());
    let sum = checksum(&frame[IP..UDP]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[34..36].copy_from_slice(&udp.ports[0].to_be_bytes());
    frame[36..38].copy_from_slice(&udp.ports[1].to_be_bytes());
    // Length 30, no checksum.
    frame[38..42].copy_from_slice(&[0, 30, 0, 0]);
    frame[PAYLOAD..PAYLOAD + 2].copy_from_slice(&MAGIC.to_be_bytes());
    frame[44..52].copy_from_slice(&stamp.sequence.to_be_bytes());
    frame[52..60].copy_from_slice(&stamp.sent_ns.to_be_bytes());
    frame[60..].copy_from_slice(&stamp.stream.to_be_bytes());
    LEN
}

/// The stamp of a frame that `write` made; `None` for any other.
pub fn stamp(frame: &[u8]) -> Option<Stamp> {
    let number = |at: usize| frame.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
    if frame.get(PAYLOAD..PAYLOAD + 2)? != MAGIC.to_be_bytes() {
        return None;
    }
    let stream = frame.get(60..64)?.try_into().ok().map(u32::from_be_bytes)?;
    Some(Stamp { stream, sequence: number(44)?, sent_ns: number(52)? })
}

/// RFC 1071 over an IP header whose checksum is zero.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or_default()
}

/// Nanoseconds since `start`.
pub fn nanoseconds(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_tells_its_stamp_and_its_header_sums_to_zero() {
        let mut buffer = [0xa5; 128];
        let expected = Stamp { stream: 9, sequence: 7, sent_ns: 1 << 40 };
        assert_eq!(write(&mut buffer, &Udp::between(1, 2), expected), LEN);
        assert_eq!(stamp(&buffer[..LEN]), Some(expected));
        assert_eq!(checksum(&buffer[IP..UDP]), 0);
        assert_eq!(buffer[LEN..], [0xa5; 64]);
        assert_eq!(stamp(&buffer[..40]), None);
    }
}
