//! Guests that break the rules of a ring: each is stopped for the reason that it gave, the port serves the next front-end,
//! and another port in the same process loses nothing meanwhile.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use vhost::VhostBackend;
use vsteer_switch::drop_reason::DropReason;
use vsteer_vhost::net::port::PortFault;
use vsteer_vhost::ring::{RingFault, RingPart};

/// A buffer that is fine, and an indirect table.
#[derive(Clone, Copy)]
struct Places {
    buffer: u64,
    table: u64,
    /// The flag that the queue's buffers must have.
    flag: u16,
}

type Attack = fn(&Memory, &mut DriverQueue, Places) -> RingFault;

/// Offers head 0.
fn go(memory: &Memory, queue: &mut DriverQueue) {
    queue.offer(memory, 0);
    queue.publish(memory);
}

const OUTSIDE: u64 = 0xdead_0000;

/// Attacks that work on either queue.
const EITHER: &[(&str, Attack)] = &[
    ("head beyond the table", |memory, queue, _| {
        queue.offer(memory, queue.size);
        queue.publish(memory);
        RingFault::DescriptorIndex { index: queue.size, size: queue.size }
    }),
    ("largest head", |memory, queue, _| {
        queue.offer(memory, u16::MAX);
        queue.publish(memory);
        RingFault::DescriptorIndex { index: u16::MAX, size: queue.size }
    }),
    ("next beyond the table", |memory, queue, at| {
        queue.describe(memory, 0, at.buffer, 4, at.flag | NEXT, 256);
        go(memory, queue);
        RingFault::DescriptorIndex { index: 256, size: queue.size }
    }),
    ("next beyond the indirect table", |memory, queue, at| {
        memory.write(at.table, &descriptor(at.buffer, 4, at.flag | NEXT, 2));
        queue.describe(memory, 0, at.table, 32, INDIRECT, 0);
        go(memory, queue);
        RingFault::DescriptorIndex { index: 2, size: 2 }
    }),
    ("indirect table too long", |memory, queue, at| {
        queue.describe(memory, 0, at.table, 16 * 1025, INDIRECT, 0);
        go(memory, queue);
        RingFault::ChainTooLong { limit: 1024 }
    }),
    ("indirect table of 4 GiB", |memory, queue, at| {
        queue.describe(memory, 0, at.table, 0xffff_fff0, INDIRECT, 0);
        go(memory, queue);
        RingFault::ChainTooLong { limit: 1024 }
    }),
    ("length zero", |memory, queue, at| {
        queue.describe(memory, 0, at.buffer, 0, at.flag, 0);
        go(memory, queue);
        RingFault::ZeroLength { addr: at.buffer }
    }),
    ("length zero inside a chain", |memory, queue, at| {
        queue.describe(memory, 0, at.buffer, 4, at.flag | NEXT, 1);
        queue.describe(memory, 1, at.buffer + 8, 0, at.flag, 0);
        go(memory, queue);
        RingFault::ZeroLength { addr: at.buffer + 8 }
    }),
    ("address outside memory", |memory, queue, at| {
        queue.describe(memory, 0, OUTSIDE, 2048, at.flag, 0);
        go(memory, queue);
        RingFault::OutsideMemory { addr: OUTSIDE, len: 2048 }
    }),
    ("address below memory", |memory, queue, at| {
        queue.describe(memory, 0, 0, 2048, at.flag, 0);
        go(memory, queue);
        RingFault::OutsideMemory { addr: 0, len: 2048 }
    }),
    ("buffer runs out of memory", |memory, queue, at| {
        let end = 0x10_0000 + (16 << 20) - 20;
        queue.describe(memory, 0, end, 2048, at.flag, 0);
        go(memory, queue);
        RingFault::OutsideMemory { addr: end, len: 2048 }
    }),
    ("address and length overflow", |memory, queue, at| {
        queue.describe(memory, 0, u64::MAX - 8, u32::MAX, at.flag, 0);
        go(memory, queue);
        RingFault::OutsideMemory { addr: u64::MAX - 8, len: u32::MAX }
    }),
    ("wrong direction", |memory, queue, at| {
        queue.describe(memory, 0, at.buffer, 2048, at.flag ^ WRITE, 0);
        go(memory, queue);
        RingFault::WrongDirection { addr: at.buffer }
    }),
    ("wrong direction inside a chain", |memory, queue, at| {
        queue.describe(memory, 0, at.buffer, 12, at.flag | NEXT, 1);
        queue.describe(memory, 1, at.buffer + 64, 2048, at.flag ^ WRITE, 0);
        go(memory, queue);
        RingFault::WrongDirection { addr: at.buffer + 64 }
    }),
    ("nested indirect", |memory, queue, at| {
        memory.write(at.table, &descriptor(at.table, 16, INDIRECT, 0));
        queue.describe(memory, 0, at.table, 16, INDIRECT, 0);
        go(memory, queue);
        RingFault::UnexpectedIndirect
    }),
    ("indirect with a next", |memory, queue, at| {
        queue.describe(memory, 0, at.table, 16, INDIRECT | NEXT, 1);
        go(memory, queue);
        RingFault::UnexpectedIndirect
    }),
    ("empty indirect table", |memory, queue, at| {
        queue.describe(memory, 0, at.table, 0, INDIRECT, 0);
        go(memory, queue);
        RingFault::IndirectLength { len: 0 }
    }),
    ("indirect table that ends inside a descriptor", |memory, queue, at| {
        queue.describe(memory, 0, at.table, 33, INDIRECT, 0);
        go(memory, queue);
        RingFault::IndirectLength { len: 33 }
    }),
    ("indirect table outside memory", |memory, queue, _| {
        queue.describe(memory, 0, OUTSIDE, 32, INDIRECT, 0);
        go(memory, queue);
        RingFault::OutsideMemory { addr: OUTSIDE, len: 16 }
    }),
    ("indirect table at the end of the address space", |memory, queue, _| {
        queue.describe(memory, 0, u64::MAX - 7, 32, INDIRECT, 0);
        go(memory, queue);
        RingFault::OutsideMemory { addr: u64::MAX - 7, len: 16 }
    }),
    ("available index jumps", |memory, queue, _| {
        memory.store_u16(queue.avail + 2, 257);
        RingFault::AvailIndexJump { from: 0, to: 257, size: 256 }
    }),
    ("available index goes back", |memory, queue, _| {
        memory.store_u16(queue.avail + 2, u16::MAX);
        RingFault::AvailIndexJump { from: 0, to: u16::MAX, size: 256 }
    }),
];

