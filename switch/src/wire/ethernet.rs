//! Ethernet II frames with up to two VLAN tags, and IEEE 802.3 frames with a length in the type's place.
//!
//! Key extraction reads every packet, so it begins with `Link::parse_ordinary`, which checks the length once and gives up
//! on what is rare.
//!
//! Behind a length, LLC and SNAP headers with the organization code 0 encapsulate an Ethernet type, and such a frame means
//! the same to a receiver as one that has the type in its place. With any other LLC header a frame has no Ethernet type.
//!
//! A tag of VLAN 0 says nothing but a priority. Linux takes off any number of them, and some receivers do so behind SNAP as
//! well. Where such a tag is one too many to be read as one, it is passed over: a frame could otherwise hide from every rule
//! what it carries, and arrive.
//!
//! # Source
//! IEEE 802.3 §3.2, IEEE 802.1Q §9, RFC 1042; CERT VU#855201 for stacks of these headers as a way round filters.

use zerocopy::FromBytes;

use super::Missing;
use super::vlan::{TAG_LEN, VID, VlanLimit, VlanTag, is_tag};

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
    /// Ethernet type after the tags, [`TYPE_NONE`] if there is none. It is a tag's own type when that tag is cut short, or is
    /// one too many and has a VLAN.
    pub eth_type: u16,
    /// Bytes up to the network header.
    pub len: usize,
}

/// Ethernet type and length of the link layer of the frame that starts with `head`, behind all of its tags, however many
/// were pushed. The frame has `len` bytes.
///
/// # Errors
/// The link layer does not end in the frame, or not in the head.
pub fn behind_all_tags(head: &[u8], len: usize) -> Result<(u16, usize), Missing> {
    let mut at = ADDRESSES_LEN;
    loop {
        let Some(eth_type) = head.get(at..at + 2).and_then(<[u8]>::first_chunk) else {
            return Err(if at + 2 <= len { Missing::Beyond } else { Missing::Malformed });
        };
        let eth_type = u16::from_be_bytes(*eth_type);
        if !is_tag(eth_type) {
            return pass_over(head, len, eth_type, at + 2);
        }
        at += TAG_LEN;
    }
}

/// Ethernet type and length of the link layer of a frame that has `eth_type` in the two bytes before `at`, which may be an
/// 802.3 length or a tag's: SNAP headers and tags of VLAN 0 are passed over. `head` are the first bytes of the frame's `len`.
///
/// # Errors
/// The link layer does not end in the head.
fn pass_over(head: &[u8], len: usize, mut eth_type: u16, mut at: usize) -> Result<(u16, usize), Missing> {
    // Bound: each round passes at least four bytes of the frame.
    loop {
        let is_length = eth_type < TYPE_MIN;
        let step = match is_length {
            true => SNAP.len() + 2,
            false if is_tag(eth_type) => TAG_LEN,
            false => return Ok((eth_type, at)),
        };
        let what_it_is = if is_length { TYPE_NONE } else { eth_type };
        let Some((before, [.., high, low])) =
            head.get(at..at + step).map(|bytes| (&bytes[..step - 2], bytes))
        else {
            return if at + step <= len { Err(Missing::Beyond) } else { Ok((what_it_is, at)) };
        };
        let is_passed = match before {
            [high, low] => u16::from_be_bytes([*high, *low]) & VID == 0,
            llc => *llc == SNAP,
        };
        if !is_passed {
            return Ok((what_it_is, at));
        }
        eth_type = u16::from_be_bytes([*high, *low]);
        at += step;
        if is_length && eth_type < TYPE_MIN {
            return Ok((TYPE_NONE, at));
        }
    }
}

impl Link {
    /// The same for nearly every frame, in a few steps: `None` if `head` is too short for as many tags as there may be, or if
    /// the frame has a length for a type or more tags than are read.
    #[inline(always)]
    pub fn parse_ordinary(head: &[u8], limit: VlanLimit) -> Option<Self> {
        let link = Self::parse_padded(head.first_chunk()?, TAGGED_LEN, limit);
        (link.eth_type >= TYPE_MIN && !is_tag(link.eth_type)).then_some(link)
    }

    /// Reads tags and type of the frame that starts with `head` and has `len` bytes.
    ///
    /// # Errors
    /// The frame is shorter than an Ethernet header, or its link layer does not end in the head.
    pub fn parse(head: &[u8], len: usize, limit: VlanLimit) -> Result<Self, Missing> {
        if head.len() < HEADER_LEN {
            return Err(Missing::Malformed);
        }
        let mut padded = [0; TAGGED_LEN];
        let real = head.len().min(TAGGED_LEN);
        padded[..real].copy_from_slice(&head[..real]);
        let mut link = Self::parse_padded(&padded, real, limit);
        (link.eth_type, link.len) = pass_over(head, len, link.eth_type, link.len)?;
        Ok(link)
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
