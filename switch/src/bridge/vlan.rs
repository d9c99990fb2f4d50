//! Which VLANs a port takes part in, and how their frames look there.
//!
//! Inside the switch every frame is in one VLAN. At a port, the port's mode says which one a frame that arrives is in, and
//! whether frames of a VLAN leave with its tag. A frame without a tag and one with a priority tag (VLAN 0, IEEE 802.1Q
//! §9.6) are in the same VLAN, which is VLAN 0 at ports that name no other: ports without VLAN options share it, and are a
//! plain learning switch that hands tags through.
//!
//! Only the outer tag says which VLAN a frame is in. What is behind it is payload, but for what a receiver would make of it
//! once the outer tag is gone; that is for `slow_path/tags.rs`, which takes frames through the switch.
//!
//! # Source
//! The modes and their names are those of ovs-vswitchd.conf.db(5), "VLAN Configuration".

use std::fmt;

use crate::wire::vlan::VlanId;

/// A set of VLANs; collect [`VlanId`]s into it. VLAN 0 stands for frames without a tag.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Option<Box<[u64; 64]>>);

impl VlanSet {
    /// Every VLAN.
    pub const ALL: VlanSet = VlanSet(None);

    /// Whether `vlan` is in the set.
    #[inline]
    pub fn contains(&self, vlan: VlanId) -> bool {
        let number = usize::from(vlan.number());
        self.0.as_ref().is_none_or(|bits| bits[number / 64] >> (number % 64) & 1 == 1)
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
                .entries((0..4095).filter_map(VlanId::new).filter(|&vlan| self.contains(vlan)))
                .finish(),
        }
    }
}

/// How a port takes part in VLANs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VlanMode {
    /// Member of one VLAN, whose frames have no tag here. A frame that arrives with a tag of any VLAN, its own included, is
    /// not taken: the tag would be gone where the frame leaves, and what is behind it would be read as another VLAN's.
    Access(VlanId),
    /// Member of these VLANs, told apart by their tags. If VLAN 0 is one of them, frames without a tag are in it.
    Trunk(VlanSet),
    /// A trunk whose frames without a tag are in a VLAN too.
    Native {
        /// The VLAN of frames that arrive without a tag.
        vlan: VlanId,
        /// Other VLANs that the port is a member of. VLAN 0 does not count.
        allowed: VlanSet,
        /// Frames of `vlan` leave with its tag.
        is_tagged: bool,
    },
    /// The edge of a VLAN that carries a customer's frames, tags and all (802.1Q-in-Q): within the switch they have a service
    /// tag before their own, which they get and lose here.
    Tunnel {
        /// The service VLAN.
        vlan: VlanId,
        /// VLANs of the customer that pass, VLAN 0 for frames without a tag.
        customers: VlanSet,
        /// Protocol of the service tag.
        tpid: u16,
    },
}

impl VlanMode {
    /// The VLAN of a frame that arrives with this VLAN in its outer tag, 0 for one without a tag; `None` if the port does
    /// not take it. 4095 is no VLAN (IEEE 802.1Q §9.6).
    pub fn vlan_of(&self, vid: u16) -> Option<VlanId> {
        let of_tag = VlanId::new(vid)?;
        match self {
            VlanMode::Access(own) => (vid == 0).then_some(*own),
            VlanMode::Trunk(allowed) => allowed.contains(of_tag).then_some(of_tag),
            VlanMode::Native { vlan, .. } if vid == 0 => Some(*vlan),
            VlanMode::Native { .. } => self.carries(of_tag).then_some(of_tag),
            VlanMode::Tunnel { vlan, customers, .. } => customers.contains(of_tag).then_some(*vlan),
        }
    }

    /// Whether the port is a member of `vlan`.
    pub fn carries(&self, vlan: VlanId) -> bool {
        match self {
            VlanMode::Access(own) | VlanMode::Tunnel { vlan: own, .. } => vlan == *own,
            VlanMode::Trunk(allowed) => allowed.contains(vlan),
            VlanMode::Native { vlan: native, allowed, .. } => {
                vlan == *native || vlan != VlanId::UNTAGGED && allowed.contains(vlan)
            }
        }
    }

