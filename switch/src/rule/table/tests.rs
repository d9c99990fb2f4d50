//! Lookups against a linear scan: the rule that is found, and the bits that were looked at.

use proptest::prelude::*;

use super::*;
use crate::rule::action::RuleAction;
use crate::rule::entry::RuleSpec;
use crate::rule::field::Field;
use crate::rule::samples;

/// Rules in the order of their age, in a table and as a list.
struct Sample {
    table: Table,
    list: Vec<Arc<Rule>>,
}

impl Sample {
    fn new(specs: &[RuleSpec]) -> Self {
        let mut sample = Self { table: Table::default(), list: Vec::new() };
        for (serial, spec) in (1..).zip(specs) {
            if sample.table.find(&spec.matching, spec.priority).is_none() {
                let rule = Arc::new(Rule::in_table(spec.clone(), 0, serial, Arc::default()));
                assert!(sample.table.put(Arc::clone(&rule)).is_none());
                sample.list.push(rule);
            }
        }
        sample
    }

    /// The highest priority, and of these the oldest, of the rules that are carried out.
    fn scan_carried_out(&self, packet: &Fields) -> Option<&Arc<Rule>> {
        let mut best: Option<&Arc<Rule>> = None;
        let met = self.list.iter().filter(|rule| rule.spec().matching.covers(packet));
        for rule in met.filter(|rule| !rule.is_conjunctive()) {
            if best.is_none_or(|best| rule.spec().priority > best.spec().priority) {
                best = Some(rule);
            }
        }
        best
    }

    /// The rule of the first conjunction that is met, if it has a higher priority than the best rule that is carried out.
    fn scan(&self, packet: &Fields) -> Option<&Arc<Rule>> {
        let best = self.scan_carried_out(packet);
        let than = best.map_or(0, |rule| rule.spec().priority + 1);
        for priority in (than..6).rev() {
            for id in 1..3 {
                let has = |wanted: u8| {
                    let part = RuleAction::Conjunction { id, dimension: wanted, dimensions: 2 };
                    self.list.iter().any(|rule| {
                        let spec = rule.spec();
                        spec.priority == priority
                            && spec.actions.contains(&part)
                            && spec.matching.covers(packet)
                    })
                };
                let met = Fields { conj_id: id.into(), ..*packet };
                let rule = (has(0) && has(1)).then(|| self.scan_carried_out(&met)).flatten();
                if rule.is_some() {
                    return rule;
                }
            }
        }
        best
    }

    fn look_up(&self, packet: &Fields) -> (Option<&Arc<Rule>>, Fields) {
        let mut looked = Fields::NONE;
        (self.table.lookup(packet, &mut looked), looked)
    }

    /// Whether a scan finds the same rule whatever becomes of the bits outside `looked`: each alone, and all of them as
    /// in each of the `random` packets.
    fn is_proof(&self, packet: &Fields, looked: &Fields, random: &[Fields]) -> bool {
        let expected = self.scan(packet).map(Arc::as_ptr);
        let holds = |packet: &Fields| self.scan(packet).map(Arc::as_ptr) == expected;
        // Bits that no rule asks for decide nothing in a scan.
        let used = self.table.used();
        let single = (0..Fields::WORDS * 64).all(|bit| {
            let (at, mask) = (bit / 64, 1 << (bit % 64));
            let mut other = *packet;
            other.words_mut()[at] ^= mask;
            used.words()[at] & !looked.words()[at] & mask == 0 || holds(&other)
        });
        single
            && random.iter().all(|random| {
                let mut other = *packet;
                for at in 0..Fields::WORDS {
                    let free = !looked.words()[at];
                    other.words_mut()[at] = packet.words()[at] & !free | random.words()[at] & free;
                }
                holds(&other)
            })
    }
}

fn name(rule: Option<&Arc<Rule>>) -> Option<*const Rule> {
    rule.map(Arc::as_ptr)
}

