//! Front-ends as they are deployed: what each of them says out of order, twice, or not at all, and what other back-ends
//! live with.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use common::code::*;
use common::*;
use vhost::vhost_user::Frontend;
use vsteer_switch::drop_reason::DropReason;
use vsteer_vhost::net::port::{PortFault, Rest};
use vsteer_vhost::ring::RingFault;

const MQ: u64 = 1 << 22;
const CTRL_VQ: u64 = 1 << 17;

/// Tells the back-end that a message is about a ring without a descriptor.
const NO_DESCRIPTOR: u64 = 0x100;

/// A guest whose front-end has said nothing yet, and the front-end's side of its connection.
fn unsaid(host: &Host, config: &Config) -> (RawFrontend, MockGuest) {
    let raw = RawFrontend::connect(&host.path);
    let frontend = Frontend::from_stream(raw.0.try_clone().unwrap(), 256);
    (raw, MockGuest::silent(frontend, config))
}

/// A message with its descriptors.
type Said = (u32, Vec<u8>, Vec<RawFd>);

fn memory(guest: &MockGuest) -> Said {
    let table = guest.memory.table();
    let regions: Vec<_> = table
        .iter()
        .map(|region| [region.guest_phys_addr, region.memory_size, region.userspace_addr, region.mmap_offset])
        .collect();
    (SET_MEM_TABLE, memory_table(&regions), table.iter().map(|region| region.mmap_handle).collect())
}

fn features(guest: &MockGuest) -> Said {
    (SET_FEATURES, words64(&[guest.config.features | PROTOCOL_FEATURES]), vec![])
}

fn addresses(guest: &MockGuest, index: usize) -> Said {
    let queue = &guest.queues[index];
    let [descriptors, used, avail] = [queue.desc, queue.used, queue.avail].map(|addr| FRONTEND_BASE + addr);
    (SET_VRING_ADDR, words64(&[index as u64, descriptors, used, avail, 0]), vec![])
}

fn state(code: u32, index: usize, value: u32) -> Said {
    (code, words32(&[index as u32, value]), vec![])
}

/// What starts a ring at `base`, in the order in which QEMU says it.
fn ring(guest: &MockGuest, index: usize, base: u16) -> Vec<Said> {
    let queue = &guest.queues[index];
    vec![
        state(SET_VRING_NUM, index, queue.size.into()),
        state(SET_VRING_BASE, index, base.into()),
        addresses(guest, index),
        (SET_VRING_KICK, words64(&[index as u64]), vec![queue.kick.as_raw_fd()]),
        (SET_VRING_CALL, words64(&[index as u64]), vec![queue.call.as_raw_fd()]),
        state(SET_VRING_ENABLE, index, 1),
    ]
}

fn say(raw: &RawFrontend, said: &[Said]) {
    said.iter().for_each(|(code, body, fds)| raw.send(*code, body, fds));
}

/// Asks, and returns the body of the answer.
fn ask(raw: &mut RawFrontend, code: u32, body: &[u8]) -> Vec<u8> {
    raw.send(code, body, &[]);
    raw.answer(code)
}

fn number(body: &[u8]) -> u64 {
    u64::from_le_bytes(body.try_into().unwrap())
}

/// The driver's ring stands where it stands after `count` buffers.
fn advance(guest: &mut MockGuest, index: usize, count: u16) {
    let (memory, queue) = (&guest.memory, &mut guest.queues[index]);
    (queue.avail_idx, queue.used_idx) = (count, count);
    memory.store_u16(queue.avail + 2, count);
    memory.store_u16(queue.used + 2, count);
}

#[test]
fn ring_goes_on_at_its_used_index_whatever_base_is_sent() {
    for base in [0, 300, 310, 299, 40_000] {
        for addresses_first in [false, true] {
            let mut host = Host::new();
            let (mut raw, mut guest) = unsaid(&host, &Config::default());
            advance(&mut guest, 1, 300);
            let frames: Vec<_> = (0..10).map(|i| frame(100, i)).collect();
            guest.transmit(0, &frames);
            say(&raw, &[features(&guest), memory(&guest)]);
            let mut said = ring(&guest, 1, base);
            if addresses_first {
                said.swap(1, 2);
            }
            say(&raw, &said);
            assert!(raw.sync(), "{:?}", host.fault());
            assert_eq!(host.receive(0), frames, "base {base}");
            assert!(host.receive(0).is_empty());
            assert_eq!(host.fault(), None);
            let (memory, queue) = guest.transmitq(0);
            assert_eq!(queue.take_used(memory).len(), 10);
            assert_eq!(ask(&mut raw, GET_VRING_BASE, &words32(&[1, 0])), words32(&[1, 310]));
        }
    }
}