/// Attacks on the transmitq alone: a receive chain is followed only as far as a frame needs.
const TRANSMIT: &[(&str, Attack)] = &[
    ("chain that loops", |memory, queue, at| {
        queue.describe(memory, 0, at.buffer, 1, NEXT, 0);
        go(memory, queue);
        RingFault::ChainTooLong { limit: 1024 }
    }),
    ("loop of two", |memory, queue, at| {
        queue.describe(memory, 0, at.buffer, 1, NEXT, 1);
        queue.describe(memory, 1, at.buffer, 1, NEXT, 0);
        go(memory, queue);
        RingFault::ChainTooLong { limit: 1024 }
    }),
    ("indirect chain that loops", |memory, queue, at| {
        memory.write(at.table, &descriptor(at.buffer, 1, NEXT, 0));
        queue.describe(memory, 0, at.table, 16, INDIRECT, 0);
        go(memory, queue);
        RingFault::ChainTooLong { limit: 1024 }
    }),
    ("chain shorter than the header", |memory, queue, at| {
        queue.describe(memory, 0, at.buffer, 11, 0, 0);
        go(memory, queue);
        RingFault::HeaderMissing { len: 11, header: 12 }
    }),
];

fn run_attack(host: &mut Host, innocent: &Innocent, name: &str, attack: Attack, receiveq: bool) {
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    assert_eq!(host.fault(), None, "{name}: the fault of the last guest is gone");
    let buffer = guest.memory.alloc(4096, 4096);
    let table = guest.memory.alloc(32 << 10, 16);
    let places = Places { buffer, table, flag: if receiveq { WRITE } else { 0 } };
    let index = usize::from(!receiveq);
    let expected = attack(&guest.memory, &mut guest.queues[index], places);
    let before = all_drops(&host.counters) + host.counters.tx_pkts.get();
    if receiveq {
        host.send(&[frame(200, 1), frame(200, 2), frame(200, 3)]);
        let after = all_drops(&host.counters) + host.counters.tx_pkts.get();
        assert_eq!(after, before + 3, "{name}: every frame is counted");
    } else {
        assert!(host.receive(0).is_empty(), "{name}");
    }
    assert_eq!(host.fault(), Some(PortFault::Ring { queue: index, fault: expected }), "{name}");
    assert!(signalled(&guest.queues[index].error), "{name}: the front-end is told");
    let (memory, queue) = (&guest.memory, &mut guest.queues[index]);
    assert_eq!(memory.load_u16(queue.used + 2), 0, "{name}: nothing is given back");
    assert!(host.receive(0).is_empty());
    host.send(&[frame(60, 1)]);
    assert!(host.drops(DropReason::RingBroken) >= 1);
    innocent.moves();
    drop(guest);
    host.wait_disconnected();
    serves_the_next(host);
}

