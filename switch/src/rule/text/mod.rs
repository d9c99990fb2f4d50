//! Rules as text, in ovs-ofctl's flow syntax: parsing and printing.
//!
//! Control calls it when the operator adds, changes, lists or traces; no packet passes here. What is printed parses back
//! to the same value. Stricter than ovs-ofctl where that one ignores what cannot hold: a field without its prerequisites,
//! a repetition or a contradiction is an error, and so is what Open vSwitch has and this switch has not.
//!
//! # Source
//! ovs-fields(7), ovs-actions(7), and "Flow Syntax" of ovs-ofctl(8).

use crate::port::PortId;

/// Where a text is wrong, and what is expected there.
mod error;

/// From a line to its items.
mod cursor;

/// Names of fields, protocols, ports and tables.
mod names;

/// What is known of packets at some point of a rule.
mod known;

/// Values of fields.
mod values;

/// Matches.
mod conditions;

/// Packets in the words of a datapath.
mod datapath;

/// Packets to trace.
mod packet;

/// Which actions may stand where.
mod actions;

/// One action.
mod step;

/// Whole rules, changes and selectors.
mod statement;

/// From rules to text.
mod print;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod round_trip;

pub use error::TextError;
pub use names::{MAX_TABLE_NAME_BYTES, is_table_name};
pub use packet::{UNNAMED_SOURCE, parse_packet};
pub use print::{actions_text, match_text, remarks_text, rule_text};
pub use statement::{
    Addition, Modification, parse_modification, parse_rule, parse_rules, parse_selector, rules_of,
};

/// What ports are called, and tables where those have names.
pub trait PortNames {
    /// The port called `name`.
    fn number(&self, name: &str) -> Option<PortId>;

    /// The name of a port.
    fn name(&self, port: PortId) -> Option<String>;

    /// The table called `name`; none, unless tables have names.
    fn table(&self, _name: &str) -> Option<u8> {
        None
    }

    /// The name of a table. Without one it is printed as its number.
    fn table_name(&self, _table: u8) -> Option<String> {
        None
    }
}
