//! The pipeline: a burst of packets from one ingress port, through the tables, out of the egress ports.
//!
//! One pipeline per worker, which calls `Pipeline::process` for each burst it received and clears the burst after. The
//! way of a burst, each stage for all packets before the next, so that memory arrives while other packets are worked on:
//! 1. Keys: extract as deep as the port's megaflows look, pick the words that matter, hash, prefetch. Neighbours with the
//!    same words are a *run*; only its first packet is looked up.
//! 2. Exact-match cache (`flow_cache.rs`).
//! 3. Classifier (`classifier.rs`), for the runs that the cache does not know.
//! 4. Slow path (`slow_path/`), for the packets that are in no megaflow: inline, under a budget of the
//!    port, so that nothing waits for another thread and a port that scans addresses slows itself only.
//! 5. Verdicts: count once per stretch of packets with the same fate, run actions, gather packets per egress port.
//! 6. Transmit: each egress port gets its packets in one batch, in order of arrival.
//!
//! Nothing allocates before stage 4.
//!
//! Rules can have packets go through the switch again, as they are then (`recirculation.rs`). So the stages are taken in
//! *passes*: the first is about the whole burst, each later one about a selection of it, packets for which the same is left to
//! do. They go by the same tables, where the pass is part of what tells packets apart. The packets of one pass have left
//! before the next begins.

/// What it counts, and how it times its passes.
mod stats;

/// How many packets of a port may take the slow path.
mod budget;

/// Actions of one packet.
mod run;

/// Packets on their way out.
mod batches;

/// The packets that a pass is about.
mod selection;

/// Packets that go through the switch again.
mod again;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use self::again::MAX_PASSES;
use self::again::{Again, Group};
use self::batches::Batches;
use self::budget::TokenBucket;
use self::run::{Ways, run};
use self::selection::{Returned, Selection, Whole};
pub use self::stats::PipelineStats;
use self::stats::{Stopwatch, TIMED_ONE_IN, add};
use crate::action::{Action, Punt, Verdict};
use crate::classifier::{Classifier, ClassifierLimits, Pending, SubtableStats};
use crate::drop_reason::DropReason;
use crate::flow::extract::{extract, extract_at, make_readable};
use crate::flow::key::{Depth, FlowKey};
use crate::flow_cache::{FlowCache, RelevantWords, Union};
use crate::megaflow::{Megaflow, MegaflowSpec};
use crate::packet::{BURST, Burst, Frame};
use crate::port::{MAX_PORTS, PortId};
use crate::recirculation::Recirculations;
use crate::slow_path;
use crate::state::SwitchState;
use crate::wire::vlan::VlanLimit;

/// Where packets go when the pipeline is done with them: the worker's view of the ports.
pub trait Transmit {
    /// Sends the packets of `burst` at `indices`, in this order, to `port`, or drops and counts what the port does not
    /// take.
    fn transmit(&mut self, port: PortId, burst: &Burst, indices: &[u8]);

    /// Hands out a copy of a packet that came in by `in_port`, as far as `punt` says, to whoever listens; nobody may.
    fn punt(&mut self, in_port: PortId, frame: &Frame<'_>, punt: Punt);

    /// Counts packets that the pipeline dropped: at their ingress port if they were dropped before a verdict, else at the
    /// egress port.
    fn dropped(&mut self, port: PortId, reason: DropReason, packets: u64);
}

/// Who must hear of what the slow path changed: the revalidator, by way of the root. Called on the worker, for packets
/// that miss; must not block.
pub trait Events {
    /// A megaflow was installed. Whoever ages flows keeps the reference.
    fn flow_installed(&self, flow: Arc<Megaflow>);

