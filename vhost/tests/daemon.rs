//! Well-behaved front-ends find no difference between our sessions and rust-vmm's daemon (crate `vhost-user-backend`): seeded
//! ones say the same to both, and get the same answers and the same traffic. The daemon's rings are those of the crate
//! `virtio-queue`, so they are another implementation too.
//!
//! What differs on purpose is listed at the head of `session/mod.rs`, and no front-end here does any of it.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod common;

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use common::*;
use tempfile::TempDir;
use vhost::VhostBackend;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{Listener, VhostUserFrontend};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};

/// Seeded front-ends.
const SEEDS: u64 = 150;

/// What each of them does.
const STEPS: usize = 25;

type GuestMemory = GuestMemoryAtomic<GuestMemoryMmap<()>>;

/// What the daemon's rings carried.
#[derive(Default)]
struct Traffic {
    /// Frames from each queue of the guest, in order.
    received: Mutex<Vec<(usize, Vec<u8>)>>,
    /// Frames to put into the receiveqs.
    to_send: Mutex<Vec<Vec<u8>>>,
    memory: Mutex<Option<GuestMemory>>,
    acked: Mutex<u64>,
}

/// The back-end behind the daemon: takes frames from transmitqs, and puts frames into receiveqs when their guest kicks.
struct Sink {
    traffic: Arc<Traffic>,
    queues: usize,
    features: u64,
    protocol: VhostUserProtocolFeatures,
}

impl Sink {
    fn header_len(&self) -> usize {
        if *self.traffic.acked.lock().unwrap() & (VERSION_1 | MRG_RXBUF) == 0 { 10 } else { 12 }
    }

    fn serve(&self, queue: usize, vring: &VringRwLock<GuestMemory>) {
        let memory = self.traffic.memory.lock().unwrap().clone().unwrap();
        let memory = memory.memory();
        let header = self.header_len();
        let mut state = vring.get_mut();
        let mut used = 0;
        loop {
            let is_receiveq = queue.is_multiple_of(2);
            let frame = match is_receiveq {
                true if self.traffic.to_send.lock().unwrap().is_empty() => break,
                true => Some(self.traffic.to_send.lock().unwrap().remove(0)),
                false => None,
            };
            let Some(chain) = state.get_queue_mut().pop_descriptor_chain(memory.clone()) else { break };
            let (head, mut bytes) = (chain.head_index(), Vec::new());
            let mut len = 0;
            match frame {
                Some(frame) => {
                    let mut rest = [vec![0; header], frame].concat();
                    // One buffer: VIRTIO_NET_F_MRG_RXBUF has the number of buffers there.
                    if header == 12 {
                        rest[10] = 1;
                    }
                    for piece in chain.writable() {
                        let take = rest.len().min(piece.len() as usize);
                        memory.write_slice(&rest[..take], piece.addr()).unwrap();
                        rest.drain(..take);
                        len += take as u32;
                    }
                }
                None => {
                    for piece in chain.readable() {
                        let mut part = vec![0; piece.len() as usize];
                        memory.read_slice(&mut part, piece.addr()).unwrap();
                        bytes.extend(part);
                    }
                    self.traffic.received.lock().unwrap().push((queue, bytes.split_off(header)));
                }
            }
            state.add_used(head, len).unwrap();
            used += 1;
        }
        if used > 0 {
            state.signal_used_queue().unwrap();
        }
    }
}

impl VhostUserBackend for Sink {
    type Bitmap = ();
    type Vring = VringRwLock<GuestMemory>;

    fn num_queues(&self) -> usize {
        self.queues
    }

