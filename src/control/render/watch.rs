//! Caches, traces, punted packets and live rates as text.

use std::fmt::Write as _;

use super::super::hex;
use super::super::protocol::{CacheInfo, MonitorItem, PuntInfo, TopSample, TraceInfo, WorkerCache};
use super::{Table, count, printable};

/// Bytes in a line of hexadecimal digits.
const HEX_LINE_BYTES: usize = 16;

/// Caches, a part for each worker.
pub fn caches(caches: &CacheInfo) -> String {
    caches.workers.iter().map(worker_cache).collect::<Vec<_>>().join("\n")
}

fn worker_cache(cache: &WorkerCache) -> String {
    let mut tiers = Table::new(["DECIDED BY", ">PACKETS", ">SHARE", ">CYCLES/PACKET"]);
    for tier in &cache.tiers {
        tiers.row([
            tier.name.clone(),
            count(tier.packets),
            format!("{:.1} %", tier.share * 100.0),
            tier.cycles_per_packet.map_or("-".to_owned(), |cycles| format!("{cycles:.0}")),
        ]);
    }
    let mut counters = Table::plain();
    for (name, value) in &cache.counters {
        counters.row([name.replace('_', " "), count(*value)]);
    }
    let subtables = match &cache.subtables {
        None => "the worker did not answer in time\n".to_owned(),
        Some(subtables) => {
            let mut table = Table::new([">FLOWS", ">HITS", "LOOKS AT"]);
            for subtable in subtables {
                table.row([count(subtable.flows), count(subtable.hits), subtable.mask.clone()]);
            }
            table.finish("no subtables")
        }
    };
    format!("worker {}\n\n{}\n{}\n{subtables}", cache.worker, tiers.finish(""), counters.finish(""))
}

/// A trace, in the manner of `ovs-appctl ofproto/trace`.
pub fn trace(trace: &TraceInfo) -> String {
    let mut text = String::new();
    let mut line = |line: &str| {
        text.push_str(&printable(line.to_owned()));
        text.push('\n');
    };
    if !trace.flow.is_empty() {
        line(&format!("packet:   {}", trace.flow));
        line("");
    }
    for step in &trace.steps {
        line(&format!("{}{}", "    ".repeat(usize::from(step.depth)), step.text));
    }
    if !trace.steps.is_empty() {
        line("");
    }
    if !trace.megaflow.is_empty() {
        line(&format!("megaflow: {}", trace.megaflow));
    }
    line(&format!("actions:  {}", trace.actions));
    if let Some(reason) = &trace.drop {
        line(&format!("dropped:  {reason}"));
    }
    for remark in &trace.remarks {
        line(&format!("note:     {remark}"));
    }
    text
}

/// A punted packet in a line, and with `verbose` its bytes below; or word of lost ones.
pub fn punt(item: &MonitorItem, verbose: bool) -> String {
    let PuntInfo { time_us, in_port, id, len, flow, data } = match item {
        MonitorItem::Lost(lost) => {
            return format!("{lost} packets lost: they came faster than they were taken\n");
        }
        MonitorItem::Packet(packet) => packet,
    };
    let mut text = format!(
        "{} {} id={id} len={len} {}\n",
        clock(*time_us),
        printable(in_port.clone()),
        printable(flow.clone())
    );
    let bytes = if verbose { hex::bytes(data).unwrap_or_default() } else { Vec::new() };
    for (nth, line) in bytes.chunks(HEX_LINE_BYTES).enumerate() {
        let digits: Vec<String> = line.chunks(2).map(hex::text).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    {:04x}  {}", nth * HEX_LINE_BYTES, digits.join(" "));
    }
    text
}

/// The time of day in UTC, to the millisecond: `12:34:56.789`.
fn clock(us: u64) -> String {
    let ms = us / 1000;
    let s = ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", s / 3600, s / 60 % 60, s % 60, ms % 1000)
}

/// Rates over one interval: ports, then flows.
pub fn top(sample: &TopSample) -> String {
    let mut ports = Table::new(["PORT", ">RX PKT/S", ">RX BIT/S", ">TX PKT/S", ">TX BIT/S", ">DROP PKT/S"]);
    for port in &sample.ports {
        ports.row([
            port.name.clone(),
            rate(port.rx_pps),
            rate(port.rx_bps),
            rate(port.tx_pps),
            rate(port.tx_bps),
            rate(port.drop_pps),
        ]);
    }
    let mut flows = Table::new([">PKT/S", ">BIT/S", ">WORKER", "FLOW", "ACTIONS"]);
    for flow in &sample.flows {
        flows.row([
            rate(flow.pps),
            rate(flow.bps),
            flow.worker.to_string(),
            flow.match_text.clone(),
            flow.actions.clone(),
        ]);
    }
    let shown = sample.flows.len();
    format!(
        "{}\n{} flows, the busiest {shown} in the last {:.1} s:\n{}",
        ports.finish("no ports"),
        count(sample.flow_count),
        sample.interval_ms as f64 / 1000.0,
        flows.finish("no packets")
    )
}

