//! Front-ends that break the protocol: each is cut off with a reason, or served as other back-ends serve it; the endpoint
//! serves the next one, and another port in the same process loses nothing.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

use common::code::*;
use common::*;
use vsteer_vhost::net::port::PortFault;
use vsteer_vhost::ring::{RingFault, RingPart};

const GPA: u64 = 0x10_0000;
const LEN: u64 = 1 << 20;
const USER: u64 = FRONTEND_BASE;

/// What the port must say.
#[derive(Debug, Clone, Copy)]
enum Says {
    /// The front-end is cut off: it broke the protocol.
    Protocol,
    /// The front-end is cut off: its memory cannot be used.
    Memory,
    /// A ring lies in no memory; the session goes on.
    NoRing,
    /// A ring is misaligned; the session goes on.
    Misaligned,
    /// The message is harmless, and the session goes on.
    Nothing,
}

fn attack(host: &mut Host, name: &str, says: Says, act: impl FnOnce(&mut RawFrontend)) {
    let before = host.port.status().connections;
    let mut raw = RawFrontend::connect(&host.path);
    act(&mut raw);
    let alive = raw.sync();
    let is_cut_off = matches!(says, Says::Protocol | Says::Memory);
    assert_eq!(alive, !is_cut_off, "{name}: {:?}", host.fault());
    let is_as_said = |fault: &Option<PortFault>| match (says, fault) {
        (Says::Protocol, Some(PortFault::Protocol(_)))
        | (Says::Memory, Some(PortFault::Memory(_)))
        | (Says::Nothing, None) => true,
        (Says::NoRing, Some(PortFault::Ring { fault, .. })) => {
            matches!(fault, RingFault::RingUnmapped { .. } | RingFault::RingOutsideMemory { .. })
        }
        (Says::Misaligned, Some(PortFault::Ring { fault, .. })) => {
            matches!(fault, RingFault::RingMisaligned { .. })
        }
        _ => false,
    };
    assert!(is_as_said(&host.fault()), "{name}: {:?}", host.fault());
    drop(raw);
    // A connection that said nothing about the device was nobody's session.
    if host.port.status().connections > before {
        host.wait_disconnected();
    }
    serves_the_next(host);
}

fn vring(index: u32, value: u32) -> Vec<u8> {
    words32(&[index, value])
}

