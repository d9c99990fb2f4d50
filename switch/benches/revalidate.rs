//! What a pass over all megaflows takes: when nothing changed, when all were used, after a change, when all go.
//!
//! Read the elements per second as flows per second. `translate again` bounds how long a change takes to reach every
//! flow; the rules are a thousand of an access list in front of a learning switch.

#![allow(missing_docs, reason = "criterion_group makes a function without any")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use vsteer_switch::bridge::config::{PortVlan, SwitchConfig};
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::flow::key::{FlowKey, Mask};
use vsteer_switch::megaflow::{Megaflow, MegaflowSpec};
use vsteer_switch::port::PortId;
use vsteer_switch::revalidate::registry::{Pass, Recheck, Registry};
use vsteer_switch::rule::action::{OutputTo, RuleAction};
use vsteer_switch::rule::edit::Edit;
use vsteer_switch::rule::entry::RuleSpec;
use vsteer_switch::rule::field::Field;
use vsteer_switch::rule::matching::Match;
use vsteer_switch::rule::port::RulePort;
use vsteer_switch::rule::set::RuleSet;
use vsteer_switch::slow_path::{self};
use vsteer_switch::state::SwitchState;

fn port(number: u16) -> PortId {
    PortId::new(number).unwrap_or_default()
}

struct Switch {
    config: SwitchConfig,
    fdb: Fdb,
    rules: RuleSet,
}

impl Switch {
    fn new() -> Self {
        let config = SwitchConfig::new(1, (0..4).map(|n| (port(n), PortVlan::default())));
        let rule = |priority, matching, actions: &[RuleAction]| RuleSpec {
            table: 0,
            priority,
            cookie: 0,
            idle_timeout_s: 0,
            hard_timeout_s: 0,
            remarks: Default::default(),
            matching,
            actions: actions.into(),
        };
        let drops = (0..1000_u128).map(|n| {
            let mut matching = Match::ANY;
            matching.require(Field::EthType, 0x0800, 0xffff);
            matching.require(Field::IpProto, 6, 0xff);
            matching.require(Field::TcpDst, 20_000 + n, 0xffff);
            rule(100, matching, &[])
        });
        let normal = rule(0, Match::ANY, &[RuleAction::Output(OutputTo::Port(RulePort::NORMAL))]);
        let edit = Edit::Replace(drops.chain([normal]).collect());
        let rules = RuleSet::learning_switch(0).edit(&[edit], 0).map(|edited| edited.set);
        Self { config, fdb: Fdb::new(8), rules: rules.unwrap_or_else(|_| RuleSet::learning_switch(0)) }
    }

    fn flow(&self, number: u32, masks: &mut Vec<Arc<Mask>>) -> Arc<Megaflow> {
        let [a, b, c, d] = number.to_be_bytes();
        let key = FlowKey {
            eth_src: [2, 0, a, b, c, d],
            eth_dst: [2, 1, a, b, c, d],
            eth_type: 0x0800.into(),
            ip_proto: 6,
            tp_src: 1024.into(),
            tp_dst: 80.into(),
            ..FlowKey::default()
        };
        let state = SwitchState { config: &self.config, fdb: &self.fdb, rules: &self.rules };
        let translation = slow_path::translate(&key, &state, &mut ());
        // As a pipeline does it: flows of a subtable share one.
        let mask = masks.iter().find(|mask| ***mask == translation.mask).map(Arc::clone);
        let mask = mask.unwrap_or_else(|| {
            let mask = Arc::new(translation.mask);
            masks.push(Arc::clone(&mask));
            mask
        });
        let spec = MegaflowSpec {
            mask,
            key,
            verdict: translation.verdict,
            source: translation.learn,
            seen: state.generations(),
            rules: translation.rules.into(),
            resumes: None,
        };
        Arc::new(Megaflow::new(number.into(), 0, spec))
    }

    fn registry(&self, count: u32) -> Registry {
        let registry = Registry::default();
        let mut masks = Vec::new();
        (0..count).for_each(|number| registry.adopt(self.flow(number, &mut masks)));
        registry.pass(&self.pass(Recheck::New), |_| ());
        registry
    }

    fn pass(&self, recheck: Recheck) -> Pass<'_> {
        Pass {
            now_ms: 0,
            idle_ms: 10_000,
            is_flush: false,
            recheck,
            refresh_since_ms: None,
            too_exact_limit: 0,
            state: SwitchState { config: &self.config, fdb: &self.fdb, rules: &self.rules },
        }
    }
}

fn passes(c: &mut Criterion) {
    let switch = Switch::new();
    for count in [10_000_u32, 1_000_000] {
        let mut group = c.benchmark_group("pass");
        group.throughput(Throughput::Elements(count.into()));
        let id = |what: &str| BenchmarkId::new(what, count);
        let registry = switch.registry(count);
        group.bench_function(id("nothing changed"), |b| {
            b.iter(|| black_box(registry.pass(&switch.pass(Recheck::New), |_| ())));
        });
        group.bench_function(id("translate again"), |b| {
            b.iter(|| {
                let outcome = registry.pass(&switch.pass(Recheck::All), |_| ());
                assert_eq!((outcome.rechecked, outcome.ended_changed), (u64::from(count), 0));
            });
        });
        drop(registry);
        group.bench_function(id("all idle, then retired"), |b| {
            let setup = || switch.registry(count);
            let expire = |registry: Registry| {
                let mut over = Vec::with_capacity(count as usize);
                let idle = Pass { now_ms: 20_000, ..switch.pass(Recheck::New) };
                let outcome = registry.pass(&idle, |flow| over.push(Arc::clone(flow)));
                assert_eq!(outcome.ended_idle, u64::from(count));
                over.iter().for_each(|flow| flow.retire());
                drop(over);
                assert_eq!(registry.pass(&idle, |_| ()).retired, u64::from(count));
            };
            b.iter_batched(setup, expire, BatchSize::PerIteration);
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_secs(2));
    targets = passes
}
criterion_main!(benches);
