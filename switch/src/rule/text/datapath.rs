//! A packet in the words of a datapath, as dumps of megaflows have it: `in_port(vm0),eth(src=...,dst=...),eth_type(0x0800),
//! ipv4(src=...,dst=...),tcp(dst=22)`.
//!
//! What a dump shows can be traced as it stands. A value with a mask counts as the value: of the packets of a megaflow the one
//! that is zero where the megaflow does not look. Open vSwitch has what is behind a tag in `encap(...)`; here that may be
//! left out. What a datapath knows of a packet and no rule can ask about is passed over.
//!
//! # Source
//! ovs-dpctl(8), and what Open vSwitch prints.

use crate::flow::key::VLAN_PRESENT;
use crate::rule::field::{Field, Notation};
use crate::wire::ethernet::TYPE_NONE;
use crate::wire::vlan::{TYPE_CUSTOMER, is_tag};

use super::PortNames;
use super::cursor::{Form, Item, Items, Piece};
use super::error::TextError;
use super::known::{Known, ingress};
use super::values::{number, number_as, single};

/// A member of a group, by its name; without one, what the parentheses hold.
type Member = (&'static str, Field);

/// The groups that are header fields.
const GROUPS: [(&str, &[Member]); 11] = [
    ("in_port", &[("", Field::InPort)]),
    ("eth", &[("src", Field::EthSrc), ("dst", Field::EthDst)]),
    (
        "ipv4",
        &[
            ("src", Field::Ipv4Src),
            ("dst", Field::Ipv4Dst),
            ("proto", Field::IpProto),
            ("tos", Field::IpTos),
            ("ttl", Field::IpTtl),
            ("frag", Field::IpFrag),
        ],
    ),
    (
        "ipv6",
        &[
            ("src", Field::Ipv6Src),
            ("dst", Field::Ipv6Dst),
            ("label", Field::Ipv6Label),
            ("proto", Field::IpProto),
            ("tclass", Field::IpTos),
            ("tos", Field::IpTos),
            ("hlimit", Field::IpTtl),
            ("ttl", Field::IpTtl),
            ("frag", Field::IpFrag),
        ],
    ),
    (
        "arp",
        &[
            ("sip", Field::ArpSpa),
            ("tip", Field::ArpTpa),
            ("op", Field::ArpOp),
            ("sha", Field::ArpSha),
            ("tha", Field::ArpTha),
        ],
    ),
    ("tcp", &[("src", Field::TcpSrc), ("dst", Field::TcpDst)]),
    ("udp", &[("src", Field::UdpSrc), ("dst", Field::UdpDst)]),
    ("sctp", &[("src", Field::SctpSrc), ("dst", Field::SctpDst)]),
    ("icmp", &[("type", Field::IcmpType), ("code", Field::IcmpCode)]),
    ("icmpv6", &[("type", Field::Icmpv6Type), ("code", Field::Icmpv6Code)]),
    ("nd", &[("target", Field::NdTarget), ("sll", Field::NdSll), ("tll", Field::NdTll)]),
];

/// Groups with a meaning of their own.
const OTHERS: [&str; 4] = ["eth_type", "vlan", "encap", "tcp_flags"];

/// What no rule here can ask about.
const PASSED_OVER: [&str; 9] = [
    "skb_priority",
    "skb_mark",
    "dp_hash",
    "recirc_id",
    "ct_state",
    "ct_zone",
    "ct_mark",
    "ct_label",
    "packet_type",
];

/// Whether items are groups of a datapath, and not conditions that happen to have their values in parentheses.
pub(super) fn is_datapath(items: &[Item<'_>]) -> bool {
    let is_group = |item: &Item<'_>| {
        let name = item.name.text();
        let is_name = GROUPS.iter().any(|(own, _)| *own == name);
        item.form == Form::Called && (is_name || OTHERS.contains(&name) || PASSED_OVER.contains(&name))
    };
    !items.is_empty() && items.iter().all(is_group)
}

/// Whether a text is the number zero, in decimal or hexadecimal.
fn is_zero(text: &str) -> bool {
    text.trim().trim_start_matches("0x").trim_start_matches('0').is_empty()
}

/// A packet in the making.
struct Groups<'a> {
    names: &'a dyn PortNames,
    known: Known,
    /// The fields that were named, and where.
    named: Vec<(Field, Piece<'a>)>,
    /// How many tags it has, and of how many what is behind them was told in `encap`.
    tags: usize,
    encaps: usize,
    /// The protocol of the next tag.
    tpid: u16,
    tpids: [u16; 2],
}

/// What `items` say of a packet, and the protocols of its tags.
///
/// # Errors
/// A value is none, or of a field that such a packet does not have.
pub(super) fn packet_of<'a>(
    items: &[Item<'a>],
    names: &'a dyn PortNames,
) -> Result<(Known, [u16; 2]), TextError> {
    let mut groups = Groups {
        names,
        known: Known::default(),
        named: Vec::new(),
        tags: 0,
        encaps: 0,
        tpid: TYPE_CUSTOMER,
        tpids: [0; 2],
    };
    // A frame without an Ethernet type has a length in its place.
    groups.known.know(Field::EthType, TYPE_NONE.into(), u128::MAX);
    items.iter().try_for_each(|item| groups.group(item))?;
    if let Some((_, piece)) = groups.named.iter().find(|(field, _)| !groups.known.has(field.needs())) {
        return Err(
            piece.error("a value of what packets have whose eth_type, proto and frag are those given")
        );
    }
    Ok((groups.known, groups.tpids))
}

/// A piece without the mask behind it.
fn unmasked(piece: Piece<'_>) -> Piece<'_> {
    piece.split_once("/").map_or(piece, |(value, _)| value)
}

impl<'a> Groups<'a> {
    /// Bound: `encap` lies in itself once at most, as each stands behind a tag of its own.
    fn group(&mut self, item: &Item<'a>) -> Result<(), TextError> {
        let name = item.name.text();
        match name {
            "eth_type" => self.eth_type(item.value),
            "vlan" => self.vlan(item.value),
            "encap" if self.encaps < self.tags => {
                self.encaps += 1;
                Items::of(item.value).try_for_each(|inner| self.group(&inner?))
            }
            "encap" => Err(item.whole.error("vlan(...) before encap(...)")),
            "tcp_flags" => self.field(Field::TcpFlags, item.value),
            "recirc_id" if !is_zero(item.value.text()) => Err(item.whole.error(
                "recirc_id(0), a packet on its first pass; describe the packet as it came, and the later passes follow",
            )),
            _ if PASSED_OVER.contains(&name) => Ok(()),
            _ => {
                let members = GROUPS.iter().find(|(own, _)| *own == name).map(|(_, members)| *members);
                let members =
                    members.ok_or_else(|| item.name.error("a group of fields that this switch has"))?;
                self.members(members, item)
            }
        }
    }

    fn members(&mut self, members: &[Member], item: &Item<'a>) -> Result<(), TextError> {
        if let [("", field)] = members {
            return self.field(*field, item.value);
        }
        for part in Items::of(item.value) {
            let part = part?;
            let member = members.iter().find(|(own, _)| *own == part.name.text());
            let (name, field) = member.ok_or_else(|| {
                let names: Vec<&str> = members.iter().map(|(own, _)| *own).collect();
                part.name.error(format!("one of {}", names.join(", ")))
            })?;
            self.field(*field, part.value(&format!("{name}=VALUE"))?)?;
        }
        Ok(())
    }

    fn field(&mut self, field: Field, text: Piece<'a>) -> Result<(), TextError> {
        let value = unmasked(text.trim());
        match (field.notation(), single(field, value, self.names)?) {
            (Notation::Port, port) => {
                let (field, port) = ingress(port);
                self.known.know(field, port, u128::MAX);
            }
            (_, bits) => self.known.know(field, bits, u128::MAX),
        }
        self.named.push((field, text));
        Ok(())
    }

    /// The protocol of a tag, or what is behind all of them.
    fn eth_type(&mut self, text: Piece<'a>) -> Result<(), TextError> {
        let eth_type = number_as(unmasked(text.trim()), u16::MAX)?;
        if is_tag(eth_type) {
            self.tpid = eth_type;
        } else {
            self.known.know(Field::EthType, eth_type.into(), u128::MAX);
        }
        Ok(())
    }

    /// `vlan(vid=10,pcp=0)`, with its protocol if that is an odd one, or `vlan(none)`.
    fn vlan(&mut self, text: Piece<'a>) -> Result<(), TextError> {
        if text.text().trim() == "none" {
            return Ok(());
        }
        let field = match self.tags {
            0 => Field::VlanTci,
            1 => Field::InnerVlanTci,
            _ => return Err(text.error("two tags at most, as rules see no more of them")),
        };
        let mut tci = u128::from(VLAN_PRESENT);
        for part in Items::of(text) {
            let part = part?;
            let value = || part.value("vid=10").map(unmasked);
            match part.name.text() {
                "present" => {}
                "tpid" => self.tpid = number_as(value()?, u16::MAX)?,
                "vid" => tci |= number(value()?, 0xfff)?,
                "pcp" => tci |= number(value()?, 7)? << 13,
                "cfi" => {}
                _ => return Err(part.name.error("one of tpid, vid, pcp, cfi")),
            }
        }
        self.known.know(field, tci, u128::MAX);
        self.tpids[self.tags] = std::mem::replace(&mut self.tpid, TYPE_CUSTOMER);
        self.tags += 1;
        Ok(())
    }
}
