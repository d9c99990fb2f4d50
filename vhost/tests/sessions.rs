//! Sessions from their start to their end: reconnects, client mode, connections that are there already, stops, bases, several queues,
//! notifications.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vsteer_switch::drop_reason::DropReason;
use vsteer_vhost::net::port::Rest;
use vsteer_vhost::net::queue::KickPoller;
use vsteer_vhost::session::endpoint::{Endpoint, Gone};

#[test]
fn front_ends_come_and_go() {
    let mut host = Host::new();
    for round in 1..=30 {
        let mut guest = MockGuest::connect(&host.path, &Config::default());
        exercise(&mut host, &mut guest, round);
        let status = host.port.status();
        assert_eq!((status.connections, status.live_pairs, status.memory_regions), (round, 1, 1));
        drop(guest);
        host.wait_disconnected();
        let status = host.port.status();
        assert_eq!((status.live_pairs, status.memory_regions, status.fault), (0, 0, None));
        host.send(&[frame(60, 0)]);
        assert_eq!(host.drops(DropReason::NotConnected), round);
    }
}

#[test]
fn client_mode_connects_again_whenever_the_front_end_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qemu.sock");
    let mut host = Host::at(dir, path.clone(), new_port(1), Endpoint::Connect(path.clone()));
    for round in 0..3 {
        let listener = UnixListener::bind(&path).unwrap();
        let (stream, _) = listener.accept().unwrap();
        let mut guest = MockGuest::over(Frontend::from_stream(stream, 2), &Config::default());
        exercise(&mut host, &mut guest, round);
        drop((guest, listener));
        std::fs::remove_file(&path).unwrap();
        host.wait_disconnected();
    }
}

fn connected() -> (Host, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("unused");
    let endpoint = Endpoint::Connected { stream: far, gone: Gone::new(|| {}) };
    (Host::at(dir, path, new_port(1), endpoint), near)
}

#[test]
fn connection_that_is_there_already_is_served() {
    for add_regions in [false, true] {
        let (mut host, near) = connected();
        let regions = vec![(0x10_0000, 16 << 20), (0x800_0000, 1 << 20), (0x1000_0000, 1 << 20)];
        let config = Config { regions, add_regions, ..Config::default() };
        let mut guest = MockGuest::over(Frontend::from_stream(near, 2), &config);
        exercise(&mut host, &mut guest, 1);
        drop(guest);
        host.wait_disconnected();
    }
}

#[test]
fn descriptors_stay_with_their_message() {
    let (host, near) = connected();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut raw = RawFrontend(near);
    raw.negotiate();
    let event = eventfd();
    // Messages without and with descriptors, back to back, faster than anybody reads.
    for _ in 0..200 {
        raw.send(code::SET_VRING_BASE, &words32(&[0, 0]), &[]);
        raw.send(code::SET_VRING_ERR, &words64(&[0]), &[event.as_raw_fd()]);
    }
    assert!(raw.sync(), "{:?}", host.fault());
    assert_eq!(host.fault(), None);
}

/// A socket that listens and accepts nobody, and the connections that wait for it: one more would block.
fn full_backlog(path: &Path) -> (OwnedFd, Vec<OwnedFd>) {
    let address = UnixAddr::new(path).unwrap();
    let new = |flags| socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
    let busy = new(SockFlag::empty());
    bind(busy.as_raw_fd(), &address).unwrap();
    listen(&busy, Backlog::new(0).unwrap()).unwrap();
    let mut waiting = Vec::new();
    loop {
        let client = new(SockFlag::SOCK_NONBLOCK);
        match connect(client.as_raw_fd(), &address) {
            Ok(()) => waiting.push(client),
            Err(error) => {
                assert_eq!(error, Errno::EAGAIN);
                return (busy, waiting);
            }
        }
    }
}

