//! The hash of the flow tables: a folded 64 by 64 bit multiplication for each word.
//!
//! Every table mixes a random seed in, so that a guest cannot choose addresses that collide.
//!
//! # Source
//! The mixing step of wyhash (Wang Yi).

/// An odd constant without structure: the golden ratio's first 64 bits.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes two words into one: both halves of their product.
#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[allow(clippy::cast_possible_truncation, reason = "the halves of the product are meant")]
    {
        product as u64 ^ (product >> 64) as u64
    }
}

/// Adds a word to a hash.
#[inline]
pub(crate) fn add(hash: u64, word: u64) -> u64 {
    fold(hash ^ word, GOLDEN)
}
