//! Ethernet II frames with up to two VLAN tags.
//!
//! `Link::parse` runs for every packet, so it checks the length once: a head long enough for two tags, which is every
//! real one, takes a path without further checks.
//!
//! # Source
//! IEEE 802.3 §3.2, IEEE 802.1Q §9.

use zerocopy::FromBytes;

use super::vlan::{TAG_LEN, VlanTag, is_tag};

/// Bytes of an Ethernet header without tags.
pub const HEADER_LEN: usize = 14;
/// Bytes of the two addresses, after which the first tag stands.
pub const ADDRESSES_LEN: usize = 12;
/// Bytes of an Ethernet header with as many tags as are read.
const TAGGED_LEN: usize = HEADER_LEN + 2 * TAG_LEN;

/// Ethernet type of IPv4.
pub const TYPE_IPV4: u16 = 0x0800;
/// Ethernet type of ARP.
pub const TYPE_ARP: u16 = 0x0806;
/// Ethernet type of reverse ARP.
pub const TYPE_RARP: u16 = 0x8035;
/// Ethernet type of IPv6.
pub const TYPE_IPV6: u16 = 0x86dd;

/// Stands for every 802.3 length in a key.
pub const TYPE_NONE: u16 = 0x05ff;

/// The part of a frame's link layer that varies in length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Outer and inner tag, all zero when absent.
    pub tags: [VlanTag; 2],
    /// Ethernet type or 802.3 length after the tags, as it stands in the frame. It is a tag's own type when that tag is
    /// cut short or is the third one.
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
            return Some((eth_type, len + 2));
        }
        len += TAG_LEN;
    }
}

impl Link {
    /// Reads tags and type of the frame that starts with `head`; `None` if it is shorter than an Ethernet header.
    #[inline]
    pub fn parse(head: &[u8]) -> Option<Self> {
        match head.first_chunk() {
            Some(bytes) => Some(Self::parse_padded(bytes, TAGGED_LEN)),
            None => Self::parse_short(head),
        }
    }

    #[cold]
    fn parse_short(head: &[u8]) -> Option<Self> {
        let mut padded = [0; TAGGED_LEN];
        padded.get_mut(..head.len())?.copy_from_slice(head);
        (head.len() >= HEADER_LEN).then(|| Self::parse_padded(&padded, head.len()))
    }

    /// Reads a header of which the first `len` bytes, at least [`HEADER_LEN`], are real.
    #[inline(always)]
    fn parse_padded(bytes: &[u8; TAGGED_LEN], len: usize) -> Self {
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
        if !is_tag(link.eth_type) || len < 22 {
            return link;
        }
        link.tags[1] = tag_at(16);
        link.eth_type = type_at(20);
        link.len = 22;
        link
    }
}
