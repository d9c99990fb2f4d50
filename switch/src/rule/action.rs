//! What a rule does, in OpenFlow's steps.
//!
//! These are the operator's words. The slow path executes them on a packet's `Fields`
//! and turns their effect into the datapath's `Action`s.

use crate::port::PortId;

use super::field::Field;
use super::port::RulePort;

/// A run of bits within a field: `bits` of them from bit `offset` up, lowest bit 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subfield {
    /// The field.
    pub field: Field,
    /// Lowest bit.
    pub offset: u8,
    /// Number of bits; `offset + bits` is at most the field's width.
    pub bits: u8,
}

/// Where an output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputTo {
    /// This port, unless the packet came from it, or what its number stands for.
    Port(RulePort),
    /// The port whose number is in these bits.
    Subfield(Subfield),
}

/// Why a rule hands a packet out, as whoever wrote the rule calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reason {
    /// No rule was met.
    NoMatch,
    /// The rule says so.
    #[default]
    Action,
    /// Its time to live is used up.
    InvalidTtl,
    /// The action set says so.
    ActionSet,
    /// A group says so.
    Group,
    /// The listener had sent it.
    PacketOut,
}

impl Reason {
    /// What each is called.
    pub const NAMES: [(&'static str, Reason); 6] = [
        ("no_match", Reason::NoMatch),
        ("action", Reason::Action),
        ("invalid_ttl", Reason::InvalidTtl),
        ("action_set", Reason::ActionSet),
        ("group", Reason::Group),
        ("packet_out", Reason::PacketOut),
    ];
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// Send the packet as it is now.
    Output(OutputTo),
    /// Send the packet as it is now, by one of the port's queues. No port has queues yet, so it leaves as by
    /// [`Output`](RuleAction::Output), which is also what Open vSwitch does with a queue that a port lacks.
    Enqueue {
        /// The port.
        port: RulePort,
        /// Number of the queue.
        queue: u32,
    },
    /// Choose the queue of the outputs that follow. No port has queues yet, so this chooses nothing.
    SetQueue(u32),
    /// Choose the queue that was chosen when the packet came in.
    PopQueue,
    /// Hand the first `max_len` bytes to whoever listens.
    Controller {
        /// Bytes at most; `u16::MAX` for the whole packet.
        max_len: u16,
        /// Which listener.
        id: u16,
        /// What the rule says of it; listeners are not told.
        reason: Reason,
    },
    /// Insert an outer tag with this protocol, VLAN 0 and priority 0 (of the tag behind it, if there is one).
    PushVlan(u16),
    /// Remove the outer tag.
    PopVlan,
    /// Put the outer tag into this VLAN; insert one if there is none.
    ModVlanVid(u16),
    /// Give the outer tag this priority; insert one of VLAN 0 if there is none.
    ModVlanPcp(u8),
    /// Overwrite bits of a field.
    SetField {
        /// The field.
        field: Field,
        /// The new bits.
        value: u128,
        /// Which bits.
        mask: u128,
    },
    /// Copy bits between fields; both runs have the same number of bits.
    Move {
        /// From where.
        from: Subfield,
        /// To where.
        to: Subfield,
    },
    /// Put bits of a field onto the packet's stack.
    Push(Subfield),
    /// Take the number that was put onto the stack last, and overwrite bits of a field with its low bits.
    Pop(Subfield),
    /// Count the time to live down, and drop what reaches zero. Open vSwitch tells these listeners of it if they want to be
    /// told; here none is. No list is one of listener 0.
    DecTtl(Box<[u16]>),
    /// Look the packet up again, and go on with the next step of this rule afterwards.
    Resubmit {
        /// As if it had come from this port.
        in_port: Option<RulePort>,
        /// In this table; else in the present one.
        table: Option<u8>,
    },
    /// Take these steps with a copy of the packet, which has an action set of its own.
    Clone(Box<[RuleAction]>),
    /// End the rule and all that wait for its end; what is written for the packet's end is still done.
    Exit,
    /// Have the packet go through the switch again as it is now, and go on with the next step of this rule then. It changes
    /// nothing of what rules see, but tries what recirculation needs.
    DebugRecirc,
    /// Nothing, but a rule is kept with it.
    Note(Box<[u8]>),
    /// The rule says that its packets meet one of the dimensions of a conjunction. Such a rule is never carried out.
    Conjunction {
        /// The conjunction's number, by which rules match it with `conj_id`.
        id: u32,
        /// Which dimension, from 0.
        dimension: u8,
        /// How many the conjunction has, `2..=64`.
        dimensions: u8,
    },
    /// Overwrite bits of the metadata.
    WriteMetadata {
        /// The new bits.
        value: u64,
        /// Which bits.
        mask: u64,
    },
    /// Empty the action set.
    ClearActions,
    /// Add to the action set, which runs in OpenFlow's order when no table follows.
    WriteActions(Box<[RuleAction]>),
    /// Go on in a later table; the last step.
    GotoTable(u8),
}

impl RuleAction {
    /// Whether the step names this port, as a place to send to or to have come from.
    pub fn names_port(&self, port: PortId) -> bool {
        match self {
            RuleAction::Output(to) => *to == OutputTo::Port(port.into()),
            RuleAction::Enqueue { port: to, .. } => *to == port.into(),
            RuleAction::Resubmit { in_port, .. } => *in_port == Some(port.into()),
            RuleAction::SetField { field, value, .. } => {
                matches!(field, Field::InPort | Field::InPortOxm) && *value == u128::from(port.number())
            }
            RuleAction::WriteActions(steps) | RuleAction::Clone(steps) => {
                steps.iter().any(|step| step.names_port(port))
            }
            RuleAction::Controller { .. }
            | RuleAction::SetQueue(_)
            | RuleAction::PopQueue
            | RuleAction::PushVlan(_)
            | RuleAction::PopVlan
            | RuleAction::ModVlanVid(_)
            | RuleAction::ModVlanPcp(_)
            | RuleAction::Move { .. }
            | RuleAction::Push(_)
            | RuleAction::Pop(_)
            | RuleAction::DecTtl(_)
            | RuleAction::Exit
            | RuleAction::DebugRecirc
            | RuleAction::Note(_)
            | RuleAction::Conjunction { .. }
            | RuleAction::WriteMetadata { .. }
            | RuleAction::ClearActions
            | RuleAction::GotoTable(_) => false,
        }
    }

    /// Whether it says that the rule is a part of a conjunction.
    pub fn is_conjunction(&self) -> bool {
        matches!(self, RuleAction::Conjunction { .. })
    }
}
