//! The header fields of a packet in ovs-ofctl's syntax.

use vsteer_switch::flow::extract::extract;
use vsteer_switch::flow::fields::Fields;
use vsteer_switch::flow::key::{Depth, FlowKey};
use vsteer_switch::packet::Packet;
use vsteer_switch::port::PortId;
use vsteer_switch::rule::field::Field;
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
    let is_there = || field.needs().are_met(|field, mask| field.get(fields) & mask);
    match field {
        Field::InPort | Field::EthSrc | Field::EthDst | Field::EthType => true,
        Field::VlanTci | Field::InnerVlanTci => field.get(fields) != 0,
        // The tag's own field says it all, as does the byte of both.
        Field::VlanVid
        | Field::VlanPcp
        | Field::InnerVlanVid
        | Field::InnerVlanPcp
        | Field::IpDscp
        | Field::IpEcn => false,
        Field::Metadata | Field::Ipv6Label | Field::IpFrag | Field::NdSll | Field::NdTll => {
            field.get(fields) != 0 && is_there()
        }
        _ => is_there(),
    }
}
