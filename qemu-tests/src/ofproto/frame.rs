//! Random frames as bytes: what senders should send, what none should, and what lies between.
//!
//! Addresses, ports and VLANs come from the pools of `packet.rs`, so that rules meet what the frames carry. Lengths,
//! chains of headers and options are right most of the time and wrong in every way that a parser might take differently.

use super::packet::{IPV4, IPV6, MACS, PORTS, TOS, TTLS, VLANS, number};
use super::random::Random;

/// Why the switches may read a frame differently: README of the switch lists each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Oddity {
    /// A tag of VLAN 0 beyond the limit.
    PassedTag,
    /// An ARP packet of IEEE 802 networks.
    HardwareType6,
    /// A neighbour message with an option twice.
    DoubledOption,
    /// An IPv6 packet of length zero with hop-by-hop options.
    ZeroLength,
    /// Reserved bits in the fragment header of a whole packet.
    ReservedBits,
    /// A first fragment that may not hold all extension headers.
    CutChain,
    /// The frame ends within its first tag.
    CutTag,
}

/// A frame as it is given to a switch.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Number of the ingress port, `1..`.
    pub in_port: u16,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Why the switches may read it differently.
    pub oddity: Option<Oddity>,
}

impl Frame {
    /// Its bytes in hexadecimal.
    pub fn hex(&self) -> String {
        self.bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A random frame that came in by one of `ports` ports, for switches that read one tag.
pub fn random(random: &mut Random, ports: u16) -> Frame {
    let in_port = 1 + u16::try_from(random.below(ports.into())).unwrap_or_default();
    let mut maker = Maker { random, oddity: None };
    let mut bytes = maker.frame();
    match maker.random.below(20) {
        // Cut short, or padded.
        0 | 1 => {
            let most = bytes.len() as u64 - 14;
            let len = 14 + maker.below(most + 1);
            bytes.truncate(len);
            if len < 18 && matches!(bytes[12..14], [0x81, 0] | [0x88, 0xa8]) {
                maker.oddity = Some(Oddity::CutTag);
            }
        }
        2..=6 => {
            let pad = maker.below(80);
            bytes.resize(bytes.len() + pad, 0x5a);
        }
        _ => {}
    }
    Frame { in_port, bytes, oddity: maker.oddity }
}

struct Maker<'a> {
    random: &'a mut Random,
    oddity: Option<Oddity>,
}

impl Maker<'_> {
    fn below(&mut self, bound: u64) -> usize {
        usize::try_from(self.random.below(bound)).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        self.random.bits().to_be_bytes()[0]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    fn mac(&mut self, from: &[&str]) -> [u8; 6] {
        let text = self.random.pick(from);
        *last(&number(text).unwrap_or_default().to_be_bytes())
    }

    fn port(&mut self) -> [u8; 2] {
        *last(&self.random.pick(&PORTS).to_be_bytes())
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut bytes = [self.mac(&MACS), self.mac(&MACS[..4])].concat();
        for nth in 0..self.random.pick(&[0, 0, 0, 1, 1, 2, 3]) {
            let tpid: u16 = self.random.pick(&[0x8100, 0x8100, 0x88a8, 0x9100]);
            let mut vid = self.random.pick(&VLANS);
            if nth > 0 && self.random.chance(10) {
                vid = 0;
                self.oddity = Some(Oddity::PassedTag);
            }
            bytes.extend(tpid.to_be_bytes());
            let tci: [u8; 2] = *last(&(self.random.below(16) << 12 | vid).to_be_bytes());
            bytes.extend(tci);
        }
        let (eth_type, payload) = self.payload();
        if self.random.chance(20) {
            bytes.extend(self.llc(payload.len()));
        }
        bytes.extend(eth_type.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// A length and what stands behind it, up to the Ethernet type: SNAP most of the time.
    fn llc(&mut self, payload: usize) -> Vec<u8> {
        let len = match self.random.below(4) {
            0 => self.random.below(0x600),
            _ => payload as u64 + 8,
        };
        let len: [u8; 2] = *last(&len.min(0x5ff).to_be_bytes());
        let rest: &[u8] = match self.random.below(12) {
            0 => &[0xaa, 0xaa, 3, 0, 0, 0xf8],
            1 => &[0x42, 0x42, 3],
            2 => &[0xfe, 0xfe, 3],
            3 => &[0xaa, 0xaa, 7, 0, 0, 0],
            _ => &[0xaa, 0xaa, 3, 0, 0, 0],
        };
        [&len, rest].concat()
    }

    /// An Ethernet type and what it announces.
    fn payload(&mut self) -> (u16, Vec<u8>) {
        match self.random.below(20) {
            0..8 => (0x0800, self.ipv4()),
            8..15 => (0x86dd, self.ipv6()),
            15 | 16 => (0x0806, self.arp()),
            17 => (0x8035, self.arp()),
            18 => (0x8847, [vec![0, 6, 0x41, 64], self.ipv4()].concat()),
            _ => (self.random.pick(&[0x88cc, 0x0600, 0x8863, 0x0801]), self.bytes(40)),
        }
    }

    fn arp(&mut self) -> Vec<u8> {
        let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, self.random.pick(&[1, 2, 2, 3, 4, 9])];
        for _ in 0..2 {
            bytes.extend(self.mac(&MACS));
            let address = self.random.pick(&IPV4);
            bytes.extend(last::<4>(&number(address).unwrap_or_default().to_be_bytes()));
        }
        match self.random.below(16) {
            0 => {
                bytes[1] = 6;
                self.oddity = Some(Oddity::HardwareType6);
            }
            1 => bytes[1] = self.random.pick(&[0, 2, 7]),
            2 => bytes[2] = 0x86,
            3 => bytes[4] = self.random.pick(&[0, 5, 8]),
            4 => bytes[5] = self.random.pick(&[0, 3, 16]),
            5 => bytes[6] = 1,
            _ => {}
        }
        bytes
    }

    fn ipv4(&mut self) -> Vec<u8> {
        let options = 4 * self.random.pick(&[0, 0, 0, 0, 1, 5, 10]);
        let protocol = self.random.pick(&[6, 6, 6, 17, 17, 132, 1, 2, 47, 50, 4, 41, 58, 255]);
        let upper = self.upper(protocol, false);
        let mut bytes = vec![0x45 + u8::try_from(options / 4).unwrap_or_default(), self.tos()];
        bytes.extend(length(20 + options + upper.len()));
        bytes.extend([0xab, 0xcd]);
        let fragment: u16 =
            self.random.pick(&[0, 0, 0, 0, 0x4000, 0x8000, 0x2000, 0x2000, 0x2001, 1, 0x1fff, 0x6000]);
        bytes.extend(fragment.to_be_bytes());
        bytes.extend([self.ttl(), protocol, 0, 0]);
        for _ in 0..2 {
            let address = self.random.pick(&IPV4);
            bytes.extend(last::<4>(&number(address).unwrap_or_default().to_be_bytes()));
        }
        bytes.resize(20 + options, 1);
        match self.random.below(24) {
            // Version and length of the header, length of the packet, anything.
            0 => bytes[0] = self.byte(),
            1 => bytes[0] = 0x40 | self.random.pick(&[0, 1, 4]),
            2 => bytes[3] = bytes[3].wrapping_add(self.random.pick(&[1, 7])),
            3 => bytes[3] = bytes[3].wrapping_sub(self.random.pick(&[1, 9, 20])),
            4 => bytes[2] = self.byte(),
            5 => {
                let at = self.below(20);
                bytes[at] = self.byte();
            }
            _ => {}
        }
        bytes.extend(upper);
        bytes
    }

    fn tos(&mut self) -> u8 {
        u8::try_from(self.random.pick(&TOS)).unwrap_or_default()
    }

    fn ttl(&mut self) -> u8 {
        u8::try_from(self.random.pick(&TTLS)).unwrap_or_default()
    }

    fn ipv6(&mut self) -> Vec<u8> {
        let protocol = self.random.pick(&[6, 6, 6, 17, 17, 132, 58, 58, 58, 47, 50, 59, 1, 135]);
        let (first, payload) = self.chain(protocol);
        let label: u64 = self.random.pick(&[0, 0x12345]);
        let start: [u8; 4] = *last(&(6 << 28 | u64::from(self.tos()) << 20 | label).to_be_bytes());
        let mut bytes = start.to_vec();
        let mut len = payload.len();
        match self.random.below(24) {
            0 => len += 1 + self.below(60),
            1 | 2 => {
                len = self.below(len as u64 + 1);
                // It may end within the chain, and begin with the header of a first fragment.
                self.oddity = self.oddity.or(Some(Oddity::CutChain));
            }
            3 => {
                len = 0;
                if first == 0 {
                    self.oddity = Some(Oddity::ZeroLength);
                }
            }
            4 => bytes[0] = self.byte() & 0xf0 | bytes[0] & 0x0f,
            _ => {}
        }
        bytes.extend(length(len));
        // Neighbour discovery has a hop limit of 255 (RFC 4861).
        let ttl = if protocol == 58 && self.random.chance(50) { 255 } else { self.ttl() };
        bytes.extend([first, ttl]);
        for _ in 0..2 {
            let address = self.random.pick(&IPV6);
            bytes.extend(number(address).unwrap_or_default().to_be_bytes());
        }
        bytes.extend(payload);
        bytes
    }

    /// Extension headers before a header of this protocol: the number of the first one, and the bytes.
    fn chain(&mut self, protocol: u8) -> (u8, Vec<u8>) {
        let upper = self.upper(protocol, true);
        let count = self.random.pick(&[0, 0, 0, 1, 1, 2, 3, 9, 12]);
        let kinds: Vec<u8> = (0..count).map(|_| self.random.pick(&[0, 43, 44, 44, 51, 60, 60])).collect();
        let is_cut = self.random.chance(6);
        let mut bytes = Vec::new();
        for (nth, &kind) in kinds.iter().enumerate() {
            let next = kinds.get(nth + 1).copied().unwrap_or(protocol);
            match kind {
                44 => bytes.extend(self.fragment(next, is_cut)),
                51 => {
                    let words = self.random.pick(&[1, 2, 4]);
                    bytes.extend([next, words]);
                    bytes.resize(bytes.len() + 4 * usize::from(words) + 6, 0x11);
                }
                _ => {
                    let units = self.random.pick(&[0, 0, 0, 1, 20]);
                    bytes.extend([next, units]);
                    // The options are of a kind that is skipped; no segments are left in a routing header.
                    bytes.extend([0, 0]);
                    bytes.resize(bytes.len() + 8 * usize::from(units) + 4, 0);
                }
            }
        }
        if is_cut && !bytes.is_empty() {
            // The last header is longer than the packet.
            let at = self.below(bytes.len() as u64);
            bytes.truncate(at);
            self.oddity = Some(Oddity::CutChain);
            return (kinds.first().copied().unwrap_or(protocol), bytes);
        }
        bytes.extend(upper);
        (kinds.first().copied().unwrap_or(protocol), bytes)
    }

    fn fragment(&mut self, next: u8, is_cut: bool) -> [u8; 8] {
        let mut field: u16 = self.random.pick(&[0, 0, 1, 1, 8, 9, 0xfff8]);
        if self.random.chance(10) {
            field |= self.random.pick(&[2, 4, 6]);
            if field < 8 && field & 1 == 0 {
                self.oddity = Some(Oddity::ReservedBits);
            }
        }
        if is_cut {
            field |= 1;
        }
        let [high, low] = field.to_be_bytes();
        [next, 0, high, low, 0, 0, 0, 9]
    }

    /// A header of this protocol and what it carries, right most of the time.
    fn upper(&mut self, protocol: u8, is_ipv6: bool) -> Vec<u8> {
        let mut bytes = [self.port(), self.port()].concat();
        match protocol {
            6 => self.tcp(&mut bytes),
            17 => {
                let len = self.random.pick(&[12, 12, 12, 0, 7, 200]);
                bytes.extend(length(len));
                bytes.extend([0, 0, 0xde, 0xad, 0xbe, 0xef]);
            }
            132 => bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 3, 0, 0, 4]),
            1 => bytes = vec![self.random.pick(&[0, 3, 8]), self.random.pick(&[0, 1]), 0, 0, 0, 1, 0, 1],
            58 if is_ipv6 => bytes = self.icmp6(),
            47 => {
                bytes = vec![0, 0, 8, 0];
                bytes.extend([0x45, 0, 0, 20, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            }
            _ => bytes = self.bytes(24),
        }
        if self.random.chance(12) {
            let len = self.below(bytes.len() as u64 + 1);
            bytes.truncate(len);
        }
        bytes
    }

    fn tcp(&mut self, bytes: &mut Vec<u8>) {
        let options = self.random.pick(&[0, 0, 1, 3, 10]);
        let words = match self.random.below(8) {
            0 => u16::from(self.byte() >> 4),
            _ => 5 + options,
        };
        let flags: u16 = self.random.pick(&[0x002, 0x010, 0x012, 0x004, 0x018, 0x0c2, 0x102, 0xe02, 0]);
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 2]);
        bytes.extend((words << 12 | flags).to_be_bytes());
        bytes.extend([0x20, 0, 0, 0, 0, 0]);
        bytes.resize(20 + 4 * usize::from(options) + self.below(12), 1);
    }