    fn max_queue_size(&self) -> usize {
        32_768
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn acked_features(&self, features: u64) {
        *self.traffic.acked.lock().unwrap() = features;
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.protocol
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn update_memory(&self, memory: GuestMemory) -> io::Result<()> {
        *self.traffic.memory.lock().unwrap() = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::empty()).ok()
    }

    fn handle_event(
        &self,
        event: u16,
        _events: EventSet,
        vrings: &[Self::Vring],
        _thread: usize,
    ) -> io::Result<()> {
        self.serve(event.into(), &vrings[usize::from(event)]);
        Ok(())
    }
}

/// rust-vmm's daemon for one front-end, and the front-end's guest.
struct Daemon {
    guest: Option<MockGuest>,
    traffic: Arc<Traffic>,
    thread: Option<JoinHandle<()>>,
    _dir: TempDir,
}

impl Daemon {
    fn start(pairs: usize, features: u64, protocol: VhostUserProtocolFeatures, config: &Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.sock");
        let mut listener = Listener::new(&path, true).unwrap();
        let traffic = Arc::new(Traffic::default());
        let sink = Arc::new(Sink { traffic: Arc::clone(&traffic), queues: 2 * pairs, features, protocol });
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let mut daemon = VhostUserDaemon::new("reference".into(), sink, memory).unwrap();
        let thread = thread::spawn(move || {
            daemon.start(&mut listener).unwrap();
            // The front-end goes, which is an error there.
            let _ = daemon.wait();
        });
        let guest = MockGuest::connect(&path, config);
        Self { guest: Some(guest), traffic, thread: Some(thread), _dir: dir }
    }

    fn guest(&mut self) -> &mut MockGuest {
        self.guest.as_mut().unwrap()
    }

