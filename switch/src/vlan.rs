//! Which VLANs a port takes part in, and the configuration snapshot that the slow path reads.
//!
//! Only the outer tag counts; an inner tag is payload. A frame without a tag, or with a priority tag (VLAN 0,
//! IEEE 802.1Q §9.6), belongs to the VLAN that its ingress port names for it.
//!
//! VLAN 0 is the domain of untagged frames: ports that name no VLAN at all share it, which makes them a plain learning
//! switch that hands tags through. It never appears as a tag.

use std::fmt;

use crate::flow::key::{VLAN_PRESENT, VlanTag};
use crate::port::{MAX_PORTS, PortId};

/// Tag protocol of the tags that the switch pushes.
pub const TPID_8021Q: u16 = 0x8100;

/// Number of a VLAN, `0..=4094`; 0 is the domain of untagged frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VlanId(u16);

impl VlanId {
    /// The domain of untagged frames.
    pub const UNTAGGED: VlanId = VlanId(0);

    /// VLAN `number`, or `None` above 4094 (4095 is reserved by IEEE 802.1Q §9.6).
    pub fn new(number: u16) -> Option<Self> {
        (number < 4095).then_some(Self(number))
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of VLANs; collect [`VlanId`]s into it. VLAN 0, which has no tag, is never in it.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Option<Box<[u64; 64]>>);

impl VlanSet {
    /// Every VLAN that a tag can name.
    pub const ALL: VlanSet = VlanSet(None);

    /// Whether `vlan` is in the set.
    pub fn contains(&self, vlan: VlanId) -> bool {
        let number = usize::from(vlan.0);
        number != 0 && self.0.as_ref().is_none_or(|bits| bits[number / 64] >> (number % 64) & 1 == 1)
    }
}

impl FromIterator<VlanId> for VlanSet {
    fn from_iter<I: IntoIterator<Item = VlanId>>(vlans: I) -> Self {
        let mut bits = Box::new([0; 64]);
        for number in vlans.into_iter().map(|vlan| usize::from(vlan.0)) {
            bits[number / 64] |= 1 << (number % 64);
        }
        Self(Some(bits))
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("ALL"),
            Some(_) => f.debug_set().entries((1..4095).filter(|&n| self.contains(VlanId(n)))).finish(),
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
    pub fn classify(&self, tag: VlanTag) -> Option<VlanId> {
        let vlan = match tag.tci.get() & VLAN_PRESENT {
            0 => VlanId::UNTAGGED,
            _ => VlanId::new(tag.tci.get() & 0xfff)?,
        };
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

/// A port as the slow path sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortVlan {
    /// The VLANs it takes part in.
    pub mode: VlanMode,
    /// Most addresses that may be learned at it.
    pub mac_limit: u32,
}

impl PortVlan {
    /// Addresses learned at a port that sets no limit of its own.
    pub const DEFAULT_MAC_LIMIT: u32 = 1024;
}

impl Default for PortVlan {
    fn default() -> Self {
        Self { mode: VlanMode::default(), mac_limit: Self::DEFAULT_MAC_LIMIT }
    }
}

/// Which ports a mirror selects in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirroredPorts {
    /// Every port.
    All,
    /// These.
    These(Box<[PortId]>),
}

impl MirroredPorts {
    fn contains(&self, port: PortId) -> bool {
        match self {
            MirroredPorts::All => true,
            MirroredPorts::These(ports) => ports.contains(&port),
        }
    }
}

/// A port that gets a copy of what passes other ports. It takes no part in normal forwarding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// What the operator calls it.
    pub name: String,
    /// Frames that come in by these ports are copied as they come.
    pub sources: MirroredPorts,
    /// Frames that go out by these ports are copied as they go.
    pub destinations: MirroredPorts,
    /// Only frames of these VLANs; of any if there are none.
    pub vlans: Box<[VlanId]>,
    /// Where the copies go.
    pub output: PortId,
}

/// Most mirrors of a switch, as in Open vSwitch.
pub const MAX_MIRRORS: usize = 32;

/// What the slow path knows about the ports.
///
/// # Concurrency
/// Never changed once made. The root publishes a new one for each change of a port; workers and the revalidator each
/// hold the one they last saw, and megaflows remember which they were made from.
#[derive(Debug)]
pub struct SwitchConfig {
    generation: u64,
    ports: Box<[Option<PortVlan>]>,
    present: Box<[PortId]>,
    local: Option<PortId>,
    mirrors: Box<[Mirror]>,
}

impl SwitchConfig {
    /// A snapshot with these ports. `generation` is one more than that of the snapshot it replaces.
    pub fn new(generation: u64, ports: impl IntoIterator<Item = (PortId, PortVlan)>) -> Self {
        let mut table: Box<[Option<PortVlan>]> = vec![None; MAX_PORTS].into();
        for (port, vlan) in ports {
            table[port.index()] = Some(vlan);
        }
        let present = (0..).map_while(PortId::new).filter(|port| table[port.index()].is_some()).collect();
        Self { generation, ports: table, present, local: None, mirrors: Box::default() }
    }

    /// The same with the port that rules call `local`.
    #[must_use]
    pub fn with_local(self, local: Option<PortId>) -> Self {
        Self { local, ..self }
    }

