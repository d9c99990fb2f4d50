//! Which packets have a field: the prerequisites of fields, as data that whoever asks walks.
//!
//! The slow path asks of a packet, and notes which bits the answer rested on. The text of a rule asks of all the packets
//! that a match covers. Both walk the same conditions.
//!
//! # Source
//! ovs-fields(7), "Prerequisites".

use crate::flow::key::VLAN_PRESENT;
use crate::wire::FRAG_LATER;
use crate::wire::ethernet::{TYPE_ARP, TYPE_IPV4, TYPE_IPV6, TYPE_RARP};
use crate::wire::{icmp, ndp, sctp, tcp, udp};

use super::field::Field;

/// What a packet must be to have a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Every packet has it.
    Nothing,
    /// An outer VLAN tag.
    Vlan,
    /// An inner VLAN tag.
    InnerVlan,
    /// Ethernet type ARP or reverse ARP.
    Arp,
    /// Ethernet type IPv4.
    Ipv4,
    /// Ethernet type IPv6.
    Ipv6,
    /// Ethernet type IPv4 or IPv6.
    Ip,
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// UDP over IPv4 or IPv6.
    Udp,
    /// SCTP over IPv4 or IPv6.
    Sctp,
    /// TCP, UDP or SCTP over IPv4 or IPv6.
    Ports,
    /// ICMP over IPv4.
    Icmp,
    /// ICMPv6.
    Icmpv6,
    /// ICMPv6 neighbour solicitation or advertisement.
    Nd,
    /// ICMPv6 neighbour solicitation.
    NdSolicit,
    /// ICMPv6 neighbour advertisement.
    NdAdvert,
}

/// One condition on a packet: bits of a field that have one of several values.
#[derive(Debug, Clone, Copy)]
pub struct Condition {
    /// The field.
    pub field: Field,
    /// Which of its bits.
    pub mask: u128,
    /// The values that will do.
    pub values: &'static [u128],
    /// A match need not say so: unless it says otherwise, its packets are taken to meet the condition.
    pub is_assumed: bool,
}

/// A condition that a match must state.
const fn stated(field: Field, mask: u128, values: &'static [u128]) -> Condition {
    Condition { field, mask, values, is_assumed: false }
}

/// A condition that a match need not state, that bits are zero.
const fn assumed_zero(field: Field, mask: u128) -> Condition {
    Condition { field, mask, values: &[0], is_assumed: true }
}

const PRESENT: u128 = VLAN_PRESENT as u128;

const VLAN: Condition = stated(Field::VlanTci, PRESENT, &[PRESENT]);
const INNER_VLAN: Condition = stated(Field::InnerVlanTci, PRESENT, &[PRESENT]);
const ARP: Condition = stated(Field::EthType, 0xffff, &[TYPE_ARP as u128, TYPE_RARP as u128]);
const IPV4: Condition = stated(Field::EthType, 0xffff, &[TYPE_IPV4 as u128]);
const IPV6: Condition = stated(Field::EthType, 0xffff, &[TYPE_IPV6 as u128]);
const IP: Condition = stated(Field::EthType, 0xffff, &[TYPE_IPV4 as u128, TYPE_IPV6 as u128]);
/// Later fragments lack the header that their protocol names.
const FIRST: Condition = assumed_zero(Field::IpFrag, FRAG_LATER as u128);
const TCP: Condition = stated(Field::IpProto, 0xff, &[tcp::PROTOCOL as u128]);
const UDP: Condition = stated(Field::IpProto, 0xff, &[udp::PROTOCOL as u128]);
const SCTP: Condition = stated(Field::IpProto, 0xff, &[sctp::PROTOCOL as u128]);
const WITH_PORTS: Condition =
    stated(Field::IpProto, 0xff, &[tcp::PROTOCOL as u128, udp::PROTOCOL as u128, sctp::PROTOCOL as u128]);
const ICMP: Condition = stated(Field::IpProto, 0xff, &[icmp::PROTOCOL_V4 as u128]);
const ICMPV6: Condition = stated(Field::IpProto, 0xff, &[icmp::PROTOCOL_V6 as u128]);
const ND: Condition =
    stated(Field::Icmpv6Type, 0xff, &[ndp::SOLICITATION as u128, ndp::ADVERTISEMENT as u128]);
const ND_SOLICIT: Condition = stated(Field::Icmpv6Type, 0xff, &[ndp::SOLICITATION as u128]);
const ND_ADVERT: Condition = stated(Field::Icmpv6Type, 0xff, &[ndp::ADVERTISEMENT as u128]);
const ND_CODE: Condition = assumed_zero(Field::Icmpv6Code, 0xff);

impl Needs {
    /// What a packet must meet, each of these. The conditions that refute the most packets come first, as an answer looks
    /// no further than the first that is not met.
    pub const fn conditions(self) -> &'static [Condition] {
        match self {
            Needs::Nothing => &[],
            Needs::Vlan => &[VLAN],
            Needs::InnerVlan => &[INNER_VLAN],
            Needs::Arp => &[ARP],
            Needs::Ipv4 => &[IPV4],
            Needs::Ipv6 => &[IPV6],
            Needs::Ip => &[IP],
            Needs::Tcp => &[IP, TCP, FIRST],
            Needs::Udp => &[IP, UDP, FIRST],
            Needs::Sctp => &[IP, SCTP, FIRST],
            Needs::Ports => &[IP, WITH_PORTS, FIRST],
            Needs::Icmp => &[IPV4, ICMP, FIRST],
            Needs::Icmpv6 => &[IPV6, ICMPV6, FIRST],
            Needs::Nd => &[IPV6, ICMPV6, FIRST, ND, ND_CODE],
            Needs::NdSolicit => &[IPV6, ICMPV6, FIRST, ND_SOLICIT, ND_CODE],
            Needs::NdAdvert => &[IPV6, ICMPV6, FIRST, ND_ADVERT, ND_CODE],
        }
    }

    /// Whether a packet meets every condition; `read` tells the bits of its fields, and is asked for no more than decide.
    pub fn are_met(self, mut read: impl FnMut(Field, u128) -> u128) -> bool {
        self.conditions().iter().all(|condition| {
            let bits = read(condition.field, condition.mask);
            condition.values.contains(&bits)
        })
    }
}
