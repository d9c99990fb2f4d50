//! Changes of a rule set: several at once, all or none.
//!
//! The words and their effects are those of OpenFlow's flow table changes. Where its versions differ: changing rules of
//! which there are none adds none (1.2 and later), and counters live on in a rule that takes the place of one with the
//! same match and priority, unless the change says otherwise (1.3 and later).

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::action::RuleAction;
use super::entry::{Rule, RuleSpec};
use super::matching::Match;
use super::selector::Selector;
use super::set::{RuleSet, TABLES};

/// Actions that a rule has at most, those inside of others included: about as many as fit OpenFlow's longest message.
pub const MAX_ACTIONS: usize = 4096;

/// One change.
#[derive(Debug, Clone)]
pub enum Edit {
    /// Adds a rule, in place of the one with the same table, match and priority if there is one. Adding again what is
    /// there changes nothing, unless timeouts or counters are to begin anew.
    Add {
        /// The rule.
        spec: RuleSpec,
        /// Refuse it if it takes no place and another rule of the same priority shares a packet with it.
        check_overlap: bool,
        /// Let the counters of the rule whose place it takes begin anew.
        reset_counts: bool,
    },
    /// Gives rules other actions; they keep their age, priority and timeouts, which begin anew.
    Modify {
        /// Which rules.
        selector: Selector,
        /// Select by the same match and priority.
        strict: bool,
        /// Their new actions.
        actions: Box<[RuleAction]>,
        /// Their new cookie, if it is to change.
        cookie: Option<u64>,
        /// Let their counters begin anew.
        reset_counts: bool,
    },
    /// Takes rules out.
    Delete {
        /// Which rules.
        selector: Selector,
        /// Select by the same match and priority.
        strict: bool,
    },
    /// Takes this very rule out, if it is still there: not one that has taken its place since.
    Remove(Arc<Rule>),
    /// Makes these all the rules there are. What is there already stays, with its counters; the last of several with the
    /// same table, match and priority counts.
    Replace(Vec<RuleSpec>),
}

/// A set after changes, and what they did.
#[derive(Debug)]
pub struct Edited {
    /// The new set.
    pub set: RuleSet,
    /// Rules that are new, that of the learning switch included if it came back.
    pub added: usize,
    /// Rules that have taken the place of one with the same match and priority.
    pub modified: usize,
    /// Rules that are gone, other than by a new one in their place; the same rule may come and go within the changes.
    pub removed: Vec<Arc<Rule>>,
}

impl Edited {
    /// Whether the set differs from the one before.
    pub fn has_changed(&self) -> bool {
        self.added != 0 || self.modified != 0 || !self.removed.is_empty()
    }
}

/// Why a change was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Its table does not exist.
    NoSuchTable(u8),
    /// Another rule of its priority shares a packet with it.
    Overlap {
        /// The cookie of the other rule.
        cookie: u64,
        /// What the other rule matches.
        matching: Box<Match>,
    },
    /// There would be more rules than the set takes.
    TooManyRules(usize),
    /// The rule does more than a rule may: so many actions.
    TooManyActions(usize),
}

/// A change that was refused, and with it all of its company.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EditError {
    /// Which change, counted from 0.
    pub edit: usize,
    /// Which rule of a [`Edit::Replace`], counted from 0.
    pub rule: Option<usize>,
    /// Why.
    pub reason: Refusal,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoSuchTable(table) => {
                write!(f, "there is no table {table}: tables are numbered 0 to {}", TABLES - 1)
            }
            Refusal::Overlap { cookie, .. } => write!(
                f,
                "another rule of the same priority (cookie {cookie:#x}) matches some of the same packets: give one of \
                 them another priority, or leave out check_overlap"
            ),
            Refusal::TooManyRules(limit) => {
                write!(f, "there would be more than {limit} rules: delete some first, or raise the limit")
            }
            Refusal::TooManyActions(count) => write!(
                f,
                "the rule has {count} actions, and a rule has at most {MAX_ACTIONS}: go on in another table (goto_table)"
            ),
        }
    }
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            Some(rule) => write!(f, "rule {}: {}", rule + 1, self.reason),
            None => write!(f, "change {}: {}", self.edit + 1, self.reason),
        }
    }
}

impl std::error::Error for EditError {}

impl RuleSet {
    /// The set that these changes make of this one, in their order.
    ///
    /// If they would leave no rule, the rule of the learning switch comes back. The generation grows if anything changed.
    ///
    /// # Errors
    /// The first change that is refused; then none is made.
    pub fn edit(&self, edits: &[Edit], now_ms: u64) -> Result<Edited, EditError> {
        let mut edited = Edited { set: self.clone(), added: 0, modified: 0, removed: Vec::new() };
        for (at, edit) in edits.iter().enumerate() {
            edited.apply(edit, now_ms).map_err(|(rule, reason)| EditError { edit: at, rule, reason })?;
        }
        edited.added += usize::from(edited.set.restore_learning_switch(now_ms));
        edited.set.generation += u64::from(edited.has_changed());
        Ok(edited)
    }
}

