//! The control socket over a real socket: every request against a switch of canned answers, and clients that
//! misbehave.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use vsteer_switch::wire::vlan::VlanId;

use super::client::{Client, ClientError};
use super::protocol::*;
use super::server::{MAX_CLIENTS, MAX_LINE_BYTES, MAX_PENDING_BYTES, PATIENCE, Server};
use super::*;
use crate::config::VlanSpec;

/// A port as a switch would describe it.
pub(super) fn port_info(name: &str) -> PortInfo {
    PortInfo {
        name: name.into(),
        id: 1,
        kind: "vhost-user".into(),
        address: format!("/run/{name}"),
        state: PortState::Connected,
        fault: None,
        features: vec!["VERSION_1".into(), "MRG_RXBUF".into()],
        queue_pairs_enabled: 1,
        queue_pairs_offered: 16,
        vlan: VlanSpec::Access { vlan: VlanId::new(10).unwrap() },
        mac_limit: 4096,
        mtu: Some(9000),
        local: false,
        counters: PortCounters {
            rx_pkts: 1234,
            rx_bytes: 99_500,
            tx_pkts: 5,
            tx_bytes: 300,
            drops: BTreeMap::from([("no_guest_buffer".into(), 6), ("too_long".into(), 0)]),
        },
    }
}

/// A megaflow as a switch would describe it.
pub(super) fn flow() -> FlowInfo {
    FlowInfo {
        match_text: "in_port(vm0),eth(dst=52:54:00:00:00:02)".into(),
        actions: "push_vlan(vid=10),vm1".into(),
        packets: 3,
        bytes: 180,
        used_ms: Some(250),
        age_ms: 61_000,
        worker: 1,
        tier: "exact_match".into(),
    }
}

/// Statistics as a switch would give them.
pub(super) fn sample_stats() -> Stats {
    let port = port_info("vm0");
    Stats {
        version: "0.1.0".into(),
        uptime_s: 61,
        workers: vec![WorkerInfo {
            index: 0,
            cpu: None,
            mode: "adaptive".into(),
            iterations: 1000,
            busy: 0.125,
            busy_cycles: 125_000_000,
            sleeps: 10,
            exact_hits: 900,
            classifier_hits: 90,
            upcalls: 10,
            flows: 4,
        }],
        totals: port.counters.clone(),
        revalidator: RevalidatorInfo {
            passes: 12,
            last_pass_us: 340,
            longest_pass_us: 1_200,
            flows: 4,
            flow_limit: 200_000,
            idle_ms: 10_000,
            ..RevalidatorInfo::default()
        },
        punts: PuntCounters::default(),
        ports: vec![port],
    }
}

/// A switch with one port and canned answers, which notes what it was told.
#[derive(Default)]
struct CannedSwitch {
    told: Mutex<Vec<String>>,
    /// One reference for each stream that is under way.
    streams: Arc<()>,
}

