//! Datapath actions in the words of ovs-dpctl(8), executed on the headers of one packet.
//!
//! vsteer's own words beside them: several groups in one `set`, `set_vlan`, `controller`, and a drop's reason.
//!
//! What cannot be read is a failure: a word that is passed over would hide a difference.

use std::fmt;

use crate::failure::{Failure, Result};
use crate::{ensure, fail};

use super::packet::{Headers, Tag, number};

/// A packet that leaves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Departure {
    /// By this port, with these headers.
    Port(String, Headers),
    /// To whoever listens at the controller, as it is by then.
    Controller(Headers),
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Departure::Port(port, headers) => write!(f, "{port}: {headers}"),
            Departure::Controller(headers) => write!(f, "controller: {headers}"),
        }
    }
}

/// Everything that a switch does with a packet, in an order that does not depend on the switch.
pub type Verdict = Vec<Departure>;

/// Executes `actions` on a packet with these headers. `port_name` names the ports by their datapath numbers.
pub fn execute(
    actions: &str,
    headers: &Headers,
    port_name: impl Fn(&str) -> Option<String>,
) -> Result<Verdict> {
    let mut headers = headers.clone();
    let mut departures = Vec::new();
    for action in split(actions) {
        let (name, arguments) = match action.split_once('(') {
            Some((name, rest)) => (name, rest.strip_suffix(')').unwrap_or(rest)),
            None => (action, ""),
        };
        match name {
            "" | "drop" => {}
            "push_vlan" => push(&mut headers, arguments)?,
            "pop_vlan" => {
                ensure!(!headers.tags.is_empty(), "{actions}: pop_vlan without a tag");
                headers.tags.remove(0);
            }
            "set" => set(&mut headers, arguments)?,
            "set_vlan" => {
                for (name, value) in pairs(arguments)? {
                    set_tag(&mut headers, name, read(value)?, u128::MAX)?;
                }
            }
            "controller" => departures.push(Departure::Controller(headers.clone())),
            // Without a controller nobody is told of an expired time to live (reason 2).
            "userspace" if arguments.contains("reason=2") => {}
            "userspace" if arguments.contains("controller(") => {
                departures.push(Departure::Controller(headers.clone()));
            }
            port => match port_name(port) {
                Some(name) => departures.push(Departure::Port(name, headers.clone())),
                None => fail!("{actions}: what is {action}?"),
            },
        }
    }
    departures.sort();
    Ok(departures)
}

/// The parts of `text` between its commas, those within parentheses left alone.
pub fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

fn push(headers: &mut Headers, arguments: &str) -> Result<()> {
    let mut tag = Tag { tpid: 0x8100, vid: 0, pcp: 0 };
    for (name, value) in pairs(arguments)? {
        let value = read(value)?;
        match name {
            "tpid" => tag.tpid = u16::try_from(value)?,
            "vid" => tag.vid = u16::try_from(value)?,
            "pcp" => tag.pcp = u8::try_from(value)?,
            other => fail!("push_vlan({arguments}): what is {other}?"),
        }
    }
    headers.tags.insert(0, tag);
    Ok(())
}

/// `ipv4(src=10.0.0.1,tos=0/0xfc)`, one or more such groups: the bits outside a mask stay.
fn set(headers: &mut Headers, arguments: &str) -> Result<()> {
    for group in split(arguments) {
        let Some((group, members)) = group.strip_suffix(')').and_then(|text| text.split_once('(')) else {
            fail!("set({arguments})")
        };
        for (name, text) in pairs(members)? {
            let (value, mask) = match text.split_once('/') {
                Some((value, mask)) => (read(value)?, read(mask)?),
                None => (read(text)?, u128::MAX),
            };
            if group == "vlan" {
                set_tag(headers, name, value, mask)?;
                continue;
            }
            // What a packet does not have stays away: the ports of a later fragment are nowhere to be written to.
            let names =
                fields(group, name).ok_or_else(|| Failure::new(format!("set({arguments}): {name}?")))?;
            if let Some(field) = names.iter().find(|field| headers.fields.contains_key(*field)) {
                let width = if field.starts_with("nw_") || field.starts_with("arp_") {
                    u32::MAX.into()
                } else {
                    u128::MAX
                };
                let entry = headers.fields.entry(field).or_default();
                *entry = *entry & !(mask & width) | value & mask & width;
            }
        }
    }
    Ok(())
}

