//! The classifier: which megaflow does a packet belong to, whatever it looked at.
//!
//! Tuple space search: megaflows with the same mask share a subtable, a hash table keyed on the bits under that mask, and
//! a packet is looked up in one subtable after the other. It is asked by the packets that the exact-match cache does not
//! know, a whole burst at a time: for each subtable, first all hashes and prefetches, then all probes.
//!
//! Megaflows are disjoint: a packet is in one of them or in none. (Each is one leaf of the slow path's decision tree, and
//! is only made for a packet that is in none. Leaves of two different states of the switch may overlap until the
//! revalidator has caught up; either answer is then a decision that was right a moment ago.) So there are no
//! priorities, the first hit ends the search, and subtables may be asked in any order: the most hit come first.
//!
//! # Source
//! Srinivasan, Suri, Varghese: Packet Classification using Tuple Space Search (SIGCOMM 1999).

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::flow::key::{Depth, FlowKey, Mask};
use crate::flow_table::{FlowRef, FlowTable};
use crate::hash;
use crate::megaflow::Megaflow;
use crate::packet::BURST;
use crate::port::PortId;
use crate::prefetch::prefetch;

/// An entry of a subtable's hash table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    hash: u32,
    index: u32,
}

impl Entry {
    const EMPTY: Entry = Entry { hash: 0, index: u32::MAX };

    fn is_empty(self) -> bool {
        self.index == u32::MAX
    }
}

/// The megaflows of one mask: open addressing with linear probing, at most three quarters full.
///
/// # Invariants
/// 1. `entries.len()` is a power of two, and at least one entry is empty.
/// 2. No entry between an entry and the place that its hash names is empty.
#[derive(Debug)]
struct Subtable {
    mask: Arc<Mask>,
    /// The words of the mask that are not zero, and where they are in a key.
    words: Box<[(usize, u64)]>,
    depth: Depth,
    entries: Vec<Entry>,
    count: usize,
    /// Packets found since the last ranking.
    hits: u64,
    /// Packets found before.
    hits_before: u64,
}

/// A subtable in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubtableStats {
    /// Its mask.
    pub mask: Arc<Mask>,
    /// Megaflows in it.
    pub flows: usize,
    /// Packets found in it since it was made.
    pub hits: u64,
}

impl Subtable {
    fn new(mask: Arc<Mask>) -> Self {
        let words = mask.0.words().iter().copied().enumerate().filter(|&(_, word)| word != 0).collect();
        let depth = mask.depth();
        Self { mask, words, depth, entries: vec![Entry::EMPTY; 16], count: 0, hits: 0, hits_before: 0 }
    }

    #[inline]
    fn hash(&self, seed: u64, key: &FlowKey) -> u32 {
        let key = key.words();
        let hash = self.words.iter().fold(seed, |hash, &(at, mask)| hash::add(hash, key[at] & mask));
        // The upper half: its bits depend on all bits of the words.
        (hash >> 32) as u32
    }

    #[inline]
    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.entries.len() - 1)
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.entries.len() - 1)
    }

    /// Where the first entry with this hash lies of which `is_it` holds.
    #[inline]
    fn position(&self, hash: u32, is_it: impl Fn(u32) -> bool) -> Option<usize> {
        let mut at = self.home(hash);
        // Ends at an empty entry (invariants 1 and 2).
        loop {
            let entry = self.entries[at];
            if entry.is_empty() {
                return None;
            }
            if entry.hash == hash && is_it(entry.index) {
                return Some(at);
            }
            at = self.next(at);
        }
    }

    /// The flow that covers `key`.
    #[inline]
    fn find(&self, hash: u32, key: &FlowKey, flows: &FlowTable) -> Option<u32> {
        let key = key.words();
        let covers = |index| {
            flows.at(index).is_some_and(|flow| {
                let flow = flow.key().words();
                self.words.iter().all(|&(at, mask)| key[at] & mask == flow[at])
            })
        };
        self.position(hash, covers).map(|at| self.entries[at].index)
    }

    fn insert(&mut self, new: Entry) {
        if (self.count + 1) * 4 > self.entries.len() * 3 {
            let larger = vec![Entry::EMPTY; self.entries.len() * 2];
            for old in std::mem::replace(&mut self.entries, larger) {
                if !old.is_empty() {
                    self.place(old);
                }
            }
        }
        self.place(new);
        self.count += 1;
    }

    fn place(&mut self, entry: Entry) {
        let mut at = self.home(entry.hash);
        while !self.entries[at].is_empty() {
            at = self.next(at);
        }
        self.entries[at] = entry;
    }

    /// Empties the entry at `hole` and moves later ones up, so that invariant 2 holds without tombstones.
    fn remove(&mut self, mut hole: usize) {
        let last = self.entries.len() - 1;
        let mut at = self.next(hole);
        while !self.entries[at].is_empty() {
            let home = self.home(self.entries[at].hash);
            // The entry may move into the hole unless its home lies behind the hole, in (hole, at].
            if (at.wrapping_sub(home) & last) >= (at.wrapping_sub(hole) & last) {
                self.entries[hole] = self.entries[at];
                hole = at;
            }
            at = self.next(at);
        }
        self.entries[hole] = Entry::EMPTY;
        self.count -= 1;
    }
}

