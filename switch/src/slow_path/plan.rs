//! The actions of a translation while they are found.

use std::sync::Arc;

use crate::action::{Action, Actions, Operand, Verdict};
use crate::drop_reason::DropReason;
use crate::edit::rewrite::Rewrite;
use crate::recirculation::Recirculation;

/// Most actions of a verdict: as many as fit in the 64 kB that Open vSwitch allows.
pub(super) const MAX_ACTIONS: usize = 4096;

/// What the datapath is to do, so far.
#[derive(Debug, Default)]
pub(super) struct Plan {
    actions: Vec<Action>,
    operands: Vec<Operand>,
    /// The packet goes somewhere, not counting mirrors.
    is_delivered: bool,
    /// The first thing that kept it from going somewhere.
    why: Option<DropReason>,
}

impl Plan {
    pub(super) fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// Adds an edit, or a copy for a mirror.
    pub(super) fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Adds what counts as going somewhere.
    pub(super) fn deliver(&mut self, action: Action) {
        self.is_delivered = true;
        self.actions.push(action);
    }

    pub(super) fn rewrite(&mut self, rewrite: Rewrite) {
        let operand = self.operand(Operand::Rewrite(rewrite));
        self.actions.extend(operand.map(Action::Rewrite));
    }

    /// Has the packet go through the switch again, which counts as going somewhere.
    pub(super) fn recirculate(&mut self, recirculation: Arc<Recirculation>) {
        let operand = self.operand(Operand::Recirculate(recirculation));
        operand.map(Action::Recirculate).into_iter().for_each(|action| self.deliver(action));
    }

    fn operand(&mut self, operand: Operand) -> Option<u16> {
        // Bound: no more operands than actions, of which there are few enough; see `is_full`.
        let index = u16::try_from(self.operands.len()).ok()?;
        self.operands.push(operand);
        Some(index)
    }

    /// Notes a reason for which the packet did not go somewhere.
    pub(super) fn held_back(&mut self, reason: DropReason) {
        self.why.get_or_insert(reason);
    }

    /// Whether there are more actions than a verdict holds.
    pub(super) fn is_full(&self) -> bool {
        self.actions.len() > MAX_ACTIONS
    }

    /// The verdict. A packet that only mirrors have a copy of counts as dropped all the same.
    pub(super) fn into_verdict(mut self) -> Verdict {
        let reason = self.why.unwrap_or(DropReason::RuleDrop);
        if !self.is_delivered && !self.actions.is_empty() {
            self.actions.push(Action::Drop(reason));
        }
        match Actions::with_operands(&self.actions, self.operands) {
            Some(actions) => Verdict::Forward(actions),
            None => Verdict::Drop(reason),
        }
    }
}
