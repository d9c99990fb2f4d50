//! Every command against a running appliance without privileges, from its words to the text that is printed, and as it
//! stands on the wire.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Commands, FAMILIES, entries};
use crate::appliance::Appliance;
use crate::cli::{CtlArgs, Invocation};
use crate::config::{ConfigOrigin, ConfigSource};
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{ErrorKind, RequestError};
use crate::control::server::{Limits, MAX_LINE_BYTES, Server};
use crate::notify::Shutdown;

fn ctl(words: &[&str]) -> CtlArgs {
    let args = ["vsteer", "ctl"].iter().chain(words).map(OsString::from);
    match Invocation::parse(args).unwrap() {
        Invocation::Ctl(args) => args,
        other => panic!("{other:?}"),
    }
}

/// What goes over the wire for `words`: the method and its parameters. The switch that is asked refuses everything.
fn wire(words: &[&str]) -> (String, Value) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let refusing = thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let mut next = |reply: Value| {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            writeln!(stream.get_mut(), "{reply}").unwrap();
            serde_json::from_str::<Value>(&line).unwrap()
        };
        next(json!({"jsonrpc": "2.0", "id": 1, "result": {"protocol": 1, "version": "x"}}));
        next(json!({"jsonrpc": "2.0", "id": 2, "error": {"code": 3, "message": "noted"}}))
    });
    let error = ctl(&[words, &["--socket", path.to_str().unwrap()]].concat()).run().unwrap_err();
    assert_eq!(error.to_string(), "noted");
    let request = refusing.join().unwrap();
    assert_eq!(request["jsonrpc"], "2.0");
    (request["method"].as_str().unwrap().to_owned(), request["params"].clone())
}

