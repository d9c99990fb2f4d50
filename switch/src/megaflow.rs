//! A megaflow: one decision of the slow path, for every packet that agrees with it in the bits that were looked at.
//!
//! The slow path makes it, the worker that asked installs it in its own tables and counts its packets there, and the
//! revalidator keeps a reference to age it and to translate it again when something changed.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use crate::action::Verdict;
use crate::flow::key::{FlowKey, Mask};
use crate::port::PortId;
use crate::prefetch::prefetch;
use crate::recirculation::Recirculation;
use crate::rule::entry::Rule;
use crate::state::Seen;
use crate::wire::MacAddr;
use crate::wire::vlan::VlanId;

/// Where a packet came from, as the forwarding database keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The VLAN.
    pub vlan: VlanId,
    /// The Ethernet source address.
    pub mac: MacAddr,
    /// The ingress port.
    pub port: PortId,
}

/// What a megaflow has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowStats {
    /// Packets.
    pub packets: u64,
    /// Bytes, link layer included.
    pub bytes: u64,
    /// When the last packet came, on the clock of [`Context::now_ms`](crate::pipeline::Context::now_ms).
    pub last_used_ms: u64,
}

/// A megaflow.
///
/// Layout: everything that a packet of the flow reads or writes lies in the first cache line.
///
/// # Invariants
/// 1. `key` is that of the packet it was made for, whole, so that translating it again goes the same way: a key with the
///    unmasked bits taken out gets the same verdict, but its way may look at other bits.
/// 2. `mask` covers the whole ingress port and the pass, so a megaflow belongs to one port and one pass.
/// 3. A megaflow goes from live to dead to retired, and never back.
/// 4. The counters of a retired megaflow are final.
///
/// # Concurrency
/// The worker that made it is the only one to add to its counters: it loads and stores, other threads load, all
/// relaxed; so the three counters of a reader may be a burst apart. Any thread may call [`kill`](Self::kill); the worker
/// finds out at the next packet, treats the flow as absent, and takes it out of its tables. Nothing is published
/// through a death: a packet that passes just before it is seen only follows the older decision. The memory goes with
/// the last reference.
///
/// A dead flow may still count, until its worker has taken it out of the tables and the burst is over. Then the worker
/// retires it, with release; who sees that, with acquire, reads the final counters. This is how no packet is lost to a
/// rule's totals. A mark in a line that the revalidator reads anyway does it without a queue that could grow.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Megaflow {
    verdict: Verdict,
    packets: AtomicU64,
    bytes: AtomicU64,
    last_used_ms: AtomicU64,
    life: AtomicU8,
    is_cached: AtomicBool,
    is_owed: AtomicBool,
    key: FlowKey,
    mask: Arc<Mask>,
    id: u64,
    created_ms: u64,
    seen: Seen,
    source: Option<Source>,
    rules: Box<[Arc<Rule>]>,
    resumes: Option<Weak<Recirculation>>,
}

/// The table that finds the packets of a megaflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// The exact-match cache, as far as it has room.
    ExactMatch,
    /// The classifier: the cache is off, or the port's flows look at more than it takes.
    Classifier,
}

/// The values of [`Megaflow`]'s `life`: it decides; it is over, but may be in a burst yet; its worker has let go of it.
const LIVE: u8 = 0;
const DEAD: u8 = 1;
const RETIRED: u8 = 2;

/// What a new megaflow is made of.
#[derive(Debug)]
pub struct MegaflowSpec {
    /// Which bits of a packet's key matter.
    pub mask: Arc<Mask>,
    /// The key of the packet it is made for.
    pub key: FlowKey,
    /// The fate of its packets.
    pub verdict: Verdict,
    /// The source address to keep fresh while packets come, if it may be learned.
    pub source: Option<Source>,
    /// The state that led to the verdict.
    pub seen: Seen,
    /// The rules that led to it, once for each time they matched, misses of tables included.
    pub rules: Box<[Arc<Rule>]>,
    /// What its packets came back for, if they are not on their first pass.
    pub resumes: Option<Weak<Recirculation>>,
}

impl Megaflow {
    /// A living megaflow. `id` is unique among all workers: see [`id`](Self::id).
    pub fn new(id: u64, now_ms: u64, spec: MegaflowSpec) -> Self {
        let MegaflowSpec { mask, key, verdict, source, seen, rules, resumes } = spec;
        debug_assert_eq!(mask.0.words()[0], u64::MAX, "invariant 2");
        Self {
            verdict,
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last_used_ms: AtomicU64::new(now_ms),
            life: AtomicU8::new(LIVE),
            is_cached: AtomicBool::new(false),
            is_owed: AtomicBool::new(false),
            key,
            mask,
            id,
            created_ms: now_ms,
            seen,
            source,
            rules,
            resumes,
        }
    }

