//! What an operator probably meant: the known word that a wrong one is a slip of.
//!
//! Errors end with it where they can; nothing else uses it.

/// The word of `known` that `got` is a slip of: at most half of its letters, and never more than two, are wrong.
pub fn nearest<'a>(got: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
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
