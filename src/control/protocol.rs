//! Requests, replies and errors of the control socket as they stand on the wire.
//!
//! ```text
//! -> {"jsonrpc":"2.0","id":1,"method":"port_show","params":{"name":"vm0"}}
//! <- {"jsonrpc":"2.0","id":1,"result":{"name":"vm0",...}}
//! <- {"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no port \"vm1\"; see port list"}}
//! ```
//!
//! Some requests are answered by a stream: after the reply, whose result is `null`, notifications with the method's name
//! follow until the client ends the connection or sends its next request.
//!
//! A request without an `id` is carried out and not answered; batches are refused. Fields may be added to replies
//! without a new `PROTOCOL` number, so readers must ignore those they do not know.
//!
//! # Source
//! JSON-RPC 2.0 specification, sections 4 and 5.

/// Rules, tables and mirrors.
mod rules;

/// Punted packets, traces, caches, live rates.
mod watch;

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use vsteer_switch::nearest::nearest;

pub use self::rules::{
    MirrorInfo, MirrorName, MirrorText, RuleFilter, RuleInfo, RulesChanged, RulesParams, SelectorParams,
    TableInfo,
};
pub use self::watch::{
    CacheInfo, FlowRate, MonitorFilter, MonitorItem, PortRate, PuntInfo, Reloaded, SubtableInfo, TierInfo,
    TopQuery, TopSample, TraceInfo, TraceQuery, TraceStep, WorkerCache,
};
use crate::config::VlanSpec;

/// Version of this protocol: grows when a request or reply changes its meaning.
pub const PROTOCOL: u32 = 1;

/// A request, without the envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Who answers: [`Hello`].
    Hello,
    /// All ports: a list of [`PortInfo`].
    PortList,
    /// One port: [`PortInfo`].
    PortShow(PortName),
    /// Adds a port: the new [`PortInfo`].
    PortAdd(PortText),
    /// Removes a port: `null`.
    PortDel(PortName),
    /// Forwarding database: a list of [`FdbEntry`].
    FdbShow(FdbFilter),
    /// Forgets learned addresses: [`FdbFlushed`].
    FdbFlush(FdbFilter),
    /// Adds rules, all or none: [`RulesChanged`].
    RuleAdd(RulesParams),
    /// Puts these rules in place of all others: [`RulesChanged`].
    RuleReplace(RulesParams),
    /// Gives rules other actions: [`RulesChanged`].
    RuleModify(SelectorParams),
    /// Removes rules: [`RulesChanged`].
    RuleDelete(SelectorParams),
    /// Rules: a list of [`RuleInfo`].
    RuleDump(RuleFilter),
    /// Tables: a list of [`TableInfo`].
    TableDump,
    /// All mirrors: a list of [`MirrorInfo`].
    MirrorList,
    /// Adds a mirror: the new [`MirrorInfo`].
    MirrorAdd(MirrorText),
    /// Removes a mirror: `null`.
    MirrorDel(MirrorName),
    /// Megaflows, busiest first: [`FlowDump`].
    FlowDump(FlowFilter),
    /// Caches of the workers: [`CacheInfo`].
    CacheShow,
    /// What would happen to a packet: [`TraceInfo`].
    Trace(TraceQuery),
    /// Packets that rules send to whoever listens: a stream of [`MonitorItem`].
    Monitor(MonitorFilter),
    /// Live rates: a stream of [`TopSample`].
    Top(TopQuery),
    /// Reads the configuration again and does what it says: [`Reloaded`].
    Reload,
    /// Statistics: [`Stats`].
    Stats,
}

const METHODS: [&str; 23] = [
    "hello",
    "port_list",
    "port_show",
    "port_add",
    "port_del",
    "fdb_show",
    "fdb_flush",
    "rule_add",
    "rule_replace",
    "rule_mod",
    "rule_del",
    "rule_dump",
    "table_dump",
    "mirror_list",
    "mirror_add",
    "mirror_del",
    "flow_dump",
    "cache_show",
    "trace",
    "monitor",
    "top",
    "reload",
    "stats",
];

