//! What to do with a packet: the actions of a verdict.
//!
//! Actions run in order, on one head: an edit changes what every later output sends, and what earlier outputs sent stays
//! as it was. The slow path makes them once per megaflow, the pipeline runs them per packet.

use std::fmt;
use std::ops::Deref;

use crate::drop_reason::DropReason;
use crate::flow::key::VlanTag;
use crate::port::PortId;
use crate::vlan::VlanId;

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
}

/// Actions that fit in a verdict without memory of their own.
const INLINE: usize = 4;

/// The actions of a verdict; at least one, as a packet without any is a drop and has a reason.
///
/// Up to four lie in place: forwarding a packet then reads one cache line of its megaflow and nothing behind it.
#[derive(Clone)]
pub struct Actions(Store);

#[derive(Clone)]
enum Store {
    Inline { len: u8, actions: [Action; INLINE] },
    Heap(Box<[Action]>),
}

impl Actions {
    /// These actions, or `None` if there are none.
    pub fn new(actions: &[Action]) -> Option<Self> {
        let first = *actions.first()?;
        Some(Self(match u8::try_from(actions.len()) {
            Ok(len) if actions.len() <= INLINE => {
                let mut inline = [first; INLINE];
                inline[..actions.len()].copy_from_slice(actions);
                Store::Inline { len, actions: inline }
            }
            _ => Store::Heap(actions.into()),
        }))
    }

    /// A single output.
    pub fn output(port: PortId) -> Self {
        Self(Store::Inline { len: 1, actions: [Action::Output(port); INLINE] })
    }
}

impl Deref for Actions {
    type Target = [Action];

    #[inline]
    fn deref(&self) -> &[Action] {
        match &self.0 {
            Store::Inline { len, actions } => &actions[..usize::from(*len)],
            Store::Heap(actions) => actions,
        }
    }
}

impl PartialEq for Actions {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for Actions {}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
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

    #[test]
    fn verdict_fits_half_a_cache_line() {
        assert!(size_of::<Verdict>() <= 32);
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
