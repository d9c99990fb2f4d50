//! Load without a guest's kernel: frames made here, put on virtqueues from here, and counted here.
//!
//! QEMU guests tell whether a switch works; they are too slow to tell how it bears load. `driver::Driver` is the front-end
//! and the driver of one vhost-user port, polled by the thread of the test, so every frame can differ from every other
//! and carry the time at which it left.

/// Front-end and poll-mode driver of one port.
pub mod driver;

/// Frames with numbered payloads, and the fields that attacks vary.
pub mod frame;

/// Traffic from one port to another, with an account of every frame.
pub mod traffic;