    /// Whether frames of `vlan` leave by the port with the VLAN's tag.
    pub fn tags(&self, vlan: VlanId) -> bool {
        match self {
            VlanMode::Access(_) | VlanMode::Tunnel { .. } => false,
            VlanMode::Trunk(_) => vlan != VlanId::UNTAGGED,
            VlanMode::Native { vlan: native, is_tagged, .. } => *is_tagged || vlan != *native,
        }
    }
}

impl Default for VlanMode {
    /// The mode of a port without VLAN options: every tag is taken as it is, untagged frames are VLAN 0.
    fn default() -> Self {
        VlanMode::Trunk(VlanSet::ALL)
    }
}

/// Which frames leave a port with a priority tag, which names a priority and no VLAN, where their VLAN has no tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PriorityTags {
    /// None: there are receivers that ignore frames with any tag.
    #[default]
    Never,
    /// Those whose tag names a priority other than 0.
    IfNonzero,
    /// Those that have a tag.
    Always,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vlan(number: u16) -> VlanId {
        VlanId::new(number).unwrap()
    }

    fn set(numbers: &[u16]) -> VlanSet {
        numbers.iter().copied().map(vlan).collect()
    }

    /// The VLANs that frames with the tags 0, 10, 20 and 4095 are in.
    fn seen(mode: &VlanMode) -> [Option<u16>; 4] {
        [0, 10, 20, 4095].map(|vid| mode.vlan_of(vid).map(VlanId::number))
    }

    /// Whether VLANs 0, 10 and 20 leave with a tag; `None` where the port is no member.
    fn sent(mode: &VlanMode) -> [Option<bool>; 3] {
        [0, 10, 20].map(|number| mode.carries(vlan(number)).then(|| mode.tags(vlan(number))))
    }

    #[test]
    fn access_port_takes_no_tag_but_a_priority_tag() {
        let access = VlanMode::Access(vlan(10));
        assert_eq!(seen(&access), [Some(10), None, None, None]);
        assert_eq!(sent(&access), [None, Some(false), None]);
        let untagged_only = VlanMode::Access(vlan(0));
        assert_eq!(seen(&untagged_only), [Some(0), None, None, None]);
        assert_eq!(sent(&untagged_only), [Some(false), None, None]);
    }

    #[test]
    fn trunk_takes_frames_without_a_tag_if_it_carries_vlan_0() {
        let trunk = VlanMode::Trunk(set(&[10]));
        assert_eq!(seen(&trunk), [None, Some(10), None, None]);
        assert_eq!(sent(&trunk), [None, Some(true), None]);
        let trunk = VlanMode::Trunk(set(&[0, 20]));
        assert_eq!(seen(&trunk), [Some(0), None, Some(20), None]);
        assert_eq!(sent(&trunk), [Some(false), None, Some(true)]);
        assert_eq!(seen(&VlanMode::default()), [Some(0), Some(10), Some(20), None]);
    }

    #[test]
    fn native_vlan_is_carried_whatever_else_is_and_vlan_0_is_not() {
        for is_tagged in [false, true] {
            let native = VlanMode::Native { vlan: vlan(10), allowed: set(&[0, 20]), is_tagged };
            assert_eq!(seen(&native), [Some(10), Some(10), Some(20), None]);
            assert_eq!(sent(&native), [None, Some(is_tagged), Some(true)]);
        }
    }

    #[test]
    fn tunnel_takes_the_tags_of_its_customer() {
        let tunnel = |customers| VlanMode::Tunnel { vlan: vlan(10), customers, tpid: 0x88a8 };
        assert_eq!(seen(&tunnel(VlanSet::ALL)), [Some(10), Some(10), Some(10), None]);
        assert_eq!(seen(&tunnel(set(&[20]))), [None, None, Some(10), None]);
        assert_eq!(sent(&tunnel(set(&[20]))), [None, Some(false), None]);
    }
}