#[test]
fn first_frame_lands_in_the_first_buffer_though_the_base_is_the_available_index() {
    let mut host = Host::new();
    let (mut raw, mut guest) = unsaid(&host, &Config::default());
    guest.receive_buffers(0, 16, SLOT as u32);
    say(&raw, &[features(&guest), memory(&guest)]);
    say(&raw, &ring(&guest, 0, 16));
    assert!(raw.sync());
    let sent = frame(200, 1);
    host.send(std::slice::from_ref(&sent));
    let (memory, queue) = guest.receiveq(0);
    assert_eq!(queue.take_used(memory), [(0, 212)]);
    assert_eq!(guest.memory.read(guest.slot(1024), 212)[12..], sent);
}

#[test]
fn front_end_that_reconnects_begins_by_stopping_its_rings() {
    let mut host = Host::new();
    let (mut raw, mut guest) = unsaid(&host, &Config::default());
    for index in 0..2 {
        advance(&mut guest, index, 77);
    }
    // DPDK's virtio_user with server=1, word for word.
    say(&raw, &[state(SET_VRING_ENABLE, 0, 0), state(SET_VRING_ENABLE, 1, 0)]);
    for index in 0..2 {
        assert_eq!(ask(&mut raw, GET_VRING_BASE, &words32(&[index, 0])), words32(&[index, 0]));
    }
    assert_ne!(number(&ask(&mut raw, GET_FEATURES, &[])) & PROTOCOL_FEATURES, 0);
    let protocol = number(&ask(&mut raw, GET_PROTOCOL_FEATURES, &[])) & 9;
    raw.send(SET_PROTOCOL_FEATURES, &words64(&[protocol]), &[]);
    say(
        &raw,
        &[ring(&guest, 0, 0).remove(4), ring(&guest, 1, 0).remove(4), features(&guest), memory(&guest)],
    );
    for index in 0..2 {
        let mut said = ring(&guest, index, 0);
        said.truncate(4);
        say(&raw, &said);
    }
    say(&raw, &[state(SET_VRING_ENABLE, 0, 1), state(SET_VRING_ENABLE, 1, 1)]);
    assert!(raw.sync(), "{:?}", host.fault());
    exercise(&mut host, &mut guest, 1);
}

#[test]
fn rings_run_in_whatever_order_they_are_set_up() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let mut host = Host::new();
        let (mut raw, mut guest) = unsaid(&host, &Config::default());
        let mut said = vec![(SET_OWNER, vec![], vec![]), features(&guest), memory(&guest)];
        said.extend(ring(&guest, 0, 0));
        said.extend(ring(&guest, 1, 0));
        for at in (1..said.len()).rev() {
            said.swap(at, random.within(0, at));
        }
        // Some of it twice.
        let again = said[random.within(0, said.len() - 1)].clone();
        said.push(again);
        say(&raw, &said);
        assert!(raw.sync(), "seed {seed}: {:?}", host.fault());
        assert_eq!(host.fault(), None, "seed {seed}");
        exercise(&mut host, &mut guest, seed);
    }
}

#[test]
fn rings_without_protocol_features_start_enabled() {
    let mut host = Host::new();
    let (mut raw, mut guest) = unsaid(&host, &Config::default());
    say(&raw, &[(SET_FEATURES, words64(&[guest.config.features]), vec![]), memory(&guest)]);
    for index in 0..2 {
        let mut said = ring(&guest, index, 0);
        said.truncate(5);
        say(&raw, &said);
    }
    assert!(raw.sync());
    exercise(&mut host, &mut guest, 1);
    // With them they start disabled, and stay as they were said to be.
    let mut host = Host::new();
    let (mut raw, guest) = unsaid(&host, &Config::default());
    say(&raw, &[features(&guest), memory(&guest)]);
    let mut said = ring(&guest, 0, 0);
    said.truncate(5);
    say(&raw, &said);
    assert!(raw.sync());
    host.send(&[frame(60, 1)]);
    assert_eq!(host.drops(DropReason::NotConnected), 1);
}

