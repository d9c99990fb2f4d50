//! One table: its rules, and which of them a packet meets.
//!
//! A tuple-space classifier with priorities. Rules with the same mask share a `Subtable`, and a packet is looked up in
//! one subtable after the other. They are sorted by the best rank among their rules, so the search ends at the first one
//! that has nothing better than what was found.
//!
//! The answer is one half of a lookup. The other half is which bits it depended on: they become the mask of a megaflow, and
//! every packet with these bits goes by this answer without being looked up. A bit too many costs speed: more megaflows,
//! more misses. A bit too few misroutes. The argument that none is missing is the same at every place where the search
//! branches: which way it goes follows from what the table holds, which all packets share, and from bits of the packet
//! that are in `looked` by then. So a packet that agrees in `looked` takes the same way, and ends at the same rule. At one
//! place the bits are noted a step later: when a trie does *not* refute a prefix, nothing is noted where it is asked,
//! since the stage that has this prefix then looks at all of it.
//!
//! Some rules are parts of conjunctions. The search sets them aside, and behind it they are put together; see
//! `conjunction.rs`.
//!
//! Four things keep `looked` small: the end of the search by rank, the stages of each subtable, the rank below each stage,
//! and one trie per prefix field for the whole table. See `subtable.rs` and `trie.rs`.
//!
//! # Source
//! Srinivasan, Suri, Varghese: Packet Classification using Tuple Space Search (SIGCOMM 1999). Pfaff et al.: The Design and
//! Implementation of Open vSwitch (NSDI 2015), section 5, taught stages and tries; ranks below stages and tries of
//! ports for the whole table are ours.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::flow::fields::Fields;
use crate::hash;

use super::conjunction::{self, Conjunction};
use super::entry::{Rank, Rule};
use super::matching::Match;
use super::subtable::{Subtable, Walks};
use super::trie::{PrefixField, PrefixTrie};

/// A subtable in its table.
#[derive(Debug, Clone)]
struct Member {
    /// The best rank of its rules.
    rank: Rank,
    /// The hash of its mask, by which changes find it without looking at many masks.
    mask_hash: u64,
    rules: Arc<Subtable>,
}

/// The rules of one table.
///
/// # Invariants
/// 1. `subtables` is sorted by `rank`, best first; masks are all different; none is empty.
/// 2. A trie has each rule's prefix of its field, if the rule's mask is one, once for each rule.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    subtables: Vec<Member>,
    tries: [PrefixTrie; PrefixField::ALL.len()],
    len: usize,
}

fn hash_of(mask: &Fields) -> u64 {
    mask.words().iter().fold(hash::GOLDEN, |hash, &word| hash::add(hash, word))
}

impl Table {
    /// Rules in it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The best rule that holds for the packet; adds the bits that this depended on to `looked`.
    pub(super) fn lookup(&self, fields: &Fields, looked: &mut Fields) -> Option<&Arc<Rule>> {
        let mut parts = Vec::new();
        let best = self.best(fields, looked, |part| parts.push(part));
        if parts.is_empty() {
            return best;
        }
        let than = best.map(|rule| rule.spec().priority);
        let of_conjunction =
            conjunction::first(&mut parts, than, |conjunction, _| self.best_of(conjunction, fields, looked));
        of_conjunction.or(best)
    }

    /// The rule for packets that meet a conjunction; adds the bits that this depended on to `looked`.
    fn best_of(&self, conjunction: Conjunction, fields: &Fields, looked: &mut Fields) -> Option<&Arc<Rule>> {
        let with_id = Fields { conj_id: conjunction.id.into(), ..*fields };
        self.best(&with_id, looked, |_| {})
    }

    /// The rules that make the packet meet a conjunction whose rule the lookup finds; none if it finds another.
    pub(super) fn parts(&self, fields: &Fields) -> Vec<&Arc<Rule>> {
        let mut parts = Vec::new();
        let mut looked = Fields::NONE;
        let best = self.best(fields, &mut looked, |part| parts.push(part));
        let than = best.map(|rule| rule.spec().priority);
        let met = conjunction::first(&mut parts, than, |conjunction, priority| {
            self.best_of(conjunction, fields, &mut looked).map(|_| (conjunction, priority))
        });
        parts.retain(|part| {
            met.is_some_and(|(conjunction, priority)| {
                part.spec().priority == priority && conjunction::is_part_of(part, conjunction)
            })
        });
        parts
    }

