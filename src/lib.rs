//! The vsteer appliance: a virtual switch between guests, the host and the wire.
//!
//! The library is what `main.rs` is a thin shell over: what the operator says and how the operator is answered, and the
//! ports towards the host.

/// What the operator typed: `run`, `ctl`, and QEMU's conventions for back-end programs.
pub mod cli;

/// What the operator asked for, checked: ports, workers, polling, the control socket.
pub mod config;

/// Log lines on standard error.
pub mod logging;

/// Unix sockets that live in the file system: stale ones replaced, mode and owner set, removed at the end.
pub mod socket_file;

/// Workers, ports and the revalidator, put together.
pub mod appliance;

/// A port of the switch, and the drivers that move its packets.
pub mod port;

/// Which number belongs to which port.
pub mod port_numbers;

/// Which name belongs to which table of rules.
pub mod table_names;

/// Which worker receives from which queue.
pub mod assignment;

/// Snapshots of ports, assignments and rules, published to the workers.
pub mod topology;

/// Packets that rules hand out, from the workers to whoever listens.
pub mod punt;

/// What all threads share.
pub mod fabric;

/// The threads that move packets.
pub mod worker;

/// The thread that ages flows and addresses.
pub mod revalidator;

/// Capture files.
pub mod pcap;

/// What megaflows match and do, as text in the manner of ovs-dpctl.
pub mod flow_text;

/// Bytes as hexadecimal digits.
pub mod hex;

/// The commands of `vsteer ctl`, a file for each family of them.
pub mod command;

/// The control socket: envelope, server, client.
pub mod control;

/// Readiness, and the signals that end the process.
pub mod notify;
