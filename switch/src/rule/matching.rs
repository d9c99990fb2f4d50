//! Which packets a rule is about: a value and a mask over all fields.

use crate::flow::fields::Fields;

use super::field::Field;

/// What is asked of one word of a packet's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Row {
    /// Which word.
    at: usize,
    value: u64,
    /// Not zero.
    mask: u64,
}

/// A condition on packets: the bits under its mask must be those of its value.
///
/// Only the words that it asks about take memory: of the forty that there are a rule asks about four or five, and a table has a
/// million rules.
///
/// # Invariants
/// 1. Rows are in the order of their words, one a word; `value` is zero wherever `mask` is. So two equal conditions are
///    equal values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Match {
    rows: Vec<Row>,
}

impl Match {
    /// Every packet.
    pub const ANY: Match = Match { rows: Vec::new() };

    /// Bytes that a condition on one field takes at most, beside the match itself: a field lies in two words at most.
    pub const MAX_FIELD_BYTES: usize = 2 * size_of::<Row>();

    /// Bytes that its conditions take.
    pub fn heap_bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Row>()
    }

    /// The packets with these bits under this mask.
    pub fn new(value: &Fields, mask: &Fields) -> Self {
        let asked = |mask: &Fields| mask.words().iter().filter(|&&word| word != 0).count();
        let mut rows = Vec::with_capacity(asked(mask));
        let words = value.words().iter().zip(mask.words()).enumerate();
        rows.extend(words.filter(|(_, (_, mask))| **mask != 0).map(|(at, (&value, &mask))| Row {
            at,
            value: value & mask,
            mask,
        }));
        Self { rows }
    }

    /// The bits that packets must have, zero outside the mask.
    pub fn value(&self) -> Fields {
        self.spread(|row| row.value)
    }

    /// The bits that matter.
    pub fn mask(&self) -> Fields {
        self.spread(|row| row.mask)
    }

    fn spread(&self, word: impl Fn(&Row) -> u64) -> Fields {
        let mut fields = Fields::NONE;
        for row in &self.rows {
            fields.words_mut()[row.at] = word(row);
        }
        fields
    }

    /// Also asks that `field` is `value` in the bits of `mask`; replaces what was asked of these bits before.
    pub fn require(&mut self, field: Field, value: u128, mask: u128) {
        let (mut values, mut masks) = (self.value(), self.mask());
        field.look_at(&mut masks, mask);
        field.set(&mut values, value, mask);
        *self = Self::new(&values, &masks);
    }

    /// The value and mask of one field.
    pub fn field(&self, field: Field) -> (u128, u128) {
        (field.get(&self.value()), field.get(&self.mask()))
    }

    /// Whether it holds for a packet.
    #[inline]
    pub fn covers(&self, fields: &Fields) -> bool {
        let words = fields.words();
        self.rows.iter().fold(0, |differs, row| differs | (words[row.at] ^ row.value) & row.mask) == 0
    }

    /// What both ask of a word that both ask about, for each such word.
    fn common<'a>(&'a self, other: &'a Match) -> impl Iterator<Item = (&'a Row, &'a Row)> {
        let mut others = other.rows.iter().peekable();
        self.rows.iter().filter_map(move |own| {
            while others.next_if(|other| other.at < own.at).is_some() {}
            others.next_if(|other| other.at == own.at).map(|other| (own, other))
        })
    }

    /// Whether every packet it holds for is also one of `wider`: what non-strict changes of rules go by.
    pub fn is_within(&self, wider: &Match) -> bool {
        let within = |&(own, wide): &(&Row, &Row)| {
            wide.mask & !own.mask == 0 && (own.value ^ wide.value) & wide.mask == 0
        };
        self.common(wider).filter(within).count() == wider.rows.len()
    }

    /// Whether some packet is covered by both.
    pub fn overlaps(&self, other: &Match) -> bool {
        self.common(other).all(|(own, other)| (own.value ^ other.value) & own.mask & other.mask == 0)
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
