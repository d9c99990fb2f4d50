//! Changes against a plain list of rules, and what they do to counters, ages and what is shared.

use super::*;
use crate::flow::fields::Fields;
use crate::port::PortId;
use crate::rule::action::OutputTo;
use crate::rule::field::Field;

fn output(port: u16) -> Box<[RuleAction]> {
    Box::new([RuleAction::Output(OutputTo::Port(PortId::new(port).unwrap()))])
}

fn spec(priority: u16, address: u32, bits: u32, port: u16) -> RuleSpec {
    let mut matching = Match::ANY;
    matching.require(Field::EthType, 0x800, u128::MAX);
    matching.require(Field::Ipv4Dst, u128::from(address), u128::from(u32::MAX) << (32 - bits));
    RuleSpec {
        table: 0,
        priority,
        cookie: 0,
        idle_timeout_s: 0,
        hard_timeout_s: 0,
        matching,
        actions: output(port),
    }
}

fn add(spec: RuleSpec) -> Edit {
    Edit::Add { spec, check_overlap: false, reset_counts: false }
}

fn delete_all() -> Edit {
    Edit::Delete { selector: Selector::default(), strict: false }
}

fn edit(set: &RuleSet, edits: &[Edit]) -> Edited {
    set.edit(edits, 1000).unwrap()
}

fn empty() -> RuleSet {
    RuleSet::learning_switch(0)
}

fn packet(address: u32) -> Fields {
    let mut packet = Fields::NONE;
    Field::EthType.set(&mut packet, 0x800, u128::MAX);
    Field::Ipv4Dst.set(&mut packet, u128::from(address), u128::MAX);
    packet
}

fn met(set: &RuleSet, address: u32) -> Arc<Rule> {
    Arc::clone(set.lookup(0, &packet(address), &mut { Fields::NONE }).rule())
}

#[test]
fn learning_switch_stays_below_added_rules_and_returns_when_all_are_gone() {
    let set = empty();
    let is_normal = |set: &RuleSet| met(set, 1).spec().actions[0] == RuleAction::Output(OutputTo::Normal);
    assert!(is_normal(&set) && set.len() == 1);
    let more = edit(&set, &[add(spec(5, 0x0a00_0000, 8, 1))]);
    assert_eq!((more.set.len(), more.added, more.set.generation()), (2, 1, 1));
    assert!(is_normal(&more.set));
    let none = edit(&more.set, &[delete_all()]);
    assert_eq!((none.removed.len(), none.set.len()), (2, 1));
    assert!(is_normal(&none.set));
    let replaced = edit(&set, &[Edit::Replace(vec![spec(5, 0x0a00_0000, 8, 1)])]);
    assert_eq!((replaced.set.len(), replaced.added, replaced.removed.len()), (1, 1, 1));
    assert!(edit(&set, &[Edit::Replace(Vec::new())]).set.len() == 1);
}

#[test]
fn counters_outlive_a_change_unless_it_says_otherwise() {
    let set = edit(&empty(), &[add(spec(5, 0x0a00_0000, 8, 1))]).set;
    let old = met(&set, 0x0a00_0001);
    old.add(3, 300, 500);
    let kept = edit(&set, &[add(spec(5, 0x0a00_0000, 8, 2))]);
    assert_eq!((kept.added, kept.modified, kept.removed.len()), (0, 1, 0));
    let rule = met(&kept.set, 0x0a00_0001);
    assert_eq!((rule.spec().actions.clone(), rule.created_ms()), (output(2), 1000));
    old.add(1, 100, 600);
    assert_eq!(rule.stats().packets, 4, "packets that went by the old rule and are added later are not lost");

    let modify = |reset_counts| Edit::Modify {
        selector: Selector::default(),
        strict: false,
        actions: output(3),
        cookie: Some(9),
        reset_counts,
    };
    let modified = kept.set.edit(&[modify(false)], 2000).unwrap();
    let rule = met(&modified.set, 0x0a00_0001);
    assert_eq!((modified.modified, rule.spec().cookie, rule.stats().packets), (2, 9, 4));
    assert_eq!((rule.created_ms(), rule.modified_ms()), (1000, 2000));
    let reset = edit(&modified.set, &[modify(true)]);
    assert_eq!(met(&reset.set, 0x0a00_0001).stats().packets, 0);
    let stats: Vec<_> = reset.set.tables().collect();
    assert_eq!((stats.len(), stats[0].rules, stats[0].matched, stats[0].missed), (1, 2, 4, 0));
}

#[test]
fn each_table_counts_its_misses() {
    let set = edit(&empty(), &[Edit::Replace(vec![RuleSpec { table: 7, ..spec(5, 1, 32, 1) }])]).set;
    for table in [0, 7, 255] {
        assert!(matches!(
            set.lookup(table, &packet(2), &mut { Fields::NONE }),
            crate::rule::set::Found::Miss(_)
        ));
    }
    set.lookup(7, &packet(2), &mut { Fields::NONE }).rule().add(2, 200, 0);
    set.lookup(7, &packet(1), &mut { Fields::NONE }).rule().add(3, 300, 0);
    let again = edit(&set, &[delete_all()]).set;
    let of_seven = again.tables().find(|stats| stats.table == 7).unwrap();
    assert_eq!((of_seven.rules, of_seven.matched, of_seven.missed, of_seven.lookups()), (0, 3, 2, 5));
}

