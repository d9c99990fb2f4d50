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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputTo {
    /// This port, unless the packet came from it, or what its number stands for.
    Port(RulePort),
    /// The port whose number is in these bits.
    Subfield(Subfield),
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleAction {
    /// Send the packet as it is now.
    Output(OutputTo),
    /// Hand the first `max_len` bytes to whoever listens.
    Controller {
        /// Bytes at most; `u16::MAX` for the whole packet.
        max_len: u16,
        /// Which listener.
        id: u16,
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
    /// Count the time to live down, and drop what reaches zero.
    DecTtl,
    /// Look the packet up again, and go on with the next step of this rule afterwards.
    Resubmit {
        /// As if it had come from this port.
        in_port: Option<RulePort>,
        /// In this table; else in the present one.
        table: Option<u8>,
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
            RuleAction::Resubmit { in_port, .. } => *in_port == Some(port.into()),
            RuleAction::SetField { field, value, .. } => {
                *field == Field::InPort && *value == u128::from(port.number())
            }
            RuleAction::WriteActions(set) => set.iter().any(|action| action.names_port(port)),
            RuleAction::Controller { .. }
            | RuleAction::PushVlan(_)
            | RuleAction::PopVlan
            | RuleAction::ModVlanVid(_)
            | RuleAction::ModVlanPcp(_)
            | RuleAction::Move { .. }
            | RuleAction::DecTtl
            | RuleAction::WriteMetadata { .. }
            | RuleAction::ClearActions
            | RuleAction::GotoTable(_) => false,
        }
    }
}
