# shellcheck shell=bash
# Shared helpers. Source it with `here` set to this folder; it starts nothing.
# Everything a script starts is recorded in OWN_PIDS and only those pids are ever signalled.

BENCH_RUN_DIR=${BENCH_RUN_DIR:-${TMPDIR:-/tmp}/vsteer-bench}     # sockets, logs, private OVS state
GUEST_CPU=${GUEST_CPU:-0}                   # CPU of the load generator (and of every main/control thread)
SWITCH_CPU=${SWITCH_CPU:-1}                 # CPU of the switch's one poll thread
CPU_LOCK=${CPU_LOCK-${TMPDIR:-/tmp}/vsteer-bench.lock}          # machine-wide lock; set empty to skip

OWN_PIDS=()

die() { echo "error: $*" >&2; exit 1; }

stop_pid() {   # stop one pid we started: TERM, wait up to 10 s, then KILL
    local pid=$1 i
    kill -0 "$pid" 2>/dev/null || return 0
    kill -TERM "$pid" 2>/dev/null || true
    for ((i = 0; i < 100; i++)); do
        kill -0 "$pid" 2>/dev/null || { wait "$pid" 2>/dev/null || true; return 0; }
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

stop_own_pids() {  # newest first
    local i
    for ((i = ${#OWN_PIDS[@]} - 1; i >= 0; i--)); do stop_pid "${OWN_PIDS[i]}"; done
    OWN_PIDS=()
}

take_cpu_lock() {  # hold the lock on fd 9 until this script exits; children inherit CPU_LOCK_HELD
    [[ -n $CPU_LOCK && -z ${CPU_LOCK_HELD:-} ]] || return 0
    exec 9>>"$CPU_LOCK"
    flock -w "${CPU_LOCK_WAIT:-900}" 9 || die "could not take $CPU_LOCK"
    export CPU_LOCK_HELD=1
}

# Give this script (a few ms of CPU a second) real-time priority, so that it keeps
# time although pollers own every CPU. Children inherit it; boost and plain undo it.
control_priority() { chrt -r -p 1 $$ >/dev/null 2>&1 || true; }
plain() { exec chrt -o 0 "$@"; }

# Run "$@" in its own session with the highest fair-scheduler weight, so that
# unrelated work on the machine (compilers, ...) takes as little of the polled
# cores as possible. autogroup is per session, hence setsid. fd 9 is the lock.
boost() {
    exec setsid bash -c 'echo -20 >/proc/self/autogroup 2>/dev/null || true
        exec 9>&-; exec chrt -o 0 nice -n -20 "$@"' boost "$@"
}

wait_for() {   # wait_for SECONDS COMMAND...: poll until the command succeeds
    local deadline=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

# "<cpu ns> <runqueue wait ns>" of the thread of PID that has burnt most CPU time.
busiest_thread() {
    local pid=$1 t best=0 tid='' cpu
    for t in /proc/"$pid"/task/*; do
        read -r cpu _ <"$t/schedstat" 2>/dev/null || continue
        if ((cpu >= best)); then best=$cpu; tid=${t##*/}; fi
    done
    echo "$tid"
}
thread_times() { local a b; read -r a b _ <"/proc/$1/task/$2/schedstat" 2>/dev/null && echo "$a $b" || echo "0 0"; }

hugepages_needed() {  # make sure N free 2 MiB pages exist
    local free; free=$(awk '/HugePages_Free/{print $2}' /proc/meminfo)
    ((free >= $1)) || die "need $1 free 2 MiB hugepages, have $free (run setup.sh)"
}

# run_guest OUTFILE ARGS...: guest.sh as a child that an interrupt can reach at once.
run_guest() {
    local out=$1; shift
    # shellcheck disable=SC2154 # here: set by who sources this
    CPU_LOCK_HELD=1 "$here/guest.sh" "$@" >"$out" 9>&- &
    local pid=$!; OWN_PIDS+=("$pid")
    wait "$pid"
}
