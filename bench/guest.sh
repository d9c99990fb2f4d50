#!/bin/bash
# Load any vhost-user switch with DPDK testpmd's virtio_user front end and print
# one line of key=value results.
#
#   guest.sh SOCK0 SOCK1 SECONDS MODE SIZE
#
# SOCK0/SOCK1  the switch's two vhost-user sockets (it must forward 0 <-> 1)
# SECONDS      length of the measured window (2 s of warm-up come before it)
# MODE         circulate  a fixed set of frames goes round: guest -> switch -> guest -> ...
#                         (no frame is made or freed: lightest guest, no loss)
#              latency    the same with one frame in each direction; adds hop_us
#              flowgen    make FLOWS UDP flows (dst IP 10.253.0.0 + n) as fast as
#                         the guest can, both ways; drops at full rings are counted
#              replay     loop the frames of PCAP0 into SOCK0 and of PCAP1 into SOCK1
# SIZE         frame bytes without FCS (64..1514); replay takes it from the pcap
#
# mpps is what the switch delivered, summed over both directions;
# gbps = the same in frame bits (no FCS, preamble or gap). p10/p50/p90 are over
# samples of 0.2 s. On a VM the host moves the two vCPUs nearer or further apart
# within seconds, and every two-core rate follows. c2c-probe watches that during the
# window: mpps_near / mpps_far are the means of the samples in which a cache line's
# round trip stayed below / above C2C_SPLIT ns, near_n / far_n how many there were.
# Compare switches by the same column; mpps alone mixes the two.
# *_wait_pct: share of the window a poll thread was runnable but off its CPU. Over
# about 2 % the machine was busy with something else: repeat the run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/lib.sh"

(($# == 5)) || { sed -n '2,29p' "$0" >&2; exit 2; }
sock0=$1 sock1=$2 seconds=$3 mode=$4 size=$5

QSIZE=${QSIZE:-256}          # ring size (QEMU's default; 1024 is the NFV habit)
QUEUES=${QUEUES:-1}          # queue pairs per port
PACKED=${PACKED:-0}          # 1: packed rings
MRG=${MRG:-1}                # mergeable rx buffers, as a Linux guest negotiates
INORDER=${INORDER:-0}        # Linux guests mostly do not have IN_ORDER
VECTOR=${VECTOR:-0}          # 1: testpmd's vector paths (needs MRG=0)
SERVER=${SERVER:-0}          # 1: the guest listens and the switch connects
FLOWS=${FLOWS:-1024}         # flowgen: number of flows
INFLIGHT=${INFLIGHT:-}       # circulate: bursts of 32 per direction
BURST=${BURST:-32}           # frames per guest poll
WARMUP=${WARMUP:-2}
SWITCH_PID=${SWITCH_PID:-}   # to report switch_wait_pct
SWITCH_PID_FILE=${SWITCH_PID_FILE:-}  # the same, read once traffic flows (SERVER=1)
ON_READY=${ON_READY:-}       # command run once the guest's ports exist (SERVER=1: start/attach the switch)
ON_START=${ON_START:-}       # command run when the window opens (e.g. clear counters)
ON_END=${ON_END:-}           # command run when it closes
PCAP0=${PCAP0:-} PCAP1=${PCAP1:-}
GUEST_MEM=${GUEST_MEM:-256}  # MiB of hugepages
GUEST_EAL=${GUEST_EAL:---in-memory --single-file-segments}
GUEST_MAC0=${GUEST_MAC0:-02:00:00:00:00:01} GUEST_MAC1=${GUEST_MAC1:-02:00:00:00:00:02}
GUEST_MBUFS=${GUEST_MBUFS:-32768}
GUEST_LOG=${GUEST_LOG:-$BENCH_RUN_DIR/guest.log}
C2C_SPLIT=${C2C_SPLIT:-220}
GUEST_EXTRA=${GUEST_EXTRA:-} # more testpmd options

mkdir -p "$BENCH_RUN_DIR"
work=$(mktemp -d "$BENCH_RUN_DIR/guest.XXXXXX")
cleanup() { stop_own_pids; rm -rf "$work"; if [[ $SERVER == 1 ]]; then rm -f "$sock0" "$sock1"; fi; }
trap cleanup EXIT
trap 'exit 130' INT TERM
take_cpu_lock
control_priority

if [[ $SERVER == 1 ]]; then rm -f "$sock0" "$sock1"; else
    wait_for 10 test -S "$sock0" || die "no socket $sock0"
    wait_for 10 test -S "$sock1" || die "no socket $sock1"
fi

vio="queues=$QUEUES,queue_size=$QSIZE,packed_vq=$PACKED,mrg_rxbuf=$MRG,in_order=$INORDER,vectorized=$VECTOR,server=$SERVER"
v0="net_virtio_user0,path=$sock0,mac=$GUEST_MAC0,$vio"
v1="net_virtio_user1,path=$sock1,mac=$GUEST_MAC1,$vio"
fwd=io burst=$BURST start="start" vdevs=(--vdev "$v0" --vdev "$v1") ports="0 1"
opts=()
case $mode in
circulate)
    # at most one ring of frames per direction, so no ring can overflow
    : "${INFLIGHT:=$((QSIZE >= 256 ? 8 : QSIZE / 32 > 0 ? QSIZE / 32 : 1))}"
    start="start tx_first $INFLIGHT";;
latency) burst=1 start="start tx_first 1";;
flowgen) fwd=flowgen opts+=(--flowgen-flows="$FLOWS");;
replay)
    [[ -r $PCAP0 && -r $PCAP1 ]] || die "replay needs PCAP0 and PCAP1"
    # testpmd pairs ports 0-1 and 2-3: pcap -> virtio, and virtio -> pcap (dropped)
    vdevs=(--vdev "net_pcap0,rx_pcap=$PCAP0,infinite_rx=1" --vdev "$v0"
           --vdev "net_pcap1,rx_pcap=$PCAP1,infinite_rx=1" --vdev "$v1")
    ports="1 3" ;;
