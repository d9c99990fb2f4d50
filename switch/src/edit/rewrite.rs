//! Overwriting header bits, with the checksums that cover them.
//!
//! A `Rewrite` is a value and a mask over the key: what the slow path changed in a packet's fields between two outputs.
//! It is made once per megaflow and applied to each packet, whose headers are found anew each time, since packets of one
//! megaflow may differ in options and extension headers.
//!
//! Checksums are brought up to date from the changed words alone (RFC 1624 eqn. 3), so that one that was wrong stays
//! wrong and the payload is not read:
//! - The IPv4 header's own.
//! - TCP, UDP and ICMPv6, whose sum covers the addresses, too. Zero in UDP says that there is none and stays. Where the
//!   sum is still to be completed (`Checksum::Partial`), the field holds the sum of the pseudo-header: new addresses
//!   change it, new ports do not. Behind an IPv6 routing header with segments left, the destination in the header is not
//!   the one that is summed (RFC 8200 §8.1).
//! - ICMP, and the CRC of SCTP (see `crc32c.rs`).
//!
//! Later fragments have no transport header: only their IP header changes. A packet whose headers are malformed is refused,
//! as is new ports for an SCTP fragment, whose CRC depends on a length that the fragment does not tell. If headers that the
//! rewrite or a checksum needs lie beyond the head, that is found before any change that a checksum covers, so that the
//! rewrite can be applied again to a longer head.
//!
//! Left out on purpose: other protocols with a pseudo-header (DCCP, UDP-Lite), whose sum is left as it is; DEI bits.

use zerocopy::IntoBytes;
use zerocopy::byteorder::big_endian::U16;

use crate::drop_reason::DropReason;
use crate::flow::key::{FlowKey, KeyTag, VLAN_PRESENT};
use crate::packet::{Burst, Checksum, Packet};
use crate::wire::ethernet::{self, ADDRESSES_LEN, Link};
use crate::wire::layers::{IpVersion, Layers};
use crate::wire::vlan::{TAG_LEN, VlanLimit};
use crate::wire::{FRAG_LATER, LONGEST_TRANSPORT, Missing, Transport};
use crate::wire::{arp, icmp, ipv6, ndp, sctp, tcp, udp};

use super::crc32c;

/// Why a packet was not rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// A header is malformed. The packet may be half rewritten, and is to be dropped.
    Malformed,
    /// A header lies beyond the head, and the packet is longer than its head. With a longer head it can be done.
    HeadTooShort,
}

impl From<Missing> for Refused {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Malformed => Refused::Malformed,
            Missing::Beyond => Refused::HeadTooShort,
        }
    }
}

/// Header bits to overwrite.
///
/// # Invariants
/// 1. `value` is zero wherever `mask` is.
/// 2. `mask` has bits in header fields that can be written alone: no type, no protocol, no presence of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    parts: Parts,
    value: FlowKey,
    mask: FlowKey,
}

/// Which headers a rewrite touches, so that it passes over the others at the cost of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parts {
    addresses: bool,
    tags: bool,
    network: bool,
    transport: bool,
    neighbour: bool,
}

