//! The entry that the `translate` fuzz target and an ordinary test of the switch share.
//!
//! An input is a number of rules, the rules, seven control bytes, and a frame. A rule is [`RULE_BYTES`] bytes: its
//! table, priority, one condition, and three steps of three bytes. The frame lies in pieces, each an allocation of its own.
//!
//! Promises: nothing panics or reads past a piece; the second and third packet of a kind, which caches decide, fare as the
//! first; every packet goes somewhere or is counted as dropped; frames grow and shrink by whole tags; bits that the mask
//! leaves out do not matter.

#![allow(unsafe_code, reason = "segments of a burst point into pieces that outlive it")]

use std::sync::Arc;

use vsteer_switch::action::{Action, Punt, Verdict};
use vsteer_switch::bridge::config::{PortVlan, SwitchConfig};
use vsteer_switch::bridge::fdb::Fdb;
use vsteer_switch::bridge::mirror::{Mirror, MirroredPorts};
use vsteer_switch::bridge::vlan::VlanMode;
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::flow::extract::extract_at;
use vsteer_switch::flow::key::{Depth, FlowKey};
use vsteer_switch::megaflow::Megaflow;
use vsteer_switch::packet::{Burst, Checksum, Frame, Offload, Segment};
use vsteer_switch::pipeline::{Context, Events, Pipeline, PipelineConfig, Transmit};
use vsteer_switch::port::PortId;
use vsteer_switch::rule::action::{OutputTo, Reason, RuleAction, Subfield};
use vsteer_switch::rule::edit::Edit;
use vsteer_switch::rule::entry::RuleSpec;
use vsteer_switch::rule::field::Field;
use vsteer_switch::rule::matching::Match;
use vsteer_switch::rule::port::RulePort;
use vsteer_switch::rule::set::RuleSet;
use vsteer_switch::slow_path::{Translation, translate};
use vsteer_switch::state::SwitchState;
use vsteer_switch::wire::vlan::{VlanId, VlanLimit};

const MOST_RULES: usize = 12;
const RULE_BYTES: usize = 14;
const CONTROL_BYTES: usize = 7;
/// Longest frame that is tried.
const MOST_FRAME_BYTES: usize = 2_000;

/// What one input did, so that a test can tell that its inputs reach everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    /// Too short for rules and control bytes, or for a frame that has a key.
    NoFrame,
    /// Sent or punted as it came, or with other tags.
    Passed,
    /// Sent or punted with rewritten headers.
    Rewritten,
    /// Dropped.
    Dropped(DropReason),
}

struct Nobody;

impl Events for Nobody {
    fn flow_installed(&self, _: Arc<Megaflow>) {}
    fn fdb_changed(&self) {}
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Traffic {
    sent: Vec<(PortId, Vec<u8>)>,
    punted: Vec<(Punt, Vec<u8>)>,
    dropped: Vec<(PortId, DropReason, u64)>,
}

impl Transmit for Traffic {
    fn transmit(&mut self, port: PortId, burst: &Burst, indices: &[u8]) {
        let bytes = |at: &u8| bytes_of(&burst.frame(usize::from(*at)));
        self.sent.extend(indices.iter().map(|at| (port, bytes(at))));
    }

    fn punt(&mut self, _: PortId, frame: &Frame<'_>, punt: Punt) {
        self.punted.push((punt, bytes_of(frame)));
    }

