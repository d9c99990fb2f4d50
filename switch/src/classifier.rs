//! The classifier: which megaflow does a packet belong to, whatever it looked at.
//!
//! Tuple space search: megaflows with the same mask share a subtable, a hash table keyed on the bits under that mask, and
//! a packet is looked up in one subtable after the other. It is asked by the packets that the exact-match cache does not
//! know, a whole burst at a time: first each packet in the subtable that the signature index guesses, then what is left in
//! one subtable after the other; for each, first all hashes and prefetches, then all probes.
//!
//! Each ingress port has subtables of its own. What one guest's traffic makes of them, many or full ones, no other
//! guest's packets search; and each port has a quota of flows and of masks.
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
use crate::port::{MAX_PORTS, PortId};
use crate::prefetch::prefetch;
use crate::signature_index::SignatureIndex;

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
    /// Its number at its port, by which the signature index knows it.
    number: u16,
    mask: Arc<Mask>,
    /// Hash of the mask, to tell masks apart at a glance.
    mask_hash: u64,
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
    /// The ingress port it serves.
    pub port: PortId,
    /// Its mask.
    pub mask: Arc<Mask>,
    /// Megaflows in it.
    pub flows: usize,
    /// Packets found in it since it was made.
    pub hits: u64,
}

impl Subtable {
    fn new(number: u16, mask: Arc<Mask>, mask_hash: u64) -> Self {
        let words = mask.0.words().iter().copied().enumerate().filter(|&(_, word)| word != 0).collect();
        let depth = mask.depth();
        let entries = vec![Entry::EMPTY; 16];
        Self { number, mask, mask_hash, words, depth, entries, count: 0, hits: 0, hits_before: 0 }
    }

    /// Counts packets that were found here.
    #[inline]
    fn hit(&mut self, packets: u64) {
        self.hits += packets;
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
                self.words.iter().fold(0, |differing, &(at, mask)| differing | (key[at] ^ flow[at]) & mask)
                    == 0
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

/// The subtables of one ingress port, in the order in which they are searched.
#[derive(Debug, Default)]
struct PortTables {
    subtables: Vec<Subtable>,
    /// Where the subtable with each number is, [`NOWHERE`] if there is none.
    places: Vec<u16>,
    /// Flows that left because of what the operator changed, and whose next packets have not been translated yet.
    owed_upcalls: u32,
}

/// No place among the subtables.
const NOWHERE: u16 = u16::MAX;

impl PortTables {
    /// Where the subtable with this mask is.
    fn place_of_mask(&self, mask: &Mask, mask_hash: u64) -> Option<usize> {
        self.subtables.iter().position(|table| table.mask_hash == mask_hash && *table.mask == *mask)
    }

    /// Where the subtable with this number is.
    #[inline]
    fn place_of_number(&self, number: u16) -> Option<usize> {
        let place = *self.places.get(usize::from(number))?;
        (place != NOWHERE).then_some(usize::from(place))
    }

    /// Adds an empty subtable behind the others. There are fewer than [`MOST_MASKS`].
    fn add(&mut self, mask: Arc<Mask>, mask_hash: u64) -> usize {
        let place = self.subtables.len();
        let free = self.places.iter().position(|&place| place == NOWHERE).unwrap_or(self.places.len());
        #[allow(
            clippy::cast_possible_truncation,
            reason = "there are fewer than MOST_MASKS, which is below 2^16"
        )]
        let (number, place_number) = (free as u16, place as u16);
        if free == self.places.len() {
            self.places.push(place_number);
        } else {
            self.places[free] = place_number;
        }
        self.subtables.push(Subtable::new(number, mask, mask_hash));
        place
    }

    fn remove(&mut self, place: usize) {
        let gone = self.subtables.remove(place);
        self.places[usize::from(gone.number)] = NOWHERE;
        self.renumber();
    }

    /// Sorts by the hits since the last call.
    fn rank(&mut self) {
        self.subtables.sort_by_key(|subtable| std::cmp::Reverse(subtable.hits));
        for subtable in &mut self.subtables {
            subtable.hits_before += std::mem::take(&mut subtable.hits);
        }
        self.renumber();
    }

    /// Notes where each subtable is now.
    fn renumber(&mut self) {
        for (place, subtable) in (0..).zip(&self.subtables) {
            self.places[usize::from(subtable.number)] = place;
        }
    }
}

/// Most masks that any quota allows a port.
pub const MOST_MASKS: usize = 4096;

/// Subtables from which on a guess is worth its cost: below, a search finds the flow in the first or second probe.
const GUESS_FROM: usize = 3;

