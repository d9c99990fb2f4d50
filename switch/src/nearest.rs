//! What an operator probably meant: the known word that a wrong one is a slip of.
//!
//! Errors end with it where they can; nothing else uses it.

use strsim::osa_distance;

/// The word of `known` that `got` is a slip of: at most half of its letters, and never more than two, are wrong.
///
/// Wrong is a letter too many, too few, or another one, and a pair of neighbours that changed places counts once (optimal
/// string alignment): these are the slips of a typist.
pub fn nearest<'a>(got: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let len = got.chars().count();
    known
        // A word of another length needs as many changes at least.
        .filter(|word| word.chars().count().abs_diff(len) <= 2)
        .map(|word| (osa_distance(got, word), word))
        .filter(|&(distance, word)| distance <= (word.len() / 2).min(2))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_single_letter_changes() {
        for (a, b, distance) in
            [("vlan", "vlan", 0), ("vlna", "vlan", 1), ("vnal", "vlan", 2), ("", "tap", 3)]
        {
            assert_eq!(osa_distance(a, b), distance, "{a} to {b}");
            assert_eq!(osa_distance(b, a), distance, "{b} to {a}");
        }
        assert_eq!(osa_distance("queue", "queues"), 1);
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