#[test]
fn broken_rings_stop_their_own_port_and_say_why() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    for (name, attack) in EITHER.iter().chain(TRANSMIT) {
        run_attack(&mut host, &innocent, name, *attack, false);
    }
    for (name, attack) in EITHER {
        run_attack(&mut host, &innocent, name, *attack, true);
    }
    innocent.finish();
}

#[test]
fn indirect_descriptor_that_was_not_negotiated_is_refused() {
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::features(VERSION_1));
    let (buffer, table) = (guest.memory.alloc(4096, 16), guest.memory.alloc(4096, 16));
    let (memory, queue) = guest.transmitq(0);
    queue.post_indirect(memory, table, &[(buffer, 100)], false);
    queue.publish(memory);
    assert!(host.receive(0).is_empty());
    let fault = RingFault::UnexpectedIndirect;
    assert_eq!(host.fault(), Some(PortFault::Ring { queue: 1, fault }));
}

#[test]
fn what_came_before_a_bad_chain_is_delivered() {
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    let frames: Vec<_> = (0..5).map(|i| frame(100, i)).collect();
    let (memory, queue) = guest.transmitq(0);
    let bad = queue.size - 1;
    queue.describe(memory, bad, OUTSIDE, 100, 0, 0);
    guest.transmit(0, &frames);
    let (memory, queue) = guest.transmitq(0);
    queue.offer(memory, bad);
    queue.publish(memory);
    assert_eq!(host.receive(0), frames);
    let fault = RingFault::OutsideMemory { addr: OUTSIDE, len: 100 };
    assert_eq!(host.fault(), Some(PortFault::Ring { queue: 1, fault }));
    let (memory, queue) = guest.transmitq(0);
    assert_eq!(queue.take_used(memory).len(), 5);
    assert_eq!(host.counters.rx_pkts.get(), 5);
}

#[test]
fn what_came_before_a_bad_head_is_delivered() {
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    let frames: Vec<_> = (0..5).map(|i| frame(100, i)).collect();
    guest.transmit(0, &frames);
    let (memory, queue) = guest.transmitq(0);
    queue.offer(memory, 9999);
    queue.publish(memory);
    assert_eq!(host.receive(0), frames);
    assert!(host.receive(0).is_empty());
    let fault = RingFault::DescriptorIndex { index: 9999, size: 256 };
    assert_eq!(host.fault(), Some(PortFault::Ring { queue: 1, fault }));
}

#[test]
fn frame_that_meets_a_bad_chain_half_way_shows_the_guest_nothing() {
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    guest.receive_buffers(0, 3, 500);
    let (memory, queue) = guest.receiveq(0);
    queue.describe(memory, 200, OUTSIDE, 500, WRITE, 0);
    queue.offer(memory, 200);
    queue.publish(memory);
    // The first fits one buffer; the second runs through two good ones into the bad one.
    host.send(&[frame(400, 1), frame(1400, 2), frame(400, 3), frame(400, 4)]);
    assert_eq!(host.counters.tx_pkts.get(), 1);
    assert_eq!(host.drops(DropReason::RingBroken), 3);
    let (memory, queue) = guest.receiveq(0);
    assert_eq!(queue.take_used(memory).len(), 1, "only whole frames are shown");
}

