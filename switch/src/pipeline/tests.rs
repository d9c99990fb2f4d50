//! The pipeline against plain translation of each packet, and the rules of its caches one by one.

use crate::bridge::config::SwitchConfig;
use crate::bridge::fdb::Fdb;
use crate::rule::set::RuleSet;
use std::cell::{Cell, RefCell};

use proptest::prelude::*;

use super::*;
use crate::bridge::config::PortVlan;
use crate::bridge::vlan::{VlanMode, VlanSet};
use crate::packet::{Checksum, Offload, Segment};
use crate::revalidate::{refresh_source, still_valid};
use crate::rule::action::{OutputTo, RuleAction};
use crate::rule::edit::Edit;
use crate::rule::entry::RuleSpec;
use crate::rule::field::Field;
use crate::rule::matching::Match;
use crate::wire::vlan::VlanId;
use crate::wire::{MacAddr, golden};

fn port(number: u16) -> PortId {
    PortId::new(number).unwrap()
}

fn vlan(number: u16) -> VlanId {
    VlanId::new(number).unwrap()
}

fn mac(number: u8) -> MacAddr {
    [2, 0, 0, 0, 0, number]
}

/// A frame with an optional tag; its payload says which packet it is.
fn frame(dst: MacAddr, src: MacAddr, tci: Option<u16>, serial: u8) -> Vec<u8> {
    let mut bytes = [dst, src].concat();
    if let Some(tci) = tci {
        bytes.extend([0x81, 0x00]);
        bytes.extend(tci.to_be_bytes());
    }
    bytes.extend([0x88, 0xb5]);
    bytes.extend([serial; 46]);
    bytes
}

fn fill(burst: &mut Burst, in_port: PortId, frames: &[Vec<u8>]) {
    burst.clear();
    for bytes in frames {
        push(burst, in_port, bytes, Offload::NONE);
    }
}

/// Adds a frame, which the caller keeps until the burst is cleared.
fn push(burst: &mut Burst, in_port: PortId, bytes: &[u8], offload: Offload) {
    let len = u32::try_from(bytes.len()).unwrap();
    // SAFETY: the caller keeps the frame until the burst is cleared (condition 1).
    #[allow(unsafe_code, reason = "segments are made of raw pointers")]
    let segment = unsafe { Segment::new(bytes.as_ptr(), len) };
    burst.push(in_port, offload, &[segment]);
}

fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = frame.head.to_vec();
    bytes.resize(frame.len(), 0xa5);
    frame.tail.copy_to(&mut bytes[frame.head.len()..]);
    bytes
}

/// What left by each port, packet by packet, and what was dropped.
#[derive(Default, Debug, PartialEq)]
struct Traffic {
    sent: Vec<(PortId, Vec<u8>)>,
    batches: usize,
    punted: Vec<(PortId, Vec<u8>, Punt)>,
    dropped: Vec<(PortId, DropReason, u64)>,
}

impl Transmit for Traffic {
    fn transmit(&mut self, port: PortId, burst: &Burst, indices: &[u8]) {
        self.batches += 1;
        self.sent.extend(indices.iter().map(|&at| (port, bytes_of(&burst.frame(usize::from(at))))));
    }

    fn punt(&mut self, in_port: PortId, frame: &Frame<'_>, punt: Punt) {
        self.punted.push((in_port, bytes_of(frame), punt));
    }

    fn dropped(&mut self, port: PortId, reason: DropReason, packets: u64) {
        self.dropped.push((port, reason, packets));
    }
}

impl Traffic {
    /// The frames that left by one port, in order.
    fn at(&self, port: PortId) -> Vec<&[u8]> {
        self.sent.iter().filter(|(at, _)| *at == port).map(|(_, bytes)| &bytes[..]).collect()
    }

    fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped.iter().filter(|dropped| dropped.1 == reason).map(|dropped| dropped.2).sum()
    }
}

#[derive(Default)]
struct Log {
    flows: RefCell<Vec<Arc<Megaflow>>>,
    changes: Cell<usize>,
}

impl Events for Log {
    fn flow_installed(&self, flow: Arc<Megaflow>) {
        self.flows.borrow_mut().push(flow);
    }

    fn fdb_changed(&self) {
        self.changes.set(self.changes.get() + 1);
    }
}

struct Bed {
    pipeline: Pipeline,
    config: SwitchConfig,
    fdb: Fdb,
    rules: RuleSet,
    log: Log,
    burst: Burst,
    now_ms: u64,
}

impl Bed {
    fn new(limits: PipelineConfig, modes: Vec<VlanMode>) -> Self {
        let ports = (0..).zip(modes).map(|(n, mode)| (port(n), PortVlan { mode, ..PortVlan::default() }));
        Self {
            pipeline: Pipeline::new(limits),
            config: SwitchConfig::new(1, ports),
            fdb: Fdb::new(256),
            rules: RuleSet::learning_switch(0),
            log: Log::default(),
            burst: Burst::new(),
            now_ms: 1_000_000,
        }
    }

    fn plain(ports: usize) -> Self {
        Self::new(PipelineConfig::default(), vec![VlanMode::default(); ports])
    }

    fn send(&mut self, in_port: u16, frames: &[Vec<u8>]) -> Traffic {
        fill(&mut self.burst, port(in_port), frames);
        self.process()
    }

    /// Switches what is in the burst, and clears it.
    fn process(&mut self) -> Traffic {
        let cx = Context {
            now_ms: self.now_ms,
            state: SwitchState { config: &self.config, fdb: &self.fdb, rules: &self.rules },
            events: &self.log,
        };
        let mut seen = Traffic::default();
        self.pipeline.process(&mut self.burst, &cx, &mut seen);
        self.burst.clear();
        seen
    }

    /// What the revalidator does.
    fn revalidate(&mut self) {
        self.log.flows.borrow_mut().retain(|flow| {
            let is_valid = still_valid(flow, &self.state());
            if !is_valid {
                flow.kill();
            }
            is_valid
        });
    }

    fn state(&self) -> SwitchState<'_> {
        SwitchState { config: &self.config, fdb: &self.fdb, rules: &self.rules }
    }

    fn stat(&self, name: &str) -> u64 {
        self.pipeline.stats().snapshot().find(|(found, _)| *found == name).unwrap().1
    }
}

/// Every packet translated for itself, without any table.
fn reference(state: &SwitchState<'_>, in_port: u16, frames: &[Vec<u8>]) -> Traffic {
    let mut seen = Traffic::default();
    for bytes in frames {
        let mut burst = Burst::new();
        fill(&mut burst, port(in_port), std::slice::from_ref(bytes));
        let mut key = FlowKey::default();
        extract_at(&mut burst, 0, state.config.vlan_limit(), Depth::Transport, &mut key).unwrap();
        match slow_path::translate(&key, state, &mut ()).verdict {
            Verdict::Drop(reason) => seen.dropped.push((port(in_port), reason, 1)),
            Verdict::Forward(actions) => {
                let mut head = bytes.clone();
                for action in actions.iter() {
                    match *action {
                        Action::Output(port) => seen.sent.push((port, head.clone())),
                        Action::PushVlan(tag) => {
                            head.splice(12..12, zerocopy::IntoBytes::as_bytes(&tag).iter().copied());
                        }
                        Action::PopVlan => drop(head.drain(12..16)),
                        Action::SetVlan(vlan) => {
                            let [a, b] = vlan.number().to_be_bytes();
                            head[14] = head[14] & 0xf0 | a;
                            head[15] = b;
                        }
                        Action::Rewrite(_) | Action::Recirculate(_) | Action::Punt(_) | Action::Drop(_) => {
                            unreachable!("a learning switch does not")
                        }
                    }
                }
            }
        }
    }
    seen
}

type Sent = (u8, u8, Option<u16>, u8);

fn any_frame() -> impl Strategy<Value = Sent> {
    let tci = prop::option::of(prop::sample::select(&[0_u16, 0xe000, 1, 0x600a, 10, 20][..]));
    (0..7_u8, 1..6_u8, tci, 1..4_u8)
}

fn any_mode() -> impl Strategy<Value = VlanMode> {
    prop_oneof![
        Just(VlanMode::default()),
        Just(VlanMode::Access(vlan(10))),
        Just(VlanMode::Access(vlan(1))),
        any::<bool>().prop_map(|is_tagged| VlanMode::Native {
            vlan: vlan(1),
            allowed: VlanSet::ALL,
            is_tagged
        }),
        Just(VlanMode::Trunk([vlan(10)].into_iter().collect())),
        Just(VlanMode::Tunnel { vlan: vlan(10), customers: VlanSet::ALL, tpid: 0x88a8 }),
    ]
}

