//! The line in which a switch shows how it reads a packet, turned back into headers.
//!
//! Both switches write it in ovs-ofctl's syntax, but not alike: a field that is zero may be left out, and ports go by
//! several names. Headers that are read here have every field of their kind of packet, under the names of `packet.rs`, and
//! the two that decide what else there is: `nw_proto` and `nw_frag`. Fields that one of the switches does not have (MPLS, NSH,
//! types of IGMP) are left out.

use std::collections::BTreeMap;

use crate::fail;
use crate::failure::{Failure, Result};

use super::packet::{Headers, Tag, number};

/// The kinds of packets that have a name: Ethernet type, protocol.
const KINDS: [(&str, u16, Option<u8>); 14] = [
    ("ip", 0x0800, None),
    ("ipv6", 0x86dd, None),
    ("icmp", 0x0800, Some(1)),
    ("icmp6", 0x86dd, Some(58)),
    ("tcp", 0x0800, Some(6)),
    ("tcp6", 0x86dd, Some(6)),
    ("udp", 0x0800, Some(17)),
    ("udp6", 0x86dd, Some(17)),
    ("sctp", 0x0800, Some(132)),
    ("sctp6", 0x86dd, Some(132)),
    ("arp", 0x0806, None),
    ("rarp", 0x8035, None),
    ("mpls", 0x8847, None),
    ("mplsm", 0x8848, None),
];

/// The flags of TCP from the lowest on.
const FLAGS: [&str; 9] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns"];

/// Reads a line about a frame. Neither switch says of which kind its tags are, so that is taken from its bytes.
pub fn read_of(text: &str, frame: &[u8]) -> Result<Headers> {
    let mut headers = read(text)?;
    for (tag, bytes) in headers.tags.iter_mut().zip(frame.get(12..).unwrap_or_default().chunks_exact(4)) {
        tag.tpid = u16::from_be_bytes([bytes[0], bytes[1]]);
    }
    Ok(headers)
}

/// Reads a line; each tag counts as one of a customer.
pub fn read(text: &str) -> Result<Headers> {
    let mut words: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut eth_type, mut proto) = (None, None);
    for word in text.trim().split(',') {
        match word.split_once('=') {
            Some((name, value)) => drop(words.insert(name, value)),
            None => match KINDS.iter().find(|kind| kind.0 == word) {
                Some(&(_, kind, protocol)) => (eth_type, proto) = (Some(kind), protocol),
                None => fail!("{text}: what is {word}?"),
            },
        }
    }
    let line = Line(&words);
    let eth_type = match eth_type {
        Some(eth_type) => u128::from(eth_type),
        None => line.number(&["dl_type", "eth_type"])?,
    };
    let mut headers = Headers { tags: line.tags()?, fields: BTreeMap::new() };
    headers.fields.insert("eth_type", eth_type);
    for (name, names) in FIELDS.iter().filter(|field| has(eth_type, field.0)) {
        headers.fields.insert(name, line.number(names)?);
    }
    if matches!(eth_type, 0x0800 | 0x86dd) {
        let proto = match proto {
            Some(proto) => u128::from(proto),
            None => line.number(&["nw_proto"])?,
        };
        let frag = match words.get("nw_frag").copied() {
            None | Some("no") => 0,
            Some("first") => 1,
            Some("later") => 3,
            Some(other) => fail!("{text}: what is nw_frag={other}?"),
        };
        let tos = line.number(&["nw_tos"])? | line.number(&["nw_ecn"])?;
        headers.fields.extend([("nw_proto", proto), ("nw_frag", frag), ("tos", tos)]);
        if frag != 3 {
            line.transport(eth_type, proto, &mut headers)?;
        }
    }
    Ok(headers)
}

/// Fields that follow from the Ethernet type alone, and what they may be called.
const FIELDS: [(&str, &[&str]); 13] = [
    ("eth_src", &["eth_src", "dl_src"]),
    ("eth_dst", &["eth_dst", "dl_dst"]),
    ("nw_src", &["nw_src"]),
    ("nw_dst", &["nw_dst"]),
    ("nw_ttl", &["nw_ttl"]),
    ("ipv6_src", &["ipv6_src"]),
    ("ipv6_dst", &["ipv6_dst"]),
    ("ipv6_label", &["ipv6_label"]),
    ("arp_op", &["arp_op"]),
    ("arp_spa", &["arp_spa"]),
    ("arp_tpa", &["arp_tpa"]),
    ("arp_sha", &["arp_sha"]),
    ("arp_tha", &["arp_tha"]),
];

/// Whether packets of an Ethernet type have one of these fields.
fn has(eth_type: u128, name: &str) -> bool {
    match name {
        "eth_src" | "eth_dst" => true,
        "nw_src" | "nw_dst" => eth_type == 0x0800,
        "nw_ttl" => matches!(eth_type, 0x0800 | 0x86dd),
        _ if name.starts_with("ipv6") => eth_type == 0x86dd,
        _ => matches!(eth_type, 0x0806 | 0x8035),
    }
}

