//! Harness that boots real QEMU guests beside the built `vsteer` binary and drives them.
