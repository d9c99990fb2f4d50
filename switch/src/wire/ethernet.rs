//! Ethernet II frames with up to two VLAN tags, and IEEE 802.3 frames with a length in the type's place.
//!
//! Key extraction reads every packet, so it begins with `Link::parse_ordinary`, which checks the length once and gives up
//! on what is rare.
//!
//! Behind a length, LLC and SNAP headers with the organization code 0 encapsulate an Ethernet type, and such a frame means
//! the same to a receiver as one that has the type in its place. With any other LLC header a frame has no Ethernet type.
//!
//! # Source
//! IEEE 802.3 §3.2, IEEE 802.1Q §9, RFC 1042.

use zerocopy::FromBytes;

use super::vlan::{TAG_LEN, VlanLimit, VlanTag, is_tag};

/// Bytes of an Ethernet header without tags.
pub const HEADER_LEN: usize = 14;
/// Bytes of the two addresses, after which the first tag stands.
pub const ADDRESSES_LEN: usize = 12;
/// Bytes of an Ethernet header with as many tags as are read.
const TAGGED_LEN: usize = HEADER_LEN + 2 * TAG_LEN;

/// Smallest Ethernet type; smaller values are lengths.
const TYPE_MIN: u16 = 0x0600;
/// Stands for the Ethernet type of frames that have none.
pub const TYPE_NONE: u16 = 0x05ff;

/// LLC and SNAP headers with organization code 0; the Ethernet type follows.
const SNAP: [u8; 6] = [0xaa, 0xaa, 0x03, 0, 0, 0];

/// Ethernet type of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// Ethernet type of ARP.
pub const TYPE_ARP: u16 = 0x0806;
/// Ethernet type of reverse ARP.
pub const TYPE_RARP: u16 = 0x8035;
/// Ethernet type of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;

/// The part of a frame's link layer that varies in length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Outer and inner tag, all zero when absent.
    pub tags: [VlanTag; 2],
    /// Ethernet type after the tags, [`TYPE_NONE`] if there is none. It is a tag's own type when that tag is cut short or is
    /// one too many.
    pub eth_type: u16,
    /// Bytes up to the network header.
    pub len: usize,
}

/// Ethernet type and length of the link layer of the frame that starts with `head`, behind all of its tags, however many
/// were pushed; `None` if it ends beyond the head.
pub fn behind_all_tags(head: &[u8]) -> Option<(u16, usize)> {
    let mut len = ADDRESSES_LEN;
    loop {
        let eth_type = u16::from_be_bytes(*head.get(len..)?.first_chunk()?);
        if !is_tag(eth_type) {
            let behind = (eth_type, len + 2);
            return Some(if eth_type < TYPE_MIN { behind_length(head, behind.1) } else { behind });
        }
        len += TAG_LEN;
    }
}

/// Ethernet type and length of the link layer of a frame that has an 802.3 length in the two bytes before `at`.
#[cold]
fn behind_length(head: &[u8], at: usize) -> (u16, usize) {
    match head.get(at..).and_then(|llc| llc.strip_prefix(&SNAP)?.first_chunk()) {
        Some(&eth_type) => {
            let eth_type = u16::from_be_bytes(eth_type);
            (if eth_type < TYPE_MIN { TYPE_NONE } else { eth_type }, at + SNAP.len() + 2)
        }
        None => (TYPE_NONE, at),
    }
}

impl Link {
    /// The same for nearly every frame, in a few steps: `None` if `head` is too short for as many tags as there may be, or if
    /// the frame has a length for a type.
    #[inline(always)]
    pub fn parse_ordinary(head: &[u8], limit: VlanLimit) -> Option<Self> {
        let link = Self::parse_padded(head.first_chunk()?, TAGGED_LEN, limit);
        (link.eth_type >= TYPE_MIN).then_some(link)
    }

    /// Reads tags and type of the frame that starts with `head`; `None` if it is shorter than an Ethernet header.
    pub fn parse(head: &[u8], limit: VlanLimit) -> Option<Self> {
        if head.len() < HEADER_LEN {
            return None;
        }
        let mut padded = [0; TAGGED_LEN];
        let len = head.len().min(TAGGED_LEN);
        padded[..len].copy_from_slice(&head[..len]);
        let mut link = Self::parse_padded(&padded, len, limit);
        if link.eth_type < TYPE_MIN {
            (link.eth_type, link.len) = behind_length(head, link.len);
        }
        Some(link)
    }

    /// Reads a header of which the first `len` bytes, at least [`HEADER_LEN`], are real; a length in the type's place is left
    /// as it is.
    #[inline(always)]
    fn parse_padded(bytes: &[u8; TAGGED_LEN], len: usize, limit: VlanLimit) -> Self {
        let type_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let tag_at = |at: usize| {
            VlanTag::read_from_prefix(&bytes[at..]).map_or_else(|_| VlanTag::default(), |(tag, _)| tag)
        };
        let mut link = Link { tags: [VlanTag::default(); 2], eth_type: type_at(12), len: 14 };
        if !is_tag(link.eth_type) || len < 18 {
            return link;
        }
        link.tags[0] = tag_at(12);
        link.eth_type = type_at(16);
        link.len = 18;
        if limit == VlanLimit::One || !is_tag(link.eth_type) || len < 22 {
            return link;
        }
        link.tags[1] = tag_at(16);
        link.eth_type = type_at(20);
        link.len = 22;
        link
    }
}