proptest! {
    /// The rule found is that of a linear scan, and no packet with the bits that were looked at has another.
    #[test]
    fn lookup_finds_what_a_scan_finds_and_looks_at_all_that_decided(
        specs in prop::collection::vec(samples::rule_or_part(), 0..60), packets in prop::collection::vec(samples::packet(), 8),
        others in prop::collection::vec(samples::packet(), 8), gone in prop::collection::vec(any::<prop::sample::Index>(), 0..20)
    ) {
        let mut sample = Sample::new(&specs);
        for index in gone {
            if !sample.list.is_empty() {
                let rule = sample.list.remove(index.index(sample.list.len()));
                sample.table.remove(&rule);
            }
        }
        prop_assert_eq!(sample.table.len(), sample.list.len());
        let others: Vec<_> = others.iter().map(|seed| samples::packet_of(seed, &specs)).collect();
        for seed in packets {
            let packet = samples::packet_of(&seed, &specs);
            let (found, looked) = sample.look_up(&packet);
            prop_assert_eq!(name(found), name(sample.scan(&packet)));
            prop_assert!(sample.is_proof(&packet, &looked, &others), "{:?} looked at {:?}", packet, looked);
            let mut used = sample.table.used();
            used.unite(&looked);
            prop_assert_eq!(used, sample.table.used(), "looks at bits that no rule asks for");
        }
    }
}

/// A test that no mask could fail would prove nothing: for every field that rules ask for, there is a packet for which a
/// bit less of that field in the mask is noticed.
#[test]
fn mask_that_lacks_a_bit_is_noticed_in_every_field() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut noticed = Fields::NONE;
    let mut used = Fields::NONE;
    for _ in 0..150 {
        let specs =
            prop::collection::vec(samples::rule_or_part(), 1..20).new_tree(&mut runner).unwrap().current();
        let seed = samples::packet().new_tree(&mut runner).unwrap().current();
        let sample = Sample::new(&specs);
        let packet = samples::packet_of(&seed, &specs);
        let (_, looked) = sample.look_up(&packet);
        used.unite(&sample.table.used());
        for bit in 0..Fields::WORDS * 64 {
            let bit_mask = 1 << (bit % 64);
            if looked.words()[bit / 64] & bit_mask != 0 {
                let mut wide = looked;
                wide.words_mut()[bit / 64] &= !bit_mask;
                if !sample.is_proof(&packet, &wide, &[]) {
                    noticed.words_mut()[bit / 64] |= bit_mask;
                }
            }
        }
    }
    for (at, (noticed, used)) in noticed.words().iter().zip(used.words()).enumerate() {
        assert_eq!(*noticed != 0, *used != 0, "word {at}");
    }
    for prefix in PrefixField::ALL {
        assert_ne!(prefix.bits(&noticed), 0, "{prefix:?}");
    }
}

fn tcp(conditions: &[(Field, u128, u128)]) -> RuleSpec {
    let mut matching = Match::ANY;
    matching.require(Field::EthType, 0x800, u128::MAX);
    matching.require(Field::IpProto, 6, u128::MAX);
    conditions.iter().for_each(|&(field, value, mask)| matching.require(field, value, mask));
    RuleSpec {
        table: 0,
        priority: 10,
        cookie: 0,
        idle_timeout_s: 0,
        hard_timeout_s: 0,
        remarks: Default::default(),
        matching,
        actions: Box::default(),
    }
}

/// The fields that a lookup looked at, with their masks.
fn looked_at(sample: &Sample, packet: &Fields) -> Vec<(Field, u128)> {
    let (_, looked) = sample.look_up(packet);
    let fields = [
        Field::InPort,
        Field::EthDst,
        Field::EthType,
        Field::IpProto,
        Field::Ipv4Src,
        Field::Ipv4Dst,
        Field::TcpSrc,
        Field::TcpDst,
    ];
    fields.into_iter().map(|field| (field, field.get(&looked))).filter(|&(_, mask)| mask != 0).collect()
}

fn packet(spec: &RuleSpec, changes: &[(Field, u128)]) -> Fields {
    let mut packet = spec.matching.value();
    changes.iter().for_each(|&(field, value)| field.set(&mut packet, value, u128::MAX));
    packet
}

