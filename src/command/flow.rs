//! `vsteer ctl flow`: rules, in the words of ovs-ofctl. `dump` shows megaflows, see `megaflow.rs`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::{Deserialize, Serialize};
use vsteer_switch::rule::entry::Rule;
use vsteer_switch::rule::text::{self, PortNames};

use super::ctl::CtlError;
use super::entry::{Command, Entry, Family, Sending};
use super::megaflow;
use super::table::{Table, count};
use crate::appliance::Appliance;
use crate::appliance::refusal::Refusal;
use crate::appliance::rules::{self, Adding, Modifying, TableReport, WrittenRules, reading_bytes};
use crate::control::protocol::NoParams;
use crate::control::server::MAX_LINE_BYTES;
use crate::table_names::RuleNames;

pub(super) const FAMILY: Family = Family::Group {
    word: "flow",
    about: "Rules and megaflows",
    commands: &[
        Entry::call::<AddRule>(),
        Entry::call::<AddRules>(),
        Entry::call::<ReplaceRules>(),
        Entry::call::<ModifyRules>(),
        Entry::call::<DeleteRules>(),
        Entry::call::<DumpRules>(),
        Entry::call::<DumpTables>(),
        Entry::call::<megaflow::Dump>(),
    ],
};

/// Rules, one a line.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesParams {
    /// The rules in ovs-ofctl's syntax; `#` begins a comment.
    text: String,
    /// The file they come from, for errors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    /// Refuse a rule that shares packets with another of the same table and priority.
    #[serde(default)]
    check_overlap: bool,
    /// Let the counters of rules whose place is taken begin anew.
    #[serde(default)]
    reset_counts: bool,
}

impl RulesParams {
    fn written(&self) -> WrittenRules<'_> {
        WrittenRules { text: &self.text, source: self.source.as_deref() }
    }

    fn weight(&self) -> usize {
        self.text.len() + reading_bytes(&self.text)
    }
}

/// What a change of rules did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct RulesChanged {
    /// Rules that are new.
    added: u64,
    /// Rules that took the place of one with the same match and priority.
    modified: u64,
    /// Rules removed.
    removed: u64,
    /// Rules there are now.
    rules: u64,
}

impl From<rules::RulesChanged> for RulesChanged {
    fn from(changed: rules::RulesChanged) -> Self {
        let rules::RulesChanged { added, modified, removed, rules } = changed;
        let [added, modified, removed, rules] = [added, modified, removed, rules].map(|count| count as u64);
        Self { added, modified, removed, rules }
    }
}

impl RulesChanged {
    /// What was done, in a line.
    pub(super) fn line(&self) -> String {
        let Self { added, modified, removed, rules } = self;
        format!("{added} added, {modified} changed, {removed} removed; {rules} rules now\n")
    }
}

/// How rules are added.
#[derive(Debug, Args)]
struct How {
    /// Refuse a rule that shares packets with another of the same table and priority
    #[arg(long)]
    check_overlap: bool,
    /// Let the counters of rules whose place is taken begin anew
    #[arg(long)]
    reset_counts: bool,
}

impl How {
    fn params(&self, text: String, source: Option<String>) -> RulesParams {
        RulesParams { text, source, check_overlap: self.check_overlap, reset_counts: self.reset_counts }
    }
}

fn add(appliance: &Appliance, params: &RulesParams) -> Result<Sending<RulesChanged>, Refusal> {
    let how = Adding { check_overlap: params.check_overlap, reset_counts: params.reset_counts };
    Ok(RulesChanged::from(appliance.add_rules(params.written(), how)?).into())
}

/// Add a rule, as in 'table=0,priority=100,in_port=vm0,tcp,tp_dst=22,actions=drop'
#[derive(Debug, Args)]
#[command(visible_alias = "add-flow")]
struct AddRule {
    /// The rule in ovs-ofctl's syntax; it takes the place of one with the same match and priority
    rule: String,
    #[command(flatten)]
    how: How,
}

impl Command for AddRule {
    const WORD: &'static str = "add";
    const METHOD: &'static str = "rule_add";
    type Params = RulesParams;
    type Reply = RulesChanged;

    fn params(self) -> Result<RulesParams, CtlError> {
        Ok(self.how.params(self.rule, None))
    }

    fn weight(params: &RulesParams, _: &Appliance) -> usize {
        params.weight()
    }

    fn carry_out(appliance: &Appliance, params: RulesParams) -> Result<Sending<RulesChanged>, Refusal> {
        add(appliance, &params)
    }

    fn text(_: &RulesParams, changed: &RulesChanged) -> String {
        changed.line()
    }
}

