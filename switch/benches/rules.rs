//! Rule sets: time per lookup and per change, and how wide the masks are that lookups leave behind.
//!
//! The table of masks is printed before the timings. Each row is one rule set and one kind of traffic of 65 536 flows:
//! bits looked at per lookup, different masks, and megaflows needed for all of the traffic, beside the same figures of a
//! search that looks at the whole mask of every subtable it asks (`plain`).

#![allow(missing_docs, reason = "criterion_group makes a function without any")]

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use vsteer_switch::flow::fields::Fields;
use vsteer_switch::rule::action::{OutputTo, RuleAction};
use vsteer_switch::rule::edit::Edit;
use vsteer_switch::rule::entry::RuleSpec;
use vsteer_switch::rule::field::Field;
use vsteer_switch::rule::matching::Match;
use vsteer_switch::rule::port::RulePort;
use vsteer_switch::rule::set::RuleSet;

const FLOWS: usize = 65_536;

/// Numbers without order, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u128) -> u128 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        u128::from(mixed ^ mixed >> 31) % limit
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u128)).unwrap_or(0)]
    }
}

const TCP: u128 = 6;
const UDP: u128 = 17;
const SERVICES: [u128; 12] = [22, 25, 53, 80, 123, 443, 993, 3306, 5432, 6379, 8080, 9100];

/// An address of the data centre: one of 64 networks of 10.0.0.0/10.
fn inside(random: &mut Random) -> u128 {
    0x0a00_0000 | random.below(64) << 16 | random.below(8) << 8 | random.below(200)
}

/// The conditions of the 16 shapes of the access list, after Ethernet type and protocol.
fn conditions(shape: usize, random: &mut Random) -> Vec<(Field, u128, u128)> {
    let prefix = |bits: u32| u128::from(u32::MAX << (32 - bits));
    let src = |random: &mut Random, bits| (Field::Ipv4Src, inside(random), prefix(bits));
    let dst = |random: &mut Random, bits| (Field::Ipv4Dst, inside(random), prefix(bits));
    let port = |random: &mut Random| (Field::TcpDst, random.of(&SERVICES), u128::MAX);
    let range = |random: &mut Random| (Field::TcpDst, 1024 << random.below(6), 0xfc00);
    let in_port = |random: &mut Random| (Field::InPort, 1 + random.below(8), u128::MAX);
    let r = random;
    match shape {
        0 => vec![src(r, 32), dst(r, 32), port(r)],
        1 => vec![src(r, 24), dst(r, 32), port(r)],
        2 => vec![src(r, 24), dst(r, 24), port(r)],
        3 => vec![src(r, 16), dst(r, 24), port(r)],
        4 => vec![dst(r, 32), port(r)],
        5 => vec![dst(r, 24), port(r)],
        6 => vec![dst(r, 16), range(r)],
        7 => vec![src(r, 24), dst(r, 24)],
        8 => vec![src(r, 32)],
        9 => vec![src(r, 24)],
        10 => vec![dst(r, 28)],
        11 => vec![in_port(r), dst(r, 24), port(r)],
        12 => vec![in_port(r), src(r, 20)],
        13 => vec![src(r, 12), dst(r, 20), range(r)],
        14 => vec![in_port(r), dst(r, 32)],
        _ => vec![src(r, 16), dst(r, 16), port(r)],
    }
}

fn spec(priority: u16, ethertype: u128, proto: u128, conditions: &[(Field, u128, u128)]) -> RuleSpec {
    let mut matching = Match::ANY;
    matching.require(Field::EthType, ethertype, u128::MAX);
    if proto != 0 {
        matching.require(Field::IpProto, proto, u128::MAX);
    }
    conditions.iter().for_each(|&(field, value, mask)| matching.require(field, value, mask));
    RuleSpec {
        table: 0,
        priority,
        cookie: 0,
        idle_timeout_s: 0,
        hard_timeout_s: 0,
        remarks: Default::default(),
        matching,
        actions: Box::new([RuleAction::Output(OutputTo::Port(RulePort::NORMAL))]),
    }
}