impl Rewrite {
    /// Overwrites the bits of `mask` with those of `value`. Bits that are no header's, or that cannot be written alone, are
    /// left out.
    pub fn new(mask: &FlowKey, value: &FlowKey) -> Self {
        let tag = |of: &KeyTag| KeyTag { tpid: U16::ZERO, tci: of.tci & U16::new(!VLAN_PRESENT) };
        let mask = FlowKey {
            eth_dst: mask.eth_dst,
            eth_src: mask.eth_src,
            vlan: [tag(&mask.vlan[0]), tag(&mask.vlan[1])],
            // The operation of ARP; an IP protocol is not written.
            ip_proto: mask.ip_proto,
            ip_tos: mask.ip_tos,
            ip_ttl: mask.ip_ttl,
            ipv6_label: mask.ipv6_label,
            ip_src: mask.ip_src,
            ip_dst: mask.ip_dst,
            tp_src: mask.tp_src,
            tp_dst: mask.tp_dst,
            nd_target: mask.nd_target,
            hw_src: mask.hw_src,
            hw_dst: mask.hw_dst,
            ..FlowKey::default()
        };
        let mut own = *value;
        for (word, mask) in own.words_mut().iter_mut().zip(mask.words()) {
            *word &= mask;
        }
        let none = FlowKey::default();
        let network = FlowKey { vlan: none.vlan, eth_dst: none.eth_dst, eth_src: none.eth_src, ..mask };
        let parts = Parts {
            addresses: (mask.eth_dst, mask.eth_src) != (none.eth_dst, none.eth_src),
            tags: mask.vlan != none.vlan,
            network: network.words()[..9].iter().any(|&word| word != 0),
            transport: (mask.tp_src, mask.tp_dst) != (none.tp_src, none.tp_dst),
            neighbour: (mask.nd_target, mask.hw_src, mask.hw_dst)
                != (none.nd_target, none.hw_src, none.hw_dst),
        };
        Self { parts, value: own, mask }
    }

    /// The new bits, zero outside the mask.
    pub fn value(&self) -> &FlowKey {
        &self.value
    }

    /// Which bits are overwritten.
    pub fn mask(&self) -> &FlowKey {
        &self.mask
    }

    /// Overwrites the bits in the headers of the packet at `at`, whose head is made longer as needed.
    ///
    /// # Errors
    /// `CannotRewrite` if a header is malformed. The packet may then be half rewritten, and is to be dropped.
    #[inline]
    pub fn apply(&self, burst: &mut Burst, at: usize) -> Result<(), DropReason> {
        match self.apply_to_head(&mut burst.packets_mut()[at]) {
            Ok(()) => Ok(()),
            Err(refused) => self.apply_to_longer_head(burst, at, refused),
        }
    }

    #[cold]
    fn apply_to_longer_head(
        &self,
        burst: &mut Burst,
        at: usize,
        mut refused: Refused,
    ) -> Result<(), DropReason> {
        // Bound: a head is extended twice at most, then it is the whole packet.
        while refused == Refused::HeadTooShort && burst.extend_head(at) {
            match self.apply_to_head(&mut burst.packets_mut()[at]) {
                Ok(()) => return Ok(()),
                Err(again) => refused = again,
            }
        }
        Err(DropReason::CannotRewrite)
    }

    #[inline]
    fn apply_to_head(&self, packet: &mut Packet) -> Result<(), Refused> {
        let Parts { addresses, tags, network, transport, neighbour } = self.parts;
        if addresses {
            let head = packet.head_mut();
            let start = head.get_mut(..ADDRESSES_LEN).ok_or(Refused::Malformed)?;
            let (destination, source) = start.split_at_mut(6);
            overwrite(destination, &self.value.eth_dst, &self.mask.eth_dst);
            overwrite(source, &self.value.eth_src, &self.mask.eth_src);
        }
        if tags {
            self.apply_to_tags(packet).ok_or(Refused::Malformed)?;
        }
        if network || transport || neighbour {
            self.apply_above_link(packet)?;
        }
        Ok(())
    }

    fn apply_to_tags(&self, packet: &mut Packet) -> Option<()> {
        let head = packet.head();
        let link = Link::parse(head, head.len(), VlanLimit::Two).ok()?;
        let head = packet.head_mut();
        for (nth, (value, mask)) in self.value.vlan.iter().zip(&self.mask.vlan).enumerate() {
            if mask.tci == U16::ZERO {
                continue;
            }
            if link.tags[nth].tpid == U16::ZERO {
                return None;
            }
            let at = ADDRESSES_LEN + nth * TAG_LEN + 2;
            overwrite(head.get_mut(at..at + 2)?, value.tci.as_bytes(), mask.tci.as_bytes());
        }
        Some(())
    }

