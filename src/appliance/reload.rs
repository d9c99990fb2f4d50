//! Reading the configuration again: what it says holds again, what was done by `ctl` stays.
//!
//! - A port that the configuration gave and gives no more goes; one that is new comes; one whose VLANs, address limit or
//!   role changed goes on without a packet lost; any other change closes it and opens it again.
//! - Mirrors go and come likewise. How much of a packet is read (`vlan-limit`, `fragments`) is as it says.
//! - Tables are called as it says. Rules keep the tables that they were put into.
//! - Rules that came from the configuration and are not in it any more go; those that are new come. Rules that were
//!   added by `ctl` and are not in it stay, unless one of the configuration has the same table, match and priority. A rule
//!   that was in it before and still is keeps its counters. A configuration that says nothing about rules, and did not
//!   before, leaves them alone.
//!
//! All that can be found wrong beforehand is: then nothing changes. Ports that are new are opened before any is closed.
//! Only a port that must be closed first may then fail to open, as another took its socket or interface meanwhile; the
//! error says which, and the others have changed all the same.

use std::collections::HashSet;
use std::sync::Arc;

use vsteer_switch::port::{MAX_PORTS, PortId};
use vsteer_switch::rule::edit::Edit;
use vsteer_switch::rule::entry::RuleSpec;
use vsteer_switch::rule::matching::Match;
use vsteer_switch::rule::set::RuleSet;

use super::rules::RulesChanged;
use super::{Appliance, PortTable, Refusal};
use crate::config::{Config, MirrorSpec, Placed, PortSpec, refuse_shared};
use crate::port::OpenPort;
use crate::port_numbers::PortNumbers;
use crate::table_names::RuleNames;

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReloadReport {
    /// Ports added.
    pub ports_added: Vec<String>,
    /// Ports removed.
    pub ports_removed: Vec<String>,
    /// Ports that go on with other settings.
    pub ports_changed: Vec<String>,
    /// Ports that were closed and opened again, as their settings needed that.
    pub ports_reopened: Vec<String>,
    /// Whether tables are called otherwise.
    pub table_names_changed: bool,
    /// What became of the rules; `None` if the configuration has none and had none.
    pub rules: Option<RulesChanged>,
    /// What could not be done while running, and how to do it.
    pub notes: Vec<String>,
}

/// What the present state owes to the configuration.
#[derive(Debug, Default)]
pub(super) struct Configured {
    /// Names of ports.
    ports: Vec<String>,
    /// Names of mirrors.
    mirrors: Vec<String>,
    /// Rules, if it said anything about them.
    rules: Option<Vec<RuleSpec>>,
}

impl Configured {
    pub(super) fn new(config: &Config, rules: Option<Vec<RuleSpec>>) -> Self {
        Self {
            ports: config.ports.iter().map(|port| port.name.clone()).collect(),
            mirrors: config.mirrors.iter().map(|mirror| mirror.name.clone()).collect(),
            rules,
        }
    }
}

/// What is to be done about ports.
#[derive(Debug, Default)]
struct Plan {
    /// To be closed for good.
    remove: Vec<String>,
    /// To go on as this says.
    change: Vec<PortSpec>,
    /// To be closed and opened again as this says.
    reopen: Vec<PortSpec>,
    /// To be opened before any is closed.
    add: Vec<PortSpec>,
    /// To be opened once those that are in the way are closed.
    add_late: Vec<PortSpec>,
}

