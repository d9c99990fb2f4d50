#!/bin/bash
# Measure any vhost-user switch that forwards between two sockets.
#
#   run-any.sh NAME 'COMMAND with {sock0} {sock1} {cpu} {dir}' MODE SIZE [SECONDS]
#
# COMMAND is started as one process (no shell; quote as for a shell word list) with the
# same CPU weight as the peers; it has to pin its poll thread to {cpu} by itself, or set
# PIN=1 to confine the whole process to {cpu}. With SERVER=1 the guest makes the sockets
# and COMMAND must connect to them. {dir} is a fresh directory. MODE, SIZE and the
# environment are those of guest.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/lib.sh"
(($# >= 4)) || { sed -n '2,12p' "$0" >&2; exit 2; }
name=$1 template=$2 mode=$3 size=$4 seconds=${5:-10}

mkdir -p "$BENCH_RUN_DIR"
state=$(mktemp -d "$BENCH_RUN_DIR/any.XXXXXX")
log=$BENCH_RUN_DIR/$name.log
trap 'stop_own_pids; rm -rf "$state"' EXIT
trap 'exit 130' INT TERM
take_cpu_lock
control_priority

sock0=$state/vhost0.sock sock1=$state/vhost1.sock
command=${template//\{sock0\}/$sock0}; command=${command//\{sock1\}/$sock1}
command=${command//\{cpu\}/$SWITCH_CPU}; command=${command//\{dir\}/$state}
words=(); eval "words=($command)"
cpus=$GUEST_CPU,$SWITCH_CPU; [[ ${PIN:-0} == 1 ]] && cpus=$SWITCH_CPU
boost taskset -c "$cpus" "${words[@]}" </dev/null >"$log" 2>&1 &
switch=$!; OWN_PIDS+=("$switch")
sleep 0.3
kill -0 "$switch" 2>/dev/null || die "$name ended at once: $(tail -2 "$log")"
export SWITCH_PID=$switch
run_guest "$state/line" "$sock0" "$sock1" "$seconds" "$mode" "$size" || die "guest failed: $(cat "$state/line"); see $log"
line=$(<"$state/line")
kill -0 "$switch" 2>/dev/null || die "$name ended during the run; see $log"
echo "switch=$name $line"