fn set_tag(headers: &mut Headers, name: &str, value: u128, mask: u128) -> Result<()> {
    let Some(tag) = headers.tags.first_mut() else { fail!("vlan({name}) of a packet without a tag") };
    match name {
        "vid" => {
            tag.vid = u16::try_from(u128::from(tag.vid) & !mask | value & mask)?;
        }
        "pcp" => {
            tag.pcp = u8::try_from(u128::from(tag.pcp) & !mask | value & mask)?;
        }
        other => fail!("vlan({other})"),
    }
    Ok(())
}

/// What `name` in the group `group` may stand for; a packet has one of these at most.
///
/// Both name the network protocol in the group. vsteer does not name the transport: `tp` are the first two numbers of
/// whatever there is.
fn fields(group: &str, name: &str) -> Option<&'static [&'static str]> {
    Some(match (group, name) {
        ("eth", "src") => &["eth_src"],
        ("eth", "dst") => &["eth_dst"],
        ("ip" | "ipv4" | "ipv6", "src") | ("arp", "sip") => &["nw_src", "ipv6_src", "arp_spa"],
        ("ip" | "ipv4" | "ipv6", "dst") | ("arp", "tip") => &["nw_dst", "ipv6_dst", "arp_tpa"],
        ("ip", "proto") | ("arp", "op") => &["arp_op"],
        ("ip" | "ipv4", "tos") | ("ipv6", "tclass" | "tos") => &["tos"],
        ("ip" | "ipv4", "ttl") | ("ipv6", "hlimit" | "ttl") => &["nw_ttl"],
        ("ip" | "ipv6", "label") => &["ipv6_label"],
        ("tcp" | "udp" | "sctp" | "tp", "src") | ("icmp" | "icmpv6", "type") => {
            &["tcp_src", "udp_src", "sctp_src", "icmp_type", "icmpv6_type"]
        }
        ("tcp" | "udp" | "sctp" | "tp", "dst") | ("icmp" | "icmpv6", "code") => {
            &["tcp_dst", "udp_dst", "sctp_dst", "icmp_code", "icmpv6_code"]
        }
        ("nd", "target") => &["nd_target"],
        ("nd", "sll") | ("arp", "sha") => &["nd_sll", "arp_sha"],
        ("nd", "tll") | ("arp", "tha") => &["nd_tll", "arp_tha"],
        _ => return None,
    })
}

fn pairs(text: &str) -> Result<Vec<(&str, &str)>> {
    split(text)
        .into_iter()
        .map(|part| part.split_once('=').ok_or_else(|| Failure::new(format!("{text}: {part} has no value"))))
        .collect()
}

fn read(text: &str) -> Result<u128> {
    number(text).ok_or_else(|| Failure::new(format!("{text:?} is no value")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn headers() -> Headers {
        let fields = BTreeMap::from([("nw_src", 0x0a00_0001), ("tos", 3), ("nw_ttl", 64), ("tcp_dst", 80)]);
        Headers { tags: Vec::new(), fields }
    }

    fn ports(number: &str) -> Option<String> {
        number.parse::<u16>().ok().map(|number| format!("p{number}"))
    }

    #[test]
    fn each_output_sees_the_packet_as_it_is_by_then() {
        let actions = "1,push_vlan(vid=5,pcp=2),2,set(ipv4(src=192.168.0.0/255.255.0.0,tos=0x28/0xfc,ttl=63)),pop_vlan,3";
        let verdict = execute(actions, &headers(), ports).unwrap();
        let mut tagged = headers();
        tagged.tags.push(Tag { tpid: 0x8100, vid: 5, pcp: 2 });
        let mut rewritten = headers();
        rewritten.fields.extend([("nw_src", 0xc0a8_0001), ("tos", 0x2b), ("nw_ttl", 63)]);
        let expected = [("p1", headers()), ("p2", tagged), ("p3", rewritten)];
        assert_eq!(verdict, expected.map(|(port, headers)| Departure::Port(port.into(), headers)));
    }

    #[test]
    fn a_drop_is_no_departure() {
        assert_eq!(execute("drop", &headers(), ports).unwrap(), []);
        assert_eq!(
            execute("userspace(pid=0,controller(reason=2,max_len=65535))", &headers(), ports).unwrap(),
            []
        );
    }

    #[test]
    fn an_unknown_word_is_a_failure() {
        assert!(execute("2,recirc(0x1)", &headers(), ports).is_err());
        assert!(execute("set(ipv4(flags=1)),2", &headers(), ports).is_err());
        assert!(execute("pop_vlan,2", &headers(), ports).is_err());
    }
}
