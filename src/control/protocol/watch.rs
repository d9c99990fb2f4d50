//! What the control socket says about packets and caches: punted packets, traces, live rates.

use serde::{Deserialize, Serialize};

/// Which punted packets are meant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorFilter {
    /// Only those of `controller` actions with this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u16>,
}

/// A packet that an action sent to whoever listens, or word of packets lost on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonitorItem {
    /// A packet.
    Packet(PuntInfo),
    /// So many packets came faster than this listener took them.
    Lost(u64),
}

/// A punted packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PuntInfo {
    /// When it came, in microseconds since 1970.
    pub time_us: u64,
    /// Name of the port that it came in by.
    pub in_port: String,
    /// The id in the `controller` action.
    pub id: u16,
    /// Bytes that it has.
    pub len: u64,
    /// Its header fields in ovs-ofctl's syntax.
    pub flow: String,
    /// The bytes that the action asked for, in hexadecimal.
    pub data: String,
}

/// A packet to trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum TraceQuery {
    /// Fields in ovs-ofctl's syntax; what is not named is zero.
    Flow(String),
    /// A packet.
    Packet {
        /// Name of the port that it comes in by.
        in_port: String,
        /// Its bytes in hexadecimal.
        data: String,
    },
}

/// What the switch would do with a packet now, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceInfo {
    /// The packet's fields in ovs-ofctl's syntax.
    pub flow: String,
    /// Tables, rules and actions in the order in which they were taken.
    pub steps: Vec<TraceStep>,
    /// What the megaflow that would be installed matches.
    pub megaflow: String,
    /// What happens to the packet, as `flow dump` has it.
    pub actions: String,
    /// Why it is dropped, if it is: the name of the counter.
    pub drop: Option<String>,
    /// What it would teach the switch, and what stands in the way of the actions now.
    pub remarks: Vec<String>,
}

/// A step of a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStep {
    /// How deep in resubmits it is.
    pub depth: u16,
    /// What was done.
    pub text: String,
}

/// Caches of all workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CacheInfo {
    /// Each worker's.
    pub workers: Vec<WorkerCache>,
}

/// The caches of one worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerCache {
    /// The worker's index.
    pub worker: usize,
    /// Every counter of its pipeline by name, since the start.
    pub counters: Vec<(String, u64)>,
    /// The ways in which packets are decided, fastest first, and what follows the decision.
    pub tiers: Vec<TierInfo>,
    /// Subtables of its classifier, in the order in which they are searched; `None` if the worker did not answer in time.
    pub subtables: Option<Vec<SubtableInfo>>,
}

/// One way in which packets are decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TierInfo {
    /// Its name.
    pub name: String,
    /// Packets decided there.
    pub packets: u64,
    /// Their share of all packets, 0 to 1.
    pub share: f64,
    /// Cycles spent there for each packet that came that far, as far as they were measured.
    pub cycles_per_packet: Option<f64>,
}

/// A subtable of a classifier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtableInfo {
    /// The fields that its mask looks at.
    pub mask: String,
    /// Megaflows in it.
    pub flows: u64,
    /// Packets found in it.
    pub hits: u64,
}

/// How live rates are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopQuery {
    /// Milliseconds between samples.
    pub interval_ms: u64,
    /// Flows in each sample at most.
    pub flows: usize,
}

/// Rates over one interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopSample {
    /// Length of the interval in milliseconds.
    pub interval_ms: u64,
    /// Each port.
    pub ports: Vec<PortRate>,
    /// The busiest flows, busiest first.
    pub flows: Vec<FlowRate>,
    /// Flows there are.
    pub flow_count: u64,
}

/// Rates of a port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortRate {
    /// Its name.
    pub name: String,
    /// Packets a second received from it.
    pub rx_pps: f64,
    /// Bits a second received from it.
    pub rx_bps: f64,
    /// Packets a second sent to it.
    pub tx_pps: f64,
    /// Bits a second sent to it.
    pub tx_bps: f64,
    /// Packets a second dropped at it.
    pub drop_pps: f64,
}

/// Rates of a megaflow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowRate {
    /// What it matches.
    #[serde(rename = "match")]
    pub match_text: String,
    /// What it does.
    pub actions: String,
    /// Index of the worker that has it.
    pub worker: usize,
    /// Packets a second.
    pub pps: f64,
    /// Bits a second.
    pub bps: f64,
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Ports added.
    pub ports_added: Vec<String>,
    /// Ports removed.
    pub ports_removed: Vec<String>,
    /// Ports that go on with other settings.
    pub ports_changed: Vec<String>,
    /// Ports that were closed and opened again, as their settings needed that.
    pub ports_reopened: Vec<String>,
    /// What became of the rules; `None` if the configuration has none and had none.
    pub rules: Option<super::RulesChanged>,
    /// What could not be done while running, and how to do it.
    pub notes: Vec<String>,
}