    /// Number of the flow: the worker's in the upper 16 bits, counted from 0 by that worker in the others.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The worker that made it and has it in its tables.
    #[allow(clippy::cast_possible_truncation, reason = "16 bits are left")]
    pub fn worker(&self) -> u16 {
        (self.id >> 48) as u16
    }

    /// The key of the packet it was made for.
    pub fn key(&self) -> &FlowKey {
        &self.key
    }

    /// The bits that its packets have in common; zero where the mask is.
    pub fn masked_key(&self) -> FlowKey {
        self.mask.apply(&self.key)
    }

    /// Asks for the key and what follows it: all that translating the flow again reads of it.
    pub(crate) fn prefetch_key(&self) {
        for word in self.key.words().iter().step_by(8) {
            prefetch(word);
        }
        prefetch(&self.rules);
    }

    /// Which bits its packets have in common.
    pub fn mask(&self) -> &Arc<Mask> {
        &self.mask
    }

    /// The fate of its packets.
    #[inline]
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// The port of its packets.
    pub fn in_port(&self) -> PortId {
        u16::try_from(self.key.in_port).ok().and_then(PortId::new).unwrap_or_default()
    }

    /// The source address to keep fresh while packets come.
    pub fn source(&self) -> Option<Source> {
        self.source
    }

    /// When it was made.
    pub fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// The state that led to the verdict. A flow made from older state than now needs to be checked.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// The rules that made it, once for each time they matched, misses of tables included. Later ones may have taken
    /// their place without a change of the verdict; the [registry](crate::revalidate::registry) knows.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// What its packets came back for, if they are not on their first pass. It goes with the last megaflow that leads to it,
    /// and with it the use of this one.
    pub fn resumes(&self) -> Option<&Weak<Recirculation>> {
        self.resumes.as_ref()
    }

    /// The table that finds its packets, as of the last one that the exact-match cache did not know.
    pub fn tier(&self) -> Tier {
        if self.is_cached.load(Ordering::Relaxed) { Tier::ExactMatch } else { Tier::Classifier }
    }

    /// Notes whether packets of it were entered into the exact-match cache; only its own worker does.
    #[inline]
    pub(crate) fn set_cached(&self, is_cached: bool) {
        self.is_cached.store(is_cached, Ordering::Relaxed);
    }

    /// Whether it still decides.
    #[inline]
    pub fn is_alive(&self) -> bool {
        self.life.load(Ordering::Relaxed) == LIVE
    }

    /// Ends it: its next packet is decided anew.
    pub fn kill(&self) {
        self.life.fetch_max(DEAD, Ordering::Relaxed);
    }

    /// Ends it because of what the operator changed: its port is owed the upcall that its next packet needs.
    pub fn kill_owing(&self) {
        self.is_owed.store(true, Ordering::Relaxed);
        self.kill();
    }

    /// Whether its port is owed an upcall. One that is missed as the two marks pass each other costs a token, no more.
    pub(crate) fn is_owed(&self) -> bool {
        self.is_owed.load(Ordering::Relaxed)
    }

    /// Says that its worker will count no more packets of it. Only its own worker does, or who outlived that worker.
    pub fn retire(&self) {
        // Release: the last counts come before it; partner: the acquire in `is_retired`.
        self.life.store(RETIRED, Ordering::Release);
    }

    /// Whether its counters are final: what [`stats`](Self::stats) says from now on.
    #[inline]
    pub fn is_retired(&self) -> bool {
        self.life.load(Ordering::Acquire) == RETIRED
    }

    /// What it has carried.
    pub fn stats(&self) -> FlowStats {
        FlowStats {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            last_used_ms: self.last_used_ms.load(Ordering::Relaxed),
        }
    }

    /// Counts packets; only its own worker does. A load and a store cost a fifth of an atomic addition.
    #[inline]
    pub(crate) fn count(&self, packets: u64, bytes: u64, now_ms: u64) {
        debug_assert!(!self.is_retired(), "invariant 4");
        self.packets.store(self.packets.load(Ordering::Relaxed) + packets, Ordering::Relaxed);
        self.bytes.store(self.bytes.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
        self.last_used_ms.store(now_ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn what_a_packet_touches_is_one_cache_line() {
        assert!(offset_of!(Megaflow, life) < 64);
        assert!(offset_of!(Megaflow, key) >= 64 - 8, "the key follows the hot part");
    }
}
