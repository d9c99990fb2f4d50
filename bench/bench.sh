#!/bin/bash
# Measure vsteer beside OVS-DPDK and DPDK's vhost forwarder on this machine, and print one table of ratios.
#
#   bench.sh
#
# ROUNDS     interleaved rounds (default 3)
# SECONDS    length of each measured window (default 8); a run takes about 8 s more
# VSTEER     the binary to measure (default: build the release one)
# SCENARIOS  file of scenarios (default: scenarios.txt beside this script)
# RESULTS    file for the results (default: target/bench/DATE.txt)
set -euo pipefail
# bash counts SECONDS up by itself unless the variable came from outside; take it before anything else.
window=$(printenv SECONDS || echo 8)
unset SECONDS
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
ROUNDS=${ROUNDS:-3} SCENARIOS=${SCENARIOS:-$here/scenarios.txt}
RESULTS=${RESULTS:-$root/target/bench/$(date +%Y%m%d-%H%M%S).txt}

die() { echo "error: $*" >&2; exit 1; }
[[ $ROUNDS =~ ^[1-9][0-9]*$ ]] || die "ROUNDS=$ROUNDS; give a number of rounds, e.g. 3"
[[ $window =~ ^[1-9][0-9]*$ ]] || die "SECONDS=$window; give whole seconds, e.g. 8"
[[ -r $SCENARIOS ]] || die "cannot read SCENARIOS=$SCENARIOS"
(($(nproc) >= 2)) || die "one CPU; the load generator and the switch need one each"

"$here/setup.sh" >&2
if [[ -z ${VSTEER:-} ]]; then
    (cd "$root" && cargo build --release --bin vsteer) >&2
    VSTEER=${CARGO_TARGET_DIR:-$root/target}/release/vsteer
fi
[[ -x $VSTEER ]] || die "no vsteer at $VSTEER"
VSTEER=$(realpath "$VSTEER")
export VSTEER

mkdir -p "$(dirname "$RESULTS")"
[[ ! -e $RESULTS ]] || die "$RESULTS exists; results of two runs do not compare, choose another file"
runs=$(grep -cvE '^\s*(#|$)' "$SCENARIOS")
echo "$((runs * ROUNDS)) runs, about $((runs * ROUNDS * (window + 8) / 60 + 1)) minutes; results in $RESULTS" >&2
"$here/matrix.sh" "$(realpath -m "$RESULTS")" "$ROUNDS" "$window" <"$SCENARIOS"
"$here/compare.sh" "$RESULTS"
