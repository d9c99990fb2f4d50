//! `vsteer ctl reload`: the configuration, read again.

use std::fmt::Write as _;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::ctl::CtlError;
use super::entry::{Command, Entry, Family, Sending};
use super::flow::RulesChanged;
use crate::appliance::Appliance;
use crate::appliance::refusal::Refusal;
use crate::appliance::reload::ReloadReport;
use crate::control::protocol::NoParams;

pub(super) const FAMILY: Family = Family::Single(Entry::call::<Reload>());

/// Read the configuration file again and do what it says
///
/// Ports, mirrors, names of tables and rules of the file that are gone from it go, new ones come, and what was added by ctl
/// stays. A file with an error changes nothing.
#[derive(Debug, Args)]
struct Reload {}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Reloaded {
    /// Ports added.
    ports_added: Vec<String>,
    /// Ports removed.
    ports_removed: Vec<String>,
    /// Ports that go on with other settings.
    ports_changed: Vec<String>,
    /// Ports that were closed and opened again, as their settings needed that.
    ports_reopened: Vec<String>,
    /// Whether tables are called otherwise.
    #[serde(default)]
    table_names_changed: bool,
    /// What became of the rules; `None` if the configuration has none and had none.
    rules: Option<RulesChanged>,
    /// What could not be done while running, and how to do it.
    notes: Vec<String>,
}

impl From<ReloadReport> for Reloaded {
    fn from(report: ReloadReport) -> Self {
        let ReloadReport {
            ports_added,
            ports_removed,
            ports_changed,
            ports_reopened,
            table_names_changed,
            rules,
            notes,
        } = report;
        let rules = rules.map(RulesChanged::from);
        Self { ports_added, ports_removed, ports_changed, ports_reopened, table_names_changed, rules, notes }
    }
}

impl Command for Reload {
    const WORD: &'static str = "reload";
    const METHOD: &'static str = "reload";
    type Params = NoParams;
    type Reply = Reloaded;

    fn params(self) -> Result<NoParams, CtlError> {
        Ok(NoParams {})
    }

    fn carry_out(appliance: &Appliance, _: NoParams) -> Result<Sending<Reloaded>, Refusal> {
        Ok(Reloaded::from(appliance.reload()?).into())
    }

    fn text(_: &NoParams, done: &Reloaded) -> String {
        let mut text = String::new();
        for (what, ports) in [
            ("added", &done.ports_added),
            ("removed", &done.ports_removed),
            ("changed", &done.ports_changed),
            ("opened again", &done.ports_reopened),
        ] {
            if !ports.is_empty() {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "ports {what}: {}", ports.join(", "));
            }
        }
        if done.table_names_changed {
            text.push_str("names of tables changed\n");
        }
        if let Some(changed) = &done.rules {
            let _ = write!(text, "rules: {}", changed.line());
        }
        for note in &done.notes {
            let _ = writeln!(text, "note: {note}");
        }
        if text.is_empty() { "nothing changed\n".to_owned() } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::rules;

    #[test]
    fn reload_says_what_changed() {
        let text = |report| Reload::text(&NoParams {}, &Reloaded::from(report));
        assert_eq!(text(ReloadReport::default()), "nothing changed\n");
        let done = ReloadReport {
            ports_added: vec!["a".into(), "b".into()],
            ports_reopened: vec!["c".into()],
            table_names_changed: true,
            rules: Some(rules::RulesChanged { added: 1, modified: 2, removed: 3, rules: 4 }),
            notes: vec!["workers cannot change".into()],
            ..ReloadReport::default()
        };
        assert_eq!(
            text(done),
            "ports added: a, b\nports opened again: c\nnames of tables changed\nrules: 1 added, 2 changed, 3 removed; 4 rules now\n\
             note: workers cannot change\n"
        );
    }
}
