#!/bin/bash
# OVS-DPDK (Debian package) with two vhost-user ports, one PMD thread, private
# database and run directory. Prints guest.sh's line plus what the PMD counted.
#
#   run-ovs.sh RULES MODE SIZE [SECONDS]       (MODE, SIZE and environment: see guest.sh)
#
# RULES  port    in_port=0 -> output:1 and back (OVS's "simple match" shortcut applies)
#        normal  actions=NORMAL (MAC learning; use MODE=circulate)
#        acl     1024 rules each way in MASKS=16 match shapes (see acl-rules.sh; use MODE=flowgen)
#        FILE    ovs-ofctl flow file; port names are vhost0 and vhost1
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/lib.sh"
rules=${1:-port} mode=${2:-circulate} size=${3:-64} seconds=${4:-10}

PORT_TYPE=${PORT_TYPE:-dpdkvhostuserclient}  # or dpdkvhostuser (deprecated: OVS listens)
EMC_INV_PROB=${EMC_INV_PROB:-100}            # 1/N inserts into the exact-match cache; 0: cache off
SMC=${SMC:-false}                            # signature match cache
PERF_METRICS=${PERF_METRICS:-false}          # per-iteration histograms (costs a few %)
OVS_MEM=${OVS_MEM:-1024}                     # MiB of hugepages
export FLOWS=${FLOWS:-1024}
export QUEUES=${QUEUES:-1}

mkdir -p "$BENCH_RUN_DIR"
state=$(mktemp -d "$BENCH_RUN_DIR/ovs.XXXXXX")
keep=$BENCH_RUN_DIR/ovs-last; mkdir -p "$keep"  # logs of the last run
cleanup() {
    cp -f "$state"/*.log "$keep/" 2>/dev/null || true
    stop_own_pids; rm -rf "$state"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
take_cpu_lock
control_priority
hugepages_needed $(((OVS_MEM + ${GUEST_MEM:-256}) / 2))

. "$here/lib-ovs.sh"
OVS_CONFIG="other_config:emc-insert-inv-prob=$EMC_INV_PROB other_config:smc-enable=$SMC other_config:pmd-perf-metrics=$PERF_METRICS ${OVS_CONFIG:-}"
# shellcheck disable=SC2119 # no prefix
start_ovs

sock0=$state/vhost0 sock1=$state/vhost1
vsctl add-br br0 -- set bridge br0 datapath_type=netdev fail-mode=secure
for i in 0 1; do
    opt=(); [[ $PORT_TYPE == dpdkvhostuserclient ]] && opt=(options:vhost-server-path="$state/vhost$i")
    vsctl add-port br0 vhost$i -- set Interface vhost$i type="$PORT_TYPE" ofport_request=$((i + 1)) "${opt[@]}"
done

br=unix:$state/br0.mgmt
case $rules in
port)   printf 'in_port=1,actions=output:2\nin_port=2,actions=output:1\n';;
normal) printf 'actions=NORMAL\n';;
acl)    "$here/acl-rules.sh" "$FLOWS" "${MASKS:-16}";;
*)      cat "$rules";;
esac >"$state/flows.txt"
ofctl --bundle add-flows "$br" "$state/flows.txt"
nrules=$(ofctl dump-aggregate "$br" | grep -oP 'flow_count=\K[0-9]+')

# ON_START/ON_END run inside guest.sh, when its window opens and closes.
export SWITCH_PID=$switch
export ON_START="ovs-appctl -t '$state/vswitchd.ctl' dpif-netdev/pmd-stats-clear >/dev/null"
export ON_END="ovs-appctl -t '$state/vswitchd.ctl' dpif-netdev/pmd-stats-show >'$state/stats'
    ovs-appctl -t '$state/vswitchd.ctl' dpif-netdev/pmd-perf-show >'$state/perf'
    ovs-appctl -t '$state/vswitchd.ctl' dpctl/dump-flows -m >'$state/megaflows' 2>&1 || true"
[[ $PORT_TYPE == dpdkvhostuserclient ]] && export SERVER=1
run_guest "$state/line" "$sock0" "$sock1" "$seconds" "$mode" "$size" || die "guest failed: $(cat "$state/line"); see $keep"
line=$(<"$state/line")
cp -f "$state"/{stats,perf,megaflows} "$keep/"

# Only the PMD thread's section counts; the main thread comes last.
stat() { gawk -v k="$1" '/^pmd thread/{on=1} /^main thread/{on=0} on && index($0,k){sub(/^[^:]*: */,""); print $1; exit}' "$state/stats"; }
rx=$(stat 'packets received'); emc=$(stat 'emc hits'); smc=$(stat 'smc hits')
simple=$(stat 'simple match hits'); mega=$(stat 'megaflow hits:')
subt=$(stat 'avg. subtable lookups'); upcalls=$(stat 'miss with success upcall'); cyc=$(stat 'avg cycles per packet')
proc=$(stat 'avg processing cycles per packet')
busy=$(gawk '/processing cycles:/{gsub(/[()%]/,""); print $4; exit}' "$state/stats")
share() { gawk -v a="${1:-0}" -v b="${rx:-0}" 'BEGIN{printf "%.1f", b ? a / b * 100 : 0}'; }
echo "switch=ovs-dpdk rules=$rules nrules=$nrules port=$PORT_TYPE emc=$EMC_INV_PROB smc=$SMC $line" \
    "pmd_cyc_pkt=${cyc:-na} pmd_busy_cyc_pkt=${proc:-na} pmd_busy_pct=${busy:-na} simple_pct=$(share "$simple")" \
    "emc_pct=$(share "$emc") smc_pct=$(share "$smc") megaflow_pct=$(share "$mega") subtables=${subt:-na} upcalls=${upcalls:-na}" \
    "megaflows=$(grep -c '^ufid' "$state/megaflows" || true)"
