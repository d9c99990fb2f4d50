//! Every megaflow of every worker, and what has been added to the counters of its rules.
//!
//! Workers hand over each flow they install; from then on it is here until its worker has retired it. A *pass* goes
//! through all of them: it adds to each rule what its flows have carried since the last pass, ends flows that are idle
//! or over, and lets go of those that are retired, after their last packets were added. So a rule's packets are exactly
//! those that workers counted, once each, however flows come and go.
//!
//! A flow lies in the shard that its number says. A pass holds one shard's lock at a time, a thousandth of all flows,
//! and so do the control threads that print them: neither waits for the other for longer than that. Workers never come
//! here. Memory: 48 bytes for each flow beside the megaflow itself, up to twice that while shards grow.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{Check, check, refresh_source};
use crate::megaflow::Megaflow;
use crate::prefetch::prefetch;
use crate::rule::entry::Rule;
use crate::state::SwitchState;

/// Parts that are locked by themselves.
const SHARDS: usize = 1024;

/// How many flows ahead memory is asked for.
const AHEAD: usize = 8;

/// A megaflow and what is known of it here.
#[derive(Debug)]
struct Tracked {
    flow: Arc<Megaflow>,
    /// What its rules have been given.
    pushed_packets: u64,
    pushed_bytes: u64,
    /// The rules that took the place of those it was made with.
    rules: Option<Box<[Arc<Rule>]>>,
    /// A pass has found it right, or has translated it again since it was made.
    is_checked: bool,
    is_too_exact: bool,
    /// Its worker was told that it is over.
    is_over: bool,
}

impl Tracked {
    fn new(flow: Arc<Megaflow>) -> Self {
        Self {
            flow,
            pushed_packets: 0,
            pushed_bytes: 0,
            rules: None,
            is_checked: false,
            is_too_exact: false,
            is_over: false,
        }
    }

    fn rules(&self) -> &[Arc<Rule>] {
        self.rules.as_deref().unwrap_or_else(|| self.flow.rules())
    }

    /// Adds what it has carried since the last time to its rules.
    fn push(&mut self) {
        let stats = self.flow.stats();
        let (packets, bytes) = (stats.packets - self.pushed_packets, stats.bytes - self.pushed_bytes);
        if packets == 0 && bytes == 0 {
            return;
        }
        for rule in self.rules() {
            rule.add(packets, bytes, stats.last_used_ms);
        }
        (self.pushed_packets, self.pushed_bytes) = (stats.packets, stats.bytes);
    }
}

/// Which flows a pass translates again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recheck {
    /// Those that no pass has seen yet and that were made from another state than the present one.
    New,
    /// All.
    All,
}

/// What a pass goes by.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// The time, on the clock of the pipelines' contexts.
    pub now_ms: u64,
    /// A flow that was not used for longer goes.
    pub idle_ms: u64,
    /// Every flow goes.
    pub is_flush: bool,
    /// Which flows are translated again.
    pub recheck: Recheck,
    /// If the addresses of flows are to be refreshed: those of the flows that were used since then.
    pub refresh_since_ms: Option<u64>,
    /// Most flows that go because they are too exact. Each costs an upcall of its port, which has a budget.
    pub too_exact_limit: u64,
    /// The state of the switch.
    pub state: SwitchState<'a>,
}

macro_rules! outcome {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a pass found and did, in flows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Outcome {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Outcome {
            /// Every count with its name.
            pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }

            /// Adds the counts of another pass.
            pub fn add(&mut self, other: &Outcome) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

outcome! {
    /// Looked at.
    visited,
    /// Translated again.
    rechecked,
    /// Counted by other rules from now on, otherwise as before.
    reattributed,
    /// Ended: without packets for too long.
    ended_idle,
    /// Ended: the limit fell far below their number.
    ended_flushed,
    /// Ended: their packets might be decided in another way now.
    ended_changed,
    /// Ended: they looked at more bits than needed.
    ended_too_exact,
    /// Ended by their worker, or with their port.
    ended_by_owner,
    /// Let go, their last packets added to their rules.
    retired,
}

/// Every megaflow.
///
/// # Concurrency
/// One thread runs passes and [`adopt`](Self::adopt)s. Any thread may go through [`flows`](Self::flows) meanwhile.
#[derive(Debug)]
pub struct Registry {
    shards: Box<[Mutex<Vec<Tracked>>]>,
    live: AtomicUsize,
}

impl Default for Registry {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), live: AtomicUsize::new(0) }
    }
}

impl Registry {
    /// Flows that are not over, as of the last pass and what was adopted since.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Takes over a flow that a worker installed.
    pub fn adopt(&self, flow: Arc<Megaflow>) {
        #[allow(clippy::cast_possible_truncation, reason = "only the low bits choose the shard")]
        let shard = flow.id() as usize % SHARDS;
        self.shards[shard].lock().push(Tracked::new(flow));
        self.live.fetch_add(1, Ordering::Relaxed);
    }

