//! The key of a flow: every header field that a rule or a cache may look at, in one flat record.
//!
//! A key is also an array of 64-bit words, and caches work on words: hashing, masking and comparing never look at
//! fields. The words are ordered by the depth of the headers they come from, so that extraction can stop early and a
//! cache that only looks at the first words never touches the rest. Extraction writes keys, `Mask`s have the same
//! layout with a one for each bit that matters.
//!
//! Fields that a packet lacks are zero. IPv4 addresses lie in the last four bytes of the 16-byte address fields.
//!
//! Behind the headers come the words of what the switch itself knows about a packet: the tunnel it came out of and its
//! connection. Nothing matches them yet; they have their place so that the layout, on which every cache and mask rests,
//! need not change when something does. Whoever makes a key fills them for each packet, as it fills the header words: what
//! the packet before left there must not decide.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::port::PortId;
use crate::wire::MacAddr;
use crate::wire::vlan::VlanTag;

/// The bit of a tag in a key that says that the tag is there. In a frame it is the drop-eligible bit, which no key holds.
pub const VLAN_PRESENT: u16 = 0x1000;

/// A VLAN tag in a key, or a mask over one; all zero when absent. How a frame holds a tag is another type, [`VlanTag`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct KeyTag {
    /// Tag protocol.
    pub tpid: U16,
    /// Priority (3 bits), [`VLAN_PRESENT`], VLAN (12 bits).
    pub tci: U16,
}

impl KeyTag {
    /// The tag of a frame; one whose protocol is zero is absent.
    #[inline]
    pub fn of_frame(tag: VlanTag) -> Self {
        let present = if tag.tpid == U16::ZERO { 0 } else { VLAN_PRESENT };
        Self { tpid: tag.tpid, tci: U16::new(tag.tci.get() & !VLAN_PRESENT | present) }
    }

    /// The tag as a frame holds it, not drop eligible.
    pub fn to_frame(self) -> VlanTag {
        VlanTag { tpid: self.tpid, tci: self.tci & U16::new(!VLAN_PRESENT) }
    }

    /// Whether the tag is there.
    pub fn is_present(self) -> bool {
        self.tci.get() & VLAN_PRESENT != 0
    }
}

/// The key of a flow.
///
/// Layout: [`WORDS`](Self::WORDS) 64-bit words without padding; see [`Depth`] for which words each depth fills.
///
/// # Source
/// Field names follow ovs-fields(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct FlowKey {
    // Word 0: where the packet came from.
    /// Ingress port number.
    pub in_port: u32,
    /// Which pass through the switch this is: zero for the first, else the number of what is left to do.
    pub recirc_id: U32,
    // Words 1-3: link layer.
    /// Ethernet destination.
    pub eth_dst: MacAddr,
    /// Ethernet source.
    pub eth_src: MacAddr,
    /// Ethernet type after all VLAN tags; values below 0x600 (802.3 lengths) are stored as 0x05ff.
    pub eth_type: U16,
    /// Keeps word 2 whole; always zero.
    pub reserved1: u16,
    /// Outer and inner VLAN tag.
    pub vlan: [KeyTag; 2],
    // Words 4-8: network layer.
    /// IP protocol, or the low byte of the ARP operation.
    pub ip_proto: u8,
    /// IPv4 type of service or IPv6 traffic class: DSCP (6 bits), ECN (2 bits).
    pub ip_tos: u8,
    /// Time to live or hop limit.
    pub ip_ttl: u8,
    /// [`FRAG_ANY`](crate::wire::FRAG_ANY) and [`FRAG_LATER`](crate::wire::FRAG_LATER).
    pub ip_frag: u8,
    /// IPv6 flow label, 20 bits.
    pub ipv6_label: U32,
    /// IP source, or ARP sender address.
    pub ip_src: [u8; 16],
    /// IP destination, or ARP target address.
    pub ip_dst: [u8; 16],
    // Words 9-13: transport layer and neighbour protocols.
    /// TCP, UDP or SCTP source port; ICMP or ICMPv6 type.
    pub tp_src: U16,
    /// TCP, UDP or SCTP destination port; ICMP or ICMPv6 code.
    pub tp_dst: U16,
    /// TCP flags, 12 bits.
    pub tcp_flags: U16,
    /// Keeps word 9 whole; always zero.
    pub reserved2: u16,
    /// ICMPv6 neighbour discovery target.
    pub nd_target: [u8; 16],
    /// ARP sender hardware address, or neighbour discovery source link-layer option.
    pub hw_src: MacAddr,
    /// ARP target hardware address, or neighbour discovery target link-layer option.
    pub hw_dst: MacAddr,
    /// Keeps word 13 whole; always zero.
    pub reserved3: u32,

    // Words 14-16: the connection.
    /// State of the packet's connection, as bits.
    pub ct_state: U16,
    /// Zone that the connection was looked up in.
    pub ct_zone: U16,
    /// Mark of the connection.
    pub ct_mark: U32,
    /// Label of the connection.
    pub ct_label: [u8; 16],

    // Words 17-22: the tunnel.
    /// Tunnel identifier, such as the VNI.
    pub tun_id: U64,
    /// Outer source address.
    pub tun_src: [u8; 16],
    /// Outer destination address.
    pub tun_dst: [u8; 16],
    /// Flags of the tunnel header.
    pub tun_flags: U16,
    /// Outer type of service.
    pub tun_tos: u8,
    /// Outer time to live.
    pub tun_ttl: u8,
    /// Keeps word 22 whole; always zero.
    pub reserved4: u32,
}

