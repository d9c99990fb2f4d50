//! Mirrors: ports that get a copy of what passes other ports.

use crate::port::PortId;
use crate::wire::vlan::VlanId;

/// Which ports a mirror selects in one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirroredPorts {
    /// Every port.
    All,
    /// These.
    These(Box<[PortId]>),
}

impl MirroredPorts {
    /// Whether a port is among them.
    pub fn contains(&self, port: PortId) -> bool {
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
