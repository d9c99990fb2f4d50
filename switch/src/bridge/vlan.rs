//! Which VLANs a port takes part in.
//!
//! Only the outer tag counts; an inner tag is payload. A frame without a tag, or with a priority tag (VLAN 0,
//! IEEE 802.1Q §9.6), belongs to the VLAN that its ingress port names for it.
//!
//! VLAN 0 is the domain of untagged frames: ports that name no VLAN at all share it, which makes them a plain learning
//! switch that hands tags through. It never appears as a tag.

use std::fmt;

use crate::flow::key::KeyTag;
use crate::wire::vlan::{VID, VlanId};

/// A set of VLANs; collect [`VlanId`]s into it. VLAN 0, which has no tag, is never in it.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Option<Box<[u64; 64]>>);

impl VlanSet {
    /// Every VLAN that a tag can name.
    pub const ALL: VlanSet = VlanSet(None);

    /// Whether `vlan` is in the set.
    pub fn contains(&self, vlan: VlanId) -> bool {
        let number = usize::from(vlan.number());
        number != 0 && self.0.as_ref().is_none_or(|bits| bits[number / 64] >> (number % 64) & 1 == 1)
    }
}

impl FromIterator<VlanId> for VlanSet {
    fn from_iter<I: IntoIterator<Item = VlanId>>(vlans: I) -> Self {
        let mut bits = Box::new([0; 64]);
        for number in vlans.into_iter().map(|vlan| usize::from(vlan.number())) {
            bits[number / 64] |= 1 << (number % 64);
        }
        Self(Some(bits))
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("ALL"),
            Some(_) => f
                .debug_set()
                .entries((1..4095).filter_map(VlanId::new).filter(|&vlan| self.contains(vlan)))
                .finish(),
        }
    }
}

/// How a port takes part in VLANs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VlanMode {
    /// Member of one VLAN, whose frames have no tag here.
    Access(VlanId),
    /// Member of many VLANs, told apart by their tags.
    Trunk {
        /// VLAN of frames without a tag; without one they are dropped.
        native: Option<VlanId>,
        /// VLANs of frames with a tag.
        allowed: VlanSet,
    },
}

/// Whether a VLAN's frames carry a tag at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tagging {
    /// They have no tag.
    Untagged,
    /// They have no tag, or only a priority tag.
    Native,
    /// They have the VLAN's tag.
    Tagged,
}

impl VlanMode {
    /// The VLAN of a frame that arrives with `tag`, as keys hold it, or `None` if the port is no member of it.
    pub fn classify(&self, tag: KeyTag) -> Option<VlanId> {
        let vlan = if tag.is_present() { VlanId::new(tag.tci.get() & VID)? } else { VlanId::UNTAGGED };
        match self {
            VlanMode::Access(own) => (vlan == VlanId::UNTAGGED || vlan == *own).then_some(*own),
            VlanMode::Trunk { native, .. } if vlan == VlanId::UNTAGGED => *native,
            VlanMode::Trunk { native, allowed } => {
                (*native == Some(vlan) || allowed.contains(vlan)).then_some(vlan)
            }
        }
    }

    /// How frames of `vlan` leave by the port, or `None` if it is no member.
    pub fn tagging(&self, vlan: VlanId) -> Option<Tagging> {
        match self {
            VlanMode::Access(own) => (vlan == *own).then_some(Tagging::Untagged),
            VlanMode::Trunk { native, .. } if *native == Some(vlan) => Some(Tagging::Native),
            VlanMode::Trunk { allowed, .. } => allowed.contains(vlan).then_some(Tagging::Tagged),
        }
    }
}

impl Default for VlanMode {
    /// The mode of a port without VLAN options: every tag is taken as it is, untagged frames are VLAN 0.
    fn default() -> Self {
        VlanMode::Trunk { native: Some(VlanId::UNTAGGED), allowed: VlanSet::ALL }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::vlan::{TYPE_CUSTOMER, VlanTag};

    fn vlan(number: u16) -> VlanId {
        VlanId::new(number).unwrap()
    }

    fn tag(tci: u16) -> KeyTag {
        KeyTag::of_frame(VlanTag { tpid: TYPE_CUSTOMER.into(), tci: tci.into() })
    }

    #[test]
    fn access_port_takes_untagged_and_priority_tagged_frames_and_its_own_vlan() {
        let access = VlanMode::Access(vlan(10));
        assert_eq!(access.classify(KeyTag::default()), Some(vlan(10)));
        assert_eq!(access.classify(tag(0xe000)), Some(vlan(10)));
        assert_eq!(access.classify(tag(0x600a)), Some(vlan(10)));
        assert_eq!(access.classify(tag(11)), None);
        assert_eq!(access.tagging(vlan(10)), Some(Tagging::Untagged));
        assert_eq!(access.tagging(vlan(0)), None);
    }

    #[test]
    fn trunk_without_native_vlan_drops_untagged_frames() {
        let trunk = VlanMode::Trunk { native: None, allowed: [vlan(10), vlan(4094)].into_iter().collect() };
        assert_eq!(trunk.classify(KeyTag::default()), None);
        assert_eq!(trunk.classify(tag(0xe000)), None);
        assert_eq!(trunk.classify(tag(4094)), Some(vlan(4094)));
        assert_eq!(trunk.classify(tag(4095)), None);
        assert_eq!(trunk.classify(tag(11)), None);
        assert_eq!(trunk.tagging(vlan(10)), Some(Tagging::Tagged));
        assert_eq!(trunk.tagging(vlan(0)), None);
    }

    #[test]
    fn default_port_hands_tags_through() {
        let port = VlanMode::default();
        assert_eq!(port.classify(KeyTag::default()), Some(vlan(0)));
        assert_eq!(port.classify(tag(0x2000)), Some(vlan(0)));
        assert_eq!(port.classify(tag(7)), Some(vlan(7)));
        assert_eq!(port.classify(tag(4095)), None);
        assert_eq!(port.tagging(vlan(0)), Some(Tagging::Native));
        assert_eq!(port.tagging(vlan(7)), Some(Tagging::Tagged));
    }
}
