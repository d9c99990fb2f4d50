# The project's commands. Each makes sure of the Debian packages that it needs: as root it installs them, otherwise it
# names them and stops. A Rust toolchain must exist.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test bench lint build rust root

PACKAGES := qemu-tests/guests/packages

# Front-ends beside QEMU with a Linux guest: a kernel that is a process, firmware that boots from the network, libvirt.
FRONT_ENDS := user-mode-linux ovmf ipxe ipxe-qemu dnsmasq-base libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients

help:
	@echo 'make demo    two guests and the host talk through vsteer (needs root)'
	@echo 'make test    all tests, with real guests (needs root)'
	@echo 'make bench   vsteer beside other switches (needs root)'
	@echo 'make lint    formatting, clippy, documentation'

rust:
	@command -v cargo >/dev/null && command -v rustc >/dev/null || \
	  { echo 'cargo and rustc are missing: install Rust with rustup (https://rustup.rs)' >&2; exit 1; }
	@command -v cc >/dev/null || $(PACKAGES) gcc libc6-dev

build: rust
	cargo build --release --locked

root:
	@(( EUID == 0 )) || { echo 'needs root: it makes network namespaces and TAP interfaces' >&2; exit 1; }

demo: root build
	cargo run --locked --quiet -p vsteer-qemu-tests --bin demo

# The harness itself is built without optimisation, which is minutes faster; it drives the release build all the same.
# DPDK's testpmd is an independent front-end; each of its libraries that is used is named. Guests are too heavy to run
# side by side, so tests with guests run one after another. An ignored test would be a skipped one: there must be none.
test: root build
	@$(PACKAGES) openvswitch-switch dpdk-dev librte-mempool-ring23 librte-net-virtio23 librte-net-vhost23
	@$(PACKAGES) $(FRONT_ENDS)
	cargo test --release --locked --workspace --exclude vsteer-qemu-tests
	cargo test --locked -p vsteer-qemu-tests -- --include-ignored --test-threads=1 --nocapture

bench: root build
	bench/bench.sh

lint: rust
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps
