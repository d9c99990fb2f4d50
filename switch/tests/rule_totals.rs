//! Rules' counters against an independent count, with a real pipeline, a real registry, and everything that makes flows
//! come and go: changes of rules and ports, idle flows, full tables, forgotten ports, a worker that is slow to obey.
//!
//! The independent count translates each packet for itself just before it is sent. After a change of rules a pass comes
//! before the next packet, as flows decide as before until then; so each single rule must have exactly what was counted.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use vsteer_switch::state::SwitchState;

use proptest::prelude::*;

use vsteer_switch::action::Punt;
use vsteer_switch::bridge::config::{PortVlan, SwitchConfig};
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::flow::extract::extract;
use vsteer_switch::flow::key::{Depth, FlowKey};
use vsteer_switch::megaflow::Megaflow;
use vsteer_switch::packet::{Burst, Frame, Offload, Segment};
use vsteer_switch::pipeline::{Context, Events, Pipeline, PipelineConfig, Transmit};
use vsteer_switch::port::PortId;
use vsteer_switch::revalidate::registry::{Outcome, Pass, Recheck, Registry};
use vsteer_switch::rule::action::{OutputTo, RuleAction};
use vsteer_switch::rule::edit::Edit;
use vsteer_switch::rule::entry::{Rule, RuleSpec};
use vsteer_switch::rule::field::Field;
use vsteer_switch::rule::matching::Match;
use vsteer_switch::rule::port::RulePort;
use vsteer_switch::rule::set::RuleSet;
use vsteer_switch::slow_path::{self};

const FRAME_BYTES: usize = 60;

fn port(number: u16) -> PortId {
    PortId::new(number).unwrap()
}

struct Nowhere;

impl Transmit for Nowhere {
    fn transmit(&mut self, _: PortId, _: &Burst, _: &[u8]) {}
    fn punt(&mut self, _: PortId, _: &Frame<'_>, _: Punt) {}
    fn dropped(&mut self, _: PortId, reason: DropReason, _: u64) {
        assert_ne!(reason, DropReason::UpcallBudget, "the budget is meant to last");
    }
}

/// A burst of frames: source, destination and the low byte of the type.
fn burst(in_port: u16, packets: &[(u8, u8, u8)]) -> Burst {
    let mut burst = Burst::new();
    for &(src, dst, kind) in packets {
        let mut frame = [0; FRAME_BYTES];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 0x80, kind]);
        // SAFETY: the frame is shorter than a head, so it is copied now and no segment is kept.
        #[allow(unsafe_code, reason = "segments are made of raw pointers")]
        let segment = unsafe { Segment::new(frame.as_ptr(), FRAME_BYTES as u32) };
        burst.push(port(in_port), Offload::default(), &[segment]);
    }
    burst
}

#[derive(Default)]
struct Installed(RefCell<Vec<Arc<Megaflow>>>);

impl Events for Installed {
    fn flow_installed(&self, flow: Arc<Megaflow>) {
        self.0.borrow_mut().push(flow);
    }
    fn fdb_changed(&self) {}
}

/// A rule of a table, told apart by its priority; what it matches and does follows from the number.
fn spec(table: u8, number: u16) -> RuleSpec {
    let mut matching = Match::ANY;
    let bits = u128::from(number);
    match number % 3 {
        0 => matching.require(Field::EthSrc, bits & 7, 7),
        1 => matching.require(Field::EthDst, bits & 3, 3),
        _ => matching.require(Field::EthType, 0x8000 + (bits & 1), 0xffff),
    }
    let normal = RuleAction::Output(OutputTo::Port(RulePort::NORMAL));
    let lookup = RuleAction::Resubmit { in_port: None, table: Some(1) };
    let actions: Box<[RuleAction]> = match (table, number % 4) {
        (0, 0 | 1) => [lookup, normal].into(),
        (0, 2) => [lookup.clone(), lookup].into(),
        (_, 3) => Box::default(),
        _ => [normal].into(),
    };
    RuleSpec {
        table,
        priority: number,
        cookie: 0,
        idle_timeout_s: 0,
        hard_timeout_s: 0,
        remarks: Default::default(),
        matching,
        actions,
    }
}

struct Bed {
    pipeline: Pipeline,
    registry: Registry,
    installed: Installed,
    config: SwitchConfig,
    fdb: Fdb,
    rules: RuleSet,
    recheck: Recheck,
    told: RefCell<Vec<Arc<Megaflow>>>,
    now_ms: u64,
    /// What each rule must have, by its address; the rule is held, so no other comes to lie there.
    wanted: HashMap<*const Rule, (Arc<Rule>, u64)>,
    total: Outcome,
}

impl Bed {
    fn new(max_flows: usize, exact_match_entries: usize) -> Self {
        let limits = PipelineConfig {
            max_flows,
            exact_match_entries,
            upcalls_per_s: 1_000_000,
            upcall_burst_pkts: 1_000_000,
            ..PipelineConfig::default()
        };
        Self {
            pipeline: Pipeline::new(limits),
            registry: Registry::default(),
            installed: Installed::default(),
            config: SwitchConfig::new(1, (0..3).map(|n| (port(n), PortVlan::default()))),
            fdb: Fdb::new(64),
            rules: RuleSet::learning_switch(0),
            recheck: Recheck::All,
            told: RefCell::default(),
            now_ms: 1,
            wanted: HashMap::new(),
            total: Outcome::default(),
        }
    }

    fn send(&mut self, in_port: u16, packets: &[(u8, u8, u8)]) {
        let mut burst = burst(in_port, packets);
        let state = SwitchState { config: &self.config, fdb: &self.fdb, rules: &self.rules };
        for packet in burst.packets() {
            let mut key = FlowKey::default();
            assert_eq!(extract(packet, self.config.vlan_limit(), Depth::Transport, &mut key), Ok(()));
            for rule in slow_path::translate(&key, &state, &mut ()).rules {
                self.wanted.entry(Arc::as_ptr(&rule)).or_insert((rule, 0)).1 += 1;
            }
        }
        let cx = Context {
            now_ms: self.now_ms,
            state: SwitchState { config: &self.config, fdb: &self.fdb, rules: &self.rules },
            events: &self.installed,
        };
        self.pipeline.process(&mut burst, &cx, &mut Nowhere);
    }

    fn pass(&mut self) {
        self.installed.0.borrow_mut().drain(..).for_each(|flow| self.registry.adopt(flow));
        let pass = Pass {
            now_ms: self.now_ms,
            idle_ms: 5_000,
            is_flush: false,
            recheck: std::mem::replace(&mut self.recheck, Recheck::New),
            refresh_since_ms: None,
            too_exact_limit: 1,
            state: SwitchState { config: &self.config, fdb: &self.fdb, rules: &self.rules },
        };
        let outcome = self.registry.pass(&pass, |flow| self.told.borrow_mut().push(Arc::clone(flow)));
        self.total.add(&outcome);
    }

    fn edit(&mut self, edit: Edit) {
        let edited = self.rules.edit(&[edit], self.now_ms).unwrap();
        if edited.has_changed() {
            self.rules = edited.set;
            self.recheck = Recheck::All;
            self.pass();
        }
    }

    /// Adds the rule if it is not there, else takes it out. A rule that comes again is another one.
    fn toggle(&mut self, table: u8, number: u16) {
        let spec = spec(table, number);
        let known = self.rules.rules().find(|rule| *rule.spec() == spec).map(Arc::clone);
        self.edit(match known {
            Some(rule) => Edit::Remove(rule),
            None => Edit::Add { spec, check_overlap: false, reset_counts: true },
        });
    }

    fn obey(&mut self) {
        for flow in self.told.borrow_mut().drain(..) {
            self.pipeline.remove(&flow);
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Send(in_port, packets) => self.send(*in_port, packets),
            Step::Toggle(table, number) => self.toggle(*table, *number),
            Step::Replace(numbers) => {
                let normal = RuleAction::Output(OutputTo::Port(RulePort::NORMAL));
                let default = RuleSpec { matching: Match::ANY, actions: [normal].into(), ..spec(0, 0) };
                let rules = numbers.iter().map(|&number| spec((number & 1) as u8, number + 1));
                self.edit(Edit::Replace(rules.chain([default]).collect()));
            }
            Step::Wait(ms) => self.now_ms += ms,
            Step::Pass => self.pass(),
            Step::Obey => self.obey(),
            Step::Tick => self.pipeline.tick(),
            Step::Forget(number) => self.pipeline.forget_port(port(*number)),
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Send(u16, Vec<(u8, u8, u8)>),
    Toggle(u8, u16),
    Replace(Vec<u16>),
    Wait(u64),
    Pass,
    Obey,
    Tick,
    Forget(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let packets = prop::collection::vec((0_u8..12, 0_u8..12, 0_u8..3), 1..32);
    prop_oneof![
        12 => (0_u16..3, packets).prop_map(|(in_port, packets)| Step::Send(in_port, packets)),
        4 => (0_u8..2, 1_u16..16).prop_map(|(table, number)| Step::Toggle(table, number)),
        1 => prop::collection::vec(0_u16..15, 0..8).prop_map(Step::Replace),
        2 => (0_u64..4_000).prop_map(Step::Wait),
        3 => Just(Step::Pass),
        2 => Just(Step::Obey),
        1 => Just(Step::Tick),
        1 => (0_u16..3).prop_map(Step::Forget),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_rule_has_exactly_its_packets(
        steps in prop::collection::vec(step(), 1..80),
        max_flows in prop_oneof![Just(6_usize), Just(1000)],
        exact_match_entries in prop_oneof![Just(0_usize), Just(64)],
    ) {
        let mut bed = Bed::new(max_flows, exact_match_entries);
        steps.iter().for_each(|step| bed.step(step));
        // While flows live, one pass brings all totals up to date.
        bed.pass();
        for (rule, packets) in bed.wanted.values() {
            prop_assert_eq!(rule.stats().packets, *packets, "{:?}", rule.spec());
            prop_assert_eq!(rule.stats().bytes, packets * FRAME_BYTES as u64);
        }
        // And nothing is left or lost when all flows have gone.
        bed.now_ms += 100_000;
        bed.pass();
        bed.obey();
        bed.pass();
        prop_assert_eq!(bed.registry.flows().count(), 0);
        prop_assert_eq!(bed.registry.live(), 0);
        for (rule, packets) in bed.wanted.values() {
            prop_assert_eq!(rule.stats().packets, *packets, "{:?}", rule.spec());
        }
    }
}

/// One fixed story, so that it is known to reach what it is about.
#[test]
fn rules_that_take_over_a_flow_count_from_then_on_and_it_stays() {
    let mut bed = Bed::new(1000, 64);
    bed.send(0, &[(1, 2, 9); 4]);
    bed.pass();
    let old = bed.rules.rules().next().map(Arc::clone).unwrap();
    assert_eq!(old.stats().packets, 4);
    // The same decision by another rule.
    let again = RuleSpec { priority: 7, ..old.spec().clone() };
    bed.edit(Edit::Add { spec: again, check_overlap: false, reset_counts: false });
    assert_eq!((bed.total.reattributed, bed.total.ended_changed), (1, 0));
    bed.send(0, &[(1, 2, 9); 3]);
    bed.pass();
    let new = bed.rules.rules().find(|rule| rule.spec().priority == 7).unwrap();
    assert_eq!((old.stats().packets, new.stats().packets), (4, 3));
}

/// Hands over between the threads of a test as workers and the revalidator do.
struct Sender(mpsc::Sender<Arc<Megaflow>>);

impl Events for Sender {
    fn flow_installed(&self, flow: Arc<Megaflow>) {
        self.0.send(flow).unwrap();
    }
    fn fdb_changed(&self) {}
}

/// Flows are killed and let go by one thread in the middle of the bursts of another.
#[test]
fn totals_are_exact_while_a_pipeline_and_passes_run_at_once() {
    const ROUNDS: u64 = 120_000;
    let config = SwitchConfig::new(1, (0..3).map(|n| (port(n), PortVlan::default())));
    let fdb = Fdb::new(64);
    let rules = RuleSet::learning_switch(0);
    let rule = rules.rules().next().map(Arc::clone).unwrap();
    let registry = Registry::default();
    let (install, installed) = mpsc::channel();
    let (tell, told) = mpsc::channel::<Arc<Megaflow>>();
    let passes = AtomicU64::new(0);
    thread::scope(|scope| {
        let (config, fdb, rules, passes) = (&config, &fdb, &rules, &passes);
        let worker = scope.spawn(move || {
            let limits = PipelineConfig {
                upcalls_per_s: 1_000_000_000,
                upcall_burst_pkts: u32::MAX,
                ..PipelineConfig::default()
            };
            let mut pipeline = Pipeline::new(limits);
            let events = Sender(install);
            // Neighbours differ, so that each packet is looked up by itself, with time to be killed in between.
            let packets: Vec<_> = (0..32).map(|n| (n % 4, 9, 0)).collect();
            for round in 0..ROUNDS {
                // However the threads are scheduled, passes fall among the rounds.
                while round % 4_000 == 1 && passes.load(Ordering::Relaxed) < round / 1_000 {
                    thread::yield_now();
                }
                told.try_iter().take(8).for_each(|flow| {
                    pipeline.remove(&flow);
                });
                let cx =
                    Context { now_ms: round, state: SwitchState { config, fdb, rules }, events: &events };
                pipeline.process(&mut burst(0, &packets), &cx, &mut Nowhere);
            }
        });
        let run = || {
            installed.try_iter().for_each(|flow| registry.adopt(flow));
            let pass = Pass {
                now_ms: 0,
                idle_ms: u64::MAX,
                is_flush: true,
                recheck: Recheck::New,
                refresh_since_ms: None,
                too_exact_limit: 0,
                state: SwitchState { config, fdb, rules },
            };
            registry.pass(&pass, |flow| tell.send(Arc::clone(flow)).unwrap_or_default());
            passes.fetch_add(1, Ordering::Relaxed);
        };
        while !worker.is_finished() {
            run();
        }
        worker.join().unwrap();
        run();
    });
    assert_eq!(rule.stats().packets, 32 * ROUNDS);
    assert_eq!(registry.live(), 0);
}
