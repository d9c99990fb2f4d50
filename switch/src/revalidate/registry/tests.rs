//! The totals of rules against the packets that workers counted, and what passes end.

use crate::bridge::fdb::Fdb;
use crate::rule::set::RuleSet;
use std::cell::RefCell;
use std::sync::{LazyLock, mpsc};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::action::{Actions, Verdict};
use crate::bridge::config::{PortVlan, SwitchConfig};
use crate::classifier::{Classifier, ClassifierLimits};
use crate::drop_reason::DropReason;
use crate::flow::key::{FlowKey, Mask};
use crate::megaflow::MegaflowSpec;
use crate::port::PortId;
use crate::rule::entry::{RuleSpec, RuleStats};
use crate::rule::matching::Match;
use crate::slow_path;

fn rule(priority: u16) -> Arc<Rule> {
    let spec = RuleSpec {
        table: 0,
        priority,
        cookie: 0,
        idle_timeout_s: 0,
        hard_timeout_s: 0,
        remarks: Default::default(),
        matching: Match::default(),
        actions: Box::default(),
    };
    Arc::new(Rule::new(spec, 0))
}

static RULES: LazyLock<RuleSet> = LazyLock::new(|| RuleSet::learning_switch(0));

fn config(generation: u64, ports: u16) -> SwitchConfig {
    SwitchConfig::new(generation, (0..ports).map(|n| (PortId::new(n).unwrap(), PortVlan::default())))
}

/// What a switch of `config` would install for a packet of station `from` to the unknown station `to`.
fn flow(
    id: u16,
    from: u16,
    to: u16,
    rules: &[&Arc<Rule>],
    config: &SwitchConfig,
    fdb: &Fdb,
) -> Arc<Megaflow> {
    let mac = |n: u16| [2, 0, 0, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]];
    let key = FlowKey { eth_src: mac(from), eth_dst: mac(to), ..FlowKey::default() };
    let state = SwitchState { config, fdb, rules: &RULES };
    let translation = slow_path::translate(&key, &state, &mut ());
    let spec = MegaflowSpec {
        mask: Arc::new(translation.mask),
        key,
        verdict: translation.verdict,
        source: translation.learn,
        seen: state.generations(),
        rules: rules.iter().map(|&rule| Arc::clone(rule)).collect(),
        resumes: None,
    };
    Arc::new(Megaflow::new(id.into(), 0, spec))
}

fn pass<'a>(now_ms: u64, config: &'a SwitchConfig, fdb: &'a Fdb) -> Pass<'a> {
    Pass {
        now_ms,
        idle_ms: 10_000,
        is_flush: false,
        recheck: Recheck::New,
        refresh_since_ms: None,
        too_exact_limit: 0,
        state: SwitchState { config, fdb, rules: &RULES },
    }
}

#[derive(Debug, Clone)]
enum Step {
    Install(usize),
    Count {
        nth: usize,
        packets: u64,
    },
    Kill(usize),
    /// The worker takes out a flow by itself.
    TakeOut(usize),
    /// The worker reads what it was told.
    Obey,
    EndOfBurst,
    Adopt,
    Pass,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_usize..4).prop_map(Step::Install),
        8 => (0_usize..32, 1_u64..9).prop_map(|(nth, packets)| Step::Count { nth, packets }),
        1 => (0_usize..32).prop_map(Step::Kill),
        1 => (0_usize..32).prop_map(Step::TakeOut),
        1 => Just(Step::Obey),
        2 => Just(Step::EndOfBurst),
        2 => Just(Step::Adopt),
        2 => Just(Step::Pass),
    ]
}