*) die "unknown mode $mode";;
esac
txpkts=$size; [[ $fwd == flowgen ]] && txpkts=$((size + ${FLOWGEN_FCS:-4}))  # testpmd's flowgen takes off an FCS

hugepages_needed $((GUEST_MEM / 2))
mkfifo "$work/in"
export XDG_RUNTIME_DIR=$work
# shellcheck disable=SC2086 # GUEST_EAL and GUEST_EXTRA are lists of words
boost taskset -c "$GUEST_CPU" stdbuf -oL dpdk-testpmd \
    --lcores="0@$GUEST_CPU,1@$GUEST_CPU" --main-lcore=0 --no-pci --no-telemetry -m "$GUEST_MEM" $GUEST_EAL \
    "${vdevs[@]}" -- -i --nb-cores=1 --rxq="$QUEUES" --txq="$QUEUES" --rxd="$QSIZE" --txd="$QSIZE" \
    --total-num-mbufs="$GUEST_MBUFS" --burst="$burst" --txpkts="$txpkts" --forward-mode="$fwd" \
    --eth-peer=0,"$GUEST_MAC1" --eth-peer=1,"$GUEST_MAC0" \
    --record-core-cycles --record-burst-stats --no-flush-rx "${opts[@]}" $GUEST_EXTRA \
    <"$work/in" >"$GUEST_LOG" 2>&1 &
guest=$!; OWN_PIDS+=("$guest")
exec 8>"$work/in"
say() { echo "$*" >&8 2>/dev/null || die "testpmd ended early; see $GUEST_LOG"; }
prompt() { kill -0 "$guest" || exit 0; grep -q 'testpmd>' "$GUEST_LOG"; }

if [[ $SERVER == 1 ]]; then
    wait_for 10 test -S "$sock1" || die "testpmd made no socket; see $GUEST_LOG"
    if [[ -n $ON_READY ]]; then eval "$ON_READY"; fi
fi
wait_for 20 prompt || die "testpmd did not come up; see $GUEST_LOG"
kill -0 "$guest" 2>/dev/null || die "testpmd ended early: $(tail -3 "$GUEST_LOG" | tr '\n' ' ')"
if [[ $SERVER != 1 && -n $ON_READY ]]; then eval "$ON_READY"; fi
sleep "${SETTLE:-1.5}"                     # let the switch start polling both ports
say "$start"
sleep "$WARMUP"
if [[ -n $SWITCH_PID_FILE ]]; then SWITCH_PID=$(cat "$SWITCH_PID_FILE"); fi
gt=$(busiest_thread "$guest"); st=
if [[ -n $SWITCH_PID ]]; then st=$(busiest_thread "$SWITCH_PID"); fi

say "show port stats all"                  # zero point; testpmd rates are since the last show
sleep 0.2
mark=$(wc -l <"$GUEST_LOG")
if [[ -n $ON_START ]]; then eval "$ON_START"; fi
t0=$EPOCHREALTIME
read -r _ gw0 <<<"$(thread_times "$guest" "$gt")"
if [[ -n $st ]]; then read -r _ sw0 <<<"$(thread_times "$SWITCH_PID" "$st")"; fi
hv0=$(awk '/^cpu /{print $9}' /proc/stat)
probe=; : >"$work/c2c"; : >"$work/ticks"
if [[ -x $here/c2c-probe && $GUEST_CPU != "$SWITCH_CPU" ]]; then
    "$here/c2c-probe" $((seconds * 14)) 66 "$GUEST_CPU" "$SWITCH_CPU" 9>&- >"$work/c2c" & probe=$!; OWN_PIDS+=("$probe")