#[test]
fn ring_without_a_kick_descriptor_is_polled() {
    let unwaitable = File::open("/dev/null").unwrap();
    for kick in [(NO_DESCRIPTOR, vec![]), (0, vec![unwaitable.as_raw_fd()])] {
        let mut host = Host::new();
        let (mut raw, mut guest) = unsaid(&host, &Config::default());
        say(&raw, &[features(&guest), memory(&guest)]);
        for index in 0..2 {
            let mut said = ring(&guest, index, 0);
            said[3] = (SET_VRING_KICK, words64(&[index as u64 | kick.0]), kick.1.clone());
            say(&raw, &said);
        }
        assert!(raw.sync());
        exercise(&mut host, &mut guest, 1);
        assert_eq!(host.port.request_kick(0), Rest::Short);
        guest.transmit(0, &[frame(60, 1)]);
        assert_eq!(host.port.request_kick(0), Rest::None);
        assert_eq!(host.receive(0).len(), 1);
    }
}

#[test]
fn user_mode_linux_is_served() {
    let mut host = Host::with_pairs(4);
    let (mut raw, mut guest) = unsaid(&host, &Config::features(VERSION_1 | MRG_RXBUF | CTRL_VQ | MQ));
    raw.send(SET_OWNER, &[], &[]);
    let offered = number(&ask(&mut raw, GET_FEATURES, &[]));
    const MTU: u64 = 1 << 3;
    const ANNOUNCE: u64 = 1 << 21;
    assert_eq!(offered & (MTU | ANNOUNCE), 0, "its driver would read them from nowhere");
    const CONFIG: u64 = 1 << 9;
    let protocol = number(&ask(&mut raw, GET_PROTOCOL_FEATURES, &[]));
    const BACKEND_REQ: u64 = 1 << 5;
    assert_eq!(protocol & (CONFIG | BACKEND_REQ), CONFIG | BACKEND_REQ);
    raw.send(SET_PROTOCOL_FEATURES, &words64(&[protocol & (CONFIG | BACKEND_REQ | 1 << 3)]), &[]);
    // The interrupt of its queues comes with the channel for requests of ours.
    let (mut requests, channel) = UnixStream::pair().unwrap();
    requests.set_nonblocking(true).unwrap();
    raw.send(SET_BACKEND_REQ_FD, &[], &[channel.as_raw_fd()]);
    drop(channel);
    // Its driver asks for the number of pairs: one, as it does not know of more.
    let asked = [words32(&[0, 10, 0]), vec![0; 10]].concat();
    let config = ask(&mut raw, GET_CONFIG, &asked);
    assert_eq!(config[..12], asked[..12]);
    assert_eq!(config[12 + 6..], [1, 0, 1, 0], "the link is up, and there is one pair");
    // Room for two regions, one of them there; calls by pipes.
    let (mut code_and_table, pipes): (Said, Vec<_>) =
        (memory(&guest), (0..3).map(|_| std::io::pipe().unwrap()).collect());
    code_and_table.1.extend([0; 32]);
    let (control, control_table) = control_queue(&mut guest);
    let start = |guest: &MockGuest| {
        let mut all = vec![code_and_table.clone()];
        for (index, pipe) in pipes.iter().enumerate() {
            let mut said = if index < 2 { ring(guest, index, 0) } else { ring_of(&control, 2) };
            said[4].2 = vec![pipe.1.as_raw_fd()];
            said.swap(3, 4);
            all.extend(said);
        }
        all
    };
    say(&raw, &[features(&guest)]);
    say(&raw, &start(&guest));
    assert!(raw.sync(), "{:?}", host.fault());
    exercise(&mut host, &mut guest, 1);
    let mut called = pipes[1].0.try_clone().unwrap();
    assert_eq!(called.read(&mut [0; 8]).unwrap(), 8, "it is called by its pipe");
    let silence = requests.read(&mut [0; 8]).unwrap_err();
    assert_eq!(silence.kind(), ErrorKind::WouldBlock, "the channel is neither written to nor closed");

    // Commands of its driver are answered.
    let mut control = control;
    for (command, answer) in [(&[0u8, 0, 1][..], 0u8), (&[4, 0, 1, 0], 0), (&[4, 0, 2, 0], 1), (&[9, 9], 1)] {
        guest.memory.write(control_table, command);
        guest.memory.write(control_table + 64, &[0xff]);
        control.post_both(&guest.memory, (control_table, command.len() as u32), (control_table + 64, 1));
        control.publish(&guest.memory);
        control.kick.write(1).unwrap();
        wait_until("the command is answered", || !control.take_used(&guest.memory).is_empty());
        assert_eq!(guest.memory.read(control_table + 64, 1), [answer], "{command:?}");
    }

    // The driver goes and comes back: rings are disabled, nothing else, and set up anew in the same place.
    say(&raw, &[2, 1, 0].map(|index| state(SET_VRING_ENABLE, index, 0)));
    for index in 0..2 {
        let MockGuest { memory, queues, .. } = &mut guest;
        queues[index].reset(memory);
    }
    control.reset(&guest.memory);
    drop(control);
    say(&raw, &[features(&guest)]);
    say(&raw, &start_again(&guest, &code_and_table));
    assert!(raw.sync(), "{:?}", host.fault());
    exercise(&mut host, &mut guest, 2);
    drop((raw, guest));
    wait_until("the channel ends with the connection", || {
        requests.read(&mut [0; 8]).is_ok_and(|len| len == 0)
    });
}