/// A rate with three digits or so: `1.23 M`.
fn rate(per_s: f64) -> String {
    let (scaled, unit) = match per_s {
        ..1e3 => return format!("{per_s:.0}"),
        ..1e6 => (per_s / 1e3, "k"),
        ..1e9 => (per_s / 1e6, "M"),
        _ => (per_s / 1e9, "G"),
    };
    format!("{scaled:.2} {unit}")
}

#[cfg(test)]
mod tests {
    use super::super::super::protocol::{FlowRate, PortRate, SubtableInfo, TierInfo, TraceStep};
    use super::*;

    #[test]
    fn punted_packet_is_a_line_and_its_bytes_on_request() {
        let item = MonitorItem::Packet(PuntInfo {
            time_us: 1_500_000_001_234_567,
            in_port: "vm0".into(),
            id: 3,
            len: 60,
            flow: "arp,in_port=vm0".into(),
            data: "000102030405060708090a0b0c0d0e0f10".into(),
        });
        assert_eq!(punt(&item, false), "02:40:01.234 vm0 id=3 len=60 arp,in_port=vm0\n");
        assert_eq!(
            punt(&item, true),
            "02:40:01.234 vm0 id=3 len=60 arp,in_port=vm0\n    0000  0001 0203 0405 0607 0809 0a0b 0c0d 0e0f\n    \
             0010  10\n"
        );
        assert_eq!(
            punt(&MonitorItem::Lost(7), true),
            "7 packets lost: they came faster than they were taken\n"
        );
    }

    #[test]
    fn trace_shows_depth_by_indentation() {
        let step = |depth, text: &str| TraceStep { depth, text: text.into() };
        let info = TraceInfo {
            flow: "arp".into(),
            steps: vec![step(0, "table 0: priority=0"), step(1, "NORMAL")],
            megaflow: "in_port(vm0)".into(),
            actions: "drop(hairpin)".into(),
            drop: Some("hairpin".into()),
            remarks: vec!["a".into()],
        };
        assert_eq!(
            trace(&info),
            "packet:   arp\n\ntable 0: priority=0\n    NORMAL\n\nmegaflow: in_port(vm0)\nactions:  drop(hairpin)\n\
             dropped:  hairpin\nnote:     a\n"
        );
    }

    #[test]
    fn caches_show_tiers_counters_and_subtables() {
        let tier =
            TierInfo { name: "exact match".into(), packets: 750, share: 0.75, cycles_per_packet: Some(61.7) };
        let cache = WorkerCache {
            worker: 0,
            counters: vec![("exact_hits".into(), 750)],
            tiers: vec![tier],
            subtables: Some(vec![SubtableInfo { mask: "in_port,eth_dst".into(), flows: 2, hits: 1234 }]),
        };
        assert_eq!(
            caches(&CacheInfo {
                workers: vec![cache.clone(), WorkerCache { worker: 1, subtables: None, ..cache }]
            }),
            "\
worker 0

DECIDED BY   PACKETS   SHARE  CYCLES/PACKET
exact match      750  75.0 %             62

exact hits  750

FLOWS   HITS  LOOKS AT
    2  1 234  in_port,eth_dst

worker 1

DECIDED BY   PACKETS   SHARE  CYCLES/PACKET
exact match      750  75.0 %             62

exact hits  750

the worker did not answer in time
"
        );
    }

    #[test]
    fn rates_have_units() {
        assert_eq!(
            [0.0, 999.4, 1500.0, 2.5e6, 9.871e9].map(rate),
            ["0", "999", "1.50 k", "2.50 M", "9.87 G"]
        );
        let port = PortRate {
            name: "vm0".into(),
            rx_pps: 1500.0,
            rx_bps: 1e6,
            tx_pps: 0.0,
            tx_bps: 0.0,
            drop_pps: 0.0,
        };
        let flow = FlowRate {
            match_text: "in_port(vm0)".into(),
            actions: "vm1".into(),
            worker: 0,
            pps: 10.0,
            bps: 80.0,
        };
        let sample = TopSample { interval_ms: 1000, ports: vec![port], flows: vec![flow], flow_count: 4 };
        assert_eq!(
            top(&sample),
            "\
PORT  RX PKT/S  RX BIT/S  TX PKT/S  TX BIT/S  DROP PKT/S
vm0     1.50 k    1.00 M         0         0           0

4 flows, the busiest 1 in the last 1.0 s:
PKT/S  BIT/S  WORKER  FLOW          ACTIONS
   10     80       0  in_port(vm0)  vm1
"
        );
    }
}
