//! Headers of a packet, field by field, and random packets.
//!
//! Fields go by the names that `ofproto/trace` and `trace` read: a packet is given to both switches as one line of text.
//! All values come from small pools; rules draw from the same ones.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::random::Random;

/// Hardware addresses; the last one is link-local multicast, the one before it group-addressed.
pub const MACS: [&str; 6] = [
    "02:00:00:00:00:01",
    "02:00:00:00:00:02",
    "02:00:00:00:01:03",
    "06:00:00:00:ff:04",
    "01:00:5e:00:00:05",
    "ff:ff:ff:ff:ff:ff",
];

/// IPv4 addresses that share prefixes of different lengths.
pub const IPV4: [&str; 6] = ["10.0.0.1", "10.0.0.2", "10.0.1.129", "10.1.0.1", "192.168.7.7", "224.0.0.5"];

/// IPv6 addresses that share prefixes of different lengths.
pub const IPV6: [&str; 5] = ["fd00::1", "fd00::2", "fd00:0:0:1::9", "fe80::5", "ff02::1"];

/// Ports of TCP, UDP and SCTP.
pub const PORTS: [u64; 6] = [22, 23, 53, 80, 1024, 65535];

/// VLANs.
pub const VLANS: [u64; 3] = [5, 6, 100];

/// Bytes of the traffic class: DSCP and ECN.
pub const TOS: [u64; 5] = [0, 40, 41, 184, 3];

/// Times to live.
pub const TTLS: [u64; 5] = [0, 1, 2, 64, 255];

/// TCP flags.
pub const TCP_FLAGS: [u64; 4] = [0x002, 0x010, 0x012, 0x004];

/// A tag: protocol, VLAN, priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    /// Tag protocol.
    pub tpid: u16,
    /// VLAN, 12 bits.
    pub vid: u16,
    /// Priority, 3 bits.
    pub pcp: u8,
}

/// What a packet looks like on the wire, as far as switches look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Headers {
    /// VLAN tags, outermost first.
    pub tags: Vec<Tag>,
    /// All other fields.
    pub fields: BTreeMap<&'static str, u128>,
}

impl fmt::Display for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for tag in &self.tags {
            write!(f, "[{:04x} vlan {} pcp {}] ", tag.tpid, tag.vid, tag.pcp)?;
        }
        for (at, (name, value)) in self.fields.iter().enumerate() {
            if at > 0 {
                f.write_char(' ')?;
            }
            write!(f, "{name}={}", written(name, *value))?;
        }
        Ok(())
    }
}

/// A packet as it is given to a switch.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Number of the ingress port, `1..`.
    pub in_port: u16,
    /// What follows the port in the line of text.
    pub text: String,
    /// The same, as values.
    pub headers: Headers,
}

/// A value in the notation of its field.
#[allow(clippy::cast_possible_truncation, reason = "values fit the width of their field")]
fn written(name: &str, value: u128) -> String {
    match name {
        "eth_src" | "eth_dst" | "arp_sha" | "arp_tha" | "nd_sll" | "nd_tll" => {
            let bytes = (value as u64).to_be_bytes();
            bytes[2..].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
        }
        "nw_src" | "nw_dst" | "arp_spa" | "arp_tpa" => Ipv4Addr::from(value as u32).to_string(),
        "ipv6_src" | "ipv6_dst" | "nd_target" => Ipv6Addr::from(value).to_string(),
        "eth_type" | "ipv6_label" | "tcp_flags" => format!("{value:#x}"),
        _ => value.to_string(),
    }
}

/// The number behind a value in any notation that a field has.
pub fn number(text: &str) -> Option<u128> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u128::from_str_radix(digits, 16).ok();
    }
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(u32::from(address).into());
    }
    let bytes: Vec<&str> = text.split(':').collect();
    if bytes.len() == 6 && bytes.iter().all(|byte| byte.len() == 2) {
        return u128::from_str_radix(&bytes.concat(), 16).ok();
    }
    text.parse::<Ipv6Addr>().ok().map(u128::from)
}

/// Builds a packet; each call adds a field to the text and to the values.
struct Builder {
    words: Vec<String>,
    headers: Headers,
}

impl Builder {
    fn value(&mut self, name: &'static str, value: u128) {
        self.headers.fields.insert(name, value);
    }

    fn field(&mut self, name: &'static str, text: &str) {
        self.words.push(format!("{name}={text}"));
        // PANICS: pools hold nothing that `number` does not read; the test below goes through them.
        self.value(name, number(text).expect("a value of a pool"));
    }

    fn number(&mut self, name: &'static str, value: u64) {
        self.field(name, &value.to_string());
    }

    fn word(&mut self, word: &str) {
        self.words.push(word.into());
    }
}