#[test]
fn server_stops_at_once_in_every_state() {
    // A silent connection shows nowhere; stopping works before and after it was accepted.
    let accepted = || thread::sleep(Duration::from_millis(10));
    let stops = |mut host: Host, what: &str| {
        let start = Instant::now();
        drop(host.server.take());
        assert!(start.elapsed() < Duration::from_secs(1), "{what}: {:?}", start.elapsed());
        assert!(!host.port.status().connected, "{what}");
    };
    stops(Host::new(), "nobody connected");

    let host = Host::new();
    let silent = RawFrontend::connect(&host.path);
    accepted();
    stops(host, "silent front-end");
    drop(silent);

    let bytes = message(code::SET_FEATURES, &words64(&[0]));
    for cut in 1..bytes.len() {
        let host = Host::new();
        let half = RawFrontend::connect(&host.path);
        half.send_bytes(&bytes[..cut], &[]);
        accepted();
        stops(host, "half a message");
        drop(half);
    }

    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    exercise(&mut host, &mut guest, 1);
    stops(host, "packets moved");
    drop(guest);

    let host = Host::new();
    let flood = RawFrontend::connect(&host.path);
    flood.0.set_nonblocking(true).unwrap();
    flood.send(code::SET_OWNER, &[], &[]);
    for _ in 0..20_000 {
        flood.send(code::GET_FEATURES, &[], &[]);
    }
    wait_until("connected", || host.port.status().connections == 1);
    stops(host, "front-end that reads no answers");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    stops(
        Host::at(dir, path.clone(), new_port(1), Endpoint::Connect(path)),
        "front-end that does not listen",
    );

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let (_busy, _waiting) = full_backlog(&path);
    let host = Host::at(dir, path.clone(), new_port(1), Endpoint::Connect(path));
    // Long enough for the session's thread to come to its first try.
    thread::sleep(Duration::from_millis(50));
    stops(host, "front-end that accepts nobody");

    let (host, near) = connected();
    let near = RawFrontend(near);
    near.send(code::SET_OWNER, &[], &[]);
    wait_until("connected", || host.port.status().connections == 1);
    stops(host, "connection that was there");
    drop(near);
}

#[test]
fn vring_base_is_exact_and_the_next_session_goes_on_there() {
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    for round in 0..3 {
        exercise(&mut host, &mut guest, round);
    }
    // Two chains are left in the transmitq, one buffer in the receiveq.
    let frames = [frame(100, 1), frame(200, 2)];
    guest.transmit(0, &frames);
    guest.receive_buffers(0, 1, SLOT as u32);
    assert_eq!(guest.frontend_base(1), 96);
    assert_eq!(guest.frontend_base(0), 96);
    assert!(host.receive(0).is_empty(), "a stopped ring is not touched");
    host.send(&[frame(60, 1)]);
    assert_eq!(host.drops(DropReason::NotConnected), 1);
    guest.start_queue(1, 96);
    guest.start_queue(0, 96);
    assert_eq!(host.receive(0), frames);
    host.send(&[frame(60, 1)]);
    assert_eq!(host.counters.tx_pkts.get(), 97);
    let (memory, queue) = guest.transmitq(0);
    assert_eq!(queue.take_used(memory).len(), 2);
    assert_eq!(guest.frontend_base(1), 98);
    assert_eq!(guest.frontend_base(0), 97);
}

#[test]
fn queue_pairs_are_enabled_and_disabled_one_by_one() {
    let mut host = Host::with_pairs(4);
    let mut guest = MockGuest::connect(&host.path, &Config { pairs: 4, ..Config::default() });
    assert_eq!(host.port.status().live_pairs, 4);
    assert_eq!(host.port.live_receiveqs(), 4);
    for pair in 0..4 {
        guest.receive_buffers(pair, 64, SLOT as u32);
    }
    for hash in 0..32 {
        host.send_hashed(hash, &[frame(60, 1)]);
    }
    for pair in 0..4 {
        let (memory, queue) = guest.receiveq(pair);
        assert_eq!(queue.take_used(memory).len(), 8, "pair {pair}");
    }
    for queue in [2, 3, 6, 7] {
        guest.frontend.set_vring_enable(queue, false).unwrap();
    }
    assert_eq!(host.port.status().live_pairs, 2);
    for hash in 0..32 {
        host.send_hashed(hash, &[frame(60, 1)]);
    }
    for (pair, expected) in [(0, 16), (1, 0), (2, 16), (3, 0)] {
        let (memory, queue) = guest.receiveq(pair);
        assert_eq!(queue.take_used(memory).len(), expected, "pair {pair}");
        guest.transmit(pair, &(0..100).map(|i| frame(60, i)).collect::<Vec<_>>());
    }
    for pair in [1, 3] {
        assert!(host.receive(pair).is_empty());
        let (memory, queue) = guest.transmitq(pair);
        assert_eq!(queue.take_used(memory).len(), 100, "a disabled transmitq is drained");
    }
    assert_eq!(host.drops(DropReason::QueueDisabled), 200);
    assert_eq!(host.receive(0).len(), 32);
    guest.frontend.set_vring_enable(3, true).unwrap();
    guest.frontend.set_vring_enable(2, true).unwrap();
    assert_eq!(host.port.status().live_pairs, 3);
    guest.transmit(1, &[frame(60, 1)]);
    assert_eq!(host.receive(1).len(), 1);
    for queue in [0, 2, 4] {
        guest.frontend.set_vring_enable(queue, false).unwrap();
    }
    host.send(&[frame(60, 1)]);
    assert_eq!(host.drops(DropReason::NotConnected), 1);
    assert_eq!(host.counters.tx_pkts.get(), 64);
}