impl FlowKey {
    /// Words in a key.
    pub const WORDS: usize = size_of::<Self>() / 8;

    /// The key as words, in memory order.
    #[inline]
    pub fn words(&self) -> &[u64; Self::WORDS] {
        zerocopy::transmute_ref!(self)
    }

    /// The key as words, to write them.
    #[inline]
    pub fn words_mut(&mut self) -> &mut [u64; Self::WORDS] {
        zerocopy::transmute_mut!(self)
    }
}

/// Fields that share a word, written as one: caches read words as soon as extraction has written them, and a load that
/// takes bytes of several stores waits until all of them are done.
impl FlowKey {
    /// Fills what the switch knows about the packet by itself, beside its ingress port: that it is on the pass `recirc_id`, and
    /// no more.
    #[inline]
    pub(crate) fn set_metadata(&mut self, recirc_id: u32) {
        self.recirc_id = recirc_id.into();
        self.words_mut()[Depth::Transport.words()..].fill(0);
    }

    /// Fills words 0 to 3: `addresses` are destination and source, `eth_type` is as keys hold it.
    #[inline]
    pub(crate) fn set_link(
        &mut self,
        in_port: PortId,
        addresses: &[u8; 12],
        eth_type: u16,
        tags: [KeyTag; 2],
    ) {
        let [dst_and_src @ .., s2, s3, s4, s5] = *addresses;
        let [t0, t1] = eth_type.to_be_bytes();
        let [w0, w1, w2, w3, ..] = self.words_mut();
        *w0 = word(u32::from(in_port.number()).to_ne_bytes(), [0; 4]);
        *w1 = u64::from_ne_bytes(dst_and_src);
        *w2 = word([s2, s3, s4, s5], [t0, t1, 0, 0]);
        *w3 = zerocopy::transmute!(tags);
    }

    /// Fills word 4.
    #[inline]
    pub(crate) fn set_ip(&mut self, protocol: u8, tos: u8, ttl: u8, fragment: u8, label: u32) {
        self.words_mut()[4] = word([protocol, tos, ttl, fragment], label.to_be_bytes());
    }

    /// Fills the second halves of both IP addresses, words 6 and 8, with IPv4 addresses.
    #[inline]
    pub(crate) fn set_ipv4_addresses(&mut self, src: [u8; 4], dst: [u8; 4]) {
        self.words_mut()[6] = word([0; 4], src);
        self.words_mut()[8] = word([0; 4], dst);
    }

    /// Fills word 9.
    #[inline]
    pub(crate) fn set_ports(&mut self, src: U16, dst: U16, tcp_flags: u16) {
        let ([s0, s1], [d0, d1], [f0, f1]) = (src.to_bytes(), dst.to_bytes(), tcp_flags.to_be_bytes());
        self.words_mut()[9] = word([s0, s1, d0, d1], [f0, f1, 0, 0]);
    }
}

/// The word whose bytes in memory are these. Put together from halves, each of which can be loaded at once.
#[inline]
fn word(first: [u8; 4], second: [u8; 4]) -> u64 {
    let [first, second] = [first, second].map(|half| u64::from(u32::from_le_bytes(half)));
    u64::from_le(first | second << 32)
}

/// How deep into the headers a key is filled. Each depth fills all words of the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Depth {
    /// Ingress port, Ethernet and VLAN tags: words `0..4`.
    #[default]
    Link,
    /// IP or ARP: words `0..9`.
    Network,
    /// Transport and neighbour protocols: words `0..14`, all that headers fill.
    Transport,
}

impl Depth {
    /// Number of leading words that this depth fills.
    #[inline]
    pub const fn words(self) -> usize {
        match self {
            Depth::Link => 4,
            Depth::Network => 9,
            Depth::Transport => 14,
        }
    }
}

/// Which bits of a [`FlowKey`] matter: the same layout, a one for each bit that is looked at.
///
/// A mask that is too exact costs speed; one that is too wide misroutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mask(pub FlowKey);

