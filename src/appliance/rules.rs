//! Rules: what `ctl flow` does to them, and how it shows them.
//!
//! Texts are read with the names of the present snapshot, and a change is made and published in one step, so changes that
//! come at the same time are made one after the other, and each as a whole.

use std::sync::Arc;

use vsteer_switch::rule::edit::{Edit, EditError, Edited};
use vsteer_switch::rule::entry::{Rule, RuleSpec};
use vsteer_switch::rule::text::{self, TextError, parse_modification, parse_rules, parse_selector};

use super::Appliance;
use crate::config::{rule_line, text_problem};
use crate::control::protocol::{
    OperationError, RuleFilter, RuleInfo, RulesChanged, RulesParams, SelectorParams, TableInfo,
};
use crate::port_numbers::PortNumbers;
use crate::topology::Topology;

impl Appliance {
    pub(super) fn add_rules(&self, params: &RulesParams) -> Result<RulesChanged, OperationError> {
        let specs = self.read_rules(params)?;
        let edits: Vec<Edit> = specs
            .into_iter()
            .map(|spec| Edit::Add {
                spec,
                check_overlap: params.check_overlap,
                reset_counts: params.reset_counts,
            })
            .collect();
        self.edit_rules(&edits, |error| refused(params, error.edit, error))
    }

    pub(super) fn replace_rules(&self, params: &RulesParams) -> Result<RulesChanged, OperationError> {
        let specs = self.read_rules(params)?;
        self.edit_rules(&[Edit::Replace(specs)], |error| refused(params, error.rule.unwrap_or(0), error))
    }

    pub(super) fn modify_rules(&self, params: &SelectorParams) -> Result<RulesChanged, OperationError> {
        let modification = parse_modification(&params.text, params.strict, &*self.numbers())
            .map_err(|error| text_error(None, &error))?;
        let edit = Edit::Modify {
            selector: modification.selector,
            strict: params.strict,
            actions: modification.actions,
            cookie: modification.cookie,
            reset_counts: params.reset_counts,
        };
        self.edit_rules(&[edit], |error| OperationError::failed(&error.reason))
    }

    pub(super) fn delete_rules(&self, params: &SelectorParams) -> Result<RulesChanged, OperationError> {
        let selector = parse_selector(&params.text, params.strict, &*self.numbers())
            .map_err(|error| text_error(None, &error))?;
        let edit = Edit::Delete { selector, strict: params.strict };
        self.edit_rules(&[edit], |error| OperationError::failed(&error.reason))
    }

    pub(super) fn dump_rules(&self, filter: &RuleFilter) -> Result<Vec<RuleInfo>, OperationError> {
        let topology = self.with_counters();
        let selector = parse_selector(&filter.text, false, &*topology.numbers)
            .map_err(|error| text_error(None, &error))?;
        let now_ms = self.fabric.now_ms();
        let selected = topology.rules.select(&selector, false);
        Ok(selected.into_iter().map(|rule| rule_info(rule, &topology.numbers, now_ms)).collect())
    }

    pub(super) fn dump_tables(&self) -> Vec<TableInfo> {
        let topology = self.with_counters();
        let tables = topology.rules.tables().map(|table| TableInfo {
            table: table.table,
            rules: table.rules as u64,
            lookups: table.lookups(),
            matched: table.matched,
        });
        tables.collect()
    }

    /// The present snapshot, with the counters of its rules brought up to date.
    fn with_counters(&self) -> Arc<Topology> {
        // Counters that are a moment old are better than none.
        self.sync_revalidator();
        self.fabric.topology.load()
    }

    fn numbers(&self) -> Arc<PortNumbers> {
        Arc::clone(&self.fabric.topology.load().numbers)
    }

    fn read_rules(&self, params: &RulesParams) -> Result<Vec<RuleSpec>, OperationError> {
        parse_rules(&params.text, &*self.numbers())
            .map_err(|error| text_error(params.source.as_deref(), &error))
    }

    /// Makes `edits` and waits until all workers and all megaflows go by them; `refuse` says why not.
    fn edit_rules(
        &self,
        edits: &[Edit],
        refuse: impl FnOnce(EditError) -> OperationError,
    ) -> Result<RulesChanged, OperationError> {
        let now_ms = self.fabric.now_ms();
        let mut changed = RulesChanged::default();
        let epoch = self.fabric.topology.update(|old| {
            let edited = old.rules.edit(edits, now_ms).map_err(refuse)?;
            changed = count(&edited);
            Ok(edited.has_changed().then(|| old.with_rules(edited.set)))
        })?;
        self.settle(epoch);
        if !self.sync_revalidator() {
            tracing::warn!("megaflows do not go by the changed rules yet; there may be very many");
        }
        tracing::info!(
            added = changed.added,
            modified = changed.modified,
            removed = changed.removed,
            "rules changed"
        );
        Ok(changed)
    }
}

/// What a change did, for those who asked for it.
pub(super) fn count(edited: &Edited) -> RulesChanged {
    RulesChanged {
        added: edited.added as u64,
        modified: edited.modified as u64,
        removed: edited.removed.len() as u64,
        rules: edited.set.len() as u64,
    }
}

/// An error in a text of rules: `FILE:LINE:COLUMN: ...`, or the column alone where there is a single line.
pub(super) fn text_error(source: Option<&str>, error: &TextError) -> OperationError {
    let place = match source {
        Some(source) => format!("{source}:{}:{}", error.line, error.column),
        None => format!("column {}", error.column),
    };
    OperationError::invalid(format!("{place}: {}", text_problem(error)))
}

/// The rule at `index` of a text cannot be had.
fn refused(params: &RulesParams, index: usize, error: EditError) -> OperationError {
    let place = match &params.source {
        Some(source) => format!("{source}:{}: ", rule_line(&params.text, index)),
        None => String::new(),
    };
    OperationError::failed(format!("{place}{}", error.reason))
}

fn rule_info(rule: &Rule, numbers: &PortNumbers, now_ms: u64) -> RuleInfo {
    let (spec, stats) = (rule.spec(), rule.stats());
    RuleInfo {
        table: spec.table,
        priority: spec.priority,
        cookie: spec.cookie,
        match_text: text::match_text(&spec.matching, numbers),
        actions: text::actions_text(&spec.actions, numbers),
        duration_ms: now_ms.saturating_sub(rule.created_ms()),
        idle_ms: now_ms.saturating_sub(stats.last_used_ms.max(rule.created_ms())),
        idle_timeout_s: spec.idle_timeout_s,
        hard_timeout_s: spec.hard_timeout_s,
        packets: stats.packets,
        bytes: stats.bytes,
    }
}
