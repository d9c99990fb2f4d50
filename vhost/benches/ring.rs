//! Bursts of 32 through one queue of a running session, guest and worker on one thread: what dequeue and enqueue cost.
//!
//! The driver's side is a single store: every descriptor stays as it is, and the available index moves on by a burst.
//! Throughput is in packets; divide the time by 32 for the cost of one.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, missing_docs, reason = "a benchmark")]

#[path = "../tests/common/mod.rs"]
mod common;

use common::*;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vsteer_switch::packet::{BURST, Burst, Frame, Offload, Tail};
use vsteer_vhost::net::port::Scratch;

const RING: u16 = 256;

/// How a packet lies in the guest's descriptors.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    Single,
    Chain,
    Indirect,
    /// The frame takes two receive buffers.
    Merged,
}

/// A guest whose queue `index` has every entry of the available ring filled, `frame_len` bytes each.
fn guest(host: &Host, index: usize, frame_len: u32, shape: Shape) -> MockGuest {
    let mut guest = MockGuest::connect(&host.path, &Config { queue_size: RING, ..Config::default() });
    let flag = if index == 0 { WRITE } else { 0 };
    let tables = guest.memory.alloc(32 * u64::from(RING), 16);
    let per_packet = if shape == Shape::Chain { 2 } else { 1 };
    for slot in 0..RING {
        let at = guest.memory.alloc(2048, 64);
        let head = (slot * per_packet) & (RING - 1);
        let (memory, queue) = (&guest.memory, &guest.queues[index]);
        let total = 12 + frame_len;
        match shape {
            Shape::Single => queue.describe(memory, head, at, total, flag, 0),
            Shape::Merged => queue.describe(memory, head, at, total.div_ceil(2), flag, 0),
            Shape::Chain => {
                queue.describe(memory, head, at, 12, flag | NEXT, head + 1);
                queue.describe(memory, head + 1, at + 12, frame_len, flag, 0);
            }
            Shape::Indirect => {
                let table = tables + 32 * u64::from(slot);
                memory.write(table, &descriptor(at, 12, flag | NEXT, 1));
                memory.write(table + 16, &descriptor(at + 12, frame_len, flag, 0));
                queue.describe(memory, head, table, 32, INDIRECT, 0);
            }
        }
        memory.store_u16(queue.avail + 4 + 2 * u64::from(slot), head);
        queue.set_no_interrupt(memory, true);
    }
    guest
}

fn dequeue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("dequeue");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, len, shape) in [
        ("64 B", 64, Shape::Single),
        ("64 B chain", 64, Shape::Chain),
        ("64 B indirect", 64, Shape::Indirect),
        ("1500 B", 1500, Shape::Single),
        ("1500 B chain", 1500, Shape::Chain),
    ] {
        let host = Host::new();
        let mut guest = guest(&host, 1, len, shape);
        let (mut burst, mut scratch) = (Burst::new(), Scratch::default());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (memory, queue) = guest.transmitq(0);
                queue.avail_idx = queue.avail_idx.wrapping_add(BURST as u16);
                queue.publish(memory);
                let received = host.port.receive(0, &mut burst, &mut scratch, &host.counters).unwrap();
                assert_eq!(burst.len(), BURST);
                burst.clear();
                received.complete();
            });
        });
    }
    group.finish();
}

fn enqueue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("enqueue");
    group.throughput(Throughput::Elements(BURST as u64));
    for (name, len, shape) in [
        ("64 B", 64, Shape::Single),
        ("64 B chain", 64, Shape::Chain),
        ("64 B indirect", 64, Shape::Indirect),
        ("1500 B", 1500, Shape::Single),
        ("1500 B chain", 1500, Shape::Chain),
        ("1500 B merged from two", 1500, Shape::Merged),
    ] {
        let host = Host::new();
        let mut guest = guest(&host, 0, len, shape);
        let mut scratch = Scratch::default();
        let bytes = frame(len as usize, 1);
        let frames = [Frame { head: &bytes, tail: Tail::EMPTY, offload: &Offload::NONE }; BURST];
        let buffers = if shape == Shape::Merged { 2 } else { 1 } * BURST as u16;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (memory, queue) = guest.receiveq(0);
                queue.avail_idx = queue.avail_idx.wrapping_add(buffers);
                queue.publish(memory);
                let mut transmitter = host.port.transmit(0).unwrap();
                transmitter.send(frames.iter().copied(), &mut scratch, &host.counters);
                transmitter.finish();
            });
        });
        assert_eq!(all_drops(&host.counters), 0);
    }
    group.finish();
}

criterion_group!(benches, dequeue, enqueue);
criterion_main!(benches);