#[test]
fn available_index_that_goes_back_between_frames_is_caught() {
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config { queue_size: 1024, ..Config::default() });
    // One-byte buffers: a frame stages hundreds of chains before it fails for lack of more.
    let at = guest.memory.alloc(4096, 16);
    let (memory, queue) = guest.receiveq(0);
    for _ in 0..100 {
        queue.post(memory, &[(at, 64)], true);
    }
    queue.publish(memory);
    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let addr = queue.avail + 2;
    let shared = memory_view(&guest);
    let flipper = thread::spawn(move || {
        while !stopping.load(Ordering::Relaxed) {
            shared.write(addr, &100u16.to_le_bytes());
            shared.write(addr, &7u16.to_le_bytes());
        }
    });
    let deadline = Instant::now() + Duration::from_millis(500);
    let mut offered = 0;
    while Instant::now() < deadline && host.fault().is_none() {
        host.send(&[frame(1400, offered), frame(9000, offered)]);
        offered += 2;
    }
    stop.store(true, Ordering::Relaxed);
    flipper.join().unwrap();
    assert_eq!(host.counters.tx_pkts.get() + all_drops(&host.counters), offered);
    let fault = host.fault().expect("the index went back behind what was taken");
    assert!(
        matches!(fault, PortFault::Ring { queue: 0, fault: RingFault::AvailIndexJump { .. } }),
        "{fault}"
    );
}

/// A second view of the guest's memory, for another thread.
fn memory_view(guest: &MockGuest) -> Memory {
    guest.memory.view()
}

#[test]
fn ring_parts_outside_one_region_are_refused() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    let border = 0x20_0000;
    let regions = vec![(0x10_0000, border - 0x10_0000), (border, 1 << 20)];
    for (part, field) in [(RingPart::Descriptors, 0), (RingPart::Avail, 1), (RingPart::Used, 2)] {
        for (what, addr) in [("straddles", border - 32), ("runs out", border + (1 << 20) - 32)] {
            let config = Config { regions: regions.clone(), ..Config::default() };
            let mut guest =
                MockGuest::negotiated(vhost::vhost_user::Frontend::connect(&host.path, 2).unwrap(), &config);
            guest.send_memory();
            let queue = &mut guest.queues[1];
            *[&mut queue.desc, &mut queue.avail, &mut queue.used][field] = addr;
            guest.start_queue(1, 0);
            let fault = RingFault::RingOutsideMemory { part, addr };
            assert_eq!(host.fault(), Some(PortFault::Ring { queue: 1, fault }), "{part} {what}");
            assert!(host.receive(0).is_empty());
            innocent.moves();
            drop(guest);
            host.wait_disconnected();
        }
    }
    serves_the_next(&mut host);
    innocent.finish();
}

#[test]
fn fault_of_one_ring_outlives_the_start_of_another() {
    let mut host = Host::new();
    let mut guest = MockGuest::negotiated(
        vhost::vhost_user::Frontend::connect(&host.path, 2).unwrap(),
        &Config::default(),
    );
    guest.send_memory();
    guest.queues[0].size = 3;
    guest.start_queue(0, 0);
    let fault = PortFault::Ring { queue: 0, fault: RingFault::BadQueueSize { size: 3 } };
    assert_eq!(host.fault(), Some(fault.clone()));
    guest.start_queue(1, 0);
    assert_eq!(host.fault(), Some(fault.clone()), "the other ring is as bad as before");
    guest.transmit(0, &[frame(60, 1)]);
    assert!(host.receive(0).is_empty(), "the port stands still");
    guest.frontend_base(0);
    assert_eq!(host.fault(), Some(fault), "a ring that is stopped says why it was");
    guest.queues[0].size = 256;
    guest.start_queue(0, 0);
    assert_eq!(host.fault(), None);
}

#[test]
fn ring_larger_than_its_memory_is_refused() {
    let host = Host::new();
    let config = Config { regions: vec![(0x10_0000, 64 << 10)], queue_size: 16, ..Config::default() };
    let mut guest =
        MockGuest::negotiated(vhost::vhost_user::Frontend::connect(&host.path, 2).unwrap(), &config);
    guest.send_memory();
    guest.queues[1].size = 32_768;
    guest.start_queue(1, 0);
    let fault = RingFault::RingOutsideMemory { part: RingPart::Descriptors, addr: guest.queues[1].desc };
    assert_eq!(host.fault(), Some(PortFault::Ring { queue: 1, fault }));
}

