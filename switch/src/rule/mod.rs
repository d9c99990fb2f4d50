//! Rules: what the operator wants done with which packets, in Open vSwitch's words.
//!
//! Modules in the order in which a rule is made and used.

/// The fields that rules name: where they lie, how wide they are, what they need.
pub mod field;

/// Which packets a rule is about.
pub mod matching;

/// What a rule does.
pub mod action;

/// A rule of a table, with its counters.
pub mod entry;

/// Which rules a change or a listing is about.
pub mod selector;