    /// The forwarding database changed, so megaflows of any worker may be over.
    fn fdb_changed(&self);
}

/// What a burst is processed with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The time in milliseconds, on a clock that never goes back.
    pub now_ms: u64,
    /// The state of the switch.
    pub state: SwitchState<'a>,
    /// Who hears of changes.
    pub events: &'a dyn Events,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("now_ms", &self.now_ms)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Sizes and limits of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PipelineConfig {
    /// The worker's number, part of the numbers of its megaflows.
    pub worker: u16,
    /// Most entries of the exact-match cache, rounded up to a power of two; 0 for none. It starts with fewer and grows when
    /// it is crowded.
    pub exact_match_entries: usize,
    /// Entries of the signature index, rounded up to a power of two; 0 for none.
    pub signature_entries: usize,
    /// Most megaflows at one time. Packets that would need another are translated one by one.
    pub max_flows: usize,
    /// Most megaflows of one ingress port.
    pub max_flows_per_port: usize,
    /// Most different masks among the megaflows of one ingress port.
    pub max_masks_per_port: usize,
    /// Packets of one ingress port that may take the slow path, per second.
    pub upcalls_per_s: u32,
    /// As many at once, after a pause.
    pub upcall_burst_pkts: u32,
}

impl Default for PipelineConfig {
    fn default() -> Self {
        Self {
            worker: 0,
            exact_match_entries: 1 << 17,
            signature_entries: 1 << 18,
            max_flows: 65_536,
            max_flows_per_port: 65_536,
            max_masks_per_port: 1024,
            upcalls_per_s: 100_000,
            upcall_burst_pkts: 10_000,
        }
    }
}

/// What the pipeline knows about an ingress port.
#[derive(Debug)]
struct IngressPort {
    id: PortId,
    union: Union,
    budget: TokenBucket,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It belongs to the megaflow at this index.
    Flow(u32),
    /// It was dropped before a verdict.
    Drop(DropReason),
    /// It was translated, but the verdict has no megaflow; index into [`Scratch::once`].
    Once(u8),
}

/// What the slow path changed during this burst.
#[derive(Debug, Default)]
struct News {
    /// A megaflow was installed, so a packet that was in none may be in one now.
    installed: bool,
    /// More bits matter at the port than when the runs of the burst were found.
    union_grew: bool,
}

/// What is known about the packets of a pass, slot by slot.
struct Scratch {
    keys: [FlowKey; BURST],
    relevant: [RelevantWords; BURST],
    fates: [Fate; BURST],
    found: [u32; BURST],
    /// Bit set: the packet has the words of the one before and shares its fate.
    repeats: u32,
    once: Vec<Verdict>,
}

/// A worker's pipeline and its tables.
///
/// # Concurrency
/// Owned by one worker. Megaflows and [`PipelineStats`] are shared with other threads, see there.
pub struct Pipeline {
    limits: PipelineConfig,
    cache: FlowCache,
    classifier: Classifier,
    ports: Box<[Option<Box<IngressPort>>]>,
    stats: Arc<PipelineStats>,
    flow_limit: Arc<AtomicUsize>,
    cycle_counter: fn() -> u64,
    bursts: u64,
    search_cycles: u64,
    next_id: u64,
    scratch: Box<Scratch>,
    batches: Batches,
    again: Again,
    recirculations: Recirculations,
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("limits", &self.limits)
            .field("flows", &self.classifier.len())
            .field("subtables", &self.classifier.subtables())
            .finish_non_exhaustive()
    }
}

impl Pipeline {
    /// A pipeline with empty tables.
    pub fn new(limits: PipelineConfig) -> Self {
        Self {
            limits,
            cache: FlowCache::new(limits.exact_match_entries),
            classifier: Classifier::new(ClassifierLimits {
                flows: limits.max_flows,
                flows_per_port: limits.max_flows_per_port,
                masks_per_port: limits.max_masks_per_port,
                signatures: limits.signature_entries,
            }),
            ports: (0..MAX_PORTS).map(|_| None).collect(),
            stats: Arc::default(),
            flow_limit: Arc::new(AtomicUsize::new(limits.max_flows)),
            cycle_counter: || 0,
            bursts: 0,
            search_cycles: 0,
            next_id: u64::from(limits.worker) << 48,
            scratch: Box::new(Scratch {
                keys: [FlowKey::default(); BURST],
                relevant: [RelevantWords::NONE; BURST],
                fates: [Fate::Drop(DropReason::FrameTooShort); BURST],
                found: [0; BURST],
                repeats: 0,
                once: Vec::with_capacity(BURST),
            }),
            batches: Batches::new(),
            again: Again::new(),
            recirculations: Recirculations::default(),
        }
    }

