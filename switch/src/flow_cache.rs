//! The exact-match cache: from the bits of a packet that matter at its ingress port straight to its megaflow.
//!
//! First table that a packet meets. Asked by the pipeline for a whole burst of one port, on the worker that owns it.
//!
//! The bits that any megaflow of a port looks at form the port's *union mask*. The cache is keyed on the packet under
//! that mask, not on all its headers: while a policy looks at link-layer fields only, one entry serves all connections
//! between two stations, and extraction need not read past the tags.
//!
//! Why a hit is right: the union covers the mask of every megaflow of the port. So packets of the port that agree under
//! the union agree under each of these masks, and belong to the same megaflow or to none. What can change, and what
//! then keeps an old entry from answering:
//! 1. A megaflow that looks at more joins the port: the union grows and gets a new *generation*. Entries carry the
//!    generation they were made in and only answer in that one.
//! 2. A megaflow dies: the entry names it, and the pipeline looks whether it is alive before it follows it. Another flow
//!    in its place of the table has another stamp (`FlowRef`).
//! 3. A port goes and its number is used again: forgetting the port gives it a new generation. Generations are never
//!    used twice, by any port, so a generation also stands for the port in the key.
//! 4. A megaflow joins without widening the union: it is disjoint from the living ones, so no entry of theirs is wrong.
//!
//! The one bit of masks that unions leave out is that they all look at the pass: while a port's packets pass only once it tells
//! none of them apart, and costs a word of each. Before the first packet of such a port is looked up for a second pass, the
//! union must begin to tell passes apart, or that packet would be given the verdict of its first.
//!
//! A union that is wider than needed is merely slow; one that lacks a bit of one flow's mask misroutes.
//!
//! # Source
//! The idea of caching under the used fields: Rashelbach et al., "Scaling Open vSwitch with a Computational Cache"
//! (NSDI 2022) and the simple-match cache of Open vSwitch name the problem; the union per port is our answer to it.

use std::hash::{BuildHasher, RandomState};

use zerocopy::FromZeros;
use zerocopy::byteorder::big_endian::U32;

use crate::flow::key::{Depth, FlowKey, Mask};
use crate::flow_table::FlowRef;
use crate::hash;
use crate::port::{MAX_PORTS, PortId};
use crate::prefetch::prefetch;

/// Most words that an entry holds; a port whose union needs more is not cached.
const ENTRY_WORDS: usize = 12;

/// Words that lie in the first cache line of an entry. Link-layer policies need three.
const NEAR_WORDS: usize = 6;

/// Entries that a cache starts with: half a megabyte, which stays in a core's second-level cache.
const FIRST_ENTRIES: usize = 8192;

/// When both places of a new entry are taken by flows that are still there, one insertion in this many goes ahead. With more flows
/// than entries, replacing each time would cost every packet a miss and a write; rarely, the busy flows stay.
const REPLACE_ONE_IN: u32 = 16;

/// The words of a packet that matter at its port, and their hash. The first word of a key, the port and the pass, is one of
/// them only where passes are told apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RelevantWords {
    pub(crate) words: [u64; FlowKey::WORDS],
    pub(crate) hash: u64,
}

impl RelevantWords {
    pub(crate) const NONE: RelevantWords = RelevantWords { words: [0; FlowKey::WORDS], hash: 0 };

    /// Fills in the hash of the first `count` words.
    #[inline]
    pub(crate) fn hash(&mut self, seed: u64, count: usize) {
        self.hash = self.words[..count].iter().fold(seed, |hash, &word| hash::add(hash, word));
    }
}