/// Bounds of a classifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassifierLimits {
    /// Most megaflows.
    pub flows: usize,
    /// Most megaflows of one ingress port.
    pub flows_per_port: usize,
    /// Most masks among the megaflows of one ingress port; 4096 at most.
    pub masks_per_port: usize,
    /// Entries of the signature index, four bytes each, rounded up to a power of two; 0 for none.
    pub signatures: usize,
}

impl ClassifierLimits {
    /// Up to `flows` megaflows from any port, with many masks and a small signature index.
    pub fn flows(flows: usize) -> Self {
        Self { flows, flows_per_port: flows, masks_per_port: MOST_MASKS, signatures: 4096 }
    }
}

/// What a lookup cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Searched {
    /// Subtables that were searched one after the other, once for the burst each.
    pub subtables: u64,
    /// Packets that the signature index led to their flow.
    pub guessed: u64,
}

/// The classifier of one worker, and the owner of its megaflows.
///
/// # Concurrency
/// Owned by one worker. Other threads may kill its flows at any time; a dead flow is as good as absent, and leaves when a
/// packet finds it, when [`remove`](Self::remove) names it, or when [`purge`](Self::purge) passes by.
#[derive(Debug)]
pub struct Classifier {
    limits: ClassifierLimits,
    ports: Box<[PortTables]>,
    /// Subtables of all ports.
    subtables: usize,
    signatures: SignatureIndex,
    flows: FlowTable,
    seed: u64,
    /// Where [`purge`](Self::purge) goes on.
    purge_at: usize,
}