/// An access list of `count` rules in 16 shapes, the narrower ones before the wider.
fn access_list(count: usize) -> Vec<RuleSpec> {
    let mut random = Random(1);
    let mut rules: Vec<_> = (0..count)
        .map(|at| {
            let shape = at % 16;
            let jitter = u16::try_from(random.below(50)).unwrap_or(0);
            let priority = 20_000 - u16::try_from(shape).unwrap_or(0) * 100 + jitter;
            let proto = if random.below(4) == 0 { UDP } else { TCP };
            spec(priority, 0x800, proto, &conditions(shape, &mut random))
        })
        .collect();
    rules.push(spec(10, 0x806, 0, &[]));
    rules.push(spec(1, 0x800, 0, &[]));
    rules
}

/// A kind of traffic.
#[derive(Debug, Clone, Copy)]
enum Traffic {
    /// Connections between 1024 pairs of hosts of the data centre, both directions.
    Pairs,
    /// Clients from anywhere, asking 256 hosts of the data centre for services, and the answers.
    Clients,
    /// Addresses and ports at random.
    Scan,
}

fn traffic(kind: Traffic, flows: usize) -> Vec<Fields> {
    let mut random = Random(2);
    let hosts: Vec<_> = (0..1024).map(|_| (inside(&mut random), inside(&mut random))).collect();
    let mut packet = |_| {
        let r = &mut random;
        let pair = r.of(&hosts);
        let (mut addresses, mut ports) = match kind {
            Traffic::Pairs => ([pair.0, pair.1], [32_768 + r.below(28_000), r.of(&SERVICES)]),
            Traffic::Clients => {
                ([r.below(1 << 32), r.of(&hosts[..256]).1], [1024 + r.below(64_000), r.of(&SERVICES)])
            }
            Traffic::Scan => ([r.below(1 << 32), r.below(1 << 32)], [r.below(1 << 16), r.below(1 << 16)]),
        };
        if r.below(2) == 0 {
            addresses.reverse();
            ports.reverse();
        }
        let mut packet = Fields::NONE;
        let fields = [
            (Field::InPort, 1 + addresses[0] % 8),
            (Field::EthSrc, 0x0200_0000_0000 | addresses[0]),
            (Field::EthDst, 0x0200_0000_0000 | addresses[1]),
            (Field::EthType, 0x800),
            (Field::IpProto, if r.below(4) == 0 { UDP } else { TCP }),
            (Field::IpTtl, 64),
            (Field::Ipv4Src, addresses[0]),
            (Field::Ipv4Dst, addresses[1]),
            (Field::TcpSrc, ports[0]),
            (Field::TcpDst, ports[1]),
        ];
        fields.iter().for_each(|&(field, value)| field.set(&mut packet, value, u128::MAX));
        packet
    };
    (0..flows).map(&mut packet).collect()
}

fn set_of(rules: &[RuleSpec]) -> RuleSet {
    let edited = RuleSet::learning_switch(0).edit(&[Edit::Replace(rules.to_vec())], 0);
    edited.expect("as many rules as fit").set
}

/// What a lookup looks at that asks whole subtables, best first, until none can have a better rule.
struct Plain(Vec<(u16, Fields, HashMap<Vec<u64>, u16>)>);

fn masked(fields: &Fields, mask: &Fields) -> Vec<u64> {
    fields.words().iter().zip(mask.words()).map(|(word, mask)| word & mask).collect()
}

impl Plain {
    fn new(rules: &[RuleSpec]) -> Self {
        let mut subtables: HashMap<[u64; Fields::WORDS], HashMap<Vec<u64>, u16>> = HashMap::new();
        for rule in rules {
            let values = subtables.entry(*rule.matching.mask().words()).or_default();
            let best = values.entry(rule.matching.value().words().to_vec()).or_default();
            *best = rule.priority.max(*best);
        }
        let mut list: Vec<_> = subtables
            .into_iter()
            .map(|(mask, values)| {
                let mut fields = Fields::NONE;
                *fields.words_mut() = mask;
                (values.values().copied().max().unwrap_or(0), fields, values)
            })
            .collect();
        list.sort_by_key(|subtable| Reverse(subtable.0));
        Self(list)
    }