    fn icmp6(&mut self) -> Vec<u8> {
        let kind = self.random.pick(&[128, 129, 133, 134, 135, 135, 136, 136, 137]);
        let code = if self.random.chance(90) { 0 } else { 1 };
        let mut bytes = vec![kind, code, 0, 0, 0x60, 0, 0, 0];
        if kind < 135 {
            return bytes;
        }
        let target = self.random.pick(&IPV6);
        bytes.extend(number(target).unwrap_or_default().to_be_bytes());
        let (mut sources, mut targets) = (0, 0);
        for _ in 0..self.random.pick(&[0, 1, 1, 1, 2, 3, 9, 30]) {
            let mac = self.mac(&MACS);
            match self.random.below(9) {
                0..3 if sources == 0 || self.random.chance(10) => {
                    sources += 1;
                    bytes.extend([1, 1]);
                    bytes.extend(mac);
                }
                3..6 if targets == 0 || self.random.chance(10) => {
                    targets += 1;
                    bytes.extend([2, 1]);
                    bytes.extend(mac);
                }
                // An address of another kind of link, a nonce, an option without a length, and one that is too long.
                6 => bytes.extend([1, 2, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]),
                7 if self.random.chance(10) => bytes.extend([14, 0, 0, 0, 0, 0, 0, 0]),
                8 if self.random.chance(10) => bytes.extend([2, 200, 0, 0, 0, 0, 0, 0]),
                _ => bytes.extend([14, 1, 0, 0, 0, 0, 0, 0]),
            }
        }
        if sources > 1 || targets > 1 {
            self.oddity = Some(Oddity::DoubledOption);
        }
        bytes
    }
}

/// The last bytes of a number.
fn last<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    // PANICS: every caller asks a number for fewer bytes than it has.
    bytes.last_chunk().expect("a wider number")
}

fn length(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_frames_again_and_most_of_them_are_no_oddities() {
        let frames = |seed| {
            let mut random = Random::new(seed);
            (0..1000).map(|_| super::random(&mut random, 5)).collect::<Vec<_>>()
        };
        let bytes = |frames: Vec<Frame>| frames.into_iter().map(|frame| frame.bytes).collect::<Vec<_>>();
        assert_eq!(bytes(frames(3)), bytes(frames(3)));
        let odd = frames(3).iter().filter(|frame| frame.oddity.is_some()).count();
        assert!((20..300).contains(&odd), "{odd}");
        assert!(frames(3).iter().all(|frame| frame.bytes.len() >= 14));
    }
}
