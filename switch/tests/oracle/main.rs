//! The switch against an interpreter that has no masks, no caches and no tables but a list of rules.
//!
//! Random rules, some of which have packets go through the switch again, and random packets go through a whole `Pipeline`, caches included, which forgets nothing between packets.
//! Every frame that leaves must have the bytes, checksums included, that `interpret.rs` builds from plain numbers, at
//! the same ports; every packet that does not leave must have the same reason. And for each translation, bits that its
//! mask leaves out are flipped and must not matter.
//!
//! The switches read one or two tags and show rules as much of fragments as each mode does; the packets have SNAP headers,
//! tags beyond the limit and chains of extension headers that do not end in the head.
//!
//! 200,000 packets by default; `VSTEER_ORACLE_PACKETS` asks for another number, the long run for 10,000,000.

/// What is done with a packet, worked out the plain way.
mod interpret;

/// Random rules and packets.
mod generate;

/// A packet as plain numbers, and its bytes.
mod plain;

use std::cell::RefCell;
use std::sync::Arc;

use vsteer_switch::action::{Action, Punt, Verdict};
use vsteer_switch::bridge::config::SwitchConfig;
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::flow::extract::extract_at;
use vsteer_switch::flow::key::{Depth, FlowKey, Mask};
use vsteer_switch::megaflow::Megaflow;
use vsteer_switch::packet::{Burst, Frame, Offload, Segment};
use vsteer_switch::pipeline::{Context, Events, Pipeline, PipelineConfig, Transmit};
use vsteer_switch::port::PortId;
use vsteer_switch::revalidate::still_valid;
use vsteer_switch::rule::action::RuleAction;
use vsteer_switch::rule::edit::Edit;
use vsteer_switch::rule::entry::RuleSpec;
use vsteer_switch::rule::field::Field;
use vsteer_switch::rule::set::RuleSet;
use vsteer_switch::slow_path::{Translation, resume, translate};
use vsteer_switch::state::SwitchState;

use generate::Random;
use interpret::{Fate, Rules};
use plain::Plain;

/// Packets for each rule set.
const PACKETS_PER_SET: usize = 5_000;
/// Different packets for each rule set: few enough that caches answer most.
const POOL: usize = 500;
/// Bits flipped for each translation.
const FLIPS: usize = 24;

/// The megaflows that are made.
#[derive(Default)]
struct Installed(RefCell<Vec<Arc<Megaflow>>>);

impl Events for Installed {
    fn flow_installed(&self, flow: Arc<Megaflow>) {
        self.0.borrow_mut().push(flow);
    }

    fn fdb_changed(&self) {}
}

/// What became of the packets of a burst.
#[derive(Debug, Default, PartialEq, Eq)]
struct Traffic {
    sent: Vec<(PortId, Vec<u8>)>,
    punted: Vec<Vec<u8>>,
    dropped: Vec<(PortId, DropReason, u64)>,
}

impl Transmit for Traffic {
    fn transmit(&mut self, port: PortId, burst: &Burst, indices: &[u8]) {
        self.sent.extend(indices.iter().map(|at| (port, bytes(&burst.frame(usize::from(*at))))));
    }

    fn punt(&mut self, _: PortId, frame: &Frame<'_>, _: Punt) {
        self.punted.push(bytes(frame));
    }

    fn dropped(&mut self, port: PortId, reason: DropReason, packets: u64) {
        self.dropped.push((port, reason, packets));
    }
}

/// All of a frame.
fn bytes(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = frame.head.to_vec();
    bytes.resize(frame.len(), 0);
    frame.tail.copy_to(&mut bytes[frame.head.len()..]);
    bytes
}

/// A burst of frames, which the caller holds for as long as it uses the burst.
fn fill(burst: &mut Burst, in_port: PortId, frames: &[&[u8]]) {
    burst.clear();
    for bytes in frames {
        let len = u32::try_from(bytes.len()).expect("a short frame");
        // SAFETY: each caller holds the frames for as long as it uses the burst, and fills or drops it then (condition 1).
        #[allow(unsafe_code, reason = "segments are made of raw pointers")]
        let segment = unsafe { Segment::new(bytes.as_ptr(), len) };
        burst.push(in_port, Offload::default(), &[segment]);
    }
}

/// A switch with random ports, addresses and rules.
struct World {
    config: SwitchConfig,
    fdb: Fdb,
    specs: Vec<RuleSpec>,
    rules: RuleSet,
}

impl World {
    fn new(random: &mut Random, rules: usize) -> Self {
        let (config, fdb) = (generate::config(random), generate::fdb(random));
        let specs = generate::rules(random, rules);
        let edited = RuleSet::learning_switch(0).edit(&[Edit::Replace(specs.clone())], 0);
        Self { config, fdb, specs, rules: edited.expect("no rule is given twice").set }
    }

