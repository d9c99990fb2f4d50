//! One table: its rules, and which of them a packet meets.

use std::sync::Arc;

use crate::flow::fields::Fields;

use super::entry::Rule;
use super::matching::Match;

/// The rules of one table, best first.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    rules: Vec<Arc<Rule>>,
}

impl Table {
    /// Rules in it.
    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    /// The best rule that holds for the packet; adds the bits that this depended on to `looked`.
    pub(super) fn lookup(&self, fields: &Fields, looked: &mut Fields) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| {
            looked.unite(rule.spec().matching.mask());
            rule.spec().matching.covers(fields)
        })
    }

    /// The rule with this match and priority.
    pub(super) fn find(&self, matching: &Match, priority: u16) -> Option<&Arc<Rule>> {
        let spec = |rule: &Rule| rule.spec().priority == priority && rule.spec().matching == *matching;
        self.rules.iter().find(|rule| spec(rule))
    }

    /// Puts a rule in, in place of the one with the same match and priority if there is one.
    pub(super) fn put(&mut self, rule: Arc<Rule>) -> Option<Arc<Rule>> {
        let old = self.remove(&rule.spec().matching, rule.spec().priority);
        let at = self.rules.partition_point(|other| other.rank() > rule.rank());
        self.rules.insert(at, rule);
        old
    }

    /// Takes the rule with this match and priority out.
    pub(super) fn remove(&mut self, matching: &Match, priority: u16) -> Option<Arc<Rule>> {
        let is_it = |rule: &Arc<Rule>| rule.spec().priority == priority && rule.spec().matching == *matching;
        self.rules.iter().position(is_it).map(|at| self.rules.remove(at))
    }

    /// All rules.
    pub(super) fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter()
    }

    /// The rules all of whose packets `wider` covers.
    pub(super) fn within(&self, wider: &Match) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter().filter(|rule| rule.spec().matching.is_within(wider))
    }

    /// A rule of this priority that shares a packet with `matching`.
    pub(super) fn overlapping(&self, matching: &Match, priority: u16) -> Option<&Arc<Rule>> {
        self.rules.iter().find(|rule| {
            let spec = rule.spec();
            spec.priority == priority && spec.matching.overlaps(matching)
        })
    }

    /// The rules with a timeout.
    pub(super) fn timed(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.rules.iter().filter(|rule| rule.is_timed())
    }

    /// Every bit that some rule matches.
    pub(super) fn used(&self) -> Fields {
        let mut used = Fields::NONE;
        self.rules.iter().for_each(|rule| used.unite(rule.spec().matching.mask()));
        used
    }
}
