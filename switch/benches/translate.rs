//! What a packet that no cache knows costs: translation alone, by kind of rules, and a whole miss with its megaflow.

#![allow(missing_docs, reason = "criterion's macros make functions without any")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vsteer_switch::action::Punt;
use vsteer_switch::bridge::config::{PortVlan, SwitchConfig};
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::flow::key::{FlowKey, KeyTag, VLAN_PRESENT};
use vsteer_switch::megaflow::Megaflow;
use vsteer_switch::packet::{BURST, Burst, Frame, Offload, Segment};
use vsteer_switch::pipeline::{Context, Events, Pipeline, PipelineConfig, Transmit};
use vsteer_switch::port::PortId;
use vsteer_switch::rule::action::{OutputTo, RuleAction};
use vsteer_switch::rule::edit::Edit;
use vsteer_switch::rule::entry::RuleSpec;
use vsteer_switch::rule::field::Field;
use vsteer_switch::rule::matching::Match;
use vsteer_switch::rule::port::RulePort;
use vsteer_switch::rule::set::RuleSet;
use vsteer_switch::slow_path::translate;
use vsteer_switch::state::SwitchState;
use vsteer_switch::wire::MacAddr;
use vsteer_switch::wire::vlan::VlanId;

const STATION: MacAddr = [2, 0, 0, 0, 0, 2];
const PORTS: u16 = 8;

struct Nobody;

impl Events for Nobody {
    fn flow_installed(&self, _: Arc<Megaflow>) {}
    fn fdb_changed(&self) {}
}

struct Sink;

impl Transmit for Sink {
    fn transmit(&mut self, port: PortId, _: &Burst, indices: &[u8]) {
        black_box((port, indices));
    }
    fn punt(&mut self, _: PortId, _: &Frame<'_>, punt: Punt) {
        black_box(punt);
    }
    fn dropped(&mut self, _: PortId, reason: DropReason, packets: u64) {
        black_box((reason, packets));
    }
}

fn port(number: u16) -> PortId {
    PortId::new(number).unwrap_or_default()
}

fn to(number: u16) -> RuleAction {
    RuleAction::Output(OutputTo::Port(port(number).into()))
}

fn set(field: Field, value: u128) -> RuleAction {
    RuleAction::SetField { field, value, mask: field.full_mask() }
}

fn spec(table: u8, priority: u16, asked: &[(Field, u128)], actions: Vec<RuleAction>) -> RuleSpec {
    let mut matching = Match::ANY;
    asked.iter().for_each(|&(field, value)| matching.require(field, value, u128::MAX));
    let actions = actions.into();
    RuleSpec {
        table,
        priority,
        cookie: 0,
        idle_timeout_s: 0,
        hard_timeout_s: 0,
        remarks: Default::default(),
        matching,
        actions,
    }
}

fn rules(specs: Vec<RuleSpec>) -> RuleSet {
    let edited = RuleSet::learning_switch(0).edit(&[Edit::Replace(specs)], 0);
    edited.expect("rules that can be").set
}

/// 2,048 rules in 16 match shapes, all of which ask for ports.
fn many() -> Vec<RuleSpec> {
    let shapes: Vec<Vec<Field>> = (0..16_u8)
        .map(|shape| {
            let optional = [Field::Ipv4Src, Field::Ipv4Dst, Field::TcpSrc, Field::IpTos];
            let chosen = optional.into_iter().enumerate().filter(|(bit, _)| shape >> bit & 1 == 1);
            chosen.map(|(_, field)| field).collect()
        })
        .collect();
    (0..2048_u16)
        .map(|number| {
            let mut asked = vec![
                (Field::EthType, 0x800),
                (Field::IpProto, 6),
                (Field::TcpDst, u128::from(1024 + number / 16)),
            ];
            asked.extend(
                shapes[usize::from(number % 16)].iter().map(|&field| (field, u128::from(number & 63))),
            );
            spec(0, 100 + number % 16, &asked, vec![to(2)])
        })
        .chain([spec(0, 1, &[], vec![to(3)])])
        .collect()
}

/// Rules, by what they make a translation do.
fn kinds() -> Vec<(&'static str, Vec<RuleSpec>)> {
    let normal = || vec![RuleAction::Output(OutputTo::Port(RulePort::NORMAL))];
    let route = vec![
        set(Field::EthSrc, 0x0200_0000_0101),
        set(Field::EthDst, 0x0200_0000_0102),
        RuleAction::DecTtl([].into()),
        to(2),
    ];
    let goto = |table: u8| {
        spec(
            table,
            1,
            &[(Field::EthType, 0x800)],
            vec![set(Field::Reg(table), 1), RuleAction::GotoTable(table + 1)],
        )
    };
    let stages = (0..6).map(goto).chain([spec(6, 1, &[], normal())]).collect();
    vec![
        ("NORMAL, known", vec![spec(0, 1, &[], normal())]),
        ("output", vec![spec(0, 1, &[], vec![to(2)])]),
        ("route", vec![spec(0, 1, &[(Field::EthType, 0x800)], route)]),
        ("6 tables, NORMAL", stages),
        ("2048 rules", many()),
    ]
}

