//! A rule of a table, with its counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::port::PortId;

use super::action::RuleAction;
use super::field::Field;
use super::matching::Match;

/// What Open vSwitch's users say of a rule and what has no effect here; it is kept with the rule and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remarks {
    /// Which rules may go first where there is no room for all. Here there is, or an addition is refused.
    pub importance: u16,
    /// A controller wants to hear when the rule goes.
    pub send_flow_rem: bool,
    /// Nobody needs the count of its packets; they are counted all the same.
    pub no_packet_counts: bool,
    /// Nobody needs the count of its bytes; they are counted all the same.
    pub no_byte_counts: bool,
}

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
    /// What is kept with it.
    pub remarks: Remarks,
    /// Which packets it is about.
    pub matching: Match,
    /// What it does with them; nothing is a drop.
    pub actions: Box<[RuleAction]>,
}

impl RuleSpec {
    /// Whether its packets meet a dimension of a conjunction, and it is not carried out itself.
    pub fn is_conjunctive(&self) -> bool {
        self.actions.iter().any(RuleAction::is_conjunction)
    }

    /// Whether it names this port, in its match or in its actions.
    pub fn names_port(&self, port: PortId) -> bool {
        let (value, mask) = self.matching.field(Field::InPort);
        mask != 0 && value == u128::from(port.number())
            || self.actions.iter().any(|action| action.names_port(port))
    }
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

/// The counters of a rule, which outlive a change of its actions.
#[derive(Debug, Default)]
struct Counters {
    packets: AtomicU64,
    bytes: AtomicU64,
    last_used_ms: AtomicU64,
    /// Packets that any rule of the table matched, those of rules that are gone included.
    table_packets: Arc<AtomicU64>,
}

/// Which of two rules wins, higher is better: the priority, then the age. No two rules of a set have the same rank.
pub(super) type Rank = u64;

/// Why a rule's time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// No packet for its idle timeout.
    Idle,
    /// Its hard timeout passed.
    Hard,
}

/// A rule in a table.
///
/// # Concurrency
/// Immutable but for the counters. Megaflows carry the packets; the revalidator adds what each has carried since it last
/// looked, workers add what was decided without a megaflow. Both add atomically, so no packet is lost or counted twice.
/// A rule that takes another's place shares its counters, so that this also holds for packets which went by the old one
/// and are added later.
#[derive(Debug)]
pub struct Rule {
    spec: RuleSpec,
    rank: Rank,
    is_conjunctive: bool,
    created_ms: u64,
    modified_ms: u64,
    counters: Arc<Counters>,
}

impl Rule {
    /// A rule outside any table, that nothing has matched yet.
    pub fn new(spec: RuleSpec, now_ms: u64) -> Self {
        Self::in_table(spec, now_ms, 0, Arc::default())
    }

    /// A rule that nothing has matched yet; of two with the same priority the lower serial number wins.
    pub(super) fn in_table(spec: RuleSpec, now_ms: u64, serial: u64, table_packets: Arc<AtomicU64>) -> Self {
        let rank = Rank::from(spec.priority) << 48 | (!serial & ((1 << 48) - 1));
        let counters =
            Counters { last_used_ms: AtomicU64::new(now_ms), table_packets, ..Counters::default() };
        let counters = Arc::new(counters);
        let is_conjunctive = spec.is_conjunctive();
        Self { spec, rank, is_conjunctive, created_ms: now_ms, modified_ms: now_ms, counters }
    }

    /// The rule that takes this one's place; both have the same table, match and priority.
    pub(super) fn successor(&self, spec: RuleSpec, created_ms: u64, now_ms: u64, reset_counts: bool) -> Self {
        let counters = if reset_counts {
            Arc::new(Counters {
                last_used_ms: AtomicU64::new(now_ms),
                table_packets: Arc::clone(&self.counters.table_packets),
                ..Counters::default()
            })
        } else {
            Arc::clone(&self.counters)
        };
        let is_conjunctive = spec.is_conjunctive();
        Self { spec, rank: self.rank, is_conjunctive, created_ms, modified_ms: now_ms, counters }
    }

    /// What the operator said of it.
    pub fn spec(&self) -> &RuleSpec {
        &self.spec
    }

    /// Whether its packets meet a dimension of a conjunction, and it is not carried out itself.
    pub(super) fn is_conjunctive(&self) -> bool {
        self.is_conjunctive
    }

    /// Which of two rules wins.
    pub(super) fn rank(&self) -> Rank {
        self.rank
    }

    /// When it was added.
    pub fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// When it was added or last changed; timeouts begin anew here.
    pub fn modified_ms(&self) -> u64 {
        self.modified_ms
    }

    /// What it has matched, as far as that was added up.
    pub fn stats(&self) -> RuleStats {
        RuleStats {
            packets: self.counters.packets.load(Ordering::Relaxed),
            bytes: self.counters.bytes.load(Ordering::Relaxed),
            last_used_ms: self.counters.last_used_ms.load(Ordering::Relaxed),
        }
    }

    /// Adds packets, the last of which came at `used_ms`.
    pub fn add(&self, packets: u64, bytes: u64, used_ms: u64) {
        self.counters.packets.fetch_add(packets, Ordering::Relaxed);
        self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counters.last_used_ms.fetch_max(used_ms, Ordering::Relaxed);
        self.counters.table_packets.fetch_add(packets, Ordering::Relaxed);
    }

    /// Whether it ever expires.
    pub fn is_timed(&self) -> bool {
        self.spec.idle_timeout_s != 0 || self.spec.hard_timeout_s != 0
    }

    /// Whether its time is over.
    pub fn expiry(&self, now_ms: u64) -> Option<Expiry> {
        let is_over = |since_ms: u64, timeout_s: u16| {
            timeout_s != 0 && now_ms.saturating_sub(since_ms) >= u64::from(timeout_s) * 1000
        };
        if is_over(self.modified_ms, self.spec.hard_timeout_s) {
            Some(Expiry::Hard)
        } else if is_over(self.stats().last_used_ms.max(self.modified_ms), self.spec.idle_timeout_s) {
            Some(Expiry::Idle)
        } else {
            None
        }
    }
}
