//! Rules: what the operator wants done with which packets, in Open vSwitch's words.
//!
//! Modules in the order in which a rule is made and used.

/// The fields that rules name: where they lie, how wide they are, what they need.
pub mod field;

/// Which packets have a field.
pub mod needs;

/// Ports as rules number them.
pub mod port;

/// Which packets a rule is about.
pub mod matching;

/// What rules see of fragments.
pub mod fragments;

/// What a rule does.
pub mod action;

/// A rule of a table, with its counters.
pub mod entry;

/// Which rules a change or a listing is about.
pub mod selector;

/// Rules as text, in ovs-ofctl's syntax.
pub mod text;

/// Tries of the prefixes that a table's rules ask for.
mod trie;

/// A map from hashes to items that snapshots share.
mod hash_trie;

/// Rules that each say one condition of several.
mod conjunction;

/// The rules of one mask, found by hash in stages.
mod subtable;

/// One table: its rules, and which of them a packet meets.
mod table;

/// The rule set: all tables, as one immutable value.
pub mod set;

/// Changes of a rule set: several at once, all or none.
pub mod edit;

/// Rules and packets for tests.
#[cfg(test)]
mod samples;
