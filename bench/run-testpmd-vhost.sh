#!/bin/bash
# testpmd's vhost PMD as the "switch": two ports, io forwarding, no lookup at all.
# This is the ceiling for a vhost-user bridge on this machine.
#
#   run-testpmd-vhost.sh MODE SIZE [SECONDS]     (MODE, SIZE and environment: see guest.sh)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/lib.sh"
mode=${1:-circulate} size=${2:-64} seconds=${3:-10}
export QUEUES=${QUEUES:-1}
SWITCH_MEM=${SWITCH_MEM:-256} SWITCH_MBUFS=${SWITCH_MBUFS:-32768}
SWITCH_FWD=${SWITCH_FWD:-io}            # io | mac | macswap ...
SWITCH_BURST=${SWITCH_BURST:-32}
SWITCH_EXTRA=${SWITCH_EXTRA:-}

mkdir -p "$BENCH_RUN_DIR"
log=$BENCH_RUN_DIR/testpmd-vhost.log
work=$(mktemp -d "$BENCH_RUN_DIR/tpv.XXXXXX")
trap 'stop_own_pids; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
take_cpu_lock
control_priority
sock0=$work/vhost0.sock sock1=$work/vhost1.sock
client=0; [[ ${SERVER:-0} == 1 ]] && client=1
hugepages_needed $(((SWITCH_MEM + ${GUEST_MEM:-256}) / 2))

mkfifo "$work/in"
# shellcheck disable=SC2086 # SWITCH_EXTRA is a list of words
boost taskset -c "$GUEST_CPU,$SWITCH_CPU" stdbuf -oL dpdk-testpmd \
    --lcores="0@$GUEST_CPU,1@$SWITCH_CPU" --main-lcore=0 --in-memory --no-pci --no-telemetry -m "$SWITCH_MEM" \
    --vdev="net_vhost0,iface=$sock0,queues=$QUEUES,client=$client" --vdev="net_vhost1,iface=$sock1,queues=$QUEUES,client=$client" \
    -- -i --nb-cores=1 --rxq="$QUEUES" --txq="$QUEUES" --total-num-mbufs="$SWITCH_MBUFS" --burst="$SWITCH_BURST" \
    --forward-mode="$SWITCH_FWD" --auto-start --record-core-cycles --record-burst-stats --no-flush-rx $SWITCH_EXTRA \
    <"$work/in" >"$log" 2>&1 &
switch=$!; OWN_PIDS+=("$switch")
exec 8>"$work/in"
wait_for 15 grep -q 'testpmd>' "$log" || die "testpmd (switch) did not start; see $log"

# Forward statistics restart with "start", so restart inside the guest's window.
export SWITCH_PID=$switch
run_guest "$work/line" "$sock0" "$sock1" "$seconds" "$mode" "$size" || die "guest failed: $(cat "$work/line")"
line=$(<"$work/line")
echo stop >&8; sleep 0.3; echo quit >&8; exec 8>&-
wait_for 5 bash -c "! kill -0 $switch 2>/dev/null" || true
cyc=$(grep -oP 'CPU cycles/packet=\K[0-9.]+' "$log" | tail -1 || true)
echo "switch=testpmd-vhost $line switch_busy_cyc_pkt=${cyc:-na}"
