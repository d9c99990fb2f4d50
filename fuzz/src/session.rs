//! A front-end conversation made of arbitrary bytes, and a worker that receives and transmits in between.
//!
//! The input is a list of steps. Most are valid messages with fuzzed fields, so that conversations get far; others are raw
//! bytes, writes into guest memory where the rings lie, truncations, and turns of the worker. Nothing may panic, no call
//! may hang, and every frame that was offered to the port is counted. The port outlives the conversation: one port serves
//! every run, as one switch serves every front-end.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;
use vsteer_switch::counters::PortCounters;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::packet::{BURST, Burst, Frame, Offload, Tail};
use vsteer_switch::port::PortId;
use vsteer_vhost::net::features::OffloadOptions;
use vsteer_vhost::net::port::{Scratch, VhostOptions, VhostPort};
use vsteer_vhost::session::endpoint::{Endpoint, Gone};
use vsteer_vhost::session::server::Server;

/// Guest-physical start of memory; front-end addresses are the same.
const GPA: u64 = 0x10_0000;
const MEMORY_BYTES: u64 = 1 << 20;
/// Where the rings of queue 0 and 1 lie in memory, and how far apart.
const RINGS: u64 = 0x1000;
const RING_SIZE: u16 = 64;
const FRAME_BYTES: usize = 300;

/// What a conversation got to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Outcome {
    /// Packets received from the guest.
    pub(crate) received: u64,
    /// Frames that the guest was given.
    pub(crate) transmitted: u64,
    /// The port found something wrong.
    pub(crate) faulted: bool,
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// `N` bytes, zeroes where the input ends.
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let len = N.min(self.0.len());
        bytes[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        bytes
    }

    /// `usual`, or now and then anything at all.
    fn field(&mut self, usual: u64) -> u64 {
        match self.take::<1>()[0] {
            0..=239 => usual,
            240..=247 => usual ^ 1 << (self.take::<1>()[0] % 64),
            _ => u64::from_le_bytes(self.take()),
        }
    }
}

struct Conversation {
    stream: UnixStream,
    memory: File,
    event: EventFd,
    /// What a driver that behaves would have made available in either queue.
    avail: [Cell<u64>; 2],
}

impl Conversation {
    fn send(&self, code: u32, body: &[u8], fds: &[RawFd]) {
        let mut bytes = Vec::new();
        for word in [code, 1, u32::try_from(body.len()).unwrap_or(0)] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(body);
        // The port may have hung up, which is its right.
        let _ = self.stream.send_with_fds(&[&bytes[..]], fds);
    }

    fn send_words(&self, code: u32, words: &[u64], fds: &[RawFd]) {
        let body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.send(code, &body, fds);
    }

    /// Sends a message whose fields are what `input` makes of the usual ones.
    fn message(&self, which: u8, input: &mut Input<'_>) {
        let queue = input.field(u64::from(which >> 7));
        let (memory, event) = (self.memory.as_raw_fd(), self.event.as_raw_fd());
        let state = |value: u64| queue & 0xffff_ffff | value << 32;
        let ring = GPA + RINGS * (1 + (queue & 1));
        match which % 16 {
            0 => self.send(3, &[], &[]),
            1 => self.send_words(16, &[input.field(0xa20b)], &[]),
            2 => self.send_words(2, &[input.field(1 << 32 | 1 << 30 | 1 << 28 | 1 << 15)], &[]),
            3 => {
                let region = [GPA, MEMORY_BYTES, GPA, 0].map(|usual| input.field(usual));
                self.send_words(5, &[input.field(1), region[0], region[1], region[2], region[3]], &[memory]);
            }
            4 => self.send_words(8, &[state(input.field(u64::from(RING_SIZE)))], &[]),
            5 => self.send_words(10, &[state(input.field(0))], &[]),
            6 => {
                let parts = [ring, ring + 0xc00, ring + 0x800].map(|usual| input.field(usual));
                self.send_words(9, &[queue, parts[0], parts[1], parts[2], input.field(0)], &[]);
            }
            7 => self.send_words(13, &[queue], &[event]),
            8 => self.send_words(12, &[queue], &[event]),
            9 => self.send_words(18, &[state(input.field(1))], &[]),
            10 => self.send_words(11, &[state(0)], &[]),
            11 => self.send_words(6, &[input.field(4096), input.field(0)], &[event_or(memory, input)]),
            12 => {
                let region = [1 << 30, MEMORY_BYTES, 1 << 30, 0].map(|usual| input.field(usual));
                self.send_words(37, &[0, region[0], region[1], region[2], region[3]], &[memory]);
            }
            13 => self.send_words(38, &[0, 1 << 30, MEMORY_BYTES, 1 << 30, 0], &[]),
            14 => self.send(u32::from(input.take::<1>()[0] % 48), &input.take::<24>(), &[]),
            _ => self.send(34, &[], &[]),
        }
    }

