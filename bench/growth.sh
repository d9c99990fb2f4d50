#!/bin/bash
# Growth as a table, vsteer beside OVS-DPDK: rate, cycles per packet and memory at up to a million megaflows and 1 024
# masks, misses that one worker sustains, and how fast flows come and go.
#
#   growth.sh [vsteer] [ovs]
#
# VSTEER     the binary to measure (default: build the release one)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
. "$here/lib.sh"
((EUID == 0)) || die "needs root: network namespaces, DPDK"

"$here/setup.sh" >&2
if [[ -z ${VSTEER:-} ]]; then
    (cd "$root" && cargo build --release --locked --bin vsteer) >&2
    VSTEER=${CARGO_TARGET_DIR:-$root/target}/release/vsteer
fi
[[ -x $VSTEER ]] || die "no vsteer at $VSTEER"
VSTEER_BIN=$(realpath "$VSTEER"); export VSTEER_BIN
# The load shares a table's cost with nobody: it is optimised, too.
(cd "$root" && cargo build --release --locked -p vsteer-qemu-tests --bin growth) >&2

trap 'stop_own_pids' EXIT
trap 'exit 130' INT TERM
take_cpu_lock
hugepages_needed 512
boost "${CARGO_TARGET_DIR:-$root/target}/release/growth" "$@" &
OWN_PIDS+=($!)
wait $!
