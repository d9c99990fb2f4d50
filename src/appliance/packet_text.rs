//! The header fields of a packet in ovs-ofctl's syntax.

use vsteer_switch::flow::extract::extract;
use vsteer_switch::flow::fields::Fields;
use vsteer_switch::flow::key::{Depth, FlowKey};
use vsteer_switch::packet::Packet;
use vsteer_switch::port::PortId;
use vsteer_switch::rule::field::{Field, Needs};
use vsteer_switch::rule::matching::Match;
use vsteer_switch::rule::text::{self, PortNames};

/// The key of a packet that starts with `bytes`, filled to the last depth.
pub(super) fn key_of(in_port: PortId, bytes: &[u8]) -> FlowKey {
    let mut key = FlowKey::default();
    extract(&Packet::of_bytes(in_port, bytes), Depth::Transport, &mut key);
    key
}

/// Every field that a packet has, as the match that names it.
pub(super) fn packet_text(fields: &Fields, names: &dyn PortNames) -> String {
    let mut matching = Match::ANY;
    for &field in Field::NAMED.iter().filter(|&&field| has(fields, field)) {
        matching.require(field, field.get(fields), u128::MAX);
    }
    text::match_text(&matching, names)
}

/// Whether a packet has a field that is worth naming. Of fields that lie on the same bits one is enough.
fn has(fields: &Fields, field: Field) -> bool {
    match field {
        Field::InPort | Field::EthSrc | Field::EthDst | Field::EthType => true,
        Field::VlanTci | Field::InnerVlanTci => field.get(fields) != 0,
        Field::VlanVid | Field::InnerVlanVid | Field::IpDscp | Field::IpEcn => false,
        Field::Metadata | Field::Ipv6Label | Field::IpFrag | Field::NdSll | Field::NdTll => {
            field.get(fields) != 0 && meets(fields, field.needs())
        }
        _ => meets(fields, field.needs()),
    }
}

fn meets(fields: &Fields, needs: Needs) -> bool {
    let eth_type = fields.key.eth_type.get();
    let (ipv4, ipv6) = (eth_type == 0x0800, eth_type == 0x86dd);
    let ip = |proto| (ipv4 || ipv6) && fields.key.ip_proto == proto && fields.key.ip_frag & 2 == 0;
    let nd = |kind| ipv6 && ip(58) && fields.key.tp_src.get() == kind;
    match needs {
        Needs::Nothing => true,
        // The tag's own field says it all.
        Needs::Vlan | Needs::InnerVlan => false,
        Needs::Arp => eth_type == 0x0806,
        Needs::Ipv4 => ipv4,
        Needs::Ipv6 => ipv6,
        Needs::Ip => ipv4 || ipv6,
        Needs::Tcp => ip(6),
        Needs::Udp => ip(17),
        Needs::Sctp => ip(132),
        Needs::Icmp => ipv4 && ip(1),
        Needs::Icmpv6 => ipv6 && ip(58),
        Needs::Nd => nd(135) || nd(136),
        Needs::NdSolicit => nd(135),
        Needs::NdAdvert => nd(136),
    }
}