#[test]
fn status_can_be_read_while_packets_move() {
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    let stop = Arc::new(AtomicBool::new(false));
    let (stopping, port) = (Arc::clone(&stop), Arc::clone(&host.port));
    let reader = thread::spawn(move || {
        let mut reads = 0u64;
        while !stopping.load(Ordering::Relaxed) {
            assert!(port.status().connected);
            reads += 1;
        }
        reads
    });
    let deadline = Instant::now() + Duration::from_millis(300);
    let mut moved = 0;
    while Instant::now() < deadline {
        guest.transmit(0, &[frame(60, 1)]);
        // A worker that finds the lock taken comes back later.
        wait_until("the frame arrives", || !host.receive(0).is_empty());
        let (memory, queue) = guest.transmitq(0);
        moved += queue.take_used(memory).len();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0 && moved > 0);
}

/// Whether the device must call, by the standard's own formula (virtio 1.3 §2.7.7.2).
fn must_call(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[test]
fn calls_follow_the_used_event_through_the_wrap() {
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::features(VERSION_1 | EVENT_IDX));
    let mut random = Random(5);
    let mut total = 0usize;
    let mut calls = 0;
    for round in 0..5000 {
        let count = random.within(1, 32);
        let frames: Vec<_> = (0..count).map(|i| frame(60, i as u64)).collect();
        for receiveq in [false, true] {
            let index = usize::from(!receiveq);
            let old = guest.queues[index].used_idx;
            let event = old.wrapping_add(random.within(0, 40) as u16).wrapping_sub(4);
            guest.queues[index].set_used_event(&guest.memory, event);
            let _ = signalled(&guest.queues[index].call);
            if receiveq {
                guest.receive_buffers(0, count, 128);
                host.send(&frames);
            } else {
                guest.transmit(0, &frames);
                assert_eq!(host.receive(0), frames);
            }
            let (memory, queue) = (&guest.memory, &mut guest.queues[index]);
            queue.take_used(memory);
            // The first question always calls: nobody knows what a back-end before us did.
            let expected = round == 0 || must_call(event, queue.used_idx, old);
            assert_eq!(signalled(&queue.call), expected, "old {old}, new {}, event {event}", queue.used_idx);
            calls += u32::from(expected);
        }
        total += count;
    }
    assert!(total > 70_000 && calls > 1000, "{total} packets, {calls} calls");
}

#[test]
fn calls_follow_the_flag_without_event_idx() {
    let mut host = Host::new();
    for features in [VERSION_1, VERSION_1 | NOTIFY_ON_EMPTY] {
        let mut guest = MockGuest::connect(&host.path, &Config::features(features));
        for quiet in [false, true, false] {
            let _ = signalled(&guest.queues[1].call);
            guest.queues[1].set_no_interrupt(&guest.memory, quiet);
            guest.transmit(0, &(0..40).map(|i| frame(60, i)).collect::<Vec<_>>());
            assert_eq!(host.receive(0).len(), 32);
            assert_eq!(signalled(&guest.queues[1].call), !quiet, "chains are left");
            assert_eq!(host.receive(0).len(), 8);
            let on_empty = features & NOTIFY_ON_EMPTY != 0;
            assert_eq!(signalled(&guest.queues[1].call), !quiet || on_empty, "the ring is empty");
            let (memory, queue) = guest.transmitq(0);
            queue.take_used(memory);
        }
        drop(guest);
        host.wait_disconnected();
    }
}

