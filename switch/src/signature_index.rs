//! The signature index: from the hash of a packet to the subtable that most likely has its megaflow.
//!
//! Stands between the exact-match cache and the search through the subtables, asked by the classifier for packets that the
//! cache does not know. An entry takes four bytes where one of the cache takes a line or two, so the index still answers when
//! there are many times more connections than the cache holds; and its cost does not depend on how many masks there
//! are, so a policy (or an attacker) that makes many does not make every packet probe them all.
//!
//! An answer is a guess. The subtable is probed as in any search, so a wrong guess costs one probe and never misroutes:
//! entries are not taken back when flows or subtables go, they are overwritten.
//!
//! # Source
//! Open vSwitch's signature-match cache and the mask cache of its kernel datapath; ours names a subtable, like the latter.

use crate::prefetch::prefetch;

/// Entries of one line, all of which a lookup looks at.
const WAYS: usize = 16;

/// An entry: the upper half is the signature, the lower one the subtable's number plus one; 0 is no entry.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; WAYS]);

/// The signature index of one worker. Memory: 4 bytes for each entry.
///
/// # Concurrency
/// Owned by one worker.
#[derive(Debug)]
pub(crate) struct SignatureIndex {
    lines: Box<[Line]>,
    /// Which entry of a full line is overwritten next.
    victim: usize,
}

impl SignatureIndex {
    /// An index of `entries` entries, rounded up to a power of two; none at all with 0.
    pub(crate) fn new(entries: usize) -> Self {
        let lines = if entries == 0 { 0 } else { entries.div_ceil(WAYS).next_power_of_two() };
        Self { lines: vec![Line([0; WAYS]); lines].into(), victim: 0 }
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "some bits of the hash choose the line")]
    fn line(&self, hash: u64) -> usize {
        (hash >> 16) as usize & (self.lines.len() - 1)
    }

    /// The signature in its place. The bits are not those that choose the line.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "16 bits of the hash are meant")]
    fn signature(hash: u64) -> u32 {
        (hash as u32) << 16
    }

    /// Asks for the line of `hash`.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        if !self.lines.is_empty() {
            prefetch(&self.lines[self.line(hash)]);
        }
    }

    /// The number of the subtable that packets with this hash were last found in.
    #[inline]
    pub(crate) fn guess(&self, hash: u64) -> Option<u16> {
        if self.lines.is_empty() {
            return None;
        }
        let signature = Self::signature(hash);
        let Line(entries) = &self.lines[self.line(hash)];
        let entry = entries.iter().find(|&&entry| entry & 0xffff_0000 == signature && entry & 0xffff != 0)?;
        #[allow(clippy::cast_possible_truncation, reason = "16 bits are left, and they are not zero")]
        Some((entry & 0xffff) as u16 - 1)
    }

    /// Remembers where packets with this hash were found. Subtables numbered `u16::MAX` have no place in an entry.
    pub(crate) fn insert(&mut self, hash: u64, subtable: u16) {
        if self.lines.is_empty() || subtable == u16::MAX {
            return;
        }
        let signature = Self::signature(hash);
        self.victim = (self.victim + 1) % WAYS;
        let line = self.line(hash);
        let Line(entries) = &mut self.lines[line];
        let same = entries.iter().position(|entry| entry & 0xffff_0000 == signature);
        let place = same.or_else(|| entries.iter().position(|&entry| entry == 0)).unwrap_or(self.victim);
        entries[place] = signature | u32::from(subtable + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_insertion_of_a_hash_is_the_guess() {
        let mut index = SignatureIndex::new(64);
        for hash in [0, 1, 0xffff, 0x1_0000, u64::MAX] {
            assert_eq!(index.guess(hash), None);
            index.insert(hash, 0);
            index.insert(hash, 65_534);
            assert_eq!(index.guess(hash), Some(65_534), "{hash:x}");
        }
        index.insert(5, u16::MAX);
        assert_eq!(index.guess(5), None);
        assert_eq!(SignatureIndex::new(0).guess(7), None);
    }

    #[test]
    fn full_line_forgets_one_of_its_entries_for_each_new_one() {
        let mut index = SignatureIndex::new(WAYS);
        let hashes: Vec<u64> = (0..WAYS as u64 + 1).collect();
        hashes.iter().for_each(|&hash| index.insert(hash, 3));
        assert_eq!(hashes.iter().filter(|&&hash| index.guess(hash) == Some(3)).count(), WAYS);
        assert_eq!(index.guess(WAYS as u64), Some(3), "the newest is there");
    }
}
