//! Changes against a plain list of rules, and what they do to counters, ages and what is shared.

use super::*;
use crate::flow::fields::Fields;
use crate::port::PortId;
use crate::rule::action::OutputTo;
use crate::rule::field::Field;
use crate::rule::port::RulePort;

fn output(port: u16) -> Box<[RuleAction]> {
    Box::new([RuleAction::Output(OutputTo::Port(PortId::new(port).unwrap().into()))])
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
        remarks: Default::default(),
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
    let is_normal =
        |set: &RuleSet| met(set, 1).spec().actions[0] == RuleAction::Output(OutputTo::Port(RulePort::NORMAL));
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

/// A rule in the model: what it says, the rule in the set that it was last seen as, and its packets.
#[derive(Debug, Clone)]
struct Entry {
    spec: RuleSpec,
    packets: u64,
}

/// The rules as a plain list, oldest first.
#[derive(Debug, Clone, Default)]
struct Model(Vec<Entry>);

impl Model {
    fn add(&mut self, spec: &RuleSpec, check_overlap: bool, reset_counts: bool) -> bool {
        let is_same = |entry: &&mut Entry| Place(&entry.spec) == Place(spec);
        if let Some(entry) = self.0.iter_mut().find(is_same) {
            *entry = Entry { spec: spec.clone(), packets: if reset_counts { 0 } else { entry.packets } };
            return true;
        }
        let overlaps = |other: &Entry| {
            (other.spec.table, other.spec.priority) == (spec.table, spec.priority)
                && other.spec.matching.overlaps(&spec.matching)
        };
        if check_overlap && self.0.iter().any(overlaps) {
            return false;
        }
        self.0.push(Entry { spec: spec.clone(), packets: 0 });
        true
    }

    fn apply(&mut self, edit: &Edit) -> bool {
        match edit {
            Edit::Add { spec, check_overlap, reset_counts } => {
                return self.add(spec, *check_overlap, *reset_counts);
            }
            Edit::Modify { selector, strict, actions, cookie, reset_counts } => {
                for entry in self.0.iter_mut().filter(|entry| selector.selects(&entry.spec, *strict)) {
                    entry.spec.actions = actions.clone();
                    entry.spec.cookie = cookie.unwrap_or(entry.spec.cookie);
                    entry.packets *= u64::from(!reset_counts);
                }
            }
            Edit::Delete { selector, strict } => {
                self.0.retain(|entry| !selector.selects(&entry.spec, *strict));
            }
            Edit::Remove(rule) => self.0.retain(|entry| Place(&entry.spec) != Place(rule.spec())),
            Edit::Replace(specs) => {
                self.0.retain(|entry| specs.iter().any(|spec| Place(spec) == Place(&entry.spec)));
                // A rule that comes again counts where it comes last.
                for (at, spec) in specs.iter().enumerate() {
                    if specs[at + 1..].iter().all(|later| Place(later) != Place(spec)) {
                        self.add(spec, false, false);
                    }
                }
            }
        }
        true
    }

    /// What comes back when there is nothing else.
    fn restore(&mut self) {
        if self.0.is_empty() {
            let normal = empty().rules().next().unwrap().spec().clone();
            self.0.push(Entry { spec: normal, packets: 0 });
        }
    }

    fn scan(&self, table: u8, packet: &Fields) -> Option<&Entry> {
        let mut best: Option<&Entry> = None;
        for entry in &self.0 {
            let is_better = best.is_none_or(|best| entry.spec.priority > best.spec.priority);
            if entry.spec.table == table && entry.spec.matching.covers(packet) && is_better {
                best = Some(entry);
            }
        }
        best
    }
}

mod model {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;
    use crate::rule::samples;

    /// What to do, with rules that are there named by an index.
    #[derive(Debug, Clone)]
    enum Step {
        Edit(Edit),
        AddAgain(Index, u16, bool),
        Strict(Index, Option<u16>),
        Loose(Selector, Option<u16>),
        Remove(Index),
        ReplaceBut(Vec<Index>, Vec<RuleSpec>),
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let cookie = prop_oneof![Just((0, 0)), (0..4_u64, 0..4_u64)];
        let out_port = prop::option::of((0..3_u16).prop_map(|n| PortId::new(n).unwrap()));
        (prop::option::of(0..3_u8), cookie, samples::matching(), out_port).prop_map(
            |(table, cookie, matching, out_port)| Selector {
                table,
                cookie,
                priority: None,
                matching,
                out_port: out_port.map(RulePort::from),
            },
        )
    }

    fn step() -> impl Strategy<Value = Step> {
        let add = || {
            (samples::rule(3), 0..3_u16, any::<bool>(), any::<bool>()).prop_map(
                |(spec, port, check_overlap, reset_counts)| {
                    let spec = RuleSpec { actions: output(port), ..spec };
                    Step::Edit(Edit::Add { spec, check_overlap, reset_counts })
                },
            )
        };
        prop_oneof![
            add(),
            add(),
            add(),
            (any::<Index>(), 0..3_u16, any::<bool>())
                .prop_map(|(at, port, reset)| Step::AddAgain(at, port, reset)),
            (any::<Index>(), prop::option::of(0..3_u16)).prop_map(|(at, port)| Step::Strict(at, port)),
            (selector(), prop::option::of(0..3_u16)).prop_map(|(selector, port)| Step::Loose(selector, port)),
            any::<Index>().prop_map(Step::Remove),
            (prop::collection::vec(any::<Index>(), 0..6), prop::collection::vec(samples::rule(3), 0..12))
                .prop_map(|(kept, new)| Step::ReplaceBut(kept, new)),
        ]
    }

    fn change(selector: Selector, strict: bool, port: Option<u16>) -> Edit {
        match port {
            Some(port) => Edit::Modify {
                selector,
                strict,
                actions: output(port),
                cookie: Some(u64::from(port)),
                reset_counts: port == 2,
            },
            None => Edit::Delete { selector, strict },
        }
    }

    fn edit_of(step: Step, model: &Model, set: &RuleSet) -> Edit {
        let chosen = |at: Index| at.get(&model.0).spec.clone();
        match step {
            Step::Edit(edit) => edit,
            Step::AddAgain(at, port, reset_counts) => {
                let spec = RuleSpec { actions: output(port), ..chosen(at) };
                Edit::Add { spec, check_overlap: true, reset_counts }
            }
            Step::Strict(at, port) => {
                let RuleSpec { table, priority, matching, .. } = chosen(at);
                let selector = Selector {
                    table: Some(table),
                    priority: Some(priority),
                    matching,
                    ..Selector::default()
                };
                change(selector, true, port)
            }
            Step::Loose(selector, port) => change(selector, false, port),
            Step::Remove(at) => {
                let spec = chosen(at);
                Edit::Remove(Arc::clone(set.same_place(&spec).unwrap()))
            }
            Step::ReplaceBut(kept, new) => Edit::Replace(kept.into_iter().map(chosen).chain(new).collect()),
        }
    }

    proptest! {
        /// Edits, alone and in company, leave the rules and counters that they leave in a plain list; refused ones nothing.
        #[test]
        fn edits_do_what_they_do_to_a_list(
            steps in prop::collection::vec((step(), any::<bool>(), samples::packet(), 0..3_u8), 1..60)
        ) {
            let mut set = empty();
            let mut model = Model::default();
            model.restore();
            let mut pending: Vec<Edit> = Vec::new();
            for (step, waits, seed, table) in steps {
                if matches!(step, Step::Remove(_)) && !pending.is_empty() {
                    // It names a rule of the set as it is, in whose place another may be by then.
                    continue;
                }
                pending.push(edit_of(step, &model, &set));
                if waits && pending.len() < 4 && matches!(pending.last(), Some(Edit::Add { .. })) {
                    continue;
                }
                let edits = std::mem::take(&mut pending);
                let mut changed = model.clone();
                let refused = edits.iter().position(|edit| !changed.apply(edit));
                changed.restore();
                match set.edit(&edits, 0) {
                    Ok(edited) => {
                        prop_assert_eq!(refused, None);
                        prop_assert_eq!(set.len() + edited.added, edited.set.len() + edited.removed.len());
                        prop_assert_eq!(edited.set.generation() > set.generation(), edited.has_changed());
                        (set, model) = (edited.set, changed);
                    }
                    Err(error) => prop_assert_eq!(Some(error.edit), refused),
                }
                let mut specs: Vec<_> = model.0.iter().map(|entry| &entry.spec).collect();
                prop_assert_eq!(set.len(), specs.len());
                for rule in set.rules() {
                    let at = specs.iter().position(|&spec| spec == rule.spec());
                    prop_assert!(at.is_some(), "{:?}", rule);
                    specs.swap_remove(at.unwrap());
                }
                let packet = samples::packet_of(&seed, &model.0.iter().map(|entry| entry.spec.clone()).collect::<Vec<_>>());
                let found = set.lookup(table, &packet, &mut { Fields::NONE });
                let expected = model.scan(table, &packet).map(|entry| entry.spec.clone());
                match (found, expected) {
                    (crate::rule::set::Found::Rule(rule), Some(spec)) => {
                        prop_assert_eq!(rule.spec(), &spec);
                        rule.add(1, 64, 0);
                        model.0.iter_mut().find(|entry| entry.spec == spec).unwrap().packets += 1;
                    }
                    (crate::rule::set::Found::Miss(_), None) => {}
                    (found, expected) => prop_assert!(false, "{found:?} instead of {expected:?}"),
                }
                for entry in &model.0 {
                    prop_assert_eq!(set.same_place(&entry.spec).unwrap().stats().packets, entry.packets);
                }
            }
        }
    }
}

#[test]
fn rule_with_more_actions_than_a_rule_has_is_refused_however_it_comes() {
    let actions = |count: usize| {
        let inside: Box<[RuleAction]> = vec![RuleAction::PopVlan; count - 1].into();
        Box::<[RuleAction]>::from([RuleAction::Clone(inside)])
    };
    let rule = |count| RuleSpec { actions: actions(count), ..spec(1, 0, 0, 1) };
    let set = edit(&empty(), &[add(rule(MAX_ACTIONS))]).set;
    let refusal = Refusal::TooManyActions(MAX_ACTIONS + 1);
    let modify = Edit::Modify {
        selector: Selector::default(),
        strict: false,
        actions: actions(MAX_ACTIONS + 1),
        cookie: None,
        reset_counts: false,
    };
    for change in [add(rule(MAX_ACTIONS + 1)), Edit::Replace(vec![rule(MAX_ACTIONS + 1)]), modify] {
        assert_eq!(set.edit(&[change], 0).unwrap_err().reason, refusal);
    }
}