#[test]
fn broken_messages_end_the_session_and_nothing_else() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    let file = memfd(LEN);
    let fd = file.as_raw_fd();
    let event = eventfd();
    let kick = event.as_raw_fd();
    let with_memory = |raw: &RawFrontend| {
        raw.negotiate();
        raw.send(SET_MEM_TABLE, &memory_table(&[[GPA, LEN, USER, 0]]), &[fd]);
    };
    let many = |count: u64| (0..count).map(|i| [GPA + i * LEN, LEN, USER + i * LEN, 0]).collect();
    let tables: &[(&str, Says, Vec<[u64; 4]>, usize)] = &[
        ("overlapping regions", Says::Memory, vec![[GPA, LEN, USER, 0], [GPA + 4096, LEN, USER + LEN, 0]], 2),
        ("region without bytes", Says::Memory, vec![[GPA, 0, USER, 0]], 1),
        ("region that wraps", Says::Memory, vec![[u64::MAX - 4095, LEN, USER, 0]], 1),
        ("front-end address that wraps", Says::Memory, vec![[GPA, LEN, u64::MAX - 4095, 0]], 1),
        ("offset that wraps", Says::Memory, vec![[GPA, LEN, USER, u64::MAX - 4095]], 1),
        ("offset that is negative", Says::Memory, vec![[GPA, 4096, USER, 1 << 63]], 1),
        ("offset inside a page", Says::Nothing, vec![[GPA, 4096, USER, 7]], 1),
        ("file too short", Says::Memory, vec![[GPA, LEN + 4096, USER, 0]], 1),
        ("file too short for the offset", Says::Memory, vec![[GPA, LEN, USER, 4096]], 1),
        (
            "one of two files too short",
            Says::Memory,
            vec![[GPA, LEN, USER, 0], [1 << 30, 2 * LEN, USER + LEN, 0]],
            2,
        ),
        (
            "fewer descriptors than regions",
            Says::Protocol,
            vec![[GPA, LEN, USER, 0], [1 << 30, LEN, USER + LEN, 0]],
            1,
        ),
        ("more descriptors than regions", Says::Nothing, vec![[GPA, LEN, USER, 0]], 2),
        ("no descriptor", Says::Protocol, vec![[GPA, LEN, USER, 0]], 0),
        ("no region", Says::Nothing, vec![], 0),
        ("many regions", Says::Nothing, many(127), 127),
        ("regions longer than a message", Says::Protocol, many(128), 128),
    ];
    for (name, says, regions, fds) in tables {
        attack(&mut host, name, *says, |raw| {
            raw.negotiate();
            raw.send(SET_MEM_TABLE, &memory_table(regions), &vec![fd; *fds]);
        });
    }
    attack(&mut host, "more regions than said", Says::Nothing, |raw| {
        raw.negotiate();
        let mut table = memory_table(&[[GPA, LEN, USER, 0], [0; 4]]);
        table[0] = 1;
        raw.send(SET_MEM_TABLE, &table, &[fd]);
    });
    attack(&mut host, "fewer regions than said", Says::Protocol, |raw| {
        raw.negotiate();
        let mut table = memory_table(&[[GPA, LEN, USER, 0]]);
        table[..4].copy_from_slice(&[255; 4]);
        raw.send(SET_MEM_TABLE, &table, &[fd; 2]);
    });
    let added: &[(&str, Says, [u64; 4], usize)] = &[
        ("added region that overlaps", Says::Memory, [GPA + 4096, LEN, USER + LEN, 0], 1),
        ("added region without bytes", Says::Memory, [1 << 30, 0, USER + LEN, 0], 1),
        ("added region that wraps", Says::Memory, [u64::MAX - 4095, LEN, USER + LEN, 0], 1),
        ("added front-end address that wraps", Says::Memory, [1 << 30, LEN, u64::MAX - 4095, 0], 1),
        ("added region without descriptor", Says::Protocol, [1 << 30, LEN, USER + LEN, 0], 0),
        ("added region with two descriptors", Says::Nothing, [1 << 30, LEN, USER + LEN, 0], 2),
        ("added region of a short file", Says::Memory, [1 << 30, 2 * LEN, USER + LEN, 0], 1),
    ];
    for (name, says, region, fds) in added {
        attack(&mut host, name, *says, |raw| {
            with_memory(raw);
            let mut body = words64(&[0]);
            body.extend(words64(region));
            raw.send(ADD_MEM_REG, &body, &vec![fd; *fds]);
        });
    }
    attack(&mut host, "region removed that is not there", Says::Memory, |raw| {
        with_memory(raw);
        raw.send(REM_MEM_REG, &words64(&[0, GPA + 4096, LEN, USER, 0]), &[]);
    });
    for (name, fd) in [
        ("event", kick),
        ("pipe", std::io::pipe().unwrap().0.into_raw_fd()),
        ("folder", File::open("/").unwrap().into_raw_fd()),
        ("device without memory", File::open("/dev/null").unwrap().into_raw_fd()),
        ("file that is read only", File::open("/proc/self/exe").unwrap().into_raw_fd()),
    ] {
        attack(&mut host, &format!("memory that is none: {name}"), Says::Memory, |raw| {
            raw.negotiate();
            raw.send(SET_MEM_TABLE, &memory_table(&[[GPA, 4096, USER, 0]]), &[fd]);
        });
    }

    for (name, says, code, body) in [
        ("unknown message", Says::Protocol, 9999, vec![]),
        ("message zero", Says::Protocol, 0, vec![]),
        ("announcement before anything", Says::Nothing, SEND_RARP, words64(&[0])),
        ("SET_LOG_FD", Says::Nothing, SET_LOG_FD, vec![]),
        ("features that are too short", Says::Protocol, SET_FEATURES, vec![0; 4]),
        ("features with more behind them", Says::Nothing, SET_FEATURES, vec![0; 12]),
        ("owner with a body", Says::Nothing, SET_OWNER, vec![0; 8]),
        ("vring address that is too short", Says::Protocol, SET_VRING_ADDR, vec![0; 39]),
        ("features that were not offered", Says::Protocol, SET_FEATURES, words64(&[u64::MAX])),
        ("enable before features", Says::Nothing, SET_VRING_ENABLE, vring(0, 1)),
        ("log without memory", Says::Protocol, SET_LOG_BASE, words64(&[4096, 0])),
        ("slots before their feature", Says::Nothing, GET_MAX_MEM_SLOTS, vec![]),
        ("base before anything", Says::Nothing, GET_VRING_BASE, vring(0, 0)),
        ("MTU that is none", Says::Protocol, NET_SET_MTU, words64(&[67])),
        ("rings in the other byte order", Says::Protocol, SET_VRING_ENDIAN, vring(0, 1)),
        ("IOMMU without its feature", Says::Protocol, IOTLB_MSG, vec![0; 40]),
    ] {
        attack(&mut host, name, says, |raw| raw.send(code, &body, &[]));
    }
    attack(&mut host, "second owner", Says::Nothing, |raw| {
        raw.negotiate();
        raw.send(SET_OWNER, &[], &[]);
    });
    attack(&mut host, "event descriptor without an owner", Says::Nothing, |raw| {
        raw.send(SET_VRING_ERR, &words64(&[0]), &[kick]);
        raw.send(SET_VRING_CALL, &words64(&[0]), &[kick]);
    });
    attack(&mut host, "kick before anything else", Says::Nothing, |raw| {
        raw.send(SET_VRING_KICK, &words64(&[0]), &[kick]);
    });
    attack(&mut host, "descriptor where none belongs", Says::Nothing, |raw| {
        raw.send(SET_OWNER, &[], &[fd]);
    });
    attack(&mut host, "253 descriptors where none belong", Says::Nothing, |raw| {
        raw.send(GET_FEATURES, &[], &[fd; 253]);
    });
    for (name, size) in [("body of 4 GiB", u32::MAX), ("body beyond the limit", 4097)] {
        attack(&mut host, name, Says::Protocol, |raw| {
            raw.send_bytes(&words32(&[SET_FEATURES, 1, size]), &[]);
            raw.send_bytes(&[0; 64], &[]);
        });
    }
    attack(&mut host, "another protocol", Says::Protocol, |raw| {
        raw.send_bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &[]);
    });
    attack(&mut host, "another version", Says::Nothing, |raw| {
        raw.send_bytes(&words32(&[GET_FEATURES, 3, 0]), &[]);
    });
    attack(&mut host, "reply flag in a request", Says::Nothing, |raw| {
        raw.send_bytes(&words32(&[GET_FEATURES, 5, 0]), &[]);
    });
    innocent.finish();
}

