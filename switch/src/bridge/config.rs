//! What `NORMAL` goes by, as one snapshot: the ports with their VLANs, the mirrors, and the port that rules call `local`; and
//! how much of a packet is read.

use crate::bridge::mirror::{MAX_MIRRORS, Mirror};
use crate::bridge::vlan::{PriorityTags, VlanMode};
use crate::port::{MAX_PORTS, PortId};
use crate::rule::fragments::FragmentMode;
use crate::wire::vlan::{VlanId, VlanLimit};

/// A port as the slow path sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortVlan {
    /// The VLANs it takes part in.
    pub mode: VlanMode,
    /// Which frames leave with a priority tag.
    pub priority_tags: PriorityTags,
    /// Most addresses that may be learned at it.
    pub mac_limit: u32,
}

impl PortVlan {
    /// Addresses learned at a port that sets no limit of its own.
    pub const DEFAULT_MAC_LIMIT: u32 = 1024;
}

impl Default for PortVlan {
    fn default() -> Self {
        Self {
            mode: VlanMode::default(),
            priority_tags: PriorityTags::default(),
            mac_limit: Self::DEFAULT_MAC_LIMIT,
        }
    }
}

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
    vlan_limit: VlanLimit,
    fragments: FragmentMode,
}

impl SwitchConfig {
    /// A snapshot with these ports. `generation` is one more than that of the snapshot it replaces.
    pub fn new(generation: u64, ports: impl IntoIterator<Item = (PortId, PortVlan)>) -> Self {
        let mut table: Box<[Option<PortVlan>]> = vec![None; MAX_PORTS].into();
        for (port, vlan) in ports {
            table[port.index()] = Some(vlan);
        }
        let present = (0..).map_while(PortId::new).filter(|port| table[port.index()].is_some()).collect();
        Self {
            generation,
            ports: table,
            present,
            local: None,
            mirrors: Box::default(),
            vlan_limit: VlanLimit::default(),
            fragments: FragmentMode::default(),
        }
    }

    /// The same, reading so many tags of a frame.
    #[must_use]
    pub fn with_vlan_limit(self, vlan_limit: VlanLimit) -> Self {
        Self { vlan_limit, ..self }
    }

    /// The same, showing rules so much of fragments.
    #[must_use]
    pub fn with_fragments(self, fragments: FragmentMode) -> Self {
        Self { fragments, ..self }
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

    /// How many tags of a frame are read.
    #[inline]
    pub fn vlan_limit(&self) -> VlanLimit {
        self.vlan_limit
    }

    /// What rules see of fragments.
    pub fn fragments(&self) -> FragmentMode {
        self.fragments
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

    /// The members of `vlan` in the order of their numbers. Ports that are reserved for mirrors are members of none.
    pub fn members(&self, vlan: VlanId) -> impl Iterator<Item = (PortId, &PortVlan)> {
        let ports = self.present.iter().filter_map(|&port| Some((port, self.port(port)?)));
        ports.filter(move |(port, at)| at.mode.carries(vlan) && !self.is_mirror_output(*port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::mirror::MirroredPorts;

    fn vlan(number: u16) -> VlanId {
        VlanId::new(number).unwrap()
    }

    #[test]
    fn members_are_the_ports_of_the_vlan_only() {
        let port = |n| PortId::new(n).unwrap();
        let access = |n| PortVlan { mode: VlanMode::Access(vlan(n)), ..PortVlan::default() };
        let config = SwitchConfig::new(
            1,
            [(port(9), access(10)), (port(2), access(20)), (port(4), PortVlan::default())],
        );
        let members = |config: &SwitchConfig| -> Vec<_> {
            config.members(vlan(10)).map(|(port, _)| port.number()).collect()
        };
        assert_eq!(members(&config), [4, 9]);
        assert!(config.port(port(3)).is_none());
        let mirror = Mirror {
            name: "m0".to_owned(),
            sources: MirroredPorts::These([port(2)].into()),
            destinations: MirroredPorts::All,
            vlans: Box::default(),
            output: port(4),
        };
        let config = config.with_mirrors([mirror]).with_local(Some(port(2)));
        assert_eq!(members(&config), [9], "a mirror's output takes no part");
        assert_eq!(config.mirrors_of(port(2), false).count(), 1);
        assert_eq!(config.mirrors_of(port(9), false).count(), 0);
        assert_eq!(config.mirrors_of(port(9), true).count(), 1);
        assert_eq!(config.local(), Some(port(2)));
    }
}