#[test]
fn words_become_requests() {
    let folder = tempfile::tempdir().unwrap();
    let acl = folder.path().join("acl");
    std::fs::write(&acl, "actions=drop\n").unwrap();
    let acl = acl.to_str().unwrap();
    let capture = folder.path().join("pcap");
    let mut file = crate::pcap::PcapWriter::new(std::fs::File::create(&capture).unwrap()).unwrap();
    file.write(0, 3, &[1, 2, 0xfe]).unwrap();
    let capture = capture.to_str().unwrap();

    let rules = |text: &str| json!({"text": text, "check_overlap": false, "reset_counts": false});
    let of_file = json!({
        "text": "actions=drop\n", "source": acl, "check_overlap": false, "reset_counts": false,
    });
    let spelt: [(&[&str], &str, Value); 33] = [
        (&["port", "list"], "port_list", json!({})),
        (&["port", "show", "vm0"], "port_show", json!({"name": "vm0"})),
        (&["port", "add", "a=tap:t"], "port_add", json!({"spec": "a=tap:t"})),
        (&["port", "del", "vm0"], "port_del", json!({"name": "vm0"})),
        (&["fdb", "show"], "fdb_show", json!({})),
        (&["fdb", "flush", "--port", "vm0", "--vlan", "0"], "fdb_flush", json!({"port": "vm0", "vlan": 0})),
        (&["flow", "add", "actions=drop"], "rule_add", rules("actions=drop")),
        (&["flow", "add-flow", "actions=drop"], "rule_add", rules("actions=drop")),
        (
            &["flow", "add", "actions=drop", "--check-overlap"],
            "rule_add",
            json!({"text": "actions=drop", "check_overlap": true, "reset_counts": false}),
        ),
        (&["flow", "add-flows", acl], "rule_add", of_file.clone()),
        (&["flow", "replace-flows", acl], "rule_replace", of_file),
        (
            &["flow", "mod-flows", "--strict", "tcp,actions=drop"],
            "rule_modify",
            json!({"text": "tcp,actions=drop", "strict": true, "reset_counts": false}),
        ),
        (&["flow", "del-flows", "--strict", "tcp"], "rule_del", json!({"text": "tcp", "strict": true})),
        (&["flow", "del-flows"], "rule_del", json!({"text": "", "strict": false})),
        (&["flow", "dump-flows", "table=1"], "rule_dump", json!({"text": "table=1"})),
        (&["flow", "dump-flows"], "rule_dump", json!({"text": ""})),
        (&["flow", "dump-flows", "--names"], "rule_dump", json!({"text": "", "names": true})),
        (&["flow", "dump-tables"], "table_dump", json!({})),
        (&["flow", "dump"], "flow_dump", json!({"limit": 10_000})),
        (&["flow", "dump", "--limit", "3"], "flow_dump", json!({"limit": 3})),
        (&["mirror", "list"], "mirror_list", json!({})),
        (&["mirror", "add", "m,all,output=a"], "mirror_add", json!({"spec": "m,all,output=a"})),
        (&["mirror", "del", "m"], "mirror_del", json!({"name": "m"})),
        (&["cache", "show"], "cache_show", json!({})),
        (&["trace", "in_port=a,tcp"], "trace", json!({"flow": "in_port=a,tcp"})),
        (
            &["trace", "--pcap", capture, "--in-port", "a"],
            "trace",
            json!({"packet": {"in_port": "a", "data": "0102fe"}}),
        ),
        (&["monitor"], "monitor", json!({})),
        (&["monitor", "--id", "3"], "monitor", json!({"id": 3})),
        (&["top", "--interval", "0.25", "--flows", "3"], "top", json!({"interval_ms": 250, "flows": 3})),
        (&["reload"], "reload", json!({})),
        (&["stats"], "stats", json!({})),
        (&["drops"], "drops", json!({"all": false})),
        (&["drops", "--all", "--port", "vm0"], "drops", json!({"port": "vm0", "all": true})),
    ];
    for (words, method, params) in spelt {
        assert_eq!(wire(words), (method.to_owned(), params), "{words:?}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named_before_anybody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("pcap");
    let mut file = crate::pcap::PcapWriter::new(std::fs::File::create(&capture).unwrap()).unwrap();
    file.write(0, 3, &[1, 2, 0xfe]).unwrap();
    let capture = capture.to_str().unwrap();
    let error = |words: &[&str]| ctl(&[words, &["--socket", "/nonexistent/s"]].concat()).run().unwrap_err();
    assert_eq!(
        error(&["trace", "--pcap", capture, "--in-port", "a", "--packet", "2"]).to_string(),
        format!("--pcap {capture}: has 1 packets, not 2; use --packet 1 to 1")
    );
    let missing = error(&["flow", "add-flows", "/nonexistent/acl"]).to_string();
    assert!(missing.starts_with("/nonexistent/acl: cannot be read: "), "{missing}");
    let large = folder.path().join("acl");
    std::fs::write(&large, "#".repeat(MAX_LINE_BYTES)).unwrap();
    for command in ["add-flows", "replace-flows"] {
        let refused = error(&["flow", command, large.to_str().unwrap()]).to_string();
        assert!(refused.contains("more than 16777216 bytes") && refused.contains("split it"), "{refused}");
    }
}

#[test]
fn every_word_is_one_command_and_every_method_one_command_or_an_alias_of_it() {
    let words: Vec<_> = FAMILIES.iter().map(|family| family.word()).collect();
    assert_eq!(words.iter().collect::<HashSet<_>>().len(), words.len());
    let mut methods: Vec<_> = entries().map(|entry| entry.method()).collect();
    let all = methods.len();
    methods.sort_unstable();
    methods.dedup();
    // `add-flows` is `add` with the text of a file.
    assert_eq!(methods.len(), all - 1);
}

#[test]
fn every_command_that_is_written_is_listed() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/command");
    let count = |text: &str, what: &str| text.matches(what).count();
    let (mut written, mut listed) = (0, 0);
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        if path.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap();
        written += count(&text, "\nimpl Command for ") + count(&text, "\nimpl Watch for ");
        listed += count(&text, "Entry::call::<") + count(&text, "Entry::watch::<");
    }
    assert_eq!((written, listed), (entries().count(), entries().count()));
}

/// An appliance with a control socket.
struct Rig {
    _server: Server,
    appliance: Arc<Appliance>,
    folder: TempDir,
    _shutdown: Shutdown,
}

impl Rig {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let origin = ConfigOrigin { line: ConfigSource::default(), file: None, default_control: None };
        let shutdown = Shutdown::new().unwrap();
        let config = origin.read().unwrap();
        let appliance = Arc::new(Appliance::start(&config, origin, &shutdown.trigger()).unwrap());
        let commands = Arc::new(Commands(Arc::clone(&appliance)));
        let server = Server::start(
            Server::reserve(&folder.path().join("control")).unwrap(),
            commands,
            Limits::default(),
        )
        .unwrap();
        Self { _server: server, appliance, folder, _shutdown: shutdown }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn client(&self) -> Client {
        Client::connect(&self.path("control")).unwrap()
    }

    fn call(&self, method: &str, params: Value) -> Value {
        let result = self.client().call(method, &params).unwrap_or_else(|error| panic!("{method}: {error}"));
        serde_json::from_str(result.get()).unwrap()
    }

