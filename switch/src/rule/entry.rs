//! A rule of a table, with its counters.

use std::sync::atomic::{AtomicU64, Ordering};

use super::action::RuleAction;
use super::matching::Match;

/// What the operator said of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSpec {
    /// The table it is in.
    pub table: u8,
    /// Which rule wins where several match: the highest.
    pub priority: u16,
    /// The operator's own label.
    pub cookie: u64,
    /// Seconds without packets after which it goes; 0 for never.
    pub idle_timeout_s: u16,
    /// Seconds after which it goes; 0 for never.
    pub hard_timeout_s: u16,
    /// Which packets it is about.
    pub matching: Match,
    /// What it does with them; nothing is a drop.
    pub actions: Box<[RuleAction]>,
}

/// What a rule has matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleStats {
    /// Packets.
    pub packets: u64,
    /// Bytes, link layer included.
    pub bytes: u64,
    /// When the last packet came, on the clock of the pipeline's context.
    pub last_used_ms: u64,
}

/// A rule in a table.
///
/// # Concurrency
/// Immutable but for the counters. Megaflows carry the packets; the revalidator adds what each has carried since it last
/// looked, workers add what was decided without a megaflow. Both add atomically, so no packet is lost or counted twice.
#[derive(Debug)]
pub struct Rule {
    spec: RuleSpec,
    /// When it was added, on the clock of the pipeline's context.
    created_ms: u64,
    packets: AtomicU64,
    bytes: AtomicU64,
    last_used_ms: AtomicU64,
}

impl Rule {
    /// A rule that nothing has matched yet.
    pub fn new(spec: RuleSpec, now_ms: u64) -> Self {
        Self {
            spec,
            created_ms: now_ms,
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last_used_ms: AtomicU64::new(now_ms),
        }
    }

    /// What the operator said of it.
    pub fn spec(&self) -> &RuleSpec {
        &self.spec
    }

    /// When it was added.
    pub fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// What it has matched, as far as that was added up.
    pub fn stats(&self) -> RuleStats {
        RuleStats {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            last_used_ms: self.last_used_ms.load(Ordering::Relaxed),
        }
    }

    /// Adds packets, the last of which came at `used_ms`.
    pub fn add(&self, packets: u64, bytes: u64, used_ms: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.last_used_ms.fetch_max(used_ms, Ordering::Relaxed);
    }
}
