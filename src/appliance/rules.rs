//! Rules: adding, replacing, changing, removing, and what they count.
//!
//! Texts are read with the names of the present snapshot, and a change is made and published in one step, so changes that
//! come at the same time are made one after the other, and each as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use vsteer_switch::rule::action::RuleAction;
use vsteer_switch::rule::edit::{Edit, EditError, Edited};
use vsteer_switch::rule::entry::{Rule, RuleSpec};
use vsteer_switch::rule::matching::Match;
use vsteer_switch::rule::set::TableStats;
use vsteer_switch::rule::text::{Addition, TextError, parse_modification, parse_selector, rules_of};

use super::{Appliance, Refusal};
use crate::config::{rule_line, text_problem};
use crate::port_numbers::PortNumbers;
use crate::table_names::TableNames;
use crate::topology::Topology;

/// Rules as somebody wrote them, one a line, in ovs-ofctl's syntax.
#[derive(Debug, Clone, Copy)]
pub struct WrittenRules<'a> {
    /// The rules; `#` begins a comment.
    pub text: &'a str,
    /// The file they come from, for errors.
    pub source: Option<&'a str>,
}

/// How rules are added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Adding {
    /// Refuse a rule that shares packets with another of the same table and priority.
    pub check_overlap: bool,
    /// Let the counters of rules whose place is taken begin anew.
    pub reset_counts: bool,
}

/// How rules are given other actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modifying {
    /// Only rules with exactly this match and priority.
    pub strict: bool,
    /// Let their counters begin anew.
    pub reset_counts: bool,
}

/// What a change of rules did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RulesChanged {
    /// Rules that are new.
    pub added: usize,
    /// Rules that took the place of one with the same match and priority.
    pub modified: usize,
    /// Rules removed.
    pub removed: usize,
    /// Rules there are now.
    pub rules: usize,
}

/// Rules and what surrounds them, with counters that are up to date.
#[derive(Debug, Clone)]
pub struct RulesReport {
    /// The rules, by table and priority.
    pub rules: Vec<Arc<Rule>>,
    /// What ports are called.
    pub numbers: Arc<PortNumbers>,
    /// What tables are called.
    pub table_names: Arc<TableNames>,
    /// When this was so, on the clock of the rules' times.
    pub now_ms: u64,
}

/// A table in numbers, and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableReport {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The numbers.
    pub stats: TableStats,
}

/// Bytes that one word of a line takes while the line is read: its items, and where they stand.
const WORD_BYTES: usize = 128;

/// About how much memory the rules of `text` take while it is read; more rather than less.
pub fn reading_bytes(text: &str) -> usize {
    let rule_bytes = size_of::<Edit>();
    // Every condition and every action ends at one of these, or with its line.
    let ends =
        |line: &str| line.bytes().filter(|byte| matches!(byte, b',' | b' ' | b'\t' | b'(')).count() + 1;
    let (mut kept, mut longest) = (0, 0);
    for line in text.lines().filter(|line| !line.trim_start().is_empty()) {
        let words = ends(line);
        kept += rule_bytes + words * size_of::<RuleAction>().max(Match::MAX_FIELD_BYTES);
        longest = longest.max(words);
    }
    kept + longest * WORD_BYTES
}

impl Appliance {
    /// Adds rules, all of them or none.
    ///
    /// # Errors
    /// A line is no rule, or a rule cannot be had.
    pub fn add_rules(&self, rules: WrittenRules<'_>, how: Adding) -> Result<RulesChanged, Refusal> {
        let Adding { check_overlap, reset_counts } = how;
        let edits = self.read_rules(rules, |added| Edit::Add {
            spec: added.spec,
            check_overlap: check_overlap || added.check_overlap,
            reset_counts: reset_counts || added.reset_counts,
        })?;
        self.edit_rules(&edits, |error| refused(rules, error.edit, error))
    }

    /// Puts rules in place of all that there are. How a line asks to be added means nothing then.
    ///
    /// # Errors
    /// A line is no rule, or a rule cannot be had.
    pub fn replace_rules(&self, rules: WrittenRules<'_>) -> Result<RulesChanged, Refusal> {
        let specs: Vec<RuleSpec> = self.read_rules(rules, |added| added.spec)?;
        self.edit_rules(&[Edit::Replace(specs)], |error| refused(rules, error.rule.unwrap_or(0), error))
    }

    /// Gives rules other actions: those that the selector in `text` selects, the actions behind it.
    ///
    /// # Errors
    /// The text is no choice of rules with actions.
    pub fn modify_rules(&self, text: &str, how: Modifying) -> Result<RulesChanged, Refusal> {
        let modification = parse_modification(text, how.strict, &self.fabric.topology.load().names())
            .map_err(|error| text_refusal(None, &error))?;
        let edit = Edit::Modify {
            selector: modification.selector,
            strict: how.strict,
            actions: modification.actions,
            cookie: modification.cookie,
            reset_counts: how.reset_counts || modification.reset_counts,
        };
        self.edit_rules(&[edit], |error| Refusal::failed(&error.reason))
    }

    /// Removes the rules that the selector in `text` selects; a strict one only that with exactly its match and priority.
    ///
    /// # Errors
    /// The text is no choice of rules.
    pub fn delete_rules(&self, text: &str, strict: bool) -> Result<RulesChanged, Refusal> {
        let selector = parse_selector(text, strict, &self.fabric.topology.load().names())
            .map_err(|error| text_refusal(None, &error))?;
        self.edit_rules(&[Edit::Delete { selector, strict }], |error| Refusal::failed(&error.reason))
    }

