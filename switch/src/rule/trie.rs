//! Tries of the prefixes that a table's rules ask for: which of them a packet has, and how few bits prove that it has no
//! other.
//!
//! A subtable whose rules all ask for a `/24` can be skipped if no rule has the packet's first 24 bits. Often fewer bits
//! say so: if every prefix of the table begins with `10.`, then for a packet from `192.0.2.1` the first bit does. A
//! megaflow that looked at one bit covers half of all addresses, one that looked at 24 bits covers 256 of them.
//!
//! A trie knows nothing of what its bits stand for. Those of IPv4 addresses are also met by ARP packets, whose addresses lie
//! in the same place, and by the last 32 bits of IPv6 addresses; the proof holds for any packet with these bits.
//!
//! Like all parts of a rule set a trie is shared between snapshots: a change copies the nodes on its way.

use std::sync::Arc;

use crate::flow::fields::Fields;

/// The fields that have tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PrefixField {
    /// IPv4 source, ARP sender.
    Ipv4Src,
    /// IPv4 destination, ARP target.
    Ipv4Dst,
    /// IPv6 source.
    Ipv6Src,
    /// IPv6 destination.
    Ipv6Dst,
    /// Source port. Ports are compared with a few well-known ones, which the first bits tell from the ephemeral ones.
    TpSrc,
    /// Destination port.
    TpDst,
}

impl PrefixField {
    /// All of them; each at the place that its number says.
    pub(super) const ALL: [PrefixField; 6] = [
        PrefixField::Ipv4Src,
        PrefixField::Ipv4Dst,
        PrefixField::Ipv6Src,
        PrefixField::Ipv6Dst,
        PrefixField::TpSrc,
        PrefixField::TpDst,
    ];

    /// Its bits, the first one highest.
    #[inline]
    pub(super) fn bits(self, fields: &Fields) -> u128 {
        let key = &fields.key;
        match self {
            PrefixField::Ipv4Src => u128::from_be_bytes(key.ip_src) << 96,
            PrefixField::Ipv4Dst => u128::from_be_bytes(key.ip_dst) << 96,
            PrefixField::Ipv6Src => u128::from_be_bytes(key.ip_src),
            PrefixField::Ipv6Dst => u128::from_be_bytes(key.ip_dst),
            PrefixField::TpSrc => u128::from(key.tp_src.get()) << 112,
            PrefixField::TpDst => u128::from(key.tp_dst.get()) << 112,
        }
    }

    /// How many first bits of the field `mask` asks for, if it asks for these and no others.
    pub(super) fn prefix_len(self, mask: &Fields) -> Option<u8> {
        let key = &mask.key;
        let is_ipv6 = |address: [u8; 16]| address[..12] != [0; 12];
        match self {
            PrefixField::Ipv4Src if is_ipv6(key.ip_src) => return None,
            PrefixField::Ipv4Dst if is_ipv6(key.ip_dst) => return None,
            _ => {}
        }
        let bits = self.bits(mask);
        let len = bits.leading_ones();
        (bits != 0 && bits == first(len)).then(|| u8::try_from(len).unwrap_or(u8::MAX))
    }

    /// Adds the first `len` bits of the field to `looked`.
    #[inline]
    pub(super) fn look_at(self, len: u8, looked: &mut Fields) {
        let bits = first(u32::from(len));
        let unite = |bytes: &mut [u8], bits: u128| {
            bytes.iter_mut().zip(bits.to_be_bytes()).for_each(|(byte, more)| *byte |= more);
        };
        let key = &mut looked.key;
        match self {
            PrefixField::Ipv4Src => unite(&mut key.ip_src[12..], bits),
            PrefixField::Ipv4Dst => unite(&mut key.ip_dst[12..], bits),
            PrefixField::Ipv6Src => unite(&mut key.ip_src, bits),
            PrefixField::Ipv6Dst => unite(&mut key.ip_dst, bits),
            PrefixField::TpSrc => unite(zerocopy::IntoBytes::as_mut_bytes(&mut key.tp_src), bits),
            PrefixField::TpDst => unite(zerocopy::IntoBytes::as_mut_bytes(&mut key.tp_dst), bits),
        }
    }
}

/// Proofs are this many bits long, or a multiple of it.
///
/// Exact proofs make the fewest megaflows and the most masks, each of which costs a search of its own in the worker's
/// classifier. For 65 536 flows between 1024 pairs of hosts and 2048 rules in 16 shapes, steps of 1, 2, 4 and 8 bits made
/// 727, 203, 81 and 32 masks, and 15 558, 16 979, 19 394 and 28 553 megaflows.
const GRAIN: u8 = 2;

/// The first `len` bits, `0..=128`.
#[inline]
fn first(len: u32) -> u128 {
    u128::MAX.checked_shl(128 - len).unwrap_or(0)
}

/// The bit at `at`, counted from the first.
#[inline]
fn bit(bits: u128, at: u32) -> usize {
    usize::from(bits << at >> 127 != 0)
}