impl Plan {
    fn new(table: &PortTable, configured: &Configured, wanted: &[PortSpec]) -> Self {
        let present: Vec<Arc<PortSpec>> = table.open.iter().map(|open| open.port.spec()).collect();
        let mut plan = Self {
            remove: configured
                .ports
                .iter()
                .filter(|&name| wanted.iter().all(|port| port.name != *name))
                .filter(|&name| present.iter().any(|port| port.name == *name))
                .cloned()
                .collect(),
            ..Self::default()
        };
        for spec in wanted {
            match present.iter().find(|port| port.name == spec.name) {
                Some(old) if **old == *spec => (),
                Some(old) if old.is_same_driver(spec) => plan.change.push(spec.clone()),
                Some(_) => plan.reopen.push(spec.clone()),
                None if present.iter().any(|port| port.shared_with(spec).is_some()) => {
                    plan.add_late.push(spec.clone());
                }
                None => plan.add.push(spec.clone()),
            }
        }
        plan
    }

    /// The ports that will be there, for the checks that a configuration gets.
    fn outcome(&self, table: &PortTable, wanted: &[PortSpec]) -> Vec<Placed<PortSpec>> {
        let stays = |port: &PortSpec| {
            !self.remove.contains(&port.name) && wanted.iter().all(|other| other.name != port.name)
        };
        let by_ctl = table.open.iter().map(|open| open.port.spec()).filter(|port| stays(port));
        let by_ctl =
            by_ctl.map(|port| Placed { place: format!("port {}", port.name), value: PortSpec::clone(&port) });
        let wanted = wanted.iter().map(|port| Placed {
            place: format!("port {} of the configuration", port.name),
            value: port.clone(),
        });
        by_ctl.chain(wanted).collect()
    }

    fn closes(&self, name: &str) -> bool {
        self.remove.iter().any(|other| other == name) || self.reopen.iter().any(|port| port.name == name)
    }
}

impl Appliance {
    /// Reads the configuration again and does what it says.
    ///
    /// # Errors
    /// It cannot be read or used, and nothing has changed; or a port cannot be opened, and the refusal says what has.
    pub fn reload(&self) -> Result<ReloadReport, Refusal> {
        // One after the other from the start: what a file says takes memory.
        let _one = self.reloading.lock();
        let config = self.origin.read().map_err(|error| {
            Refusal::invalid(format!("{error} (nothing has changed; correct it and reload again)"))
        })?;
        let mut table = self.ports.lock();
        let mut configured = self.configured.lock();

        // 1. What is to be done, and whether it can be.
        let plan = Plan::new(&table, &configured, &config.ports);
        let outcome = plan.outcome(&table, &config.ports);
        let unchanged = |problem: String| Refusal::invalid(format!("{problem} (nothing has changed)"));
        refuse_shared(&outcome).map_err(|error| unchanged(error.to_string()))?;
        if outcome.len() > MAX_PORTS {
            return Err(unchanged(format!("there would be more than {MAX_PORTS} ports; delete some first")));
        }
        let mirrors = merged_mirrors(&table, &configured, &config.mirrors);
        let numbers = self.numbers_for(&table, &config.ports)?;
        let names = RuleNames::new(&numbers, &config.table_names);
        let rules = read_rules(&config, &names).map_err(|error| unchanged(error.to_string()))?;
        let edit = |current: &RuleSet| {
            merged_rules(current, configured.rules.as_deref(), rules.as_deref()).map(Edit::Replace)
        };
        let now_ms = self.fabric.now_ms();
        let trial = edit(&self.fabric.topology.load().rules);
        trial
            .map(|edit| self.fabric.topology.load().rules.edit(&[edit], now_ms).map(drop))
            .transpose()
            .map_err(|error| unchanged(error.to_string()))?;

        // 2. Ports that are in nobody's way come first: whatever the system refuses here changes nothing.
        let mut added = Vec::new();
        for spec in &plan.add {
            added.push(
                self.open_port(spec, &numbers)
                    .map_err(|error| unchanged(format!("port {}: {}", spec.name, error.text)))?,
            );
        }

        // 3. One snapshot has all the rest.
        let mut done = ReloadReport { notes: self.notes(&config), ..ReloadReport::default() };
        let (gone, mut left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut table.open).into_iter().partition(|open| plan.closes(&open.port.spec().name));
        left.extend(added);
        table.open = left;
        table.numbers = Arc::new(numbers);
        table.mirrors = mirrors;
        done.table_names_changed = *table.table_names != config.table_names;
        table.table_names = Arc::new(config.table_names.clone());
        (table.vlan_limit, table.fragments) = (config.vlan_limit, config.fragments);
        for spec in &plan.change {
            if let Ok(port) = table.find(&spec.name) {
                port.set_spec(spec.clone());
            }
        }
        gone.iter().for_each(|open| Arc::make_mut(&mut table.numbers).release(open.port.id));
        done.rules = self.publish_all(&table, edit);
        self.retire_ports(gone);

        // 4. What had to wait for others to close.
        let mut failed = Vec::new();
        for spec in plan.reopen.iter().chain(&plan.add_late) {
            match self.open_late(&mut table, spec) {
                Ok(()) => (),
                Err(error) => failed.push(format!("port {}: {}", spec.name, error.text)),
            }
        }
        *configured = Configured::new(&config, rules);
        let names = |specs: &[PortSpec]| specs.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
        done.ports_added = [names(&plan.add), names(&plan.add_late)].concat();
        done.ports_removed = plan.remove;
        done.ports_changed = names(&plan.change);
        done.ports_reopened = names(&plan.reopen);
        tracing::info!(?done, "configuration read again");
        if failed.is_empty() {
            return Ok(done);
        }
        Err(Refusal::failed(format!(
            "{} (this port is closed now, all else was done; correct it and reload again)",
            failed.join("; ")
        )))
    }

