#!/usr/bin/env python3
"""Print what vsteer counted between two `vsteer ctl --json stats`, as key=value on one line.

  vsteer-counters.py BEFORE AFTER CPU

CPU is the worker's; its clock turns a share of time into cycles where the worker counts no cycles itself.
"""
import json
import os
import sys


def clock_hz(cpu):
    """Clock of the CPU as the kernel tells it, or None."""
    current = None
    with open('/proc/cpuinfo') as lines:
        for line in lines:
            key, _, value = line.partition(':')
            key = key.strip()
            if key == 'processor':
                current = int(value)
            elif key == 'cpu MHz' and current == cpu:
                return float(value) * 1e6
    return None


def main():
    before, after = (json.load(open(path)) for path in sys.argv[1:3])
    cpu = int(sys.argv[3])

    def grown(read):
        return read(after) - read(before)

    def workers(key):
        return grown(lambda stats: sum(worker[key] for worker in stats['workers']))

    packets = grown(lambda stats: stats['totals']['rx_pkts'])
    cycles, cycles_from = None, 'na'
    if packets and all('busy_cycles' in worker for worker in after['workers']):
        cycles, cycles_from = workers('busy_cycles') / packets, 'counter'
    elif packets:
        # The files were written when the window opened and closed; the uptime is in whole seconds.
        seconds = os.path.getmtime(sys.argv[2]) - os.path.getmtime(sys.argv[1])
        hz = clock_hz(cpu)
        if hz and seconds:
            busy = sum(worker['busy'] for worker in after['workers'])
            cycles, cycles_from = busy * hz * seconds / packets, 'share'

    decided = {key: workers(key) for key in ('exact_hits', 'classifier_hits', 'upcalls')}
    total = sum(decided.values())

    def share(key):
        return '%.1f' % (100 * decided[key] / total) if total else 'na'

    drops_before, drops_after = before['totals']['drops'], after['totals']['drops']
    drops = {why: count - drops_before.get(why, 0) for why, count in drops_after.items()}
    drops = ','.join('%s:%d' % item for item in sorted(drops.items()) if item[1]) or 'none'
    print('switch_busy_cyc_pkt=%s cyc_from=%s' % ('%.0f' % cycles if cycles else 'na', cycles_from),
          'exact_pct=%s classifier_pct=%s upcalls=%d' % (share('exact_hits'), share('classifier_hits'), decided['upcalls']),
          'flows=%d drops=%s' % (sum(worker['flows'] for worker in after['workers']), drops))


main()