    fn apply_above_link(&self, packet: &mut Packet) -> Result<(), Refused> {
        // No more tags when it came in than were read, or its key would have no fields above them; rules may have pushed more.
        let (eth_type, link_len) = ethernet::behind_all_tags(packet.head(), packet.len())?;
        let done = match eth_type {
            ethernet::TYPE_ARP | ethernet::TYPE_RARP => {
                packet.head_mut().get_mut(link_len..).and_then(|bytes| self.apply_to_arp(bytes))
            }
            ethernet::TYPE_IPV4 | ethernet::TYPE_IPV6 => {
                let layers = Layers::locate_behind(packet.head(), packet.extent(), eth_type, link_len)?;
                if packet.head().len() < self.reach(&layers) {
                    return Err(Refused::HeadTooShort);
                }
                self.apply_to_ip(packet, layers)
            }
            _ => None,
        };
        done.ok_or(Refused::Malformed)
    }

    /// How much of the frame the head must hold: the transport header, of a neighbour message all that may be an option.
    fn reach(&self, layers: &Layers) -> usize {
        match layers.fragment & FRAG_LATER {
            0 if self.parts.neighbour => layers.end,
            0 => layers.end.min(layers.transport + LONGEST_TRANSPORT),
            _ => layers.network,
        }
    }

    fn apply_to_arp(&self, bytes: &mut [u8]) -> Option<()> {
        let operation = arp::Packet::parse(bytes)?.operation.get();
        let Self { value, mask, .. } = self;
        if mask.ip_proto != 0 {
            // The key has the operation only if it fits a byte, else zero: so that is what the other bits come from.
            let low = u8::try_from(operation).unwrap_or(0);
            bytes[6..8].copy_from_slice(&[0, low & !mask.ip_proto | value.ip_proto]);
        }
        overwrite(&mut bytes[8..14], &value.hw_src, &mask.hw_src);
        overwrite(&mut bytes[14..18], &value.ip_src[12..], &mask.ip_src[12..]);
        overwrite(&mut bytes[18..24], &value.hw_dst, &mask.hw_dst);
        overwrite(&mut bytes[24..28], &value.ip_dst[12..], &mask.ip_dst[12..]);
        Some(())
    }

    fn apply_to_ip(&self, packet: &mut Packet, layers: Layers) -> Option<()> {
        let checksum = packet.offload.checksum;
        let head = packet.head_mut();
        let mut pseudo = Change::default();
        if self.parts.network {
            match layers.version {
                IpVersion::V4 => self.apply_to_ipv4(&mut head[layers.network..], &mut pseudo)?,
                IpVersion::V6 => {
                    self.apply_to_ipv6(&mut head[layers.network..], layers.is_routed, &mut pseudo)?
                }
            }
        }
        if layers.fragment & FRAG_LATER != 0 {
            return (!self.parts.transport && !self.parts.neighbour).then_some(());
        }
        if pseudo.is_none() && !self.parts.transport && !self.parts.neighbour {
            return Some(());
        }
        let end = layers.end.min(head.len());
        let bytes = head.get_mut(layers.transport..end).unwrap_or_default();
        let Some(Transport { checksum: at, .. }) = Transport::of(layers.protocol, layers.version) else {
            return (!self.parts.transport && !self.parts.neighbour).then_some(());
        };
        let is_partial = matches!(checksum, Checksum::Partial { start, offset }
            if usize::from(start) == layers.transport && usize::from(offset) == at);
        match (layers.protocol, layers.version) {
            (tcp::PROTOCOL, _) => {
                let own = self.ports(bytes, size_of::<tcp::Header>())?;
                update(bytes, at, pseudo, own, is_partial);
            }
            (udp::PROTOCOL, _) => {
                let own = self.ports(bytes, size_of::<udp::Header>())?;
                if bytes[at..at + 2] != [0, 0] || is_partial {
                    update(bytes, at, pseudo, own, is_partial);
                    if bytes[at..at + 2] == [0, 0] && !is_partial {
                        bytes[at..at + 2].copy_from_slice(&[0xff, 0xff]);
                    }
                }
            }
            (sctp::PROTOCOL, _) => {
                // Addresses are not covered.
                if self.parts.transport {
                    let len = (layers.fragment == 0).then(|| layers.end.checked_sub(layers.transport))??;
                    self.apply_to_sctp(bytes, len)?;
                }
            }
            (icmp::PROTOCOL_V4, IpVersion::V4) => {
                if self.parts.transport {
                    let own = self.kind_and_code(bytes)?;
                    update(bytes, at, Change::default(), own, false);
                    // Without a pseudo-header all that is summed may be zero, whose checksum is 0xffff. The changed words alone
                    // do not tell it from a sum of 0xffff, for which 0xffff is as good as zero.
                    if bytes[..4] == [0; 4] {
                        bytes[2..4].copy_from_slice(&[0xff, 0xff]);
                    }
                }
            }
            // ICMPv6.
            _ => {
                let mut own = Change::default();
                if self.parts.neighbour {
                    own.add(self.apply_to_neighbour(bytes)?);
                }
                own.add(self.kind_and_code(bytes)?);
                update(bytes, at, pseudo, own, is_partial);
            }
        }
        Some(())
    }