/// Whether two slices of one length are equal. Comparing slices by `==` calls the C library, which for the three or four
/// words of most unions costs more than the comparison.
#[inline]
fn same(one: &[u64], other: &[u64]) -> bool {
    one.iter().zip(other).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

/// The union of the masks of a port's megaflows.
///
/// # Invariants
/// 1. `mask` covers the mask of every megaflow of the port.
/// 2. `select[..count]` names the non-zero words of `mask` and holds their masks; of the first word only if `tells_passes`.
/// 3. `tells_passes` before a packet of the port is looked up that is not on its first pass.
#[derive(Debug)]
pub(crate) struct Union {
    mask: Mask,
    depth: Depth,
    has_metadata: bool,
    tells_passes: bool,
    select: [(u8, u64); FlowKey::WORDS],
    count: usize,
}

impl Union {
    pub(crate) fn new() -> Self {
        Self {
            mask: Mask::default(),
            depth: Depth::Link,
            has_metadata: false,
            tells_passes: false,
            select: [(0, 0); FlowKey::WORDS],
            count: 0,
        }
    }

    /// Whether the port's megaflows look at what the switch knows about a packet by itself, beside its port and pass.
    #[inline]
    pub(crate) fn has_metadata(&self) -> bool {
        self.has_metadata
    }

    /// Whether packets on different passes differ in the words that matter.
    pub(crate) fn tells_passes(&self) -> bool {
        self.tells_passes
    }

    /// Tells passes apart from now on.
    pub(crate) fn tell_passes(&mut self) {
        self.tells_passes = true;
        self.mask.0.recirc_id = U32::MAX_VALUE;
        self.select_words();
    }

    /// How deep the keys of the port's packets must be filled.
    #[inline]
    pub(crate) fn depth(&self) -> Depth {
        self.depth
    }

    /// Whether no megaflow looked at anything yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.mask == Mask::default()
    }

    /// Words that matter.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether an entry of the cache holds all words that matter.
    #[inline]
    pub(crate) fn is_cacheable(&self) -> bool {
        (1..=ENTRY_WORDS).contains(&self.count)
    }

    /// Adds the mask of a new megaflow; returns whether the union grew.
    pub(crate) fn widen(&mut self, mask: &Mask) -> bool {
        let before = self.mask;
        self.mask.unite(mask);
        if self.mask == before {
            return false;
        }
        self.depth = self.mask.depth();
        self.has_metadata = self.mask.has_metadata();
        self.select_words();
        true
    }

    fn select_words(&mut self) {
        self.count = 0;
        let first = usize::from(!self.tells_passes);
        for (at, &word) in (0_u8..).zip(self.mask.0.words()).skip(first).filter(|&(_, &word)| word != 0) {
            self.select[self.count] = (at, word);
            self.count += 1;
        }
    }

    /// Picks the words that matter from a key that is filled to [`depth`](Self::depth).
    #[inline]
    pub(crate) fn pick(&self, key: &FlowKey, to: &mut RelevantWords) {
        self.pick_beside(key, &RelevantWords::NONE, to);
    }

    /// The same, and says whether they are those of `before`. One pass does both, as to load several words at once that were
    /// just stored one by one would wait for the stores.
    #[inline]
    pub(crate) fn pick_beside(&self, key: &FlowKey, before: &RelevantWords, to: &mut RelevantWords) -> bool {
        let (key, mut differing) = (key.words(), 0);
        for ((word, before), &(at, mask)) in
            to.words.iter_mut().zip(&before.words).zip(&self.select[..self.count])
        {
            *word = key[usize::from(at)] & mask;
            differing |= *word ^ before;
        }
        differing == 0
    }
}

/// An entry, or its first cache line if the port's union has more than [`NEAR_WORDS`].
#[derive(Debug, Clone, Copy, FromZeros)]
#[repr(C, align(64))]
struct Entry {
    flow: FlowRef,
    /// Zero in an entry that was never used.
    generation: u32,
    signature: u32,
    words: [u64; NEAR_WORDS],
}

impl Entry {
    const EMPTY: Entry =
        Entry { flow: FlowRef { index: 0, stamp: 0 }, generation: 0, signature: 0, words: [0; NEAR_WORDS] };
}

/// `count` zeroes, straight from the allocator: megabytes that nothing touches until they are used, so that the cache can grow
/// between two bursts.
///
/// # Panics
/// If there is no memory, as every allocation here.
fn zeroed<T: FromZeros>(count: usize) -> Box<[T]> {
    // PANICS: out of memory.
    <[T]>::new_box_zeroed_with_elems(count).expect("memory for the flow cache")
}

