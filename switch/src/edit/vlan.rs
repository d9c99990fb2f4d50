//! Pushing, popping and setting VLAN tags. A tag goes between the
//! addresses and the Ethernet type, so an edit moves the twelve bytes of the addresses and leaves the rest where it is;
//! the headroom of the packet pays for the growth. The positions in `Offload` move along.
//!
//! No edit here changes a byte that a checksum of a higher layer covers.

use zerocopy::{FromBytes, IntoBytes};

use crate::drop_reason::DropReason;
use crate::packet::Packet;
use crate::wire::ethernet::{ADDRESSES_LEN, HEADER_LEN};
use crate::wire::vlan::{TAG_LEN, VlanTag, is_tag};

/// [`TAG_LEN`] as an offset by which offload positions move.
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "a tag has four bytes")]
const TAG_SHIFT: i16 = TAG_LEN as i16;

/// [`TAG_LEN`] as bytes to pull.
#[allow(clippy::cast_possible_truncation, reason = "a tag has four bytes")]
const TAG_BYTES: u8 = TAG_LEN as u8;

/// Puts `tag` before any other tag of the packet.
///
/// # Errors
/// `FrameTooShort` if the head is shorter than an Ethernet header, `HeadersTooLong` if the headroom is used up; the packet
/// is then as it was.
pub fn push_vlan(packet: &mut Packet, tag: VlanTag) -> Result<(), DropReason> {
    if packet.head().len() < HEADER_LEN {
        return Err(DropReason::FrameTooShort);
    }
    packet.push_front::<TAG_LEN>().ok_or(DropReason::HeadersTooLong)?;
    let head = packet.head_mut();
    head.copy_within(TAG_LEN..TAG_LEN + ADDRESSES_LEN, 0);
    head[ADDRESSES_LEN..ADDRESSES_LEN + TAG_LEN].copy_from_slice(tag.as_bytes());
    packet.offload.shift(TAG_SHIFT);
    Ok(())
}

/// Takes the outer tag off and returns it; `None`, and nothing done, if the packet has no whole tag.
pub fn pop_vlan(packet: &mut Packet) -> Option<VlanTag> {
    let tag = outer_vlan(packet)?;
    packet.head_mut().copy_within(..ADDRESSES_LEN, TAG_LEN);
    // The head holds at least the tagged header, as it has a whole tag.
    let pulled = packet.pull_front(TAG_BYTES);
    debug_assert!(pulled);
    packet.offload.shift(-TAG_SHIFT);
    Some(tag)
}

/// Overwrites the outer tag and returns the one that was there; `None`, and nothing done, if the packet has no whole tag.
pub fn set_vlan(packet: &mut Packet, tag: VlanTag) -> Option<VlanTag> {
    let old = outer_vlan(packet)?;
    packet.head_mut()[ADDRESSES_LEN..ADDRESSES_LEN + TAG_LEN].copy_from_slice(tag.as_bytes());
    Some(old)
}

/// The outer tag, if it is whole: the Ethernet type that follows it is there too, as key extraction asks.
pub fn outer_vlan(packet: &Packet) -> Option<VlanTag> {
    let head = packet.head();
    if head.len() < HEADER_LEN + TAG_LEN {
        return None;
    }
    let (tag, _) = VlanTag::read_from_prefix(&head[ADDRESSES_LEN..]).ok()?;
    is_tag(tag.tpid.get()).then_some(tag)
}

#[cfg(test)]
mod tests {
    use zerocopy::byteorder::big_endian::U16;

    use super::*;
    use crate::packet::{Checksum, GsoKind, HEADROOM, Offload};
    use crate::wire::golden::{self, TAG_10, TAG_S_20, load};

    const TAG: VlanTag = VlanTag { tpid: U16::new(0x8100), tci: U16::new(0x600a) };

    const OFFLOAD: Offload = Offload {
        checksum: Checksum::Partial { start: 34, offset: 16 },
        gso: GsoKind::TcpV4,
        gso_ecn: false,
        gso_size: 1448,
        header_len: 66,
    };