    fn apply_to_ipv4(&self, bytes: &mut [u8], pseudo: &mut Change) -> Option<()> {
        let header: &mut [u8; 20] = bytes.first_chunk_mut()?;
        let Self { value, mask, .. } = self;
        let mut own = Change::default();
        own.overwrite(&mut header[0..2], &[0, value.ip_tos], &[0, mask.ip_tos]);
        own.overwrite(&mut header[8..10], &[value.ip_ttl, 0], &[mask.ip_ttl, 0]);
        pseudo.overwrite(&mut header[12..16], &value.ip_src[12..], &mask.ip_src[12..]);
        pseudo.overwrite(&mut header[16..20], &value.ip_dst[12..], &mask.ip_dst[12..]);
        own.add(*pseudo);
        update(header, 10, Change::default(), own, false);
        Some(())
    }

    fn apply_to_ipv6(&self, bytes: &mut [u8], is_routed: bool, pseudo: &mut Change) -> Option<()> {
        let header: &mut [u8; ipv6::HEADER_LEN] = bytes.first_chunk_mut()?;
        let Self { value, mask, .. } = self;
        let class_and_label = |of: &FlowKey| (u32::from(of.ip_tos) << 20 | of.ipv6_label.get()).to_be_bytes();
        overwrite(&mut header[0..4], &class_and_label(value), &class_and_label(mask));
        overwrite(&mut header[7..8], &[value.ip_ttl], &[mask.ip_ttl]);
        pseudo.overwrite(&mut header[8..24], &value.ip_src, &mask.ip_src);
        if is_routed {
            overwrite(&mut header[24..40], &value.ip_dst, &mask.ip_dst);
        } else {
            pseudo.overwrite(&mut header[24..40], &value.ip_dst, &mask.ip_dst);
        }
        Some(())
    }

    /// Overwrites the ports at the start of a transport header of `header_len` bytes, all of which are there.
    fn ports(&self, bytes: &mut [u8], header_len: usize) -> Option<Change> {
        let header = bytes.get_mut(..header_len)?;
        let mut change = Change::default();
        change.overwrite(&mut header[0..2], self.value.tp_src.as_bytes(), self.mask.tp_src.as_bytes());
        change.overwrite(&mut header[2..4], self.value.tp_dst.as_bytes(), self.mask.tp_dst.as_bytes());
        Some(change)
    }

    /// Overwrites type and code of an ICMP message, which keys hold in the low bytes of the ports.
    fn kind_and_code(&self, bytes: &mut [u8]) -> Option<Change> {
        let header = bytes.get_mut(..size_of::<icmp::Header>())?;
        let low = |of: &FlowKey| [of.tp_src.as_bytes()[1], of.tp_dst.as_bytes()[1]];
        let mut change = Change::default();
        change.overwrite(&mut header[0..2], &low(&self.value), &low(&self.mask));
        Some(change)
    }

