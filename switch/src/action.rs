//! What to do with a packet: the actions of a verdict.
//!
//! Actions run in order, on one head: an edit changes what every later output sends, and what earlier outputs sent stays
//! as it was. The slow path makes them once per megaflow, the pipeline runs them per packet.
//!
//! An action is six bytes, so that the usual verdict is half a cache line. What does not fit, such as the bits of a rewrite,
//! is an operand: it lies beside the list, and the action names it by index.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::drop_reason::DropReason;
use crate::edit::rewrite::Rewrite;
use crate::port::PortId;
use crate::recirculation::Recirculation;
use crate::wire::vlan::{VlanId, VlanTag};

/// A copy of a packet for whoever listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Punt {
    /// Bytes at most; `u16::MAX` for the whole packet.
    pub max_len: u16,
    /// Which listener.
    pub id: u16,
}

/// One step on the way of a packet out of the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send the packet as it is now to this port.
    Output(PortId),
    /// Insert this tag as the outer one.
    PushVlan(VlanTag),
    /// Remove the outer VLAN tag.
    PopVlan,
    /// Put the outer tag into this VLAN; its protocol, priority and drop-eligible bit stay.
    SetVlan(VlanId),
    /// Overwrite header bits: those of [`Actions::rewrite`] at this index.
    Rewrite(u16),
    /// Have the packet as it is now go through the switch again, for [`Actions::recirculation`] at this index.
    Recirculate(u16),
    /// Hand out a copy of the packet as it is now.
    Punt(Punt),
    /// Count the packet as dropped, even if a mirror got a copy of it; the last action.
    Drop(DropReason),
}

/// What an action works with and cannot hold itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "a packet that is rewritten should not have to follow another pointer"
)]
pub enum Operand {
    /// Of [`Action::Rewrite`].
    Rewrite(Rewrite),
    /// Of [`Action::Recirculate`].
    Recirculate(Arc<Recirculation>),
}

/// Actions that fit in a verdict without memory of their own.
const INLINE: usize = 4;
/// As many beside the pointer to an operand: what routes a packet takes no more.
const INLINE_WITH_OPERAND: usize = 3;

/// The actions of a verdict; at least one, as a packet without any is a drop and has a reason.
///
/// Up to four lie in place: forwarding a packet then reads one cache line of its megaflow and nothing behind it.
///
/// # Invariants
/// 1. Every action in the list that has an operand names one of its kind that is there.
#[derive(Clone)]
pub struct Actions(Store);

#[derive(Clone)]
enum Store {
    Inline {
        len: u8,
        actions: [Action; INLINE],
    },
    /// A single operand, one step away.
    WithOperand {
        len: u8,
        actions: [Action; INLINE_WITH_OPERAND],
        operand: Box<Operand>,
    },
    Heap(Box<Program>),
}

#[derive(Clone)]
struct Program {
    actions: Box<[Action]>,
    operands: Box<[Operand]>,
}

impl Actions {
    /// These actions, none of which has an operand, or `None` if there are none.
    pub fn new(actions: &[Action]) -> Option<Self> {
        Self::with_operands(actions, Vec::new())
    }

    /// These actions, or `None` if there are none.
    ///
    /// # Panics
    /// If an action names an operand that is not there, or of another kind.
    pub fn with_operands(actions: &[Action], mut operands: Vec<Operand>) -> Option<Self> {
        let first = *actions.first()?;
        let operand = |index: u16| operands.get(usize::from(index));
        let is_there = |action: &Action| match *action {
            Action::Rewrite(index) => matches!(operand(index), Some(Operand::Rewrite(_))),
            Action::Recirculate(index) => matches!(operand(index), Some(Operand::Recirculate(_))),
            Action::Output(_)
            | Action::PushVlan(_)
            | Action::PopVlan
            | Action::SetVlan(_)
            | Action::Punt(_)
            | Action::Drop(_) => true,
        };
        assert!(actions.iter().all(is_there), "invariant 1");
        let len = u8::try_from(actions.len()).unwrap_or(u8::MAX);
        Some(Self(match (actions.len(), operands.len()) {
            (..=INLINE, 0) => Store::Inline { len, actions: inline(first, actions) },
            (..=INLINE_WITH_OPERAND, 1) => Store::WithOperand {
                len,
                actions: inline(first, actions),
                operand: Box::new(operands.remove(0)),
            },
            _ => Store::Heap(Box::new(Program { actions: actions.into(), operands: operands.into() })),
        }))
    }

    /// A single output.
    pub fn output(port: PortId) -> Self {
        Self(Store::Inline { len: 1, actions: [Action::Output(port); INLINE] })
    }