fn config() -> SwitchConfig {
    let vlan = PortVlan { mac_limit: 1_000_000, ..PortVlan::default() };
    SwitchConfig::new(1, (0..PORTS).map(|number| (port(number), vlan.clone())))
}

fn known() -> Fdb {
    let fdb = Fdb::new(1 << 20);
    fdb.pin(VlanId::UNTAGGED, STATION, port(2), 0);
    fdb
}

fn key(number: u32) -> FlowKey {
    let [_, a, b, c] = number.to_be_bytes();
    let mut key = FlowKey {
        in_port: 1,
        eth_dst: STATION,
        eth_src: [2, 1, 0, a, b, c],
        eth_type: 0x800.into(),
        ip_proto: 6,
        ip_ttl: 64,
        tp_src: 4096.into(),
        tp_dst: (u16::from(c) + 1024).into(),
        ..FlowKey::default()
    };
    key.ip_src[12..].copy_from_slice(&[10, a, b, c]);
    key.ip_dst[12..].copy_from_slice(&[10, 0, 0, 1]);
    key
}

fn translation(c: &mut Criterion) {
    let mut group = c.benchmark_group("translate");
    group.throughput(Throughput::Elements(1));
    let (config, fdb) = (config(), known());
    for (name, specs) in kinds() {
        let rules = rules(specs);
        let state = SwitchState { config: &config, fdb: &fdb, rules: &rules };
        let mut number = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                number += 1;
                translate(black_box(&key(number)), &state, &mut ())
            });
        });
    }
    let rules = rules(vec![spec(0, 1, &[], vec![RuleAction::Output(OutputTo::Port(RulePort::NORMAL))])]);
    let state = SwitchState { config: &config, fdb: &fdb, rules: &rules };
    let tag = KeyTag { tpid: 0x8100.into(), tci: (VLAN_PRESENT | 10).into() };
    let flooded = FlowKey { eth_dst: [0xff; 6], vlan: [tag, KeyTag::default()], ..key(1) };
    group.bench_function("NORMAL, flooded", |b| b.iter(|| translate(black_box(&flooded), &state, &mut ())));
    group.finish();
}

/// Every packet is of a new flow: extraction, lookups that find nothing, translation, learning, a new megaflow.
fn misses(c: &mut Criterion) {
    let mut group = c.benchmark_group("miss");
    group.throughput(Throughput::Elements(BURST as u64));
    let config = config();
    // The other kinds look at too little: all packets are in one megaflow.
    for (name, specs) in kinds().into_iter().filter(|(name, _)| name.contains("NORMAL")) {
        let (fdb, rules) = (known(), rules(specs));
        let cx = Context {
            now_ms: 1,
            state: SwitchState { config: &config, fdb: &fdb, rules: &rules },
            events: &Nobody,
        };
        let limits =
            PipelineConfig { max_flows: 1 << 22, upcall_burst_pkts: u32::MAX, ..PipelineConfig::default() };
        let mut pipeline = Pipeline::new(limits);
        let mut burst = burst();
        let mut number = 0_u32;
        group.bench_function(name, |b| {
            b.iter(|| {
                for packet in burst.packets_mut() {
                    number += 1;
                    let [_, x, y, z] = number.to_be_bytes();
                    let head = packet.head_mut();
                    head[6..12].copy_from_slice(&[2, 1, 0, x, y, z]);
                    head[26..30].copy_from_slice(&[10, x, y, z]);
                    head[36] = 4;
                    head[37] = z;
                    // A rewrite changed these.
                    head[..6].copy_from_slice(&STATION);
                    head[22] = 64;
                }
                pipeline.process(&mut burst, &cx, &mut Sink);
                // Enough for a while, and then room for more: taking flows out is not what is measured.
                if number.is_multiple_of(1 << 17) {
                    pipeline.forget_port(port(1));
                }
            });
        });
    }
    group.finish();
}

static FRAME: [u8; 64] = {
    let mut frame = [0; 64];
    (frame[12], frame[14], frame[17], frame[22], frame[23], frame[46]) = (8, 0x45, 50, 64, 6, 0x50);
    frame
};

fn burst() -> Burst {
    let mut burst = Burst::new();
    for _ in 0..BURST {
        // SAFETY: the frame is a static.
        #[allow(unsafe_code, reason = "segments are made of raw pointers")]
        let segment = unsafe { Segment::new(FRAME.as_ptr(), 64) };
        burst.push(port(1), Offload::default(), &[segment]);
    }
    burst
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(30);
    targets = translation, misses
}
criterion_main!(benches);
