//! VLAN tags as they stand in a frame, and the numbers of VLANs.
//!
//! # Source
//! IEEE 802.1Q §9.

use std::fmt;

use zerocopy::byteorder::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Ethernet type of a customer VLAN tag, which is the kind that the switch pushes where nothing says otherwise.
pub const TYPE_CUSTOMER: u16 = 0x8100;
/// Ethernet type of a service VLAN tag.
pub const TYPE_SERVICE: u16 = 0x88a8;

/// Bytes of one tag.
pub const TAG_LEN: usize = 4;

/// Bits of a tag's control field that name the VLAN.
pub const VID: u16 = 0x0fff;
/// Bits of a tag's control field that hold the priority.
pub const PCP: u16 = 0xe000;

/// How many tags of a frame are read. A further one is payload: to rules, the Ethernet type of the frame is then that of a
/// tag. Further tags of VLAN 0 are passed over, as receivers do: they say nothing but a priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VlanLimit {
    /// The outer one, as in Open vSwitch unless it is told otherwise.
    #[default]
    One,
    /// Outer and inner one.
    Two,
}

impl VlanLimit {
    /// The limit as a number of tags.
    pub fn tags(self) -> u8 {
        match self {
            VlanLimit::One => 1,
            VlanLimit::Two => 2,
        }
    }

    /// The limit of so many tags.
    pub fn from_tags(tags: u8) -> Option<Self> {
        [VlanLimit::One, VlanLimit::Two].into_iter().find(|limit| limit.tags() == tags)
    }
}

/// Whether an Ethernet type announces a tag.
#[inline]
pub fn is_tag(eth_type: u16) -> bool {
    eth_type == TYPE_CUSTOMER || eth_type == TYPE_SERVICE
}

/// A tag in a frame. How flow keys hold a tag is another type, [`KeyTag`](crate::flow::key::KeyTag).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VlanTag {
    /// Tag protocol: [`TYPE_CUSTOMER`] or [`TYPE_SERVICE`].
    pub tpid: U16,
    /// Priority (3 bits), drop eligible (1 bit), VLAN (12 bits).
    pub tci: U16,
}

impl VlanTag {
    /// A customer tag of this VLAN with priority 0.
    pub fn of_vlan(vlan: VlanId) -> Self {
        Self { tpid: U16::new(TYPE_CUSTOMER), tci: U16::new(vlan.number()) }
    }
}

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
