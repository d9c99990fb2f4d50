#!/bin/bash
# Two real QEMU guests behind vsteer and behind OVS-DPDK in turn: ping and iperf3 between them, and one table of ratios.
#
#   guests.sh
#
# ROUNDS     interleaved rounds (default 3)
# SECONDS    length of each TCP run (default 5); a switch in a round takes about 15 s more
# SWITCHES   which to compare, the first with all others (default: "vsteer ovs ovs-tso"; also vsteer-busy and testpmd)
# VSTEER     the binary to measure (default: build the release one)
# VSTEER_ACCEL=kvm runs the guests on KVM instead of TCG
set -euo pipefail
# bash counts SECONDS up by itself unless the variable came from outside; take it before anything else.
window=$(printenv SECONDS || echo 5)
export -n SECONDS
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
. "$here/lib.sh"
ROUNDS=${ROUNDS:-3} SWITCHES=${SWITCHES:-vsteer ovs ovs-tso}
[[ $ROUNDS =~ ^[1-9][0-9]*$ ]] || die "ROUNDS=$ROUNDS; give a number of rounds, e.g. 3"
[[ $window =~ ^[1-9][0-9]*$ ]] || die "SECONDS=$window; give whole seconds, e.g. 5"
((EUID == 0)) || die "needs root: network namespaces, DPDK"

"$here/setup.sh" >&2
if [[ -z ${VSTEER:-} ]]; then
    (cd "$root" && cargo build --release --locked --bin vsteer) >&2
    VSTEER=${CARGO_TARGET_DIR:-$root/target}/release/vsteer
fi
[[ -x $VSTEER ]] || die "no vsteer at $VSTEER"
VSTEER_BIN=$(realpath "$VSTEER"); export VSTEER_BIN
(cd "$root" && cargo build --locked -p vsteer-qemu-tests --bin rivals) >&2

mkdir -p "$BENCH_RUN_DIR"
TMPDIR=$(mktemp -d "$BENCH_RUN_DIR/guests.XXXXXX"); export TMPDIR
# What rivals starts dies with it.
trap 'stop_own_pids; rm -rf "$TMPDIR"' EXIT
trap 'exit 130' INT TERM
take_cpu_lock
[[ $SWITCHES != *ovs* ]] || hugepages_needed 512
# shellcheck disable=SC2086 # SWITCHES is a list of words
boost "${CARGO_TARGET_DIR:-$root/target}/debug/rivals" "$ROUNDS" "$window" $SWITCHES &
OWN_PIDS+=($!)
wait $!