    /// Writes a descriptor, an available entry or an index of queue 0 or 1.
    fn ring_write(&self, input: &mut Input<'_>) {
        let which = input.take::<1>()[0];
        let base = RINGS * (1 + u64::from(which & 1));
        let slot = u64::from(input.take::<1>()[0]) % u64::from(RING_SIZE);
        let write = |bytes: &[u8], at: u64| drop(self.memory.write_all_at(bytes, base + at));
        match which >> 1 & 3 {
            0 => {
                let mut descriptor = [0; 16];
                descriptor[..8].copy_from_slice(&input.field(GPA + 0x10_000 + 2048 * slot).to_le_bytes());
                descriptor[8..]
                    .copy_from_slice(&input.field(512 | u64::from(which & 1 ^ 1) << 33).to_le_bytes());
                write(&descriptor, 16 * slot);
            }
            1 => write(&input.field(slot).to_le_bytes()[..2], 0x800 + 4 + 2 * slot),
            _ => {
                let avail = &self.avail[usize::from(which & 1)];
                avail.set(avail.get() + slot % 8);
                write(&input.field(avail.get()).to_le_bytes()[..2], 0x800 + 2);
            }
        }
    }

    /// Waits until the port has served everything so far, or has hung up.
    fn sync(&mut self) {
        let _ = self.stream.set_read_timeout(Some(Duration::from_millis(20)));
        self.send(1, &[], &[]);
        let _ = self.stream.read(&mut [0; 4096]);
    }
}

fn event_or(memory: RawFd, input: &mut Input<'_>) -> RawFd {
    if input.take::<1>()[0] == 0 { -1 } else { memory }
}

struct Worker {
    burst: Burst,
    scratch: Scratch,
    counters: PortCounters,
    offered: u64,
}

impl Worker {
    fn turn(&mut self, port: &VhostPort, frames: usize) {
        if let Some(received) = port.receive(0, &mut self.burst, &mut self.scratch, &self.counters) {
            for index in 0..self.burst.len() {
                let frame = self.burst.frame(index);
                let mut tail = vec![0; frame.tail.len()];
                frame.tail.copy_to(&mut tail);
            }
            self.burst.clear();
            received.complete();
        }
        let bytes = [0x5a; FRAME_BYTES];
        let frame = Frame { head: &bytes, tail: Tail::EMPTY, offload: &Offload::NONE };
        let frames = &[frame; BURST][..frames % (BURST + 1)];
        self.offered += frames.len() as u64;
        match port.transmit(0) {
            Ok(mut transmitter) => {
                transmitter.send(frames.iter().copied(), &mut self.scratch, &self.counters);
                transmitter.finish();
            }
            Err(reason) => self.counters.dropped(reason, frames.len() as u64),
        }
    }