#[test]
fn queue_size_that_is_no_power_of_two_is_refused() {
    let mut host = Host::new();
    for size in [3, 255, 32_767] {
        let mut guest = MockGuest::negotiated(
            vhost::vhost_user::Frontend::connect(&host.path, 2).unwrap(),
            &Config::default(),
        );
        guest.send_memory();
        guest.queues[1].size = size;
        guest.start_queue(1, 0);
        let fault = RingFault::BadQueueSize { size };
        assert_eq!(host.fault(), Some(PortFault::Ring { queue: 1, fault }));
        drop(guest);
        host.wait_disconnected();
    }
    serves_the_next(&mut host);
}

/// Two regions: rings in the first, packets in the second, so that the second can go.
fn split_memory() -> Config {
    Config { regions: vec![(0x10_0000, 1 << 20), (0x80_0000, 1 << 20)], ..Config::default() }
}

#[test]
fn memory_that_shrinks_as_source_stops_only_its_guest() {
    let innocent = Innocent::start();
    let (mut host, victim) = (Host::new(), Host::new());
    let mut sink = MockGuest::connect(&victim.path, &Config::default());
    for keep in [0, 4096, 600 << 10] {
        let mut guest = MockGuest::connect(&host.path, &split_memory());
        sink.receive_buffers(0, 64, SLOT as u32);
        let (memory, queue) = guest.transmitq(0);
        for i in 0..64 {
            queue.post(memory, &[(0x80_0000 + 16_000 * i, 1500)], false);
        }
        queue.publish(memory);
        let mut worker = Worker::default();
        let (from, to) = (&host.counters, &victim.counters);
        assert_eq!(worker.forward((&host.port, from), (&victim.port, to)), 32);
        memory.file(1).set_len(keep).unwrap();
        worker.forward((&host.port, from), (&victim.port, to));
        assert_eq!(host.fault(), Some(PortFault::Ring { queue: 1, fault: RingFault::MemoryShrank }));
        assert_eq!(victim.fault(), None);
        let (memory, queue) = sink.receiveq(0);
        assert_eq!(queue.take_used(memory).len(), 64);
        innocent.moves();
        drop(guest);
        host.wait_disconnected();
    }
    serves_the_next(&mut host);
    innocent.finish();
}

#[test]
fn memory_that_shrinks_as_destination_stops_only_its_guest() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &split_memory());
    let (memory, queue) = guest.receiveq(0);
    for i in 0..32 {
        queue.post(memory, &[(0x80_0000 + 4096 * i, 2000)], true);
    }
    queue.publish(memory);
    let frames: Vec<_> = (0..16).map(|i| frame(1500, i)).collect();
    host.send(&frames);
    memory.file(1).set_len(0).unwrap();
    host.send(&frames);
    assert_eq!(host.fault(), Some(PortFault::Ring { queue: 0, fault: RingFault::MemoryShrank }));
    assert_eq!(host.counters.tx_pkts.get() + all_drops(&host.counters), 32);
    assert_eq!(memory.load_u16(queue.used + 2), 16, "what was lost is not shown");
    innocent.moves();
    drop(guest);
    host.wait_disconnected();
    serves_the_next(&mut host);
    innocent.finish();
}

#[test]
fn memory_of_the_ring_itself_that_shrinks_stops_only_its_guest() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    for round in 0..4 {
        let mut guest = MockGuest::connect(&host.path, &Config::default());
        exercise(&mut host, &mut guest, 1);
        guest.memory.file(0).set_len(0).unwrap();
        match round {
            0 => drop(host.receive(0)),
            1 => host.send(&[frame(100, 1)]),
            2 => {
                host.port.request_kick(0);
                host.port.suppress_kicks(0);
                assert!(host.receive(0).is_empty());
            }
            // The session's own thread reads the used index.
            _ => {
                let addresses = guest.addresses(1);
                let _ = guest.frontend.set_vring_addr(1, &addresses);
                assert!(host.receive(0).is_empty());
            }
        }
        let fault = host.fault().expect("the memory went");
        assert!(matches!(fault, PortFault::Ring { fault: RingFault::MemoryShrank, .. }), "{round}: {fault}");
        innocent.moves();
        drop(guest);
        host.wait_disconnected();
        serves_the_next(&mut host);
    }
    innocent.finish();
}

