//! One quantity measured once a round, and how two such series compare.
//!
//! Rates on a shared machine move from minute to minute, so the ratio of what was measured within one round says more
//! than either number. A round whose run failed has no value, and no ratio either.

use std::fmt;

/// A value for each round, `None` where the run failed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series(Vec<Option<f64>>);

/// How many times one series is the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Ratio {
    /// The quotient of the medians.
    pub of_medians: f64,
    /// The quotient in each round.
    pub of_rounds: Series,
}

impl Series {
    /// The value in the middle; between the two in the middle if their number is even.
    pub fn median(&self) -> Option<f64> {
        let sorted = self.sorted();
        let middle = sorted.get((sorted.len().checked_sub(1)?) / 2..=sorted.len() / 2)?;
        // Either the one in the middle, or both.
        Some(middle.iter().sum::<f64>() / if middle.len() == 1 { 1.0 } else { 2.0 })
    }

    /// How many times `self` is `other`, if any round has both.
    pub fn over(&self, other: &Series) -> Option<Ratio> {
        let quotient = |(own, other): (&Option<f64>, &Option<f64>)| Some((*own)? / (*other)?);
        let of_rounds: Series = self.0.iter().zip(&other.0).map(quotient).collect();
        of_rounds.median()?;
        Some(Ratio { of_medians: self.median()? / other.median()?, of_rounds })
    }

    fn sorted(&self) -> Vec<f64> {
        let mut values: Vec<f64> = self.0.iter().flatten().copied().collect();
        values.sort_by(f64::total_cmp);
        values
    }
}

impl FromIterator<Option<f64>> for Series {
    fn from_iter<I: IntoIterator<Item = Option<f64>>>(values: I) -> Self {
        Series(values.into_iter().collect())
    }
}

/// The median, the least and the greatest.
impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = self.sorted();
        let text = match (self.median(), &sorted[..]) {
            (Some(median), [least, .., greatest]) => format!("{median:.3} {least:.3}..{greatest:.3}"),
            (Some(only), _) => format!("{only:.3}"),
            (None, _) => "-".into(),
        };
        f.pad(&text)
    }
}

/// The quotient of the medians, then each round's.
impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let round = |value: &Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
        let rounds: Vec<String> = self.of_rounds.0.iter().map(round).collect();
        f.pad(&format!("{:.2} ({})", self.of_medians, rounds.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        values.iter().copied().map(Some).collect()
    }

    #[test]
    fn median_ignores_order_and_failed_rounds() {
        assert_eq!(series(&[9.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(series(&[4.0, 1.0, 2.0, 9.0]).median(), Some(3.0));
        assert_eq!(Series(vec![Some(5.0), None]).median(), Some(5.0));
        assert_eq!(Series(vec![None]).median(), None);
        assert_eq!(series(&[]).median(), None);
    }

    #[test]
    fn ratio_pairs_values_of_the_same_round() {
        let own = Series(vec![Some(2.0), Some(9.0), Some(4.0)]);
        let other = Series(vec![Some(1.0), None, Some(4.0)]);
        let ratio = own.over(&other).unwrap();
        assert_eq!(ratio.of_rounds, Series(vec![Some(2.0), None, Some(1.0)]));
        assert_eq!(ratio.of_medians, 4.0 / 2.5);
        assert_eq!(ratio.to_string(), "1.60 (2.00 - 1.00)");
    }

    #[test]
    fn no_round_in_common_is_no_ratio() {
        let first = Series(vec![Some(1.0), None]);
        let second = Series(vec![None, Some(1.0)]);
        assert_eq!(first.over(&second), None);
    }

    #[test]
    fn shown_with_its_range() {
        assert_eq!(series(&[3.0, 1.0, 2.0]).to_string(), "2.000 1.000..3.000");
        assert_eq!(series(&[3.0]).to_string(), "3.000");
        assert_eq!(Series(vec![None]).to_string(), "-");
    }
}