    #[test]
    fn pushed_tag_stands_behind_the_addresses() {
        let plain = golden::udp4();
        let mut loaded = load(&plain, OFFLOAD, &[plain.len()]);
        let packet = &mut loaded.burst.packets_mut()[0];
        assert_eq!(push_vlan(packet, TAG), Ok(()));
        assert_eq!(packet.head(), golden::ethernet(&[TAG_10], 0x0800, &plain[14..]));
        assert_eq!(packet.offload.checksum, Checksum::Partial { start: 38, offset: 16 });
        assert_eq!(packet.offload.header_len, 70);
        assert_eq!(packet.offload.gso_size, 1448);
        let outer = VlanTag { tpid: U16::new(0x88a8), tci: U16::new(20) };
        assert_eq!(push_vlan(packet, outer), Ok(()));
        assert_eq!(packet.head(), golden::ethernet(&[TAG_S_20, TAG_10], 0x0800, &plain[14..]));
        assert_eq!(outer_vlan(packet), Some(outer));
        assert_eq!(pop_vlan(packet), Some(outer));
        assert_eq!(pop_vlan(packet), Some(TAG));
        assert_eq!(pop_vlan(packet), None);
        assert_eq!(packet.head(), plain);
        assert_eq!(packet.offload, OFFLOAD);
    }

    #[test]
    fn tail_follows_an_edited_head() {
        let payload = golden::ipv4(17, 0, &[], &golden::udp(&(0..=255).collect::<Vec<u8>>()));
        let tagged = golden::ethernet(&[TAG_10], 0x0800, &payload);
        let mut loaded = load(&tagged, Offload::default(), &[100]);
        assert_eq!(pop_vlan(&mut loaded.burst.packets_mut()[0]), Some(TAG));
        let frame = loaded.burst.frame(0);
        let mut bytes = frame.head.to_vec();
        bytes.resize(frame.len(), 0xa5);
        frame.tail.copy_to(&mut bytes[frame.head.len()..]);
        assert_eq!(bytes, golden::ethernet(&[], 0x0800, &payload));
    }

    #[test]
    fn set_overwrites_the_outer_tag_alone() {
        let payload = golden::ipv4(17, 0, &[], &golden::udp(&[]));
        let two_tags = golden::ethernet(&[TAG_S_20, TAG_10], 0x0800, &payload);
        let mut loaded = load(&two_tags, OFFLOAD, &[two_tags.len()]);
        let packet = &mut loaded.burst.packets_mut()[0];
        let old = set_vlan(packet, TAG).unwrap();
        assert_eq!(old.as_bytes(), TAG_S_20);
        assert_eq!(packet.head(), golden::ethernet(&[TAG_10, TAG_10], 0x0800, &payload));
        assert_eq!(packet.offload, OFFLOAD);
    }

    #[test]
    fn untagged_and_cut_short_packets_are_left_alone() {
        let tagged = golden::ethernet(&[TAG_10], 0x0800, &[]);
        for frame in [&golden::udp4()[..], &tagged[..17], &tagged[..12], &[]] {
            let mut loaded = load(frame, OFFLOAD, &[64]);
            let packet = &mut loaded.burst.packets_mut()[0];
            assert_eq!(pop_vlan(packet), None);
            assert_eq!(set_vlan(packet, TAG), None);
            assert_eq!(packet.head(), frame);
            assert_eq!(packet.offload, OFFLOAD);
        }
    }

    #[test]
    fn push_is_refused_without_headroom_or_header() {
        let frame = golden::udp4();
        let mut loaded = load(&frame, Offload::default(), &[64]);
        let packet = &mut loaded.burst.packets_mut()[0];
        for _ in 0..HEADROOM / TAG_LEN {
            assert_eq!(push_vlan(packet, TAG), Ok(()));
        }
        let before = packet.head().to_vec();
        assert_eq!(push_vlan(packet, TAG), Err(DropReason::HeadersTooLong));
        assert_eq!(packet.head(), before);
        let mut loaded = load(&frame[..13], Offload::default(), &[64]);
        let packet = &mut loaded.burst.packets_mut()[0];
        assert_eq!(push_vlan(packet, TAG), Err(DropReason::FrameTooShort));
        assert_eq!(packet.head(), &frame[..13]);
    }
}