    fn check(&self) {
        const INGRESS: [DropReason; 3] =
            [DropReason::FrameTooShort, DropReason::BadOffload, DropReason::QueueDisabled];
        const EGRESS: [DropReason; 4] = [
            DropReason::NotConnected,
            DropReason::NoGuestBuffer,
            DropReason::GuestBufferTooSmall,
            DropReason::RingBroken,
        ];
        let drops: u64 = EGRESS.iter().map(|&reason| self.counters.drops(reason)).sum();
        assert_eq!(self.counters.tx_pkts.get() + drops, self.offered, "every frame is counted once");
        for &reason in DropReason::ALL {
            let known =
                INGRESS.contains(&reason) || EGRESS.contains(&reason) || reason == DropReason::TooLong;
            assert!(known || self.counters.drops(reason) == 0, "{reason:?} is no reason of a guest's port");
        }
    }
}

/// Plays the conversation in `input`.
pub(crate) fn run(input: &[u8]) -> Outcome {
    let mut input = Input(input);
    let options = VhostOptions { queue_pairs: 1, offloads: OffloadOptions::default() };
    let port = Arc::new(VhostPort::new(PortId::ZERO, options));
    let (stream, far) = UnixStream::pair().expect("a socket pair");
    let endpoint = Endpoint::Connected { stream: far, gone: Gone::new(|| {}) };
    let server = Server::start("fuzz", Arc::clone(&port), endpoint).expect("a session thread");
    let memory = tempfile::tempfile().expect("a file for guest memory");
    memory.set_len(MEMORY_BYTES).expect("guest memory");
    let event = EventFd::new(EFD_NONBLOCK).expect("an event descriptor");
    let mut conversation = Conversation { stream, memory, event, avail: Default::default() };
    let mut worker = Worker {
        burst: Burst::new(),
        scratch: Scratch::default(),
        counters: PortCounters::default(),
        offered: 0,
    };
    // The first byte says how much of an ordinary start comes before the steps.
    let start = input.byte().unwrap_or(0);
    if start & 1 == 1 {
        let usual = &mut Input(&[]);
        for which in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89] {
            conversation.message(which, usual);
        }
        for queue in 0..2u64 {
            for slot in 0..u64::from(RING_SIZE) {
                let at = RINGS * (1 + queue) + 0x800 + 4 + 2 * slot;
                let _ = conversation.memory.write_all_at(&slot.to_le_bytes()[..2], at);
                let mut descriptor = [0; 16];
                descriptor[..8].copy_from_slice(&(GPA + 0x10_000 + 2048 * slot).to_le_bytes());
                descriptor[8..].copy_from_slice(&(512 | (queue ^ 1) << 33).to_le_bytes());
                let _ = conversation.memory.write_all_at(&descriptor, RINGS * (1 + queue) + 16 * slot);
            }
        }
        conversation.sync();
    }
    // Bound: each step takes at least a byte of the input.
    while let Some(step) = input.byte() {
        match step % 16 {
            0..=3 => {
                let which = input.take::<1>()[0];
                conversation.message(which, &mut input);
            }
            4 => drop(conversation.stream.send_with_fds(&[&input.take::<20>()[..]], &[])),
            5 => {
                let keep = if step & 0x10 == 0 { MEMORY_BYTES } else { u64::from(step) << 12 };
                let _ = conversation.memory.set_len(keep.min(MEMORY_BYTES));
            }
            6 => conversation.sync(),
            7 => {
                port.suppress_kicks(0);
                port.request_kick(0);
            }
            8..=11 => conversation.ring_write(&mut input),
            _ => worker.turn(&port, usize::from(step >> 4)),
        }
    }
    conversation.sync();
    worker.turn(&port, BURST);
    worker.check();
    let faulted = port.status().fault.is_some();
    drop(conversation);
    drop(server);
    assert!(!port.status().connected);
    worker.turn(&port, 1);
    worker.check();
    Outcome { received: worker.counters.rx_pkts.get(), transmitted: worker.counters.tx_pkts.get(), faulted }
}