    /// The same with these mirrors.
    ///
    /// # Panics
    /// If there are more than [`MAX_MIRRORS`].
    #[must_use]
    pub fn with_mirrors(self, mirrors: impl IntoIterator<Item = Mirror>) -> Self {
        let mirrors: Box<[Mirror]> = mirrors.into_iter().collect();
        assert!(mirrors.len() <= MAX_MIRRORS, "{} mirrors", mirrors.len());
        Self { mirrors, ..self }
    }

    /// Which snapshot this is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The port's configuration, if the port exists.
    pub fn port(&self, port: PortId) -> Option<&PortVlan> {
        self.ports[port.index()].as_ref()
    }

    /// Every port, in the order of their numbers.
    pub fn ports(&self) -> &[PortId] {
        &self.present
    }

    /// The port that rules call `local`.
    pub fn local(&self) -> Option<PortId> {
        self.local
    }

    /// The mirrors.
    pub fn mirrors(&self) -> &[Mirror] {
        &self.mirrors
    }

    /// The mirrors that copy frames which come in by `port` (`is_egress` false) or go out by it, and their places in
    /// [`mirrors`](Self::mirrors).
    pub fn mirrors_of(&self, port: PortId, is_egress: bool) -> impl Iterator<Item = (usize, &Mirror)> {
        self.mirrors.iter().enumerate().filter(move |(_, mirror)| {
            let ports = if is_egress { &mirror.destinations } else { &mirror.sources };
            ports.contains(port)
        })
    }

    /// Whether the port is reserved for what a mirror sends.
    pub fn is_mirror_output(&self, port: PortId) -> bool {
        self.mirrors.iter().any(|mirror| mirror.output == port)
    }

    /// The members of `vlan` in the order of their numbers, and how its frames leave by each. Ports that are reserved for
    /// mirrors are members of none.
    pub fn members(&self, vlan: VlanId) -> impl Iterator<Item = (PortId, Tagging)> + Clone + '_ {
        let ports = self.present.iter().filter(|&&port| !self.is_mirror_output(port));
        ports.filter_map(move |&port| self.port(port)?.mode.tagging(vlan).map(|tagging| (port, tagging)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vlan(number: u16) -> VlanId {
        VlanId::new(number).unwrap()
    }

    fn tag(tci: u16) -> VlanTag {
        VlanTag { tpid: TPID_8021Q.into(), tci: tci.into() }.in_key()
    }

    #[test]
    fn access_port_takes_untagged_and_priority_tagged_frames_and_its_own_vlan() {
        let access = VlanMode::Access(vlan(10));
        assert_eq!(access.classify(VlanTag::default()), Some(vlan(10)));
        assert_eq!(access.classify(tag(0xe000)), Some(vlan(10)));
        assert_eq!(access.classify(tag(0x600a)), Some(vlan(10)));
        assert_eq!(access.classify(tag(11)), None);
        assert_eq!(access.tagging(vlan(10)), Some(Tagging::Untagged));
        assert_eq!(access.tagging(vlan(0)), None);
    }

    #[test]
    fn trunk_without_native_vlan_drops_untagged_frames() {
        let trunk = VlanMode::Trunk { native: None, allowed: [vlan(10), vlan(4094)].into_iter().collect() };
        assert_eq!(trunk.classify(VlanTag::default()), None);
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
        assert_eq!(port.classify(VlanTag::default()), Some(vlan(0)));
        assert_eq!(port.classify(tag(0x2000)), Some(vlan(0)));
        assert_eq!(port.classify(tag(7)), Some(vlan(7)));
        assert_eq!(port.classify(tag(4095)), None);
        assert_eq!(port.tagging(vlan(0)), Some(Tagging::Native));
        assert_eq!(port.tagging(vlan(7)), Some(Tagging::Tagged));
    }

    #[test]
    fn members_are_the_ports_of_the_vlan_only() {
        let port = |n| PortId::new(n).unwrap();
        let access = |n| PortVlan { mode: VlanMode::Access(vlan(n)), ..PortVlan::default() };
        let config = SwitchConfig::new(
            1,
            [(port(9), access(10)), (port(2), access(20)), (port(4), PortVlan::default())],
        );
        let members: Vec<_> = config.members(vlan(10)).collect();
        assert_eq!(members, [(port(4), Tagging::Tagged), (port(9), Tagging::Untagged)]);
        assert!(config.port(port(3)).is_none());
        let mirror = Mirror {
            name: "m0".to_owned(),
            sources: MirroredPorts::These([port(2)].into()),
            destinations: MirroredPorts::All,
            vlans: Box::default(),
            output: port(4),
        };
        let config = config.with_mirrors([mirror]).with_local(Some(port(2)));
        let members: Vec<_> = config.members(vlan(10)).collect();
        assert_eq!(members, [(port(9), Tagging::Untagged)], "a mirror's output takes no part");
        assert_eq!(config.mirrors_of(port(2), false).count(), 1);
        assert_eq!(config.mirrors_of(port(9), false).count(), 0);
        assert_eq!(config.mirrors_of(port(9), true).count(), 1);
        assert_eq!(config.local(), Some(port(2)));
    }
}