#[test]
fn broken_vring_messages_end_the_session_and_nothing_else() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    let file = memfd(LEN);
    let event = eventfd();
    let kick = event.as_raw_fd();
    let memory = |raw: &RawFrontend| {
        raw.negotiate();
        raw.send(SET_MEM_TABLE, &memory_table(&[[GPA, LEN, USER, 0]]), &[file.as_raw_fd()]);
    };
    for index in [2u32, 3, 255, 256, u32::MAX] {
        let address = [u64::from(index), USER, USER, USER, 0];
        for (code, body) in [
            (SET_VRING_NUM, vring(index, 256)),
            (SET_VRING_BASE, vring(index, 0)),
            (GET_VRING_BASE, vring(index, 0)),
            (SET_VRING_ENABLE, vring(index, 1)),
            (SET_VRING_ADDR, words64(&address)),
        ] {
            attack(&mut host, &format!("message {code} for queue {index}"), Says::Protocol, |raw| {
                memory(raw);
                raw.send(code, &body, &[]);
            });
        }
    }
    for code in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        for (name, says, value, fds) in [
            ("queue 2", Says::Protocol, 2, vec![kick]),
            ("queue 255", Says::Protocol, 255, vec![kick]),
            ("no descriptor", Says::Protocol, 0, vec![]),
            ("a descriptor and the flag for none", Says::Nothing, 0x100, vec![kick]),
            ("two descriptors", Says::Nothing, 0, vec![kick, kick]),
            ("the flag for none", Says::Nothing, 0x100, vec![]),
        ] {
            attack(&mut host, &format!("message {code}: {name}"), says, |raw| {
                memory(raw);
                raw.send(code, &words64(&[value]), &fds);
            });
        }
    }
    for (name, num) in [("zero", 0), ("32 769", 32_769), ("65 536", 65_536), ("4 G", u32::MAX)] {
        attack(&mut host, &format!("queue size {name}"), Says::Protocol, |raw| {
            memory(raw);
            raw.send(SET_VRING_NUM, &vring(0, num), &[]);
        });
    }
    attack(&mut host, "enable with 2", Says::Nothing, |raw| {
        memory(raw);
        raw.send(SET_VRING_ENABLE, &vring(0, 2), &[]);
    });
    let start = |raw: &RawFrontend, [descriptors, used, avail]: [u64; 3]| {
        raw.send(SET_VRING_NUM, &vring(0, 16), &[]);
        raw.send(SET_VRING_ADDR, &words64(&[0, descriptors, used, avail, 0]), &[]);
        raw.send(SET_VRING_KICK, &words64(&[0]), &[kick]);
    };
    for (name, parts) in [
        ("descriptor table", [USER + 8, USER, USER]),
        ("used ring", [USER, USER + 2, USER]),
        ("available ring", [USER, USER, USER + 1]),
    ] {
        attack(&mut host, &format!("misaligned {name}"), Says::Misaligned, |raw| {
            memory(raw);
            start(raw, parts);
        });
    }
    for (name, addr) in [
        ("outside memory", USER + LEN),
        ("across the end of memory", USER + LEN - 16),
        ("at zero", 0),
        ("at the end", !15),
    ] {
        attack(&mut host, &format!("ring {name}"), Says::NoRing, |raw| {
            memory(raw);
            start(raw, [addr; 3]);
        });
    }
    attack(&mut host, "ring without memory", Says::NoRing, |raw| {
        raw.negotiate();
        start(raw, [USER; 3]);
    });
    attack(&mut host, "ring without its size", Says::Nothing, |raw| {
        memory(raw);
        raw.send(SET_VRING_ADDR, &words64(&[0, USER, USER, USER, 0]), &[]);
    });
    innocent.finish();
}

