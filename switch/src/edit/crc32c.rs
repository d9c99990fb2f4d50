//! How a CRC-32C changes when covered bytes do.
//!
//! A CRC is linear: the CRCs of two messages of one length differ by the CRC, without inversions, of their difference.
//! That difference is zero but for four bytes, so it is those four times a power of x, whatever the rest of the packet
//! holds. The tail need not be read, and a packet that came in damaged stays damaged, which a fresh sum would hide.
//!
//! # Source
//! RFC 9260 appendix A for the polynomial and its bit order (reflected); the arithmetic is that of CRC combination.

/// The Castagnoli polynomial, lowest power in the highest bit, without x^32.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// 1 as a polynomial.
const ONE: u32 = 1 << 31;
/// x^8 as a polynomial.
const BYTE: u32 = 1 << 23;

/// The product of two polynomials modulo the CRC's.
fn times(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    for power in (0..32).rev() {
        if a >> power & 1 == 1 {
            product ^= b;
        }
        b = if b & 1 == 1 { b >> 1 ^ POLYNOMIAL } else { b >> 1 };
    }
    product
}

/// By what the CRC of a message changes when `difference` is exclusive-ored to four of its bytes (the first one lowest),
/// the first of which is `to_end_bytes` from the end of the message.
///
/// Bound: a square and a product for each bit of `to_end_bytes`.
pub(super) fn change(difference: u32, to_end_bytes: usize) -> u32 {
    let (mut factor, mut power, mut exponent) = (ONE, BYTE, to_end_bytes);
    while exponent > 0 {
        if exponent & 1 == 1 {
            factor = times(factor, power);
        }
        power = times(power, power);
        exponent >>= 1;
    }
    times(difference, factor)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Bit by bit, as the definition goes.
    pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn check_value_of_the_polynomial_is_e3069283() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn change_of_four_bytes_is_the_difference_of_the_crcs() {
        for len in [4, 5, 12, 64, 1500, 65_535] {
            let before: Vec<u8> = (0..len).map(|n: u32| n.to_le_bytes()[0].wrapping_mul(7)).collect();
            for at in [0, (before.len() - 4) / 2, before.len() - 4] {
                let difference = 0xdead_beef_u32;
                let mut after = before.clone();
                for (byte, bits) in after[at..].iter_mut().zip(difference.to_le_bytes()) {
                    *byte ^= bits;
                }
                assert_eq!(
                    crc32c(&before) ^ crc32c(&after),
                    change(difference, before.len() - at),
                    "{len} {at}"
                );
            }
        }
    }
}