    fn refusal(&self, method: &str, params: Value) -> RequestError {
        match self.client().call(method, &params).unwrap_err() {
            ClientError::Refused(error) => error,
            other => panic!("{other}"),
        }
    }

    /// Asks as `vsteer ctl` does, and reads the reply as it does for the terminal and as JSON.
    fn ctl(&self, words: &[&str]) {
        let control = self.path("control");
        for format in [&[][..], &["--json"]] {
            let words = [words, &["--socket", control.to_str().unwrap()], format].concat();
            ctl(&words).run().unwrap_or_else(|error| panic!("{words:?}: {error}"));
        }
    }
}

#[test]
fn ports_and_mirrors_come_and_go() {
    let rig = Rig::start();
    let spec = |name: &str| format!("{name}=vhost-user:{},vlan=5", rig.path(name).display());
    let added = rig.call("port_add", json!({"spec": spec("vm0")}));
    assert_eq!(
        (&added["name"], &added["type"], &added["state"]),
        (&json!("vm0"), &json!("vhost-user"), &json!("waiting"))
    );
    assert_eq!(added["vlan"], json!({"mode": "access", "vlan": 5}));
    assert_eq!(added["counters"]["drops"], json!({}));
    rig.call("port_add", json!({"spec": spec("vm1")}));
    assert_eq!(rig.call("port_show", json!({"name": "vm0"})), added);
    assert_eq!(rig.call("port_list", json!({}))[0], added);
    let mirror = rig.call("mirror_add", json!({"spec": "m,src=vm0,output=vm1"}));
    let expected =
        json!({"name": "m", "src": "vm0", "dst": "", "vlans": null, "output": "vm1", "active": true});
    assert_eq!(mirror, expected);
    assert_eq!(rig.call("mirror_list", json!({})), json!([mirror]));
    assert_eq!(rig.call("mirror_del", json!({"name": "m"})), Value::Null);
    assert_eq!(rig.call("port_del", json!({"name": "vm0"})), Value::Null);
    assert_eq!(rig.appliance.ports().len(), 1);
    let twice = rig.refusal("port_add", json!({"spec": spec("vm1")}));
    assert_eq!(
        (twice.kind, twice.message.as_str()),
        (ErrorKind::Exists, "port vm1: the name is taken; choose another")
    );
}

#[test]
fn rules_come_and_go() {
    let rig = Rig::start();
    let added = rig.call("rule_add", json!({"text": "table=1,udp,actions=drop\ntable=1,tcp,actions=drop\n"}));
    assert_eq!(added, json!({"added": 2, "modified": 0, "removed": 0, "rules": 3}));
    assert_eq!(rig.call("rule_modify", json!({"text": "table=1,tcp,actions=normal"}))["modified"], 1);
    let rules = rig.call("rule_dump", json!({"text": "table=1,tcp"}));
    assert_eq!((&rules[0]["match"], &rules[0]["actions"]), (&json!("tcp"), &json!("NORMAL")));
    assert_eq!(rig.call("table_dump", json!({}))[1]["rules"], 2);
    // Clients of before send this, too.
    let gone = rig.call("rule_del", json!({"text": "table=1", "strict": false, "reset_counts": false}));
    assert_eq!(gone["removed"], 2);
    let wrong = rig.refusal("rule_replace", json!({"text": "\nactions=dorp\n", "source": "acl"}));
    assert!(wrong.message.starts_with("acl:2:9: found \"dorp\""), "{wrong}");
    let text = (0..10_000).map(|n| format!("priority={n},in_port=7,tcp,tp_dst=22,actions=drop\n"));
    let text: String = text.collect();
    assert_eq!(rig.call("rule_replace", json!({"text": text}))["rules"], 10_000);
    assert_eq!(rig.call("rule_dump", json!({})).as_array().unwrap().len(), 10_000);
}

