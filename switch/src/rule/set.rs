//! The rule set: all tables, as one immutable value.
//!
//! The slow path looks packets up in it; whoever publishes the topology makes the next set by an edit and publishes that.
//! Both share all that the edit left alone, down to parts of a table, so that a changed rule costs its own size and not
//! that of the set, and so that a rule keeps its counters as long as it exists.
//!
//! There are 255 tables, of which only those with rules take memory, and each has a hidden rule that counts what it could
//! not find.

use std::array;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::flow::fields::Fields;

use super::action::{OutputTo, RuleAction};
use super::entry::{Expiry, Rule, RuleSpec};
use super::matching::Match;
use super::port::RulePort;
use super::selector::Selector;
use super::table::Table;

/// Number of tables: `0..TABLES`.
pub const TABLES: u8 = 255;

/// Rules that a set takes unless told otherwise.
pub const DEFAULT_MAX_RULES: usize = 1_000_000;

/// What a lookup found.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// The best rule for the packet.
    Rule(&'a Arc<Rule>),
    /// No rule; this hidden one counts it.
    Miss(&'a Arc<Rule>),
}

impl<'a> Found<'a> {
    /// The rule that counts the packet.
    pub fn rule(self) -> &'a Arc<Rule> {
        match self {
            Found::Rule(rule) | Found::Miss(rule) => rule,
        }
    }
}

/// A table in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableStats {
    /// Which table.
    pub table: u8,
    /// Rules in it.
    pub rules: usize,
    /// Packets that a rule matched, one that is gone included.
    pub matched: u64,
    /// Packets that no rule matched.
    pub missed: u64,
}

impl TableStats {
    /// Packets that were looked up.
    pub fn lookups(&self) -> u64 {
        self.matched + self.missed
    }
}

/// What counts a table's packets: once for all sets that descend from one.
#[derive(Debug)]
struct TableCounters {
    matched: Arc<AtomicU64>,
    miss: Arc<Rule>,
}

/// All rules.
///
/// # Concurrency
/// Immutable but for the rules' counters; any thread may look up at any time. A set is published by putting it into the
/// topology snapshot. Freeing one costs what it does not share with another, and is the publisher's.
///
/// # Invariants
/// 1. At least one table has a rule.
/// 2. `tables[n]` is `None` if it has no rules; `len` is the sum of all tables.
#[derive(Debug, Clone)]
pub struct RuleSet {
    pub(super) generation: u64,
    pub(super) max_rules: usize,
    pub(super) len: usize,
    /// Of the next rule.
    pub(super) serial: u64,
    pub(super) tables: Arc<[Option<Arc<Table>>; 256]>,
    counters: Arc<[TableCounters; 256]>,
}

impl RuleSet {
    /// The set in which one rule, `table=0,priority=0,actions=NORMAL`, makes a learning switch.
    pub fn learning_switch(now_ms: u64) -> Self {
        let counters = array::from_fn(|table| {
            #[allow(clippy::cast_possible_truncation, reason = "the array has 256 places")]
            let spec = RuleSpec {
                table: table as u8,
                priority: 0,
                cookie: 0,
                idle_timeout_s: 0,
                hard_timeout_s: 0,
                remarks: Default::default(),
                matching: Match::ANY,
                actions: Box::default(),
            };
            TableCounters { matched: Arc::default(), miss: Arc::new(Rule::new(spec, now_ms)) }
        });
        let mut set = Self {
            generation: 0,
            max_rules: DEFAULT_MAX_RULES,
            len: 0,
            serial: 0,
            tables: Arc::new([const { None }; 256]),
            counters: Arc::new(counters),
        };
        set.restore_learning_switch(now_ms);
        set
    }

    /// The same set, which takes at most this many rules; one is always taken.
    #[must_use]
    pub fn with_max_rules(mut self, max_rules: usize) -> Self {
        self.max_rules = max_rules.max(1);
        self
    }

    /// Most rules that it takes.
    pub fn max_rules(&self) -> usize {
        self.max_rules
    }

    /// Grows with every edit that changed something.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Rules in all tables; never none.
    #[allow(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The best rule for a packet in a table: the one of highest priority that matches, the oldest of several.
    ///
    /// Adds to `looked` the bits that this depended on: every packet that agrees with `fields` in these bits meets the same
    /// rule. What `looked` had before stays.
    ///
    /// Table 255, which can have no rules, is always a miss.
    pub fn lookup(&self, table: u8, fields: &Fields, looked: &mut Fields) -> Found<'_> {
        let rules = self.tables[usize::from(table)].as_ref();
        match rules.and_then(|rules| rules.lookup(fields, looked)) {
            Some(rule) => Found::Rule(rule),
            None => Found::Miss(&self.counters[usize::from(table)].miss),
        }
    }

    /// The rules that make a packet meet the conjunction because of which a lookup finds what it finds; none without one.
    pub fn conjunction_parts(&self, table: u8, fields: &Fields) -> Vec<&Arc<Rule>> {
        self.tables[usize::from(table)].as_ref().map_or_else(Vec::new, |rules| rules.parts(fields))
    }

    /// All rules, table by table, in no order within a table.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<Rule>> {
        self.tables.iter().flatten().flat_map(|table| table.rules())
    }

    /// The rules that a selector selects, sorted by table, then best first.
    pub fn select(&self, selector: &Selector, strict: bool) -> Vec<&Arc<Rule>> {
        let mut selected = Vec::new();
        for number in self.numbers(selector.table) {
            let Some(table) = &self.tables[number] else { continue };
            let from = selected.len();
            if strict {
                selected.extend(table.find(&selector.matching, selector.strict_priority()));
            } else {
                selected.extend(table.within(&selector.matching));
            }
            selected[from..].sort_unstable_by_key(|rule: &&Arc<Rule>| std::cmp::Reverse(rule.rank()));
        }
        selected.retain(|rule| selector.selects(rule.spec(), strict));
        selected
    }

    /// The tables that have rules or were asked, in numbers.
    pub fn tables(&self) -> impl Iterator<Item = TableStats> {
        (0..TABLES).filter_map(|table| {
            let counters = &self.counters[usize::from(table)];
            let stats = TableStats {
                table,
                rules: self.tables[usize::from(table)].as_ref().map_or(0, |rules| rules.len()),
                matched: counters.matched.load(Ordering::Relaxed),
                missed: counters.miss.stats().packets,
            };
            (stats.rules != 0 || stats.lookups() != 0).then_some(stats)
        })
    }

    /// The rules whose time is over. Their counters must have been brought up to date before, or a rule in use looks idle.
    /// [`Edit::Remove`](super::edit::Edit::Remove) takes them out.
    pub fn expired(&self, now_ms: u64) -> Vec<(Arc<Rule>, Expiry)> {
        let timed = self.tables.iter().flatten().flat_map(|table| table.timed());
        timed.filter_map(|rule| rule.expiry(now_ms).map(|expiry| (Arc::clone(rule), expiry))).collect()
    }

    /// Every bit that some rule of some table matches. What is outside, no lookup ever adds to `looked`.
    pub fn used(&self) -> Fields {
        let mut used = Fields::NONE;
        self.tables.iter().flatten().for_each(|table| used.unite(&table.used()));
        used
    }

    /// Places of the given table, or of all.
    pub(super) fn numbers(&self, table: Option<u8>) -> std::ops::Range<usize> {
        table.map_or(0..usize::from(TABLES), |table| usize::from(table)..usize::from(table) + 1)
    }

    /// A new rule with the next serial number, not yet in its table.
    pub(super) fn make_rule(&mut self, spec: RuleSpec, now_ms: u64) -> Arc<Rule> {
        let counter = Arc::clone(&self.counters[usize::from(spec.table)].matched);
        self.serial += 1;
        Arc::new(Rule::in_table(spec, now_ms, self.serial, counter))
    }

    /// Puts a rule into its table, in place of the one with the same match and priority if there is one.
    pub(super) fn put(&mut self, rule: Arc<Rule>) -> Option<Arc<Rule>> {
        let place = &mut Arc::make_mut(&mut self.tables)[usize::from(rule.spec().table)];
        let old = Arc::make_mut(place.get_or_insert_default()).put(rule);
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes this very rule out; false if it is not there.
    pub(super) fn take(&mut self, rule: &Arc<Rule>) -> bool {
        let spec = rule.spec();
        let number = usize::from(spec.table);
        let found = self.tables[number].as_ref().and_then(|table| table.find(&spec.matching, spec.priority));
        if !found.is_some_and(|found| Arc::ptr_eq(found, rule)) {
            return false;
        }
        let place = &mut Arc::make_mut(&mut self.tables)[number];
        if let Some(table) = place {
            let table = Arc::make_mut(table);
            table.remove(rule);
            if table.len() == 0 {
                *place = None;
            }
        }
        self.len -= 1;
        true
    }

    /// The rule with this table, match and priority.
    pub(super) fn same_place(&self, spec: &RuleSpec) -> Option<&Arc<Rule>> {
        self.tables[usize::from(spec.table)].as_ref()?.find(&spec.matching, spec.priority)
    }

    /// Puts the rule of the learning switch back if there is no other (invariant 1), and says whether it did.
    pub(super) fn restore_learning_switch(&mut self, now_ms: u64) -> bool {
        if self.len != 0 {
            return false;
        }
        let normal = RuleSpec {
            table: 0,
            priority: 0,
            cookie: 0,
            idle_timeout_s: 0,
            hard_timeout_s: 0,
            remarks: Default::default(),
            matching: Match::ANY,
            actions: Box::new([RuleAction::Output(OutputTo::Port(RulePort::NORMAL))]),
        };
        let rule = self.make_rule(normal, now_ms);
        self.put(rule);
        true
    }
}
