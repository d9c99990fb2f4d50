//! Host-side ports: where packets pass between the switch and the host or the wire.
//!
//! A worker owns the queues of its ports. It fills a burst from one of them, switches it, transmits to others, and
//! clears the burst before it fills from the same queue again.

pub mod tap;

pub mod vnet_header;

mod poll_pacer;

mod rx_area;

pub use poll_pacer::PollPacer;
