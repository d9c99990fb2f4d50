//! Ports as rules number them.
//!
//! A rule names a port by OpenFlow's number, of which the highest stand for something other than a port: the learning
//! switch, the port that the packet came from, the port of the host. What a number stands for is found out when a packet
//! meets the rule, so that a rule may name a port that is not there yet, and `LOCAL` while no port is local.
//!
//! # Source
//! OpenFlow 1.0.2 §5.3.1, and ovs-fields(7), "Ingress Port", for the names.

use crate::port::PortId;

/// A port's number as rules have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RulePort(u16);

impl RulePort {
    /// Nothing: the output of an action set that has none.
    pub const UNSET: RulePort = RulePort(0xfff7);
    /// The port that the packet came from.
    pub const IN_PORT: RulePort = RulePort(0xfff8);
    /// Not a port, but the first table.
    pub const TABLE: RulePort = RulePort(0xfff9);
    /// Whichever ports the learning switch names.
    pub const NORMAL: RulePort = RulePort(0xfffa);
    /// Every port but the ingress port.
    pub const FLOOD: RulePort = RulePort(0xfffb);
    /// Every port but the ingress port, whatever its VLANs.
    pub const ALL: RulePort = RulePort(0xfffc);
    /// Whoever listens.
    pub const CONTROLLER: RulePort = RulePort(0xfffd);
    /// The port of the host itself.
    pub const LOCAL: RulePort = RulePort(0xfffe);
    /// No port.
    pub const NONE: RulePort = RulePort(0xffff);

    /// Numbers below it are those of ports.
    const FIRST_RESERVED: u16 = 0xff00;

    /// What the numbers that are no port's are called; the first name of each is the one that is printed.
    pub const NAMES: [(&'static str, RulePort); 10] = [
        ("UNSET", Self::UNSET),
        ("IN_PORT", Self::IN_PORT),
        ("TABLE", Self::TABLE),
        ("NORMAL", Self::NORMAL),
        ("FLOOD", Self::FLOOD),
        ("ALL", Self::ALL),
        ("CONTROLLER", Self::CONTROLLER),
        ("LOCAL", Self::LOCAL),
        ("ANY", Self::NONE),
        ("NONE", Self::NONE),
    ];

    /// The number `number`, or `None` if it is between those of ports and those that have a name.
    pub fn new(number: u32) -> Option<Self> {
        // From OpenFlow 1.1 on a port has 32 bits, and those that have a name are the highest of these.
        let number = number.checked_sub(0xffff_0000).filter(|&low| low >= 0xff00).unwrap_or(number);
        let is_port = |number: &u16| *number < Self::FIRST_RESERVED || *number >= Self::UNSET.0;
        u16::try_from(number).ok().filter(is_port).map(Self)
    }

    /// The number that is called `name`, in capitals or not.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|&(_, port)| port)
    }

    /// What it is called, if it is no port's.
    pub fn name(self) -> Option<&'static str> {
        Self::NAMES.iter().find(|(_, port)| *port == self).map(|&(name, _)| name)
    }

    /// The number itself.
    pub fn number(self) -> u16 {
        self.0
    }

    /// The number in the 32 bits of OpenFlow 1.1, in which those with a name are the highest of all.
    pub fn number_oxm(self) -> u32 {
        let number = u32::from(self.0);
        if self.0 < Self::FIRST_RESERVED { number } else { number | 0xffff_0000 }
    }

    /// The port that has this number, if there can be one.
    pub fn port(self) -> Option<PortId> {
        PortId::new(self.0)
    }
}

impl From<PortId> for RulePort {
    fn from(port: PortId) -> Self {
        Self(port.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_between_ports_and_names_are_none() {
        assert_eq!(RulePort::new(5), Some(PortId::new(5).unwrap().into()));
        assert_eq!(RulePort::new(0xfeff).map(RulePort::number), Some(0xfeff));
        assert_eq!(RulePort::new(0xff00), None);
        assert_eq!(RulePort::new(0xfff6), None);
        assert_eq!(RulePort::new(65534), Some(RulePort::LOCAL));
        assert_eq!(RulePort::new(0xffff_fffe), Some(RulePort::LOCAL));
        assert_eq!(RulePort::new(0x0001_0005), None);
        assert_eq!(RulePort::new(0xffff_0005), None);
        assert_eq!(RulePort::from_name("in_port"), Some(RulePort::IN_PORT));
        assert_eq!((RulePort::LOCAL.name(), RulePort::NONE.name()), (Some("LOCAL"), Some("ANY")));
        assert_eq!(RulePort::LOCAL.port(), None);
    }
}
