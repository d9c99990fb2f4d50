//! What an operator probably meant: the known word that a wrong one is a slip of.
//!
//! Errors end with it where they can; nothing else uses it.

/// The word of `known` that `got` is a slip of: at most half of its letters, and never more than two, are wrong.
pub fn nearest<'a>(got: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let len = got.chars().count();
    known
        // A word of another length needs as many changes at least.
        .filter(|word| word.chars().count().abs_diff(len) <= 2)
        .map(|word| (edit_distance(got, word), word))
        .filter(|&(distance, word)| distance <= (word.len() / 2).min(2))
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, word)| word)
}

/// Letters to insert, delete or replace, or neighbours to swap, to turn `a` into `b` (optimal string alignment), three rows
/// of the table at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut older: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = above[j] + usize::from(a[i] != b[j]);
            let mut least = replaced.min(row[j] + 1).min(above[j + 1] + 1);
            if i > 0 && j > 0 && (a[i], a[i - 1]) == (b[j - 1], b[j]) {
                least = least.min(older[j - 1] + 1);
            }
            row.push(least);
        }
        older = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_single_letter_changes() {
        for (a, b, distance) in
            [("vlan", "vlan", 0), ("vlna", "vlan", 1), ("vnal", "vlan", 2), ("", "tap", 3)]
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
