//! The rules of one mask, found by hash in stages.
//!
//! All rules of a subtable ask for the same bits, so a packet's bits under the mask are looked up by hash. A single lookup
//! would look at all of them even if the first few already say that no rule is here: a packet of another port would become
//! a megaflow of one 5-tuple. So the mask is cut into stages in the order of the headers, and each stage is a map of
//! its own from the bits of all stages so far to what comes below: the next stage or, at the last one, rules. Where
//! a stage has nothing for the packet, the search ends, and only bits of the stages so far were looked at.
//!
//! Each map also knows the best rank below each of its entries. If that is worse than a rule found already, the search
//! ends there as well.
//!
//! Before the bits of a stage are looked at, the tries are asked whether some rule has the packet's prefixes of this stage;
//! that often costs fewer bits than the stage has.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::flow::fields::Fields;
use crate::flow::key::Depth;
use crate::hash;

use super::entry::{Rank, Rule};
use super::hash_trie::{Entry, HashTrie, Ranked};
use super::matching::Match;
use super::trie::{PrefixField, PrefixTrie, Walk};

/// Number of stages.
const STAGES: usize = 4;

/// The stage that looks at a word: what the switch itself knows, link layer, network layer, transport layer.
fn stage_of_word(at: usize) -> usize {
    const PORT: usize = 0;
    const LINK: usize = Depth::Link.words();
    const NETWORK: usize = Depth::Network.words();
    const TRANSPORT: usize = Depth::Transport.words();
    match at {
        PORT | TRANSPORT.. => 0,
        1..LINK => 1,
        LINK..NETWORK => 2,
        NETWORK..TRANSPORT => 3,
    }
}

/// The stage that has the bits of a field with tries.
fn stage_of_field(field: PrefixField) -> usize {
    match field {
        PrefixField::Ipv4Src | PrefixField::Ipv4Dst | PrefixField::Ipv6Src | PrefixField::Ipv6Dst => 2,
        PrefixField::TpSrc | PrefixField::TpDst => 3,
    }
}

/// The bits of a mask that are looked at together.
#[derive(Debug)]
struct Stage {
    /// Words of the mask that are not zero, and where they lie.
    words: Box<[(usize, u64)]>,
    /// Fields of the stage that the mask has a prefix of, and its length.
    prefixes: Box<[(PrefixField, u8)]>,
}

impl Stage {
    /// Adds the stage's bits of a packet to the hash of the earlier ones.
    #[inline]
    fn hash(&self, hash: u64, fields: &Fields) -> u64 {
        let fields = fields.words();
        self.words.iter().fold(hash, |hash, &(at, mask)| hash::add(hash, fields[at] & mask))
    }

    #[inline]
    fn look_at(&self, looked: &mut Fields) {
        let looked = looked.words_mut();
        self.words.iter().for_each(|&(at, mask)| looked[at] |= mask);
    }
}

/// A mask, cut into stages; stages without bits are left out, but there is at least one.
#[derive(Debug)]
struct Shape {
    mask: Fields,
    stages: Box<[Stage]>,
}

impl Shape {
    fn new(mask: &Fields) -> Self {
        let stage = |number| {
            let words = mask.words().iter().copied().enumerate();
            let prefixes = PrefixField::ALL.into_iter().filter(|&field| stage_of_field(field) == number);
            Stage {
                words: words.filter(|&(at, word)| word != 0 && stage_of_word(at) == number).collect(),
                prefixes: prefixes
                    .filter_map(|field| field.prefix_len(mask).map(|len| (field, len)))
                    .collect(),
            }
        };
        let mut stages: Vec<_> = (0..STAGES).map(stage).collect();
        stages.retain(|stage| !stage.words.is_empty());
        if stages.is_empty() {
            stages.push(Stage { words: Box::default(), prefixes: Box::default() });
        }
        Self { mask: *mask, stages: stages.into() }
    }

    /// The hash after each stage.
    fn hashes(&self, fields: &Fields) -> Vec<u64> {
        let mut hash = hash::GOLDEN;
        let stages = self.stages.iter().map(|stage| {
            hash = stage.hash(hash, fields);
            hash
        });
        stages.collect()
    }
}

