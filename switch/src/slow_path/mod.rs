//! The slow path: what the rules want done with a packet, and which of its bits they went by.
//!
//! A packet that no cache knows is translated here, on its worker, from its whole key. The translation yields the
//! verdict and the mask of every bit that the verdict rests on, which together become a megaflow. Translating reads and
//! changes nothing, so that the revalidator can do it again, and an operator can have it traced; learning is a step of
//! its own.
//!
//! The mask is the contract: two keys that agree under it meet the same rules and get the same verdict. A bit too many makes
//! more megaflows than needed, a bit too few misroutes. Hence every function that looks at a field notes it by itself, in
//! `View`, and questions that look at little and end in a drop come first.
//!
//! Rules that wait for the end of others stand on a list, not on the thread's stack: what an operator writes may slow his
//! own packets down, within the limits below, but not overflow anything.
//!
//! A packet that goes through the switch again is translated once for each pass. What the first translation leaves to the
//! next is a `Suspension`; a mask covers what was looked at in its own pass.
//!
//! Left out on purpose: spanning tree and storm control.
//!
//! # Source
//! ovs-actions(7) for what the steps of rules do; OpenFlow 1.3.5 §5.4 and §5.10 for misses and action sets.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::action::{Action, Punt, Verdict};
use crate::bridge::fdb::Learned;
use crate::drop_reason::DropReason;
use crate::flow::fields::Fields;
use crate::flow::key::{FlowKey, Mask};
use crate::megaflow::Source;
use crate::port::PortId;
use crate::rule::action::{OutputTo, RuleAction, Subfield};
use crate::rule::entry::Rule;
use crate::rule::field::Field;
use crate::rule::fragments::FragmentMode;
use crate::rule::needs::Needs;
use crate::rule::port::RulePort;
use crate::rule::set::Found;
use crate::state::SwitchState;

pub use suspend::resume;

use action_set::ActionSet;
use plan::Plan;
use trace::{Note, Observer};
use view::View;

/// OpenFlow's action set.
mod action_set;

/// The learning switch: what `NORMAL` does.
mod normal;

/// Copies for mirrors.
mod mirror;

/// Frames in VLANs, and their tags.
mod tags;

/// The actions found so far.
mod plan;

/// The packet of a translation, and which of its bits were looked at.
mod view;

/// Ending a translation early, and going on.
mod suspend;

/// Watching a translation.
pub mod trace;

#[cfg(test)]
mod tests;

/// Rules that may wait for the end of others. As in Open vSwitch a lookup in a later table counts for nothing here: it
/// cannot go in circles.
pub const MAX_DEPTH: usize = 64;

/// Numbers that may lie on a packet's stack: as many as in the 64 kB that Open vSwitch allows.
pub const MAX_STACK: usize = 4096;

/// Lookups of one packet, after the first.
pub const MAX_RESUBMITS: usize = 4096;

/// What the slow path decided about a packet, and why.
#[derive(Debug, Clone)]
pub struct Translation {
    /// Its fate.
    pub verdict: Verdict,
    /// Every bit of its key that was looked at.
    pub mask: Mask,
    /// The address it teaches, if it teaches one.
    pub learn: Option<Source>,
    /// Each rule that it met, as often as it met it; for a lookup that found nothing, what counts the table's misses.
    pub rules: Vec<Arc<Rule>>,
}

/// Equal decisions, which count for the very same rules.
impl PartialEq for Translation {
    fn eq(&self, other: &Self) -> bool {
        (&self.verdict, &self.mask, &self.learn) == (&other.verdict, &other.mask, &other.learn)
            && self.rules.len() == other.rules.len()
            && self.rules.iter().zip(&other.rules).all(|(mine, theirs)| Arc::ptr_eq(mine, theirs))
    }
}

/// Decides about the packet with this key, filled to the last depth.
pub fn translate(key: &FlowKey, state: &SwitchState<'_>, observer: &mut impl Observer) -> Translation {
    translate_with(Fields::of_packet(*key), state, observer)
}