/// A stream of 1, 2, 3 and so on.
struct Counting(u64, #[expect(dead_code, reason = "held to be counted")] Arc<()>);

impl Stream for Counting {
    fn next(&mut self, wait: Duration) -> Option<String> {
        std::thread::sleep(wait.min(Duration::from_millis(1)));
        self.0 += 1;
        Some(self.0.to_string())
    }
}

impl CannedSwitch {
    fn note(&self, what: String) {
        self.told.lock().push(what);
    }
}

impl Operations for CannedSwitch {
    fn port_list(&self) -> Result<Vec<PortInfo>, OperationError> {
        Ok(vec![port_info("vm0")])
    }

    fn port_show(&self, name: &str) -> Result<PortInfo, OperationError> {
        if name == "vm0" { Ok(port_info(name)) } else { Err(OperationError::no_port(name)) }
    }

    fn port_add(&self, spec: PortSpec) -> Result<PortInfo, OperationError> {
        self.note(format!("add {spec}"));
        Ok(port_info(&spec.name))
    }

    fn port_del(&self, name: &str) -> Result<(), OperationError> {
        self.note(format!("del {name}"));
        Ok(())
    }

    fn fdb_show(&self, filter: &FdbFilter) -> Result<Vec<FdbEntry>, OperationError> {
        let vlan = filter.vlan.unwrap_or(1);
        let port = filter.port.clone().unwrap_or("vm0".into());
        Ok(vec![FdbEntry { vlan, mac: "52:54:00:00:00:01".into(), port, age_s: 3, is_static: false }])
    }

    fn fdb_flush(&self, filter: &FdbFilter) -> Result<FdbFlushed, OperationError> {
        self.note(format!("flush {filter:?}"));
        Ok(FdbFlushed { removed: 2 })
    }

    fn rule_add(&self, rules: &RulesParams) -> Result<RulesChanged, OperationError> {
        self.note(format!("rule add {}", rules.text));
        Ok(RulesChanged { added: rules.text.lines().count() as u64, ..RulesChanged::default() })
    }

    fn rule_replace(&self, rules: &RulesParams) -> Result<RulesChanged, OperationError> {
        Err(OperationError::invalid(format!("{}:1:2: no rule", rules.source.as_deref().unwrap_or("-"))))
    }

    fn rule_modify(&self, change: &SelectorParams) -> Result<RulesChanged, OperationError> {
        self.note(format!("rule mod {} strict={}", change.text, change.strict));
        Ok(RulesChanged { modified: 1, ..RulesChanged::default() })
    }

    fn rule_delete(&self, change: &SelectorParams) -> Result<RulesChanged, OperationError> {
        self.note(format!("rule del {} strict={}", change.text, change.strict));
        Ok(RulesChanged { removed: 1, ..RulesChanged::default() })
    }

    fn rule_dump(&self, filter: &RuleFilter) -> Result<Vec<RuleInfo>, OperationError> {
        self.note(format!("rule dump {}", filter.text));
        Ok(Vec::new())
    }

    fn table_dump(&self) -> Result<Vec<TableInfo>, OperationError> {
        Ok(vec![TableInfo { table: 7, rules: 1, lookups: 2, matched: 1 }])
    }

    fn mirror_list(&self) -> Result<Vec<MirrorInfo>, OperationError> {
        Ok(Vec::new())
    }

    fn mirror_add(&self, spec: MirrorSpec) -> Result<MirrorInfo, OperationError> {
        self.note(format!("mirror add {spec}"));
        let (src, dst) = (spec.src.to_string(), spec.dst.to_string());
        Ok(MirrorInfo { name: spec.name, src, dst, vlans: None, output: spec.output, active: true })
    }

    fn mirror_del(&self, name: &str) -> Result<(), OperationError> {
        self.note(format!("mirror del {name}"));
        Ok(())
    }

    fn cache_show(&self) -> Result<CacheInfo, OperationError> {
        Ok(CacheInfo { workers: Vec::new() })
    }

    fn trace(&self, query: &TraceQuery) -> Result<TraceInfo, OperationError> {
        self.note(format!("trace {query:?}"));
        Err(OperationError::no_port("vm9"))
    }

    fn monitor(&self, filter: &MonitorFilter) -> Result<Box<dyn Stream>, OperationError> {
        self.note(format!("monitor {:?}", filter.id));
        Ok(Box::new(Counting(0, Arc::clone(&self.streams))))
    }

    fn top(&self, query: &TopQuery) -> Result<Box<dyn Stream>, OperationError> {
        Err(OperationError::invalid(format!("an interval of {} ms makes no sense", query.interval_ms)))
    }

    fn reload(&self) -> Result<Reloaded, OperationError> {
        Ok(Reloaded { ports_added: vec!["a".into()], ..Reloaded::default() })
    }

    fn flow_dump(&self, filter: &FlowFilter) -> Result<FlowDump, OperationError> {
        // Large enough that a client which does not read blocks the server's write.
        assert_eq!(filter.limit, FlowFilter::DEFAULT_LIMIT);
        Ok(FlowDump { flows: vec![flow(); 20_000], left_out: 7 })
    }

    fn stats(&self) -> Result<Stats, OperationError> {
        Ok(sample_stats())
    }
}

/// A server in a folder of its own.
struct Rig {
    server: Server,
    switch: Arc<CannedSwitch>,
    path: PathBuf,
    _folder: TempDir,
}

impl Rig {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let switch = Arc::new(CannedSwitch::default());
        let server = Server::start(&path, Arc::clone(&switch) as Arc<dyn Operations>).unwrap();
        Self { server, switch, path, _folder: folder }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    /// A connection that is not bound to the protocol.
    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// The server's reply to one raw line.
    fn reply_to(&self, line: &str) -> Value {
        let mut stream = self.raw();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        read_reply(&stream)
    }

    fn assert_answers(&self) {
        let ports: Value = self.client().call(&Request::PortList).unwrap();
        assert_eq!(ports[0]["name"], "vm0");
    }
}

fn read_reply(stream: &UnixStream) -> Value {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

fn assert_closed(mut stream: &UnixStream) {
    // Bytes that the server never read turn the end of the stream into a reset.
    let end = loop {
        match stream.read(&mut [0; 16]) {
            // Another test of this process raises signals.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
            end => break end,
        }
    };
    match end {
        Ok(0) => (),
        // Other tests of this process send it signals.
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => assert_closed(stream),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => (),
        other => panic!("still open: {other:?}"),
    }
}

#[test]
fn every_request_makes_the_round_trip() {
    let rig = Rig::start();
    let mut client = rig.client();
    let name = || PortName { name: "vm0".into() };
    let filter = FdbFilter { port: Some("vm1".into()), vlan: Some(7) };

    let mut result = |request| client.call(&request).unwrap();
    assert_eq!(result(Request::Hello), json!({"protocol": 1, "version": env!("CARGO_PKG_VERSION")}));
    assert_eq!(result(Request::PortList), json!([port_info("vm0")]));
    assert_eq!(result(Request::PortShow(name())), json!(port_info("vm0")));
    let spec = PortText { spec: "vm3=tap:t3,vlan=5".into() };
    assert_eq!(result(Request::PortAdd(spec))["name"], "vm3");
    assert_eq!(result(Request::PortDel(name())), Value::Null);
    let fdb = result(Request::FdbShow(filter.clone()));
    let entry = json!({"vlan": 7, "mac": "52:54:00:00:00:01", "port": "vm1", "age_s": 3, "static": false});
    assert_eq!(fdb, json!([entry]));
    assert_eq!(result(Request::FdbFlush(filter)), json!({"removed": 2}));
    let rules = RulesParams { text: "a\nb\n".into(), ..RulesParams::default() };
    assert_eq!(result(Request::RuleAdd(rules))["added"], 2);
    let change = || SelectorParams { text: "tcp".into(), strict: true, reset_counts: false };
    assert_eq!(result(Request::RuleModify(change()))["modified"], 1);
    assert_eq!(result(Request::RuleDelete(change()))["removed"], 1);
    assert_eq!(result(Request::RuleDump(RuleFilter { text: "table=1".into() })), json!([]));
    assert_eq!(result(Request::TableDump)[0]["table"], 7);
    assert_eq!(result(Request::MirrorList), json!([]));
    let mirror = MirrorText { spec: "m,src=vm0,output=vm1".into() };
    assert_eq!(result(Request::MirrorAdd(mirror))["src"], "vm0");
    assert_eq!(result(Request::MirrorDel(MirrorName { name: "m".into() })), Value::Null);
    assert_eq!(result(Request::CacheShow), json!({"workers": []}));
    assert_eq!(result(Request::Reload)["ports_added"], json!(["a"]));
    let flows = result(Request::FlowDump(FlowFilter::default()));
    assert_eq!((flows["flows"].as_array().unwrap().len(), &flows["left_out"]), (20_000, &json!(7)));
    let stats = result(Request::Stats);
    assert_eq!(client.read::<Stats>(&stats).unwrap(), sample_stats());
    assert_eq!(
        *rig.switch.told.lock(),
        [
            "add vm3=tap:t3,vlan=5,mac-limit=4096,queues=1,csum=on,tso=on",
            "del vm0",
            "flush FdbFilter { port: Some(\"vm1\"), vlan: Some(7) }",
            "rule add a\nb\n",
            "rule mod tcp strict=true",
            "rule del tcp strict=true",
            "rule dump table=1",
            "mirror add m,src=vm0,output=vm1",
            "mirror del m",
        ]
    );
}

#[test]
fn refusals_reach_the_client_with_kind_and_text() {
    let rig = Rig::start();
    let mut client = rig.client();
    let mut refusal = |request| match client.call(&request).unwrap_err() {
        ClientError::Refused(error) => error,
        other => panic!("{other}"),
    };
    assert_eq!(refusal(Request::PortShow(PortName { name: "vm9".into() })), OperationError::no_port("vm9"));
    let bad_spec = refusal(Request::PortAdd(PortText { spec: "vm0=tpa:x".into() }));
    assert_eq!(bad_spec.kind, ErrorKind::InvalidParams);
    assert_eq!(
        bad_spec.message,
        "port add vm0=tpa:x: unknown port type \"tpa\"; use vhost-user:PATH or tap:IFNAME"
    );
    let rules = RulesParams { source: Some("acl".into()), ..RulesParams::default() };
    assert_eq!(refusal(Request::RuleReplace(rules)).message, "acl:1:2: no rule");
    let mirror = refusal(Request::MirrorAdd(MirrorText { spec: "m,src=vm0".into() }));
    assert_eq!(mirror.message, "mirror add m,src=vm0: no port for the copies; add output=PORT");
    assert!(refusal(Request::Top(TopQuery { interval_ms: 1, flows: 1 })).message.contains("makes no sense"));
    assert!(rig.switch.told.lock().is_empty());
    assert_eq!(refusal(Request::Trace(TraceQuery::Flow("tcp".into()))), OperationError::no_port("vm9"));
}

#[test]
fn stream_goes_on_until_the_client_leaves_or_asks_for_something_else() {
    let rig = Rig::start();
    let mut client = rig.client();
    assert_eq!(client.call(&Request::Monitor(MonitorFilter::default())).unwrap(), Value::Null);
    let wait = Duration::from_secs(10);
    for number in 1..50 {
        assert_eq!(client.next_item(wait).unwrap(), Some(json!(number)));
    }
    rig.assert_answers();
    assert_eq!(Arc::strong_count(&rig.switch.streams), 2);
    drop(client);
    let begun = Instant::now();
    while Arc::strong_count(&rig.switch.streams) > 1 {
        assert!(begun.elapsed() < wait, "the stream outlives its client");
        std::thread::sleep(Duration::from_millis(5));
    }

    let mut stream = rig.raw();
    let monitor = r#"{"jsonrpc":"2.0","id":1,"method":"monitor"}"#;
    let hello = r#"{"jsonrpc":"2.0","id":2,"method":"hello"}"#;
    stream.write_all(format!("{monitor}\n").as_bytes()).unwrap();
    let mut lines = BufReader::new(&stream);
    let mut next = || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    assert_eq!(next()["result"], Value::Null);
    assert_eq!(next(), json!({"jsonrpc": "2.0", "method": "monitor", "params": 1}));
    (&stream).write_all(format!("{hello}\n").as_bytes()).unwrap();
    let answer = std::iter::repeat_with(next).find(|line| line.get("method").is_none()).unwrap();
    assert_eq!(answer["result"]["protocol"], 1);
}

#[test]
fn ten_thousand_rules_are_one_request() {
    let rig = Rig::start();
    let text =
        "table=0,priority=100,in_port=vm0,tcp,nw_src=10.0.0.0/24,tp_dst=22,actions=drop\n".repeat(10_000);
    let rules = RulesParams { text: text.clone(), ..RulesParams::default() };
    assert_eq!(rig.client().call(&Request::RuleAdd(rules)).unwrap()["added"], 10_000);
    assert_eq!(rig.switch.told.lock().pop(), Some(format!("rule add {text}")));
}

#[test]
fn unfinished_requests_are_bounded_together_and_small_ones_get_through() {
    let rig = Rig::start();
    let chunk = vec![b' '; MAX_LINE_BYTES - 4096];
    let large: Vec<UnixStream> = (0..MAX_PENDING_BYTES / MAX_LINE_BYTES + 1)
        .map(|_| {
            let mut stream = rig.raw();
            // The server hangs up on the one that is too many.
            let _ = stream.write_all(&chunk);
            stream
        })
        .collect();
    let refused = read_reply(large.last().unwrap());
    assert!(
        refused["error"]["message"].as_str().unwrap().starts_with("too many large requests"),
        "{refused}"
    );
    rig.assert_answers();
    drop(large);
}

#[test]
fn replies_follow_json_rpc() {
    let rig = Rig::start();
    let hello = rig.reply_to(r#"{"jsonrpc":"2.0","id":"a","method":"hello"}"#);
    assert_eq!(
        (&hello["jsonrpc"], &hello["id"], &hello["result"]["protocol"]),
        (&json!("2.0"), &json!("a"), &json!(1))
    );
    let deep = "[".repeat(MAX_LINE_BYTES - 1);
    for (line, code) in [
        ("{", -32700),
        (&deep, -32700),
        ("\u{1}\u{2} garbage", -32700),
        ("[]", -32600),
        (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
        (r#"{"id":1,"method":"hello"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"hello"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"reboot"}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"port_show"}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"port_show","params":{"name":"vm9"}}"#, 1),
    ] {
        let reply = rig.reply_to(line);
        assert_eq!(reply["error"]["code"], code, "{line}: {reply}");
        assert!(reply.get("result").is_none());
    }
}

#[test]
fn a_request_without_id_is_carried_out_and_not_answered() {
    let rig = Rig::start();
    let mut stream = rig.raw();
    let quiet = r#"{"jsonrpc":"2.0","method":"port_del","params":{"name":"vm0"}}"#;
    let asked = r#"{"jsonrpc":"2.0","id":5,"method":"hello"}"#;
    stream.write_all(format!("{quiet}\n\n{asked}\n").as_bytes()).unwrap();
    assert_eq!(read_reply(&stream)["id"], 5);
    assert_eq!(*rig.switch.told.lock(), ["del vm0"]);
}

#[test]
fn a_line_in_pieces_is_one_line() {
    let rig = Rig::start();
    let mut stream = rig.raw();
    for piece in [r#"{"jsonrpc":"2.0","#, r#""id":1,"method""#, ":\"hello\"}\n"] {
        stream.write_all(piece.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(read_reply(&stream)["id"], 1);
}

#[test]
fn a_huge_line_ends_its_connection_only() {
    let rig = Rig::start();
    let mut stream = rig.raw();
    // The server may hang up before it has taken everything.
    let _ = stream.write_all(&vec![b'x'; MAX_LINE_BYTES + 4096]);
    let reply = read_reply(&stream);
    assert_eq!(reply["error"]["code"], -32600);
    assert!(reply["error"]["message"].as_str().unwrap().starts_with("line longer than 16777216 bytes"));
    assert_closed(&stream);
    rig.assert_answers();
}

#[test]
fn half_a_line_and_silence_ends_after_a_while_and_holds_nobody_up() {
    let rig = Rig::start();
    let mut stream = rig.raw();
    stream.write_all(b"{\"jsonrpc\"").unwrap();
    let begun = Instant::now();
    rig.assert_answers();
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_closed(&stream);
    assert!(begun.elapsed() >= PATIENCE - Duration::from_secs(1));
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let rig = Rig::start();
    let mut stream = rig.raw();
    stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"flow_dump\"}\n").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    rig.assert_answers();
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_hundred_silent_connections_leave_room_for_the_operator() {
    let rig = Rig::start();
    let silent: Vec<UnixStream> = (0..100).map(|_| rig.raw()).collect();
    rig.assert_answers();
    // Those silent for longest made room.
    for stream in &silent[..100 - MAX_CLIENTS] {
        assert_closed(stream);
    }
    let newest = silent.last().unwrap();
    newest.set_nonblocking(true).unwrap();
    let open = (&*newest).read(&mut [0; 1]).unwrap_err();
    assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn dropping_the_server_ends_clients_and_removes_the_socket_at_once() {
    let rig = Rig::start();
    let stream = rig.raw();
    rig.assert_answers();
    let begun = Instant::now();
    drop(rig.server);
    assert!(!rig.path.exists());
    assert_closed(&stream);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn dropped_server_has_let_go_of_the_switch_though_clients_were_connected() {
    for _ in 0..20 {
        let rig = Rig::start();
        let clients: Vec<_> = (0..4).map(|_| rig.client()).collect();
        drop(rig.server);
        assert_eq!(Arc::strong_count(&rig.switch), 1);
        drop(clients);
    }
}

#[test]
fn nobody_at_the_socket_says_what_to_try() {
    let error = Client::connect("/nonexistent/s".as_ref()).unwrap_err().to_string();
    assert!(error.starts_with("--socket /nonexistent/s: "), "{error}");
    assert!(
        error.ends_with("is vsteer running there? name its control socket with --socket PATH"),
        "{error}"
    );
}

#[test]
fn another_protocol_is_refused_by_the_client() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        let result = json!({"protocol": 2, "version": "9.9"});
        writeln!(stream, "{}", json!({"jsonrpc": "2.0", "id": 1, "result": result})).unwrap();
    });
    let error = Client::connect(&path).unwrap_err().to_string();
    answering.join().unwrap();
    assert!(error.contains("vsteer 9.9 speaks control protocol 2, this one speaks 1"), "{error}");
}
