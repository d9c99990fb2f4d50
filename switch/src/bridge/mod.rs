//! What `NORMAL` goes by: the configuration of the ports, their VLANs, the mirrors, and the addresses learned so far.

/// The snapshot of all ports that the slow path reads.
pub mod config;

/// Which VLANs a port takes part in.
pub mod vlan;

/// Ports that get copies of what passes others.
pub mod mirror;

/// The forwarding database: learned addresses.
pub mod fdb;