    fn state(&self) -> SwitchState<'_> {
        SwitchState { config: &self.config, fdb: &self.fdb, rules: &self.rules }
    }
}

/// The reference's word on a burst: at each port in order of arrival, and whether some of its packets go again.
fn expected(world: &World, rules: &Rules<'_>, packets: &[&Plain]) -> (Traffic, bool) {
    let mut wanted = Traffic::default();
    let mut is_overtaking = false;
    for packet in packets {
        let Fate { sent, punted, dropped, recirculated, .. } =
            interpret::fate(packet, rules, &world.config, &world.fdb);
        is_overtaking |= recirculated > 0;
        wanted.sent.extend(sent);
        wanted.punted.extend(punted);
        let in_port = PortId::new(u16::try_from(packet.in_port).expect("a port")).expect("a port");
        wanted.dropped.extend(dropped.into_iter().map(|reason| (in_port, reason, 1)));
    }
    (wanted, is_overtaking)
}

/// In an order that does not depend on how outputs were gathered: by port, and by reason. Where packets go again, those of a
/// burst that do not overtake them.
fn sorted(mut traffic: Traffic, is_overtaking: bool) -> Traffic {
    if is_overtaking {
        traffic.sent.sort();
        traffic.punted.sort();
    }
    traffic.sent.sort_by_key(|(port, _)| *port);
    let mut dropped: Vec<(PortId, DropReason, u64)> = Vec::new();
    for (port, reason, packets) in traffic.dropped {
        match dropped.iter_mut().find(|other| (other.0, other.1) == (port, reason)) {
            Some(other) => other.2 += packets,
            None => dropped.push((port, reason, packets)),
        }
    }
    dropped.sort_by_key(|(port, reason, _)| (*port, reason.index()));
    Traffic { dropped, ..traffic }
}

fn key_of(world: &World, burst: &mut Burst) -> FlowKey {
    let mut key = FlowKey::default();
    let extracted = extract_at(burst, 0, world.config.vlan_limit(), Depth::Transport, &mut key);
    assert_eq!(extracted, Ok(()));
    key
}

/// A bit outside `mask` that matters to what is decided about `key`, and to which rules decide it, among `bits`. The mask
/// itself may be another: there can be two reasons why a rule does not match, each of which is enough.
fn bit_that_matters(
    key: &FlowKey,
    mask: &Mask,
    decide: impl Fn(&FlowKey) -> Translation,
    bits: impl IntoIterator<Item = usize>,
) -> Option<usize> {
    let decided = decide(key);
    bits.into_iter().find(|bit| {
        let (word, bit) = (bit / 64, 1 << (bit % 64));
        let mut flipped = *key;
        flipped.words_mut()[word] ^= bit;
        let is_outside = mask.0.words()[word] & bit == 0;
        is_outside && Translation { mask: decided.mask, ..decide(&flipped) } != decided
    })
}

fn wanted_packets() -> usize {
    match std::env::var("VSTEER_ORACLE_PACKETS") {
        Ok(text) => text.parse().expect("VSTEER_ORACLE_PACKETS is a number of packets"),
        Err(_) => 200_000,
    }
}

/// What the packets of all rule sets met, to see that none of it is missing.
#[derive(Debug, Default)]
struct Coverage {
    forwarded: usize,
    rewritten: usize,
    tagged: usize,
    punted: usize,
    copied: usize,
    conjunctions: usize,
    /// Packets that were left out as the interpreter cannot say what becomes of them.
    beyond: usize,
    recirculated: u64,
    resumed: usize,
    /// Fragments.
    fragments: usize,
    /// With SNAP or tags that are passed over.
    wrapped: usize,
    /// With extension headers that do not end in the head.
    long_chains: usize,
    reasons: Vec<DropReason>,
    hits: u64,
    upcalls: u64,
}

impl Coverage {
    fn note_packet(&mut self, packet: &Plain) {
        self.fragments += usize::from(packet.frag != 0);
        self.wrapped += usize::from(!packet.between.is_empty());
        self.long_chains += usize::from(packet.extensions > 20);
    }