fn control_queue(guest: &mut MockGuest) -> (DriverQueue, u64) {
    let queue = DriverQueue::new(&mut guest.memory, 2, 64);
    let table = guest.memory.alloc(128, 64);
    (queue, table)
}

fn ring_of(queue: &DriverQueue, index: usize) -> Vec<Said> {
    let [descriptors, used, avail] = [queue.desc, queue.used, queue.avail].map(|addr| FRONTEND_BASE + addr);
    vec![
        state(SET_VRING_NUM, index, queue.size.into()),
        state(SET_VRING_BASE, index, 0),
        (SET_VRING_ADDR, words64(&[index as u64, descriptors, used, avail, 0]), vec![]),
        (SET_VRING_KICK, words64(&[index as u64]), vec![queue.kick.as_raw_fd()]),
        (SET_VRING_CALL, words64(&[index as u64]), vec![queue.call.as_raw_fd()]),
        state(SET_VRING_ENABLE, index, 1),
    ]
}

fn start_again(guest: &MockGuest, memory: &Said) -> Vec<Said> {
    let mut all = vec![memory.clone()];
    (0..2).for_each(|index| all.extend(ring(guest, index, 0)));
    all
}

#[test]
fn number_of_queues_is_that_of_pairs() {
    for pairs in [1, 2, 16, 128] {
        let host = Host::with_pairs(pairs);
        let mut raw = RawFrontend::connect(&host.path);
        assert_eq!(number(&ask(&mut raw, GET_QUEUE_NUM, &[])), u64::from(pairs));
        assert_eq!(host.port.status().connections, 0, "who only asks is nobody");
    }
}

#[test]
fn front_end_that_leaves_over_the_number_of_pairs_is_told_why_and_once() {
    let mut host = Host::with_pairs(2);
    for _ in 0..3 {
        let mut raw = RawFrontend::connect(&host.path);
        // As QEMU does with queues=4.
        assert!(raw.sync());
        ask(&mut raw, GET_PROTOCOL_FEATURES, &[]);
        raw.send(SET_PROTOCOL_FEATURES, &words64(&[9]), &[]);
        assert_eq!(number(&ask(&mut raw, GET_QUEUE_NUM, &[])), 2);
        raw.send(SET_OWNER, &[], &[]);
        assert!(raw.sync());
        drop(raw);
        host.wait_disconnected();
        assert_eq!(host.fault(), Some(PortFault::FewPairs { pairs: 2 }));
    }
    serves_the_next(&mut host);
}

#[test]
fn queues_beyond_the_port_are_refused_by_what_to_do() {
    let host = Host::with_pairs(2);
    let mut raw = RawFrontend::connect(&host.path);
    raw.negotiate();
    say(&raw, &[state(SET_VRING_NUM, 4, 256)]);
    assert!(!raw.sync());
    let fault = host.fault().unwrap().to_string();
    assert!(fault.contains("virtqueue 4") && fault.contains("queues=2"), "{fault}");
}