proptest! {
    /// However flows come and go, each rule ends up with what was counted for it, and never has more on the way.
    #[test]
    fn rules_have_exactly_the_packets_that_were_counted(steps in prop::collection::vec(step(), 1..200)) {
        let (config, fdb) = (config(1, 2), Fdb::new(8));
        let rules: Vec<_> = (0..4).map(rule).collect();
        let registry = Registry::default();
        let mut tables = Classifier::new(ClassifierLimits::flows(64));
        let mut flows = Vec::new();
        let mut installed = Vec::new();
        let told = RefCell::new(Vec::new());
        let mut counted = [(0, 0); 4];
        let mut now_ms = 0;
        for step in steps {
            now_ms += 1000;
            match step {
                Step::Install(rule) => {
                    let id = u16::try_from(flows.len()).unwrap();
                    // Each packet of it matches one rule once and the first one twice.
                    let hit = [&rules[rule], &rules[0], &rules[0]];
                    let flow = flow(id, id, 60_000, &hit, &config, &fdb);
                    if let Some(index) = tables.insert(&flow) {
                        installed.push(Arc::clone(&flow));
                        flows.push((flow, index, rule));
                    }
                }
                Step::Count { nth, packets } if !flows.is_empty() => {
                    let (flow, _, rule) = &flows[nth % flows.len()];
                    // A flow that is over may count until the end of the burst.
                    if !flow.is_retired() {
                        flow.count(packets, 60 * packets, now_ms);
                        counted[*rule].0 += packets;
                        counted[*rule].1 += 60 * packets;
                        counted[0].0 += 2 * packets;
                        counted[0].1 += 120 * packets;
                    }
                }
                Step::Kill(nth) if !flows.is_empty() => flows[nth % flows.len()].0.kill(),
                Step::TakeOut(nth) if !flows.is_empty() => {
                    tables.remove(&flows[nth % flows.len()].0);
                }
                Step::Count { .. } | Step::Kill(_) | Step::TakeOut(_) => (),
                Step::Obey => told.borrow_mut().drain(..).for_each(|flow| {
                    tables.remove(&flow);
                }),
                Step::EndOfBurst => tables.reclaim(),
                Step::Adopt => installed.drain(..).for_each(|flow| registry.adopt(flow)),
                Step::Pass => {
                    registry.pass(&pass(now_ms, &config, &fdb), |flow| told.borrow_mut().push(Arc::clone(flow)));
                }
            }
            for (rule, &(packets, bytes)) in rules.iter().zip(&counted) {
                let RuleStats { packets: has, bytes: has_bytes, .. } = rule.stats();
                prop_assert!(has <= packets && has_bytes <= bytes);
            }
        }
        // The worker ends, with flows in its tables and in limbo.
        drop(tables);
        installed.drain(..).for_each(|flow| registry.adopt(flow));
        registry.pass(&pass(now_ms, &config, &fdb), |_| ());
        for (rule, &(packets, bytes)) in rules.iter().zip(&counted) {
            prop_assert_eq!((rule.stats().packets, rule.stats().bytes), (packets, bytes));
        }
        prop_assert_eq!(registry.flows().count(), 0);
        told.borrow_mut().clear();
        prop_assert!(flows.iter().all(|(flow, ..)| Arc::strong_count(flow) == 1), "nothing is kept");
    }
}