/// A prefix, or a place where prefixes part.
///
/// # Invariants
/// 1. `bits` is zero beyond `len`.
/// 2. The child at `n` begins with `bits` and then the bit `n`, and is longer than `len`.
/// 3. `count` is not zero or there are two children.
#[derive(Debug, Clone)]
struct Node {
    bits: u128,
    len: u32,
    /// Rules with this very prefix.
    count: u32,
    children: [Option<Arc<Node>>; 2],
}

/// The prefixes of one field: how many rules have each.
#[derive(Debug, Clone, Default)]
pub(super) struct PrefixTrie {
    root: Option<Arc<Node>>,
}

/// What a trie says of one packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    /// The lengths of the prefixes that the packet has: the bit `n` for the length `n + 1`.
    matched: u128,
    /// Of these first bits of the packet, no prefix that is longer has them all.
    proof: u8,
}

impl Walk {
    /// `None` if the packet has a prefix of length `len`; else how many first bits are taken to prove that it has none.
    #[inline]
    pub(super) fn refutes(self, len: u8) -> Option<u8> {
        // The first `len` bits are proof enough in any case. If `len` is beyond `proof`, every prefix of this length has
        // other bits among the first `proof` ones.
        let is_matched = self.matched >> (len - 1) & 1 == 1;
        (!is_matched).then_some(len.min(self.proof.next_multiple_of(GRAIN)))
    }
}

impl PrefixTrie {
    /// Adds a rule's prefix, `len` at least 1.
    pub(super) fn insert(&mut self, bits: u128, len: u8) {
        let len = u32::from(len);
        let bits = bits & first(len);
        Self::insert_below(&mut self.root, bits, len);
    }

    fn insert_below(slot: &mut Option<Arc<Node>>, bits: u128, len: u32) {
        let new = |children| Some(Arc::new(Node { bits, len, count: 1, children }));
        let Some((node_bits, node_len)) = slot.as_ref().map(|node| (node.bits, node.len)) else {
            *slot = new([None, None]);
            return;
        };
        let common = (bits ^ node_bits).leading_zeros().min(node_len).min(len);
        if common < node_len {
            let mut children = [None, None];
            children[bit(node_bits, common)] = slot.take();
            *slot = if common == len {
                new(children)
            } else {
                children[bit(bits, common)] = new([None, None]);
                Some(Arc::new(Node { bits: bits & first(common), len: common, count: 0, children }))
            };
        } else if let Some(node) = slot {
            let node = Arc::make_mut(node);
            if common == len {
                node.count += 1;
            } else {
                Self::insert_below(&mut node.children[bit(bits, common)], bits, len);
            }
        }
    }

    /// Takes back one [`insert`](Self::insert) of this prefix.
    pub(super) fn remove(&mut self, bits: u128, len: u8) {
        let len = u32::from(len);
        Self::remove_below(&mut self.root, bits & first(len), len);
    }

    fn remove_below(slot: &mut Option<Arc<Node>>, bits: u128, len: u32) {
        let Some(node) = slot else {
            debug_assert!(false, "only what was inserted is removed");
            return;
        };
        let node = Arc::make_mut(node);
        if node.len < len {
            Self::remove_below(&mut node.children[bit(bits, node.len)], bits, len);
        } else {
            debug_assert_eq!((node.bits, node.len), (bits, len));
            node.count -= 1;
        }
        if node.count == 0 && node.children.iter().any(Option::is_none) {
            let [left, right] = &mut node.children;
            *slot = left.take().or_else(|| right.take());
        }
    }

