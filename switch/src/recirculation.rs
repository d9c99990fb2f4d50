//! Second passes: what is left to do with a packet that goes through the switch again.
//!
//! A rule can have a packet go through the switch again as it has made it, and go on from there. The slow path then ends
//! its translation early and keeps what it still had to do: a `Suspension`. The packet carries the rewrites so far by
//! itself, so a suspension holds what no packet has: the steps that are left, the action set, the stack, the registers. It
//! owns all of it, as rules may be gone when it is taken up again.
//!
//! The datapath knows a suspension by a number, the *recirculation id*, which is part of the key of every packet that comes
//! back for it. So decisions about second passes are megaflows like any other. Equal suspensions of a worker share a number,
//! however many megaflows lead to them, and with it the megaflows behind it.
//!
//! A number lives as long as a megaflow has it among its actions, and is not given again while megaflows of the next pass may
//! still have it in their keys: numbers are given in turn, and those megaflows end within the time that an idle one has.
//!
//! # Source
//! Open vSwitch's `ofproto-dpif-rid.h` (frozen states and their ids).

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use crate::action::{Operand, Verdict};
use crate::flow::fields::Fields;
use crate::rule::action::RuleAction;

/// Steps of a rule that are left.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SuspendedSteps {
    pub(crate) steps: Box<[RuleAction]>,
    /// The rule's table.
    pub(crate) table: u8,
}

/// A translation that is to go on when its packet comes back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Suspension {
    /// The rules under way that have steps left, each waiting for the next. How deep in resubmits they are is counted anew.
    pub(crate) waiting: Box<[SuspendedSteps]>,
    pub(crate) action_set: Box<[RuleAction]>,
    /// The table that the action set counts for when it has its turn; `None` if it has had it.
    pub(crate) set_table: Option<u8>,
    pub(crate) stack: Box<[u128]>,
    /// What rules noted about the packet, and its ingress port as rules see it; of its headers nothing.
    pub(crate) fields: Box<Fields>,
    /// Mirrors that have a copy of the packet as it is.
    pub(crate) mirrored: Box<[usize]>,
}

/// A suspension and its number. Equality is that of suspensions.
#[derive(Debug)]
pub struct Recirculation {
    id: u32,
    suspension: Suspension,
}

impl PartialEq for Recirculation {
    fn eq(&self, other: &Self) -> bool {
        self.suspension == other.suspension
    }
}

impl Eq for Recirculation {}

impl Recirculation {
    /// A suspension that no worker has given a number yet.
    pub(crate) fn new(id: u32, suspension: Suspension) -> Self {
        Self { id, suspension }
    }

    /// What packets that come back for it have in their keys.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What is left to do.
    pub fn suspension(&self) -> &Suspension {
        &self.suspension
    }
}

/// The last number given, by any worker, so that no two megaflows of a list mean different things by one number.
static LAST_ID: AtomicU32 = AtomicU32::new(0);

/// The suspensions that a worker's megaflows lead to.
///
/// # Concurrency
/// Owned by one worker. Megaflows, and with them the revalidator, hold the suspensions.
#[derive(Debug, Default)]
pub(crate) struct Recirculations {
    hasher: RandomState,
    /// By the hash of the suspension.
    given: HashMap<u64, Vec<Weak<Recirculation>>>,
    /// Those of verdicts without a megaflow, until the next [`forget_unused`](Self::forget_unused): the packets that come soon
    /// share them.
    held: Vec<Arc<Recirculation>>,
}

/// Most suspensions that are held without a megaflow.
const MAX_HELD: usize = 1024;

impl Recirculations {
    /// Gives each suspension of a new verdict its number.
    pub(crate) fn number(&mut self, verdict: &mut Verdict) {
        let Verdict::Forward(actions) = verdict else { return };
        for operand in actions.operands_mut() {
            if let Operand::Recirculate(recirculation) = operand {
                *recirculation = self.of(&recirculation.suspension);
            }
        }
    }

    /// The same for a verdict that has no megaflow.
    pub(crate) fn number_for_once(&mut self, verdict: &mut Verdict) {
        self.number(verdict);
        let Verdict::Forward(actions) = verdict else { return };
        for operand in actions.operands_mut() {
            if let Operand::Recirculate(recirculation) = operand
                && Arc::strong_count(recirculation) == 1
                && self.held.len() < MAX_HELD
            {
                self.held.push(Arc::clone(recirculation));
            }
        }
    }

    /// The one that is there for this suspension, or a new one.
    fn of(&mut self, suspension: &Suspension) -> Arc<Recirculation> {
        let same_hash = self.given.entry(self.hasher.hash_one(suspension)).or_default();
        let known = same_hash.iter().filter_map(Weak::upgrade).find(|known| known.suspension == *suspension);
        known.unwrap_or_else(|| {
            let new = Arc::new(Recirculation { id: next_id(), suspension: suspension.clone() });
            same_hash.push(Arc::downgrade(&new));
            new
        })
    }

    /// Forgets those that no megaflow leads to any more.
    pub(crate) fn forget_unused(&mut self) {
        self.held.clear();
        self.given.retain(|_, same_hash| {
            same_hash.retain(|known| known.strong_count() > 0);
            !same_hash.is_empty()
        });
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.given.values().map(Vec::len).sum()
    }
}

/// The next number, which is not zero: that is a first pass. Numbers start over after four billion of them, when the first
/// ones have long been out of use.
fn next_id() -> u32 {
    loop {
        let id = LAST_ID.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if id != 0 {
            return id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::{Action, Actions};

    fn suspension(table: u8) -> Suspension {
        let steps = SuspendedSteps { steps: Box::new([RuleAction::Exit]), table };
        Suspension {
            waiting: Box::new([steps]),
            action_set: Box::default(),
            set_table: Some(0),
            stack: Box::default(),
            fields: Box::new(Fields::NONE),
            mirrored: Box::default(),
        }
    }

    fn verdict(table: u8) -> Verdict {
        let operand = Operand::Recirculate(Arc::new(Recirculation::new(0, suspension(table))));
        Verdict::Forward(Actions::with_operands(&[Action::Recirculate(0)], vec![operand]).unwrap())
    }

    fn id_of(verdict: &Verdict) -> u32 {
        let Verdict::Forward(actions) = verdict else { panic!("{verdict:?}") };
        actions.recirculation(0).unwrap().id()
    }

    #[test]
    fn equal_suspensions_share_a_number_while_one_of_them_lives() {
        let mut numbers = Recirculations::default();
        let [mut first, mut same, mut other] = [verdict(1), verdict(1), verdict(2)];
        for verdict in [&mut first, &mut same, &mut other] {
            numbers.number(verdict);
        }
        assert_ne!(id_of(&first), 0);
        assert_eq!(id_of(&first), id_of(&same));
        assert_ne!(id_of(&first), id_of(&other));
        assert_eq!(numbers.len(), 2);
        let old = id_of(&first);
        drop(first);
        let mut again = verdict(1);
        numbers.number(&mut again);
        assert_eq!(id_of(&again), old);
        drop((same, again));
        numbers.forget_unused();
        assert_eq!(numbers.len(), 1);
        let mut anew = verdict(1);
        numbers.number(&mut anew);
        assert_ne!(id_of(&anew), old, "what has the old number in its key is not about this one");
        assert_eq!(anew, verdict(1), "whatever their numbers");
    }
}