/// Positions in a burst that still wait for something, in order.
#[derive(Debug, Clone)]
pub struct Pending {
    at: [u8; BURST],
    len: usize,
}

impl Pending {
    /// No positions.
    pub const NONE: Pending = Pending { at: [0; BURST], len: 0 };

    /// Adds a position.
    ///
    /// # Panics
    /// If there are [`BURST`] already.
    #[inline]
    pub fn push(&mut self, at: u8) {
        self.at[self.len] = at;
        self.len += 1;
    }

    /// The positions.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.at[..self.len]
    }

    /// Keeps the positions of which `keep` says so.
    #[inline]
    fn retain(&mut self, mut keep: impl FnMut(u8) -> bool) {
        let mut kept = 0;
        for from in 0..self.len {
            let at = self.at[from];
            if keep(at) {
                self.at[kept] = at;
                kept += 1;
            }
        }
        self.len = kept;
    }
}

/// The classifier of one worker, and the owner of its megaflows.
///
/// # Concurrency
/// Owned by one worker. Other threads may kill its flows at any time; a dead flow is as good as absent, and leaves when a
/// packet finds it, when [`remove`](Self::remove) names it, or when [`purge`](Self::purge) passes by.
#[derive(Debug)]
pub struct Classifier {
    subtables: Vec<Subtable>,
    flows: FlowTable,
    seed: u64,
    /// Where [`purge`](Self::purge) goes on.
    purge_at: usize,
}

impl Classifier {
    /// An empty classifier for at most `max_flows` megaflows.
    pub fn new(max_flows: usize) -> Self {
        Self {
            subtables: Vec::new(),
            flows: FlowTable::new(max_flows),
            seed: RandomState::new().hash_one("classifier"),
            purge_at: 0,
        }
    }

    /// Megaflows in the classifier.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether it has no megaflows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it takes another megaflow.
    pub fn has_room(&self) -> bool {
        self.flows.has_room()
    }

    /// Different masks among its megaflows.
    pub fn subtables(&self) -> usize {
        self.subtables.len()
    }

