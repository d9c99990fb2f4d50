//! The virtio-net header: the numbers in it. Guests, TAP interfaces and packet sockets all put it before their frames; who reads it
//! trusts them differently, so each has its own reader.
//!
//! # Source
//! virtio 1.3 §5.1.6 (`struct virtio_net_hdr`).

/// Bytes of the header, with the count of merged buffers that virtio 1 always has.
pub const LEN: usize = 12;

/// Flag: the checksum is still to be completed.
pub const F_NEEDS_CSUM: u8 = 1;

/// Flag: the checksum was verified.
pub const F_DATA_VALID: u8 = 2;

/// Segmentation: none.
pub const GSO_NONE: u8 = 0;

/// Segmentation: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;

/// Segmentation: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;

/// Segmentation: UDP over IPv4 or IPv6, each segment a datagram of its own.
pub const GSO_UDP_L4: u8 = 5;

/// Segmentation, as a bit beside the kind: the stream has congestion-window-reduced marks.
pub const GSO_ECN: u8 = 0x80;
