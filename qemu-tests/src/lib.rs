//! Real guests that drive the built switch: QEMU boots Debian's kernel on the switch's vhost-user sockets, DPDK's
//! virtio_user serves as a second, independent front-end, and the host takes part through a TAP.
//!
//! The tests use nothing of the switch but its command line, its control socket and its sockets. Every process is a
//! [`process::Process`]: it dies with the thread that started it, is killed when dropped, and its output is part of
//! every failure. Every wait has a deadline. A test whose tools are missing fails and names them.
//!
//! `VSTEER_BIN` names the binary under test (default: the newest `vsteer` beside the tests' own target folder),
//! `VSTEER_ACCEL=kvm` runs guests on KVM instead of TCG. Network namespaces and TAPs need root.

#![allow(
    clippy::missing_errors_doc,
    reason = "every function here fails alike: with what it expected and what it saw"
)]

/// What a step expected and what it saw instead.
pub mod failure;

/// Waiting for a condition, with a deadline.
pub mod wait;

/// Child processes that cannot outlive a test, and what `/proc` tells about them.
pub mod process;

/// Which processor a thread runs on, and how long it waited for it.
pub mod processor;

/// Network namespaces, so that a test's TAPs and addresses disturb nothing on the host.
pub mod namespace;

/// Where kernel, initramfs, QEMU, host tools and the binary under test come from.
pub mod assets;

/// The switch under test.
pub mod switch;

/// Its control socket.
pub mod control;

/// QEMU guests and the commands that run inside them.
pub mod guest;

/// QEMU's monitor protocol.
pub mod qmp;

/// Reading the results of ping and iperf3.
pub mod measure;

/// Front-ends other than QEMU started by hand: user-mode Linux, network boot, libvirt.
pub mod front_end;

/// DPDK's testpmd as a front-end, and as a reference back-end.
pub mod testpmd;

/// Frames made, sent, received and counted here, at rates that no emulated guest reaches.
pub mod load;

/// Open vSwitch with DPDK as a reference back-end.
pub mod ovs;

/// The same rules and packets given to Open vSwitch and to the switch under test, and their verdicts compared.
pub mod ofproto;

/// A switch, its guests and their namespace, booted together.
pub mod world;

/// Named steps that share one boot.
pub mod group;

/// One quantity measured once a round, and how two such series compare.
pub mod series;
