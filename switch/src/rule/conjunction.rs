//! Conjunctions: rules that each say one condition of several, for packets that meet them all.
//!
//! A packet from one of a thousand addresses to one of a thousand ports takes a million rules, or, as a conjunction, two
//! thousand: each is a *part*, `conjunction(ID,K/N)`, which says that its packets meet dimension K of conjunction ID. A
//! packet that meets all N of them is looked up once more, as one that has `conj_id=ID`, and that rule is carried out.
//!
//! A part stands for its conjunction among other rules by its priority: of the rules for a packet, the best one counts that
//! is carried out or completes a conjunction whose number a rule matches. A rule that is carried out wins over a conjunction
//! of the same priority. The second lookup sees no parts, and has all rules of the table to choose from.
//!
//! # Source
//! ovs-fields(7), "Conjunctive Match Fields". Where that leaves the choice open, between several conjunctions of one
//! priority, the lowest number wins.

use std::sync::Arc;

use super::action::RuleAction;
use super::entry::Rule;

/// A conjunction of one priority. The same number with another priority, or of other dimensions, is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Conjunction {
    pub(super) id: u32,
    dimensions: u8,
}

/// The conjunctions that a rule is a part of, and which dimension its packets meet of each.
fn dimensions_of(part: &Rule) -> impl Iterator<Item = (Conjunction, u8)> {
    part.spec().actions.iter().filter_map(|action| match *action {
        RuleAction::Conjunction { id, dimension, dimensions } => {
            Some((Conjunction { id, dimensions }, dimension))
        }
        _ => None,
    })
}

/// Whether a rule is a part of this conjunction.
pub(super) fn is_part_of(part: &Rule, conjunction: Conjunction) -> bool {
    dimensions_of(part).any(|(own, _)| own == conjunction)
}

/// The conjunctions that these parts, which all have one priority, complete; the lowest number first.
fn completed(parts: &[&Arc<Rule>]) -> Vec<Conjunction> {
    let mut met: Vec<(Conjunction, u64)> = Vec::new();
    for (conjunction, dimension) in parts.iter().flat_map(|part| dimensions_of(part)) {
        let bit = 1_u64.checked_shl(dimension.into()).unwrap_or(0);
        match met.iter_mut().find(|(other, _)| *other == conjunction) {
            Some((_, bits)) => *bits |= bit,
            None => met.push((conjunction, bit)),
        }
    }
    let is_whole =
        |(conjunction, bits): &(Conjunction, u64)| bits.count_ones() == u32::from(conjunction.dimensions);
    let mut whole: Vec<Conjunction> =
        met.into_iter().filter(is_whole).map(|(conjunction, _)| conjunction).collect();
    whole.sort_unstable();
    whole
}

/// What `look_up` finds for the first conjunction for which it finds something, of those that `parts` complete, by priority.
/// None has a priority of `than` or lower. Sorts the parts.
pub(super) fn first<R>(
    parts: &mut [&Arc<Rule>],
    than: Option<u16>,
    mut look_up: impl FnMut(Conjunction, u16) -> Option<R>,
) -> Option<R> {
    parts.sort_by_key(|part| std::cmp::Reverse(part.spec().priority));
    let same = |a: &&Arc<Rule>, b: &&Arc<Rule>| a.spec().priority == b.spec().priority;
    parts.chunk_by(same).find_map(|group| {
        let priority = group.first().map(|part| part.spec().priority).filter(|&own| Some(own) > than)?;
        completed(group).into_iter().find_map(|conjunction| look_up(conjunction, priority))
    })
}
