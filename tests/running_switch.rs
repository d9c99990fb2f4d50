//! A running switch, driven from outside: the built program with TAP ports, frames on one side, `vsteer ctl` on the other.
//!
//! TAP interfaces need privilege: without it the test says so and checks only what needs no port.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod switch;

use std::io::{Read, Write};
use std::process::Stdio;

use serde_json::Value;

use self::switch::{Switch, has_privilege, wait_for};

#[test]
fn rules_come_go_and_are_listed_without_any_port() {
    let switch = Switch::start("", None);
    let listed = || switch.ctl(&["flow", "dump-flows"]);
    assert!(
        listed().contains("n_packets=0") && listed().contains("priority=0 actions=NORMAL"),
        "{}",
        listed()
    );

    let added =
        switch.ctl(&["flow", "add", "table=1,priority=5,tcp,nw_src=10.0.0.0/24,tp_dst=22,actions=drop"]);
    assert_eq!(added, "1 added, 0 changed, 0 removed; 2 rules now\n");
    let dumped = switch.ctl(&["flow", "dump-flows", "table=1"]);
    assert!(dumped.ends_with("priority=5,tcp,nw_src=10.0.0.0/24,tcp_dst=22 actions=drop\n"), "{dumped}");
    assert_eq!(switch.json(&["flow", "dump-flows", "table=1"])[0]["priority"], 5);
    switch.ctl(&[
        "flow",
        "mod-flows",
        "--strict",
        "table=1,priority=5,tcp,nw_src=10.0.0.0/24,tp_dst=22,actions=normal",
    ]);
    assert!(switch.ctl(&["flow", "dump-flows", "table=1"]).ends_with("actions=NORMAL\n"));
    assert!(switch.ctl(&["flow", "dump-tables"]).starts_with("TABLE  NAME  RULES"));
    switch.ctl(&["flow", "del-flows", "table=1,tcp"]);
    assert_eq!(switch.ctl(&["flow", "dump-flows", "table=1"]), "no such rules\n");
    switch.ctl(&["flow", "del-flows"]);
    assert!(listed().ends_with("priority=0 actions=NORMAL\n"), "the learning switch comes back");
}

#[test]
fn files_of_rules_are_taken_whole_or_not_at_all() {
    let switch = Switch::start("", None);
    let acl = switch.path("acl");
    let name = acl.to_str().unwrap();
    let rules: String =
        (0..10_000).map(|n| format!("priority={n},udp,tp_dst={n},actions=drop # {n}\n")).collect();
    std::fs::write(&acl, format!("# an ACL\n\n{rules}")).unwrap();
    assert_eq!(
        switch.ctl(&["flow", "add-flows", name]),
        "10000 added, 0 changed, 0 removed; 10001 rules now\n"
    );
    std::fs::write(&acl, "priority=1,udp,actions=normal\n\npriority=2,udp,tpdst=5,actions=drop\n").unwrap();
    let refusal = switch.refusal(&["flow", "replace-flows", name]);
    assert!(refusal.starts_with(&format!("vsteer: {name}:3:16: found \"tpdst")), "{refusal}");
    assert!(refusal.contains("expected"), "{refusal}");
    assert_eq!(switch.json(&["flow", "dump-flows"]).as_array().unwrap().len(), 10_001);

    let mut command = switch.ctl_command(&["flow", "replace-flows", "-"]);
    let mut ctl = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    ctl.stdin.take().unwrap().write_all(b"priority=1,udp,tp_dst=1,actions=drop\nactions=normal\n").unwrap();
    let replaced = String::from_utf8(ctl.wait_with_output().unwrap().stdout).unwrap();
    assert!(replaced.ends_with("2 rules now\n"), "{replaced}");
}

#[test]
fn reload_does_what_the_file_says_and_keeps_what_ctl_did() {
    let switch = Switch::start("rules = \"\"\"\npriority=1,udp,actions=drop\nactions=normal\n\"\"\"\n", None);
    let file = switch.path("vsteer.toml");
    switch.ctl(&["flow", "add", "priority=9,arp,actions=normal"]);
    std::fs::write(&file, "rules = \"\"\"\npriority=2,tcp,actions=drop\nactions=normal\n\"\"\"\n").unwrap();
    assert_eq!(switch.ctl(&["reload"]), "rules: 1 added, 0 changed, 1 removed; 3 rules now\n");
    let rules = switch.ctl(&["flow", "dump-flows"]);
    for (text, is_there) in [("priority=2,tcp", true), ("priority=9,arp", true), ("udp", false)] {
        assert_eq!(rules.contains(text), is_there, "{text}: {rules}");
    }
    std::fs::write(&file, "poll = \"busy\"\nrules = '''\n\npriority=2,tcp,actions=dorp\n'''\n").unwrap();
    let refusal = switch.refusal(&["reload"]);
    let place = format!("vsteer: {}:4:24: found \"dorp\"", file.display());
    assert!(refusal.starts_with(&place) && refusal.contains("nothing has changed"), "{refusal}");
    assert_eq!(switch.ctl(&["flow", "dump-flows"]).lines().count(), 3);
    std::fs::write(&file, "poll = \"busy\"\n").unwrap();
    let reloaded = switch.ctl(&["reload"]);
    assert!(reloaded.contains("2 removed; 1 rules now"), "{reloaded}");
    assert!(reloaded.contains("note: poll cannot change while the switch runs"), "{reloaded}");
}

