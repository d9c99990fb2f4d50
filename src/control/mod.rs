//! The control socket: how a running switch is asked and told.
//!
//! JSON-RPC 2.0, one JSON object per line, over a unix stream socket. Nothing here touches a packet or waits for a
//! worker: requests go to `Operations`, which answers from snapshots. Anybody who may open the socket may reconfigure
//! the switch, but must not be able to hold it up; the server therefore bounds lines, connections and patience.

/// Requests, replies and errors as they stand on the wire.
pub mod protocol;

/// What megaflows match as text, in the manner of ovs-dpctl.
pub mod flow_text;

/// Bytes as hexadecimal digits.
pub mod hex;

/// The socket's server side.
pub mod server;

/// The socket's client side.
pub mod client;

/// Replies as tables for the terminal.
pub mod render;

/// One command of `vsteer ctl`.
pub mod ask;

/// Commands of `vsteer ctl` that go on until they are stopped.
pub mod watch;

use std::time::Duration;

use self::protocol::{
    CacheInfo, FdbEntry, FdbFilter, FdbFlushed, FlowDump, FlowFilter, MirrorInfo, MonitorFilter,
    OperationError, PortInfo, Reloaded, RuleFilter, RuleInfo, RulesChanged, RulesParams, SelectorParams,
    Stats, TableInfo, TopQuery, TraceInfo, TraceQuery,
};
use crate::config::{MirrorSpec, PortSpec};

/// What a client is sent one after the other until it goes.
pub trait Stream: Send {
    /// The next item as JSON; waits for it no longer than `wait`.
    fn next(&mut self, wait: Duration) -> Option<String>;
}

/// What the control socket can ask of the switch.
///
/// # Concurrency
/// Called from one thread per client, several at once. Calls answer from snapshots and counters, or publish a change;
/// none may wait for a worker longer than a burst takes.
pub trait Operations: Send + Sync + 'static {
    /// All ports, in the order of their numbers.
    ///
    /// # Errors
    /// The switch cannot tell.
    fn port_list(&self) -> Result<Vec<PortInfo>, OperationError>;

    /// The port `name`.
    ///
    /// # Errors
    /// There is no such port.
    fn port_show(&self, name: &str) -> Result<PortInfo, OperationError>;

    /// Adds a port.
    ///
    /// # Errors
    /// Its name, socket or interface is in use, there is no room, or the system refuses.
    fn port_add(&self, spec: PortSpec) -> Result<PortInfo, OperationError>;

    /// Removes the port `name`.
    ///
    /// # Errors
    /// There is no such port.
    fn port_del(&self, name: &str) -> Result<(), OperationError>;

    /// Learned and static addresses that match `filter`.
    ///
    /// # Errors
    /// The filter names a port that does not exist.
    fn fdb_show(&self, filter: &FdbFilter) -> Result<Vec<FdbEntry>, OperationError>;

    /// Forgets the learned addresses that match `filter`.
    ///
    /// # Errors
    /// The filter names a port that does not exist.
    fn fdb_flush(&self, filter: &FdbFilter) -> Result<FdbFlushed, OperationError>;

    /// Adds rules, all of them or none.
    ///
    /// # Errors
    /// The text is not of rules.
    fn rule_add(&self, rules: &RulesParams) -> Result<RulesChanged, OperationError>;

    /// Puts rules in place of all that there are.
    ///
    /// # Errors
    /// The text is not of rules.
    fn rule_replace(&self, rules: &RulesParams) -> Result<RulesChanged, OperationError>;

    /// Gives rules other actions.
    ///
    /// # Errors
    /// The text is no choice of rules with actions.
    fn rule_modify(&self, change: &SelectorParams) -> Result<RulesChanged, OperationError>;

    /// Removes rules.
    ///
    /// # Errors
    /// The text is no choice of rules.
    fn rule_delete(&self, change: &SelectorParams) -> Result<RulesChanged, OperationError>;

    /// Rules with their counters as they are now, by table and priority.
    ///
    /// # Errors
    /// The text is no choice of rules.
    fn rule_dump(&self, filter: &RuleFilter) -> Result<Vec<RuleInfo>, OperationError>;

    /// Tables that have rules or were looked into.
    ///
    /// # Errors
    /// The switch cannot tell.
    fn table_dump(&self) -> Result<Vec<TableInfo>, OperationError>;

    /// All mirrors.
    ///
    /// # Errors
    /// The switch cannot tell.
    fn mirror_list(&self) -> Result<Vec<MirrorInfo>, OperationError>;

    /// Adds a mirror.
    ///
    /// # Errors
    /// Its name is in use, or it names a port that does not exist.
    fn mirror_add(&self, spec: MirrorSpec) -> Result<MirrorInfo, OperationError>;

    /// Removes the mirror `name`.
    ///
    /// # Errors
    /// There is no such mirror.
    fn mirror_del(&self, name: &str) -> Result<(), OperationError>;

    /// Caches of all workers.
    ///
    /// # Errors
    /// The switch cannot tell.
    fn cache_show(&self) -> Result<CacheInfo, OperationError>;

    /// What would happen to a packet. Nothing changes by asking.
    ///
    /// # Errors
    /// The packet cannot be read, or its port does not exist.
    fn trace(&self, query: &TraceQuery) -> Result<TraceInfo, OperationError>;

    /// Packets that rules send to whoever listens, from now on.
    ///
    /// # Errors
    /// There are too many listeners.
    fn monitor(&self, filter: &MonitorFilter) -> Result<Box<dyn Stream>, OperationError>;

    /// Rates of ports and flows, once each interval.
    ///
    /// # Errors
    /// The interval makes no sense.
    fn top(&self, query: &TopQuery) -> Result<Box<dyn Stream>, OperationError>;

    /// Reads the configuration again and does what it says.
    ///
    /// # Errors
    /// It cannot be read or used, and nothing has changed; or a port cannot be opened, and the error says what has.
    fn reload(&self) -> Result<Reloaded, OperationError>;

    /// Megaflows of all workers.
    ///
    /// # Errors
    /// The switch cannot tell.
    fn flow_dump(&self, filter: &FlowFilter) -> Result<FlowDump, OperationError>;

    /// Statistics of the whole switch.
    ///
    /// # Errors
    /// The switch cannot tell.
    fn stats(&self) -> Result<Stats, OperationError>;
}

#[cfg(test)]
mod tests;
