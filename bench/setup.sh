#!/bin/bash
# Install the peers from Debian and reserve hugepages. Safe to run again.
set -euo pipefail
HUGEPAGES=${HUGEPAGES:-1024}     # 2 MiB pages; 1024 = 2 GiB, enough for every scenario here

packages=(dpdk dpdk-dev openvswitch-switch openvswitch-switch-dpdk
          librte-net-virtio23 librte-net-vhost23 librte-net-af-packet23 librte-net-af-xdp23
          librte-net-null23 librte-net-pcap23 librte-mempool-ring23
          iperf3 vde2 ethtool iproute2 util-linux gawk python3 gcc libc6-dev)
missing=()
for p in "${packages[@]}"; do
    dpkg-query -W -f '${Status}\n' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
done
if ((${#missing[@]})); then
    if ((EUID)); then
        echo "error: packages are missing; as root: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    # Debian starts openvswitch and writes hugepage settings on install; a policy
    # file that says 101 keeps services down. Restore what was there before.
    policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
here=$(cd "$(dirname "$0")" && pwd)
[[ $here/c2c-probe -nt $here/c2c-probe.c ]] || gcc -O2 -pthread -o "$here/c2c-probe" "$here/c2c-probe.c"
[[ -e $here/frames1.pcap ]] || { "$here/mkpcap.py" "$here/frames0.pcap"; "$here/mkpcap.py" "$here/frames1.pcap" --reverse; }
now=$(cat /proc/sys/vm/nr_hugepages)
if ((now < HUGEPAGES)); then
    if ((EUID)); then
        echo "error: $now hugepages reserved; as root: sysctl -w vm.nr_hugepages=$HUGEPAGES" >&2
        exit 1
    fi
    sysctl -qw vm.nr_hugepages="$HUGEPAGES"
    now=$(cat /proc/sys/vm/nr_hugepages)
    ((now >= HUGEPAGES)) || { echo "error: the kernel found memory for $now of $HUGEPAGES hugepages; free some, or reboot" >&2; exit 1; }
fi
awk '/HugePages_(Total|Free)/' /proc/meminfo
dpkg-query -W -f '${Package} ${Version}\n' dpdk openvswitch-switch-dpdk iperf3 vde2