impl Request {
    /// The request's method.
    pub fn method(&self) -> &'static str {
        match self {
            Request::Hello => "hello",
            Request::PortList => "port_list",
            Request::PortShow(_) => "port_show",
            Request::PortAdd(_) => "port_add",
            Request::PortDel(_) => "port_del",
            Request::FdbShow(_) => "fdb_show",
            Request::FdbFlush(_) => "fdb_flush",
            Request::RuleAdd(_) => "rule_add",
            Request::RuleReplace(_) => "rule_replace",
            Request::RuleModify(_) => "rule_mod",
            Request::RuleDelete(_) => "rule_del",
            Request::RuleDump(_) => "rule_dump",
            Request::TableDump => "table_dump",
            Request::MirrorList => "mirror_list",
            Request::MirrorAdd(_) => "mirror_add",
            Request::MirrorDel(_) => "mirror_del",
            Request::FlowDump(_) => "flow_dump",
            Request::CacheShow => "cache_show",
            Request::Trace(_) => "trace",
            Request::Monitor(_) => "monitor",
            Request::Top(_) => "top",
            Request::Reload => "reload",
            Request::Stats => "stats",
        }
    }

    /// The request in its envelope.
    pub fn to_json(&self, id: u64) -> Value {
        let params = match self {
            Request::Hello
            | Request::PortList
            | Request::TableDump
            | Request::MirrorList
            | Request::CacheShow
            | Request::Reload
            | Request::Stats => json!({}),
            Request::PortShow(params) | Request::PortDel(params) => json!(params),
            Request::PortAdd(params) => json!(params),
            Request::FdbShow(params) | Request::FdbFlush(params) => json!(params),
            Request::RuleAdd(params) | Request::RuleReplace(params) => json!(params),
            Request::RuleModify(params) | Request::RuleDelete(params) => json!(params),
            Request::RuleDump(params) => json!(params),
            Request::MirrorAdd(params) => json!(params),
            Request::MirrorDel(params) => json!(params),
            Request::FlowDump(params) => json!(params),
            Request::Trace(params) => json!(params),
            Request::Monitor(params) => json!(params),
            Request::Top(params) => json!(params),
        };
        json!({"jsonrpc": "2.0", "id": id, "method": self.method(), "params": params})
    }

    /// The request `method` with `params`.
    pub(crate) fn from_parts(method: &str, params: Value) -> Result<Self, OperationError> {
        let bare = |request| move |NoParams {}| request;
        match method {
            "hello" => read_params(params).map(bare(Request::Hello)),
            "port_list" => read_params(params).map(bare(Request::PortList)),
            "port_show" => read_params(params).map(Request::PortShow),
            "port_add" => read_params(params).map(Request::PortAdd),
            "port_del" => read_params(params).map(Request::PortDel),
            "fdb_show" => read_params(params).map(Request::FdbShow),
            "fdb_flush" => read_params(params).map(Request::FdbFlush),
            "rule_add" => read_params(params).map(Request::RuleAdd),
            "rule_replace" => read_params(params).map(Request::RuleReplace),
            "rule_mod" => read_params(params).map(Request::RuleModify),
            "rule_del" => read_params(params).map(Request::RuleDelete),
            "rule_dump" => read_params(params).map(Request::RuleDump),
            "table_dump" => read_params(params).map(bare(Request::TableDump)),
            "mirror_list" => read_params(params).map(bare(Request::MirrorList)),
            "mirror_add" => read_params(params).map(Request::MirrorAdd),
            "mirror_del" => read_params(params).map(Request::MirrorDel),
            "flow_dump" => read_params(params).map(Request::FlowDump),
            "cache_show" => read_params(params).map(bare(Request::CacheShow)),
            "trace" => read_params(params).map(Request::Trace),
            "monitor" => read_params(params).map(Request::Monitor),
            "top" => read_params(params).map(Request::Top),
            "reload" => read_params(params).map(bare(Request::Reload)),
            "stats" => read_params(params).map(bare(Request::Stats)),
            _ => Err(unknown_method(method)),
        }
    }
}

fn unknown_method(method: &str) -> OperationError {
    let hint = match nearest(method, METHODS.into_iter()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("use one of {}", METHODS.join(", ")),
    };
    OperationError::new(ErrorKind::UnknownMethod, format!("unknown method {method:?}; {hint}"))
}

fn read_params<T: DeserializeOwned>(params: Value) -> Result<T, OperationError> {
    let params = match params {
        Value::Null => Value::Object(Map::new()),
        Value::Array(list) if list.is_empty() => Value::Object(Map::new()),
        params => params,
    };
    serde_json::from_value(params).map_err(|error| OperationError::invalid(format!("params: {error}")))
}