#[test]
fn refusal_that_is_told_ends_nothing() {
    let mut host = Host::new();
    let (mut raw, mut guest) = unsaid(&host, &Config::default());
    say(&raw, &[features(&guest), memory(&guest)]);
    for (code, body, fds, answer) in [
        (SET_VRING_NUM, words32(&[9, 256]), vec![], 1),
        (SET_VRING_NUM, words32(&[0, 0]), vec![], 1),
        (SET_FEATURES, words64(&[u64::MAX]), vec![], 1),
        (9999, vec![], vec![], 1),
        (IOTLB_MSG, vec![0; 40], vec![], 1),
        (ADD_MEM_REG, words64(&[0, 0x10_0000, 4096, 0, 0]), vec![guest.memory.file(0).as_raw_fd()], 1),
        (REM_MEM_REG, words64(&[0, 1 << 40, 4096, 0, 0]), vec![], 1),
        (NET_SET_MTU, words64(&[9000]), vec![], 0),
        (SET_VRING_ENDIAN, words32(&[0, 0]), vec![], 0),
        (SET_OWNER, vec![], vec![], 0),
    ] {
        let mut bytes = message(code, &body);
        bytes[4] |= 8;
        raw.send_bytes(&bytes, &fds);
        assert_eq!(number(&raw.answer(code)), answer, "{code}");
    }
    assert!(matches!(host.fault(), Some(PortFault::Memory(_))), "the last that matters: {:?}", host.fault());
    (0..2).for_each(|index| say(&raw, &ring(&guest, index, 0)));
    assert!(raw.sync());
    assert_eq!(host.fault(), None, "it is over when the ring runs");
    exercise(&mut host, &mut guest, 1);
}

#[test]
fn messages_of_features_that_were_not_offered_are_answered_where_an_answer_is_waited_for() {
    let host = Host::new();
    let mut raw = RawFrontend::connect(&host.path);
    raw.negotiate();
    const GET_INFLIGHT_FD: u32 = 31;
    const SET_STATUS: u32 = 39;
    const GET_STATUS: u32 = 40;
    const CHECK_DEVICE_STATE: u32 = 43;
    assert_eq!(ask(&mut raw, GET_INFLIGHT_FD, &[0; 20]), [0; 24], "no memory");
    raw.send(SET_STATUS, &words64(&[0xf]), &[]);
    assert_eq!(number(&ask(&mut raw, GET_STATUS, &[])), 0xf);
    assert_eq!(number(&ask(&mut raw, CHECK_DEVICE_STATE, &[])), 1);
    assert_eq!(number(&ask(&mut raw, GET_MAX_MEM_SLOTS, &[])), 509);
    assert!(raw.sync());
    assert_eq!(host.fault(), None);
}

fn region(guest: &MockGuest, index: usize) -> (Vec<u8>, RawFd) {
    let region = guest.memory.table()[index];
    let said = [0, region.guest_phys_addr, region.memory_size, region.userspace_addr, region.mmap_offset];
    (words64(&said), region.mmap_handle)
}

#[test]
fn memory_that_is_removed_and_added_under_running_rings_leaves_them_running() {
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    let (said, file) = region(&guest, 0);
    let raw = RawFrontend(guest.stream());
    for round in 0..20 {
        exercise(&mut host, &mut guest, round);
        raw.acknowledged(REM_MEM_REG, &said, &[]);
        // The guest knows nothing of it.
        exercise(&mut host, &mut guest, 100 + round);
        raw.acknowledged(ADD_MEM_REG, &said, &[file]);
        exercise(&mut host, &mut guest, 200 + round);
        if round % 4 == 0 {
            thread::sleep(Duration::from_millis(150));
        }
        assert_eq!(host.fault(), None);
        assert_eq!(host.port.status().memory_regions, 1);
    }
}

#[test]
fn ring_whose_memory_is_gone_says_so_and_goes_on_when_it_is_back() {
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    exercise(&mut host, &mut guest, 1);
    let (said, file) = region(&guest, 0);
    let raw = RawFrontend(guest.stream());
    raw.acknowledged(REM_MEM_REG, &said, &[]);
    wait_until("the port stops", || {
        matches!(host.fault(), Some(PortFault::Ring { fault: RingFault::RingUnmapped { .. }, .. }))
    });
    host.send(&[frame(60, 1)]);
    assert_eq!(host.drops(DropReason::RingBroken), 1);
    assert!(signalled(&guest.queues[0].error));
    raw.acknowledged(ADD_MEM_REG, &said, &[file]);
    assert_eq!(host.fault(), None);
    host.counters = Default::default();
    exercise(&mut host, &mut guest, 2);
}

