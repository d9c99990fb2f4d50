//! Packets between a mock guest and a port, over a real session: chain shapes, sizes, buffers, headers, ring sizes.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::*;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::packet::{Burst, MAX_FRAME_BYTES, Offload, Segment};
use vsteer_switch::port::PortId;
use vsteer_vhost::net::port::Scratch;

const HEADER: usize = 12;

fn up(config: &Config) -> (Host, MockGuest) {
    let host = Host::new();
    let guest = MockGuest::connect(&host.path, config);
    (host, guest)
}

/// Writes header and frame at `at` and returns the pieces that `cuts` (lengths of all but the last piece) make of them.
fn pieces_at(memory: &Memory, at: u64, frame: &[u8], cuts: &[u32]) -> Vec<(u64, u32)> {
    memory.write(at, &[0; HEADER]);
    memory.write(at + HEADER as u64, frame);
    let (mut offset, total) = (0, (HEADER + frame.len()) as u32);
    let mut pieces: Vec<_> = cuts
        .iter()
        .map(|&cut| {
            offset += cut;
            (at + u64::from(offset - cut), cut)
        })
        .collect();
    pieces.push((at + u64::from(offset), total - offset));
    pieces
}

#[test]
fn every_chain_shape_delivers_the_same_frame() {
    let (mut host, mut guest) = up(&Config::default());
    let sent = frame(1400, 7);
    let at = guest.memory.alloc(4096, 4096);
    let table = guest.memory.alloc(4096, 16);
    let one_by_one = vec![1; 200];
    let shapes: [&[u32]; 6] = [&[], &[12], &[5, 7], &[12, 14, 700], &[100, 200, 300, 400], &one_by_one];
    for cuts in shapes {
        for indirect in [false, true] {
            let (memory, queue) = guest.transmitq(0);
            let pieces = pieces_at(memory, at, &sent, cuts);
            let head = if indirect {
                queue.post_indirect(memory, table, &pieces, false)
            } else {
                queue.post(memory, &pieces, false)
            };
            queue.publish(memory);
            assert_eq!(host.receive(0), std::slice::from_ref(&sent), "cuts {cuts:?}, indirect {indirect}");
            let (memory, queue) = guest.transmitq(0);
            assert_eq!(queue.take_used(memory), [(head, 0)]);
        }
    }
    assert_eq!(host.counters.rx_pkts.get(), 12);
    assert_eq!(host.counters.rx_bytes.get(), 12 * 1400);
    assert_eq!(all_drops(&host.counters), 0);
}

#[test]
fn buffer_across_adjacent_regions_is_read_and_written_whole() {
    let border = 0x80_0000;
    for add_regions in [false, true] {
        let regions = vec![(0x10_0000, border - 0x10_0000), (border, 1 << 20), (border + (8 << 20), 1 << 20)];
        let (mut host, mut guest) = up(&Config { regions, add_regions, ..Config::default() });
        assert_eq!(host.port.status().memory_regions, 3);
        let sent = frame(1000, 3);
        let at = border - 300;
        let (memory, queue) = guest.transmitq(0);
        let pieces = pieces_at(memory, at, &sent, &[]);
        queue.post(memory, &pieces, false);
        queue.publish(memory);
        assert_eq!(host.receive(0), std::slice::from_ref(&sent));

        let (memory, queue) = guest.receiveq(0);
        memory.write(at, &[0xa5; 2000]);
        queue.post(memory, &[(at, 2000)], true);
        queue.publish(memory);
        host.send(std::slice::from_ref(&sent));
        let (memory, queue) = guest.receiveq(0);
        assert_eq!(queue.take_used(memory)[0].1 as usize, HEADER + sent.len());
        let got = memory.read(at, 2000);
        assert_eq!(got[HEADER..HEADER + 1000], sent);
        assert_eq!(got[HEADER + 1000..], [0xa5; 2000 - 1012]);
    }
}

#[test]
fn frames_of_every_size_arrive_and_leave() {
    let (mut host, mut guest) = up(&Config::default());
    let at = guest.memory.alloc(1 << 17, 4096);
    let to = guest.memory.alloc(1 << 17, 4096);
    let sizes = (14..400).chain([1514, 4096, 9000, 16_384, 65_535, MAX_FRAME_BYTES]);
    for (count, size) in sizes.enumerate() {
        let sent = frame(size, size as u64);
        let (memory, queue) = guest.transmitq(0);
        let pieces = pieces_at(memory, at, &sent, &[]);
        queue.post(memory, &pieces, false);
        queue.publish(memory);
        assert!(host.receive(0) == [sent.clone()], "{size} bytes from the guest");
        let (memory, queue) = guest.transmitq(0);
        queue.take_used(memory);

        let (memory, queue) = guest.receiveq(0);
        queue.post(memory, &[(to, 1 << 17)], true);
        queue.publish(memory);
        host.send(std::slice::from_ref(&sent));
        let (memory, queue) = guest.receiveq(0);
        assert_eq!(queue.take_used(memory)[0].1 as usize, HEADER + size);
        assert!(memory.read(to + HEADER as u64, size) == sent, "{size} bytes to the guest");
        assert_eq!(host.counters.rx_pkts.get(), count as u64 + 1);
        assert_eq!(host.counters.tx_pkts.get(), count as u64 + 1);
    }
    assert_eq!(all_drops(&host.counters), 0);
}