    fn note(&mut self, translation: &Translation) {
        let met = |is_it: fn(&RuleSpec) -> bool| {
            usize::from(translation.rules.iter().any(|rule| is_it(rule.spec())))
        };
        self.copied += met(|spec| spec.actions.iter().any(|step| matches!(step, RuleAction::Clone(_))));
        self.conjunctions += met(|spec| spec.matching.field(Field::ConjId).0 != 0);
        match &translation.verdict {
            Verdict::Drop(reason) if !self.reasons.contains(reason) => self.reasons.push(*reason),
            Verdict::Drop(_) => {}
            Verdict::Forward(actions) => {
                self.forwarded += 1;
                let has = |wanted: fn(&Action) -> bool| usize::from(actions.iter().any(wanted));
                self.rewritten += has(|action| matches!(action, Action::Rewrite(_)));
                self.tagged += has(|action| matches!(action, Action::PushVlan(_) | Action::PopVlan));
                self.punted += has(|action| matches!(action, Action::Punt(_)));
            }
        }
    }
}

#[test]
fn every_packet_of_every_rule_set_is_treated_as_the_interpreter_says() {
    let mut random = Random::new(0x0ddb_a11d_ecaf_bad1);
    let mut coverage = Coverage::default();
    let mut left = wanted_packets();
    let mut sizes = [3, 30, 300, 2_000].into_iter().cycle();
    while left > 0 {
        let packets = left.min(PACKETS_PER_SET);
        left -= packets;
        let world = World::new(&mut random, sizes.next().expect("a cycle"));
        compare(&world, &mut random, packets, &mut coverage);
    }
    println!("{coverage:?}");
    let Coverage {
        forwarded,
        rewritten,
        tagged,
        punted,
        copied,
        conjunctions,
        beyond,
        recirculated,
        resumed,
        fragments,
        wrapped,
        long_chains,
        reasons,
        hits,
        upcalls,
    } = coverage;
    for count in [forwarded, rewritten, tagged, punted, copied, conjunctions, resumed] {
        assert!(count > 50, "too few to mean anything");
    }
    for count in [fragments, wrapped, long_chains] {
        assert!(count > 50, "too few to mean anything");
    }
    assert!(recirculated > 1_000 && forwarded > 10 * beyond);
    let wanted = [
        DropReason::RuleDrop,
        DropReason::NoRule,
        DropReason::NoEgress,
        DropReason::TtlExceeded,
        DropReason::Fragment,
    ];
    for reason in wanted {
        assert!(reasons.contains(&reason), "{reason:?} never occurred");
    }
    assert!(hits > upcalls, "the caches answered");
}

/// Sends `packets` packets through a pipeline and the interpreter.
fn compare(world: &World, random: &mut Random, packets: usize, coverage: &mut Coverage) {
    let (rules, limit) = (Rules::new(&world.specs), world.config.vlan_limit());
    let mut pool = Vec::new();
    while pool.len() < POOL {
        let packet = generate::packet(random, &world.specs, limit);
        if interpret::fate(&packet, &rules, &world.config, &world.fdb).is_beyond {
            coverage.beyond += 1;
        } else {
            pool.push(packet);
        }
    }
    let bytes: Vec<Vec<u8>> = pool.iter().map(Plain::bytes).collect();
    let limits =
        PipelineConfig { exact_match_entries: 128, upcall_burst_pkts: u32::MAX, ..PipelineConfig::default() };
    let installed = Installed::default();
    let mut pipeline = Pipeline::new(limits);
    let mut burst = Burst::new();
    let cx = Context {
        now_ms: 1,
        state: SwitchState { config: &world.config, fdb: &world.fdb, rules: &world.rules },
        events: &installed,
    };
    let decide = |key: &FlowKey| translate(key, &world.state(), &mut ());
    for (packet, bytes) in pool.iter().zip(&bytes) {
        fill(&mut burst, packet.port(), &[bytes]);
        let key = key_of(world, &mut burst);
        let translation = decide(&key);
        coverage.note(&translation);
        coverage.note_packet(packet);
        let bits: Vec<usize> = (0..FLIPS).map(|_| random.below(FlowKey::WORDS * 64)).collect();
        let matters = bit_that_matters(&key, &translation.mask, decide, bits);
        assert_eq!(matters, None, "{packet:?} under {:?}", translation.mask);
    }
    let mut sent = 0;
    while sent < packets {
        let first = random.below(POOL);
        let in_port = pool[first].in_port;
        let picked: Vec<usize> = (0..1 + random.below(8))
            .map(|_| random.below(POOL))
            .filter(|&other| pool[other].in_port == in_port)
            .chain([first, first])
            .collect();
        sent += picked.len();
        let frames: Vec<&[u8]> = picked.iter().map(|&nth| &bytes[nth][..]).collect();
        fill(&mut burst, pool[first].port(), &frames);
        let mut seen = Traffic::default();
        pipeline.process(&mut burst, &cx, &mut seen);
        let packets: Vec<&Plain> = picked.iter().map(|&nth| &pool[nth]).collect();
        let (wanted, is_overtaking) = expected(world, &rules, &packets);
        let (seen, wanted) = (sorted(seen, is_overtaking), sorted(wanted, is_overtaking));
        if seen != wanted {
            let alone =
                packets.iter().zip(&frames).find_map(|(packet, frame)| explain(world, &rules, packet, frame));
            panic!(
                "{}",
                alone.unwrap_or_else(|| format!("together: {seen:?}\nnot {wanted:?}\nfor {packets:?}"))
            );
        }
    }
    for flow in installed.0.take() {
        let Some(recirculation) = flow.resumes() else { continue };
        let recirculation = recirculation.upgrade().expect("the megaflow that leads here is in the table");
        coverage.resumed += 1;
        assert!(still_valid(&flow, &world.state()), "{flow:?}");
        let bits: Vec<usize> = (0..FLIPS).map(|_| random.below(FlowKey::WORDS * 64)).collect();
        let decide = |key: &FlowKey| resume(key, recirculation.suspension(), &world.state(), &mut ());
        assert_eq!(bit_that_matters(flow.key(), flow.mask(), decide, bits), None, "{flow:?}");
    }
    for (name, count) in pipeline.stats().snapshot() {
        match name {
            "recirculated" => coverage.recirculated += count,
            "repeats" | "exact_hits" | "classifier_hits" => coverage.hits += count,
            "upcalls" => coverage.upcalls += count,
            _ => {}
        }
    }
}