/// A worker installs, counts and takes out as fast as it can while passes run beside it.
#[test]
fn totals_are_exact_while_a_worker_and_passes_run_at_once() {
    let (config, fdb) = (config(1, 2), Fdb::new(8));
    let rules: Vec<_> = (0..3).map(rule).collect();
    let registry = Registry::default();
    let (install, installed) = mpsc::channel::<Arc<Megaflow>>();
    let (tell, told) = mpsc::channel::<Arc<Megaflow>>();
    let passes = AtomicUsize::new(0);
    let mut counted = [0_u64; 3];
    thread::scope(|scope| {
        let worker = {
            let (rules, config, fdb, passes) = (&rules, &config, &fdb, &passes);
            scope.spawn(move || {
                let mut counted = [0_u64; 3];
                let mut tables = Classifier::new(ClassifierLimits::flows(512));
                let mut flows: Vec<Arc<Megaflow>> = Vec::new();
                for round in 0..60_000_u16 {
                    // However the threads are scheduled, passes fall among the rounds.
                    while round % 6_000 == 1 && passes.load(Ordering::Relaxed) < usize::from(round / 6_000) {
                        thread::yield_now();
                    }
                    tables.reclaim();
                    if let Ok(flow) = told.try_recv() {
                        tables.remove(&flow);
                        tables.reclaim();
                    }
                    tables.purge(4);
                    let which = usize::from(round % 3);
                    if flows.len() < 300 {
                        let made = flow(round, round, 60_000, &[&rules[which]], config, fdb);
                        if tables.insert(&made).is_some() {
                            flows.push(Arc::clone(&made));
                            install.send(made).unwrap();
                        }
                    }
                    // The burst: some of these flows are killed under its hands.
                    for nth in 0..32.min(flows.len()) {
                        let flow = &flows[(usize::from(round) * 7 + nth) % flows.len()];
                        if !flow.is_retired() {
                            flow.count(1, 64, round.into());
                            counted[usize::from(flow.rules()[0].spec().priority)] += 1;
                        }
                    }
                    if round % 5 == 0 {
                        let flow = flows.swap_remove(usize::from(round / 5) % flows.len());
                        tables.remove(&flow);
                    }
                    flows.retain(|flow| !flow.is_retired());
                }
                counted
            })
        };
        let run = || {
            installed.try_iter().for_each(|flow| registry.adopt(flow));
            // Every other pass ends everything.
            let is_flush = passes.fetch_add(1, Ordering::Relaxed) % 2 == 1;
            let now = Pass { is_flush, ..pass(0, &config, &fdb) };
            registry.pass(&now, |flow| tell.send(Arc::clone(flow)).unwrap_or_default());
        };
        while !worker.is_finished() {
            run();
        }
        counted = worker.join().unwrap();
        run();
    });
    assert!(counted.iter().sum::<u64>() > 100_000);
    assert_eq!(rules.iter().map(|rule| rule.stats().packets).collect::<Vec<_>>(), counted);
    assert_eq!(registry.flows().count(), 0);
}

#[test]
fn flows_end_for_the_reason_that_is_counted() {
    let (one, fdb) = (config(1, 2), Fdb::new(8));
    let registry = Registry::default();
    let flows: Vec<_> = (0..6).map(|n| flow(n, n, 60_000, &[], &one, &fdb)).collect();
    flows.iter().for_each(|flow| registry.adopt(Arc::clone(flow)));
    assert_eq!(registry.live(), 6);
    let told = RefCell::new(Vec::new());
    let run = |pass: &Pass<'_>| registry.pass(pass, |flow| told.borrow_mut().push(flow.id()));

    // Nothing to do; one ends by itself.
    flows[0].kill();
    flows[1].count(1, 60, 9_000);
    let outcome = run(&pass(10_000, &one, &fdb));
    assert_eq!(outcome, Outcome { visited: 6, ended_by_owner: 1, ..Outcome::default() });
    assert_eq!(registry.live(), 5);

    // All but the one with a packet are idle; they stay until their worker has let go of them.
    let outcome = run(&pass(10_001, &one, &fdb));
    assert_eq!(outcome, Outcome { visited: 6, ended_idle: 4, ..Outcome::default() });
    assert_eq!(told.borrow().len(), 5);
    flows.iter().filter(|flow| !flow.is_alive()).for_each(|flow| flow.retire());
    let outcome = run(&pass(10_001, &one, &fdb));
    assert_eq!(outcome, Outcome { visited: 6, retired: 5, ..Outcome::default() });

    // A port more: what was flooded to one port would go to two.
    let two = config(2, 3);
    let outcome = run(&Pass { recheck: Recheck::All, ..pass(10_001, &two, &fdb) });
    assert_eq!(outcome, Outcome { visited: 1, rechecked: 1, ended_changed: 1, ..Outcome::default() });

    let flow = flow(99, 1, 60_000, &[], &two, &fdb);
    registry.adopt(Arc::clone(&flow));
    let outcome = run(&Pass { is_flush: true, ..pass(0, &two, &fdb) });
    assert_eq!(outcome.ended_flushed, 1);
    assert_eq!(registry.live(), 0);
    assert!(!flow.is_alive());
}