    /// The rewrite that an [`Action::Rewrite`] of this list names.
    #[inline]
    pub fn rewrite(&self, index: u16) -> Option<&Rewrite> {
        match self.operand(index)? {
            Operand::Rewrite(rewrite) => Some(rewrite),
            Operand::Recirculate(_) => None,
        }
    }

    /// The recirculation that an [`Action::Recirculate`] of this list names.
    #[inline]
    pub fn recirculation(&self, index: u16) -> Option<&Arc<Recirculation>> {
        match self.operand(index)? {
            Operand::Recirculate(recirculation) => Some(recirculation),
            Operand::Rewrite(_) => None,
        }
    }

    #[inline]
    fn operand(&self, index: u16) -> Option<&Operand> {
        match &self.0 {
            Store::Inline { .. } => None,
            Store::WithOperand { operand, .. } => (index == 0).then_some(operand),
            Store::Heap(program) => program.operands.get(usize::from(index)),
        }
    }

    fn operands(&self) -> &[Operand] {
        match &self.0 {
            Store::Inline { .. } => &[],
            Store::WithOperand { operand, .. } => std::slice::from_ref(operand),
            Store::Heap(program) => &program.operands,
        }
    }

    /// The operands, to put others of their kinds in their places.
    pub(crate) fn operands_mut(&mut self) -> &mut [Operand] {
        match &mut self.0 {
            Store::Inline { .. } => &mut [],
            Store::WithOperand { operand, .. } => std::slice::from_mut(operand),
            Store::Heap(program) => &mut program.operands,
        }
    }
}

/// An array that starts with `actions`, of which there are at most `N`.
fn inline<const N: usize>(fill: Action, actions: &[Action]) -> [Action; N] {
    let mut array = [fill; N];
    array[..actions.len()].copy_from_slice(actions);
    array
}

impl Deref for Actions {
    type Target = [Action];

    #[inline]
    fn deref(&self) -> &[Action] {
        match &self.0 {
            Store::Inline { len, actions } => &actions[..usize::from(*len)],
            Store::WithOperand { len, actions, .. } => &actions[..usize::from(*len)],
            Store::Heap(program) => &program.actions,
        }
    }
}

impl PartialEq for Actions {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..] && self.operands() == other.operands()
    }
}

impl Eq for Actions {}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        for action in self.iter() {
            match action {
                Action::Rewrite(index) | Action::Recirculate(index) => list.entry(&self.operand(*index)),
                _ => list.entry(action),
            };
        }
        list.finish()
    }
}

/// The fate of every packet of a megaflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It leaves, as these actions say.
    Forward(Actions),
    /// It goes nowhere.
    Drop(DropReason),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::key::FlowKey;

    #[test]
    fn verdict_fits_half_a_cache_line() {
        assert!(size_of::<Verdict>() <= 32);
    }

    fn operands(rewrites: &[&Rewrite]) -> Vec<Operand> {
        rewrites.iter().map(|&rewrite| Operand::Rewrite(rewrite.clone())).collect()
    }

    #[test]
    fn rewrites_are_found_however_many_actions_there_are() {
        let fields = FlowKey { eth_dst: [2, 0, 0, 0, 0, 1], ..FlowKey::default() };
        let rewrite = Rewrite::new(&FlowKey { eth_dst: [0xff; 6], ..FlowKey::default() }, &fields);
        let other = Rewrite::new(&FlowKey { eth_src: [0xff; 6], ..FlowKey::default() }, &fields);
        for outputs in 1..6 {
            let mut list = vec![Action::Rewrite(0)];
            list.extend((0..outputs).map(|n| Action::Output(PortId::new(n).unwrap())));
            let actions = Actions::with_operands(&list, operands(&[&rewrite])).unwrap();
            assert_eq!(actions[..], list[..]);
            assert_eq!(actions.rewrite(0), Some(&rewrite));
            assert_eq!(actions.rewrite(1), None);
            let different = Actions::with_operands(&list, operands(&[&other])).unwrap();
            assert_ne!(actions, different, "the same list, but other bits");
            list.push(Action::Rewrite(1));
            let actions = Actions::with_operands(&list, operands(&[&rewrite, &other])).unwrap();
            assert_eq!((actions.rewrite(0), actions.rewrite(1)), (Some(&rewrite), Some(&other)));
        }
    }

    #[test]
    fn long_and_short_lists_read_the_same() {
        let all: Vec<_> =
            (0..9).filter_map(VlanId::new).map(Action::SetVlan).chain([Action::PopVlan]).collect();
        assert_eq!(Actions::new(&[]), None);
        for len in 1..=all.len() {
            assert_eq!(Actions::new(&all[..len]).unwrap()[..], all[..len]);
        }
    }
}
