//! Rules and packets for tests: few values of many fields, so that rules overlap and packets meet them.

use proptest::prelude::*;
use proptest::sample::Index;

use super::action::RuleAction;
use super::entry::RuleSpec;
use super::field::Field;
use super::matching::Match;
use crate::flow::fields::Fields;

/// A field with the values and masks that rules ask for.
struct Sample(Field, &'static [u128], &'static [u128]);

const ALL: &[u128] = &[u128::MAX];
const ADDRESSES: &[u128] = &[0x0a00_0001, 0x0a00_0002, 0x0a00_0101, 0x0a80_0001, 0xc0a8_0101, 0];
const PREFIXES: &[u128] = &[0xffff_ffff, 0xffff_ff00, 0xffff_0000, 0xff80_0000, 0x8000_0000, 0x00ff_00ff];
const ADDRESSES6: &[u128] = &[0xfd00 << 112 | 1, 0xfd00 << 112 | 2, 0xfd01 << 112, 0x0a00_0001, u128::MAX];
const PREFIXES6: &[u128] = &[u128::MAX, u128::MAX << 64, u128::MAX << 112, u128::MAX << 1, 0xffff << 48];
const PORTS: &[u128] = &[22, 80, 443, 8080, 0xc000, 53];
const PORT_MASKS: &[u128] = &[0xffff, 0xfffc, 0xf000, 0x8000, 0x00ff];

const SAMPLES: &[Sample] = &[
    Sample(Field::InPort, &[1, 2, 3], &[u128::MAX, u128::MAX, 1]),
    Sample(Field::Metadata, &[0, 1, 1 << 63], &[u128::MAX, 1]),
    Sample(Field::Reg(0), &[0, 7], ALL),
    Sample(Field::Xxreg(3), &[0, 1 << 100], ALL),
    Sample(Field::ConjId, &[0, 1, 2], ALL),
    Sample(Field::EthSrc, &[0x0200_0000_0001, 0x0200_0000_0002], &[u128::MAX, 0x0100_0000_0000]),
    Sample(Field::EthDst, &[0x0200_0000_0001, 0xffff_ffff_ffff], &[u128::MAX, 0x0100_0000_0000]),
    Sample(Field::EthType, &[0x800, 0x86dd, 0x806], ALL),
    Sample(Field::VlanTci, &[0, 0x1001, 0x1002], &[u128::MAX, 0x1000]),
    Sample(Field::IpProto, &[6, 17, 1], ALL),
    Sample(Field::IpDscp, &[0, 46], ALL),
    Sample(Field::IpFrag, &[0, 1, 3], &[1, 2, 3]),
    Sample(Field::Ipv4Src, ADDRESSES, PREFIXES),
    Sample(Field::Ipv4Dst, ADDRESSES, PREFIXES),
    Sample(Field::Ipv6Src, ADDRESSES6, PREFIXES6),
    Sample(Field::Ipv6Dst, ADDRESSES6, PREFIXES6),
    Sample(Field::TcpSrc, PORTS, PORT_MASKS),
    Sample(Field::TcpDst, PORTS, PORT_MASKS),
    Sample(Field::TcpFlags, &[0, 2, 0x12], &[u128::MAX, 2]),
    Sample(Field::NdTarget, ADDRESSES6, PREFIXES6),
    Sample(Field::ArpSha, &[0x0200_0000_0001, 0], ALL),
];

/// One condition: field, value, mask.
fn condition() -> impl Strategy<Value = (Field, u128, u128)> {
    // Addresses and ports, where the tries are, more often than the rest.
    (prop_oneof![0..SAMPLES.len(), 12..18_usize], any::<Index>(), any::<Index>()).prop_map(
        |(at, value, mask)| {
            let Sample(field, values, masks) = &SAMPLES[at];
            (*field, *value.get(values), *mask.get(masks))
        },
    )
}

/// A match of up to five conditions.
pub(super) fn matching() -> impl Strategy<Value = Match> {
    prop::collection::vec(condition(), 0..6).prop_map(|conditions| {
        let mut matching = Match::ANY;
        conditions.iter().for_each(|&(field, value, mask)| matching.require(field, value, mask));
        matching
    })
}

/// A rule without timeouts and actions, in one of the first `tables` tables.
pub(super) fn rule(tables: u8) -> impl Strategy<Value = RuleSpec> {
    (0..tables, 0..6_u16, matching(), 0..4_u64).prop_map(|(table, priority, matching, cookie)| RuleSpec {
        table,
        priority,
        cookie,
        idle_timeout_s: 0,
        hard_timeout_s: 0,
        remarks: Default::default(),
        matching,
        actions: Box::default(),
    })
}

/// A rule of table 0 that does nothing, or is a part of a few conjunctions.
pub(super) fn rule_or_part() -> impl Strategy<Value = RuleSpec> {
    let part = (1..3_u32, 0..2_u8).prop_map(|(id, dimension)| RuleAction::Conjunction {
        id,
        dimension,
        dimensions: 2,
    });
    let actions = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(part, 1..3)];
    (rule(1), actions).prop_map(|(spec, actions)| RuleSpec { actions: actions.into(), ..spec })
}

/// How a packet comes from the rules: one whose bits it has, and conditions that it meets all the same.
pub(super) type PacketSeed = (Index, Vec<(Field, u128, u128)>);

/// Seeds of packets that meet rules, or nearly.
pub(super) fn packet() -> impl Strategy<Value = PacketSeed> {
    (any::<Index>(), prop::collection::vec(condition(), 0..6))
}

/// The packet of a seed.
pub(super) fn packet_of(seed: &PacketSeed, rules: &[RuleSpec]) -> Fields {
    let mut packet = if rules.is_empty() { Fields::NONE } else { seed.0.get(rules).matching.value() };
    seed.1.iter().for_each(|&(field, value, mask)| field.set(&mut packet, value, mask));
    packet
}