#[test]
fn memory_that_moves_to_another_file_is_used_there_at_once() {
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    exercise(&mut host, &mut guest, 1);
    let (said, _) = region(&guest, 0);
    let raw = RawFrontend(guest.stream());
    let moved = guest.memory.copied();
    raw.acknowledged(REM_MEM_REG, &said, &[]);
    raw.acknowledged(ADD_MEM_REG, &said, &[moved.file(0).as_raw_fd()]);
    guest.memory = moved;
    exercise(&mut host, &mut guest, 2);
}

#[test]
fn memory_table_that_is_sent_again_under_running_rings_changes_nothing() {
    let mut host = Host::new();
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    for round in 0..10 {
        exercise(&mut host, &mut guest, round);
        guest.send_memory();
    }
    assert_eq!(host.fault(), None);
}

#[test]
fn device_whose_file_has_no_length_is_memory() {
    let host = Host::new();
    let zero = File::options().read(true).write(true).open("/dev/zero").unwrap();
    let mut raw = RawFrontend::connect(&host.path);
    raw.negotiate();
    raw.send(SET_MEM_TABLE, &memory_table(&[[0, 1 << 20, 0, 0]]), &[zero.as_raw_fd()]);
    for index in 0..2 {
        say(
            &raw,
            &[
                state(SET_VRING_NUM, index, 16),
                (SET_VRING_ADDR, words64(&[index as u64, 0, 4096, 8192, 0]), vec![]),
                (SET_VRING_KICK, words64(&[index as u64 | NO_DESCRIPTOR]), vec![]),
                state(SET_VRING_ENABLE, index, 1),
            ],
        );
    }
    assert!(raw.sync());
    assert_eq!((host.fault(), host.port.status().live_pairs), (None, 1));
}

#[test]
fn region_may_start_anywhere_in_its_file() {
    let mut host = Host::new();
    let (mut raw, mut guest) = unsaid(&host, &Config::default());
    // Not at a page: the ring's parts stay aligned as they were.
    let skip = 4096 + 64;
    let table = guest.memory.table()[0];
    let said = [
        table.guest_phys_addr + skip,
        table.memory_size - skip,
        table.userspace_addr + skip,
        table.mmap_offset + skip,
    ];
    let first = [table.guest_phys_addr, skip, table.userspace_addr, 0];
    say(&raw, &[features(&guest)]);
    raw.send(SET_MEM_TABLE, &memory_table(&[said, first]), &[table.mmap_handle; 2]);
    (0..2).for_each(|index| {
        // Parts that lie across the border of the two regions would be refused: put them behind it.
        let MockGuest { memory, queues, .. } = &mut guest;
        queues[index] = DriverQueue::new(memory, index, 256);
    });
    (0..2).for_each(|index| say(&raw, &ring(&guest, index, 0)));
    assert!(raw.sync());
    assert_eq!(host.fault(), None);
    exercise(&mut host, &mut guest, 1);
}

#[test]
fn silent_connections_keep_nobody_out() {
    let mut host = Host::new();
    let mut idle = Vec::new();
    for round in 0..60usize {
        let mut raw = RawFrontend::connect(&host.path);
        match round % 4 {
            0 => {}
            1 => raw.send_bytes(&message(SET_OWNER, &[])[..1 + round % 11], &[]),
            2 => raw.send_bytes(&message(SET_FEATURES, &[0; 8])[..13], &[]),
            _ => assert!(raw.sync()),
        }
        idle.push(raw);
        if round % 7 == 0 {
            serves_the_next(&mut host);
        }
    }
    serves_the_next(&mut host);
    assert_eq!(host.fault(), None);
}

#[test]
fn second_front_end_waits_for_the_first_to_go() {
    let mut host = Host::new();
    let mut first = MockGuest::connect(&host.path, &Config::default());
    exercise(&mut host, &mut first, 1);
    let path = host.path.clone();
    let second = thread::spawn(move || MockGuest::connect(&path, &Config::default()));
    let mut asks = RawFrontend::connect(&host.path);
    assert!(asks.sync(), "questions are answered meanwhile");
    exercise(&mut host, &mut first, 2);
    assert!(!second.is_finished());
    drop(first);
    let mut second = second.join().unwrap();
    exercise(&mut host, &mut second, 3);
    assert_eq!(host.port.status().connections, 2);
}

