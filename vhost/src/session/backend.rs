//! The daemon's view of a device: which features it offers, and where a new memory table goes.

use std::io;
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::VhostUserBackend;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic};
use vmm_sys_util::epoll::EventSet;

use super::vring::Vring;
use crate::dirty_log::DirtyLog;
use crate::memory::{GuestMemory, MemoryFault, RegionTable};
use crate::net::features::{Negotiated, offered, offered_protocol};
use crate::net::port::VhostPort;

/// Largest ring that a guest may ask for.
const MAX_QUEUE_SIZE: usize = 32_768;

/// One connection's device.
pub(super) struct NetBackend {
    port: Arc<VhostPort>,
    /// Why the last memory table was refused; the daemon only passes on an I/O error.
    pub(super) memory_fault: parking_lot::Mutex<Option<MemoryFault>>,
}

impl NetBackend {
    pub(super) fn new(port: Arc<VhostPort>) -> Self {
        Self { port, memory_fault: parking_lot::Mutex::new(None) }
    }
}

impl VhostUserBackend for NetBackend {
    type Bitmap = DirtyLog;
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        2 * self.port.queue_pairs()
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        offered(self.port.options().offloads)
    }

    fn acked_features(&self, features: u64) {
        self.port.set_negotiated(Negotiated(features));
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        offered_protocol()
    }

    fn reset_device(&self) {
        self.port.set_negotiated(Negotiated::default());
    }

    fn set_event_idx(&self, _enabled: bool) {
        // Part of the acknowledged features, which arrive right after.
    }

    fn update_memory(&self, memory: GuestMemoryAtomic<GuestMemory>) -> io::Result<()> {
        match RegionTable::new(memory.memory().into_inner()) {
            Ok(table) => {
                self.port.set_memory(Arc::new(table));
                Ok(())
            }
            Err(fault) => {
                *self.memory_fault.lock() = Some(fault);
                Err(io::Error::other(fault))
            }
        }
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        // The daemon starts no threads for the rings: our workers poll them.
        Vec::new()
    }

    fn handle_event(
        &self,
        _event: u16,
        _events: EventSet,
        _rings: &[Vring],
        _thread: usize,
    ) -> io::Result<()> {
        Ok(())
    }
}