impl Mask {
    /// The shallowest depth that fills every header word the mask looks at. What the switch knows by itself needs no
    /// header.
    pub fn depth(&self) -> Depth {
        let headers = &self.0.words()[..Depth::Transport.words()];
        let last = headers.iter().rposition(|&word| word != 0).unwrap_or(0);
        [Depth::Link, Depth::Network]
            .into_iter()
            .find(|depth| last < depth.words())
            .unwrap_or(Depth::Transport)
    }

    /// Whether it looks at what the switch knows by itself.
    pub fn has_metadata(&self) -> bool {
        self.0.words()[Depth::Transport.words()..].iter().any(|&word| word != 0)
    }

    /// Adds every bit of `other`.
    pub fn unite(&mut self, other: &Mask) {
        for (mine, theirs) in self.0.words_mut().iter_mut().zip(other.0.words()) {
            *mine |= theirs;
        }
    }

    /// `key` with every bit that does not matter set to zero.
    #[must_use]
    pub fn apply(&self, key: &FlowKey) -> FlowKey {
        let mut masked = *key;
        for (word, mask) in masked.words_mut().iter_mut().zip(self.0.words()) {
            *word &= mask;
        }
        masked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_of_a_mask_is_the_shallowest_that_fills_it() {
        let mut mask = Mask::default();
        assert_eq!(mask.depth(), Depth::Link);
        mask.0.vlan[1].tci = U16::MAX_VALUE;
        assert_eq!(mask.depth(), Depth::Link);
        mask.0.ip_proto = 0xff;
        assert_eq!(mask.depth(), Depth::Network);
        mask.0.ip_dst[15] = 1;
        assert_eq!(mask.depth(), Depth::Network);
        mask.0.tp_src = U16::new(1);
        assert_eq!(mask.depth(), Depth::Transport);
    }

    #[test]
    fn what_the_switch_knows_by_itself_needs_no_header() {
        let mut mask = Mask::default();
        (mask.0.in_port, mask.0.recirc_id) = (u32::MAX, U32::MAX_VALUE);
        assert_eq!((mask.depth(), mask.has_metadata()), (Depth::Link, false));
        for at in Depth::Transport.words()..FlowKey::WORDS {
            let mut mask = Mask::default();
            mask.0.words_mut()[at] = 1;
            assert_eq!((mask.depth(), mask.has_metadata()), (Depth::Link, true), "word {at}");
        }
    }

    #[test]
    fn metadata_of_another_packet_does_not_stay() {
        let mut key = FlowKey::default();
        key.words_mut().fill(u64::MAX);
        key.in_port = 3;
        key.set_metadata(7);
        assert_eq!((key.in_port, key.recirc_id.get(), key.eth_src), (3, 7, [0xff; 6]));
        assert_eq!(key.words()[Depth::Transport.words()..], [0; 9]);
    }

    #[test]
    fn fields_that_are_written_together_land_in_their_places() {
        let mut key = FlowKey::default();
        // What these functions fill was something else before.
        for at in [0, 1, 2, 3, 4, 6, 8, 9] {
            key.words_mut()[at] = 0xa5a5_a5a5_a5a5_a5a5;
        }
        let tags = [KeyTag { tpid: U16::new(0x8100), tci: U16::new(7) }, KeyTag::default()];
        key.set_link(PortId::new(3).unwrap(), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 0x800, tags);
        key.set_ip(17, 1, 64, 3, 0x12345);
        key.set_ipv4_addresses([10, 0, 0, 1], [10, 0, 0, 2]);
        key.set_ports(U16::new(1000), U16::new(53), 0x12);
        let mut expected = FlowKey {
            in_port: 3,
            eth_dst: [1, 2, 3, 4, 5, 6],
            eth_src: [7, 8, 9, 10, 11, 12],
            eth_type: U16::new(0x800),
            vlan: tags,
            ip_proto: 17,
            ip_tos: 1,
            ip_ttl: 64,
            ip_frag: 3,
            ipv6_label: U32::new(0x12345),
            tp_src: U16::new(1000),
            tp_dst: U16::new(53),
            tcp_flags: U16::new(0x12),
            ..FlowKey::default()
        };
        expected.ip_src[12..].copy_from_slice(&[10, 0, 0, 1]);
        expected.ip_dst[12..].copy_from_slice(&[10, 0, 0, 2]);
        assert_eq!(key, expected);
    }

    #[test]
    fn headers_fill_fourteen_words_and_the_switch_nine() {
        assert_eq!(std::mem::offset_of!(FlowKey, ct_state), Depth::Transport.words() * 8);
        assert_eq!(FlowKey::WORDS, Depth::Transport.words() + 9);
    }
}
