//! Sets of a port's queues, as workers are given them and look at them in each round: one bit each.

use vsteer_vhost::net::port::{MAX_QUEUE_PAIRS, PairSet};

/// A set of a port's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueSet(PairSet);

impl QueueSet {
    /// No queue.
    pub const EMPTY: Self = Self([0; MAX_QUEUE_PAIRS as usize / 64]);

    /// Puts `queue` in.
    ///
    /// # Panics
    /// If no port has a queue with this number.
    pub fn insert(&mut self, queue: usize) {
        self.0[queue / 64] |= 1 << (queue % 64);
    }

    /// Whether there is none in it.
    pub fn is_empty(self) -> bool {
        self == Self::EMPTY
    }

    /// The queues that are in both.
    #[inline]
    #[must_use]
    pub fn and(self, other: PairSet) -> Self {
        let mut both = self.0;
        for (word, other) in both.iter_mut().zip(other) {
            *word &= other;
        }
        Self(both)
    }

    /// The queues, lowest first.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(index, word)| {
            std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)))
                .take_while(|&word| word != 0)
                .map(move |word| 64 * index + word.trailing_zeros() as usize)
        })
    }
}

impl FromIterator<usize> for QueueSet {
    fn from_iter<I: IntoIterator<Item = usize>>(queues: I) -> Self {
        let mut set = Self::EMPTY;
        queues.into_iter().for_each(|queue| set.insert(queue));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_of_a_set_come_in_order() {
        let set: QueueSet = [127, 0, 3, 1].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 3, 127]);
        assert_eq!(set.and([0b110, 0]).iter().collect::<Vec<_>>(), [1]);
        assert!(QueueSet::EMPTY.is_empty() && QueueSet::EMPTY.iter().next().is_none());
        assert_eq!((0..128).collect::<QueueSet>().iter().count(), 128);
    }
}
