# shellcheck shell=bash
# shellcheck disable=SC2154 # state: set by who sources this
# Start a private OVS (own database, sockets and logs). Source after lib.sh.
# Needs: state (a fresh directory). Uses: OVS_MEM, OVS_CONFIG, VSWITCHD, OVS_DPDK.
# Sets: switch (pid of ovs-vswitchd) and the functions vsctl, appctl, ofctl.

vswitchd=${VSWITCHD:-/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk}
vsctl() { ovs-vsctl --db="unix:$state/db.sock" --timeout=20 "$@"; }
appctl() { ovs-appctl --timeout=10 -t "$state/vswitchd.ctl" "$@"; }
ofctl() { ovs-ofctl -OOpenFlow13 "$@"; }
dpdk_ready() { [[ $(vsctl get Open_vSwitch . dpdk_initialized) == true ]]; }

# shellcheck disable=SC2120 # the prefix is optional
start_ovs() {  # start_ovs [PREFIX...]: PREFIX is put before ovs-vswitchd (e.g. ip netns exec X)
    export OVS_RUNDIR=$state OVS_DBDIR=$state OVS_LOGDIR=$state OVS_SYSCONFDIR=$state
    ovsdb-tool create "$state/conf.db" /usr/share/openvswitch/vswitch.ovsschema
    plain taskset -c "$GUEST_CPU" ovsdb-server "$state/conf.db" --remote="punix:$state/db.sock" \
        --unixctl="$state/ovsdb.ctl" --log-file="$state/ovsdb.log" -vconsole:off 9>&- 2>/dev/null &
    OWN_PIDS+=($!)
    wait_for 10 test -S "$state/db.sock" || die "ovsdb-server did not start"
    vsctl --no-wait init
    # shellcheck disable=SC2086 # OVS_CONFIG is a list of words
    vsctl --no-wait set Open_vSwitch . \
        other_config:pmd-cpu-mask="$(printf '0x%x' $((1 << SWITCH_CPU)))" ${OVS_CONFIG:-}
    if [[ ${OVS_DPDK:-1} == 1 ]]; then
        vsctl --no-wait set Open_vSwitch . other_config:dpdk-init=true \
            other_config:dpdk-lcore-mask="$(printf '0x%x' $((1 << GUEST_CPU)))" \
            other_config:dpdk-socket-mem="$OVS_MEM" other_config:dpdk-extra="--in-memory --no-pci"
    fi
    boost taskset -c "$GUEST_CPU" "$@" "$vswitchd" "unix:$state/db.sock" --pidfile="$state/vswitchd.pid" \
        --unixctl="$state/vswitchd.ctl" --log-file="$state/vswitchd.log" -vconsole:off 2>/dev/null &
    switch=$!; OWN_PIDS+=("$switch")
    wait_for 20 test -S "$state/vswitchd.ctl" || die "ovs-vswitchd did not start; see $state"
    if [[ ${OVS_DPDK:-1} == 1 ]]; then wait_for 20 dpdk_ready || die "OVS could not start DPDK"; fi
}
