//! A frame's way through the VLANs of the switch: which one it is in, by the port where it arrives, and what its tags must
//! become where it leaves. `NORMAL` and mirrors go by this.
//!
//! Where the outer tag goes, what is behind it counts. A frame that leaves a trunk without its VLAN's tag, and with another
//! tag behind, would be read as a frame of that other VLAN; whoever may send in one VLAN could so reach any other. Open
//! vSwitch lets such frames pass in most modes. Here,
//! - no port but a tunnel takes a frame whose priority tag is followed by another tag: such a frame says of itself both that
//!   it has no VLAN and that it has one;
//! - a trunk does not send a frame of its native VLAN that has a tag behind;
//! - an access port does not send one with a second tag that rules see, as in Open vSwitch.
//!
//! Only tunnels take a service tag off and show the customer's.

use crate::bridge::config::PortVlan;
use crate::bridge::vlan::{PriorityTags, VlanMode, VlanSet};
use crate::flow::key::KeyTag;
use crate::wire::vlan::{TYPE_CUSTOMER, VID, VlanId, VlanTag};

use super::plan::Plan;
use super::view::{TagEdit, View};

/// A frame inside the switch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inside {
    /// The VLAN it is in.
    pub(super) vlan: VlanId,
    /// Its outer tag as it arrived, without priority and protocol.
    outer: KeyTag,
    /// It came in by a tunnel, which puts a service tag of this protocol before its own tags.
    service_tpid: Option<u16>,
}

impl Inside {
    /// VLAN number of its outer tag, 0 without one.
    fn outer_vid(&self) -> u16 {
        self.outer.tci.get() & VID
    }
}

/// What becomes of the tags that a frame arrived with, in the order in which the least has to be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// They stay.
    AsIs,
    /// The outer one, which is there, says another VLAN.
    Set(VlanId),
    /// This one comes before them.
    Stacked(VlanTag),
    /// The outer one goes, if there is one.
    Bare,
    /// This one comes in place of the outer one, if there is one.
    Tagged(VlanTag),
}

impl Shape {
    /// Its place in the order of the variants. A frame has no two shapes of one place.
    pub(super) fn place(self) -> u8 {
        match self {
            Shape::AsIs => 0,
            Shape::Set(_) => 1,
            Shape::Stacked(_) => 2,
            Shape::Bare => 3,
            Shape::Tagged(_) => 4,
        }
    }
}

impl View {
    /// The packet, as a frame that arrives at a port of this mode; `None` if the port does not take it.
    pub(super) fn arrive(&mut self, mode: &VlanMode) -> Option<Inside> {
        let outer = self.outer_tag();
        let vid = outer.tci.get() & VID;
        let vlan = mode.vlan_of(vid)?;
        let service_tpid = match mode {
            VlanMode::Tunnel { tpid, .. } => Some(*tpid),
            VlanMode::Access(_) | VlanMode::Trunk(_) | VlanMode::Native { .. } => {
                let contradicts_itself =
                    if outer.is_present() { vid == 0 && self.is_stacked() } else { self.seems_untagged() };
                if contradicts_itself {
                    return None;
                }
                None
            }
        };
        Some(Inside { vlan, outer, service_tpid })
    }

    /// Whether a frame leaves by a port of this mode, which is a member of its VLAN.
    pub(super) fn may_leave(&mut self, inside: &Inside, mode: &VlanMode) -> bool {
        match mode {
            VlanMode::Tunnel { customers, .. } => {
                *customers == VlanSet::ALL
                    || VlanId::new(self.vid_behind(inside)).is_some_and(|vlan| customers.contains(vlan))
            }
            _ if mode.tags(inside.vlan) || !inside.outer.is_present() => true,
            VlanMode::Access(_) | VlanMode::Trunk(_) | VlanMode::Native { .. }
                if inside.service_tpid.is_some() =>
            {
                inside.outer_vid() == 0 && !self.is_stacked()
            }
            VlanMode::Access(_) => !self.has_inner_tag(),
            VlanMode::Trunk(_) | VlanMode::Native { .. } => !self.is_stacked(),
        }
    }

    /// The VLAN number in the tag behind that of the frame's VLAN.
    fn vid_behind(&mut self, inside: &Inside) -> u16 {
        match inside.service_tpid {
            Some(_) => inside.outer_vid(),
            // A frame that came without its VLAN's tag has no second one, or it would not be inside.
            None if inside.outer_vid() == 0 => 0,
            None => self.inner_vid(),
        }
    }

    /// What the frame's tags become at a port, member of its VLAN or not.
    pub(super) fn shape_at(&mut self, inside: &Inside, port: &PortVlan) -> Shape {
        if !port.mode.tags(inside.vlan) {
            return self.shape_without_vlan(inside, port);
        }
        match inside.service_tpid {
            Some(tpid) => Shape::Stacked(VlanTag { tpid: tpid.into(), tci: inside.vlan.number().into() }),
            None if !inside.outer.is_present() => Shape::Tagged(VlanTag::of_vlan(inside.vlan)),
            None if inside.outer_vid() == 0 => Shape::Set(inside.vlan),
            None => Shape::AsIs,
        }
    }

    /// What the frame's tags become at a port where its VLAN has no tag. Its priority may stay, but only if no tag would be
    /// behind.
    fn shape_without_vlan(&mut self, inside: &Inside, port: &PortVlan) -> Shape {
        let is_of_customer = inside.service_tpid.is_some()
            && (inside.outer_vid() != 0 || matches!(port.mode, VlanMode::Tunnel { .. }));
        if !inside.outer.is_present() || is_of_customer {
            return Shape::AsIs;
        }
        if port.priority_tags == PriorityTags::Never || self.is_stacked() {
            return Shape::Bare;
        }
        let (tpid, priority) = self.outer_protocol_and_priority();
        if priority == 0 && port.priority_tags != PriorityTags::Always {
            return Shape::Bare;
        }
        match (tpid, inside.outer_vid()) {
            (TYPE_CUSTOMER, 0) => Shape::AsIs,
            (_, 0) if matches!(port.mode, VlanMode::Trunk(_)) => Shape::AsIs,
            (TYPE_CUSTOMER, _) => Shape::Set(VlanId::UNTAGGED),
            _ => Shape::Tagged(VlanTag { tpid: TYPE_CUSTOMER.into(), tci: priority.into() }),
        }
    }

    /// Has the datapath give a frame that has the tags of `from` those of `to`, which comes after it. Before the first
    /// such change nothing was due.
    pub(super) fn reshape(&mut self, inside: &Inside, from: Shape, to: Shape, plan: &mut Plan) {
        match to {
            Shape::AsIs => {}
            Shape::Set(vlan) => self.edit_tag(TagEdit::Set(vlan), plan),
            Shape::Stacked(tag) => self.edit_tag(TagEdit::Push(tag), plan),
            Shape::Bare => self.strip(inside, from, plan),
            Shape::Tagged(tag) => {
                self.strip(inside, from, plan);
                self.edit_tag(TagEdit::Push(tag), plan);
            }
        }
    }

    fn strip(&mut self, inside: &Inside, from: Shape, plan: &mut Plan) {
        let own = usize::from(inside.outer.is_present());
        let pops = match from {
            Shape::AsIs | Shape::Set(_) => own,
            Shape::Stacked(_) => 1 + own,
            Shape::Bare => 0,
            Shape::Tagged(_) => 1,
        };
        for _ in 0..pops {
            self.edit_tag(TagEdit::Pop, plan);
        }
    }
}
