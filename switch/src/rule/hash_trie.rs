//! A map from hashes to items that snapshots share.
//!
//! A tree of sixteen-way branches over the bits of the hash, with small sorted lists at its ends. Changing an item copies the
//! list it is in and the branches above, unless this snapshot is the only one that has them: the first change after a
//! snapshot costs some hundreds of reference counts, and of thousands of changes most cost none.
//!
//! Every part knows the best rank below it, so that a search can tell that nothing there is of interest without going in.
//!
//! # Source
//! Bagwell: Ideal Hash Trees (EPFL, 2001).

use std::sync::Arc;

use super::entry::Rank;

/// Items in a list at most, unless their hashes are all the same.
const LEAF: usize = 32;

/// Bits of the hash that choose a child.
const BITS: u32 = 4;

/// An item of a [`HashTrie`].
pub(super) trait Ranked: Clone {
    /// How it stands among others; more is better, and it is never 0.
    fn rank(&self) -> Rank;
}

/// An item under its hash.
#[derive(Debug, Clone)]
pub(super) struct Entry<T> {
    pub(super) hash: u64,
    pub(super) item: T,
}

/// What a branch parts into, by the next bits of the hash.
type Children<T> = [HashTrie<T>; 1 << BITS];

#[derive(Debug, Clone)]
enum Node<T> {
    /// Sorted by hash, items of the same hash best first.
    Leaf(Vec<Entry<T>>),
    Branch(Box<Children<T>>),
}

/// Items by hash; several may have the same.
///
/// # Invariants
/// 1. `node` is `None` if and only if `len` is 0; `len` and `rank` are sum and maximum of what lies below.
/// 2. An entry lies in the child that its hash names at each depth.
#[derive(Debug, Clone)]
pub(super) struct HashTrie<T> {
    rank: Rank,
    len: usize,
    node: Option<Arc<Node<T>>>,
}

impl<T> Default for HashTrie<T> {
    fn default() -> Self {
        Self { rank: 0, len: 0, node: None }
    }
}

/// Which child holds `hash` at this depth.
#[inline]
fn child(hash: u64, depth: u32) -> usize {
    let bits = hash >> (u64::BITS - BITS * (depth + 1));
    #[allow(clippy::cast_possible_truncation, reason = "the lowest bits are meant")]
    {
        bits as usize & ((1 << BITS) - 1)
    }
}

impl<T: Ranked> HashTrie<T> {
    /// The best rank of its items, 0 if there are none.
    #[inline]
    pub(super) fn rank(&self) -> Rank {
        self.rank
    }

    /// Whether it has no items.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The items with this hash, best first.
    #[inline]
    pub(super) fn get(&self, hash: u64) -> &[Entry<T>] {
        let mut node = self.node.as_deref();
        let mut depth = 0;
        while let Some(Node::Branch(children)) = node {
            node = children[child(hash, depth)].node.as_deref();
            depth += 1;
        }
        let Some(Node::Leaf(entries)) = node else { return &[] };
        let from = entries.partition_point(|entry| entry.hash < hash);
        let to = entries[from..].iter().take_while(|entry| entry.hash == hash).count();
        &entries[from..from + to]
    }

    /// Lets `change` work on the list that has, or would have, the items with this hash. It keeps the list sorted, and only
    /// touches items with this hash.
    pub(super) fn update<R>(&mut self, hash: u64, change: impl FnOnce(&mut Vec<Entry<T>>) -> R) -> R {
        self.update_at(hash, 0, change)
    }

    fn update_at<R>(&mut self, hash: u64, depth: u32, change: impl FnOnce(&mut Vec<Entry<T>>) -> R) -> R {
        let node = self.node.get_or_insert_with(|| Arc::new(Node::Leaf(Vec::new())));
        let node = Arc::make_mut(node);
        let result = match node {
            Node::Leaf(entries) => {
                let result = change(entries);
                (self.len, self.rank) = (entries.len(), best(entries));
                // Equal hashes cannot part, and with all bits used up there are no others.
                if entries.len() > LEAF && entries.first().map(|e| e.hash) != entries.last().map(|e| e.hash) {
                    *node = Node::Branch(Box::new(split(std::mem::take(entries), depth)));
                }
                result
            }
            Node::Branch(children) => {
                let result = children[child(hash, depth)].update_at(hash, depth + 1, change);
                self.len = children.iter().map(|child| child.len).sum();
                self.rank = children.iter().map(|child| child.rank).max().unwrap_or(0);
                // Half of what makes a branch: so that an item that comes and goes does not make and unmake it.
                if self.len <= LEAF / 2 {
                    let mut entries = Vec::with_capacity(self.len);
                    children.iter().for_each(|child| child.gather(&mut entries));
                    *node = Node::Leaf(entries);
                }
                result
            }
        };
        if self.len == 0 {
            self.node = None;
        }
        result
    }