/// Add the rules of a file, all or none; of 16 MiB at most
#[derive(Debug, Args)]
struct AddRules {
    /// The file, a rule a line; - for standard input
    file: PathBuf,
    #[command(flatten)]
    how: How,
}

impl Command for AddRules {
    const WORD: &'static str = "add-flows";
    const METHOD: &'static str = AddRule::METHOD;
    type Params = RulesParams;
    type Reply = RulesChanged;

    fn params(self) -> Result<RulesParams, CtlError> {
        Ok(self.how.params(read_text(&self.file)?, Some(source_name(&self.file))))
    }

    fn weight(params: &RulesParams, _: &Appliance) -> usize {
        params.weight()
    }

    fn carry_out(appliance: &Appliance, params: RulesParams) -> Result<Sending<RulesChanged>, Refusal> {
        add(appliance, &params)
    }

    fn text(_: &RulesParams, changed: &RulesChanged) -> String {
        changed.line()
    }
}

/// Put the rules of a file in place of all rules, all or none and at once; of 16 MiB at most
///
/// Rules that were there before and are in the file keep their counters.
#[derive(Debug, Args)]
struct ReplaceRules {
    /// The file, a rule a line; - for standard input
    file: PathBuf,
}

impl Command for ReplaceRules {
    const WORD: &'static str = "replace-flows";
    const METHOD: &'static str = "rule_replace";
    type Params = RulesParams;
    type Reply = RulesChanged;

    fn params(self) -> Result<RulesParams, CtlError> {
        let (text, source) = (read_text(&self.file)?, Some(source_name(&self.file)));
        Ok(RulesParams { text, source, ..RulesParams::default() })
    }

    fn weight(params: &RulesParams, _: &Appliance) -> usize {
        params.weight()
    }

    fn carry_out(appliance: &Appliance, params: RulesParams) -> Result<Sending<RulesChanged>, Refusal> {
        Ok(RulesChanged::from(appliance.replace_rules(params.written())?).into())
    }

    fn text(_: &RulesParams, changed: &RulesChanged) -> String {
        changed.line()
    }
}

/// Give rules other actions: 'SELECTOR,actions=...'
#[derive(Debug, Args, Serialize, Deserialize)]
#[command(visible_alias = "mod-flows")]
#[serde(deny_unknown_fields)]
struct ModifyRules {
    /// Which rules, and their new actions; without --strict all rules that match no more than the selector
    #[arg(value_name = "CHANGE")]
    #[serde(default)]
    text: String,
    /// Only the rule with exactly this match and priority
    #[arg(long)]
    #[serde(default)]
    strict: bool,
    /// Let their counters begin anew
    #[arg(long)]
    #[serde(default)]
    reset_counts: bool,
}

impl Command for ModifyRules {
    const WORD: &'static str = "modify";
    const METHOD: &'static str = "rule_modify";
    type Params = Self;
    type Reply = RulesChanged;

    fn params(self) -> Result<Self, CtlError> {
        Ok(self)
    }

    fn weight(params: &Self, _: &Appliance) -> usize {
        params.text.len() + reading_bytes(&params.text)
    }

    fn carry_out(appliance: &Appliance, params: Self) -> Result<Sending<RulesChanged>, Refusal> {
        let how = Modifying { strict: params.strict, reset_counts: params.reset_counts };
        Ok(RulesChanged::from(appliance.modify_rules(&params.text, how)?).into())
    }

    fn text(_: &Self, changed: &RulesChanged) -> String {
        changed.line()
    }
}

/// Remove rules; without a selector all
///
/// If no rule would be left, that of the learning switch (priority=0,actions=NORMAL) comes back.
#[derive(Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteRules {
    /// Which rules; without --strict all rules that match no more than the selector
    #[arg(value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    #[serde(default)]
    text: String,
    /// Only the rule with exactly this match and priority
    #[arg(long)]
    #[serde(default)]
    strict: bool,
    /// Without a meaning; earlier clients send it.
    #[arg(skip)]
    #[serde(default, skip_serializing)]
    #[expect(dead_code, reason = "taken and not looked at")]
    reset_counts: bool,
}

impl Command for DeleteRules {
    const WORD: &'static str = "del-flows";
    const METHOD: &'static str = "rule_del";
    type Params = Self;
    type Reply = RulesChanged;

    fn params(self) -> Result<Self, CtlError> {
        Ok(self)
    }

    fn weight(params: &Self, _: &Appliance) -> usize {
        params.text.len() + reading_bytes(&params.text)
    }

    fn carry_out(appliance: &Appliance, params: Self) -> Result<Sending<RulesChanged>, Refusal> {
        Ok(RulesChanged::from(appliance.delete_rules(&params.text, params.strict)?).into())
    }