    fn look(&self, packet: &Fields, looked: &mut Fields) {
        let mut best = 0;
        for (first, mask, values) in &self.0 {
            if *first < best {
                break;
            }
            looked.unite(mask);
            best = best.max(values.get(&masked(packet, mask)).copied().unwrap_or(0));
        }
    }
}

/// Prints bits per lookup, masks and megaflows of a way to look up.
fn print_masks(name: &str, packets: &[Fields], look: impl Fn(&Fields, &mut Fields)) {
    let (mut bits, mut masks, mut megaflows) = (0_u64, HashSet::new(), HashSet::new());
    for packet in packets {
        let mut looked = Fields::NONE;
        look(packet, &mut looked);
        bits += looked.words().iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        megaflows.insert((*looked.words(), masked(packet, &looked)));
        masks.insert(*looked.words());
    }
    println!(
        "{name:<32} bits {:>6.1}  masks {:>6}  megaflows {:>6} of {}",
        bits as f64 / packets.len() as f64,
        masks.len(),
        megaflows.len(),
        packets.len()
    );
}

fn masks(_: &mut Criterion) {
    for count in [128, 2048, 100_000] {
        let rules = access_list(count);
        let set = set_of(&rules);
        let plain = Plain::new(&rules);
        for kind in [Traffic::Pairs, Traffic::Clients, Traffic::Scan] {
            let packets = traffic(kind, FLOWS);
            print_masks(&format!("{count} rules, {kind:?}"), &packets, |packet, looked| {
                black_box(set.lookup(0, packet, looked));
            });
            let name = format!("{count} rules, {kind:?}, plain");
            print_masks(&name, &packets, |packet, looked| plain.look(packet, looked));
        }
    }
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("rule lookup");
    group.throughput(Throughput::Elements(1));
    let packets = traffic(Traffic::Pairs, FLOWS);
    for count in [1, 2048, 100_000] {
        let rules = if count == 1 { vec![spec(1, 0x800, 0, &[])] } else { access_list(count) };
        let set = set_of(&rules);
        let mut next = 0;
        group.bench_function(format!("{count} rules"), |b| {
            b.iter(|| {
                next = (next + 1) % packets.len();
                let mut looked = Fields::NONE;
                black_box(set.lookup(0, &packets[next], &mut looked).rule());
                looked
            });
        });
    }
    group.finish();
}

fn edits(c: &mut Criterion) {
    let mut group = c.benchmark_group("rule edit");
    for count in [1, 2048, 100_000] {
        let set = set_of(&access_list(count));
        let mut random = Random(3);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("add one to {count}"), |b| {
            b.iter_batched(
                || {
                    let spec = spec(30_000, 0x800, TCP, &conditions(0, &mut random));
                    [Edit::Add { spec, check_overlap: false, reset_counts: false }]
                },
                |edit| set.edit(&edit, 0),
                BatchSize::PerIteration,
            );
        });
    }
    let old = set_of(&access_list(10_000));
    let same = [Edit::Replace(access_list(10_000))];
    let mut other_rules = access_list(10_000);
    other_rules.iter_mut().for_each(|rule| rule.cookie = 1);
    let others = [Edit::Replace(other_rules)];
    let mut new_rules = access_list(20_000).split_off(10_000);
    new_rules.truncate(10_000);
    let new = [Edit::Replace(new_rules)];
    group.throughput(Throughput::Elements(10_000));
    for (name, edit) in [("the same", same), ("other cookies", others), ("all other", new)] {
        group.bench_function(format!("replace 10000, {name}"), |b| b.iter(|| old.edit(&edit, 0)));
    }
    group.finish();
    let rules = access_list(1_000_000);
    let start = Instant::now();
    let set = set_of(&rules[..1_000_000]);
    println!("{} rules built in {:?}", set.len(), start.elapsed());
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(30);
    targets = masks, lookups, edits
}
criterion_main!(benches);
