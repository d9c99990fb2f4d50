//! What rules match and change: the key of a packet, and what the rules themselves noted about it.
//!
//! A packet that the slow path translates is a `Fields`: its key, then what rules note about it, metadata and registers,
//! which are zero when it enters the first table. No packet on the wire and no megaflow has the latter, so only the key's
//! part of a mask leaves the slow path.
//!
//! Like a key it is an array of 64-bit words, and like a key it serves as its own mask.

use std::hash::{Hash, Hasher};

use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::key::FlowKey;

/// Number of 32-bit registers.
pub const REGISTERS: usize = 32;

/// The bit of the ingress port that says that it is the local one. No key has it: which port is local the rules' view of a
/// packet knows, and it may change.
pub const FROM_LOCAL: u32 = 1 << 16;

/// A packet as the rule tables see it, or a mask over one.
///
/// Layout: [`WORDS`](Self::WORDS) 64-bit words without padding, those of the key first. Registers lie in wire order, so
/// that two or four neighbours read as one wider register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct Fields {
    /// The packet's key, with [`FROM_LOCAL`] in its ingress port if that is the local one.
    pub key: FlowKey,
    /// OpenFlow metadata.
    pub metadata: U64,
    /// Registers.
    pub registers: [U32; REGISTERS],
    /// The conjunction that the packet meets, while the rule is looked up that says what to do then; else zero.
    pub conj_id: U32,
    /// Where the action set sends the packet, as OpenFlow 1.1 numbers ports.
    pub actset_output: U32,
}

impl Fields {
    /// Words in it.
    pub const WORDS: usize = size_of::<Self>() / 8;

    /// No bit.
    pub const NONE: Fields = zerocopy::transmute!([0_u64; Fields::WORDS]);

    /// The fields of a packet with this key as it enters the first table.
    pub fn of_packet(key: FlowKey) -> Self {
        Self { key, ..Self::NONE }
    }

    /// As words, in memory order.
    #[inline]
    pub fn words(&self) -> &[u64; Self::WORDS] {
        zerocopy::transmute_ref!(self)
    }

    /// As words, to write them.
    #[inline]
    pub fn words_mut(&mut self) -> &mut [u64; Self::WORDS] {
        zerocopy::transmute_mut!(self)
    }

    /// Adds every bit of `other`.
    pub fn unite(&mut self, other: &Fields) {
        for (mine, theirs) in self.words_mut().iter_mut().zip(other.words()) {
            *mine |= theirs;
        }
    }
}

impl Hash for Fields {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.words().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_and_registers_follow_the_key() {
        assert_eq!(Fields::WORDS, FlowKey::WORDS + 1 + REGISTERS / 2 + 1);
        assert_eq!(std::mem::offset_of!(Fields, metadata), size_of::<FlowKey>());
    }
}
