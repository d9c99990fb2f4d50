//! One virtqueue under its lock: the ring, and the descriptors by which either side tells the other.
//!
//! # Concurrency
//! Workers and the session thread share a queue through one mutex. A worker takes it once per burst and holds it until the
//! burst has left the switch, so whatever the session thread changes under it (memory, addresses, descriptors) never
//! changes under a burst. A worker that receives, or looks at the queue it will serve next, only tries the lock and skips the
//! queue when it is taken. Lock order: at most one transmitq, then at most one receiveq. Nothing that can wait for a
//! front-end is done under the lock: descriptors that it sent are examined and closed by the session thread, outside.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::announcement::Announcement;
use super::notifier::Notifier;
use crate::ring::SplitRing;

/// Wakes the worker that polls a transmitq. The root implements it over epoll.
pub trait KickPoller: Send + Sync {
    /// Watches `kick`, edge-triggered: a kick ends the worker's sleep. False if that cannot be had at present.
    fn watch(&self, kick: BorrowedFd<'_>) -> bool;

    /// Ends the watch of `kick`, which is about to be closed.
    fn forget(&self, kick: BorrowedFd<'_>);

    /// Ends the worker's sleep at once: a ring may have work that no kick announces.
    fn wake(&self);
}

/// Whether both are the same worker's.
pub fn same_poller(one: &Arc<dyn KickPoller>, other: &Arc<dyn KickPoller>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

/// A virtqueue.
#[derive(Debug, Default)]
pub(crate) struct Queue(pub(crate) Mutex<QueueState>);

/// What the lock of a virtqueue protects.
#[derive(Default)]
pub(crate) struct QueueState {
    /// The ring, while the front-end has it started.
    pub(crate) ring: Option<SplitRing>,
    /// The guest wants the queue used.
    pub(crate) enabled: bool,
    /// The ring broke a rule and was neither stopped nor started since.
    pub(crate) broken: bool,
    /// Tells the guest that buffers were used.
    pub(crate) call: Option<Notifier>,
    /// Tells the front-end that the ring broke.
    pub(crate) error: Option<Notifier>,
    /// A receiveq: the guest posts buffers here.
    pub(crate) is_taking: bool,
    /// A receiveq: since when every batch found no buffer.
    pub(crate) starved_since: Option<Instant>,
    /// A transmitq: what the switch shall receive as if the guest had sent it.
    pub(crate) announcement: Option<Announcement>,
    kick: Option<File>,
    poller: Option<Arc<dyn KickPoller>>,
    /// The poller cannot watch the kick descriptor.
    is_unwatched: bool,
}

impl fmt::Debug for QueueState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueState")
            .field("ring", &self.ring)
            .field("enabled", &self.enabled)
            .finish_non_exhaustive()
    }
}

impl QueueState {
    /// The ring, if the guest may be served.
    #[inline]
    pub(crate) fn live_ring(&mut self) -> Option<&mut SplitRing> {
        self.ring.as_mut().filter(|_| self.enabled)
    }

    /// Replaces the kick descriptor, and returns the old one for the caller to close without the lock.
    pub(crate) fn set_kick(&mut self, kick: Option<File>) -> Option<File> {
        self.unwatch();
        let old = std::mem::replace(&mut self.kick, kick);
        self.watch();
        old
    }

    /// Hands the queue to a worker, whoever had it.
    pub(crate) fn set_poller(&mut self, poller: Arc<dyn KickPoller>) {
        self.unwatch();
        self.poller = Some(poller);
        self.watch();
    }

    /// The worker behind `poller` lets go of the queue. If another has it by now, that one keeps it and is woken.
    pub(crate) fn release_poller(&mut self, poller: &Arc<dyn KickPoller>) {
        if self.poller.as_ref().is_some_and(|current| same_poller(current, poller)) {
            self.unwatch();
            self.poller = None;
        } else {
            self.wake();
        }
    }

    /// Whether the guest can tell us of packets. It cannot where its front-end sent no descriptor that can be waited for, or the
    /// system had no memory to watch it.
    pub(crate) fn can_be_kicked(&self) -> bool {
        self.kick.is_some() && !self.is_unwatched
    }

    /// Ends the sleep of the worker that polls the queue.
    pub(crate) fn wake(&self) {
        if let Some(poller) = &self.poller {
            poller.wake();
        }
    }

    fn watch(&mut self) {
        if let (Some(poller), Some(kick)) = (&self.poller, &self.kick) {
            self.is_unwatched = !poller.watch(kick.as_fd());
            poller.wake();
        }
    }

    fn unwatch(&mut self) {
        if let (Some(poller), Some(kick), false) = (&self.poller, &self.kick, self.is_unwatched) {
            poller.forget(kick.as_fd());
        }
        self.is_unwatched = false;
    }
}