#[test]
fn ring_that_is_misaligned_in_our_memory_is_refused() {
    let mut host = Host::new();
    let file = memfd(LEN);
    let event = eventfd();
    let mut raw = RawFrontend::connect(&host.path);
    raw.negotiate();
    // The front-end's addresses are aligned; where they land in the region is not.
    raw.send(SET_MEM_TABLE, &memory_table(&[[GPA + 8, LEN - 8, USER + 8, 0]]), &[file.as_raw_fd()]);
    raw.send(SET_VRING_NUM, &vring(1, 256), &[]);
    raw.send(SET_VRING_ADDR, &words64(&[1, USER + 4096, USER + 16_384, USER + 32_768, 0]), &[]);
    raw.send(SET_VRING_KICK, &words64(&[1]), &[event.as_raw_fd()]);
    assert!(raw.sync());
    let fault = RingFault::RingMisaligned { part: RingPart::Descriptors, addr: GPA + 4096 };
    assert_eq!(host.fault(), Some(PortFault::Ring { queue: 1, fault }));
    drop(raw);
    host.wait_disconnected();
    serves_the_next(&mut host);
}

/// A whole handshake: messages with the descriptors that go with them.
fn transcript(memory: RawFd, event: RawFd) -> Vec<(Vec<u8>, Vec<RawFd>)> {
    let mut all = vec![
        (message(SET_OWNER, &[]), vec![]),
        (message(GET_FEATURES, &[]), vec![]),
        (message(GET_PROTOCOL_FEATURES, &[]), vec![]),
        (message(SET_PROTOCOL_FEATURES, &words64(&[wanted_protocol().bits()])), vec![]),
        (message(GET_QUEUE_NUM, &[]), vec![]),
        (message(GET_MAX_MEM_SLOTS, &[]), vec![]),
        (message(SET_FEATURES, &words64(&[VERSION_1 | PROTOCOL_FEATURES])), vec![]),
        (message(SET_MEM_TABLE, &memory_table(&[[GPA, LEN, USER, 0]])), vec![memory]),
        (message(ADD_MEM_REG, &words64(&[0, 1 << 30, LEN, USER + LEN, 0])), vec![memory]),
        (message(REM_MEM_REG, &words64(&[0, 1 << 30, LEN, USER + LEN, 0])), vec![]),
    ];
    for queue in 0..2u32 {
        let parts = [u64::from(queue), USER, USER + 16_384, USER + 8192, 0];
        all.push((message(SET_VRING_NUM, &vring(queue, 256)), vec![]));
        all.push((message(SET_VRING_BASE, &vring(queue, 0)), vec![]));
        all.push((message(SET_VRING_ADDR, &words64(&parts)), vec![]));
        for code in [SET_VRING_ERR, SET_VRING_CALL, SET_VRING_KICK] {
            all.push((message(code, &words64(&[u64::from(queue)])), vec![event]));
        }
        all.push((message(SET_VRING_ENABLE, &vring(queue, 1)), vec![]));
    }
    all.push((message(GET_VRING_BASE, &vring(0, 0)), vec![]));
    all.push((message(RESET_OWNER, &[]), vec![]));
    all
}