    /// What came from `queue` since it was last asked, once it is `count` frames.
    fn received(&self, queue: usize, count: usize) -> Vec<Vec<u8>> {
        wait_until("the daemon has received", || self.traffic.received.lock().unwrap().len() >= count);
        let received = std::mem::take(&mut *self.traffic.received.lock().unwrap());
        assert!(received.iter().all(|(from, _)| *from == queue));
        received.into_iter().map(|(_, frame)| frame).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.guest = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A well-behaved front-end's guest.
fn config(random: &mut Random) -> Config {
    let optional = [CSUM, MRG_RXBUF, INDIRECT_DESC, NOTIFY_ON_EMPTY, VERSION_1, 1 << 22];
    let features = optional.iter().filter(|_| random.within(0, 2) > 0).fold(0, |all, bit| all | bit);
    let regions = [(0x10_0000, 16 << 20), (0x800_0000, 1 << 20), (0x4000_0000, 64 << 10)];
    Config {
        features,
        pairs: random.within(1, 3),
        queue_size: [64, 256, 1024][random.within(0, 2)],
        regions: regions[..random.within(1, regions.len())].to_vec(),
        add_regions: random.within(0, 1) == 1,
    }
}

/// Both sides of one seed.
struct Pair {
    host: Host,
    ours: MockGuest,
    daemon: Daemon,
}

impl Pair {
    fn start(config: &Config) -> Self {
        let host = Host::with_pairs(config.pairs as u16);
        let ours = MockGuest::connect(&host.path, config);
        let features = ours.frontend.get_features().unwrap();
        let mut ours = ours;
        let protocol = ours.frontend.get_protocol_features().unwrap();
        let daemon = Daemon::start(config.pairs, features, protocol, config);
        Self { host, ours, daemon }
    }

    /// Asks both the same.
    fn both<T: PartialEq + std::fmt::Debug>(
        &mut self,
        what: &str,
        mut ask: impl FnMut(&mut MockGuest) -> T,
    ) -> T {
        let ours = ask(&mut self.ours);
        let theirs = ask(self.daemon.guest());
        assert_eq!(ours, theirs, "{what}");
        ours
    }

    fn transmit(&mut self, pair: usize, frames: &[Vec<u8>]) {
        let queue = 2 * pair + 1;
        self.ours.transmit(pair, frames);
        assert_eq!(self.host.receive(pair), frames, "ours");
        self.daemon.guest().transmit(pair, frames);
        self.daemon.guest().queues[queue].kick.write(1).unwrap();
        assert_eq!(self.daemon.received(queue, frames.len()), frames, "the daemon");
        self.take_used(queue, frames.len());
    }

    fn receive(&mut self, pair: usize, frames: &[Vec<u8>]) {
        let queue = 2 * pair;
        self.both("buffers", |guest| guest.receive_buffers(pair, frames.len(), SLOT as u32));
        self.host.send_hashed(pair as u32, frames);
        *self.daemon.traffic.to_send.lock().unwrap() = frames.to_vec();
        self.daemon.guest().queues[queue].kick.write(1).unwrap();
        self.take_used(queue, frames.len());
        let header = self.ours.config.header_len();
        self.both("what the guest received", |guest| {
            let len = |i: usize| header + frames[i].len();
            (0..frames.len()).map(|i| guest.memory.read(guest.slot(1024 + i), len(i))).collect::<Vec<_>>()
        });
    }

    fn take_used(&mut self, queue: usize, count: usize) {
        self.both("used buffers", |guest| {
            let (memory, queue) = (&guest.memory, &mut guest.queues[queue]);
            let mut used = Vec::new();
            wait_until("buffers are used", || {
                used.extend(queue.take_used(memory));
                used.len() >= count
            });
            used
        });
    }

    fn stop(&mut self, queue: usize) -> u32 {
        self.both("the base", |guest| guest.frontend.get_vring_base(queue).unwrap())
    }

    fn step(&mut self, random: &mut Random) {
        let pairs = self.ours.config.pairs;
        let queue = random.within(0, 2 * pairs - 1);
        let frames: Vec<_> =
            (0..random.within(1, 32)).map(|_| frame(random.within(60, 1900), random.next())).collect();
        match random.within(0, 9) {
            0..=3 if queue % 2 == 1 => self.transmit(queue / 2, &frames),
            // A hash picks among the receiveqs, so the queue is known only of one.
            0..=3 if pairs == 1 => self.receive(0, &frames),
            4 => {
                let base = self.stop(queue);
                self.both("start", |guest| guest.start_queue(queue, base as u16));
            }
            5 => {
                self.stop(queue);
                self.both("start anew", |guest| {
                    let (memory, ring) = (&guest.memory, &mut guest.queues[queue]);
                    ring.reset(memory);
                    guest.start_queue(queue, 0);
                });
            }
            6 => self.both("disable and enable", |guest| {
                guest.frontend.set_vring_enable(queue, false).unwrap();
                guest.frontend.set_vring_enable(queue, true).unwrap();
            }),
            7 => self.both("other descriptors", |guest| {
                guest.queues[queue].call = eventfd();
                guest.queues[queue].error = eventfd();
                guest.frontend.set_vring_call(queue, &guest.queues[queue].call).unwrap();
                guest.frontend.set_vring_err(queue, &guest.queues[queue].error).unwrap();
            }),
            8 if !self.ours.config.add_regions => self.both("memory again", MockGuest::send_memory),
            _ => {
                self.both("questions", |guest| {
                    let front_end = &mut guest.frontend;
                    let answers = (front_end.get_features().unwrap(), front_end.get_max_mem_slots().unwrap());
                    (answers, front_end.get_protocol_features().unwrap())
                });
            }
        }
    }
}

#[test]
fn well_behaved_front_ends_find_no_difference_to_rust_vmms_daemon() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut pair = Pair::start(&config(&mut random));
        for _ in 0..STEPS {
            pair.step(&mut random);
        }
        assert_eq!(pair.host.fault(), None);
        // The one answer that differs: a queue number is of pairs for QEMU and DPDK, and of queues for the daemon.
        let ours = pair.ours.frontend.get_queue_num().unwrap();
        assert_eq!(pair.daemon.guest().frontend.get_queue_num().unwrap(), 2 * ours);
    }
}