fi
for ((i = 0; i < seconds * 5; i++)); do sleep 0.2; say "show port stats all"; echo "$EPOCHREALTIME" >>"$work/ticks"; done
sleep 0.1
if [[ -n $probe ]]; then stop_pid "$probe"; fi
if [[ -n $ON_END ]]; then eval "$ON_END"; fi
t1=$EPOCHREALTIME
read -r _ gw1 <<<"$(thread_times "$guest" "$gt")"
sw1=; if [[ -n $st ]]; then read -r _ sw1 <<<"$(thread_times "$SWITCH_PID" "$st")"; fi
hv1=$(awk '/^cpu /{print $9}' /proc/stat)
tail -n +"$((mark + 1))" "$GUEST_LOG" >"$work/window"
say stop; sleep 0.3; say quit
exec 8>&-
wait_for 8 bash -c "! kill -0 $guest 2>/dev/null" || true

pct() { awk -v a="$1" -v b="$2" -v s="$t0" -v e="$t1" 'BEGIN{printf "%.1f", (b-a)/1e9/(e-s)*100}'; }
guest_wait=$(pct "$gw0" "$gw1"); switch_wait=na
if [[ -n $st ]]; then switch_wait=$(pct "$sw0" "$sw1"); fi
steal=$(awk -v a="$hv0" -v b="$hv1" -v s="$t0" -v e="$t1" 'BEGIN{printf "%.1f", (b-a)/100/(e-s)*100}')
cyc=$(grep -oP 'CPU cycles/packet=\K[0-9.]+' "$GUEST_LOG" | tail -1 || true)

gawk -v ports="$ports" -v mode="$mode" -v size="$size" -v qsize="$QSIZE" -v packed="$PACKED" -v mrg="$MRG" \
    -v inorder="$INORDER" -v queues="$QUEUES" -v gw="$guest_wait" -v sw="$switch_wait" -v steal="$steal" \
    -v cyc="${cyc:-na}" -v split_ns="$C2C_SPLIT" -v flows="$([[ $mode == flowgen ]] && echo "$FLOWS" || echo 1)" '
function q(f) { k = int(f * m + 0.5); return sorted[k < 1 ? 1 : k > m ? m : k] / 1e6 }
BEGIN { n = split(ports, p, " "); for (i = 1; i <= n; i++) want[p[i]] = 1 }
FILENAME ~ /c2c$/ { pt[++np] = $1; pv[np] = $2; next }
FILENAME ~ /ticks$/ { tick[++nt] = $1; next }
/NIC statistics for port/ { for (i = 1; i <= NF; i++) if ($i == "port") port = $(i + 1) }
/Rx-pps:/ && (port in want) { k = ++c[port]; rx[k] += $2; rb[k] += $4; if (k > m) m = k }
/Tx-pps:/ && (port in want) { tx[c[port]] += $2 }
END {
    if (!m) { print "error: no samples" > "/dev/stderr"; exit 1 }
    for (k = 1; k <= m; k++) { s += rx[k]; b += rb[k]; t += tx[k] }
    s /= m; b /= m; t /= m; asort(rx, sorted)
    # sample k covers (tick[k-1], tick[k]]; it counts only if all probes in it and
    # the two around it agree
    for (k = 2; k <= m && k <= nt; k++) {
        lo = 1e9; hi = 0
        for (i = 1; i <= np; i++) if (pt[i] > tick[k - 1] - 0.1 && pt[i] < tick[k] + 0.1) { if (pv[i] < lo) lo = pv[i]; if (pv[i] > hi) hi = pv[i] }
        if (!hi) continue
        if (hi < split_ns) { near += rx[k]; nn++ } else if (lo > split_ns) { far += rx[k]; nf++ }
    }
    asort(pv)
    printf "mode=%s size=%s flows=%s qsize=%s packed=%s mrg=%s inorder=%s queues=%s mpps=%.3f gbps=%.2f", mode, size, flows, qsize, packed, mrg, inorder, queues, s / 1e6, b / 1e9
    printf " mpps_p10=%.3f mpps_p50=%.3f mpps_p90=%.3f", q(0.1), q(0.5), q(0.9)
    printf " mpps_near=%s near_n=%d mpps_far=%s far_n=%d c2c_ns=%s", nn ? sprintf("%.3f", near / nn / 1e6) : "na", nn, nf ? sprintf("%.3f", far / nf / 1e6) : "na", nf, np ? pv[int((np + 1) / 2)] : "na"
    printf " sent_mpps=%.3f loss_pct=%.1f", t / 1e6, (t > s ? (t - s) / t * 100 : 0)
    if (mode == "latency" && s > 0) printf " hop_us=%.2f", 2e6 / s
    printf " guest_cyc_pkt=%s guest_wait_pct=%s switch_wait_pct=%s steal_pct=%s\n", cyc, gw, sw, steal
    if (s == 0) { print "error: nothing delivered" > "/dev/stderr"; exit 1 }
}' "$work/c2c" "$work/ticks" "$work/window"