/// What lies behind a hash.
#[derive(Debug, Clone)]
enum Below {
    /// The next stage. One entry has all rules with its hash, whatever bits led to it: those that differ all the same are
    /// told apart by their rules.
    Stage(HashTrie<Below>),
    /// A rule with these bits, most likely.
    Rule(Arc<Rule>),
}

impl Ranked for Below {
    fn rank(&self) -> Rank {
        match self {
            Below::Stage(stage) => stage.rank(),
            Below::Rule(rule) => rule.rank(),
        }
    }
}

/// The rules of one mask.
#[derive(Debug, Clone)]
pub(super) struct Subtable {
    shape: Arc<Shape>,
    first: HashTrie<Below>,
    timed: usize,
}

/// What the tries of a table say of one packet, as far as they were asked.
#[derive(Debug)]
pub(super) struct Walks<'a> {
    tries: &'a [PrefixTrie; PrefixField::ALL.len()],
    done: [Option<Walk>; PrefixField::ALL.len()],
}

impl<'a> Walks<'a> {
    pub(super) fn new(tries: &'a [PrefixTrie; PrefixField::ALL.len()]) -> Self {
        Self { tries, done: [None; PrefixField::ALL.len()] }
    }

    #[inline]
    fn of(&mut self, field: PrefixField, fields: &Fields) -> Walk {
        let at = field as usize;
        *self.done[at].get_or_insert_with(|| self.tries[at].walk(field.bits(fields)))
    }
}

impl Subtable {
    pub(super) fn new(mask: &Fields) -> Self {
        Self { shape: Arc::new(Shape::new(mask)), first: HashTrie::default(), timed: 0 }
    }

    /// The bits that its rules ask for.
    pub(super) fn mask(&self) -> &Fields {
        &self.shape.mask
    }

    /// The prefixes that its rules ask for: fields and lengths.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = (PrefixField, u8)> {
        self.shape.stages.iter().flat_map(|stage| stage.prefixes.iter().copied())
    }

    /// The best rank of its rules.
    pub(super) fn rank(&self) -> Rank {
        self.first.rank()
    }

    /// Whether it has no rules.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Rules with a timeout.
    pub(super) fn timed(&self) -> usize {
        self.timed
    }

    /// The best rule for the packet that is better than `than` and is carried out, if there is one. Shows every rule for the
    /// packet that is a part of conjunctions and better than both to `part`. Adds the bits that the answer depended on to
    /// `looked`.
    pub(super) fn lookup<'a>(
        &'a self,
        fields: &Fields,
        walks: &mut Walks<'_>,
        than: Rank,
        looked: &mut Fields,
        mut part: impl FnMut(&'a Arc<Rule>),
    ) -> Option<&'a Arc<Rule>> {
        let mut map = &self.first;
        let mut hash = hash::GOLDEN;
        for stage in &*self.shape.stages {
            for &(field, len) in &*stage.prefixes {
                if let Some(proof) = walks.of(field, fields).refutes(len) {
                    field.look_at(proof, looked);
                    return None;
                }
            }
            hash = stage.hash(hash, fields);
            stage.look_at(looked);
            let mut below = None;
            for entry in map.get(hash) {
                if entry.item.rank() < than {
                    // So are all after it.
                    return None;
                }
                match &entry.item {
                    Below::Rule(rule) if !rule.spec().matching.covers(fields) => {}
                    Below::Rule(rule) if rule.is_conjunctive() => part(rule),
                    Below::Rule(rule) => return Some(rule),
                    Below::Stage(next) => below = Some(next),
                }
            }
            map = below?;
        }
        None
    }

    /// The rules that may have the bits of `value`, best first.
    fn candidates(&self, value: &Fields) -> impl Iterator<Item = &Arc<Rule>> {
        let mut entries: &[Entry<Below>] = &[];
        let mut map = Some(&self.first);
        for hash in self.shape.hashes(value) {
            entries = map.map_or(&[], |map| map.get(hash));
            map = entries.iter().find_map(|entry| match &entry.item {
                Below::Stage(next) => Some(next),
                Below::Rule(_) => None,
            });
        }
        entries.iter().filter_map(|entry| match &entry.item {
            Below::Rule(rule) => Some(rule),
            Below::Stage(_) => None,
        })
    }

    /// The rule with this match, whose mask is the subtable's, and this priority.
    pub(super) fn find(&self, matching: &Match, priority: u16) -> Option<&Arc<Rule>> {
        let is_it = |rule: &&Arc<Rule>| rule.spec().priority == priority && rule.spec().matching == *matching;
        self.candidates(&matching.value()).find(is_it)
    }

    /// Puts a rule of this mask in, in place of the one with the same rank if there is one.
    pub(super) fn put(&mut self, rule: Arc<Rule>) -> Option<Arc<Rule>> {
        let hashes = self.shape.hashes(&rule.spec().matching.value());
        self.timed += usize::from(rule.is_timed());
        let old = put_below(&mut self.first, &hashes, rule);
        self.timed -= usize::from(old.as_ref().is_some_and(|old| old.is_timed()));
        old
    }

    /// Takes out a rule that is here.
    pub(super) fn remove(&mut self, rule: &Rule) {
        let hashes = self.shape.hashes(&rule.spec().matching.value());
        self.timed -= usize::from(rule.is_timed());
        remove_below(&mut self.first, &hashes, rule.rank());
    }

    /// Shows every rule to `visit`.
    pub(super) fn for_each<'a>(&'a self, visit: &mut dyn FnMut(&'a Arc<Rule>)) {
        visit_below(&self.first, visit);
    }
}

