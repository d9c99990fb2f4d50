//! Rules in the lines of ovs-ofctl, and tables of what surrounds them.

use std::fmt::Write as _;

use super::super::protocol::{MirrorInfo, Reloaded, RuleInfo, RulesChanged, TableInfo};
use super::{Table, count};

/// Rules, one a line, as `ovs-ofctl dump-flows` prints them.
pub fn rules(rules: &[RuleInfo]) -> String {
    let mut text = String::new();
    for rule in rules {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            " cookie={:#x}, duration={}s, table={}, n_packets={}, n_bytes={}, ",
            rule.cookie,
            seconds(rule.duration_ms),
            rule.table,
            rule.packets,
            rule.bytes
        );
        for (name, timeout) in [("idle_timeout", rule.idle_timeout_s), ("hard_timeout", rule.hard_timeout_s)]
        {
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
    }
    if text.is_empty() { "no such rules\n".to_owned() } else { text }
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

/// What a change did.
pub fn rules_changed(changed: &RulesChanged) -> String {
    let RulesChanged { added, modified, removed, rules } = changed;
    format!("{added} added, {modified} changed, {removed} removed; {rules} rules now\n")
}

/// Tables, one a line.
pub fn tables(tables: &[TableInfo]) -> String {
    let mut lines = Table::new([">TABLE", ">RULES", ">LOOKUPS", ">MATCHED"]);
    for table in tables {
        lines.row([table.table.to_string(), count(table.rules), count(table.lookups), count(table.matched)]);
    }
    lines.finish("no tables")
}

/// Mirrors, one a line.
pub fn mirrors(mirrors: &[MirrorInfo]) -> String {
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let mut table = Table::new(["NAME", "FROM", "TO", "VLAN", "OUTPUT", "STATE"]);
    for mirror in mirrors {
        table.row([
            mirror.name.clone(),
            or_none(&mirror.src),
            or_none(&mirror.dst),
            mirror.vlans.clone().unwrap_or("any".to_owned()),
            mirror.output.clone(),
            if mirror.active { "active" } else { "output port is gone" }.to_owned(),
        ]);
    }
    table.finish("no mirrors; add one with vsteer ctl mirror add NAME,src=PORT,output=PORT")
}

/// What a reload did.
pub fn reloaded(done: &Reloaded) -> String {
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
    if let Some(changed) = &done.rules {
        let _ = write!(text, "rules: {}", rules_changed(changed));
    }
    for note in &done.notes {
        let _ = writeln!(text, "note: {note}");
    }
    if text.is_empty() { "nothing changed\n".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> RuleInfo {
        RuleInfo {
            table: 1,
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
        let any = RuleInfo { match_text: String::new(), idle_timeout_s: 0, ..rule() };
        assert_eq!(
            rules(&[rule(), any]),
            " cookie=0x2a, duration=61.042s, table=1, n_packets=3, n_bytes=180, idle_timeout=60, idle_age=3, \
             priority=100,tcp,tp_dst=22 actions=output:vm1\n \
             cookie=0x2a, duration=61.042s, table=1, n_packets=3, n_bytes=180, idle_age=3, priority=100 \
             actions=output:vm1\n"
        );
        assert_eq!(rules(&[]), "no such rules\n");
    }

    #[test]
    fn tables_and_mirrors_have_one_line_each() {
        let table = TableInfo { table: 3, rules: 1200, lookups: 5, matched: 4 };
        assert_eq!(tables(&[table]), "TABLE  RULES  LOOKUPS  MATCHED\n    3  1 200        5        4\n");
        let mirror = MirrorInfo {
            name: "spy".into(),
            src: "vm0+vm1".into(),
            dst: String::new(),
            vlans: None,
            output: "vm2".into(),
            active: true,
        };
        assert_eq!(
            mirrors(&[mirror]),
            "NAME  FROM     TO  VLAN  OUTPUT  STATE\nspy   vm0+vm1  -   any   vm2     active\n"
        );
    }

    #[test]
    fn reload_says_what_changed() {
        assert_eq!(reloaded(&Reloaded::default()), "nothing changed\n");
        let done = Reloaded {
            ports_added: vec!["a".into(), "b".into()],
            ports_reopened: vec!["c".into()],
            rules: Some(RulesChanged { added: 1, modified: 2, removed: 3, rules: 4 }),
            notes: vec!["workers cannot change".into()],
            ..Reloaded::default()
        };
        assert_eq!(
            reloaded(&done),
            "ports added: a, b\nports opened again: c\nrules: 1 added, 2 changed, 3 removed; 4 rules now\n\
             note: workers cannot change\n"
        );
    }
}
