//! What a look into the forwarding database costs: for an address that it has and for one that it has not, by how full it is.

#![allow(missing_docs, reason = "criterion's macros make functions without any")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::port::PortId;
use vsteer_switch::wire::vlan::VlanId;

/// As many addresses as a switch learns.
const CAPACITY: u32 = 32_768;

/// Address `number` of range `range`; scattered, so that neighbours in time are none in the table.
fn mac(range: u8, number: u32) -> [u8; 6] {
    let [a, b, c, d] = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
    [2, range, a, b, c, d]
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("fdb");
    group.throughput(Throughput::Elements(1));
    let at = PortId::new(1).unwrap_or_default();
    for (fill, count) in [("1 %", CAPACITY / 100), ("half", CAPACITY / 2), ("full", CAPACITY)] {
        let fdb = Fdb::new(CAPACITY as usize);
        for number in 0..count {
            fdb.learn(VlanId::UNTAGGED, mac(0, number), at, 0, u32::MAX);
        }
        let mut number = 0;
        let mut next = move || {
            number = (number + 1) % count;
            number
        };
        group.bench_function(format!("{fill}, known"), |b| {
            b.iter(|| black_box(fdb.lookup(VlanId::UNTAGGED, mac(0, next()))));
        });
        group.bench_function(format!("{fill}, unknown"), |b| {
            b.iter(|| black_box(fdb.lookup(VlanId::UNTAGGED, mac(1, next()))));
        });
        group.bench_function(format!("{fill}, refreshed"), |b| {
            b.iter(|| black_box(fdb.learn(VlanId::UNTAGGED, mac(0, next()), at, 0, u32::MAX)));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);
    targets = lookups
}
criterion_main!(benches);