    /// The counters, to read them from anywhere.
    pub fn stats(&self) -> &Arc<PipelineStats> {
        &self.stats
    }

    /// The most megaflows it installs, within [`PipelineConfig::max_flows`], to lower and raise it from anywhere. Flows
    /// above it are the revalidator's to end.
    pub fn flow_limit(&self) -> &Arc<AtomicUsize> {
        &self.flow_limit
    }

    /// Times its passes with this counter of cycles from now on. Without one they count as no cycles.
    pub fn time_with(&mut self, cycle_counter: fn() -> u64) {
        self.cycle_counter = cycle_counter;
    }

    /// The classifier's subtables, port by port, in the order in which they are searched.
    pub fn subtables(&self) -> impl Iterator<Item = SubtableStats> + '_ {
        self.classifier.subtable_stats()
    }

    /// Switches a burst, all packets of which came in by the same port. Packets may be rewritten; the burst is the
    /// caller's to clear.
    pub fn process(&mut self, burst: &mut Burst, cx: &Context<'_>, out: &mut impl Transmit) {
        let Some(in_port) = burst.packets().first().map(|packet| packet.in_port) else {
            return;
        };
        debug_assert!(burst.packets().iter().all(|packet| packet.in_port == in_port));
        self.classifier.reclaim();
        let mut port = self.ports[in_port.index()].take().unwrap_or_else(|| self.new_port(in_port));

        let mut watch = self.start_watch();
        self.pass(burst, &Whole(burst.len()), &mut port, cx, &mut watch, out);
        add(&self.stats.timed_packets, burst.len() as u64 * u64::from(watch.runs));
        if !self.again.is_empty() {
            self.further_passes(burst, &mut port, cx, out);
        }
        add(&self.stats.punts, std::mem::take(&mut self.batches.punts));

        self.ports[in_port.index()] = Some(port);
        add(&self.stats.bursts, 1);
        add(&self.stats.packets, burst.len() as u64);
    }

    /// Takes a selection of the burst through the stages.
    #[inline]
    fn pass(
        &mut self,
        burst: &mut Burst,
        selection: &impl Selection,
        port: &mut IngressPort,
        cx: &Context<'_>,
        watch: &mut Stopwatch,
        out: &mut impl Transmit,
    ) {
        let mut pending = self.make_keys(burst, selection, port, cx.state.config.vlan_limit());
        watch.lap(&self.stats.timed_keys_cycles);
        if self.cache.is_enabled() && port.union.is_cacheable() {
            let asked = pending.as_slice().len() as u64;
            pending = self.ask_cache(port.id, &port.union, &pending);
            watch.lap(&self.stats.timed_exact_cycles);
            add(&self.stats.timed_exact_lookups, asked * u64::from(watch.runs));
        }
        if !pending.as_slice().is_empty() {
            self.search(burst, selection, port, pending, cx, watch);
        }
        self.carry_out(burst, selection, port.id, cx.now_ms, out);
        self.batches.flush(burst, out);
        watch.lap(&self.stats.timed_actions_cycles);
    }

    /// Takes what goes through the switch again through it, until nothing does.
    #[inline(never)]
    fn further_passes(
        &mut self,
        burst: &mut Burst,
        port: &mut IngressPort,
        cx: &Context<'_>,
        out: &mut impl Transmit,
    ) {
        // Before any of them is looked up, or it would be taken for a packet on its first pass.
        if !port.union.tells_passes() {
            port.union.tell_passes();
            self.cache.renew(port.id, &port.union);
        }
        let mut groups = std::mem::take(&mut self.again.spare);
        self.again.swap_groups(&mut groups);
        self.go_again(burst, &mut groups, 1, port, cx, out);
        self.again.spare = groups;
        // Bound: MAX_COPIES, each of which takes MAX_PASSES at most.
        while let Some(mut copies) = self.again.take_copies() {
            self.go_again(&mut copies.burst, &mut copies.groups, copies.pass, port, cx, out);
            self.again.reuse_copies(copies);
        }
        self.again.end();
    }

    /// Takes packets of one burst through passes, of which the first one is `pass`; `groups` is empty afterwards.
    fn go_again(
        &mut self,
        burst: &mut Burst,
        groups: &mut Vec<Group>,
        mut pass: usize,
        port: &mut IngressPort,
        cx: &Context<'_>,
        out: &mut impl Transmit,
    ) {
        let mut watch = Stopwatch { now: self.cycle_counter, lap: 0, runs: false };
        while !groups.is_empty() {
            self.again.next_pass = pass + 1;
            for (recirculation, positions) in groups.drain(..) {
                let packets = u64::from(positions.count_ones());
                if pass >= MAX_PASSES {
                    out.dropped(port.id, DropReason::TooManyPasses, packets);
                    continue;
                }
                add(&self.stats.recirculated, packets);
                self.pass(burst, &Returned::new(recirculation, positions), port, cx, &mut watch, out);
            }
            self.again.swap_groups(groups);
            pass += 1;
        }
    }

    /// Stages 3 and 4, for packets that the exact-match cache does not know.
    fn search(
        &mut self,
        burst: &mut Burst,
        selection: &impl Selection,
        port: &mut IngressPort,
        mut pending: Pending,
        cx: &Context<'_>,
        watch: &mut Stopwatch,
    ) {
        let begin = (self.cycle_counter)();
        let asked = pending.as_slice().len() as u64;
        pending = self.ask_classifier(port.id, &port.union, pending);
        let mut end = (self.cycle_counter)();
        if watch.runs {
            add(&self.stats.timed_classifier_cycles, end.wrapping_sub(begin));
            add(&self.stats.timed_classifier_lookups, asked);
        }
        if !pending.as_slice().is_empty() {
            let searched = end;
            self.ask_slow_path(burst, selection, port, &pending, cx);
            end = (self.cycle_counter)();
            add(&self.stats.upcall_cycles, end.wrapping_sub(searched));
        }
        watch.lap = end;
        self.search_cycles += end.wrapping_sub(begin);
    }

    /// Cycles that searching behind the exact-match cache took since the last call.
    #[inline]
    pub fn take_search_cycles(&mut self) -> u64 {
        std::mem::take(&mut self.search_cycles)
    }

    /// Housekeeping, about once a second.
    pub fn tick(&mut self) {
        self.classifier.reclaim();
        self.classifier.rank();
        self.cache.grow_if_crowded();
        self.classifier.purge(PURGE_STEPS);
        self.classifier.reclaim();
        self.recirculations.forget_unused();
        for index in 0..MAX_PORTS {
            let Some(port) = u16::try_from(index).ok().and_then(PortId::new) else { continue };
            // A union only grows while the port has flows. Once it has none, start over.
            if let Some(state) = &mut self.ports[index]
                && !state.union.is_empty()
                && self.classifier.len_of_port(port) == 0
            {
                state.union = Union::new();
                self.cache.renew(port, &state.union);
            }
        }
        self.publish_sizes();
    }

    /// Ends a megaflow, takes it out of the tables, if it is this worker's, and retires it. Between two bursts.
    pub fn remove(&mut self, flow: &Arc<Megaflow>) -> bool {
        let removed = self.classifier.remove(flow);
        self.classifier.reclaim();
        self.publish_sizes();
        removed
    }

    /// Forgets everything about an ingress port: before its number is given to another port.
    ///
    /// Megaflows of other ports that lead to it are the revalidator's to end.
    pub fn forget_port(&mut self, port: PortId) {
        self.classifier.remove_port(port);
        self.classifier.reclaim();
        self.ports[port.index()] = None;
        self.cache.renew(port, &Union::new());
        self.publish_sizes();
    }

    fn publish_sizes(&self) {
        self.stats.exact_match_entries.store(self.cache.len() as u64, Ordering::Relaxed);
        self.stats.flows.store(self.classifier.len() as u64, Ordering::Relaxed);
        self.stats.subtables.store(self.classifier.subtables() as u64, Ordering::Relaxed);
    }

    /// A watch that runs in one burst of [`TIMED_ONE_IN`].
    #[inline]
    fn start_watch(&mut self) -> Stopwatch {
        self.bursts += 1;
        let runs = self.bursts.is_multiple_of(TIMED_ONE_IN);
        Stopwatch { now: self.cycle_counter, lap: if runs { (self.cycle_counter)() } else { 0 }, runs }
    }

    fn new_port(&self, id: PortId) -> Box<IngressPort> {
        Box::new(IngressPort { id, union: Union::new(), budget: TokenBucket::new(&self.limits) })
    }

    /// Stage 1. Returns the slots to look up: the first packet of each run.
    fn make_keys(
        &mut self,
        burst: &mut Burst,
        selection: &impl Selection,
        IngressPort { id: in_port, union, .. }: &IngressPort,
        vlan_limit: VlanLimit,
    ) -> Pending {
        let Scratch { keys, relevant, fates, repeats, once, .. } = &mut *self.scratch;
        once.clear();
        *repeats = 0;
        let mut heads = Pending::NONE;
        let (depth, count, seed) = (union.depth(), union.count(), self.cache.seed(*in_port));
        let has_metadata = union.has_metadata();
        let mut has_previous = false;
        // One round, unless a packet cannot be read as it is: that one interrupts the round, and another goes on from there.
        let mut next = 0;
        loop {
            let mut interrupted = None;
            for (packet, at) in selection.packets(burst, next).zip(next..) {
                let key = &mut keys[at];
                if let Err(unread) = extract(packet, vlan_limit, depth, key) {
                    interrupted = Some((at, unread));
                    break;
                }
                selection.fill_metadata(key, has_metadata);
                let (before, rest) = relevant.split_at_mut(at);
                let words = &mut rest[0];
                let is_like_previous = match before.last() {
                    Some(before) if has_previous => union.pick_beside(key, before, words),
                    _ => {
                        union.pick(key, words);
                        false
                    }
                };
                has_previous = true;
                // While the port has no flow, nothing is known about what tells packets apart.
                if is_like_previous && count > 0 {
                    *repeats |= 1 << at;
                    continue;
                }
                words.hash(seed, count);
                if self.cache.is_enabled() {
                    self.cache.prefetch(words.hash);
                }
                #[allow(clippy::cast_possible_truncation, reason = "a burst has 32 packets")]
                heads.push(at as u8);
            }
            let Some((at, unread)) = interrupted else { return heads };
            next = match make_readable(burst, selection.position(at), vlan_limit, depth, unread) {
                Ok(()) => at,
                Err(reason) => {
                    fates[at] = Fate::Drop(reason);
                    add(&self.stats.unreadable, 1);
                    has_previous = false;
                    at + 1
                }
            };
        }
    }

    /// Stage 2. Returns the slots that the cache does not know.
    fn ask_cache(&mut self, in_port: PortId, union: &Union, heads: &Pending) -> Pending {
        let Scratch { relevant, fates, .. } = &mut *self.scratch;
        let mut names = [None; BURST];
        for &at in heads.as_slice() {
            let name = self.cache.lookup(in_port, &relevant[usize::from(at)], union.count());
            if let Some(name) = name {
                self.classifier.prefetch(name);
            }
            names[usize::from(at)] = name;
        }
        names.iter().flatten().for_each(|&name| self.classifier.prefetch_flow(name));
        let mut missed = Pending::NONE;
        for &at in heads.as_slice() {
            let name = names[usize::from(at)];
            let flow = name.and_then(|name| self.classifier.get(name));
            match (name, flow) {
                (Some(name), Some(flow)) if flow.is_alive() => {
                    fates[usize::from(at)] = Fate::Flow(name.index)
                }
                _ => missed.push(at),
            }
        }
        add(&self.stats.exact_hits, heads.as_slice().len() as u64 - missed.as_slice().len() as u64);
        missed
    }

    /// Stage 3. Returns the slots of packets that are in no megaflow.
    fn ask_classifier(&mut self, in_port: PortId, union: &Union, mut pending: Pending) -> Pending {
        let asked = pending.clone();
        let Scratch { keys, relevant, fates, found, .. } = &mut *self.scratch;
        let mut hashes = [0; BURST];
        for &at in asked.as_slice() {
            hashes[usize::from(at)] = relevant[usize::from(at)].hash;
        }
        let searched =
            self.classifier.lookup(in_port, &keys[..], Some(&hashes), union.depth(), &mut pending, found);
        add(&self.stats.subtables_searched, searched.subtables);
        add(&self.stats.signature_hits, searched.guessed);
        add(&self.stats.classifier_hits, asked.as_slice().len() as u64 - pending.as_slice().len() as u64);
        let mut still = pending.as_slice().iter().copied().peekable();
        for &at in asked.as_slice() {
            if still.next_if_eq(&at).is_some() {
                continue;
            }
            let index = found[usize::from(at)];
            fates[usize::from(at)] = Fate::Flow(index);
            let is_cached = self.cache.is_enabled() && union.is_cacheable();
            if let Some(flow) = self.classifier.flow(index) {
                flow.set_cached(is_cached);
            }
            if is_cached {
                remember(
                    &mut self.cache,
                    &self.classifier,
                    in_port,
                    &relevant[usize::from(at)],
                    union,
                    index,
                );
            }
        }
        pending
    }

    /// Stage 4.
    fn ask_slow_path(
        &mut self,
        burst: &mut Burst,
        selection: &impl Selection,
        port: &mut IngressPort,
        missed: &Pending,
        cx: &Context<'_>,
    ) {
        let mut news = News::default();
        for &head in missed.as_slice() {
            let mut at = usize::from(head);
            loop {
                self.upcall(burst, selection, at, port, &mut news, cx);
                // Runs were found under the union as it was when the burst began. Once it grew, in this run or another,
                // packets of a run may differ in a bit that matters now, and each is decided for itself.
                let is_shared = match self.scratch.fates[at] {
                    Fate::Flow(_) => !news.union_grew,
                    Fate::Drop(reason) => reason == DropReason::UpcallBudget,
                    Fate::Once(_) => false,
                };
                let next_repeats = at + 1 < selection.len() && self.scratch.repeats >> (at + 1) & 1 == 1;
                if is_shared || !next_repeats {
                    break;
                }
                at += 1;
                self.scratch.repeats &= !(1 << at);
            }
        }
        self.publish_sizes();
    }

    /// Decides about the packet of a slot that is in no megaflow, or was not when the burst began.
    fn upcall(
        &mut self,
        burst: &mut Burst,
        selection: &impl Selection,
        at: usize,
        port: &mut IngressPort,
        news: &mut News,
        cx: &Context<'_>,
    ) {
        let (in_port, position) = (port.id, selection.position(at));
        let Scratch { keys, relevant, fates, found, once, .. } = &mut *self.scratch;
        let key = &mut keys[at];
        let vlan_limit = cx.state.config.vlan_limit();
        if let Err(reason) = extract_at(burst, position, vlan_limit, Depth::Transport, key) {
            add(&self.stats.unreadable, 1);
            fates[at] = Fate::Drop(reason);
            return;
        }
        selection.fill_metadata(key, true);
        if news.installed {
            let mut again = Pending::NONE;
            #[allow(clippy::cast_possible_truncation, reason = "a burst has 32 packets")]
            again.push(at as u8);
            self.classifier.lookup(in_port, &keys[..], None, Depth::Transport, &mut again, found);
            if again.as_slice().is_empty() {
                add(&self.stats.classifier_hits, 1);
                fates[at] = Fate::Flow(found[at]);
                return;
            }
        }
        // What the operator changed costs no guest its packets.
        if !self.classifier.take_owed_upcall(in_port) && !port.budget.take(cx.now_ms, &self.limits) {
            add(&self.stats.upcalls_over_budget, 1);
            fates[at] = Fate::Drop(DropReason::UpcallBudget);
            return;
        }
        add(&self.stats.upcalls, 1);
        let key = &keys[at];
        let seen = cx.state.generations();
        let mut translation = match selection.resumes() {
            None => slow_path::translate(key, &cx.state, &mut ()),
            Some(recirculation) => slow_path::resume(key, recirculation.suspension(), &cx.state, &mut ()),
        };
        if let Some(source) = translation.learn
            && slow_path::learn(source, cx.now_ms, &cx.state).changed()
        {
            cx.events.fdb_changed();
        }
        let is_full = self.classifier.len() >= self.flow_limit.load(Ordering::Relaxed);
        if is_full || !self.classifier.has_room(in_port, &translation.mask) {
            add(&self.stats.flow_table_full, 1);
            self.recirculations.number_for_once(&mut translation.verdict);
            #[allow(clippy::cast_possible_truncation, reason = "a burst has 32 packets")]
            {
                fates[at] = Fate::Once(once.len() as u8);
            }
            once.push(translation.verdict);
            let bytes = burst.packets()[position].len() as u64;
            translation.rules.iter().for_each(|rule| rule.add(1, bytes, cx.now_ms));
            return;
        }
        self.recirculations.number(&mut translation.verdict);
        let spec = MegaflowSpec {
            mask: self.classifier.share_mask(in_port, &translation.mask),
            key: *key,
            verdict: translation.verdict,
            source: translation.learn,
            rules: translation.rules.into(),
            seen,
            resumes: selection.resumes().map(Arc::downgrade),
        };
        let flow = Arc::new(Megaflow::new(self.next_id, cx.now_ms, spec));
        self.next_id += 1;
        let Some(index) = self.classifier.insert(&flow) else { return };
        news.installed = true;
        add(&self.stats.flows_installed, 1);
        fates[at] = Fate::Flow(index);
        // Widened before any packet may be cached under the union again.
        if port.union.widen(&translation.mask) {
            news.union_grew = true;
            self.cache.renew(in_port, &port.union);
        }
        if self.cache.is_enabled() && port.union.is_cacheable() {
            flow.set_cached(true);
            port.union.pick(key, &mut relevant[at]);
            relevant[at].hash(self.cache.seed(in_port), port.union.count());
            remember(&mut self.cache, &self.classifier, in_port, &relevant[at], &port.union, index);
        }
        cx.events.flow_installed(flow);
    }

    /// Stage 5.
    fn carry_out(
        &mut self,
        burst: &mut Burst,
        selection: &impl Selection,
        in_port: PortId,
        now_ms: u64,
        out: &mut impl Transmit,
    ) {
        let Scratch { fates, repeats, once, .. } = &mut *self.scratch;
        add(&self.stats.repeats, u64::from(repeats.count_ones()));
        for at in 1..selection.len() {
            if *repeats >> at & 1 == 1 {
                fates[at] = fates[at - 1];
            }
        }
        let mut from = 0;
        while from < selection.len() {
            let fate = fates[from];
            let same = fates[from..selection.len()].iter().take_while(|&&other| other == fate).count();
            let stretch = from..from + same;
            from = stretch.end;
            let verdict = match fate {
                Fate::Drop(reason) => {
                    out.dropped(in_port, reason, same as u64);
                    continue;
                }
                Fate::Once(index) => once.get(usize::from(index)),
                Fate::Flow(index) => self.classifier.flow(index).map(|flow| {
                    let packets = selection.packets(burst, stretch.start).take(same);
                    let bytes = packets.map(|packet| packet.len() as u64).sum();
                    flow.count(same as u64, bytes, now_ms);
                    flow.verdict()
                }),
            };
            match verdict {
                Some(Verdict::Forward(actions)) => match **actions {
                    // The common case: to one port as it is.
                    [Action::Output(port)] => {
                        stretch.for_each(|slot| {
                            self.batches.push(port, selection.position(slot), burst, out);
                        });
                    }
                    _ => {
                        let mut ways = Ways { batches: &mut self.batches, again: &mut self.again, out };
                        stretch.for_each(|slot| run(actions, selection.position(slot), burst, &mut ways));
                    }
                },
                Some(Verdict::Drop(reason)) => out.dropped(in_port, *reason, same as u64),
                None => debug_assert!(false, "an index of this burst names a flow"),
            }
        }
    }
}

/// Places of the flow table that one tick looks at in search of dead flows. The usual way out is by name; this finds
/// those whose removal got lost, all of them in a minute or so.
const PURGE_STEPS: usize = 1024;

/// Enters a packet's words into the exact-match cache.
fn remember(
    cache: &mut FlowCache,
    classifier: &Classifier,
    in_port: PortId,
    words: &RelevantWords,
    union: &Union,
    index: u32,
) {
    let port_of = |name| classifier.port_of(name);
    cache.insert(in_port, words, union.count(), classifier.name(index), port_of);
}

#[cfg(test)]
mod tests;
