//! Front-ends that share descriptors with us and have their writers wait: they stop their own port and nothing else.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]
#![allow(unsafe_code, reason = "descriptors that are shared with the back-end")]

mod common;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use common::*;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use vhost::VhostBackend;
use vmm_sys_util::eventfd::EventFd;
use vsteer_vhost::net::port::PortFault;

/// The longest that a write may take: it is interrupted after 20 ms, and a busy machine may add to that.
const LIMIT: Duration = Duration::from_secs(5);

/// Takes O_NONBLOCK off the description that we share with the back-end.
fn make_blocking(fd: BorrowedFd<'_>) {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
    fcntl(fd, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK)).unwrap();
}

fn descriptor(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the event keeps it open.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

/// Fills the counter, and has whoever writes to it wait.
fn trap(event: &EventFd) {
    let _ = event.read();
    event.write(u64::MAX - 1).unwrap();
    make_blocking(descriptor(event));
}

fn stuck(queue: usize, descriptor: &'static str) -> Option<PortFault> {
    Some(PortFault::Stuck { queue, descriptor })
}

#[test]
fn call_that_waits_is_interrupted_once_and_goes_a_detour_from_then_on() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    for receiveq in [true, false] {
        for round in 0..3 {
            let mut guest = MockGuest::connect(&host.path, &Config::default());
            exercise(&mut host, &mut guest, 1);
            let index = usize::from(!receiveq);
            trap(&guest.queues[index].call);
            let begin = Instant::now();
            if receiveq {
                guest.receive_buffers(0, 1, SLOT as u32);
                host.send(&[frame(60, 1)]);
            } else {
                guest.transmit(0, &[frame(60, 1)]);
                host.receive(0);
            }
            assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
            wait_until("the port says so", || host.fault() == stuck(index, "call"));
            innocent.moves();
            drop(guest);
            host.wait_disconnected();
            host.counters = Default::default();
            let _ = round;
            serves_the_next(&mut host);
        }
    }
    innocent.finish();
}

#[test]
fn error_descriptor_that_waits_is_interrupted_too() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    for _ in 0..3 {
        let mut guest = MockGuest::connect(&host.path, &Config::default());
        trap(&guest.queues[1].error);
        let (memory, queue) = guest.transmitq(0);
        queue.offer(memory, 9999);
        queue.publish(memory);
        let begin = Instant::now();
        host.receive(0);
        assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
        assert!(host.fault().is_some());
        innocent.moves();
        drop(guest);
        host.wait_disconnected();
        serves_the_next(&mut host);
    }
    innocent.finish();
}

#[test]
fn pipe_that_is_full_holds_up_nobody() {
    let innocent = Innocent::start();
    let mut host = Host::new();
    for is_blocking in [false, true] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&vec![0; 65_536]).unwrap();
        let mut guest = MockGuest::connect(&host.path, &Config::default());
        guest.frontend.set_vring_call(0, &event_of(writer.as_raw_fd())).unwrap();
        exercise(&mut host, &mut guest, 1);
        if is_blocking {
            make_blocking(writer.as_fd());
            guest.receive_buffers(0, 1, SLOT as u32);
            host.send(&[frame(60, 1)]);
            wait_until("the port says so", || host.fault() == stuck(0, "call"));
        } else {
            exercise(&mut host, &mut guest, 2);
            assert_eq!(host.fault(), None);
        }
        innocent.moves();
        drop((guest, reader));
        host.wait_disconnected();
        host.counters = Default::default();
        serves_the_next(&mut host);
    }
    innocent.finish();
}

#[test]
fn calls_by_a_pipe_arrive() {
    use std::io::Read;
    let mut host = Host::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut guest = MockGuest::connect(&host.path, &Config::default());
    guest.frontend.set_vring_call(1, &event_of(writer.as_raw_fd())).unwrap();
    // Once for whatever a back-end before us did not call for, and once for each burst.
    reader.read_exact(&mut [0; 8]).unwrap();
    for _ in 0..10 {
        guest.transmit(0, &[frame(60, 1)]);
        assert_eq!(host.receive(0).len(), 1);
        let (memory, queue) = guest.transmitq(0);
        queue.take_used(memory);
        reader.read_exact(&mut [0; 8]).unwrap();
    }
}

#[test]
fn terminals_and_devices_as_descriptors_hold_up_nobody() {
    let mut host = Host::new();
    let terminal =
        nix::fcntl::open("/dev/ptmx", OFlag::O_RDWR | OFlag::O_NOCTTY, nix::sys::stat::Mode::empty());
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let mut devices = vec![null];
    devices.extend(terminal.ok().map(File::from));
    for device in devices {
        let mut guest = MockGuest::connect(&host.path, &Config::default());
        for index in 0..2 {
            let event = event_of(device.as_raw_fd());
            guest.frontend.set_vring_call(index, &event).unwrap();
            guest.frontend.set_vring_err(index, &event).unwrap();
            guest.frontend.set_vring_kick(index, &event).unwrap();
        }
        for seed in 0..3 {
            exercise(&mut host, &mut guest, seed);
        }
        drop(guest);
        host.wait_disconnected();
        serves_the_next(&mut host);
    }
}