/// A random packet that came in by one of `ports` ports.
pub fn random(random: &mut Random, ports: u16) -> Packet {
    let headers = Headers { tags: Vec::new(), fields: BTreeMap::new() };
    let mut packet = Builder { words: Vec::new(), headers };
    let in_port = 1 + u16::try_from(random.below(ports.into())).unwrap_or_default();
    let kind = random
        .pick(&["tcp", "tcp", "udp", "icmp", "sctp", "ip", "tcp6", "udp6", "icmp6", "nd", "arp", "other"]);
    match kind {
        "nd" => packet.word("icmp6"),
        "other" => packet.word("dl_type=0x88cc"),
        // Some protocol without ports. With none at all Open vSwitch rewrites no address.
        "ip" => packet.word("ip,nw_proto=47"),
        kind => packet.word(kind),
    }
    // Neither a group nor broadcast as source.
    packet.field("eth_src", random.pick(&MACS[..4]));
    packet.field("eth_dst", random.pick(&MACS));
    if random.chance(40) {
        tag(&mut packet, random);
    }
    let eth_type = match kind {
        "arp" => 0x0806,
        "other" => 0x88cc,
        kind if kind == "nd" || kind.ends_with('6') => 0x86dd,
        _ => 0x0800,
    };
    packet.value("eth_type", eth_type);
    match eth_type {
        0x0806 => arp(&mut packet, random),
        0x88cc => {}
        _ => ip(&mut packet, random, kind),
    }
    Packet { in_port, text: packet.words.join(","), headers: packet.headers }
}

fn tag(packet: &mut Builder, random: &mut Random) {
    let (vid, pcp) = (random.pick(&VLANS), random.below(8));
    packet.word(&format!("dl_vlan={vid},dl_vlan_pcp={pcp}"));
    let (vid, pcp) = (u16::try_from(vid).unwrap_or_default(), u8::try_from(pcp).unwrap_or_default());
    packet.headers.tags.push(Tag { tpid: 0x8100, vid, pcp });
}

fn arp(packet: &mut Builder, random: &mut Random) {
    packet.number("arp_op", 1 + random.below(2));
    packet.field("arp_spa", random.pick(&IPV4));
    packet.field("arp_tpa", random.pick(&IPV4));
    packet.field("arp_sha", random.pick(&MACS));
    packet.field("arp_tha", random.pick(&MACS));
}

fn ip(packet: &mut Builder, random: &mut Random, kind: &str) {
    if kind == "nd" || kind.ends_with('6') {
        packet.field("ipv6_src", random.pick(&IPV6));
        packet.field("ipv6_dst", random.pick(&IPV6));
        packet.field("ipv6_label", random.pick(&["0x0", "0x12345"]));
    } else {
        packet.field("nw_src", random.pick(&IPV4));
        packet.field("nw_dst", random.pick(&IPV4));
    }
    let tos = random.pick(&TOS);
    packet.word(&format!("nw_tos={},nw_ecn={}", tos & 0xfc, tos & 3));
    packet.value("tos", tos.into());
    // Neighbour discovery has a hop limit of 255 (RFC 4861); the first fragment and the later ones are rarer.
    packet.number("nw_ttl", if kind == "nd" { 255 } else { random.pick(&TTLS) });
    let frag = if kind == "nd" || random.chance(85) { "no" } else { random.pick(&["first", "later"]) };
    packet.word(&format!("nw_frag={frag}"));
    if frag == "later" {
        return;
    }
    match kind.trim_end_matches('6') {
        "tcp" => {
            transport(packet, random, ["tcp_src", "tcp_dst"]);
            let flags = random.pick(&TCP_FLAGS);
            packet.field("tcp_flags", &format!("{flags:#05x}"));
        }
        "udp" => transport(packet, random, ["udp_src", "udp_dst"]),
        "sctp" => transport(packet, random, ["sctp_src", "sctp_dst"]),
        "icmp" if kind == "icmp6" => {
            packet.number("icmpv6_type", 128 + random.below(2));
            packet.number("icmpv6_code", 0);
        }
        "icmp" => {
            packet.number("icmp_type", random.pick(&[0, 3, 8]));
            packet.number("icmp_code", random.below(2));
        }
        "nd" => neighbour(packet, random),
        _ => {}
    }
}

fn transport(packet: &mut Builder, random: &mut Random, names: [&'static str; 2]) {
    for name in names {
        packet.number(name, random.pick(&PORTS));
    }
}

fn neighbour(packet: &mut Builder, random: &mut Random) {
    let solicits = random.chance(50);
    packet.number("icmpv6_type", if solicits { 135 } else { 136 });
    packet.number("icmpv6_code", 0);
    packet.field("nd_target", random.pick(&IPV6));
    packet.field(if solicits { "nd_sll" } else { "nd_tll" }, random.pick(&MACS));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notation_reads_as_its_number() {
        assert_eq!(number("02:00:00:00:01:03"), Some(0x0200_0000_0103));
        assert_eq!(number("10.0.1.129"), Some(0x0a00_0181));
        assert_eq!(number("fd00::1"), Some(0xfd00 << 112 | 1));
        assert_eq!(number("0x12345"), Some(0x12345));
        assert_eq!(number("255"), Some(255));
        assert_eq!(number("port"), None);
        for text in MACS.iter().chain(&IPV4).chain(&IPV6) {
            assert!(number(text).is_some(), "{text}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_packets_again_and_they_differ_among_each_other() {
        let packets = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| super::random(&mut random, 5).text).collect::<Vec<_>>()
        };
        assert_eq!(packets(7), packets(7));
        let mut distinct = packets(7);
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 90);
    }
}