    fn text(_: &Self, changed: &RulesChanged) -> String {
        changed.line()
    }
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RuleInfo {
    /// Its table.
    table: u8,
    /// The name of its table, if names were asked for and it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table_name: Option<String>,
    /// Its priority.
    priority: u16,
    /// Its cookie.
    cookie: u64,
    /// What it matches; empty for everything.
    #[serde(rename = "match")]
    match_text: String,
    /// What it does.
    actions: String,
    /// Milliseconds since it was added.
    duration_ms: u64,
    /// Milliseconds since a packet last matched, or since it was added.
    idle_ms: u64,
    /// Seconds without packets after which it goes; 0 for never.
    idle_timeout_s: u16,
    /// Seconds after which it goes; 0 for never.
    hard_timeout_s: u16,
    /// Packets that matched.
    packets: u64,
    /// Bytes that matched.
    bytes: u64,
}

impl RuleInfo {
    fn of(rule: &Rule, names: &RuleNames<'_>, now_ms: u64) -> Self {
        let (spec, stats) = (rule.spec(), rule.stats());
        Self {
            table: spec.table,
            table_name: names.table_name(spec.table),
            priority: spec.priority,
            cookie: spec.cookie,
            match_text: text::match_text(&spec.matching, names),
            actions: text::actions_text(&spec.actions, names),
            duration_ms: now_ms.saturating_sub(rule.created_ms()),
            idle_ms: now_ms.saturating_sub(stats.last_used_ms.max(rule.created_ms())),
            idle_timeout_s: spec.idle_timeout_s,
            hard_timeout_s: spec.hard_timeout_s,
            packets: stats.packets,
            bytes: stats.bytes,
        }
    }
}

/// Show rules with their counters
#[derive(Debug, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DumpRules {
    /// Which rules, as in 'table=1,tcp' or 'out_port=vm0'; all without
    #[arg(value_name = "SELECTOR", default_value = "", hide_default_value = true)]
    #[serde(default)]
    text: String,
    /// Show tables that have names by these
    #[arg(long)]
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    names: bool,
}

impl Command for DumpRules {
    const WORD: &'static str = "dump-flows";
    const METHOD: &'static str = "rule_dump";
    type Params = Self;
    type Reply = Vec<RuleInfo>;

    fn params(self) -> Result<Self, CtlError> {
        Ok(self)
    }

    /// The rules themselves stay where they are, and their texts are made while they are sent.
    fn weight(params: &Self, appliance: &Appliance) -> usize {
        params.text.len() + reading_bytes(&params.text) + appliance.rule_count() * 2 * size_of::<usize>()
    }

    fn carry_out(appliance: &Appliance, params: Self) -> Result<Sending<Self::Reply>, Refusal> {
        let report = appliance.rules(&params.text)?;
        let table_names = if params.names { report.table_names } else { Arc::default() };
        let rows = report.rules.into_iter();
        Ok(Sending::rows(rows.map(move |rule| {
            RuleInfo::of(&rule, &RuleNames::new(&*report.numbers, &table_names), report.now_ms)
        })))
    }

    fn text(_: &Self, rules: &Self::Reply) -> String {
        let lines: String = rules.iter().map(rule_line).collect();
        if lines.is_empty() { "no such rules\n".to_owned() } else { lines }
    }
}

/// A rule as `ovs-ofctl dump-flows` prints it.
fn rule_line(rule: &RuleInfo) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        " cookie={:#x}, duration={}s, table={}, n_packets={}, n_bytes={}, ",
        rule.cookie,
        seconds(rule.duration_ms),
        rule.table_name.clone().unwrap_or_else(|| rule.table.to_string()),
        rule.packets,
        rule.bytes
    );
    for (name, timeout) in [("idle_timeout", rule.idle_timeout_s), ("hard_timeout", rule.hard_timeout_s)] {
        if timeout != 0 {
            let _ = write!(text, "{name}={timeout}, ");
        }
    }
    let separator = if rule.match_text.is_empty() { "" } else { "," };
    let _ = writeln!(
        text,
        "idle_age={}, priority={}{separator}{} actions={}",
        rule.idle_ms / 1000,
        rule.priority,
        rule.match_text,
        rule.actions
    );
    text
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// A table of rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TableInfo {
    /// Its number.
    table: u8,
    /// Its name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Rules in it.
    rules: u64,
    /// Packets that were looked up in it.
    lookups: u64,
    /// Packets that some rule of it matched.
    matched: u64,
}