/// The exact-match cache of one worker.
///
/// Two places for each key, a cache line each, chosen by different bits of the hash: a lookup for a link-layer policy
/// touches one line, or two. Unions of more than six words spill into a second table that is only allocated then.
/// Memory: 64 bytes for each entry, 112 with the second table.
///
/// # Concurrency
/// Owned by one worker.
#[derive(Debug)]
pub(crate) struct FlowCache {
    entries: Box<[Entry]>,
    far: Box<[[u64; ENTRY_WORDS - NEAR_WORDS]]>,
    seed: u64,
    /// Entries that the cache may grow to, a power of two.
    most: usize,
    /// The last generation given out.
    generation: u32,
    /// The generation of each port's union.
    of_port: Box<[u32]>,
    /// Insertions that found both places taken by flows that are still there.
    crowded: u32,
    /// The same, at the last [`grow_if_crowded`](FlowCache::grow_if_crowded).
    crowded_before: u32,
}

impl FlowCache {
    /// A cache that grows up to `most` entries, rounded up to a power of two; none at all with 0.
    pub(crate) fn new(most: usize) -> Self {
        let most = if most == 0 { 0 } else { most.next_power_of_two() };
        Self {
            entries: zeroed(most.min(FIRST_ENTRIES)),
            far: Box::default(),
            seed: RandomState::new().hash_one("flow cache"),
            most,
            generation: 0,
            of_port: vec![0; MAX_PORTS].into(),
            crowded: 0,
            crowded_before: 0,
        }
    }

    /// Entries at present.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Grows the cache fourfold if more packets than it has entries found no place since the last call. It is then empty, and
    /// fills again from the classifier within as many packets as there are flows.
    pub(crate) fn grow_if_crowded(&mut self) {
        let crowded = self.crowded.wrapping_sub(self.crowded_before) as usize;
        self.crowded_before = self.crowded;
        let wanted = (self.entries.len() * 4).min(self.most);
        if crowded < self.entries.len() || wanted <= self.entries.len() {
            return;
        }
        self.entries = zeroed(wanted);
        if !self.far.is_empty() {
            self.far = zeroed(wanted);
        }
    }

    /// Whether there is a cache.
    #[inline]
    pub(crate) fn is_enabled(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Where the hashes of a port's packets start, so that packets of two ports do not share their places.
    #[inline]
    pub(crate) fn seed(&self, port: PortId) -> u64 {
        self.seed ^ u64::from(self.of_port[port.index()])
    }

    /// Makes every entry of the port void: its union changed, or the port is another.
    pub(crate) fn renew(&mut self, port: PortId, union: &Union) {
        match self.generation.checked_add(1) {
            Some(next) => self.generation = next,
            None => {
                // All used up, after years: start over with an empty cache and every other port without a generation.
                self.entries.fill(Entry::EMPTY);
                self.of_port.fill(0);
                self.generation = 1;
            }
        }
        self.of_port[port.index()] = self.generation;
        if union.is_cacheable() && union.count() > NEAR_WORDS && self.far.is_empty() {
            self.far = zeroed(self.entries.len());
        }
    }

    /// The two places of a hash.
    #[inline]
    fn places(&self, hash: u64) -> [usize; 2] {
        #[allow(clippy::cast_possible_truncation, reason = "only the low bits of each half choose")]
        let halves = [hash as usize, (hash >> 32) as usize];
        halves.map(|half| half & (self.entries.len() - 1))
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "32 bits of the hash are meant")]
    fn signature(hash: u64) -> u32 {
        (hash >> 16) as u32
    }