#[test]
fn tables_go_by_the_names_of_the_configuration_and_of_its_reload() {
    let rules = "table=0,actions=resubmit(,acl)\ntable=acl,actions=goto_table:nat\ntable=nat,actions=normal";
    let config =
        |names: &str, rules: &str| format!("rules = \"\"\"\n{rules}\n\"\"\"\n[table-names]\n{names}\n");
    let switch = Switch::start(&config("1 = \"acl\"\n7 = \"nat\"\n9 = \"spare\"", rules), None);

    // 1. Adding, changing, removing and showing know the names; what is shown has them if they are asked for.
    switch.ctl(&["flow", "add", "table=acl,priority=5,arp,actions=resubmit(,nat)"]);
    let changed = switch.ctl(&["flow", "modify", "table=acl,arp,actions=goto_table(nat)"]);
    assert_eq!(changed, "0 added, 1 changed, 0 removed; 4 rules now\n");
    let numbered = switch.ctl(&["flow", "dump-flows", "table=acl,arp"]);
    assert!(numbered.contains(", table=1, ") && numbered.ends_with(" actions=goto_table:7\n"), "{numbered}");
    let named = switch.ctl(&["flow", "dump-flows", "--names", "table=acl,arp"]);
    assert!(named.contains(", table=acl, ") && named.ends_with(" actions=goto_table:nat\n"), "{named}");
    let all = switch.ctl(&["flow", "dump-flows", "--names"]);
    assert!(all.contains(", table=0, ") && all.contains(" actions=resubmit(,acl)\n"), "{all}");
    let json = switch.json(&["flow", "dump-flows", "--names", "table=nat"]);
    assert_eq!((&json[0]["table"], &json[0]["table_name"]), (&7.into(), &"nat".into()));
    assert_eq!(switch.json(&["flow", "dump-flows", "table=nat"])[0].get("table_name"), None);
    assert!(switch.ctl(&["flow", "del-flows", "--strict", "table=acl,priority=5,arp"]).contains("1 removed"));
    let refusal = switch.refusal(&["flow", "dump-flows", "table=nta"]);
    assert!(refusal.ends_with("expected a table's number or name; did you mean \"nat\"?\n"), "{refusal}");

    // 2. All tables with names are listed, and traces say them.
    let tables = switch.json(&["flow", "dump-tables"]);
    let rows: Vec<_> =
        tables.as_array().unwrap().iter().map(|row| (&row["table"], row.get("name"))).collect();
    let name = |name: &str| Value::from(name);
    let (acl, nat, spare) = (name("acl"), name("nat"), name("spare"));
    let numbers = [0, 1, 7, 9].map(Value::from);
    assert_eq!(
        rows,
        [
            (&numbers[0], None),
            (&numbers[1], Some(&acl)),
            (&numbers[2], Some(&nat)),
            (&numbers[3], Some(&spare))
        ]
    );
    let text = switch.ctl(&["flow", "dump-tables"]);
    assert!(text.lines().nth(2).unwrap().starts_with("    1  acl "), "{text}");
    let trace = switch.ctl(&["trace", "eth_src=02:00:00:00:00:01"]);
    assert!(trace.contains("table 1 (acl): ") && trace.contains("table 7 (nat): "), "{trace}");

    // 3. A reload gives other names; rules stay where they are.
    let file = switch.path("vsteer.toml");
    std::fs::write(&file, config("1 = \"filter\"\n7 = \"nat\"", &rules.replace("acl", "filter"))).unwrap();
    assert_eq!(
        switch.ctl(&["reload"]),
        "names of tables changed\nrules: 0 added, 0 changed, 0 removed; 3 rules now\n"
    );
    assert!(switch.ctl(&["flow", "dump-flows", "--names"]).contains(" actions=resubmit(,filter)\n"));
    assert!(switch.refusal(&["flow", "dump-flows", "table=acl"]).contains("expected a table's number"));
    std::fs::write(&file, config("1 = \"nat\"\n7 = \"nat\"", "actions=drop")).unwrap();
    let refusal = switch.refusal(&["reload"]);
    assert!(refusal.contains("is given to table 1") && refusal.contains("nothing has changed"), "{refusal}");
    assert!(switch.ctl(&["flow", "dump-flows", "--names"]).contains(" actions=resubmit(,filter)\n"));
}

