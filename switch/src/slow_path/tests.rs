//! The oracle: a bit that a mask leaves out must not matter. And the rules of the switch, one by one.

use crate::bridge::config::SwitchConfig;
use crate::bridge::fdb::Fdb;
use crate::rule::set::RuleSet;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::action::Actions;
use crate::bridge::config::PortVlan;
use crate::bridge::mirror::{Mirror, MirroredPorts};
use crate::bridge::vlan::{PriorityTags, VlanMode, VlanSet};
use crate::flow::fields::Fields;
use crate::flow::key::KeyTag;
use crate::rule::edit::Edit;
use crate::rule::entry::RuleSpec;
use crate::rule::matching::Match;
use crate::rule::port::RulePort;
use crate::wire::vlan::{TYPE_CUSTOMER, VlanId, VlanTag};
use crate::wire::{FRAG_ANY, FRAG_LATER, MacAddr};

static RULES: LazyLock<RuleSet> = LazyLock::new(|| RuleSet::learning_switch(0));

const PORTS: u16 = 5;
/// Few VLANs and addresses, so that they meet often.
const VLANS: [u16; 5] = [0, 1, 2, 10, 4094];
const MACS: [MacAddr; 9] = [
    [2, 0, 0, 0, 0, 1],
    [2, 0, 0, 0, 0, 2],
    [2, 0, 0, 0, 0, 3],
    [0x42, 0, 0, 0, 0, 1],
    [0; 6],
    [0xff; 6],
    [0x01, 0x80, 0xc2, 0, 0, 0x0e],
    [0x01, 0x80, 0xc2, 0, 0, 0x10],
    [0x33, 0x33, 0, 0, 0, 1],
];

fn port(number: u16) -> PortId {
    PortId::new(number).unwrap()
}

fn vlan(number: u16) -> VlanId {
    VlanId::new(number).unwrap()
}

fn any_vlan() -> impl Strategy<Value = VlanId> {
    prop::sample::select(&VLANS[..]).prop_map(vlan)
}

fn any_set() -> impl Strategy<Value = VlanSet> {
    prop::option::of(prop::collection::vec(any_vlan(), 0..3))
        .prop_map(|vlans| vlans.map_or(VlanSet::ALL, |vlans| vlans.into_iter().collect()))
}

fn any_mode() -> impl Strategy<Value = VlanMode> {
    prop_oneof![
        any_vlan().prop_map(VlanMode::Access),
        any_set().prop_map(VlanMode::Trunk),
        (any_vlan(), any_set(), any::<bool>()).prop_map(|(vlan, allowed, is_tagged)| VlanMode::Native {
            vlan,
            allowed,
            is_tagged
        }),
        (any_vlan(), any_set(), prop::sample::select(&[0x8100_u16, 0x88a8][..]))
            .prop_map(|(vlan, customers, tpid)| VlanMode::Tunnel { vlan, customers, tpid }),
    ]
}

fn any_port() -> impl Strategy<Value = PortVlan> {
    let priority_tags = [PriorityTags::Never, PriorityTags::IfNonzero, PriorityTags::Always];
    (any_mode(), prop::sample::select(priority_tags.to_vec())).prop_map(|(mode, priority_tags)| PortVlan {
        mode,
        priority_tags,
        ..PortVlan::default()
    })
}

fn any_config() -> impl Strategy<Value = SwitchConfig> {
    prop::collection::vec(prop::option::weighted(0.9, any_port()), usize::from(PORTS)).prop_map(|ports| {
        let ports = (0..).zip(ports);
        SwitchConfig::new(1, ports.filter_map(|(n, vlan)| Some((port(n), vlan?))))
    })
}

fn any_fdb() -> impl Strategy<Value = Fdb> {
    prop::collection::vec((any_vlan(), prop::sample::select(&MACS[..4]), 0..PORTS), 0..12).prop_map(|known| {
        let fdb = Fdb::new(64);
        for (vlan, mac, at) in known {
            fdb.learn(vlan, mac, port(at), 0, u32::MAX);
        }
        fdb
    })
}

fn any_key() -> impl Strategy<Value = FlowKey> {
    let tag = (prop::sample::select(&[0x8100_u16, 0x88a8][..]), 0..8_u16, any_vlan());
    let tags = prop::collection::vec(tag, 0..3);
    let eth_type = prop::sample::select(&[0x800_u16, 0x800, 0x8100][..]);
    let macs = (prop::sample::select(&MACS[..]), prop::sample::select(&MACS[..]));
    (0..PORTS + 1, macs, tags, eth_type, any::<u64>()).prop_map(
        |(in_port, (eth_dst, eth_src), tags, eth_type, noise)| {
            let mut key = FlowKey { in_port: in_port.into(), eth_dst, eth_src, ..FlowKey::default() };
            for (place, (tpid, priority, vlan)) in key.vlan.iter_mut().zip(tags) {
                *place = KeyTag::of_frame(VlanTag {
                    tpid: tpid.into(),
                    tci: (priority << 13 | vlan.number()).into(),
                });
            }
            key.eth_type = eth_type.into();
            key.words_mut()[5] = noise;
            key
        },
    )
}