#[test]
fn frames_that_are_too_short_or_too_long_are_dropped_and_counted() {
    let (mut host, mut guest) = up(&Config::default());
    let at = guest.memory.alloc(1 << 18, 4096);
    for size in [1, 13, MAX_FRAME_BYTES + 1, 200_000] {
        let (memory, queue) = guest.transmitq(0);
        let pieces = pieces_at(memory, at, &vec![1; size], &[]);
        queue.post(memory, &pieces, false);
        queue.publish(memory);
        assert!(host.receive(0).is_empty());
        let (memory, queue) = guest.transmitq(0);
        assert_eq!(queue.take_used(memory).len(), 1, "the guest gets its buffer back");
    }
    assert_eq!(host.drops(DropReason::FrameTooShort), 2);
    assert_eq!(host.drops(DropReason::TooLong), 2);
    assert_eq!(host.fault(), None);
}

#[test]
fn mergeable_receive_spreads_a_frame_over_many_buffers() {
    let (mut host, mut guest) = up(&Config::default());
    let sent = frame(65_000, 1);
    let buffers = 40;
    guest.receive_buffers(0, buffers, SLOT as u32);
    host.send(std::slice::from_ref(&sent));
    let (memory, queue) = guest.receiveq(0);
    let used = queue.take_used(memory);
    assert_eq!(used.len(), (HEADER + sent.len()).div_ceil(SLOT as usize));
    let mut got = Vec::new();
    for (i, &(_, len)) in used.iter().enumerate() {
        got.extend(guest.memory.read(guest.slot(1024 + i), len as usize));
    }
    assert_eq!(got[10..12], (used.len() as u16).to_le_bytes(), "num_buffers");
    assert!(got[HEADER..] == sent);
    assert_eq!(guest.queues[0].in_flight(), buffers - used.len());
}

#[test]
fn mergeable_frame_that_finds_too_few_buffers_leaves_them_to_the_next() {
    let (mut host, mut guest) = up(&Config::default());
    guest.receive_buffers(0, 3, SLOT as u32);
    let small = frame(100, 2);
    host.send(&[frame(9000, 1), small.clone()]);
    assert_eq!(host.drops(DropReason::NoGuestBuffer), 1);
    assert_eq!(host.counters.tx_pkts.get(), 1);
    let (memory, queue) = guest.receiveq(0);
    assert_eq!(queue.take_used(memory).len(), 1);
    assert_eq!(guest.memory.read(guest.slot(1024) + HEADER as u64, 100), small);
    assert_eq!(guest.queues[0].in_flight(), 2);
}

#[test]
fn buffer_too_small_without_merging_stays_for_the_next_frame() {
    let (mut host, mut guest) = up(&Config::features(VERSION_1));
    guest.receive_buffers(0, 1, 500);
    let small = frame(400, 2);
    host.send(&[frame(1000, 1), small.clone(), frame(60, 3)]);
    assert_eq!(host.drops(DropReason::GuestBufferTooSmall), 1);
    assert_eq!(host.drops(DropReason::NoGuestBuffer), 1);
    assert_eq!(host.counters.tx_pkts.get(), 1);
    let (memory, queue) = guest.receiveq(0);
    assert_eq!(queue.take_used(memory)[0].1 as usize, HEADER + small.len());
    assert_eq!(guest.memory.read(guest.slot(1024) + HEADER as u64, 400), small);
}

#[test]
fn no_buffers_is_counted_frame_by_frame() {
    let (mut host, _guest) = up(&Config::default());
    host.send(&(0..70).map(|i| frame(60, i)).collect::<Vec<_>>());
    assert_eq!(host.drops(DropReason::NoGuestBuffer), 70);
    assert_eq!(host.counters.tx_pkts.get(), 0);
}

#[test]
fn legacy_guest_has_a_header_of_ten_bytes() {
    let (mut host, mut guest) = up(&Config::features(0));
    exercise(&mut host, &mut guest, 1);
    // Header and frame in descriptors of their own, as legacy drivers do.
    let sent = frame(80, 9);
    let at = guest.slot(0);
    let (memory, queue) = guest.transmitq(0);
    memory.write(at, &[0; 10]);
    memory.write(at + 100, &sent);
    queue.post(memory, &[(at, 10), (at + 100, 80)], false);
    queue.publish(memory);
    assert_eq!(host.receive(0), [sent]);
}