#[test]
fn kicks_are_asked_for_and_suppressed() {
    let mut host = Host::new();
    for features in [VERSION_1, VERSION_1 | EVENT_IDX] {
        let event_idx = features & EVENT_IDX != 0;
        let mut guest = MockGuest::connect(&host.path, &Config::features(features));
        let (memory, queue) = guest.transmitq(0);
        assert!(event_idx || queue.no_notify(memory), "a fresh ring is polled until its worker sleeps");
        for round in 0..5u16 {
            assert_eq!(host.port.request_kick(0), Rest::Long, "nothing is there");
            let (memory, queue) = guest.transmitq(0);
            if event_idx {
                assert_eq!(queue.avail_event(memory), round, "kick for the next chain");
            } else {
                assert!(!queue.no_notify(memory));
            }
            guest.transmit(0, &[frame(60, 1)]);
            assert_eq!(host.port.request_kick(0), Rest::None, "work came in between: do not sleep");
            host.port.suppress_kicks(0);
            let (memory, queue) = guest.transmitq(0);
            assert!(event_idx || queue.no_notify(memory));
            assert_eq!(host.receive(0).len(), 1);
        }
        drop(guest);
        host.wait_disconnected();
    }
}

#[derive(Default)]
struct CountingPoller {
    watched: AtomicU64,
    forgotten: AtomicU64,
    woken: AtomicU64,
    /// Has no room for a further descriptor.
    is_short: AtomicBool,
}

impl KickPoller for CountingPoller {
    fn watch(&self, _kick: BorrowedFd<'_>) -> bool {
        self.watched.fetch_add(1, Ordering::Relaxed);
        !self.is_short.load(Ordering::Relaxed)
    }

    fn forget(&self, _kick: BorrowedFd<'_>) {
        self.forgotten.fetch_add(1, Ordering::Relaxed);
    }

    fn wake(&self) {
        self.woken.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn every_kick_that_is_watched_is_forgotten_before_it_closes() {
    let mut host = Host::new();
    let poller = Arc::new(CountingPoller::default());
    host.port.set_poller(0, poller.clone());
    for round in 1..=5 {
        let mut guest = MockGuest::connect(&host.path, &Config::default());
        exercise(&mut host, &mut guest, 1);
        assert_eq!(poller.watched.load(Ordering::Relaxed), round);
        let other = Arc::new(CountingPoller::default());
        host.port.set_poller(0, other.clone());
        assert_eq!(poller.forgotten.load(Ordering::Relaxed), round);
        guest.frontend_base(1);
        assert_eq!(other.watched.load(Ordering::Relaxed), 1);
        assert_eq!(other.forgotten.load(Ordering::Relaxed), 1);
        assert!(other.woken.load(Ordering::Relaxed) >= 1);
        drop(guest);
        host.wait_disconnected();
        host.port.set_poller(0, poller.clone());
    }
}

#[test]
fn kick_that_cannot_be_watched_is_polled_for() {
    let mut host = Host::new();
    let poller = Arc::new(CountingPoller::default());
    poller.is_short.store(true, Ordering::Relaxed);
    host.port.set_poller(0, poller.clone());
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    exercise(&mut host, &mut guest, 1);
    assert_eq!(host.port.request_kick(0), Rest::Short);
    // The next worker has room.
    poller.is_short.store(false, Ordering::Relaxed);
    host.port.set_poller(0, poller.clone());
    assert_eq!(poller.forgotten.load(Ordering::Relaxed), 0, "what is not watched is not forgotten");
    assert_eq!(host.port.request_kick(0), Rest::Long);
}

#[test]
fn worker_that_lets_go_late_does_not_take_the_queue_from_its_successor() {
    let host = Host::new();
    let guest = MockGuest::connect(&host.path, &Config::default());
    let old = Arc::new(CountingPoller::default());
    let new = Arc::new(CountingPoller::default());
    let (old_poller, new_poller): (Arc<dyn KickPoller>, Arc<dyn KickPoller>) = (old.clone(), new.clone());
    wait_until("the ring starts", || host.port.status().live_pairs == 1);
    host.port.set_poller(0, Arc::clone(&old_poller));
    host.port.set_poller(0, Arc::clone(&new_poller));
    let woken = new.woken.load(Ordering::Relaxed);
    host.port.release_poller(0, &old_poller);
    assert_eq!(old.forgotten.load(Ordering::Relaxed), 1);
    assert_eq!(new.forgotten.load(Ordering::Relaxed), 0, "the successor keeps its watch");
    assert_eq!(new.woken.load(Ordering::Relaxed), woken + 1, "kicks may have been declined in its name");
    host.port.release_poller(0, &new_poller);
    assert_eq!(new.forgotten.load(Ordering::Relaxed), 1);
    drop(guest);
}
