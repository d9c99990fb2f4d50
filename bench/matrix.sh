#!/bin/bash
# Run scenarios in interleaved rounds, so that slow drift of the machine hits all alike.
#
#   matrix.sh RESULTS [ROUNDS] [SECONDS] < SCENARIOS
#
# A scenario is one line:   NAME | ENV=... ENV=... | SCRIPT ARGS   (# starts a comment)
# "{s}" in ARGS becomes SECONDS. Each run appends "round=N name=NAME <line>" to RESULTS;
# summarise.sh RESULTS makes the table. A run that fails is recorded as failed=1.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
results=$1 rounds=${2:-3} seconds=${3:-8}
CPU_LOCK=${CPU_LOCK-${TMPDIR:-/tmp}/vsteer-bench.lock} lock=()
[[ -n $CPU_LOCK ]] && lock=(flock -o "$CPU_LOCK")
err=$(mktemp); trap 'rm -f "$err"' EXIT
mapfile -t scenarios < <(grep -vE '^\s*(#|$)')
for ((round = 1; round <= rounds; round++)); do
    for s in "${scenarios[@]}"; do
        IFS='|' read -r name env args <<<"$s"
        name=${name//[[:space:]]/}
        args=${args//\{s\}/$seconds}
        # shellcheck disable=SC2086 # env and args are lists of words
        # the lock is taken here, so that waiting for it does not count against the time limit
        if line=$(cd "$here" && ${lock[@]+"${lock[@]}"} timeout $((seconds + 45)) env CPU_LOCK_HELD=1 $env ./${args# } </dev/null 2>"$err"); then
            while read -r l; do echo "round=$round name=$name $l"; done <<<"$line" >>"$results"
        else
            echo "round=$round name=$name failed=1 error=$(tail -1 "$err" | tr ' ' '_')" >>"$results"
        fi
    done
done