    /// What it says of a packet with these bits.
    pub(super) fn walk(&self, bits: u128) -> Walk {
        let mut matched = 0;
        let mut proof = 0;
        let mut next = self.root.as_ref();
        while let Some(node) = next {
            let common = (bits ^ node.bits).leading_zeros();
            if common < node.len {
                // All prefixes from here on have another bit at `common`.
                proof = common + 1;
                break;
            }
            if node.count != 0 && node.len != 0 {
                matched |= 1 << (node.len - 1);
            }
            // Without children there is nothing longer; with the other child alone, the next bit says so.
            let is_leaf = node.children.iter().all(Option::is_none);
            proof = node.len + u32::from(!is_leaf);
            next = if is_leaf { None } else { node.children[bit(bits, node.len)].as_ref() };
        }
        Walk { matched, proof: u8::try_from(proof).unwrap_or(u8::MAX) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rule::field::Field;

    #[test]
    fn masks_are_prefixes_of_the_field_whose_width_they_have() {
        let of = |field: Field, mask: u128| {
            let mut fields = Fields::NONE;
            field.look_at(&mut fields, mask);
            PrefixField::ALL.map(|prefix| prefix.prefix_len(&fields).map(|len| (prefix, len)))
        };
        let only = |found: [Option<(PrefixField, u8)>; 6]| found.into_iter().flatten().collect::<Vec<_>>();
        assert_eq!(only(of(Field::Ipv4Src, 0xffff_ff00)), [(PrefixField::Ipv4Src, 24)]);
        assert_eq!(only(of(Field::ArpTpa, 0xffff_ffff)), [(PrefixField::Ipv4Dst, 32)]);
        assert_eq!(only(of(Field::Ipv4Src, 0x00ff_ffff)), []);
        assert_eq!(only(of(Field::Ipv6Dst, u128::MAX)), [(PrefixField::Ipv6Dst, 128)]);
        assert_eq!(only(of(Field::Ipv6Dst, u128::MAX << 1)), [(PrefixField::Ipv6Dst, 127)]);
        assert_eq!(only(of(Field::Ipv6Dst, u128::MAX >> 1)), []);
        assert_eq!(only(of(Field::TcpDst, 0xfff0)), [(PrefixField::TpDst, 12)]);
        assert_eq!(only(of(Field::UdpSrc, 0xffff)), [(PrefixField::TpSrc, 16)]);
        assert_eq!(only(of(Field::IcmpType, 0xff)), []);
    }

    #[test]
    fn bits_looked_at_are_the_first_ones_of_the_field() {
        let fields = [
            (PrefixField::Ipv4Src, Field::Ipv4Src, 32),
            (PrefixField::Ipv4Dst, Field::Ipv4Dst, 32),
            (PrefixField::Ipv6Src, Field::Ipv6Src, 128),
            (PrefixField::Ipv6Dst, Field::Ipv6Dst, 128),
            (PrefixField::TpSrc, Field::TcpSrc, 16),
            (PrefixField::TpDst, Field::TcpDst, 16),
        ];
        for (prefix, field, width) in fields {
            for len in 1..=width {
                let (mut looked, mut expected) = (Fields::NONE, Fields::NONE);
                prefix.look_at(len, &mut looked);
                field.look_at(&mut expected, u128::MAX << (width - len));
                assert_eq!(looked, expected, "{prefix:?}/{len}");
                assert_eq!(prefix.prefix_len(&looked), Some(len));
                assert_eq!(prefix.bits(&looked), first(u32::from(len)));
            }
        }
    }

    #[test]
    fn few_bits_refute_what_lies_far_away() {
        let mut trie = PrefixTrie::default();
        trie.insert(0x0a00_0000 << 96, 24);
        trie.insert(0x0a00_0100 << 96, 24);
        let refutes = |address: u128, len| trie.walk(address << 96).refutes(len);
        assert_eq!(refutes(0x0a00_0005, 24), None);
        assert_eq!(refutes(0xc000_0201, 24), Some(2), "the first would do");
        assert_eq!(refutes(0x0a00_0401, 24), Some(22), "a node where prefixes part");
        assert_eq!(refutes(0x0b00_0201, 24), Some(8));
        assert_eq!(refutes(0x0a00_0005, 7), Some(7));
        assert_eq!(refutes(0x0a00_0005, 32), Some(24), "nothing longer begins with this prefix");
        assert_eq!(PrefixTrie::default().walk(0).refutes(9), Some(0));
    }

    /// Few distinct prefixes, near each other.
    fn prefix() -> impl Strategy<Value = (u128, u8)> {
        (prop::sample::select(vec![0_u128, 1, 0x0a << 8, 0x8000, u128::MAX]), 0..8_u32, 1..=128_u8)
            .prop_map(|(bits, turn, len)| (bits.rotate_right(turn * 3) & first(u32::from(len)), len))
    }

    proptest! {
        /// The trie knows which prefixes a value has, and whatever has the bits of a proof lacks the prefix too.
        #[test]
        fn proofs_hold(
            prefixes in prop::collection::vec(prefix(), 0..40), gone in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
            probes in prop::collection::vec((prefix(), any::<u128>()), 1..20)
        ) {
            let mut list = prefixes.clone();
            let mut trie = PrefixTrie::default();
            prefixes.iter().for_each(|&(bits, len)| trie.insert(bits, len));
            let before = trie.clone();
            for index in gone {
                if !list.is_empty() {
                    let (bits, len) = list.swap_remove(index.index(list.len()));
                    trie.remove(bits, len);
                }
            }
            let check = |trie: &PrefixTrie, list: &[(u128, u8)]| {
                for &((start, start_len), random) in &probes {
                    let value = start | random & !first(u32::from(start_len));
                    let walk = trie.walk(value);
                    for len in 1..=128_u8 {
                        let under = |&&(bits, own): &&(u128, u8)| own == len && (bits ^ value) & first(u32::from(len)) == 0;
                        let is_there = list.iter().find(under).is_some();
                        let refuted = walk.refutes(len);
                        prop_assert_eq!(refuted.is_none(), is_there, "{:x}/{}", value, len);
                        if let Some(proof) = refuted {
                            let is_hit = |&(bits, own): &(u128, u8)| {
                                own == len && (bits ^ value) & first(u32::from(proof.min(len))) == 0
                            };
                            prop_assert!(!list.iter().any(is_hit), "{:x}/{} by {}", value, len, proof);
                        }
                    }
                }
                Ok(())
            };
            check(&trie, &list)?;
            check(&before, &prefixes)?;
            for (bits, len) in list {
                trie.remove(bits, len);
            }
            prop_assert!(trie.root.is_none());
        }
    }
}
