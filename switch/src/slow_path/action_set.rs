//! OpenFlow's action set: what the rules of several tables gather for the end.
//!
//! A set has one action of a kind, the last one written; changes of fields count as one kind for each field, which is the
//! same as doing them all in the order in which they were written. However they were written, they run as OpenFlow says:
//! pop, push, count the time to live down, set, output. A set without an output sends nothing, so it does nothing.
//!
//! # Source
//! OpenFlow 1.3.5 §5.10.

use crate::rule::action::{OutputTo, RuleAction};
use crate::rule::port::RulePort;

/// The actions written so far.
#[derive(Debug, Default)]
pub(super) struct ActionSet<'a>(Vec<&'a RuleAction>);

/// Where an action of the set has its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Pop,
    Push,
    DecrementTtl,
    Set,
    Output,
    Resubmit,
}

fn turn(action: &RuleAction) -> Option<Turn> {
    match action {
        RuleAction::PopVlan => Some(Turn::Pop),
        RuleAction::PushVlan(_) => Some(Turn::Push),
        RuleAction::DecTtl(_) => Some(Turn::DecrementTtl),
        RuleAction::ModVlanVid(_)
        | RuleAction::ModVlanPcp(_)
        | RuleAction::SetField { .. }
        | RuleAction::Move { .. } => Some(Turn::Set),
        RuleAction::Output(_) | RuleAction::Controller { .. } => Some(Turn::Output),
        RuleAction::Resubmit { .. } => Some(Turn::Resubmit),
        // Nothing that a set could hold.
        RuleAction::SetQueue(_)
        | RuleAction::PopQueue
        | RuleAction::Enqueue { .. }
        | RuleAction::Push(_)
        | RuleAction::Pop(_)
        | RuleAction::Clone(_)
        | RuleAction::Exit
        | RuleAction::DebugRecirc
        | RuleAction::Note(_)
        | RuleAction::Conjunction { .. }
        | RuleAction::WriteMetadata { .. }
        | RuleAction::ClearActions
        | RuleAction::WriteActions(_)
        | RuleAction::GotoTable(_) => None,
    }
}

impl<'a> ActionSet<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where the set sends the packet; the last word counts.
    pub(super) fn output(&self) -> RulePort {
        let ports = self.0.iter().rev().filter_map(|action| match action {
            RuleAction::Output(OutputTo::Port(port)) => Some(*port),
            RuleAction::Controller { .. } => Some(RulePort::CONTROLLER),
            _ => None,
        });
        ports.into_iter().next().unwrap_or(RulePort::UNSET)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The actions as they were written; it is empty afterwards.
    pub(super) fn take(&mut self) -> Vec<&'a RuleAction> {
        std::mem::take(&mut self.0)
    }

    pub(super) fn add(&mut self, actions: &'a [RuleAction]) {
        self.0.extend(actions);
    }

    /// The set in the order in which it runs; it is empty afterwards.
    pub(super) fn take_in_order(&mut self) -> Vec<&'a RuleAction> {
        let written = self.take();
        let last = |wanted| written.iter().copied().rfind(|action| turn(action) == Some(wanted));
        let Some(end) = last(Turn::Output).or_else(|| last(Turn::Resubmit)) else { return Vec::new() };
        let mut ordered: Vec<_> =
            [Turn::Pop, Turn::Push, Turn::DecrementTtl].into_iter().filter_map(last).collect();
        ordered.extend(written.iter().copied().filter(|action| turn(action) == Some(Turn::Set)));
        ordered.push(end);
        ordered
    }
}