const THREE_TAPS: &str = "[port.a]\ntype=\"tap\"\ninterface=\"a\"\n[port.b]\ntype=\"tap\"\ninterface=\"b\"\n\
                          [port.c]\ntype=\"tap\"\ninterface=\"c\"\n";

#[test]
fn packets_are_counted_traced_mirrored_and_handed_out() {
    if !has_privilege() {
        return;
    }
    let config = format!("{THREE_TAPS}[[mirror]]\nname=\"spy\"\nsrc=\"a\"\noutput=\"c\"\n");
    // Flows stay until the end of the test, however slow the machine is.
    let config = format!(
        "rules = \"cookie=1,priority=9,udp,tp_dst=7,actions=drop\\ncookie=2,priority=1,actions=normal\"\n\
         [flow-cache]\nmax-idle-ms = 600000\n{config}"
    );
    let switch = Switch::start(&config, Some("vsteer-ctl"));

    switch.address_a();

    // 1. Counters are exact, and those of the mirror's port show the copies.
    switch.send_udp(7, 5);
    switch.send_udp(8, 3);
    wait_for("the packets are counted", || (switch.packets("1"), switch.packets("2")) == (5, 3));
    let counter =
        |port: &str, name: &str| switch.json(&["port", "show", port])["counters"][name].as_u64().unwrap();
    wait_for("copies of all packets, and what is forwarded nowhere else", || {
        (counter("c", "tx_pkts"), counter("b", "tx_pkts")) == (8, 3)
    });
    assert_eq!(switch.json(&["mirror", "list"])[0]["active"], true);

    let drops = switch.json(&["drops", "--port", "a"]);
    assert_eq!((&drops[0]["reason"], &drops[0]["packets"]), (&"rule_drop".into(), &5.into()), "{drops}");
    assert!(switch.ctl(&["drops"]).starts_with("5  rule_drop  a 5\n"), "{}", switch.ctl(&["drops"]));

    // 2. A trace says the same, by fields and by packet, and counts nothing.
    let trace = switch.ctl(&["trace", "in_port=a,udp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_src=4096,tp_dst=7"]);
    assert!(trace.contains("table 0: priority=9,udp,udp_dst=7, cookie 0x1"), "{trace}");
    assert!(trace.contains("dropped:  rule_drop"), "{trace}");
    assert!(trace.contains("no eth_src was given"), "{trace}");
    let from_zero = switch.ctl(&["trace", "in_port=a,eth_src=00:00:00:00:00:00,udp,tp_dst=8"]);
    assert!(from_zero.contains("bad_source") && !from_zero.contains("no eth_src"), "{from_zero}");
    // What a trace or a dump shows of a megaflow can be traced in turn, and so can a packet in hexadecimal.
    let of = |words: &[&str]| switch.json(&[&["trace"], words].concat());
    let described = of(&["in_port=a,udp,nw_src=10.0.0.1,tp_dst=8,eth_dst=02:00:00:00:00:0b,reg16=5"]);
    assert!(described["flow"].as_str().unwrap().contains("reg16=0x5"), "{described}");
    assert_eq!(described["final_flow"], described["flow"]);
    let again = of(&[described["megaflow"].as_str().unwrap()]);
    assert_eq!((&again["megaflow"], &again["actions"]), (&described["megaflow"], &described["actions"]));
    let arp = "ffffffffffff02000000000a08060001080006040001";
    let bytes = format!("{arp}02000000000a0a0000010000000000000a000002");
    let by_bytes = of(&["in_port=a", &bytes]);
    assert!(by_bytes["flow"].as_str().unwrap().starts_with("arp,in_port=a,"), "{by_bytes}");
    // A packet that goes through the switch again is followed.
    switch.ctl(&[
        "flow",
        "add",
        "priority=9,udp,tp_dst=11,actions=mod_dl_src:02:00:00:00:00:77,debug_recirc,output:b",
    ]);
    let passes = of(&["in_port=a,udp,tp_dst=11"]);
    let second = &passes["further"][0];
    assert!(passes["actions"].as_str().unwrap().ends_with(",recirc(0x1)"), "{passes}");
    assert_eq!((&second["actions"], &second["recirc_id"]), (&"b".into(), &1.into()), "{passes}");
    assert!(second["megaflow"].as_str().unwrap().starts_with("recirc_id(0x1),in_port(a)"), "{passes}");
    assert!(second["flow"].as_str().unwrap().contains("02:00:00:00:00:77"), "{passes}");
    let text = switch.ctl(&["trace", "in_port=a,udp,tp_dst=11"]);
    assert!(
        text.contains("\nrecirc(0x1): the packet goes through the switch again\n\npacket:   udp,"),
        "{text}"
    );
    switch.ctl(&["flow", "del-flows", "udp,tp_dst=11"]);
    let refused = switch.ctl_command(&["trace", "in_port=LOCAL,arp"]).output().unwrap();
    assert!(!refused.status.success(), "no port is the local one");
    let capture = switch.path("capture");
    let mut monitor = switch.ctl_command(&["monitor", "--id", "4", "--count", "2", "--pcap"]);
    let mut monitor = monitor.arg(&capture).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("the capture file is begun", || capture.metadata().is_ok_and(|file| file.len() >= 24));

    // 3. Packets are handed out: to nobody until the monitor listens, then to the monitor.
    switch.ctl(&["flow", "add", "priority=9,udp,tp_dst=9,actions=controller(id=4),normal"]);
    let punts = |what: &str| switch.json(&["stats"])["punts"][what].as_u64().unwrap();
    let mut sent = 0;
    wait_for("the monitor has two packets", || {
        switch.send_udp(9, 1);
        sent += 1;
        wait_for("the packet is handed out", || punts("delivered") + punts("unheard") == sent);
        punts("delivered") == 2
    });
    assert!(monitor.wait().unwrap().success());
    let mut lines = String::new();
    monitor.stdout.take().unwrap().read_to_string(&mut lines).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.contains(" a id=4 len=44 udp,in_port=a"), "{lines}");
    let capture = capture.to_str().unwrap();
    let by_packet = switch.json(&["trace", "--pcap", capture, "--in-port", "a", "--packet", "2"]);
    assert!(by_packet["actions"].as_str().unwrap().contains('b'), "{by_packet}");
    assert_eq!(switch.packets("1"), 5);

    // 4. What the caches hold, and what moves.
    let caches = switch.json(&["cache", "show"]);
    let subtables = caches["workers"][0]["subtables"].as_array().unwrap();
    assert!(subtables.iter().any(|table| table["mask"].as_str().unwrap().contains("tp_dst")), "{caches}");
    let top = switch.ctl(&["top", "--interval", "0.2", "--count", "2", "--json"]);
    let samples: Vec<Value> = top.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((samples.len(), samples[0]["ports"].as_array().unwrap().len()), (2, 3));
}