fn push(vlan: VlanId) -> Action {
    Action::PushVlan(VlanTag::of_vlan(vlan))
}

fn decide_key(key: &FlowKey, config: &SwitchConfig, fdb: &Fdb) -> Translation {
    translate(key, &SwitchState { config, fdb, rules: &RULES }, &mut ())
}

/// Flips each bit of `key` that `mask` leaves out; the first whose flip changes what is decided or looked at.
fn bit_that_matters(key: &FlowKey, mask: &Mask, config: &SwitchConfig, fdb: &Fdb) -> Option<usize> {
    let decided = decide_key(key, config, fdb);
    (0..FlowKey::WORDS * 64).find(|bit| {
        let (word, bit) = (bit / 64, 1 << (bit % 64));
        let mut flipped = *key;
        flipped.words_mut()[word] ^= bit;
        mask.0.words()[word] & bit == 0 && decide_key(&flipped, config, fdb) != decided
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn flipping_a_bit_outside_the_mask_changes_nothing(key in any_key(), config in any_config(), fdb in any_fdb()) {
        let mask = decide_key(&key, &config, &fdb).mask;
        prop_assert_eq!(bit_that_matters(&key, &mask, &config, &fdb), None);
        prop_assert_eq!(decide_key(&mask.apply(&key), &config, &fdb), decide_key(&key, &config, &fdb));
    }

    #[test]
    fn packet_leaves_by_members_of_its_vlan_once_each_and_never_where_it_came_in(
        key in any_key(), config in any_config(), fdb in any_fdb()
    ) {
        let Translation { verdict, learn, .. } = decide_key(&key, &config, &fdb);
        if let Verdict::Forward(actions) = verdict {
            let source = learn.unwrap();
            let mut ports: Vec<_> = actions.iter().filter_map(|action| match action {
                Action::Output(port) => Some(*port),
                _ => None,
            }).collect();
            for port in &ports {
                prop_assert_ne!(*port, source.port);
                prop_assert!(config.port(*port).unwrap().mode.carries(source.vlan));
            }
            let count = ports.len();
            ports.sort();
            ports.dedup();
            prop_assert_eq!(ports.len(), count);
            prop_assert!(matches!(actions.last(), Some(Action::Output(_))), "no edit without an output");
        }
    }
}

/// The oracle must find a mask that is one bit too wide, for every bit of a tagged unicast packet's mask.
#[test]
fn oracle_catches_a_mask_that_is_one_bit_too_wide() {
    let config = SwitchConfig::new(1, (0..3).map(|n| (port(n), PortVlan::default())));
    let fdb = Fdb::new(64);
    fdb.learn(vlan(10), MACS[1], port(1), 0, 9);
    let mut key = FlowKey { in_port: 0, eth_src: MACS[0], eth_dst: MACS[1], ..FlowKey::default() };
    key.vlan[0] = KeyTag::of_frame(VlanTag { tpid: TYPE_CUSTOMER.into(), tci: 10.into() });
    let mask = decide_key(&key, &config, &fdb).mask;
    let mut caught = 0;
    // The pass is in every mask, whatever a translation looks at.
    let mask = Mask(FlowKey { recirc_id: 0.into(), ..mask.0 });
    for word in 0..FlowKey::WORDS {
        for bit in (0..64).map(|bit| 1 << bit).filter(|bit| mask.0.words()[word] & bit != 0) {
            let mut wider = mask;
            wider.0.words_mut()[word] &= !bit;
            assert!(bit_that_matters(&key, &wider, &config, &fdb).is_some(), "word {word} bit {bit:x}");
            caught += 1;
        }
    }
    assert_eq!(caught, 32 + 48 + 48 + 13, "ingress port, source, destination, VLAN and its presence");
}

fn decide(config: &SwitchConfig, fdb: &Fdb, in_port: u16, tci: Option<u16>, dst: MacAddr) -> Verdict {
    let mut key = FlowKey { in_port: in_port.into(), eth_src: MACS[0], eth_dst: dst, ..FlowKey::default() };
    if let Some(tci) = tci {
        key.vlan[0] = KeyTag::of_frame(VlanTag { tpid: TYPE_CUSTOMER.into(), tci: tci.into() });
    }
    decide_key(&key, config, fdb).verdict
}

fn forward_by(actions: &[Action]) -> Verdict {
    Verdict::Forward(Actions::new(actions).unwrap())
}

#[test]
fn flood_sends_unchanged_frames_first_and_edits_once() {
    let access = |n| PortVlan { mode: VlanMode::Access(vlan(n)), ..PortVlan::default() };
    let ports = [
        (0, access(10)),
        (1, PortVlan::default()),
        (2, access(10)),
        (3, access(20)),
        (4, PortVlan::default()),
        (5, PortVlan { priority_tags: PriorityTags::IfNonzero, ..access(10) }),
    ];
    let config = SwitchConfig::new(1, ports.map(|(n, vlan)| (port(n), vlan)));
    let fdb = Fdb::new(64);
    let out = |n| Action::Output(port(n));
    let all = [0xff; 6];
    assert_eq!(
        decide(&config, &fdb, 0, None, all),
        forward_by(&[out(2), out(5), push(vlan(10)), out(1), out(4)])
    );
    assert_eq!(
        decide(&config, &fdb, 0, Some(0xe000), all),
        forward_by(&[out(5), Action::SetVlan(vlan(10)), out(1), out(4), Action::PopVlan, out(2)])
    );
    assert_eq!(
        decide(&config, &fdb, 1, Some(0x600a), all),
        forward_by(&[out(4), Action::SetVlan(vlan(0)), out(5), Action::PopVlan, out(0), out(2)])
    );
    assert_eq!(decide(&config, &fdb, 0, Some(20), all), Verdict::Drop(DropReason::VlanNotMember));
}

/// A tag: protocol, VLAN, priority.
type TagText = (u16, u16, u16);

/// How a frame with these tags leaves a second port when it is flooded from a first one; `None` if it does not.
fn crossing(from: &VlanMode, to: &PortVlan, tags: &[TagText]) -> Option<Vec<TagText>> {
    let mut key =
        FlowKey { eth_src: MACS[0], eth_dst: [0xff; 6], eth_type: 0x800.into(), ..FlowKey::default() };
    for (nth, &(tpid, vid, priority)) in tags.iter().enumerate() {
        let tag = VlanTag { tpid: tpid.into(), tci: (priority << 13 | vid).into() };
        match key.vlan.get_mut(nth) {
            Some(place) => *place = KeyTag::of_frame(tag),
            // One more than keys hold.
            None => key.eth_type = tpid.into(),
        }
    }
    let ports = [PortVlan { mode: from.clone(), ..PortVlan::default() }, to.clone()];
    let config = SwitchConfig::new(1, (0..).map(port).zip(ports));
    let Verdict::Forward(actions) = decide_key(&key, &config, &Fdb::new(8)).verdict else { return None };
    let mut tags = tags.to_vec();
    for action in actions.iter() {
        match *action {
            Action::PushVlan(VlanTag { tpid, tci }) => {
                tags.insert(0, (tpid.get(), tci.get() & 0xfff, tci.get() >> 13));
            }
            Action::PopVlan => drop(tags.remove(0)),
            Action::SetVlan(vlan) => tags[0].1 = vlan.number(),
            Action::Output(_) => {}
            Action::Rewrite(_) | Action::Recirculate(_) | Action::Punt(_) | Action::Drop(_) => {
                unreachable!("a learning switch does not")
            }
        }
    }
    Some(tags)
}

fn modes_of_vlan_10() -> [VlanMode; 5] {
    let native = |is_tagged| VlanMode::Native { vlan: vlan(10), allowed: VlanSet::ALL, is_tagged };
    let customers = [0, 30].into_iter().map(vlan).collect();
    [
        VlanMode::Access(vlan(10)),
        VlanMode::Trunk([10, 20].into_iter().map(vlan).collect()),
        native(false),
        native(true),
        VlanMode::Tunnel { vlan: vlan(10), customers, tpid: 0x88a8 },
    ]
}

/// `crossing` from each mode of VLAN 10 (rows) to each (columns): access, trunk, native, native with its tag, tunnel.
fn crossings(tags: &[TagText]) -> [[Option<Vec<TagText>>; 5]; 5] {
    modes_of_vlan_10().map(|from| {
        modes_of_vlan_10().map(|to| {
            let to = PortVlan { mode: to, ..PortVlan::default() };
            crossing(&from, &to, tags)
        })
    })
}

#[test]
fn untagged_and_priority_tagged_frames_are_in_the_native_vlan_and_leave_in_its_form() {
    for (tags, of_vlan) in [
        (vec![], (0x8100, 10, 0)),
        (vec![(0x8100, 0, 0)], (0x8100, 10, 0)),
        (vec![(0x8100, 0, 5)], (0x8100, 10, 5)),
        (vec![(0x88a8, 0, 5)], (0x88a8, 10, 5)),
    ] {
        let none = Some(vec![]);
        let tagged = Some(vec![of_vlan]);
        // The priority tag, if there is one, is the customer's: it stays behind the service tag and at a tunnel.
        let service = Some([&[(0x88a8, 10, 0)], &tags[..]].concat());
        let own = || [none.clone(), tagged.clone(), none.clone(), tagged.clone(), none.clone()];
        let of_tunnel = [none.clone(), service.clone(), none.clone(), service.clone(), Some(tags.clone())];
        assert_eq!(crossings(&tags), [own(), [const { None }; 5], own(), own(), of_tunnel], "{tags:?}");
    }
}

#[test]
fn tagged_frames_cross_trunks_and_no_access_port_takes_them() {
    let never = || [const { None::<Vec<TagText>> }; 5];
    let tags = vec![(0x88a8, 10, 3)];
    let (none, same) = (Some(vec![]), Some(tags.clone()));
    let of_trunk = || [none.clone(), same.clone(), none.clone(), same.clone(), none.clone()];
    assert_eq!(crossings(&tags), [never(), of_trunk(), of_trunk(), of_trunk(), never()]);
    let tags = vec![(0x8100, 20, 3)];
    let same = Some(tags.clone());
    let of_trunk = || [None, same.clone(), same.clone(), same.clone(), None];
    assert_eq!(crossings(&tags), [never(), of_trunk(), of_trunk(), of_trunk(), never()]);
    let tags = vec![(0x8100, 30, 3)];
    let same = Some(tags.clone());
    let service = Some(vec![(0x88a8, 10, 0), (0x8100, 30, 3)]);
    let of_native = || [None, None, same.clone(), same.clone(), None];
    let of_tunnel = [None, service.clone(), None, service.clone(), same.clone()];
    assert_eq!(crossings(&tags), [never(), never(), of_native(), of_native(), of_tunnel]);
    assert_eq!(crossings(&[(0x8100, 4095, 0)]), [const { [const { None }; 5] }; 5], "no VLAN");
}

#[test]
fn frame_never_leaves_a_trunk_with_a_tag_that_was_behind_that_of_its_vlan() {
    let never = || [const { None::<Vec<TagText>> }; 5];
    for behind in [vec![(0x8100, 20, 1)], vec![(0x8100, 20, 1), (0x8100, 30, 0)]] {
        let in_vlan_10 = [&[(0x8100, 10, 3)], &behind[..]].concat();
        let same = Some(in_vlan_10.clone());
        let of_trunk = || [None, same.clone(), None, same.clone(), None];
        assert_eq!(crossings(&in_vlan_10), [never(), of_trunk(), of_trunk(), of_trunk(), never()]);
        // A frame that says of itself that it has no VLAN and that it has one: only the tunnel takes it, as its customer's.
        let in_both = [&[(0x8100, 0, 3)], &behind[..]].concat();
        let service = Some([&[(0x88a8, 10, 0)], &in_both[..]].concat());
        let of_tunnel = [None, service.clone(), None, service.clone(), Some(in_both.clone())];
        assert_eq!(crossings(&in_both), [never(), never(), never(), never(), of_tunnel]);
        // What the tunnel takes a service tag off is the customer's.
        let of_customer = [&[(0x88a8, 10, 3), (0x8100, 30, 1)], &behind[..]].concat();
        assert_eq!(crossings(&of_customer)[1][4], Some(of_customer[1..].to_vec()));
    }
}

#[test]
fn priority_tags_leave_where_the_port_wants_them() {
    use PriorityTags::{Always, IfNonzero, Never};
    let access = VlanMode::Access(vlan(10));
    let native = VlanMode::Native { vlan: vlan(10), allowed: VlanSet::ALL, is_tagged: false };
    let trunk = VlanMode::default();
    let [in_vlan_10, in_no_vlan] = [10, 0].map(|vid| move |priority| vec![(0x8100, vid, priority)]);
    for to in [&access, &native] {
        for (priority_tags, tags, wanted) in [
            (Never, in_vlan_10(5), vec![]),
            (IfNonzero, in_vlan_10(5), in_no_vlan(5)),
            (Always, in_vlan_10(5), in_no_vlan(5)),
            (Never, in_vlan_10(0), vec![]),
            (IfNonzero, in_vlan_10(0), vec![]),
            (Always, in_vlan_10(0), in_no_vlan(0)),
            (IfNonzero, vec![(0x88a8, 10, 5)], in_no_vlan(5)),
        ] {
            let to = PortVlan { mode: to.clone(), priority_tags, ..PortVlan::default() };
            assert_eq!(crossing(&trunk, &to, &tags).as_ref(), Some(&wanted), "{to:?} {tags:?}");
        }
    }
    for to in [&access, &trunk] {
        let from = to.clone();
        for (priority_tags, priority, wanted) in [
            (Never, 5, vec![]),
            (IfNonzero, 5, in_no_vlan(5)),
            (IfNonzero, 0, vec![]),
            (Always, 0, in_no_vlan(0)),
        ] {
            let to = PortVlan { mode: to.clone(), priority_tags, ..PortVlan::default() };
            assert_eq!(crossing(&from, &to, &in_no_vlan(priority)), Some(wanted), "{to:?} {priority}");
            assert_eq!(crossing(&from, &to, &[]), Some(vec![]), "no tag is made up");
        }
    }
}

#[test]
fn tag_that_rules_uncover_and_do_not_see_is_no_frame_without_a_tag() {
    let spec = RuleSpec {
        table: 0,
        priority: 1,
        cookie: 0,
        idle_timeout_s: 0,
        hard_timeout_s: 0,
        remarks: Default::default(),
        matching: Match::ANY,
        actions: [RuleAction::PopVlan, RuleAction::Output(OutputTo::Port(RulePort::NORMAL))].into(),
    };
    let rules = RuleSet::learning_switch(0).edit(&[Edit::Replace(vec![spec])], 0).unwrap().set;
    let config = SwitchConfig::new(1, (0..2).map(|n| (port(n), PortVlan::default())));
    let state = SwitchState { config: &config, fdb: &Fdb::new(8), rules: &rules };
    let mut key = FlowKey { eth_src: MACS[0], eth_dst: MACS[1], ..FlowKey::default() };
    key.vlan[0] = KeyTag::of_frame(VlanTag { tpid: TYPE_CUSTOMER.into(), tci: 10.into() });
    for (eth_type, wanted) in [
        (0x800_u16, forward_by(&[Action::PopVlan, Action::Output(port(1))])),
        (0x8100, Verdict::Drop(DropReason::VlanNotMember)),
    ] {
        key.eth_type = eth_type.into();
        assert_eq!(translate(&key, &state, &mut ()).verdict, wanted, "{eth_type:x}");
    }
}

#[test]
fn each_drop_has_its_reason() {
    let config = SwitchConfig::new(1, (0..2).map(|n| (port(n), PortVlan::default())));
    let fdb = Fdb::new(64);
    fdb.learn(vlan(0), MACS[1], port(0), 0, 9);
    fdb.learn(vlan(0), MACS[2], port(7), 0, 9);
    assert_eq!(decide(&config, &fdb, 0, None, MACS[1]), Verdict::Drop(DropReason::Hairpin));
    assert_eq!(decide(&config, &fdb, 1, None, MACS[1]), forward_by(&[Action::Output(port(0))]));
    assert_eq!(decide(&config, &fdb, 0, None, MACS[6]), Verdict::Drop(DropReason::ReservedDestination));
    assert_eq!(decide(&config, &fdb, 0, None, MACS[7]), forward_by(&[Action::Output(port(1))]));
    assert_eq!(decide(&config, &fdb, 9, None, MACS[1]), Verdict::Drop(DropReason::NoEgress));
    assert_eq!(
        decide(&config, &fdb, 0, None, MACS[2]),
        forward_by(&[Action::Output(port(1))]),
        "known at a port that is gone: flooded"
    );
    for source in [MACS[4], MACS[5]] {
        let key = FlowKey { eth_src: source, eth_dst: MACS[1], ..FlowKey::default() };
        let decided = decide_key(&key, &config, &fdb);
        assert_eq!(decided.verdict, Verdict::Drop(DropReason::BadSource));
        assert_eq!(decided.learn, None);
    }
}

/// What the rules `specs`, of tables 0 and up with one rule each, make of a packet at port 0 of three.
fn by_tables(specs: Vec<Vec<RuleAction>>, mirrors: Vec<Mirror>) -> Translation {
    let spec = |(table, actions): (u8, Vec<RuleAction>)| RuleSpec {
        table,
        priority: 1,
        cookie: 0,
        idle_timeout_s: 0,
        hard_timeout_s: 0,
        remarks: Default::default(),
        matching: Match::ANY,
        actions: actions.into(),
    };
    let specs = (0..).zip(specs).map(spec).collect();
    let rules = RuleSet::learning_switch(0).edit(&[Edit::Replace(specs)], 0).unwrap().set;
    let config = SwitchConfig::new(1, (0..3).map(|n| (port(n), PortVlan::default()))).with_mirrors(mirrors);
    let key = FlowKey { eth_src: MACS[0], eth_dst: MACS[1], ..FlowKey::default() };
    translate(&key, &SwitchState { config: &config, fdb: &Fdb::new(8), rules: &rules }, &mut ())
}

fn resubmit(table: u8) -> RuleAction {
    RuleAction::Resubmit { in_port: None, table: Some(table) }
}

fn to(number: u16) -> RuleAction {
    RuleAction::Output(OutputTo::Port(port(number).into()))
}

#[test]
fn rules_in_circles_and_rules_without_end_are_dropped_each_with_its_reason() {
    let circle = by_tables(vec![vec![to(1), resubmit(0)]], vec![]);
    assert_eq!(circle.verdict, Verdict::Drop(DropReason::ResubmitTooDeep));
    assert_eq!(circle.rules.len(), 1 + MAX_DEPTH, "it counts for each rule it met");
    // Each table doubles the lookups of the next, 2^14 - 1 in all; none of them goes back.
    let doubling = (0..14).map(|table| vec![resubmit(table + 1), resubmit(table + 1)]);
    let endless = by_tables(doubling.collect(), vec![]);
    assert_eq!(endless.verdict, Verdict::Drop(DropReason::TooManyResubmits));
    assert_eq!(endless.rules.len(), 1 + MAX_RESUBMITS);
    let many = by_tables(vec![vec![to(1), resubmit(1)], vec![to(1); plan::MAX_ACTIONS]], vec![]);
    assert_eq!(many.verdict, Verdict::Drop(DropReason::TooManyActions));
    let most = by_tables(vec![vec![to(1); plan::MAX_ACTIONS]], vec![]);
    assert!(matches!(most.verdict, Verdict::Forward(actions) if actions.len() == plan::MAX_ACTIONS));
}

#[test]
fn action_set_of_a_packet_and_of_a_copy_has_one_turn() {
    let set = |steps: &[RuleAction]| RuleAction::WriteActions(steps.into());
    let writes = vec![set(&[resubmit(1)])];
    let copies = vec![RuleAction::Clone(writes.clone().into())];
    for first in [writes, copies] {
        let wrote_too_late = by_tables(vec![first.clone(), vec![set(&[to(1)])]], vec![]);
        assert_eq!(wrote_too_late.verdict, Verdict::Drop(DropReason::RuleDrop));
        let again = by_tables(vec![first, vec![set(&[to(1)]), RuleAction::DebugRecirc]], vec![]);
        let Verdict::Forward(actions) = again.verdict else { panic!("{:?}", again.verdict) };
        let left = actions.recirculation(0).unwrap().suspension();
        let config = SwitchConfig::new(1, (0..3).map(|n| (port(n), PortVlan::default())));
        let state = SwitchState { config: &config, fdb: &Fdb::new(8), rules: &RuleSet::learning_switch(0) };
        assert_eq!(
            resume(&FlowKey::default(), left, &state, &mut ()).verdict,
            Verdict::Drop(DropReason::RuleDrop)
        );
    }
}

#[test]
fn later_tables_do_not_deepen() {
    let chain = (0..100).map(|table| vec![resubmit(table + 1)]).chain([vec![to(1)]]);
    let translation = by_tables(chain.collect(), vec![]);
    assert_eq!(translation.verdict, forward_by(&[Action::Output(port(1))]));
    assert_eq!(translation.rules.len(), 101);
}

#[test]
fn packet_that_only_a_mirror_gets_counts_as_dropped() {
    let mirror = Mirror {
        name: "m0".to_owned(),
        sources: MirroredPorts::All,
        destinations: MirroredPorts::All,
        vlans: Box::default(),
        output: port(2),
    };
    let copy = Action::Output(port(2));
    let drop = by_tables(vec![vec![]], vec![mirror.clone()]);
    assert_eq!(drop.verdict, forward_by(&[copy, Action::Drop(DropReason::RuleDrop)]));
    let out = by_tables(vec![vec![to(1)]], vec![mirror]);
    assert_eq!(out.verdict, forward_by(&[copy, Action::Output(port(1))]), "one copy, not two");
}

#[test]
fn mirror_shows_a_packet_that_rules_change_as_it_came_and_as_it_left() {
    let mirror = Mirror {
        name: "m0".to_owned(),
        sources: MirroredPorts::All,
        destinations: MirroredPorts::All,
        vlans: Box::default(),
        output: port(2),
    };
    let actions = |rules| {
        let Verdict::Forward(actions) = by_tables(vec![rules], vec![mirror.clone()]).verdict else {
            panic!("it goes out")
        };
        actions.to_vec()
    };
    let set = |field: Field| RuleAction::SetField { field, value: 2, mask: field.full_mask() };
    let (copy, out) = (Action::Output(port(2)), Action::Output(port(1)));
    let (push, tag) = (RuleAction::ModVlanVid(17), push(vlan(17)));
    assert_eq!(actions(vec![set(Field::EthSrc), to(1), to(1)]), [copy, Action::Rewrite(0), out, copy, out]);
    assert_eq!(actions(vec![push.clone(), to(1)]), [copy, tag, out, copy]);
    // Metadata is none of the packet, and what was not there was not taken off.
    assert_eq!(
        actions(vec![set(Field::Reg(1)), set(Field::InPort), RuleAction::PopVlan, to(1)]),
        [copy, out]
    );
    // A copy that was changed is one more, but the packet is then what it was when it came.
    let changed = RuleAction::Clone([push.clone(), to(1)].into());
    assert_eq!(actions(vec![changed, to(1)]), [copy, tag, out, copy, Action::PopVlan, out]);
    let same = RuleAction::Clone([to(1)].into());
    assert_eq!(actions(vec![push, same, to(1)]), [copy, tag, out, copy, out]);
}

#[test]
fn what_was_written_is_not_looked_at_and_what_no_output_needs_is_not_done() {
    let set = |field: Field, value| RuleAction::SetField { field, value, mask: field.full_mask() };
    let mac = set(Field::EthDst, 0x0200_0000_0009);
    let unneeded = by_tables(vec![vec![to(1), mac.clone()]], vec![]);
    assert_eq!(unneeded.verdict, forward_by(&[Action::Output(port(1))]));
    let routed = by_tables(vec![vec![mac, RuleAction::Output(OutputTo::Port(RulePort::NORMAL))]], vec![]);
    assert_eq!(routed.mask.0.eth_dst, [0; 6], "the destination was written before it was read");
    assert_eq!(routed.mask.0.eth_src, [0xff; 6]);
    let Verdict::Forward(actions) = routed.verdict else { panic!("it was flooded") };
    assert_eq!(actions[..], [Action::Rewrite(0), Action::Output(port(1)), Action::Output(port(2))]);
    assert_eq!(actions.rewrite(0).unwrap().value().eth_dst, [2, 0, 0, 0, 0, 9]);
}

/// Every call of a trace, in order.
#[derive(Default)]
struct Tracer(Vec<String>);

impl Observer for Tracer {
    fn table(&mut self, depth: usize, table: u8, _: &Fields) {
        self.0.push(format!("{depth} table {table}"));
    }
    fn rule(&mut self, depth: usize, rule: &Arc<Rule>, missed: bool) {
        self.0.push(format!("{depth} priority {} missed {missed}", rule.spec().priority));
    }
    fn action(&mut self, depth: usize, action: &RuleAction) {
        self.0.push(format!("{depth} {action:?}"));
    }
    fn note(&mut self, depth: usize, note: Note<'_>) {
        self.0.push(format!("{depth} {note:?}"));
    }
    fn datapath(&mut self, depth: usize, action: &Action) {
        self.0.push(format!("{depth} does {action:?}"));
    }
}

#[test]
fn observer_sees_every_table_rule_and_action_in_order() {
    let spec = RuleSpec {
        table: 0,
        priority: 7,
        cookie: 0,
        idle_timeout_s: 0,
        hard_timeout_s: 0,
        remarks: Default::default(),
        matching: Match::ANY,
        actions: [RuleAction::DecTtl([].into()), RuleAction::PushVlan(0x8100), to(1), resubmit(3)].into(),
    };
    let rules = RuleSet::learning_switch(0).edit(&[Edit::Replace(vec![spec])], 0).unwrap().set;
    let config = SwitchConfig::new(1, (0..3).map(|n| (port(n), PortVlan::default())));
    let state = SwitchState { config: &config, fdb: &Fdb::new(8), rules: &rules };
    let mut tracer = Tracer::default();
    let traced = translate(&FlowKey::default(), &state, &mut tracer);
    assert!(traced == translate(&FlowKey::default(), &state, &mut ()), "watching changes nothing");
    let tag = Action::PushVlan(VlanTag { tpid: 0x8100.into(), tci: 0.into() });
    let wanted = [
        "0 table 0".to_owned(),
        "0 priority 7 missed false".to_owned(),
        "1 DecTtl([])".to_owned(),
        "1 FieldMissing(IpTtl)".to_owned(),
        "1 PushVlan(33024)".to_owned(),
        format!("1 {:?}", to(1)),
        format!("1 does {tag:?}"),
        format!("1 does {:?}", Action::Output(port(1))),
        format!("1 {:?}", resubmit(3)),
        "1 table 3".to_owned(),
        "1 priority 0 missed true".to_owned(),
    ];
    assert_eq!(tracer.0, wanted);
}

/// What becomes of a TCP packet to port 22 under each mode, as (verdict, mask), if SSH is denied, packets to port 0 go to
/// port 2 and others to port 1.
fn tcp_by_mode(ip_frag: u8) -> [Translation; 3] {
    let rule = |priority, port: Option<u128>, actions: Vec<RuleAction>| {
        let mut matching = Match::ANY;
        if let Some(port) = port {
            matching.require(Field::EthType, 0x0800, u128::MAX);
            matching.require(Field::IpProto, 6, u128::MAX);
            matching.require(Field::TcpDst, port, u128::MAX);
        }
        RuleSpec {
            table: 0,
            priority,
            cookie: 0,
            idle_timeout_s: 0,
            hard_timeout_s: 0,
            remarks: Default::default(),
            matching,
            actions: actions.into(),
        }
    };
    let specs = vec![rule(9, Some(22), vec![]), rule(8, Some(0), vec![to(2)]), rule(7, None, vec![to(1)])];
    let rules = RuleSet::learning_switch(0).edit(&[Edit::Replace(specs)], 0).unwrap().set;
    let key =
        FlowKey { eth_type: 0x0800.into(), ip_proto: 6, ip_frag, tp_dst: 22.into(), ..FlowKey::default() };
    FragmentMode::ALL.map(|mode| {
        let ports = (0..3).map(|n| (port(n), PortVlan::default()));
        let config = SwitchConfig::new(1, ports).with_fragments(mode);
        let (fdb, mut flipped) = (Fdb::new(64), key);
        let state = SwitchState { config: &config, fdb: &fdb, rules: &rules };
        let decided = translate(&key, &state, &mut ());
        for (word, bit) in (0..FlowKey::WORDS).flat_map(|word| (0..64).map(move |bit| (word, 1 << bit))) {
            if decided.mask.0.words()[word] & bit == 0 {
                flipped.words_mut()[word] ^= bit;
                assert_eq!(translate(&flipped, &state, &mut ()).verdict, decided.verdict, "{mode:?} {word}");
                flipped.words_mut()[word] ^= bit;
            }
        }
        decided
    })
}

#[test]
fn rules_see_of_a_fragment_what_the_mode_shows() {
    let drop = Verdict::Drop(DropReason::RuleDrop);
    let verdicts = |ip_frag| tcp_by_mode(ip_frag).map(|translation| translation.verdict);
    assert_eq!(verdicts(0), [drop.clone(), drop.clone(), drop.clone()]);
    let is_dropped = Verdict::Drop(DropReason::Fragment);
    assert_eq!(verdicts(FRAG_ANY), [forward_by(&[Action::Output(port(2))]), drop, is_dropped.clone()]);
    assert_eq!(verdicts(FRAG_ANY | FRAG_LATER)[2], is_dropped);

    let [normal, nx_match, dropped] = tcp_by_mode(FRAG_ANY).map(|translation| translation.mask.0);
    assert_eq!((normal.ip_frag, normal.tp_dst.get()), (FRAG_ANY, 0), "what the port is does not matter");
    assert_eq!((nx_match.ip_frag, nx_match.tp_dst.get()), (0, 0xffff));
    assert_eq!((dropped.ip_frag, dropped.eth_type.get()), (FRAG_ANY, 0));
    let [normal, ..] = tcp_by_mode(0).map(|translation| translation.mask.0);
    assert_eq!((normal.ip_frag, normal.tp_dst.get()), (FRAG_ANY, 0xffff));
}

#[test]
fn policy_that_asks_for_no_ports_need_not_know_fragments() {
    let key = FlowKey { eth_type: 0x0800.into(), eth_src: [2, 0, 0, 0, 0, 1], ..FlowKey::default() };
    for mode in FragmentMode::ALL {
        let ports = (0..3).map(|n| (port(n), PortVlan::default()));
        let config = SwitchConfig::new(1, ports).with_fragments(mode);
        let looks = decide_key(&key, &config, &Fdb::new(64)).mask.0.ip_frag != 0;
        assert_eq!(looks, mode == FragmentMode::Drop, "{mode:?}");
    }
}
