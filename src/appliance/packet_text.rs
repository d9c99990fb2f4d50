//! The header fields of a packet in ovs-ofctl's syntax.

use vsteer_switch::flow::extract::extract;
use vsteer_switch::flow::fields::{Fields, REGISTERS};
use vsteer_switch::flow::key::{Depth, FlowKey};
use vsteer_switch::packet::Packet;
use vsteer_switch::port::PortId;
use vsteer_switch::rule::field::Field;
use vsteer_switch::rule::matching::Match;
use vsteer_switch::rule::text::{self, PortNames};
use vsteer_switch::wire::vlan::VlanLimit;

/// The key of a packet of `len` bytes that starts with `bytes`, filled as far as these hold its headers.
pub(super) fn key_of(in_port: u32, bytes: &[u8], len: usize, limit: VlanLimit) -> FlowKey {
    let mut key = FlowKey::default();
    // What lies beyond the bytes is left out.
    let _ = extract(&Packet::of_bytes(PortId::ZERO, bytes, len), limit, Depth::Transport, &mut key);
    FlowKey { in_port, ..key }
}

/// Every field that a packet has, and what rules noted about it, as the match that names it.
pub(super) fn packet_text(fields: &Fields, names: &dyn PortNames) -> String {
    let mut named = Fields::NONE;
    let registers = (0..).map(Field::Reg).take(REGISTERS).filter(|register| register.get(fields) != 0);
    for field in Field::NAMED.iter().copied().filter(|&field| has(fields, field)).chain(registers) {
        field.look_at(&mut named, u128::MAX);
    }
    text::match_text(&Match::new(fields, &named), names)
}

/// Whether a packet has a field that is worth naming. Of fields that lie on the same bits one is enough.
fn has(fields: &Fields, field: Field) -> bool {
    let is_there = || field.needs().are_met(|field, mask| field.get(fields) & mask);
    match field {
        Field::InPort | Field::EthSrc | Field::EthDst | Field::EthType => true,
        Field::VlanTci | Field::InnerVlanTci => field.get(fields) != 0,
        // Of the rules' own, not of the packet.
        Field::ConjId | Field::ActsetOutput => false,
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
