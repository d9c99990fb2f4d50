//! Time per packet of the pipeline without ports: keys, lookup, counting, gathering per egress port.
//!
//! Each iteration is one burst of 32; divide by 32, or read the elements per second. Between bursts the addresses are
//! written into the same 32 heads, as a worker reuses one burst; `rewrite only` is the cost of that alone.

#![allow(missing_docs, reason = "criterion_group makes a function without any")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use vsteer_switch::action::{Actions, Punt, Verdict};
use vsteer_switch::bridge::config::{PortVlan, SwitchConfig};
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::classifier::{Classifier, ClassifierLimits, Pending};
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::flow::key::{Depth, FlowKey, Mask};
use vsteer_switch::megaflow::{Megaflow, MegaflowSpec};
use vsteer_switch::packet::{BURST, Burst, Frame, Offload, Segment};
use vsteer_switch::pipeline::{Context, Events, Pipeline, PipelineConfig, Transmit};
use vsteer_switch::port::PortId;
use vsteer_switch::rule::set::RuleSet;
use vsteer_switch::state::{Seen, SwitchState};
use vsteer_switch::wire::vlan::VlanId;

struct Nobody;

impl Events for Nobody {
    fn flow_installed(&self, _: Arc<Megaflow>) {}
    fn fdb_changed(&self) {}
}

struct Sink;

impl Transmit for Sink {
    fn punt(&mut self, _: PortId, _: &Frame<'_>, punt: Punt) {
        black_box(punt);
    }

    fn transmit(&mut self, port: PortId, _: &Burst, indices: &[u8]) {
        black_box((port, indices));
    }
    fn dropped(&mut self, _: PortId, reason: DropReason, packets: u64) {
        black_box((reason, packets));
    }
}

fn port(number: u16) -> PortId {
    PortId::new(number).unwrap_or_default()
}

static FRAME: [u8; 64] = {
    let mut frame = [0; 64];
    frame[12] = 8;
    frame
};

fn burst_of_32() -> Burst {
    let mut burst = Burst::new();
    for _ in 0..BURST {
        // SAFETY: the frame is a static.
        #[allow(unsafe_code, reason = "segments are made of raw pointers")]
        let segment = unsafe { Segment::new(FRAME.as_ptr(), 64) };
        burst.push(port(1), Offload::default(), &[segment]);
    }
    burst
}

/// Writes the addresses of pair `number` into a head.
fn address(head: &mut [u8], number: u32) {
    let [a, b, c, d] = number.to_be_bytes();
    head[..16].copy_from_slice(&[2, 0, a, b, c, d, 2, 1, a, b, c, d, 8, 0, 0x45, 0]);
}

fn pipeline(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(BURST as u64));
    let cases = [
        ("1 pair", 1_u32, 8192),
        ("1024 pairs", 1024, 8192),
        ("8192 pairs", 8192, 8192),
        ("8192 pairs, 32768 entries", 8192, 32_768),
        ("1024 pairs, classifier only", 1024, 0),
        ("8192 pairs, classifier only", 8192, 0),
    ];
    for (name, pairs, exact_match_entries) in cases {
        let config = SwitchConfig::new(
            1,
            (1..5).map(|n| (port(n), PortVlan { mac_limit: 100_000, ..PortVlan::default() })),
        );
        let fdb = Fdb::new(65_536);
        let rules = RuleSet::learning_switch(0);
        let cx = Context {
            now_ms: 1_000_000,
            state: SwitchState { config: &config, fdb: &fdb, rules: &rules },
            events: &Nobody,
        };
        let limits =
            PipelineConfig { exact_match_entries, upcall_burst_pkts: 100_000, ..PipelineConfig::default() };
        let mut pipeline = Pipeline::new(limits);
        let mut burst = burst_of_32();
        for pair in 0..pairs {
            let [a, b, c, d] = pair.to_be_bytes();
            fdb.pin(VlanId::UNTAGGED, [2, 0, a, b, c, d], port(2), 0);
        }
        let mut next = 0_u32;
        let mut run = |pipeline: &mut Pipeline| {
            for packet in burst.packets_mut() {
                address(packet.head_mut(), next.wrapping_mul(0x9e37_79b1) >> 7 & (pairs - 1));
                next = next.wrapping_add(1);
            }
            pipeline.process(&mut burst, &cx, &mut Sink);
        };
        for _ in 0..pairs * 4 {
            run(&mut pipeline);
        }
        group.bench_function(name, |b| b.iter(|| run(&mut pipeline)));
    }
    let mut burst = burst_of_32();
    let mut next = 0_u32;
    group.bench_function("rewrite only", |b| {
        b.iter(|| {
            for packet in burst.packets_mut() {
                address(packet.head_mut(), next.wrapping_mul(0x9e37_79b1) >> 7 & 1023);
                next = next.wrapping_add(1);
            }
            black_box(burst.packets().len())
        });
    });
    group.finish();
}

/// The classifier alone: 1024 megaflows spread evenly over subtables, all equally busy.
fn subtables(c: &mut Criterion) {
    let mut group = c.benchmark_group("classifier");
    group.throughput(Throughput::Elements(BURST as u64));
    for count in [1_u16, 16] {
        let mut classifier = Classifier::new(ClassifierLimits::flows(65_536));
        let mut keys = Vec::new();
        for number in 0..1024_u16 {
            let mut mask = Mask::default();
            (mask.0.in_port, mask.0.recirc_id) = (u32::MAX, u32::MAX.into());
            mask.0.eth_dst = [0xff; 6];
            mask.0.eth_src = [0xff; 6];
            mask.0.vlan[0].tci = (0x0fff | (number % count) << 12).into();
            let mut key = FlowKey { in_port: 1, ..FlowKey::default() };
            key.eth_dst[4..].copy_from_slice(&number.to_be_bytes());
            let spec = MegaflowSpec {
                mask: classifier.share_mask(port(1), &mask),
                key,
                verdict: Verdict::Forward(Actions::output(port(2))),
                source: None,
                seen: Seen::default(),
                rules: Box::default(),
                resumes: None,
            };
            classifier.insert(&Arc::new(Megaflow::new(u64::from(number), 0, spec)));
            keys.push(key);
        }
        let mut found = [0; BURST];
        let mut from = 0;
        group.bench_function(format!("{count} subtables"), |b| {
            b.iter(|| {
                let mut pending = Pending::NONE;
                (0..32).for_each(|at| pending.push(at));
                from = (from + BURST) % keys.len();
                classifier.lookup(
                    port(1),
                    &keys[from..from + BURST],
                    None,
                    Depth::Link,
                    &mut pending,
                    &mut found,
                );
                assert!(pending.as_slice().is_empty());
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(30);
    targets = pipeline, subtables
}
criterion_main!(benches);
