//! The daemon's view of a ring: forwards every change to the port.
//!
//! The daemon keeps the protocol's state of a ring in its own [`VringMutex`], whose state cannot be made elsewhere, so
//! ours wraps one and acts on what passes through. The daemon makes its rings itself, by `Vring::new`, and offers no way
//! to hand anything in: [`collect`] catches them as they are made, on the thread that makes the daemon.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};

use vhost_user_backend::{VringMutex, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error as QueueError, QueueT};
use vm_memory::GuestMemoryAtomic;

use crate::memory::{GuestAddr, GuestMemory};
use crate::net::port::VhostPort;
use crate::ring::RingSetup;

type Memory = GuestMemoryAtomic<GuestMemory>;

thread_local! {
    static MADE: RefCell<Vec<Vring>> = const { RefCell::new(Vec::new()) };
}

/// Runs `make` and attaches the rings it makes, in order, to the queues of `port`.
pub(super) fn collect<T>(port: &Arc<VhostPort>, make: impl FnOnce() -> T) -> T {
    MADE.with_borrow_mut(Vec::clear);
    let made = make();
    for (queue, ring) in MADE.take().into_iter().enumerate() {
        // A fresh ring is attached once, so the cell is empty.
        let _ = ring.target.set(Target { port: Arc::clone(port), queue });
    }
    made
}

#[derive(Debug)]
struct Target {
    port: Arc<VhostPort>,
    queue: usize,
}

/// A ring as the daemon sees it.
#[derive(Clone)]
pub(super) struct Vring {
    state: VringMutex<Memory>,
    /// The size that the front-end asked for. The daemon's own state keeps its old size when this one is no power of two,
    /// and says nothing.
    size: Arc<AtomicU16>,
    target: Arc<OnceLock<Target>>,
}

impl Vring {
    fn on_port(&self, act: impl FnOnce(&VhostPort, usize)) {
        if let Some(target) = self.target.get() {
            act(&target.port, target.queue);
        }
    }

    fn setup(&self) -> RingSetup {
        let state = self.state.get_ref();
        let queue = state.get_queue();
        RingSetup {
            size: self.size.load(Ordering::Relaxed),
            descriptors: GuestAddr(queue.desc_table()),
            avail: GuestAddr(queue.avail_ring()),
            used: GuestAddr(queue.used_ring()),
        }
    }
}

impl<'a> VringStateGuard<'a, Memory> for Vring {
    type G = <VringMutex<Memory> as VringStateGuard<'a, Memory>>::G;
}

impl<'a> VringStateMutGuard<'a, Memory> for Vring {
    type G = <VringMutex<Memory> as VringStateMutGuard<'a, Memory>>::G;
}

impl VringT<Memory> for Vring {
    fn new(memory: Memory, max_queue_size: u16) -> Result<Self, QueueError> {
        let ring = Self {
            state: VringMutex::new(memory, max_queue_size)?,
            size: Arc::new(AtomicU16::new(max_queue_size)),
            target: Arc::default(),
        };
        MADE.with_borrow_mut(|made| made.push(ring.clone()));
        Ok(ring)
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Memory>>::G {
        self.state.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Memory>>::G {
        self.state.get_mut()
    }

    fn add_used(&self, head: u16, len: u32) -> Result<(), QueueError> {
        self.state.add_used(head, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.state.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.state.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.state.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.state.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.state.set_enabled(enabled);
        self.on_port(|port, queue| port.set_enabled(queue, enabled));
    }

    fn set_queue_info(&self, descriptors: u64, avail: u64, used: u64) -> Result<(), QueueError> {
        self.state.set_queue_info(descriptors, avail, used)?;
        if self.state.get_ref().get_queue().ready() {
            let setup = self.setup();
            self.on_port(|port, queue| port.move_ring(queue, setup));
        }
        Ok(())
    }

    fn queue_next_avail(&self) -> u16 {
        self.state.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.state.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.state.set_queue_next_used(idx);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.state.queue_used_idx()
    }

    fn set_queue_size(&self, size: u16) {
        // Relaxed: only the session thread touches it.
        self.size.store(size, Ordering::Relaxed);
        self.state.set_queue_size(size);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.state.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.state.set_queue_ready(ready);
        self.on_port(|port, queue| {
            if ready {
                port.start_ring(queue, self.setup(), self.state.queue_next_avail());
            } else if let Some(next_avail) = port.stop_ring(queue) {
                self.state.set_queue_next_avail(next_avail);
            }
        });
    }

    fn set_kick(&self, file: Option<File>) {
        let ours = file.as_ref().and_then(|file| file.try_clone().ok());
        self.state.set_kick(file);
        self.on_port(|port, queue| port.set_kick(queue, ours));
    }

    fn read_kick(&self) -> io::Result<bool> {
        self.state.read_kick()
    }

    fn set_call(&self, file: Option<File>) {
        let ours = file.as_ref().and_then(|file| file.try_clone().ok());
        self.state.set_call(file);
        self.on_port(|port, queue| port.set_call(queue, ours));
    }

    fn set_err(&self, file: Option<File>) {
        let ours = file.as_ref().and_then(|file| file.try_clone().ok());
        self.state.set_err(file);
        self.on_port(|port, queue| port.set_error(queue, ours));
    }
}
