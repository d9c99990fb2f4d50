//! Which rules a change or a listing is about.

use crate::port::PortId;

use super::matching::Match;

/// A choice among the rules of all tables: those that meet every condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// Rules of this table; else of any.
    pub table: Option<u8>,
    /// Rules whose cookie has these bits (value, mask).
    pub cookie: (u64, u64),
    /// Rules of this priority; said if and only if the choice is strict.
    pub priority: Option<u16>,
    /// Rules with this very match if the choice is strict; else rules that are about no other packets than it.
    pub matching: Match,
    /// Rules that have an output to this port.
    pub out_port: Option<PortId>,
}

impl Selector {
    /// Every rule.
    pub const ALL: Selector =
        Selector { table: None, cookie: (0, 0), priority: None, matching: Match::ANY, out_port: None };
}
