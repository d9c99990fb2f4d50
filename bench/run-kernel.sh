#!/bin/bash
# Paths that do not use vhost-user: two hosts in network namespaces joined by a switch.
#
#   run-kernel.sh KIND TEST [SECONDS]
#
# KIND  bridge        Linux bridge between two veth pairs
#       ovs-afpacket  OVS userspace datapath on the veths, AF_PACKET ("system" ports, main thread)
#       ovs-afxdp     OVS userspace datapath on the veths, AF_XDP with a PMD thread (XDP_MODE)
#       vde           vde_switch with two taps
# TEST  tcp        one iperf3 TCP stream, offloads as each path can carry them
#       tcp-plain  the same with every segment and checksum offload off (1500-byte frames)
#       udp        iperf3 UDP, 64-byte frames as fast as it can (limited by its system calls)
#       pps        testpmd on AF_PACKET (GEN=af_xdp: AF_XDP) circulates SIZE-byte frames
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd); . "$here/lib.sh"
kind=${1:-bridge} test=${2:-tcp} seconds=${3:-8} size=${SIZE:-64}
XDP_MODE=${XDP_MODE:-best-effort}
GEN=${GEN:-af_packet}
OVS_DPDK=0
vswitchd_plain=/usr/lib/openvswitch-switch/ovs-vswitchd

