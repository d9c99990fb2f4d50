//! Packets between a mock guest and a port, over a real session: chain shapes, sizes, buffers, headers, ring sizes.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use common::*;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::egress::Finisher;
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

const GUEST_CSUM: u64 = 1 << 1;
const GUEST_USO4: u64 = 1 << 54;
const GUEST_USO6: u64 = 1 << 55;
const HOST_USO: u64 = 1 << 56;

/// UDP over IPv4 with `payload_len` bytes, of whose checksum only the pseudo-header is summed, as a guest's stack leaves it.
fn datagram(payload_len: u16) -> Vec<u8> {
    let len16 = |skip: u16| (skip + payload_len).to_be_bytes();
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    bytes.extend([
        0x45,
        0,
        len16(28)[0],
        len16(28)[1],
        0,
        7,
        0x40,
        0,
        64,
        17,
        0,
        0,
        10,
        0,
        0,
        1,
        10,
        0,
        0,
        2,
    ]);
    bytes.extend([0x12, 0x34, 0, 53, len16(8)[0], len16(8)[1]]);
    let pseudo_header = [&bytes[26..34], &[0, 17], &len16(8)].concat();
    bytes.extend(ones_complement_sum(&pseudo_header).to_be_bytes());
    bytes.extend((0..payload_len).map(|i| (i ^ i >> 8) as u8));
    bytes
}

fn ones_complement_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    words.fold(0, |sum, word| (sum + word) % 0xffff) as u16
}

/// Sends `frame` from one guest, to be cut into datagrams of `gso_size` bytes, and returns what the other one finds in its
/// receive buffers, headers included.
fn pass_datagrams(sender_features: u64, features: u64, frame: &[u8], gso_size: u16) -> (Host, Vec<Vec<u8>>) {
    let (from, mut sender) = up(&Config::features(sender_features));
    let (to, mut receiver) = up(&Config::features(features));
    receiver.receive_buffers(0, 8, SLOT as u32);
    let at = sender.memory.alloc(1 << 16, 4096);
    let (memory, queue) = sender.transmitq(0);
    let [low, high] = gso_size.to_le_bytes();
    let pieces = pieces_at(memory, at, frame, &[]);
    memory.write(at, &[1, 5, 42, 0, low, high, 34, 0, 6, 0, 0, 0]);
    queue.post(memory, &pieces, false);
    queue.publish(memory);

    let (mut burst, mut scratch) = (Burst::new(), Scratch::default());
    let received = from.port.receive(0, &mut burst, &mut scratch, &from.counters);
    let mut transmitter = to.port.transmit(0).unwrap();
    for index in 0..burst.len() {
        let (caps, mut finisher) = (to.port.negotiated().guest_takes(), Finisher::new());
        let finished = finisher.finish(&burst.frame(index), caps, 1514, |frame| {
            transmitter.send(std::iter::once(*frame), &mut scratch, &to.counters);
            Ok(())
        });
        assert_eq!(finished, Ok(()));
    }
    transmitter.finish();
    burst.clear();
    received.into_iter().for_each(|received| received.complete());
    let (memory, queue) = receiver.receiveq(0);
    let used = queue.take_used(memory);
    let buffer =
        |(i, &(_, len)): (usize, &(u16, u32))| receiver.memory.read(receiver.slot(1024 + i), len as usize);
    let got = used.iter().enumerate().map(buffer).collect();
    assert_eq!(all_drops(&to.counters), 0);
    (from, got)
}

#[test]
fn datagrams_to_be_cut_are_cut_for_a_guest_that_takes_them_only_so() {
    let sender = VERSION_1 | MRG_RXBUF | CSUM | HOST_USO;
    let frame = datagram(2500);
    let plain = VERSION_1 | MRG_RXBUF;
    // The header does not tell IPv4 from IPv6, so one of the two is not enough.
    for features in [plain, plain | GUEST_CSUM | GUEST_USO4, plain | GUEST_CSUM | GUEST_USO6] {
        let (from, got) = pass_datagrams(sender, features, &frame, 1000);
        assert_eq!(from.counters.rx_pkts.get(), 1);
        assert_eq!(
            got.iter().map(Vec::len).collect::<Vec<_>>(),
            [1000, 1000, 500].map(|len| HEADER + 42 + len)
        );
        for (index, bytes) in got.iter().enumerate() {
            let (header, datagram) = bytes.split_at(HEADER);
            assert_eq!(datagram[18..20], [0, 7 + index as u8], "identification");
            assert_eq!(ones_complement_sum(&datagram[14..34]), 0, "IPv4 header");
            let len = (datagram.len() - 34) as u16;
            assert_eq!(datagram[38..40], len.to_be_bytes());
            if features == plain {
                assert_eq!(header, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
                let pseudo_header =
                    [&datagram[26..34], &[0, 17], &len.to_be_bytes(), &datagram[34..]].concat();
                assert_eq!(ones_complement_sum(&pseudo_header), 0, "checksum");
            } else {
                assert_eq!(
                    header,
                    [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 1, 0],
                    "the checksum is the guest's to complete"
                );
            }
        }
        let payload: Vec<u8> = got.iter().flat_map(|bytes| &bytes[HEADER + 42..]).copied().collect();
        assert_eq!(payload, frame[42..]);
    }
    // A guest that takes both gets the frame as it was sent, over two merged buffers.
    let (_, got) = pass_datagrams(sender, plain | GUEST_CSUM | GUEST_USO4 | GUEST_USO6, &frame, 1000);
    assert_eq!(got.concat()[..HEADER], [1, 5, 42, 0, 0xe8, 3, 34, 0, 6, 0, 2, 0]);
    assert_eq!(got.concat()[HEADER..], frame);
}

#[test]
fn datagrams_to_be_cut_to_a_size_that_makes_no_sense_do_no_harm() {
    let sender = VERSION_1 | MRG_RXBUF | CSUM | HOST_USO;
    for (features, gso_size) in [(sender, 0), (sender & !HOST_USO, 1000), (sender & !CSUM, 1000)] {
        let (from, got) = pass_datagrams(features, VERSION_1 | MRG_RXBUF, &datagram(2500), gso_size);
        assert!(got.is_empty());
        assert_eq!((from.drops(DropReason::BadOffload), all_drops(&from.counters)), (1, 1));
        assert_eq!(from.fault(), None);
    }
    let (_, got) = pass_datagrams(sender, VERSION_1 | MRG_RXBUF, &datagram(900), u16::MAX);
    assert_eq!(
        got.iter().map(Vec::len).collect::<Vec<_>>(),
        [HEADER + 942],
        "one datagram is what comes of it"
    );
}
