//! Front-ends other than QEMU started by hand with a Linux guest: user-mode Linux, firmware that boots from the network,
//! and libvirt.
//!
//! Each comes from a Debian package that is installed (`make test` does), and runs unmodified.

/// User-mode Linux, a kernel that is a process and its own vhost-user front-end.
pub mod uml;

/// Firmware with its own virtio-net drivers, booting from the network.
pub mod netboot;

/// A libvirt daemon of the test's own, and its domains.
pub mod libvirt;