impl Edited {
    fn apply(&mut self, edit: &Edit, now_ms: u64) -> Result<(), (Option<usize>, Refusal)> {
        match edit {
            Edit::Add { spec, check_overlap, reset_counts } => {
                check(spec).map_err(|reason| (None, reason))?;
                if *check_overlap && self.set.same_place(spec).is_none() {
                    self.check_overlap(spec).map_err(|reason| (None, reason))?;
                }
                self.add(spec, *reset_counts, now_ms);
                self.check_len().map_err(|reason| (None, reason))
            }
            Edit::Modify { selector, strict, actions, cookie, reset_counts } => {
                check_actions(actions).map_err(|reason| (None, reason))?;
                for rule in self.selected(selector, *strict) {
                    let old = rule.spec();
                    let cookie = cookie.unwrap_or(old.cookie);
                    let spec = RuleSpec { cookie, actions: actions.clone(), ..old.clone() };
                    self.supersede(rule.successor(spec, rule.created_ms(), now_ms, *reset_counts));
                }
                Ok(())
            }
            Edit::Delete { selector, strict } => {
                for rule in self.selected(selector, *strict) {
                    self.remove(&rule);
                }
                Ok(())
            }
            Edit::Remove(rule) => {
                self.remove(rule);
                Ok(())
            }
            Edit::Replace(specs) => self.replace(specs, now_ms),
        }
    }

    fn check_overlap(&self, spec: &RuleSpec) -> Result<(), Refusal> {
        let table = self.set.tables[usize::from(spec.table)].as_ref();
        match table.and_then(|table| table.overlapping(&spec.matching, spec.priority)) {
            Some(other) => Err(Refusal::Overlap {
                cookie: other.spec().cookie,
                matching: Box::new(other.spec().matching.clone()),
            }),
            None => Ok(()),
        }
    }

    fn check_len(&self) -> Result<(), Refusal> {
        let limit = self.set.max_rules;
        if self.set.len <= limit { Ok(()) } else { Err(Refusal::TooManyRules(limit)) }
    }

    fn selected(&self, selector: &Selector, strict: bool) -> Vec<Arc<Rule>> {
        self.set.select(selector, strict).into_iter().map(Arc::clone).collect()
    }

    fn add(&mut self, spec: &RuleSpec, reset_counts: bool, now_ms: u64) {
        match self.set.same_place(spec).map(Arc::clone) {
            Some(old) if old.spec() == spec && !old.is_timed() && !reset_counts => {}
            Some(old) => self.supersede(old.successor(spec.clone(), now_ms, now_ms, reset_counts)),
            None => {
                let rule = self.set.make_rule(spec.clone(), now_ms);
                self.set.put(rule);
                self.added += 1;
            }
        }
    }

    fn supersede(&mut self, successor: Rule) {
        self.set.put(Arc::new(successor));
        self.modified += 1;
    }

    fn remove(&mut self, rule: &Arc<Rule>) {
        if self.set.take(rule) {
            self.removed.push(Arc::clone(rule));
        }
    }

    fn replace(&mut self, specs: &[RuleSpec], now_ms: u64) -> Result<(), (Option<usize>, Refusal)> {
        let mut last = HashMap::with_capacity(specs.len());
        for (at, spec) in specs.iter().enumerate() {
            check(spec).map_err(|reason| (Some(at), reason))?;
            last.insert(Place(spec), at);
        }
        if last.len() > self.set.max_rules {
            return Err((None, Refusal::TooManyRules(self.set.max_rules)));
        }
        let stays = |rule: &&Arc<Rule>| last.contains_key(&Place(rule.spec()));
        let gone: Vec<_> = self.set.rules().filter(|rule| !stays(rule)).map(Arc::clone).collect();
        gone.iter().for_each(|rule| self.remove(rule));
        for (at, spec) in specs.iter().enumerate() {
            let is_there = self.set.same_place(spec).is_some_and(|rule| rule.spec() == spec);
            if last[&Place(spec)] == at && !is_there {
                self.add(spec, false, now_ms);
            }
        }
        Ok(())
    }
}

/// Whether a set takes this rule.
fn check(spec: &RuleSpec) -> Result<(), Refusal> {
    if spec.table < TABLES { check_actions(&spec.actions) } else { Err(Refusal::NoSuchTable(spec.table)) }
}

fn check_actions(actions: &[RuleAction]) -> Result<(), Refusal> {
    let count = count_actions(actions);
    if count <= MAX_ACTIONS { Ok(()) } else { Err(Refusal::TooManyActions(count)) }
}

/// Actions, those inside of others included.
fn count_actions(actions: &[RuleAction]) -> usize {
    let inside = |action: &RuleAction| match action {
        RuleAction::WriteActions(steps) | RuleAction::Clone(steps) => count_actions(steps),
        RuleAction::Output(_)
        | RuleAction::Enqueue { .. }
        | RuleAction::SetQueue(_)
        | RuleAction::PopQueue
        | RuleAction::Controller { .. }
        | RuleAction::PushVlan(_)
        | RuleAction::PopVlan
        | RuleAction::ModVlanVid(_)
        | RuleAction::ModVlanPcp(_)
        | RuleAction::SetField { .. }
        | RuleAction::Move { .. }
        | RuleAction::Push(_)
        | RuleAction::Pop(_)
        | RuleAction::DecTtl(_)
        | RuleAction::Resubmit { .. }
        | RuleAction::Exit
        | RuleAction::DebugRecirc
        | RuleAction::Note(_)
        | RuleAction::Conjunction { .. }
        | RuleAction::WriteMetadata { .. }
        | RuleAction::ClearActions
        | RuleAction::GotoTable(_) => 0,
    };
    actions.len() + actions.iter().map(inside).sum::<usize>()
}

/// A rule, as one of those that could take each other's place.
#[derive(Clone, Copy)]
struct Place<'a>(&'a RuleSpec);

impl PartialEq for Place<'_> {
    fn eq(&self, other: &Self) -> bool {
        let (own, other) = (self.0, other.0);
        (own.table, own.priority, &own.matching) == (other.table, other.priority, &other.matching)
    }
}

impl Eq for Place<'_> {}

impl Hash for Place<'_> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (self.0.table, self.0.priority, &self.0.matching).hash(hasher);
    }
}

#[cfg(test)]
mod tests;