impl Classifier {
    /// An empty classifier.
    pub fn new(limits: ClassifierLimits) -> Self {
        Self {
            limits,
            ports: (0..MAX_PORTS).map(|_| PortTables::default()).collect(),
            subtables: 0,
            signatures: SignatureIndex::new(limits.signatures),
            flows: FlowTable::new(limits.flows),
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

    /// Whether it takes another megaflow of `port` with this mask.
    pub fn has_room(&self, port: PortId, mask: &Mask) -> bool {
        let tables = &self.ports[port.index()];
        self.flows.has_room()
            && self.flows.len_of_port(port) < self.limits.flows_per_port
            && (tables.subtables.len() < self.limits.masks_per_port.min(MOST_MASKS)
                || tables.place_of_mask(mask, self.hash_mask(mask)).is_some())
    }

    /// Different masks among its megaflows, those of each port counted apart.
    pub fn subtables(&self) -> usize {
        self.subtables
    }

    /// The subtables, port by port, in the order in which they are searched.
    pub fn subtable_stats(&self) -> impl Iterator<Item = SubtableStats> + '_ {
        (0..).map_while(PortId::new).flat_map(|port| {
            self.ports[port.index()].subtables.iter().map(move |subtable| SubtableStats {
                port,
                mask: Arc::clone(&subtable.mask),
                flows: subtable.count,
                hits: subtable.hits_before + subtable.hits,
            })
        })
    }

    /// The flow that `name` was made for, if it is still there; it may be dead.
    #[inline]
    pub fn get(&self, name: FlowRef) -> Option<&Megaflow> {
        self.flows.get(name)
    }

    /// The port of the flow that `name` was made for, if it is still there; it may be dead.
    #[inline]
    pub(crate) fn port_of(&self, name: FlowRef) -> Option<PortId> {
        self.flows.port_of(name)
    }

    /// The flow at an index that a lookup of this burst found.
    #[inline]
    pub(crate) fn flow(&self, index: u32) -> Option<&Arc<Megaflow>> {
        self.flows.at(index)
    }

    /// Asks for the place of the flow that `name` was made for.
    #[inline]
    pub(crate) fn prefetch(&self, name: FlowRef) {
        self.flows.prefetch(name);
    }

    /// Asks for the flow that `name` was made for, whose place has arrived.
    #[inline]
    pub(crate) fn prefetch_flow(&self, name: FlowRef) {
        if let Some(flow) = self.flows.get(name) {
            prefetch(flow);
        }
    }

    /// The lasting name of the flow at an index that a lookup of this burst found.
    #[inline]
    pub(crate) fn name(&self, index: u32) -> FlowRef {
        self.flows.name(index)
    }

    fn hash_mask(&self, mask: &Mask) -> u64 {
        mask.0.words().iter().fold(self.seed, |hash, &word| hash::add(hash, word))
    }

    /// The mask object of the port's subtable with this mask, so that its flows share one.
    pub fn share_mask(&self, port: PortId, mask: &Mask) -> Arc<Mask> {
        let tables = &self.ports[port.index()];
        let place = tables.place_of_mask(mask, self.hash_mask(mask));
        place.map_or_else(|| Arc::new(*mask), |place| Arc::clone(&tables.subtables[place].mask))
    }

    /// Adds a megaflow that overlaps with none that is here; `None`, and the flow is not kept, if there is no room.
    pub fn insert(&mut self, flow: &Arc<Megaflow>) -> Option<u32> {
        let port = flow.in_port();
        if !self.has_room(port, flow.mask()) {
            return None;
        }
        let index = self.flows.add(Arc::clone(flow))?;
        let mask_hash = self.hash_mask(flow.mask());
        let tables = &mut self.ports[port.index()];
        let place = tables.place_of_mask(flow.mask(), mask_hash).unwrap_or_else(|| {
            self.subtables += 1;
            tables.add(Arc::clone(flow.mask()), mask_hash)
        });
        let subtable = &mut tables.subtables[place];
        let hash = subtable.hash(self.seed, flow.key());
        subtable.insert(Entry { hash, index });
        Some(index)
    }

    /// Ends a megaflow and takes it out; false if it is not here.
    pub fn remove(&mut self, flow: &Arc<Megaflow>) -> bool {
        flow.kill();
        let mask_hash = self.hash_mask(flow.mask());
        let tables = &mut self.ports[flow.in_port().index()];
        let Some(at) = tables.place_of_mask(flow.mask(), mask_hash) else {
            return false;
        };
        let subtable = &mut tables.subtables[at];
        let hash = subtable.hash(self.seed, flow.key());
        let is_it = |index| self.flows.at(index).is_some_and(|other| Arc::ptr_eq(other, flow));
        let Some(place) = subtable.position(hash, is_it) else {
            return false;
        };
        let index = subtable.entries[place].index;
        subtable.remove(place);
        if subtable.count == 0 {
            tables.remove(at);
            self.subtables -= 1;
        }
        tables.owed_upcalls = tables.owed_upcalls.saturating_add(u32::from(flow.is_owed()));
        self.flows.unlink(index);
        true
    }

    /// Takes one of the upcalls that the port is owed for flows that left because of what the operator changed, if there is
    /// one.
    pub(crate) fn take_owed_upcall(&mut self, port: PortId) -> bool {
        let owed = &mut self.ports[port.index()].owed_upcalls;
        let is_owed = *owed > 0;
        *owed -= u32::from(is_owed);
        is_owed
    }

    /// Frees the memory of flows that were taken out. Indices that earlier lookups found are void from here on.
    pub fn reclaim(&mut self) {
        self.flows.reclaim();
    }

    /// Looks up the keys of packets from `port` at the positions in `pending`, which are filled to `depth`; writes the index of
    /// the flow to the same position of `found` and takes the position off `pending`. What stays pending is in no flow.
    ///
    /// `hashes` are of whatever tells the port's flows apart, position by position, for the signature index; without them
    /// it is not asked. A subtable that looks deeper than `depth` is skipped. In shallower ones a key may carry words of
    /// an older packet beyond its depth; those are under no mask there.
    pub fn lookup(
        &mut self,
        port: PortId,
        keys: &[FlowKey],
        hashes: Option<&[u64; BURST]>,
        depth: Depth,
        pending: &mut Pending,
        found: &mut [u32; BURST],
    ) -> Searched {
        let mut searched = Searched::default();
        let mut dead = Pending::NONE;
        let hashes = hashes.filter(|_| self.ports[port.index()].subtables.len() >= GUESS_FROM);
        if let Some(hashes) = hashes {
            let before = pending.len;
            self.follow_guesses(port, keys, hashes, depth, pending, found, &mut dead);
            searched.guessed = (before - pending.len - dead.len) as u64;
        }
        let tables = &mut self.ports[port.index()];
        for subtable in &mut tables.subtables {
            if pending.len == 0 {
                break;
            }
            if subtable.depth > depth {
                continue;
            }
            searched.subtables += 1;
            let mut places = [0; BURST];
            for &at in pending.as_slice() {
                let hash = subtable.hash(self.seed, &keys[usize::from(at)]);
                prefetch(&subtable.entries[subtable.home(hash)]);
                places[usize::from(at)] = hash;
            }
            let (flows, signatures) = (&self.flows, &mut self.signatures);
            let mut hits = 0;
            pending.retain(|at| {
                let at_idx = usize::from(at);
                let Some(index) = subtable.find(places[at_idx], &keys[at_idx], flows) else {
                    return true;
                };
                found[at_idx] = index;
                match flows.at(index) {
                    Some(flow) if flow.is_alive() => hits += 1,
                    _ => dead.push(at),
                }
                if let Some(hashes) = hashes {
                    signatures.insert(hashes[at_idx], subtable.number);
                }
                false
            });
            subtable.hit(hits);
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

    /// Probes for each packet the one subtable that the signature index names.
    #[allow(
        clippy::too_many_arguments,
        reason = "the arguments of the one lookup that this is the first half of"
    )]
    fn follow_guesses(
        &mut self,
        port: PortId,
        keys: &[FlowKey],
        hashes: &[u64; BURST],
        depth: Depth,
        pending: &mut Pending,
        found: &mut [u32; BURST],
        dead: &mut Pending,
    ) {
        let tables = &mut self.ports[port.index()];
        for &at in pending.as_slice() {
            self.signatures.prefetch(hashes[usize::from(at)]);
        }
        let mut guesses = [(NOWHERE, 0); BURST];
        for &at in pending.as_slice() {
            let at_idx = usize::from(at);
            let place =
                self.signatures.guess(hashes[at_idx]).and_then(|number| tables.place_of_number(number));
            let Some(place) = place.filter(|&place| tables.subtables[place].depth <= depth) else { continue };
            let subtable = &tables.subtables[place];
            let hash = subtable.hash(self.seed, &keys[at_idx]);
            prefetch(&subtable.entries[subtable.home(hash)]);
            #[allow(clippy::cast_possible_truncation, reason = "there are fewer than MOST_MASKS")]
            {
                guesses[at_idx] = (place as u16, hash);
            }
        }
        // The flows that the probes will compare with, so that they arrive together.
        for &at in pending.as_slice() {
            let (place, hash) = guesses[usize::from(at)];
            if let Some(subtable) = tables.subtables.get(usize::from(place)) {
                self.flows.prefetch_index(subtable.entries[subtable.home(hash)].index);
            }
        }
        let flows = &self.flows;
        pending.retain(|at| {
            let at_idx = usize::from(at);
            let (place, hash) = guesses[at_idx];
            let Some(subtable) = tables.subtables.get_mut(usize::from(place)) else { return true };
            let Some(index) = subtable.find(hash, &keys[at_idx], flows) else { return true };
            found[at_idx] = index;
            match flows.at(index) {
                Some(flow) if flow.is_alive() => subtable.hit(1),
                _ => dead.push(at),
            }
            false
        });
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

    /// Sorts the subtables of each port by their hits since the last call, so that the busiest is searched first.
    pub fn rank(&mut self) {
        self.ports.iter_mut().filter(|tables| !tables.subtables.is_empty()).for_each(PortTables::rank);
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
    use crate::megaflow::MegaflowSpec;
    use crate::state::Seen;

    /// One of a few masks; the key under it names the mask too, so that flows are disjoint.
    fn flow(id: u64, shape: u8, value: u8) -> Arc<Megaflow> {
        let mut mask = Mask::default();
        (mask.0.in_port, mask.0.recirc_id) = (u32::MAX, u32::MAX.into());
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
            resumes: None,
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
            let limits = ClassifierLimits { masks_per_port: 3, signatures: 32, ..ClassifierLimits::flows(100) };
            let mut classifier = Classifier::new(limits);
            let mut list: Vec<Arc<Megaflow>> = Vec::new();
            for (id, (what, shape, value)) in (0..).zip(steps) {
                let packet = key(shape, value);
                let scan = |list: &[Arc<Megaflow>]| {
                    list.iter().position(|flow| flow.is_alive() && flow.mask().apply(&packet) == flow.masked_key())
                };
                let mut pending = Pending::NONE;
                pending.push(0);
                let mut found = [0; BURST];
                let hashes = [u64::from(shape) << 16 | u64::from(value % 8); BURST];
                let port = PortId::new(1).unwrap();
                classifier.lookup(port, &[packet], Some(&hashes), Depth::Transport, &mut pending, &mut found);
                let hit = pending.as_slice().is_empty().then(|| classifier.flow(found[0]).unwrap().id());
                prop_assert_eq!(hit, scan(&list).map(|at| list[at].id()));
                match (what, scan(&list)) {
                    (0, Some(at)) => prop_assert!(classifier.remove(&list.swap_remove(at))),
                    (1, Some(at)) => list[at].kill(),
                    (2.., None) => {
                        let new = flow(id, shape, value);
                        let is_room = classifier.has_room(port, new.mask());
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