#[test]
fn refusals_have_a_kind_and_say_what_to_try() {
    let rig = Rig::start();
    let no_port = RequestError::new(ErrorKind::NotFound, "no port \"vm9\"; see port list");
    for (method, params) in [
        ("port_show", json!({"name": "vm9"})),
        ("port_del", json!({"name": "vm9"})),
        ("fdb_show", json!({"port": "vm9"})),
        ("drops", json!({"port": "vm9"})),
        ("mirror_add", json!({"spec": "m,src=vm9,output=vm9"})),
        ("trace", json!({"packet": {"in_port": "vm9", "data": "00"}})),
    ] {
        assert_eq!(rig.refusal(method, params), no_port, "{method}");
    }
    for (method, params, start) in [
        ("port_add", json!({"spec": "vm0=tpa:x"}), "port add vm0=tpa:x: unknown port type \"tpa\"; use "),
        (
            "mirror_add",
            json!({"spec": "m,src=vm0"}),
            "mirror add m,src=vm0: no port for the copies; add output=PORT",
        ),
        ("fdb_show", json!({"vlan": 4095}), "vlan 4095: no such VLAN; use 0 (untagged) to 4094"),
        ("fdb_show", json!({"prot": "vm0"}), "params: unknown field `prot`, expected `port` or `vlan`"),
        ("stats", json!({"x": 1}), "params: unknown field `x`"),
        (
            "trace",
            json!({"packet": {"in_port": "vm9", "data": "0g"}}),
            "the packet's data is not written in hexadecimal",
        ),
        ("trace", json!({"flow": "tcp,tp_dst=x"}), "column 12: "),
        (
            "top",
            json!({"interval_ms": 1, "flows": 1}),
            "an interval of 1ms makes no sense; use 100ms to 3600s",
        ),
    ] {
        let refusal = rig.refusal(method, params);
        assert_eq!(refusal.kind, ErrorKind::InvalidParams, "{method}: {refusal}");
        assert!(refusal.message.starts_with(start), "{method}: {refusal}");
    }
    assert_eq!(rig.refusal("mirror_del", json!({"name": "m"})).kind, ErrorKind::NotFound);
    let methods = rig.refusal("reboot", json!({}));
    assert!(methods.message.contains("use one of hello, port_list, port_show"), "{methods}");
}

#[test]
fn every_command_reads_its_own_reply() {
    let rig = Rig::start();
    let spec = format!("vm0=vhost-user:{}", rig.path("vm0").display());
    let acl = rig.path("acl");
    std::fs::write(&acl, "priority=1,udp,actions=drop\n").unwrap();
    let acl = acl.to_str().unwrap();
    rig.call("port_add", json!({"spec": spec}));
    for words in [
        &["port", "list"][..],
        &["port", "show", "vm0"],
        &["fdb", "show", "--port", "vm0"],
        &["fdb", "flush"],
        &["flow", "add", "actions=normal"],
        &["flow", "add-flows", acl],
        &["flow", "replace-flows", acl],
        &["flow", "modify", "udp,actions=drop"],
        &["flow", "dump-flows"],
        &["flow", "dump-tables"],
        &["flow", "del-flows"],
        &["flow", "dump"],
        &["mirror", "list"],
        &["cache", "show"],
        &["trace", "in_port=vm0,eth_src=02:00:00:00:00:01,udp"],
        &["reload"],
        &["stats"],
        &["drops"],
        &["drops", "--port", "vm0", "--all"],
        &["top", "--interval", "0.1", "--count", "1"],
    ] {
        rig.ctl(words);
    }
}

#[test]
fn watches_of_rates_are_bounded_and_make_room_when_they_end() {
    let rig = Rig::start();
    let query = json!({"interval_ms": 100, "flows": 1});
    let mut clients: Vec<_> = (0..8).map(|_| rig.client()).collect();
    for client in &mut clients {
        let mut items = client.watch("top", &query).unwrap();
        assert!(items.next(Duration::from_secs(20)).unwrap().is_some());
    }
    let full = rig.refusal("top", query.clone());
    assert_eq!(
        (full.kind, full.message.as_str()),
        (ErrorKind::Exists, "rates are watched 8 times already; end one first")
    );
    clients.pop();
    let begun = std::time::Instant::now();
    while let Err(error) = rig.client().watch("top", &query) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{error}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn trace_through_endless_resubmits_is_cut_and_says_so() {
    let rig = Rig::start();
    let spec = format!("vm0=vhost-user:{}", rig.path("vm0").display());
    rig.call("port_add", json!({"spec": spec}));
    let moves = "load:1->reg0,load:2->reg0,".repeat(100);
    // Each rule asks the next table twice: four thousand rules with two hundred steps each.
    let rules = (0..14).map(|table| {
        let next = table + 1;
        format!("table={table},actions={moves}resubmit(,{next}),resubmit(,{next})\n")
    });
    rig.call("rule_replace", json!({"text": rules.collect::<String>()}));
    let trace = rig.call("trace", json!({"flow": "in_port=vm0,eth_src=02:00:00:00:00:01"}));
    let remarks = trace["remarks"].as_array().unwrap();
    let is_cut =
        |remark: &Value| remark.as_str().unwrap().ends_with("more steps were taken; they are not shown");
    assert!(remarks.iter().any(is_cut), "{remarks:?}");
    assert!(trace["steps"].to_string().len() < 4 * 1024 * 1024);
}