/// Where in a sorted list an entry with this hash and rank lies or would lie.
fn place(entries: &[Entry<Below>], hash: u64, rank: Rank) -> Result<usize, usize> {
    entries.binary_search_by_key(&(hash, Reverse(rank)), |entry| (entry.hash, Reverse(entry.item.rank())))
}

/// Where in a sorted list the stage behind this hash lies or would lie; there is at most one.
fn stage_place(entries: &[Entry<Below>], hash: u64) -> Result<usize, usize> {
    entries.binary_search_by_key(&hash, |entry| entry.hash)
}

fn put_below(map: &mut HashTrie<Below>, hashes: &[u64], rule: Arc<Rule>) -> Option<Arc<Rule>> {
    let (&hash, deeper) = hashes.split_first()?;
    map.update(hash, |entries| {
        if deeper.is_empty() {
            let at = place(entries, hash, rule.rank());
            let entry = Entry { hash, item: Below::Rule(rule) };
            return match at {
                Ok(at) => match std::mem::replace(&mut entries[at], entry).item {
                    Below::Rule(old) => Some(old),
                    Below::Stage(_) => None,
                },
                Err(at) => {
                    entries.insert(at, entry);
                    None
                }
            };
        }
        let at = stage_place(entries, hash).unwrap_or_else(|at| {
            entries.insert(at, Entry { hash, item: Below::Stage(HashTrie::default()) });
            at
        });
        match &mut entries[at].item {
            Below::Stage(next) => put_below(next, deeper, rule),
            Below::Rule(_) => None,
        }
    })
}

fn remove_below(map: &mut HashTrie<Below>, hashes: &[u64], rank: Rank) {
    let Some((&hash, deeper)) = hashes.split_first() else { return };
    map.update(hash, |entries| {
        let at = if deeper.is_empty() { place(entries, hash, rank) } else { stage_place(entries, hash) };
        debug_assert!(at.is_ok(), "only rules that are here are removed");
        let Ok(at) = at else { return };
        if let Below::Stage(next) = &mut entries[at].item {
            remove_below(next, deeper, rank);
            if !next.is_empty() {
                return;
            }
        }
        entries.remove(at);
    });
}

fn visit_below<'a>(map: &'a HashTrie<Below>, visit: &mut dyn FnMut(&'a Arc<Rule>)) {
    map.for_each(&mut |item| match item {
        Below::Rule(rule) => visit(rule),
        Below::Stage(next) => visit_below(next, visit),
    });
}
