//! What would happen to a packet, and why: the slow path's own translation, watched.
//!
//! It runs on the control thread against the present snapshot and changes nothing: no address is learned, no megaflow
//! installed, no counter moved. So it tells what the rules say now, which is what a megaflow that is already installed
//! says as well, or will within moments.

use std::collections::VecDeque;
use std::sync::Arc;

use vsteer_switch::action::{Action, Verdict};
use vsteer_switch::drop_reason::DropReason;
use vsteer_switch::flow::fields::{FROM_LOCAL, Fields};
use vsteer_switch::flow::key::FlowKey;
use vsteer_switch::packet::{MAX_FRAME_BYTES, MIN_FRAME_BYTES};
use vsteer_switch::pipeline::MAX_PASSES;
use vsteer_switch::port::PortId;
use vsteer_switch::recirculation::Suspension;
use vsteer_switch::rule::action::RuleAction;
use vsteer_switch::rule::entry::Rule;
use vsteer_switch::rule::field::Field;
use vsteer_switch::rule::port::RulePort;
use vsteer_switch::rule::set::RuleSet;
use vsteer_switch::rule::text::{self, UNNAMED_SOURCE, parse_packet};
use vsteer_switch::slow_path::trace::{Note, Observer};
use vsteer_switch::slow_path::{Translation, resume, translate_with};

use super::packet_text::{key_of, packet_text};
use super::rules::text_refusal;
use super::{Appliance, Refusal};
use crate::flow_text::{mac_text, match_text, verdict_text};
use crate::port::report::{DriverStatus, Link};
use crate::port_numbers::PortNumbers;
use crate::table_names::TableNames;
use crate::topology::Topology;

/// Most bytes of a trace's steps: rules that resubmit in circles could make gigabytes of them.
const MAX_STEPS_BYTES: usize = 1024 * 1024;

/// Most further passes of a packet and its copies that are shown.
const MAX_FURTHER_PASSES: usize = 64;

/// A packet to trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TracedPacket<'a> {
    /// Fields in ovs-ofctl's syntax, or in that of a megaflow; what is not named is zero.
    Fields(&'a str),
    /// A packet, and fields that say where it comes in and what rules are to find in registers.
    FieldsAndBytes {
        /// The fields; what they say of headers does not count.
        fields: &'a str,
        /// Its bytes.
        bytes: &'a [u8],
    },
    /// A packet.
    Bytes {
        /// Name of the port that it comes in by.
        in_port: &'a str,
        /// Its bytes.
        bytes: &'a [u8],
    },
}

/// What the switch would do with a packet now, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceReport {
    /// Which pass through the switch this is: zero for the first, else the number in the action that led to it.
    pub recirc_id: u32,
    /// The packet's fields in ovs-ofctl's syntax.
    pub flow: String,
    /// Tables, rules and actions in the order in which they were taken.
    pub steps: Vec<TraceStep>,
    /// What the rules make of it, in the same syntax; as it came if they change nothing.
    pub final_flow: String,
    /// What the megaflow that would be installed matches.
    pub megaflow: String,
    /// What happens to the packet, in the words of megaflows.
    pub actions: String,
    /// Why it is dropped, if it is.
    pub drop: Option<DropReason>,
    /// What it would teach the switch, and what stands in the way of the actions now.
    pub remarks: Vec<String>,
    /// Of the first pass: the later ones, and those of copies, in the order in which they are taken.
    pub further: Vec<TraceReport>,
}

/// A step of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceStep {
    /// How deep in resubmits it is.
    pub depth: u16,
    /// What was done.
    pub text: String,
}

impl Appliance {
    /// What would happen to a packet. Nothing changes by asking.
    ///
    /// # Errors
    /// The fields are none, or there is no such port, or no such packet.
    pub fn trace(&self, packet: TracedPacket<'_>) -> Result<TraceReport, Refusal> {
        let topology = self.fabric.topology.load();
        let read = |text: &str| {
            let packet = parse_packet(text, &*topology.numbers);
            from_a_port(packet.map_err(|error| text_refusal(None, &error))?, &topology)
        };
        let (fields, bytes) = match packet {
            TracedPacket::Fields(text) => (read(text)?, None),
            TracedPacket::FieldsAndBytes { fields, bytes } => (read(fields)?, Some(bytes)),
            TracedPacket::Bytes { in_port, bytes } => {
                let key = FlowKey {
                    in_port: self.ports.lock().find(in_port)?.id.number().into(),
                    ..FlowKey::default()
                };
                (Fields::of_packet(key), Some(bytes))
            }
        };
        let fields = match bytes {
            None => fields,
            Some(bytes) if bytes.len() > MAX_FRAME_BYTES => {
                return Err(Refusal::invalid(format!(
                    "the packet has {} bytes; give one of at most {MAX_FRAME_BYTES}",
                    bytes.len()
                )));
            }
            Some(bytes) if bytes.len() < MIN_FRAME_BYTES => return Ok(too_short(bytes.len())),
            Some(bytes) => {
                let limit = topology.switch.vlan_limit();
                Fields { key: key_of(fields.key.in_port, bytes, bytes.len(), limit), ..fields }
            }
        };
        Ok(self.trace_fields(&fields, &topology))
    }

    fn trace_fields(&self, fields: &Fields, topology: &Topology) -> TraceReport {
        let state = topology.state(&self.fabric.fdb);
        let mut recorder = Recorder::new(topology);
        let translation = translate_with(*fields, &state, &mut recorder);
        let mut report = recorder.report(fields, &translation, topology);
        report.remarks.splice(0..0, remarks_on_packet(fields));
        // Bound: each pass is counted.
        while let Some(Suspended { pass, fields: came_as, suspension }) = recorder.suspended.pop_front() {
            if pass == MAX_PASSES {
                report.remarks.push(format!(
                    "recirc({:#x}) is one pass too many for the packet, which is dropped there ({})",
                    came_as.key.recirc_id.get(),
                    DropReason::TooManyPasses.name()
                ));
                continue;
            }
            recorder.pass = pass;
            if report.further.len() == MAX_FURTHER_PASSES {
                let left_out = recorder.suspended.len() + 1;
                report.remarks.push(format!(
                    "at least {left_out} more passes through the switch were taken; they are not shown"
                ));
                break;
            }
            let key = FlowKey { in_port: fields.key.in_port, ..came_as.key };
            let fields = Fields { key, ..came_as };
            let translation = resume(&fields.key, &suspension, &state, &mut recorder);
            report.further.push(recorder.report(&fields, &translation, topology));
        }
        report
    }
}

/// The packet, with the number of the local port in place of the word that it came from there.
fn from_a_port(mut fields: Fields, topology: &Topology) -> Result<Fields, Refusal> {
    if fields.key.in_port & FROM_LOCAL != 0 {
        let local = topology.switch.local().ok_or_else(|| {
            Refusal::invalid("no port is the local one: say in_port=PORT, or give a port local=on".to_owned())
        })?;
        fields.key.in_port = local.number().into();
    }
    Ok(fields)
}

fn dropped(verdict: &Verdict) -> Option<DropReason> {
    match verdict {
        Verdict::Drop(reason) => Some(*reason),
        Verdict::Forward(actions) => actions.iter().find_map(|action| match action {
            Action::Drop(reason) => Some(*reason),
            _ => None,
        }),
    }
}

/// What a packet that is too short to have fields meets.
fn too_short(len: usize) -> TraceReport {
    let reason = DropReason::FrameTooShort;
    TraceReport {
        recirc_id: 0,
        flow: String::new(),
        steps: Vec::new(),
        final_flow: String::new(),
        megaflow: String::new(),
        actions: format!("drop({})", reason.name()),
        drop: Some(reason),
        remarks: vec![format!("the packet has {len} bytes, an Ethernet header has {MIN_FRAME_BYTES}")],
        further: Vec::new(),
    }
}