#[test]
fn front_end_that_reads_no_answers_holds_up_only_itself() {
    let mut host = Host::new();
    let flood = RawFrontend::connect(&host.path);
    flood.0.set_nonblocking(true).unwrap();
    for _ in 0..50_000 {
        flood.send(GET_FEATURES, &[], &[]);
    }
    serves_the_next(&mut host);
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    exercise(&mut host, &mut guest, 1);
    drop(flood);
    exercise(&mut host, &mut guest, 2);
}

#[test]
fn guest_is_announced_when_its_front_end_asks_for_it() {
    let mac = [0x52, 0x54, 0, 0xaa, 0xbb, 0xcc];
    let mut body = mac.to_vec();
    body.extend([0, 0]);
    let mut host = Host::new();
    // Before its ring runs, and while it does.
    let (mut raw, mut guest) = unsaid(&host, &Config::default());
    raw.send(SEND_RARP, &body, &[]);
    say(&raw, &[features(&guest), memory(&guest)]);
    say(&raw, &ring(&guest, 1, 0));
    for _ in 0..2 {
        assert!(raw.sync());
        assert_eq!(host.port.request_kick(0), Rest::None, "there is something to receive");
        let received = host.receive(0);
        assert_eq!(received.len(), 1);
        assert_eq!(received[0].len(), 60);
        assert_eq!(
            (&received[0][..6], &received[0][6..14]),
            (&[0xff; 6][..], &[&mac[..], &[0x80, 0x35]].concat()[..])
        );
        assert!(host.receive(0).is_empty(), "once");
        raw.send(SEND_RARP, &body, &[]);
    }
    assert!(raw.sync());
    // Beside the guest's own packets.
    guest.transmit(0, &[frame(99, 1)]);
    assert_eq!(host.receive(0).iter().map(Vec::len).collect::<Vec<_>>(), [60, 99]);
    assert_eq!(host.counters.rx_pkts.get(), 4);
    // Not for the next front-end.
    raw.send(SEND_RARP, &body, &[]);
    assert!(raw.sync());
    drop((raw, guest));
    host.wait_disconnected();
    host.counters = Default::default();
    serves_the_next(&mut host);
}

#[test]
fn frames_go_to_receive_queues_that_have_buffers() {
    let mut host = Host::with_pairs(4);
    let mut guest = MockGuest::connect(&host.path, &Config { pairs: 4, ..Config::default() });
    // All are enabled, one is used.
    guest.receive_buffers(2, 200, SLOT as u32);
    for hash in 0..64 {
        host.send_hashed(hash, &[frame(60, 1)]);
    }
    assert_eq!(host.counters.tx_pkts.get(), 64);
    let (memory, queue) = guest.receiveq(2);
    assert_eq!(queue.take_used(memory).len(), 64);
    // The guest begins to use another: it gets its share.
    guest.receive_buffers(0, 200, SLOT as u32);
    for hash in 0..64 {
        host.send_hashed(hash, &[frame(60, 1)]);
    }
    assert_eq!(host.counters.tx_pkts.get(), 128);
    let (memory, queue) = guest.receiveq(0);
    assert!(queue.take_used(memory).len() > 20);
    assert_eq!(host.port.live_receiveqs(), 2);
    // It leaves one without a word: what finds no buffer there is lost for a moment, and no longer.
    let (memory, queue) = guest.receiveq(2);
    queue.take_used(memory);
    let mut hash = 0;
    wait_until("the queue without buffers is left", || {
        host.send_hashed(hash, &[frame(60, 1)]);
        hash += 1;
        let (memory, queue) = guest.receiveq(0);
        let used = queue.take_used(memory).len();
        guest.receive_buffers(0, used, SLOT as u32);
        host.port.live_receiveqs() == 1
    });
    let before = (host.counters.tx_pkts.get(), all_drops(&host.counters));
    for hash in 0..64 {
        host.send_hashed(hash, &[frame(60, 1)]);
    }
    assert_eq!((host.counters.tx_pkts.get(), all_drops(&host.counters)), (before.0 + 64, before.1));
    // It comes back.
    guest.receive_buffers(2, 20, SLOT as u32);
    for hash in 0..16 {
        host.send_hashed(hash, &[frame(60, 1)]);
    }
    assert_eq!(host.port.live_receiveqs(), 2);
}

