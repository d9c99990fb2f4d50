//! The one error of configuration: where the operator wrote it, what is wrong with it, and what to try.

use std::fmt;

/// A configuration that cannot be used.
///
/// Displays as `PLACE: PROBLEM`, where the place quotes what the operator wrote (`--port vm0=tap:x,vlan=0`, or
/// `vsteer.toml:12: port.vm0.vlan`) and the problem ends with what to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    place: String,
    problem: Problem,
}

impl ConfigError {
    /// The problem `problem` with what stands at `place`.
    pub(crate) fn new(place: impl Into<String>, problem: impl Into<Problem>) -> Self {
        Self { place: place.into(), problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem.0)
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong with a value, without the place it stands at: parsers of values know the one, their callers the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem(String);

impl Problem {
    /// Names `what` has no meaning among `known`: lists them, or suggests the one that was probably meant.
    pub(crate) fn unknown<'a>(what: &str, got: &str, known: impl Iterator<Item = &'a str> + Clone) -> Self {
        match nearest(got, known.clone()) {
            Some(near) => Self(format!("unknown {what} {got:?}; did you mean {near:?}?")),
            None => {
                let known: Vec<&str> = known.collect();
                Self(format!("unknown {what} {got:?}; use one of {}", known.join(", ")))
            }
        }
    }

    /// The same problem, said of `subject`.
    pub(crate) fn of(self, subject: &str) -> Self {
        Self(format!("{subject}: {}", self.0))
    }
}

impl<S: Into<String>> From<S> for Problem {
    fn from(text: S) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The word of `known` that `got` is a slip of: at most half of its letters, and never more than two, are wrong.
pub(crate) fn nearest<'a>(got: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|word| (edit_distance(got, word), word))
        .filter(|&(distance, word)| distance <= (word.len() / 2).min(2))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}

/// Letters to insert, delete or replace to turn `a` into `b` (Levenshtein), one row of the table at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let replace = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_single_letter_changes() {
        for (a, b, distance) in
            [("vlan", "vlan", 0), ("vlna", "vlan", 2), ("valn", "vlan", 2), ("", "tap", 3)]
        {
            assert_eq!(edit_distance(a, b), distance, "{a} to {b}");
            assert_eq!(edit_distance(b, a), distance, "{b} to {a}");
        }
        assert_eq!(edit_distance("queue", "queues"), 1);
    }

    #[test]
    fn only_slips_are_suggested() {
        let known = || ["vlan", "trunks", "queues", "mac-limit"].into_iter();
        assert_eq!(nearest("queue", known()), Some("queues"));
        assert_eq!(nearest("mac_limit", known()), Some("mac-limit"));
        assert_eq!(nearest("vlna", known()), Some("vlan"));
        assert_eq!(nearest("speed", known()), None);
    }
}