    /// Appends the entries in the order of their hashes.
    fn gather(&self, into: &mut Vec<Entry<T>>) {
        match self.node.as_deref() {
            Some(Node::Leaf(entries)) => into.extend_from_slice(entries),
            Some(Node::Branch(children)) => children.iter().for_each(|child| child.gather(into)),
            None => {}
        }
    }

    /// Shows every item to `visit`.
    pub(super) fn for_each<'a>(&'a self, visit: &mut dyn FnMut(&'a T)) {
        match self.node.as_deref() {
            Some(Node::Leaf(entries)) => entries.iter().for_each(|entry| visit(&entry.item)),
            Some(Node::Branch(children)) => children.iter().for_each(|child| child.for_each(visit)),
            None => {}
        }
    }
}

fn best<T: Ranked>(entries: &[Entry<T>]) -> Rank {
    entries.iter().map(|entry| entry.item.rank()).max().unwrap_or(0)
}

/// A list as the children of a branch at this depth.
fn split<T: Ranked>(entries: Vec<Entry<T>>, depth: u32) -> Children<T> {
    let mut lists: [Vec<Entry<T>>; 1 << BITS] = std::array::from_fn(|_| Vec::new());
    for entry in entries {
        lists[child(entry.hash, depth)].push(entry);
    }
    lists.map(|list| {
        let (rank, len) = (best(&list), list.len());
        // A list that is still too long parts when it next changes.
        HashTrie { rank, len, node: (len != 0).then(|| Arc::new(Node::Leaf(list))) }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Ranked for u64 {
        fn rank(&self) -> Rank {
            *self
        }
    }

    fn add(trie: &mut HashTrie<u64>, hash: u64, item: u64) {
        trie.update(hash, |entries| {
            let at = entries
                .partition_point(|e| (e.hash, std::cmp::Reverse(e.item)) < (hash, std::cmp::Reverse(item)));
            entries.insert(at, Entry { hash, item });
        });
    }

    fn remove(trie: &mut HashTrie<u64>, hash: u64, item: u64) {
        trie.update(hash, |entries| entries.retain(|e| (e.hash, e.item) != (hash, item)));
    }

    fn contents(trie: &HashTrie<u64>) -> Vec<(u64, u64)> {
        let mut all = Vec::new();
        trie.gather(&mut all);
        all.into_iter().map(|entry| (entry.hash, entry.item)).collect()
    }

    proptest! {
        /// Any changes leave what a sorted list has, and leave a snapshot taken before as it was.
        #[test]
        fn trie_holds_what_a_list_holds(
            steps in prop::collection::vec((0..5_u8, 0..3_u32, 0..40_u64, 1..1000_u64), 1..600),
            snapshot_at in 0..600_usize,
        ) {
            let (mut trie, mut list) = (HashTrie::default(), Vec::new());
            let mut before = (trie.clone(), list.clone());
            for (at, (kind, shift, hash, item)) in steps.into_iter().enumerate() {
                if at == snapshot_at {
                    before = (trie.clone(), list.clone());
                }
                // Hashes that differ in their first, middle or last bits.
                let mut hash = hash << (shift * 29);
                // Now it grows, now it shrinks.
                let is_removal = (kind < 2) != (at % 256 > 160);
                if is_removal && !list.is_empty() {
                    let held: (u64, u64) = list.swap_remove(usize::try_from(item).unwrap() % list.len());
                    hash = held.0;
                    remove(&mut trie, held.0, held.1);
                } else if !list.contains(&(hash, item)) {
                    list.push((hash, item));
                    add(&mut trie, hash, item);
                }
                let mut same: Vec<u64> = list.iter().filter(|held| held.0 == hash).map(|held| held.1).collect();
                same.sort_unstable_by_key(|&item| std::cmp::Reverse(item));
                prop_assert_eq!(trie.get(hash).iter().map(|entry| entry.item).collect::<Vec<_>>(), same);
                prop_assert_eq!(trie.rank(), list.iter().map(|held| held.1).max().unwrap_or(0));
            }
            for (trie, mut list) in [(trie, list), before] {
                list.sort_unstable_by_key(|&(hash, item)| (hash, std::cmp::Reverse(item)));
                prop_assert_eq!(trie.is_empty(), list.is_empty());
                prop_assert_eq!(contents(&trie), list);
            }
        }
    }

    #[test]
    fn equal_hashes_share_one_list() {
        let mut trie = HashTrie::default();
        (1..=1000).for_each(|item| add(&mut trie, u64::MAX, item));
        add(&mut trie, u64::MAX - 1, 5);
        assert_eq!((trie.get(u64::MAX).len(), trie.get(u64::MAX)[0].item), (1000, 1000));
        assert_eq!(trie.get(u64::MAX - 1).len(), 1);
        (1..=1000).for_each(|item| remove(&mut trie, u64::MAX, item));
        assert_eq!(contents(&trie), [(u64::MAX - 1, 5)]);
    }
}
