//! The control socket: how a running switch is asked and told.
//!
//! JSON-RPC 2.0, one JSON object per line, over a unix stream socket. Nothing here touches a packet or waits for a
//! worker: requests go to `Operations`, which answers from snapshots. Anybody who may open the socket may reconfigure
//! the switch, but must not be able to hold it up; the server therefore bounds lines, connections and patience.

/// Requests, replies and errors as they stand on the wire.
pub mod protocol;

/// What megaflows match as text, in the manner of ovs-dpctl.
pub mod flow_text;

/// The socket's server side.
pub mod server;

/// The socket's client side.
pub mod client;

/// Replies as tables for the terminal.
pub mod render;

/// One command of `vsteer ctl`.
pub mod ask;

use self::protocol::{FdbEntry, FdbFilter, FdbFlushed, FlowInfo, OperationError, PortInfo, Stats};
use crate::config::PortSpec;

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

    /// Megaflows of all workers.
    ///
    /// # Errors
    /// The switch cannot tell.
    fn flow_dump(&self) -> Result<Vec<FlowInfo>, OperationError>;

    /// Statistics of the whole switch.
    ///
    /// # Errors
    /// The switch cannot tell.
    fn stats(&self) -> Result<Stats, OperationError>;
}

#[cfg(test)]
mod tests;