/// The same for a packet that comes with metadata and registers.
pub fn translate_with(packet: Fields, state: &SwitchState<'_>, observer: &mut impl Observer) -> Translation {
    let mut translator = Translator::new(packet, state, observer);
    let result = translator.run();
    translator.into_translation(result)
}

/// Notes where a packet came from, within the limit of its port.
pub fn learn(source: Source, now_ms: u64, state: &SwitchState<'_>) -> Learned {
    let limit = state.config.port(source.port).map_or(0, |port| port.mac_limit);
    state.fdb.learn(source.vlan, source.mac, source.port, now_ms, limit)
}

/// Steps that are left.
enum Steps<'a> {
    /// Those of a list in a rule.
    Listed(std::slice::Iter<'a, RuleAction>),
    /// Those of an action set.
    Set(std::vec::IntoIter<&'a RuleAction>),
}

impl<'a> Steps<'a> {
    fn next(&mut self) -> Option<&'a RuleAction> {
        match self {
            Steps::Listed(steps) => steps.next(),
            Steps::Set(steps) => steps.next(),
        }
    }
}

/// What waits for the end of the steps that are taken with a copy of the packet.
struct Original<'a> {
    packet: view::Original,
    stack: Vec<u128>,
    action_set: ActionSet<'a>,
}

/// A rule that is being carried out, the steps for a copy of the packet, or an action set.
struct Running<'a> {
    /// What is left to do.
    steps: Steps<'a>,
    table: u8,
    /// It was met in the table of the rule that waits for it, or in an earlier one.
    deepens: bool,
    /// The steps are for a copy, and this is the original.
    original: Option<Box<Original<'a>>>,
}

impl<'a> Running<'a> {
    fn new(actions: &'a [RuleAction], table: u8, deepens: bool) -> Self {
        Self { steps: Steps::Listed(actions.iter()), table, deepens, original: None }
    }
}

/// A translation under way.
struct Translator<'a, O> {
    state: SwitchState<'a>,
    view: View,
    plan: Plan,
    rules: Vec<Arc<Rule>>,
    learn: Option<Source>,
    /// The rules under way, each waiting for the next; the last one has its turn.
    waiting: Vec<Running<'a>>,
    /// How many of them deepen.
    depth: usize,
    action_set: ActionSet<'a>,
    /// What rules have pushed and not popped.
    stack: Vec<u128>,
    /// Which version of the packet was copied to which mirror.
    mirrored: BTreeSet<(u32, usize)>,
    observer: &'a mut O,
}

impl<'a, O: Observer> Translator<'a, O> {
    fn new(packet: Fields, state: &SwitchState<'a>, observer: &'a mut O) -> Self {
        Self {
            state: *state,
            view: View::new(packet, state.config.local()),
            plan: Plan::default(),
            rules: Vec::with_capacity(4),
            learn: None,
            waiting: Vec::with_capacity(4),
            depth: 0,
            action_set: ActionSet::default(),
            stack: Vec::new(),
            mirrored: BTreeSet::new(),
            observer,
        }
    }

    fn run(&mut self) -> Result<(), DropReason> {
        if let Some(port) = self.view.in_port() {
            self.mirror(port, false, None);
        }
        if self.state.config.fragments() == FragmentMode::Drop && self.view.is_fragment() {
            self.held_back(DropReason::Fragment);
            return Ok(());
        }
        self.look_up(0, None, false);
        self.finish(Some(0))
    }

    /// Takes the steps of the rules under way, and then those of the action set, which counts for this table, unless it has
    /// had its turn.
    fn finish(&mut self, set_table: Option<u8>) -> Result<(), DropReason> {
        self.finish_rules()?;
        if let Some(table) = set_table
            && !self.action_set.is_empty()
        {
            self.run_action_set(table, None);
            self.finish_rules()?;
        }
        Ok(())
    }

    fn into_translation(self, result: Result<(), DropReason>) -> Translation {
        let verdict = match result {
            Ok(()) => self.plan.into_verdict(),
            Err(reason) => Verdict::Drop(reason),
        };
        self.observer.end(self.view.fields());
        if let Verdict::Drop(reason) = verdict {
            self.observer.note(self.waiting.len(), Note::Dropped(reason));
        }
        Translation { verdict, mask: self.view.into_mask(), learn: self.learn, rules: self.rules }
    }

    /// Lets the action set, which is not empty, have its turn; for a copy if there is an original.
    fn run_action_set(&mut self, table: u8, original: Option<Box<Original<'a>>>) {
        self.note(Note::ActionSet);
        let steps = Steps::Set(self.action_set.take_in_order().into_iter());
        self.waiting.push(Running { steps, table, deepens: false, original });
    }

    fn note(&mut self, note: Note<'_>) {
        self.observer.note(self.waiting.len(), note);
    }

    /// Takes the steps of the rules under way until none is left.
    ///
    /// Bound: a rule has finitely many steps, and each further rule is counted against [`MAX_RESUBMITS`].
    fn finish_rules(&mut self) -> Result<(), DropReason> {
        while let Some(running) = self.waiting.last_mut() {
            match running.steps.next() {
                Some(action) => {
                    let table = running.table;
                    self.step(action, table)?;
                }
                None => self.end_rule(),
            }
        }
        Ok(())
    }

    /// Ends the last rule under way, whatever it still had to do. Behind the steps for a copy its action set has a turn, and
    /// then the original comes back.
    fn end_rule(&mut self) {
        let Some(ended) = self.waiting.pop() else { return };
        self.depth -= usize::from(ended.deepens);
        let Some(original) = ended.original else { return };
        // It has one turn: what the rules write that it resubmits to is for nobody.
        let had_its_turn = matches!(ended.steps, Steps::Set(_));
        if had_its_turn || self.action_set.is_empty() {
            self.take_back(*original);
        } else {
            self.run_action_set(ended.table, Some(original));
        }
    }

    /// Goes on with the original of the copy that is done with.
    fn take_back(&mut self, original: Original<'a>) {
        let Original { packet, stack, action_set } = original;
        self.view.take_back(packet);
        (self.stack, self.action_set) = (stack, action_set);
        self.view.set_actset_output(self.action_set.output());
    }

    /// Goes on with a copy of the packet.
    fn clone_packet(&mut self, steps: &'a [RuleAction], table: u8) {
        // The copy and the original share what was changed before, so the datapath is told now, and once.
        self.commit();
        let original = Original {
            packet: self.view.set_aside(),
            stack: std::mem::take(&mut self.stack),
            action_set: std::mem::take(&mut self.action_set),
        };
        let running = Running { original: Some(Box::new(original)), ..Running::new(steps, table, false) };
        self.waiting.push(running);
    }

    /// Ends all rules under way, and what was written for the packet's end. Open vSwitch's manual has the action set carried
    /// out all the same; Open vSwitch does not.
    fn exit(&mut self) {
        self.waiting.clear();
        self.depth = 0;
        self.action_set.clear();
    }

    /// Looks the packet up, as if it came from `in_port` if there is one, and lets the rule found have its turn.
    fn look_up(&mut self, table: u8, in_port: Option<RulePort>, deepens: bool) {
        let depth = self.waiting.len();
        let rules = self.state.rules;
        let in_port = in_port.map(|port| self.view.ingress(port));
        let hides_ports = self.state.config.fragments() == FragmentMode::Normal;
        let observer = &mut *self.observer;
        let found = self.view.look_up(in_port, hides_ports, |fields, looked| {
            observer.table(depth, table, fields);
            rules.lookup(table, fields, looked)
        });
        self.rules.push(Arc::clone(found.rule()));
        self.observer.rule(depth, found.rule(), matches!(found, Found::Miss(_)));
        let Found::Rule(rule) = found else {
            return self.plan.held_back(DropReason::NoRule);
        };
        self.depth += usize::from(deepens);
        self.waiting.push(Running::new(&rule.spec().actions, table, deepens));
    }

