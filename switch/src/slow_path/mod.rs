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
//! Left out on purpose: spanning tree and storm control.
//!
//! # Source
//! ovs-actions(7) for what the steps of rules do; OpenFlow 1.3.5 §5.4 and §5.10 for misses and action sets.

use std::sync::Arc;

use crate::action::{Action, Punt, Verdict};
use crate::bridge::fdb::Learned;
use crate::drop_reason::DropReason;
use crate::flow::key::{FlowKey, Mask};
use crate::megaflow::Source;
use crate::port::PortId;
use crate::rule::action::{OutputTo, RuleAction, Subfield};
use crate::rule::entry::Rule;
use crate::rule::field::Field;
use crate::rule::needs::Needs;
use crate::rule::port::RulePort;
use crate::rule::set::Found;
use crate::state::SwitchState;

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

/// The actions found so far.
mod plan;

/// The packet of a translation, and which of its bits were looked at.
mod view;

/// Watching a translation.
pub mod trace;

#[cfg(test)]
mod tests;

/// Rules that may wait for the end of others. As in Open vSwitch a lookup in a later table counts for nothing here: it
/// cannot go in circles.
pub const MAX_DEPTH: usize = 64;

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
    let mut translator = Translator {
        state: *state,
        view: View::new(key, state.config.local()),
        plan: Plan::default(),
        rules: Vec::with_capacity(4),
        learn: None,
        waiting: Vec::with_capacity(4),
        depth: 0,
        action_set: ActionSet::default(),
        is_expired: false,
        mirrored: 0,
        observer,
    };
    let verdict = match translator.run() {
        Ok(()) => translator.plan.into_verdict(),
        Err(reason) => Verdict::Drop(reason),
    };
    let Translator { view, learn, rules, observer, waiting, .. } = translator;
    if let Verdict::Drop(reason) = verdict {
        observer.note(waiting.len(), Note::Dropped(reason));
    }
    Translation { verdict, mask: view.into_mask(), learn, rules }
}

/// Notes where a packet came from, within the limit of its port.
pub fn learn(source: Source, now_ms: u64, state: &SwitchState<'_>) -> Learned {
    let limit = state.config.port(source.port).map_or(0, |port| port.mac_limit);
    state.fdb.learn(source.vlan, source.mac, source.port, now_ms, limit)
}

/// A rule that is being carried out.
struct Running<'a> {
    /// What is left to do.
    actions: std::slice::Iter<'a, RuleAction>,
    table: u8,
    /// It was met in the table of the rule that waits for it, or in an earlier one.
    deepens: bool,
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
    /// Its time to live was used up in some rule, which ended there; nothing is written for its end any more.
    is_expired: bool,
    /// Mirrors that have a copy, one bit each.
    mirrored: u32,
    observer: &'a mut O,
}

impl<'a, O: Observer> Translator<'a, O> {
    fn run(&mut self) -> Result<(), DropReason> {
        if let Some(port) = self.view.in_port() {
            self.mirror(port, false, None);
        }
        self.look_up(0, None, false);
        self.finish_rules()?;
        if !self.action_set.is_empty() && !self.is_expired {
            self.note(Note::ActionSet);
            for action in self.action_set.take_in_order() {
                self.step(action, 0)?;
                self.finish_rules()?;
                if self.is_expired {
                    break;
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, note: Note<'_>) {
        self.observer.note(self.waiting.len(), note);
    }

    /// Takes the steps of the rules under way until none is left.
    ///
    /// Bound: a rule has finitely many steps, and each further rule is counted against [`MAX_RESUBMITS`].
    fn finish_rules(&mut self) -> Result<(), DropReason> {
        while let Some(running) = self.waiting.last_mut() {
            match running.actions.next() {
                Some(action) => {
                    let table = running.table;
                    self.step(action, table)?;
                }
                None => self.end_rule(),
            }
        }
        Ok(())
    }

    /// Ends the last rule under way, whatever it still had to do.
    fn end_rule(&mut self) {
        if let Some(ended) = self.waiting.pop() {
            self.depth -= usize::from(ended.deepens);
        }
    }

    /// Looks the packet up, as if it came from `in_port` if there is one, and lets the rule found have its turn. False if
    /// there is none.
    fn look_up(&mut self, table: u8, in_port: Option<RulePort>, deepens: bool) -> bool {
        let depth = self.waiting.len();
        let rules = self.state.rules;
        let in_port = in_port.map(|port| self.view.ingress(port));
        let (fields, looked) = self.view.fields_to_look_up();
        let own_port = fields.key.in_port;
        // The ingress port is in every mask, so it does not matter that this one is looked at in its stead.
        fields.key.in_port = in_port.unwrap_or(own_port);
        self.observer.table(depth, table, fields);
        let found = rules.lookup(table, fields, looked);
        fields.key.in_port = own_port;
        self.rules.push(Arc::clone(found.rule()));
        self.observer.rule(depth, found.rule(), matches!(found, Found::Miss(_)));
        let Found::Rule(rule) = found else {
            self.plan.held_back(DropReason::NoRule);
            return false;
        };
        self.depth += usize::from(deepens);
        self.waiting.push(Running { actions: rule.spec().actions.iter(), table, deepens });
        true
    }

    /// Goes on in another table, or again in the same.
    fn resubmit(&mut self, from: u8, table: u8, in_port: Option<RulePort>) -> Result<bool, DropReason> {
        if self.depth >= MAX_DEPTH {
            return Err(DropReason::ResubmitTooDeep);
        }
        if self.rules.len() > MAX_RESUBMITS {
            return Err(DropReason::TooManyResubmits);
        }
        Ok(self.look_up(table, in_port, table <= from))
    }

    /// Takes one step of a rule of this table.
    fn step(&mut self, action: &'a RuleAction, table: u8) -> Result<(), DropReason> {
        self.observer.action(self.waiting.len(), action);
        match action {
            RuleAction::Output(to) => self.output(*to, table)?,
            RuleAction::Controller { max_len, id } => self.punt(Punt { max_len: *max_len, id: *id }),
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
            RuleAction::DecTtl => self.decrement_ttl(),
            RuleAction::Resubmit { in_port, table: to } => {
                self.resubmit(table, to.unwrap_or(table), *in_port)?;
            }
            RuleAction::WriteMetadata { value, mask } => {
                self.view.write(Field::Metadata, u128::from(*value), u128::from(*mask));
            }
            RuleAction::ClearActions => self.action_set.clear(),
            RuleAction::WriteActions(actions) => self.action_set.add(actions),
            RuleAction::GotoTable(to) => {
                if !self.resubmit(table, *to, None)? {
                    // A packet that misses is dropped, so what was written for its end is void.
                    self.action_set.clear();
                }
            }
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
                self.is_expired = true;
                self.action_set.clear();
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