#[test]
fn receive_chains_of_several_pieces_are_filled_in_order() {
    for features in [VERSION_1, VERSION_1 | MRG_RXBUF] {
        let (mut host, mut guest) = up(&Config::features(features | INDIRECT_DESC));
        let at = guest.memory.alloc(8192, 4096);
        let table = guest.memory.alloc(4096, 16);
        let sent = frame(3000, 5);
        for indirect in [false, true] {
            let (memory, queue) = guest.receiveq(0);
            memory.write(at, &[0xa5; 8192]);
            let pieces = [(at, 12), (at + 100, 1), (at + 200, 1999), (at + 4096, 4096)];
            if indirect {
                queue.post_indirect(memory, table, &pieces, true);
            } else {
                queue.post(memory, &pieces, true);
            }
            queue.publish(memory);
            host.send(std::slice::from_ref(&sent));
            let (memory, queue) = guest.receiveq(0);
            assert_eq!(queue.take_used(memory)[0].1, 3012);
            let mut got = memory.read(at + 100, 1);
            got.extend(memory.read(at + 200, 1999));
            got.extend(memory.read(at + 4096, 1000));
            assert!(got == sent);
            assert_eq!(memory.read(at + 4096 + 1000, 3096), [0xa5; 3096], "bytes behind the frame");
        }
        assert_eq!(all_drops(&host.counters), 0);
    }
}

#[test]
fn rings_of_every_size_work_until_they_wrap() {
    for bits in 0..=15 {
        let size = 1u16 << bits;
        let (mut host, mut guest) = up(&Config { queue_size: size, ..Config::default() });
        let rounds = if size > 1024 { 2 } else { 5 };
        for round in 0..rounds {
            let burst = usize::from(size.min(32));
            let frames: Vec<_> = (0..burst).map(|i| frame(64, round * 100 + i as u64)).collect();
            guest.transmit(0, &frames);
            assert_eq!(host.receive(0), frames, "size {size}");
            let (memory, queue) = guest.transmitq(0);
            assert_eq!(queue.take_used(memory).len(), burst);
            guest.receive_buffers(0, burst, 128);
            host.send(&frames);
            let (memory, queue) = guest.receiveq(0);
            assert_eq!(queue.take_used(memory).len(), burst);
            for (i, frame) in frames.iter().enumerate() {
                assert_eq!(&guest.memory.read(guest.slot(1024 + i) + 12, 64), frame);
            }
        }
        assert_eq!(all_drops(&host.counters), 0);
    }
}

#[test]
fn indices_wrap_at_65_536_without_losing_a_packet() {
    let (mut host, mut guest) = up(&Config::default());
    for round in 0..2300 {
        exercise(&mut host, &mut guest, round);
    }
    assert_eq!(host.counters.rx_pkts.get(), 2300 * 32, "more than 65 536");
    assert_eq!(host.counters.tx_pkts.get(), 2300 * 32);
    assert_eq!(guest.frontend_base(0), (2300 * 32 % 65_536) as u32);
}

#[test]
fn full_ring_is_taken_burst_by_burst() {
    let (mut host, mut guest) = up(&Config::default());
    let frames: Vec<_> = (0..256).map(|i| frame(100, i)).collect();
    guest.transmit(0, &frames);
    let mut got = Vec::new();
    while got.len() < 256 {
        let burst = host.receive(0);
        assert_eq!(burst.len(), 32);
        got.extend(burst);
    }
    assert_eq!(got, frames);
    assert!(host.receive(0).is_empty());
}

/// A guest that gives its buffers back in the middle of a long batch gets more frames than its ring has places.
#[test]
fn what_was_shown_in_the_middle_of_a_batch_makes_room_for_more() {
    let (host, mut guest) = up(&Config::default());
    let bytes = frame(300, 1);
    let mut burst = Burst::new();
    // SAFETY: the frame outlives the burst's use of it.
    #[allow(unsafe_code, reason = "segments are made of raw pointers")]
    let segment = unsafe { Segment::new(bytes.as_ptr(), 300) };
    burst.push(PortId::ZERO, Offload::default(), &[segment]);
    let mut scratch = Scratch::default();
    let mut transmitter = host.port.transmit(0).unwrap();
    for _ in 0..3 {
        let heads = guest.receive_buffers(0, 4, 1000);
        transmitter.send(
            (0..4).map(|_| burst.frame(0)).collect::<Vec<_>>().into_iter(),
            &mut scratch,
            &host.counters,
        );
        transmitter.show();
        let (memory, queue) = guest.receiveq(0);
        let used = queue.take_used(memory);
        assert_eq!(used.len(), heads.len());
    }
    transmitter.finish();
    assert_eq!((host.counters.tx_pkts.get(), all_drops(&host.counters)), (12, 0));
}