/// What was made up about the packet.
fn remarks_on_packet(fields: &Fields) -> Vec<String> {
    let mut remarks = Vec::new();
    if fields.key.in_port == u32::from(RulePort::NONE.number()) {
        remarks.push("no in_port was given, so the packet is one that came from no port".to_owned());
    }
    if fields.key.eth_src == UNNAMED_SOURCE {
        remarks.push(format!("no eth_src was given, {} is taken for it", mac_text(UNNAMED_SOURCE)));
    }
    remarks
}

/// What the verdict does not say: what the packet teaches, and what stands in its way after the decision.
fn remarks(translation: &Translation, topology: &Topology) -> Vec<String> {
    let mut remarks = Vec::new();
    let name = |port: PortId| topology.numbers.name(port).map_or_else(|| port.to_string(), str::to_owned);
    if let Some(source) = translation.learn.filter(|source| source.mac != UNNAMED_SOURCE) {
        remarks.push(format!(
            "a packet would teach that {} is at {} in VLAN {}",
            mac_text(source.mac),
            name(source.port),
            source.vlan
        ));
    }
    let Verdict::Forward(actions) = &translation.verdict else { return remarks };
    for action in actions.iter() {
        let Action::Output(to) = *action else { continue };
        match topology.port(to).map(|port| port.driver.status()) {
            Some(DriverStatus { link: Link::Up, .. }) => (),
            Some(DriverStatus { link, fault, .. }) => {
                let fault = fault.map(|fault| format!(" ({fault})")).unwrap_or_default();
                remarks.push(format!("{} is {}{fault}: it would drop the packet", name(to), link.name()));
            }
            None => remarks.push(format!("{} is gone: the packet would not leave there", name(to))),
        }
    }
    remarks.dedup();
    remarks
}

/// A packet that goes through the switch again.
struct Suspended {
    /// The pass that it will be on, the first being 0.
    pass: usize,
    /// What it is then, with a number for what is left to do in its key.
    fields: Fields,
    /// What is left to do.
    suspension: Suspension,
}

/// Writes down a translation as it goes.
struct Recorder<'a> {
    numbers: &'a PortNumbers,
    table_names: &'a TableNames,
    rules: &'a RuleSet,
    /// The rules that make the packet meet the conjunction whose rule is found next.
    parts: Vec<String>,
    /// What the rules have made of the packet.
    final_flow: String,
    steps: Vec<TraceStep>,
    /// Bytes that the steps take.
    bytes: usize,
    /// Steps that found no room.
    left_out: u64,
    /// What goes through the switch again.
    suspended: VecDeque<Suspended>,
    /// The present pass, from 0.
    pass: usize,
    /// Suspensions so far.
    last_id: u32,
}

impl<'a> Recorder<'a> {
    fn new(topology: &'a Topology) -> Self {
        Self {
            numbers: &topology.numbers,
            table_names: &topology.table_names,
            rules: &topology.rules,
            parts: Vec::new(),
            final_flow: String::new(),
            steps: Vec::new(),
            bytes: 0,
            left_out: 0,
            suspended: VecDeque::new(),
            pass: 0,
            last_id: 0,
        }
    }

    /// What was written down about this translation, which is over.
    fn report(&mut self, fields: &Fields, translation: &Translation, topology: &Topology) -> TraceReport {
        let name = |number| topology.numbers.name_of_number(number);
        let mut remarks = remarks(translation, topology);
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            remarks.push(format!("{left_out} more steps were taken; they are not shown"));
        }
        TraceReport {
            recirc_id: fields.key.recirc_id.get(),
            flow: packet_text(fields, self.numbers),
            steps: std::mem::take(&mut self.steps),
            final_flow: std::mem::take(&mut self.final_flow),
            megaflow: match_text(&translation.mask.apply(&fields.key), &translation.mask, name),
            actions: verdict_text(&translation.verdict, &fields.key, name),
            drop: dropped(&translation.verdict),
            remarks,
            further: Vec::new(),
        }
    }

    fn step(&mut self, depth: usize, text: String) {
        // A drop is told where it is found and again as the outcome.
        if self.steps.last().is_some_and(|last| last.text == text) {
            return;
        }
        self.bytes += size_of::<TraceStep>() + text.len();
        if self.bytes > MAX_STEPS_BYTES {
            self.left_out += 1;
            return;
        }
        self.steps.push(TraceStep { depth: u16::try_from(depth).unwrap_or(u16::MAX), text });
    }

    fn port(&self, port: PortId) -> String {
        self.numbers.name(port).map_or_else(|| port.to_string(), str::to_owned)
    }
}