    /// The numbers of all names, those of `wanted` included.
    fn numbers_for(&self, table: &PortTable, wanted: &[PortSpec]) -> Result<PortNumbers, Refusal> {
        let mut numbers = PortNumbers::clone(&table.numbers);
        for spec in wanted {
            self.claim(&mut numbers, &spec.name)?;
        }
        Ok(numbers)
    }

    fn open_port(&self, spec: &PortSpec, numbers: &PortNumbers) -> Result<OpenPort, Refusal> {
        let id = numbers.number(&spec.name).unwrap_or(PortId::ZERO);
        OpenPort::open(id, spec.clone(), self.workers.len()).map_err(Refusal::failed)
    }

    fn open_late(&self, table: &mut PortTable, spec: &PortSpec) -> Result<(), Refusal> {
        self.claim(Arc::make_mut(&mut table.numbers), &spec.name)?;
        let opened = self.open_port(spec, &table.numbers)?;
        table.open.push(opened);
        self.publish_ports(table);
        Ok(())
    }

    /// What the configuration says and a running switch cannot do.
    fn notes(&self, config: &Config) -> Vec<String> {
        let mut notes = Vec::new();
        let mut note = |what: &str, differs: bool| {
            if differs {
                notes.push(format!("{what} cannot change while the switch runs; start it again for that"));
            }
        };
        note("workers", config.workers != self.started.workers);
        note("poll", config.poll != self.started.poll);
        note("control", config.control != self.started.control);
        note("flow-cache", config.flow_cache != self.started.flow_cache);
        notes
    }
}

/// The rules of a configuration, if it says anything about them.
pub(super) fn read_rules(
    config: &Config,
    names: &RuleNames<'_>,
) -> Result<Option<Vec<RuleSpec>>, crate::config::ConfigError> {
    let Some(texts) = &config.rules else { return Ok(None) };
    let rules = texts.iter().map(|text| text.parse(names)).collect::<Result<Vec<_>, _>>()?;
    Ok(Some(rules.concat()))
}

fn merged_mirrors(table: &PortTable, configured: &Configured, wanted: &[MirrorSpec]) -> Vec<MirrorSpec> {
    let by_ctl = table.mirrors.iter().filter(|mirror| {
        !configured.mirrors.contains(&mirror.name) && wanted.iter().all(|other| other.name != mirror.name)
    });
    by_ctl.chain(wanted).cloned().collect()
}

