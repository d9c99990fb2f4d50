//! The internet checksum: the ones' complement sum of 16-bit words.
//!
//! The sum does not care in which byte order or how wide words are added, so 32-bit words are added as they lie in
//! memory into 64-bit accumulators, which cannot overflow and which the compiler turns into vector code, and only the
//! folded result is swapped.
//!
//! # Source
//! RFC 1071 §2.

/// A ones' complement sum under way, over bytes that come in pieces of any length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    /// Sum of words in memory order. Far from overflow: 2^32 words of 32 bits would fill it.
    words: u64,
    /// An odd number of bytes came before, so the next one is the second of its word.
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that follow those added before.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        let words = fold(sum_words(bytes));
        // Bytes at odd positions are one place further on in their words, which is a swap of the whole sum.
        self.words += u64::from(if self.odd { words.swap_bytes() } else { words });
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Adds a value that is not in memory, such as a length of the pseudo-header. An even number of bytes came before.
    #[inline]
    pub fn add_u16(&mut self, value: u16) {
        debug_assert!(!self.odd);
        self.words += u64::from(value.to_be());
    }

    /// The sum, folded to 16 bits and not inverted, as a partial checksum holds it.
    #[inline]
    pub fn folded(&self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum: the inverted sum.
    #[inline]
    pub fn checksum(&self) -> u16 {
        !self.folded()
    }
}

/// Adds 32-bit words as they lie in memory; a last part word counts as if zeros followed.
fn sum_words(bytes: &[u8]) -> u64 {
    const LANES: usize = 8;
    let mut lanes = [0_u64; LANES];
    let (blocks, rest) = bytes.as_chunks::<{ 4 * LANES }>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, last) = rest.as_chunks::<4>();
    let mut sum: u64 = lanes.iter().sum();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let mut padded = [0; 4];
    padded[..last.len()].copy_from_slice(last);
    sum + u64::from(u32::from_ne_bytes(padded))
}

/// Folds carries back in until 16 bits are left.
fn fold(sum: u64) -> u16 {
    // The steps leave at most 33, 18, 17 and 16 bits.
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    #[allow(clippy::cast_possible_truncation, reason = "the carries are folded in")]
    {
        sum as u16
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §4.1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum >> 16) + (sum & 0xffff);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn example_of_rfc_1071_sums_to_ddf2() {
        let mut sum = Sum::new();
        sum.add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
        assert_eq!(sum.checksum(), 0x220d);
    }

    #[test]
    fn longest_frame_of_ones_does_not_overflow() {
        let bytes = vec![0xff; 65_557];
        let mut sum = Sum::new();
        sum.add(&bytes);
        assert_eq!(sum.checksum(), naive(&bytes));
    }

    #[test]
    fn words_outside_memory_add_in_network_order() {
        let mut sum = Sum::new();
        sum.add_u16(0x1234);
        sum.add(&[0x00, 0x01]);
        assert_eq!(sum.folded(), 0x1235);
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_sum_like_the_naive_way(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            cuts in prop::collection::vec(0_usize..40, 0..20),
        ) {
            let mut sum = Sum::new();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                sum.add(piece);
                rest = after;
            }
            sum.add(rest);
            prop_assert_eq!(sum.checksum(), naive(&bytes));
        }
    }
}
