//! The vsteer appliance: a virtual switch between guests, the host and the wire.

pub mod nic;