/// Parameters of a request that has none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoParams {}

/// Parameters that name a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortName {
    /// The port's name.
    pub name: String,
}

/// Parameters that describe a port to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortText {
    /// `NAME=TYPE:ADDRESS[,OPTION=VALUE...]`; relative paths are the switch's.
    pub spec: String,
}

/// Which entries of the forwarding database are meant; `None` means any.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FdbFilter {
    /// Only those of this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Only those of this VLAN; 0 is untagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
}

/// Who answers at the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the switch.
    pub protocol: u32,
    /// Version of the switch.
    pub version: String,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// Its name.
    pub name: String,
    /// Its number in flows.
    pub id: u16,
    /// `vhost-user` or `tap`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Path, interface or descriptor behind it.
    pub address: String,
    /// Whether packets can pass.
    pub state: PortState,
    /// Why the port was stopped.
    pub fault: Option<String>,
    /// Features in use, by their names in the virtio specification.
    pub features: Vec<String>,
    /// Queue pairs that the other side uses.
    pub queue_pairs_enabled: u16,
    /// Queue pairs that it may use.
    pub queue_pairs_offered: u16,
    /// VLAN membership.
    pub vlan: VlanSpec,
    /// Largest number of learned addresses.
    pub mac_limit: u32,
    /// MTU, where one was set.
    pub mtu: Option<u16>,
    /// Whether rules mean it by `LOCAL`.
    #[serde(default)]
    pub local: bool,
    /// Packets and drops.
    pub counters: PortCounters,
}

/// Whether packets can pass a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PortState {
    /// They can.
    Connected,
    /// Nobody is at the other side yet, or again.
    Waiting,
    /// The other side broke a rule, or the interface is gone: see [`PortInfo::fault`].
    Stopped,
}

impl PortState {
    /// The state as it stands on the wire.
    pub fn name(self) -> &'static str {
        match self {
            PortState::Connected => "connected",
            PortState::Waiting => "waiting",
            PortState::Stopped => "stopped",
        }
    }
}

/// Counters of a port. `rx` is what the switch received from the port, `tx` what it sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PortCounters {
    /// Packets received from the port.
    pub rx_pkts: u64,
    /// Bytes received from the port.
    pub rx_bytes: u64,
    /// Packets sent to the port.
    pub tx_pkts: u64,
    /// Bytes sent to the port.
    pub tx_bytes: u64,
    /// Packets dropped, by [`DropReason`](vsteer_switch::drop_reason::DropReason) name; zeros may be left out.
    pub drops: BTreeMap<String, u64>,
}

impl PortCounters {
    /// Packets dropped for any reason.
    pub fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }

    /// Adds the counters of another port.
    pub fn add(&mut self, other: &PortCounters) {
        self.rx_pkts += other.rx_pkts;
        self.rx_bytes += other.rx_bytes;
        self.tx_pkts += other.tx_pkts;
        self.tx_bytes += other.tx_bytes;
        for (reason, count) in &other.drops {
            *self.drops.entry(reason.clone()).or_default() += count;
        }
    }
}

/// An entry of the forwarding database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbEntry {
    /// VLAN; 0 is untagged.
    pub vlan: u16,
    /// Address, as `52:54:00:00:00:01`.
    pub mac: String,
    /// Name of the port behind which it is.
    pub port: String,
    /// Seconds since it was last seen.
    pub age_s: u64,
    /// Configured rather than learned; does not age.
    #[serde(rename = "static")]
    pub is_static: bool,
}

/// What a flush removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbFlushed {
    /// Number of entries.
    pub removed: u64,
}

/// Which megaflows are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowFilter {
    /// How many at most.
    pub limit: u64,
}

impl FlowFilter {
    /// Megaflows shown unless told otherwise: a few megabytes of text.
    pub const DEFAULT_LIMIT: u64 = 10_000;
}

impl Default for FlowFilter {
    fn default() -> Self {
        Self { limit: Self::DEFAULT_LIMIT }
    }
}

/// Megaflows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FlowDump {
    /// Those with the most packets, these first.
    pub flows: Vec<FlowInfo>,
    /// How many there are beyond the limit.
    pub left_out: u64,
}