impl From<TableReport> for TableInfo {
    fn from(TableReport { name, stats }: TableReport) -> Self {
        Self {
            table: stats.table,
            name,
            rules: stats.rules as u64,
            lookups: stats.lookups(),
            matched: stats.matched,
        }
    }
}

/// Show tables with their names and counters
#[derive(Debug, Args)]
struct DumpTables {}

impl Command for DumpTables {
    const WORD: &'static str = "dump-tables";
    const METHOD: &'static str = "table_dump";
    type Params = NoParams;
    type Reply = Vec<TableInfo>;

    fn params(self) -> Result<NoParams, CtlError> {
        Ok(NoParams {})
    }

    fn carry_out(appliance: &Appliance, _: NoParams) -> Result<Sending<Self::Reply>, Refusal> {
        Ok(Sending::rows(appliance.tables().into_iter().map(TableInfo::from)))
    }

    fn text(_: &NoParams, tables: &Self::Reply) -> String {
        let mut lines = Table::new([">TABLE", "NAME", ">RULES", ">LOOKUPS", ">MATCHED"]);
        for table in tables {
            lines.row([
                table.table.to_string(),
                table.name.clone().unwrap_or_default(),
                count(table.rules),
                count(table.lookups),
                count(table.matched),
            ]);
        }
        lines.finish("no tables")
    }
}

/// Bytes of a request beside the rules: the envelope, and the name of their file.
const ENVELOPE_BYTES: usize = 8 * 1024;

/// The text of a file, or of standard input if the file is called `-`; of no more than fits into a request.
fn read_text(path: &Path) -> Result<String, CtlError> {
    let unreadable = |source| CtlError::Unreadable { path: path.to_owned(), source };
    let most = MAX_LINE_BYTES - ENVELOPE_BYTES;
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().take(most as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    } else {
        let file = File::open(path).map_err(unreadable)?;
        file.take(most as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    }
    // In a request the end of a line takes two bytes.
    if text.len() + text.lines().count() > most {
        return Err(CtlError::TooLarge { name: source_name(path), limit: MAX_LINE_BYTES });
    }
    Ok(text)
}

/// What errors call the file.
fn source_name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> RuleInfo {
        RuleInfo {
            table: 1,
            table_name: None,
            priority: 100,
            cookie: 0x2a,
            match_text: "tcp,tp_dst=22".into(),
            actions: "output:vm1".into(),
            duration_ms: 61_042,
            idle_ms: 3_999,
            idle_timeout_s: 60,
            hard_timeout_s: 0,
            packets: 3,
            bytes: 180,
        }
    }

    #[test]
    fn rules_read_like_those_of_ovs_ofctl() {
        let all = DumpRules { text: String::new(), names: false };
        let any = RuleInfo { match_text: String::new(), idle_timeout_s: 0, ..rule() };
        assert_eq!(
            DumpRules::text(&all, &vec![rule(), any]),
            " cookie=0x2a, duration=61.042s, table=1, n_packets=3, n_bytes=180, idle_timeout=60, idle_age=3, \
             priority=100,tcp,tp_dst=22 actions=output:vm1\n \
             cookie=0x2a, duration=61.042s, table=1, n_packets=3, n_bytes=180, idle_age=3, priority=100 \
             actions=output:vm1\n"
        );
        assert_eq!(DumpRules::text(&all, &vec![]), "no such rules\n");
        let named = RuleInfo { table_name: Some("acl".into()), ..rule() };
        let names = DumpRules { text: String::new(), names: true };
        assert!(DumpRules::text(&names, &vec![named]).contains(", table=acl, n_packets="));
    }

    #[test]
    fn tables_have_one_line_each() {
        let table = |table, name| TableInfo { table, name, rules: 1200, lookups: 5, matched: 4 };
        let text = DumpTables::text(&NoParams {}, &vec![table(3, Some("acl".into())), table(4, None)]);
        assert_eq!(
            text,
            "TABLE  NAME  RULES  LOOKUPS  MATCHED\n    3  acl   1 200        5        4\n    4        1 200        5        4\n"
        );
    }

    #[test]
    fn file_of_rules_that_fits_no_request_is_refused_before_it_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acl");
        let line = "priority=1,actions=drop\n";
        std::fs::write(&path, line.repeat(MAX_LINE_BYTES / (line.len() + 1) - 1000)).unwrap();
        assert!(read_text(&path).is_ok());
        for bytes in [MAX_LINE_BYTES / line.len() + 1, 2 * MAX_LINE_BYTES / line.len()] {
            std::fs::write(&path, line.repeat(bytes)).unwrap();
            let error = read_text(&path).unwrap_err().to_string();
            let expected = format!("{}: makes a request of more than 16777216 bytes", path.display());
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