    fn dropped(&mut self, port: PortId, reason: DropReason, packets: u64) {
        self.dropped.push((port, reason, packets));
    }
}

fn bytes_of(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = frame.head.to_vec();
    bytes.resize(frame.len(), 0);
    frame.tail.copy_to(&mut bytes[frame.head.len()..]);
    bytes
}

/// Runs one input.
///
/// # Panics
/// If the switch breaks a promise.
pub(crate) fn run(input: &[u8]) -> Outcome {
    let Some((&count, rest)) = input.split_first() else { return Outcome::NoFrame };
    let rules_len = usize::from(count) % (MOST_RULES + 1) * RULE_BYTES;
    let Some((rules, rest)) = rest.split_at_checked(rules_len) else { return Outcome::NoFrame };
    let Some((control, frame)) = rest.split_first_chunk::<CONTROL_BYTES>() else { return Outcome::NoFrame };
    let frame = &frame[..frame.len().min(MOST_FRAME_BYTES)];
    if frame.len() < 14 {
        return Outcome::NoFrame;
    }
    let (config, fdb) = (config(control[0]), Fdb::new(16));
    let specs = rules.chunks_exact(RULE_BYTES).map(rule).collect();
    let Ok(edited) = RuleSet::learning_switch(0).edit(&[Edit::Replace(specs)], 0) else {
        return Outcome::NoFrame;
    };
    let state = SwitchState { config: &config, fdb: &fdb, rules: &edited.set };

    let in_port = port(control[1] % 6);
    let pieces: Vec<Box<[u8]>> = frame.chunks(usize::from(control[2]).max(7)).map(Box::from).collect();
    let fill = |burst: &mut Burst| {
        burst.clear();
        let segments: Vec<Segment> = pieces
            .iter()
            .map(|piece| {
                let len = u32::try_from(piece.len()).expect("shorter than a frame");
                // SAFETY: `pieces` outlives the burst's packets (condition 1).
                unsafe { Segment::new(piece.as_ptr(), len) }
            })
            .collect();
        burst.push(in_port, offload(control), &segments);
    };
    let mut burst = Burst::new();
    fill(&mut burst);
    let mut key = FlowKey::default();
    let extracted = extract_at(&mut burst, 0, config.vlan_limit(), Depth::Transport, &mut key);
    let translation = extracted.map(|()| translate(&key, &state, &mut ()));
    if let Ok(translation) = &translation {
        check_mask(&key, translation, &state, u16::from_le_bytes([control[5], control[6]]));
    }

    let mut pipeline = Pipeline::new(PipelineConfig { exact_match_entries: 64, ..PipelineConfig::default() });
    let cx = Context {
        now_ms: 1,
        state: SwitchState { config: &config, fdb: &fdb, rules: &edited.set },
        events: &Nobody,
    };
    let mut first = None;
    for _ in 0..3 {
        fill(&mut burst);
        let mut seen = Traffic::default();
        pipeline.process(&mut burst, &cx, &mut seen);
        check_frames(&seen, frame.len());
        assert_eq!(first.get_or_insert_with(|| clone(&seen)), &seen, "caches decide like the slow path");
    }
    let verdict = match &translation {
        Ok(translation) => &translation.verdict,
        Err(reason) => {
            assert_eq!(
                first.map(|seen| seen.dropped),
                Some(vec![(in_port, *reason, 1)]),
                "nothing else became of it"
            );
            return Outcome::Dropped(*reason);
        }
    };
    match verdict {
        Verdict::Drop(reason) => Outcome::Dropped(*reason),
        Verdict::Forward(actions) if actions.iter().any(|action| matches!(action, Action::Rewrite(_))) => {
            Outcome::Rewritten
        }
        Verdict::Forward(_) => Outcome::Passed,
    }
}

fn clone(traffic: &Traffic) -> Traffic {
    let Traffic { sent, punted, dropped } = traffic;
    Traffic { sent: sent.clone(), punted: punted.clone(), dropped: dropped.clone() }
}

/// A bit outside the mask changes neither the verdict nor the rules that led to it.
fn check_mask(key: &FlowKey, translation: &Translation, state: &SwitchState<'_>, start: u16) {
    for bit in (usize::from(start)..).take(16).map(|bit| bit % (FlowKey::WORDS * 64)) {
        let (word, bit) = (bit / 64, 1 << (bit % 64));
        if translation.mask.0.words()[word] & bit == 0 {
            let mut flipped = *key;
            flipped.words_mut()[word] ^= bit;
            let other = Translation { mask: translation.mask, ..translate(&flipped, state, &mut ()) };
            assert_eq!(&other, translation, "word {word}, bit {bit:#x}");
        }
    }
}

fn check_frames(seen: &Traffic, len: usize) {
    let frames = seen.sent.iter().map(|(_, bytes)| bytes).chain(seen.punted.iter().map(|(_, bytes)| bytes));
    for bytes in frames {
        assert_eq!(bytes.len().abs_diff(len) % 4, 0, "{} bytes of {len}", bytes.len());
    }
    let fates = seen.sent.len() + seen.punted.len() + seen.dropped.len();
    assert!(fates > 0, "a packet that went nowhere is counted");
}

fn port(number: u8) -> PortId {
    PortId::new(number.into()).expect("a small number")
}

/// A port as rules number it: there, not there, or `LOCAL`.
fn rule_port(number: u8) -> RulePort {
    if number == 7 { RulePort::LOCAL } else { port(number).into() }
}

fn config(choice: u8) -> SwitchConfig {
    let vlan = VlanId::new(10).expect("a VLAN");
    let modes = [VlanMode::Access(vlan), VlanMode::default()];
    // Nothing is learned: the second packet must meet what the first did.
    let ports = (0..6).map(|number| {
        let mode = modes[usize::from(choice >> number & 1)].clone();
        (port(number), PortVlan { mode, mac_limit: 0, ..PortVlan::default() })
    });
    let mirror = Mirror {
        name: "m0".to_owned(),
        sources: MirroredPorts::All,
        destinations: MirroredPorts::These([port(2)].into()),
        vlans: Box::default(),
        output: port(5),
    };
    let vlan_limit = if choice & 0x20 != 0 { VlanLimit::Two } else { VlanLimit::One };
    let config = SwitchConfig::new(1, ports)
        .with_local((choice & 0x40 == 0).then(|| port(4)))
        .with_vlan_limit(vlan_limit);
    if choice & 0x80 != 0 { config.with_mirrors([mirror]) } else { config }
}

fn offload(control: &[u8; CONTROL_BYTES]) -> Offload {
    let checksum = match control[3] % 3 {
        0 => Checksum::Unknown,
        1 => Checksum::Verified,
        _ => Checksum::Partial { start: control[4].into(), offset: u16::from(control[3] / 3 % 32) },
    };
    Offload { checksum, ..Offload::default() }
}

fn field(choice: u8) -> Field {
    let named = Field::NAMED;
    match usize::from(choice) {
        choice if choice % 8 == 0 => Field::Reg(u8::try_from(choice / 8 % 4).expect("a register")),
        choice => named[choice % named.len()],
    }
}

fn writable(choice: u8) -> Field {
    let field = field(choice);
    if field.is_writable() { field } else { Field::EthDst }
}

/// Values and masks worth trying, of any width.
fn bits(choice: u8) -> u128 {
    match choice {
        0xf0.. => u128::MAX << (8 * u32::from(choice & 0xf)),
        0xe0..=0xef => 1 << (8 * u32::from(choice & 0xf)),
        _ => u128::from(choice),
    }
}

fn rule(bytes: &[u8]) -> RuleSpec {
    let mut matching = Match::ANY;
    if bytes[2] & 1 == 1 {
        matching.require(field(bytes[2] >> 1), bits(bytes[3]), bits(bytes[4]));
    }
    let table = bytes[0] % 4;
    RuleSpec {
        table,
        priority: u16::from(bytes[1]) + 1,
        cookie: 0,
        idle_timeout_s: 0,
        hard_timeout_s: 0,
        remarks: Default::default(),
        matching,
        actions: bytes[5..].as_chunks::<3>().0.iter().map(|step| action(*step, table)).collect(),
    }
}

fn action([kind, a, b]: [u8; 3], table: u8) -> RuleAction {
    let subfield = |choice, bits| Subfield { field: writable(choice), offset: 0, bits };
    match kind % 25 {
        0 | 1 => RuleAction::Output(OutputTo::Port(rule_port(a % 8))),
        2 => RuleAction::Output(OutputTo::Port(RulePort::NORMAL)),
        3 => RuleAction::Output(OutputTo::Port(RulePort::ALL)),
        4 => RuleAction::Output(OutputTo::Port(RulePort::IN_PORT)),
        5 => {
            RuleAction::Output(OutputTo::Subfield(Subfield { field: Field::Reg(a % 4), offset: 0, bits: 16 }))
        }
        6 => RuleAction::Controller { max_len: u16::from(a), id: b.into(), reason: Reason::Action },
        7 => RuleAction::PushVlan(if a & 1 == 0 { 0x8100 } else { 0x88a8 }),
        8 => RuleAction::PopVlan,
        9 => RuleAction::ModVlanVid(u16::from_le_bytes([a, b]) & 0xfff),
        10 => RuleAction::ModVlanPcp(a & 7),
        11 | 12 => RuleAction::SetField { field: writable(a), value: bits(b), mask: u128::MAX },
        13 => RuleAction::SetField { field: writable(a), value: u128::MAX, mask: bits(b) },
        14 => {
            let width = writable(a).bits().min(writable(b).bits());
            RuleAction::Move { from: subfield(a, width), to: subfield(b, width) }
        }
        15 => RuleAction::DecTtl([].into()),
        16 => RuleAction::Resubmit { in_port: (a & 1 == 1).then(|| rule_port(a % 8)), table: Some(b % 4) },
        18 => RuleAction::Push(subfield(a, 1 + b % writable(a).bits())),
        19 => RuleAction::Pop(subfield(a, 1 + b % writable(a).bits())),
        20 => {
            RuleAction::Clone([action([a % 24, b, a / 24], table), action([b % 24, a, b / 24], table)].into())
        }
        21 => RuleAction::Exit,
        24 => RuleAction::DebugRecirc,
        22 => RuleAction::Conjunction { id: u32::from(b & 3), dimension: a & 1, dimensions: 2 },
        _ if b & 1 == 1 => RuleAction::GotoTable(table + 1 + a % 2),
        _ => RuleAction::WriteActions([action([a % 16, b, a], table), action([b % 16, a, b], table)].into()),
    }
}
