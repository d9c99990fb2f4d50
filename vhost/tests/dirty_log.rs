//! The dirty log of a migrating guest: every page that was written is marked, and no other.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use common::*;
use vhost::{VhostBackend, VhostUserDirtyLogRegion};
use vsteer_vhost::net::port::PortFault;
use vsteer_vhost::ring::RingFault;

const LOG_BYTES: usize = 4096;

fn pages(addr: u64, len: u64) -> impl Iterator<Item = u64> {
    addr / 4096..=(addr + len - 1) / 4096
}

/// The pages that are marked; clears the log.
fn take_log(log: &File) -> BTreeSet<u64> {
    let mut bytes = vec![0; LOG_BYTES];
    log.read_exact_at(&mut bytes, 0).unwrap();
    log.write_all_at(&[0; LOG_BYTES], 0).unwrap();
    (0..8 * LOG_BYTES as u64).filter(|bit| bytes[(bit / 8) as usize] >> (bit % 8) & 1 == 1).collect()
}

fn start_log(guest: &MockGuest) -> File {
    let log = memfd(LOG_BYTES as u64);
    let region =
        VhostUserDirtyLogRegion { mmap_size: LOG_BYTES as u64, mmap_offset: 0, mmap_handle: log.as_raw_fd() };
    guest.frontend.set_log_base(0, Some(region)).unwrap();
    guest.frontend.set_features(guest.config.features | LOG_ALL | PROTOCOL_FEATURES).unwrap();
    log
}

/// Pages of the used ring that giving back entries `first..first + count` touches.
fn used_pages(queue: &DriverQueue, first: u16, count: u16) -> BTreeSet<u64> {
    let mut expected: BTreeSet<u64> = pages(queue.used, 4).collect();
    for i in 0..count {
        let slot = u64::from(first.wrapping_add(i) & (queue.size - 1));
        expected.extend(pages(queue.used + 4 + 8 * slot, 8));
    }
    expected
}

#[test]
fn every_written_page_is_marked_and_no_other() {
    let mut host = Host::new();
    let regions = vec![(0x10_0000, 4 << 20), (0x100_0000, 4 << 20)];
    let config = Config { regions, queue_size: 2048, features: VERSION_1 | MRG_RXBUF, ..Config::default() };
    let mut guest = MockGuest::connect(&host.path, &config);
    let mut random = Random(3);
    exercise(&mut host, &mut guest, 1);
    let log = start_log(&guest);
    assert!(take_log(&log).is_empty());
    for round in 0..200u64 {
        // A new table without a new SET_LOG_BASE keeps the log.
        if round == 100 {
            guest.frontend.set_mem_table(&guest.memory.table()).unwrap();
        }
        let sent = frame(random.within(60, 9000), round);
        let at = 0x100_0000 + random.within(0, 3 << 20) as u64;
        let (memory, queue) = guest.receiveq(0);
        queue.post(memory, &[(at, 5000), (at + 20_000, 8000)], true);
        queue.publish(memory);
        let first = queue.used_idx;
        host.send(std::slice::from_ref(&sent));
        let (memory, queue) = guest.receiveq(0);
        assert_eq!(queue.take_used(memory).len(), 1);
        let total = 12 + sent.len() as u64;
        let mut expected = used_pages(queue, first, 1);
        expected.extend(pages(at, total.min(5000)));
        if total > 5000 {
            expected.extend(pages(at + 20_000, total - 5000));
        }
        assert_eq!(take_log(&log), expected, "receive, round {round}");

        let count = random.within(1, 32) as u16;
        let first = guest.queues[1].used_idx;
        guest.transmit(0, &(0..count).map(|i| frame(60, u64::from(i))).collect::<Vec<_>>());
        assert_eq!(host.receive(0).len(), usize::from(count));
        let (memory, queue) = guest.transmitq(0);
        queue.take_used(memory);
        assert_eq!(take_log(&log), used_pages(queue, first, count), "transmit, round {round}");
    }
    guest.frontend.set_features(guest.config.features | PROTOCOL_FEATURES).unwrap();
    exercise(&mut host, &mut guest, 2);
    assert!(take_log(&log).is_empty(), "logging ended");
}

#[test]
fn wishes_for_kicks_are_marked_too() {
    let host = Host::new();
    for features in [VERSION_1, VERSION_1 | EVENT_IDX] {
        let config = Config { queue_size: 2048, ..Config::features(features) };
        let guest = MockGuest::connect(&host.path, &config);
        let log = start_log(&guest);
        let queue = &guest.queues[1];
        let event = queue.used + 4 + 8 * u64::from(queue.size);
        host.port.request_kick(0);
        let wish = if features & EVENT_IDX == 0 { queue.used } else { event };
        assert_eq!(take_log(&log), pages(wish, 2).collect());
        drop(guest);
        host.wait_disconnected();
    }
}

#[test]
fn log_that_shrinks_stops_only_its_guest() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    let log = start_log(&guest);
    exercise(&mut host, &mut guest, 1);
    log.set_len(0).unwrap();
    guest.receive_buffers(0, 8, SLOT as u32);
    for i in 0..4 {
        host.send(&[frame(1000, i)]);
    }
    assert_eq!(host.fault(), Some(PortFault::Ring { queue: 0, fault: RingFault::MemoryShrank }));
    innocent.moves();
    drop(guest);
    host.wait_disconnected();
    serves_the_next(&mut host);
    innocent.finish();
}

#[test]
fn log_that_does_not_cover_memory_is_refused() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    let guest = MockGuest::connect(&host.path, &Config::default());
    let log = memfd(4096);
    let region = VhostUserDirtyLogRegion { mmap_size: 16, mmap_offset: 0, mmap_handle: log.as_raw_fd() };
    assert!(guest.frontend.set_log_base(0, Some(region)).is_err());
    host.wait_disconnected();
    assert!(matches!(host.fault(), Some(PortFault::Protocol(_))));
    serves_the_next(&mut host);
    innocent.finish();
}