#[test]
fn busiest_flows_come_first_and_the_others_are_counted() {
    let (config, fdb) = (config(1, 2), Fdb::new(8));
    let registry = Registry::default();
    for (id, packets) in [3, 9, 1, 7].into_iter().enumerate() {
        let id = u16::try_from(id).unwrap();
        let flow = flow(id, id, 60_000, &[], &config, &fdb);
        flow.count(packets, 0, 0);
        registry.adopt(flow);
    }
    let busiest = |limit| {
        let (flows, left_out) = registry.busiest(limit);
        (flows.iter().map(|flow| flow.stats().packets).collect::<Vec<_>>(), left_out)
    };
    assert_eq!(busiest(2), (vec![9, 7], 2));
    assert_eq!(busiest(0), (vec![], 4));
    assert_eq!(busiest(4), (vec![9, 7, 3, 1], 0));
}

#[test]
fn only_new_flows_of_an_older_state_are_translated_again() {
    let (old, new, fdb) = (config(1, 2), config(2, 2), Fdb::new(8));
    let registry = Registry::default();
    registry.adopt(flow(0, 0, 60_000, &[], &old, &fdb));
    registry.adopt(flow(1, 1, 60_000, &[], &new, &fdb));
    let rechecked = |recheck| registry.pass(&Pass { recheck, ..pass(0, &new, &fdb) }, |_| ()).rechecked;
    assert_eq!(rechecked(Recheck::New), 1);
    assert_eq!(rechecked(Recheck::New), 0, "once is enough");
    assert_eq!(rechecked(Recheck::All), 2);
}

#[test]
fn flow_that_looks_at_too_much_goes_when_its_turn_comes() {
    let (config, fdb) = (config(1, 2), Fdb::new(8));
    let registry = Registry::default();
    for id in 0..5 {
        let narrow = flow(id, 1, 60_000, &[], &config, &fdb);
        let mut mask = Mask(narrow.mask().0);
        mask.0.tp_dst = u16::MAX.into();
        let spec = MegaflowSpec {
            mask: Arc::new(mask),
            key: *narrow.key(),
            verdict: narrow.verdict().clone(),
            source: narrow.source(),
            seen: narrow.seen(),
            rules: Box::default(),
            resumes: None,
        };
        registry.adopt(Arc::new(Megaflow::new(id.into(), 0, spec)));
    }
    let all = Pass { recheck: Recheck::All, ..pass(0, &config, &fdb) };
    let outcome = registry.pass(&all, |_| ());
    assert_eq!((outcome.rechecked, outcome.ended_too_exact), (5, 0));
    let outcome = registry.pass(&Pass { too_exact_limit: 3, ..pass(0, &config, &fdb) }, |_| ());
    assert_eq!((outcome.rechecked, outcome.ended_too_exact), (0, 3));
    assert_eq!(registry.flows().count(), 2);
}

#[test]
fn flow_with_a_mask_that_misses_a_bit_or_another_verdict_is_over() {
    let (config, fdb) = (config(1, 2), Fdb::new(8));
    let right = flow(0, 1, 60_000, &[], &config, &fdb);
    let counted_by = slow_path::translate(right.key(), &pass(0, &config, &fdb).state, &mut ()).rules;
    let with = |mask: Mask, verdict: Verdict| {
        let spec = MegaflowSpec {
            mask: Arc::new(mask),
            key: *right.key(),
            verdict,
            source: right.source(),
            seen: right.seen(),
            rules: Box::default(),
            resumes: None,
        };
        check(&Megaflow::new(1, 0, spec), &counted_by, &pass(0, &config, &fdb).state)
    };
    assert!(matches!(
        with(**right.mask(), right.verdict().clone()),
        Check::Right { rules: None, is_too_exact: false }
    ));
    let mut wide = **right.mask();
    wide.0.eth_dst[5] = 0xfe;
    assert!(matches!(with(wide, right.verdict().clone()), Check::Over));
    assert!(matches!(with(**right.mask(), Verdict::Drop(DropReason::NoEgress)), Check::Over));
    let other = Verdict::Forward(Actions::output(PortId::ZERO));
    assert!(matches!(with(**right.mask(), other), Check::Over));
}