mkdir -p "$BENCH_RUN_DIR"
state=$(mktemp -d "$BENCH_RUN_DIR/kern.XXXXXX")
keep=$BENCH_RUN_DIR/kernel-last; mkdir -p "$keep"
a=bench-a-$$ b=bench-b-$$ sw=bench-sw-$$
cleanup() {
    cp -f "$state"/*.{log,txt,json} "$keep/" 2>/dev/null || true
    stop_own_pids
    local n; for n in "$a" "$b" "$sw"; do ip netns del "$n" 2>/dev/null || true; done
    rm -rf "$state"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
take_cpu_lock
control_priority

in_ns() { local n=$1; shift; ip netns exec "$n" "$@"; }
for n in "$a" "$b" "$sw"; do
    ip netns add "$n"
    in_ns "$n" sh -c 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6' 2>/dev/null || true
    ip -n "$n" link set lo up
done

# For pps both ends live in one namespace, so that one testpmd can open them.
ns0=$a ns1=$b; [[ $test == pps ]] && ns1=$a

if [[ $kind == vde ]]; then
    mkfifo "$state/vdein"; exec 7<>"$state/vdein"     # vde_switch ends when its stdin does
    boost taskset -c "$SWITCH_CPU" ip netns exec "$sw" vde_switch -sock "$state/vde" -tap h0 -tap h1 -M "$state/vde.mgmt" \
        <"$state/vdein" >"$state/vde.log" 2>&1 &
    OWN_PIDS+=($!)
    wait_for 5 ip -n "$sw" link show h1 || die "vde_switch made no tap: $(cat "$state/vde.log")"
    ip -n "$sw" link set h0 netns "$ns0"; ip -n "$sw" link set h1 netns "$ns1"
else
    for i in 0 1; do
        ns=ns$i
        ip link add "h$i" netns "${!ns}" type veth peer name "s$i" netns "$sw"
        ip -n "$sw" link set "s$i" up
    done
fi
ip -n "$ns0" link set h0 address 02:00:00:00:00:01; ip -n "$ns1" link set h1 address 02:00:00:00:00:02
if [[ $test != pps ]]; then
    ip -n "$ns0" addr add 192.0.2.1/24 dev h0; ip -n "$ns1" addr add 192.0.2.2/24 dev h1
fi
ip -n "$ns0" link set h0 up; ip -n "$ns1" link set h1 up

no_offloads() { for x in "$@"; do in_ns "${x%:*}" ethtool -K "${x#*:}" tx off rx off tso off gso off gro off sg off >/dev/null 2>&1 || true; done; }
ends=("$ns0:h0" "$ns1:h1"); [[ $kind != vde ]] && ends+=("$sw:s0" "$sw:s1")
# A userspace switch that reads raw frames cannot finish a checksum left to hardware.
if [[ $test == tcp-plain || $test == pps ]]; then no_offloads "${ends[@]}"
elif [[ $kind == ovs-* && ${OVS_CONFIG:-} != *userspace-tso-enable=true* ]]; then no_offloads "${ends[@]}"; fi

note=
case $kind in
bridge)
    ip -n "$sw" link add br0 type bridge; ip -n "$sw" link set br0 up
    for i in 0 1; do ip -n "$sw" link set "s$i" master br0; done ;;
ovs-*)
    # userspace TSO and DPDK need the -dpdk build; the plain build has AF_PACKET and AF_XDP
    VSWITCHD=${VSWITCHD:-$vswitchd_plain}
    if [[ ${OVS_CONFIG:-} == *userspace-tso-enable=true* ]]; then VSWITCHD=/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk OVS_DPDK=1; fi
    OVS_MEM=${OVS_MEM:-512}
    . "$here/lib-ovs.sh"
    ulimit -l unlimited 2>/dev/null || true
    start_ovs ip netns exec "$sw"
    vsctl add-br br0 -- set bridge br0 datapath_type=netdev
    for i in 0 1; do
        if [[ $kind == ovs-afxdp ]]; then
            vsctl add-port br0 "s$i" -- set Interface "s$i" type=afxdp options:n_rxq=1 options:xdp-mode="$XDP_MODE"
        else
            vsctl add-port br0 "s$i"
        fi
    done
    err=$(vsctl get Interface s0 error); [[ $err == '[]' ]] || die "OVS port: $err"
    if [[ $kind == ovs-afxdp ]]; then
        wait_for 5 grep -q 'XDP mode will be in use' "$state/vswitchd.log" || die "AF_XDP did not start: $(tail -2 "$state/vswitchd.log")"
        note="xdp_mode=$(grep -oP '[a-z-]+(?= XDP mode will be in use)' "$state/vswitchd.log" | head -1)"
    fi ;;
esac

if [[ $test == pps ]]; then
    hugepages_needed 128
    mkfifo "$state/in"
    dev0="net_${GEN}0,iface=h0" dev1="net_${GEN}1,iface=h1"
    [[ $GEN == af_packet ]] && { dev0+=",blocksz=4096,framesz=2048,framecnt=1024,qdisc_bypass=1"; dev1+=",blocksz=4096,framesz=2048,framecnt=1024,qdisc_bypass=1"; }
    boost taskset -c "$GUEST_CPU" ip netns exec "$ns0" stdbuf -oL dpdk-testpmd --lcores="0@$GUEST_CPU,1@$GUEST_CPU" \
        --in-memory --no-pci --no-telemetry -m 256 --vdev="$dev0" --vdev="$dev1" -- -i --nb-cores=1 --total-num-mbufs=16384 \
        --forward-mode=io --txpkts="$size" --eth-peer=0,02:00:00:00:00:02 --eth-peer=1,02:00:00:00:00:01 --no-flush-rx \
        <"$state/in" >"$state/gen.log" 2>&1 &
    gen=$!; OWN_PIDS+=("$gen")
    exec 8>"$state/in"
    wait_for 15 grep -q 'testpmd>' "$state/gen.log" || die "testpmd did not start; see $keep/gen.log"
    sleep 2
    echo "start tx_first ${INFLIGHT:-8}" >&8; sleep 2
    for ((i = 0; i <= seconds; i++)); do echo "show port stats all" >&8; sleep 1; done
    echo stop >&8; sleep 0.3; echo quit >&8; exec 8>&-
    wait_for 8 bash -c "! kill -0 $gen 2>/dev/null" || true
    # the first show is the zero point of the rates
    gawk -v k="$kind" -v g="$GEN" -v size="$size" -v note="$note" '/Rx-pps:/ && ++n > 2 { s += $2; b += $4 }
        END { m = (n - 2) / 2; if (m < 1) exit 1; printf "switch=%s test=pps gen=%s size=%d mpps=%.3f gbps=%.2f %s\n", k, g, size, s / m / 1e6, b / m / 1e9, note }' "$state/gen.log"
    exit
fi

sleep 2
boost taskset -c "$SWITCH_CPU" ip netns exec "$ns1" iperf3 -s -1 >"$state/server.log" 2>&1 &
OWN_PIDS+=($!)
sleep 0.5
opts=(-c 192.0.2.2 -t "$seconds" -O 1 -J)
[[ $test == udp ]] && opts+=(-u -b 0 -l 22)        # 22 + 8 + 20 + 14 = 64
boost taskset -c "$GUEST_CPU" ip netns exec "$ns0" iperf3 "${opts[@]}" >"$state/client.json" &
client=$!; OWN_PIDS+=("$client")
wait "$client" || die "iperf3: $(head -c 300 "$state/client.json")"
python3 - "$kind" "$test" "$state/client.json" "$note" <<'PY'
import json, sys
kind, test, path, note = sys.argv[1:]
e = json.load(open(path))['end']
cpu = e['cpu_utilization_percent']
if test == 'udp':
    s = e['sum']; n = s['packets'] - s['lost_packets']
    print(f"switch={kind} test=udp size=64 mpps={n / s['seconds'] / 1e6:.3f} gbps={n * 64 * 8 / s['seconds'] / 1e9:.3f} sent_mpps={s['packets'] / s['seconds'] / 1e6:.3f} loss_pct={s['lost_percent']:.1f} {note}")
else:
    r = e['sum_received']
    print(f"switch={kind} test={test} gbps={r['bits_per_second'] / 1e9:.2f} retransmits={e['sum_sent'].get('retransmits', 'na')} client_cpu_pct={cpu['host_total']:.0f} server_cpu_pct={cpu['remote_total']:.0f} {note}")
PY
