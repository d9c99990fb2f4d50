//! What the control socket says about rules, tables and mirrors.

use serde::{Deserialize, Serialize};

/// Parameters that are rules, one a line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RulesParams {
    /// The rules in ovs-ofctl's syntax; `#` begins a comment.
    pub text: String,
    /// The file they come from, for errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Refuse a rule that shares packets with another of the same table and priority.
    #[serde(default)]
    pub check_overlap: bool,
    /// Let the counters of rules whose place is taken begin anew.
    #[serde(default)]
    pub reset_counts: bool,
}

/// Parameters that choose rules to change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelectorParams {
    /// Which rules, in ovs-ofctl's syntax, and for `rule_mod` their new actions; nothing chooses all.
    #[serde(default)]
    pub text: String,
    /// Only rules with exactly this match and priority.
    #[serde(default)]
    pub strict: bool,
    /// For `rule_mod`: let the counters begin anew.
    #[serde(default)]
    pub reset_counts: bool,
}

/// Parameters that choose rules to show.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleFilter {
    /// Which rules, in ovs-ofctl's syntax; nothing chooses all.
    #[serde(default)]
    pub text: String,
}

/// What a change of rules did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RulesChanged {
    /// Rules that are new.
    pub added: u64,
    /// Rules that took the place of one with the same match and priority.
    pub modified: u64,
    /// Rules removed.
    pub removed: u64,
    /// Rules there are now.
    pub rules: u64,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// Its table.
    pub table: u8,
    /// Its priority.
    pub priority: u16,
    /// Its cookie.
    pub cookie: u64,
    /// What it matches; empty for everything.
    #[serde(rename = "match")]
    pub match_text: String,
    /// What it does.
    pub actions: String,
    /// Milliseconds since it was added.
    pub duration_ms: u64,
    /// Milliseconds since a packet last matched, or since it was added.
    pub idle_ms: u64,
    /// Seconds without packets after which it goes; 0 for never.
    pub idle_timeout_s: u16,
    /// Seconds after which it goes; 0 for never.
    pub hard_timeout_s: u16,
    /// Packets that matched.
    pub packets: u64,
    /// Bytes that matched.
    pub bytes: u64,
}

/// A table of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableInfo {
    /// Its number.
    pub table: u8,
    /// Rules in it.
    pub rules: u64,
    /// Packets that were looked up in it.
    pub lookups: u64,
    /// Packets that some rule of it matched.
    pub matched: u64,
}

/// Parameters that describe a mirror to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorText {
    /// `NAME,src=PORT+PORT,dst=PORT+PORT,vlan=ID+ID,output=PORT`.
    pub spec: String,
}

/// Parameters that name a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorName {
    /// The mirror's name.
    pub name: String,
}

/// A mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorInfo {
    /// Its name.
    pub name: String,
    /// Ports whose packets are mirrored as they come in: names joined by `+`, `all`, or nothing.
    pub src: String,
    /// Ports whose packets are mirrored as they go out.
    pub dst: String,
    /// Only packets of these VLANs; `None` is any.
    pub vlans: Option<String>,
    /// The port that gets the copies.
    pub output: String,
    /// Whether the output port is there. Without it nothing is mirrored.
    pub active: bool,
}