/// What differs if the packet goes through a fresh pipeline alone, and which rules it met; `None` if nothing does.
fn explain(world: &World, rules: &Rules<'_>, packet: &Plain, bytes: &[u8]) -> Option<String> {
    let mut burst = Burst::new();
    fill(&mut burst, packet.port(), &[bytes]);
    let translation = translate(&key_of(world, &mut burst), &world.state(), &mut ());
    let cx = Context {
        now_ms: 1,
        state: SwitchState { config: &world.config, fdb: &world.fdb, rules: &world.rules },
        events: &Installed::default(),
    };
    let mut seen = Traffic::default();
    Pipeline::new(PipelineConfig::default()).process(&mut burst, &cx, &mut seen);
    let (wanted, _) = expected(world, rules, &[packet]);
    let (seen, wanted) = (sorted(seen, true), sorted(wanted, true));
    let rules: Vec<_> =
        translation.rules.iter().map(|rule| (rule.spec().table, &rule.spec().actions)).collect();
    let ports = |traffic: &Traffic| traffic.sent.iter().map(|sent| sent.0.number()).collect::<Vec<_>>();
    let differing = seen.sent.iter().zip(&wanted.sent).find(|(seen, wanted)| seen != wanted);
    (seen != wanted).then(|| {
        format!(
            "sent to {:?}, not {:?}; first that differs {differing:?}; punted alike: {}; dropped {:?}, not {:?}\n{packet:?}\n\
             {rules:?}\n{:?}\n{:?}",
            ports(&seen),
            ports(&wanted),
            seen.punted == wanted.punted,
            seen.dropped,
            wanted.dropped,
            translation.verdict,
            world.config.mirrors(),
        )
    })
}

/// The oracle must find a mask that is one bit too wide. Not every bit of a mask decides for every packet, but of those that
/// do, taking any one out must show.
#[test]
fn mask_widened_by_one_bit_is_caught() {
    let mut random = Random::new(0x5eed_0fa1_1eed_5eed);
    let mut caught = 0;
    for _ in 0..20 {
        let world = World::new(&mut random, 300);
        for _ in 0..10 {
            let packet = generate::packet(&mut random, &world.specs, world.config.vlan_limit());
            let (bytes, mut burst) = (packet.bytes(), Burst::new());
            fill(&mut burst, packet.port(), &[&bytes]);
            let key = key_of(&world, &mut burst);
            let decide = |key: &FlowKey| translate(key, &world.state(), &mut ());
            let mask = decide(&key).mask;
            let matters = bit_that_matters(&key, &mask, decide, 0..FlowKey::WORDS * 64);
            assert_eq!(matters, None, "{packet:?} under {mask:?}");
            for bit in (0..FlowKey::WORDS * 64).filter(|bit| mask.0.words()[bit / 64] >> (bit % 64) & 1 == 1)
            {
                let mut wider = mask;
                wider.0.words_mut()[bit / 64] &= !(1 << (bit % 64));
                caught += usize::from(bit_that_matters(&key, &wider, decide, [bit]) == Some(bit));
            }
        }
    }
    assert!(caught > 1_000, "{caught} widened masks were caught");
}