/// What makes two rules take each other's place, as a key.
type Place = (u8, u16, Match);

fn place(spec: &RuleSpec) -> Place {
    (spec.table, spec.priority, spec.matching.clone())
}

/// The rules after a reload: those of `current`, without those of the configuration as it was (`old`), and with those of
/// the configuration as it is (`new`); `None` if nothing is to change. Before a configuration first speaks of rules, the
/// rule of the learning switch counts as its own.
fn merged_rules(
    current: &RuleSet,
    old: Option<&[RuleSpec]>,
    new: Option<&[RuleSpec]>,
) -> Option<Vec<RuleSpec>> {
    let mut leaving: HashSet<Place> = match (old, new) {
        (None, None) => return None,
        (Some(old), _) => old.iter().map(place).collect(),
        (None, Some(_)) => RuleSet::learning_switch(0).rules().map(|rule| place(rule.spec())).collect(),
    };
    let new = new.unwrap_or_default();
    leaving.extend(new.iter().map(place));
    let stays = current.rules().filter(|rule| !leaving.contains(&place(rule.spec())));
    Some(stays.map(|rule| rule.spec().clone()).chain(new.iter().cloned()).collect())
}

#[cfg(test)]
mod tests {
    use vsteer_switch::rule::text::{parse_rules, rule_text};

    use super::*;

    fn rules(text: &str) -> Vec<RuleSpec> {
        let added = parse_rules(text, &PortNumbers::default()).unwrap();
        added.into_iter().map(|added| added.spec).collect()
    }

    /// The rules that a reload makes of `current`, in ovs-ofctl's syntax.
    fn merge(current: &str, old: Option<&str>, new: Option<&str>) -> Option<Vec<String>> {
        let set = RuleSet::learning_switch(0).edit(&[Edit::Replace(rules(current))], 0).unwrap().set;
        let (old, new) = (old.map(rules), new.map(rules));
        let mut texts: Vec<String> = merged_rules(&set, old.as_deref(), new.as_deref())?
            .iter()
            .map(|rule| rule_text(rule, &PortNumbers::default()))
            .collect();
        texts.sort();
        Some(texts)
    }

    #[test]
    fn rules_of_the_configuration_change_and_those_of_ctl_stay() {
        let file = "priority=1,actions=drop\npriority=2,tcp,actions=drop\n";
        let present = format!("{file}priority=9,udp,actions=normal\n");
        assert_eq!(
            merge(&present, Some(file), Some("priority=1,actions=drop\npriority=3,arp,actions=normal\n")),
            Some(vec![
                "table=0,priority=1 actions=drop".to_owned(),
                "table=0,priority=3,arp actions=NORMAL".to_owned(),
                "table=0,priority=9,udp actions=NORMAL".to_owned(),
            ])
        );
    }

    #[test]
    fn configuration_without_rules_leaves_them_alone_and_its_first_ones_replace_the_learning_switch() {
        let learning = "priority=0,actions=normal\n";
        let both = "priority=0,actions=normal\npriority=7,arp,actions=drop\n";
        assert_eq!(merge(learning, None, None), None);
        assert_eq!(
            merge(both, None, Some("priority=1,actions=drop\n")),
            Some(vec![
                "table=0,priority=1 actions=drop".to_owned(),
                "table=0,priority=7,arp actions=drop".to_owned()
            ])
        );
        assert_eq!(merge("priority=1,actions=drop\n", Some("priority=1,actions=drop\n"), None), Some(vec![]));
    }

    #[test]
    fn what_ctl_made_of_a_rule_of_the_configuration_is_undone() {
        let file = "priority=1,tcp,actions=drop\n";
        assert_eq!(
            merge("priority=1,tcp,actions=normal\n", Some(file), Some(file)),
            Some(vec!["table=0,priority=1,tcp actions=drop".to_owned()])
        );
    }
}
