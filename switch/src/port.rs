//! Port identifiers.
//!
//! A port is where packets enter and leave the switch. Its number is given out by the root, which owns the ports; the
//! switch only compares numbers and indexes tables with them.

use std::fmt;

/// Largest number of ports at one time; port numbers are below it.
pub const MAX_PORTS: usize = 1024;

/// Number of a port, `0..MAX_PORTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PortId(u16);

impl PortId {
    /// Port 0.
    pub const ZERO: PortId = PortId(0);

    /// The port numbered `number`, or `None` from [`MAX_PORTS`] on.
    pub fn new(number: u16) -> Option<Self> {
        (usize::from(number) < MAX_PORTS).then_some(Self(number))
    }

    /// The number as an index into a table of ports.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The number as it stands in flow keys.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