    /// The subtables in the order in which they are searched.
    pub fn subtable_stats(&self) -> impl Iterator<Item = SubtableStats> + '_ {
        self.subtables.iter().map(|subtable| SubtableStats {
            mask: Arc::clone(&subtable.mask),
            flows: subtable.count,
            hits: subtable.hits_before + subtable.hits,
        })
    }

    /// The flow that `name` was made for, if it is still there; it may be dead.
    #[inline]
    pub fn get(&self, name: FlowRef) -> Option<&Megaflow> {
        self.flows.get(name)
    }

    /// The flow at an index that a lookup of this burst found.
    #[inline]
    pub(crate) fn flow(&self, index: u32) -> Option<&Arc<Megaflow>> {
        self.flows.at(index)
    }

    /// Asks for the memory that [`get`](Self::get) will read.
    #[inline]
    pub(crate) fn prefetch(&self, name: FlowRef) {
        self.flows.prefetch(name);
    }

    /// The lasting name of the flow at an index that a lookup of this burst found.
    #[inline]
    pub(crate) fn name(&self, index: u32) -> FlowRef {
        self.flows.name(index)
    }

    /// The mask object of the subtable with this mask, so that its flows share one.
    pub fn share_mask(&self, mask: &Mask) -> Arc<Mask> {
        let shared = self.subtables.iter().find(|subtable| *subtable.mask == *mask);
        shared.map_or_else(|| Arc::new(*mask), |subtable| Arc::clone(&subtable.mask))
    }

    /// Adds a megaflow that overlaps with none that is here; `None`, and the flow is not kept, if there is no room.
    pub fn insert(&mut self, flow: &Arc<Megaflow>) -> Option<u32> {
        let index = self.flows.add(Arc::clone(flow))?;
        let subtable = match self.subtables.iter().position(|subtable| *subtable.mask == **flow.mask()) {
            Some(at) => &mut self.subtables[at],
            None => {
                self.subtables.push(Subtable::new(Arc::clone(flow.mask())));
                let last = self.subtables.len() - 1;
                &mut self.subtables[last]
            }
        };
        let hash = subtable.hash(self.seed, flow.key());
        subtable.insert(Entry { hash, index });
        Some(index)
    }

    /// Ends a megaflow and takes it out; false if it is not here.
    pub fn remove(&mut self, flow: &Arc<Megaflow>) -> bool {
        flow.kill();
        let Some(at) = self.subtables.iter().position(|subtable| *subtable.mask == **flow.mask()) else {
            return false;
        };
        let subtable = &mut self.subtables[at];
        let hash = subtable.hash(self.seed, flow.key());
        let is_it = |index| self.flows.at(index).is_some_and(|other| Arc::ptr_eq(other, flow));
        let Some(place) = subtable.position(hash, is_it) else {
            return false;
        };
        let index = subtable.entries[place].index;
        subtable.remove(place);
        if subtable.count == 0 {
            self.subtables.remove(at);
        }
        self.flows.unlink(index);
        true
    }

    /// Frees the memory of flows that were taken out. Indices that earlier lookups found are void from here on.
    pub fn reclaim(&mut self) {
        self.flows.reclaim();
    }

    /// Looks up the keys at the positions in `pending`, which are filled to `depth`; writes the index of the flow to the
    /// same position of `found` and takes the position off `pending`. What stays pending is in no flow. Returns how many
    /// subtables were searched.
    ///
    /// A subtable that looks deeper than `depth` is skipped. In shallower ones a key may carry words of an older packet
    /// beyond its depth; those are under no mask there.
    pub fn lookup(
        &mut self,
        keys: &[FlowKey],
        depth: Depth,
        pending: &mut Pending,
        found: &mut [u32; BURST],
    ) -> u64 {
        let mut searched = 0;
        let mut dead = Pending::NONE;
        for subtable in &mut self.subtables {
            if pending.len == 0 {
                break;
            }
            if subtable.depth > depth {
                continue;
            }
            searched += 1;
            let mut hashes = [0; BURST];
            for &at in pending.as_slice() {
                let hash = subtable.hash(self.seed, &keys[usize::from(at)]);
                prefetch(&subtable.entries[subtable.home(hash)]);
                hashes[usize::from(at)] = hash;
            }
            let flows = &self.flows;
            let mut hits = 0;
            pending.retain(|at| {
                let at_idx = usize::from(at);
                let Some(index) = subtable.find(hashes[at_idx], &keys[at_idx], flows) else {
                    return true;
                };
                found[at_idx] = index;
                match flows.at(index) {
                    Some(flow) if flow.is_alive() => hits += 1,
                    _ => dead.push(at),
                }
                false
            });
            subtable.hits += hits;
        }
        // No other flow covers a packet of a dead one, so it is a miss.
        for &at in dead.as_slice() {
            if let Some(flow) = self.flows.at(found[usize::from(at)]).map(Arc::clone) {
                self.remove(&flow);
            }
            pending.push(at);
        }
        pending.at[..pending.len].sort_unstable();
        searched
    }

    /// Ends the megaflows of a port and takes them out.
    pub fn remove_port(&mut self, port: PortId) {
        let indices: Vec<u32> = self.flows.of_port(port).collect();
        for flow in
            indices.into_iter().filter_map(|index| self.flows.at(index).map(Arc::clone)).collect::<Vec<_>>()
        {
            self.remove(&flow);
        }
    }

    /// Megaflows of a port.
    pub fn len_of_port(&self, port: PortId) -> usize {
        self.flows.len_of_port(port)
    }

    /// Sorts the subtables by their hits since the last call, so that the busiest is searched first.
    pub fn rank(&mut self) {
        self.subtables.sort_by_key(|subtable| std::cmp::Reverse(subtable.hits));
        for subtable in &mut self.subtables {
            subtable.hits_before += std::mem::take(&mut subtable.hits);
        }
    }

    /// Takes dead flows out, looking at no more than `steps` places. Call it again to go on.
    pub fn purge(&mut self, steps: usize) {
        for _ in 0..steps.min(self.flows.places()) {
            if self.purge_at >= self.flows.places() {
                self.purge_at = 0;
            }
            #[allow(clippy::cast_possible_truncation, reason = "places are numbered with u32")]
            let index = self.purge_at as u32;
            self.purge_at += 1;
            if self.flows.is_dead(index)
                && let Some(flow) = self.flows.at(index).map(Arc::clone)
            {
                self.remove(&flow);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::action::{Actions, Verdict};
    use crate::megaflow::{MegaflowSpec, Seen};

    /// One of a few masks; the key under it names the mask too, so that flows are disjoint.
    fn flow(id: u64, shape: u8, value: u8) -> Arc<Megaflow> {
        let mut mask = Mask::default();
        mask.0.in_port = u32::MAX;
        mask.0.eth_type = u16::MAX.into();
        match shape {
            0 => mask.0.eth_dst = [0xff; 6],
            1 => mask.0.eth_src[5] = 0x0f,
            2 => mask.0.ip_dst[15] = 0xff,
            _ => mask.0.tp_dst = u16::MAX.into(),
        }
        let verdict = Verdict::Forward(Actions::output(PortId::ZERO));
        let spec = MegaflowSpec {
            mask: Arc::new(mask),
            key: key(shape, value),
            verdict,
            source: None,
            seen: Seen::default(),
            rules: Box::default(),
        };
        Arc::new(Megaflow::new(id, 0, spec))
    }

    fn key(shape: u8, value: u8) -> FlowKey {
        let mut key =
            FlowKey { in_port: 1, eth_type: (0x1000 + u16::from(shape)).into(), ..FlowKey::default() };
        key.eth_dst[0] = value;
        key.eth_src[5] = value;
        key.ip_dst[15] = value;
        key.tp_dst = u16::from(value).into();
        key
    }

    proptest! {
        /// Inserts, removals, kills and lookups in any order find what a scan of a plain list finds.
        #[test]
        fn classifier_finds_what_a_linear_scan_finds(
            steps in prop::collection::vec((0..5_u8, 0..4_u8, 0..40_u8), 1..300)
        ) {
            let mut classifier = Classifier::new(100);
            let mut list: Vec<Arc<Megaflow>> = Vec::new();
            for (id, (what, shape, value)) in (0..).zip(steps) {
                let packet = key(shape, value);
                let scan = |list: &[Arc<Megaflow>]| {
                    list.iter().position(|flow| flow.is_alive() && flow.mask().apply(&packet) == *flow.key())
                };
                let mut pending = Pending::NONE;
                pending.push(0);
                let mut found = [0; BURST];
                classifier.lookup(&[packet], Depth::Transport, &mut pending, &mut found);
                let hit = pending.as_slice().is_empty().then(|| classifier.flow(found[0]).unwrap().id());
                prop_assert_eq!(hit, scan(&list).map(|at| list[at].id()));
                match (what, scan(&list)) {
                    (0, Some(at)) => prop_assert!(classifier.remove(&list.swap_remove(at))),
                    (1, Some(at)) => list[at].kill(),
                    (2.., None) => {
                        let new = flow(id, shape, value);
                        let is_room = classifier.has_room();
                        prop_assert_eq!(classifier.insert(&new).is_some(), is_room);
                        list.extend(is_room.then_some(new));
                    }
                    _ => classifier.purge(3),
                }
                classifier.reclaim();
                if value == 0 {
                    classifier.rank();
                }
            }
            let alive = list.iter().filter(|flow| flow.is_alive()).count();
            classifier.purge(1000);
            prop_assert_eq!((classifier.len(), classifier.len_of_port(PortId::new(1).unwrap())), (alive, alive));
        }
    }
}