/// A rule by what it matches.
fn rule_name(rule: &Rule, numbers: &PortNumbers) -> String {
    let spec = rule.spec();
    let matching = text::match_text(&spec.matching, numbers);
    let cookie = if spec.cookie == 0 { String::new() } else { format!(", cookie {:#x}", spec.cookie) };
    let separator = if matching.is_empty() { "" } else { "," };
    format!("priority={}{separator}{matching}{cookie}", spec.priority)
}

impl Observer for Recorder<'_> {
    fn table(&mut self, _: usize, table: u8, fields: &Fields) {
        let parts = self.rules.conjunction_parts(table, fields);
        self.parts = parts.into_iter().map(|part| rule_name(part, self.numbers)).collect();
    }

    fn rule(&mut self, depth: usize, rule: &Arc<Rule>, missed: bool) {
        let spec = rule.spec();
        let table = match self.table_names.name(spec.table) {
            Some(name) => format!("table {} ({name})", spec.table),
            None => format!("table {}", spec.table),
        };
        let text = if missed {
            format!("{table}: no rule matches")
        } else {
            format!("{table}: {}", rule_name(rule, self.numbers))
        };
        self.step(depth, text);
        for part in std::mem::take(&mut self.parts) {
            self.step(depth + 1, format!("by the conjunction of {part}"));
        }
        if !missed && spec.actions.is_empty() {
            self.step(depth + 1, "drop".to_owned());
        }
    }

    fn action(&mut self, depth: usize, action: &RuleAction) {
        let text = text::actions_text(std::slice::from_ref(action), self.numbers);
        self.step(depth, text);
    }

    fn suspended(&mut self, fields: &Fields, suspension: &Suspension) -> u32 {
        self.last_id += 1;
        // Enough to show, and to see that there are more.
        if self.suspended.len() <= MAX_FURTHER_PASSES {
            let key = FlowKey { recirc_id: self.last_id.into(), ..fields.key };
            self.suspended.push_back(Suspended {
                pass: self.pass + 1,
                fields: Fields { key, ..*fields },
                suspension: suspension.clone(),
            });
        }
        self.last_id
    }

    fn end(&mut self, fields: &Fields) {
        self.final_flow = packet_text(fields, self.numbers);
    }

    fn note(&mut self, depth: usize, note: Note<'_>) {
        let text = match note {
            Note::FieldMissing(field) => format!("the packet has no {}: nothing done", field_name(field)),
            Note::NoSuchPort(RulePort::LOCAL) => "no port is the local one: nothing sent".to_owned(),
            Note::NoSuchPort(port) => {
                let name = port.port().map_or_else(|| port.number().to_string(), |port| self.port(port));
                format!("there is no port {name}: nothing sent")
            }
            Note::StackEmpty => "nothing is on the stack: nothing done".to_owned(),
            Note::BackToIngress(port) => {
                format!(
                    "{} is where the packet came from: nothing sent (say in_port to send it back)",
                    self.port(port)
                )
            }
            Note::InVlan(vlan) => format!("in VLAN {vlan}"),
            Note::Known(port) => format!("the destination is at {}", self.port(port)),
            Note::Flooded => "the destination is unknown or a group: to every member of the VLAN".to_owned(),
            Note::Mirrored(mirror) => format!("mirror {mirror} gets a copy"),
            Note::Dropped(reason) => format!("dropped: {}", reason.name()),
            Note::ActionSet => "the action set:".to_owned(),
        };
        self.step(depth + 1, text);
    }
}

fn field_name(field: Field) -> String {
    field.name().to_string()
}
