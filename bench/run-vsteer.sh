#!/bin/bash
# vsteer with two vhost-user ports and one worker.
# Prints guest.sh's line plus what vsteer counted while the window was open.
#
#   run-vsteer.sh RULES MODE SIZE [SECONDS]       (MODE, SIZE and environment: see guest.sh)
#
# RULES  normal  a MAC-learning switch, as it comes without configuration
#        acl     1024 rules each way in MASKS=16 match shapes (see acl-rules.sh; use MODE=flowgen)
#        FILE    ovs-ofctl flow file; port names are vhost0 and vhost1
#
# VSTEER        the binary (default: the release build beside this folder)
# VSTEER_PORT   more options of both ports, e.g. offload=off
# VSTEER_EXTRA  more options of `vsteer run`, words as in a shell
#
# switch_busy_cyc_pkt is the worker's time on packets, without empty polls: the difference of its counter busy_cycles if
# vsteer has one (cyc_from=counter), else its share of busy time at the end of the window times the CPU's clock
# (cyc_from=share; rough, as that share is an average over a time of vsteer's choice).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/lib.sh"
(($# >= 3)) || { sed -n '2,18p' "$0" >&2; exit 2; }
rules=$1 mode=$2 size=$3 seconds=${4:-10}
VSTEER=${VSTEER:-$here/../target/release/vsteer}
VSTEER_PORT=${VSTEER_PORT:-} VSTEER_EXTRA=${VSTEER_EXTRA:-}
export FLOWS=${FLOWS:-1024}
export QUEUES=${QUEUES:-1} SERVER=${SERVER:-0}
[[ -x $VSTEER ]] || die "no vsteer at $VSTEER; build it with 'cargo build --release', or set VSTEER"
VSTEER=$(realpath "$VSTEER")

mkdir -p "$BENCH_RUN_DIR"
state=$(mktemp -d "$BENCH_RUN_DIR/vst.XXXXXX")
log=$BENCH_RUN_DIR/vsteer.log
trap 'stop_own_pids; rm -rf "$state"' EXIT
trap 'exit 130' INT TERM
take_cpu_lock
control_priority

sock0=$state/vhost0.sock sock1=$state/vhost1.sock ctl=$state/ctl.sock
port_options=$VSTEER_PORT
[[ $QUEUES == 1 ]] || port_options="queues=$QUEUES${port_options:+,$port_options}"
[[ $SERVER == 0 ]] || port_options="mode=client${port_options:+,$port_options}"
port_options=${port_options:+,$port_options}
extra=(); eval "extra=($VSTEER_EXTRA)"
boost taskset -c "$GUEST_CPU,$SWITCH_CPU" "$VSTEER" run --port "vhost0=vhost-user:$sock0$port_options" \
    --port "vhost1=vhost-user:$sock1$port_options" --workers "$SWITCH_CPU" --poll busy --control "$ctl" \
    ${extra[@]+"${extra[@]}"} </dev/null >"$log" 2>&1 &
switch=$!; OWN_PIDS+=("$switch")
ready_or_gone() { [[ -S $ctl ]] || ! kill -0 "$switch"; }
wait_for 10 ready_or_gone || die "vsteer made no control socket; see $log"
kill -0 "$switch" 2>/dev/null || die "vsteer ended at once: $(tail -2 "$log" | tr '\n' ' ')"

case $rules in
normal) printf 'actions=NORMAL\n';;
acl)    "$here/acl-rules.sh" "$FLOWS" "${MASKS:-16}";;
*)      cat "$rules";;
esac >"$state/flows.txt"
"$VSTEER" ctl --socket "$ctl" flow replace-flows "$state/flows.txt" >/dev/null || die "vsteer refused the rules; see $log"
nrules=$(grep -cvE '^\s*(#|$)' "$state/flows.txt")

# Like every other peer's, the threads that do not poll share the guest's CPU; the worker has pinned itself.
for task in /proc/"$switch"/task/*; do
    tid=${task##*/}
    allowed=$(taskset -pc "$tid" 2>/dev/null) || continue
    [[ ${allowed##*: } == "$SWITCH_CPU" ]] || taskset -pc "$GUEST_CPU" "$tid" >/dev/null 2>&1 || true
done

# ON_START/ON_END run inside guest.sh, when its window opens and closes.
export SWITCH_PID=$switch
note() { printf '%q ctl --socket %q --json stats >%q; %q ctl --socket %q --json cache show >%q' \
    "$VSTEER" "$ctl" "$state/$1" "$VSTEER" "$ctl" "$state/$1.caches"; }
ON_START=$(note before); export ON_START
ON_END=$(note after); export ON_END
run_guest "$state/line" "$sock0" "$sock1" "$seconds" "$mode" "$size" || die "guest failed: $(cat "$state/line"); see $log"
line=$(<"$state/line")
kill -0 "$switch" 2>/dev/null || die "vsteer ended during the run; see $log"
cp -f "$state/before" "$BENCH_RUN_DIR/vsteer-stats-before.json"
cp -f "$state/after" "$BENCH_RUN_DIR/vsteer-stats-after.json"
cp -f "$state/after.caches" "$BENCH_RUN_DIR/vsteer-caches-after.json"

counted=$("$here/vsteer-counters.py" "$state/before" "$state/after" "$SWITCH_CPU") ||
    die "cannot read vsteer's statistics; see $BENCH_RUN_DIR/vsteer-stats-after.json"
echo "switch=vsteer rules=$rules nrules=$nrules $line $counted"