#[test]
fn memory_that_shrinks_under_load_never_reaches_another_port() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    for round in 0..20u64 {
        let guest = MockGuest::connect(&host.path, &Config::default());
        let file = guest.memory.file(0).try_clone().unwrap();
        // The rings are set up once; from here on the mock does not touch its memory.
        let mut guest = guest;
        guest.transmit(0, &(0..255).map(|i| frame(1500, i)).collect::<Vec<_>>());
        guest.receive_buffers(0, 255, SLOT as u32);
        let truncate = thread::spawn(move || {
            thread::sleep(Duration::from_micros(37 * round));
            file.set_len(4096 * (round % 5)).unwrap();
        });
        wait_until("the port stops", || {
            host.receive(0);
            host.send(&[frame(1000, round)]);
            host.fault().is_some()
        });
        truncate.join().unwrap();
        let fault = host.fault().unwrap();
        assert!(matches!(fault, PortFault::Ring { fault: RingFault::MemoryShrank, .. }), "{fault}");
        drop(guest);
        host.wait_disconnected();
    }
    serves_the_next(&mut host);
    innocent.finish();
}

#[test]
fn descriptors_that_change_under_us_never_yield_bytes_outside_guest_memory() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    let deadline = Instant::now() + Duration::from_millis(1500);
    let received = AtomicU64::new(0);
    let mut random = Random(1);
    while Instant::now() < deadline {
        let mut guest = MockGuest::connect(&host.path, &Config::default());
        let start = guest.memory.alloc(8 << 20, 4096);
        guest.memory.write(start, &vec![0x5a; 8 << 20]);
        // Header bytes are 0x5a too, which asks for offloads: a frame of its own header keeps its first twelve zero.
        guest.memory.write(start, &[0; 12]);
        let view = memory_view(&guest);
        let queue = &guest.queues[1];
        for index in 0..256 {
            queue.describe(&guest.memory, index, start, 800, 0, 0);
        }
        let (desc, avail) = (queue.desc, queue.avail);
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let mut flips = Random(random.next());
        let flipper = thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                let at = desc + 16 * (flips.next() % 256);
                let good = !flips.next().is_multiple_of(4);
                let bad = descriptor(flips.next(), flips.next() as u32, flips.next() as u16 & 7, 300);
                view.write(at, &if good { descriptor(start, 800, 0, 0) } else { bad });
                view.write(at, &descriptor(start, 800, 0, 0));
            }
        });
        let mut index = 0u16;
        while host.fault().is_none() && Instant::now() < deadline {
            for i in 0..32 {
                let head = index.wrapping_add(i) & 255;
                guest.memory.store_u16(avail + 4 + 2 * u64::from(head), head);
            }
            index = index.wrapping_add(32);
            guest.memory.store_u16(avail + 2, index);
            for frame in host.receive(0) {
                received.fetch_add(1, Ordering::Relaxed);
                assert!(frame.iter().all(|&byte| byte == 0x5a || byte == 0));
            }
        }
        stop.store(true, Ordering::Relaxed);
        flipper.join().unwrap();
        drop(guest);
        host.wait_disconnected();
    }
    assert!(received.load(Ordering::Relaxed) > 0);
    serves_the_next(&mut host);
    innocent.finish();
}

#[test]
fn disabled_queue_with_a_bad_head_counts_what_it_discarded() {
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    vhost::vhost_user::VhostUserFrontend::set_vring_enable(&mut guest.frontend, 1, false).unwrap();
    guest.transmit(0, &(0..64).map(|i| frame(60, i)).collect::<Vec<_>>());
    let (memory, queue) = guest.transmitq(0);
    queue.offer(memory, 300);
    queue.publish(memory);
    for _ in 0..2 {
        assert!(host.receive(0).is_empty());
    }
    let fault = RingFault::DescriptorIndex { index: 300, size: 256 };
    assert_eq!(host.fault(), Some(PortFault::Ring { queue: 1, fault }));
    let (memory, queue) = guest.transmitq(0);
    assert_eq!(queue.take_used(memory).len() as u64, host.drops(DropReason::QueueDisabled));
    assert_eq!(host.drops(DropReason::QueueDisabled), 64);
}
