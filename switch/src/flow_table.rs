//! The megaflows of one worker, by index.
//!
//! Caches and subtables name a flow by a small index instead of holding a reference of their own, which keeps them dense
//! and makes taking a flow out cheap. A place is given to another flow only between bursts, and then its stamp changes:
//! a cache that still names the old flow notices.

use std::sync::Arc;

use zerocopy::FromZeros;

use crate::megaflow::Megaflow;
use crate::port::{MAX_PORTS, PortId};
use crate::prefetch::prefetch;

/// A name of a flow that outlives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromZeros)]
pub struct FlowRef {
    pub(crate) index: u32,
    pub(crate) stamp: u32,
}

#[derive(Debug)]
struct Slot {
    flow: Option<Arc<Megaflow>>,
    stamp: u32,
    in_port: PortId,
    linked: bool,
}

/// The megaflows of one worker.
///
/// # Invariants
/// 1. A place is free, linked (its flow is in a subtable) or in limbo (taken out during this burst).
/// 2. The flow of a place stays the same until [`reclaim`](Self::reclaim), so an index found in a burst names one flow
///    until the burst ends.
/// 3. A flow in limbo is dead. One that leaves limbo is retired: it may have counted packets until then.
///
/// Stamps wrap after 2^32 flows in one place; a cache entry that slept through all of them does not occur, as ten
/// thousand new flows a second would take five days in that one place.
#[derive(Debug)]
pub(crate) struct FlowTable {
    slots: Vec<Slot>,
    free: Vec<u32>,
    limbo: Vec<u32>,
    /// Linked flows by ingress port.
    of_port: Box<[u32]>,
    capacity: usize,
}

impl FlowTable {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.min(u32::MAX as usize - 1);
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            limbo: Vec::new(),
            of_port: vec![0; MAX_PORTS].into(),
            capacity,
        }
    }

    /// Flows in subtables.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len() - self.limbo.len()
    }

    /// Places ever used; every index is below.
    pub(crate) fn places(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < self.capacity
    }

    /// Gives the flow a place, if there is one.
    pub(crate) fn add(&mut self, flow: Arc<Megaflow>) -> Option<u32> {
        let in_port = flow.in_port();
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            *slot = Slot { flow: Some(flow), stamp: slot.stamp, in_port, linked: true };
            self.of_port[in_port.index()] += 1;
            return Some(index);
        }
        let index = u32::try_from(self.slots.len()).ok().filter(|_| self.slots.len() < self.capacity)?;
        self.slots.push(Slot { flow: Some(flow), stamp: 0, in_port, linked: true });
        self.of_port[in_port.index()] += 1;
        Some(index)
    }

    /// Puts a flow that left its subtable into limbo, and ends it.
    pub(crate) fn unlink(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.linked);
        slot.linked = false;
        self.of_port[slot.in_port.index()] -= 1;
        if let Some(flow) = &slot.flow {
            flow.kill();
        }
        self.limbo.push(index);
    }

    /// Frees the places in limbo. Indices from before are void, [`FlowRef`]s find nothing.
    pub(crate) fn reclaim(&mut self) {
        for index in self.limbo.drain(..) {
            let slot = &mut self.slots[index as usize];
            if let Some(flow) = slot.flow.take() {
                flow.retire();
            }
            slot.stamp = slot.stamp.wrapping_add(1);
            self.free.push(index);
        }
    }

    /// Linked flows of a port.
    pub(crate) fn len_of_port(&self, port: PortId) -> usize {
        self.of_port[port.index()] as usize
    }

    /// Asks for the place that `name` points to.
    #[inline]
    pub(crate) fn prefetch(&self, name: FlowRef) {
        if let Some(slot) = self.slots.get(name.index as usize) {
            prefetch(slot);
        }
    }

    /// Asks for the key of the flow at an index, if there is such an index.
    #[inline]
    pub(crate) fn prefetch_index(&self, index: u32) {
        if let Some(flow) = self.slots.get(index as usize).and_then(|slot| slot.flow.as_deref()) {
            prefetch(flow.key());
        }
    }

    /// The flow at an index that was found in this burst.
    #[inline]
    pub(crate) fn at(&self, index: u32) -> Option<&Arc<Megaflow>> {
        self.slots.get(index as usize)?.flow.as_ref()
    }

    /// The flow that `name` was made for, if it is still there.
    #[inline]
    pub(crate) fn get(&self, name: FlowRef) -> Option<&Megaflow> {
        let slot = self.slots.get(name.index as usize)?;
        if slot.stamp == name.stamp { slot.flow.as_deref() } else { None }
    }

    /// The port of the flow that `name` was made for, if it is linked; it may be dead. Does not touch the flow itself, which
    /// may be far from the cache.
    #[inline]
    pub(crate) fn port_of(&self, name: FlowRef) -> Option<PortId> {
        let slot = self.slots.get(name.index as usize)?;
        (slot.stamp == name.stamp && slot.linked).then_some(slot.in_port)
    }

    /// The name of the flow at an index.
    #[inline]
    pub(crate) fn name(&self, index: u32) -> FlowRef {
        FlowRef { index, stamp: self.slots[index as usize].stamp }
    }

    /// Indices of the linked flows of a port.
    pub(crate) fn of_port(&self, port: PortId) -> impl Iterator<Item = u32> + '_ {
        (0..).zip(&self.slots).filter(move |(_, slot)| slot.linked && slot.in_port == port).map(|(i, _)| i)
    }

    /// Whether the place at `index` holds a flow that is dead but still linked.
    pub(crate) fn is_dead(&self, index: u32) -> bool {
        let slot = &self.slots[index as usize];
        slot.linked && slot.flow.as_ref().is_some_and(|flow| !flow.is_alive())
    }
}

/// What a worker that ends leaves behind counts no more.
impl Drop for FlowTable {
    fn drop(&mut self) {
        for flow in self.slots.iter().filter_map(|slot| slot.flow.as_ref()) {
            flow.kill();
            flow.retire();
        }
    }
}
