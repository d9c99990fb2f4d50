#!/bin/bash
# One table of ratios, vsteer's packet rate over its peers', from the results of one matrix.sh run.
#
#   compare.sh RESULTS
#
# A scenario is named SCENARIO/SWITCH there; switches are vsteer, ovs, ovs-best (where it has one) and forwarder.
#
# all    median over the rounds of (vsteer's rate / the peer's rate in the same round), with the least and the greatest
# near   mean rate of vsteer's near samples over that of the peer's, from all rounds, with the number of samples behind
#        the weaker of the two; far likewise. See guest.sh for what near and far are.
# Mpps, cyc, us: of vsteer / OVS / OVS at its best / the forwarder, medians over the rounds: rate, busy cycles per
#        packet, and time of one frame's way through switch and guest
#
# The second table says where packets were decided: for each tier the share of packets, and for vsteer the cycles of a
# lookup there. Making keys and carrying out actions is no tier, but costs as well, for each packet.
#
# Ends with 1 if a run failed or a ratio is missing, so that nobody takes half a table for a whole one.
set -euo pipefail
(($# == 1)) || { sed -n '2,17p' "$0" >&2; exit 2; }
[[ -r $1 ]] || { echo "error: cannot read $1" >&2; exit 2; }
gawk '
function median(a, n,   b, i) {
    for (i = 1; i <= n; i++) b[i] = a[i] + 0
    asort(b)
    return n % 2 ? b[(n + 1) / 2] : (b[n / 2] + b[n / 2 + 1]) / 2
}
# Notes a number under (scenario, switch, what), once per round.
function note(what, value) { if (value + 0 > 0) seen[s, w, what, ++count[s, w, what]] = value }
function typical(s, w, what, format,   a, i, n) {
    n = count[s, w, what]
    for (i = 1; i <= n; i++) a[i] = seen[s, w, what, i]
    return n ? sprintf(format, median(a, n)) : "-"
}
function all_ratio(s, peer,   r, n, a, lo, hi) {
    if (!((s, peer) in listed)) return "-"
    lo = 1e9
    for (r in rounds) if (rate[s, "vsteer", r] && rate[s, peer, r]) {
        a[++n] = rate[s, "vsteer", r] / rate[s, peer, r]
        if (a[n] < lo) lo = a[n]
        if (a[n] > hi) hi = a[n]
    }
    if (!n) { missing++; return "-" }
    return sprintf("%.2f %.2f..%.2f", median(a, n), lo, hi)
}
function side_ratio(s, peer, side,   n, m) {
    n = samples[s, "vsteer", side]; m = samples[s, peer, side]
    if (!n || !m) return "-"
    return sprintf("%.2f (%d)", (total[s, "vsteer", side] / n) / (total[s, peer, side] / m), n < m ? n : m)
}
function each(s, what, format,   i, text) {
    for (i = 1; i <= switches; i++)
        text = text (i > 1 ? "/" : "") typical(s, names[i], what, format)
    return text
}
# Where packets were decided, as far as the switch tells.
function tiers(s, w,   i, text, share, cycles) {
    for (i = 1; i <= kinds; i++) {
        share = typical(s, w, "share_" kind[i], " %.1f%%")
        cycles = typical(s, w, "cyc_" kind[i], " at %.0f")
        if (share == "-") share = ""
        if (cycles == "-") cycles = ""
        if (share cycles != "") text = text "  " kind[i] share cycles
    }
    return text
}
BEGIN {
    switches = split("vsteer ovs ovs-best forwarder", names, " ")
    kinds = split("keys repeats simple exact emc smc classifier megaflow upcall actions", kind, " ")
}
{
    delete v
    for (i = 1; i <= NF; i++) { e = index($i, "="); if (e) v[substr($i, 1, e - 1)] = substr($i, e + 1) }
    if (split(v["name"], part, "/") != 2) next
    s = part[1]; w = part[2]; r = v["round"]
    if (!(s in known)) { known[s]; order[++scenarios] = s }
    rounds[r]
    listed[s, w]
    if (v["failed"]) { failed[++failures] = "round " r " " v["name"] ": " v["error"]; next }
    rate[s, w, r] = v["mpps"]
    note("mpps", v["mpps"]); note("us", v["hop_us"])
    for (i = 1; i <= kinds; i++) {
        note("share_" kind[i], v[kind[i] "_pct"])
        note("cyc_" kind[i], v[kind[i] "_cyc"])
    }
    note("cyc", ("pmd_busy_cyc_pkt" in v) ? v["pmd_busy_cyc_pkt"] : v["switch_busy_cyc_pkt"])
    for (i = 1; i <= 2; i++) {
        side = i == 1 ? "near" : "far"
        if (v[side "_n"]) { total[s, w, side] += v["mpps_" side] * v[side "_n"]; samples[s, w, side] += v[side "_n"] }
    }
    if (v["guest_wait_pct"] > 3 || v["switch_wait_pct"] > 3 || v["steal_pct"] > 3) disturbed[++disturbances] = "round " r " " v["name"]
}
END {
    if (!scenarios) { print "error: no result named SCENARIO/SWITCH" > "/dev/stderr"; exit 2 }
    head = "%-14s %-21s | %-17s %-10s %-10s | %-17s %-10s %-10s | %-17s %-10s %-10s | %-19s %s\n"
    printf head, "", "Mpps", "vsteer / OVS", "", "", "vsteer / OVS best", "", "", "vsteer / forwarder", "", "", "cyc", "us"
    printf head, "scenario", "v/OVS/best/fwd", "all", "near", "far", "all", "near", "far", "all", "near", "far", "v/OVS/best/fwd", "v/OVS/best/fwd"
    for (i = 1; i <= scenarios; i++) {
        s = order[i]
        printf head, s, each(s, "mpps", "%.2f"), all_ratio(s, "ovs"), side_ratio(s, "ovs", "near"), side_ratio(s, "ovs", "far"),
            all_ratio(s, "ovs-best"), side_ratio(s, "ovs-best", "near"), side_ratio(s, "ovs-best", "far"),
            all_ratio(s, "forwarder"), side_ratio(s, "forwarder", "near"), side_ratio(s, "forwarder", "far"),
            each(s, "cyc", "%.0f"), ((s, "vsteer", "us") in count) || ((s, "ovs", "us") in count) ? each(s, "us", "%.2f") : ""
    }
    print ""
    for (i = 1; i <= scenarios; i++) for (j = 1; j < switches; j++) {
        text = tiers(order[i], names[j])
        if (text != "") printf "%-14s %-9s%s\n", order[i], names[j], text
    }
    for (i = 1; i <= disturbances; i++) print "disturbed (over 3 % of CPU time taken away; repeat it): " disturbed[i]
    for (i = 1; i <= failures; i++) print "failed: " failed[i]
    exit failures || missing ? 1 : 0
}' "$1"