#[test]
fn who_wants_to_know_is_told_when_a_connection_that_was_there_is_gone() {
    for says in [false, true] {
        let (near, far) = UnixStream::pair().unwrap();
        let (told, hears) = std::sync::mpsc::channel();
        let endpoint = vsteer_vhost::session::endpoint::Endpoint::Connected {
            stream: far,
            gone: vsteer_vhost::session::endpoint::Gone::new(move || told.send(()).unwrap()),
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unused");
        let _host = Host::at(dir, path, new_port(1), endpoint);
        let mut raw = RawFrontend(near);
        if says {
            raw.negotiate();
            assert!(raw.sync());
        }
        assert!(hears.recv_timeout(Duration::from_millis(20)).is_err());
        drop(raw);
        hears.recv_timeout(PATIENCE).unwrap();
    }
}

#[test]
fn device_that_is_reset_stops_and_starts_anew() {
    const RESET_OWNER: u32 = 4;
    const RESET_DEVICE: u32 = 34;
    for code in [RESET_OWNER, RESET_DEVICE] {
        let mut host = Host::new();
        let (mut raw, mut guest) = unsaid(&host, &Config::default());
        for round in 0..3 {
            say(&raw, &[features(&guest), memory(&guest)]);
            (0..2).for_each(|index| say(&raw, &ring(&guest, index, 0)));
            assert!(raw.sync(), "{:?}", host.fault());
            exercise(&mut host, &mut guest, round);
            // Once while the rings run, and once more when there is nothing to reset.
            raw.send(code, &[], &[]);
            raw.send(code, &[], &[]);
            assert!(raw.sync(), "{:?}", host.fault());
            assert_eq!(host.port.status().live_pairs, 0);
            guest.transmit(0, &[frame(60, 1)]);
            host.send(&[frame(60, 1)]);
            assert!(host.receive(0).is_empty());
            assert_eq!(host.drops(DropReason::NotConnected), round + 1);
            // The driver begins anew.
            let MockGuest { memory, queues, .. } = &mut guest;
            queues.iter_mut().for_each(|queue| queue.reset(memory));
        }
        assert_eq!(host.fault(), None);
    }
}

#[test]
fn messages_of_features_that_were_not_offered_are_refused_and_end_no_process() {
    let event = eventfd();
    let fd = event.as_raw_fd();
    const SET_BACKEND_REQ_FD: u32 = 21;
    const SET_INFLIGHT_FD: u32 = 32;
    const VRING_KICK: u32 = 35;
    // What it is, whether the front-end learns of it if it asks, and whether the session goes on if it does not.
    for (name, code, body, fds, is_taken) in [
        ("IOTLB_MSG", IOTLB_MSG, vec![0; 40], vec![], false),
        ("CREATE_CRYPTO_SESSION", 26, vec![0; 64], vec![], false),
        ("CLOSE_CRYPTO_SESSION", 27, vec![0; 8], vec![], false),
        ("POSTCOPY_ADVISE", 28, vec![], vec![], false),
        ("POSTCOPY_LISTEN", 29, vec![], vec![], false),
        ("POSTCOPY_END", 30, vec![], vec![], false),
        ("GPU_SET_SOCKET", 33, vec![], vec![fd], false),
        ("GET_SHARED_OBJECT", 41, vec![0; 16], vec![], false),
        ("SET_BACKEND_REQ_FD", SET_BACKEND_REQ_FD, vec![], vec![fd], true),
        ("SET_INFLIGHT_FD", SET_INFLIGHT_FD, vec![0; 24], vec![fd], true),
        ("SET_LOG_FD", SET_LOG_FD, vec![], vec![fd], true),
        ("VRING_KICK", VRING_KICK, words32(&[0, 0]), vec![], true),
        ("SET_CONFIG", 25, vec![0; 16], vec![], true),
    ] {
        let mut host = Host::new();
        let mut raw = RawFrontend::connect(&host.path);
        raw.negotiate();
        raw.send(code, &body, &fds);
        assert_eq!(raw.sync(), is_taken, "{name}: {:?}", host.fault());
        match host.fault() {
            Some(fault) => assert!(!is_taken && fault.to_string().contains(name), "{name}: {fault}"),
            None => assert!(is_taken, "{name}"),
        }
        drop(raw);
        host.wait_disconnected();
        serves_the_next(&mut host);
    }
}
