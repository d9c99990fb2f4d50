//! Edits of a packet's head in place, one file per kind.
//!
//! Actions call these on the worker that owns the burst, after the verdict and before egress. They work on the private
//! head alone and keep `Offload` and every checksum true to the new bytes; the tail stays
//! where it lies. An edit that cannot be made says why, and the packet is then dropped: what was decided about it does
//! not hold for its old bytes.

/// VLAN tags: pushing, popping, setting.
pub mod vlan;

/// Header fields: overwriting some of their bits.
pub mod rewrite;

/// The CRC of SCTP, brought up to date without the bytes it covers.
mod crc32c;