fn compare(seen: &Traffic, wanted: &Traffic) -> Result<(), TestCaseError> {
    for n in 0..4 {
        prop_assert_eq!(seen.at(port(n)), wanted.at(port(n)), "port {}", n);
    }
    for &reason in DropReason::ALL {
        prop_assert_eq!(seen.dropped_for(reason), wanted.dropped_for(reason), "{:?}", reason);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any mix of bursts, cache sizes that collide all the time, megaflows killed at random: each port gets the bytes
    /// that it would get without tables, in the same order.
    #[test]
    fn tables_never_change_what_leaves(
        modes in prop::collection::vec(any_mode(), 4),
        exact_match_entries in prop::sample::select(&[0_usize, 2, 8192][..]),
        max_flows in prop::sample::select(&[2_usize, 10_000][..]),
        bursts in prop::collection::vec(
            (0..4_u16, prop::collection::vec((any_frame(), 1..5_usize), 1..8), any::<u32>()), 1..40),
    ) {
        let limits = PipelineConfig { exact_match_entries, max_flows, ..PipelineConfig::default() };
        let mut bed = Bed::new(limits, modes);
        // Pinned, so that learning does not change verdicts within a burst.
        for vid in [0, 1, 10, 20] {
            for n in 1..6 {
                bed.fdb.pin(vlan(vid), mac(n), port(u16::from(n) % 4), 0);
            }
        }
        let mut packets = 0;
        for (in_port, runs, kills) in bursts {
            let frames: Vec<_> = runs.into_iter()
                .flat_map(|((dst, src, tci, serial), times)| {
                    let dst = if dst == 0 { [0xff; 6] } else { mac(dst) };
                    (0..times).map(move |_| frame(dst, mac(src), tci, serial))
                })
                .take(BURST)
                .collect();
            packets += frames.len() as u64;
            let wanted = reference(&bed.state(), in_port, &frames);
            let seen = bed.send(in_port, &frames);
            compare(&seen, &wanted)?;
            for (n, flow) in bed.log.flows.borrow().iter().enumerate() {
                if kills >> (n % 32) & 1 == 1 && n % 3 == 0 {
                    flow.kill();
                }
            }
            if kills % 7 == 0 {
                bed.pipeline.tick();
            }
        }
        let sum: u64 = ["repeats", "exact_hits", "classifier_hits", "upcalls", "upcalls_over_budget", "unreadable"]
            .into_iter().map(|name| bed.stat(name)).sum();
        prop_assert_eq!(sum, packets, "each packet is counted once");
    }

    /// Stations that move about: after the revalidator ran, the next packet goes where a switch without tables sends it.
    #[test]
    fn learning_and_revalidation_agree_with_a_switch_without_tables(
        steps in prop::collection::vec((0..4_u16, any_frame()), 1..120),
    ) {
        let mut bed = Bed::plain(4);
        let twin = Fdb::new(256);
        for (in_port, (dst, src, tci, serial)) in steps {
            let frames = [frame(mac(dst), mac(src), tci, serial)];
            let wanted = reference(&SwitchState { fdb: &twin, ..bed.state() }, in_port, &frames);
            let seen = bed.send(in_port, &frames);
            compare(&seen, &wanted)?;
            let of_tag = VlanMode::default().vlan_of(tci.map_or(0, |tci| tci & 0xfff));
            twin.learn(of_tag.unwrap(), mac(src), port(in_port), bed.now_ms, u32::MAX);
            bed.revalidate();
        }
    }
}

#[test]
fn second_burst_hits_the_exact_match_cache_once_per_run() {
    let mut bed = Bed::plain(3);
    bed.fdb.pin(vlan(0), mac(2), port(1), 0);
    let frames: Vec<_> = (0..8).map(|n| frame(mac(2), mac(1 + 4 * (n / 4)), None, n)).collect();
    bed.send(0, &frames);
    assert_eq!((bed.stat("upcalls"), bed.stat("flows_installed")), (2, 2));
    assert_eq!(bed.log.changes.get(), 2);
    let seen = bed.send(0, &frames);
    assert_eq!(seen.batches, 1);
    assert_eq!(seen.at(port(1)), frames);
    assert_eq!(bed.stat("upcalls"), 2);
    let flow = Arc::clone(&bed.log.flows.borrow()[0]);
    assert_eq!((flow.stats().packets, flow.stats().bytes), (8, 8 * 60));
    assert_eq!(bed.stat("exact_hits") + bed.stat("classifier_hits") + bed.stat("repeats"), 14);
    assert!(bed.stat("exact_hits") >= 2);
}

#[test]
fn dead_flow_is_a_miss_and_its_memory_goes() {
    let mut bed = Bed::plain(2);
    let frames = [frame(mac(2), mac(1), None, 0)];
    bed.send(0, &frames);
    let flow = bed.log.flows.borrow_mut().pop().unwrap();
    flow.kill();
    bed.send(0, &frames);
    assert_eq!((bed.stat("upcalls"), bed.stat("flows")), (2, 1));
    bed.send(0, &frames);
    assert_eq!(Arc::strong_count(&flow), 1);
}

#[test]
fn forgotten_port_starts_over() {
    let mut bed = Bed::plain(3);
    let frames = [frame(mac(2), mac(1), None, 0)];
    bed.send(0, &frames);
    bed.send(1, &frames);
    bed.pipeline.forget_port(port(0));
    assert_eq!(bed.stat("flows"), 1);
    bed.fdb.pin(vlan(0), mac(2), port(2), 0);
    assert_eq!(bed.send(0, &frames).at(port(2)), frames);
    assert_eq!(bed.stat("upcalls"), 3);
}

#[test]
fn budget_of_upcalls_is_per_port_and_refills() {
    let limits = PipelineConfig { upcalls_per_s: 1000, upcall_burst_pkts: 4, ..PipelineConfig::default() };
    let mut bed = Bed::new(limits, vec![VlanMode::default(); 2]);
    let scan: Vec<_> = (0..10).map(|n| frame(mac(200), mac(n + 1), None, n)).collect();
    let seen = bed.send(0, &scan);
    assert_eq!(seen.dropped, [(port(0), DropReason::UpcallBudget, 6)]);
    assert_eq!(bed.send(1, &scan[..2]).dropped, []);
    bed.now_ms += 3;
    assert_eq!(bed.send(0, &scan).dropped, [(port(0), DropReason::UpcallBudget, 3)]);
    assert_eq!(bed.stat("upcalls_over_budget"), 9);
}

#[test]
fn flows_that_the_operator_ended_come_back_without_a_budget() {
    let limits = PipelineConfig { upcalls_per_s: 1, upcall_burst_pkts: 8, ..PipelineConfig::default() };
    let mut bed = Bed::new(limits, vec![VlanMode::default(); 2]);
    let frames: Vec<_> = (0..8).map(|n| frame(mac(200), mac(n + 1), None, n)).collect();
    assert_eq!(bed.send(0, &frames).dropped, []);
    for (nth, flow) in bed.log.flows.borrow().iter().enumerate() {
        if nth < 6 { flow.kill_owing() } else { flow.kill() }
    }
    assert_eq!(bed.send(0, &frames).dropped, [(port(0), DropReason::UpcallBudget, 2)], "two ended otherwise");
    assert_eq!((bed.stat("upcalls"), bed.stat("flows")), (14, 6));
}

#[test]
fn tag_edit_before_the_only_output_keeps_one_batch() {
    let mut bed = Bed::new(
        PipelineConfig::default(),
        vec![VlanMode::Access(vlan(10)), VlanMode::Trunk([vlan(10)].into_iter().collect())],
    );
    let untagged: Vec<_> = (0..9).map(|n| frame(mac(2), mac(1), None, n)).collect();
    let tagged: Vec<_> = (0..9).map(|n| frame(mac(2), mac(1), Some(10), n)).collect();
    let seen = bed.send(0, &untagged);
    assert_eq!((seen.batches, seen.at(port(1))), (1, tagged.iter().map(|f| &f[..]).collect()));
    let seen = bed.send(1, &tagged);
    assert_eq!((seen.batches, seen.at(port(0))), (1, untagged.iter().map(|f| &f[..]).collect()));
}

#[test]
fn runt_is_dropped_and_counted() {
    let mut bed = Bed::plain(2);
    let good = frame(mac(2), mac(1), None, 0);
    let seen = bed.send(0, &[good.clone(), vec![2; 13], good.clone()]);
    assert_eq!(seen.dropped, [(port(0), DropReason::FrameTooShort, 1)]);
    assert_eq!(seen.at(port(1)), [good.clone(), good]);
}

#[test]
fn address_that_only_the_caches_see_stays_fresh() {
    let mut bed = Bed::plain(2);
    let frames = [frame(mac(2), mac(1), None, 0)];
    bed.send(0, &frames);
    let flow = Arc::clone(&bed.log.flows.borrow()[0]);
    bed.now_ms += 200_000;
    bed.send(0, &frames);
    assert!(!refresh_source(&flow, 0, &bed.state()));
    bed.fdb.expire(bed.now_ms + 299_000, 300_000, |entry| panic!("{entry:?}"));
    assert_eq!(bed.fdb.flush(None, None), 1);
    assert!(!refresh_source(&flow, bed.now_ms + 1, &bed.state()), "no packet since");
    assert!(refresh_source(&flow, bed.now_ms, &bed.state()), "learned again");
    assert_eq!(bed.fdb.lookup(vlan(0), mac(1)), Some(port(0)));
}

#[test]
fn station_that_moves_away_and_back_is_learned_each_time() {
    let mut bed = Bed::plain(3);
    let frames = [frame(mac(2), mac(1), None, 0)];
    for in_port in [0, 1, 0] {
        bed.send(in_port, &frames);
        assert_eq!(bed.fdb.lookup(vlan(0), mac(1)), Some(port(in_port)));
        bed.revalidate();
    }
}

/// The one rule of a set.
fn only(actions: Vec<RuleAction>) -> RuleSet {
    rules(vec![(vec![], actions)])
}

fn to(number: u16) -> RuleAction {
    RuleAction::Output(OutputTo::Port(port(number).into()))
}

#[test]
fn each_output_and_punt_has_the_packet_as_it_was_then() {
    let mut bed = Bed::plain(3);
    let set = |value| RuleAction::SetField { field: Field::EthDst, value, mask: u128::MAX };
    bed.rules = only(vec![
        to(1),
        set(0x0200_0000_0007),
        RuleAction::Controller { max_len: 60, id: 9, reason: Default::default() },
        set(0x0200_0000_0008),
        RuleAction::PushVlan(0x88a8),
        to(1),
        to(2),
    ]);
    let frames = [frame(mac(2), mac(1), None, 1), frame(mac(2), mac(1), None, 2)];
    let seen = bed.send(0, &frames);
    let changed = |serial| {
        let mut bytes = frame(mac(8), mac(1), None, serial);
        bytes.splice(12..12, [0x88, 0xa8, 0, 0]);
        bytes
    };
    let wanted = [frames[0].clone(), frames[1].clone(), changed(1), changed(2)];
    let mut at_1 = seen.at(port(1));
    at_1.sort_by_key(|bytes| (bytes.len(), bytes[bytes.len() - 1]));
    assert_eq!(at_1, wanted);
    assert_eq!(seen.at(port(2)), [changed(1), changed(2)]);
    let punt = |serial| (port(0), frame(mac(7), mac(1), None, serial), Punt { max_len: 60, id: 9 });
    assert_eq!(seen.punted, [punt(1), punt(2)]);
    assert_eq!(seen.dropped, []);
    assert_eq!(bed.stat("punts"), 2);
}

#[test]
fn packet_that_cannot_be_rewritten_counts_at_the_ports_it_misses() {
    let mut bed = Bed::plain(3);
    let ipv4 = |rest: &[RuleAction]| {
        let set = RuleAction::SetField { field: Field::Ipv4Dst, value: 1, mask: u128::MAX };
        only([&[to(1), set], rest].concat())
    };
    // It says IPv4, and is none.
    let mut bytes = frame(mac(2), mac(1), None, 1);
    bytes[12..14].copy_from_slice(&[8, 0]);
    bed.rules = ipv4(&[to(2), to(1)]);
    let seen = bed.send(0, std::slice::from_ref(&bytes));
    assert_eq!(seen.sent, [(port(1), bytes.clone())]);
    let reason = DropReason::CannotRewrite;
    assert_eq!(seen.dropped, [(port(2), reason, 1), (port(1), reason, 1)]);
    let mut bed = Bed::plain(3);
    bed.rules = ipv4(&[RuleAction::Controller { max_len: 60, id: 0, reason: Default::default() }]);
    assert_eq!(bed.send(0, &[bytes]).dropped, [(port(0), reason, 1)], "with no port left, where it came in");
}

#[test]
fn packets_without_room_for_a_megaflow_count_for_their_rules_at_once() {
    let mut bed =
        Bed::new(PipelineConfig { max_flows: 0, ..PipelineConfig::default() }, vec![VlanMode::default(); 2]);
    bed.rules = only(vec![to(1), RuleAction::Resubmit { in_port: None, table: Some(5) }]);
    let frames = [frame(mac(2), mac(1), None, 1), frame(mac(2), mac(3), None, 2)];
    assert_eq!(bed.send(0, &frames).sent.len(), 2);
    let rule = bed.rules.rules().next().unwrap();
    assert_eq!((rule.stats().packets, rule.stats().bytes), (2, 2 * 60));
    let missed: Vec<_> = bed.rules.tables().map(|stats| (stats.table, stats.missed)).collect();
    assert_eq!(missed, [(0, 0), (5, 2)]);
}

/// What fields must be, and what is done then.
type TestRule = (Vec<(Field, u128)>, Vec<RuleAction>);

/// Rules in descending priority.
fn rules(rules: Vec<TestRule>) -> RuleSet {
    let specs = (1..).zip(rules.into_iter().rev()).map(|(priority, (conditions, actions))| {
        let mut matching = Match::ANY;
        for (field, value) in conditions {
            matching.require(field, value, u128::MAX);
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
    });
    RuleSet::learning_switch(0).edit(&[Edit::Replace(specs.collect())], 0).unwrap().set
}

/// A TCP segment to port `dst` behind so many empty destination options, and all of it behind SNAP.
fn tcp6_behind(options: usize, dst: u16, is_snap: bool) -> Vec<u8> {
    let mut payload = Vec::new();
    for nth in 1..=options {
        payload.extend([if nth == options { 6 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
    }
    let mut segment = golden::tcp(0x002, &[1; 40], &[0x55; 20]);
    segment[2..4].copy_from_slice(&dst.to_be_bytes());
    payload.extend(segment);
    let ipv6 = golden::ipv6(if options == 0 { 6 } else { 60 }, 64, &payload);
    if !is_snap {
        return golden::ethernet(&[], 0x86dd, &ipv6);
    }
    let llc = [&[0xaa, 0xaa, 3, 0, 0, 0, 0x86, 0xdd][..], &ipv6].concat();
    golden::ethernet(&[], u16::try_from(llc.len()).unwrap().min(1500), &llc)
}

#[test]
fn deny_rule_catches_its_port_however_far_back_it_stands() {
    let mut bed = Bed::plain(2);
    let denied = [(Field::EthType, 0x86dd), (Field::IpProto, 6), (Field::TcpDst, 22)];
    bed.rules = rules(vec![(denied.to_vec(), vec![]), (vec![], vec![to(1)])]);
    let mut count = 0;
    // Each kind of packet meets the slow path first, then the tables, beside others in one burst.
    for round in 0..3 {
        for options in [0, 1, 8, 9, 15, 16, 17, 18, 19, 30, 100, 250, 255, 1000, 8000] {
            let frames = [(22, false), (23, false), (22, true), (23, true), (22, false)]
                .map(|(dst, is_snap)| tcp6_behind(options, dst, is_snap));
            let seen = bed.send(0, &frames);
            assert_eq!(seen.at(port(1)), [&frames[1][..], &frames[3]], "{options} options, round {round}");
            assert_eq!(seen.dropped_for(DropReason::RuleDrop), 3);
            count += frames.len();
        }
    }
    assert!(bed.stat("upcalls") < 10, "{}", bed.stat("upcalls"));
    assert_eq!(bed.stat("packets"), count as u64);
}

/// Packets of a burst that look alike where rules have looked so far share a lookup. One that must not pass as rules look
/// further takes nobody with it.
#[test]
fn bad_offload_is_found_where_rules_look_and_is_its_packets_own_fate() {
    let mut bed = Bed::plain(2);
    let partial = |start, offset| Offload { checksum: Checksum::Partial { start, offset }, ..Offload::NONE };
    let frame = golden::tcp6();
    let (right, over_port, over_type) = (partial(54, 16), partial(54, 2), partial(10, 2));
    let send = |bed: &mut Bed, offloads: &[Offload]| {
        for &offload in offloads {
            push(&mut bed.burst, port(0), &frame, offload);
        }
        let seen = bed.process();
        (seen.sent.len(), seen.dropped_for(DropReason::BadOffload))
    };
    // A learning switch looks at the link layer alone, once the first packet was decided.
    assert_eq!(send(&mut bed, &[right]), (1, 0));
    assert_eq!(send(&mut bed, &[over_port, right, over_type, over_port]), (3, 1));
    let denied = [(Field::EthType, 0x86dd), (Field::IpProto, 6), (Field::TcpDst, 22)];
    bed.rules = rules(vec![(denied.to_vec(), vec![]), (vec![], vec![to(1)])]);
    bed.pipeline.forget_port(port(0));
    let burst = [right, over_port, right, over_port, over_type, right];
    for _ in 0..3 {
        assert_eq!(send(&mut bed, &burst), (3, 3));
    }
    let sum: u64 =
        ["repeats", "exact_hits", "classifier_hits", "upcalls", "upcalls_over_budget", "unreadable"]
            .iter()
            .map(|name| bed.stat(name))
            .sum();
    assert_eq!(sum, bed.stat("packets"));
}

/// The megaflow looks no further than the Ethernet type, so nothing has extended the head before the rewrite does.
#[test]
fn headers_beyond_the_head_are_rewritten_whatever_the_megaflow_looks_at() {
    let mut bed = Bed::plain(2);
    let set = RuleAction::SetField { field: Field::Ipv6Src, value: 7, mask: u128::MAX };
    bed.rules = rules(vec![(vec![(Field::EthType, 0x86dd)], vec![set, to(1)])]);
    for options in [0, 17, 30, 1000] {
        let frame = tcp6_behind(options, 80, false);
        let seen = bed.send(0, &[frame.clone(), frame.clone()]);
        for bytes in seen.at(port(1)) {
            let transport = 54 + 8 * options;
            let checksum = transport + 16..transport + 18;
            assert_eq!(bytes[22..38], 7_u128.to_be_bytes());
            assert_ne!(bytes[checksum.clone()], frame[checksum.clone()], "{options}");
            assert_eq!(bytes[38..checksum.start], frame[38..checksum.start]);
            assert_eq!(bytes[checksum.end..], frame[checksum.end..]);
        }
        assert_eq!(seen.sent.len(), 2);
    }
}

/// Second passes.
mod again {
    use super::*;
    use crate::flow_cache::Union;
    use crate::pipeline::again::{MAX_COPIES, MAX_PASSES};
    use crate::rule::action::Subfield;
    use crate::rule::port::RulePort;

    fn set(field: Field, value: u128) -> RuleAction {
        RuleAction::SetField { field, value, mask: u128::MAX }
    }

    /// Again in the first table.
    fn resubmit() -> RuleAction {
        RuleAction::Resubmit { in_port: None, table: Some(0) }
    }

    /// Notes the pass in a register, goes again and looks again. What comes back is sent by its destination.
    fn by_destination() -> RuleSet {
        let dst = |last: u128| 0x0200_0000_0000 | last;
        rules(vec![
            (vec![(Field::Reg(0), 1), (Field::EthDst, dst(1))], vec![to(1)]),
            (vec![(Field::Reg(0), 1), (Field::EthDst, dst(2))], vec![to(2)]),
            (vec![(Field::Reg(0), 1)], vec![]),
            (vec![], vec![set(Field::Reg(0), 1), RuleAction::DebugRecirc, resubmit()]),
        ])
    }

    fn mac(last: u8) -> MacAddr {
        [2, 0, 0, 0, 0, last]
    }

    fn to_station(last: u8, serial: u8) -> Vec<u8> {
        frame(mac(last), mac(9), None, serial)
    }

    /// Headers that agree under everything that rules look at, on two passes with different verdicts: what remembers the one
    /// must not answer for the other, whichever of the tables it is.
    #[test]
    fn no_table_takes_a_second_pass_for_a_first() {
        for exact_match_entries in [0, 1 << 10] {
            let limits = PipelineConfig { exact_match_entries, ..PipelineConfig::default() };
            let mut bed = Bed::new(limits, vec![VlanMode::default(); 3]);
            bed.rules = by_destination();
            for round in 0..5 {
                let frames: Vec<_> = (0..8).map(|nth| to_station(1 + nth % 4 / 2, nth)).collect();
                let seen = bed.send(0, &frames);
                let of = |station: u8| {
                    frames.iter().filter(move |frame| frame[5] == station).map(|frame| &frame[..])
                };
                for station in [1, 2] {
                    let at = port(station.into());
                    assert_eq!(seen.at(at), of(station).collect::<Vec<_>>(), "round {round}");
                }
                assert_eq!(seen.dropped, []);
            }
            assert_eq!((bed.stat("packets"), bed.stat("recirculated")), (40, 40));
            assert_eq!(bed.stat("upcalls"), 3, "one for the first pass, two for the second");
            assert_eq!(bed.stat("exact_hits") > 0, exact_match_entries > 0);
        }
    }

    /// The union must tell passes apart from the very first packet that comes back, and from then on: by then the first pass is
    /// remembered, under the same destination that the second one looks at.
    #[test]
    fn first_packet_that_comes_back_is_told_apart() {
        let mut bed = Bed::plain(3);
        let station = (Field::EthDst, 0x0200_0000_0002);
        bed.rules = rules(vec![
            (vec![(Field::Reg(0), 1), station], vec![to(2)]),
            (vec![station], vec![to(1), set(Field::Reg(0), 1), RuleAction::DebugRecirc, resubmit()]),
        ]);
        for round in 0..3 {
            let seen = bed.send(0, &[to_station(2, 0), to_station(2, 1), to_station(2, 2)]);
            assert_eq!((seen.at(port(1)).len(), seen.at(port(2)).len()), (3, 3), "round {round}");
            assert_eq!((seen.sent.len(), seen.dropped.len()), (6, 0), "round {round}");
        }
        assert!(bed.stat("exact_hits") > 0);
    }

    #[test]
    fn union_starts_over_with_the_port_that_tells_passes_apart() {
        let mut bed = Bed::plain(3);
        bed.rules = by_destination();
        bed.send(0, &[to_station(1, 0)]);
        let union = |bed: &Bed| bed.pipeline.ports[0].as_ref().map(|state| state.union.tells_passes());
        assert_eq!(union(&bed), Some(true));
        for flow in bed.log.flows.take() {
            bed.pipeline.remove(&flow);
        }
        bed.pipeline.tick();
        assert_eq!(union(&bed), Some(Union::new().tells_passes()));
        assert_eq!(bed.send(0, &[to_station(1, 0)]).at(port(1)).len(), 1);
        assert_eq!(union(&bed), Some(true));
    }

    #[test]
    fn passes_of_a_packet_are_bounded() {
        let mut bed = Bed::plain(2);
        bed.rules = rules(vec![(vec![], vec![to(1), RuleAction::DebugRecirc, resubmit()])]);
        for round in 1..=3_u64 {
            let seen = bed.send(0, &[to_station(1, 0), to_station(2, 0)]);
            assert_eq!(seen.at(port(1)).len(), 2 * MAX_PASSES);
            assert_eq!(seen.dropped_for(DropReason::TooManyPasses), 2);
            assert_eq!(bed.stat("recirculated"), round * 2 * (MAX_PASSES as u64 - 1));
        }
        assert_eq!(bed.stat("upcalls"), 2, "what is left to do is the same each time");
    }

    #[test]
    fn copies_that_go_again_are_bounded_and_others_pay_nothing() {
        let mut bed = Bed::plain(2);
        let copy = || RuleAction::Clone([RuleAction::DebugRecirc, resubmit()].into());
        bed.rules = rules(vec![(vec![], vec![copy(), copy(), to(1)])]);
        let seen = bed.send(0, &[to_station(1, 0)]);
        assert_eq!(seen.at(port(1)).len(), MAX_COPIES + 1, "the packet and each copy");
        assert_eq!(
            seen.dropped_for(DropReason::TooManyPasses),
            2 * (MAX_COPIES as u64 + 1) - MAX_COPIES as u64
        );
        bed.rules =
            rules(vec![(vec![], vec![RuleAction::Clone([RuleAction::DebugRecirc, to(1)].into()), to(1)])]);
        bed.revalidate();
        let seen = bed.send(0, &[to_station(1, 0)]);
        assert_eq!((seen.at(port(1)).len(), seen.dropped.len()), (2, 0), "the next burst starts anew");
    }

    /// A copy is changed and goes again, is changed then, and the packet goes on as it was: its head, however long, its tail.
    #[test]
    fn copy_that_goes_again_leaves_the_packet_as_it_was() {
        let mut bed = Bed::plain(4);
        let copy = vec![
            set(Field::EthSrc, 7),
            RuleAction::PushVlan(0x8100),
            RuleAction::DebugRecirc,
            to(1),
            set(Field::EthDst, 5),
            RuleAction::DebugRecirc,
            to(2),
        ];
        bed.rules =
            rules(vec![(vec![], vec![RuleAction::Clone(copy.into()), to(3), set(Field::EthSrc, 8), to(3)])]);
        let long = [to_station(1, 0), (0..=255).cycle().take(1300).collect()].concat();
        for frame in [to_station(1, 0), long] {
            let changed = |src: u8| [&frame[..6], &[0, 0, 0, 0, 0, src], &frame[12..]].concat();
            let tagged = [&frame[..6], &[0, 0, 0, 0, 0, 7, 0x81, 0, 0, 0], &frame[12..]].concat();
            let copy_of_copy = [&[0, 0, 0, 0, 0, 5], &tagged[6..]].concat();
            for _ in 0..3 {
                let seen = bed.send(0, &[frame.clone(), frame.clone()]);
                assert_eq!(seen.at(port(1)), [&tagged[..], &tagged]);
                assert_eq!(seen.at(port(2)), [&copy_of_copy[..], &copy_of_copy]);
                assert_eq!(seen.at(port(3)), [&frame[..], &changed(8), &frame, &changed(8)]);
                assert_eq!(seen.dropped, []);
            }
        }
    }

    #[test]
    fn what_was_noted_and_what_is_left_comes_back_with_the_packet() {
        let mut bed = Bed::plain(4);
        let low = |field| Subfield { field, offset: 0, bits: 16 };
        let output = |n| RuleAction::Output(OutputTo::Subfield(low(Field::Reg(n))));
        bed.rules = rules(vec![
            (
                vec![(Field::Metadata, 1)],
                // The whole translation is suspended, the rule that waits for this one too.
                vec![RuleAction::DebugRecirc, RuleAction::Pop(low(Field::Reg(2))), output(2)],
            ),
            (
                vec![],
                vec![
                    set(Field::Metadata, 1),
                    set(Field::Reg(1), 1),
                    set(Field::Reg(3), 2),
                    RuleAction::Push(low(Field::Reg(3))),
                    RuleAction::WriteActions([set(Field::EthSrc, 3), to(3)].into()),
                    resubmit(),
                    output(1),
                ],
            ),
        ]);
        let frame = to_station(1, 0);
        for _ in 0..2 {
            let seen = bed.send(0, std::slice::from_ref(&frame));
            assert_eq!((seen.at(port(1)), seen.at(port(2))), (vec![&frame[..]], vec![&frame[..]]));
            assert_eq!(seen.at(port(3)), [[&frame[..6], &[0, 0, 0, 0, 0, 3], &frame[12..]].concat()]);
        }
    }

    #[test]
    fn learning_and_counters_know_one_packet_and_its_port() {
        let mut bed = Bed::plain(3);
        bed.rules = rules(vec![(
            vec![],
            vec![RuleAction::DebugRecirc, RuleAction::Output(OutputTo::Port(RulePort::NORMAL))],
        )]);
        let frames = [to_station(1, 0), to_station(1, 1), to_station(1, 2)];
        for _ in 0..2 {
            assert_eq!(bed.send(0, &frames).sent.len(), 6, "flooded");
        }
        assert_eq!(bed.fdb.lookup(VlanId::new(0).unwrap(), mac(9)), Some(port(0)));
        let counts: Vec<_> = bed.log.flows.borrow().iter().map(|flow| flow.stats().packets).collect();
        assert_eq!(counts, [6, 6]);
        let of_rules: Vec<_> = bed.log.flows.borrow().iter().map(|flow| flow.rules().len()).collect();
        assert_eq!(of_rules, [1, 0], "the rule is met once");
        assert_eq!(bed.stat("packets"), 6);
    }

    #[test]
    fn flow_of_a_second_pass_ends_with_the_last_that_leads_to_it() {
        let mut bed = Bed::plain(3);
        bed.rules = by_destination();
        bed.send(0, &[to_station(1, 0)]);
        bed.revalidate();
        let [first, second] = bed.log.flows.borrow().clone().try_into().unwrap();
        assert!(first.resumes().is_none() && second.resumes().is_some());
        assert_ne!(second.key().recirc_id.get(), 0);
        // As long as the same is left to do after it, it stays whatever the rules before.
        let spare = by_destination();
        bed.rules = spare;
        bed.revalidate();
        assert_eq!(bed.log.flows.borrow().len(), 2);
        bed.pipeline.remove(&first);
        drop(first);
        bed.log.flows.borrow_mut().retain(|flow| flow.resumes().is_some());
        assert!(!still_valid(&second, &bed.state()));
        bed.revalidate();
        assert_eq!((bed.log.flows.borrow().len(), second.is_alive()), (0, false));
        assert_eq!(bed.send(0, &[to_station(1, 0)]).at(port(1)).len(), 1);
    }

    #[test]
    fn without_room_for_megaflows_packets_go_again_all_the_same() {
        let limits = PipelineConfig { max_flows: 0, ..PipelineConfig::default() };
        let mut bed = Bed::new(limits, vec![VlanMode::default(); 3]);
        bed.rules = by_destination();
        for _ in 0..3 {
            let seen = bed.send(0, &[to_station(1, 0), to_station(2, 0), to_station(1, 1)]);
            assert_eq!((seen.at(port(1)).len(), seen.at(port(2)).len(), seen.dropped.len()), (2, 1, 0));
        }
        bed.pipeline.tick();
        assert_eq!(bed.pipeline.recirculations.len(), 0);
    }
}
