//! Watching a translation: what `trace` prints is what the slow path does, as it is the same code.
//!
//! Every method has an empty body, and the unit type watches with those, so that a translation that nobody watches pays
//! nothing.

use std::sync::Arc;

use crate::action::Action;
use crate::drop_reason::DropReason;
use crate::flow::fields::Fields;
use crate::port::PortId;
use crate::recirculation::Suspension;
use crate::rule::action::RuleAction;
use crate::rule::entry::Rule;
use crate::rule::field::Field;
use crate::rule::port::RulePort;
use crate::wire::vlan::VlanId;

/// Something that a translation found and that no action or rule shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note<'a> {
    /// The packet lacks the field, so the step does nothing.
    FieldMissing(Field),
    /// There is no such port.
    NoSuchPort(RulePort),
    /// Nothing is on the stack, so the step does nothing.
    StackEmpty,
    /// The packet came from the port, and the rule does not say `in_port`.
    BackToIngress(PortId),
    /// The learning switch put the packet into this VLAN.
    InVlan(VlanId),
    /// The learning switch knows the destination at this port.
    Known(PortId),
    /// The learning switch does not know the destination, or it is a group: every member of the VLAN gets the packet.
    Flooded,
    /// This mirror gets a copy.
    Mirrored(&'a str),
    /// Why nothing came of a step, or of the whole translation.
    Dropped(DropReason),
    /// The action set is carried out.
    ActionSet,
}

/// Who watches a translation.
pub trait Observer {
    /// The packet with these fields is looked up in a table; `depth` lookups wait for the end of this one.
    fn table(&mut self, _depth: usize, _table: u8, _fields: &Fields) {}

    /// The lookup found this rule, or, if `missed`, nothing but the table's count of misses.
    fn rule(&mut self, _depth: usize, _rule: &Arc<Rule>, _missed: bool) {}

    /// A step of a rule, or of the action set, is taken.
    fn action(&mut self, _depth: usize, _action: &RuleAction) {}

    /// A fact on the way.
    fn note(&mut self, _depth: usize, _note: Note<'_>) {}

    /// The packet, or a copy of it, goes through the switch again as it is now, for this. Returns the number to show for it;
    /// the datapath gives its own.
    fn suspended(&mut self, _fields: &Fields, _suspension: &Suspension) -> u32 {
        0
    }

    /// The translation is over, and this is what the rules have made of the packet.
    fn end(&mut self, _fields: &Fields) {}

    /// This is what the datapath will do.
    fn datapath(&mut self, _depth: usize, _action: &Action) {}
}

/// Nobody watches.
impl Observer for () {}