    /// Asks for the place where `hash` most likely is. The cache is enabled.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        prefetch(&self.entries[self.places(hash)[0]]);
    }

    /// Whether the entry at `place` is that of these words at this generation.
    #[inline]
    fn holds(&self, place: usize, generation: u32, key: &RelevantWords, count: usize) -> bool {
        let entry = &self.entries[place];
        if entry.generation != generation || entry.signature != Self::signature(key.hash) {
            return false;
        }
        let near = count.min(NEAR_WORDS);
        same(&entry.words[..near], &key.words[..near])
            && (count <= NEAR_WORDS
                || same(&self.far[place][..count - NEAR_WORDS], &key.words[NEAR_WORDS..count]))
    }

    /// The megaflow that packets with these words were last found in; it may be dead. `count` is the union's.
    #[inline]
    pub(crate) fn lookup(&self, port: PortId, key: &RelevantWords, count: usize) -> Option<FlowRef> {
        let generation = self.of_port[port.index()];
        if generation == 0 {
            return None;
        }
        let [first, second] = self.places(key.hash);
        if self.holds(first, generation, key, count) {
            return Some(self.entries[first].flow);
        }
        self.holds(second, generation, key, count).then(|| self.entries[second].flow)
    }

    /// Remembers that packets with these words belong to `flow`.
    ///
    /// `port_of` tells the port of a flow that is still there. A dead one keeps its place until it is taken out, which is
    /// merely slow; to look whether it lives would touch the flow.
    pub(crate) fn insert(
        &mut self,
        port: PortId,
        key: &RelevantWords,
        count: usize,
        flow: FlowRef,
        port_of: impl Fn(FlowRef) -> Option<PortId>,
    ) {
        let generation = self.of_port[port.index()];
        if generation == 0 {
            return;
        }
        let places = self.places(key.hash);
        let same = places.into_iter().find(|&place| self.holds(place, generation, key, count));
        let is_free = |place: &usize| {
            let Entry { flow, generation, .. } = self.entries[*place];
            generation == 0 || port_of(flow).is_none_or(|port| self.of_port[port.index()] != generation)
        };
        let place = match same.or_else(|| places.into_iter().find(is_free)) {
            Some(place) => place,
            None => {
                self.crowded = self.crowded.wrapping_add(1);
                if !self.crowded.is_multiple_of(REPLACE_ONE_IN) {
                    return;
                }
                places[usize::from(self.crowded & REPLACE_ONE_IN != 0)]
            }
        };
        let entry = &mut self.entries[place];
        *entry = Entry { flow, generation, signature: Self::signature(key.hash), words: [0; NEAR_WORDS] };
        entry.words.copy_from_slice(&key.words[..NEAR_WORDS]);
        if count > NEAR_WORDS {
            self.far[place].copy_from_slice(&key.words[NEAR_WORDS..ENTRY_WORDS]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: PortId = PortId::ZERO;
    const FLOW: FlowRef = FlowRef { index: 3, stamp: 4 };

    /// A union of the first `words` words after the ingress port's.
    fn union_of(words: usize) -> Union {
        let mut mask = Mask::default();
        mask.0.words_mut()[..=words].fill(u64::MAX);
        let mut union = Union::new();
        assert!(union.widen(&mask));
        union
    }

    fn picked(cache: &FlowCache, union: &Union, value: u64) -> RelevantWords {
        let mut key = FlowKey::default();
        key.words_mut().fill(value);
        let mut words = RelevantWords::NONE;
        union.pick(&key, &mut words);
        words.hash(cache.seed(PORT), union.count());
        words
    }

    #[test]
    fn every_word_is_compared_at_every_size() {
        for count in 1..=ENTRY_WORDS {
            let mut cache = FlowCache::new(64);
            let union = union_of(count);
            cache.renew(PORT, &union);
            let words = picked(&cache, &union, 7);
            assert_eq!(cache.lookup(PORT, &words, count), None);
            cache.insert(PORT, &words, count, FLOW, |_| Some(PORT));
            assert_eq!(cache.lookup(PORT, &words, count), Some(FLOW));
            for at in 0..count {
                let mut other = words;
                other.words[at] ^= 1;
                assert_eq!(cache.lookup(PORT, &other, count), None, "word {at} of {count}");
            }
        }
        assert!(!union_of(ENTRY_WORDS + 1).is_cacheable());
        assert!(!Union::new().is_cacheable());
    }

    #[test]
    fn new_generation_makes_old_entries_void_even_for_the_same_words() {
        let mut cache = FlowCache::new(2);
        let union = union_of(3);
        cache.renew(PORT, &union);
        let words = picked(&cache, &union, 7);
        cache.insert(PORT, &words, 3, FLOW, |_| Some(PORT));
        cache.renew(PORT, &union);
        assert_eq!(cache.lookup(PORT, &words, 3), None);
        assert_eq!(cache.lookup(PortId::new(1).unwrap(), &words, 3), None, "a port without generation");
    }

    #[test]
    fn last_generation_is_followed_by_an_empty_cache() {
        let mut cache = FlowCache::new(2);
        let union = union_of(3);
        cache.generation = u32::MAX - 1;
        cache.renew(PORT, &union);
        let words = picked(&cache, &union, 7);
        cache.insert(PORT, &words, 3, FLOW, |_| Some(PORT));
        assert_eq!(cache.lookup(PORT, &words, 3), Some(FLOW));
        let other = PortId::new(1).unwrap();
        cache.renew(other, &union);
        assert_eq!(cache.lookup(PORT, &words, 3), None);
        assert_eq!(cache.of_port[other.index()], 1);
    }

    #[test]
    fn crowded_cache_grows_up_to_its_bound_and_forgets() {
        let mut cache = FlowCache::new(4 * FIRST_ENTRIES);
        let union = union_of(ENTRY_WORDS);
        cache.renew(PORT, &union);
        for value in 0..4 * FIRST_ENTRIES as u64 {
            cache.insert(PORT, &picked(&cache, &union, value), ENTRY_WORDS, FLOW, |_| Some(PORT));
        }
        cache.grow_if_crowded();
        assert_eq!(cache.len(), 4 * FIRST_ENTRIES);
        assert_eq!(cache.lookup(PORT, &picked(&cache, &union, 0), ENTRY_WORDS), None);
        for value in 0..16 * FIRST_ENTRIES as u64 {
            cache.insert(PORT, &picked(&cache, &union, value), ENTRY_WORDS, FLOW, |_| Some(PORT));
        }
        let kept = (0..16 * FIRST_ENTRIES as u64)
            .filter(|&value| cache.lookup(PORT, &picked(&cache, &union, value), ENTRY_WORDS).is_some());
        assert!(kept.count() > 3 * FIRST_ENTRIES, "it fills again");
        cache.grow_if_crowded();
        assert_eq!(cache.len(), 4 * FIRST_ENTRIES, "and no further");
    }

    #[test]
    fn quiet_cache_stays_as_it_is() {
        let mut cache = FlowCache::new(1 << 20);
        cache.grow_if_crowded();
        assert_eq!(cache.len(), FIRST_ENTRIES);
        assert_eq!(FlowCache::new(0).len(), 0);
    }

    #[test]
    fn union_that_tells_passes_picks_the_pass() {
        let mut union = union_of(3);
        let (mut key, mut words, mut others) = (FlowKey::default(), RelevantWords::NONE, RelevantWords::NONE);
        union.pick(&key, &mut words);
        key.recirc_id = 1.into();
        assert!(union.pick_beside(&key, &words, &mut others), "passes are not told apart");
        union.tell_passes();
        assert_eq!((union.count(), union.tells_passes()), (4, true));
        union.pick(&FlowKey::default(), &mut words);
        assert!(!union.pick_beside(&key, &words, &mut others));
        let mut mask = Mask::default();
        mask.0.tp_src = 1.into();
        assert!(union.widen(&mask));
        assert_eq!(union.count(), 5, "they still are");
    }

    #[test]
    fn union_grows_only_by_bits_that_are_new() {
        let mut union = union_of(3);
        let mut mask = Mask::default();
        mask.0.eth_dst = [0xff; 6];
        assert!(!union.widen(&mask));
        assert_eq!((union.depth(), union.count()), (Depth::Link, 3));
        mask.0.tp_src = 1.into();
        assert!(union.widen(&mask));
        assert_eq!((union.depth(), union.count()), (Depth::Transport, 4));
    }
}