#[test]
fn refused_change_names_itself_and_takes_all_others_back() {
    let set =
        edit(&empty(), &[add(RuleSpec { cookie: 6, ..spec(5, 0x0a00_0000, 8, 1) })]).set.with_max_rules(3);
    let checked = |spec| Edit::Add { spec, check_overlap: true, reset_counts: false };
    let fine = || add(spec(6, 1, 32, 1));
    let error = set.edit(&[fine(), checked(spec(5, 0x0a01_0000, 16, 1))], 0).unwrap_err();
    assert_eq!(error.edit, 1);
    assert!(matches!(&error.reason, Refusal::Overlap { cookie: 6, .. }), "{error}");
    assert!(set.edit(&[checked(spec(5, 0x0b01_0000, 16, 1)),], 0).is_ok());
    assert!(set.edit(&[checked(spec(4, 0x0a01_0000, 16, 1)),], 0).is_ok());
    assert!(set.edit(&[checked(spec(5, 0x0a00_0000, 8, 2)),], 0).is_ok(), "it takes the other's place");

    let error = set.edit(&[fine(), add(RuleSpec { table: 255, ..spec(1, 1, 32, 1) })], 0).unwrap_err();
    assert_eq!(error.to_string(), "change 2: there is no table 255: tables are numbered 0 to 254");
    let error = set.edit(&[fine(), add(spec(6, 2, 32, 1))], 0).unwrap_err();
    assert_eq!((error.edit, error.reason), (1, Refusal::TooManyRules(3)));
    let specs = vec![spec(1, 1, 32, 1), RuleSpec { table: 255, ..spec(1, 1, 32, 1) }];
    let error = set.edit(&[Edit::Replace(specs)], 0).unwrap_err();
    assert_eq!((error.edit, error.rule), (0, Some(1)));
    let many = (0..4).map(|address| spec(1, address, 32, 1)).collect();
    assert!(set.edit(&[Edit::Replace(many)], 0).is_err());
    assert_eq!((set.len(), set.generation()), (2, 1));
}

#[test]
fn replacing_keeps_what_is_the_same() {
    let specs = |port| (0..10).map(|n| spec(5, n, 32, if n == 3 { port } else { 1 })).collect::<Vec<_>>();
    let first = edit(&empty(), &[Edit::Replace(specs(1))]);
    let second = edit(&first.set, &[Edit::Replace(specs(2))]);
    assert_eq!((second.added, second.modified, second.removed.len()), (0, 1, 0));
    for address in 0..10 {
        let is_same = Arc::ptr_eq(&met(&first.set, address), &met(&second.set, address));
        assert_eq!(is_same, address != 3);
    }
    let third = edit(&second.set, &[Edit::Replace(specs(2))]);
    assert!(!third.has_changed());
    assert_eq!(third.set.generation(), second.set.generation());
    let twice = edit(&empty(), &[Edit::Replace(vec![spec(5, 1, 32, 1), spec(5, 1, 32, 2)])]);
    assert_eq!((twice.set.len(), &met(&twice.set, 1).spec().actions), (1, &output(2)), "the last counts");
}

#[test]
fn only_rules_past_their_timeouts_expire_and_only_they_are_removed() {
    use crate::rule::entry::Expiry;
    let timed = |address, idle_timeout_s, hard_timeout_s| {
        add(RuleSpec { idle_timeout_s, hard_timeout_s, ..spec(5, address, 32, 1) })
    };
    let set = edit(&empty(), &[timed(1, 10, 0), timed(2, 0, 20), timed(3, 0, 0), timed(4, 10, 20)]).set;
    let expired = |set: &RuleSet, now_ms| {
        let mut all: Vec<_> = set
            .expired(now_ms)
            .iter()
            .map(|(rule, why)| (rule.spec().matching.field(Field::Ipv4Dst).0, *why))
            .collect();
        all.sort_unstable_by_key(|&(address, _)| address);
        all
    };
    assert_eq!(expired(&set, 10_999), []);
    assert_eq!(expired(&set, 11_000), [(1, Expiry::Idle), (4, Expiry::Idle)]);
    met(&set, 1).add(1, 64, 5000);
    assert_eq!(expired(&set, 14_999), [(4, Expiry::Idle)]);
    assert_eq!(expired(&set, 21_000), [(1, Expiry::Idle), (2, Expiry::Hard), (4, Expiry::Hard)]);

    let over: Vec<_> = set.expired(21_000).into_iter().map(|(rule, _)| Edit::Remove(rule)).collect();
    let renewed = set.edit(&[timed(2, 0, 20)], 15_000).unwrap().set;
    let rest = edit(&renewed, &over);
    assert_eq!((rest.removed.len(), rest.set.len()), (2, 3), "a rule that was renewed meanwhile stays");
}
