//! Connections leave nothing behind. A binary of its own, as it counts what the whole process has open.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::fs;

use common::*;

fn open_descriptors_and_mappings() -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    (fs::read_dir("/proc/self/fd").unwrap().count(), maps.lines().filter(|l| l.contains("memfd:")).count())
}

#[test]
fn fifty_connections_leave_no_descriptor_and_no_mapping() {
    let mut host = Host::new();
    let regions = vec![(0x10_0000, 16 << 20), (0x800_0000, 1 << 20)];
    let mut cycle = |seed: u64| {
        let mut guest = MockGuest::connect(
            &host.path,
            &Config { regions: regions.clone(), add_regions: seed % 2 == 1, ..Config::default() },
        );
        exercise(&mut host, &mut guest, seed);
        if seed.is_multiple_of(3) {
            // A guest that breaks its ring leaves as little.
            let (memory, queue) = guest.transmitq(0);
            queue.offer(memory, 9999);
            queue.publish(memory);
            assert!(host.receive(0).is_empty());
        }
        drop(guest);
        host.wait_disconnected();
    };
    cycle(0);
    let mut before = (0, 0);
    wait_until("the session is over", || {
        let now = open_descriptors_and_mappings();
        std::mem::replace(&mut before, now) == now
    });
    assert_eq!(before.1, 0, "guest memory is unmapped");
    for seed in 0..50 {
        cycle(seed);
    }
    wait_until("as many as before", || open_descriptors_and_mappings() == before);
}