/// A megaflow of one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowInfo {
    /// What it matches, see [`flow_text`](super::flow_text).
    #[serde(rename = "match")]
    pub match_text: String,
    /// What it does, `drop` when nothing.
    pub actions: String,
    /// Packets that matched.
    pub packets: u64,
    /// Bytes that matched.
    pub bytes: u64,
    /// Milliseconds since a packet last matched; `None` when none has.
    pub used_ms: Option<u64>,
    /// Milliseconds since it was installed.
    pub age_ms: u64,
    /// Index of the worker that has it.
    pub worker: usize,
    /// The table that finds its packets: `exact_match` or `classifier`.
    pub tier: String,
}

/// What the revalidator does about megaflows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RevalidatorInfo {
    /// Passes over all megaflows since the start.
    pub passes: u64,
    /// Microseconds that the last one took.
    pub last_pass_us: u64,
    /// Microseconds that the longest one took.
    pub longest_pass_us: u64,
    /// Megaflows in all workers.
    pub flows: u64,
    /// Most megaflows that there may be; adapts to what it costs to keep them right.
    pub flow_limit: u64,
    /// Milliseconds after which an unused megaflow goes at present.
    pub idle_ms: u64,
    /// Megaflows since the start by what was done with them; zeros may be left out.
    pub done: BTreeMap<String, u64>,
    /// Rules taken out because their time was over.
    pub rules_expired: u64,
}

/// Statistics of the whole switch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Version of the switch.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Each worker.
    pub workers: Vec<WorkerInfo>,
    /// Each port.
    pub ports: Vec<PortInfo>,
    /// Sums over all ports.
    pub totals: PortCounters,
    /// The revalidator.
    #[serde(default)]
    pub revalidator: RevalidatorInfo,
    /// Packets that rules handed out.
    #[serde(default)]
    pub punts: PuntCounters,
}

/// What became of the packets that rules handed out to whoever listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PuntCounters {
    /// Copies that listeners got.
    pub delivered: u64,
    /// Copies that came faster than a listener took them.
    pub lost: u64,
    /// Packets that nobody listened to.
    pub unheard: u64,
}

/// A worker thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Its index.
    pub index: usize,
    /// CPU it is pinned to.
    pub cpu: Option<usize>,
    /// `busy`, `adaptive` or `interrupt`.
    pub mode: String,
    /// Rounds over its queues.
    pub iterations: u64,
    /// Share of recent time spent on packets, 0 to 1.
    pub busy: f64,
    /// Cycles in rounds that found packets, since the start.
    pub busy_cycles: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Packets that the exact-match cache decided.
    pub exact_hits: u64,
    /// Packets that the classifier decided.
    pub classifier_hits: u64,
    /// Packets that went to the slow path.
    pub upcalls: u64,
    /// Megaflows installed now.
    pub flows: u64,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct OperationError {
    /// What kind of reason, for programs.
    pub kind: ErrorKind,
    /// The reason and what to try, for people.
    pub message: String,
}

/// Kinds of [`OperationError`]; on the wire these are JSON-RPC error codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// The name or the resource is taken.
    Exists,
    /// The system or the switch refused.
    Failed,
    /// The request's parameters make no sense.
    InvalidParams,
    /// No such method.
    UnknownMethod,
    /// The line is JSON but no request.
    InvalidRequest,
    /// The line is not JSON.
    NotJson,
}

impl ErrorKind {
    const ALL: [ErrorKind; 7] = [
        ErrorKind::NotFound,
        ErrorKind::Exists,
        ErrorKind::Failed,
        ErrorKind::InvalidParams,
        ErrorKind::UnknownMethod,
        ErrorKind::InvalidRequest,
        ErrorKind::NotJson,
    ];

    /// The code on the wire: below zero those that JSON-RPC fixes, above zero our own.
    pub fn code(self) -> i32 {
        match self {
            ErrorKind::NotFound => 1,
            ErrorKind::Exists => 2,
            ErrorKind::Failed => 3,
            ErrorKind::InvalidParams => -32602,
            ErrorKind::UnknownMethod => -32601,
            ErrorKind::InvalidRequest => -32600,
            ErrorKind::NotJson => -32700,
        }
    }

    /// The kind behind a code; codes of a later version are [`ErrorKind::Failed`].
    pub fn from_code(code: i64) -> Self {
        Self::ALL.into_iter().find(|kind| i64::from(kind.code()) == code).unwrap_or(ErrorKind::Failed)
    }
}