    /// The best rule that holds for the packet and is carried out; shows those that are parts of conjunctions and may be
    /// better to `part`.
    fn best<'a>(
        &'a self,
        fields: &Fields,
        looked: &mut Fields,
        mut part: impl FnMut(&'a Arc<Rule>),
    ) -> Option<&'a Arc<Rule>> {
        let mut walks = Walks::new(&self.tries);
        let mut best = None;
        let mut rank = 0;
        for member in &self.subtables {
            if member.rank < rank {
                break;
            }
            if let Some(rule) = member.rules.lookup(fields, &mut walks, rank, looked, &mut part) {
                (best, rank) = (Some(rule), rule.rank());
            }
        }
        best
    }

    /// Where the subtable of this mask lies.
    fn position(&self, mask: &Fields) -> Option<usize> {
        let mask_hash = hash_of(mask);
        self.subtables.iter().position(|member| member.mask_hash == mask_hash && member.rules.mask() == mask)
    }

    /// The rule with this match and priority.
    pub(super) fn find(&self, matching: &Match, priority: u16) -> Option<&Arc<Rule>> {
        let at = self.position(&matching.mask())?;
        self.subtables[at].rules.find(matching, priority)
    }

    /// Puts a rule in, in place of the one with the same rank, match and priority if there is one.
    pub(super) fn put(&mut self, rule: Arc<Rule>) -> Option<Arc<Rule>> {
        let (value, mask) = (rule.spec().matching.value(), rule.spec().matching.mask());
        let at = self.position(&mask).unwrap_or_else(|| {
            let rules = Arc::new(Subtable::new(&mask));
            self.subtables.push(Member { rank: 0, mask_hash: hash_of(&mask), rules });
            self.subtables.len() - 1
        });
        let old = Arc::make_mut(&mut self.subtables[at].rules).put(Arc::clone(&rule));
        if old.is_none() {
            for (field, len) in self.subtables[at].rules.prefixes() {
                self.tries[field as usize].insert(field.bits(&value), len);
            }
            self.len += 1;
            self.settle(at);
        }
        old
    }

    /// Takes out a rule that is here.
    pub(super) fn remove(&mut self, rule: &Rule) {
        let (value, mask) = (rule.spec().matching.value(), rule.spec().matching.mask());
        let Some(at) = self.position(&mask) else {
            debug_assert!(false, "only rules that are here are removed");
            return;
        };
        Arc::make_mut(&mut self.subtables[at].rules).remove(rule);
        for (field, len) in self.subtables[at].rules.prefixes() {
            self.tries[field as usize].remove(field.bits(&value), len);
        }
        self.len -= 1;
        self.settle(at);
    }

    /// Moves a subtable whose rules changed to where its rank belongs; drops it if it has none.
    fn settle(&mut self, at: usize) {
        let rules = &self.subtables[at].rules;
        let rank = rules.rank();
        if rank == self.subtables[at].rank {
            return;
        }
        let is_empty = rules.is_empty();
        let member = self.subtables.remove(at);
        if !is_empty {
            let to = self.subtables.partition_point(|other| Reverse(other.rank) < Reverse(rank));
            self.subtables.insert(to, Member { rank, ..member });
        }
    }

    /// All rules, in no order.
    pub(super) fn rules(&self) -> Vec<&Arc<Rule>> {
        let mut all = Vec::with_capacity(self.len);
        self.subtables.iter().for_each(|member| member.rules.for_each(&mut |rule| all.push(rule)));
        all
    }

    /// The rules all of whose packets `wider` covers.
    pub(super) fn within(&self, wider: &Match) -> Vec<&Arc<Rule>> {
        let mut within = Vec::new();
        let mask = wider.mask();
        for member in &self.subtables {
            let mut words = mask.words().iter().zip(member.rules.mask().words());
            if words.all(|(wide, own)| wide & !own == 0) {
                member.rules.for_each(&mut |rule| {
                    within.extend(rule.spec().matching.is_within(wider).then_some(rule))
                });
            }
        }
        within
    }

    /// A rule of this priority that shares a packet with `matching`. Looks at every rule.
    pub(super) fn overlapping(&self, matching: &Match, priority: u16) -> Option<&Arc<Rule>> {
        let mut found = None;
        for member in &self.subtables {
            member.rules.for_each(&mut |rule| {
                let spec = rule.spec();
                if spec.priority == priority && spec.matching.overlaps(matching) {
                    found = Some(rule);
                }
            });
        }
        found
    }

    /// The rules with a timeout.
    pub(super) fn timed(&self) -> Vec<&Arc<Rule>> {
        let mut timed = Vec::new();
        for member in self.subtables.iter().filter(|member| member.rules.timed() != 0) {
            member.rules.for_each(&mut |rule| timed.extend(rule.is_timed().then_some(rule)));
        }
        timed
    }

    /// Every bit that some rule matches.
    pub(super) fn used(&self) -> Fields {
        let mut used = Fields::NONE;
        self.subtables.iter().for_each(|member| used.unite(member.rules.mask()));
        used
    }
}

#[cfg(test)]
mod tests;