#[test]
fn each_stage_looks_no_further_than_its_miss() {
    let all = u128::MAX;
    let rule = tcp(&[
        (Field::InPort, 1, all),
        (Field::Ipv4Src, 0x0a00_0001, all),
        (Field::Ipv4Dst, 0x0a00_0002, 0x00ff_00ff),
        (Field::TcpDst, 22, all),
    ]);
    let sample = Sample::new(std::slice::from_ref(&rule));
    let in_port = (Field::InPort, 0xffff);
    let (eth_type, proto) = ((Field::EthType, 0xffff), (Field::IpProto, 0xff));
    assert_eq!(looked_at(&sample, &packet(&rule, &[(Field::InPort, 2)])), [in_port]);
    assert_eq!(looked_at(&sample, &packet(&rule, &[(Field::EthType, 0x86dd)])), [in_port, eth_type]);
    // 10.0.0.1 is all there is, and 10.128.0.1 parts from it at bit 9; bits are looked at in pairs.
    let changed = packet(&rule, &[(Field::Ipv4Src, 0x0a80_0001), (Field::IpProto, 17)]);
    assert_eq!(looked_at(&sample, &changed), [in_port, eth_type, (Field::Ipv4Src, 0xffc0_0000)]);
    let changed = packet(&rule, &[(Field::Ipv4Dst, 3)]);
    let network = [proto, (Field::Ipv4Src, 0xffff_ffff), (Field::Ipv4Dst, 0x00ff_00ff)];
    assert_eq!(looked_at(&sample, &changed)[2..], network);
    // 22 begins with eleven zeros.
    let changed = packet(&rule, &[(Field::TcpDst, 50_000)]);
    let looked = looked_at(&sample, &changed);
    assert_eq!((&looked[2..5], looked[5]), (&network[..], (Field::TcpDst, 0xc000)));
}

#[test]
fn search_ends_where_nothing_better_can_come() {
    let all = u128::MAX;
    let high = RuleSpec { priority: 20, ..tcp(&[(Field::InPort, 1, all)]) };
    let low = RuleSpec { priority: 5, ..tcp(&[(Field::InPort, 1, all), (Field::TcpDst, 22, all)]) };
    // In the same subtable as `low` and better than `high`, but of another port.
    let other = RuleSpec { priority: 30, ..tcp(&[(Field::InPort, 2, all), (Field::TcpDst, 22, all)]) };
    // In the same subtable as `high`, which is therefore searched first.
    let first = RuleSpec { priority: 40, ..tcp(&[(Field::InPort, 3, all)]) };
    let sample = Sample::new(&[low, high.clone(), other, first]);
    let found = sample.look_up(&packet(&high, &[])).0.unwrap();
    assert_eq!(found.spec().priority, 20);
    let looked = looked_at(&sample, &packet(&high, &[]));
    assert!(looked.iter().all(|&(field, _)| field != Field::TcpDst), "{looked:?}");
}

#[test]
fn older_of_two_equals_wins_in_whichever_subtable_it_is() {
    let all = u128::MAX;
    let by_port = tcp(&[(Field::TcpDst, 22, all)]);
    let by_address = tcp(&[(Field::Ipv4Dst, 0x0a00_0001, all)]);
    let both = packet(&by_port, &[(Field::Ipv4Dst, 0x0a00_0001)]);
    for specs in [[by_port.clone(), by_address.clone()], [by_address, by_port]] {
        let sample = Sample::new(&specs);
        assert_eq!(sample.look_up(&both).0.unwrap().spec().matching, specs[0].matching);
    }
}

#[test]
fn change_leaves_the_other_snapshot_and_what_they_share() {
    let specs: Vec<_> = (0..2000)
        .map(|n| tcp(&[(Field::Ipv4Dst, n, u128::MAX), (Field::TcpDst, n % 7, u128::MAX)]))
        .collect();
    let by_port = tcp(&[(Field::TcpDst, 22, u128::MAX)]);
    let before = Sample::new(&[&specs[..], &[by_port]].concat());
    let mut after = before.table.clone();
    after.remove(&before.list[0]);
    assert_eq!((before.table.len(), after.len()), (2001, 2000));
    assert!(
        before.table.find(&specs[0].matching, 10).is_some() && after.find(&specs[0].matching, 10).is_none()
    );
    assert!(Arc::ptr_eq(&before.table.subtables[1].rules, &after.subtables[1].rules));
    assert!(!Arc::ptr_eq(&before.table.subtables[0].rules, &after.subtables[0].rules));
}
