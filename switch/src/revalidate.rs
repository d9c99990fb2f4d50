//! Keeping megaflows right, and their rules' counters with them; the thread that does so is the caller's.
//!
//! The revalidator holds a reference to every megaflow in its registry (`registry.rs`). Whenever rules, configuration or the
//! forwarding database changed since a flow was last checked (`Megaflow::seen` for a new one), it asks `check` and
//! ends those that are over. From time to time it calls `refresh_source`, as packets that only the caches see would
//! otherwise let their addresses age.

/// Every megaflow, with what has been added to its rules.
pub mod registry;

/// How many megaflows there may be.
pub mod limit;

use std::sync::Arc;

use crate::bridge::fdb::Learned;
use crate::flow::key::Mask;
use crate::megaflow::Megaflow;
use crate::rule::entry::Rule;
use crate::slow_path;
use crate::state::SwitchState;

/// What is to be done with a megaflow after a change.
#[derive(Debug)]
pub enum Check {
    /// Its packets would be decided in the same way.
    Right {
        /// The rules that count them from now on, if others did before.
        rules: Option<Box<[Arc<Rule>]>>,
        /// It looks at bits that nobody needs to look at any more: that costs speed.
        is_too_exact: bool,
    },
    /// Some of its packets might be decided in another way.
    Over,
}

/// Decides about the packets of `flow` anew, which `counted_by` count so far.
///
/// The key that the flow was made for stands for all its packets: translation gives keys that agree under a mask the same
/// verdict, so the new mask may look at fewer bits than the flow's, and never at another. A flow whose source is now known
/// at another port counts as over, too: should the station come back, its packets must miss, or nobody would learn that
/// it moved.
///
/// A flow of a second pass goes on where a first pass left off. What that was is in the verdicts of the flows that lead to
/// it; once these are over, nothing does.
pub fn check(flow: &Megaflow, counted_by: &[Arc<Rule>], state: &SwitchState<'_>) -> Check {
    let now = match flow.resumes() {
        None => slow_path::translate(flow.key(), state, &mut ()),
        Some(recirculation) => match recirculation.upgrade() {
            // No packet comes back for what no megaflow leads to.
            None => return Check::Over,
            Some(recirculation) => slow_path::resume(flow.key(), recirculation.suspension(), state, &mut ()),
        },
    };
    let moved = flow.source().is_some_and(|source| {
        let known = state.fdb.entry(source.vlan, source.mac);
        known.is_some_and(|entry| !entry.is_static && entry.port != source.port)
    });
    if moved
        || !is_part(&now.mask, flow.mask())
        || now.verdict != *flow.verdict()
        || now.learn != flow.source()
    {
        return Check::Over;
    }
    let is_same = now.rules.len() == counted_by.len()
        && now.rules.iter().zip(counted_by).all(|(new, old)| Arc::ptr_eq(new, old));
    Check::Right { rules: (!is_same).then(|| now.rules.into()), is_too_exact: now.mask != **flow.mask() }
}

/// Whether a packet of `flow` would be decided in the same way today.
pub fn still_valid(flow: &Megaflow, state: &SwitchState<'_>) -> bool {
    matches!(check(flow, flow.rules(), state), Check::Right { .. })
}

/// Whether every bit of `part` is in `whole`.
fn is_part(part: &Mask, whole: &Mask) -> bool {
    part.0.words().iter().zip(whole.0.words()).all(|(part, whole)| part & !whole == 0)
}

/// Keeps the source address of a living flow as fresh as its last packet; learns it again if it was flushed or had found
/// no place. Returns whether the forwarding database changed.
///
/// `used_since_ms` is when the caller last refreshed this flow: one without packets since then teaches nothing.
pub fn refresh_source(flow: &Megaflow, used_since_ms: u64, state: &SwitchState<'_>) -> bool {
    let used_ms = flow.stats().last_used_ms;
    let Some(source) = flow.source().filter(|_| used_ms >= used_since_ms && flow.is_alive()) else {
        return false;
    };
    match state.fdb.entry(source.vlan, source.mac) {
        // Known elsewhere: only a packet that misses may move an address, not the memory of an older one.
        Some(entry) if entry.port != source.port => false,
        Some(_) => {
            state.fdb.touch(source.vlan, source.mac, source.port, used_ms);
            false
        }
        None => slow_path::learn(source, used_ms, state) == Learned::New,
    }
}
