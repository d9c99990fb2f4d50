//! Which packets a rule is about: a value and a mask over all fields.

use crate::flow::fields::Fields;

use super::field::Field;

/// A condition on packets: the bits under `mask` must be those of `value`.
///
/// # Invariants
/// 1. `value` is zero wherever `mask` is, so that two equal conditions are equal values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Match {
    value: Fields,
    mask: Fields,
}

impl Match {
    /// Every packet.
    pub const ANY: Match = Match { value: Fields::NONE, mask: Fields::NONE };

    /// The bits that packets must have, zero outside the mask.
    pub fn value(&self) -> &Fields {
        &self.value
    }

    /// The bits that matter.
    pub fn mask(&self) -> &Fields {
        &self.mask
    }

    /// Also asks that `field` is `value` in the bits of `mask`; replaces what was asked of these bits before.
    pub fn require(&mut self, field: Field, value: u128, mask: u128) {
        field.look_at(&mut self.mask, mask);
        field.set(&mut self.value, value, mask);
    }

    /// The value and mask of one field.
    pub fn field(&self, field: Field) -> (u128, u128) {
        (field.get(&self.value), field.get(&self.mask))
    }

    /// Whether it holds for a packet.
    #[inline]
    pub fn covers(&self, fields: &Fields) -> bool {
        let rows = fields.words().iter().zip(self.value.words()).zip(self.mask.words());
        rows.fold(0, |differs, ((field, value), mask)| differs | (field ^ value) & mask) == 0
    }

    /// Whether every packet it holds for is also one of `wider`: what non-strict changes of rules go by.
    pub fn is_within(&self, wider: &Match) -> bool {
        let same_bits = wider.mask.words().iter().zip(self.mask.words()).all(|(wide, own)| wide & !own == 0);
        same_bits && wider.covers(&self.value)
    }

    /// Whether some packet is covered by both.
    pub fn overlaps(&self, other: &Match) -> bool {
        let common = self.mask.words().iter().zip(other.mask.words()).map(|(a, b)| a & b);
        let rows = self.value.words().iter().zip(other.value.words()).zip(common);
        rows.into_iter().all(|((a, b), mask)| (a ^ b) & mask == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(address: u128, mask: u128) -> Match {
        let mut of = Match::ANY;
        of.require(Field::EthType, 0x800, u128::MAX);
        of.require(Field::Ipv4Dst, address, mask);
        of
    }

    #[test]
    fn narrower_match_is_within_the_wider_and_not_the_other_way_round() {
        let (wide, narrow) = (subnet(0x0a00_0000, 0xff00_0000), subnet(0x0a00_0001, 0xffff_ffff));
        assert!(narrow.is_within(&wide) && narrow.is_within(&narrow) && narrow.is_within(&Match::ANY));
        assert!(!wide.is_within(&narrow));
        assert!(wide.overlaps(&narrow) && narrow.overlaps(&wide));
        assert!(!narrow.overlaps(&subnet(0x0a00_0002, 0xffff_ffff)));
    }

    #[test]
    fn only_bits_under_the_mask_decide() {
        let wide = subnet(0x0a01_0203, 0xff00_0000);
        assert_eq!(
            wide.field(Field::Ipv4Dst),
            (0x0a00_0000, 0xff00_0000),
            "bits outside the mask are dropped"
        );
        let mut packet = Fields::NONE;
        assert!(!wide.covers(&packet));
        Field::EthType.set(&mut packet, 0x800, u128::MAX);
        Field::Ipv4Dst.set(&mut packet, 0x0aff_ffff, u128::MAX);
        assert!(wide.covers(&packet));
    }
}