#[test]
fn front_end_may_go_at_every_byte_of_a_handshake() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    let (file, event) = (memfd(LEN), eventfd());
    let messages = transcript(file.as_raw_fd(), event.as_raw_fd());
    for (at, (bytes, fds)) in messages.iter().enumerate() {
        for cut in 0..=bytes.len() {
            let raw = RawFrontend::connect(&host.path);
            for (bytes, fds) in &messages[..at] {
                raw.send_bytes(bytes, fds);
            }
            if cut > 0 {
                raw.send_bytes(&bytes[..cut], fds);
            }
            drop(raw);
            host.receive(0);
        }
    }
    // The first message makes a connection the front-end: all who sent it are served.
    let sessions = messages.iter().map(|(bytes, _)| bytes.len() as u64 + 1).sum::<u64>() - 12;
    wait_until("every front-end was served", || {
        let status = host.port.status();
        host.receive(0);
        status.connections == sessions && !status.connected
    });
    host.wait_disconnected();
    serves_the_next(&mut host);
    innocent.finish();
}

#[test]
fn event_descriptors_of_every_kind_are_survived() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let full = {
        let (kept, mut full) = std::io::pipe().unwrap();
        // A pipe holds 64 KiB unless it was told otherwise.
        full.write_all(&[0; 65_536]).unwrap();
        (kept, full)
    };
    let closed = {
        let (gone, closed) = std::io::pipe().unwrap();
        drop(gone);
        closed
    };
    let regular = memfd(0);
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let read_only = File::open("/proc/self/status").unwrap();
    let descriptors = [
        ("pipe", writer.as_raw_fd()),
        ("pipe's other end", reader.as_raw_fd()),
        ("full pipe", full.1.as_raw_fd()),
        ("closed pipe", closed.as_raw_fd()),
        ("regular file", regular.as_raw_fd()),
        ("device", null.as_raw_fd()),
        ("file that cannot be written", read_only.as_raw_fd()),
    ];
    for (name, fd) in descriptors {
        let mut guest = MockGuest::connect(&host.path, &Config::default());
        // The frontend hands over whatever it is given.
        for index in 0..2 {
            let file = event_of(fd);
            vhost::VhostBackend::set_vring_call(&guest.frontend, index, &file).unwrap();
            vhost::VhostBackend::set_vring_err(&guest.frontend, index, &file).unwrap();
            vhost::VhostBackend::set_vring_kick(&guest.frontend, index, &file).unwrap();
        }
        for seed in 0..3 {
            exercise(&mut host, &mut guest, seed);
        }
        let (memory, queue) = guest.transmitq(0);
        queue.offer(memory, 9999);
        queue.publish(memory);
        host.receive(0);
        assert!(host.fault().is_some(), "{name}");
        drop(guest);
        host.wait_disconnected();
        serves_the_next(&mut host);
    }
    assert_eq!(regular.metadata().unwrap().len(), 0, "nothing is written to a regular file");
    innocent.finish();
}
