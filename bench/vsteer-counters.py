#!/usr/bin/env python3
"""Print what vsteer counted between two times, as key=value on one line.

  vsteer-counters.py BEFORE AFTER CPU

BEFORE and AFTER each hold `vsteer ctl --json stats`, and in a file of that name with .caches behind it
`vsteer ctl --json cache show`.

CPU is the worker's; its clock turns a share of time into cycles where the worker counts no cycles itself.
"""
import json
import os
import sys


# Where packets are decided, and the counters of those that are.
TIERS = (('repeats', 'repeats'), ('exact', 'exact_hits'), ('classifier', 'classifier_hits'), ('upcall', 'upcalls'))
# What takes cycles: of how many lookups or packets.
STEPS = (('keys', 'timed_keys_cycles', 'timed_packets'),
         ('exact', 'timed_exact_cycles', 'timed_exact_lookups'),
         ('classifier', 'timed_classifier_cycles', 'timed_classifier_lookups'),
         ('upcall', 'upcall_cycles', 'upcalls'),
         ('actions', 'timed_actions_cycles', 'timed_packets'))


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

    caches = [json.load(open(path + '.caches')) for path in sys.argv[1:3]]

    def pipelines(name):
        counts = [sum(dict(worker['counters'])[name] for worker in cache['workers']) for cache in caches]
        return counts[1] - counts[0]

    def ratio(part, whole, scale, form):
        return form % (scale * pipelines(part) / pipelines(whole)) if pipelines(whole) else 'na'

    tiers = []
    for tier, packets in TIERS:
        tiers.append('%s_pct=%s' % (tier, ratio(packets, 'packets', 100, '%.1f')))
    for step, spent, measured in STEPS:
        tiers.append('%s_cyc=%s' % (step, ratio(spent, measured, 1, '%.0f')))

    drops_before, drops_after = before['totals']['drops'], after['totals']['drops']
    drops = {why: count - drops_before.get(why, 0) for why, count in drops_after.items()}
    drops = ','.join('%s:%d' % item for item in sorted(drops.items()) if item[1]) or 'none'
    print('switch_busy_cyc_pkt=%s cyc_from=%s' % ('%.0f' % cycles if cycles else 'na', cycles_from),
          ' '.join(tiers), 'upcalls=%d' % pipelines('upcalls'),
          'subtables=%s' % ratio('subtables_searched', 'classifier_hits', 1, '%.2f'),
          'flows=%d drops=%s' % (sum(worker['flows'] for worker in after['workers']), drops))


main()