/// The fields of a line.
struct Line<'a>(&'a BTreeMap<&'a str, &'a str>);

impl Line<'_> {
    /// The number behind the first of these names that is there; zero without any.
    fn number(&self, names: &[&str]) -> Result<u128> {
        let Some((name, text)) = names.iter().find_map(|name| Some((name, self.0.get(name)?))) else {
            return Ok(0);
        };
        number(text).ok_or_else(|| Failure::new(format!("{name}={text} is no value")))
    }

    /// The tags: Open vSwitch names the second `1`.
    fn tags(&self) -> Result<Vec<Tag>> {
        let mut tags = Vec::new();
        for names in [["dl_vlan", "dl_vlan_pcp", "vlan_tci"], ["dl_vlan1", "dl_vlan_pcp1", "vlan_tci1"]] {
            let tci = self.number(&names[2..])?;
            let (vid, pcp) = match tci {
                0 if self.0.contains_key(names[0]) => (self.number(&names[..1])?, self.number(&names[1..2])?),
                0 => continue,
                tci => (tci & 0xfff, tci >> 13),
            };
            tags.push(Tag { tpid: 0x8100, vid: u16::try_from(vid)?, pcp: u8::try_from(pcp)? });
        }
        Ok(tags)
    }

    /// Adds the fields of the header of a protocol.
    fn transport(&self, eth_type: u128, proto: u128, headers: &mut Headers) -> Result<()> {
        let mut add = |name: &'static str, names: &[&str]| -> Result<u128> {
            let value = self.number(names)?;
            headers.fields.insert(name, value);
            Ok(value)
        };
        match (eth_type, proto) {
            (_, 6) => {
                add("tcp_src", &["tcp_src", "tp_src"])?;
                add("tcp_dst", &["tcp_dst", "tp_dst"])?;
                headers.fields.insert("tcp_flags", self.flags()?);
            }
            (_, 17) => {
                add("udp_src", &["udp_src", "tp_src"])?;
                add("udp_dst", &["udp_dst", "tp_dst"])?;
            }
            (_, 132) => {
                add("sctp_src", &["sctp_src", "tp_src"])?;
                add("sctp_dst", &["sctp_dst", "tp_dst"])?;
            }
            (0x0800, 1) => {
                add("icmp_type", &["icmp_type"])?;
                add("icmp_code", &["icmp_code"])?;
            }
            (0x86dd, 58) => {
                let kind = add("icmpv6_type", &["icmpv6_type", "icmp_type"])?;
                let code = add("icmpv6_code", &["icmpv6_code", "icmp_code"])?;
                if matches!((kind, code), (135 | 136, 0)) {
                    add("nd_target", &["nd_target"])?;
                    // Rules can ask for the one that the kind of message should have (ovs-fields(7)).
                    if kind == 135 {
                        add("nd_sll", &["nd_sll"])?;
                    } else {
                        add("nd_tll", &["nd_tll"])?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// `syn|ack`, `fin|[800]`, `0`, or a number.
    fn flags(&self) -> Result<u128> {
        let Some(text) = self.0.get("tcp_flags") else { return Ok(0) };
        text.split('|').try_fold(0, |flags, word| {
            let bits = match FLAGS.iter().position(|flag| *flag == word) {
                Some(bit) => Some(1 << bit),
                None => match word.strip_prefix('[').and_then(|word| word.strip_suffix(']')) {
                    Some(hex) => u128::from_str_radix(hex.trim_start_matches("0x"), 16).ok(),
                    None => number(word),
                },
            };
            bits.map(|bits| flags | bits).ok_or_else(|| Failure::new(format!("tcp_flags={text}: {word}?")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_of_a_packet_read_alike() {
        let theirs = "tcp,in_port=1,dl_vlan=20,dl_vlan_pcp=3,vlan_tci1=0x0000,dl_src=02:00:00:00:00:01,\
            dl_dst=02:00:00:00:00:02,nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_tos=184,nw_ecn=1,nw_ttl=64,nw_frag=no,\
            tp_src=22,tp_dst=80,tcp_flags=syn|ack|[800]";
        let ours = "tcp,in_port=p1,eth_src=02:00:00:00:00:01,eth_dst=02:00:00:00:00:02,dl_vlan=20,dl_vlan_pcp=3,\
            nw_src=10.0.0.1,nw_dst=10.0.0.2,nw_tos=184,nw_ecn=1,nw_ttl=64,tcp_src=22,tcp_dst=80,tcp_flags=0x812";
        let read_theirs = read(theirs).unwrap();
        assert_eq!(read_theirs, read(ours).unwrap());
        assert_eq!(read_theirs.fields["tcp_flags"], 0x812);
        assert_eq!(read_theirs.tags, [Tag { tpid: 0x8100, vid: 20, pcp: 3 }]);
        let later = read("ipv6,ipv6_src=fd00::1,nw_proto=44,nw_frag=later").unwrap();
        assert_eq!((later.fields["nw_frag"], later.fields["nw_proto"]), (3, 44));
        assert!(read("ip,nw_src=10.0.0").is_err());
        assert!(read("ipx").is_err());
    }
}