    fn apply_to_sctp(&self, bytes: &mut [u8], len: usize) -> Option<()> {
        let header: &mut [u8; size_of::<sctp::Header>()] = bytes.first_chunk_mut()?;
        let [a, b, c, d, ..] = *header;
        let before = u32::from_le_bytes([a, b, c, d]);
        self.ports(header, size_of::<sctp::Header>())?;
        let [a, b, c, d, .., e, f, g, h] = *header;
        let difference = before ^ u32::from_le_bytes([a, b, c, d]);
        // The CRC itself counts as zero, before and after.
        let crc = u32::from_le_bytes([e, f, g, h]) ^ crc32c::change(difference, len);
        header[8..].copy_from_slice(&crc.to_le_bytes());
        Some(())
    }

    /// Overwrites target and link-layer addresses. An option that is not there is not added.
    fn apply_to_neighbour(&self, bytes: &mut [u8]) -> Option<Change> {
        ndp::Neighbour::parse(bytes)?;
        let Self { value, mask, .. } = self;
        let mut change = Change::default();
        change.overwrite(&mut bytes[ndp::Neighbour::TARGET], &value.nd_target, &mask.nd_target);
        let rows = [(&value.hw_src, &mask.hw_src), (&value.hw_dst, &mask.hw_dst)];
        for (at, (value, mask)) in ndp::link_layer_addresses(bytes).into_iter().zip(rows) {
            if let Some(address) = at.and_then(|at| bytes.get_mut(at..at + 6)) {
                change.overwrite(address, value, mask);
            }
        }
        Some(change)
    }
}

/// Overwrites bytes under a mask.
#[inline]
fn overwrite(bytes: &mut [u8], value: &[u8], mask: &[u8]) {
    for ((byte, value), mask) in bytes.iter_mut().zip(value).zip(mask) {
        *byte = *byte & !mask | value;
    }
}

/// What changed words do to a ones' complement sum: new words, and old words inverted, not yet folded.
///
/// Far from overflow: a rewrite changes some forty words.
#[derive(Debug, Clone, Copy, Default)]
struct Change(u32);

impl Change {
    fn is_none(self) -> bool {
        self.0 == 0
    }

    fn add(&mut self, other: Change) {
        self.0 += other.0;
    }

    /// Overwrites an even number of bytes, which stand at an even position of what is summed.
    fn overwrite(&mut self, bytes: &mut [u8], value: &[u8], mask: &[u8]) {
        let rows = bytes
            .as_chunks_mut::<2>()
            .0
            .iter_mut()
            .zip(value.as_chunks::<2>().0)
            .zip(mask.as_chunks::<2>().0);
        for ((bytes, value), mask) in rows {
            let before = u16::from_be_bytes(*bytes);
            let after = before & !u16::from_be_bytes(*mask) | u16::from_be_bytes(*value);
            // A word that stays must not turn one form of zero into the other.
            if after != before {
                self.0 += u32::from(!before) + u32::from(after);
                *bytes = after.to_be_bytes();
            }
        }
    }

    /// The sum that was `sum`.
    #[allow(clippy::cast_possible_truncation, reason = "the carries are folded in")]
    fn applied_to(self, sum: u16) -> u16 {
        let sum = self.0 + u32::from(sum);
        let sum = (sum >> 16) + (sum & 0xffff);
        ((sum >> 16) + (sum & 0xffff)) as u16
    }
}

/// Brings the checksum at `at` up to date: with both changes if it is complete, with that of the pseudo-header alone, and
/// not inverted, if it is partial.
fn update(bytes: &mut [u8], at: usize, pseudo: Change, own: Change, is_partial: bool) {
    let field = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let updated = if is_partial {
        pseudo.applied_to(field)
    } else {
        let both = Change(pseudo.0 + own.0);
        if both.is_none() { field } else { !both.applied_to(!field) }
    };
    bytes[at..at + 2].copy_from_slice(&updated.to_be_bytes());
}

#[cfg(test)]
mod tests;