    /// Goes on in another table, or again in the same.
    fn resubmit(&mut self, from: u8, table: u8, in_port: Option<RulePort>) -> Result<(), DropReason> {
        if self.depth >= MAX_DEPTH {
            return Err(DropReason::ResubmitTooDeep);
        }
        if self.rules.len() > MAX_RESUBMITS {
            return Err(DropReason::TooManyResubmits);
        }
        self.look_up(table, in_port, table <= from);
        Ok(())
    }

    /// Takes one step of a rule of this table.
    fn step(&mut self, action: &'a RuleAction, table: u8) -> Result<(), DropReason> {
        self.observer.action(self.waiting.len(), action);
        match action {
            RuleAction::Output(to) => self.output(*to, table)?,
            // No port has queues.
            RuleAction::Enqueue { port, .. } => self.output(OutputTo::Port(*port), table)?,
            RuleAction::SetQueue(_) | RuleAction::PopQueue | RuleAction::Note(_) => {}
            // Lookups do not find the rules that have it.
            RuleAction::Conjunction { .. } => {}
            RuleAction::Controller { max_len, id, .. } => self.punt(Punt { max_len: *max_len, id: *id }),
            RuleAction::PushVlan(tpid) => self.view.push_tag(*tpid),
            RuleAction::PopVlan => {
                self.view.pop_tag();
            }
            RuleAction::ModVlanVid(vlan) => self.view.set_vlan(*vlan),
            RuleAction::ModVlanPcp(priority) => self.view.set_priority(*priority),
            RuleAction::SetField { field, value, mask } => {
                if self.has(*field) {
                    self.view.write(*field, *value, *mask);
                }
            }
            RuleAction::Move { from, to } => self.copy(*from, *to),
            RuleAction::Push(from) => self.push(*from)?,
            RuleAction::Pop(to) => self.pop(*to),
            RuleAction::DecTtl(_) => self.decrement_ttl(),
            RuleAction::Clone(steps) => self.clone_packet(steps, table),
            RuleAction::Exit => self.exit(),
            RuleAction::DebugRecirc => self.suspend(),
            RuleAction::Resubmit { in_port, table: to } => {
                self.resubmit(table, to.unwrap_or(table), *in_port)?;
            }
            RuleAction::WriteMetadata { value, mask } => {
                self.view.write(Field::Metadata, u128::from(*value), u128::from(*mask));
            }
            RuleAction::ClearActions => {
                self.action_set.clear();
                self.view.set_actset_output(self.action_set.output());
            }
            RuleAction::WriteActions(actions) => {
                self.action_set.add(actions);
                self.view.set_actset_output(self.action_set.output());
            }
            RuleAction::GotoTable(to) => self.resubmit(table, *to, None)?,
        }
        if self.plan.is_full() { Err(DropReason::TooManyActions) } else { Ok(()) }
    }

    /// Whether the packet has a field, as a step that changes it goes by.
    fn has(&mut self, field: Field) -> bool {
        let has = self.view.meets(field.needs());
        if !has {
            self.note(Note::FieldMissing(field));
        }
        has
    }

    fn copy(&mut self, from: Subfield, to: Subfield) {
        if self.has(from.field) && self.has(to.field) {
            let value = self.read(from);
            self.view.write(to.field, value << to.offset, ones(to.bits) << to.offset);
        }
    }

    fn push(&mut self, from: Subfield) -> Result<(), DropReason> {
        if self.stack.len() == MAX_STACK {
            return Err(DropReason::StackTooDeep);
        }
        // Of a field that the packet lacks it is zero, so that each push has its pop all the same.
        let value = if self.has(from.field) { self.read(from) } else { 0 };
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self, to: Subfield) {
        match self.stack.pop() {
            None => self.note(Note::StackEmpty),
            Some(value) if self.has(to.field) => {
                self.view.write(to.field, value << to.offset, ones(to.bits) << to.offset);
            }
            Some(_) => {}
        }
    }

    fn read(&mut self, from: Subfield) -> u128 {
        self.view.read(from.field, ones(from.bits) << from.offset) >> from.offset
    }