#[test]
fn reload_changes_ports_by_difference() {
    if !has_privilege() {
        return;
    }
    let switch = Switch::start(THREE_TAPS, Some("vsteer-rel"));
    switch.ctl(&["port", "add", "d=tap:d"]);
    let number = |name: &str| switch.json(&["port", "show", name])["id"].as_u64().unwrap();
    let numbers = ["a", "b", "c", "d"].map(number);
    let changed = "[port.a]\ntype=\"tap\"\ninterface=\"a\"\nvlan=5\nlocal=true\n[port.b]\ntype=\"tap\"\n\
                   interface=\"b\"\nmtu=1400\n[port.e]\ntype=\"tap\"\ninterface=\"e\"\n";
    std::fs::write(switch.path("vsteer.toml"), changed).unwrap();
    assert_eq!(
        switch.ctl(&["reload"]),
        "ports added: e\nports removed: c\nports changed: a\nports opened again: b\n"
    );
    let names = || {
        let ports = switch.json(&["port", "list"]);
        let names = ports.as_array().unwrap().iter().map(|port| port["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(), ["a", "b", "d", "e"]);
    assert_eq!(["a", "b", "d"].map(number), [numbers[0], numbers[1], numbers[3]], "numbers stay with names");
    assert_eq!(switch.json(&["port", "show", "a"])["vlan"]["vlan"], 5);
    let added = switch.json(&["flow", "add", "in_port=c,actions=drop"]);
    assert_eq!(added["added"], 1, "a port that is gone keeps its name");

    // Another process has the interface that comes next: nothing changes.
    std::fs::write(
        switch.path("vsteer.toml"),
        format!("{changed}[port.f]\ntype=\"tap\"\ninterface=\"lo\"\n"),
    )
    .unwrap();
    let refusal = switch.refusal(&["reload"]);
    assert!(refusal.contains("port f: ") && refusal.contains("nothing has changed"), "{refusal}");
    assert_eq!(names(), ["a", "b", "d", "e"]);
    std::fs::write(switch.path("vsteer.toml"), "[port.a]\ntype=\"tpa\"\n").unwrap();
    assert!(switch.refusal(&["reload"]).contains("unknown port type"));
    assert_eq!(names(), ["a", "b", "d", "e"]);
}
