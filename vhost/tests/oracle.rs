//! Random frames in random chains, both ways, against what was put in: every byte and every counter.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::*;
use vsteer_switch::drop_reason::DropReason;

const HEADER: usize = 12;
const REGIONS: [(u64, u64); 3] = [(0x10_0000, 8 << 20), (0x90_0000, 8 << 20), (0x400_0000, 8 << 20)];

/// Random places for `total` bytes in up to `most` pieces. Packet `lane` has memory of its own, which for lane 0 runs
/// across the border of two regions.
fn scatter(random: &mut Random, lane: u64, total: usize, most: usize) -> Vec<(u64, u32)> {
    let base = if lane == 0 { 0x90_0000 - 0x1_0000 } else { 0x400_0000 + 0x4_0000 * (lane - 1) };
    let count = random.within(1, most.min(total));
    let (mut at, mut left) = (base + random.within(0, 5000) as u64, total);
    (0..count)
        .map(|i| {
            let len = if i + 1 == count { left } else { random.within(1, left - (count - 1 - i)) };
            let piece = (at, len as u32);
            at += (len + random.within(0, 64)) as u64;
            left -= len;
            piece
        })
        .collect()
}

fn post(guest: &mut MockGuest, random: &mut Random, index: usize, table: u64, pieces: &[(u64, u32)]) -> bool {
    let (memory, queue) = (&guest.memory, &mut guest.queues[index]);
    let indirect = random.within(0, 2) == 0;
    if queue.free_descriptors() < if indirect { 1 } else { pieces.len() } {
        return false;
    }
    if indirect {
        queue.post_indirect(memory, table, pieces, index == 0);
    } else {
        queue.post(memory, pieces, index == 0);
    }
    true
}

fn run(features: u64, seed: u64) {
    let mut random = Random(seed);
    let mut host = Host::new();
    let config = Config { features, regions: REGIONS.to_vec(), queue_size: 128, ..Config::default() };
    let mut guest = MockGuest::connect(&host.path, &config);
    let tables: Vec<u64> = (0..24).map(|_| guest.memory.alloc(16 * 64, 16)).collect();
    let (mut posted, mut offered) = (0u64, 0u64);
    for step in 0..400 {
        // 1. From the guest: some too short to be frames.
        let mut expected = Vec::new();
        for lane in 0..random.within(1, 24) as u64 {
            let len =
                if random.within(0, 9) == 0 { random.within(1, 20_000) } else { random.within(1, 1600) };
            let bytes = frame(len, step << 8 | lane);
            let mut whole = vec![0; HEADER];
            whole.extend_from_slice(&bytes);
            let pieces = scatter(&mut random, lane, whole.len(), 30);
            if !post(&mut guest, &mut random, 1, tables[lane as usize], &pieces) {
                break;
            }
            let mut rest = &whole[..];
            for &(at, len) in &pieces {
                let (now, later) = rest.split_at(len as usize);
                guest.memory.write(at, now);
                rest = later;
            }
            posted += 1;
            if len >= 14 {
                expected.push(bytes);
            }
        }
        guest.queues[1].publish(&guest.memory);
        assert!(host.receive(0) == expected, "seed {seed}, step {step}: from the guest");
        assert_eq!(host.counters.rx_pkts.get() + host.drops(DropReason::FrameTooShort), posted);
        let (memory, queue) = guest.transmitq(0);
        queue.take_used(memory);
        assert_eq!(queue.in_flight(), 0);

        // 2. To the guest: buffers at random, frames at random, too many or too large now and then.
        let mut buffers = Vec::new();
        for lane in 0..random.within(0, 24) as u64 {
            let total = random.within(60, 4000);
            let pieces = scatter(&mut random, lane, total, 20);
            if !post(&mut guest, &mut random, 0, tables[lane as usize], &pieces) {
                break;
            }
            buffers.push(pieces);
        }
        guest.queues[0].publish(&guest.memory);
        let frames: Vec<_> = (0..random.within(1, 24))
            .map(|i| frame(random.within(14, 5000), step << 8 | 0x80 | i as u64))
            .collect();
        let before = host.counters.tx_pkts.get();
        host.send(&frames);
        offered += frames.len() as u64;
        let missing = host.drops(DropReason::NoGuestBuffer) + host.drops(DropReason::GuestBufferTooSmall);
        assert_eq!(host.counters.tx_pkts.get() + missing, offered);

        let (memory, queue) = guest.receiveq(0);
        let used = queue.take_used(memory);
        let (mut arrived, mut at) = (Vec::new(), 0);
        while at < used.len() {
            let read = |buffer: usize, len: u32| -> Vec<u8> {
                let all = buffers[buffer].iter().flat_map(|&(at, len)| guest.memory.read(at, len as usize));
                all.take(len as usize).collect()
            };
            let mut whole = read(at, used[at].1);
            let count = usize::from(u16::from_le_bytes([whole[10], whole[11]]));
            for i in 1..count {
                whole.extend(read(at + i, used[at + i].1));
            }
            arrived.push(whole.split_off(HEADER));
            at += count;
        }
        assert_eq!(arrived.len() as u64, host.counters.tx_pkts.get() - before);
        // What arrived is what was sent, in order, but for what found no room.
        let mut sent = frames.iter();
        for frame in &arrived {
            assert!(sent.any(|other| other == frame), "seed {seed}, step {step}: to the guest");
        }
        // Buffers that are left would mix with the next round's.
        if guest.queues[0].in_flight() > 0 {
            guest.frontend_base(0);
            guest.queues[0].reset(&guest.memory);
            guest.start_queue(0, 0);
        }
    }
    assert_eq!(host.fault(), None);
    assert!(host.counters.tx_pkts.get() > 500 && host.counters.rx_pkts.get() > 500);
}

#[test]
fn random_chains_carry_every_byte() {
    for seed in 0..6 {
        run(VERSION_1 | MRG_RXBUF | INDIRECT_DESC, seed);
        run(VERSION_1 | INDIRECT_DESC, 100 + seed);
    }
}