    fn decrement_ttl(&mut self) {
        if !self.view.meets(Needs::Ip) {
            return self.note(Note::FieldMissing(Field::IpTtl));
        }
        match self.view.read(Field::IpTtl, u128::MAX) {
            0 | 1 => {
                self.held_back(DropReason::TtlExceeded);
                self.end_rule();
            }
            ttl => self.view.write(Field::IpTtl, ttl - 1, u128::MAX),
        }
    }

    fn held_back(&mut self, reason: DropReason) {
        self.plan.held_back(reason);
        self.note(Note::Dropped(reason));
    }

    /// Sends the packet as it is now, in a step of a rule of this table.
    fn output(&mut self, to: OutputTo, table: u8) -> Result<(), DropReason> {
        let number = match to {
            OutputTo::Port(port) => Some(port),
            OutputTo::Subfield(from) => {
                u16::try_from(self.read(from)).ok().and_then(|number| RulePort::new(number.into()))
            }
        };
        match number {
            Some(RulePort::IN_PORT) => match self.view.in_port() {
                Some(port) => self.output_to(port),
                None => self.held_back(DropReason::NoEgress),
            },
            Some(RulePort::TABLE) => {
                self.resubmit(table, 0, None)?;
            }
            Some(RulePort::NORMAL) => self.normal(),
            Some(RulePort::ALL | RulePort::FLOOD) => self.output_to_all(),
            Some(RulePort::CONTROLLER) => self.punt(Punt { max_len: u16::MAX, id: 0 }),
            Some(RulePort::LOCAL) => match self.state.config.local() {
                Some(port) => self.output_to_other(port),
                None => self.no_such_port(RulePort::LOCAL),
            },
            None | Some(RulePort::NONE | RulePort::UNSET) => self.held_back(DropReason::NoEgress),
            Some(port) => match port.port() {
                Some(port) => self.output_to_other(port),
                None => self.no_such_port(port),
            },
        }
        Ok(())
    }

    fn output_to_all(&mut self) {
        self.held_back_unless_sent(|this| {
            let in_port = this.view.in_port();
            for &port in this.state.config.ports() {
                if Some(port) != in_port {
                    this.output_to(port);
                }
            }
        });
    }

    fn no_such_port(&mut self, port: RulePort) {
        self.note(Note::NoSuchPort(port));
        self.plan.held_back(DropReason::NoEgress);
    }

    /// Does `outputs`, which may send to no port at all.
    fn held_back_unless_sent(&mut self, outputs: impl FnOnce(&mut Self)) {
        let before = self.plan.actions().len();
        outputs(self);
        if self.plan.actions().len() == before {
            self.held_back(DropReason::NoEgress);
        }
    }

    /// Sends the packet as it is now to a port, unless it came from there.
    fn output_to_other(&mut self, port: PortId) {
        if self.view.in_port() == Some(port) {
            self.note(Note::BackToIngress(port));
            self.plan.held_back(DropReason::NoEgress);
        } else {
            self.output_to(port);
        }
    }

    /// Sends the packet as it is now to a port.
    fn output_to(&mut self, port: PortId) {
        if self.state.config.port(port).is_none() {
            return self.no_such_port(port.into());
        }
        self.commit();
        self.deliver(Action::Output(port));
        self.mirror(port, true, None);
    }

    fn punt(&mut self, punt: Punt) {
        self.commit();
        self.deliver(Action::Punt(punt));
    }

    fn deliver(&mut self, action: Action) {
        self.observer.datapath(self.waiting.len(), &action);
        self.plan.deliver(action);
    }

    /// Has the datapath's packet become what the rules see.
    fn commit(&mut self) {
        let before = self.plan.actions().len();
        self.view.commit(&mut self.plan);
        self.show_from(before);
    }

    fn show_from(&mut self, at: usize) {
        for action in &self.plan.actions()[at..] {
            self.observer.datapath(self.waiting.len(), action);
        }
    }
}

/// That many ones.
fn ones(bits: u8) -> u128 {
    if bits == 0 { 0 } else { u128::MAX >> (128 - u32::from(bits)) }
}
