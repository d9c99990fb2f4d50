//! The actions of a translation while they are found.

use crate::action::{Action, Actions, Verdict};
use crate::drop_reason::DropReason;
use crate::edit::rewrite::Rewrite;

/// Most actions of a verdict: as many as fit in the 64 kB that Open vSwitch allows.
pub(super) const MAX_ACTIONS: usize = 4096;

/// What the datapath is to do, so far.
#[derive(Debug, Default)]
pub(super) struct Plan {
    actions: Vec<Action>,
    rewrites: Vec<Rewrite>,
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
        // Bound: no more rewrites than actions, of which there are few enough; see `is_full`.
        if let Ok(index) = u16::try_from(self.rewrites.len()) {
            self.rewrites.push(rewrite);
            self.actions.push(Action::Rewrite(index));
        }
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
        match Actions::with_rewrites(&self.actions, self.rewrites) {
            Some(actions) => Verdict::Forward(actions),
            None => Verdict::Drop(reason),
        }
    }
}