    /// The rules that the selector in `text` selects, with their counters as they are now.
    ///
    /// # Errors
    /// The text is no choice of rules.
    pub fn rules(&self, text: &str) -> Result<RulesReport, Refusal> {
        let topology = self.with_counters();
        let selector =
            parse_selector(text, false, &topology.names()).map_err(|error| text_refusal(None, &error))?;
        let now_ms = self.fabric.now_ms();
        let rules = topology.rules.select(&selector, false).into_iter().map(Arc::clone).collect();
        let (numbers, table_names) = (Arc::clone(&topology.numbers), Arc::clone(&topology.table_names));
        Ok(RulesReport { rules, numbers, table_names, now_ms })
    }

    /// Rules that there are.
    pub fn rule_count(&self) -> usize {
        self.fabric.topology.load().rules.len()
    }

    /// Tables that have rules, were looked into or have names, by number.
    pub fn tables(&self) -> Vec<TableReport> {
        let topology = self.with_counters();
        let idle = |(table, _)| (table, TableStats { table, rules: 0, matched: 0, missed: 0 });
        let mut tables: BTreeMap<u8, TableStats> = topology.table_names.iter().map(idle).collect();
        tables.extend(topology.rules.tables().map(|stats| (stats.table, stats)));
        let name = |table| topology.table_names.name(table).map(str::to_owned);
        tables.into_values().map(|stats| TableReport { name: name(stats.table), stats }).collect()
    }

    /// The present snapshot, with the counters of its rules brought up to date.
    fn with_counters(&self) -> Arc<Topology> {
        // Counters that are a moment old are better than none.
        self.sync_revalidator();
        self.fabric.topology.load()
    }

    /// What `make` makes of each rule of a text.
    fn read_rules<T>(
        &self,
        rules: WrittenRules<'_>,
        make: impl Fn(Addition) -> T,
    ) -> Result<Vec<T>, Refusal> {
        let topology = self.fabric.topology.load();
        let names = topology.names();
        let read = rules_of(rules.text, &names).map(|rule| rule.map(&make)).collect::<Result<_, _>>();
        read.map_err(|error| text_refusal(rules.source, &error))
    }

    /// Makes `edits` and waits until all workers and all megaflows go by them; `refuse` says why not.
    fn edit_rules(
        &self,
        edits: &[Edit],
        refuse: impl FnOnce(EditError) -> Refusal,
    ) -> Result<RulesChanged, Refusal> {
        let now_ms = self.fabric.now_ms();
        let mut changed = RulesChanged::default();
        let epoch = self.fabric.topology.update(|old| {
            let edited = old.rules.edit(edits, now_ms).map_err(refuse)?;
            changed = RulesChanged::of(&edited);
            Ok(edited.has_changed().then(|| old.with_rules(edited.set)))
        })?;
        self.settle(epoch);
        if !self.sync_revalidator() {
            tracing::warn!("megaflows do not go by the changed rules yet; there may be very many");
        }
        let RulesChanged { added, modified, removed, .. } = changed;
        tracing::info!(added, modified, removed, "rules changed");
        Ok(changed)
    }
}

impl RulesChanged {
    /// What `edited` is beside the set before.
    pub(super) fn of(edited: &Edited) -> Self {
        Self {
            added: edited.added,
            modified: edited.modified,
            removed: edited.removed.len(),
            rules: edited.set.len(),
        }
    }
}

/// An error in a text of rules: `FILE:LINE:COLUMN: ...`, or the column alone where there is a single line.
pub(super) fn text_refusal(source: Option<&str>, error: &TextError) -> Refusal {
    let place = match source {
        Some(source) => format!("{source}:{}:{}", error.line, error.column),
        None => format!("column {}", error.column),
    };
    Refusal::invalid(format!("{place}: {}", text_problem(error)))
}

/// The rule at `index` of a text cannot be had.
fn refused(rules: WrittenRules<'_>, index: usize, error: EditError) -> Refusal {
    let place = match rules.source {
        Some(source) => format!("{source}:{}: ", rule_line(rules.text, index)),
        None => String::new(),
    };
    Refusal::failed(format!("{place}{}", error.reason))
}

#[cfg(test)]
mod tests {
    use vsteer_switch::rule::text::parse_rules;

    use super::*;

    #[test]
    fn memory_of_rules_that_are_read_is_not_underestimated() {
        let texts = [
            "actions=drop\n".repeat(1000),
            "priority=7,tcp,nw_src=10.0.0.0/8,tp_dst=22,actions=set_field:1->reg0,normal\n".repeat(1000),
            format!("actions={}1\n", "1,".repeat(10_000)),
        ];
        for text in texts {
            let rules = parse_rules(&text, &PortNumbers::default()).unwrap();
            let specs = rules.iter().map(|rule| &rule.spec);
            let behind: usize =
                specs.map(|spec| size_of_val(&*spec.actions) + spec.matching.heap_bytes()).sum();
            let held = rules.len() * size_of::<Edit>() + behind;
            let told = reading_bytes(&text);
            assert!(held <= told, "{held} {told}");
            assert!(told < 4 * held, "{held} {told}");
        }
        assert!(reading_bytes("") < 1000);
    }
}