impl OperationError {
    /// An error of `kind`; `message` ends with what to try.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// The request's parameters make no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParams, message)
    }

    /// There is no port `name`.
    pub fn no_port(name: &str) -> Self {
        Self::new(ErrorKind::NotFound, format!("no port {name:?}; see port list"))
    }

    /// The system or the switch refused.
    pub fn failed(cause: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Failed, cause.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_the_wire() {
        let name = || PortName { name: "vm0".into() };
        let filter = || FdbFilter { port: Some("vm0".into()), vlan: Some(0) };
        let requests = [
            Request::Hello,
            Request::PortList,
            Request::PortShow(name()),
            Request::PortAdd(PortText { spec: "a=tap:t".into() }),
            Request::PortDel(name()),
            Request::FdbShow(filter()),
            Request::FdbFlush(FdbFilter::default()),
            Request::RuleAdd(RulesParams {
                text: "actions=drop".into(),
                check_overlap: true,
                ..Default::default()
            }),
            Request::RuleReplace(RulesParams {
                text: "actions=drop\n\n".into(),
                source: Some("f".into()),
                ..Default::default()
            }),
            Request::RuleModify(SelectorParams {
                text: "actions=drop".into(),
                strict: true,
                reset_counts: true,
            }),
            Request::RuleDelete(SelectorParams::default()),
            Request::RuleDump(RuleFilter { text: "table=1".into() }),
            Request::TableDump,
            Request::MirrorList,
            Request::MirrorAdd(MirrorText { spec: "m,all,output=a".into() }),
            Request::MirrorDel(MirrorName { name: "m".into() }),
            Request::FlowDump(FlowFilter { limit: 5 }),
            Request::CacheShow,
            Request::Trace(TraceQuery::Packet { in_port: "a".into(), data: "00".into() }),
            Request::Monitor(MonitorFilter { id: Some(7) }),
            Request::Top(TopQuery { interval_ms: 1000, flows: 10 }),
            Request::Reload,
            Request::Stats,
        ];
        assert_eq!(requests.each_ref().map(Request::method), METHODS);
        for request in requests {
            let json = request.to_json(7);
            assert_eq!(json["jsonrpc"], "2.0");
            let read = Request::from_parts(json["method"].as_str().unwrap(), json["params"].clone()).unwrap();
            assert_eq!(read, request);
        }
    }

    #[test]
    fn parameters_may_be_left_out_where_none_are_needed() {
        for params in [Value::Null, json!([]), json!({})] {
            assert_eq!(Request::from_parts("stats", params).unwrap(), Request::Stats);
        }
    }

    #[test]
    fn bad_requests_say_what_to_try() {
        let error = |method, params| Request::from_parts(method, params).unwrap_err();
        let unknown = error("port_lst", Value::Null);
        assert_eq!(unknown.kind, ErrorKind::UnknownMethod);
        assert_eq!(unknown.message, "unknown method \"port_lst\"; did you mean \"port_list\"?");
        assert!(error("reboot", Value::Null).message.contains("use one of hello, port_list"));
        let params = error("fdb_show", json!({"prot": "vm0"}));
        assert_eq!(params.kind, ErrorKind::InvalidParams);
        assert!(
            params.message.contains("unknown field `prot`, expected `port` or `vlan`"),
            "{}",
            params.message
        );
        assert!(error("stats", json!({"x": 1})).message.contains("unknown field `x`"));
    }

    #[test]
    fn error_codes_come_back_as_their_kinds() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.code().into()), kind);
        }
        assert_eq!(ErrorKind::from_code(99), ErrorKind::Failed);
    }

    #[test]
    fn counters_add_up_by_reason() {
        let drops =
            |pairs: &[(&str, u64)]| pairs.iter().map(|&(name, count)| (name.to_owned(), count)).collect();
        let mut sum = PortCounters { rx_pkts: 1, drops: drops(&[("hairpin", 2)]), ..Default::default() };
        sum.add(&PortCounters {
            rx_pkts: 4,
            tx_bytes: 9,
            drops: drops(&[("hairpin", 1), ("too_long", 5)]),
            ..Default::default()
        });
        assert_eq!((sum.rx_pkts, sum.tx_bytes, sum.dropped()), (5, 9, 8));
        assert_eq!(sum.drops, drops(&[("hairpin", 3), ("too_long", 5)]));
    }
}