    /// The flows that are not over, in no order. One that comes or goes meanwhile may or may not be among them.
    pub fn flows(&self) -> impl Iterator<Item = Arc<Megaflow>> + '_ {
        self.shards.iter().flat_map(|shard| {
            let shard = shard.lock();
            let live = shard.iter().map(|tracked| &tracked.flow).filter(|flow| flow.is_alive());
            live.map(Arc::clone).collect::<Vec<_>>()
        })
    }

    /// The flows with the most packets, these first, `limit` at most, and how many more there are.
    pub fn busiest(&self, limit: usize) -> (Vec<Arc<Megaflow>>, usize) {
        let mut flows: Vec<_> = self.flows().map(|flow| (Reverse(flow.stats().packets), flow)).collect();
        let left_out = flows.len().saturating_sub(limit);
        if left_out > 0 {
            flows.select_nth_unstable_by_key(limit, |&(packets, _)| packets);
            flows.truncate(limit);
        }
        flows.sort_by_key(|&(packets, _)| packets);
        (flows.into_iter().map(|(_, flow)| flow).collect(), left_out)
    }

    /// Goes through all flows once. `tell` hears of each that is over, to have its worker take it out of its tables.
    pub fn pass(&self, pass: &Pass<'_>, mut tell: impl FnMut(&Arc<Megaflow>)) -> Outcome {
        let mut outcome = Outcome::default();
        let mut gone = Vec::new();
        let mut live = 0;
        for shard in &self.shards {
            let mut shard = shard.lock();
            let mut at = 0;
            // Bound: each round goes one further or takes one out.
            while at < shard.len() {
                if let Some(tracked) = shard.get(at + AHEAD) {
                    prefetch(&*tracked.flow);
                    if pass.recheck == Recheck::All {
                        tracked.flow.prefetch_key();
                    }
                }
                let tracked = &mut shard[at];
                if visit(tracked, pass, &mut outcome, &mut tell) == Stage::Retired {
                    gone.push(shard.swap_remove(at));
                    continue;
                }
                live += usize::from(!tracked.is_over);
                at += 1;
            }
            if shard.capacity() > 64 && shard.len() < shard.capacity() / 4 {
                let room = 2 * shard.len();
                shard.shrink_to(room);
            }
            drop(shard);
            // Memory goes back without the lock.
            gone.clear();
        }
        self.live.store(live, Ordering::Relaxed);
        outcome
    }
}

/// Where a flow is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Live,
    /// Its worker has it in its tables yet.
    Over,
    /// All its packets are with its rules.
    Retired,
}

/// What a pass does with one flow.
fn visit(
    tracked: &mut Tracked,
    pass: &Pass<'_>,
    outcome: &mut Outcome,
    tell: &mut impl FnMut(&Arc<Megaflow>),
) -> Stage {
    outcome.visited += 1;
    // Before its counters are read: if it is retired, they are final.
    let is_retired = tracked.flow.is_retired();
    tracked.push();
    if is_retired {
        outcome.ended_by_owner += u64::from(!tracked.is_over);
        outcome.retired += 1;
        return Stage::Retired;
    }
    if tracked.is_over {
        return Stage::Over;
    }
    let Some(reason) = end_reason(tracked, pass, outcome) else {
        if let Some(since_ms) = pass.refresh_since_ms {
            refresh_source(&tracked.flow, since_ms, &pass.state);
        }
        return Stage::Live;
    };
    *reason += 1;
    tracked.is_over = true;
    let (seen, now) = (tracked.flow.seen(), pass.state.generations());
    if (seen.config, seen.rules) == (now.config, now.rules) {
        tracked.flow.kill();
    } else {
        tracked.flow.kill_owing();
    }
    tell(&tracked.flow);
    Stage::Over
}

/// The counter of the reason for which a flow goes, if it goes.
fn end_reason<'o>(tracked: &mut Tracked, pass: &Pass<'_>, outcome: &'o mut Outcome) -> Option<&'o mut u64> {
    if !tracked.flow.is_alive() {
        return Some(&mut outcome.ended_by_owner);
    }
    if pass.is_flush {
        return Some(&mut outcome.ended_flushed);
    }
    if pass.now_ms.saturating_sub(tracked.flow.stats().last_used_ms) > pass.idle_ms {
        return Some(&mut outcome.ended_idle);
    }
    let is_due = match pass.recheck {
        Recheck::All => true,
        Recheck::New => !tracked.is_checked && !is_current(&tracked.flow, pass),
    };
    tracked.is_checked = true;
    if is_due {
        outcome.rechecked += 1;
        match check(&tracked.flow, tracked.rules(), &pass.state) {
            Check::Over => return Some(&mut outcome.ended_changed),
            Check::Right { rules, is_too_exact } => {
                tracked.is_too_exact = is_too_exact;
                if rules.is_some() {
                    tracked.rules = rules;
                    outcome.reattributed += 1;
                }
            }
        }
    }
    let may_go = tracked.is_too_exact && outcome.ended_too_exact < pass.too_exact_limit;
    may_go.then_some(&mut outcome.ended_too_exact)
}

/// Whether `flow` was made from the present state.
fn is_current(flow: &Megaflow, pass: &Pass<'_>) -> bool {
    flow.seen() == pass.state.generations()
}

#[cfg(test)]
mod tests;
